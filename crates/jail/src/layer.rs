//! The layers of an enclosure: what each keeps from a program, and whether a machine or a running program has it.

use std::fmt;

/// One thing that stands between a program and the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Layer {
    /// Nothing that the program executes gains rights by it: no set-user-id, no file capabilities.
    NoNewPrivileges,
    /// It has no capability and can't get one.
    Capabilities,
    /// Bounds on open files, file sizes, processes, memory of its own; no core file.
    Limits,
    /// A user and group id that nothing else has. Only a host that is root can give one.
    User,
    /// Its own user namespace: even with capabilities, it would have them over nothing of the host's.
    UserNamespace,
    /// It sees the files that it is shown and no others.
    MountNamespace,
    /// It sees and can signal its own processes only, and they all end with it.
    PidNamespace,
    /// It has no network but its own empty one.
    NetNamespace,
    /// System V IPC and POSIX message queues of its own.
    IpcNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// It does not see where it stands among the cgroups.
    CgroupNamespace,
    /// The kernel's file, network and signal rules on top of the mounts.
    Landlock,
    /// System calls that it has no use for do not exist.
    Seccomp,
    /// What the filter refuses is told to the host.
    DenialEvents,
    /// All its processes together have no more memory than allowed.
    MemoryCgroup,
    /// All its processes together have no more processor time than allowed.
    CpuCgroup,
    /// All its processes and threads together are no more than allowed.
    PidsCgroup,
}

/// Whether a layer is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is, with a word about how: a version, a number.
    Present(String),
    /// It is not, and why.
    Absent(String),
}

/// The layers that a running program has and has not. Every layer is in it, in the order of [`Layer::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enclosure(Vec<(Layer, Presence)>);

// === impl Layer ===

impl Layer {
    /// All layers.
    pub const ALL: [Self; 17] = [
        Self::NoNewPrivileges,
        Self::Capabilities,
        Self::Limits,
        Self::User,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::NetNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::Landlock,
        Self::Seccomp,
        Self::DenialEvents,
        Self::MemoryCgroup,
        Self::CpuCgroup,
        Self::PidsCgroup,
    ];

    /// Its name in configuration and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Capabilities => "capabilities",
            Self::Limits => "limits",
            Self::User => "user",
            Self::UserNamespace => "user-namespace",
            Self::MountNamespace => "mount-namespace",
            Self::PidNamespace => "pid-namespace",
            Self::NetNamespace => "net-namespace",
            Self::IpcNamespace => "ipc-namespace",
            Self::UtsNamespace => "uts-namespace",
            Self::CgroupNamespace => "cgroup-namespace",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::DenialEvents => "denial-events",
            Self::MemoryCgroup => "memory-cgroup",
            Self::CpuCgroup => "cpu-cgroup",
            Self::PidsCgroup => "pids-cgroup",
        }
    }

    /// The layer of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }

    /// What it keeps from a program, in a few words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "set-user-id programs give no rights",
            Self::Capabilities => "no capability",
            Self::Limits => "bounds on files, processes and memory of each process",
            Self::User => "a user id of its own",
            Self::UserNamespace => "no capability over anything of the host's",
            Self::MountNamespace => "no file but those it is shown",
            Self::PidNamespace => "no process but its own",
            Self::NetNamespace => "no network but its own empty one",
            Self::IpcNamespace => "no System V IPC but its own",
            Self::UtsNamespace => "a host name of its own",
            Self::CgroupNamespace => "no sight of other cgroups",
            Self::Landlock => "no file, socket or signal that is not allowed",
            Self::Seccomp => "no dangerous system call",
            Self::DenialEvents => "refusals are reported",
            Self::MemoryCgroup => "a bound on the memory of all its processes",
            Self::CpuCgroup => "a bound on processor time",
            Self::PidsCgroup => "a bound on processes and threads",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Presence ===

impl Presence {
    /// Whether it is there.
    #[must_use]
    pub fn is_present(&self) -> bool {
        matches!(self, Self::Present(_))
    }

    /// The word about how, or why not.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Present(how) => how,
            Self::Absent(why) => why,
        }
    }
}

// === impl Enclosure ===

impl Enclosure {
    /// One with a word about every layer.
    pub fn new(mut of: impl FnMut(Layer) -> Presence) -> Self {
        Self(Layer::ALL.into_iter().map(|layer| (layer, of(layer))).collect())
    }

    /// Every layer with its presence.
    pub fn iter(&self) -> impl Iterator<Item = (Layer, &Presence)> {
        self.0.iter().map(|(layer, presence)| (*layer, presence))
    }

    /// Whether a layer is there.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        self.0
            .iter()
            .any(|(it, presence)| *it == layer && presence.is_present())
    }

    /// Why a layer is not there; `None` if it is.
    #[must_use]
    pub fn why_not(&self, layer: Layer) -> Option<&str> {
        self.0.iter().find_map(|(it, presence)| match presence {
            Presence::Absent(why) if *it == layer => Some(why.as_str()),
            _ => None,
        })
    }
}
