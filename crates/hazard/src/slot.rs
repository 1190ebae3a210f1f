//! Slots: where a thread names the generations it is reading, and the registry in which the writer finds all of them.

use std::{cell::Cell, ptr};

use crate::{
    barrier,
    sync::{AtomicPtr, Mutex, Ordering, lock},
};

#[cfg(not(loom))]
pub(crate) const FRAMES: usize = 16;
/// Loom explores every frame of every scan.
#[cfg(loom)]
pub(crate) const FRAMES: usize = 1;

/// One thread's frames. 128-byte aligned: two cache lines that the adjacent-line prefetcher fetches together, shared with nobody.
#[repr(C, align(128))]
pub(crate) struct Slot {
    /// Bit i: frame i names something. The owner's alone (I1); frames are released in any order, so this is no stack pointer.
    used: Cell<u32>,
    /// [`barrier::is_light`], here because the line is in the cache.
    light: bool,
    /// Where this thread's guards count.
    pub(crate) shard: usize,
    /// Holds a generation for the moment in which a count in it is taken.
    transit: AtomicPtr<()>,
    frames: [AtomicPtr<()>; FRAMES],
}

// SAFETY: `used` is touched by the owning thread only (I1), and a change of owner happens under the registry's lock; the rest is atomic or
// never written after construction.
unsafe impl Sync for Slot {}
// SAFETY: as above; nothing in it is tied to the thread that made it.
unsafe impl Send for Slot {}

impl Slot {
    fn new(number: usize) -> Self {
        Self {
            used: Cell::new(0),
            light: barrier::is_light(),
            shard: number,
            transit: AtomicPtr::new(ptr::null_mut()),
            frames: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    /// R1 to R4 in the first free frame: the generation and the frame that names it, or `None` if all frames are taken.
    #[inline]
    pub(crate) fn enter<G>(&self, current: &AtomicPtr<G>) -> Option<(*mut G, u32)> {
        let used = self.used.get();
        let frame = (!used).trailing_zeros();
        if frame as usize >= FRAMES {
            return None;
        }
        let generation = self.name(&self.frames[frame as usize], current);
        self.used.set(used | 1 << frame);
        Some((generation, frame))
    }

    /// R6.
    #[inline]
    pub(crate) fn leave(&self, frame: u32) {
        self.frames[frame as usize].store(ptr::null_mut(), Ordering::Release);
        self.used.set(self.used.get() & !(1 << frame));
    }

    /// R1 to R4 in the transit frame, then `count`, then R6. `count` must neither panic nor pin.
    pub(crate) fn transit<G>(&self, current: &AtomicPtr<G>, count: impl FnOnce(*mut G)) -> *mut G {
        let generation = self.name(&self.transit, current);
        count(generation);
        self.transit.store(ptr::null_mut(), Ordering::Release);
        generation
    }

    #[inline]
    fn name<G>(&self, frame: &AtomicPtr<()>, current: &AtomicPtr<G>) -> *mut G {
        let mut seen = current.load(Ordering::Acquire); // R1
        loop {
            frame.store(seen.cast(), Ordering::Release); // R2
            barrier::reader(self.light); // R3
            let again = current.load(Ordering::Acquire); // R4
            if ptr::eq(again, seen) {
                return again;
            }
            seen = again;
        }
    }

    /// W3 for one slot.
    fn names(&self, generation: *mut ()) -> bool {
        let all = std::iter::once(&self.transit).chain(&self.frames);
        all.fold(false, |found, frame| {
            found | ptr::eq(frame.load(Ordering::Acquire), generation)
        })
    }
}

/// W3: whether a frame of any thread names `generation`.
pub(crate) fn any_names(generation: *mut ()) -> bool {
    lock(registry()).all.iter().any(|slot| slot.names(generation))
}

#[derive(Default)]
struct Registry {
    /// Every slot there ever was; they are never freed, so a thread may hold on to its own through its last destructor.
    all: Vec<&'static Slot>,
    /// Those whose thread has ended.
    free: Vec<&'static Slot>,
}

/// A thread's ownership of its slot.
struct Lease(Cell<Option<&'static Slot>>);

impl Lease {
    fn slot(&self) -> &'static Slot {
        self.0.get().unwrap_or_else(|| {
            let slot = take();
            self.0.set(Some(slot));
            slot
        })
    }
}

impl Lease {
    fn give_back(&self) {
        cache::forget();
        // A pin that outlives its thread's locals (it sits in another local, destroyed later, or was leaked) keeps the slot (I1).
        if let Some(slot) = self.0.take().filter(|slot| slot.used.get() == 0) {
            lock(registry()).free.push(slot);
        }
    }
}

/// Loom tears its statics down before its thread-locals; there, a thread gives its slot back by hand.
#[cfg(not(loom))]
impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn take() -> &'static Slot {
    let mut registry = lock(registry());
    if let Some(slot) = registry.free.pop() {
        return slot;
    }
    let slot: &'static Slot = Box::leak(Box::new(Slot::new(registry.all.len())));
    registry.all.push(slot);
    slot
}

#[cfg(loom)]
pub use cache::end_of_thread;
pub(crate) use cache::mine;

#[cfg(not(loom))]
fn registry() -> &'static Mutex<Registry> {
    static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
        all: Vec::new(),
        free: Vec::new(),
    });
    &REGISTRY
}

/// How many slots there are, for the test of reuse.
#[cfg(test)]
pub(crate) fn count() -> usize {
    lock(registry()).all.len()
}

#[cfg(not(loom))]
mod cache {
    use std::cell::Cell;

    use super::{Lease, Slot, take};

    thread_local! {
        // Without a destructor, so that reading it is one load and no check.
        static MINE: Cell<Option<&'static Slot>> = const { Cell::new(None) };
        static LEASE: Lease = const { Lease(Cell::new(None)) };
    }

    /// The calling thread's slot.
    #[inline]
    pub(crate) fn mine() -> &'static Slot {
        MINE.with(Cell::get).unwrap_or_else(first)
    }

    #[cold]
    fn first() -> &'static Slot {
        // In the last destructors of a thread the lease is gone already; the slot it then takes is not given back, which costs its
        // 256 bytes and nothing else.
        let slot = LEASE.try_with(Lease::slot).unwrap_or_else(|_| take());
        MINE.with(|it| it.set(Some(slot)));
        slot
    }

    pub(super) fn forget() {
        MINE.with(|it| it.set(None));
    }
}

#[cfg(loom)]
mod cache {
    use std::cell::Cell;

    use super::{Lease, Slot};

    loom::thread_local! {
        static LEASE: Lease = Lease(Cell::new(None));
    }

    pub(crate) fn mine() -> &'static Slot {
        LEASE.with(Lease::slot)
    }

    pub(super) fn forget() {}

    /// What a thread's end is elsewhere.
    pub fn end_of_thread() {
        LEASE.with(Lease::give_back);
    }
}

#[cfg(loom)]
loom::lazy_static! {
    static ref REGISTRY: Mutex<Registry> = Mutex::new(Registry::default());
}

#[cfg(loom)]
fn registry() -> &'static Mutex<Registry> {
    &REGISTRY
}

#[cfg(all(test, not(loom)))]
mod tests;
