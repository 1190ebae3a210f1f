//! The names of the runtimes, as they stand in `plugin.toml` and `mortise.toml`.

use std::fmt;

use serde::Serialize;

/// A technology that runs plugins. The host plans with what a runtime says it supports and never matches on this name;
/// it is for configuration, for people and for finding the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeName {
    /// Compiled into the host.
    Builtin,
    /// A shared library in the host's address space.
    Native,
    /// A WebAssembly component or core module.
    Wasm,
    /// A child process.
    Process,
}

impl RuntimeName {
    /// All of them, from the most to the least trusting.
    pub const ALL: [Self; 4] = [Self::Builtin, Self::Native, Self::Wasm, Self::Process];

    /// The runtimes that plugins are built for as files, in the same order.
    pub const BUILT: [Self; 3] = [Self::Native, Self::Wasm, Self::Process];

    /// The word used in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Native => "native",
            Self::Wasm => "wasm",
            Self::Process => "process",
        }
    }

    /// The runtime with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }
}

impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
