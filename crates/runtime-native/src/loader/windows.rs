//! LoadLibraryExW. The four declarations below are all that is needed of the Windows API.

use std::{
    ffi::{CStr, c_char, c_void},
    io,
    os::windows::ffi::OsStrExt,
    path::Path,
    ptr::{self, NonNull},
};

use super::{LoaderError, Pinned};

type Module = *mut c_void;

/// Look for the library's own imports beside it first, then where the system keeps its own; never in the current directory.
const LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR: u32 = 0x0000_0100;
const LOAD_LIBRARY_SEARCH_DEFAULT_DIRS: u32 = 0x0000_1000;
const GET_MODULE_HANDLE_EX_FLAG_PIN: u32 = 0x0000_0001;
const GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS: u32 = 0x0000_0004;
/// No message box when a DLL is missing.
const SEM_FAILCRITICALERRORS: u32 = 0x0001;

#[link(name = "kernel32")]
unsafe extern "system" {
    fn LoadLibraryExW(name: *const u16, reserved: *mut c_void, flags: u32) -> Module;
    fn GetProcAddress(module: Module, name: *const c_char) -> *mut c_void;
    fn GetModuleHandleExW(flags: u32, name_or_address: *const u16, module: *mut Module) -> i32;
    fn SetThreadErrorMode(mode: u32, old: *mut u32) -> i32;
}

pub(super) unsafe fn open(path: &Path) -> Result<Pinned, LoaderError> {
    // The search flags want a fully qualified path with backslashes.
    let path = std::path::absolute(path).map_err(|why| LoaderError(why.to_string()))?;
    let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let mut mode = 0;
    // SAFETY: writes the old mode of this thread.
    unsafe { SetThreadErrorMode(SEM_FAILCRITICALERRORS, &raw mut mode) };
    let flags = LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_DEFAULT_DIRS;
    // SAFETY: `name` ends in a NUL; the caller vouches for what the library's constructors do.
    let module = unsafe { LoadLibraryExW(name.as_ptr(), ptr::null_mut(), flags) };
    let loaded = NonNull::new(module).ok_or_else(last_error);
    // SAFETY: restores the old mode of this thread.
    unsafe { SetThreadErrorMode(mode, ptr::null_mut()) };
    let module = loaded?;
    let mut pinned: Module = ptr::null_mut();
    let flags = GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS;
    // SAFETY: a module's handle is an address inside it, which is what FROM_ADDRESS takes.
    if unsafe { GetModuleHandleExW(flags, module.as_ptr().cast(), &raw mut pinned) } == 0 {
        return Err(last_error());
    }
    Ok(Pinned(module))
}

pub(super) fn symbol(library: Pinned, name: &CStr) -> Result<NonNull<c_void>, LoaderError> {
    // SAFETY: a module that is never freed, and a C string. A data export is an address like any other.
    let address = unsafe { GetProcAddress(library.0.as_ptr(), name.as_ptr()) };
    NonNull::new(address).ok_or_else(last_error)
}

fn last_error() -> LoaderError {
    LoaderError(io::Error::last_os_error().to_string())
}
