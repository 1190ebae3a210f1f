//! What an embedder chooses about the runtime.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// What an embedder chooses about the runtime. The defaults suit a service that runs a few dozen plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmConfig {
    /// Where compiled code is kept between runs; `None` compiles at every start. Default `None`.
    ///
    /// The folder is made with mode 0700 and holds machine code that is run as it is: whoever can write to it *and* read the key in it owns
    /// the host. Files that do not carry the host's own seal are compiled again, never run.
    pub cache_dir: Option<PathBuf>,
    /// Bound on the cache's files together; the least recently written go first. Default 1 GiB.
    pub cache_bytes_max: u64,
    /// How long a guest instance lives. Default [`Reuse::Ephemeral`].
    pub reuse: Reuse,
    /// Exceptions from `reuse`, by plugin name.
    pub reuse_by_plugin: BTreeMap<String, Reuse>,
    /// Guest instances alive at once, over all plugins; further calls wait until their deadline. Default 512.
    ///
    /// Costs address space (4 GiB each) but no memory until used.
    pub instances_max: u32,
    /// How often a running guest is asked whether it must stop. Default 5 ms.
    ///
    /// A deadline is kept to within one tick, and a guest that computes without pause holds its thread for one tick at a time. Shorter ticks
    /// cost a wake-up of one thread each while guests run; while none runs there are no ticks.
    pub tick: Duration,
    /// Largest artifact, in bytes. Default 64 MiB. Compiling is work done on a stranger's behalf: this and the next two bound it.
    pub artifact_bytes_max: usize,
    /// Most functions in an artifact. Default 250 000.
    pub functions_max: u32,
    /// Longest a compilation may take before `prepare` gives up on it. Default 120 s. Its thread finishes nevertheless; no second one is
    /// started meanwhile beyond `compiles_max`.
    pub compile_max: Duration,
    /// Compilations at once; each uses all cores. Default 2.
    pub compiles_max: usize,
    /// Which compiler comes first. Default [`Tiering::BaselineFirst`].
    pub tiering: Tiering,
    /// Where guest memory comes from. Default [`Pooling::Auto`].
    pub pooling: Pooling,
}

impl Default for WasmConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_bytes_max: 1 << 30,
            reuse: Reuse::Ephemeral,
            reuse_by_plugin: BTreeMap::new(),
            instances_max: 512,
            tick: Duration::from_millis(5),
            artifact_bytes_max: 64 << 20,
            functions_max: 250_000,
            compile_max: Duration::from_secs(120),
            compiles_max: 2,
            tiering: Tiering::BaselineFirst,
            pooling: Pooling::Auto,
        }
    }
}

impl WasmConfig {
    /// The policy for the plugin `name`.
    #[must_use]
    pub fn reuse_of(&self, name: &str) -> Reuse {
        self.reuse_by_plugin.get(name).copied().unwrap_or(self.reuse)
    }

    /// Whether guests of any plugin are kept.
    pub(crate) fn keeps_any(&self) -> bool {
        std::iter::once(&self.reuse)
            .chain(self.reuse_by_plugin.values())
            .any(|it| matches!(it, Reuse::Warm { .. }))
    }
}

/// How long a guest instance lives. A plugin with `[state]` is not asked for this: it has one guest, kept for good, and its calls wait for each
/// other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// A fresh instance per call: nothing one caller leaves in memory reaches the next. `start` runs in each.
    #[default]
    Ephemeral,
    /// Instances are kept and used again, one call at a time, until a fault, `calls_max` calls, or more memory than half the limit. Globals
    /// survive between calls, so only for plugins whose callers may see each other's traces. When all are busy, a call gets an instance of its
    /// own rather than a place in a queue.
    Warm {
        /// Instances kept.
        instances: usize,
        /// Calls after which an instance is replaced.
        calls_max: u64,
    },
}

impl Reuse {
    /// What a plugin with state has.
    pub(crate) const ONLY: Self = Self::Warm {
        instances: 1,
        calls_max: u64::MAX,
    };

    /// Eight instances, replaced after 10 000 calls.
    pub const WARM: Self = Self::Warm {
        instances: 8,
        calls_max: 10_000,
    };
}

/// Where guest memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Reserved at once and reused, where the machine has the address space; else [`Pooling::Off`], with a warning.
    #[default]
    Auto,
    /// Mapped for each instance: about four times slower to instantiate, but no reservation.
    Off,
}

/// Which compiler comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiering {
    /// A quick one (Winch), so that a new version serves within milliseconds; the optimising one (Cranelift) follows in the background for
    /// plugins that are called often. Until then calls that compute run two to four times slower. On x86-64; elsewhere as `OptimisedOnly`.
    #[default]
    BaselineFirst,
    /// The optimising one at once: a load takes about 0.7 ms per KiB of WebAssembly and core.
    OptimisedOnly,
}
