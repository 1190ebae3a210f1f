//! The port, implemented.

use std::sync::Arc;

use mortise_manifest::{Grant, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, Enforcement, Instance, Interrupt, Isolation, Lack, Prepared, Runtime, RuntimeError,
    RuntimeErrorKind, Start, Support, Verified,
};
use mortise_wire::Metadata;
use prost::Message;

use crate::{
    cache::{AotCache, CacheStats},
    code::{Code, Loader},
    config::{Reuse, WasmConfig},
    engine::{CORE_INSTANCES_MAX, Engines, Tier},
    instance::WasmInstance,
    scan::{AbiKind, GUEST_INTERFACE, HOST_FUNCTIONS, HOST_INTERFACE, HOST_MODULE, METADATA_SECTION, Scan},
};

/// Runs plugins that are WebAssembly. One per process: it holds the engines and their ticking thread, which end with it.
pub struct WasmRuntime {
    loader: Arc<Loader>,
}

/// What `prepare` hands to `start`.
struct Ready {
    code: Code,
    reuse: Reuse,
}

impl WasmRuntime {
    /// Makes the engines and opens the cache.
    ///
    /// Calls and loads are made inside a tokio runtime with its time driver on; making the runtime itself needs none.
    ///
    /// # Errors
    /// `Loader` if the cache folder is not the host's own, or if the machine cannot run WebAssembly at all.
    pub fn new(config: WasmConfig) -> Result<Self, RuntimeError> {
        let cache = config
            .cache_dir
            .as_deref()
            .map(|dir| AotCache::open(dir, config.cache_bytes_max))
            .transpose()?;
        let engines = Arc::new(Engines::new(&config)?);
        Ok(Self {
            loader: Arc::new(Loader::new(engines, cache, config)),
        })
    }

    /// How often compiled code was found on disk. All zero without a cache.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.loader.stats()
    }

    fn check<'a>(&self, bytes: &'a [u8]) -> Result<Scan<'a>, RuntimeError> {
        let config = self.loader.config();
        if bytes.len() > config.artifact_bytes_max {
            return Err(RuntimeError::new(
                RuntimeErrorKind::Exhausted,
                format!(
                    "the artifact has {} bytes, and at most {} are compiled",
                    bytes.len(),
                    config.artifact_bytes_max
                ),
                "make the plugin smaller (`opt-level = \"s\"`, `lto = true`, `strip = true`), or raise `artifact_bytes_max`",
            ));
        }
        let scan = Scan::of(bytes)?;
        let foreign: Vec<String> = scan.foreign_imports().map(|it| format!("`{it}`")).collect();
        if !foreign.is_empty() {
            return Err(foreign_imports(scan.abi, &foreign));
        }
        if !scan.missing_exports.is_empty() {
            let (missing, hint) = match scan.abi {
                AbiKind::Component => (
                    format!("`{GUEST_INTERFACE}`"),
                    "build the plugin with `mortise build`",
                ),
                AbiKind::CoreModule => (
                    scan.missing_exports
                        .iter()
                        .map(|it| format!("`{it}`"))
                        .collect::<Vec<_>>()
                        .join(", "),
                    "export what `wit/core-abi.md` lists, or turn the module into a component with `mortise build`",
                ),
            };
            return Err(RuntimeError::new(
                RuntimeErrorKind::AbiMismatch,
                format!("the artifact does not export {missing}"),
                hint,
            ));
        }
        if scan.functions > config.functions_max || scan.core_instances as usize > CORE_INSTANCES_MAX {
            return Err(RuntimeError::new(
                RuntimeErrorKind::Exhausted,
                format!(
                    "the artifact has {} functions in {} core instances, and at most {} in {CORE_INSTANCES_MAX} are compiled",
                    scan.functions, scan.core_instances, config.functions_max
                ),
                "make the plugin smaller, or raise `functions_max` of the WebAssembly runtime",
            ));
        }
        Ok(scan)
    }
}

