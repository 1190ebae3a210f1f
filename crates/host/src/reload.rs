//! From the plugins that the configuration names to the plugins that run: at start, and whenever the configuration was changed.
//!
//! A reload says what should be, not what to do: entries that run as they stand are left alone, new ones are loaded, changed ones are swapped
//! (also where only the package in the folder is another than the one that runs), and what the configuration named before and names no longer
//! is unloaded. Plugins that operators loaded by hand are nobody's business here, unless an entry has their name; then the last word counts ([`crate::entries`]).
//!
//! Invariants
//! - R1: what serves goes on serving until its successor does; a new entry that cannot be loaded changes nothing else.
//! - R2: an entry counts as done only if it was loaded; one that failed is tried again by the next reload, even unchanged.
//! - R3: reloads come one after another.
//! - R4: providers are loaded before those that require them and unloaded after them; one whose provider is missing waits for it ([`crate::waiting`]).
//! - R5: a package that an entry with a plan for canaries names comes as one whenever something serves, and a host that starts brings that back first: no
//!   restart is a way around a canary.

use std::collections::{BTreeMap, HashSet};

use futures_util::future::join_all;
use mortise_manifest::{CanaryEntry, PluginEntry};
use mortise_routing::{Participant, Plan, plan};
use mortise_runtime::Refusal;
use mortise_store::Package;

use crate::{
    Host, HostError, HostErrorKind, LoadRequest, PluginInfo, Source, call,
    canary::come::{Coming, Offer},
    depend::{self, Known},
    entries,
    history::{self, Giver, Word},
    host::{Shared, is_well},
    load::{self, Entrance},
};

/// What became of the configuration's plugins. Each is in one list, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Serve now and did not before.
    pub loaded: Vec<String>,
    /// Took over from what served under their name.
    pub swapped: Vec<String>,
    /// Serve as before.
    pub unchanged: Vec<String>,
    /// Have another package, which came as a canary or is one still; what served does.
    pub canaries: Vec<String>,
    /// Serve something else than their entry names, because somebody had a word since, and why.
    pub kept: Vec<(String, String)>,
    /// Are gone, because the configuration does not name them any more.
    pub unloaded: Vec<String>,
    /// Could not be brought to what the configuration says, with all reasons. What served under these names still does.
    pub failed: Vec<(String, Vec<Refusal>)>,
}

/// What the configuration named when it was last applied, by name.
#[derive(Debug, Default)]
pub(crate) struct Configured(BTreeMap<String, Named>);

#[derive(Debug)]
struct Named {
    /// What was loaded last, or was to be.
    entry: PluginEntry,
    /// It was loaded (R2).
    done: bool,
}

/// A plugin to load whose package was read.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) package: Package,
    pub(crate) request: LoadRequest,
    /// Who says so.
    pub(crate) word: Word,
}

/// How the load of an entry went.
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// Something served under its name before.
    pub(crate) served: bool,
    pub(crate) loaded: Result<PluginInfo, HostError>,
}

impl Entry {
    pub(crate) fn new(name: &str, package: Package, request: LoadRequest, giver: Giver) -> Self {
        Self {
            name: name.to_owned(),
            package,
            request,
            word: Word::of(giver),
        }
    }
}

impl ReloadReport {
    /// One report of two steps. What one step unloaded and the next one loaded was swapped.
    pub fn merge(&mut self, other: Self) {
        let Self {
            loaded,
            swapped,
            unchanged,
            canaries,
            kept,
            unloaded,
            failed,
        } = other;
        self.loaded.extend(loaded);
        self.swapped.extend(swapped);
        self.unchanged.extend(unchanged);
        self.canaries.extend(canaries);
        self.kept.extend(kept);
        self.unloaded.extend(unloaded);
        self.failed.extend(failed);
        let back: Vec<_> = self
            .unloaded
            .iter()
            .filter(|it| self.loaded.contains(it))
            .cloned()
            .collect();
        self.loaded.retain(|it| !back.contains(it));
        self.unloaded.retain(|it| !back.contains(it));
        self.swapped.extend(back);
    }
}

