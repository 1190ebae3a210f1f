//! Version 1.1.0 of the conformance guest for the lanes over gRPC. The source is that of `plugins/echo`; what differs is the one line of its `main`.
#![forbid(unsafe_code)]

#[path = "../../echo/src/lib.rs"]
pub mod plugin;
