//! Names, headers, and errors in our words.
//!
//! What a plugin chose (keys, headers) may hold anything, and a header of NATS is one line: texts are written with `%XX` for what is not printable, and
//! what only hosts read is one message in base64.

use std::fmt::Display;

use async_nats::{HeaderMap, jetstream};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mortise_events::{Event, EventError, EventErrorKind, NewEvent, event::of_unix_ms};
use mortise_wire::CallHead;
use prost::Message as _;

/// Full name of the message.
pub(crate) const TYPE: &str = "Mortise-Type";
/// The idempotency key.
const KEY: &str = "Mortise-Key";
/// Publisher, trace, depth and what travels on.
const HEAD: &str = "Mortise-Head";
/// The one subscription that it is for.
pub(crate) const ONLY: &str = "Mortise-Only";
/// Of what is in the log or among the letters for a second time: its number from the first.
pub(crate) const SEQ: &str = "Mortise-Seq";
/// Likewise: when it was accepted, in milliseconds since 1970.
pub(crate) const AT: &str = "Mortise-At";
/// Of a dead letter: its topic.
pub(crate) const TOPIC: &str = "Mortise-Topic";
/// Of a dead letter: why.
pub(crate) const WHY: &str = "Mortise-Why";
/// Of a dead letter: attempts.
pub(crate) const ATTEMPTS: &str = "Mortise-Attempts";

/// A message of a stream, however it was asked for.
pub(crate) struct Kept {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    at_ms: u64,
    headers: HeaderMap,
    payload: Bytes,
}

// === impl Kept ===

impl Kept {
    /// `None` only if it did not come out of a stream.
    pub(crate) fn of_delivery(message: &jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        Some(Self {
            subject: message.subject.to_string(),
            seq: info.stream_sequence,
            at_ms: to_ms(info.published),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
        })
    }

    pub(crate) fn of_stream(message: jetstream::message::StreamMessage) -> Self {
        Self {
            subject: message.subject.to_string(),
            seq: message.sequence,
            at_ms: to_ms(message.time),
            headers: message.headers,
            payload: message.payload,
        }
    }

    pub(crate) fn header(&self, name: &'static str) -> Option<String> {
        self.headers.get(name).map(|it| plain(it.as_str()))
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &'static str) -> Option<T> {
        self.headers.get(name)?.as_str().parse().ok()
    }

    pub(crate) fn at_ms(&self) -> u64 {
        self.at_ms
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The event that it holds. One that nobody of ours wrote is an event without a type.
    pub(crate) fn event(&self, topic: String) -> Event {
        let head = self.headers.get(HEAD).and_then(|it| {
            let bytes = BASE64_STANDARD.decode(it.as_str()).ok()?;
            CallHead::decode(&*bytes).ok()
        });
        let head = head.unwrap_or_default();
        Event {
            seq: self.number(SEQ).unwrap_or(self.seq),
            at: of_unix_ms(self.number(AT).unwrap_or(self.at_ms)),
            content: NewEvent {
                topic,
                type_name: self.header(TYPE).unwrap_or_default(),
                payload: self.payload.clone(),
                key: self.header(KEY),
                publisher: head.caller,
                traceparent: head.traceparent,
                headers: head.metadata,
                depth: head.depth,
            },
        }
    }
}

/// What is beside an event's payload.
pub(crate) fn headers(event: &NewEvent) -> HeaderMap {
    let head = CallHead {
        traceparent: event.traceparent.clone(),
        metadata: event.headers.clone(),
        depth: event.depth,
        caller: event.publisher.clone(),
        ..CallHead::default()
    };
    let mut headers = HeaderMap::new();
    headers.insert(HEAD, BASE64_STANDARD.encode(head.encode_to_vec()));
    headers.insert(TYPE, line(&event.type_name));
    if let Some(key) = &event.key {
        headers.insert(KEY, line(key));
    }
    headers
}

/// What is beside an event's payload that is there for a second time.
pub(crate) fn headers_again(event: &Event) -> HeaderMap {
    let mut headers = headers(&event.content);
    headers.insert(SEQ, event.seq.to_string());
    headers.insert(AT, event.at_unix_ms().to_string());
    headers
}

/// By which the server knows what it has already.
pub(crate) fn message_id(topic: &str, key: &str) -> String {
    format!("{topic}/{}", line(key))
}

/// Any text as one line of printable characters without spaces.
pub(crate) fn line(text: &str) -> String {
    escape(text, b'%', |it| it.is_ascii_graphic() && it != b'%')
}

/// A subscription's name as a consumer's, and as a word of subjects: `books/book` is `books=2Fbook`.
pub(crate) fn consumer_name(subscription: &str) -> String {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
    escape(subscription, b'=', is_plain)
}

/// The reverse of [`consumer_name`].
pub(crate) fn subscription_name(consumer: &str) -> String {
    unescape(consumer, b'=')
}

/// The reverse of [`line`].
fn plain(line: &str) -> String {
    unescape(line, b'%')
}

fn escape(text: &str, mark: u8, is_plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("{}{byte:02X}", char::from(mark)));
        }
    }
    out
}

