//! Two processes that exchange bytes through sealed shared memory and trust each other with nothing.
//!
//! Each direction is a ring of bytes in a memory file that only its sender can write, with slabs behind it for large pieces. What goes in on one
//! side comes out on the other, in order: a stream of bytes, like a socket's, and what they mean is not this crate's business. It starts no
//! thread and knows no executor; whoever waits, waits on a bell (an eventfd) in his own way. Linux only: elsewhere [`AVAILABLE`] is false and nothing
//! but that and the ring over plain memory exists.
//!
//! # Words
//! - *region*: one side's memory file. Its owner alone writes it, and the other side maps it for reading only.
//! - *ring*: the region's queue of *records*: bytes, or the name of a slab. *slab*: a place for [`SLAB_BYTES`] in one piece.
//! - *bell*: an eventfd; one says "there is something to read", one says "there is room".
//!
//! # Invariants
//! - M1. A region is written by its owner and by no other. So a side's read cursor, and its word that a slab is free again, lie in its own region.
//! - M2. Whatever is read from the other side's region is read once, into a private copy, and checked there. Nothing makes a `&[u8]` of
//!   memory that another process can write: bytes are copied out with atomic loads.
//! - M3. Both files have a fixed size (sealed against shrinking and growing), so no access to a mapping can fault.
//! - M4. A side that breaks a rule gets [`Broken`] on the other side, and nothing else: no panic, no access outside of the region, no memory beyond
//!   the bytes it was let in for.
//! - M5. A bell is rung without blocking, whatever the other side did with its counter.
//!
//! # Timing points and memory orderings
//! ```text
//!  sender                                     receiver
//!  S1  write bytes into ring or slab          R1  asleep.store(1)
//!  S2  tail.store(t, Release)                 R2  fence(SeqCst)
//!  S3  fence(SeqCst)                          R3  tail.load(Acquire) == what was read: wait for the bell
//!  S4  asleep.load(): ring the bell           R4  asleep.store(0); copy bytes; head.store(h, Release)
//! ```
//! - S2 against R3: `Release` and `Acquire`, so the bytes are there when the tail says so. R4 against the sender's reading of the head: the same, so
//!   a place is written again only after it was read.
//! - S3 against R2: of the two fences one is first. Either R3 sees the new tail, or S4 sees that the receiver is asleep; a wake-up is never lost. `head` and
//!   `cramped` do the same for room.
//!
//! The ring is checked with loom, and with a peer that writes whatever it likes.
#![warn(missing_docs)]

mod memory;
mod ring;
mod sync;

#[cfg(all(target_os = "linux", not(loom)))]
mod fds;
#[cfg(all(target_os = "linux", not(loom)))]
mod mapped;
#[cfg(all(target_os = "linux", not(loom)))]
mod port;
mod spin;

#[cfg(all(target_os = "linux", not(loom)))]
pub use fds::{receive_with_fds, send_with_fds};
#[cfg(all(target_os = "linux", not(loom)))]
pub use mapped::Region;
pub use memory::{Memory, REGION_BYTES, RING_BYTES, SLAB_BYTES, SLABS, Word};
#[cfg(all(target_os = "linux", not(loom)))]
pub use port::{FDS, Port, PortError, Receiver, Sender, Waiter};
pub use ring::{Broken, Consumer, INLINE_BYTES_MAX, Producer, Taken, Written};
pub use spin::Spin;

/// Whether this system can share memory in this way.
pub const AVAILABLE: bool = cfg!(target_os = "linux");
