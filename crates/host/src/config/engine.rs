//! Listening to the sources, and bringing what runs to what is wanted.
//!
//! One task per source does nothing but listen; one task for all takes what they say, waits until it is quiet for a moment (a change of ten keys is one
//! change), writes it down and has what it is about reconciled: each name in a task of its own, so that one plugin that is slow to start holds up no other, and
//! no name twice at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use mortise_config::{ConfigSource, Layer, Outage, Update};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::Instant,
};

use super::{Configs, Said, SourceState, rotation};
use crate::{HostError, host::Shared};

/// How long it must be quiet before changes are looked at.
const QUIET: Duration = Duration::from_millis(50);
/// How long they wait at most, however unquiet it is.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// When something is tried again that failed for a reason of the machine's.
pub(super) const AGAIN: Duration = Duration::from_secs(15);
/// Updates that wait to be taken.
const TOLD_MAX: usize = 16;

/// What one source tells.
struct Told {
    source: usize,
    told: Result<Update, Outage>,
}

impl Shared {
    /// Begins to listen, and returns when every source was heard or `wait` is over. What sources said in the host's earlier lives holds until then.
    pub(crate) async fn begin_configs(
        self: &Arc<Self>,
        sources: Vec<Box<dyn ConfigSource>>,
        wait: Duration,
    ) -> Result<(), HostError> {
        let closing = self.closing.subscribe();
        self.tokio
            .spawn(rotation::watch_secrets(Arc::downgrade(self), closing));
        self.configs.lock().sources = sources
            .iter()
            .map(|it| SourceState {
                name: it.name().to_owned(),
                revision: 0,
                out: None,
                heard: false,
            })
            .collect();
        if !sources.is_empty() {
            self.recall_configs().await?;
        }
        let (tell, mut inbox) = mpsc::channel(TOLD_MAX);
        for (number, source) in sources.into_iter().enumerate() {
            self.tokio
                .spawn(listen(number, source, tell.clone(), self.closing.subscribe()));
        }
        let until = Instant::now() + wait;
        while self.configs.lock().sources.iter().any(|it| !it.heard) {
            match tokio::time::timeout_at(until, inbox.recv()).await {
                Ok(Some(told)) => drop(self.configs.take(told)),
                Ok(None) => break,
                Err(_) => {
                    self.configs.warn_of_silence(wait);
                    break;
                }
            }
        }
        self.keep_configs().await;
        let bell = self.configs.bell.subscribe();
        self.tokio
            .spawn(run(Arc::downgrade(self), inbox, bell, self.closing.subscribe()));
        Ok(())
    }
}

/// Hears a source until the host closes.
async fn listen(
    number: usize,
    mut source: Box<dyn ConfigSource>,
    tell: mpsc::Sender<Told>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let told = tokio::select! {
            biased;
            _ = closing.wait_for(|it| *it) => return,
            told = source.next() => told,
        };
        let told = Told { source: number, told };
        if tell.send(told).await.is_err() {
            return;
        }
    }
}

/// Names that are reconciled, and that are to be.
#[derive(Default)]
struct Work {
    due: BTreeSet<String>,
    tasks: JoinSet<()>,
    busy: HashMap<Id, String>,
}

impl Work {
    fn begin_due(&mut self, shared: &Arc<Shared>) {
        let busy: HashSet<&String> = self.busy.values().collect();
        let free = self.due.iter().filter(|it| !busy.contains(it));
        let free: Vec<String> = free.cloned().collect();
        for name in free {
            self.due.remove(&name);
            let (shared, of) = (shared.clone(), name.clone());
            let handle = shared.tokio.clone();
            let reconcile = async move { super::apply::reconcile(&shared, &of).await };
            let id = self.tasks.spawn_on(reconcile, &handle).id();
            self.busy.insert(id, name);
        }
    }

    /// Waits for one to end; one that was told of meanwhile is due again. For ever if there is none.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.busy.remove(&id)),
            Some(Err(error)) => {
                let name = self.busy.remove(&error.id());
                tracing::error!(target: "mortise::config", plugin = name, %error, "a configuration was not looked at to its end");
            }
            None => std::future::pending().await,
        }
    }
}

