//! Events: what plugins, operators and the program publish, and who is called with it.
//!
//! Who keeps events is a [`Broker`]: the data directory, unless the program brings another one ([`crate::HostBuilder::broker`]). What is here is the
//! same for all of them:
//!
//! - *publishing* ([`publish`]): permission, type, size, then the broker;
//! - *types* ([`typed`]): what a topic's events are, and whether publisher and subscriber mean the same;
//! - *delivering* ([`deliver`]): one task per subscription of a plugin. A delivery is an ordinary call through routing, so that a swap, a canary and
//!   probation hold for it, and a plugin that is down loses nothing.
//!
//! Events are in no journal. What operators do to dead letters and subscriptions is in the history, under [`EVENTS_HISTORY`].

mod deliver;
mod embedded;
mod typed;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_events::{
    Broker, DeadLetter, DeadQuery, Delivered, Event, EventError, EventErrorKind, Inbox, NewEvent, Published,
    ReadQuery, SubscriptionInfo, SubscriptionTerms, TopicInfo, TopicSchema,
};
use mortise_manifest::check_topic;
use mortise_runtime::{CallContext, Refusal};
use mortise_store::{Aftermath, Change, ChangeOutcome};
use mortise_wire::{Code, DEPTH_MAX, Header, Status, host as api};
use tokio::sync::watch;

use crate::{Host, HostError, HostErrorKind, host::Shared, services::Services};

pub(crate) use embedded::Embedded;
pub(crate) use typed::refusals;

/// The name under which an operator's replays and drops are in the history. No plugin can have it.
pub const EVENTS_HISTORY: &str = "@events";
/// What headers begin with that say of which event a call is the delivery.
pub const EVENT_HEADERS: &str = "mortise-event-";
/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// What a host has of events.
pub(crate) struct Events {
    broker: Arc<dyn Broker>,
    /// Rung when what serves has changed.
    bell: watch::Sender<()>,
    /// Subscriptions of plugins that run, by name.
    running: Mutex<BTreeMap<String, deliver::Running>>,
    types: typed::Types,
}

/// Something that the program, or an operator, publishes.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Where to.
    pub topic: String,
    /// The encoded message.
    pub payload: Bytes,
    /// The idempotency key; of several events of a topic with one key, the first one is kept.
    pub key: Option<String>,
    /// Full name of the message; may be left out for a topic that had an event already.
    pub type_name: Option<String>,
    /// The encoded `FileDescriptorSet` that declares it; may be left out likewise.
    pub descriptor_set: Option<Bytes>,
    /// Headers that reach the subscribers.
    pub headers: Vec<Header>,
    /// W3C traceparent of the span in which it is published.
    pub traceparent: Option<String>,
}

/// Deliveries to the program itself. Each has to be settled ([`mortise_events::Receipt::settle`]); one that is dropped comes again.
pub struct EventStream {
    inbox: Box<dyn Inbox>,
}

// === impl Host ===

impl Host {
    /// Publishes an event. When this returns, it is kept, through a power cut too; it waits for no subscriber.
    ///
    /// # Errors
    /// `Invalid` for a topic that is none and a type that nobody said, `Conflict` if the topic carries something else, `Storage` if there is no room.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the event is kept; with a key, it may be published again.
    pub async fn publish(&self, publication: Publication) -> Result<Published, HostError> {
        let shared = self.shared();
        let Publication {
            topic,
            payload,
            key,
            type_name,
            descriptor_set,
            headers,
            traceparent,
        } = publication;
        let publish = async {
            check(&topic, key.as_deref())?;
            let type_name = typed::of_publication(shared, &topic, type_name, descriptor_set).await?;
            let event = NewEvent {
                topic,
                type_name,
                payload,
                key,
                publisher: self.actor().to_string(),
                traceparent: traceparent.unwrap_or_default(),
                headers: travelling(&headers),
                depth: 0,
            };
            shared.events.broker.publish(event).await
        };
        publish.await.map_err(to_host_error)
    }

