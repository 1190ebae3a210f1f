//! The native runtime with libraries that a C compiler builds here and now: good ones, and one for every way of breaking the ABI.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

mod asynchronous;
mod calls;
mod cycles;
mod echo_c;
mod host_calls;
mod loading;
mod stopping;
mod toolchains;
