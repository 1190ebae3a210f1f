//! W3C trace context (<https://www.w3.org/TR/trace-context/>): the caller's `traceparent` is continued, or a new trace begun.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
};

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    id: [u8; 32],
    flags: [u8; 2],
}

impl Trace {
    /// The trace that `traceparent` names; a new one if it is absent or not valid, as the W3C asks.
    pub(crate) fn of(traceparent: Option<&[u8]>) -> Self {
        traceparent.and_then(Self::parse).unwrap_or_else(Self::begin)
    }

    /// A new trace, not sampled by anyone yet.
    fn begin() -> Self {
        let mut id = [0; 32];
        write_hex(&mut id[..16], random());
        write_hex(&mut id[16..], random());
        Self { id, flags: *b"00" }
    }

    /// `00-{32 hex}-{16 hex}-{2 hex}`; later versions may append more after a dash.
    fn parse(text: &[u8]) -> Option<Self> {
        let fixed = text.first_chunk::<55>()?;
        let hex = |part: &[u8]| part.iter().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        let zero = |part: &[u8]| part.iter().all(|it| *it == b'0');
        let (version, id, parent, flags) = (&fixed[..2], &fixed[3..35], &fixed[36..52], &fixed[53..]);
        let dashes = [2, 35, 52].into_iter().all(|at| fixed[at] == b'-');
        let valid = dashes
            && [version, id, parent, flags].into_iter().all(hex)
            && version != b"ff"
            && !zero(id)
            && !zero(parent);
        let length = text.len() == 55 || (version != b"00" && text[55] == b'-');
        (valid && length).then(|| Self {
            id: id.try_into().expect("32 of 55"),
            flags: flags.try_into().expect("2 of 55"),
        })
    }

    /// The id, 32 hex digits.
    pub(crate) fn id(&self) -> &str {
        std::str::from_utf8(&self.id).expect("hex digits are ASCII")
    }

    /// A traceparent for a new span of this trace.
    pub(crate) fn span(&self) -> String {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(&self.id);
        write_hex(&mut text[36..52], random());
        text[53..].copy_from_slice(&self.flags);
        std::str::from_utf8(&text)
            .expect("hex digits and dashes are ASCII")
            .to_owned()
    }
}

fn write_hex(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// Never zero, unique enough for an id, worthless as a secret: SplitMix64 from a seed of the operating system, one per thread.
fn random() -> u64 {
    thread_local!(static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish()));
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_callers_trace_is_continued_in_a_span_of_our_own() {
        let trace = Trace::of(Some(VALID.as_bytes()));
        assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let (one, two) = (trace.span(), trace.span());
        assert!(
            one.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && one.ends_with("-01"),
            "{one}"
        );
        assert_ne!(one, two);
        assert!(
            !one.contains("00f067aa0ba902b7"),
            "the caller's span is the parent, not ours"
        );
        assert_eq!(Trace::of(Some(one.as_bytes())), trace);
    }

    #[test]
    fn what_is_not_valid_begins_a_new_trace() {
        let flipped = |from: &str, to: &str| VALID.replacen(from, to, 1);
        for text in [
            String::new(),
            VALID[..54].to_owned(),
            format!("{VALID}-more"),
            flipped("00-", "ff-"),
            flipped("4bf9", "4BF9"),
            flipped("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            flipped("00f067aa0ba902b7", &"0".repeat(16)),
            flipped("-01", "_01"),
        ] {
            let trace = Trace::of(Some(text.as_bytes()));
            assert_ne!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736", "{text}");
            assert_ne!(trace, Trace::of(None), "{text}");
        }
        assert_eq!(
            Trace::of(Some(format!("{}-more", flipped("00-", "01-")).as_bytes())).id(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
    }
}