/// Takes what is told, and has it reconciled.
async fn run(
    shared: Weak<Shared>,
    mut inbox: mpsc::Receiver<Told>,
    mut bell: watch::Receiver<()>,
    mut closing: watch::Receiver<bool>,
) {
    let mut work = Work::default();
    let mut has_sources = true;
    loop {
        let Some(held) = shared.upgrade() else { return };
        work.begin_due(&held);
        let again = held.configs.next_try();
        drop(held);
        // In no order: a source that never stops talking must keep nothing else from its turn.
        let first = tokio::select! {
            () = closed(&mut closing) => {
                // What was begun is written down as it ends.
                while work.tasks.join_next().await.is_some() {}
                return;
            }
            () = work.ended() => {
                if let Some(shared) = shared.upgrade() {
                    shared.keep_configs().await;
                }
                continue;
            }
            told = inbox.recv(), if has_sources => {
                has_sources = told.is_some();
                match told {
                    Some(told) => Some(told),
                    None => continue,
                }
            }
            rung = bell.changed() => match rung {
                Ok(()) => None,
                Err(_) => return,
            },
            () = at(again) => None,
        };
        let Some(shared) = shared.upgrade() else { return };
        let mut about = Some(BTreeSet::new());
        match first {
            // A load, a rollback, or a time that has come: whatever differs.
            None => {
                shared.configs.forgive_due();
                about = None;
            }
            Some(told) => {
                let until = Instant::now() + QUIET_MAX;
                let mut next = Some(told);
                while let Some(told) = next.take() {
                    about.get_or_insert_default().extend(shared.configs.take(told));
                    let quiet = (Instant::now() + QUIET).min(until);
                    next = tokio::time::timeout_at(quiet, inbox.recv()).await.ok().flatten();
                }
            }
        }
        shared.keep_configs().await;
        let names: BTreeSet<String> = match about {
            Some(names) => names,
            None => shared.configs.names(&shared),
        };
        work.due.extend(names);
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // The host is gone if it errs, which is the same.
    let _closed = closing.wait_for(|it| *it).await;
}

/// Waits until then, or for ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

impl Configs {
    /// Takes over what a source says. The names whose settings changed.
    fn take(&self, told: Told) -> BTreeSet<String> {
        let mut state = self.lock();
        let Some(source) = state.sources.get_mut(told.source) else {
            return BTreeSet::new();
        };
        let update = match told.told {
            Err(outage) => {
                if source.out.is_none() {
                    tracing::error!(target: "mortise::config", source = source.name, error = %outage, "a source of configuration is out; what it said last holds");
                }
                let since = source.out.take().map_or_else(SystemTime::now, |it| it.1);
                source.out = Some((outage.why, since));
                return BTreeSet::new();
            }
            Ok(update) => update,
        };
        if source.out.take().is_some() {
            tracing::info!(target: "mortise::config", source = source.name, revision = update.revision, "a source of configuration is back");
        }
        (source.heard, source.revision) = (true, update.revision);
        let name = source.name.clone();
        let mut all = update.plugins;
        if update.complete {
            let known = state.plugins.iter();
            let gone = known
                .filter(|(_, it)| it.said.contains_key(&name))
                .map(|(plugin, _)| plugin.clone());
            for plugin in gone.collect::<Vec<_>>() {
                all.entry(plugin).or_default();
            }
        }
        let mut changed = BTreeSet::new();
        for (plugin, settings) in all {
            let read = if settings.is_empty() {
                None
            } else {
                Some(Layer::read(&name, update.revision, &settings))
            };
            let entry = state.plugins.entry(plugin.clone()).or_default();
            let before = entry.said.remove(&name);
            let was = before.as_ref().and_then(|it| it.layer.as_ref());
            let was_faulty = before.as_ref().is_some_and(|it| !it.faults.is_empty());
            let is_new = match &read {
                None => before.is_some(),
                Some(Ok(layer)) => was_faulty || !was.is_some_and(|it| it.says_the_same(layer)),
                Some(Err(_)) => true,
            };
            match read {
                None => {}
                Some(Ok(layer)) => {
                    let said = Said {
                        revision: update.revision,
                        faults: Vec::new(),
                        layer: Some(layer),
                    };
                    entry.said.insert(name.clone(), said);
                }
                Some(Err(faults)) => {
                    let said = Said {
                        revision: update.revision,
                        faults: faults.iter().map(ToString::to_string).collect(),
                        layer: before.and_then(|it| it.layer),
                    };
                    entry.said.insert(name.clone(), said);
                }
            }
            if is_new {
                state.unkept.insert(plugin.clone());
                changed.insert(plugin);
            }
        }
        changed
    }

    fn warn_of_silence(&self, wait: Duration) {
        for source in self.lock().sources.iter().filter(|it| !it.heard) {
            let why = source.out.as_ref().map_or("it does not answer", |it| &it.0);
            tracing::error!(target: "mortise::config", source = source.name, why, "a source of configuration was not heard within {wait:?}; the host starts with what it said last");
        }
    }

    /// When something is to be tried again.
    fn next_try(&self) -> Option<Instant> {
        let state = self.lock();
        let tried = state.tried.values().filter_map(|it| it.again);
        tried.chain(state.proving).min()
    }

    /// Every name that a source or a plugin has.
    fn names(&self, shared: &Shared) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.lock().plugins.keys().cloned().collect();
        names.extend(shared.all().iter().map(|it| it.base().to_owned()));
        names
    }
}
