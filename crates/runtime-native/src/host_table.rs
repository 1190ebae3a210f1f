//! `mt_host`: the functions that a plugin calls. Each may be called from any thread, at any time, even after `destroy` (I3).

use std::{
    cell::RefCell,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use mortise_abi::{
    MT_ABI_MAJOR, MT_ABI_MINOR, MT_E_BAD_ARG, MT_E_DRAINING, MT_E_NOMEM, MT_OK, MtCall, MtHost, MtOut,
    MtSlice, MtStatus, MtStr,
};
use mortise_runtime::LogLine;
use mortise_wire::{Code, Level, LogRecord, Status};
use prost::Message as _;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    gate::{Gate, Side},
    live::Frame,
    out,
};

/// A longer log line is replaced by a line that says so.
const LOG_BYTES_MAX: usize = 256 << 10;
/// Longest target of a call to the host.
const TARGET_BYTES_MAX: usize = 4096;

thread_local! {
    /// The panic that the plugin told of on this thread and that no function has returned yet.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub(crate) fn table(ctx: *mut c_void) -> MtHost {
    MtHost {
        size: size_of::<MtHost>() as u32,
        abi_major: MT_ABI_MAJOR,
        abi_minor: MT_ABI_MINOR,
        ctx,
        log: Some(log),
        call: Some(call),
        panicked: Some(panicked),
        get_ext: None,
    }
}

/// The panic that the plugin told of on this thread, once.
pub(crate) fn take_panic() -> Option<String> {
    PANIC.try_with(RefCell::take).ok().flatten()
}

unsafe extern "C" fn log(ctx: *mut c_void, record: MtSlice) {
    contain((), || {
        // SAFETY: `ctx` is what `Gate::table` gave to the plugin.
        let Some(side) = unsafe { Gate::from_ctx(ctx) }.and_then(Gate::side) else {
            return;
        };
        // SAFETY: borrowed until this function returns.
        let encoded = unsafe { out::bytes(record) };
        let mut record = if encoded.len() > LOG_BYTES_MAX {
            complaint(format!(
                "a log line of {} bytes was dropped; at most {LOG_BYTES_MAX} are taken",
                encoded.len()
            ))
        } else {
            LogRecord::decode(encoded).unwrap_or_else(|why| {
                complaint(format!(
                    "a log line was dropped, because it does not parse: {why}"
                ))
            })
        };
        let frame = side.live.find(record.call_id);
        record.call_id = frame.as_ref().map_or(0, |it| it.cx.call_id);
        side.services.log(LogLine {
            record: &record,
            call: frame.as_ref().map(|it| &it.cx),
        });
    });
}

unsafe extern "C" fn panicked(ctx: *mut c_void, message: MtStr, location: MtStr) {
    contain((), || {
        // SAFETY: both are valid until this function returns.
        let (message, location) = unsafe { (text(message), text(location)) };
        let told = if location.is_empty() {
            message.clone()
        } else {
            format!("{message} at {location}")
        };
        _ = PANIC.try_with(|it| it.replace(Some(told)));
        // SAFETY: `ctx` is what `Gate::table` gave to the plugin.
        let Some(side) = unsafe { Gate::from_ctx(ctx) }.and_then(Gate::side) else {
            return;
        };
        let record = LogRecord {
            level: Level::Error.into(),
            target: "panic".to_owned(),
            message: format!("the plugin panicked: {message}"),
            fields: vec![mortise_wire::Header {
                name: "location".to_owned(),
                value: location,
            }],
            call_id: 0,
        };
        side.services.log(LogLine {
            record: &record,
            call: None,
        });
    });
}

unsafe extern "C" fn call(
    ctx: *mut c_void,
    parent: *const MtCall,
    target: MtStr,
    input: MtSlice,
    reply: *mut MtOut,
) -> MtStatus {
    contain(Code::Internal as MtStatus, || {
        // SAFETY: `ctx` is what `Gate::table` gave to the plugin.
        let Some(side) = unsafe { Gate::from_ctx(ctx) }.and_then(Gate::side) else {
            return MT_E_DRAINING;
        };
        if target.len > TARGET_BYTES_MAX {
            return MT_E_BAD_ARG;
        }
        // SAFETY: the plugin lends both until this function returns; `parent` is null or the `mt_call` that the plugin was given, or a copy.
        let (target, input, parent) = unsafe {
            (
                text(target),
                out::bytes(input),
                parent.as_ref().map(|it| it.call_id),
            )
        };
        let result = if input.len() > side.payload_bytes_max {
            let max = side.payload_bytes_max;
            Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "the request to `{target}` has {} bytes, and at most {max} may cross",
                    input.len()
                ),
            ))
        } else {
            call_host(&side, parent, &target, Bytes::copy_from_slice(input))
        };
        let (status, bytes) = match result {
            Ok(bytes) => (MT_OK, bytes),
            Err(status) => (status.kind() as MtStatus, status.encode_to_vec().into()),
        };
        // SAFETY: the plugin's own buffer, ours until this function returns.
        match unsafe { out::write(reply, &bytes) } {
            MT_OK => status,
            // Without room for the details the code has to do.
            _ if status != MT_OK => status,
            _ => MT_E_NOMEM,
        }
    })
}

/// Calls the host and waits for its answer on this thread (I5).
fn call_host(side: &Side, parent: Option<u64>, target: &str, payload: Bytes) -> Result<Bytes, Status> {
    let frame = match parent {
        None => None,
        Some(id) => Some(side.live.find(id).ok_or_else(|| {
            Status::new(
                Code::FailedPrecondition,
                format!("`{target}` was called on behalf of call {id}, which is not running; pass NULL for a call of the plugin's own"),
            )
        })?),
    };
    let work = async {
        let parent = frame.as_ref().map(|it| &it.cx);
        tokio::select! {
            biased;
            () = cancelled(frame.as_ref()) => {
                Err(Status::new(Code::Cancelled, format!("nobody waits for the call any more that called `{target}`")))
            }
            result = side.services.call(parent, target, payload) => result,
        }
    };
    match Handle::try_current() {
        // A thread of our own or of the plugin's.
        Err(_) => side.executor.block_on(work),
        // A thread of the executor: its other tasks move elsewhere first.
        Ok(here) if here.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| here.block_on(work))
        }
        // There is no elsewhere.
        Ok(_) => Err(Status::new(
            Code::FailedPrecondition,
            format!(
                "`{target}` was called from a method that is flagged nonblocking or bound directly, on a host with one thread, which would wait \
                 for itself; take the flag `nonblocking` off the method"
            ),
        )),
    }
}

async fn cancelled(frame: Option<&Arc<Frame>>) {
    match frame {
        Some(frame) => frame.cancelled().await,
        None => std::future::pending().await,
    }
}

/// I4: a panic of the host's services must not reach the plugin's frames.
pub(crate) fn contain<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        tracing::error!("the host panicked while a native plugin called it");
        otherwise
    })
}

fn complaint(message: String) -> LogRecord {
    LogRecord {
        level: Level::Warn.into(),
        target: "mortise".to_owned(),
        message,
        ..LogRecord::default()
    }
}

/// # Safety
/// As for [`out::bytes`].
unsafe fn text(text: MtStr) -> String {
    // SAFETY: the caller's promise.
    let bytes = unsafe {
        out::bytes(MtSlice {
            ptr: text.ptr,
            len: text.len,
        })
    };
    String::from_utf8_lossy(bytes).into_owned()
}
