//! Mortise: change what your service does while it runs.
//!
//! A *plugin* is one crate against one protobuf contract. A *host*, inside your service, loads it, routes calls to it, swaps it for another
//! version without losing a call, limits it, watches it and removes it. How far a plugin is trusted is one word per load: in your own
//! process ([`RuntimeName::Native`]), in a WebAssembly sandbox ([`RuntimeName::Wasm`]), in a process of its own ([`RuntimeName::Process`]),
//! or compiled in ([`RuntimeName::Builtin`]). The rest stays the same.
//!
//! ```no_run
//! use mortise::{CallOptions, LoadRequest, RuntimeName, Source};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let host = mortise::host().data_dir("/var/lib/my-service").start().await?;
//!
//! // A package is what `mortise build` writes.
//! let request = LoadRequest::new(Source::folder("plugins/thumbnailer-1.2.0")).runtime(RuntimeName::Wasm);
//! host.load(request).await?;
//!
//! // With the client that `mortise-build` generates: `ThumbnailerClient::new(host.plugin("thumbnailer"))`. Or with bytes:
//! let request = bytes::Bytes::from_static(b"\x0a\x04data");
//! let reply = host.call("acme.image.v1.Thumbnailer/Thumbnail", request, CallOptions::default()).await?;
//!
//! // The next version takes over between two calls. If it is worse than the one before, it is taken back by itself.
//! host.load(LoadRequest::new(Source::folder("plugins/thumbnailer-1.3.0")).runtime(RuntimeName::Wasm)).await?;
//! host.shutdown().await;
//! # drop(reply);
//! # Ok(())
//! # }
//! ```
//!
//! A host never fails because of a plugin. What goes wrong is an error with a kind, a blame and a hint:
//!
//! ```
//! use mortise::{CallErrorKind, CallOptions, HostErrorKind, LoadRequest, Source};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Without a data directory the host has a temporary one.
//! let host = mortise::Host::builder().start().await?;
//!
//! let error = host.load(LoadRequest::new(Source::folder("no/such/folder"))).await.unwrap_err();
//! assert_eq!(error.kind(), HostErrorKind::Refused);
//! assert!(error.hint().is_some());
//!
//! let error = host.call("plugin.nobody.Greet", Default::default(), CallOptions::default()).await.unwrap_err();
//! assert_eq!(error.kind(), CallErrorKind::NotFound);
//! assert_eq!(error.to_string(), "no plugin `nobody` is loaded");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go next
//! - [`Host`]: everything a host does. [`HostBuilder`]: everything that is chosen once. [`LoadRequest`]: everything that is chosen per plugin.
//! - [`Host::resolve`] and [`Host::call_route`]: look up once, call often. [`Host::bind`]: the path for calls of a few nanoseconds.
//! - [`Host::inspect`]: what a plugin is, may, did and went through.
//! - `mortise-sdk` to write plugins, `mortise-testkit` to test them, the command `mortise` to build them and to run a host of its own.
//!
//! # Features
//! `builtin`, `native`, `process` and `wasm`, all on by default, choose which runtimes are compiled in. [`host()`] adds those that need
//! nothing but the data directory. `etcd`, off by default, is configuration of plugins from there; `nats`, off by default, keeps events there.
//! `http`, on by default, is HTTP requests of plugins, with the TLS library that they take.
#![forbid(unsafe_code)]

pub use mortise_contract as contract;
pub use mortise_manifest as manifest;
/// The port: what a runtime implements.
pub use mortise_runtime as port;
pub use mortise_wire as wire;

pub use mortise_host::*;
pub use mortise_manifest::{Grant, HostConfig, Limits, LimitsOverride, Permissions, RuntimeName};
pub use mortise_runtime::{Blame, CallError, CallErrorKind, Digest, PluginId, Refusal, Retry, Support};
pub use mortise_wire::{Code, Header, Health, Status, client};
/// What clients that `mortise-build` generates with `runtime_path("::mortise")` lean on.
#[doc(hidden)]
pub use {prost, prost_types};

/// Configuration of plugins from etcd.
#[cfg(feature = "etcd")]
pub use mortise_config_etcd as etcd;

/// Events kept in NATS JetStream.
#[cfg(feature = "nats")]
pub use mortise_events_nats as nats;

/// The runtimes that this build has; each is a feature.
pub mod runtime {
    #[cfg(feature = "builtin")]
    pub use mortise_runtime_builtin as builtin;
    #[cfg(feature = "native")]
    pub use mortise_runtime_native as native;
    #[cfg(feature = "process")]
    pub use mortise_runtime_process as process;
    #[cfg(feature = "wasm")]
    pub use mortise_runtime_wasm as wasm;
}

/// [`Host::builder`] with every runtime of this build that needs nothing but the data directory: native, wasm and process, with their defaults.
///
/// A runtime of your own making, added with [`HostBuilder::runtime`], takes the place of the default. Plugins that are compiled in are added
/// with [`HostBuilder::builtin`] and a `BuiltinRuntime`, because only you know them.
pub fn host() -> HostBuilder {
    let builder = Host::builder();
    #[cfg(feature = "native")]
    let builder = builder.runtime_in(RuntimeName::Native, |data| {
        Ok(runtime::native::NativeRuntime::new(
            runtime::native::NativeConfig::new(data.join("native")),
        ))
    });
    #[cfg(feature = "process")]
    let builder = builder.runtime_in(RuntimeName::Process, |data| {
        runtime::process::ProcessRuntime::new(runtime::process::ProcessConfig::new(data.join("run")))
    });
    #[cfg(feature = "wasm")]
    let builder = builder.runtime_in(RuntimeName::Wasm, |data| {
        let cache_dir = Some(data.join("wasm-code"));
        runtime::wasm::WasmRuntime::new(runtime::wasm::WasmConfig {
            cache_dir,
            ..Default::default()
        })
    });
    builder
}

/// The README's examples are compiled, so they cannot rot.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
