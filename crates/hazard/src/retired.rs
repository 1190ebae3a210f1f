//! The writer's side: what was taken out of a cell, and when it may go.

use std::{
    fmt, mem,
    ops::Deref,
    ptr::NonNull,
    time::{Duration, Instant},
};

use crate::{
    barrier::Refused,
    cell::Generation,
    slot,
    sync::{Mutex, lock, yield_now},
};

/// A value that its cell no longer holds. Readers may still use it, until it is drained.
///
/// Dropping it earlier is safe: a graveyard keeps the value until its last reader is gone, and drops it at the next swap of any cell.
#[must_use = "the value may still be in use: wait for it, or drop it knowingly"]
pub struct Retired<T: Send + Sync + 'static>(Option<Draining<T>>);

/// Why a retired value is not drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undrained {
    /// Somebody still holds it.
    TimedOut,
    /// The system refused the process-wide barrier after granting it at start (a seccomp filter installed later, say), so readers cannot
    /// be told from non-readers. The value is kept for ever. Build with feature `fence` on such hosts.
    BarrierRefused,
}

impl fmt::Display for Undrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "somebody still holds it",
            Self::BarrierRefused => "the system refused `membarrier` after granting it at start",
        })
    }
}

impl std::error::Error for Undrained {}

impl<T: Send + Sync + 'static> Retired<T> {
    pub(crate) fn new(draining: Draining<T>) -> Self {
        Self(Some(draining))
    }

    pub(crate) fn into_generation(mut self) -> NonNull<Generation<T>> {
        self.take().into_generation()
    }

    /// Whether the last reader is gone. Final once true (I5). Costs a look at every slot of the process.
    pub fn is_drained(&mut self) -> bool {
        self.draining().is_drained()
    }

    /// Waits until the last reader is gone: spins briefly, then sleeps up to a millisecond at a time.
    ///
    /// # Errors
    /// See [`Undrained`]; the value is kept either way.
    pub fn wait_drained(&mut self, timeout: Duration) -> Result<(), Undrained> {
        let until = Instant::now().checked_add(timeout);
        let mut pause = Pause::default();
        while !self.is_drained() {
            self.draining().check_barrier()?;
            if until.is_some_and(|it| Instant::now() >= it) {
                return Err(Undrained::TimedOut);
            }
            match pause.next() {
                None => yield_now(),
                Some(time) => std::thread::sleep(time),
            }
        }
        Ok(())
    }

    /// Waits until the last reader is gone without blocking the thread. `sleep` is the executor's: `tokio::time::sleep`, say. Bound it with
    /// the executor's timeout.
    ///
    /// # Errors
    /// `BarrierRefused`; never `TimedOut`.
    ///
    /// # Cancel safety
    /// Nothing is lost; call it again.
    pub async fn drained<F: Future<Output = ()>>(
        &mut self,
        mut sleep: impl FnMut(Duration) -> F,
    ) -> Result<(), Undrained> {
        let mut pause = Pause::default();
        while !self.is_drained() {
            self.draining().check_barrier()?;
            sleep(pause.next().unwrap_or(Pause::FIRST)).await;
        }
        Ok(())
    }

    /// The value itself, once drained.
    ///
    /// # Errors
    /// `self`, if somebody may still hold it.
    pub fn into_inner(mut self) -> Result<T, Self> {
        if !self.is_drained() {
            return Err(self);
        }
        let generation = self.take().into_generation();
        // SAFETY: drained, so this is the only pointer to it (I4, I5); it came from `Box::into_raw`.
        Ok(unsafe { Box::from_raw(generation.as_ptr()) }.value)
    }

    fn draining(&mut self) -> &mut Draining<T> {
        self.0
            .as_mut()
            .expect("only taken by methods that consume `self`")
    }

    fn take(&mut self) -> Draining<T> {
        self.0.take().expect("only taken by methods that consume `self`")
    }
}

impl<T: Send + Sync + 'static> Deref for Retired<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let draining = self
            .0
            .as_ref()
            .expect("only taken by methods that consume `self`");
        // SAFETY: it is freed only through `self` (I4); readers share it.
        unsafe { &draining.generation.as_ref().value }
    }
}

impl<T: Send + Sync + 'static> Drop for Retired<T> {
    fn drop(&mut self) {
        if let Some(mut draining) = self.0.take()
            && !draining.is_drained()
        {
            lock(graveyard()).push(Box::new(draining));
        }
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Retired<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retired").field(&**self).finish()
    }
}

