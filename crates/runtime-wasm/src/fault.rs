//! From what wasmtime says to whose fault it is.

use std::{fmt, time::Duration};

use mortise_runtime::{CallError, CallErrorKind, RuntimeError, RuntimeErrorKind};
use mortise_wire::Status;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::store::{Cell, Refused};

/// Frames of the guest's stack that an error shows.
const FRAMES_MAX: usize = 5;

/// Why the host itself stopped a guest. Travels through wasmtime as an error and is found again by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The call's time is over.
    Deadline,
    /// The instance is being stopped by force.
    Halted,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "the deadline passed",
            Self::Halted => "the instance was stopped by force",
        })
    }
}

impl std::error::Error for Interrupted {}

/// A message longer than is carried. Travels like [`Interrupted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) bytes: usize,
    pub(crate) bytes_max: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes, and at most {} are carried",
            self.bytes, self.bytes_max
        )
    }
}

impl std::error::Error for TooLong {}

/// Why a guest did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Its time was over.
    Deadline,
    /// It was stopped by force.
    Halted,
    /// It asked for more memory than it may have, and died of it.
    Memory {
        /// What it asked for.
        refused: Refused,
        /// How it died.
        death: String,
    },
    /// The runtime has no room for one more instance.
    NoSlot(String),
    /// It declined to start.
    Declined(Status),
    /// It sent more than is carried.
    TooLong(TooLong),
    /// It trapped, or broke its ABI.
    Guest(String),
}

impl Fault {
    /// What an error of wasmtime means. The store it came from is not to be entered again.
    pub(crate) fn of(error: &wasmtime::Error, cell: &Cell) -> Self {
        match error.downcast_ref::<Interrupted>() {
            Some(Interrupted::Deadline) => return Self::Deadline,
            Some(Interrupted::Halted) => return Self::Halted,
            None => {}
        }
        if let Some(limit) = error.downcast_ref::<PoolConcurrencyLimitError>() {
            return Self::NoSlot(limit.to_string());
        }
        if let Some(too_long) = error.downcast_ref::<TooLong>() {
            return Self::TooLong(*too_long);
        }
        match cell.refused() {
            Some(refused) => Self::Memory {
                refused,
                death: describe(error),
            },
            None => Self::Guest(describe(error)),
        }
    }

    /// As the outcome of a call: `doing` is what the guest was asked to do, `acme.v1.Echo/Echo`.
    pub(crate) fn of_call(self, plugin: &str, doing: &str) -> CallError {
        use CallErrorKind as K;
        match self {
            Self::Deadline => CallError::late(plugin, doing).with_hint(
                "give the call more time (`limits.deadline_ms`, or the caller's own), or look for a loop in the plugin",
            ),
            Self::Halted => {
                CallError::new(K::Unavailable, format!("plugin `{plugin}` was stopped by force while it ran `{doing}`"))
            }
            Self::Memory { refused, death } => {
                CallError::new(K::Exhausted, format!("plugin `{plugin}` ran out of memory in `{doing}`: {refused}; {death}"))
                    .with_hint("raise `limits.memory_mib` for this plugin, or send it less at once")
            }
            Self::NoSlot(why) => {
                CallError::new(K::Unavailable, format!("no place to run plugin `{plugin}` for `{doing}`: {why}"))
                    .with_hint("lower `limits.concurrency`; whoever embeds the host may raise `instances_max` of the WebAssembly runtime")
            }
            Self::Declined(status) => {
                let text = format!("a fresh instance of plugin `{plugin}` declined to start for `{doing}`: {status}");
                CallError::new(K::GuestFault, text).with_hint("its `start` runs again for every call; see its log")
            }
            Self::TooLong(reply) => {
                let text = format!("plugin `{plugin}` answered `{doing}` with {reply}");
                CallError::new(K::Exhausted, text).with_hint("raise the plugin's limit on payloads, or page its replies")
            }
            Self::Guest(why) => {
                CallError::new(K::GuestFault, format!("plugin `{plugin}` failed in `{doing}`: {why}")).with_hint(
                    "its instance was thrown away and the next call gets a fresh one; a build with `strip = false` names the functions",
                )
            }
        }
    }

    /// As the outcome of a start that could take `limit`.
    pub(crate) fn of_start(self, plugin: &str, limit: Duration) -> RuntimeError {
        use RuntimeErrorKind as K;
        let (kind, message, hint) = match self {
            Self::Deadline => (
                K::StartFailed,
                format!(
                    "plugin `{plugin}` was not ready after {limit:?}: it was stopped while it was instantiated or in `start`"
                ),
                "look for a loop in the module's start function or in the plugin's `start`, or raise `limits.start`",
            ),
            Self::Halted => (
                K::StartFailed,
                format!("plugin `{plugin}` was stopped by force while it started"),
                "start it again",
            ),
            Self::Memory { refused, death } => (
                K::Exhausted,
                format!("plugin `{plugin}` needs more memory to start than it may have: {refused}; {death}"),
                "raise `limits.memory_mib` for this plugin",
            ),
            Self::NoSlot(why) => (
                K::Exhausted,
                format!("no place to start plugin `{plugin}`: {why}"),
                "unload a plugin; whoever embeds the host may raise `instances_max` of the WebAssembly runtime",
            ),
            Self::Declined(status) => {
                let error = RuntimeError::new(
                    K::StartFailed,
                    format!("plugin `{plugin}` declined to start: {status}"),
                    "its own message says why; look at its configuration",
                );
                return error.with_source(status);
            }
            Self::TooLong(reply) => (
                K::StartFailed,
                format!("plugin `{plugin}` answered `start` with {reply}"),
                "raise the plugin's limit on payloads",
            ),
            Self::Guest(why) => (
                K::StartFailed,
                format!("plugin `{plugin}` failed while it started: {why}"),
                "the plugin is at fault: look at its log lines, and test it with its own `cargo test`",
            ),
        };
        RuntimeError::new(kind, message, hint)
    }
}

/// The reason in one line: what trapped, or what the guest did against its ABI, and where.
fn describe(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    if let Some(trace) = error.downcast_ref::<WasmBacktrace>() {
        let frames: Vec<String> = trace.frames().iter().take(FRAMES_MAX).map(frame).collect();
        if !frames.is_empty() {
            text.push_str(", in ");
            text.push_str(&frames.join(" < "));
        }
        if trace.frames().len() > FRAMES_MAX {
            text.push_str(" < …");
        }
    }
    text
}

fn frame(frame: &wasmtime::FrameInfo) -> String {
    let name = frame
        .symbols()
        .first()
        .and_then(|it| it.name())
        .or_else(|| frame.func_name());
    match name {
        Some(name) => format!("`{name}`"),
        None => match frame.module_offset() {
            Some(offset) => format!("function {} at 0x{offset:x}", frame.func_index()),
            None => format!("function {}", frame.func_index()),
        },
    }
}
