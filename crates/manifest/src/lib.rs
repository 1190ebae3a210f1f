//! `plugin.toml` and `mortise.toml`: text in, checked values or every fault with its place out.
//!
//! This crate refuses to know files, sockets and clocks: callers read the text and hand it in with the name to print.
//! A file is checked to its end, so an author sees all faults at once, each as a [`Diagnostic`] with file, line, column and,
//! where there is one, a hint. Unknown keys are faults: a misspelt permission must not become a silent default.
//!
//! - [`Manifest`]: what a plugin says about itself (`plugin.toml`).
//! - [`HostConfig`]: what the operator decided (`mortise.toml`).
//! - [`Permissions`] asked for, [`Grant`] given: declaring grants nothing, and a plugin gets what is in both.
//! - [`Limits`] in force, [`LimitsOverride`] as written by a plugin or an operator.
#![forbid(unsafe_code)]

mod adapt;
mod canary;
mod diagnostic;
mod dialect;
mod endpoint;
mod events;
mod host_config;
mod limits;
mod manifest;
mod name;
mod permissions;
mod place;
mod reader;
mod restart;
mod route;
mod runtime_name;
mod suggest;
mod topic;

pub use adapt::{Adapt, AdaptMessage};
pub use canary::CanaryEntry;
pub use diagnostic::{Diagnostic, Diagnostics};
pub use dialect::{Dialect, GoPlugin};
pub use endpoint::{Endpoint, EndpointError};
pub use events::{EventsConfig, NatsSettings, SubscribeEntry, SubscribeFrom};
pub use host_config::{
    CanarySettings, ConfigSettings, EtcdSettings, GatewayConfig, HostConfig, HostSettings, JAIL_LAYERS,
    PackageSource, PluginEntry, PluginTerms, ProcessLane, ProcessSettings, RoutingConfig, WatchConfig,
    WebhookEntry, WebhookForm,
};
pub use limits::{Limits, LimitsOverride};
pub use manifest::{ConfigTerms, Line, Manifest, Requirement, Variant};
pub use name::{NameError, check_plugin_name, check_service_name};
pub use permissions::{Grant, Jail, Permission, Permissions};
pub use place::{Step, place_in_json, place_in_toml};
pub use reader::table_to_json;
pub use restart::Restart;
pub use route::{HeaderTest, HeaderWanted, RouteEntry, RouteFault, RouteShare};
pub use runtime_name::RuntimeName;
pub use topic::{TopicError, TopicPattern, check_topic};

#[cfg(test)]
mod tests;