impl Runtime for WasmRuntime {
    fn support(&self) -> Support {
        let engines = self.loader.engines();
        let mut lacks = vec![Lack {
            what: "stream",
            why: "the world of `wit/plugin.wit` has whole calls only, and a guest cannot wait for the next message of a stream; run the plugin in \
                  the process runtime, or compile it in"
                .to_owned(),
        }];
        if !engines.lane(Tier::Optimised).pooled() {
            lacks.push(Lack {
                what: "pool of instances",
                why: "it is switched off, or the address space is too small for it (`ulimit -v`); a fresh instance per call costs more"
                    .to_owned(),
            });
        }
        Support {
            runtime: RuntimeName::Wasm,
            available: true,
            isolation: Isolation::Sandbox,
            interrupt: Interrupt::Trap,
            memory_limit: Enforcement::Enforced,
            cpu_limit: Enforcement::NotEnforced(
                "a WebAssembly guest runs on the host's threads; a deadline ends a call that computes for too long",
            ),
            purity: Enforcement::Enforced,
            restartable: true,
            lacks,
        }
    }

    fn needs_path(&self) -> bool {
        false
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        let section = Scan::of(&artifact.bytes)?.metadata.ok_or_else(|| {
            RuntimeError::new(
                RuntimeErrorKind::NotAPlugin,
                format!("the WebAssembly file has no custom section `{METADATA_SECTION}`, so it does not say which plugin it is"),
                "build it with `mortise build`; a linker option such as `--strip-all` may have removed the section",
            )
        })?;
        Metadata::decode(section).map_err(|error| {
            RuntimeError::new(
                RuntimeErrorKind::Malformed,
                format!(
                    "the custom section `{METADATA_SECTION}` ({} bytes) is no Metadata message: {error}",
                    section.len()
                ),
                "build the plugin again with `mortise build`; do not edit its output",
            )
        })
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        _grant: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        Box::pin(async move {
            let metadata = Arc::clone(artifact.metadata());
            let artifact = artifact.artifact();
            let abi = self.check(&artifact.bytes)?.abi;
            let code = self.loader.load(artifact.digest, &artifact.bytes, abi).await?;
            let reuse = self.loader.config().reuse_of(&artifact.plugin.name);
            Ok(Prepared::new(metadata, Ready { code, reuse }))
        })
    }

    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(async move {
            let metadata = Arc::clone(&prepared.metadata);
            let Ready { code, reuse } = prepared.into_inner::<Ready>().ok_or_else(|| {
                RuntimeError::new(
                    RuntimeErrorKind::Unsupported,
                    format!("plugin `{}` was prepared by another runtime", metadata.name),
                    "this is a bug in the host: report it",
                )
            })?;
            Ok(match code {
                Code::Component(code) => {
                    Box::new(WasmInstance::start(code, metadata, reuse, start).await?) as Box<dyn Instance>
                }
                Code::Unwrapped(code) => Box::new(WasmInstance::start(code, metadata, reuse, start).await?),
                Code::CoreModule(code) => Box::new(WasmInstance::start(code, metadata, reuse, start).await?),
            })
        })
    }
}

fn foreign_imports(abi: AbiKind, foreign: &[String]) -> RuntimeError {
    let offered = match abi {
        AbiKind::Component => format!("`{HOST_INTERFACE}`"),
        AbiKind::CoreModule => HOST_FUNCTIONS
            .map(|it| format!("`{HOST_MODULE}.{it}`"))
            .join(" and "),
    };
    let wasi = foreign.iter().any(|it| it.starts_with("`wasi"));
    let hint = if wasi {
        "nothing of WASI exists here: compile for wasm32-unknown-unknown, and use the SDK's `Cx` for logging, time, configuration, key-value \
         data and HTTP"
    } else {
        "remove the import; the SDK's `Cx` gives logging, time, configuration, key-value data and HTTP"
    };
    RuntimeError::new(
        RuntimeErrorKind::MissingImport,
        format!(
            "the artifact imports {}; a plugin may import {offered} and nothing else",
            foreign.join(", ")
        ),
        hint,
    )
}
