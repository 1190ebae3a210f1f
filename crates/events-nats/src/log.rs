//! The streams of one prefix, and the log among them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use async_nats::{
    Client,
    datetime::from_nanos,
    jetstream::{
        self, Context, ErrorCode, Message,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
        stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream},
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use mortise_events::{
    Event, EventError, EventErrorKind, NewEvent, Published, ReadQuery, SubscriptionInfo, TopicInfo,
    TopicSchema,
};
use mortise_manifest::{EventsConfig, NatsSettings};
use tokio::time::Instant;

use crate::{
    link::ANSWER_MAX,
    words::{self, Kept, ONLY, TYPE, consumer_name, failed, subscription_name},
};

/// How often what everybody is done with goes.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Events that are asked for at once.
const FETCH_MAX: usize = 256;
/// Their bytes, about: the server cuts off whoever does not take what it sends.
const FETCH_BYTES_MAX: usize = 16 << 20;
/// Events more than are wanted that may be read to find the newest ones.
const SURPLUS_MAX: u64 = 256;
/// Topics that may have events.
const TOPICS_MAX: i64 = 4096;
/// Questions about topics at once.
const ASKED_MAX: usize = 16;
/// How long a reader that its host did not take away stays.
const READER_STAYS: Duration = Duration::from_secs(10);

/// The streams of one prefix.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) context: Context,
    pub(crate) events: Stream,
    pub(crate) dead: Stream,
    schemas: Stream,
    prefix: String,
    config: EventsConfig,
}

/// How far subscriptions are.
struct Progress {
    /// Everybody is done with everything up to here.
    done: u64,
    /// Who is furthest behind, and by how many events.
    slowest: Option<(String, u64)>,
}

impl Log {
    /// Finds the streams or makes them, and has them hold to the limits of `config`.
    ///
    /// # Errors
    /// `Unavailable`, and what the server said.
    pub(crate) async fn open(
        context: Context,
        settings: &NatsSettings,
        config: &EventsConfig,
    ) -> Result<Self, EventError> {
        let prefix = settings.prefix.clone();
        let stream = |name: &str, subject: &str| Config {
            name: format!("{prefix}_{name}"),
            subjects: vec![format!("{prefix}.{subject}.>")],
            storage: StorageType::File,
            num_replicas: settings.replicas as usize,
            discard: DiscardPolicy::Old,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            ..Config::default()
        };
        let events = Config {
            max_bytes: i64::try_from(config.log_bytes_max).unwrap_or(i64::MAX),
            // Full is full: what was accepted stays.
            discard: DiscardPolicy::New,
            duplicate_window: config.dedup,
            ..stream("EVENTS", "events")
        };
        let dead = Config {
            max_messages_per_subject: config.dead_letters_max.into(),
            ..stream("DEAD", "dead")
        };
        let schemas = Config {
            max_messages_per_subject: 1,
            // They are kept for good, and plugins choose the names.
            max_messages: TOPICS_MAX,
            discard: DiscardPolicy::New,
            ..stream("SCHEMAS", "schema")
        };
        Ok(Self {
            events: find_or_make(&context, events).await?,
            dead: find_or_make(&context, dead).await?,
            schemas: find_or_make(&context, schemas).await?,
            context,
            prefix: settings.prefix.clone(),
            config: config.clone(),
        })
    }

    /// Takes away what is old from now on, as long as somebody has the log.
    pub(crate) fn look_after(self: &Arc<Self>) {
        tokio::spawn(prune_now_and_then(Arc::downgrade(self)));
    }

    pub(crate) fn retention(&self) -> Duration {
        self.config.retention
    }

    pub(crate) fn client(&self) -> Client {
        self.context.client()
    }

    pub(crate) fn event_subject(&self, topic: &str) -> String {
        format!("{}.events.{topic}", self.prefix)
    }

    pub(crate) fn dead_subject(&self, consumer: &str) -> String {
        format!("{}.dead.{consumer}", self.prefix)
    }

    fn schema_subject(&self, topic: &str) -> String {
        format!("{}.schema.{topic}", self.prefix)
    }

