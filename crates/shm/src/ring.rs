//! The ring: a queue of records between one producer and one consumer.
//!
//! A record is 8 bytes of header and what it says; everything begins at a multiple of 8.
//!
//! | header, low half | header, high half | then |
//! |---|---|---|
//! | length 1.. | 0 | the bytes, padded to a multiple of 8; they wrap around the ring's end |
//! | length 1.. | 1 + number of a slab | 8 bytes: the slab's generation |
//!
//! A slab's generation counts how often it was filled. The producer fills it again when the consumer has written that very generation into its own
//! region; the consumer takes only the generation that comes next. So neither side can be made to read or write what it has no right to; one that
//! lies gets bytes of its own making.

use std::{io::IoSlice, mem::MaybeUninit, sync::Arc};

use bytes::{BufMut as _, BytesMut};

use crate::{
    memory::{Memory, RING_BYTES, SLAB_BYTES, SLABS, Word, ring_offset, slab_offset},
    sync::{Ordering, fence},
};

/// Larger pieces go to slabs.
#[cfg(not(loom))]
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Small enough for a model checker.
#[cfg(loom)]
pub const INLINE_BYTES_MAX: usize = 8;

const HEADER: u64 = 8;
const SLAB_RECORD: u64 = 16;

/// The other side broke a rule of the ring. It is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum Broken {
    #[error("its ring says that {bytes} bytes are in it, and it holds {RING_BYTES}")]
    Tail { bytes: u64 },
    #[error("it says that it has read up to {head}, and {tail} were written")]
    Head { head: u64, tail: u64 },
    #[error("a record of {bytes} bytes is announced where {left} are left")]
    Record { bytes: u64, left: u64 },
    #[error("a record names {bytes} bytes in slab {slab}, and there are {SLABS} slabs of {SLAB_BYTES}")]
    Slab { slab: u32, bytes: u32 },
    #[error("slab {slab} has generation {generation}, and {expected} was next")]
    Generation {
        slab: u32,
        generation: u64,
        expected: u64,
    },
}

/// The writing end.
#[derive(Debug)]
pub struct Producer<M> {
    mine: Arc<M>,
    theirs: Arc<M>,
    tail: u64,
    /// The consumer's cursor when it was last looked at.
    head: u64,
    /// Generations of the slabs as they were filled last.
    filled: [u64; SLABS],
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer<M> {
    mine: Arc<M>,
    theirs: Arc<M>,
    head: u64,
    /// Generations of the other side's slabs as they were taken last.
    taken: [u64; SLABS],
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// So many bytes of the pieces; 0: there is no room.
    pub bytes: usize,
    /// Ring the reader's bell.
    pub wake: bool,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many bytes; 0: there are none.
    pub bytes: usize,
    /// Ring the writer's bell: it waits for room.
    pub wake: bool,
}

// === impl Producer ===

impl<M: Memory> Producer<M> {
    /// The producer of the ring in `mine`, whose consumer owns `theirs`. There is one per pair of regions.
    pub fn new(mine: Arc<M>, theirs: Arc<M>) -> Self {
        Self {
            mine,
            theirs,
            tail: 0,
            head: 0,
            filled: [0; SLABS],
        }
    }

    /// Writes as much of `pieces`, in order, as there is room for, up to the first part that goes to a slab: its reader is to be woken before the next
    /// part is copied. So less than all does not mean that there is no more room.
    ///
    /// # Errors
    /// If the consumer's cursor makes no sense.
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<Written, Broken> {
        let before = self.tail;
        let mut bytes = 0;
        'pieces: for piece in pieces {
            let mut piece = &piece[..];
            while !piece.is_empty() {
                match self.write_some(piece)? {
                    (0, _) => break 'pieces,
                    (written, is_slab) => {
                        bytes += written;
                        piece = &piece[written..];
                        if is_slab {
                            break 'pieces;
                        }
                    }
                }
            }
        }
        if self.tail == before {
            return Ok(Written { bytes, wake: false });
        }
        self.mine.word(Word::Tail).store(self.tail, Ordering::Release);
        fence(Ordering::SeqCst);
        let wake = self.theirs.word(Word::Asleep).load(Ordering::Relaxed) == 1;
        Ok(Written { bytes, wake })
    }

