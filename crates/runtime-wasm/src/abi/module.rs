//! What the hosts of core modules share. Whatever a guest says about its memory is checked before it is used.

use bytes::Bytes;
use mortise_wire::Status;
use wasmtime::{AsContextMut, Caller, Error, Extern, Linker, Memory, Module};

use crate::store::Cell;

/// Where a guest wants a call's result, for messages.
pub(super) const RESULT_PLACE: &str = "the place for the result";

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

/// Copies `bytes` to `at`; `what` that is stands in the error.
pub(super) fn place(memory: &mut [u8], at: u32, bytes: &[u8], what: &str) -> wasmtime::Result<()> {
    let range = at as usize..(at as usize).saturating_add(bytes.len());
    let size = memory.len();
    let place = memory
        .get_mut(range)
        .ok_or_else(|| outside(what, at, bytes.len(), size))?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// As [`place`], through the store.
pub(super) fn write(
    mut store: impl AsContextMut,
    memory: Memory,
    at: u32,
    bytes: &[u8],
    what: &str,
) -> wasmtime::Result<()> {
    place(memory.data_mut(&mut store), at, bytes, what)
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

/// The import `log`, which both kinds of core module have alike.
pub(super) fn link_log(linker: &mut Linker<Cell>, interface: &str) -> wasmtime::Result<()> {
    let log = |mut caller: Caller<'_, Cell>, at: u32, len: u32| {
        let memory = memory_of(&mut caller)?;
        let (memory, cell) = memory.data_and_store_mut(&mut caller);
        cell.log(slice(memory, at, len, "the log record")?);
        wasmtime::Result::Ok(())
    };
    linker.func_wrap(interface, "log", log).map(drop)
}

/// Machine code of a module.
pub(super) fn code_bytes(module: &Module) -> u64 {
    let image = module.image_range();
    (image.end as u64).saturating_sub(image.start as u64)
}

/// How many of the engine's slots an instance takes.
pub(super) fn slots(module: &Module) -> u32 {
    let needs = module.resources_required();
    needs.num_memories.max(needs.num_tables.div_ceil(2)).max(1)
}

fn outside(what: &str, at: u32, len: usize, size: usize) -> Error {
    Error::msg(format!(
        "{what} ({len} bytes at {at:#x}) is outside the guest's memory of {size} bytes"
    ))
}
