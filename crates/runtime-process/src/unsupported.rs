//! The process runtime where there are no unix sockets to inherit: it says so and refuses.

use mortise_manifest::{Grant, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, Enforcement, Instance, Interrupt, Isolation, Lack, Prepared, Runtime, RuntimeError,
    RuntimeErrorKind, Start, Support, Verified,
};
use mortise_wire::Metadata;

use crate::{ProcessConfig, inspect};

const WHY: &str = "plugins are started over a unix socket pair, which this system's processes can't inherit";

/// Runs plugins as child processes; not available on this system.
#[derive(Debug)]
pub struct ProcessRuntime(());

impl ProcessRuntime {
    /// A runtime that reads metadata and starts nothing.
    ///
    /// # Errors
    /// None on this system.
    pub fn new(config: ProcessConfig) -> Result<Self, RuntimeError> {
        drop(config);
        Ok(Self(()))
    }
}

impl Runtime for ProcessRuntime {
    fn support(&self) -> Support {
        Support {
            runtime: RuntimeName::Process,
            available: false,
            isolation: Isolation::Process,
            interrupt: Interrupt::Kill,
            memory_limit: Enforcement::NotEnforced(WHY),
            cpu_limit: Enforcement::NotEnforced(WHY),
            purity: Enforcement::NotEnforced(WHY),
            restartable: true,
            lacks: vec![Lack {
                what: "start",
                why: format!("{WHY}; use `wasm`, or `native` for a trusted plugin"),
            }],
        }
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        inspect::read_metadata(&artifact.bytes)
    }

    fn prepare<'a>(&'a self, _: &'a Verified, _: &'a Grant) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        Box::pin(std::future::ready(Err(unsupported())))
    }

    fn start(&self, _: Prepared, _: Start) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(std::future::ready(Err(unsupported())))
    }
}

fn unsupported() -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Unsupported,
        format!("no plugin can run as a process here: {WHY}"),
        "use its `wasm` variant, or `native` if you trust it",
    )
}
