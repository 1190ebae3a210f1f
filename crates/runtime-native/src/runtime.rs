//! The runtime itself: reading, preparing, starting.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mortise_manifest::{Grant, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, Digest, Enforcement, Instance, Interrupt, Isolation, Lack, Prepared, Runtime,
    RuntimeError, RuntimeErrorKind, Start, Support, Verified,
};
use mortise_section::{ImageKind, Section, SectionError, Target};
use mortise_wire::Metadata;
use prost::Message as _;
use tokio::runtime::Handle;

use crate::{
    cache,
    instance::{self, Recipe},
    library::{self, GENERATIONS_HARD_MAX},
    watchdog::Watchdog,
};

/// What a [`NativeRuntime`] is made with.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// Where private copies of libraries are kept; made if it does not exist. Nobody but the host's user may write there.
    pub cache_dir: PathBuf,
    /// How many libraries this process may map.
    pub generations: Generations,
    /// How long after its deadline (or that of the plugin's limits, if its caller's is earlier) a call may go on before its instance counts as stuck. Default 2 s. A shorter one replaces instances whose
    /// calls are merely slow to notice their cancellation; it does not free the stuck thread, nothing does.
    pub stuck_grace: Duration,
}

/// A budget of mapped libraries. They are never unmapped, so it counts every library that was ever loaded, once per digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generations {
    /// From here on each further one is logged as a warning. Default 64.
    pub warn: u32,
    /// Further ones are refused. Default 200, at most [`GENERATIONS_HARD_MAX`]. The cost of a higher one is about 0.3 MiB per library, and a
    /// thread-local key each, of which a process has 1024. The process runtime has no such budget.
    pub max: u32,
}

/// Runs plugins as shared libraries in the host's own address space.
pub struct NativeRuntime {
    config: NativeConfig,
    watchdog: Watchdog,
}

/// What `prepare` leaves for `start`.
struct Ready {
    path: PathBuf,
    digest: Digest,
    plugin: Arc<str>,
    version: String,
    section: Bytes,
    metadata: Arc<Metadata>,
}

// === impl NativeConfig ===

impl NativeConfig {
    /// The defaults, with copies of libraries in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            generations: Generations::default(),
            stuck_grace: Duration::from_secs(2),
        }
    }
}

// === impl Generations ===

impl Default for Generations {
    fn default() -> Self {
        Self { warn: 64, max: 200 }
    }
}

impl Generations {
    pub(crate) fn max(&self) -> u32 {
        self.max.min(GENERATIONS_HARD_MAX)
    }
}

// === impl NativeRuntime ===

impl NativeRuntime {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(config: NativeConfig) -> Self {
        let watchdog = Watchdog::new(config.stuck_grace);
        Self { config, watchdog }
    }
}

impl Runtime for NativeRuntime {
    fn support(&self) -> Support {
        Support {
            runtime: RuntimeName::Native,
            available: cfg!(any(unix, windows)),
            isolation: Isolation::None,
            interrupt: Interrupt::Never,
            memory_limit: Enforcement::NotEnforced(
                "a native plugin allocates in the host's own heap, where nobody can tell whose memory it is",
            ),
            cpu_limit: Enforcement::NotEnforced(
                "a native plugin computes on the host's own threads; use its `process` variant to bound it",
            ),
            purity: Enforcement::NotEnforced(
                "a native plugin keeps memory between calls and has the whole system",
            ),
            restartable: true,
            lacks: lacks(),
        }
    }

