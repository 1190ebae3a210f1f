//! What a runtime can do, on this build and this machine. The host plans with it and never matches on the runtime's name.

use mortise_manifest::RuntimeName;

/// What keeps a faulty or hostile guest away from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// The host's own address space: a crash of the guest is a crash of the host.
    None,
    /// A software sandbox.
    Sandbox,
    /// A process of its own.
    Process,
}

/// How a call that overruns its deadline is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// It is not: the caller is freed, the guest's thread runs on and the instance counts as stuck.
    Never,
    /// The guest is stopped where it stands and its instance dropped.
    Trap,
    /// The guest is asked to cancel and, if it does not, its process is killed.
    Kill,
}

/// Whether a limit holds whatever the guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It does.
    Enforced,
    /// It does not, and why.
    NotEnforced(&'static str),
}

/// Something this runtime cannot do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What cannot be done: the name of a facet, a limit or a conformance case.
    pub what: &'static str,
    /// Why, and what to use instead.
    pub why: String,
}

/// What stands between a guest and the system, layer by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enclosure {
    /// Every layer that the runtime knows, there or not.
    pub layers: Vec<Layer>,
}

/// One layer of an [`Enclosure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name, as configuration has it.
    pub name: &'static str,
    /// What it keeps from a guest.
    pub what: &'static str,
    /// Whether it is there.
    pub present: bool,
    /// How, or why not; may be empty if it is there.
    pub detail: String,
}

/// What a runtime can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Whose support this is.
    pub runtime: RuntimeName,
    /// False if this build or this machine cannot run it at all; `lacks` says why.
    pub available: bool,
    /// What stands between guest and host.
    pub isolation: Isolation,
    /// How an overrunning call is ended.
    pub interrupt: Interrupt,
    /// Whether `Limits::memory_bytes_max` holds.
    pub memory_limit: Enforcement,
    /// Whether `Limits::cpu_percent` holds.
    pub cpu_limit: Enforcement,
    /// Whether the replies of a plugin that says it is pure ([`crate::Start::pure`]) can depend on nothing but the requests.
    pub purity: Enforcement,
    /// Whether an instance that died is replaced by a fresh one without loss of other instances' state.
    pub restartable: bool,
    /// Everything it cannot do here.
    pub lacks: Vec<Lack>,
}
