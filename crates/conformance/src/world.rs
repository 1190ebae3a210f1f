//! A host with one runtime and the plugin under test.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use echo::contract::{EchoClient, EchoRequest};
use mortise::{
    Host, LoadRequest, PluginCaller, Source,
    manifest::{HostConfig, RuntimeName},
    runtime::{
        builtin::{BuiltinPlugin, BuiltinRuntime},
        process::{ProcessConfig, ProcessLane, ProcessRuntime},
    },
};
use mortise_store::Package;

/// Folder with the packages that `cargo xtask guests` builds; `MORTISE_PACKAGES` overrides it.
#[must_use]
pub fn packages() -> PathBuf {
    std::env::var_os("MORTISE_PACKAGES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mortise-packages/debug"),
        PathBuf::from,
    )
}

/// Both versions of the plugin under test and of the counter, and the orders, linked into this program.
fn builtin(mut builder: mortise::HostBuilder) -> mortise::HostBuilder {
    let linked = [
        ("echo", mortise_sdk::linked!(echo)),
        ("echo-1.1", mortise_sdk::linked!(echo_next::plugin)),
        ("counter", mortise_sdk::linked!(counter)),
        ("counter-1.1", mortise_sdk::linked!(counter_next::plugin)),
        ("orders", mortise_sdk::linked!(orders)),
    ];
    let mut plugins = Vec::new();
    for (name, plugin) in linked {
        let plugin = BuiltinPlugin::new(plugin).expect("its metadata is whole");
        let package = Package::builtin(name, plugin.manifest_text(), plugin.descriptor_set());
        builder = builder.builtin(name, package.expect("its manifest is sound"));
        plugins.push(plugin);
    }
    builder.runtime(BuiltinRuntime::new(plugins).expect("no two have the same name and version"))
}

/// Headers that the host hands on: to the guest, its log lines and its own calls.
const PROPAGATED: [&str; 3] = ["x-canary-version", "x-payment-channel", "baggage"];

/// What a case has to work with.
pub struct World {
    /// The host.
    pub host: Host,
    /// The runtime under test.
    pub runtime: RuntimeName,
    /// What carries the calls of processes.
    lane: ProcessLane,
    // Kept last: the host's data goes when the host is gone.
    _data: tempfile::TempDir,
}

impl World {
    /// A host with one runtime and `echo` loaded, with key-value data granted.
    pub async fn new(runtime: RuntimeName) -> Self {
        Self::over(runtime, ProcessLane::Auto).await
    }

    /// The same with processes over one lane.
    pub async fn over(runtime: RuntimeName, lane: ProcessLane) -> Self {
        crate::log::install();
        let data = tempfile::tempdir().expect("a data directory");
        let mut config = HostConfig::default();
        config.routing.propagate = PROPAGATED.map(str::to_owned).to_vec();
        let builder = Host::builder().data_dir(data.path()).config(config);
        let builder = match runtime {
            RuntimeName::Builtin => builtin(builder),
            RuntimeName::Native => builder.runtime(mortise::runtime::native::NativeRuntime::new(
                mortise::runtime::native::NativeConfig::new(data.path().join("native")),
            )),
            RuntimeName::Process => {
                let mut config = ProcessConfig::new(data.path().join("run"));
                config.lane = lane;
                builder.runtime(ProcessRuntime::new(config).expect("the process runtime starts"))
            }
            #[cfg(windows)]
            RuntimeName::Wasm => panic!("for Windows the suite is built without WebAssembly; see Cargo.toml"),
            #[cfg(not(windows))]
            RuntimeName::Wasm => builder.runtime(
                mortise::runtime::wasm::WasmRuntime::new(mortise::runtime::wasm::WasmConfig {
                    // Compiled code is shared between cases, as it is between the restarts of a host.
                    cache_dir: Some(packages().join(".cache")),
                    ..Default::default()
                })
                .expect("the wasm runtime starts"),
            ),
        };
        let host = builder.start().await.expect("the host starts");
        let world = Self {
            host,
            runtime,
            lane,
            _data: data,
        };
        world.load("echo", |_| {}).await;
        world
    }

    /// Where `package`, a folder of `plugins/`, comes from on this runtime.
    #[must_use]
    pub fn source(&self, package: &str) -> Source {
        match self.runtime {
            RuntimeName::Builtin => Source::Builtin(package.to_owned()),
            _ => {
                // A plugin offers gRPC if it was built with that.
                let built = match self.lane {
                    ProcessLane::CallStream | ProcessLane::Grpc => "-grpc",
                    _ => "",
                };
                let folder = packages().join(format!("{package}{built}"));
                assert!(
                    folder.exists(),
                    "{} is not there: run `cargo xtask guests`",
                    folder.display()
                );
                Source::Folder(folder)
            }
        }
    }

    /// A request that loads `echo` 1.0.0 under `name` with key-value data granted.
    #[must_use]
    pub fn request(&self, name: &str) -> LoadRequest {
        let mut request = LoadRequest::new(self.source("echo"));
        request.name = Some(name.to_owned());
        request.runtime = Some(self.runtime);
        request.grant.permissions.kv = true;
        request
    }

    /// Loads `echo` under `name`, with changes.
    pub async fn load(&self, name: &str, change: impl FnOnce(&mut LoadRequest)) {
        let mut request = self.request(name);
        change(&mut request);
        self.host
            .load(request)
            .await
            .unwrap_or_else(|error| panic!("`{name}` loads: {error:?}"));
    }

    /// A client of the plugin loaded as `name`.
    #[must_use]
    pub fn client(&self, name: &str) -> EchoClient<PluginCaller> {
        EchoClient::new(self.host.plugin(name))
    }

    /// Asserts that the plugin loaded as `name` answers a plain call, possibly after the host replaced its instance.
    pub async fn serves(&self, name: &str) {
        let request = EchoRequest {
            text: "still there".to_owned(),
            ..EchoRequest::default()
        };
        self.until(&format!("`{name}` serves"), async || {
            self.client(name)
                .echo(&request)
                .await
                .is_ok_and(|reply| reply.text == request.text)
        })
        .await;
    }

    /// Waits until `state` holds; panics after 20 s. Waits for a state and never for "something changed".
    pub async fn until(&self, what: &str, mut state: impl AsyncFnMut() -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !state().await {
            assert!(Instant::now() < patience, "after 20 s it is not so that {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Shuts the host down.
    pub async fn end(self) {
        self.host.shutdown().await;
    }
}
