//! Who asked for what, what became of it, and the way back.
//!
//! Every load and unload is a *change*: a row that is on record as begun before anything is done for it, and whose end is one write with what should
//! run from then on. So after any end of the host, `done` is what the next one comes back to. A host that comes back to what it had makes no row.
//!
//! A change describes what is to be (version, package, the request with grants, limits and configuration), and what was before. Its package is kept
//! by digest, the last few of each plugin ([`crate::HostBuilder::keep_packages`]), so the way back needs nothing from the outside.

mod compare;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use mortise_contract::compat::{self, Level};
use mortise_runtime::Digest;
use mortise_store::{Aftermath, Change, ChangeOutcome, ChangeQuery, Desired, Package, RecordedChange};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Host, HostError, HostErrorKind, LoadRequest, PluginInfo, Source,
    host::Shared,
    info::to_unix_ms,
    load::{self, Entrance},
    remember::Remembered,
    routes::ROUTES_HISTORY,
};

/// The action of a change of configuration.
const CONFIG: &str = "config";
/// The action of a decision about a canary.
const CANARY: &str = "canary";
/// The action of a canary's last load: under the plain name.
const PROMOTE: &str = "promote";
/// The action of a change of the routes.
const ROUTES: &str = "routes";
/// Most bytes of the packages that are kept of one plugin; the one that serves is kept however large it is.
const KEPT_BYTES_MAX: u64 = 512 << 20;

/// A change, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeInfo {
    /// Its number; grows, also over the host's lives.
    pub seq: u64,
    /// When it began.
    pub at_unix_ms: u64,
    /// Who asked: `uid:1000`, `config`, `directory`, `probation`, or what [`Host::acting_as`] said.
    pub actor: String,
    /// The plugin's address; [`ROUTES_HISTORY`] for the routes.
    pub name: String,
    /// `load`, `unload`, `rollback`, `promote`, `config`, `routes`, or `canary` for a decision about one.
    pub action: String,
    /// The version it was to end with; empty for none.
    pub version: String,
    /// Digest of the package, or of the routes; empty for none.
    pub digest: String,
    /// `begun`, `done`, `failed`, or `interrupted` by the end of the host.
    pub outcome: String,
    /// Why; of a decision about a canary, with the number that decided.
    pub detail: String,
    /// Whether the package is still kept, so that a rollback can go there.
    pub kept: bool,
    /// What differs from before.
    pub diff: Vec<Difference>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What: `version`, `runtime`, `config.quality`, `grant.net.connect`, `limits.deadline_ms`.
    pub what: String,
    /// Before; `None` if it was not there.
    pub before: Option<String>,
    /// After; `None` if it is not there.
    pub after: Option<String>,
}

/// What differs between two changes' ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// Where from: a change's number, `None` for what was before the other one.
    pub from: Option<u64>,
    /// Where to.
    pub to: u64,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Whether callers of the one can call the other: `exact`, `wire-compatible`, `adaptable`, `incompatible`; `None` where a package is not kept any
    /// more.
    pub contract: Option<String>,
    /// Why not, one line per broken rule.
    pub violations: Vec<String>,
}

/// What a change ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    version: String,
    package: String,
    request: Remembered,
    /// The change that a rollback went back to; the next rollback goes on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back_to: Option<u64>,
}

/// Who asks for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Giver {
    /// Whoever has a [`Host`]. What he loads is kept for the host's next life.
    Operator,
    Config,
    Directory,
    /// The host itself, which comes back to what operators had loaded.
    Recalled,
}

/// What is asked for, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    giver: Giver,
    actor: Arc<str>,
    action: &'static str,
    back_to: Option<u64>,
}

/// A change that is on record as begun.
pub(crate) struct Begun {
    seq: Option<u64>,
    word: Word,
    name: String,
    described: Option<Described>,
}

// === impl Word ===

