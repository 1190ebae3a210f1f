//! From what a plugin's function returned to what the caller gets.

use mortise_abi::{
    MT_E_ABI, MT_E_BAD_ARG, MT_E_DRAINING, MT_E_NOMEM, MT_E_PANIC, MT_E_UNKNOWN_METHOD, MT_OK, MT_PENDING,
    MtStatus,
};
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::{Code, Status};
use prost::Message as _;

use crate::out::Overrun;

/// Longest encoded `Status` that a lifecycle function may write.
pub(crate) const STATUS_BYTES_MAX: usize = 1 << 20;

/// What a call of a method came to.
pub(crate) enum Outcome {
    Reply(Vec<u8>),
    Failed(CallError),
    /// The plugin caught a panic; with its own words.
    Panicked(String),
}

/// Reads what `target` returned: its status and what it wrote.
pub(crate) fn read(target: &str, status: MtStatus, written: Result<Vec<u8>, Overrun>) -> Outcome {
    match (status, written) {
        (_, Err(overrun)) => Outcome::Failed(fault(format!("`{target}` broke the ABI: {overrun}"))),
        (MT_OK, Ok(bytes)) => Outcome::Reply(bytes),
        (MT_E_PANIC, Ok(bytes)) => Outcome::Panicked(words(status, &bytes)),
        (_, Ok(bytes)) => Outcome::Failed(failed(target, status, &bytes)),
    }
}

/// The error for a status that is neither success nor a panic.
pub(crate) fn failed(target: &str, status: MtStatus, said: &[u8]) -> CallError {
    let words = |kind| CallError::new(kind, format!("`{target}`: {}", words(status, said)));
    match status {
        1..=16 => match own_status(status, said) {
            Some(own) => CallError::returned(own),
            None => fault(format!(
                "`{target}` answered with status {} and {} bytes that are no encoded Status",
                Code::from_i32(status),
                said.len()
            )),
        },
        MT_E_BAD_ARG => words(CallErrorKind::Malformed),
        MT_E_NOMEM => words(CallErrorKind::Exhausted).with_hint(
            "raise `limits.payload_mib` if the reply was too large, or give the machine more memory",
        ),
        MT_E_DRAINING => words(CallErrorKind::Draining),
        MT_PENDING => fault(format!(
            "`{target}` answered MT_PENDING, which only an async method may"
        )),
        MT_E_UNKNOWN_METHOD | MT_E_ABI => words(CallErrorKind::GuestFault),
        _ => fault(format!(
            "`{target}` answered with status {status}, which is no gRPC code and none of MT_E_*"
        )),
    }
}

/// The caller's error after a caught panic.
pub(crate) fn panicked(target: &str, message: &str) -> CallError {
    fault(format!("`{target}` panicked: {message}"))
        .with_hint("the instance takes no further calls and is replaced; tell the plugin's author")
}

/// What a non-OK status and the bytes beside it say to a person.
pub(crate) fn words(status: MtStatus, said: &[u8]) -> String {
    let own = Status::decode(said).ok().filter(|it| !it.message.is_empty());
    let name = match status {
        MT_E_UNKNOWN_METHOD => "MT_E_UNKNOWN_METHOD",
        MT_E_BAD_ARG => "MT_E_BAD_ARG",
        MT_E_NOMEM => "MT_E_NOMEM",
        MT_E_PANIC => "MT_E_PANIC",
        MT_E_DRAINING => "MT_E_DRAINING",
        MT_PENDING => "MT_PENDING",
        MT_E_ABI => "MT_E_ABI",
        1..=16 => Code::from_i32(status).as_str(),
        _ => "an unknown status",
    };
    match own {
        Some(own) => format!("{} ({name})", own.message),
        None => format!("it answered {name} ({status}) and did not say why"),
    }
}

/// The plugin's own status; the number it returned wins over the one it wrote. `None` if what it wrote is no status.
fn own_status(status: MtStatus, said: &[u8]) -> Option<Status> {
    let mut own = Status::decode(said).ok()?;
    own.code = status;
    if said.is_empty() {
        own.message = format!("the plugin answered {} and did not say why", own.kind());
    }
    Some(own)
}

fn fault(message: String) -> CallError {
    CallError::new(CallErrorKind::GuestFault, message)
}

#[cfg(test)]
mod tests;
