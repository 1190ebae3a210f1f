//! Opening a library so that it is never unmapped: the thinnest layer over each system's loader.
//!
//! Unmapping is not safe: a thread-local destructor of the library may run after it, and one that has such destructors stays
//! mapped anyway. So there is no `close` here.

use std::{ffi::CStr, fmt, path::Path, ptr::NonNull};

#[cfg(unix)]
#[path = "loader/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "loader/windows.rs"]
mod system;

/// A pinned library.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned(NonNull<std::ffi::c_void>);

// SAFETY: a handle to a library that is never closed; the system's lookup functions may be called from any thread.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

/// What the system's loader said.
#[derive(Debug)]
pub(crate) struct LoaderError(String);

impl fmt::Display for LoaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoaderError {}

/// Opens and pins the library at `path`: all symbols bound now, none of them offered to other libraries.
///
/// # Safety
/// Runs the library's constructors: the file must be trusted as the host's own code is. `path` must never have held other bytes in the
/// life of this process, because loaders know libraries by their path.
pub(crate) unsafe fn open(path: &Path) -> Result<Pinned, LoaderError> {
    // SAFETY: the caller's promise.
    unsafe { system::open(path) }
}

impl Pinned {
    /// The address of an exported symbol.
    pub(crate) fn symbol(self, name: &CStr) -> Result<NonNull<std::ffi::c_void>, LoaderError> {
        system::symbol(self, name)
    }
}