    /// What follows `PREFIX.KIND.` of a subject.
    pub(crate) fn topic_of<'a>(&self, subject: &'a str) -> &'a str {
        let rest = subject
            .strip_prefix(&*self.prefix)
            .and_then(|it| it.strip_prefix('.'));
        rest.and_then(|it| it.split_once('.')).map_or(subject, |it| it.1)
    }

    /// The event of a message of the log, and the one subscription that it is for, if it is for one.
    pub(crate) fn event_of(&self, kept: &Kept) -> (Event, Option<String>) {
        let topic = self.topic_of(&kept.subject).to_owned();
        (kept.event(topic), kept.header(ONLY))
    }

    // === writing ===

    /// Keeps an event. If there is no room, what everybody is done with goes first.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, `Unavailable`.
    pub(crate) async fn publish(&self, event: &NewEvent) -> Result<Published, EventError> {
        let mut message = PublishMessage::build()
            .payload(event.payload.clone())
            .headers(words::headers(event));
        if let Some(key) = &event.key {
            message = message.message_id(words::message_id(&event.topic, key));
        }
        self.append(&event.topic, message).await
    }

    /// The same for what is written already.
    ///
    /// # Errors
    /// As [`Log::publish`].
    pub(crate) async fn append(&self, topic: &str, message: PublishMessage) -> Result<Published, EventError> {
        let subject = self.event_subject(topic);
        let mut sent = self.send(subject.clone(), message.clone()).await;
        if is_full(&sent) && self.prune(None).await? > 0 {
            sent = self.send(subject, message).await;
        }
        if is_full(&sent) {
            return Err(self.full(self.progress().await?.slowest));
        }
        sent
    }

    /// Sends a message to a stream, and waits until it is confirmed.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, `Unavailable`.
    pub(crate) async fn send(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<Published, EventError> {
        let confirming = async { self.context.send_publish(subject, message).await?.await };
        let confirmed = match tokio::time::timeout(ANSWER_MAX, confirming).await {
            Ok(confirmed) => confirmed,
            Err(_) => Err(PublishError::new(PublishErrorKind::TimedOut)),
        };
        match confirmed {
            Ok(ack) => Ok(Published {
                seq: ack.sequence,
                duplicate: ack.duplicate,
            }),
            Err(error) => Err(self.refusal(&error)),
        }
    }

    fn refusal(&self, error: &PublishError) -> EventError {
        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
            return EventError::new(
                EventErrorKind::TooLarge,
                format!(
                    "the event does not fit into a message of NATS: {error}, and the server's `max_payload` is {} bytes",
                    self.client().max_payload()
                ),
                "publish less at once, or raise `max_payload` in the server's configuration",
            );
        }
        let said = std::error::Error::source(error).and_then(|it| it.downcast_ref::<jetstream::Error>());
        match said.map(|it| it.error_code()) {
            // A disk that fails says so with the same number; what it says of limits begins like this.
            Some(ErrorCode::STREAM_STORE_FAILED) if error.to_string().contains("maximum") => self.full(None),
            Some(
                ErrorCode::STORAGE_RESOURCES_EXCEEDED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STREAM_STORE_FAILED,
            ) => EventError::new(
                EventErrorKind::Storage,
                format!("NATS cannot keep the event: {error}"),
                "make room for JetStream on the server, or raise the account's limits",
            ),
            _ => failed("confirm that the event is kept", error),
        }
    }

    /// There is no room, because of whom.
    fn full(&self, slowest: Option<(String, u64)>) -> EventError {
        let most = self.config.log_bytes_max;
        match slowest {
            Some((name, behind)) => EventError::full_behind(most, &name, behind),
            None => EventError::new(
                EventErrorKind::Full,
                format!("the log of events is full: it may have {} MiB", most >> 20),
                "raise `events.log_mib`",
            ),
        }
    }

    // === what goes ===

    /// Takes away what everybody is done with; if `before` is given, only what is older. How many events went.
    pub(crate) async fn prune(&self, before: Option<SystemTime>) -> Result<u64, EventError> {
        let mut done = self.progress().await?.done;
        if let Some(before) = before {
            done = done.min(self.last_before(before).await?);
        }
        if done == 0 {
            return Ok(0);
        }
        let purged = self.events.purge().sequence(done.saturating_add(1)).await;
        let purged = purged.map_err(|error| failed("take away what is done with", &error))?;
        Ok(purged.purged)
    }

    async fn progress(&self) -> Result<Progress, EventError> {
        // First: what comes after this look stays.
        let last = self.last().await?;
        let mut progress = Progress {
            done: last,
            slowest: None,
        };
        let mut consumers = self.events.consumers();
        while let Some(info) = consumers.next().await {
            let info = info.map_err(|error| failed("list subscriptions", &error))?;
            if info.config.ack_policy == AckPolicy::None {
                continue;
            }
            let floor = match (info.num_pending, info.num_ack_pending) {
                (0, 0) => continue,
                // With nothing in flight, what was given out is done with.
                (_, 0) => info.delivered.stream_sequence,
                _ => info.ack_floor.stream_sequence,
            };
            // What it is not about is none of its business.
            let next = self.first_after(&info.config.filter_subject, floor).await?;
            let done = next.map_or(last, |it| it.saturating_sub(1));
            if done < progress.done {
                let behind = info.num_pending + info.num_ack_pending as u64;
                progress.done = done;
                progress.slowest = Some((subscription_name(&info.name), behind));
            }
        }
        Ok(progress)
    }

    /// The number of the first event after this one that a filter means.
    async fn first_after(&self, filter: &str, seq: u64) -> Result<Option<u64>, EventError> {
        let filter = if filter.is_empty() { ">" } else { filter };
        let found = self
            .events
            .get_first_raw_message_by_subject(filter, seq.saturating_add(1))
            .await;
        match found {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed("read the log", &error)),
        }
    }

    async fn last(&self) -> Result<u64, EventError> {
        let info = self.events.get_info().await;
        let info = info.map_err(|error| failed("look at the log", &error))?;
        Ok(info.state.last_sequence)
    }

    /// The number before that of the first event that was accepted at this time or later.
    async fn last_before(&self, at: SystemTime) -> Result<u64, EventError> {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanos = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
        let start_time = from_nanos(nanos).map_err(|error| failed("read the log", &error))?;
        let policy = DeliverPolicy::ByStartTime { start_time };
        let reader = self
            .reader(&self.events, self.event_subject(">"), policy, Duration::ZERO)
            .await?;
        let last = reader.cached_info().delivered.stream_sequence;
        self.dismiss(&self.events, &reader).await;
        Ok(last)
    }

    // === reading ===

    /// A consumer that is nobody's subscription.
    async fn reader(
        &self,
        stream: &Stream,
        filter_subject: String,
        deliver_policy: DeliverPolicy,
        wait: Duration,
    ) -> Result<Consumer<pull::Config>, EventError> {
        let config = pull::Config {
            deliver_policy,
            filter_subject,
            ack_policy: AckPolicy::None,
            inactive_threshold: wait + READER_STAYS,
            memory_storage: true,
            ..pull::Config::default()
        };
        let reader = stream.create_consumer(config).await;
        reader.map_err(|error| failed("read a stream", &error))
    }

    async fn dismiss(&self, stream: &Stream, reader: &Consumer<pull::Config>) {
        // It goes by itself, a little later.
        let _ = stream.delete_consumer(&reader.cached_info().name).await;
    }

    /// Messages of a stream from a number on, at most `limit`; waits for the first one.
    pub(crate) async fn fetch(
        &self,
        stream: &Stream,
        filter: String,
        from: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Kept>, EventError> {
        let policy = match from {
            0 | 1 => DeliverPolicy::All,
            start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
        };
        let reader = self.reader(stream, filter, policy, wait).await?;
        let there = usize::try_from(reader.cached_info().num_pending).unwrap_or(usize::MAX);
        let fetched = match there.min(limit) {
            0 if wait.is_zero() || limit == 0 => Ok(Vec::new()),
            0 => first(&reader, wait).await,
            count => self.several(&reader, count).await,
        };
        self.dismiss(stream, &reader).await;
        fetched.map_err(|error| failed("read a stream", &error))
    }

    async fn several(
        &self,
        reader: &Consumer<pull::Config>,
        count: usize,
    ) -> Result<Vec<Kept>, async_nats::Error> {
        let at_once = (FETCH_BYTES_MAX / self.config.payload_bytes_max.max(1)).clamp(1, FETCH_MAX);
        let mut all = Vec::new();
        while all.len() < count {
            let asked = at_once.min(count - all.len());
            let messages = reader
                .fetch()
                .max_messages(asked)
                .expires(ANSWER_MAX)
                .messages()
                .await?;
            let messages: Vec<Message> = messages.try_collect().await?;
            if messages.is_empty() {
                // It went in the meantime.
                break;
            }
            all.extend(messages.iter().filter_map(Kept::of_delivery));
        }
        Ok(all)
    }

    /// Events that a query means.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn read(&self, query: &ReadQuery) -> Result<Vec<Event>, EventError> {
        let filter = self.event_subject(query.pattern.as_ref().map_or(">", |it| it.as_str()));
        let limit = query.limit as usize;
        let Some(mut after) = query.after else {
            return self.newest(filter, query.limit).await;
        };
        let until = Instant::now() + query.wait;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            let kept = self
                .fetch(&self.events, filter.clone(), after.saturating_add(1), limit, wait)
                .await?;
            let Some(last) = kept.last().map(|it| it.seq) else {
                return Ok(Vec::new());
            };
            let events = self.first_time(&kept);
            if !events.is_empty() {
                return Ok(events);
            }
            after = last;
        }
    }

    async fn newest(&self, filter: String, limit: u32) -> Result<Vec<Event>, EventError> {
        let info = self.events.get_info().await;
        let state = info.map_err(|error| failed("look at the log", &error))?.state;
        let limit = u64::from(limit);
        let after_last = state.last_sequence.saturating_add(1);
        // Far enough back that there are so many, or to the beginning.
        let (mut from, mut near) = (after_last, after_last);
        let mut window = limit.max(1);
        let mut count = 0;
        while count < limit && from > state.first_sequence {
            near = from;
            from = after_last.saturating_sub(window).max(state.first_sequence);
            count = self.count_from(&filter, from).await?;
            window = window.saturating_mul(8);
        }
        // And then no further than that.
        while count > limit + SURPLUS_MAX && near > from + 1 {
            let middle = from + (near - from) / 2;
            let of_middle = self.count_from(&filter, middle).await?;
            if of_middle < limit {
                near = middle;
            } else {
                (from, count) = (middle, of_middle);
            }
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let kept = self
            .fetch(&self.events, filter, from, count, Duration::ZERO)
            .await?;
        let mut events = self.first_time(&kept);
        let older = events.len().saturating_sub(limit as usize);
        Ok(events.split_off(older))
    }

    /// How many events there are from a number on that a filter means.
    async fn count_from(&self, filter: &str, start_sequence: u64) -> Result<u64, EventError> {
        let policy = DeliverPolicy::ByStartSequence {
            start_sequence: start_sequence.max(1),
        };
        let reader = self
            .reader(&self.events, filter.to_owned(), policy, Duration::ZERO)
            .await?;
        let count = reader.cached_info().num_pending;
        self.dismiss(&self.events, &reader).await;
        Ok(count)
    }

    /// Events, without those that are in the log again for one subscription.
    fn first_time(&self, kept: &[Kept]) -> Vec<Event> {
        let events = kept.iter().map(|it| self.event_of(it));
        events.filter(|(_, only)| only.is_none()).map(|it| it.0).collect()
    }

    // === topics ===

    /// How many messages there are of each subject, by what follows its kind.
    pub(crate) async fn counts(
        &self,
        stream: &Stream,
        filter: &str,
    ) -> Result<BTreeMap<String, u64>, EventError> {
        let counting = async {
            let counts = stream.info_with_subjects(filter).await?;
            counts.try_collect::<Vec<(String, usize)>>().await
        };
        let counts = counting
            .await
            .map_err(|error| failed("look at a stream", &error))?;
        let named = |(subject, count): (String, usize)| (self.topic_of(&subject).to_owned(), count as u64);
        Ok(counts.into_iter().map(named).collect())
    }

    pub(crate) async fn topics(&self) -> Result<Vec<TopicInfo>, EventError> {
        let events = self.counts(&self.events, &self.event_subject(">")).await?;
        let known = self.counts(&self.schemas, &self.schema_subject(">")).await?;
        let names: BTreeSet<String> = events.keys().chain(known.keys()).cloned().collect();
        let (events, known) = (&events, &known);
        let look = move |topic: String| async move {
            let schema = match known.contains_key(&topic) {
                true => self.schema(&topic).await?,
                false => None,
            };
            let count = events.get(&topic).copied().unwrap_or(0);
            let newest = match count {
                0 => None,
                _ => self.newest_of(&self.events, &self.event_subject(&topic)).await?,
            };
            Ok::<_, EventError>(TopicInfo {
                type_name: schema.map(|it| it.type_name).unwrap_or_default(),
                events: count,
                bytes: 0,
                newest_unix_ms: newest.map_or(0, |it| it.at_ms()),
                topic,
            })
        };
        let looks = futures_util::stream::iter(names.into_iter().map(look));
        looks.buffered(ASKED_MAX).try_collect().await
    }

    async fn newest_of(&self, stream: &Stream, subject: &str) -> Result<Option<Kept>, EventError> {
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Kept::of_stream(message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed("read a stream", &error)),
        }
    }

    pub(crate) async fn schema(&self, topic: &str) -> Result<Option<TopicSchema>, EventError> {
        let kept = self.newest_of(&self.schemas, &self.schema_subject(topic)).await?;
        Ok(kept.map(|it| TopicSchema {
            type_name: it.header(TYPE).unwrap_or_default(),
            descriptor_set: it.payload().clone(),
        }))
    }

    /// The first word counts: the server refuses every later one.
    pub(crate) async fn set_schema(
        &self,
        topic: &str,
        schema: TopicSchema,
    ) -> Result<TopicSchema, EventError> {
        let message = PublishMessage::build()
            .payload(schema.descriptor_set.clone())
            .header(TYPE, words::line(&schema.type_name))
            .expected_last_subject_sequence(0);
        match self.send(self.schema_subject(topic), message).await {
            Ok(_) => Ok(schema),
            // Somebody was first, or it is not known; what is there counts.
            Err(error) => match self.schema(topic).await? {
                Some(known) => Ok(known),
                None if error.kind() == EventErrorKind::Full => Err(EventError::new(
                    EventErrorKind::Full,
                    format!("there are {TOPICS_MAX} topics already, and `{topic}` would be another one"),
                    "publish to topics that mean a kind of event, and put what tells events apart into the message",
                )),
                None => Err(error),
            },
        }
    }

    // === subscriptions ===

    /// All subscriptions, by name; those for which somebody asks now are active.
    pub(crate) async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>, EventError> {
        let dead = self.counts(&self.dead, &self.dead_subject("*")).await?;
        let mut consumers = self.events.consumers();
        let mut all = Vec::new();
        while let Some(info) = consumers.next().await {
            let info = info.map_err(|error| failed("list subscriptions", &error))?;
            // Somebody else's, or a reader.
            if info.config.description.as_deref() != Some(DESCRIPTION) {
                continue;
            }
            all.push(SubscriptionInfo {
                name: subscription_name(&info.name),
                pattern: self.topic_of(&info.config.filter_subject).to_owned(),
                active: info.num_waiting > 0,
                cursor: info.delivered.stream_sequence,
                behind: info.num_pending,
                pending: info.num_ack_pending as u64,
                dead: dead.get(&info.name).copied().unwrap_or(0),
                dead_dropped: 0,
            });
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Forgets a subscription, with its dead letters. Whether there was one.
    pub(crate) async fn forget(&self, subscription: &str) -> Result<bool, EventError> {
        let consumer = consumer_name(subscription);
        let info = self.events.consumer_info(&consumer).await;
        let was_there = match info {
            Ok(info) if info.num_waiting > 0 => return Err(EventError::subscription_in_use(subscription)),
            Ok(_) => {
                let gone = self.events.delete_consumer(&consumer).await;
                gone.map_err(|error| failed("forget the subscription", &error))?;
                true
            }
            Err(error) if error.kind() == jetstream::context::ConsumerInfoErrorKind::NotFound => false,
            Err(error) => return Err(failed("look at the subscription", &error)),
        };
        let purge = self.dead.purge().filter(self.dead_subject(&consumer)).await;
        purge.map_err(|error| failed("drop dead letters", &error))?;
        Ok(was_there)
    }
}

/// By which a subscription is told from other consumers.
pub(crate) const DESCRIPTION: &str = "a subscription of mortise";

async fn prune_now_and_then(log: Weak<Log>) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        let Some(log) = log.upgrade() else { return };
        let before = SystemTime::now().checked_sub(log.config.retention);
        if let Err(error) = log.prune(Some(before.unwrap_or(SystemTime::UNIX_EPOCH))).await {
            tracing::debug!(target: "mortise::events", %error, "old events stay for now");
        }
    }
}

