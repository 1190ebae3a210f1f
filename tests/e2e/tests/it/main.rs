//! End-to-end tests through the public surface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod canary;
mod commands;
mod cut_off;
mod daemon;
mod events;
mod evolution;
#[path = "../../../go.rs"]
mod go;
mod go_plugin;
mod history;
mod jail;
mod life;
mod pages;
mod pair;
mod reload;
mod shipped;
mod state;
mod together;
mod watch;
