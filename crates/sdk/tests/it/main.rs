//! The guest's side of the process and native runtimes, driven by hand: the tests are the host.

mod native;
mod probe;
#[cfg(unix)]
mod process;