fn is_full<T>(sent: &Result<T, EventError>) -> bool {
    sent.as_ref()
        .is_err_and(|error| error.kind() == EventErrorKind::Full)
}

async fn first(reader: &Consumer<pull::Config>, wait: Duration) -> Result<Vec<Kept>, async_nats::Error> {
    let messages = reader.batch().max_messages(1).expires(wait).messages().await?;
    let messages: Vec<Message> = messages.try_collect().await?;
    Ok(messages.iter().filter_map(Kept::of_delivery).collect())
}

/// A stream that is there holds to new limits, if the server lets us say so; how often it is copied stays.
async fn find_or_make(context: &Context, wanted: Config) -> Result<Stream, EventError> {
    let name = wanted.name.clone();
    let found = context.get_or_create_stream(wanted.clone()).await;
    let stream = found.map_err(|error| failed(&format!("open stream `{name}`"), &error))?;
    let there = stream.cached_info().config.clone();
    let new = Config {
        max_bytes: wanted.max_bytes,
        max_messages_per_subject: wanted.max_messages_per_subject,
        duplicate_window: match wanted.duplicate_window {
            Duration::ZERO => there.duplicate_window,
            window => window,
        },
        ..there.clone()
    };
    if new != there
        && let Err(error) = context.update_stream(&new).await
    {
        tracing::warn!(target: "mortise::events", stream = name, %error, "the stream keeps the limits that it had");
    }
    Ok(stream)
}
