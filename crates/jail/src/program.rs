//! What is started, how that can fail, and what is heard of it.

use std::{ffi::OsString, io, os::fd::BorrowedFd, path::Path, time::Duration};

use crate::Layer;

/// What to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// The executable.
    pub executable: Executable<'a>,
    /// Its arguments, its own name first.
    pub arguments: &'a [OsString],
    /// Its whole environment.
    pub environment: &'a [(OsString, OsString)],
    /// Standard input, output and error.
    pub standard: [BorrowedFd<'a>; 3],
    /// Further descriptors that it inherits, with the numbers that they get there: from 3 to 99.
    pub inherited: &'a [(BorrowedFd<'a>, u32)],
}

/// The executable of a program.
#[derive(Clone, Copy, Debug)]
pub enum Executable<'a> {
    /// A file; it is shown in the jail at the same path.
    Path(&'a Path),
    /// An open file, a sealed memory file say: what was checked is what runs.
    Open(BorrowedFd<'a>),
}

/// Why a program was not started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A layer that the policy requires is not there.
    #[error("it requires the layer `{layer}`, which this machine does not give: {why}")]
    Missing {
        /// The layer.
        layer: Layer,
        /// Why it is not there.
        why: String,
    },
    /// The launcher could not be started or did not answer.
    #[error("the launcher failed while {doing}")]
    Launcher {
        /// What it was about to do.
        doing: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A step of the enclosure failed.
    #[error("{step} failed: {source}")]
    Step {
        /// The step, in words.
        step: String,
        /// The layer that it belongs to, if it is one's alone.
        layer: Option<Layer>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program itself could not be executed.
    #[error("the program could not be executed: {0}")]
    Execute(io::Error),
}

/// What is heard of a running program.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It was denied something.
    Denied(Denial),
    /// So many denials were not reported, because there were too many.
    Suppressed(u32),
    /// The program itself ended; what it started ends now.
    Exited(Exit),
}

/// Something that a program was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The system call.
    pub call: &'static str,
    /// What it would have needed: `fs.read`, `fs.write`, `net.connect`, or a word for what no permission gives.
    pub capability: &'static str,
    /// What it was about: a path, an address, a socket's kind; or the call's name again. At most 256 bytes, control characters escaped.
    pub target: String,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a program's cgroups say it uses. `None` where nothing counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Memory of all its processes with their share of the page cache, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time since the start.
    pub cpu_time: Option<Duration>,
    /// How often its processor time was used up before a period of a tenth of a second was over.
    pub throttled_periods: Option<u64>,
    /// For how long it waited then, summed over processors.
    pub throttled_time: Option<Duration>,
    /// Processes and threads now.
    pub tasks: Option<u64>,
    /// How often the kernel killed one of its processes because memory was used up.
    pub out_of_memory_kills: Option<u64>,
    /// How often it was refused a process or thread.
    pub tasks_refused: Option<u64>,
}

// === impl StartError ===

impl StartError {
    /// The layer that the failure is about, if it is one's alone.
    #[must_use]
    pub fn layer(&self) -> Option<Layer> {
        match self {
            Self::Missing { layer, .. } => Some(*layer),
            Self::Step { layer, .. } => *layer,
            _ => None,
        }
    }
}