    /// Goes on with a subscription of the program's own, or begins one. Its name must not have a `/`: those are the plugins'.
    ///
    /// # Errors
    /// `Invalid`, `Conflict` if it is open, `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future begins nothing.
    pub async fn subscribe(&self, terms: SubscriptionTerms) -> Result<EventStream, HostError> {
        let name = &terms.name;
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_plain) {
            let what = format!("`{}` cannot be the name of a subscription", name.escape_debug());
            return Err(HostError::new(HostErrorKind::Invalid, what)
                .with_hint("write at most 64 letters, digits, `-` and `_`"));
        }
        if terms.concurrency == 0 {
            let what = format!("subscription `{name}` wants 0 deliveries at once");
            return Err(HostError::new(HostErrorKind::Invalid, what)
                .with_hint("give it a `concurrency` of at least 1"));
        }
        let inbox = self.shared().events.broker.subscribe(terms).await;
        Ok(EventStream {
            inbox: inbox.map_err(to_host_error)?,
        })
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>, HostError> {
        self.broker().topics().await.map_err(to_host_error)
    }

    /// What a topic's events are.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn topic_schema(&self, topic: &str) -> Result<Option<TopicSchema>, HostError> {
        self.broker().schema(topic).await.map_err(to_host_error)
    }

    /// The contract that declares a topic's message, and the message's name; `None` before its first event.
    ///
    /// # Errors
    /// `Storage`, `Invalid` if what is kept does not link.
    pub async fn topic_contract(&self, topic: &str) -> Result<Option<(Contract, String)>, HostError> {
        let Some(schema) = self.topic_schema(topic).await? else {
            return Ok(None);
        };
        let contract = contract_of(&schema).map_err(to_host_error)?;
        Ok(Some((contract, schema.type_name)))
    }

    /// All subscriptions, by name, of plugins (`PLUGIN/GROUP`) and of the program.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>, HostError> {
        self.broker().subscriptions().await.map_err(to_host_error)
    }

    /// Events that are kept.
    ///
    /// # Errors
    /// `Storage`.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn read_events(&self, query: ReadQuery) -> Result<Vec<Event>, HostError> {
        self.broker().read(query).await.map_err(to_host_error)
    }

    /// Dead letters, oldest first.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn dead_letters(&self, query: DeadQuery) -> Result<Vec<DeadLetter>, HostError> {
        self.broker().dead(query).await.map_err(to_host_error)
    }

    /// Has dead letters delivered again, to their subscription alone; none named: all of it. Returns those that were there.
    ///
    /// # Errors
    /// `NotFound` if there is none of those named, `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun.
    pub async fn replay_dead(&self, subscription: &str, letters: &[u64]) -> Result<Vec<u64>, HostError> {
        let doing = async {
            let letters = self.broker().replay(subscription, letters).await?;
            Ok(Some(letters).filter(|it| !it.is_empty()))
        };
        self.on_record("replay", subscription, doing, |it| numbers(it))
            .await
    }

    /// Drops dead letters; none named: all of the subscription. Returns those that were there.
    ///
    /// # Errors
    /// `NotFound` if there is none of those named, `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun.
    pub async fn drop_dead(&self, subscription: &str, letters: &[u64]) -> Result<Vec<u64>, HostError> {
        let doing = async {
            let letters = self.broker().drop_dead(subscription, letters).await?;
            Ok(Some(letters).filter(|it| !it.is_empty()))
        };
        self.on_record("drop", subscription, doing, |it| numbers(it))
            .await
    }

    /// Forgets what a subscription has had, with its dead letters. If its plugin comes again, it begins anew.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` while it is open, `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun.
    pub async fn forget_subscription(&self, subscription: &str) -> Result<(), HostError> {
        let doing = async {
            let was_there = self.broker().forget(subscription).await?;
            Ok(was_there.then_some(()))
        };
        self.on_record("forget", subscription, doing, |()| String::new())
            .await
    }

    fn broker(&self) -> &Arc<dyn Broker> {
        &self.shared().events.broker
    }

    /// Does something to a subscription, with a row of the history around it; `None`: there was nothing to do it to.
    async fn on_record<T>(
        &self,
        action: &str,
        subscription: &str,
        doing: impl Future<Output = Result<Option<T>, EventError>>,
        detail: impl FnOnce(&T) -> String,
    ) -> Result<T, HostError> {
        let shared = self.shared();
        let change = Change {
            actor: self.actor().to_string(),
            name: EVENTS_HISTORY.to_owned(),
            action: format!("{action} {subscription}"),
            ..Change::default()
        };
        let seq = shared
            .with_journal(move |it| it.begin(SystemTime::now(), &change))
            .await?;
        let done = doing.await.map_err(to_host_error).and_then(|it| {
            it.ok_or_else(|| {
                let what = format!("there is nothing of subscription `{subscription}` to {action}");
                HostError::new(HostErrorKind::NotFound, what).with_hint(
                    "`mortise events subscriptions` and `mortise events dead list` show what there is",
                )
            })
        });
        let (outcome, detail) = match &done {
            Ok(it) => (ChangeOutcome::Done, detail(it)),
            Err(error) => (ChangeOutcome::Failed, error.to_string()),
        };
        shared
            .with_journal(move |it| {
                it.conclude(SystemTime::now(), seq, outcome, &detail, &Aftermath::default())
            })
            .await?;
        done
    }
}

