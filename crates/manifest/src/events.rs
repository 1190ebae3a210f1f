//! Events, in both files: `[[subscribe]]` of `plugin.toml`, and `[events]` of `mortise.toml`.
//!
//! ```toml
//! # plugin.toml
//! [[subscribe]]
//! topic = "orders.*.placed"              # `permissions.events.subscribe` must cover it
//! method = "acme.books.v1.Books/Book"    # of a service that the plugin provides; its request is the event's message
//! group = "books"                        # the durable name; default: the method's name
//! from = "new"                           # or "oldest": where a subscription begins that was never there
//! attempts = 8                           # then the event is a dead letter
//! backoff_ms = 200                       # before the second attempt; doubles from attempt to attempt
//! backoff_max_ms = 60000
//! concurrency = 4                        # deliveries at once
//! ordered = false                        # one at a time, and a later event waits for an earlier one's retries
//! # mortise.toml
//! [events]
//! log_mib = 1024                         # what may be kept; a publisher is refused above it
//! retention_hours = 24                   # how long events are kept that every subscription is done with
//! payload_kib = 1024                     # largest event
//! dedup_s = 600                          # how long an idempotency key is remembered
//! dead_letters = 10000                   # of each subscription; the oldest goes first
//! [events.nats]                          # keeps them in NATS JetStream in place of the data directory
//! endpoints = ["nats://nats-1:4222", "tls://nats-2:4222"]
//! prefix = "mortise"                     # of what it makes there; hosts with the same one share their events
//! user = "mortise"                       # both or none; or `token` in place of both
//! password = { secret = "file:/etc/mortise/nats.password" }
//! ca_file = "nats-ca.pem"                # what the servers' certificates are signed by; without it, the system's
//! replicas = 1                           # copies that a cluster keeps of everything
//! ```

use std::time::Duration;

use serde::Serialize;

use crate::{
    host_config::{path, secret_place},
    manifest::own_method,
    name::clip,
    permissions::Permissions,
    reader::{Faults, Fields, Text},
    topic::{TopicPattern, check_pattern, covered},
};

/// `[[subscribe]]`: events that a plugin wants to be called with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscribeEntry {
    /// Which topics.
    pub topic: String,
    /// `package.Service/Method` of its own.
    pub method: String,
    /// The durable name: what a subscription has had is known under the plugin's name and this.
    pub group: String,
    /// Where it begins when it is there for the first time.
    pub from: SubscribeFrom,
    /// Attempts before an event is a dead letter.
    pub attempts: u32,
    /// Wait before the second attempt.
    pub backoff: Duration,
    /// Longest wait before an attempt.
    pub backoff_max: Duration,
    /// Deliveries at once.
    pub concurrency: u32,
    /// One at a time, and in the order of the log.
    pub ordered: bool,
}

/// Where a subscription begins that was never there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SubscribeFrom {
    /// With what is published from then on.
    #[default]
    New,
    /// With the oldest event that is kept.
    Oldest,
}

/// `[events]`: where events are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// `log_mib`: most bytes that events take on the disk, 1 MiB to 1 TiB. A publisher is refused above it; nothing that was accepted goes.
    pub log_bytes_max: u64,
    /// `retention_hours`: how long events are kept that every subscription is done with, for `mortise events tail`. A subscription whose plugin is not
    /// loaded for seven times as long is forgotten.
    pub retention: Duration,
    /// `payload_kib`: largest event, 1 KiB to 8 MiB.
    pub payload_bytes_max: usize,
    /// `dedup_s`: how long an idempotency key is remembered.
    pub dedup: Duration,
    /// `dead_letters`: most dead letters of one subscription; the oldest goes first, and that is told.
    pub dead_letters_max: u32,
    /// `[events.nats]`: keeps them there in place of the data directory.
    pub nats: Option<NatsSettings>,
}

/// `[events.nats]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSettings {
    /// `endpoints`: servers of one cluster, as `nats://HOST:PORT` or `tls://HOST:PORT`; each is tried when the one before it fails.
    pub endpoints: Vec<String>,
    /// `prefix`: what names of streams and subjects begin with. Hosts with the same one share their events and subscriptions. Default `mortise`.
    pub prefix: String,
    /// `user`, for servers that want one.
    pub user: Option<String>,
    /// `password`: where it is, as `env:NAME` or `file:/PATH`; never the password itself.
    pub password: Option<String>,
    /// `token`: likewise, for servers that want that.
    pub token: Option<String>,
    /// `ca_file`: certificates (PEM) that those of the servers have to be signed by. With it, no connection is made without TLS.
    pub ca_file: Option<String>,
    /// `replicas`: copies that a cluster keeps of streams that are made now, 1 to 5. Default 1.
    pub replicas: u32,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            log_bytes_max: 1 << 30,
            retention: Duration::from_secs(24 * 3600),
            payload_bytes_max: 1 << 20,
            dedup: Duration::from_secs(600),
            dead_letters_max: 10_000,
            nats: None,
        }
    }
}

