//! `mortise.config`: what a plugin is configured with, and where each value comes from. Secrets never cross the socket, only where they are.

use serde::{Deserialize, Serialize};

/// Asks what a plugin is configured with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `name` or `name@version`.
    pub plugin: String,
}

/// What a plugin is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The plugin's address.
    pub name: String,
    /// The message of its contract that it has to look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether the plugin takes a new one while it runs.
    pub hot: bool,
    /// Which revisions of which sources are in force: `etcd:17`; empty if none has settings for it.
    pub revision: String,
    /// How it came into force: `start`, `hot`, `swap`; `none` for a plugin that does not serve.
    pub how: String,
    /// When.
    pub since_unix_ms: u64,
    /// Whether an instance has proved itself with it: then it is what the plugin falls back to.
    #[serde(default)]
    pub proven: bool,
    /// Its values.
    pub values: Vec<ConfiguredValue>,
    /// Why something else that the sources say is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The sources; later ones win.
    pub sources: Vec<ConfigSourceState>,
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredValue {
    /// Where: `limits.rate`.
    pub path: String,
    /// The value as JSON, or the reference of a secret.
    pub value: String,
    /// Where it came from: `own`, a file, a key.
    pub origin: String,
    /// Whether it is a reference.
    pub secret: bool,
}

/// How a source of configuration is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSourceState {
    /// Its name.
    pub name: String,
    /// The last revision that was heard of.
    pub revision: u64,
    /// Why nothing is heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_since_unix_ms: Option<u64>,
}
