//! The gate: where callers wait while state goes from one instance into its successor.
//!
//! It stands in the cell in the place of a generation. Whoever finds it there waits, until it opens or his own deadline passes, and then looks
//! into the cell again. A bound caller waits the same way, with his thread.
//!
//! - **G1** A call is never turned away for the gate alone: it is answered by the old instance, by the new one, or its deadline passed.
//!   The one exception is a queue of [`WAITING_MAX`] calls.
//! - **G2** A gate opens once and for good, after the cell holds what it stands for: a generation, or nothing and why.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use mortise_runtime::{CallError, CallErrorKind};
use tokio::sync::watch;

use crate::{call::Origin, generation::Generation, table::Target};

/// Calls that may wait at one gate; each holds its payload.
const WAITING_MAX: u64 = 65_536;

/// A gate before the cell of one address.
pub(crate) struct Gate {
    /// Who served until it closed, and serves again if nothing comes of the swap.
    pub(crate) generation: Arc<Generation>,
    opened: watch::Sender<bool>,
    waiting: AtomicU64,
}

/// Counts a caller in.
struct Waiting<'a>(&'a AtomicU64);

impl Gate {
    /// A closed one.
    pub(crate) fn new(generation: Arc<Generation>) -> Self {
        Self {
            generation,
            opened: watch::Sender::new(false),
            waiting: AtomicU64::new(0),
        }
    }

    /// Lets everybody go on.
    pub(crate) fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until it opens.
    ///
    /// # Errors
    /// If the call's deadline passes, or too many wait already.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up.
    pub(crate) async fn pass(
        &self,
        target: &Target,
        origin: &Origin,
        began: Instant,
    ) -> Result<(), CallError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= WAITING_MAX {
            return Err(self.turned_away(CallErrorKind::Exhausted, "too many calls wait"));
        }
        let seat = self.generation.seats.get(target.seat).and_then(Option::as_ref);
        let allowed = seat.map_or(self.generation.limits.deadline, |it| it.deadline);
        let deadline = origin.deadline.unwrap_or_else(|| began + allowed);
        let mut opened = self.opened.subscribe();
        // An error would mean that the gate is gone, and it is borrowed here.
        match tokio::time::timeout_at(deadline.into(), opened.wait_for(|it| *it)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.turned_away(CallErrorKind::Deadline, "the deadline passed")),
        }
    }

    #[cold]
    fn turned_away(&self, kind: CallErrorKind, what: &str) -> CallError {
        self.generation.stats.begin();
        self.generation.stats.refused();
        CallError::new(
            kind,
            format!(
                "{what} while the state of plugin `{}` was handed over to another version",
                self.generation.plugin
            ),
        )
        .with_hint("call again; lower `limits.swap_ms` of the plugin to have such a swap given up earlier")
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
