//! The head of a call, encoded without making the message first.
//!
//! `CallContext::head` gives the message with its own strings; this writes the same bytes from what is borrowed, into a buffer that is used
//! again. The test compares the two.

use std::time::Instant;

use mortise_runtime::CallContext;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Appends the encoded `CallHead` of `cx` at `now`.
pub(crate) fn encode(cx: &CallContext, now: Instant, out: &mut Vec<u8>) {
    if cx.untold {
        return;
    }
    number(1, cx.call_id, out);
    let left = cx
        .deadline
        .map_or(0, |at| at.saturating_duration_since(now).as_nanos().max(1));
    number(2, u64::try_from(left).unwrap_or(u64::MAX), out);
    text(3, &cx.traceparent, out);
    for header in cx.metadata.iter() {
        let bytes = text_len(1, &header.name) + text_len(2, &header.value);
        encode_key(4, WireType::LengthDelimited, out);
        encode_varint(bytes as u64, out);
        text(1, &header.name, out);
        text(2, &header.value, out);
    }
    number(5, u64::from(cx.depth), out);
    text(6, &cx.caller, out);
}

fn number(tag: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn text(tag: u32, value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value.as_bytes());
    }
}

fn text_len(tag: u32, value: &str) -> usize {
    if value.is_empty() {
        0
    } else {
        key_len(tag) + encoded_len_varint(value.len() as u64) + value.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mortise_wire::Header;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    proptest! {
        #[test]
        fn it_writes_what_prost_writes(
            call_id: u64,
            left_ns in proptest::option::of(0_u64..u64::MAX / 4),
            depth: u32,
            traceparent in ".{0,60}",
            caller in "[a-z]{0,8}",
            metadata in proptest::collection::vec(("[a-z-]{0,12}", ".{0,200}"), 0..5),
            untold in proptest::bool::weighted(0.1),
        ) {
            let now = Instant::now();
            let cx = CallContext {
                call_id,
                deadline: left_ns.map(|ns| now + Duration::from_nanos(ns)),
                began: None,
                traceparent: traceparent.into(),
                metadata: metadata.into_iter().map(|(name, value)| Header { name, value }).collect(),
                depth,
                caller: caller.into(),
                untold,
                ..CallContext::default()
            };
            let mut ours = Vec::new();
            encode(&cx, now, &mut ours);
            prop_assert_eq!(ours, cx.head(now).encode_to_vec());
        }
    }
}
