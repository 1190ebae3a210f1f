//! A cell whose readers pay two plain stores: hazard pointers with an asymmetric barrier.
//!
//! [`Cell`] holds one value that is read on every call and replaced a few times a day: the generation of a plugin. A reader takes no
//! lock, makes no read-modify-write and, where the system offers a process-wide barrier, executes no fence; the writer pays for
//! both sides and then *knows* when the last reader of the old value is gone. That knowledge is the point: an unloaded plugin may be
//! torn down only after it. This crate knows nothing of plugins, starts no thread and never waits unless asked to.
//!
//! # Words
//!
//! - *generation*: one value that was put into a cell, with its counter.
//! - *slot*: a thread's 16 *frames*, one per nested pin, and one *transit frame* for a moment inside [`Cell::acquire`].
//! - *pin* ([`Pinned`]): a frame that names a generation. For calls that stay on their thread.
//! - *guard* ([`Guard`]): a count in a generation. For calls that are awaited, move between threads, or nest deeper than 16.
//! - *retired* ([`Retired`]): a generation that the cell no longer holds; *drained*: and no pin or guard names it either.
//!
//! # Invariants
//!
//! - I1. A frame is written by the thread that owns its slot and by no other. Owners change only under the registry's lock.
//! - I2. Whoever dereferences a generation has named it in a frame and *then* found it in its cell, or holds a count in it that was
//!   taken while I2 held.
//! - I3. A retired generation gains no new frames that satisfy I2, and gains counts only from frames or guards that hold it already.
//! - I4. A generation is freed only by the owner of its [`Retired`] (or the graveyard it was dropped into) and only when drained.
//! - I5. Drained is final: once all frames were seen clear and then every shard of the counter was seen zero, no reader will come.
//! - I6. A shard only reaches zero when the last guard that counts in it is gone: a guard leaves the shard it entered.
//!
//! # Timing points and memory orderings
//!
//! ```text
//!  reader (Cell::pin)                            writer (Cell::swap, Retired::is_drained)
//!  R1  p = current.load(Acquire)                 W1  old = current.swap(new, AcqRel)
//!  R2  frame.store(p, Release)                   W2  barrier on every thread of the process
//!  R3  compiler fence                            W3  frame.load(Acquire) of every slot: does one name old?
//!  R4  q = current.load(Acquire); q != p: R2     W4  shard.load(Acquire) of every shard of old: all zero?
//!  R5  ... use *q ...                            W5  drop(old)
//!  R6  frame.store(null, Release)
//! ```
//!
//! - R2 against W1: W2 makes every reader thread pass a full fence between W1 and W3. A reader passes it either before R4, which then
//!   sees `new` and starts over, or after R4 and so after R2, whose store W3 then sees. No reader is missed.
//! - R6 against W3: R6 and R2 are `Release` and W3 is `Acquire`, so whatever R5 read happened before W5. R2 needs it too: W3 may see
//!   the *next* pin of that frame, and must still be ordered after the previous one.
//! - R4 yields the pointer that R5 uses: if `p` was freed and its address given to a newer generation in between, R4's `Acquire`
//!   orders R5 after that generation's construction.
//! - W4 after W3: a count is only taken under a frame (`acquire`: R1 to R4, `fetch_add`, R6) or from a guard, so the frames must be seen
//!   clear first. Leaving is `fetch_sub(Release)`, and the chain of read-modify-writes carries every leaver to W4.
//! - Slots: a thread that registers after W3 took the registry's lock sees `new` in R1, because W1 happened before that lock was released.
//!
//! Where there is no such barrier (macOS, or Linux with `membarrier` denied) and in builds with feature `fence`, R3 is a `SeqCst` fence
//! and W2 another; the same argument holds by the order of those two. The loom tests check that version. The asymmetric one is outside
//! the language's memory model on paper, like every userspace RCU; a stress test covers it.
#![warn(missing_docs)]

mod barrier;
mod cell;
mod retired;
mod slot;
mod sync;

pub use cell::{Cell, Guard, Pinned};
pub use retired::{Retired, Undrained};
#[cfg(loom)]
#[doc(hidden)]
pub use slot::end_of_thread;

/// Pins that one thread holds at once before further ones count instead.
pub const FRAMES: usize = slot::FRAMES;

/// Whether readers of this process rely on the writer's barrier. Decided once, at first use.
#[must_use]
pub fn is_asymmetric() -> bool {
    barrier::is_light()
}