impl EventStream {
    /// The next event; waits for one.
    ///
    /// # Errors
    /// `Storage`, also when the host is shutting down.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Delivered, HostError> {
        self.inbox.next().await.map_err(to_host_error)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventStream")
    }
}

// === impl Events ===

impl Events {
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            bell: watch::Sender::new(()),
            running: Mutex::default(),
            types: typed::Types::default(),
        }
    }

    /// What serves has changed.
    pub(crate) fn look(&self) {
        self.bell.send_replace(());
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, deliver::Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finishes the deliveries that run, and begins none.
    pub(crate) async fn stop(&self) {
        let running = std::mem::take(&mut *self.running());
        for one in running.values() {
            one.stop();
        }
        for one in running.into_values() {
            one.ended().await;
        }
    }

    /// Lets go of what is kept.
    pub(crate) async fn close(&self) {
        self.broker.close().await;
    }
}

// === publishing ===

/// An event that a plugin publishes.
///
/// # Errors
/// As a plugin is told.
pub(crate) async fn publish(
    services: &Services,
    parent: Option<&CallContext>,
    request: api::EventPublishRequest,
) -> Result<api::EventPublishReply, Status> {
    let api::EventPublishRequest {
        topic,
        r#type,
        payload,
        key,
    } = request;
    let key = Some(key).filter(|it| !it.is_empty());
    check(&topic, key.as_deref()).map_err(|error| to_status(&error))?;
    if !services.grant.allows_publish(&topic) {
        return Err(services.refuse(
            "events.publish",
            &topic,
            &format!("events.publish={topic}"),
            &format!(
                "add `events.publish = [\"{topic}\"]` to `[permissions]` in plugin.toml and to the plugin's `grant` in mortise.toml"
            ),
        ));
    }
    let depth = parent.map_or(1, |it| it.depth + 1);
    if depth > DEPTH_MAX {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!(
                "{depth} calls and events led to this one, and the most are {DEPTH_MAX}; do its events cause each other without an end?"
            ),
        ));
    }
    let shared = services
        .shared
        .upgrade()
        .ok_or_else(|| Status::new(Code::Unavailable, "the host is shutting down"))?;
    let publish = async {
        if !services.has_published(&topic, &r#type) {
            typed::of_plugin(&shared, &topic, &r#type, &services.contract).await?;
            services.note_published(&topic, &r#type);
        }
        let event = NewEvent {
            topic,
            type_name: r#type,
            payload: payload.into(),
            key,
            publisher: services.about.address.to_string(),
            traceparent: parent.map(|it| it.traceparent.to_string()).unwrap_or_default(),
            headers: travelling(parent.map_or(&[][..], |it| &it.metadata)),
            depth,
        };
        let until = parent.and_then(|it| it.deadline);
        let publishing = shared.events.broker.publish(event);
        match until {
            None => publishing.await,
            Some(until) => tokio::time::timeout_at(until.into(), publishing)
                .await
                .unwrap_or_else(|_| Err(too_late())),
        }
    };
    match publish.await {
        Ok(Published { seq, duplicate }) => Ok(api::EventPublishReply { id: seq, duplicate }),
        Err(error) => Err(to_status(&error)),
    }
}

fn too_late() -> EventError {
    EventError::new(
        EventErrorKind::Unavailable,
        "the deadline passed before it was known that the event is kept",
        "publish it again, with the same key",
    )
}

fn check(topic: &str, key: Option<&str>) -> Result<(), EventError> {
    check_topic(topic)
        .map_err(|error| EventError::new(EventErrorKind::Invalid, error.to_string(), error.hint()))?;
    match key {
        Some(key) if key.len() > KEY_BYTES_MAX || key.is_empty() => Err(EventError::new(
            EventErrorKind::Invalid,
            format!("an idempotency key of {} bytes", key.len()),
            format!("give it 1 to {KEY_BYTES_MAX} bytes; a hash, say"),
        )),
        _ => Ok(()),
    }
}

/// Headers of the call in which an event is published, but for those that say of which event that call is the delivery.
fn travelling(headers: &[Header]) -> Vec<Header> {
    headers.iter().filter(|it| !is_of_event(it)).cloned().collect()
}

/// Whether a header says of which event a call is the delivery.
pub(crate) fn is_of_event(header: &Header) -> bool {
    header.name.starts_with(EVENT_HEADERS)
}

// === errors ===

/// A status has no field for the hint, and its reader is a plugin's author: it goes into the text.
fn to_status(error: &EventError) -> Status {
    let code = match error.kind() {
        EventErrorKind::Invalid => Code::InvalidArgument,
        EventErrorKind::TooLarge | EventErrorKind::Full => Code::ResourceExhausted,
        EventErrorKind::Conflict => Code::FailedPrecondition,
        EventErrorKind::Unavailable => Code::Unavailable,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, format!("{error}; {}", error.hint()));
    status.retryable = error.kind() == EventErrorKind::Unavailable;
    status
}

fn to_host_error(error: EventError) -> HostError {
    let kind = match error.kind() {
        EventErrorKind::Invalid | EventErrorKind::TooLarge => HostErrorKind::Invalid,
        EventErrorKind::Conflict => HostErrorKind::Conflict,
        _ => HostErrorKind::Storage,
    };
    let hint = error.hint().to_owned();
    HostError::new(kind, error.to_string())
        .with_hint(hint)
        .with_source(error)
}

impl Shared {
    /// Begins to look after the subscriptions of plugins.
    pub(crate) fn watch_over_subscriptions(self: &Arc<Self>) {
        let rung = self.events.bell.subscribe();
        self.tokio
            .spawn(deliver::keep_subscribed(Arc::downgrade(self), rung));
    }
}

/// A contract of descriptors alone.
fn contract_of(schema: &TopicSchema) -> Result<Contract, EventError> {
    Contract::from_descriptor_set(&schema.descriptor_set, &[]).map_err(|error| {
        EventError::new(
            EventErrorKind::Invalid,
            format!("the descriptors of `{}` do not link: {error}", schema.type_name),
            "give the whole set, imports included",
        )
    })
}

/// The first of them, for people.
fn numbers(letters: &[u64]) -> String {
    let letters: Vec<_> = letters.iter().take(100).map(u64::to_string).collect();
    letters.join(" ")
}

/// How long a delivery waits that found nobody, so many times in a row.
fn patience(misses: u32) -> Duration {
    Duration::from_millis(50)
        .saturating_mul(1 << misses.min(7))
        .min(Duration::from_secs(5))
}

/// The reason against a plugin whose subscription does not fit.
fn refusal(why: String, hint: impl Into<String>) -> Refusal {
    Refusal {
        what: "events".to_owned(),
        why,
        hint: hint.into(),
    }
}
