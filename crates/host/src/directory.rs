//! From the package folders of a watched directory to the plugins that run.
//!
//! `mortise-watch` says which folders are settled; here they are read, and of each plugin the newest version is loaded.
//!
//! # Whose word counts
//! The directory, the configuration and operators may all have something to say about a name.
//! - An entry of the configuration with a source wins always; the directory's package of that name is left alone.
//! - Between directory and operators the last word counts. A package that the directory did not have before is a word: it is loaded, whatever an
//!   operator had done. So is a load, an unload or a rollback by an operator: it stands, also when the host starts again, until the directory has
//!   another package under that name. Taking a folder away unloads what the directory brought, not what an operator put in its place.
//! - A package that was taken back as a canary has had its word: it does not come again until the directory has another one.
//!
//! # Invariants
//! - D1: what serves goes on serving until its successor does. A folder that cannot be read any more, or whose package is refused, changes nothing but
//!   the reasons that are listed under the name.
//! - D2: what is loaded was read between two equal looks at its folder.
//! - D3: of several folders with one plugin the highest version counts (of equal ones that which serves, else the first by name). If it cannot be loaded
//!   and nothing serves, the next one is tried, and at last the package that served last.
//! - D4: changes are applied one batch after another, and never during a reload.
//! - D5: with a plan for canaries, another package comes as one whenever something serves. A host that starts brings that back first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    path::PathBuf,
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};

use mortise_manifest::{CanaryEntry, PluginTerms, WatchConfig};
use mortise_runtime::{Digest, Refusal};
use mortise_store::{Package, WatchedName};
use mortise_watch::{Change, Settled, Watch, WatchOptions};
use semver::Version;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    Host, HostError, HostErrorKind, LoadRequest, ReloadReport, Source, call,
    canary::come::{Coming, Offer},
    depend,
    history::{self, Giver, Word},
    host::{Owner, is_well},
    load,
    reload::{Configured, Entry, Outcome, load_in_levels, reasons, runs},
};

/// Batches of changes that wait while one is applied; the watch waits when there are more.
const BATCHES_MAX: usize = 1;

/// Reads of a folder that changed since it was told as settled.
const READS_MAX: u32 = 3;
/// From one to the next.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The directory that is watched, as far as it is known.
#[derive(Default)]
pub(crate) struct Directory {
    config: Option<WatchConfig>,
    folders: BTreeMap<OsString, Folder>,
    /// Packages that were read and refused, by plugin: tried again when anything changes, unless they failed to start.
    failed: BTreeMap<String, (Digest, HostErrorKind)>,
    task: Option<Listening>,
}

/// What the directory brought, by plugin. Apart from [`Directory`], because operators have their words while a batch is applied.
#[derive(Default)]
pub(crate) struct Brought(Mutex<BTreeMap<String, Bringing>>);

#[derive(Clone, Debug, PartialEq)]
struct Bringing {
    digest: String,
    /// What it was loaded with; `None` for what an earlier life of the host brought.
    terms: Option<PluginTerms>,
    /// An operator had a word since.
    held: bool,
    /// It was taken back as a canary: what serves is what the directory brought before.
    refused: bool,
}

/// A settled folder.
struct Folder {
    path: PathBuf,
    /// What is in it, or what is wrong with it.
    head: Result<Head, HostError>,
    /// The plugin that it last was, also if it cannot be read now.
    was: Option<String>,
    /// The name under which its reasons are listed.
    listed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    name: String,
    version: Version,
    digest: Digest,
}

