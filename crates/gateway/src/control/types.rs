//! Parameters and answers of the control socket.
//!
//! Answers mirror what the host says about itself in JSON; a reader ignores members that it does not know, so an older command can
//! talk to a newer host. Parameters are strict: a misspelt grant must not become a silent default.

use std::collections::BTreeMap;

use mortise_host::{
    Chart, Host, ReloadReport, UnloadReport,
    routing::{Candidate, Explanation},
};
use mortise_manifest::RouteEntry;
use mortise_runtime::{Enforcement, Interrupt, Isolation, Support};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{
    canary::Canary,
    configuration::{Config, Configuration},
};
use crate::error::Reason;

/// One method of the control socket.
pub trait Ask: Serialize {
    /// Its name.
    const METHOD: &'static str;
    /// What it answers.
    type Answer: DeserializeOwned;
}

/// Loads a plugin, or replaces the one that runs under the same name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// An absolute folder, `builtin:NAME` or `embedded:NAME`.
    pub source: String,
    /// The name to register it under; default: its manifest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The runtime; default: the host's preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// What it may use.
    #[serde(default)]
    pub grant: Grant,
    /// `on` or `off`; default: `on`. `off` trusts a plugin that runs as a process like the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<String>,
    /// Takes its word that it is pure, where its runtime cannot keep it to that, so that its functions may adapt messages.
    #[serde(default)]
    pub trust_adapter: bool,
    /// `never`, `on-failure` or `always`; default: `on-failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// Limits that replace those of its manifest.
    #[serde(default)]
    pub limits: Limits,
    /// Its configuration, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
    /// Beside the version that runs, instead of replacing it.
    #[serde(default)]
    pub beside: bool,
    /// Although its digest is quarantined.
    #[serde(default)]
    pub force: bool,
}

/// Permissions, as in `mortise.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `host:port` pairs.
    #[serde(default, rename = "net.connect")]
    pub net_connect: Vec<String>,
    /// Paths to read.
    #[serde(default, rename = "fs.read")]
    pub fs_read: Vec<String>,
    /// Paths to write.
    #[serde(default, rename = "fs.write")]
    pub fs_write: Vec<String>,
    /// Private key-value data.
    #[serde(default)]
    pub kv: bool,
    /// Patterns of topics to publish to.
    #[serde(default, rename = "events.publish", skip_serializing_if = "Vec::is_empty")]
    pub events_publish: Vec<String>,
    /// Patterns of topics to subscribe to.
    #[serde(default, rename = "events.subscribe", skip_serializing_if = "Vec::is_empty")]
    pub events_subscribe: Vec<String>,
}

/// Limits, as in `mortise.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Highest memory of one instance, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Deadline of a call that brings none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Calls it works on at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Highest size of one request or reply, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_mib: Option<u64>,
    /// Time a start may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
    /// Time a stop may take before force is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_ms: Option<u64>,
    /// What a process has after that, from SIGTERM to SIGKILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term_ms: Option<u64>,
    /// Longest that callers wait while state goes from one instance into its successor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_ms: Option<u64>,
    /// Processor time, in hundredths of one core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
}

/// Loads several plugins as one change: all take over, or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadAll {
    /// The plugins, in any order.
    pub plugins: Vec<Load>,
}

/// Drains and stops a plugin. Refused while another one that runs requires it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unload {
    /// `name` or `name@version`.
    pub plugin: String,
    /// Drains and stops those that require it before it, in place of refusing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cascade: bool,
}

/// Who requires what of whom.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {}

/// Lists all plugins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// Everything about one plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// `name` or `name@version`.
    pub plugin: String,
}

/// Calls a method, as `POST /rpc` would.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// `plugin.{name}.{method}` or `package.Service/Method`.
    pub target: String,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
    /// Deadline from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Headers, as a caller of `POST /rpc` would bring them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Asks who serves a method, and how many messages go which way; nothing is called.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// `plugin.{name}.{method}` or `package.Service/Method`.
    pub target: String,
    /// Headers, as a caller would bring them: routing may look at them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Opens a call that streams: `POST /stream/{target}` on the control socket, see [`Client::stream`](super::Client::stream).
#[derive(Clone, Debug, Default)]
pub struct StreamCall {
    /// `plugin.{name}.{method}` or `package.Service/Method`.
    pub target: String,
    /// Deadline from now.
    pub timeout_ms: Option<u64>,
    /// Headers, as a caller of `POST /stream/{target}` on the gateway would bring them.
    pub headers: BTreeMap<String, String>,
}

