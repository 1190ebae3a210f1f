//! The reader's side: the cell, pins and guards.

use std::{fmt, marker::PhantomData, ops::Deref, ptr::NonNull};

use crate::{
    barrier,
    retired::{Draining, Retired, sweep},
    slot::{self, Slot},
    sync::{AtomicPtr, AtomicUsize, Ordering},
};

#[cfg(not(loom))]
const SHARDS: usize = 8;
#[cfg(loom)]
const SHARDS: usize = 1;

/// One value that is read all the time and replaced now and then.
pub struct Cell<T: Send + Sync + 'static> {
    /// From `Box::into_raw`, never null. Owned by the cell until W1.
    current: AtomicPtr<Generation<T>>,
    _owns: PhantomData<Generation<T>>,
}

/// A value in a cell and the guards that hold it.
pub(crate) struct Generation<T> {
    pub(crate) value: T,
    shards: [Shard; SHARDS],
}

/// Alone on its cache lines.
#[repr(align(128))]
struct Shard(AtomicUsize);

/// Holds the value for as long as it lives, on the thread that pinned it. Two plain stores.
pub struct Pinned<'a, T: Send + Sync + 'static> {
    generation: NonNull<Generation<T>>,
    slot: &'static Slot,
    /// `None`: all frames were taken, and this counts like a guard.
    frame: Option<u32>,
    /// The slot is this thread's, so neither `Send` nor `Sync`.
    _cell: PhantomData<(&'a Cell<T>, *const ())>,
}

/// Holds the value for as long as it lives, anywhere: across awaits, on other threads, beyond the cell. Two read-modify-writes.
pub struct Guard<T: Send + Sync + 'static> {
    generation: NonNull<Generation<T>>,
    shard: usize,
    _value: PhantomData<T>,
}

// === impl Cell ===

impl<T: Send + Sync + 'static> Cell<T> {
    /// A cell that holds `value`.
    pub fn new(value: T) -> Self {
        let generation = Generation::new(value);
        Self {
            current: AtomicPtr::new(Box::into_raw(Box::new(generation))),
            _owns: PhantomData,
        }
    }

    /// Runs `f` on the value. The value stays while `f` runs, whatever writers do.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(&self.pin())
    }

    /// Holds the value while the pin lives. Pins nest and may be dropped in any order; a forgotten one keeps its generation for ever.
    #[inline]
    pub fn pin(&self) -> Pinned<'_, T> {
        let slot = slot::mine();
        match slot.enter(&self.current) {
            Some((generation, frame)) => {
                // SAFETY: `current` is never null.
                let generation = unsafe { NonNull::new_unchecked(generation) };
                Pinned {
                    generation,
                    slot,
                    frame: Some(frame),
                    _cell: PhantomData,
                }
            }
            None => self.pin_deep(slot),
        }
    }

    #[cold]
    fn pin_deep(&self, slot: &'static Slot) -> Pinned<'_, T> {
        Pinned {
            generation: self.count_in(slot),
            slot,
            frame: None,
            _cell: PhantomData,
        }
    }

    /// Holds the value while the guard lives, on any thread and across awaits.
    pub fn acquire(&self) -> Guard<T> {
        let slot = slot::mine();
        Guard {
            generation: self.count_in(slot),
            shard: slot.shard,
            _value: PhantomData,
        }
    }

    fn count_in(&self, slot: &Slot) -> NonNull<Generation<T>> {
        let generation = slot.transit(&self.current, |generation| {
            // SAFETY: the transit frame names it and it was found in the cell after that (I2), so it is alive until this closure ends.
            unsafe { &*generation }.enter(slot.shard);
        });
        NonNull::new(generation).expect("a cell always holds a generation")
    }

    /// Puts `value` in; readers that come from now on see it. Readers of the old value go on undisturbed; the returned
    /// [`Retired`] tells when the last of them is gone.
    #[must_use = "the old value may still be in use: wait for it, or drop it knowingly"]
    pub fn swap(&self, value: T) -> Retired<T> {
        self.install(Box::into_raw(Box::new(Generation::new(value))))
    }

    /// Puts back what an earlier [`swap`](Self::swap) took out, drained or not; returns what it displaces.
    #[must_use = "the displaced value may still be in use: wait for it, or drop it knowingly"]
    pub fn restore(&self, retired: Retired<T>) -> Retired<T> {
        self.install(retired.into_generation().as_ptr())
    }

    fn install(&self, new: *mut Generation<T>) -> Retired<T> {
        let old = self.current.swap(new, Ordering::AcqRel); // W1
        let passed = barrier::writer(); // W2
        sweep();
        let old = NonNull::new(old).expect("a cell always holds a generation");
        // SAFETY: W1 took it out of the cell, so this is its only owner; W2 has been tried and its outcome is noted.
        Retired::new(unsafe { Draining::new(old, passed) })
    }
}

