//! A plugin that misbehaves on request: see [`bad_fault::Fault`].
//!
//! It does not use the SDK. The SDK is written so that none of this can happen, so it speaks the C ABI ([`native`]), the lane
//! ([`process`]) and the component's canonical ABI (`component`) by hand, down to the protobuf in [`message`]. That also makes it a
//! second, independent reader of `include/mortise.h`, `proto/` and `wit/`.

pub mod message;

#[cfg(target_family = "wasm")]
mod component;
#[cfg(not(target_family = "wasm"))]
pub mod native;
#[cfg(not(target_family = "wasm"))]
pub mod process;

use std::hint::black_box;

use bad_fault::{Fault, MARKER_BYTES};

/// Length of the encoded metadata.
const METADATA_BYTES: usize = include_bytes!(concat!(env!("OUT_DIR"), "/mortise.meta")).len();

/// What the artifact says about itself, where a host looks for it.
#[used]
#[cfg_attr(
    all(not(target_family = "wasm"), not(target_vendor = "apple")),
    unsafe(link_section = ".mortise")
)]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mortise"))]
#[cfg_attr(target_family = "wasm", unsafe(link_section = "mortise"))]
static SECTION: [u8; METADATA_BYTES] = *include_bytes!(concat!(env!("OUT_DIR"), "/mortise.meta"));

/// What it says when it runs; a module says nothing. The same, unless somebody changes the section: that is [`Fault::LiesWhenItRuns`].
#[cfg(not(target_family = "wasm"))]
static SPOKEN: [u8; METADATA_BYTES] = *include_bytes!(concat!(env!("OUT_DIR"), "/mortise.meta"));

/// Chooses the fault in the artifact. A generator writes another name into the file.
#[used]
static MARKER: [u8; MARKER_BYTES] = Fault::marker("none");

/// The metadata as it is spoken. The section stays in the file because it is looked at here.
#[cfg(not(target_family = "wasm"))]
fn metadata() -> &'static [u8] {
    black_box(&SECTION);
    black_box(&SPOKEN)
}

/// The fault that the file names, or the one that the configuration of an encoded `StartRequest` names, if it does.
fn fault(start_request: &[u8]) -> Fault {
    let config = message::bytes_of(start_request, 1).and_then(|json| str::from_utf8(json).ok());
    config
        .and_then(Fault::from_config)
        .unwrap_or_else(|| Fault::from_marker(black_box(&MARKER)))
}

/// What a call is answered with.
fn answer(fault: Fault, payload: &[u8]) -> Vec<u8> {
    if fault == Fault::AnswersWithTheWrongType {
        bad_fault::WRONG_TYPE.to_vec()
    } else {
        payload.to_vec()
    }
}

/// An encoded `Health` that serves.
const HEALTH: [u8; 2] = [0x08, 0x01];

/// An encoded `Status` of code FAILED_PRECONDITION.
fn status(text: &str) -> Vec<u8> {
    let mut status = Vec::new();
    message::put_uint(&mut status, 1, 9);
    message::put_bytes(&mut status, 2, text.as_bytes());
    status
}

/// The encoded `LogRecord`s of a flood.
fn flood() -> impl Iterator<Item = Vec<u8>> {
    (0..bad_fault::FLOOD_LINES).map(|line| {
        let mut record = Vec::new();
        message::put_uint(&mut record, 1, 3);
        message::put_bytes(&mut record, 2, b"flood");
        let mut text = format!("line {line} ");
        text.extend(std::iter::repeat_n(
            '~',
            bad_fault::FLOOD_LINE_BYTES.saturating_sub(text.len()),
        ));
        message::put_bytes(&mut record, 3, text.as_bytes());
        record
    })
}