impl Word {
    /// A load or unload that follows from what somebody wrote somewhere.
    pub(crate) fn of(giver: Giver) -> Self {
        let actor = match giver {
            Giver::Operator => "api",
            Giver::Config => "config",
            Giver::Directory => "directory",
            Giver::Recalled => "host",
        };
        Self {
            giver,
            actor: actor.into(),
            action: "load",
            back_to: None,
        }
    }

    /// His name.
    pub(crate) fn actor(&self) -> &Arc<str> {
        &self.actor
    }

    /// Who asks.
    pub(crate) fn giver(&self) -> Giver {
        self.giver
    }

    /// An operator's word, or one that counts as such.
    pub(crate) fn by(actor: impl Into<Arc<str>>) -> Self {
        Self {
            actor: actor.into(),
            ..Self::of(Giver::Operator)
        }
    }

    /// The end of a canary, which somebody of this kind had begun.
    pub(crate) fn promotion(giver: Giver, actor: &str) -> Self {
        Self {
            giver,
            actor: actor.into(),
            action: PROMOTE,
            back_to: None,
        }
    }

    /// The word of whoever holds this handle.
    pub(crate) fn from_operator(host: &Host) -> Self {
        Self::by(host.actor().clone())
    }
}

// === impl Described ===

impl Described {
    fn of(package: &Package, request: &LoadRequest, back_to: Option<u64>) -> Self {
        Self {
            version: package.plugin().version.to_string(),
            package: package.digest().to_string(),
            request: Remembered::from(request.clone()),
            back_to,
        }
    }

    /// The same, from the package that was kept, wherever it was loaded from. What is part of this program is no further away than that.
    fn resting_on(mut self, shelf: &mortise_store::Shelf) -> Self {
        if shelf.has(&self.package) {
            self.request.source = Source::Kept(self.package.clone()).to_string();
        }
        self
    }

    /// Whether this is what a load of the package with these terms ends with, wherever the package comes from.
    pub(crate) fn is_of(&self, package: &Package, request: &LoadRequest) -> bool {
        self.is_same_state(&Self::of(package, request, None))
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.package, &self.request) == (&other.package, &other.request)
    }

    /// The same, wherever the package came from.
    fn is_same_state(&self, other: &Self) -> bool {
        self.package == other.package && self.request.anywhere() == other.request.anywhere()
    }

    fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers serialize")
    }
}

// === the way of a change ===

/// Puts a load on record, unless the host only comes back to what it had.
///
/// # Errors
/// If it cannot be written; then nothing must be done.
pub(crate) async fn begin_load(
    shared: &Shared,
    word: &Word,
    name: &str,
    package: &Package,
    request: &LoadRequest,
) -> Result<Begun, HostError> {
    let described = Described::of(package, request, word.back_to);
    let serves = shared
        .find(name)
        .is_ok_and(|it| crate::call::serving(&it).is_ok());
    let may_come_back = word.giver != Giver::Operator && !serves;
    let mut begun = Begun {
        seq: None,
        word: word.clone(),
        name: name.to_owned(),
        described: Some(described.clone()),
    };
    let change = begun.change(word.action);
    begun.seq = shared
        .with_journal(move |journal| {
            let last = last_done(journal, &change.name)?;
            let before = last
                .filter(|it| it.change.action != "unload")
                .map(|it| it.change.after);
            let was = before.as_deref().and_then(Described::parse);
            if may_come_back && was.is_some_and(|it| it.is_same(&described)) {
                return Ok(None);
            }
            let before = before.unwrap_or_default();
            let at = SystemTime::now();
            journal.begin(at, &Change { before, ..change }).map(Some)
        })
        .await?;
    Ok(begun)
}

/// Puts an unload on record.
///
/// # Errors
/// If it cannot be written; then nothing must be done.
pub(crate) async fn begin_unload(shared: &Shared, word: &Word, name: &str) -> Result<Begun, HostError> {
    let mut begun = Begun {
        seq: None,
        word: word.clone(),
        name: name.to_owned(),
        described: None,
    };
    let change = begun.change("unload");
    begun.seq = shared
        .with_journal(move |journal| {
            let last = last_done(journal, &change.name)?;
            let Some(last) = last.filter(|it| it.change.action != "unload") else {
                // It never served: a plugin that was refused and is listed.
                return Ok(None);
            };
            let before = last.change.after;
            let at = SystemTime::now();
            journal.begin(at, &Change { before, ..change }).map(Some)
        })
        .await?;
    Ok(begun)
}

