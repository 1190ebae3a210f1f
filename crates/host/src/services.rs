//! What a plugin may ask of its host: the one place where permissions are checked, for all runtimes.
//!
//! | target | needs |
//! |---|---|
//! | `mortise.host.v1.Kv/*` | permission `kv` |
//! | `mortise.host.v1.Http/Send` | permission `net.connect` for every hop, see [`egress`] |
//! | `mortise.host.v1.Config/Get`, `mortise.host.v1.Clock/Now` | nothing |
//! | `mortise.host.v1.Events/Publish` | permission `events.publish` for the topic |
//! | any other `package.Service/Method` | a `[[requires]]` for that service, or that method of it, in the manifest |
//!
//! A pure plugin is answered nothing at all, not even the time. Its log lines are taken: what it said changes no reply.
//!
//! Every refusal names what is missing and how to get it. Log lines are bounded in number and size ([`log`]); what is dropped is
//! counted and said.

mod denials;
#[cfg_attr(not(feature = "http"), path = "services/no_egress.rs")]
mod egress;
mod log;
mod lookup;

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak},
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use mortise_config::{Delivered, Secrets};
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, Requirement};
use mortise_runtime::{
    BoxFuture, CallContext, CallError, CallErrorKind, Denied, HostServices, InstanceId, LogLine, PluginId,
    Trail,
};
use mortise_store::{KeySpace, StoreError, StoreErrorKind};
use mortise_wire::{Code, Status, host as api, host::target as own};
use prost::Message;
use semver::VersionReq;

use crate::{
    adapt::CallerContract,
    call::{self, Origin},
    events,
    host::Shared,
};

use denials::Denials;
use egress::Egress;
use log::LogGate;
pub use lookup::NameLookup;
pub(crate) use lookup::SystemLookup;

/// The host, as one instance sees it.
pub(crate) struct Services {
    pub(crate) shared: Weak<Shared>,
    pub(crate) about: About,
    pub(crate) grant: Grant,
    requires: Vec<(Requirement, Arc<VersionReq>)>,
    /// Of what it calls of its own accord, and for a caller outside.
    trail: Trail,
    /// It says that its replies depend on nothing but the requests.
    pure: bool,
    pub(crate) contract: Arc<Contract>,
    /// Topics and types that it published and that fit each other.
    published: Mutex<HashSet<(String, String)>>,
    /// What its package knows of the services that it calls.
    caller: Option<CallerContract>,
    /// What it has in force, secrets in place.
    config: ArcSwap<Delivered>,
    /// What its log lines must not show: the secrets that it has, had, or may be about to have.
    secrets: ArcSwap<Secrets>,
    pub(crate) keys: KeySpace,
    log: LogGate,
    pub(crate) denials: Arc<Denials>,
    egress: OnceLock<Egress>,
    lookup: Arc<dyn NameLookup>,
    limits: Limits,
}

/// Pairs of topic and type that are remembered of an instance.
const PUBLISHED_MAX: usize = 1024;

/// Whose services these are.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// The address it is registered under.
    pub(crate) address: Arc<str>,
    pub(crate) plugin: PluginId,
    pub(crate) instance: InstanceId,
}

/// What [`Services::new`] needs.
pub(crate) struct Parts {
    pub(crate) shared: Weak<Shared>,
    pub(crate) about: About,
    pub(crate) grant: Grant,
    pub(crate) requires: Vec<Requirement>,
    pub(crate) pure: bool,
    pub(crate) contract: Arc<Contract>,
    pub(crate) caller: Option<CallerContract>,
    pub(crate) config: Delivered,
    pub(crate) keys: KeySpace,
    pub(crate) lookup: Arc<dyn NameLookup>,
    pub(crate) limits: Limits,
}

// === impl Services ===

