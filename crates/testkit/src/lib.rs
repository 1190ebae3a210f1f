//! Test a plugin without a daemon: a real host in the test's own process, with the plugin's type in it.
//!
//! What a test sees is what an operator would: calls go through the host's routing, admission, deadlines and grants, key-value data is
//! in a database (a temporary one), and calls to other plugins reach other plugins. The plugin's code is linked into the test and run by
//! the runtime `builtin`, so that a debugger, a sanitizer and a coverage tool see it. This crate has no fakes, and it does
//! not check what only a real artifact shows (section, ABI, sandbox): that is `mortise check` and the conformance suite.
//!
//! ```no_run
//! # use mortise_sdk::guest::Plugin;
//! # fn test<MyPlugin: Plugin>() {
//! use mortise_testkit::TestHost;
//!
//! let host = TestHost::load::<MyPlugin>();
//! // `GreeterClient::new(&host).greet_blocking(&request)`, with the client that the contract's build generated; or by name:
//! let reply = host.call("acme.v1.Greeter/Greet", b"\x0a\x03Ada").unwrap();
//! # }
//! ```
//!
//! In a test that is `async` already, [`TestHost::builder`] and [`Builder::start`] give the same without a runtime of its own.
//!
//! # Features
//! By default the host is what most plugins need, so that the first `cargo test` is quick. `full` is everything that a daemon's host has: also
//! HTTP requests of plugins, with the TLS library that they take.
#![forbid(unsafe_code)]

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use mortise_host::{CallOptions, Host, LoadRequest, Package, Source};
use mortise_manifest::LimitsOverride;
use mortise_runtime::CallError;
use mortise_runtime_builtin::{BuiltinPlugin, BuiltinRuntime};
use mortise_sdk::{Header, Status, client, guest::Plugin};

pub use mortise_host;
pub use mortise_manifest::{Grant, Permissions};

/// A host for one test. It is shut down when it is dropped.
pub struct TestHost {
    host: Host,
    plugin: String,
    headers: Vec<Header>,
    deadline: Option<Duration>,
    /// `None` inside a test's own runtime.
    tokio: Option<tokio::runtime::Runtime>,
}

/// What a [`TestHost`] is made of.
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    linked: BuiltinPlugin,
    package: Package,
    grant: Option<Grant>,
    config_json: Option<String>,
    limits: LimitsOverride,
    data_dir: Option<PathBuf>,
    headers: Vec<Header>,
    deadline: Option<Duration>,
}

// === impl TestHost ===

impl TestHost {
    /// A host in which `P` runs with everything granted that its manifest asks for, and without configuration.
    ///
    /// # Panics
    /// If the plugin does not start: that is the test's failure.
    #[must_use]
    pub fn load<P: Plugin>() -> Self {
        Self::builder::<P>().load()
    }

    /// A host to be made for `P`.
    ///
    /// # Panics
    /// If the metadata that the plugin was built with does not parse.
    pub fn builder<P: Plugin>() -> Builder {
        let linked = BuiltinPlugin::new(mortise_sdk::linked::plugin::<P>());
        let linked = linked.unwrap_or_else(|error| panic!("{error}"));
        let package = Package::builtin(&linked.id().name, linked.manifest_text(), linked.descriptor_set());
        let package = package.unwrap_or_else(|error| panic!("{error}"));
        Builder {
            linked,
            package,
            grant: None,
            config_json: None,
            limits: LimitsOverride::default(),
            data_dir: None,
            headers: Vec::new(),
            deadline: None,
        }
    }

    /// The host itself.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The name that the plugin runs under.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Calls `package.Service/Method` with an encoded request, and waits. The plugin under test answers, or another that provides the service.
    ///
    /// # Errors
    /// As [`Host::call`].
    ///
    /// # Panics
    /// In a host that was made by [`Builder::start`]; call [`TestHost::host`] there.
    pub fn call(&self, target: &str, payload: &[u8]) -> Result<Vec<u8>, CallError> {
        let options = CallOptions {
            deadline: self.deadline.map(|it| Instant::now() + it),
            headers: self.headers.clone(),
            ..CallOptions::default()
        };
        let payload = payload.to_vec().into();
        Ok(self
            .blocking()
            .block_on(self.host.call(target, payload, options))?
            .into())
    }