/// Puts a change of the routes on record; each route is a name and what it does, in the order in which they are tried.
///
/// # Errors
/// If it cannot be written; then nothing must be done.
pub(crate) async fn begin_routes(
    shared: &Shared,
    actor: &str,
    before: &[(String, String)],
    after: &[(String, String)],
) -> Result<Begun, HostError> {
    let after = compare::routes_to_json(after);
    let change = Change {
        actor: actor.to_owned(),
        name: ROUTES_HISTORY.to_owned(),
        action: ROUTES.to_owned(),
        version: String::new(),
        digest: Digest::of(after.as_bytes()).to_string(),
        before: compare::routes_to_json(before),
        after,
    };
    let seq = shared
        .with_journal(move |journal| journal.begin(SystemTime::now(), &change))
        .await?;
    Ok(Begun {
        seq: Some(seq),
        word: Word::of(Giver::Config),
        name: ROUTES_HISTORY.to_owned(),
        described: None,
    })
}

/// What is told of a decision about a canary: to the journal, and to the history.
pub(crate) struct Decided {
    pub(crate) actor: String,
    pub(crate) plugin: String,
    pub(crate) version: String,
    /// Of the package.
    pub(crate) digest: String,
    /// Where the canary stood, as JSON; empty before it began.
    pub(crate) before: String,
    pub(crate) after: String,
    /// In words, with the number that decided.
    pub(crate) detail: String,
}

impl Decided {
    /// As a change, which is made as soon as it is on record.
    pub(crate) fn change(self) -> (Change, String) {
        let change = Change {
            actor: self.actor,
            name: self.plugin,
            action: CANARY.to_owned(),
            version: self.version,
            digest: self.digest,
            before: self.before,
            after: self.after,
        };
        (change, self.detail)
    }
}

/// What was loaded last under a name, as the history has it; `None` if that was an unload, or nothing.
pub(crate) async fn last_load(shared: &Shared, name: &str) -> Option<Described> {
    let name = name.to_owned();
    let last = shared.with_journal(move |it| last_done(it, &name)).await;
    let last = last.ok().flatten()?;
    (last.change.action != "unload").then(|| Described::parse(&last.change.after))?
}

/// The package that was loaded last under a name, and its terms, from where it was or from what is kept.
pub(crate) async fn served_last(shared: &Shared, name: &str) -> Option<(Package, LoadRequest)> {
    let last = last_load(shared, name).await?;
    let shelf = shared.parts.data.packages();
    let was = last.package.clone();
    for described in [last.clone(), last.resting_on(shelf)] {
        let mut request = LoadRequest::from(described.request);
        request.name = Some(name.to_owned());
        if let Ok(package) = load::fetch(shared, &request.source).await
            && package.digest().to_string() == was
        {
            return Some((package, request));
        }
    }
    None
}

fn last_done(
    journal: &mortise_store::Journal,
    name: &str,
) -> Result<Option<RecordedChange>, mortise_store::StoreError> {
    let query = ChangeQuery {
        name: Some(name.to_owned()),
        done: true,
        loads: true,
        limit: 1,
        ..ChangeQuery::default()
    };
    Ok(journal.changes(&query)?.pop())
}

impl Begun {
    fn change(&self, action: &str) -> Change {
        let described = self.described.as_ref();
        Change {
            actor: self.word.actor.to_string(),
            name: self.name.clone(),
            action: action.to_owned(),
            version: described.map(|it| it.version.clone()).unwrap_or_default(),
            digest: described.map(|it| it.package.clone()).unwrap_or_default(),
            before: String::new(),
            after: described.map(Described::to_json).unwrap_or_default(),
        }
    }

