//! What a host tells about its plugins. Everything here serializes, in the words that people see.

use std::{fmt, sync::Arc, time::SystemTime};

use mortise_contract::evolve::Plan;
use mortise_lifecycle::State;
use mortise_manifest::{Limits, Permissions, Restart, RuntimeName};
use mortise_runtime::{CallError, Digest, Enclosure, Enforcement, PluginId, Refusal, Support, Usage};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

/// One line of a list of plugins.
#[derive(Clone, Debug, Serialize)]
pub struct PluginInfo {
    /// The address: the name it is registered under, or `name@version` for a version that runs beside another.
    pub name: String,
    /// Its own name and version. For a plugin that could not even be read: the address and version 0.0.0.
    #[serde(serialize_with = "display")]
    pub plugin: PluginId,
    /// Where it came from.
    pub source: String,
    /// The runtime it runs in; `None` if it was refused before one was chosen.
    #[serde(serialize_with = "display_option")]
    pub runtime: Option<RuntimeName>,
    /// Where it stands in its life.
    #[serde(serialize_with = "display")]
    pub state: State,
    /// Digest of the artifact; `None` if it was refused before one was chosen.
    #[serde(serialize_with = "display_option")]
    pub digest: Option<Digest>,
    /// Counts the generations of this address, from 1; 0 if none was ever started.
    pub generation: u64,
    /// When it came into this state.
    #[serde(rename = "since_unix_ms", serialize_with = "unix_ms")]
    pub since: SystemTime,
    /// Calls answered since the address was first loaded, errors included.
    pub calls: u64,
    /// Calls that ended in an error.
    pub errors: u64,
    /// Calls that run now.
    pub in_flight: u64,
    /// Why it is where it is, if that is not where it should be; one line each.
    pub reasons: Vec<String>,
}

/// Everything about one plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub info: PluginInfo,
    /// Name of the running copy, as it stands in log lines.
    pub instance: Option<String>,
    /// Its methods, in the order of their numbers.
    pub methods: Vec<MethodInfo>,
    /// Steps between versions of its contract that its package declares, as `1.0.0 -> 2.0.0`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapts: Vec<String>,
    /// Callers that were built against another contract, and what is done to their calls; what was called since this version serves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapted: Vec<AdaptedInfo>,
    /// `package.Service` names that it calls in other plugins.
    pub requires: Vec<String>,
    /// What it asks for.
    #[serde(serialize_with = "permissions")]
    pub declared: Permissions,
    /// What it was given.
    #[serde(serialize_with = "permissions")]
    pub granted: Permissions,
    /// Whether it is started again when its instance ends by itself.
    #[serde(serialize_with = "display")]
    pub restart: Restart,
    /// What it may use.
    #[serde(serialize_with = "limits")]
    pub limits: Limits,
    /// What it did.
    pub counters: Counters,
    /// What the instance that serves began with; `None` for a plugin without state.
    #[serde(skip_serializing_if = "Option::is_none", rename = "carried_state")]
    pub state: Option<StateInfo>,
    /// What it uses now.
    #[serde(serialize_with = "usage")]
    pub usage: Usage,
    /// What stands between it and the system.
    #[serde(rename = "layers", serialize_with = "layers")]
    pub enclosure: Option<Enclosure>,
    /// What the instance that serves was denied, newest last; the last 32.
    pub denied: Vec<DenialEntry>,
    /// Its moves, newest last; at most 100.
    pub history: Vec<HistoryEntry>,
    /// What its runtime can do here.
    #[serde(serialize_with = "support_option")]
    pub support: Option<Support>,
}

/// What an instance with state began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateInfo {
    /// Full name of the message.
    pub schema: String,
    /// Where it came from.
    pub origin: StateOrigin,
    /// Version that saved it.
    pub from_version: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// When it was saved.
    pub saved_at_unix_ms: Option<u64>,
    /// How long callers waited while it was handed over, in microseconds.
    pub pause_us: Option<u64>,
    /// Why there was state that it did not take over.
    pub left_behind: Option<String>,
}

/// Where an instance's state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StateOrigin {
    /// There was none.
    Nothing,
    /// The instance that served until then.
    Predecessor,
    /// What was saved last: by an unload, or by a swap before a crash.
    Snapshot,
}

impl fmt::Display for StateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from_version.as_deref().unwrap_or("?");
        let (bytes, schema) = (self.bytes, &self.schema);
        match self.origin {
            StateOrigin::Predecessor => write!(f, "{bytes} bytes of `{schema}` from {from}, which served"),
            StateOrigin::Snapshot => write!(f, "{bytes} bytes of `{schema}` as {from} saved it last"),
            StateOrigin::Nothing => write!(f, "no `{schema}` to begin with"),
        }?;
        match &self.left_behind {
            Some(why) => write!(f, "; left behind: {why}"),
            None => Ok(()),
        }
    }
}