/// The task that listens; it ends with this.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Host {
    /// Watches a directory from now on, in place of the one before: its packages are loaded, swapped and unloaded as they come, change and go. Returns
    /// when what is settled in it now serves or has failed. `None` watches nothing any more, and unloads what the directory brought.
    ///
    /// Whose word counts when the directory, the configuration and [`Host::load`] name one plugin: an entry of the configuration with a source first;
    /// else the last word.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun; a later call goes on from there.
    pub async fn watch(&self, config: Option<WatchConfig>) -> ReloadReport {
        let shared = self.shared().clone();
        let configured = shared.configured.lock().await;
        let mut directory = shared.directory.lock().await;
        let place = |it: &Option<WatchConfig>| it.as_ref().map(|it| (it.dir.clone(), it.quiet, it.poll));
        let is_same_place = place(&directory.config) == place(&config) && directory.task.is_some();
        directory.config.clone_from(&config);
        // A new word of the operator: also what failed to start is tried again.
        directory.failed.clear();
        let first = match config {
            _ if is_same_place => Vec::new(),
            None => directory.stop(),
            Some(config) => {
                let mut gone = directory.stop();
                gone.extend(directory.start(self, &config).await);
                gone
            }
        };
        self.apply(&configured, &mut directory, first).await
    }

    /// What changed, from the task that listens.
    async fn changed(&self, changes: Vec<Change>) {
        let shared = self.shared().clone();
        let configured = shared.configured.lock().await;
        let mut directory = shared.directory.lock().await;
        if directory.config.is_none() {
            return;
        }
        let report = self.apply(&configured, &mut directory, changes).await;
        let ReloadReport {
            loaded,
            swapped,
            canaries,
            unloaded,
            failed,
            ..
        } = report;
        let failed: Vec<_> = failed.into_iter().map(|it| it.0).collect();
        tracing::info!(target: "mortise::life", ?loaded, ?swapped, ?canaries, ?unloaded, ?failed, "the watched directory changed");
    }

    /// Tries again what could not be loaded, after others were.
    pub(crate) async fn try_failed_again(&self) {
        let shared = self.shared().clone();
        let configured = shared.configured.lock().await;
        let mut directory = shared.directory.lock().await;
        if !directory.failed.is_empty() {
            self.apply(&configured, &mut directory, Vec::new()).await;
        }
    }

    /// Takes changes in, and brings the plugins to what the directory says.
    async fn apply(
        &self,
        configured: &Configured,
        directory: &mut Directory,
        changes: Vec<Change>,
    ) -> ReloadReport {
        let mut packages = HashMap::new();
        let (mut settled, mut gone) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                Change::Settled(it) => settled.push(it),
                Change::Gone(name) => gone.push(name),
            }
        }
        let mut report = ReloadReport::default();
        for name in gone {
            if let Some(folder) = directory.folders.remove(&name) {
                self.unlist(folder.listed).await;
            }
        }
        for (settled, read) in self.read_settled(settled).await {
            let old = directory.folders.remove(&settled.name);
            let was = old.as_ref().and_then(|it| it.was.clone());
            self.unlist(old.and_then(|it| it.listed)).await;
            let mut folder = Folder {
                path: settled.path,
                was,
                listed: None,
                head: read.map(|package| {
                    let head = Head::of(&package);
                    packages.insert(head.digest, package);
                    head
                }),
            };
            match &folder.head {
                Ok(head) => folder.was = Some(head.name.clone()),
                Err(error) => {
                    let source = Source::Folder(folder.path.clone());
                    let stand_in = settled.name.to_string_lossy().into_owned();
                    let listed = folder.was.clone().unwrap_or(stand_in);
                    tracing::error!(target: "mortise::life", plugin = listed, %source, %error, hint = error.hint(), "a package in the watched directory cannot be read");
                    report.failed.push((listed.clone(), reasons(error)));
                    self.complain(&listed, &source, error).await;
                    folder.listed = Some(listed);
                }
            }
            directory.folders.insert(settled.name, folder);
        }
        self.bring(configured, directory, packages, &mut report).await;
        self.take_away(directory, &mut report).await;
        report
    }

    /// Reads packages, all at once, and leaves out those that changed meanwhile: they will be told again (D2).
    async fn read_settled(&self, settled: Vec<Settled>) -> Vec<(Settled, Result<Package, HostError>)> {
        let read = settled.into_iter().map(|settled| async move {
            // A folder that is moved away and back at once is not told again: it has not changed.
            for _ in 0..READS_MAX {
                let read = load::fetch(self.shared(), &Source::Folder(settled.path.clone())).await;
                let again = settled.clone();
                let is_unchanged = tokio::task::spawn_blocking(move || again.is_unchanged());
                if is_unchanged.await.unwrap_or(false) {
                    return Some((settled, read));
                }
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            None
        });
        futures_util::future::join_all(read)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    /// Loads what the directory has and did not have before.
    async fn bring(
        &self,
        configured: &Configured,
        directory: &mut Directory,
        mut packages: HashMap<Digest, Package>,
        report: &mut ReloadReport,
    ) {
        let offers = directory.offers(self);
        directory.failed.retain(|name, _| offers.contains_key(name));
        // By plugin: which of its offers is tried.
        let mut tried: BTreeMap<String, usize> = BTreeMap::new();
        let (mut again, mut coming) = (Vec::new(), Vec::new());
        for (name, offers) in &offers {
            // One that does not start hides no other.
            let best = offers.iter().position(|(it, _)| !directory.stays_failed(it));
            let best = best.unwrap_or(0);
            let (head, _) = &offers[best];
            if directory.is_torn(name) && self.serves_newer(head) {
                // D1: what serves may be what cannot be read just now.
                report.unchanged.push(name.clone());
                continue;
            }
            if configured.names(name) {
                tracing::warn!(target: "mortise::life", plugin = name, "the configuration names this plugin with a source of its own; the package in the watched directory is left alone");
                continue;
            }
            let digest = head.digest.to_string();
            // One that is over in this moment is over.
            let _ = self.end_other_canary(Giver::Directory, name, &digest).await;
            again.extend(self.comes_back(directory, head).await);
            let comes_back = again.last().is_some_and(|it: &Entry| it.name == *name);
            if self.is_as_brought(directory, head) {
                report.unchanged.push(name.clone());
                if directory.failed.remove(name).is_some() {
                    self.unlist(Some(name.clone())).await;
                }
            } else if !directory.stays_failed(head) {
                if directory.plan(name).is_some() && (comes_back || self.serves_another(head)) {
                    coming.push((name.clone(), best));
                } else {
                    tried.insert(name.clone(), best);
                }
            }
        }
        load_in_levels(self, again).await;
        for (name, best) in coming {
            let (head, path) = &offers[&name][best];
            self.come(directory, head, path, packages.remove(&head.digest), report)
                .await;
        }
        let mut first_errors: BTreeMap<String, (Source, HostError)> = BTreeMap::new();
        while !tried.is_empty() {
            let mut entries = Vec::new();
            let mut heads = BTreeMap::new();
            for (name, at) in &tried {
                let (head, path) = &offers[name][*at];
                let source = Source::Folder(path.clone());
                let package = match packages.remove(&head.digest) {
                    Some(package) => Ok(package),
                    None => load::fetch(self.shared(), &source).await,
                };
                // It changed since it was read: that will be told.
                if let Ok(package) = package
                    && package.digest() == head.digest
                {
                    let request = directory.request(name, source);
                    heads.insert(name.clone(), (head.clone(), package.clone(), request.clone()));
                    entries.push(Entry::new(name, package, request, Giver::Directory));
                }
            }
            let outcomes = load_in_levels(self, entries).await;
            let mut next = BTreeMap::new();
            for Outcome { name, served, loaded } in outcomes {
                let (head, package, request) = &heads[&name];
                let source = Source::Folder(offers[&name][tried[&name]].1.clone());
                let error = match loaded {
                    Ok(info) if is_well(info.state) => {
                        self.shared().brought.set(&name, package, request);
                        if tried[&name] == 0 {
                            directory.failed.remove(&name);
                        }
                        let list = if served {
                            &mut report.swapped
                        } else {
                            &mut report.loaded
                        };
                        list.push(name);
                        continue;
                    }
                    Ok(info) => HostError::new(HostErrorKind::StartFailed, info.reasons.join("; ")),
                    Err(error) => error,
                };
                if tried[&name] == 0 {
                    directory.failed.insert(name.clone(), (head.digest, error.kind()));
                    report.failed.push((name.clone(), reasons(&error)));
                }
                let serves = self.serves(&name);
                if !serves && tried[&name] + 1 < offers[&name].len() {
                    next.insert(name.clone(), tried[&name] + 1);
                } else if !serves {
                    self.fall_back(&name, directory.request(&name, source.clone()))
                        .await;
                }
                first_errors.entry(name).or_insert((source, error));
            }
            tried = next;
        }
        // Whatever serves in their place: why it is not the one that should.
        for (name, (source, error)) in first_errors {
            if self.serves(&name) {
                self.complain(&name, &source, &error).await;
            }
        }
    }

    /// Unloads what the directory brought and has no more.
    async fn take_away(&self, directory: &mut Directory, report: &mut ReloadReport) {
        let named: BTreeSet<_> = directory
            .folders
            .values()
            .filter_map(|it| it.was.clone())
            .collect();
        // What the directory brought in an earlier life of the host and does not have (yet), is not even loaded.
        let mut words = self.shared().brought.all();
        words.retain(|name, word| word.terms.is_some() && !named.contains(name));
        // What is required by another one that goes, too, goes after it.
        let mut left = words.len() + 1;
        while words.len() < left {
            left = words.len();
            for (name, Bringing { held, .. }) in words.clone() {
                let word = Word::of(Giver::Directory);
                let shared = self.shared();
                match shared.find(&name) {
                    Ok(address) if !held => match shared.unload_unrequired(&address, &name, &word).await {
                        Ok(_) => report.unloaded.push(name.clone()),
                        // It stays until nobody requires it; the next change tries again.
                        Err(_) => continue,
                    },
                    _ => shared.note_watched(&name, None, false).await,
                }
                shared.brought.forget(&name);
                directory.failed.remove(&name);
                words.remove(&name);
            }
        }
        for name in words.into_keys() {
            if let Ok(address) = self.shared().find(&name) {
                let dependents = self.shared().dependents(&address);
                let error = depend::still_required(&name, &dependents);
                report.failed.push((name, reasons(&error)));
            }
        }
    }

    fn is_as_brought(&self, directory: &Directory, head: &Head) -> bool {
        let word = self.shared().brought.get(&head.name);
        word.is_some_and(|it| {
            let is_same = it.digest == head.digest.to_string();
            // How the next one comes in is no term of this one.
            let terms = PluginTerms {
                canary: None,
                ..directory.terms(&head.name)
            };
            is_same && (it.held || it.refused || it.terms == Some(terms))
        })
    }

    /// Whether something of this name serves that the directory's package is not.
    fn serves_another(&self, head: &Head) -> bool {
        let brought = self.shared().brought.get(&head.name);
        self.serves(&head.name) && brought.is_none_or(|it| it.digest != head.digest.to_string())
    }

    /// Whether a newer version of this plugin serves.
    fn serves_newer(&self, head: &Head) -> bool {
        let serving = self.shared().find(&head.name).ok();
        let serving = serving.and_then(|it| call::serving(&it).ok());
        serving.is_some_and(|it| it.plugin.version > head.version)
    }

    /// What comes back first when the host starts: what served last, where that is not what the directory has now and would otherwise not be loaded, or not
    /// before its canary.
    async fn comes_back(&self, directory: &Directory, head: &Head) -> Option<Entry> {
        let (shared, name) = (self.shared(), &head.name);
        let word = shared.brought.get(name).filter(|it| it.terms.is_none())?;
        let is_same = word.digest == head.digest.to_string();
        let wanted = if is_same {
            word.held
        } else {
            directory.plan(name).is_some()
        };
        if !wanted || self.serves(name) {
            return None;
        }
        let (package, request) = history::served_last(shared, name).await?;
        if !word.held && package.digest().to_string() == word.digest {
            shared.brought.set(name, &package, &request);
        }
        Some(Entry::new(name, package, request, Giver::Recalled))
    }

    /// Lets a package come as a canary.
    async fn come(
        &self,
        directory: &mut Directory,
        head: &Head,
        path: &std::path::Path,
        read: Option<Package>,
        report: &mut ReloadReport,
    ) {
        let (name, source) = (&head.name, Source::Folder(path.to_owned()));
        let Some(plan) = directory.plan(name).cloned() else {
            return;
        };
        let package = match read {
            Some(package) => Ok(package),
            None => load::fetch(self.shared(), &source).await,
        };
        // It changed since it was read: that will be told.
        let Some(package) = package.ok().filter(|it| it.digest() == head.digest) else {
            return;
        };
        let request = directory.request(name, source.clone());
        if runs(self.shared(), name, &package) {
            // The directory has again what never went.
            self.shared().brought.set(name, &package, &request);
            report.unchanged.push(name.clone());
            return;
        }
        let offer = Offer {
            giver: Giver::Directory,
            name,
            package: &package,
            request: &request,
            plan: &plan,
            word: None,
            insists: false,
        };
        match self.come_as_canary(offer).await {
            Ok(Coming::There) => report.canaries.push(name.clone()),
            Ok(Coming::GivenUp(why)) => report.kept.push((name.clone(), why)),
            Err(error) => {
                directory.failed.insert(name.clone(), (head.digest, error.kind()));
                report.failed.push((name.clone(), reasons(&error)));
                self.complain(name, &source, &error).await;
            }
        }
    }

    /// Lists reasons under a name: of what serves there, or of what does not.
    async fn complain(&self, name: &str, source: &Source, error: &HostError) {
        if self.serves(name) {
            let reason = |it: &Refusal| format!("the package in `{source}` came to nothing: {it}");
            self.explain(name, reasons(error).iter().map(reason).collect())
                .await;
        } else {
            self.reject(name, source, error.retold()).await;
        }
    }

    /// Takes back what [`Host::complain`] listed.
    async fn unlist(&self, name: Option<String>) {
        let Some(name) = name else { return };
        if self.serves(&name) {
            self.explain(&name, Vec::new()).await;
        } else {
            // It was listed and never ran; nobody asked for it, so it is no change. What is only down comes up again.
            if let Ok(address) = self.shared().find(&name)
                && address.status.load().offer.is_none()
            {
                let _ = self.shared().unload_unrecorded(&address).await;
            }
        }
    }
}

// === impl Directory ===

impl Directory {
    /// Stops watching; everything that was there is gone.
    fn stop(&mut self) -> Vec<Change> {
        self.task = None;
        self.folders.keys().cloned().map(Change::Gone).collect()
    }

    /// Stops watching; nothing of it is left when this returns.
    pub(crate) async fn end(&mut self) {
        if let Some(mut listening) = self.task.take() {
            listening.0.abort();
            let _ = (&mut listening.0).await;
        }
    }

    /// Starts watching; what is settled already.
    async fn start(&mut self, host: &Host, config: &WatchConfig) -> Vec<Change> {
        let options = WatchOptions {
            directory: PathBuf::from(&config.dir),
            quiet: config.quiet,
            poll: config.poll,
        };
        let (sender, inbox) = mpsc::channel(BATCHES_MAX);
        let starting = tokio::task::spawn_blocking(move || {
            Watch::start(options, move |changes| sender.blocking_send(changes).is_ok())
        });
        match starting.await {
            Ok(Ok((watch, first))) => {
                let closing = host.shared().closing.subscribe();
                let listening = listen(host.downgrade(), watch, inbox, closing);
                self.task = Some(Listening(host.shared().tokio.spawn(listening)));
                first
            }
            Ok(Err(error)) => {
                tracing::error!(target: "mortise::life", %error, "the directory is not watched");
                Vec::new()
            }
            Err(_) => {
                tracing::error!(target: "mortise::life", dir = config.dir, "watching the directory was given up");
                Vec::new()
            }
        }
    }

    /// Of each plugin, the packages that there are, best first (D3).
    fn offers(&self, host: &Host) -> BTreeMap<String, Vec<(Head, PathBuf)>> {
        let mut offers: BTreeMap<String, Vec<(Head, PathBuf)>> = BTreeMap::new();
        for folder in self.folders.values() {
            if let Ok(head) = &folder.head {
                offers
                    .entry(head.name.clone())
                    .or_default()
                    .push((head.clone(), folder.path.clone()));
            }
        }
        for (name, offers) in &mut offers {
            let brought = host.shared().brought.get(name).map(|it| it.digest);
            let serves = |it: &Head| brought.as_ref() == Some(&it.digest.to_string());
            // Stable: of equals, the first by the folder's name.
            offers.sort_by(|(a, _), (b, _)| {
                let versions = b.version.cmp(&a.version);
                versions.then_with(|| serves(b).cmp(&serves(a)))
            });
        }
        offers
    }

    /// A package that did not start does not do so because something else changed.
    fn stays_failed(&self, head: &Head) -> bool {
        let failed = self.failed.get(&head.name);
        let by_itself = [HostErrorKind::StartFailed, HostErrorKind::Quarantined];
        failed.is_some_and(|(digest, kind)| *digest == head.digest && by_itself.contains(kind))
    }

    /// Whether a folder that had a package of this plugin cannot be read now.
    fn is_torn(&self, name: &str) -> bool {
        let mut folders = self.folders.values();
        folders.any(|it| it.head.is_err() && it.was.as_deref() == Some(name))
    }

    fn terms(&self, name: &str) -> PluginTerms {
        let config = self.config.as_ref();
        config.map(|it| it.terms(name).clone()).unwrap_or_default()
    }

    /// How another package of a plugin comes in; `None` is at once.
    fn plan(&self, name: &str) -> Option<&CanaryEntry> {
        self.config.as_ref()?.terms(name).canary.as_ref()
    }

    fn request(&self, name: &str, source: Source) -> LoadRequest {
        let PluginTerms {
            runtime,
            grant,
            restart,
            limits,
            config_json,
            canary: _,
        } = self.terms(name);
        LoadRequest {
            runtime,
            grant,
            restart,
            limits,
            config_json,
            ..LoadRequest::new(source)
        }
    }
}

impl Head {
    fn of(package: &Package) -> Self {
        Self {
            name: package.plugin().name.to_string(),
            version: package.plugin().version.clone(),
            digest: package.digest(),
        }
    }
}

/// Hands changes to the host as long as there is one. Owns the watch, which ends with it.
async fn listen(
    host: Weak<Owner>,
    watch: Watch,
    mut inbox: mpsc::Receiver<Vec<Change>>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let changes = tokio::select! {
            biased;
            _ = closing.wait_for(|it| *it) => break,
            changes = inbox.recv() => changes,
        };
        let (Some(changes), Some(host)) = (changes, Host::upgrade(&host)) else {
            break;
        };
        host.changed(changes).await;
    }
    drop(watch);
}