    /// Writes down how it ended, together with what should run from here on.
    ///
    /// # Errors
    /// If it cannot be written. What was done is done; the host's next life comes back to what was before.
    pub(crate) async fn conclude(self, shared: &Shared, failed: Option<&HostError>) -> Result<(), HostError> {
        let aftermath = match failed {
            Some(_) => Aftermath::default(),
            None => self.aftermath(shared),
        };
        if self.seq.is_none() && aftermath == Aftermath::default() {
            return Ok(());
        }
        let (outcome, detail) = match failed {
            None => (ChangeOutcome::Done, String::new()),
            Some(error) => (ChangeOutcome::Failed, load::with_causes(error)),
        };
        // Numbers begin with 1.
        let seq = self.seq.unwrap_or(0);
        shared
            .with_journal(move |it| it.conclude(SystemTime::now(), seq, outcome, &detail, &aftermath))
            .await
    }

    /// Its number, and what should run once it is made, for somebody who writes several ends at once.
    pub(crate) fn done(&self, shared: &Shared) -> (u64, Aftermath) {
        (self.seq.unwrap_or(0), self.aftermath(shared))
    }

    fn aftermath(&self, shared: &Shared) -> Aftermath {
        if !shared.parts.remembers {
            if self.word.giver == Giver::Operator {
                let _ = shared.brought.hold(&self.name);
                let _ = match self.described {
                    Some(_) => shared.entries.hold(&self.name),
                    None => shared.entries.release(&self.name),
                };
            }
            return Aftermath::default();
        }
        let name = &self.name;
        let desire = self.described.as_ref().map(|it| Desired {
            name: name.clone(),
            request_json: serde_json::to_string(&it.request).expect("strings and numbers serialize"),
        });
        let forget = Some(name.clone());
        match (self.word.giver, &self.described) {
            (Giver::Operator, Some(_)) => Aftermath {
                desire,
                forget: None,
                watched: shared.entries.hold(name).or_else(|| shared.brought.hold(name)),
            },
            (Giver::Operator, None) => Aftermath {
                desire: None,
                forget,
                watched: shared.entries.release(name).or_else(|| shared.brought.hold(name)),
            },
            (Giver::Directory, described) => Aftermath {
                desire: None,
                forget,
                watched: Some(mortise_store::WatchedName {
                    name: name.clone(),
                    digest: described.as_ref().map(|it| it.package.clone()),
                    held: false,
                }),
            },
            (Giver::Config | Giver::Recalled, _) => Aftermath::default(),
        }
    }
}

/// Keeps a package for the way back. A disk that is full costs the way back, not the load.
/// Whether there is one more now.
pub(crate) async fn keep_package(shared: &Shared, package: &Package) -> bool {
    let keeps = shared.parts.keep_packages;
    if keeps == 0 || package.origin().starts_with("builtin:") || package.origin().starts_with("kept:") {
        return false;
    }
    let (shelf, kept) = (shared.parts.data.packages().clone(), package.clone());
    let put = tokio::task::spawn_blocking(move || shelf.put(&kept)).await;
    match put {
        Ok(Ok(is_new)) => is_new,
        Ok(Err(error)) => {
            tracing::warn!(target: "mortise::life", plugin = %package.plugin(), %error, "the package is not kept, so no rollback can come back to it");
            false
        }
        Err(_) => false,
    }
}

/// Lets go of packages that nobody can come back to any more.
pub(crate) async fn prune_packages(shared: &Shared) {
    let (keeps, shelf) = (shared.parts.keep_packages, shared.parts.data.packages().clone());
    let pruned = shared
        .with_journal(move |journal| {
            let mut kept: HashMap<String, (Vec<String>, u64)> = HashMap::new();
            for (name, digest) in journal.packages_used()? {
                let (digests, bytes) = kept.entry(name).or_default();
                if digests.len() < keeps && !digests.contains(&digest) {
                    *bytes += shelf.size(&digest);
                    if digests.is_empty() || *bytes <= KEPT_BYTES_MAX {
                        digests.push(digest);
                    }
                }
            }
            let all: HashSet<_> = kept.into_values().flat_map(|it| it.0).collect();
            shelf.retain(|digest| all.contains(digest))
        })
        .await;
    if let Err(error) = pruned {
        tracing::warn!(target: "mortise::life", %error, "old packages stay for now");
    }
}

