//! The protocol against real Go code, in both directions, and against itself where Debian's Go code is too old.
//!
//! `go_plugin` drives `plugins/go-kv`, `go_host` lets `tests/go-host` drive the example `goplugin-pong`, `pair` puts both sides of this crate together:
//! multiplexing, the knock, standard output and reflection v1 came to go-plugin after the version that Debian has.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]
#![cfg(target_os = "linux")]

mod fixture;
#[path = "../../../../tests/go.rs"]
mod go;
mod messages;
mod pinger;

mod go_host;
mod go_plugin;
mod jailed;
mod pair;
