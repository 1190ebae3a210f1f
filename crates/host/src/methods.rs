//! Who serves which method, as it changes: events for whoever keeps a picture of it (a dashboard, a discovery service, an edge's cache).
//!
//! The key is (address, service, method), and its value the version. A plugin that is down keeps its methods, as its calls still find it; they are
//! removed when it is unloaded.
//!
//! A subscriber that does not keep up never holds anybody up: of more than [`EVENTS_MAX`] events that it has not taken, the oldest are dropped, and
//! it is told how many and gets the whole picture instead. No event is lost without that word.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use semver::Version;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{Host, host::Shared, table::Table};

/// Events that a subscriber may be behind.
pub const EVENTS_MAX: usize = 1024;

/// A method that is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServedMethod {
    /// The address: `name`, or `name@version` for one beside another.
    pub plugin: String,
    /// `package.Service`.
    pub service: String,
    /// The method's name.
    pub method: String,
    /// The plugin's version.
    pub version: Version,
}

/// What became of a method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum MethodChange {
    /// It is served now and was not before.
    Added(ServedMethod),
    /// It is served no more.
    Removed(ServedMethod),
    /// Another version serves it, or it has another shape.
    Changed {
        /// As it is now.
        #[serde(flatten)]
        now: ServedMethod,
        /// The version before.
        before: Version,
    },
}

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MethodNotice {
    /// One change.
    Change(MethodChange),
    /// So many changes were dropped; this is how things are after them, and the changes after it follow.
    Lagged {
        /// How many.
        missed: u64,
        /// All methods.
        now: Vec<ServedMethod>,
    },
}

/// A subscription.
#[derive(Debug)]
pub struct MethodWatch {
    events: broadcast::Receiver<MethodChange>,
    host: Weak<Shared>,
    began_with: Vec<ServedMethod>,
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct MethodEvents(broadcast::Sender<MethodChange>);

// === impl Host ===

impl Host {
    /// Tells of every change in who serves which method, from now on. [`MethodWatch::began_with`] is how things are now, and nothing is lost
    /// between that and the first event.
    #[must_use]
    pub fn watch_methods(&self) -> MethodWatch {
        let (events, began_with) = self.shared().subscribe_to_methods();
        MethodWatch {
            events,
            host: Arc::downgrade(self.shared()),
            began_with,
        }
    }
}

// === impl MethodWatch ===

impl MethodWatch {
    /// All methods when the subscription began, by address, service and name.
    #[must_use]
    pub fn began_with(&self) -> &[ServedMethod] {
        &self.began_with
    }

    /// The next change; `None` when the host is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<MethodNotice> {
        match self.events.recv().await {
            Ok(change) => Some(MethodNotice::Change(change)),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                let host = self.host.upgrade()?;
                let (events, now) = host.subscribe_to_methods();
                let missed = missed + self.events.len() as u64;
                self.events = events;
                Some(MethodNotice::Lagged { missed, now })
            }
        }
    }
}

// === impl MethodEvents ===

impl MethodEvents {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(EVENTS_MAX))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<MethodChange> {
        self.0.subscribe()
    }

    /// Tells what differs. Costs nothing without subscribers.
    pub(crate) fn tell(&self, old: &Table, new: &Table) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for change in changes(&old.served(), &new.served()) {
            // Nobody listens any more: then nobody needs to hear it.
            let _ = self.0.send(change);
        }
    }
}

/// Methods with the hash of their shape.
pub(crate) type Served = BTreeMap<(String, String, String), (Version, Vec<u8>)>;

pub(crate) fn list(served: &Served) -> Vec<ServedMethod> {
    served
        .iter()
        .map(|(key, (version, _))| method(key, version))
        .collect()
}

fn method((plugin, service, name): &(String, String, String), version: &Version) -> ServedMethod {
    ServedMethod {
        plugin: plugin.clone(),
        service: service.clone(),
        method: name.clone(),
        version: version.clone(),
    }
}

/// What was removed, then what changed or was added.
fn changes(old: &Served, new: &Served) -> Vec<MethodChange> {
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    let mut all: Vec<_> = gone
        .map(|(key, (version, _))| MethodChange::Removed(method(key, version)))
        .collect();
    all.extend(new.iter().filter_map(|(key, now)| match old.get(key) {
        None => Some(MethodChange::Added(method(key, &now.0))),
        Some(before) if before == now => None,
        Some(before) => Some(MethodChange::Changed {
            now: method(key, &now.0),
            before: before.0.clone(),
        }),
    }));
    all
}
