//! The host: loads plugins while a service runs, routes calls to them, swaps, limits, watches and removes them.
//!
//! It knows a runtime only as `mortise_runtime::Runtime`; which technologies exist is the embedder's choice
//! ([`HostBuilder::runtime`]). It serves no network protocol and has no words for people beyond its errors' messages: that is the
//! gateway's and the command line's part.
//!
//! # Who writes what
//! - One `supervisor` task per *address* (`name`, or `name@version` for a version that runs beside another) is the only writer of
//!   that address's life. Everyone else sends it commands. Its moves are those of `mortise_lifecycle::step`, and each is in the
//!   journal before its side effect happens.
//! - Callers read: the immutable method table behind one pointer (`table`), then the address's cell with its current generation
//!   (`generation`). They never wait for a supervisor.
//!
//! Reading order: `request` and `info` (what goes in and comes out), `host`, `routes`, `table`, `methods`, `generation`, `admission`, `call`, `bound`,
//! `load`, `depend`, `life`, `supervisor`, `together`, `waiting`, `canary`, `webhook`, `reload`, `entries`, `directory`, `config`, `history`, `events`, `services`.
#![forbid(unsafe_code)]

mod adapt;
mod admission;
mod bound;
mod builder;
mod call;
mod canary;
mod carry;
mod client;
mod config;
mod depend;
mod directory;
mod entries;
mod error;
mod events;
mod gate;
mod generation;
mod history;
mod host;
mod info;
mod life;
mod load;
mod methods;
mod reload;
mod remember;
mod request;
mod route;
mod routes;
mod services;
mod stats;
mod stream;
mod supervisor;
mod table;
mod together;
mod waiting;
#[cfg_attr(not(feature = "http"), path = "no_webhook.rs")]
mod webhook;
mod webhook_terms;

/// The package that this crate's build script embedded under this name (`mortise_build::embed`), for [`HostBuilder::embed`].
///
/// ```ignore
/// // build.rs: fn main() { mortise_build::embed("plugins/thumbnailer-1.2.0"); }
/// let host = mortise::host().embed(mortise::embedded!("thumbnailer")).start().await?;
/// host.load(LoadRequest::new(Source::embedded("thumbnailer"))).await?;
/// ```
#[macro_export]
macro_rules! embedded {
    ($name:literal) => {{
        const PACKAGE: (&str, &[(&str, &[u8])]) = ::core::include!(::core::concat!(
            ::core::env!("OUT_DIR"),
            "/",
            $name,
            ".embedded.rs"
        ));
        $crate::EmbeddedPackage {
            name: PACKAGE.0,
            files: PACKAGE.1,
        }
    }};
}

pub use adapt::CallerContract;
pub use bound::BoundMethod;
pub use builder::HostBuilder;
pub use canary::{CanaryEntry, CanaryInfo, CanaryNumbers, CanaryRequest, CanarySide, Notice};
pub use client::PluginCaller;
pub use config::{ConfigFault, ConfigInfo, ConfigValue, SourceInfo};
pub use error::{HostError, HostErrorKind};
pub use events::{EVENT_HEADERS, EVENTS_HISTORY, EventStream, Publication};
pub use history::{ChangeInfo, DiffReport, Difference};
pub use host::Host;
pub use info::{
    AdaptedInfo, CheckReport, Counters, DenialEntry, HistoryEntry, MethodInfo, PluginDetail, PluginInfo,
    StateInfo, StateOrigin, UnloadReport, VariantReport,
};
pub use methods::{EVENTS_MAX as METHOD_EVENTS_MAX, MethodChange, MethodNotice, MethodWatch, ServedMethod};
/// The port of whoever knows what is configured elsewhere.
pub use mortise_config::{ConfigSource, Outage, Setting, Settings, Update};
/// The port of events: who keeps them, and what is said of them.
pub use mortise_events as event;
pub use mortise_lifecycle::{
    CanaryAnalysis, CanaryPlan, CanaryStep, CanaryStepError, ProbationPolicy, RestartPolicy, State,
};
/// What rules and explanations are made of.
pub use mortise_routing as routing;
pub use mortise_routing::{Chart, ChartEdge, ChartPlugin, Tie};
pub use mortise_runtime::{ReceiveHalf, SendError, SendHalf, StreamHandle};
pub use mortise_store::{EmbeddedPackage, Package, WriteHook, WriteMoment};
pub use reload::ReloadReport;
pub use request::{CallOptions, LoadRequest, Source};
pub use route::Route;
pub use routes::{ROUTES_HISTORY, RouteInfo, RouteOrigin, Routes};
pub use services::NameLookup;
pub use webhook::{Webhook, WebhookRetry};
