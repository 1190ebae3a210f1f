//! The first look at a library's own data: nothing here runs any of its functions but `create`.

use std::{ptr::NonNull, slice};

use mortise_abi::{
    MT_ABI_MAJOR, MT_ABI_MINOR, MT_ENTRY_SYMBOL, MT_F_PANIC_ABORT, MT_MAGIC, MT_OK, MtEntry, MtHost,
    MtInstance, MtMethod, MtSlice, MtStr, mt_has,
};
use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use mortise_wire::{METHOD_NONBLOCKING, Metadata};

use crate::{
    instance::Table,
    out::{Buffer, Overrun},
    outcome,
};

/// Rows that a method table may have, so that a wild number is refused and not walked.
const METHODS_MAX: u32 = 1 << 16;
/// Longest name in a method table.
const NAME_BYTES_MAX: usize = 1024;

/// Where the entry symbol leads. Nothing about it is known to be true before [`Entry::check`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(NonNull<MtEntry>);

// SAFETY: constant data of a library that is never unmapped.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

type Create = unsafe extern "C" fn(
    host: *const MtHost,
    start: MtSlice,
    instance: *mut *const MtInstance,
    err: *mut mortise_abi::MtOut,
) -> mortise_abi::MtStatus;

/// An entry that speaks our ABI and says in memory what its file says.
pub(crate) struct Checked {
    create: Create,
}

/// One method, found in the plugin's table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `package.Service/Method`.
    pub(crate) target: std::sync::Arc<str>,
    pub(crate) nonblocking: bool,
    pub(crate) invoke: Option<mortise_abi::MtInvokeFn>,
    pub(crate) invoke_async: Option<mortise_abi::MtInvokeAsyncFn>,
}

pub(crate) fn no_symbol(why: &str) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::NotAPlugin,
        format!(
            "the library exports no symbol `{}`: {why}",
            MT_ENTRY_SYMBOL.to_string_lossy()
        ),
        "build it with `mortise build`; in C, define `MT_EXPORT const mt_entry mortise_entry_v1` and do not strip it",
    )
}

// === impl Entry ===

impl Entry {
    pub(crate) fn new(address: NonNull<MtEntry>) -> Self {
        Self(address)
    }

    /// `section` is the metadata as the file's section holds it, the only version that was verified.
    pub(crate) fn check(self, section: &[u8]) -> Result<Checked, RuntimeError> {
        let entry = self.0.as_ptr();
        if !entry.is_aligned() {
            return Err(not_a_plugin("is not aligned".to_owned()));
        }
        // SAFETY: the symbol is in mapped memory, and the fields up to `flags` are in every version; they may hold anything.
        let (magic, size, major, minor, flags) = unsafe {
            (
                (*entry).magic,
                (*entry).size,
                (*entry).abi_major,
                (*entry).abi_minor,
                (*entry).flags,
            )
        };
        if magic != MT_MAGIC {
            return Err(not_a_plugin(format!(
                "begins with {magic:#010x} and not with {MT_MAGIC:#010x}"
            )));
        }
        if major != MT_ABI_MAJOR {
            return Err(RuntimeError::new(
                RuntimeErrorKind::AbiMismatch,
                format!(
                    "the plugin was built for version {major}.{minor} of the native ABI, and this host speaks {MT_ABI_MAJOR}.{MT_ABI_MINOR}"
                ),
                "build the plugin with an SDK of this host's release, or run it with a host of the plugin's",
            ));
        }
        if !mt_has!(size, MtEntry, create) {
            return Err(not_a_plugin(format!(
                "says it is {size} bytes long, too short for `create`"
            )));
        }
        if flags & MT_F_PANIC_ABORT != 0 {
            return Err(RuntimeError::new(
                RuntimeErrorKind::Unsupported,
                "the plugin was built with `panic = \"abort\"`: a panic in it would end the host",
                "build it with `panic = \"unwind\"`, or run it in the process runtime",
            ));
        }
        // SAFETY: the struct reaches past `create`, as checked above.
        let (metadata, create) = unsafe { ((*entry).metadata, (*entry).create) };
        if metadata.len != section.len() || metadata.ptr.is_null() {
            return Err(tampered(format!(
                "{} bytes, and in its file {}",
                metadata.len,
                section.len()
            )));
        }
        // SAFETY: constant data of the library, of the length that its verified section has.
        if unsafe { slice::from_raw_parts(metadata.ptr, metadata.len) } != section {
            return Err(tampered("as many bytes as in its file, but others".to_owned()));
        }
        let create = create.ok_or_else(|| not_a_plugin("has no `create`".to_owned()))?;
        Ok(Checked { create })
    }
}

// === impl Checked ===

impl Checked {
    /// Calls `create` and takes over what it made. On `Err` nothing of the plugin is left.
    ///
    /// # Safety
    /// `host` stays valid until the instance is destroyed.
    pub(crate) unsafe fn create(&self, host: *const MtHost, start: &[u8]) -> Result<Table, RuntimeError> {
        let mut made: *const MtInstance = std::ptr::null();
        let mut err = Vec::new();
        let mut buffer = Buffer::new(&mut err, outcome::STATUS_BYTES_MAX);
        // SAFETY: the plugin's own function, with arguments as mortise.h describes them; all outlive the call.
        let status = unsafe { (self.create)(host, MtSlice::new(start), &raw mut made, buffer.as_out()) };
        let written = buffer.finish();
        if status != MT_OK {
            return Err(start_failed("create", status, written.map(|()| err)));
        }
        if made.is_null() || !made.is_aligned() {
            return Err(not_a_plugin(
                "answered MT_OK to `create` and gave no instance".to_owned(),
            ));
        }
        // SAFETY: the plugin says that it is an instance; `size` is its first field.
        let size = unsafe { (*made).size };
        if !mt_has!(size, MtInstance, destroy) {
            return Err(not_a_plugin(format!(
                "made an instance of {size} bytes, too short for `destroy`"
            )));
        }
        // SAFETY: long enough for everything up to `destroy`, as checked; alive until `destroy`, which `Table` alone calls.
        unsafe { Table::new(made) }
            .ok_or_else(|| not_a_plugin("made an instance without `destroy`".to_owned()))
    }
}