/// When the configuration is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The host starts; nothing of it serves.
    Start,
    /// It runs.
    Reload,
}

/// What an entry leads to.
struct Decision {
    /// What served last comes back first.
    again: Option<(Package, LoadRequest)>,
    then: Then,
}

enum Then {
    /// It runs as it stands.
    Leave,
    /// Somebody had a word after it.
    Keep,
    Load,
    /// Its package comes as a canary.
    Come(CanaryEntry),
}

/// An entry whose package was read.
struct Read {
    name: String,
    entry: PluginEntry,
    package: Package,
    /// See [`crate::entries`].
    word: String,
    /// Its word counts whoever had one since.
    takes: bool,
    then: Then,
}

impl Host {
    /// Brings the plugins to what the configuration says now: `plugins` in place of what [`crate::HostBuilder::config`] or the last reload
    /// named. Returns when all of them serve or have failed; one that failed is listed with its reasons. A new package of an entry with a plan for
    /// canaries comes as one; this returns when it has its first calls.
    ///
    /// An entry that says what it said before is left alone where an operator or a canary had a word since ([`ReloadReport::kept`]).
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun; the next reload goes on from there.
    pub async fn reload(&self, plugins: Vec<PluginEntry>) -> ReloadReport {
        self.bring_to(plugins, Moment::Reload, &[]).await
    }

    /// The same, and the entries of these names count whoever had a word since.
    ///
    /// # Cancel safety
    /// As [`Host::reload`].
    pub async fn reload_taking(&self, plugins: Vec<PluginEntry>, names: &[String]) -> ReloadReport {
        self.bring_to(plugins, Moment::Reload, names).await
    }

    pub(crate) async fn bring_to(
        &self,
        plugins: Vec<PluginEntry>,
        moment: Moment,
        taking: &[String],
    ) -> ReloadReport {
        let shared = self.shared();
        let mut configured = shared.configured.lock().await;
        let mut report = ReloadReport::default();
        let mut entries: BTreeMap<String, PluginEntry> = BTreeMap::new();
        let (mut steps, mut all_read) = (Vec::new(), Vec::new());
        for (entry, read) in read_all(shared, plugins, |it| Source::from(it.source.clone())).await {
            let name = configured.name_of(&entry, read.as_ref().ok());
            let read = match read {
                Ok(package) if entries.contains_key(&name) => {
                    let what = format!("the name `{name}` is taken by an entry before it");
                    let hint = "give each entry its own `name`";
                    let beside = format!("{name}@{}", package.plugin().version);
                    let error = HostError::new(HostErrorKind::Conflict, what).with_hint(hint);
                    self.fail(&mut report, beside, entry, error).await;
                    continue;
                }
                read => read,
            };
            entries.insert(name.clone(), entry.clone());
            let package = match read {
                Err(error) => {
                    let is_wanted = entry.canary.is_some() || shared.entries.is_held(&name);
                    self.fail(&mut report, name.clone(), entry, error).await;
                    if moment == Moment::Start && is_wanted && shared.parts.remembers {
                        let last = history::served_last(shared, &name).await;
                        let entry = |(package, request)| Entry::new(&name, package, request, Giver::Recalled);
                        steps.extend(last.map(entry));
                    }
                    continue;
                }
                Ok(package) => package,
            };
            let (is_done, takes) = (configured.is_done(&name, &entry), taking.contains(&name));
            let Decision { again, then } = self.decide(&name, &entry, &package, is_done, moment, takes).await;
            if let Some((package, request)) = again {
                steps.push(Entry::new(&name, package, request, Giver::Recalled));
            } else if matches!(then, Then::Load) {
                steps.push(Entry::new(
                    &name,
                    package.clone(),
                    entry.clone().into(),
                    Giver::Config,
                ));
            }
            let word = entries::word_of(&package, &entry.clone().into());
            all_read.push(Read {
                name,
                entry,
                package,
                word,
                takes,
                then,
            });
        }
        for name in taking.iter().filter(|it| !entries.contains_key(*it)) {
            let why = refusal(
                "the configuration has no entry of this name",
                "`mortise list` shows the names",
            );
            report.failed.push((name.clone(), vec![why]));
        }
        for name in entries.keys() {
            if shared.brought.forget(name) {
                shared.note_watched(name, None, false).await;
            }
        }
        let fallen = self
            .load_steps(steps, &all_read, &mut configured, &mut report)
            .await;
        self.load_steps(fallen, &all_read, &mut configured, &mut report)
            .await;
        for read in all_read {
            self.settle(read, &mut configured, &mut report).await;
        }
        let gone = configured.replace(entries);
        for name in gone.keys() {
            if let Some(word) = shared.entries.drop(name) {
                shared.note_word(word).await;
            }
        }
        self.unload_gone(gone, &mut configured, &mut report).await;
        report
    }

