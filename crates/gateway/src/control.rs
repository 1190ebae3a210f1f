//! The control socket: JSON-RPC 2.0 over HTTP/1 on a unix socket, for whoever operates the host.
//!
//! Who may use it is decided by the kernel's word about the peer (`SO_PEERCRED`), not by a secret: root, and the user that the host
//! runs as. Everybody else gets one clear refusal. The socket's mode (0600) says the same once more.
//!
//! Each method is a type that implements [`Ask`]: its fields are the parameters, [`Ask::Answer`] is the result. Server and client share
//! them, so they cannot drift.
//!
//! | method | parameters | answer |
//! |---|---|---|
//! | `mortise.load` | [`Load`] | [`Plugin`] |
//! | `mortise.load_all` | [`LoadAll`] | `[`[`Plugin`]`]` |
//! | `mortise.unload` | [`Unload`] | [`Unloaded`] |
//! | `mortise.graph` | [`Graph`] | [`Chart`](mortise_host::Chart) |
//! | `mortise.list` | [`List`] | `[`[`Plugin`]`]` |
//! | `mortise.inspect` | [`Inspect`] | [`PluginDetail`] |
//! | `mortise.call` | [`Call`] | the reply, as JSON |
//! | `mortise.resolve` | [`Resolve`] | [`Resolved`] |
//! | `mortise.routes` | [`Routes`] | [`RouteList`] |
//! | `mortise.route_set` | [`SetRoute`] | [`RouteList`] |
//! | `mortise.route_remove` | [`RemoveRoute`] | [`RouteList`] |
//! | `mortise.route_explain` | [`Explain`] | [`Explained`] |
//! | `mortise.canary_start` | [`StartCanary`] | [`Canary`] |
//! | `mortise.canaries` | [`Canaries`] | `[`[`Canary`]`]` |
//! | `mortise.canary_tell` | [`TellCanary`] | [`Canary`] |
//! | `mortise.history` | [`History`] | `[`[`Move`]`]` |
//! | `mortise.changes` | [`Changes`] | `[`[`Change`]`]` |
//! | `mortise.rollback` | [`Rollback`] | [`Plugin`] |
//! | `mortise.diff` | [`Diff`] | [`Differences`] |
//! | `mortise.topics` | [`Topics`] | `[`[`Topic`]`]` |
//! | `mortise.subscriptions` | [`Subscriptions`] | `[`[`Subscription`]`]` |
//! | `mortise.events` | [`ReadEvents`] | `[`[`EventEntry`]`]` |
//! | `mortise.publish` | [`Publish`] | [`PublishedEvent`] |
//! | `mortise.dead_letters` | [`DeadLetters`] | `[`[`DeadLetter`]`]` |
//! | `mortise.dead_replay` | [`ReplayDead`] | [`Letters`] |
//! | `mortise.dead_drop` | [`DropDead`] | [`Letters`] |
//! | `mortise.subscription_forget` | [`ForgetSubscription`] | [`Forgotten`] |
//! | `mortise.config` | [`Config`] | [`Configuration`] |
//! | `mortise.supports` | [`Supports`] | `[`[`RuntimeSupport`]`]` |
//! | `mortise.doctor` | [`Doctor`] | [`DoctorReport`] |
//! | `mortise.reload` | [`Reload`] | [`Reloaded`] |
//! | `mortise.shutdown` | [`Shutdown`] | [`Stopping`] |
//!
//! Calls that stream have a path of their own, `POST /stream/{target}`, which is the gateway's: [`StreamCall`].

/// On `POST /stream/{target}` of the control socket: the headers of the call, as a JSON object of strings.
const HEADERS_HEADER: &str = "x-mortise-headers";

mod canary;
mod client;
mod configuration;
mod events;
mod methods;
mod socket;
mod types;

pub use canary::{Canary, CanaryDecision, CanaryNumbers, CanarySide};
pub use client::{Client, ClientError};
pub use configuration::{Config, ConfigSourceState, Configuration, ConfiguredValue};
pub use events::{
    DeadLetter, DeadLetters, DropDead, EventEntry, ForgetSubscription, Forgotten, Letters, Publish,
    PublishedEvent, ReadEvents, ReplayDead, Subscription, Subscriptions, Topic, Topics,
};
pub use methods::{HostFacts, Reloader};
pub use socket::{BindError, ControlSocket};
pub use types::{
    Adapted, Ask, Call, Canaries, CanaryAnalysis, CarriedState, Change, Changes, Denial, Diff, Difference,
    Differences, Doctor, DoctorReport, Explain, Explained, Grant, Graph, History, Inspect, Lack, Layer,
    Limits, List, Load, LoadAll, Method, Move, NotReloaded, Overruled, Plugin, PluginDetail, Reload,
    Reloaded, RemoveRoute, Resolve, Resolved, Rollback, RouteCandidate, RouteLine, RouteList, Routes,
    RuntimeSupport, SetRoute, Shutdown, StartCanary, Stopping, StreamCall, Supports, TellCanary, Unload,
    Unloaded,
};
