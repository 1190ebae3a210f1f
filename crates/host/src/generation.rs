//! What callers reach: an address, its cell, and the generation in it.
//!
//! # Ownership
//! [`Address::cell`], [`Address::status`] and [`Address::methods`] are written by the address's supervisor only, [`Address::trouble`] and what
//! [`Generation::configured`] holds by the task that reconciles configurations. Everything else here is
//! immutable or a counter.
//!
//! # Numbers of methods
//! A method has three numbers that must not be mixed up: its index in the artifact's metadata (`MethodIndex`, differs between versions), and
//! its *seat* at the address, which stays the same for the life of the address, so that a resolved route survives a swap.
//! [`Generation::seats`] maps the second to the first.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mortise_contract::{Contract, evolve::Lineage};
use mortise_hazard::Cell;
use mortise_lifecycle::State;
use mortise_manifest::{Limits, Manifest, Permissions, Restart, RuntimeName};
use mortise_runtime::{CallError, CallErrorKind, Digest, DirectCall, Instance, MethodIndex, PluginId};
use mortise_store::Recorded;
use mortise_wire::{Metadata, MethodKind};
use tokio::sync::{mpsc, watch};

use crate::{
    adapt::{Plans, Purity},
    admission::Admission,
    config::Configured,
    gate::Gate,
    info::{PluginInfo, StateInfo, to_unix_ms},
    services::Services,
    stats::{Stats, Totals},
    stream::Streams,
    supervisor::Command,
    table::Offer,
};

/// The least time between two snapshots; clocks of all systems tell it apart.
const STATE_TIME_STEP: Duration = Duration::from_micros(1);

/// One running copy of one loaded (artifact, configuration), with everything that a call needs.
pub(crate) struct Generation {
    /// Counts the generations of its address, from 1. A restart of the same one keeps it.
    pub(crate) number: u64,
    pub(crate) plugin: PluginId,
    pub(crate) runtime: RuntimeName,
    pub(crate) digest: Digest,
    pub(crate) source: Arc<str>,
    pub(crate) contract: Arc<Contract>,
    /// What its package says of older versions.
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) purity: Purity,
    pub(crate) granted: Permissions,
    pub(crate) limits: Limits,
    pub(crate) configured: Configured,
    pub(crate) instance: Box<dyn Instance>,
    pub(crate) services: Arc<Services>,
    /// By seat; `None` for a method that this version lacks.
    pub(crate) seats: Box<[Option<Seat>]>,
    pub(crate) admission: Admission,
    pub(crate) stats: Stats,
    pub(crate) streams: Streams,
    pub(crate) plans: Plans,
}

/// One method of a generation.
pub(crate) struct Seat {
    pub(crate) index: MethodIndex,
    /// How many messages go which way.
    pub(crate) kind: MethodKind,
    /// Calling twice is the same as calling once.
    pub(crate) idempotent: bool,
    /// Deadline of a call that brings none.
    pub(crate) deadline: Duration,
    pub(crate) direct: Option<Arc<dyn DirectCall>>,
}

/// What a cell holds.
pub(crate) enum Occupant {
    /// Calls go here.
    Serving(Arc<Generation>),
    /// Calls wait here, while state goes from one generation into the next.
    Gate(Arc<Gate>),
    /// Nothing serves, and why.
    Vacant(Arc<str>),
}

/// A name under which a plugin is reached. It outlives its generations.
pub(crate) struct Address {
    /// `name`, or `name@version` for a version that runs beside another.
    pub(crate) name: Arc<str>,
    pub(crate) cell: Cell<Occupant>,
    pub(crate) status: ArcSwap<Status>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Told when the host closes and it is this address's turn.
    pub(crate) closing: watch::Sender<bool>,
    /// Why the configuration that is wanted of it is not in force. Written by the task that reconciles configurations.
    pub(crate) trouble: ArcSwapOption<String>,
    methods: Mutex<Vec<(Box<str>, Box<str>)>>,
    /// When the newest snapshot of its state was taken, in this life of the host or an earlier one.
    newest_state: Mutex<SystemTime>,
}

/// What a supervisor publishes for whoever asks.
#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) since: SystemTime,
    pub(crate) number: u64,
    /// What the last attempt was, for an address that nothing serves.
    pub(crate) plugin: PluginId,
    pub(crate) source: Arc<str>,
    pub(crate) runtime: Option<RuntimeName>,
    pub(crate) restart: Restart,
    pub(crate) digest: Option<Digest>,
    pub(crate) reasons: Vec<String>,
    /// What the one that serves began with, if it has state.
    pub(crate) state_info: Option<StateInfo>,
    /// What it offers, if it ever served.
    pub(crate) offer: Option<Offer>,
    /// The one that serves.
    pub(crate) current: Option<Arc<Generation>>,
    /// Others that still have calls or stand by.
    pub(crate) others: Vec<Arc<Generation>>,
    /// What those that are gone did.
    pub(crate) past: Totals,
    pub(crate) starts: u64,
    pub(crate) crashes: u64,
    /// Moves in memory; the journal on disk has them all.
    pub(crate) history: VecDeque<crate::HistoryEntry>,
}

// === impl Generation ===

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({} #{})", self.plugin, self.number)
    }
}

impl Generation {
    /// What its address offers while it is the newest.
    pub(crate) fn offer(&self) -> Offer {
        Offer {
            version: self.plugin.version.clone(),
            contract: self.contract.clone(),
            lineage: self.lineage.clone(),
            metadata: self.metadata.clone(),
            manifest: self.manifest.clone(),
            generation: self.number,
        }
    }
}

