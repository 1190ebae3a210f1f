//! The knobs of the process runtime.

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, time::Duration};

use mortise_jail::Layer;
use mortise_manifest::{ProcessLane, ProcessSettings};

/// How plugins are started and stopped. [`ProcessConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// Directory for the plugins' private directories; made with mode 0700 if need be. It must be the host user's own. Several hosts may share one:
    /// each has a locked part of its own, and a host that starts removes the parts of hosts that are gone.
    pub run_dir: PathBuf,
    /// Variables of the host's environment that a plugin sees. Default `LANG`, `LC_ALL`, `TZ`. Everything else is
    /// withheld, because environments hold secrets.
    pub env_allow: Vec<OsString>,
    /// Further variables that every plugin sees. Default: one that has glibc's allocator keep blocks as large as a message, rather than give them
    /// back to the system after each call and have every page of them made and cleared again in the next. A plugin keeps at most 16 MiB per thread for it, and
    /// only if it ever had messages so large.
    pub env: Vec<(OsString, OsString)>,
    /// Arguments of every plugin. Default none; plugins made with the SDK read none.
    pub args: Vec<OsString>,
    /// How long after its deadline a call may go on before its process is killed: the caller's, or that of the plugin's limits if it is later. Default 1 s. Shorter frees a stuck plugin sooner; longer
    /// spares the other calls in a plugin that is merely slow to notice.
    pub stuck_grace: Duration,
    /// What carries the frames. Default [`ProcessLane::Auto`].
    pub lane: ProcessLane,
    /// Layers of the jail without which no plugin starts; one whose jail the operator has turned off is exempt. Default none: every layer that the machine has is used,
    /// and what it has not is reported.
    pub require: BTreeSet<Layer>,
    /// Further files and folders that every plugin may read and execute from: where this system keeps libraries and programs outside of
    /// [`Policy::SYSTEM`](mortise_jail::Policy::SYSTEM). Default none.
    pub system: Vec<PathBuf>,
    /// Processes and threads that one plugin may have at once, beside one for each call. Default 256.
    pub tasks_max: u64,
    /// What one plugin may keep in its private directory, in bytes. Looked at every second; a plugin that has more is ended. Default 1 GiB.
    pub disk_bytes_max: u64,
}

/// Only glibc reads it. A block of 8 MiB and more is still given back at once.
const GLIBC_TUNABLES: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=8388608:glibc.malloc.trim_threshold=16777216",
);

impl ProcessConfig {
    /// The defaults, with private directories under `run_dir`.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            env_allow: ["LANG", "LC_ALL", "TZ"].map(OsString::from).to_vec(),
            env: vec![(GLIBC_TUNABLES.0.into(), GLIBC_TUNABLES.1.into())],
            args: Vec::new(),
            stuck_grace: Duration::from_secs(1),
            lane: ProcessLane::Auto,
            require: BTreeSet::new(),
            system: Vec::new(),
            tasks_max: 256,
            disk_bytes_max: 1 << 30,
        }
    }

    /// With what `[runtime.process]` of a `mortise.toml` says.
    #[must_use]
    pub fn with_settings(mut self, settings: &ProcessSettings) -> Self {
        // The reader of the file accepts no other names; a test compares its list with the jail's.
        self.require
            .extend(settings.require.iter().filter_map(|name| Layer::parse(name)));
        self.system.extend(settings.system.iter().map(PathBuf::from));
        self.lane = settings.lane;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_is_what_counts() {
        let settings = ProcessSettings {
            require: mortise_manifest::JAIL_LAYERS.map(str::to_owned).to_vec(),
            system: vec!["/opt/lib".to_owned()],
            lane: ProcessLane::Raw,
        };
        let config = ProcessConfig::new("run").with_settings(&settings);
        assert_eq!(config.require, BTreeSet::from(Layer::ALL));
        assert_eq!(config.system, [PathBuf::from("/opt/lib")]);
        assert_eq!(config.lane, ProcessLane::Raw);
    }
}
