//! The traits that a runtime implements.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use mortise_manifest::{Grant, Limits};
use mortise_wire::{Health, Metadata};

use crate::{
    Artifact, BoxFuture, Call, CallError, Configure, Enclosure, HostServices, RuntimeError, State,
    StreamCall, Support, Verified,
};

/// Turns one verified artifact into running instances of one technology.
pub trait Runtime: Send + Sync + 'static {
    /// What this build on this machine can do. Cheap; may be called at any time.
    fn support(&self) -> Support;

    /// The layers that this machine can put around a guest of this runtime. `None` where there are none to speak of. The first call may try them
    /// out, which takes some milliseconds.
    fn enclosure(&self) -> Option<Enclosure> {
        None
    }

    /// Whether `prepare` and `start` need [`Artifact::path`](crate::Artifact::path). The host then writes the artifact to a place of its own
    /// first, which costs a few syncs of the disk for bytes that are new; otherwise the path stays empty.
    fn needs_path(&self) -> bool {
        true
    }

    /// Reads what the artifact says about itself, from its bytes alone: none of the plugin's code runs and nothing is mapped.
    /// The bytes may be anything at all.
    ///
    /// # Errors
    /// `NotAPlugin`, `WrongTarget`, `Malformed`: the message names the expected and the found.
    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError>;

    /// Refuses everything refusable before any resource is taken, and does the slow part of loading (compiling, say).
    /// May be called alone (`mortise check`). Never runs the guest. Runs off the call path, and may block a thread of its own.
    ///
    /// # Errors
    /// Everything that `RuntimeErrorKind` names except `StartFailed`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing but a cache entry.
    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        grant: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>>;

    /// Starts an instance. Called at most once per [`Prepared`]. On `Err`, nothing is left running, mapped (beyond a native library's pinned
    /// mapping) or attached. Ends within `Limits::start`.
    ///
    /// # Errors
    /// `StartFailed` with the plugin's own status when it declined, or what kept it from starting.
    ///
    /// # Cancel safety
    /// Dropping the future tears down what was started.
    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>>;
}

/// A verified artifact in the form in which one runtime starts it. Made by `Runtime::prepare`, used up by `Runtime::start`.
pub struct Prepared {
    /// What was verified.
    pub metadata: Arc<Metadata>,
    inner: Box<dyn Any + Send>,
}

impl Prepared {
    /// Wraps what the runtime prepared.
    pub fn new(metadata: Arc<Metadata>, inner: impl Any + Send) -> Self {
        Self {
            metadata,
            inner: Box::new(inner),
        }
    }

    /// Unwraps it again; `None` if another runtime prepared it.
    #[must_use]
    pub fn into_inner<T: Any>(self) -> Option<T> {
        self.inner.downcast().ok().map(|it| *it)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("plugin", &self.metadata.name)
            .finish_non_exhaustive()
    }
}

/// Names one running copy: `thumbnailer@1.2.0#7`. Never used again in the life of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub Arc<str>);

impl InstanceId {
    /// The plugin's name in it.
    #[must_use]
    pub fn plugin(&self) -> &str {
        self.0.split_once('@').map_or(&*self.0, |(plugin, _)| plugin)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an instance is started with.
#[derive(Clone)]
pub struct Start {
    /// Its name.
    pub instance: InstanceId,
    /// What it may use.
    pub limits: Limits,
    /// The plugin's configuration: JSON text, an object.
    pub config_json: Arc<str>,
    /// What it may call. Grants are checked behind it, in one place for all runtimes.
    pub services: Arc<dyn HostServices>,
    /// It says that its replies depend on nothing but the requests: a runtime that can ([`crate::Support::purity`]) lets nothing reach a call from the one
    /// before, and gives its code no name to tell it apart by.
    pub pure: bool,
}

/// One running copy. Dropping it stops it by force; [`Instance::stop`] is the polite way.
pub trait Instance: Send + Sync + 'static {
    /// Its name.
    fn id(&self) -> &InstanceId;

    /// The facet of plugins that answer calls.
    fn call(&self) -> Option<&dyn Call> {
        None
    }

    /// The facet of plugins whose methods stream. `None` if the runtime cannot, which its `Support::lacks` then says, as `stream`.
    fn stream(&self) -> Option<&dyn StreamCall> {
        None
    }

    /// The facet of plugins that carry state into their successor, or have hooks. `None` if this one has neither.
    fn state(&self) -> Option<&dyn State> {
        None
    }

    /// The facet of plugins that take a new configuration while they run. `None`: a new instance is started with it.
    fn configure(&self) -> Option<&dyn Configure> {
        None
    }

    /// Asks the plugin how it is. Bounded by one second.
    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>>;

    /// Resolves when the instance can serve no longer although nobody stopped it: its process exited, it panicked, a call is stuck in it.
    /// A runtime that replaces its broken parts by itself (a fresh WebAssembly store per call) may never resolve it.
    fn ended(&self) -> BoxFuture<'_, EndCause>;

    /// What it uses now.
    fn usage(&self) -> Usage;

    /// What stands between it and the system, layer by layer, beside what its runtime is by nature. `None` where there are no layers to speak of.
    fn enclosure(&self) -> Option<Enclosure> {
        None
    }

    /// What it wrote last to its standard error, bounded; for the report of its end. `None` where there is none.
    fn last_output(&self) -> Option<String> {
        None
    }

    /// Stops it: no new calls come (the host has drained it); finish, tear down, give back everything, by force after `grace`.
    /// Calling it twice is the same as once.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport>;
}

/// Why an instance ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndCause {
    /// Its process exited.
    #[error("its process exited with code {0}")]
    Exited(i32),
    /// Its process was ended by a signal.
    #[error("its process was ended by signal {0}")]
    Signalled(i32),
    /// Code in it panicked and its state is not to be trusted.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// A call overran its deadline and could not be interrupted.
    #[error("a call to {0} is stuck in it")]
    Stuck(String),
    /// It, or what it started, used more memory than it may.
    #[error("it was out of memory: {0}")]
    OutOfMemory(String),
    /// It wrote more to its private directory than it may.
    #[error("it used too much disk: {0}")]
    OutOfDisk(String),
    /// It broke the protocol.
    #[error("it broke the protocol: {0}")]
    Protocol(String),
}

impl EndCause {
    /// Whether it ended on purpose, as far as one can tell: its process exited with code 0.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        matches!(self, Self::Exited(0))
    }
}

/// What an instance uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that would not be there without it, in bytes; `None` where it cannot be told apart from the host's.
    pub memory_bytes: Option<u64>,
    /// Process id, where it has one.
    pub pid: Option<u32>,
    /// Mappings kept on purpose after unloads of this plugin (native only).
    pub retired_mappings: u32,
    /// What carries its calls, where that was negotiated.
    pub lane: Option<&'static str>,
    /// Processor time since its start, where it is counted.
    pub cpu_time: Option<Duration>,
    /// Processes and threads of it, where they are counted.
    pub tasks: Option<u64>,
    /// How often it was held up because its processor time was used up (`Limits::cpu_percent`), in periods of a tenth of a second; where that is
    /// counted.
    pub throttled_periods: Option<u64>,
    /// For how long it was held up in all, summed over processors; where that is counted.
    pub throttled_time: Option<Duration>,
}

/// How a stop went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Whether force was needed, and why.
    pub forced: Option<String>,
    /// What is left on purpose, and why (a pinned mapping, a stuck thread).
    pub left: Option<String>,
}