impl NatsSettings {
    /// `prefix`, if nobody says.
    pub const PREFIX: &'static str = "mortise";
}

impl SubscribeEntry {
    /// One with everything else at its default.
    #[must_use]
    pub fn new(topic: impl Into<String>, method: impl Into<String>) -> Self {
        let method = method.into();
        Self {
            topic: topic.into(),
            group: default_group(&method),
            method,
            from: SubscribeFrom::New,
            attempts: 8,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(60),
            concurrency: 4,
            ordered: false,
        }
    }

    /// The pattern; `None` only for one that was not read from a manifest.
    #[must_use]
    pub fn pattern(&self) -> Option<TopicPattern> {
        self.topic.parse().ok()
    }
}

impl SubscribeFrom {
    /// Both.
    pub const ALL: [Self; 2] = [Self::New, Self::Oldest];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Oldest => "oldest",
        }
    }
}

/// `Book` of `acme.books.v1.Books/Book`, in small letters.
fn default_group(method: &str) -> String {
    method.rsplit('/').next().unwrap_or(method).to_ascii_lowercase()
}

pub(crate) fn read_subscriptions(
    tables: Vec<Fields<'_>>,
    provides: Option<&[String]>,
    permissions: &Permissions,
    faults: &mut Faults,
) -> Vec<SubscribeEntry> {
    let mut all: Vec<SubscribeEntry> = Vec::new();
    for fields in tables {
        let span = fields.span.clone();
        let Some(entry) = read_subscription(fields, provides, faults) else {
            continue;
        };
        if !covered(&permissions.events_subscribe, &entry.topic) {
            let hint = format!(
                "add `events.subscribe = [\"{}\"]` to `[permissions]`",
                entry.topic
            );
            let message = format!(
                "it subscribes to `{}`, and asks for no permission that covers it",
                entry.topic
            );
            faults.add(span.clone(), message, Some(hint));
        }
        if all.iter().any(|it| it.group == entry.group) {
            let message = format!("there is already a subscription with the group `{}`", entry.group);
            faults.add(
                span,
                message,
                Some("give each its own `group`, and never change it".to_owned()),
            );
        }
        all.push(entry);
    }
    all
}