// === impl Draining ===

/// Owns a generation that no cell holds (I3), and frees it when, and only when, it is drained.
pub(crate) struct Draining<T: Send + Sync + 'static> {
    generation: NonNull<Generation<T>>,
    /// Outcome of W2.
    barrier: Result<(), Refused>,
    /// W3 found no frame; not to be repeated, since a reader that fails R4 may still write the name for a moment.
    unpinned: bool,
    /// W4 found no count after that.
    drained: bool,
}

// SAFETY: it owns a `T: Send + Sync` that other threads may be reading.
unsafe impl<T: Send + Sync + 'static> Send for Draining<T> {}
// SAFETY: as above; `&self` gives `&T`.
unsafe impl<T: Send + Sync + 'static> Sync for Draining<T> {}

impl<T: Send + Sync + 'static> Draining<T> {
    /// # Safety
    /// `generation` came from `Box::into_raw`, W1 took it out of its cell, nobody else owns it, and `barrier` is the outcome of a W2 after
    /// that.
    pub(crate) unsafe fn new(generation: NonNull<Generation<T>>, barrier: Result<(), Refused>) -> Self {
        Self {
            generation,
            barrier,
            unpinned: false,
            drained: false,
        }
    }

    /// # Safety
    /// As [`Draining::new`], and no thread has pinned it or is about to.
    pub(crate) unsafe fn unpinned(generation: NonNull<Generation<T>>) -> Self {
        Self {
            generation,
            barrier: Ok(()),
            unpinned: true,
            drained: false,
        }
    }

    fn into_generation(self) -> NonNull<Generation<T>> {
        let generation = self.generation;
        mem::forget(self);
        generation
    }

    fn check_barrier(&self) -> Result<(), Undrained> {
        self.barrier.map_err(|Refused| Undrained::BarrierRefused)
    }

    fn is_drained(&mut self) -> bool {
        self.unpinned =
            self.unpinned || (self.barrier.is_ok() && !slot::any_names(self.generation.as_ptr().cast()));
        // SAFETY: owned by `self`.
        self.drained = self.drained || (self.unpinned && unsafe { self.generation.as_ref() }.is_unguarded());
        self.drained
    }
}

impl<T: Send + Sync + 'static> Drop for Draining<T> {
    fn drop(&mut self) {
        if self.drained {
            // SAFETY: W5: drained, so this is the only pointer to it (I4, I5); it came from `Box::into_raw`.
            drop(unsafe { Box::from_raw(self.generation.as_ptr()) });
        }
    }
}

// === the graveyard ===

trait Corpse: Send {
    fn is_free(&mut self) -> bool;
}

impl<T: Send + Sync + 'static> Corpse for Draining<T> {
    fn is_free(&mut self) -> bool {
        self.is_drained()
    }
}

type Graveyard = Mutex<Vec<Box<dyn Corpse>>>;

/// Frees what was dropped before it was drained and is drained now.
pub(crate) fn sweep() {
    let corpses = mem::take(&mut *lock(graveyard()));
    if corpses.is_empty() {
        return;
    }
    // Values are dropped outside the lock: their destructors may swap other cells.
    let (free, kept): (Vec<_>, Vec<_>) = corpses
        .into_iter()
        .map(|mut it| (it.is_free(), it))
        .partition(|it| it.0);
    lock(graveyard()).extend(kept.into_iter().map(|it| it.1));
    drop(free);
}

#[cfg(not(loom))]
fn graveyard() -> &'static Graveyard {
    static GRAVEYARD: Graveyard = Mutex::new(Vec::new());
    &GRAVEYARD
}

#[cfg(loom)]
loom::lazy_static! {
    static ref GRAVEYARD: Graveyard = Mutex::new(Vec::new());
}

#[cfg(loom)]
fn graveyard() -> &'static Graveyard {
    &GRAVEYARD
}

// === waiting ===

/// Yields first, then sleeps: 20 us doubling to 1 ms.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    const FIRST: Duration = Duration::from_micros(20);
    const YIELDS: u32 = 32;

    fn next(&mut self) -> Option<Duration> {
        let past = self.0.checked_sub(Self::YIELDS);
        self.0 = self.0.saturating_add(1);
        past.map(|it| (Self::FIRST * (1 << it.min(6))).min(Duration::from_millis(1)))
    }
}