    /// It keeps copies of its own, private ones at paths that it vouches for.
    fn needs_path(&self) -> bool {
        false
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        let section = read_section(&artifact.bytes)?;
        decode(section.bytes)
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        _: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        Box::pin(async move {
            let metadata = artifact.metadata().clone();
            let artifact = artifact.artifact();
            let section = artifact.bytes.slice_ref(read_section(&artifact.bytes)?.bytes);
            if decode(&section)? != *metadata {
                return Err(RuntimeError::new(
                    RuntimeErrorKind::Tampered,
                    format!(
                        "the metadata of {} is not the metadata that was verified",
                        artifact.plugin
                    ),
                    "the file changed while it was checked; load it again",
                ));
            }
            library::check_budget(artifact.digest, &self.config.generations)?;
            let (dir, digest, bytes) = (
                self.config.cache_dir.clone(),
                artifact.digest,
                artifact.bytes.clone(),
            );
            let kept = tokio::task::spawn_blocking(move || cache::keep(&dir, digest, &bytes)).await;
            let path = kept.unwrap_or_else(|why| Err(interrupted(&self.config.cache_dir, &why)))?;
            let ready = Ready {
                path,
                digest,
                plugin: artifact.plugin.name.clone(),
                version: artifact.plugin.version.to_string(),
                section,
                metadata: metadata.clone(),
            };
            Ok(Prepared::new(metadata, ready))
        })
    }

    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(async move {
            let ready: Ready = prepared.into_inner().ok_or_else(|| {
                RuntimeError::new(
                    RuntimeErrorKind::Unsupported,
                    "the native runtime was asked to start what another runtime prepared",
                    "this is a fault of the host; report it",
                )
            })?;
            let recipe = Recipe {
                path: ready.path,
                digest: ready.digest,
                plugin: ready.plugin,
                version: ready.version,
                section: ready.section,
                metadata: ready.metadata,
                generations: self.config.generations.clone(),
                executor: Handle::current(),
            };
            let instance = instance::start(recipe, start).await?;
            self.watchdog.watch(instance.side()).map_err(|why| {
                RuntimeError::new(
                    RuntimeErrorKind::Loader,
                    format!("the system gave no thread for the watchdog of native plugins: {why}"),
                    "raise the host's limit of threads",
                )
                .with_source(why)
            })?;
            Ok(Box::new(instance) as Box<dyn Instance>)
        })
    }
}

fn lacks() -> Vec<Lack> {
    let lack = |what, why: &str| Lack {
        what,
        why: why.to_owned(),
    };
    vec![
        lack(
            "memory limit",
            "a native plugin allocates in the host's own heap; run it in the wasm or process runtime to bound its memory",
        ),
        lack(
            "stream",
            "the C ABI has no extension for streaming methods yet; run the plugin in the process runtime, or compile it in",
        ),
        lack(
            "interrupt",
            "native code cannot be interrupted: its caller is freed and the instance replaced, but the thread runs on; run it in the wasm or \
             process runtime to stop it",
        ),
        lack(
            "permissions",
            "a native plugin can do whatever the host's process can do; grants only bind what it asks of the host",
        ),
        lack(
            "unload",
            "libraries stay mapped after an unload, because unmapping one is not safe; the budget counts them",
        ),
        lack(
            "isolation",
            "a crash of a native plugin is a crash of the host; run it in the wasm or process runtime if that must not be",
        ),
    ]
}

/// Finds the metadata in a library for this machine.
fn read_section(bytes: &[u8]) -> Result<Section<'_>, RuntimeError> {
    let section = mortise_section::read(bytes).map_err(|why| {
        let kind = match why {
            SectionError::NotAnObject { .. } | SectionError::NoSection { .. } => RuntimeErrorKind::NotAPlugin,
            _ => RuntimeErrorKind::Malformed,
        };
        RuntimeError::new(kind, why.to_string(), why.hint())
    })?;
    let here = Target::host();
    if section.target != here {
        return Err(RuntimeError::new(
            RuntimeErrorKind::WrongTarget,
            format!(
                "the library was built for {}, and this host is {here}",
                section.target
            ),
            format!("build the plugin for {here}, or use its wasm variant, which runs everywhere"),
        ));
    }
    match section.kind {
        ImageKind::SharedLibrary => Ok(section),
        kind => Err(RuntimeError::new(
            RuntimeErrorKind::NotAPlugin,
            format!("the file is an {kind}, and the native runtime loads shared libraries"),
            "name the library that `mortise build --runtime native` wrote",
        )),
    }
}

fn decode(section: &[u8]) -> Result<Metadata, RuntimeError> {
    Metadata::decode(section).map_err(|why| {
        RuntimeError::new(
            RuntimeErrorKind::Malformed,
            format!("the library's metadata does not parse: {why}"),
            "build the plugin again with `mortise build`; do not edit its output",
        )
        .with_source(why)
    })
}

fn interrupted(dir: &Path, why: &tokio::task::JoinError) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Loader,
        format!("copying the library to {} was interrupted: {why}", dir.display()),
        "the host is shutting down",
    )
}