    fn blocking(&self) -> &tokio::runtime::Runtime {
        self.tokio
            .as_ref()
            .expect("a host that was made inside a test's own runtime is asked through `TestHost::host`")
    }
}

/// For generated clients: `GreeterClient::new(&host).greet_blocking(&request)`.
impl client::BlockingCaller for TestHost {
    fn call_blocking(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        Ok(self.call(target, &payload)?)
    }
}

/// For generated clients in an `async` test: `GreeterClient::new(&host).greet(&request).await`.
impl client::Caller for TestHost {
    async fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        client::Caller::call(&self.host, target, payload).await
    }
}

/// For streams of generated clients: `GreeterClient::new(&host).watch(&request).await`, in a host that was made by [`Builder::start`].
impl client::StreamCaller for TestHost {
    type Sender = <Host as client::StreamCaller>::Sender;
    type Receiver = <Host as client::StreamCaller>::Receiver;

    async fn open(&self, target: &str) -> Result<(Self::Sender, Self::Receiver), Status> {
        client::StreamCaller::open(&self.host, target).await
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if let Some(tokio) = self.tokio.take() {
            tokio.block_on(self.host.shutdown());
            // The host's tasks hold its data directory, which the test may open again at once; a method that a test left stuck must not
            // keep it from ending.
            tokio.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl fmt::Debug for TestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHost")
            .field("plugin", &self.plugin)
            .finish_non_exhaustive()
    }
}

// === impl Builder ===

impl Builder {
    /// The plugin's configuration: JSON text, an object.
    pub fn config_json(mut self, json: impl Into<String>) -> Self {
        self.config_json = Some(json.into());
        self
    }

    /// What the plugin may use, instead of everything that it asks for.
    pub fn grant(mut self, grant: Grant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// Limits instead of the manifest's.
    pub fn limits(mut self, limits: LimitsOverride) -> Self {
        self.limits = limits;
        self
    }

    /// Where the host keeps its data, to see what survives a restart. Default: a temporary folder.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// A header of every call that [`TestHost::call`] makes; it reaches the plugin as if `routing.propagate` named it.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Header {
            name: name.into().to_ascii_lowercase(),
            value: value.into(),
        });
        self
    }

    /// How long each call that [`TestHost::call`] makes may take, instead of the manifest's limit.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Starts the host and the plugin, with threads of their own.
    ///
    /// # Panics
    /// If the plugin does not start.
    #[must_use]
    pub fn load(self) -> TestHost {
        self.try_load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Builder::load`], for a plugin that is expected to refuse.
    ///
    /// # Errors
    /// Why the plugin does not start.
    pub fn try_load(self) -> Result<TestHost, mortise_host::HostError> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be started");
        let mut host = tokio.block_on(self.start())?;
        host.tokio = Some(tokio);
        Ok(host)
    }

    /// Starts the host and the plugin in the test's own runtime.
    ///
    /// # Errors
    /// Why the plugin does not start.
    pub async fn start(self) -> Result<TestHost, mortise_host::HostError> {
        let name = self.package.plugin().name.to_string();
        let declared = self.package.manifest().permissions.clone();
        let runtime = BuiltinRuntime::new([self.linked]).expect("one plugin has the name of no other");
        let mut config = mortise_manifest::HostConfig::default();
        config.routing.propagate = self.headers.iter().map(|it| it.name.clone()).collect();
        let mut builder = Host::builder()
            .runtime(runtime)
            .builtin(&*name, self.package)
            .config(config);
        if let Some(dir) = self.data_dir {
            builder = builder.data_dir(dir);
        }
        let host = builder.start().await?;
        let granted = self.grant.unwrap_or(Grant {
            permissions: declared,
            ..Grant::default()
        });
        let request = LoadRequest {
            grant: granted,
            config_json: self.config_json,
            limits: self.limits,
            ..LoadRequest::new(Source::Builtin(name.clone()))
        };
        host.load(request).await?;
        Ok(TestHost {
            host,
            plugin: name,
            headers: self.headers,
            deadline: self.deadline,
            tokio: None,
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("plugin", self.package.plugin())
            .finish_non_exhaustive()
    }
}
