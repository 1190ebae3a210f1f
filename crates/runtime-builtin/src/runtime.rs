//! The runtime: the plugins that this host has linked in, by name and version.

use std::collections::BTreeMap;

use mortise_manifest::{Grant, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, Enforcement, Instance, Interrupt, Isolation, Lack, PluginId, Prepared, Runtime,
    RuntimeError, RuntimeErrorKind as Kind, Start, Support, Verified,
};
use mortise_wire::{Metadata, StartRequest, linked::LinkedPlugin};
use tokio::runtime::Handle;

use crate::{
    BuiltinPlugin,
    host_link::{Cancel, CancelOnDrop, Link},
    instance::{BuiltinInstance, guarded},
};

/// Runs plugins that are compiled into the host.
#[derive(Debug)]
pub struct BuiltinRuntime {
    plugins: BTreeMap<PluginId, BuiltinPlugin>,
}

// === impl BuiltinRuntime ===

impl BuiltinRuntime {
    /// A runtime that knows `plugins`.
    ///
    /// # Errors
    /// `Malformed` if two have the same name and version.
    pub fn new(plugins: impl IntoIterator<Item = BuiltinPlugin>) -> Result<Self, RuntimeError> {
        let mut known = BTreeMap::new();
        for plugin in plugins {
            let id = plugin.id().clone();
            if known.insert(id.clone(), plugin).is_some() {
                let message = format!("two builtin plugins are both `{id}`");
                return Err(RuntimeError::new(
                    Kind::Malformed,
                    message,
                    "register each plugin once",
                ));
            }
        }
        Ok(Self { plugins: known })
    }

    /// The plugins it knows, by name and version.
    pub fn plugins(&self) -> impl Iterator<Item = &BuiltinPlugin> {
        self.plugins.values()
    }

    fn find(&self, id: &PluginId) -> Result<&BuiltinPlugin, RuntimeError> {
        self.plugins.get(id).ok_or_else(|| {
            let known: Vec<_> = self.plugins.keys().map(|it| format!("`{it}`")).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            RuntimeError::new(
                Kind::NotAPlugin,
                format!("no builtin plugin is `{id}`; this host has {known}"),
                "link the plugin into the host, or load it from a package",
            )
        })
    }
}

impl Runtime for BuiltinRuntime {
    fn support(&self) -> Support {
        let why = "a builtin plugin is the host's own code; use `wasm` or `process` for one that must be kept in bounds";
        Support {
            runtime: RuntimeName::Builtin,
            available: true,
            isolation: Isolation::None,
            interrupt: Interrupt::Never,
            memory_limit: Enforcement::NotEnforced("a builtin plugin's memory is the host's"),
            cpu_limit: Enforcement::NotEnforced("a builtin plugin's threads are the host's"),
            purity: Enforcement::NotEnforced(
                "a builtin plugin is the host's own code, and may do whatever that may",
            ),
            restartable: true,
            lacks: ["isolation", "interrupt", "memory limit"]
                .map(|what| Lack {
                    what,
                    why: why.to_owned(),
                })
                .into(),
        }
    }

    fn needs_path(&self) -> bool {
        false
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        self.find(&artifact.plugin)
            .map(|plugin| Metadata::clone(plugin.metadata()))
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        _: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        let plugin = self.find(&artifact.artifact().plugin);
        let metadata = artifact.metadata().clone();
        Box::pin(std::future::ready(
            plugin.map(|plugin| Prepared::new(metadata, plugin.linked())),
        ))
    }

    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(launch(prepared, start))
    }
}

async fn launch(prepared: Prepared, start: Start) -> Result<Box<dyn Instance>, RuntimeError> {
    let metadata = prepared.metadata.clone();
    let name = metadata.name.clone();
    let failed = |why: String, hint: &str| {
        RuntimeError::new(Kind::StartFailed, format!("plugin `{name}` {why}"), hint)
    };
    let linked: LinkedPlugin = prepared.into_inner().ok_or_else(|| {
        failed(
            "was prepared by another runtime".to_owned(),
            "report this as a bug of the host",
        )
    })?;
    let request = StartRequest {
        config_json: start.config_json.to_string(),
        plugin: metadata.name.clone(),
        version: metadata.version.clone(),
        instance: start.instance.to_string(),
    };
    let cancel = Cancel::new();
    // If this start is given up, what the plugin waits for in it is given up too; the instance it makes afterwards is dropped.
    let _given_up = CancelOnDrop(cancel.clone());
    let link = Link {
        services: start.services.clone(),
        call: None,
        cancel,
        executor: Some(Handle::current()),
    };
    let starting = tokio::task::spawn_blocking(move || guarded(|| (linked.start)(request, Box::new(link))));
    let started = match tokio::time::timeout(start.limits.start, starting).await {
        Ok(Ok(Ok(Ok(instance)))) => instance,
        Ok(Ok(Ok(Err(status)))) => {
            let why = format!("declined to start: {}", status.message);
            return Err(failed(why, "correct its configuration as the message says").with_source(status));
        }
        Ok(Ok(Err(panic))) => {
            return Err(failed(
                format!("panicked in its start: {panic}"),
                "see the host's log",
            ));
        }
        Ok(Err(error)) => {
            return Err(failed(
                format!("was not started: {error}"),
                "is the host shutting down?",
            ));
        }
        Err(_) => {
            let why = format!(
                "was not ready after {:?}; its thread goes on, as nothing can stop it",
                start.limits.start
            );
            return Err(failed(
                why,
                "raise `limits.start_ms`, or make the plugin do less in its start",
            ));
        }
    };
    Ok(Box::new(BuiltinInstance::new(start, metadata, started)))
}
