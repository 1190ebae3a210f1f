//! The host with a runtime whose plugins are Rust closures: everything but the guest is the real thing, on disk and in memory.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(unreachable_pub, reason = "nothing outside a test binary can reach anything")]

mod adapt;
mod calls;
mod canary;
mod closures;
mod config;
mod crash;
mod deliveries;
mod depend;
mod directory;
mod entries;
mod events;
mod full_disk;
mod history;
mod http;
mod keepers;
mod kill;
mod load;
#[expect(dead_code, reason = "the tests of the broker itself use the rest")]
#[path = "../../../../tests/nats.rs"]
mod nats;
mod observe;
mod probation;
mod routes;
mod state;
mod swap;
mod together;
mod webhook;