// === impl Brought ===

impl Brought {
    /// What an earlier life of the host brought.
    pub(crate) fn recall(&self, all: Vec<WatchedName>) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for WatchedName { name, digest, held } in all {
            if let Some(digest) = digest {
                let terms = None;
                let refused = false;
                let word = Bringing {
                    digest,
                    terms,
                    held,
                    refused,
                };
                words.insert(name, word);
            }
        }
    }

    /// It serves what the directory has.
    pub(crate) fn set(&self, name: &str, package: &Package, request: &LoadRequest) {
        let request = request.clone();
        let terms = PluginTerms {
            runtime: request.runtime,
            grant: request.grant,
            restart: request.restart,
            limits: request.limits,
            config_json: request.config_json,
            canary: None,
        };
        let word = Bringing {
            digest: package.digest().to_string(),
            terms: Some(terms),
            held: false,
            refused: false,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), word);
    }

    fn get(&self, name: &str) -> Option<Bringing> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn all(&self) -> BTreeMap<String, Bringing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration took the name, or the directory has it no more. Whether the directory had brought it.
    pub(crate) fn forget(&self, name: &str) -> bool {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.remove(name).is_some()
    }

    /// This package of the directory was taken back as a canary. The word that is to be kept.
    pub(crate) fn hold_at(&self, name: &str, digest: &str) -> WatchedName {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = words.get(name);
        let word = Bringing {
            digest: digest.to_owned(),
            terms: before.and_then(|it| it.terms.clone()),
            held: before.is_some_and(|it| it.held),
            refused: true,
        };
        words.insert(name.to_owned(), word);
        WatchedName {
            name: name.to_owned(),
            digest: Some(digest.to_owned()),
            held: true,
        }
    }

    /// An operator had a word about this name. The word that is to be kept, if the directory brought it.
    pub(crate) fn hold(&self, name: &str) -> Option<WatchedName> {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let word = words.get_mut(name)?;
        word.held = true;
        Some(WatchedName {
            name: name.to_owned(),
            digest: Some(word.digest.clone()),
            held: true,
        })
    }
}
