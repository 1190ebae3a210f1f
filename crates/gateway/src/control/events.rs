//! Events over the control socket: parameters, answers, and what is done for them.
//!
//! An event's message is told as JSON, by the contract that its topic's first publisher brought; where that does not fit, its bytes as base64.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use mortise_host::{
    Host, Publication,
    event::{self, DeadQuery, ReadQuery, SubscriptionInfo, TopicInfo},
};
use mortise_manifest::TopicPattern;
use mortise_wire::Header;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{
    methods::{params, write},
    types::Ask,
};
use crate::{error::RpcError, jsonrpc::Request, transcode::Transcoder};

/// Events that are told at once, if nobody says how many.
const EVENTS_DEFAULT: u32 = 100;
/// Most that are told at once.
const EVENTS_MAX: u32 = 1000;
/// Longest wait for an event.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Lists all topics.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {}

/// Lists all subscriptions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscriptions {}

/// Reads events that are kept, in the log's order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadEvents {
    /// A topic, or a pattern; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Those after this number; default: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many: 1 to 1000, default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Wait so long for the first one, at most a minute. Only with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Publishes an event to a topic that had one already.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The topic.
    pub topic: String,
    /// The message, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Box<RawValue>>,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Headers that reach the subscribers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Lists dead letters, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetters {
    /// Of this subscription; default: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<u64>,
    /// At most so many: 1 to 1000, default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Questions about some dead letters of a subscription.
macro_rules! some_letters {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Whose.
            pub subscription: String,
            /// Which; none: all.
            #[serde(default)]
            pub letters: Vec<u64>,
        }
    )*};
}

some_letters! {
    /// Has dead letters delivered again, to their subscription alone.
    ReplayDead;
    /// Drops dead letters.
    DropDead;
}

/// Forgets what a subscription has had, with its dead letters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetSubscription {
    /// Which.
    pub subscription: String,
}

/// A topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub topic: String,
    /// Full name of its message.
    pub r#type: String,
    /// Events that are kept.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest was accepted; 0 without one.
    pub newest_unix_ms: u64,
}

/// A subscription.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// `PLUGIN/GROUP`, or the program's own.
    pub name: String,
    /// Which topics.
    pub topic: String,
    /// Whether somebody takes its events now.
    pub active: bool,
    /// Everything up to this event was begun.
    pub cursor: u64,
    /// Events of its topics that were not begun.
    pub behind: u64,
    /// Events that were begun and are not settled.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that made room for others.
    pub dead_dropped: u64,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventEntry {
    /// Its number.
    pub id: u64,
    /// When it was accepted.
    pub at_unix_ms: u64,
    /// Its topic.
    pub topic: String,
    /// Full name of its message.
    pub r#type: String,
    /// Its idempotency key, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who published it.
    pub publisher: String,
    /// The trace it belongs to; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// Headers that travel on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Box<RawValue>>,
    /// Its bytes, where they cannot be told as a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// An event that was published.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PublishedEvent {
    /// Its number.
    pub id: u64,
    /// There was one with this key already, and this is its number.
    pub duplicate: bool,
}

/// A dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The subscription that gave up on it.
    pub subscription: String,
    /// Its number among the dead letters.
    pub letter: u64,
    /// Attempts that it took.
    pub attempts: u32,
    /// Since when.
    pub since_unix_ms: u64,
    /// What the last attempt said.
    pub why: String,
    /// The event.
    pub event: EventEntry,
}

/// A subscription that is forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// Its name.
    pub subscription: String,
}

/// Dead letters that something was done with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Letters {
    /// Their numbers.
    pub letters: Vec<u64>,
}

macro_rules! asks {
    ($($ask:ty => $method:literal, $answer:ty;)*) => {
        $(impl Ask for $ask {
            const METHOD: &'static str = $method;
            type Answer = $answer;
        })*
        /// Names of the methods about events.
        pub(super) const METHODS: &[&str] = &[$($method),*];
    };
}

asks! {
    Topics => "mortise.topics", Vec<Topic>;
    Subscriptions => "mortise.subscriptions", Vec<Subscription>;
    ReadEvents => "mortise.events", Vec<EventEntry>;
    Publish => "mortise.publish", PublishedEvent;
    DeadLetters => "mortise.dead_letters", Vec<DeadLetter>;
    ReplayDead => "mortise.dead_replay", Letters;
    DropDead => "mortise.dead_drop", Letters;
    ForgetSubscription => "mortise.subscription_forget", Forgotten;
}