fn read_subscription(
    mut fields: Fields<'_>,
    provides: Option<&[String]>,
    faults: &mut Faults,
) -> Option<SubscribeEntry> {
    let topic = fields.required_string("topic", "topic = \"orders.*.placed\"", faults);
    if let Some(text) = &topic {
        check_pattern(text, faults);
    }
    let method = fields.required_string("method", "method = \"acme.books.v1.Books/Book\"", faults);
    let method = method.and_then(|text| own_method(&text, provides, "method", faults));
    let group = fields.string("group", faults);
    if let Some(text) = &group
        && !is_group(text.value)
    {
        let message = format!("`{}` is not the name of a group", clip(text.value));
        let hint = "write at most 32 letters, digits, `-` and `_`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
    let from = fields.string("from", faults).and_then(|text| {
        let found = SubscribeFrom::ALL
            .into_iter()
            .find(|it| it.as_str() == text.value);
        if found.is_none() {
            let message = format!("`{}` is nowhere to begin", clip(text.value));
            faults.add(text.span, message, Some("write `new` or `oldest`".to_owned()));
        }
        found
    });
    let attempts = fields.integer("attempts", 1..=100, faults);
    let backoff = fields.integer("backoff_ms", 1..=3_600_000, faults);
    let backoff_max = fields.integer("backoff_max_ms", 1..=86_400_000, faults);
    let concurrency = fields.integer("concurrency", 1..=256, faults);
    let ordered = fields.boolean("ordered", faults);
    fields.finish(faults);
    let mut entry = SubscribeEntry::new(topic?.value, method?);
    entry.group = group.map_or(entry.group, |it| it.value.to_owned());
    entry.from = from.unwrap_or_default();
    entry.attempts = attempts.unwrap_or(entry.attempts);
    entry.backoff = backoff.map_or(entry.backoff, Duration::from_millis);
    entry.backoff_max = backoff_max
        .map_or(entry.backoff_max, Duration::from_millis)
        .max(entry.backoff);
    entry.concurrency = concurrency.unwrap_or(entry.concurrency);
    entry.ordered = ordered.unwrap_or(false);
    Some(entry)
}

fn is_group(text: &str) -> bool {
    let good = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
    (1..=32).contains(&text.len()) && text.bytes().all(good)
}

pub(crate) fn read_events(mut fields: Fields<'_>, faults: &mut Faults) -> EventsConfig {
    let mut events = EventsConfig::default();
    if let Some(mib) = fields.integer::<u64>("log_mib", 1..=1 << 20, faults) {
        events.log_bytes_max = mib << 20;
    }
    if let Some(hours) = fields.integer::<u64>("retention_hours", 0..=8760, faults) {
        events.retention = Duration::from_secs(hours * 3600);
    }
    if let Some(kib) = fields.integer::<usize>("payload_kib", 1..=8192, faults) {
        events.payload_bytes_max = kib << 10;
    }
    if let Some(seconds) = fields.integer("dedup_s", 1..=86_400, faults) {
        events.dedup = Duration::from_secs(seconds);
    }
    if let Some(count) = fields.integer("dead_letters", 1..=1_000_000, faults) {
        events.dead_letters_max = count;
    }
    events.nats = fields
        .table("nats", faults)
        .and_then(|fields| read_nats(fields, faults));
    fields.finish(faults);
    events
}

fn read_nats(mut fields: Fields<'_>, faults: &mut Faults) -> Option<NatsSettings> {
    for key in ["endpoints", "password", "token"] {
        fields.hide(key, faults);
    }
    const EXAMPLE: &str = "endpoints = [\"nats://127.0.0.1:4222\"]";
    if !fields.contains("endpoints") {
        fields.missing("endpoints", EXAMPLE, faults);
    } else if fields.is_empty_list("endpoints") {
        let hint = Some(format!("write where the servers are, such as `{EXAMPLE}`"));
        faults.add(
            fields.span_of("endpoints"),
            "`endpoints` is empty".to_owned(),
            hint,
        );
    }
    let endpoints = fields.strings("endpoints", faults, check_server);
    let prefix = fields.string("prefix", faults);
    if let Some(text) = &prefix
        && !is_group(text.value)
    {
        let message = format!("`{}` is no prefix of streams and subjects", clip(text.value));
        let hint = "write at most 32 letters, digits, `-` and `_`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
    let user = fields.string("user", faults).map(|text| text.value.to_owned());
    let mut secret = |name: &'static str, example: &str, faults: &mut Faults| {
        fields.table(name, faults).and_then(|mut fields| {
            let secret = fields.required_string("secret", example, faults);
            fields.finish(faults);
            secret.and_then(|text| secret_place(&text, faults))
        })
    };
    let password = secret("password", "secret = \"file:/etc/mortise/nats.password\"", faults);
    let token = secret("token", "secret = \"file:/etc/mortise/nats.token\"", faults);
    if user.is_some() != fields.contains("password") {
        let hint = "write both, or none for servers without authentication";
        let message = "`user` and `password` belong together".to_owned();
        faults.add(fields.span.clone(), message, Some(hint.to_owned()));
    }
    if user.is_some() && fields.contains("token") {
        let hint = "write what the servers want, and leave out the other";
        let message = "`user` and `token` are two ways to say who we are".to_owned();
        faults.add(fields.span.clone(), message, Some(hint.to_owned()));
    }
    let ca_file = fields
        .string("ca_file", faults)
        .and_then(|text| path(&text, faults));
    let replicas = fields.integer("replicas", 1..=5, faults);
    fields.finish(faults);
    (!endpoints.is_empty()).then(|| NatsSettings {
        endpoints,
        prefix: prefix.map_or(NatsSettings::PREFIX, |it| it.value).to_owned(),
        user,
        password,
        token,
        ca_file,
        replicas: replicas.unwrap_or(1),
    })
}

/// `nats://HOST:PORT` or `tls://HOST:PORT`.
fn check_server(text: &Text<'_>, faults: &mut Faults) {
    let rest = ["nats://", "tls://"]
        .iter()
        .find_map(|scheme| text.value.strip_prefix(scheme));
    let good = rest.is_some_and(|it| {
        !it.is_empty()
            && it
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '@' | '/' | '?' | '#'))
    });
    if !good {
        // A password may stand in it, so it is not shown.
        let message = "this is not the address of a NATS server".to_owned();
        let hint = "write `nats://HOST:PORT` or `tls://HOST:PORT`, without a password: `user` and `password` say who we are";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
}
