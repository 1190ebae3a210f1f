//! What plugins are configured with: sources over what stands at the plugin itself, and how a change reaches a plugin that runs.
//!
//! A *load* brings a plugin its own terms (`[[plugin]] config`, `--config`); sources (`files`, `watch`) have settings under its name. Laid over each other
//! they are what it is to have: `wanted`. What an instance has is `in force`, and is what it was started with or took over since.
//!
//! # Invariants
//! - **G1** Nothing is in force that was not checked whole before: every source's part reads, the references are allowed, the message fits. One fault
//!   refuses all of it, and what was in force stays.
//! - **G2** What is wanted is compared, not told: whatever happens (a change, a load, a rollback, a restart of the host), [`reconcile`] looks at the
//!   difference between wanted and in force, so a change that is told twice, late or not at all ends in the same.
//! - **G3** What was refused is not tried again with the same artifact until it is another; what failed for a reason of the machine's is.
//! - **G4** `good` is what an instance had in force when it had proved itself. It is on the disk with what each source said last, so a host starts
//!   without its sources; a plugin that cannot start with what is wanted starts with it.
//! - **G5** What a reference leads to is a part of what is wanted: a secret that is another by now (`rotation`) is a difference.
//! - **G6** Secrets are in memory only: here, in the instance, and on the way between. Journal, history and disk have references.

mod apply;
mod beforehand;
mod checks;
mod engine;
mod files;
mod kept;
mod report;
mod rotation;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use mortise_config::{Allowed, Delivered, Effective, Layer};
use mortise_runtime::{Digest, Refusal};
use mortise_store::Package;
use serde_json::{Map, Value};
use tokio::{sync::watch, time::Instant};

use crate::{HostErrorKind, LoadRequest, generation::Generation, history::Word};

pub(crate) use apply::{Choice, For, VETO, as_start};
pub use beforehand::ConfigFault;
pub(crate) use checks::{WHAT, read_own};
pub(crate) use files::FilesSource;
pub use report::{ConfigInfo, ConfigValue, SourceInfo};

/// How people see where a plugin's own terms are.
const OWN: &str = "own";

/// What is known of all sources and plugins.
pub(crate) struct Configs {
    allowed: Allowed,
    /// How long an instance has to live with a configuration that it took over until that is good.
    hot_proves_after: Duration,
    state: Mutex<State>,
    /// Rung when wanted and in force may differ.
    bell: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// In the order in which they are laid over each other.
    sources: Vec<SourceState>,
    /// By the name without a version.
    plugins: BTreeMap<String, Plugin>,
    /// What was tried in vain, by address.
    tried: BTreeMap<String, Tried>,
    /// Loads that were refused for their configuration alone, by address; made again when it changes.
    held: BTreeMap<String, Held>,
    /// Names whose record on the disk is old.
    unkept: BTreeSet<String>,
    /// When to look whether an instance has proved itself with what it took over.
    proving: Option<Instant>,
}

/// How a source is.
#[derive(Clone, Debug)]
struct SourceState {
    name: String,
    revision: u64,
    /// Why nothing is heard of it, and since when.
    out: Option<(String, SystemTime)>,
    /// Whether this life of the host has heard of it.
    heard: bool,
}

/// What sources say about one plugin.
#[derive(Clone, Debug, Default)]
struct Plugin {
    /// By source.
    said: BTreeMap<String, Said>,
    good: Option<Vec<Layer>>,
}

/// What one source says about one plugin.
#[derive(Clone, Debug)]
struct Said {
    /// What it said last that reads.
    layer: Option<Layer>,
    /// Why what it says now does not read.
    faults: Vec<String>,
    revision: u64,
}

/// Something that was tried in vain.
#[derive(Clone, Debug, Default)]
struct Tried {
    effective: Effective,
    /// `None`: with whatever artifact, because the settings themselves are faulty.
    digest: Option<Digest>,
    reason: String,
    revision: String,
    /// When to try again, if the reason is not the plugin's own.
    again: Option<Instant>,
    /// It may be tried again now. The reason stays, so that the same one is not put on record once more.
    forgiven: bool,
}

#[derive(Clone)]
struct Held {
    package: Package,
    request: LoadRequest,
    word: Word,
}

/// What an instance has in force.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) effective: Effective,
    layers: Vec<Layer>,
    how: How,
    since: SystemTime,
}

/// How something came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It was started with it.
    Start,
    /// It took it over.
    Hot,
    /// It was started for it, in place of one that had another.
    Swap,
}

/// What a generation has in force, and its own terms.
#[derive(Debug)]
pub(crate) struct Configured {
    own: Arc<Map<String, Value>>,
    in_force: ArcSwap<InForce>,
    /// What its references lead to by now, if that is not what it was handed.
    stale: Mutex<Option<Digest>>,
}

/// One thing to start a plugin with.
pub(crate) struct Candidate {
    effective: Effective,
    layers: Vec<Layer>,
}