/// Version `bad` failed its probation, and its predecessor serves again: a change that nobody asked for. What should run is that predecessor from now
/// on, because the other one is in quarantine.
pub(crate) async fn rolled_back(shared: &Shared, name: &str, bad: &str, reason: &str) {
    let (name, bad, detail) = (name.to_owned(), bad.to_owned(), reason.to_owned());
    let (remembers, shelf) = (shared.parts.remembers, shared.parts.data.packages().clone());
    let written = shared
        .with_journal(move |journal| {
            let query = ChangeQuery {
                name: Some(name.clone()),
                loads: true,
                ..ChangeQuery::default()
            };
            // It may have failed before its load was concluded.
            let is_it = |it: &RecordedChange| {
                let came = matches!(it.outcome, ChangeOutcome::Begun | ChangeOutcome::Done);
                came && it.change.version == bad
            };
            let Some(bad) = journal.changes(&query)?.into_iter().find(is_it) else {
                return Ok(());
            };
            let Some(good) = Described::parse(&bad.change.before) else {
                return Ok(());
            };
            let is_desired = remembers && journal.desired()?.iter().any(|it| it.name == name);
            let good = good.resting_on(&shelf);
            let aftermath = Aftermath {
                desire: is_desired.then(|| Desired {
                    name: name.clone(),
                    request_json: serde_json::to_string(&good.request)
                        .expect("strings and numbers serialize"),
                }),
                ..Aftermath::default()
            };
            let change = Change {
                actor: "probation".to_owned(),
                name,
                action: "rollback".to_owned(),
                version: good.version.clone(),
                digest: good.package.clone(),
                before: bad.change.after,
                after: good.to_json(),
            };
            let at = SystemTime::now();
            let seq = journal.begin(at, &change)?;
            journal.conclude(at, seq, ChangeOutcome::Done, &detail, &aftermath)
        })
        .await;
    if let Err(error) = written {
        tracing::error!(target: "mortise::life", %error, "an automatic rollback is not in the history");
    }
}

/// A plugin that was new went with others that it was loaded with: a change that nobody asked for.
pub(crate) async fn taken_back(shared: &Shared, name: &str) {
    let word = Word::by("probation");
    let gone = async {
        begin_unload(shared, &word, name)
            .await?
            .conclude(shared, None)
            .await
    };
    if let Err(error) = gone.await {
        tracing::error!(target: "mortise::life", %error, "a plugin that went is still in the history");
    }
}

// === configuration ===

/// Changes that the history goes back, of configuration and others each; the last one of each plugin stays longer.
pub(crate) const CHANGES_MAX: u32 = 10_000;
/// After how many changes those that are too old go.
const PRUNE_EVERY: u64 = 1000;

/// Puts another configuration of a plugin on record. What it holds are references to secrets, and none of them.
///
/// # Errors
/// If it cannot be written; then nothing must be done.
pub(crate) async fn begin_config(
    shared: &Shared,
    actor: &str,
    name: &str,
    version: &semver::Version,
    (before, after): (&Map<String, Value>, &Map<String, Value>),
) -> Result<u64, HostError> {
    let text = |it: &Map<String, Value>| serde_json::to_string(it).expect("JSON serializes");
    let change = Change {
        actor: actor.to_owned(),
        name: name.to_owned(),
        action: CONFIG.to_owned(),
        version: version.to_string(),
        digest: String::new(),
        before: text(before),
        after: text(after),
    };
    shared
        .with_journal(move |it| it.begin(SystemTime::now(), &change))
        .await
}

