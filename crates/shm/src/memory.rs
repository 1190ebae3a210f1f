//! What a region is: words, a ring and slabs, at fixed places.
//!
//! | offset | what |
//! |---|---|
//! | 0 | [`Word`]s, one per 128 bytes, so that no two share a cache line or its neighbour |
//! | 4 KiB | the ring |
//! | 4 KiB + ring | the slabs |

use std::mem::MaybeUninit;

use crate::sync::AtomicU64;

/// Size of a ring. Small frames of many calls fit; large payloads go to slabs.
#[cfg(not(loom))]
pub const RING_BYTES: usize = 256 << 10;
/// Small enough for a model checker.
#[cfg(loom)]
pub const RING_BYTES: usize = 32;
/// Slabs per direction.
#[cfg(not(loom))]
pub const SLABS: usize = 16;
/// Small enough for a model checker.
#[cfg(loom)]
pub const SLABS: usize = 1;
/// Size of a slab. A larger payload takes several, or what is left of it goes through the ring. Small enough that the reader copies the first slab of a
/// payload out while the writer copies the next one in; what it costs to wake somebody is small beside it.
#[cfg(not(loom))]
pub const SLAB_BYTES: usize = 256 << 10;
/// Small enough for a model checker.
#[cfg(loom)]
pub const SLAB_BYTES: usize = 16;

const WORDS_BYTES: usize = 4 << 10;
const WORD_STRIDE: usize = 128;
/// Size of a region.
pub const REGION_BYTES: usize = WORDS_BYTES + RING_BYTES + SLABS * SLAB_BYTES;

/// A word of a region. Its owner writes it, the other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Bytes that the owner has put into its ring, since the beginning.
    Tail,
    /// Bytes that the owner has taken out of the *other* side's ring, since the beginning.
    Head,
    /// 1: the owner's reader waits for its bell.
    Asleep,
    /// 1: the owner's writer waits for room.
    Cramped,
    /// The generation of the *other* side's slab that the owner is done with.
    Released(usize),
}

impl Word {
    const FIXED: usize = 4;
    /// How many there are.
    pub const COUNT: usize = Self::FIXED + SLABS;

    /// Its number.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Tail => 0,
            Self::Head => 1,
            Self::Asleep => 2,
            Self::Cramped => 3,
            Self::Released(slab) => Self::FIXED + slab,
        }
    }

    /// Where it lies in a region.
    #[must_use]
    pub fn offset(self) -> usize {
        self.index() * WORD_STRIDE
    }
}

const _: () = assert!(Word::COUNT * WORD_STRIDE <= WORDS_BYTES);
const _: () =
    assert!(RING_BYTES.is_power_of_two() && RING_BYTES.is_multiple_of(8) && SLAB_BYTES.is_multiple_of(8));

/// Where a place in the ring lies in a region. `position` counts from the beginning of time.
#[must_use]
pub(crate) fn ring_offset(position: u64) -> usize {
    // The mask keeps it below RING_BYTES, whatever the position.
    WORDS_BYTES + (position as usize & (RING_BYTES - 1))
}

/// Where a slab lies in a region.
#[must_use]
pub(crate) fn slab_offset(slab: usize) -> usize {
    WORDS_BYTES + RING_BYTES + slab * SLAB_BYTES
}

/// One region, as one side sees it.
///
/// # Panics
/// Its methods panic where offset and length leave the region, or an offset is no multiple of 8: the ring gives none such, whatever the peer wrote.
///
/// # Safety
/// `read` writes every byte of `out`.
pub unsafe trait Memory: Send + Sync {
    /// A word.
    fn word(&self, word: Word) -> &AtomicU64;

    /// Copies bytes out. They may change while they are copied; what `out` then holds is some mixture, private and still.
    fn read(&self, offset: usize, out: &mut [MaybeUninit<u8>]);

    /// Copies bytes in. Called by the region's owner only, for places that no reader has been told of.
    fn write(&self, offset: usize, bytes: &[u8]);
}

/// Panics unless the range lies in a region. Every access passes here.
pub(crate) fn check(offset: usize, bytes: usize) {
    assert!(
        offset.is_multiple_of(8) && offset <= REGION_BYTES && bytes <= REGION_BYTES - offset,
        "M3: {bytes} bytes at {offset} are not in the region"
    );
}

/// A region in plain memory, for tests: what one thread does to it another sees.
#[cfg(any(test, loom))]
pub(crate) mod plain {
    use super::*;
    use crate::sync::Ordering;

    pub(crate) struct Plain {
        words: Vec<AtomicU64>,
        data: Vec<AtomicU64>,
    }

    impl Plain {
        pub(crate) fn new() -> Self {
            let words = (0..Word::COUNT).map(|_| AtomicU64::new(0)).collect();
            let data = (0..(REGION_BYTES - WORDS_BYTES) / 8)
                .map(|_| AtomicU64::new(0))
                .collect();
            Self { words, data }
        }
    }

    // SAFETY: the chunks of `out` are written in full.
    unsafe impl Memory for Plain {
        fn word(&self, word: Word) -> &AtomicU64 {
            &self.words[word.index()]
        }

        fn read(&self, offset: usize, out: &mut [MaybeUninit<u8>]) {
            check(offset, out.len());
            let first = (offset - WORDS_BYTES) / 8;
            for (i, chunk) in out.chunks_mut(8).enumerate() {
                let bytes = self.data[first + i].load(Ordering::Relaxed).to_ne_bytes();
                for (to, from) in chunk.iter_mut().zip(bytes) {
                    to.write(from);
                }
            }
        }

        fn write(&self, offset: usize, bytes: &[u8]) {
            check(offset, bytes.len());
            let first = (offset - WORDS_BYTES) / 8;
            for (i, chunk) in bytes.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.data[first + i].store(u64::from_ne_bytes(word), Ordering::Relaxed);
            }
        }
    }
}
