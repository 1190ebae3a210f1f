//! Version 1.1.0 of the counter. The source is that of 1.0.0; what differs is the version that it reports, which is all that a test of swaps needs.
#![forbid(unsafe_code)]

#[path = "../../counter/src/lib.rs"]
pub mod plugin;
