//! The process runtime against a plugin that speaks the lane by hand, well and badly.
//!
//! The plugin is this very binary: the runtime starts it again with `MORTISE_FAKE` set, and the test `fake::plugin` becomes the plugin.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]
#![cfg(unix)]

mod fake;
mod fake_grpc;
mod fixture;
#[path = "../../../../tests/go.rs"]
mod go;
#[cfg(target_os = "linux")]
mod hostile;

mod bounds;
mod calls;
mod environment;
mod faults;
mod goplugin;
mod grpc;
mod host_calls;
mod leaks;
mod output;
mod sdk;
mod start;
mod stop;
mod streams;
