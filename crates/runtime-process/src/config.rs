//! The knobs of the process runtime.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// How plugins are started and stopped. [`ProcessConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// Directory for the plugins' private directories; made with mode 0700 if need be. It must be the host user's own. Several hosts may share one:
    /// each has a locked part of its own, and a host that starts removes the parts of hosts that are gone.
    pub run_dir: PathBuf,
    /// Variables of the host's environment that a plugin sees. Default `LANG`, `LC_ALL`, `TZ`. Everything else is
    /// withheld, because environments hold secrets.
    pub env_allow: Vec<OsString>,
    /// Further variables that every plugin sees. Default none.
    pub env: Vec<(OsString, OsString)>,
    /// Arguments of every plugin. Default none; plugins made with the SDK read none.
    pub args: Vec<OsString>,
    /// How long after its deadline a call may go on before its process is killed. Default 1 s. Shorter frees a stuck plugin sooner; longer
    /// spares the other calls in a plugin that is merely slow to notice.
    pub stuck_grace: Duration,
    /// How long a stopping process has after SIGTERM before SIGKILL. Default 2 s.
    pub term_grace: Duration,
    /// What carries the frames. Default [`ProcessLane::Auto`].
    pub lane: ProcessLane,
}

/// What carries frames between host and plugin. All carry the same frames; what differs is what a call costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessLane {
    /// Shared memory where the system and the plugin have it, else the socket.
    #[default]
    Auto,
    /// The unix socket: works everywhere, and costs the plugin no memory.
    Raw,
    /// Shared memory beside the socket, at most 9 MiB per plugin, of which only what is used is taken; large payloads are much cheaper. A plugin that
    /// does not offer it is refused.
    Shm,
}

impl ProcessConfig {
    /// The defaults, with private directories under `run_dir`.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            env_allow: ["LANG", "LC_ALL", "TZ"].map(OsString::from).to_vec(),
            env: Vec::new(),
            args: Vec::new(),
            stuck_grace: Duration::from_secs(1),
            term_grace: Duration::from_secs(2),
            lane: ProcessLane::Auto,
        }
    }
}
