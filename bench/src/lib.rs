//! Benchmarks with their anchors, and the load generator.
//!
//! A figure here never stands alone: beside it, in the same run, stands its anchor (a plain function pointer, bare wasmtime, a bare axum
//! server), and what counts is the ratio. Absolute times drift with the machine.
#![forbid(unsafe_code)]

pub mod load;