    /// What an entry leads to.
    async fn decide(
        &self,
        name: &str,
        entry: &PluginEntry,
        package: &Package,
        is_done: bool,
        moment: Moment,
        takes: bool,
    ) -> Decision {
        let shared = self.shared();
        let request = LoadRequest::from(entry.clone());
        shared.entries.reads(name, package);
        // One that is over in this moment is over.
        let _ = self
            .end_other_canary(Giver::Config, name, &package.digest().to_string())
            .await;
        let overruled = !takes
            && shared
                .entries
                .is_overruled(name, &entries::word_of(package, &request));
        let serves = self.serves(name);
        let comes_back = moment == Moment::Start
            && shared.parts.remembers
            && !serves
            && (overruled || entry.canary.is_some());
        let mut again = None;
        if comes_back {
            again = history::served_last(shared, name)
                .await
                .filter(|(last, _)| overruled || last.digest() != package.digest());
        }
        let runs = runs(shared, name, package);
        let mut is_loaded = is_done;
        if runs && !is_loaded {
            let last = history::last_load(shared, name).await;
            is_loaded = last.is_some_and(|it| it.is_of(package, &request));
        }
        let then = if runs && is_loaded {
            Then::Leave
        } else if overruled && (serves || again.is_some()) {
            Then::Keep
        } else {
            match &entry.canary {
                Some(plan) if again.is_some() || (serves && !runs) => Then::Come(plan.clone()),
                _ => Then::Load,
            }
        };
        Decision { again, then }
    }

    /// Loads in levels. What came to nothing although it had served last is given back as what its entry says.
    async fn load_steps(
        &self,
        steps: Vec<Entry>,
        all: &[Read],
        configured: &mut Configured,
        report: &mut ReloadReport,
    ) -> Vec<Entry> {
        let mut fallen = Vec::new();
        let again: HashSet<String> = steps
            .iter()
            .filter(|it| it.word.giver() == Giver::Recalled)
            .map(|it| it.name.clone())
            .collect();
        for Outcome { name, served, loaded } in load_in_levels(self, steps).await {
            let Some(read) = all.iter().find(|it| it.name == name) else {
                continue;
            };
            let is_again = again.contains(&name);
            match loaded {
                Ok(info) if is_well(info.state) => {
                    if is_again {
                        continue;
                    }
                    configured.done(&name, &read.entry);
                    self.heard(&name, &read.word).await;
                    let list = if served {
                        &mut report.swapped
                    } else {
                        &mut report.loaded
                    };
                    list.push(name);
                }
                // It waits for its providers, and starts when they are there.
                Err(_) if is_again && self.shared().waiting.packages().contains_key(&name) => {}
                _ if is_again => {
                    let (package, request) = (read.package.clone(), read.entry.clone().into());
                    fallen.push(Entry::new(&name, package, request, Giver::Config));
                }
                Ok(info) => report
                    .failed
                    .push((name, info.reasons.iter().map(|why| refusal(why, "")).collect())),
                Err(error) => report.failed.push((name, reasons(&error))),
            }
        }
        fallen
    }

