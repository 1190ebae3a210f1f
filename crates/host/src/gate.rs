//! The gate: where callers wait while state goes from one instance into its successor.
//!
//! It stands in the cell in the place of a generation. Whoever finds it there waits, until it opens or his own deadline passes, and then looks
//! into the cell again. A bound caller waits the same way, with his thread.
//!
//! - **G1** A call is never turned away for the gate alone: it is answered by the old instance, by the new one, or its deadline passed.
//!   The one exception is a queue of [`WAITING_MAX`] calls.
//! - **G2** A gate opens once and for good, after the cell holds what it stands for: a generation, or nothing and why.
//! - **G3** A call that comes out of an instance behind a gate passes it, and all gates of the same change, into the instance behind. Whoever waits for that
//!   instance to be left waits for this call, too, so it must not wait for him. What it comes out of is told by its trail, through however many plugins
//!   that are no part of the change.
//! - **G4** A [`Passage`] is sealed when no call is in an instance behind its gates and none passes, in one step; after that none does. What an
//!   instance calls of its own accord passes for as long as calls are in one of them that may wait for it.
//!
//! ```text
//!  passage   open to all of G3 ──[everything drained]──► to calls that others wait for ──[nobody passes]──► sealed
//! ```
//! Why that is enough: before it is sealed, a call in an old instance waits only for calls that pass (G3) or that are no part of the change, so each drain ends
//! when its calls end. After it is sealed, no old instance has a call in it and none gets one, so what they save is what all of them know at one and the
//! same time.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use mortise_runtime::{CallError, CallErrorKind, InstanceId, Trail};
use tokio::sync::{Notify, watch};

use crate::{call::Origin, generation::Generation, table::Target};

/// Calls that may wait at one gate; each holds its payload.
const WAITING_MAX: u64 = 65_536;

/// A gate before the cell of one address.
pub(crate) struct Gate {
    /// Who served until it closed, and serves again if nothing comes of the swap.
    pub(crate) generation: Arc<Generation>,
    passage: Arc<Passage>,
    opened: watch::Sender<bool>,
    waiting: AtomicU64,
}

/// What the gates that close for one change have in common: whom they let through.
#[derive(Debug)]
pub(crate) struct Passage {
    /// Who stands behind them.
    behind: Vec<InstanceId>,
    /// How many pass now, [`CALLS_ONLY`] and [`SEALED`].
    word: AtomicU64,
    left: Notify,
}

/// Nobody passes of his own accord any more.
const CALLS_ONLY: u64 = 1 << 62;
const SEALED: u64 = 1 << 63;

/// A call that passes; dropping it says that it is over.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Passage>);

/// Counts a caller in.
struct Waiting<'a>(&'a AtomicU64);

impl Gate {
    /// A closed one.
    pub(crate) fn new(generation: Arc<Generation>, passage: Arc<Passage>) -> Self {
        Self {
            generation,
            passage,
            opened: watch::Sender::new(false),
            waiting: AtomicU64::new(0),
        }
    }

    /// Lets everybody go on.
    pub(crate) fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Whether this call goes on into what stands behind the gate (G3). Meant to be asked seldom: it looks at every instance of its trail.
    pub(crate) fn lets_through(&self, origin: &Origin) -> Option<Pass> {
        self.passage.lets_through(&origin.trail, origin.is_own_accord)
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

// === impl Passage ===

impl Passage {
    /// Before instances that no gate stands before yet.
    pub(crate) fn new(behind: impl IntoIterator<Item = InstanceId>) -> Arc<Self> {
        Arc::new(Self {
            behind: behind.into_iter().collect(),
            word: AtomicU64::new(0),
            left: Notify::new(),
        })
    }

    /// G3.
    fn lets_through(self: &Arc<Self>, trail: &Trail, is_own_accord: bool) -> Option<Pass> {
        let comes_out_of_it = trail.instances().any(|it| self.behind.contains(it));
        comes_out_of_it.then(|| self.enter(is_own_accord)).flatten()
    }

    fn enter(self: &Arc<Self>, is_own_accord: bool) -> Option<Pass> {
        let ends = if is_own_accord {
            SEALED | CALLS_ONLY
        } else {
            SEALED
        };
        let enter = |word: u64| (word & ends == 0).then_some(word + 1);
        let entered = self.word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter);
        entered.is_ok().then(|| Pass(self.clone()))
    }

    /// Lets nobody through any more, from the moment on when nobody passes (G4). For when no call is in what stands behind, but for those that pass.
    ///
    /// # Cancel safety
    /// Nothing is sealed; call it again.
    pub(crate) async fn seal(&self) {
        self.word.fetch_or(CALLS_ONLY, Ordering::AcqRel);
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            // Enlisted before this look, so whoever leaves after it wakes us.
            let sealed = self.word.compare_exchange(
                CALLS_ONLY,
                CALLS_ONLY | SEALED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if sealed.is_ok() {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let before = self.0.word.fetch_sub(1, Ordering::AcqRel);
        if before & !CALLS_ONLY == 1 {
            self.0.left.notify_waiters();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