impl Services {
    /// Call it on the host's tokio runtime; it remembers it.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            shared,
            about,
            grant,
            requires,
            pure,
            contract,
            caller,
            config,
            keys,
            lookup,
            limits,
        } = parts;
        let denials = Arc::new(Denials::new(about.clone()));
        let log = LogGate::new(about.clone(), limits.log_lines_per_second);
        let trail = Trail::default().through(about.instance.clone());
        Self {
            shared,
            about,
            grant,
            requires: requires
                .into_iter()
                .map(|it| {
                    let range = Arc::new(it.version.clone());
                    (it, range)
                })
                .collect(),
            trail,
            pure,
            contract,
            caller,
            published: Mutex::default(),
            secrets: ArcSwap::from_pointee(config.secrets.clone()),
            config: ArcSwap::from_pointee(config),
            keys,
            log,
            denials,
            egress: OnceLock::new(),
            lookup,
            limits,
        }
    }

    /// What the plugin said, fit for log and disk: without its secrets, in one line, no longer than one of its log's.
    pub(crate) fn fit(&self, said: &str) -> String {
        log::cut(&self.secrets.load().masked(said))
    }

    /// It is to see these secrets.
    pub(crate) fn confide(&self, secrets: &Secrets) {
        let all = self.secrets.load().and(secrets);
        self.secrets.store(Arc::new(all));
    }

    /// What it was handed last, with its secrets.
    pub(crate) fn config_json(&self) -> Arc<str> {
        self.config.load().json.clone()
    }

    /// It took over another configuration.
    pub(crate) fn set_config(&self, config: Delivered) {
        self.config.store(Arc::new(config));
    }

    /// Log lines that the rate limit dropped.
    pub(crate) fn log_lines_dropped(&self) -> u64 {
        self.log.dropped()
    }

    /// Whether what it published to a topic is known to fit.
    pub(crate) fn has_published(&self, topic: &str, type_name: &str) -> bool {
        let known = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&(topic.to_owned(), type_name.to_owned()))
    }

    pub(crate) fn note_published(&self, topic: &str, type_name: &str) {
        let mut known = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PUBLISHED_MAX {
            known.clear();
        }
        known.insert((topic.to_owned(), type_name.to_owned()));
    }

    fn egress(&self) -> &Egress {
        self.egress.get_or_init(|| {
            Egress::new(
                self.about.clone(),
                self.denials.clone(),
                &self.grant,
                self.lookup.clone(),
                self.limits.payload_bytes_max,
            )
        })
    }

    async fn host_service(
        &self,
        parent: Option<&CallContext>,
        target: &str,
        payload: Bytes,
    ) -> Result<Bytes, Status> {
        match target {
            own::CONFIG_GET => {
                let _: api::ConfigGetRequest = decode(target, payload)?;
                Ok(encode(&api::ConfigGetReply {
                    json: self.config.load().json.to_string(),
                }))
            }
            own::CLOCK_NOW => {
                let _: api::NowRequest = decode(target, payload)?;
                Ok(encode(&now()))
            }
            own::KV_GET | own::KV_SET | own::KV_DELETE | own::KV_LIST => {
                self.key_value(target, payload).await
            }
            own::EVENTS_PUBLISH => {
                let request = decode(target, payload)?;
                events::publish(self, parent, request).await.map(|it| encode(&it))
            }
            own::HTTP_SEND => {
                let request = decode(target, payload)?;
                let egress = self.egress();
                let deadline = parent
                    .and_then(|it| it.deadline)
                    .unwrap_or_else(|| Instant::now() + self.limits.deadline);
                egress.send(request, deadline).await.map(|reply| encode(&reply))
            }
            _ => Err(Status::new(
                Code::Unimplemented,
                format!("this host has no method `{target}`; it may be too old for the plugin"),
            )),
        }
    }

    async fn key_value(&self, target: &str, payload: Bytes) -> Result<Bytes, Status> {
        if !self.grant.permissions.kv {
            return Err(self.refuse("kv", target, "kv", "add `kv = true` to `[permissions]` in plugin.toml and to the plugin's `grant` in mortise.toml"));
        }
        let keys = self.keys.clone();
        let work: Box<dyn FnOnce() -> Result<Bytes, StoreError> + Send> = match target {
            own::KV_GET => {
                let request: api::KvGetRequest = decode(target, payload)?;
                Box::new(move || {
                    keys.get(&request.key).map(|it| {
                        encode(&api::KvGetReply {
                            value: it.map(Into::into),
                        })
                    })
                })
            }
            own::KV_SET => {
                let request: api::KvSetRequest = decode(target, payload)?;
                Box::new(move || {
                    keys.set(&request.key, &request.value)
                        .map(|()| encode(&api::KvSetReply {}))
                })
            }
            own::KV_DELETE => {
                let request: api::KvDeleteRequest = decode(target, payload)?;
                Box::new(move || {
                    keys.delete(&request.key)
                        .map(|existed| encode(&api::KvDeleteReply { existed }))
                })
            }
            _ => {
                let request: api::KvListRequest = decode(target, payload)?;
                Box::new(move || {
                    keys.list(&request.prefix, request.limit)
                        .map(|keys| encode(&api::KvListReply { keys }))
                })
            }
        };
        // SQLite blocks; a write is on the disk when it returns.
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|error| of_store(&error)),
            Err(_) => Err(Status::new(
                Code::Internal,
                "the key-value store gave up on a request",
            )),
        }
    }

    async fn other_plugin(
        &self,
        parent: Option<&CallContext>,
        target: &str,
        payload: Bytes,
    ) -> Result<Bytes, Status> {
        let Some((service, method)) = target.split_once('/') else {
            return Err(Status::new(
                Code::InvalidArgument,
                format!("`{target}` is not `package.Service/Method`"),
            ));
        };
        let Some(range) = self.required(service, method) else {
            let (what, also) = if self.requires.iter().any(|(it, _)| it.service == service) {
                (format!("`{target}`"), format!(" and `method = \"{method}\"`"))
            } else {
                (format!("`{service}`"), String::new())
            };
            return Err(self.refuse(
                "requires",
                target,
                &what,
                &format!("declare `[[requires]]` with `service = \"{service}\"`{also} in its plugin.toml and build it again"),
            ));
        };
        let gone = || Status::new(Code::Unavailable, "the host is shutting down");
        let shared = self.shared.upgrade().ok_or_else(gone)?;
        let table = shared.table.load();
        let headers = parent.map_or(&[][..], |it| &it.metadata);
        let target = table.resolve_in(target, headers, range).map_err(to_status)?;
        let target = target.clone();
        drop(table);
        let mut origin = Origin::plugin(&self.about.address, parent);
        origin.contract = self.caller.clone().filter(|it| it.describes(service));
        origin.range = Some(range.clone());
        origin.trail = match parent {
            Some(parent) if !parent.trail.is_empty() => parent.trail.through(self.about.instance.clone()),
            _ => self.trail.clone(),
        };
        call::call(&target, payload, origin).await.map_err(to_status)
    }

    /// The range of the requirement that allows a call; one for the very method comes before one for its service.
    fn required(&self, service: &str, method: &str) -> Option<&Arc<VersionReq>> {
        let allowing = self.requires.iter().filter(|(it, _)| it.allows(service, method));
        let nearest = allowing.max_by_key(|(it, _)| it.method.is_some());
        nearest.map(|(_, range)| range)
    }

    pub(crate) fn refuse(&self, capability: &str, target: &str, what: &str, hint: &str) -> Status {
        let address = &self.about.address;
        self.denials.tell(Denied {
            capability,
            target: &target.escape_debug().to_string(),
            how: "call of the host",
        });
        Status::new(
            Code::PermissionDenied,
            format!("plugin `{address}` may not use {what}; {hint}"),
        )
    }
}