/// The moves in a plugin's life.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// `name` or `name@version`.
    pub plugin: String,
}

/// Who asked for what, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Only of this plugin: `name` or `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Only changes before this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many; default 100, highest 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Loads what a plugin was before, with the grants, limits and configuration of that time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// `name` or `name@version`.
    pub plugin: String,
    /// The number of the change whose end to go back to; default: what it was before what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// What differs between the ends of two changes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    /// Number of the one; default: what was before the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Number of the other.
    pub to: u64,
}

/// Lists the routes, in the order in which they are tried.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {}

/// Sets one route of the operators', in place of theirs of that name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRoute {
    /// As `[[route]]` has it.
    pub route: RouteEntry,
    /// Before the operators' others; default: where it was, or after them.
    #[serde(default)]
    pub first: bool,
}

/// Removes a route that an operator set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRoute {
    /// Its name.
    pub name: String,
}

/// Starts a canary.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartCanary {
    /// What to load beside the version that serves.
    pub load: Load,
    /// Its steps: `25%`, `header NAME=VALUE`, `pause`, `pause 30s` or `promote`. Default: 5 %, 25 %, 50 %, promote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// How it is judged.
    #[serde(default)]
    pub analysis: CanaryAnalysis,
    /// The header whose value keeps a caller with the canary or away from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
}

/// How a canary is judged; what is left out is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryAnalysis {
    /// How long each step is looked at, at least: 60 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// Calls before a number means anything: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_min: Option<u64>,
    /// Errors per call that are always forgiven: 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_ratio_floor: Option<f64>,
    /// Multiple of the baseline's error ratio that is forgiven: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_ratio_factor: Option<f64>,
    /// How far the 95th percentile of latency may be above the baseline's: 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_step_ms: Option<f64>,
    /// And how many times the baseline's: 3; the smaller counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_factor: Option<f64>,
    /// A rise below this never counts: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_rise_min_ms: Option<f64>,
    /// Healths in a row that are too many bad ones: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad_healths_max: Option<u32>,
}

/// Lists the canaries: those that run, and of other plugins the last.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canaries {}

/// A word to a canary.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TellCanary {
    /// The plugin's name.
    pub plugin: String,
    /// `pause`, `resume`, `promote` or `abort`.
    pub word: String,
    /// Why, for an abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Asks where a call would go, and why; nothing is called.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// `plugin.{name}.{method}` or `package.Service/Method`.
    pub target: String,
    /// Headers, as a caller would bring them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// What each runtime can do on the host's machine.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supports {}

/// How the host is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doctor {}

/// Reads the configuration again and brings the plugins to what it says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Plugins whose entries count although somebody had a word since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taking: Vec<String>,
}

/// Stops the host after the calls in flight.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {}

macro_rules! asks {
    ($($ask:ty => $method:literal, $answer:ty;)*) => {
        $(impl Ask for $ask {
            const METHOD: &'static str = $method;
            type Answer = $answer;
        })*
        /// Names of all methods.
        pub(crate) const METHODS: &[&str] = &[$($method),*];
    };
}

asks! {
    Load => "mortise.load", Plugin;
    LoadAll => "mortise.load_all", Vec<Plugin>;
    Unload => "mortise.unload", Unloaded;
    Graph => "mortise.graph", Chart;
    List => "mortise.list", Vec<Plugin>;
    Inspect => "mortise.inspect", PluginDetail;
    Call => "mortise.call", Box<RawValue>;
    Resolve => "mortise.resolve", Resolved;
    Routes => "mortise.routes", RouteList;
    SetRoute => "mortise.route_set", RouteList;
    RemoveRoute => "mortise.route_remove", RouteList;
    Explain => "mortise.route_explain", Explained;
    StartCanary => "mortise.canary_start", Canary;
    Canaries => "mortise.canaries", Vec<Canary>;
    TellCanary => "mortise.canary_tell", Canary;
    History => "mortise.history", Vec<Move>;
    Changes => "mortise.changes", Vec<Change>;
    Rollback => "mortise.rollback", Plugin;
    Diff => "mortise.diff", Differences;
    Config => "mortise.config", Configuration;
    Supports => "mortise.supports", Vec<RuntimeSupport>;
    Doctor => "mortise.doctor", DoctorReport;
    Reload => "mortise.reload", Reloaded;
    Shutdown => "mortise.shutdown", Stopping;
}

