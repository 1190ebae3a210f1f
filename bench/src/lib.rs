//! Benchmarks with their anchors, and the load generator.
//!
//! A figure here never stands alone: beside it, in the same run, stands its anchor (a plain function pointer, bare wasmtime, a bare axum
//! server), and what counts is the ratio. Absolute times drift with the machine. `cargo xtask bench` prints the table; `cargo bench -p mortise-bench`
//! runs the same subjects under criterion.
//!
//! - [`table`]: what a row is and how it is printed.
//! - [`native`], [`routing`], [`evolve`], [`wasm`], [`lanes`], [`starting`], [`loading`], [`watching`], [`swap`], [`rpc`], [`greedy`]: the rows.
//! - [`soak`]: swaps by the thousand, with every call accounted for.
//! - [`load`]: the load generator.
//! - [`bare`]: what needs unsafe code.

pub mod bare;
pub mod chains;
pub mod events;
pub mod evolve;
pub mod greedy;
pub mod lanes;
pub mod load;
pub mod loading;
pub mod native;
pub mod routing;
pub mod rpc;
pub mod soak;
#[cfg(target_os = "linux")]
pub mod starting;
pub mod subject;
pub mod swap;
pub mod table;
pub mod wasm;
pub mod watching;