    /// What is left of an entry once everything is loaded.
    async fn settle(&self, read: Read, configured: &mut Configured, report: &mut ReloadReport) {
        let Read {
            name,
            entry,
            package,
            word,
            takes,
            then,
        } = read;
        match then {
            Then::Load => {}
            Then::Leave => {
                configured.done(&name, &entry);
                if !self.shared().entries.is_overruled(&name, &word) {
                    self.heard(&name, &word).await;
                }
                report.unchanged.push(name);
            }
            Then::Keep => match self.overruling(&name) {
                Some(why) => {
                    tracing::warn!(target: "mortise::life", plugin = name, "{why}");
                    report.kept.push((name, why));
                }
                None => report.unchanged.push(name),
            },
            // It was loaded in place of what could not come back.
            Then::Come(_) if runs(self.shared(), &name, &package) => {}
            Then::Come(plan) => {
                let request = LoadRequest::from(entry.clone());
                let offer = Offer {
                    giver: Giver::Config,
                    name: &name,
                    package: &package,
                    request: &request,
                    plan: &plan,
                    word: Some(word.clone()),
                    insists: takes,
                };
                match self.come_as_canary(offer).await {
                    Ok(Coming::There) => {
                        configured.done(&name, &entry);
                        self.heard(&name, &word).await;
                        report.canaries.push(name);
                    }
                    Ok(Coming::GivenUp(why)) => report.kept.push((name, why)),
                    Err(error) => {
                        tracing::error!(target: "mortise::life", plugin = name, %error, hint = error.hint(), "a package of the configuration does not come as a canary");
                        report.failed.push((name, reasons(&error)));
                    }
                }
            }
        }
    }

    /// The word of an entry counts from now on.
    async fn heard(&self, name: &str, word: &str) {
        if let Some(row) = self.shared().entries.say(name, word.to_owned()) {
            self.shared().note_word(row).await;
        }
    }

    pub(crate) fn serves(&self, name: &str) -> bool {
        let address = self.shared().find(name);
        address.is_ok_and(|it| call::serving(&it).is_ok())
    }

    /// Unloads what the configuration names no longer, each before those it requires. What another plugin requires that runs stays, and the next
    /// reload tries again.
    async fn unload_gone(
        &self,
        gone: BTreeMap<String, Named>,
        configured: &mut Configured,
        report: &mut ReloadReport,
    ) {
        let shared = self.shared();
        let known = shared.known();
        let ordered = depend::stop_order(&known).into_iter().flatten();
        let addresses = ordered.map(|index| known[index].address.to_string());
        let mut names: Vec<String> = addresses.filter(|it| gone.contains_key(it)).collect();
        let others = gone.keys().filter(|it| !names.contains(it));
        names.extend(others.cloned().collect::<Vec<_>>());
        for name in names {
            // One that an operator unloaded is gone already.
            let Ok(address) = shared.find(&name) else { continue };
            let word = Word::of(Giver::Config);
            match shared.unload_unrequired(&address, &name, &word).await {
                Ok(_) => report.unloaded.push(name),
                Err(error) if error.kind() == HostErrorKind::NotFound => {}
                Err(error) => {
                    report.failed.push((name.clone(), reasons(&error)));
                    if let Some(named) = gone.get(&name) {
                        configured.keep(name, named);
                    }
                }
            }
        }
    }

