//! Events: what one is, when it is delivered again, and the port behind which they are kept.
//!
//! A publisher appends to a log and is answered when the event is kept; nothing that a subscriber does, or does not do, holds it up. Every
//! *subscription* has a durable name, gets each event of its topics at least once, and says of each delivery how it went. What fails is tried again
//! later and later, and is a *dead letter* after so many attempts: kept until an operator replays or drops it.
//!
//! This crate waits for nothing: it opens no file and no socket, and has no executor. Who keeps events implements [`Broker`]; the host delivers them.
//!
//! Reading order: [`event`], [`retry`], [`delivery`] (the machine of one subscription), [`broker`] (the port).
#![forbid(unsafe_code)]

pub mod broker;
pub mod delivery;
pub mod event;
pub mod retry;

pub use broker::{
    BoxFuture, Broker, DeadLetter, DeadQuery, Delivered, EventError, EventErrorKind, Inbox, Outcome,
    ReadQuery, Receipt, Settled, SubscriptionInfo, SubscriptionTerms, TopicInfo, TopicSchema,
};
pub use event::{Event, NewEvent, Published};
pub use retry::RetryPolicy;
