//! Version 1.1.0 of the counter for the lanes over gRPC. The source is that of `plugins/counter`; what differs is the one line of its `main`.
#![forbid(unsafe_code)]

#[path = "../../counter/src/lib.rs"]
pub mod plugin;
