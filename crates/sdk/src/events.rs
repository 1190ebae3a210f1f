//! What a plugin publishes.

use mortise_wire::{
    client::unary_blocking,
    host::{EventPublishReply, EventPublishRequest, target},
};
use prost::{Message, Name};

use crate::{Cx, Result};

/// Events. Needs permission `events.publish` for the topic; without the operator's grant every method gives `PermissionDenied` that names it.
///
/// When a method returns, the event is kept, whatever ends the host or the machine then; who subscribes to it is called later and at his own pace.
/// A plugin subscribes in its manifest (`[[subscribe]]`), with a method that takes the event's message. It may be called with an event more than
/// once: [`Cx::event`] tells which one it is.
#[derive(Clone, Copy)]
pub struct Events<'a> {
    cx: &'a Cx,
}

/// The event that a call delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventInfo<'a> {
    /// Its number in the log.
    pub id: u64,
    /// Its topic.
    pub topic: &'a str,
    /// The same in every delivery of it, and in every event that its publisher meant to be the same.
    pub key: &'a str,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

impl<'a> Events<'a> {
    pub(crate) const fn new(cx: &'a Cx) -> Self {
        Self { cx }
    }

    /// Publishes a message of this plugin's contract. Its number, which no other event has.
    ///
    /// # Errors
    /// `PermissionDenied` that names the missing grant, `FailedPrecondition` if the topic carries something else, `ResourceExhausted` if there is no
    /// room, `Unavailable` if it is not known whether it is kept: publish it again, with a key.
    pub fn publish<M: Message + Name>(self, topic: &str, message: &M) -> Result<u64> {
        Ok(self.send(topic, M::full_name(), message.encode_to_vec(), "")?.id)
    }

    /// The same with an idempotency key: of several events of a topic with one key, the first one is kept. Whether this is it.
    ///
    /// # Errors
    /// As [`Events::publish`].
    pub fn publish_once<M: Message + Name>(self, topic: &str, key: &str, message: &M) -> Result<bool> {
        Ok(!self
            .send(topic, M::full_name(), message.encode_to_vec(), key)?
            .duplicate)
    }

    fn send(self, topic: &str, type_name: String, payload: Vec<u8>, key: &str) -> Result<EventPublishReply> {
        let request = EventPublishRequest {
            topic: topic.to_owned(),
            r#type: type_name,
            payload,
            key: key.to_owned(),
        };
        unary_blocking(self.cx, target::EVENTS_PUBLISH, &request)
    }
}

impl Cx {
    /// What this plugin publishes.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        Events::new(self)
    }

    /// The event that this call delivers; `None` for a call that delivers none.
    #[must_use]
    pub fn event(&self) -> Option<EventInfo<'_>> {
        let header = |name: &str| {
            let is_it = |it: &&crate::Header| it.name.strip_prefix("mortise-event-") == Some(name);
            Some(self.metadata().iter().find(is_it)?.value.as_str())
        };
        Some(EventInfo {
            id: header("id")?.parse().ok()?,
            topic: header("topic")?,
            key: header("key")?,
            attempt: header("attempt")?.parse().ok()?,
        })
    }
}
