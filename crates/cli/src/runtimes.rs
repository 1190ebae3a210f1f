//! The runtimes that this command brings: the one place that names them.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use mortise::{
    Host, HostBuilder,
    etcd::EtcdSource,
    manifest::HostConfig,
    nats::NatsBroker,
    port::RuntimeError,
    runtime::{
        native::{NativeConfig, NativeRuntime},
        process::{ProcessConfig, ProcessRuntime},
        wasm::{WasmConfig, WasmRuntime},
    },
};

use crate::{
    cache,
    exit::{Failure, Fault},
    shipped::with_shipped,
};

/// A host with every runtime of this build and the plugins that come with it, whose data is in `data_dir`.
pub(crate) fn host(data_dir: &Path, config: HostConfig) -> Result<HostBuilder, Failure> {
    host_with(data_dir, Some(data_dir.join("wasm-cache")), config)
}

/// As [`host`], with compiled WebAssembly kept in `wasm_cache`, or nowhere.
fn host_with(
    data_dir: &Path,
    wasm_cache: Option<PathBuf>,
    config: HostConfig,
) -> Result<HostBuilder, Failure> {
    let failed = |error: RuntimeError| Failure::new(Fault::new(error.to_string()).hint(error.hint()));
    let process = ProcessConfig::new(data_dir.join("run")).with_settings(&config.process);
    let wasm = WasmConfig {
        cache_dir: wasm_cache,
        ..WasmConfig::default()
    };
    let etcd = config.config.etcd.clone();
    let events = config.events.clone();
    let builder = Host::builder()
        .data_dir(data_dir)
        .config(config)
        .runtime(NativeRuntime::new(NativeConfig::new(
            data_dir.join("native-cache"),
        )))
        .runtime(WasmRuntime::new(wasm).map_err(failed)?)
        .runtime(ProcessRuntime::new(process).map_err(failed)?);
    let builder = match etcd {
        Some(settings) => builder
            .config_wait(settings.start)
            .config_source(EtcdSource::new(settings)),
        None => builder,
    };
    let builder = match events.nats.clone() {
        Some(settings) => builder.broker(NatsBroker::new(settings, events)),
        None => builder,
    };
    with_shipped(builder)
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

/// Its data is gone afterwards; WebAssembly that it had to compile is kept for the next command of this user.
pub(crate) async fn temporary_host() -> anyhow::Result<TemporaryHost> {
    let data = tempfile::Builder::new().prefix("mortise-").tempdir()?;
    let host = host_with(data.path(), cache::dir("wasm"), HostConfig::default())?
        .start()
        .await
        .map_err(|error| Failure::of_host(&error))?;
    Ok(TemporaryHost { host, _data: data })
}