    /// Lists an entry that could not even be read.
    async fn fail(&self, report: &mut ReloadReport, name: String, entry: PluginEntry, error: HostError) {
        let source = Source::from(entry.source);
        tracing::error!(target: "mortise::life", plugin = name, %source, %error, hint = error.hint(), "a plugin of the configuration cannot be read");
        report.failed.push((name.clone(), reasons(&error)));
        self.reject(&name, &source, error).await;
    }
}

/// Loads what operators had loaded, without what the configuration named before: that wins.
pub(crate) async fn load_remembered(host: &Host, requests: Vec<LoadRequest>) {
    let known: HashSet<String> = host.list().into_iter().map(|it| it.name).collect();
    let mut entries = Vec::new();
    for (request, read) in read_all(host.shared(), requests, |it| it.source.clone()).await {
        match read {
            Err(error) => {
                let name = request.name.clone().unwrap_or_else(|| stand_in(&request.source));
                host.reject(&name, &request.source, error).await;
                if !request.beside {
                    host.fall_back(&name, request).await;
                }
            }
            Ok(package) => {
                let name = request
                    .name
                    .clone()
                    .unwrap_or_else(|| package.plugin().name.to_string());
                if request.beside || !known.contains(&name) {
                    entries.push(Entry::new(&name, package, request, Giver::Recalled));
                }
            }
        }
    }
    load_in_levels(host, entries).await;
}

// === impl Configured ===

impl Configured {
    /// The name that an entry is registered under. If its package cannot be read, that of the same source before, so that a folder that is
    /// being written does not look like a plugin that was taken out.
    fn name_of(&self, entry: &PluginEntry, package: Option<&Package>) -> String {
        let given = entry.name.clone();
        let own = || package.map(|it| it.plugin().name.to_string());
        let before = || {
            let same = |it: &&Named| it.entry.name.is_none() && it.entry.source == entry.source;
            let (name, _) = self.0.iter().find(|(_, it)| same(it))?;
            Some(name.clone())
        };
        given
            .or_else(own)
            .or_else(before)
            .unwrap_or_else(|| stand_in(&Source::from(entry.source.clone())))
    }

    /// Whether an entry has this name.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn is_done(&self, name: &str, entry: &PluginEntry) -> bool {
        self.0.get(name).is_some_and(|it| it.done && it.entry == *entry)
    }

    fn done(&mut self, name: &str, entry: &PluginEntry) {
        let entry = entry.clone();
        self.0.insert(name.to_owned(), Named { entry, done: true });
    }

    /// One that waited for its providers serves now.
    pub(crate) fn came_true(&mut self, name: &str) {
        if let Some(named) = self.0.get_mut(name) {
            named.done = true;
        }
    }

    /// Remembers one that could not be unloaded.
    fn keep(&mut self, name: String, named: &Named) {
        let (entry, done) = (named.entry.clone(), false);
        self.0.insert(name, Named { entry, done });
    }

    /// Keeps what `entries` names; the others.
    fn replace(&mut self, entries: BTreeMap<String, PluginEntry>) -> BTreeMap<String, Named> {
        let (kept, gone) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(name, _)| entries.contains_key(name));
        self.0 = kept;
        for (name, entry) in entries {
            self.0.entry(name).or_insert(Named { entry, done: false });
        }
        gone
    }
}

// === steps ===

/// Reads all packages at once.
async fn read_all<T>(
    shared: &Shared,
    all: Vec<T>,
    source: impl Fn(&T) -> Source,
) -> Vec<(T, Result<Package, HostError>)> {
    let source = &source;
    join_all(all.into_iter().map(|it| async move {
        let read = load::fetch(shared, &source(&it)).await;
        (it, read)
    }))
    .await
}

/// Whether what serves under this name is what the package has.
pub(crate) fn runs(shared: &Shared, name: &str, package: &Package) -> bool {
    let serving = shared.find(name).ok().and_then(|it| call::serving(&it).ok());
    serving.is_some_and(|it| {
        let artifact = package.artifact(it.runtime);
        artifact.is_some_and(|artifact| artifact.digest == it.digest) && it.manifest == *package.manifest()
    })
}