/// One line of the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plugin {
    /// `name`, or `name@version` for a version that runs beside another.
    pub name: String,
    /// Its own name and version.
    pub plugin: String,
    /// Where it came from.
    pub source: String,
    /// The runtime it runs in.
    pub runtime: Option<String>,
    /// Where it stands in its life.
    pub state: String,
    /// Digest of the artifact.
    pub digest: Option<String>,
    /// Counts the generations of this name, from 1.
    pub generation: u64,
    /// When it came into this state.
    pub since_unix_ms: u64,
    /// Calls answered, errors included.
    pub calls: u64,
    /// Calls that ended in an error.
    pub errors: u64,
    /// Calls that run now.
    pub in_flight: u64,
    /// Why it is not where it should be.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// Everything about one plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PluginDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub plugin: Plugin,
    /// Name of the running copy.
    pub instance: Option<String>,
    /// Its methods.
    pub methods: Vec<Method>,
    /// Steps between versions of its contract that its package declares, as `1.0.0 -> 2.0.0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapts: Vec<String>,
    /// Callers that say what they were built against, and what is done to their calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapted: Vec<Adapted>,
    /// Services it calls in other plugins.
    pub requires: Vec<String>,
    /// What it asks for.
    pub declared: Grant,
    /// What it was given.
    pub granted: Grant,
    /// Whether it is started again when its instance ends by itself.
    #[serde(default)]
    pub restart: Option<String>,
    /// What it may use.
    pub limits: BTreeMap<String, Value>,
    /// What it did.
    pub counters: BTreeMap<String, Value>,
    /// What the instance that serves began with, if the plugin has state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried_state: Option<CarriedState>,
    /// What it uses now.
    pub usage: BTreeMap<String, Value>,
    /// What stands between it and the system; empty where there are no layers to speak of.
    #[serde(default)]
    pub layers: Vec<Layer>,
    /// What the instance that serves was denied, newest last.
    #[serde(default)]
    pub denied: Vec<Denial>,
    /// Its moves, newest last.
    pub history: Vec<Move>,
    /// What its runtime can do here.
    #[serde(default)]
    pub support: Option<BTreeMap<String, Value>>,
}

/// What is done to calls of one method from callers of one contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Adapted {
    /// A plugin's address, a version, or `a caller`.
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

/// What an instance with state began with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CarriedState {
    /// Full name of the message.
    pub schema: String,
    /// `predecessor`, `snapshot` or `nothing`.
    pub origin: String,
    /// Version that saved it.
    pub from_version: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// When it was saved.
    pub saved_at_unix_ms: Option<u64>,
    /// How long callers waited while it was handed over.
    pub pause_us: Option<u64>,
    /// Why there was state that it did not take over.
    pub left_behind: Option<String>,
}

/// One method of a plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Method {
    /// `package.Service`.
    pub service: String,
    /// The method's name.
    pub name: String,
    /// Calling twice is the same as calling once.
    pub idempotent: bool,
    /// Returns promptly and never blocks.
    pub nonblocking: bool,
}

/// Something that a plugin was denied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Denial {
    /// When.
    pub at_unix_ms: u64,
    /// What it would have needed.
    pub capability: String,
    /// What it was about.
    pub target: String,
    /// How it tried.
    pub how: String,
}

/// One move in a plugin's life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Move {
    /// When.
    pub at_unix_ms: u64,
    /// Which generation; 0 = none yet.
    pub generation: u64,
    /// State before.
    pub from: String,
    /// What happened.
    pub event: String,
    /// State after.
    pub to: String,
    /// Numbers and reasons.
    #[serde(default)]
    pub detail: String,
}

/// Something that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number.
    pub seq: u64,
    /// When it began.
    pub at_unix_ms: u64,
    /// Who asked: `uid:1000`, `config`, `directory`, `probation`.
    pub actor: String,
    /// `name` or `name@version`.
    pub name: String,
    /// `load`, `unload` or `rollback`.
    pub action: String,
    /// The version it was to end with; empty for none.
    pub version: String,
    /// Digest of the package; empty for none.
    pub digest: String,
    /// `begun`, `done`, `failed` or `interrupted`.
    pub outcome: String,
    /// Why.
    #[serde(default)]
    pub detail: String,
    /// Whether a rollback can go there.
    #[serde(default)]
    pub kept: bool,
    /// What differs from before.
    #[serde(default)]
    pub diff: Vec<Difference>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What: `version`, `config.quality`, `grant.net.connect`, `limits.deadline_ms`.
    pub what: String,
    /// Before.
    pub before: Option<String>,
    /// After.
    pub after: Option<String>,
}

