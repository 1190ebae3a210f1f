//! What is told about a plugin's configuration.

use serde::Serialize;

use super::{
    How, OWN,
    checks::{Blot, blot},
    effective, revisions,
};
use crate::{Host, HostError, info::to_unix_ms};

/// A plugin's configuration, as it is in force. Of secrets it has the references.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigInfo {
    /// The plugin's address.
    pub name: String,
    /// The message of its contract that it has to look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether it takes a new one while it runs.
    pub hot: bool,
    /// Which revisions of which sources are in force: `etcd:17`; empty if none has settings for it.
    pub revision: String,
    /// How it came into force: `start`, `hot` or `swap`.
    pub how: String,
    /// When.
    pub since_unix_ms: u64,
    /// Whether an instance has proved itself with it: then it is what the plugin falls back to.
    pub proven: bool,
    /// Its values.
    pub values: Vec<ConfigValue>,
    /// Why something else that the sources say is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The sources, in the order in which they are laid over each other.
    pub sources: Vec<SourceInfo>,
}

/// One value of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigValue {
    /// Where: `limits.rate`.
    pub path: String,
    /// The value as JSON, or the reference of a secret: `file:/run/secrets/echo/key`.
    pub value: String,
    /// Where it came from: `own` (its entry in mortise.toml, or its load), a file, a key.
    pub origin: String,
    /// Whether it is a reference.
    pub secret: bool,
}

/// How a source of configuration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceInfo {
    /// Its name.
    pub name: String,
    /// The last revision that was heard of.
    pub revision: u64,
    /// Why nothing is heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_since_unix_ms: Option<u64>,
}

impl Host {
    /// A plugin's configuration, and where each value comes from. Secrets are not in it, only where they are.
    ///
    /// # Errors
    /// If there is no such plugin.
    pub fn config(&self, plugin: &str) -> Result<ConfigInfo, HostError> {
        let shared = self.shared();
        let address = shared.find(plugin)?;
        let status = address.status.load();
        let sources = self.config_sources();
        let trouble = address.trouble.load_full().map(|it| it.to_string());
        let name = address.name.to_string();
        let Some(serving) = &status.current else {
            let mut wanted = shared.configs.lock().wanted(address.base()).unwrap_or_default();
            // Nothing was checked of it yet.
            for (message, contract) in shared.messages(address.base()) {
                for layer in &mut wanted {
                    layer.edit(|it| blot(it, &message, &contract, Blot::Faulty));
                }
            }
            let wanted = effective(&serde_json::Map::new(), &wanted);
            return Ok(ConfigInfo {
                name,
                message: None,
                hot: false,
                revision: String::new(),
                how: "none".to_owned(),
                since_unix_ms: 0,
                proven: false,
                values: values(&wanted),
                trouble,
                sources,
            });
        };
        let in_force = serving.configured.in_force();
        let how = match in_force.how {
            How::Start => "start",
            How::Hot => "hot",
            How::Swap => "swap",
        };
        Ok(ConfigInfo {
            name,
            message: serving.manifest.config.message.clone(),
            hot: serving.instance.configure().is_some(),
            revision: revisions(&in_force.layers),
            how: how.to_owned(),
            since_unix_ms: to_unix_ms(in_force.since),
            proven: shared.configs.lock().good(address.base()).as_ref() == Some(&in_force.layers),
            values: values(&in_force.effective),
            trouble,
            sources,
        })
    }

    /// The sources of configuration beside what stands at each plugin, in the order in which they are laid over each other.
    #[must_use]
    pub fn config_sources(&self) -> Vec<SourceInfo> {
        let state = self.shared().configs.lock();
        let source = |it: &super::SourceState| SourceInfo {
            name: it.name.clone(),
            revision: it.revision,
            out: it.out.as_ref().map(|(why, _)| why.clone()),
            out_since_unix_ms: it.out.as_ref().map(|(_, since)| to_unix_ms(*since)),
        };
        state.sources.iter().map(source).collect()
    }
}

fn values(effective: &mortise_config::Effective) -> Vec<ConfigValue> {
    let leaves = effective.leaves().into_iter();
    leaves
        .map(|it| ConfigValue {
            path: it.path,
            value: it.value,
            origin: if it.origin.is_empty() {
                OWN.to_owned()
            } else {
                it.origin
            },
            secret: it.secret,
        })
        .collect()
}