/// Loads everything, in levels: first what needs nothing that another one provides, then what the first level provides for, and so on. What
/// stands in a circle is not loaded; what misses a provider waits for it.
pub(crate) async fn load_in_levels(host: &Host, entries: Vec<Entry>) -> Vec<Outcome> {
    let mut participants: Vec<Participant> = entries
        .iter()
        .map(|it| Known::of_package(&it.name, &it.package).participant)
        .collect();
    // What runs already provides, and waits for nobody.
    let runs = host.shared().known().into_iter();
    let others = runs.filter(|it| entries.iter().all(|entry| *entry.name != *it.address));
    participants.extend(others.map(|it| Participant {
        requires: Vec::new(),
        ..it.participant
    }));
    let Plan { mut levels, held } = plan(&participants);
    let circles = |index: usize| -> Vec<Refusal> {
        let faults = held.get(&index).into_iter().flatten();
        faults.filter_map(depend::cycle).collect()
    };
    levels.push(held.keys().copied().collect());
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut outcomes = Vec::new();
    for level in levels {
        let now = level.into_iter().filter_map(|index| {
            let entry = entries.get_mut(index)?.take()?;
            Some(load_one(host, entry, circles(index)))
        });
        outcomes.extend(join_all(now.collect::<Vec<_>>()).await);
    }
    outcomes
}

async fn load_one(host: &Host, entry: Entry, circles: Vec<Refusal>) -> Outcome {
    let Entry {
        name,
        package,
        request,
        word,
    } = entry;
    let shared = host.shared();
    let source = request.source.clone();
    let served = shared.find(&name).is_ok_and(|it| call::serving(&it).is_ok());
    let loaded = if circles.is_empty() {
        match shared.name_for(&package, &request) {
            Err(error) => Err(error),
            Ok(address) => {
                let (again, asked) = (package.clone(), request.clone());
                let loaded = shared
                    .load_at(&address, package, request, Entrance::Waits, &word)
                    .await;
                if let Err(error) = &loaded {
                    let address = if asked.beside {
                        format!("{name}@{}", again.plugin().version)
                    } else {
                        name.clone()
                    };
                    shared
                        .configs
                        .hold_if_refused(&address, again.clone(), asked.clone(), &word, error);
                    shared
                        .waiting
                        .add_if_missing(&address, again, asked, &word, error);
                }
                loaded
            }
        }
    } else {
        host.reject(&name, &source, HostError::refused(&name, circles.clone()))
            .await;
        Err(HostError::refused(&name, circles))
    };
    match &loaded {
        Ok(info) if is_well(info.state) => {}
        Ok(info) => {
            tracing::warn!(target: "mortise::life", plugin = name, state = %info.state, "a plugin of the configuration does not serve");
        }
        Err(error) => {
            tracing::error!(target: "mortise::life", plugin = name, %source, %error, hint = error.hint(), "a plugin of the configuration does not serve");
        }
    }
    Outcome { name, served, loaded }
}

/// A name for something that could not say its own.
fn stand_in(source: &Source) -> String {
    match source {
        Source::Builtin(name) | Source::Embedded(name) | Source::Kept(name) => name.clone(),
        Source::Folder(path) => path.file_name().map_or_else(
            || path.display().to_string(),
            |it| it.to_string_lossy().into_owned(),
        ),
    }
}

pub(crate) fn reasons(error: &HostError) -> Vec<Refusal> {
    match error.reasons() {
        [] => vec![refusal(
            &load::with_causes(error),
            error.hint().unwrap_or_default(),
        )],
        all => all.to_vec(),
    }
}

fn refusal(why: &str, hint: &str) -> Refusal {
    Refusal {
        what: "load".to_owned(),
        why: why.to_owned(),
        hint: hint.to_owned(),
    }
}
