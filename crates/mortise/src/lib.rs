//! Mortise: the plugin platform for services, in Rust.
pub use mortise_host::*;

pub use mortise_contract as contract;
pub use mortise_manifest as manifest;
pub use mortise_wire as wire;

/// The port: what a runtime implements, and the errors of calls.
pub use mortise_runtime as port;
pub use mortise_runtime::{CallError, CallErrorKind, Digest, PluginId, Refusal, Support};
pub use mortise_wire::{Header, Health, Status};

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
