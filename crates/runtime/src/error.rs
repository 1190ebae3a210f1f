//! Reasons. The core gives reasons, the edge gives words: texts for HTTP, exit codes and colours are made from these kinds elsewhere.

use std::{error::Error, fmt, time::Instant};

use mortise_wire::{Code, Status};

use crate::MethodIndex;

/// Why an artifact could not be read, prepared or started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuntimeErrorKind {
    /// The bytes are no plugin for this runtime at all.
    NotAPlugin,
    /// A plugin for another system or processor.
    WrongTarget,
    /// A plugin, but its metadata does not parse.
    Malformed,
    /// What it says about itself is not what it is.
    Tampered,
    /// Built against an ABI that this host does not speak.
    AbiMismatch,
    /// It wants something that is not granted or does not exist.
    MissingImport,
    /// A budget is used up.
    Exhausted,
    /// This build or machine cannot do it.
    Unsupported,
    /// The operating system or the engine refused.
    Loader,
    /// The plugin declined to start, or did not start in time.
    StartFailed,
}

/// Why an artifact could not be read, prepared or started: what failed, why, what to do.
#[derive(Debug)]
pub struct RuntimeError {
    kind: RuntimeErrorKind,
    message: String,
    hint: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl RuntimeError {
    /// An error with what failed and why (with the values), and what to do about it.
    pub fn new(kind: RuntimeErrorKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: hint.into(),
            source: None,
        }
    }

    /// Adds the cause. `Display` does not repeat it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> RuntimeErrorKind {
        self.kind
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for RuntimeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|it| it as _)
    }
}

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The plugin answered with a status of its own.
    Returned,
    /// No such plugin or method.
    NotFound,
    /// The request does not parse.
    Malformed,
    /// Not granted.
    Denied,
    /// The deadline passed.
    Deadline,
    /// The caller gave up.
    Cancelled,
    /// A limit was reached.
    Exhausted,
    /// The guest panicked, trapped, exited or broke the protocol.
    GuestFault,
    /// Caller and plugin do not agree on the contract.
    Incompatible,
    /// The instance takes no new calls.
    Draining,
    /// No instance can take it now.
    Unavailable,
    /// Broken on our side.
    HostBug,
}

impl CallErrorKind {
    /// All of them, for tables.
    pub const ALL: [Self; 12] = [
        Self::Returned,
        Self::NotFound,
        Self::Malformed,
        Self::Denied,
        Self::Deadline,
        Self::Cancelled,
        Self::Exhausted,
        Self::GuestFault,
        Self::Incompatible,
        Self::Draining,
        Self::Unavailable,
        Self::HostBug,
    ];

    /// The word that machines see, in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::NotFound => "not_found",
            Self::Malformed => "malformed",
            Self::Denied => "denied",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Exhausted => "exhausted",
            Self::GuestFault => "guest_fault",
            Self::Incompatible => "incompatible",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
            Self::HostBug => "host_bug",
        }
    }
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Whoever called.
    Caller,
    /// The plugin.
    Guest,
    /// Mortise.
    Host,
    /// The machine: memory, disk, time.
    Machine,
}

/// Whether the same call may be tried again.
///
/// An error that a runtime makes says what would help an idempotent method. The host takes that back ([`CallError::not_retryable`]) for a method that
/// is not, once the call was handed to an instance: nobody knows how far it came. What a plugin says itself (`Returned`) stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// Here.
    SameInstance,
    /// Elsewhere.
    OtherInstance,
}

/// Why a call has no reply.
#[derive(Clone, Debug)]
pub struct CallError(Box<Detail>);

#[derive(Clone, Debug)]
struct Detail {
    kind: CallErrorKind,
    blame: Blame,
    retry: Retry,
    status: Status,
    hint: Option<String>,
}

impl CallError {
    /// An error of a kind, with a text for people: what failed and why. Blame, retry and code follow from the kind.
    pub fn new(kind: CallErrorKind, message: impl Into<String>) -> Self {
        use CallErrorKind as K;
        let (blame, retry, code) = match kind {
            K::Returned => (Blame::Guest, Retry::Never, Code::Unknown),
            K::NotFound => (Blame::Caller, Retry::Never, Code::Unimplemented),
            K::Malformed => (Blame::Caller, Retry::Never, Code::InvalidArgument),
            K::Denied => (Blame::Caller, Retry::Never, Code::PermissionDenied),
            K::Deadline => (Blame::Guest, Retry::OtherInstance, Code::DeadlineExceeded),
            K::Cancelled => (Blame::Caller, Retry::Never, Code::Cancelled),
            K::Exhausted => (Blame::Machine, Retry::SameInstance, Code::ResourceExhausted),
            K::GuestFault => (Blame::Guest, Retry::OtherInstance, Code::Internal),
            K::Incompatible => (Blame::Caller, Retry::Never, Code::FailedPrecondition),
            K::Draining => (Blame::Host, Retry::OtherInstance, Code::Unavailable),
            K::Unavailable => (Blame::Host, Retry::OtherInstance, Code::Unavailable),
            K::HostBug => (Blame::Host, Retry::Never, Code::Internal),
        };
        let retryable = retry != Retry::Never;
        let status = Status {
            retryable,
            ..Status::new(code, message)
        };
        Self(Box::new(Detail {
            kind,
            blame,
            retry,
            status,
            hint: None,
        }))
    }

    /// `method` of `plugin` did not answer in time. The same words in every runtime.
    #[must_use]
    pub fn late(plugin: &str, method: &str) -> Self {
        let why = format!("{method} of plugin `{plugin}` did not answer by its deadline");
        Self::new(CallErrorKind::Deadline, why)
    }

    /// A request to `plugin` of `bytes` bytes, where `max` is the limit.
    #[must_use]
    pub fn request_too_large(plugin: &str, bytes: usize, max: usize) -> Self {
        let why = format!("the request has {bytes} bytes, and {max} is the limit of plugin `{plugin}`");
        Self::new(CallErrorKind::Exhausted, why)
            .with_hint("raise `limits.payload_mib` of the plugin, or send less at once")
    }

    /// A place that none of `plugin`'s `methods` methods has.
    #[must_use]
    pub fn no_such_method(plugin: &str, methods: usize, place: MethodIndex) -> Self {
        let why = format!(
            "plugin `{plugin}` has {methods} methods and no method {}",
            place.0
        );
        Self::new(CallErrorKind::NotFound, why)
    }

    /// Whether this is the plugin's own word that its time is over, and it is. A runtime answers with its own `Deadline` then: which of the
    /// two clocks was quicker is nobody's business.
    #[must_use]
    pub fn is_late(&self, deadline: Instant) -> bool {
        self.kind() == CallErrorKind::Returned
            && self.status().kind() == Code::DeadlineExceeded
            && deadline <= Instant::now()
    }

    /// The plugin's own answer.
    #[must_use]
    pub fn returned(status: Status) -> Self {
        let retry = if status.retryable {
            Retry::OtherInstance
        } else {
            Retry::Never
        };
        Self(Box::new(Detail {
            kind: CallErrorKind::Returned,
            blame: Blame::Guest,
            retry,
            status,
            hint: None,
        }))
    }

    /// The same, for a call that is not to be made again: its method is not idempotent, and the plugin may have begun to work on it.
    #[must_use]
    pub fn not_retryable(mut self) -> Self {
        self.0.retry = Retry::Never;
        self.0.status.retryable = false;
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> CallErrorKind {
        self.0.kind
    }

    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        self.0.blame
    }

    /// Whether another try makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// In the form in which it crosses a boundary.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.status.message)
    }
}

impl Error for CallError {}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        error.0.status
    }
}