fn unescape(text: &str, mark: u8) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        let escaped = (*first == mark).then(|| more.get(..2)).flatten();
        let escaped = escaped.and_then(|it| u8::from_str_radix(str::from_utf8(it).ok()?, 16).ok());
        if escaped.is_some() {
            rest = &more[2..];
        }
        bytes.push(escaped.unwrap_or(*first));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn to_ms(at: async_nats::datetime::DateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// Something did not work, and may later.
pub(crate) fn failed(what: &str, why: &dyn Display) -> EventError {
    EventError::new(
        EventErrorKind::Unavailable,
        format!("NATS did not {what}: {why}"),
        "look at the server's log, and whether it runs with JetStream; what was not kept can be published again, with the same key",
    )
}

/// No server is there.
pub(crate) fn unreachable(where_to: &str, why: &dyn Display) -> EventError {
    EventError::new(
        EventErrorKind::Unavailable,
        format!("NATS at {where_to} is not reached: {why}"),
        "look whether it runs and lets this host in; publish again when it is back, with the same key",
    )
}

/// The end.
pub(crate) fn closed() -> EventError {
    EventError::new(
        EventErrorKind::Unavailable,
        "the host is shutting down",
        "publish again when it is back, with the same key",
    )
}

#[cfg(test)]
mod tests {
    use mortise_wire::Header;

    use super::*;

    #[test]
    fn any_name_is_a_consumer_s_and_comes_back() {
        assert_eq!(consumer_name("books/book"), "books=2Fbook");
        assert_eq!(consumer_name("a_-9"), "a_-9");
        for name in ["a/b", "a=2Fb", "\u{e9}t\u{e9} .*>\\", "=", "a=", "=2"] {
            let consumer = consumer_name(name);
            assert!(
                consumer
                    .bytes()
                    .all(|it| it.is_ascii_graphic() && !b".*>/\\".contains(&it)),
                "{consumer}"
            );
            assert_eq!(subscription_name(&consumer), name);
        }
        assert_ne!(consumer_name("a/b"), consumer_name("a=2Fb"));
    }

    #[test]
    fn whatever_a_publisher_wrote_comes_back() {
        let event = NewEvent {
            topic: "a.b".to_owned(),
            type_name: "x.Y".to_owned(),
            payload: Bytes::from_static(b"\0\xff"),
            key: Some("two\r\nlines: \u{1f600} 100%".to_owned()),
            publisher: "p\n".to_owned(),
            traceparent: "00-1-2-01".to_owned(),
            headers: vec![Header {
                name: "x:y".to_owned(),
                value: " \u{e9}\r\n".to_owned(),
            }],
            depth: 7,
        };
        let kept = Kept {
            subject: String::new(),
            seq: 5,
            at_ms: 1_234,
            headers: headers(&event),
            payload: event.payload.clone(),
        };
        let read = kept.event("a.b".to_owned());
        assert_eq!((read.seq, read.at_unix_ms(), &read.content), (5, 1_234, &event));
        // And from its second place, with what it was at first.
        let again = Kept {
            seq: 9,
            at_ms: 9_999,
            headers: headers_again(&read),
            ..kept
        };
        assert_eq!(again.event("a.b".to_owned()), read);
        assert_ne!(message_id("a", "b c"), message_id("a", "b\nc"));
    }
}
