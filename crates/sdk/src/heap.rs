//! The allocator of WebAssembly guests: small blocks out of an arena that the module is born with, everything else from std's allocator.
//!
//! std's allocator for WebAssembly begins with no memory at all and asks for its first page when the first string is made. To the host that
//! is two changes of page protection in the life of every instance, a third of what a fresh instance costs; and a call of a few bytes spends
//! more time in it than in decoding. So blocks of up to [`LARGEST`] bytes come from here:
//!
//! - H1. Sizes are rounded up to a power of two, and each has a list of free blocks. Taking and giving back are a few instructions.
//! - H2. The arena is zeroed memory of the module (`.bss`): no byte in the file, no page until it is touched, counted against the memory
//!   limit from the start. When it is used up, chunks of the same size come from std's allocator and are never given back.
//! - H3. A block's list follows from the layout alone, which whoever frees it has to know anyway; blocks carry no header.
//!
//! What it costs: a free block serves only requests of its own size, and up to half of a block is air. Both end at [`LARGEST`].
//! A plugin that wants another allocator takes `mortise-sdk` without its feature `heap`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::UnsafeCell,
    mem::MaybeUninit,
    ptr,
};

/// Of the smallest block, and what every block is aligned to.
const SMALLEST: usize = 16;
/// Of the largest block, in bytes.
const LARGEST: usize = SMALLEST << (CLASSES - 1);
/// Sizes of blocks: 16, 32 .. 4096.
const CLASSES: usize = 9;
/// Bytes of the arena, and of each chunk after it.
const CHUNK: usize = 64 << 10;

/// Small blocks for one thread.
pub(crate) struct Heap {
    arena: UnsafeCell<Arena>,
    state: UnsafeCell<State>,
}

#[repr(C, align(16))]
struct Arena([MaybeUninit<u8>; CHUNK]);

struct State {
    free: [*mut Block; CLASSES],
    /// What of the newest chunk has never been a block.
    rest: *mut u8,
    rest_len: usize,
    began: bool,
}

/// A free block.
struct Block {
    next: *mut Block,
}

impl Heap {
    /// A heap that has given out nothing.
    pub(crate) const fn new() -> Self {
        let state = State {
            free: [ptr::null_mut(); CLASSES],
            rest: ptr::null_mut(),
            rest_len: 0,
            began: false,
        };
        Self {
            arena: UnsafeCell::new(Arena([MaybeUninit::uninit(); CHUNK])),
            state: UnsafeCell::new(state),
        }
    }

    /// A block of `class`; null if there is no more memory.
    ///
    /// # Safety
    /// Nobody else is in this heap.
    unsafe fn take(&self, class: usize) -> *mut u8 {
        // SAFETY: the caller's promise makes this the only reference.
        let state = unsafe { &mut *self.state.get() };
        let block = state.free[class];
        if block.is_null() {
            // SAFETY: as above; `state` is not used afterwards.
            return unsafe { self.carve(SMALLEST << class) };
        }
        // SAFETY: what is on a list was put there by `give`, which wrote a `Block`, and belongs to nobody else.
        state.free[class] = unsafe { (*block).next };
        block.cast()
    }

    /// Takes back a block of `class`.
    ///
    /// # Safety
    /// As [`Heap::take`]; `block` came from it with the same class and is not used any more.
    unsafe fn give(&self, block: *mut u8, class: usize) {
        // SAFETY: the caller's promise makes this the only reference.
        let state = unsafe { &mut *self.state.get() };
        let block: *mut Block = block.cast();
        // SAFETY: a block is at least `SMALLEST` bytes, aligned to that, and the caller has given it away.
        unsafe {
            block.write(Block {
                next: state.free[class],
            });
        }
        state.free[class] = block;
    }

    /// A new block from what was never one; from a new chunk, if too little is left.
    ///
    /// # Safety
    /// As [`Heap::take`].
    #[cold]
    unsafe fn carve(&self, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise makes this the only reference.
        let state = unsafe { &mut *self.state.get() };
        if state.rest_len < size {
            let chunk = if state.began {
                const LAYOUT: Layout = match Layout::from_size_align(CHUNK, SMALLEST) {
                    Ok(layout) => layout,
                    Err(_) => panic!("a power of two and a multiple of it make a layout"),
                };
                // SAFETY: the layout has a size.
                unsafe { System.alloc(LAYOUT) }
            } else {
                self.arena.get().cast()
            };
            if chunk.is_null() {
                return chunk;
            }
            state.began = true;
            // What is left of the last chunk, less than one block of `size`, stays unused.
            (state.rest, state.rest_len) = (chunk, CHUNK);
        }
        let block = state.rest;
        // SAFETY: `size` bytes are left of the chunk, so the end is in it or one past it.
        state.rest = unsafe { block.add(size) };
        state.rest_len -= size;
        block
    }
}

/// The list that a layout's blocks are on; `None` = std's business.
const fn class_of(size: usize, align: usize) -> Option<usize> {
    if size > LARGEST || align > SMALLEST {
        None
    } else if size <= SMALLEST {
        Some(0)
    } else {
        Some((usize::BITS - (size - 1).leading_zeros() - SMALLEST.trailing_zeros()) as usize)
    }
}

// SAFETY: a WebAssembly module without the feature `atomics`, the only place where a heap is shared, has one thread.
#[cfg(target_family = "wasm")]
unsafe impl Sync for Heap {}

// SAFETY: blocks are disjoint parts of chunks, at least as large and as aligned as their layout asks for (H1), and stay where they are
// until the same layout gives them back (H3). Nothing here unwinds. Nobody enters it twice: there is one thread, and `System` does not call back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(layout.size(), layout.align()) {
            // SAFETY: one thread.
            Some(class) => unsafe { self.take(class) },
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class_of(layout.size(), layout.align()) {
            // SAFETY: one thread, and the layout is the one it was allocated with.
            Some(class) => unsafe { self.give(block, class) },
            // SAFETY: the caller's promise.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout.size(), layout.align()).is_none() {
            // SAFETY: the caller's promise. It knows which of its memory is zero already.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise; a block that is not null has the layout's size.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (from, to) = (
            class_of(layout.size(), layout.align()),
            class_of(size, layout.align()),
        );
        match (from, to) {
            (Some(from), Some(to)) if from == to => old,
            // SAFETY: the caller's promise.
            (None, None) => unsafe { System.realloc(old, layout, size) },
            // SAFETY: the caller's promise: `size` fits a layout of this alignment, and `old` has `layout`. Two blocks never overlap.
            _ => unsafe {
                let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !new.is_null() {
                    ptr::copy_nonoverlapping(old, new, size.min(layout.size()));
                    self.dealloc(old, layout);
                }
                new
            },
        }
    }
}

#[cfg(test)]
mod tests;
