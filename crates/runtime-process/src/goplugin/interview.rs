//! An executable is asked what it serves, once, before there is a package of it.
//!
//! It runs in the jail of a plugin that was granted nothing, because nobody knows it yet.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{GoPlugin, Grant, Limits};
use mortise_runtime::{BoxFuture, CallContext, HostServices, LogLine};
use mortise_wire::{Code, Status};

use super::reach::{GoPluginError, Reach};
use crate::{ProcessConfig, runtime::policy, spawner::Spawner};

/// A plugin that was told to shut down has so long; then it is ended.
const END_WITHIN: Duration = Duration::from_secs(2);

/// What is asked of an executable.
#[derive(Debug)]
pub struct Interview<'a> {
    /// The executable. It is started from here.
    pub executable: &'a Path,
    /// How it is spoken to.
    pub spoken: &'a GoPlugin,
    /// What it must serve, if it can tell; `None` to take its word.
    pub contract: Option<&'a Contract>,
    /// What it may use. `start` bounds the whole conversation.
    pub limits: &'a Limits,
}

/// What it answered.
#[derive(Clone, Debug)]
pub struct Interviewed {
    /// The version of its application's protocol that both speak.
    pub version: u32,
    /// What it says of its services, by gRPC reflection; `None` if it has none.
    pub told: Option<Told>,
}

/// What a plugin says of its services.
#[derive(Clone, Debug)]
pub struct Told {
    /// Their full names, sorted; those of the protocol itself are left out.
    pub services: Vec<String>,
    reflected: mortise_goplugin::descriptors::Reflected,
}

/// Nobody calls it, so it has nobody to call for.
struct NoHost;

// === impl Interview ===

impl Interview<'_> {
    pub(crate) async fn run(
        self,
        config: &ProcessConfig,
        spawner: &Spawner,
    ) -> Result<Interviewed, GoPluginError> {
        let services: Arc<dyn HostServices> = Arc::new(NoHost);
        let name = self.executable.file_name().unwrap_or_default().to_string_lossy();
        let reach = Reach {
            config,
            name: &name,
            path: self.executable,
            spoken: self.spoken,
            policy: policy(config, &Grant::default(), self.limits),
            limit: self.limits.start,
            services: &services,
        };
        let mut reached = reach.run(spawner).await?;
        let compared = self.contract.map_or(Ok(()), |it| reached.compare(it));
        let version = reached.connection.version();
        let reflected = reached.reflected.take();
        reached.end(END_WITHIN).await;
        compared?;
        Ok(Interviewed {
            version,
            told: reflected.map(|reflected| Told {
                services: reflected.services.clone(),
                reflected,
            }),
        })
    }
}

// === impl Told ===

impl Told {
    /// An encoded `FileDescriptorSet` of what `services` need, imports included, as the plugin gave it.
    #[must_use]
    pub fn descriptor_set(&self, services: &[String]) -> Bytes {
        self.reflected.encode(services)
    }
}

// === impl NoHost ===

impl HostServices for NoHost {
    fn log(&self, line: LogLine<'_>) {
        tracing::debug!(target: "mortise::plugin", "{}", line.record.message);
    }

    fn call<'a>(
        &'a self,
        _: Option<&'a CallContext>,
        target: &'a str,
        _: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        let refused = Status::new(
            Code::Unavailable,
            format!("`{target}` can't be called while the plugin is only asked what it serves"),
        );
        Box::pin(std::future::ready(Err(refused)))
    }
}
