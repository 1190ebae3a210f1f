//! Version 1.1.0 of the conformance guest. The source is that of 1.0.0; what differs is the version that it reports, which is all that a test of
//! swaps and of versions side by side needs.
#![forbid(unsafe_code)]

#[path = "../../echo/src/lib.rs"]
pub mod plugin;
