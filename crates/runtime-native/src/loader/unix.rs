//! dlopen(3).

use std::{
    ffi::{CStr, CString, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::NonNull,
};

use super::{LoaderError, Pinned};

pub(super) unsafe fn open(path: &Path) -> Result<Pinned, LoaderError> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| LoaderError(format!("the path {} contains a NUL byte", path.display())))?;
    // NOW: a missing symbol is an error here and not a crash in a call. LOCAL: plugins do not see each other. NODELETE: pinned.
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE;
    // SAFETY: `name` is a C string; the caller vouches for what the constructors do.
    let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
    NonNull::new(handle).map(Pinned).ok_or_else(last_error)
}

pub(super) fn symbol(library: Pinned, name: &CStr) -> Result<NonNull<c_void>, LoaderError> {
    // SAFETY: a handle that is never closed, and a C string. A data symbol is never at address zero.
    let address = unsafe { libc::dlsym(library.0.as_ptr(), name.as_ptr()) };
    NonNull::new(address).ok_or_else(last_error)
}

/// The message is the calling thread's own on every libc that we know.
fn last_error() -> LoaderError {
    // SAFETY: returns null or a string that is valid until this thread's next call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return LoaderError("the loader gave no reason".to_owned());
    }
    // SAFETY: not null, see above.
    LoaderError(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
