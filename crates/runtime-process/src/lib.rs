//! Plugins as child processes: those of the SDK speak the lane over a unix socket, others HashiCorp's go-plugin.
//!
//! A fault of the plugin, a crash or an endless loop, costs its process and the calls in it, never the host. On Linux it runs in a jail
//! ([`mortise_jail`]): what it was not granted it does not see, and what it tries is told to the host. It never restarts anything; that is the host's decision.
//! It contains no `unsafe`: nothing of ours runs between fork and exec but the jail's launcher.
//!
//! What a plugin of the SDK finds when it starts; for the others see `goplugin`
//!
//! | what | value |
//! |---|---|
//! | descriptor 0 | the lane, one end of a socket pair; `MORTISE_LANE_FD=0` says so |
//! | descriptors 1, 2 | pipes; every line is a log line of the host |
//! | environment | cleared; [`ProcessConfig::env_allow`] of the host's, `MORTISE_LANE_FD`, `TMPDIR`, `HOME` |
//! | directory | its own, private and empty, removed with it |
//! | process group | its own |
//! | user | one of its own, if the host is root and granted it no files; else the host's, without capabilities |
//! | files | the system's programs and libraries, read-only; what it was granted; its directory, from which nothing is executed |
//! | network | none; with a grant `net.connect`, an HTTP proxy that knows CONNECT, which `HTTPS_PROXY` and `ALL_PROXY` name: the host dials |
//!
//! The lane is descriptor 0 because that is the only one a child can be given without a moment in which another thread's child inherits it
//! too. The SDK moves it away and puts `/dev/null` in its place before the plugin's own code runs.
//!
//! **No orphan.** Above the plugin stands the launcher, process 1 of the plugin's own pid namespace: when it ends, the kernel ends everything in
//! there. It ends when the thread that started it ends (so one thread of this runtime starts all of them and lives as long as any of them), and when the
//! host's end of its control socket closes. A plugin that ignores every signal, forks twice and starts sessions of its own ends with a host that is killed with
//! SIGKILL. Where there is no pid namespace the launcher kills what is below it itself, and the cgroup what it misses; a janitor ends at the next
//! start what both missed. On macOS there is only the lane's end, at which the SDK exits.
//!
//! Reading order: [`ProcessConfig`], `spawner` (how a process begins and ends), `watched` (what is heard of it), `dialect`, `instance` and `supervise` (what stands
//! around every plugin). Then what the SDK speaks: `handshake`, `shared` and `calls` (what callers see), `streams`, `transport` (what carries frames; `carried`: over gRPC), `over_grpc` (calls that are no frames), `lane` (frames
//! out), `inbox` (frames in), `conversation`; and beside it `goplugin`. Last `memory`, `disk`, `proxy`, `output`.
#![forbid(unsafe_code)]

mod config;
mod inspect;

#[cfg(unix)]
mod calls;
#[cfg(unix)]
mod carried;
#[cfg(unix)]
mod conversation;
#[cfg(unix)]
mod dialect;
#[cfg(unix)]
mod disk;
#[cfg(unix)]
mod goplugin;
#[cfg(unix)]
mod grpc;
#[cfg(unix)]
mod handshake;
#[cfg(unix)]
mod heard;
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
mod over_grpc;
#[cfg(unix)]
mod proxy;
#[cfg(unix)]
mod run_dir;
#[cfg(unix)]
mod runtime;
#[cfg(unix)]
mod shared;
#[cfg(unix)]
mod spawner;
#[cfg(unix)]
mod streams;
#[cfg(unix)]
mod supervise;
#[cfg(unix)]
mod transport;
#[cfg(unix)]
mod watched;

#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod runtime;

pub use config::ProcessConfig;
#[cfg(unix)]
pub use goplugin::{GoPluginError, Interview, Interviewed, Told};
pub use mortise_manifest::ProcessLane;
pub use runtime::ProcessRuntime;