/// Answers one of [`METHODS`].
pub(super) async fn answer(
    host: &Host,
    request: &Request<'_>,
    stop: &CancellationToken,
    out: &mut Vec<u8>,
) -> Result<(), RpcError> {
    let of_host = |error| RpcError::from(&error);
    match &*request.method {
        Topics::METHOD => {
            params::<Topics>(request)?;
            let all = host.topics().await.map_err(of_host)?;
            write(out, &all.into_iter().map(Topic::from).collect::<Vec<_>>())
        }
        Subscriptions::METHOD => {
            params::<Subscriptions>(request)?;
            let all = host.subscriptions().await.map_err(of_host)?;
            write(out, &all.into_iter().map(Subscription::from).collect::<Vec<_>>())
        }
        ReadEvents::METHOD => {
            let query = query(params(request)?)?;
            let events = tokio::select! {
                events = host.read_events(query) => events.map_err(of_host)?,
                // Who waits for an event must not hold up the end.
                () = stop.cancelled() => Vec::new(),
            };
            let mut messages = Messages::new(host);
            let mut all = Vec::with_capacity(events.len());
            for event in events {
                all.push(messages.entry(event).await);
            }
            write(out, &all)
        }
        Publish::METHOD => write(out, &publish(host, params(request)?).await?),
        DeadLetters::METHOD => {
            let DeadLetters {
                subscription,
                letter,
                limit,
            } = params(request)?;
            let query = DeadQuery {
                subscription,
                seq: letter,
                limit: limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX),
            };
            let letters = host.dead_letters(query).await.map_err(of_host)?;
            let mut messages = Messages::new(host);
            let mut all = Vec::with_capacity(letters.len());
            for it in letters {
                all.push(DeadLetter {
                    subscription: it.subscription,
                    letter: it.letter,
                    attempts: it.attempts,
                    since_unix_ms: it.at_unix_ms,
                    why: it.why,
                    event: messages.entry(it.event).await,
                });
            }
            write(out, &all)
        }
        ReplayDead::METHOD => {
            let ReplayDead {
                subscription,
                letters,
            } = params(request)?;
            let letters = host.replay_dead(&subscription, &letters).await.map_err(of_host)?;
            write(out, &Letters { letters })
        }
        DropDead::METHOD => {
            let DropDead {
                subscription,
                letters,
            } = params(request)?;
            let letters = host.drop_dead(&subscription, &letters).await.map_err(of_host)?;
            write(out, &Letters { letters })
        }
        _ => {
            let ForgetSubscription { subscription } = params(request)?;
            host.forget_subscription(&subscription).await.map_err(of_host)?;
            write(out, &Forgotten { subscription })
        }
    }
}

fn query(asked: ReadEvents) -> Result<ReadQuery, RpcError> {
    let pattern = asked.topic.as_deref().map(str::parse::<TopicPattern>);
    let pattern = pattern
        .transpose()
        .map_err(|error| RpcError::invalid_params(error.to_string(), error.hint()))?;
    Ok(ReadQuery {
        pattern,
        after: asked.after,
        limit: asked.limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX),
        wait: Duration::from_millis(asked.wait_ms.unwrap_or(0)).min(WAIT_MAX),
    })
}

async fn publish(host: &Host, publish: Publish) -> Result<PublishedEvent, RpcError> {
    let of_host = |error| RpcError::from(&error);
    let mut messages = Messages::new(host);
    let (payload, type_name) = match messages.transcoder(&publish.topic).await? {
        Some(transcoder) => (
            transcoder.request(publish.message.as_ref().map(|it| it.get()))?,
            None,
        ),
        // The host says what is missing. Should somebody else say just now what the topic carries, it is not nothing.
        None => (Bytes::new(), Some(String::new())),
    };
    let header = |(name, value): (String, String)| Header {
        name: name.to_ascii_lowercase(),
        value,
    };
    let publication = Publication {
        topic: publish.topic,
        payload,
        type_name,
        key: publish.key,
        headers: publish.headers.into_iter().map(header).collect(),
        ..Publication::default()
    };
    let published = host.publish(publication).await.map_err(of_host)?;
    Ok(PublishedEvent {
        id: published.seq,
        duplicate: published.duplicate,
    })
}

/// Tells messages as JSON; links each topic's contract once.
struct Messages<'a> {
    host: &'a Host,
    known: BTreeMap<String, Option<Transcoder>>,
}

impl<'a> Messages<'a> {
    fn new(host: &'a Host) -> Self {
        Self {
            host,
            known: BTreeMap::new(),
        }
    }

    async fn transcoder(&mut self, topic: &str) -> Result<Option<&Transcoder>, RpcError> {
        if !self.known.contains_key(topic) {
            let found = self.host.topic_contract(topic).await;
            let found = found.map_err(|error| RpcError::from(&error))?;
            let message = found.and_then(|(contract, name)| contract.pool().get_message_by_name(&name));
            let transcoder = message.map(|it| Transcoder::new(it.clone(), it));
            self.known.insert(topic.to_owned(), transcoder);
        }
        Ok(self.known.get(topic).and_then(Option::as_ref))
    }

    async fn entry(&mut self, event: event::Event) -> EventEntry {
        let at_unix_ms = event.at_unix_ms();
        let content = event.content;
        // What cannot be told as a message is told as bytes.
        let transcoder = self.transcoder(&content.topic).await.ok().flatten();
        let message = transcoder.and_then(|it| {
            let mut json = Vec::new();
            it.reply(content.payload.clone(), &mut json).ok()?;
            RawValue::from_string(String::from_utf8(json).ok()?).ok()
        });
        EventEntry {
            id: event.seq,
            at_unix_ms,
            topic: content.topic,
            r#type: content.type_name,
            key: content.key,
            publisher: content.publisher,
            traceparent: content.traceparent,
            headers: content
                .headers
                .into_iter()
                .map(|it| (it.name, it.value))
                .collect(),
            payload_base64: message.is_none().then(|| STANDARD.encode(&content.payload)),
            message,
        }
    }
}

impl From<TopicInfo> for Topic {
    fn from(it: TopicInfo) -> Self {
        Self {
            topic: it.topic,
            r#type: it.type_name,
            events: it.events,
            bytes: it.bytes,
            newest_unix_ms: it.newest_unix_ms,
        }
    }
}

impl From<SubscriptionInfo> for Subscription {
    fn from(it: SubscriptionInfo) -> Self {
        Self {
            name: it.name,
            topic: it.pattern,
            active: it.active,
            cursor: it.cursor,
            behind: it.behind,
            pending: it.pending,
            dead: it.dead,
            dead_dropped: it.dead_dropped,
        }
    }
}