    /// Says that the writer is about to wait for room. False if there is some: it must not wait then. Either way [`Producer::woken`] follows.
    ///
    /// # Errors
    /// As [`Producer::write`].
    pub fn sleep(&mut self) -> Result<bool, Broken> {
        self.mine.word(Word::Cramped).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(self.room()? <= HEADER)
    }

    /// Says that the writer waits no longer.
    pub fn woken(&mut self) {
        self.mine.word(Word::Cramped).store(0, Ordering::Relaxed);
    }

    /// How much was written, and whether it went to a slab.
    fn write_some(&mut self, piece: &[u8]) -> Result<(usize, bool), Broken> {
        if piece.len() > INLINE_BYTES_MAX
            && self.has_room(SLAB_RECORD)?
            && let Some(slab) = self.free_slab()
        {
            let bytes = piece.len().min(SLAB_BYTES);
            self.mine.write(slab_offset(slab), &piece[..bytes]);
            self.filled[slab] += 1;
            self.header(bytes, 1 + slab as u64);
            self.mine
                .write(ring_offset(self.tail), &self.filled[slab].to_ne_bytes());
            self.tail += 8;
            return Ok((bytes, true));
        }
        let wanted = HEADER + (piece.len().min(RING_BYTES / 2) as u64).next_multiple_of(8);
        // Looks at the consumer's cursor only if there seems to be too little; less than wanted is still better than nothing.
        if !self.has_room(wanted)? && self.left() <= HEADER {
            return Ok((0, false));
        }
        let bytes = piece.len().min((self.left() - HEADER) as usize);
        self.header(bytes, 0);
        let first = bytes.min(RING_BYTES - (self.tail as usize & (RING_BYTES - 1)));
        self.mine.write(ring_offset(self.tail), &piece[..first]);
        if first < bytes {
            self.mine.write(ring_offset(0), &piece[first..bytes]);
        }
        self.tail += (bytes as u64).next_multiple_of(8);
        Ok((bytes, false))
    }

    fn header(&mut self, bytes: usize, slab: u64) {
        let header = bytes as u64 | slab << 32;
        self.mine.write(ring_offset(self.tail), &header.to_ne_bytes());
        self.tail += HEADER;
    }

    fn free_slab(&self) -> Option<usize> {
        (0..SLABS)
            .find(|&slab| self.theirs.word(Word::Released(slab)).load(Ordering::Acquire) == self.filled[slab])
    }

    /// Whether there is room for `bytes`; looks at the consumer's cursor only if there was none before.
    fn has_room(&mut self, bytes: u64) -> Result<bool, Broken> {
        Ok(self.left() >= bytes || self.room()? >= bytes)
    }

    /// Room that there certainly is.
    fn left(&self) -> u64 {
        RING_BYTES as u64 - (self.tail - self.head)
    }

    fn room(&mut self) -> Result<u64, Broken> {
        let head = self.theirs.word(Word::Head).load(Ordering::Acquire);
        // It only ever moves forward, up to where we have written, by whole words.
        if head < self.head || head > self.tail || !head.is_multiple_of(8) {
            return Err(Broken::Head {
                head,
                tail: self.tail,
            });
        }
        self.head = head;
        Ok(self.left())
    }
}

// === impl Consumer ===

impl<M: Memory> Consumer<M> {
    /// The consumer of the ring in `theirs`; its cursor is in `mine`. There is one per pair of regions.
    pub fn new(mine: Arc<M>, theirs: Arc<M>) -> Self {
        Self {
            mine,
            theirs,
            head: 0,
            taken: [0; SLABS],
        }
    }