/// A candidate with its secrets, and what becomes of it if it is started.
pub(crate) struct Ready {
    candidate: Candidate,
    pub(crate) delivered: Delivered,
}

// === impl Configs ===

impl Configs {
    pub(crate) fn new(secrets: Vec<String>, hot_proves_after: Duration) -> Self {
        Self {
            allowed: Allowed::new(secrets),
            hot_proves_after,
            state: Mutex::default(),
            bell: watch::Sender::new(()),
        }
    }

    /// The plugins have changed.
    pub(crate) fn look(&self) {
        if !self.lock().is_idle() {
            self.ring();
        }
    }

    /// Has wanted and in force compared.
    fn ring(&self) {
        self.bell.send_replace(());
    }

    /// Notes what an instance would be handed now in place of what it was; `None`: the same. Whether that is new.
    fn note_secrets(&self, address: &str, generation: &Generation, other: Option<Digest>) -> bool {
        // Not while the other lock is held: who holds that one looks at this.
        if std::mem::replace(&mut *generation.configured.stale(), other) == other {
            return false;
        }
        // What was tried in vain was tried with other secrets.
        let mut state = self.lock();
        let in_force = generation.configured.in_force();
        let of_these = state
            .tried
            .get(address)
            .is_some_and(|it| it.effective.is_same(&in_force.effective));
        if of_these {
            state.tried.remove(address);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a load wait that was refused for its configuration alone.
    pub(crate) fn hold_if_refused(
        &self,
        address: &str,
        package: Package,
        request: LoadRequest,
        word: &Word,
        error: &crate::HostError,
    ) {
        let of_config = error.kind() == HostErrorKind::Refused && is_of_config(error.reasons());
        let mut state = self.lock();
        if of_config && !state.sources.is_empty() {
            tracing::warn!(target: "mortise::config", plugin = address, "a plugin waits for another configuration");
            let word = word.clone();
            let held = Held {
                package,
                request,
                word,
            };
            state.held.insert(address.to_owned(), held);
        }
    }

    /// Somebody had another word about this address.
    pub(crate) fn let_go(&self, address: &str) {
        self.lock().held.remove(address);
    }

    /// What was in force failed its probation: it is not tried again, and what it replaced is in force.
    pub(crate) fn reject(&self, address: &str, digest: Digest, in_force: &InForce, reason: &str) {
        let tried = Tried {
            effective: in_force.effective.clone(),
            digest: Some(digest),
            reason: format!("it failed its probation: {reason}"),
            revision: revisions(&in_force.layers),
            ..Tried::default()
        };
        self.lock().tried.insert(address.to_owned(), tried);
    }
}

fn is_of_config(reasons: &[Refusal]) -> bool {
    !reasons.is_empty() && reasons.iter().all(|it| it.what == WHAT)
}

/// `etcd:17+files:3`: what layers are of.
fn revisions(layers: &[Layer]) -> String {
    let all: Vec<_> = layers
        .iter()
        .map(|it| format!("{}:{}", it.source, it.revision))
        .collect();
    all.join("+")
}

// === impl State ===

impl State {
    /// Whether no source has ever said anything, so that there is nothing to compare.
    fn is_idle(&self) -> bool {
        self.sources.is_empty() && self.plugins.is_empty()
    }

    /// What is wanted of a plugin beside its own terms.
    ///
    /// # Errors
    /// Why what a source says now does not read.
    fn wanted(&self, plugin: &str) -> Result<Vec<Layer>, Vec<String>> {
        let Some(found) = self.plugins.get(plugin) else {
            return Ok(Vec::new());
        };
        let said = || self.sources.iter().filter_map(|it| found.said.get(&it.name));
        let faults: Vec<String> = said().flat_map(|it| it.faults.iter().cloned()).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(said().filter_map(|it| it.layer.clone()).collect())
    }

    fn good(&self, plugin: &str) -> Option<Vec<Layer>> {
        self.plugins.get(plugin)?.good.clone()
    }
}

// === impl Configured ===

impl Configured {
    pub(crate) fn new(own: Arc<Map<String, Value>>, ready: &Ready, how: How) -> Self {
        let Candidate { effective, layers } = &ready.candidate;
        Self {
            own,
            in_force: ArcSwap::from_pointee(InForce {
                effective: effective.clone(),
                layers: layers.clone(),
                how,
                since: SystemTime::now(),
            }),
            stale: Mutex::default(),
        }
    }

    /// Whether a secret that it was handed is another one by now.
    fn is_stale(&self) -> bool {
        self.stale().is_some()
    }

    fn stale(&self) -> MutexGuard<'_, Option<Digest>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }
}

/// Own terms with layers over them.
fn effective(own: &Map<String, Value>, layers: &[Layer]) -> Effective {
    layers
        .iter()
        .fold(Effective::of(own.clone(), OWN), |under, layer| under.under(layer))
}
