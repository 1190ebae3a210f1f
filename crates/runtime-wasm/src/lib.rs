//! Plugins as WebAssembly components or core modules, on wasmtime.
//!
//! What a guest can do is what its imports can: one log line and one call to the host, both checked behind
//! [`mortise_runtime::HostServices`]. This crate links nothing of WASI, opens no file but its own cache of compiled code, and never loads
//! compiled code from anywhere else.
//!
//! Reading order: [`config`](WasmConfig), `runtime` (the port), `scan` and `unwrap` (what bytes say), `code` and `cache` (to machine code),
//! `engine` (ticks), `store` (limits), `abi` (the two guest ABIs), `pool` (calls that take long), `instance` (calls), `fault` (whose fault).
//!
//! ## How a guest is stopped
//! | it | is stopped by | after |
//! |---|---|---|
//! | computes, also in `start` or the module's start function | its next look at the epoch | one tick (5 ms) |
//! | waits for the host | a timer around that host call | at once |
//! | asks for memory beyond its limit | `memory.grow` gives -1; an initial size beyond it is refused | at once |
//! | recurses | stack overflow after 512 KiB, a trap | at once |
//! | is no longer wanted: its caller dropped the future | its stack is unwound and its store freed | at once; while it computes, one tick |
//!
//! What computes for longer than a tick does so on threads of its own (`pool`), and neither the executor's nor another plugin's.
//!
//! ## Costs
//! Ratios to bare wasmtime (same pool, epochs, async, typed function, same guest as a component) in one run of `examples/ratios.rs`, on two busy
//! cores, wasmtime with its debug assertions. `mortise build` makes the second column, and the wrapper is taken off it (`unwrap`):
//!
//! | call | other component | component of `mortise build` | core module |
//! |---|---|---|---|
//! | warm, 64 B | 1.4 | 0.74 | 1.7 |
//! | warm, 1 MiB | 1.05 | 1.04 | 1.1 |
//! | fresh instance, `start` and 64 B | 1.27 | 1.01 | 1.16 |
//! | fresh instance, `start` and 1 MiB | 1.0 | 1.0 | 1.0 |
//!
//! The anchors in a release build on an idle core: 0.54 us warm, 7.2 us fresh, 57 us for 1 MiB. What was tried, and what it showed there:
//!
//! - Synchronous calls on the caller's stack instead of fibers: 0.37 us instead of 0.54 us warm, 6.4 us instead of 7.2 us fresh. Not worth an
//!   executor's thread that a spinning guest holds until its deadline, which is what they cost.
//! - Memory mapped per instance instead of pooled: 37 us fresh. Keeping 0, 64 KiB or 1 MiB of a used slot resident: 8.6, 7.2, 8.7 us.
//! - Clearing stacks between guests adds a microsecond to a fresh call and stays on.
//! - The core module's second half is one fiber per entry, and its ABI enters the guest four times (two allocations, the call, one free). A kept
//!   guest of `mortise build` is entered once, through a doorway (`abi/unwrapped.rs`).
//! - Compiling a guest of 70 KB: Cranelift 49 ms on both cores (95 ms on one), without optimisation 27 ms, Winch 12 ms. Winch with Cranelift at
//!   its quickest for the trampolines, as here, takes a third less than that again. Cranelift's incremental cache, full: 17 ms. From the AOT cache
//!   loading the code itself takes 0.2 ms.
//! - Of what Winch takes for a guest with a table, a third goes into Cranelift's trampolines: one for each function in it. `mortise build` makes
//!   guests without one. The map from machine code to bytes of WebAssembly is a tenth, and left out. Guests compiled for size are no remedy:
//!   `opt-level = "s"` makes 110 KB in 564 functions of what is 118 KB in 295 at level 3, and Winch takes a quarter longer.
#![deny(unsafe_code)]

mod abi;
mod cache;
mod code;
mod config;
mod engine;
mod fault;
mod head;
mod instance;
mod pool;
mod runtime;
mod scan;
mod store;
mod unwrap;

pub use cache::CacheStats;
pub use config::{Pooling, Reuse, Tiering, WasmConfig};
pub use runtime::WasmRuntime;
