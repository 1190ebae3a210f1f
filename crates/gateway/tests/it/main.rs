//! The edges in front of a real host. Its plugin is the test's own, so that a test can hold a call where it wants it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod fixture;

mod http;
mod rpc;
mod shutdown;
mod stream;

#[cfg(unix)]
mod control;
