//! The port: who keeps events, and what the host asks of him.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use mortise_manifest::{SubscribeFrom, TopicPattern};

use crate::{Event, NewEvent, Published, RetryPolicy};

/// A boxed future, so that the port's traits can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keeps events, and what of them which subscription has had.
///
/// One broker may serve several hosts; then what one publishes the others' subscribers get, and of two hosts with a subscription of one name each event
/// goes to one.
pub trait Broker: Send + Sync + 'static {
    /// What it is, for people: `sqlite`, `nats://127.0.0.1:4222`.
    fn describe(&self) -> String;

    /// Keeps an event. Whatever ends the host or the machine after this returned, the event is there.
    ///
    /// Never waits for a subscriber.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, `Unavailable`. Of an event that was refused it is not known whether it is kept only if the kind is `Unavailable`: publish it
    /// again, with the same key.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the event is kept.
    fn publish(&self, event: NewEvent) -> BoxFuture<'_, Result<Published, EventError>>;

    /// Goes on with a subscription, or begins one. At most one inbox of a name may be open in a host.
    ///
    /// # Errors
    /// `Conflict` if one is open, `Unavailable`, `Storage`.
    fn subscribe(&self, terms: SubscriptionTerms) -> BoxFuture<'_, Result<Box<dyn Inbox>, EventError>>;

    /// Forgets what a subscription has had, with its dead letters. Whether there was one.
    ///
    /// # Errors
    /// `Conflict` while its inbox is open.
    fn forget<'a>(&'a self, subscription: &'a str) -> BoxFuture<'a, Result<bool, EventError>>;

    /// All subscriptions, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn subscriptions(&self) -> BoxFuture<'_, Result<Vec<SubscriptionInfo>, EventError>>;

    /// All topics with an event or a schema, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>, EventError>>;

    /// Events that are kept, in the log's order. Waits for the first one if the query says so.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Vec<Event>, EventError>>;

    /// What a topic's events are; `None` before the first one.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn schema<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicSchema>, EventError>>;

    /// Says what a topic's events are. The first word counts: whoever comes second is told what it was.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn set_schema<'a>(
        &'a self,
        topic: &'a str,
        schema: TopicSchema,
    ) -> BoxFuture<'a, Result<TopicSchema, EventError>>;

    /// Dead letters, oldest first.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn dead(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EventError>>;

    /// Has dead letters delivered again, to their subscription alone and with all attempts; returns those that were there. None named: all.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`, `Full`.
    fn replay<'a>(
        &'a self,
        subscription: &'a str,
        letters: &'a [u64],
    ) -> BoxFuture<'a, Result<Vec<u64>, EventError>>;

    /// Drops dead letters; returns those that were there. None named: all.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    fn drop_dead<'a>(
        &'a self,
        subscription: &'a str,
        letters: &'a [u64],
    ) -> BoxFuture<'a, Result<Vec<u64>, EventError>>;

    /// Finishes what it was asked and lets go of everything. Later questions are `Unavailable`.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Where deliveries of one subscription come out. Dropping it ends them; what is in flight then is delivered again to whoever subscribes next.
pub trait Inbox: Send {
    /// The next delivery; waits for one, and for room: no more are given than may be in flight.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`: what follows is another `next`, later.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Delivered, EventError>>;
}

/// One delivery.
pub struct Delivered {
    /// The event.
    pub event: Arc<Event>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Who is told how it went. Dropped without a word, it was not delivered.
    pub receipt: Box<dyn Receipt>,
}

/// Who is told how a delivery went.
pub trait Receipt: Send {
    /// Says how it went; returns when that is kept, as far as it is kept: if it is lost, the event is delivered once more.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`; the event will be delivered again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is kept.
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<Settled, EventError>>;
}

/// How a delivery went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The subscriber has it.
    Done,
    /// Not this time, and why.
    Failed(String),
    /// The subscriber says that it never will.
    Never(String),
    /// It did not get to the subscriber, which is down or busy. Does not count as an attempt.
    NotDelivered {
        /// Why.
        why: String,
        /// How long to wait.
        wait: Duration,
    },
}

/// What becomes of an event after a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing more.
    Done,
    /// It is tried again after this wait.
    Again(Duration),
    /// It is a dead letter.
    Dead,
}

