//! The guest's side of the process and native runtimes, driven by hand: the tests are the host.
#![expect(clippy::unwrap_used, reason = "a test may, in its helpers too")]

mod native;
mod probe;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod streams;
