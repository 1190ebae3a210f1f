//! The host as its embedder sees it.

use std::sync::Arc;

use bytes::Bytes;
use mortise_runtime::{CallError, CallErrorKind, Support};
use mortise_wire::{Header, Health, Status, client::Caller};

use crate::{
    BoundMethod, CallOptions, CheckReport, HostBuilder, HostError, HostErrorKind, LoadRequest, PluginDetail,
    PluginInfo, Route, Source, UnloadReport,
};

/// A running host. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

pub(crate) fn unknown(target: &str) -> CallError {
    CallError::new(CallErrorKind::NotFound, format!("no plugin provides `{target}`"))
}

impl Host {
    /// Collects what a host is made of.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Loads a plugin and returns when it serves. If one runs under the same name, it is replaced without losing a call (or stays beside the new
    /// one, with `request.beside`); on any failure it serves on.
    ///
    /// # Errors
    /// All reasons against it, or what kept it from starting.
    pub async fn load(&self, request: LoadRequest) -> Result<PluginInfo, HostError> {
        Err(HostError::new(
            HostErrorKind::NotFound,
            format!("{} is not there", request.source),
        ))
    }

    /// Drains and stops a plugin: `name`, or `name@version`.
    ///
    /// # Errors
    /// If there is none.
    pub async fn unload(&self, plugin: &str) -> Result<UnloadReport, HostError> {
        Err(HostError::new(
            HostErrorKind::NotFound,
            format!("there is no plugin `{plugin}`"),
        ))
    }

    /// All plugins, by name; also those that failed or were rejected.
    #[must_use]
    pub fn list(&self) -> Vec<PluginInfo> {
        Vec::new()
    }

    /// Everything about one plugin.
    ///
    /// # Errors
    /// If there is none.
    pub fn inspect(&self, plugin: &str) -> Result<PluginDetail, HostError> {
        Err(HostError::new(
            HostErrorKind::NotFound,
            format!("there is no plugin `{plugin}`"),
        ))
    }

    /// Runs the static checks for every variant of a package and starts nothing.
    ///
    /// # Errors
    /// If there is nothing to check.
    pub async fn check(&self, source: &Source) -> Result<CheckReport, HostError> {
        Err(HostError::new(
            HostErrorKind::NotFound,
            format!("{source} is not there"),
        ))
    }

    /// Finds who answers a target: `package.Service/Method` or `plugin.{name}.{method}`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn resolve(&self, target: &str, headers: &[Header]) -> Result<Route, CallError> {
        let _ = headers;
        Err(unknown(target))
    }

    /// Resolves and calls.
    ///
    /// # Errors
    /// The plugin's own status, or what kept it from answering.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn call(&self, target: &str, payload: Bytes, options: CallOptions) -> Result<Bytes, CallError> {
        let _ = (payload, options);
        Err(unknown(target))
    }

    /// Calls what was resolved before.
    ///
    /// # Errors
    /// As [`Host::call`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn call_route(
        &self,
        route: &Route,
        payload: Bytes,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        let _ = (payload, options);
        Err(unknown(route.plugin()))
    }

    /// Looks a method up once, for synchronous calls.
    ///
    /// # Errors
    /// As [`Host::resolve`].
    pub fn bind(&self, target: &str) -> Result<BoundMethod, CallError> {
        Ok(BoundMethod {
            host: self.clone(),
            route: self.resolve(target, &[])?,
        })
    }

    /// Asks a plugin how it is.
    ///
    /// # Errors
    /// If there is none, or it does not answer within a second.
    pub async fn health(&self, plugin: &str) -> Result<Health, CallError> {
        Err(unknown(plugin))
    }

    /// What each runtime can do on this machine.
    #[must_use]
    pub fn supports(&self) -> Vec<Support> {
        Vec::new()
    }

    /// Drains and stops everything. Later calls answer `Unavailable`. Twice is the same as once.
    pub async fn shutdown(&self) {}

    /// A caller for generated clients whose calls all go to one plugin: `FooClient::new(host.plugin("foo"))`.
    #[must_use]
    pub fn plugin(&self, name: &str) -> PluginCaller {
        PluginCaller {
            host: self.clone(),
            name: name.into(),
        }
    }
}

/// Calls of a generated client: whoever provides the service answers.
impl Caller for Host {
    async fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        Ok(Self::call(self, target, payload.into(), CallOptions::default())
            .await?
            .into())
    }
}

/// A caller for generated clients whose calls all go to one plugin.
#[derive(Clone, Debug)]
pub struct PluginCaller {
    host: Host,
    name: Arc<str>,
}

impl Caller for PluginCaller {
    async fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        let _ = &self.name;
        Ok(
            Host::call(&self.host, target, payload.into(), CallOptions::default())
                .await?
                .into(),
        )
    }
}