/// One method of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MethodInfo {
    /// `package.Service`.
    pub service: String,
    /// The method's name.
    pub name: String,
    /// BLAKE3 over numbers and kinds, in hex.
    pub wire_hash: String,
    /// BLAKE3 over names and options too, in hex.
    pub full_hash: String,
    /// Calling twice is the same as calling once.
    pub idempotent: bool,
    /// Returns promptly and never blocks.
    pub nonblocking: bool,
}

/// What is done to calls of one method from callers that were built against another contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdaptedInfo {
    /// Who calls: a plugin's address, a version, or `a caller`.
    pub caller: String,
    /// `package.Service/Method`.
    pub method: String,
    /// `same`, `passes`, `defaults`, `converted`, `adapted` or `refused`.
    pub way: String,
    /// Versions that calls are taken through.
    pub via: Vec<String>,
    /// What is done to messages, or why calls are refused.
    pub changes: Vec<String>,
}

impl AdaptedInfo {
    pub(crate) fn of(caller: &str, method: &str, planned: &Result<Arc<Plan>, CallError>) -> Self {
        let (way, via, changes) = match planned {
            Ok(plan) => (
                plan.way().to_string(),
                plan.via().to_vec(),
                plan.changes().iter().map(ToString::to_string).collect(),
            ),
            Err(error) => ("refused".to_owned(), Vec::new(), vec![error.to_string()]),
        };
        Self {
            caller: caller.to_owned(),
            method: method.to_owned(),
            way,
            via,
            changes,
        }
    }
}

/// What a plugin did since its address was first loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Calls answered, errors included. Calls over a `BoundMethod`'s direct path are not counted.
    pub calls: u64,
    /// Calls that ended in an error.
    pub errors: u64,
    /// Those of them that count against the plugin: it crashed, overran its deadline or called itself broken.
    pub faults: u64,
    /// Calls that run now.
    pub in_flight: u64,
    /// Calls that wait for admission now.
    pub waiting: u64,
    /// Messages of calls that stream, both ways, since its generation began to serve.
    pub stream_messages: u64,
    /// Their bytes.
    pub stream_bytes: u64,
    /// What the layers around its instance and the host's services denied it.
    pub denials: u64,
    /// Instances started.
    pub starts: u64,
    /// Instances that ended by themselves.
    pub crashes: u64,
    /// Log lines dropped by the rate limit.
    pub log_lines_dropped: u64,
    /// Number of latency samples: 1 call of 64.
    pub latency_samples: u64,
    /// Median of the sampled latencies, in nanoseconds; 0 without samples.
    pub latency_p50_ns: u64,
    /// 99th percentile of the sampled latencies, in nanoseconds.
    pub latency_p99_ns: u64,
}

/// One move in a plugin's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// When.
    pub at_unix_ms: u64,
    /// Which generation of the address; 0 = one of an earlier life of the host.
    pub generation: u64,
    /// State before.
    pub from: String,
    /// What happened.
    pub event: String,
    /// State after.
    pub to: String,
    /// Numbers and reasons.
    pub detail: String,
}

/// Something that a plugin was denied, by the layers around its instance or by the host's services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DenialEntry {
    /// When.
    pub at_unix_ms: u64,
    /// What it would have needed: a permission, or a word for what no permission gives.
    pub capability: String,
    /// What it was about: a path, an address, a service.
    pub target: String,
    /// How it tried: the system call, or the method of the host.
    pub how: String,
}

/// How an unload went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnloadReport {
    /// The address that is free again.
    pub name: String,
    /// Calls that were still running when the stop timeout passed; they were cancelled.
    pub cancelled: u64,
    /// Whether force was needed, and why.
    pub forced: Option<String>,
    /// What is left on purpose, and why.
    pub left: Option<String>,
}

/// What the static checks found, for every variant. Nothing was started.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// What was checked.
    pub source: String,
    /// The plugin, if its manifest could be read.
    #[serde(serialize_with = "display_option")]
    pub plugin: Option<PluginId>,
    /// Faults of the package as a whole.
    #[serde(serialize_with = "refusals")]
    pub refusals: Vec<Refusal>,
    /// Its variants.
    pub variants: Vec<VariantReport>,
}

impl CheckReport {
    /// Whether nothing speaks against any variant.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.refusals.is_empty() && self.variants.iter().all(|it| it.refusals.is_empty())
    }
}

/// What the static checks found in one variant.
#[derive(Clone, Debug, Serialize)]
pub struct VariantReport {
    /// The runtime it was built for.
    #[serde(serialize_with = "display")]
    pub runtime: RuntimeName,
    /// Digest of its bytes.
    #[serde(serialize_with = "display_option")]
    pub digest: Option<Digest>,
    /// Whether this host has that runtime, and it works on this machine.
    pub available: bool,
    /// Every reason against it.
    #[serde(serialize_with = "refusals")]
    pub refusals: Vec<Refusal>,
}

