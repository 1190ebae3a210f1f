//! A guest's memory as a core module's host sees it: whatever the guest says about it is checked before it is used.

use bytes::Bytes;
use mortise_wire::Status;
use wasmtime::{AsContextMut, Caller, Error, Extern, Memory};

use crate::store::Cell;

/// A length as a 32-bit guest knows it.
pub(super) fn length(bytes: &[u8]) -> wasmtime::Result<u32> {
    u32::try_from(bytes.len())
        .map_err(|_| Error::msg(format!("{} bytes do not fit a 32-bit guest", bytes.len())))
}

/// `len` bytes at `at`; `what` they are stands in the error.
pub(super) fn slice<'a>(memory: &'a [u8], at: u32, len: u32, what: &str) -> wasmtime::Result<&'a [u8]> {
    let range = at as usize..(at as usize).saturating_add(len as usize);
    memory
        .get(range)
        .ok_or_else(|| outside(what, at, len as usize, memory.len()))
}

/// Copies `bytes` to `at`, which the guest's `allocator` gave.
pub(super) fn place(memory: &mut [u8], at: u32, bytes: &[u8], allocator: &str) -> wasmtime::Result<()> {
    let range = at as usize..(at as usize).saturating_add(bytes.len());
    let size = memory.len();
    match memory.get_mut(range) {
        Some(place) => place.copy_from_slice(bytes),
        None => {
            return Err(outside(
                &format!("what `{allocator}` gave"),
                at,
                bytes.len(),
                size,
            ));
        }
    }
    Ok(())
}

/// As [`place`], through the store.
pub(super) fn write(
    mut store: impl AsContextMut,
    memory: Memory,
    at: u32,
    bytes: &[u8],
    allocator: &str,
) -> wasmtime::Result<()> {
    place(memory.data_mut(&mut store), at, bytes, allocator)
}

/// The little-endian word at `at` of a slice that is known to have it.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The memory of the guest that called.
pub(super) fn memory_of(caller: &mut Caller<'_, Cell>) -> wasmtime::Result<Memory> {
    caller
        .get_export("memory")
        .and_then(Extern::into_memory)
        .ok_or_else(|| Error::msg("`memory` is no memory"))
}

/// What the guest at these places calls, and with what; or the status that it gets for asking too much. Nothing is copied before it is known to
/// be no more than is carried.
pub(super) fn request(
    memory: &[u8],
    cell: &Cell,
    (target_at, target_len): (u32, u32),
    (at, len): (u32, u32),
) -> wasmtime::Result<Result<(String, Bytes), Status>> {
    let target = slice(memory, target_at, target_len, "the target")?;
    let payload = slice(memory, at, len, "the payload")?;
    if let Some(status) = cell.too_much(target.len(), payload.len()) {
        return Ok(Err(status));
    }
    let target = std::str::from_utf8(target)
        .map_err(|_| Error::msg("the target of a host call is not UTF-8"))?
        .to_owned();
    Ok(Ok((target, Bytes::copy_from_slice(payload))))
}

fn outside(what: &str, at: u32, len: usize, size: usize) -> Error {
    Error::msg(format!(
        "{what} ({len} bytes at {at:#x}) is outside the guest's memory of {size} bytes"
    ))
}