    /// Whether there is something to read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.theirs.word(Word::Tail).load(Ordering::Acquire) != self.head
    }

    /// Appends what there is to `out`, record by record, until `enough` bytes were appended.
    ///
    /// # Errors
    /// If what the producer wrote makes no sense. `out` may have grown.
    pub fn read(&mut self, out: &mut BytesMut, enough: usize) -> Result<Taken, Broken> {
        let tail = self.theirs.word(Word::Tail).load(Ordering::Acquire);
        let there = tail.wrapping_sub(self.head);
        if there > RING_BYTES as u64 || !there.is_multiple_of(8) {
            return Err(Broken::Tail { bytes: there });
        }
        let before = out.len();
        while self.head != tail && out.len() - before < enough {
            self.take(tail - self.head, out)?;
        }
        if self.head == tail - there {
            return Ok(Taken {
                bytes: 0,
                wake: false,
            });
        }
        self.mine.word(Word::Head).store(self.head, Ordering::Release);
        fence(Ordering::SeqCst);
        let wake = self.theirs.word(Word::Cramped).load(Ordering::Relaxed) == 1;
        Ok(Taken {
            bytes: out.len() - before,
            wake,
        })
    }

    /// Says that the reader is about to wait for its bell. False if there is something to read: it must not wait then. Either way
    /// [`Consumer::woken`] follows.
    #[must_use]
    pub fn sleep(&mut self) -> bool {
        self.mine.word(Word::Asleep).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.is_ready()
    }

    /// Says that the reader waits no longer.
    pub fn woken(&mut self) {
        self.mine.word(Word::Asleep).store(0, Ordering::Relaxed);
    }

    /// Takes one record of the `left` bytes that are in the ring.
    fn take(&mut self, left: u64, out: &mut BytesMut) -> Result<(), Broken> {
        // `left` is a multiple of 8 and not 0, so a header is there.
        let header = self.u64_at(self.head);
        let (bytes, slab) = (header as u32, (header >> 32) as u32);
        let Some(slab) = slab.checked_sub(1) else {
            let whole = HEADER + u64::from(bytes).next_multiple_of(8);
            if bytes == 0 || whole > left {
                return Err(Broken::Record { bytes: whole, left });
            }
            let begin = self.head + HEADER;
            let first = (bytes as usize).min(RING_BYTES - (begin as usize & (RING_BYTES - 1)));
            append(out, bytes as usize, |place| {
                let (one, two) = place.split_at_mut(first);
                self.theirs.read(ring_offset(begin), one);
                self.theirs.read(ring_offset(0), two);
            });
            self.head += whole;
            return Ok(());
        };
        let number = slab as usize;
        if number >= SLABS || bytes == 0 || bytes as usize > SLAB_BYTES {
            return Err(Broken::Slab { slab, bytes });
        }
        if left < SLAB_RECORD {
            return Err(Broken::Record {
                bytes: SLAB_RECORD,
                left,
            });
        }
        let generation = self.u64_at(self.head + HEADER);
        let expected = self.taken[number] + 1;
        if generation != expected {
            return Err(Broken::Generation {
                slab,
                generation,
                expected,
            });
        }
        append(out, bytes as usize, |place| {
            self.theirs.read(slab_offset(number), place);
        });
        self.taken[number] = generation;
        self.mine
            .word(Word::Released(number))
            .store(generation, Ordering::Release);
        self.head += SLAB_RECORD;
        Ok(())
    }

    fn u64_at(&self, position: u64) -> u64 {
        let mut bytes = [MaybeUninit::uninit(); 8];
        self.theirs.read(ring_offset(position), &mut bytes);
        // SAFETY: `read` writes every byte of what it is given.
        u64::from_ne_bytes(bytes.map(|byte| unsafe { byte.assume_init() }))
    }
}

/// Grows `out` by `bytes` that `fill` writes.
fn append(out: &mut BytesMut, bytes: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
    out.reserve(bytes);
    fill(&mut out.spare_capacity_mut()[..bytes]);
    // SAFETY: `fill` hands the whole of it to `Memory::read`, which writes every byte of what it is given.
    unsafe { out.advance_mut(bytes) };
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