/// What differs between the ends of two changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// Number of the one.
    pub from: Option<u64>,
    /// Number of the other.
    pub to: u64,
    /// What differs.
    pub differences: Vec<Difference>,
    /// `exact`, `wire-compatible`, `adaptable` or `incompatible`; nothing where a package is not kept any more.
    #[serde(default)]
    pub contract: Option<String>,
    /// Broken rules of the contract.
    #[serde(default)]
    pub violations: Vec<String>,
}

/// Who serves a method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// `package.Service`.
    pub service: String,
    /// The method's name.
    pub method: String,
    /// Whether a caller sends any number of requests, not one.
    pub client_streaming: bool,
    /// Whether the plugin sends any number of replies, not one.
    pub server_streaming: bool,
}

/// All routes, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteList {
    /// Counts the changes of this life of the host.
    pub revision: u64,
    /// The routes.
    pub routes: Vec<RouteLine>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLine {
    /// Its name.
    pub name: String,
    /// Who made it: `operator`, `configuration`, `program` or `canary`.
    pub origin: String,
    /// What it does, in words.
    pub does: String,
    /// As it was written, for those that were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Value>,
}

/// Where a call would go, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The target, as it was given.
    pub target: String,
    /// Every plugin that could answer.
    pub candidates: Vec<RouteCandidate>,
    /// What was tried and did not decide, in order.
    pub steps: Vec<String>,
    /// The plugin that would answer.
    pub plugin: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Why it, or why nobody.
    pub because: String,
}

/// A plugin that could answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteCandidate {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Its weight where no route decides.
    pub weight: u32,
}

/// How an unload went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unloaded {
    /// The name that is free again.
    pub name: String,
    /// Calls that did not end in time and were cancelled.
    pub cancelled: u64,
    /// Whether force was needed, and why.
    pub forced: Option<String>,
    /// What is left on purpose, and why.
    pub left: Option<String>,
    /// Plugins that required it and went before it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Unloaded>,
}

/// What became of the configuration's plugins, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Serve now and did not before.
    pub loaded: Vec<String>,
    /// Took over from what served under their name.
    pub swapped: Vec<String>,
    /// Serve as before.
    pub unchanged: Vec<String>,
    /// Have another package, which came as a canary or is one still; what served does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<String>,
    /// Serve something else than their entry names, because somebody had a word since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Overruled>,
    /// Are gone, because the configuration does not name them any more.
    pub unloaded: Vec<String>,
    /// Could not be brought to what the configuration says. What served under these names still does.
    pub failed: Vec<NotReloaded>,
    /// Settings that changed and are looked at only when a host starts, as `table.key`.
    pub needs_restart: Vec<String>,
}

/// An entry of the configuration that names something else than what serves, because somebody had a word since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overruled {
    /// Its name.
    pub name: String,
    /// What serves, and what to do.
    pub why: String,
}

/// An entry of the configuration that could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReloaded {
    /// Its name.
    pub name: String,
    /// All reasons.
    pub reasons: Vec<Reason>,
}

/// The host is on its way out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stopping {
    /// Always true.
    pub stopping: bool,
}

/// What one runtime can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeSupport {
    /// Its name.
    pub runtime: String,
    /// Whether this build and machine can run it at all.
    pub available: bool,
    /// What stands between guest and host.
    pub isolation: String,
    /// How a call over its deadline is ended.
    pub interrupt: String,
    /// `enforced`, or why not.
    pub memory_limit: String,
    /// The same for processor time.
    #[serde(default)]
    pub cpu_limit: String,
    /// The same for what a plugin promises that says it is pure.
    #[serde(default)]
    pub purity: String,
    /// Whether an instance that died is replaced.
    pub restartable: bool,
    /// What it cannot do here.
    pub lacks: Vec<Lack>,
    /// The layers that this machine can put around its plugins; empty where there are none to speak of.
    #[serde(default)]
    pub layers: Vec<Layer>,
}

/// One layer between a plugin and the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name, as `runtime.process.require` has it.
    pub name: String,
    /// What it keeps from a plugin.
    pub what: String,
    /// Whether it is there.
    pub present: bool,
    /// How, or why not; may be empty if it is there.
    pub detail: String,
}