// === serialization of words that belong to other crates ===

fn display<S: Serializer>(it: &impl fmt::Display, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(it)
}

fn display_option<S: Serializer>(it: &Option<impl fmt::Display>, s: S) -> Result<S::Ok, S::Error> {
    match it {
        Some(it) => s.collect_str(it),
        None => s.serialize_none(),
    }
}

pub(crate) fn to_unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms<S: Serializer>(at: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(to_unix_ms(*at))
}

fn refusals<S: Serializer>(all: &[Refusal], s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        what: &'a str,
        why: &'a str,
        hint: &'a str,
    }
    let mut seq = s.serialize_seq(Some(all.len()))?;
    for Refusal { what, why, hint } in all {
        seq.serialize_element(&Row { what, why, hint })?;
    }
    seq.end()
}

fn permissions<S: Serializer>(it: &Permissions, s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(None)?;
    map.serialize_entry("net.connect", &it.net_connect)?;
    map.serialize_entry("fs.read", &it.fs_read)?;
    map.serialize_entry("fs.write", &it.fs_write)?;
    map.serialize_entry("kv", &it.kv)?;
    map.serialize_entry("events.publish", &it.events_publish)?;
    map.serialize_entry("events.subscribe", &it.events_subscribe)?;
    map.end()
}

fn limits<S: Serializer>(it: &Limits, s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(None)?;
    map.serialize_entry("memory_bytes_max", &it.memory_bytes_max)?;
    map.serialize_entry("deadline_ms", &it.deadline.as_millis())?;
    map.serialize_entry("concurrency", &it.concurrency)?;
    map.serialize_entry("payload_bytes_max", &it.payload_bytes_max)?;
    map.serialize_entry("stream_messages_max", &it.stream_messages_max)?;
    map.serialize_entry("stream_bytes_max", &it.stream_bytes_max)?;
    map.serialize_entry("start_ms", &it.start.as_millis())?;
    map.serialize_entry("stop_ms", &it.stop.as_millis())?;
    map.serialize_entry("term_ms", &it.term.as_millis())?;
    map.serialize_entry("swap_ms", &it.swap.as_millis())?;
    map.serialize_entry("cpu_percent", &it.cpu_percent)?;
    map.serialize_entry("log_lines_per_second", &it.log_lines_per_second)?;
    map.end()
}

fn usage<S: Serializer>(it: &Usage, s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(None)?;
    map.serialize_entry("memory_bytes", &it.memory_bytes)?;
    map.serialize_entry("pid", &it.pid)?;
    map.serialize_entry("retired_mappings", &it.retired_mappings)?;
    map.serialize_entry("cpu_ms", &it.cpu_time.map(|it| it.as_millis()))?;
    map.serialize_entry("tasks", &it.tasks)?;
    map.serialize_entry("throttled_periods", &it.throttled_periods)?;
    map.serialize_entry("throttled_ms", &it.throttled_time.map(|it| it.as_millis()))?;
    if let Some(lane) = it.lane {
        map.serialize_entry("lane", lane)?;
    }
    map.end()
}

/// A list, empty where there are no layers to speak of.
fn layers<S: Serializer>(it: &Option<Enclosure>, s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct One<'a> {
        name: &'a str,
        what: &'a str,
        present: bool,
        detail: &'a str,
    }
    s.collect_seq(it.iter().flat_map(|it| &it.layers).map(|it| One {
        name: it.name,
        what: it.what,
        present: it.present,
        detail: &it.detail,
    }))
}

fn support_option<S: Serializer>(it: &Option<Support>, s: S) -> Result<S::Ok, S::Error> {
    let Some(it) = it else { return s.serialize_none() };
    let mut map = s.serialize_map(None)?;
    map.serialize_entry("runtime", it.runtime.as_str())?;
    map.serialize_entry("available", &it.available)?;
    map.serialize_entry("isolation", &format!("{:?}", it.isolation).to_lowercase())?;
    map.serialize_entry("interrupt", &format!("{:?}", it.interrupt).to_lowercase())?;
    let enforced = |it: &Enforcement| match it {
        Enforcement::Enforced => "enforced".to_owned(),
        Enforcement::NotEnforced(why) => format!("not enforced: {why}"),
    };
    map.serialize_entry("memory_limit", &enforced(&it.memory_limit))?;
    map.serialize_entry("cpu_limit", &enforced(&it.cpu_limit))?;
    map.serialize_entry("purity", &enforced(&it.purity))?;
    map.serialize_entry("restartable", &it.restartable)?;
    let lacks: Vec<String> = it
        .lacks
        .iter()
        .map(|lack| format!("{}: {}", lack.what, lack.why))
        .collect();
    map.serialize_entry("lacks", &lacks)?;
    map.end()
}