/// The failure of a lifecycle function, in the plugin's own words where it has any.
pub(crate) fn start_failed(
    function: &str,
    status: mortise_abi::MtStatus,
    said: Result<Vec<u8>, Overrun>,
) -> RuntimeError {
    let said = said
        .map(|bytes| outcome::words(status, &bytes))
        .unwrap_or_else(|overrun| overrun.to_string());
    RuntimeError::new(
        RuntimeErrorKind::StartFailed,
        format!("the plugin's `{function}` failed: {said}"),
        "look at its configuration and at its log; it was torn down and nothing of it runs",
    )
}

/// Finds every method of the metadata in the instance's table, in the metadata's order.
pub(crate) fn match_methods(table: &Table, metadata: &Metadata) -> Result<Vec<Row>, RuntimeError> {
    let rows = read_rows(table)?;
    let mut matched = Vec::with_capacity(metadata.methods.len());
    for method in &metadata.methods {
        let target = format!("{}/{}", method.service, method.name);
        let Some(found) = rows
            .iter()
            .find(|it| it.service == method.service && it.name == method.name)
        else {
            let have: Vec<_> = rows
                .iter()
                .map(|it| format!("`{}/{}`", it.service, it.name))
                .collect();
            return Err(lies(
                format!("it provides `{target}`"),
                format!("has {}", list(&have)),
            ));
        };
        if found.wire_hash != [0; 32] && found.wire_hash != *method.wire_hash {
            return Err(lies(
                format!("`{target}` has one wire hash"),
                "has another".to_owned(),
            ));
        }
        if found.invoke.is_none() && found.invoke_async.is_none() {
            return Err(lies(
                format!("it provides `{target}`"),
                "has no function for it".to_owned(),
            ));
        }
        matched.push(Row {
            target: target.into(),
            nonblocking: method.flags & METHOD_NONBLOCKING != 0,
            invoke: found.invoke,
            invoke_async: found.invoke_async,
        });
    }
    Ok(matched)
}

struct RawRow<'a> {
    service: &'a str,
    name: &'a str,
    wire_hash: [u8; 32],
    invoke: Option<mortise_abi::MtInvokeFn>,
    invoke_async: Option<mortise_abi::MtInvokeAsyncFn>,
}

fn read_rows(table: &Table) -> Result<Vec<RawRow<'_>>, RuntimeError> {
    let (first, count, stride) = table.methods();
    if count > METHODS_MAX {
        return Err(not_a_plugin(format!(
            "has a method table of {count} rows; at most {METHODS_MAX} are read"
        )));
    }
    let stride_bytes = stride as usize;
    let needed = std::mem::offset_of!(MtMethod, invoke_async) + size_of::<usize>();
    if count > 0 && (first.is_null() || !first.is_aligned()) {
        return Err(not_a_plugin(
            "has a method table at an impossible address".to_owned(),
        ));
    }
    if count > 0 && (stride_bytes < needed || !stride_bytes.is_multiple_of(align_of::<MtMethod>())) {
        return Err(not_a_plugin(format!(
            "has a method table with rows of {stride} bytes; at least {needed} are needed"
        )));
    }
    (0..count as usize)
        .map(|index| {
            // SAFETY: the plugin says that `count` rows of `stride` bytes begin at `first`; aligned and long enough as checked above.
            let row = unsafe { &*first.byte_add(index * stride_bytes) };
            Ok(RawRow {
                service: name(row.service, index)?,
                name: name(row.method, index)?,
                wire_hash: row.wire_hash,
                invoke: row.invoke,
                invoke_async: row.invoke_async,
            })
        })
        .collect()
}

fn name<'a>(text: MtStr, index: usize) -> Result<&'a str, RuntimeError> {
    let bad = |why: &str| {
        not_a_plugin(format!(
            "has a name in row {index} of its method table that {why}"
        ))
    };
    if text.ptr.is_null() || text.len == 0 || text.len > NAME_BYTES_MAX {
        return Err(bad("is empty or longer than 1024 bytes"));
    }
    // SAFETY: names in a method table are of static lifetime (mortise.h, `mt_str`), in a library that is never unmapped.
    let bytes = unsafe { slice::from_raw_parts(text.ptr, text.len) };
    std::str::from_utf8(bytes).map_err(|_| bad("is not UTF-8"))
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "no methods".to_owned()
    } else {
        names.join(", ")
    }
}

fn not_a_plugin(why: String) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::NotAPlugin,
        format!("the library's `{}` {why}", MT_ENTRY_SYMBOL.to_string_lossy()),
        "build the plugin with `mortise build`; in C, fill in the entry as include/mortise.h describes it",
    )
}

fn tampered(inside: String) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Tampered,
        format!(
            "the metadata that the library's entry names is not the metadata of its section: in memory {inside}"
        ),
        "build the plugin again with `mortise build`; do not edit its output",
    )
}

fn lies(metadata: String, table: String) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Tampered,
        format!("the plugin's metadata says that {metadata}, and its method table {table}"),
        "build the plugin again with `mortise build`; do not edit its output",
    )
}