/// Something a runtime cannot do here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// What.
    pub what: String,
    /// Why, and what to use instead.
    pub why: String,
}

/// How the host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoctorReport {
    /// The host's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Its data directory.
    pub data_dir: Option<String>,
    /// Where HTTP is served.
    pub listen: Option<String>,
    /// Number of plugins by state.
    pub plugins: BTreeMap<String, u32>,
    /// Plugins that serve something else than the configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overruled: Vec<Overruled>,
    /// What each runtime can do.
    pub runtimes: Vec<RuntimeSupport>,
}

impl From<(String, String)> for Overruled {
    fn from((name, why): (String, String)) -> Self {
        Self { name, why }
    }
}

impl From<UnloadReport> for Unloaded {
    fn from(report: UnloadReport) -> Self {
        let UnloadReport {
            name,
            cancelled,
            forced,
            left,
        } = report;
        Self {
            name,
            cancelled,
            forced,
            left,
            before: Vec::new(),
        }
    }
}

impl From<Explanation> for Explained {
    fn from(explanation: Explanation) -> Self {
        let candidate = |it: Candidate| RouteCandidate {
            plugin: it.name.to_string(),
            version: it.version.to_string(),
            weight: it.weight,
        };
        let (plugin, version, because) = match explanation.outcome {
            Ok((name, version, reason)) => (Some(name), Some(version), reason.to_string()),
            Err(error) => (None, None, error.to_string()),
        };
        Self {
            target: explanation.target,
            candidates: explanation.candidates.into_iter().map(candidate).collect(),
            steps: explanation.steps.iter().map(ToString::to_string).collect(),
            plugin: plugin.map(|it| it.to_string()),
            version: version.map(|it| it.to_string()),
            because,
        }
    }
}

impl From<ReloadReport> for Reloaded {
    fn from(report: ReloadReport) -> Self {
        let failed = report.failed.into_iter().map(|(name, reasons)| NotReloaded {
            name,
            reasons: reasons.into_iter().map(Reason::from).collect(),
        });
        Self {
            loaded: report.loaded,
            swapped: report.swapped,
            unchanged: report.unchanged,
            canaries: report.canaries,
            kept: report.kept.into_iter().map(Overruled::from).collect(),
            unloaded: report.unloaded,
            failed: failed.collect(),
            needs_restart: Vec::new(),
        }
    }
}

impl From<&Support> for RuntimeSupport {
    fn from(support: &Support) -> Self {
        let isolation = match support.isolation {
            Isolation::None => "none: the host's own address space",
            Isolation::Sandbox => "sandbox",
            Isolation::Process => "process",
        };
        let interrupt = match support.interrupt {
            Interrupt::Never => "never: only its caller is freed",
            Interrupt::Trap => "trap: stopped where it stands",
            Interrupt::Kill => "kill: asked to cancel, then its process is killed",
        };
        let enforced = |it: &Enforcement| match it {
            Enforcement::Enforced => "enforced".to_owned(),
            Enforcement::NotEnforced(why) => format!("not enforced: {why}"),
        };
        let lacks = support.lacks.iter().map(|it| Lack {
            what: it.what.to_owned(),
            why: it.why.clone(),
        });
        Self {
            runtime: support.runtime.to_string(),
            available: support.available,
            isolation: isolation.to_owned(),
            interrupt: interrupt.to_owned(),
            memory_limit: enforced(&support.memory_limit),
            cpu_limit: enforced(&support.cpu_limit),
            purity: enforced(&support.purity),
            restartable: support.restartable,
            lacks: lacks.collect(),
            layers: Vec::new(),
        }
    }
}

impl RuntimeSupport {
    /// Of every runtime of a host, with the layers that the machine gives.
    pub fn all_of(host: &Host) -> Vec<Self> {
        let with_layers = |support: &Support| Self {
            layers: host
                .enclosure(support.runtime)
                .into_iter()
                .flat_map(|it| it.layers)
                .map(Layer::from)
                .collect(),
            ..Self::from(support)
        };
        host.supports().iter().map(with_layers).collect()
    }
}

impl From<mortise_runtime::Layer> for Layer {
    fn from(layer: mortise_runtime::Layer) -> Self {
        Self {
            name: layer.name.to_owned(),
            what: layer.what.to_owned(),
            present: layer.present,
            detail: layer.detail,
        }
    }
}