/// Writes down how it ended. A disk that does not take that is told of, and nothing else: what was done is done.
pub(crate) async fn conclude_config(shared: &Shared, seq: u64, done: bool, detail: &str) {
    let outcome = if done {
        ChangeOutcome::Done
    } else {
        ChangeOutcome::Failed
    };
    let detail = detail.to_owned();
    let written = shared.with_journal(move |it| {
        it.conclude(SystemTime::now(), seq, outcome, &detail, &Aftermath::default())?;
        // These come by themselves for as long as the host runs, so their bound cannot wait for the next start.
        if seq.is_multiple_of(PRUNE_EVERY) {
            it.prune_changes(CHANGES_MAX)?;
        }
        Ok(())
    });
    if let Err(error) = written.await {
        tracing::error!(target: "mortise::config", %error, "the end of a change of configuration is not in the history");
    }
}

/// Takes it off the record: it was tried again and came to the same nothing, which is on record already.
pub(crate) async fn withdraw_config(shared: &Shared, seq: u64) {
    if let Err(error) = shared.with_journal(move |it| it.withdraw(seq)).await {
        tracing::error!(target: "mortise::config", %error, "a change of configuration that came to nothing stays in the history");
    }
}

/// What was in force failed its probation, and what was before is in force again.
pub(crate) async fn config_taken_back(
    shared: &Shared,
    name: &str,
    version: &semver::Version,
    values: (&Map<String, Value>, &Map<String, Value>),
    reason: &str,
) {
    match begin_config(shared, "probation", name, version, values).await {
        Ok(seq) => conclude_config(shared, seq, true, reason).await,
        Err(error) => {
            tracing::error!(target: "mortise::config", %error, "a configuration that was taken back is not in the history");
        }
    }
}

// === impl Host ===

