//! What a program may do. The default is nothing but to run.

use std::{collections::BTreeSet, path::PathBuf};

use crate::Layer;

/// What a program may do, and what must keep it from the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is jailed at all.
    pub mode: Mode,
    /// Layers without which it must not start.
    pub required: BTreeSet<Layer>,
    /// Its own directory, writable: its working directory and the place for its temporary files.
    pub directory: PathBuf,
    /// Files and folders that it may read, at their own paths. What does not exist is left out.
    pub read: Vec<PathBuf>,
    /// Files and folders that it may read and write, at their own paths. What does not exist is left out.
    pub write: Vec<PathBuf>,
    /// What it may execute and read beside itself: programs and libraries of the system. Default [`Policy::SYSTEM`].
    pub system: Vec<PathBuf>,
    /// Its network.
    pub network: Network,
    /// The user it runs as.
    pub user: User,
    /// What it may use.
    pub bounds: Bounds,
}

/// Whether a program is jailed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It has every layer that the machine has.
    On,
    /// The operator trusts it like the host: no layer that keeps anything from it, only bounds and the certain end of all it starts.
    Off,
}

/// The network of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// None: unix sockets in its directory.
    None,
    /// None but a listening socket on its own loopback, at [`PROXY_PORT`], that is handed to the host.
    Proxy,
}

/// Where a proxy listens inside the jail: the network there is empty, so the port is always free.
pub const PROXY_PORT: u16 = 3128;

/// The user that a program runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The host's, without its capabilities.
    Host,
    /// A user and group of this number, which nothing else should have. If the host may not give it, the host's.
    Own(u32),
}

/// What a program may use. `None` and the highest values mean: no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Memory of all its processes together, with what they keep in memory file systems, in bytes. Needs [`Layer::MemoryCgroup`].
    pub memory_bytes_max: Option<u64>,
    /// Private writable memory of each process, in bytes: `RLIMIT_DATA`. Default no bound.
    pub data_bytes_max: Option<u64>,
    /// Processor time in hundredths of one core. Needs [`Layer::CpuCgroup`]. Default no bound.
    pub cpu_percent: Option<u32>,
    /// Processes and threads together. Default 256.
    pub tasks_max: u64,
    /// Open descriptors of each process. Default 1024.
    pub files_max: u64,
    /// Size of one file that it writes, in bytes. Default 256 MiB.
    pub file_bytes_max: u64,
}

// === impl Policy ===

impl Policy {
    /// Where programs and libraries are on most systems, and what the C library and TLS libraries read.
    pub const SYSTEM: [&str; 15] = [
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/localtime",
        "/etc/alternatives",
        "/etc/ssl/certs",
        "/etc/pki/tls/certs",
        "/etc/ca-certificates",
    ];

    /// Nothing but to run, with `directory` as its own.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            mode: Mode::On,
            required: BTreeSet::new(),
            directory: directory.into(),
            read: Vec::new(),
            write: Vec::new(),
            system: Self::SYSTEM.iter().map(PathBuf::from).collect(),
            network: Network::None,
            user: User::Host,
            bounds: Bounds::default(),
        }
    }
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self {
            memory_bytes_max: None,
            data_bytes_max: None,
            cpu_percent: None,
            tasks_max: 256,
            files_max: 1024,
            file_bytes_max: 256 << 20,
        }
    }
}