impl HostServices for Services {
    fn log(&self, line: LogLine<'_>) {
        let secrets = self.secrets.load();
        if secrets.is_empty() {
            return self.log.take(&line);
        }
        // What it was told in confidence is not for the log, whoever writes it there.
        let mut record = line.record.clone();
        record.message = secrets.masked(&record.message);
        for field in &mut record.fields {
            field.value = secrets.masked(&field.value);
        }
        self.log.take(&LogLine {
            record: &record,
            call: line.call,
        });
    }

    fn denied(&self, denied: Denied<'_>) {
        self.denials.tell(denied);
    }

    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Result<std::net::TcpStream, Status>> {
        Box::pin(self.egress().connect(host, port))
    }

    fn denials_suppressed(&self, count: u64) {
        self.denials.suppressed(count);
    }

    fn call<'a>(
        &'a self,
        parent: Option<&'a CallContext>,
        target: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        if self.pure {
            let refused = self.refuse(
                "pure",
                target,
                &format!("`{}`", target.escape_debug()),
                "its plugin.toml says `pure = true`, and a pure plugin asks its host for nothing: take that away, or get what it needs with its requests",
            );
            Box::pin(async { Err(refused) })
        } else if target.starts_with("mortise.host.") {
            Box::pin(self.host_service(parent, target, payload))
        } else {
            Box::pin(self.other_plugin(parent, target, payload))
        }
    }
}

// === messages ===

fn decode<M: Message + Default>(target: &str, payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| {
        Status::new(
            Code::InvalidArgument,
            format!("the request to `{target}` does not parse: {error}"),
        )
    })
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A status has no field for the hint, and its reader is a plugin's author: it goes into the text.
fn to_status(error: CallError) -> Status {
    let hint = match error.kind() {
        CallErrorKind::Returned => None,
        _ => error.hint().map(str::to_owned),
    };
    let mut status = Status::from(error);
    if let Some(hint) = hint {
        status.message = format!("{}; {hint}", status.message);
    }
    status
}

fn of_store(error: &StoreError) -> Status {
    let code = match error.kind() {
        StoreErrorKind::TooLarge | StoreErrorKind::DiskFull => Code::ResourceExhausted,
        StoreErrorKind::Malformed => Code::InvalidArgument,
        _ => Code::Internal,
    };
    Status::new(code, format!("{error}; {}", error.hint()))
}

fn now() -> api::NowReply {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let nanos = |it: std::time::Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    api::NowReply {
        unix_ns: nanos(unix),
        monotonic_ns: nanos(START.elapsed()),
    }
}