impl Host {
    /// Who asked for what, newest first: of one plugin (an address) or of all; only changes before number `before`; at most `limit`.
    ///
    /// # Errors
    /// If the journal does not read.
    pub async fn changes(
        &self,
        plugin: Option<&str>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<ChangeInfo>, HostError> {
        let query = ChangeQuery {
            name: plugin.map(str::to_owned),
            before,
            limit,
            ..ChangeQuery::default()
        };
        let rows = self.shared().with_journal(move |it| it.changes(&query)).await?;
        let shelf = self.shared().parts.data.packages();
        Ok(rows
            .into_iter()
            .map(|row| ChangeInfo::of(row, |digest| shelf.has(digest)))
            .collect())
    }

    /// Goes back: loads the package, with grants, limits and configuration, that a plugin had at the end of change `to`; without one, what it had before what
    /// it has now (and, after a rollback, before that); without one while a canary of it runs, that is taken back, and nothing is loaded. The package comes from the host's own keeping, wherever it was loaded from then. It is a load like any
    /// other: no call is lost, and on any failure what serves serves on.
    ///
    /// # Errors
    /// If there is nothing to go back to, its package is not kept any more or is in quarantine, or as [`Host::load`].
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the rollback.
    pub async fn rollback(&self, plugin: &str, to: Option<u64>) -> Result<PluginInfo, HostError> {
        let shared = self.shared();
        if plugin == ROUTES_HISTORY {
            let what = "routes are not rolled back: their changes are lists, not packages";
            return Err(HostError::new(HostErrorKind::Invalid, what).with_hint(
                "`mortise history @routes` shows what they were; `mortise route set` and `remove` change them",
            ));
        }
        if to.is_none() && shared.canaries.runs(plugin) {
            // What was changed last is the canary, and what it had of the calls is to go back.
            self.abort_canary(self.actor(), plugin, "`mortise rollback`")
                .await?;
            return Ok(shared.find(plugin)?.info());
        }
        let query = ChangeQuery {
            name: Some(plugin.to_owned()),
            done: true,
            loads: true,
            limit: u32::MAX,
            ..ChangeQuery::default()
        };
        let rows = shared.with_journal(move |it| it.changes(&query)).await?;
        if let Some(to) = to {
            is_no_decision(shared, plugin, to).await?;
        }
        let target = target(plugin, &rows, to)?;
        let described = Described::parse(&target.change.after).ok_or_else(|| {
            HostError::new(
                HostErrorKind::Storage,
                format!("change {} does not say what it ended with", target.seq),
            )
        })?;
        let word = Word {
            action: "rollback",
            back_to: Some(target.seq),
            ..Word::from_operator(self)
        };
        let described = described.resting_on(shared.parts.data.packages());
        let mut request = LoadRequest::from(described.request.clone());
        // The row's name is the address, also where the package has another.
        request.name = Some(plugin.split_once('@').map_or(plugin, |it| it.0).to_owned());
        let package = load::fetch(shared, &request.source).await?;
        if package.digest().to_string() != described.package {
            let what = format!(
                "change {} ended with package {}, which is not kept any more; `{}` has {} now",
                target.seq,
                short(&described.package),
                request.source,
                short(&package.digest().to_string())
            );
            return Err(HostError::new(HostErrorKind::NotFound, what)
                .with_plugin(plugin)
                .with_hint("load the version that you want from its folder; `host.keep_packages` says how many are kept"));
        }
        shared
            .load_at(plugin, package, request, Entrance::Alone, &word)
            .await
    }

    /// What differs between the ends of two changes; with one, between what was before it and its end.
    ///
    /// # Errors
    /// If one of them is not on record.
    pub async fn diff(&self, from: Option<u64>, to: u64) -> Result<DiffReport, HostError> {
        let shared = self.shared();
        let last = recorded(shared, to).await?;
        let before = match from {
            Some(from) => {
                let first = recorded(shared, from).await?;
                if kind(&first.action) != kind(&last.action) {
                    let (one, other) = (kind(&first.action), kind(&last.action));
                    let what =
                        format!("changes {from} and {to}: one is about {one}, the other about {other}");
                    return Err(HostError::new(HostErrorKind::Invalid, what)
                        .with_hint("compare two of one kind; `mortise history` lists them"));
                }
                first.after
            }
            None => last.before,
        };
        let mut report = DiffReport {
            from,
            to,
            differences: differences(&last.action, &before, &last.after),
            contract: None,
            violations: Vec::new(),
        };
        let (before, after) = (Described::parse(&before), Described::parse(&last.after));
        let (old, new) = (self.kept(before.as_ref()).await, self.kept(after.as_ref()).await);
        if let (Some(old), Some(new)) = (old, new) {
            report.differences.extend(compare::packages(&old, &new));
            let found = compat::check(old.contract(), new.contract(), Level::WireJson);
            report.contract = Some(compare::verdict(&found.verdict).to_owned());
            report.violations = compare::violations(&found.verdict);
        }
        Ok(report)
    }

    /// The package of a description, if it can still be had.
    async fn kept(&self, described: Option<&Described>) -> Option<Package> {
        let described = described?.clone().resting_on(self.shared().parts.data.packages());
        let source = LoadRequest::from(described.request).source;
        let package = load::fetch(self.shared(), &source).await.ok()?;
        (package.digest().to_string() == described.package).then_some(package)
    }

    /// Loads what served last under a name, with the terms of `request`, after nothing else could be.
    pub(crate) async fn fall_back(&self, name: &str, mut request: LoadRequest) {
        let query = name.to_owned();
        let found = self.shared().with_journal(move |it| last_done(it, &query)).await;
        let last = found
            .ok()
            .flatten()
            .and_then(|it| Described::parse(&it.change.after));
        let shelf = self.shared().parts.data.packages();
        let Some(last) = last.filter(|it| shelf.has(&it.package)) else {
            return;
        };
        request.source = Source::Kept(last.package);
        request.name = Some(name.to_owned());
        let Ok(package) = load::fetch(self.shared(), &request.source).await else {
            return;
        };
        tracing::warn!(target: "mortise::life", plugin = name, version = %package.plugin().version, "coming back to the package that served last");
        let word = Word::of(Giver::Recalled);
        // Its own reasons are told where it is loaded; there is nothing further back.
        let loaded = self
            .shared()
            .load_at(name, package, request, Entrance::Waits, &word);
        let _ = loaded.await;
    }
}

/// One change.
async fn recorded(shared: &Shared, seq: u64) -> Result<Change, HostError> {
    let row = shared.with_journal(move |it| it.change(seq)).await?;
    row.map(|it| it.change).ok_or_else(|| {
        HostError::new(HostErrorKind::NotFound, format!("there is no change {seq}"))
            .with_hint("`mortise history` lists them; the oldest are forgotten")
    })
}

/// A decision about a canary is nothing that could be loaded.
async fn is_no_decision(shared: &Shared, plugin: &str, to: u64) -> Result<(), HostError> {
    let row = shared.with_journal(move |it| it.change(to)).await?;
    if row.is_none_or(|it| it.change.action != CANARY) {
        return Ok(());
    }
    let what = format!("change {to} is a decision about a canary of plugin `{plugin}`, not a load");
    Err(HostError::new(HostErrorKind::NotFound, what)
        .with_plugin(plugin)
        .with_hint(format!(
            "without `--to`, a canary that runs is taken back; go back to a `load` or `promote` of `mortise history {plugin}`"
        )))
}

/// The change that a rollback goes back to.
fn target<'a>(
    plugin: &str,
    rows: &'a [RecordedChange],
    to: Option<u64>,
) -> Result<&'a RecordedChange, HostError> {
    let nothing = |what: String| {
        HostError::new(HostErrorKind::NotFound, what)
            .with_plugin(plugin)
            .with_hint(format!(
                "`mortise history {plugin}` lists what there is to go back to"
            ))
    };
    let Some(newest) = rows.first() else {
        return Err(nothing(format!("no change of plugin `{plugin}` is on record")));
    };
    let loads = || rows.iter().filter(|it| it.change.action != "unload");
    if let Some(to) = to {
        return loads().find(|it| it.seq == to).ok_or_else(|| {
            nothing(format!(
                "change {to} is no load of plugin `{plugin}` that was done; what came from a source of configuration is put back there"
            ))
        });
    }
    let now = Described::parse(&newest.change.after);
    let from = now.as_ref().and_then(|it| it.back_to).unwrap_or(newest.seq);
    let differs = |it: &&RecordedChange| {
        let was = Described::parse(&it.change.after);
        match (&now, was) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(now), Some(was)) => !now.is_same_state(&was),
        }
    };
    loads()
        .filter(|it| it.seq < from || newest.change.action == "unload")
        .find(differs)
        .ok_or_else(|| nothing(format!("plugin `{plugin}` has had nothing else before")))
}

impl ChangeInfo {
    fn of(row: RecordedChange, is_kept: impl Fn(&str) -> bool) -> Self {
        let RecordedChange {
            seq,
            at,
            change,
            outcome,
            detail,
        } = row;
        let diff = differences(&change.action, &change.before, &change.after);
        Self {
            seq,
            at_unix_ms: to_unix_ms(at),
            kept: is_kept(&change.digest),
            actor: change.actor,
            name: change.name,
            action: change.action,
            version: change.version,
            digest: change.digest,
            outcome: outcome.as_str().to_owned(),
            detail,
            diff,
        }
    }
}

/// What a change of this action is about.
fn kind(action: &str) -> &'static str {
    match action {
        ROUTES => "routes",
        CONFIG => "a configuration",
        CANARY => "a canary",
        _ => "a plugin",
    }
}

/// What differs between two ends of changes of this action.
fn differences(action: &str, before: &str, after: &str) -> Vec<Difference> {
    match action {
        ROUTES => compare::routes(before, after),
        CONFIG => compare::values("config", before, after),
        CANARY => compare::values("canary", before, after),
        _ => {
            let (before, after) = (Described::parse(before), Described::parse(after));
            compare::differences(before.as_ref(), after.as_ref())
        }
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
