//! Plugins as child processes that speak the lane over a unix socket.
//!
//! A fault of the plugin, a crash or an endless loop, costs its process and the calls in it, never the host. This crate does not
//! jail the plugin: it runs as the host's user, with the host's view of files and network. It never restarts anything either; that is the host's
//! decision. It contains no `unsafe`: nothing of ours runs between fork and exec.
//!
//! What the plugin finds when it starts
//!
//! | what | value |
//! |---|---|
//! | descriptor 0 | the lane, one end of a socket pair; `MORTISE_LANE_FD=0` says so |
//! | descriptors 1, 2 | pipes; every line is a log line of the host |
//! | environment | cleared; [`ProcessConfig::env_allow`] of the host's, `MORTISE_LANE_FD`, `MORTISE_HOST_PID`, `TMPDIR`, `HOME` |
//! | directory | its own, private and empty, removed with it |
//! | process group | its own |
//!
//! The lane is descriptor 0 because that is the only one a child can be given without a moment in which another thread's child inherits it
//! too. The SDK moves it away and puts `/dev/null` in its place before the plugin's own code runs.
//!
//! **No orphan.** The host's end of the lane is closed by the kernel when the host dies, however it dies; the plugin's SDK exits at
//! once when it reads the end of the lane. It also asks for a parent-death signal, which on Linux is sent when the *thread* that started the
//! process ends: that is why one thread of this runtime starts all of them and lives as long as any of them. A plugin that does
//! neither is not stopped by a host that is killed with SIGKILL; only a jail can do that.
//!
//! **What is not covered.** Descriptors that the embedding program opened without `CLOEXEC` are inherited by the plugin: closing them
//! needs code between fork and exec. Everything that Rust's standard library and Mortise open has the flag.
//!
//! Reading order: [`ProcessConfig`], `spawner` (how a process begins and ends), `handshake`, `instance` and `calls` (what callers see), `transport` (what carries frames), `lane` (frames
//! out), `inbox` (frames in), `supervise` (who decides that it is over), `output`.
#![forbid(unsafe_code)]

mod config;
mod inspect;

#[cfg(unix)]
mod calls;
#[cfg(unix)]
mod handshake;
#[cfg(unix)]
mod host_calls;
#[cfg(unix)]
mod inbox;
#[cfg(unix)]
mod instance;
#[cfg(unix)]
mod lane;
#[cfg(unix)]
mod memory;
#[cfg(unix)]
mod output;
#[cfg(unix)]
mod run_dir;
#[cfg(unix)]
mod runtime;
#[cfg(unix)]
mod spawner;
#[cfg(unix)]
mod streams;
#[cfg(unix)]
mod supervise;
#[cfg(unix)]
mod transport;

#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod runtime;

pub use config::{ProcessConfig, ProcessLane};
pub use runtime::ProcessRuntime;
