//! Plugins that are to run and cannot yet, because nobody provides what they require.
//!
//! Only what should run by itself waits: what the configuration names, and what operators had loaded when the host was here before. Who
//! loads a plugin by hand hears at once what is missing. One that waits is listed as rejected, with the reason, and is loaded as soon as its
//! providers serve. A load or an unload of its name ends the wait.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures_util::future::join_all;
use mortise_store::Package;
use tokio::sync::watch;

use crate::{
    HostError, LoadRequest,
    depend::{Known, MISSING},
    entries,
    history::{Giver, Word},
    host::Shared,
    load::Entrance,
};

/// What waits, by address.
pub(crate) struct Waiting {
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct Entry {
    package: Package,
    request: LoadRequest,
    word: Word,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Lets a plugin wait whose load was refused only because nobody provides what it requires.
    pub(crate) fn add_if_missing(
        &self,
        address: &str,
        package: Package,
        request: LoadRequest,
        word: &Word,
        refused: &HostError,
    ) {
        if waits_for_others(refused) {
            tracing::warn!(target: "mortise::life", plugin = address, "a plugin waits for what it requires");
            let word = word.clone();
            let entry = Entry {
                package,
                request,
                word,
            };
            self.lock().insert(address.to_owned(), entry);
            // Its provider may have come in the meantime.
            self.changed.send_replace(());
        }
    }

    /// Ends a wait.
    pub(crate) fn remove(&self, address: &str) {
        self.lock().remove(address);
    }

    /// Packages of what waits, by address.
    pub(crate) fn packages(&self) -> HashMap<String, Package> {
        let entries = self.lock();
        let package = |(name, it): (&String, &Entry)| (name.clone(), it.package.clone());
        entries.iter().map(package).collect()
    }

    /// The plugins have changed.
    pub(crate) fn look(&self) {
        if !self.lock().is_empty() {
            self.changed.send_replace(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what has everything that it requires.
    fn take_ready(&self, known: &[Known]) -> Vec<(String, Entry)> {
        let mut entries = self.lock();
        let is_ready = |(name, it): &(&String, &Entry)| {
            Known::of_package(name, &it.package).unmet(known).next().is_none()
        };
        let ready: Vec<String> = entries
            .iter()
            .filter(is_ready)
            .map(|(name, _)| name.clone())
            .collect();
        ready
            .into_iter()
            .filter_map(|name| entries.remove_entry(&name))
            .collect()
    }
}

/// Starts what waits when its time has come, for as long as the host is there.
pub(crate) async fn start_what_waits(shared: Weak<Shared>, mut changed: watch::Receiver<()>) {
    while changed.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        let ready = shared.waiting.take_ready(&shared.known());
        join_all(ready.into_iter().map(|(name, entry)| start(&shared, name, entry))).await;
    }
}

/// Whether nothing speaks against it but that its providers are missing.
fn waits_for_others(refused: &HostError) -> bool {
    let reasons = refused.reasons();
    !reasons.is_empty() && reasons.iter().all(|it| it.what == MISSING)
}

async fn start(shared: &Arc<Shared>, name: String, entry: Entry) {
    tracing::info!(target: "mortise::life", plugin = name, "what the plugin requires is there");
    let Entry {
        package,
        request,
        word,
    } = entry;
    let named = LoadRequest {
        name: Some(name.split('@').next().unwrap_or(&name).to_owned()),
        ..request.clone()
    };
    let loaded = match shared.name_for(&package, &named) {
        Ok(address) => {
            shared
                .load_at(&address, package.clone(), named, Entrance::Waits, &word)
                .await
        }
        Err(error) => Err(error),
    };
    match loaded {
        Ok(_) if word.giver() == Giver::Directory => shared.brought.set(&name, &package, &request),
        Ok(_) => entries::came_true(shared, &name, &package, &request, &word).await,
        Err(error) => {
            tracing::error!(target: "mortise::life", plugin = name, %error, hint = error.hint(), "a plugin that waited does not serve");
            if waits_for_others(&error) {
                // Its provider went again in this moment; when one comes, that is told.
                let entry = Entry {
                    package,
                    request,
                    word,
                };
                shared.waiting.lock().insert(name, entry);
                // It may have come before this was there to be told.
                shared.waiting.changed.send_replace(());
            }
        }
    }
}

impl Shared {
    /// Begins to watch over what waits.
    pub(crate) fn watch_over_what_waits(self: &Arc<Self>) {
        let changed = self.waiting.changed.subscribe();
        self.tokio.spawn(start_what_waits(Arc::downgrade(self), changed));
    }
}
