//! End-to-end tests through the public surface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod canary;
mod commands;
mod config;
mod cut_off;
mod daemon;
#[expect(dead_code, reason = "the tests of the source itself use the rest")]
#[path = "../../../etcd.rs"]
mod etcd;
mod events;
mod evolution;
#[path = "../../../go.rs"]
mod go;
mod go_plugin;
mod history;
mod jail;
mod life;
#[expect(dead_code, reason = "the tests of the broker itself use the rest")]
#[path = "../../../nats.rs"]
mod nats;
mod pages;
mod pair;
mod reload;
mod shipped;
mod state;
mod together;
mod watch;
