//! A region in a sealed memory file, mapped.
//!
//! The host makes both files, so it need not trust anything about them; the plugin checks size and seals of what it is given. The host's file is sealed
//! against further writable mappings once the host has its own, so the plugin can only map it for reading. The plugin's file it can write as it
//! likes, which is what the other side expects of it anyway.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use crate::memory::{Memory, REGION_BYTES, Word, check};

/// A mapped region. It is unmapped with its drop.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    writable: bool,
}

// SAFETY: it owns its mapping, and everything that is read through it is read atomically. What it writes goes to places that this side alone
// writes; that two threads do not write the same place is the ring's matter (one `Producer`), and only bytes are at stake there.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// A new file for a region: zeros, and of fixed size.
pub(crate) fn create(name: &str) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, REGION_BYTES as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}

/// No mapping that is made from now on can be written, and no seal can be added.
pub(crate) fn seal_writes(file: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_add_seals(file, SealFlags::FUTURE_WRITE | SealFlags::SEAL)?)
}

/// No seal can be added.
pub(crate) fn seal_seals(file: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_add_seals(file, SealFlags::SEAL)?)
}

impl Region {
    /// Maps a region whose writer is the caller.
    ///
    /// # Errors
    /// If the file has another size or could change it (M3), or what the system says.
    pub fn map_mine(file: impl AsFd) -> io::Result<Self> {
        Self::map(file, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps the other side's region, for reading.
    ///
    /// # Errors
    /// As [`Region::map_mine`].
    pub fn map_theirs(file: impl AsFd) -> io::Result<Self> {
        Self::map(file, ProtFlags::READ)
    }

    fn map(file: impl AsFd, access: ProtFlags) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let bytes = fstat(&file)?.st_size;
        if u64::try_from(bytes).ok() != Some(REGION_BYTES as u64) {
            return Err(invalid(format!(
                "a memory file of {bytes} bytes was given for a region of {REGION_BYTES}"
            )));
        }
        let seals = fcntl_get_seals(&file)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(invalid(format!(
                "the memory file of a region has seals {seals:?}, and its size could change"
            )));
        }
        // SAFETY: a new mapping at a place that the system chooses.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                REGION_BYTES,
                access,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            start,
            writable: access.contains(ProtFlags::WRITE),
        })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        check(offset, size_of::<T>());
        // SAFETY: `check` has seen that the place is in the mapping.
        unsafe { self.start.add(offset) }.cast().as_ptr()
    }
}

// SAFETY: `read` writes the eights and then what is left.
unsafe impl Memory for Region {
    fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: the place is in the mapping, which lives as long as `self`, aligned (`Word::offset` gives multiples of 128, and mappings begin at
        // pages), and everybody accesses it atomically: the other process too, or it hurts itself alone. A region that is mapped for reading is only
        // loaded from, relaxed or acquire, which is a plain load on every machine with 64-bit atomics.
        unsafe { AtomicU64::from_ptr(self.at(word.offset())) }
    }

    fn read(&self, offset: usize, out: &mut [MaybeUninit<u8>]) {
        check(offset, out.len());
        let (eights, rest) = out.split_at_mut(out.len() & !7);
        let begin = self.at::<u8>(offset).cast::<u64>();
        for (i, to) in eights.chunks_exact_mut(8).enumerate() {
            // SAFETY: in the mapping and aligned, as `check` has seen. The other process may write it at this moment; an atomic load of
            // whatever is there is defined, and what it gives is private from here on (M2).
            let word = unsafe { AtomicU64::from_ptr(begin.add(i)) }.load(Ordering::Relaxed);
            to.write_copy_of_slice(&word.to_ne_bytes());
        }
        for (i, to) in rest.iter_mut().enumerate() {
            // SAFETY: as above; bytes need no alignment.
            let byte = unsafe { AtomicU8::from_ptr(begin.cast::<u8>().add(eights.len() + i)) };
            to.write(byte.load(Ordering::Relaxed));
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        check(offset, bytes.len());
        assert!(self.writable, "M1: a region is written by its owner");
        // SAFETY: in the mapping, as `check` has seen, and mapped for writing. This side alone writes it (M1) and no thread of it reads it. The
        // other process reads it once the tail says so; that store comes after, with `Release`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), REGION_BYTES) };
        debug_assert!(
            unmapped.is_ok(),
            "a mapping that was made can be unmade: {unmapped:?}"
        );
    }
}
