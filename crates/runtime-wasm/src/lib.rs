//! Plugins as WebAssembly components or core modules, on wasmtime.
//!
//! What a guest can do is what its imports can: one log line and one call to the host, both checked behind
//! [`mortise_runtime::HostServices`]. This crate links nothing of WASI, opens no file but its own cache of compiled code, and never loads
//! compiled code from anywhere else.
//!
//! Reading order: [`config`](WasmConfig), `runtime` (the port), `scan` (what bytes say), `code` and `cache` (from bytes to machine code),
//! `engine` (ticks), `store` (limits), `abi` (the two guest ABIs), `instance` (calls), `fault` (whose fault).
//!
//! ## How a guest is stopped
//! | it | is stopped by | after |
//! |---|---|---|
//! | computes, also in `start` or the module's start function | its next look at the epoch | one tick (5 ms) |
//! | waits for the host | a timer around that host call | at once |
//! | asks for memory beyond its limit | `memory.grow` gives -1; an initial size beyond it is refused | at once |
//! | recurses | stack overflow after 512 KiB, a trap | at once |
//! | is no longer wanted: its caller dropped the future | its stack is unwound and its store freed | at once |
//!
//! ## Costs, as ratios to bare wasmtime doing the same typed call
//! See `examples/ratios.rs`, which measures and prints them.
#![deny(unsafe_code)]

mod abi;
mod cache;
mod code;
mod config;
mod engine;
mod fault;
mod head;
mod instance;
mod runtime;
mod scan;
mod store;

pub use cache::CacheStats;
pub use config::{Pooling, Reuse, Tiering, WasmConfig};
pub use runtime::WasmRuntime;
