//! End-to-end tests through the public surface.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod daemon;
mod life;
mod reload;
mod shipped;