// === impl Seat ===

impl Seat {
    /// What its caller is told of an error that came out of an instance: whether to try again depends on whether that does no harm. A plugin's own word
    /// stands: it knows what it did.
    pub(crate) fn judge(&self, error: CallError) -> CallError {
        if self.idempotent || error.kind() == CallErrorKind::Returned {
            error
        } else {
            error.not_retryable()
        }
    }
}

// === impl Address ===

impl Address {
    pub(crate) fn new(name: Arc<str>, commands: mpsc::Sender<Command>, source: Arc<str>) -> Self {
        let plugin = PluginId {
            name: name.clone(),
            version: semver::Version::new(0, 0, 0),
        };
        let status = Status {
            state: State::Absent,
            since: SystemTime::now(),
            number: 0,
            plugin,
            source,
            runtime: None,
            restart: Restart::default(),
            digest: None,
            reasons: Vec::new(),
            state_info: None,
            offer: None,
            current: None,
            others: Vec::new(),
            past: Totals::default(),
            starts: 0,
            crashes: 0,
            history: VecDeque::new(),
        };
        Self {
            cell: Cell::new(Occupant::Vacant(
                format!("plugin `{name}` is still being loaded").into(),
            )),
            name,
            status: ArcSwap::from_pointee(status),
            commands,
            closing: watch::Sender::new(false),
            trouble: ArcSwapOption::empty(),
            methods: Mutex::default(),
            newest_state: Mutex::new(SystemTime::UNIX_EPOCH),
        }
    }

    /// The name without the version.
    pub(crate) fn base(&self) -> &str {
        self.name.split_once('@').map_or(&self.name, |(base, _)| base)
    }

    /// Whether it runs beside another version of the same name.
    pub(crate) fn is_beside(&self) -> bool {
        self.name.contains('@')
    }

    /// Changes the published status. Only the address's supervisor task calls this, so nothing is lost between reading and writing.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Status)) {
        let mut status = (**self.status.load()).clone();
        change(&mut status);
        self.status.store(Arc::new(status));
    }

    /// The seats for the methods of `metadata`, in the metadata's order; new ones are added at the end.
    pub(crate) fn seat_numbers(&self, metadata: &Metadata) -> Vec<usize> {
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        let seat = |method: &mortise_wire::plugin::Method| {
            let known = methods
                .iter()
                .position(|(service, name)| **service == *method.service && **name == *method.name);
            known.unwrap_or_else(|| {
                methods.push((method.service.as_str().into(), method.name.as_str().into()));
                methods.len() - 1
            })
        };
        metadata.public_methods().iter().map(seat).collect()
    }

    /// There is a snapshot of its state that was taken then.
    pub(crate) fn has_state_of(&self, taken: SystemTime) {
        let mut newest = self.newest_state.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = taken.max(*newest);
    }

    /// The time of a snapshot that is taken now. It is later than that of any before it even if the clock was set back: the store would keep the other one.
    pub(crate) fn state_time(&self) -> SystemTime {
        let mut newest = self.newest_state.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = SystemTime::now().max(*newest + STATE_TIME_STEP);
        *newest
    }

    /// The line of the list.
    pub(crate) fn info(&self) -> PluginInfo {
        let status = self.status.load();
        let serving = status.current.as_deref();
        let mut totals = status.past;
        let mut in_flight = 0;
        for generation in status.current.iter().chain(&status.others) {
            totals.add(generation.stats.totals());
            in_flight += generation.admission.running();
        }
        PluginInfo {
            name: self.name.to_string(),
            plugin: serving.map_or_else(|| status.plugin.clone(), |it| it.plugin.clone()),
            source: serving.map_or(&status.source, |it| &it.source).to_string(),
            runtime: serving.map(|it| it.runtime).or(status.runtime),
            state: status.state,
            digest: serving.map(|it| it.digest).or(status.digest),
            generation: serving.map_or(status.number, |it| it.number),
            since: status.since,
            calls: totals.calls,
            errors: totals.errors,
            in_flight,
            reasons: {
                let trouble = self.trouble.load_full().map(|it| it.to_string());
                status.reasons.iter().cloned().chain(trouble).collect()
            },
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.name)
    }
}

// === impl Status ===

impl Status {
    /// Most moves that are kept in memory.
    pub(crate) const HISTORY_MAX: usize = 100;

    /// Puts moves of the host's earlier lives before those of this one.
    pub(crate) fn recall(&mut self, newest_first: Vec<Recorded>) {
        for Recorded { at, transition, .. } in newest_first {
            if self.history.len() == Self::HISTORY_MAX {
                break;
            }
            self.history.push_front(crate::HistoryEntry {
                at_unix_ms: to_unix_ms(at),
                generation: 0,
                from: transition.from,
                event: transition.event,
                to: transition.to,
                detail: transition.detail,
            });
        }
    }

    /// Notes a move.
    pub(crate) fn moved(&mut self, generation: u64, from: State, event: &str, to: State, detail: &str) {
        if self.history.len() == Self::HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(crate::HistoryEntry {
            at_unix_ms: to_unix_ms(SystemTime::now()),
            generation,
            from: from.to_string(),
            event: event.to_owned(),
            to: to.to_string(),
            detail: detail.to_owned(),
        });
    }
}
