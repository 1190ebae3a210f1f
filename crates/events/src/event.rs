//! What an event is.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mortise_wire::Header;

/// An event that is to be published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewEvent {
    /// Where to.
    pub topic: String,
    /// Full name of the message that the payload is.
    pub type_name: String,
    /// The encoded message.
    pub payload: Bytes,
    /// The idempotency key: of several events of a topic with one key, the first one is kept, as long as its key is remembered.
    pub key: Option<String>,
    /// Who publishes it: a plugin's address, or what the embedder or the operator is called.
    pub publisher: String,
    /// W3C traceparent of the call in which it is published; empty = not traced.
    pub traceparent: String,
    /// Headers that travel on.
    pub headers: Vec<Header>,
    /// How many calls and events led to it. Events that cause one another without an end are stopped by it, as calls are.
    pub depth: u32,
}

/// An event that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the log; grows, and is never given to another event.
    pub seq: u64,
    /// When it was accepted.
    pub at: SystemTime,
    /// What was published.
    pub content: NewEvent,
}

/// What a publisher is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The event's place in the log.
    pub seq: u64,
    /// An event with this key was there already: this is its place, and nothing was added.
    pub duplicate: bool,
}

impl Event {
    /// What is the same in every delivery of it, and in every event that its publisher meant to be the same.
    #[must_use]
    pub fn key(&self) -> String {
        self.content
            .key
            .clone()
            .unwrap_or_else(|| format!("event-{}", self.seq))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn at_unix_ms(&self) -> u64 {
        unix_ms(self.at)
    }
}

/// Milliseconds since 1970; 0 before.
#[must_use]
pub fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The reverse of [`unix_ms`].
#[must_use]
pub fn of_unix_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}
