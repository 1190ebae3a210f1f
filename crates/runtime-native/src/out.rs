//! The host's output buffer: an `mt_out` backed by a `Vec`, and writing into one of the plugin's.

use std::{fmt, ptr, slice};

use mortise_abi::{MT_E_BAD_ARG, MT_E_NOMEM, MT_OK, MtOut, MtSlice, MtStatus};

/// An `mt_out` that appends to a vector. Allocates nothing as long as the vector has room.
#[repr(C)]
pub(crate) struct Buffer<'a> {
    /// First, so that `grow` finds the rest from the pointer that the plugin hands back.
    out: MtOut,
    vec: &'a mut Vec<u8>,
    /// The vector's length before; the plugin sees only what comes after it.
    base: usize,
    bytes_max: usize,
}

/// The plugin left the buffer in a state that `grow` never gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun {
    len: usize,
    cap: usize,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { len, cap } = self;
        write!(
            f,
            "it says that it wrote {len} bytes into an output buffer of {cap}, or it moved the buffer itself"
        )
    }
}

impl<'a> Buffer<'a> {
    pub(crate) fn new(vec: &'a mut Vec<u8>, bytes_max: usize) -> Self {
        let base = vec.len();
        let out = MtOut {
            size: size_of::<MtOut>() as u32,
            reserved: 0,
            ptr: ptr::null_mut(),
            len: 0,
            cap: 0,
            grow: Some(grow),
        };
        let mut buffer = Self {
            out,
            vec,
            base,
            bytes_max,
        };
        buffer.point();
        buffer
    }

    /// What the plugin gets. Valid while `self` is not touched otherwise.
    pub(crate) fn as_out(&mut self) -> *mut MtOut {
        ptr::from_mut(self).cast()
    }

    /// Takes over what was written. On `Err` the vector is as it was.
    pub(crate) fn finish(mut self) -> Result<(), Overrun> {
        let (len, cap, start) = (self.out.len, self.spare(), self.start());
        if len > cap || (len > 0 && self.out.ptr != start) {
            return Err(Overrun { len, cap });
        }
        // SAFETY: within the capacity, and written by the plugin, which says so by `len` (mortise.h, `mt_out`).
        unsafe { self.vec.set_len(self.base + len) };
        Ok(())
    }

    fn point(&mut self) {
        self.out.cap = self.spare();
        self.out.ptr = self.start();
    }

    fn spare(&self) -> usize {
        (self.vec.capacity() - self.base).min(self.bytes_max)
    }

    fn start(&mut self) -> *mut u8 {
        // SAFETY: `base` is at most the capacity.
        unsafe { self.vec.as_mut_ptr().add(self.base) }
    }

    fn grow(&mut self, min_cap: usize) -> MtStatus {
        let written = self.out.len;
        if min_cap > self.bytes_max || written > self.spare() {
            return MT_E_NOMEM;
        }
        let wanted = min_cap.max(self.spare().saturating_mul(2)).min(self.bytes_max);
        // SAFETY: within the capacity, and written by the plugin, which says so by `len`; so it survives the move.
        unsafe { self.vec.set_len(self.base + written) };
        let reserved = self.vec.try_reserve_exact(wanted.saturating_sub(written));
        // SAFETY: a shorter length of initialized bytes.
        unsafe { self.vec.set_len(self.base) };
        if reserved.is_err() {
            return MT_E_NOMEM;
        }
        self.point();
        MT_OK
    }
}

unsafe extern "C" fn grow(out: *mut MtOut, min_cap: usize) -> i32 {
    if out.is_null() {
        return MT_E_BAD_ARG;
    }
    // SAFETY: this function is only ever found in the `out` of a `Buffer`, which is its first field, and the plugin hands back the pointer that
    // it was given, on the thread that it was given to, during the call that it was given for.
    unsafe { &mut *out.cast::<Buffer<'_>>() }.grow(min_cap)
}

/// Writes `bytes` into an `mt_out` of the plugin, which has a `grow` of the plugin's.
///
/// # Safety
/// `out` is null, or valid and used by nobody else until this returns.
pub(crate) unsafe fn write(out: *mut MtOut, bytes: &[u8]) -> MtStatus {
    // SAFETY: the caller's promise.
    let Some(out) = (unsafe { out.as_mut() }) else {
        return if bytes.is_empty() { MT_OK } else { MT_E_BAD_ARG };
    };
    if bytes.is_empty() {
        return MT_OK;
    }
    let Some(needed) = out.len.checked_add(bytes.len()) else {
        return MT_E_NOMEM;
    };
    if out.cap < needed {
        let Some(grow) = out.grow else {
            return MT_E_NOMEM;
        };
        // SAFETY: the plugin's own function on the plugin's own buffer.
        if unsafe { grow(out, needed) } != MT_OK || out.cap < needed {
            return MT_E_NOMEM;
        }
    }
    if out.ptr.is_null() {
        return MT_E_BAD_ARG;
    }
    // SAFETY: `ptr[len..cap)` is the plugin's memory for us to write, and long enough as checked above.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), out.ptr.add(out.len), bytes.len()) };
    out.len = needed;
    MT_OK
}

/// The bytes of a slice that the plugin passes.
///
/// # Safety
/// The slice is valid while the result is used.
pub(crate) unsafe fn bytes<'a>(slice: MtSlice) -> &'a [u8] {
    if slice.len == 0 || slice.ptr.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(slice.ptr, slice.len) }
}

#[cfg(test)]
mod tests;