/// What a subscription is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionTerms {
    /// Its durable name.
    pub name: String,
    /// Which topics.
    pub pattern: TopicPattern,
    /// Where it begins if it was never there.
    pub from: SubscribeFrom,
    /// When what failed is tried again.
    pub retry: RetryPolicy,
    /// Deliveries at once.
    pub concurrency: u32,
    /// One at a time, in the log's order.
    pub ordered: bool,
}

/// A subscription, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// Its durable name.
    pub name: String,
    /// Which topics.
    pub pattern: String,
    /// Whether somebody takes its events now.
    pub active: bool,
    /// Up to here everything was begun.
    pub cursor: u64,
    /// Events of its topics that were not begun yet; of other topics too, where whoever keeps them cannot tell.
    pub behind: u64,
    /// Events that were begun and are not settled.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that made room for others; 0 where they are not counted.
    pub dead_dropped: u64,
}

/// A topic, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub topic: String,
    /// Full name of its message; empty if nobody said.
    pub type_name: String,
    /// Events that are kept.
    pub events: u64,
    /// Their bytes; 0 where they are not counted by topic.
    pub bytes: u64,
    /// When the newest was accepted, in milliseconds since 1970; 0 without one.
    pub newest_unix_ms: u64,
}

/// What a topic's events are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSchema {
    /// Full name of the message.
    pub type_name: String,
    /// The encoded `FileDescriptorSet` that declares it.
    pub descriptor_set: Bytes,
}

/// Which events to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadQuery {
    /// Of which topics; `None`: of all.
    pub pattern: Option<TopicPattern>,
    /// Those after this one; `None`: the newest.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: u32,
    /// Wait so long for the first one.
    pub wait: Duration,
}

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadQuery {
    /// Of this subscription; `None`: of all.
    pub subscription: Option<String>,
    /// Only this one.
    pub seq: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// An event that a subscription gave up on.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The subscription.
    pub subscription: String,
    /// Its number among the dead letters: that of the event in a log of one's own, another one where dead letters have a log of their own.
    pub letter: u64,
    /// The event.
    pub event: Event,
    /// Attempts that it took.
    pub attempts: u32,
    /// Since when, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What the last attempt said.
    pub why: String,
}

/// Why something about events could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventErrorKind {
    /// The request makes no sense.
    Invalid,
    /// The event is larger than events may be.
    TooLarge,
    /// No room is left for it.
    Full,
    /// Something else stands in the way.
    Conflict,
    /// Whoever keeps events is not reached.
    Unavailable,
    /// The disk, or what is on it, is at fault.
    Storage,
}

/// What failed, why, and what to do about it. Cheap to clone: several publishers may hear of one failure.
#[derive(Clone, Debug)]
pub struct EventError {
    kind: EventErrorKind,
    message: Arc<str>,
    hint: Arc<str>,
}

impl EventError {
    /// What failed and why, and what to do.
    #[must_use]
    pub fn new(kind: EventErrorKind, message: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: message.as_ref().into(),
            hint: hint.as_ref().into(),
        }
    }

    /// Refuses an event that is larger than events may be.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn check_size(bytes: usize, bytes_max: usize) -> Result<(), Self> {
        if bytes <= bytes_max {
            return Ok(());
        }
        Err(Self::new(
            EventErrorKind::TooLarge,
            format!("the event has {bytes} bytes, and events may have {bytes_max}"),
            "keep the data elsewhere and publish where it is, or raise `events.payload_kib`",
        ))
    }

    /// No room is left in a log of this size, because a subscription is so many events behind.
    #[must_use]
    pub fn full_behind(log_bytes_max: u64, subscription: &str, behind: u64) -> Self {
        Self::new(
            EventErrorKind::Full,
            format!(
                "the log of events is full: it may have {} MiB, and subscription `{subscription}` is {behind} events behind",
                log_bytes_max >> 20
            ),
            format!(
                "load its plugin again or make it faster, have it forgotten with `mortise events forget {subscription}`, or raise `events.log_mib`"
            ),
        )
    }

    /// Somebody has a subscription open.
    #[must_use]
    pub fn subscription_in_use(subscription: &str) -> Self {
        Self::new(
            EventErrorKind::Conflict,
            format!("subscription `{subscription}` is open already"),
            "unload its plugin first, or choose another name",
        )
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EventErrorKind {
        self.kind
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EventError {}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered")
            .field("event", &self.event.seq)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