impl<T: Send + Sync + 'static> Drop for Cell<T> {
    fn drop(&mut self) {
        let old =
            NonNull::new(self.current.load(Ordering::Relaxed)).expect("a cell always holds a generation");
        // SAFETY: `&mut self` proves that no pin borrows the cell any more, so the frames are clear but for leaked ones that nobody uses;
        // guards are counted. Nobody else can reach the pointer.
        drop(Retired::new(unsafe { Draining::unpinned(old) }));
        sweep();
    }
}

impl<T: Send + Sync + Default + 'static> Default for Cell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cell").field(&*self.pin()).finish()
    }
}

// === impl Generation ===

impl<T> Generation<T> {
    fn new(value: T) -> Self {
        Self {
            value,
            shards: std::array::from_fn(|_| Shard(AtomicUsize::new(0))),
        }
    }

    /// The caller holds the generation (I2), so nothing is ordered by this.
    fn enter(&self, shard: usize) {
        self.shards[shard % SHARDS].0.fetch_add(1, Ordering::Relaxed);
    }

    /// The last access of a guard: the generation may be gone when this returns.
    fn leave(&self, shard: usize) {
        self.shards[shard % SHARDS].0.fetch_sub(1, Ordering::Release);
    }

    /// W4. Only meaningful after W3 (I5).
    pub(crate) fn is_unguarded(&self) -> bool {
        self.shards
            .iter()
            .all(|shard| shard.0.load(Ordering::Acquire) == 0)
    }
}

// === impl Pinned ===

impl<T: Send + Sync + 'static> Deref for Pinned<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: a frame names it, or a count holds it, until `drop` (I2, I4).
        unsafe { &self.generation.as_ref().value }
    }
}

impl<T: Send + Sync + 'static> Drop for Pinned<'_, T> {
    #[inline]
    fn drop(&mut self) {
        match self.frame {
            Some(frame) => self.slot.leave(frame),
            // SAFETY: the count that `pin_deep` took holds it until this call.
            None => unsafe { self.generation.as_ref() }.leave(self.slot.shard),
        }
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Pinned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&**self).finish()
    }
}

// === impl Guard ===

// SAFETY: a guard is a counted reference to a `T: Send + Sync`, like an `Arc<T>`.
unsafe impl<T: Send + Sync + 'static> Send for Guard<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync + 'static> Sync for Guard<T> {}

impl<T: Send + Sync + 'static> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the count holds it until `drop` (I4).
        unsafe { &self.generation.as_ref().value }
    }
}

impl<T: Send + Sync + 'static> Clone for Guard<T> {
    fn clone(&self) -> Self {
        // SAFETY: `self` holds it. Counting in the same shard keeps I6: that shard is not zero now.
        unsafe { self.generation.as_ref() }.enter(self.shard);
        Self {
            generation: self.generation,
            shard: self.shard,
            _value: PhantomData,
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: the count holds it until this call.
        unsafe { self.generation.as_ref() }.leave(self.shard);
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Guard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&**self).finish()
    }
}
