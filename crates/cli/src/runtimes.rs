//! The runtimes that this command brings: the one place that names them.

use std::{ops::Deref, path::Path};

use mortise::{
    Host, HostBuilder,
    manifest::HostConfig,
    port::RuntimeError,
    runtime::{
        native::{NativeConfig, NativeRuntime},
        process::{ProcessConfig, ProcessRuntime},
        wasm::{WasmConfig, WasmRuntime},
    },
};

use crate::exit::{Failure, Fault};

/// A host with every runtime of this build, whose data is in `data_dir`.
pub(crate) fn host(data_dir: &Path, config: HostConfig) -> Result<HostBuilder, Failure> {
    let failed = |error: RuntimeError| Failure::new(Fault::new(error.to_string()).hint(error.hint()));
    let wasm = WasmConfig {
        cache_dir: Some(data_dir.join("wasm-cache")),
        ..WasmConfig::default()
    };
    Ok(Host::builder()
        .data_dir(data_dir)
        .config(config)
        .runtime(NativeRuntime::new(NativeConfig::new(
            data_dir.join("native-cache"),
        )))
        .runtime(WasmRuntime::new(wasm).map_err(failed)?)
        .runtime(ProcessRuntime::new(ProcessConfig::new(data_dir.join("run"))).map_err(failed)?))
}

/// A host for the length of one command; its data goes with it.
pub(crate) struct TemporaryHost {
    host: Host,
    _data: tempfile::TempDir,
}

impl Deref for TemporaryHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

pub(crate) async fn temporary_host() -> anyhow::Result<TemporaryHost> {
    let data = tempfile::Builder::new().prefix("mortise-").tempdir()?;
    let host = host(data.path(), HostConfig::default())?
        .start()
        .await
        .map_err(|error| Failure::of_host(&error))?;
    Ok(TemporaryHost { host, _data: data })
}
