//! The options of `mortise/options.proto`, read.

use std::fmt;

use crate::{ContractError, raw::RawMethodOptions};

/// What a contract says about one method beside its types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodOptions {
    /// Whether a call may be repeated after a crash.
    pub idempotency: Idempotency,
    /// Deadline of a call that brings none, in milliseconds. `None` = the host's.
    pub timeout_ms: Option<u32>,
    /// The method, possibly of an older version, whose calls this method's adapter accepts.
    pub replaces: Option<Target>,
    /// The method tried when no provider of this one is available.
    pub fallback: Option<Target>,
    /// Returns promptly and never blocks, so an in-process runtime may run it on the host's I/O threads.
    pub nonblocking: bool,
}

/// How often a method may be called for one wish. The standard option `idempotency_level` and `mortise.idempotent` both say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Idempotency {
    /// Once. The default.
    #[default]
    Unknown,
    /// Twice is the same as once.
    Idempotent,
    /// It changes nothing at all.
    NoSideEffects,
}

/// What a contract says about one field beside its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldOptions {
    /// Value a reader sees when the writer's contract does not know the field, in protobuf text form.
    pub default: Option<String>,
    /// Never logged, never shown.
    pub sensitive: bool,
}

/// `package.Service/Method`, with `@version` where a contract means one version of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// `package.Service`
    pub service: String,
    /// `Method`
    pub method: String,
    /// What follows `@`.
    pub version: Option<String>,
}

// === impl MethodOptions ===

impl MethodOptions {
    /// Whether the host may repeat a call whose fate it does not know.
    #[must_use]
    pub fn idempotent(&self) -> bool {
        self.idempotency != Idempotency::Unknown
    }

    pub(crate) fn read(path: &str, raw: &RawMethodOptions) -> Result<Self, ContractError> {
        let idempotency = match raw.idempotency_level {
            1 => Idempotency::NoSideEffects,
            2 => Idempotency::Idempotent,
            _ if raw.idempotent => Idempotency::Idempotent,
            _ => Idempotency::Unknown,
        };
        let target = |option, value: &Option<String>| {
            let parse = |value: &String| {
                Target::parse(value).ok_or_else(|| ContractError::BadOption {
                    option,
                    path: path.to_owned(),
                    value: value.clone(),
                    expected: "it must be `package.Service/Method` or `package.Service/Method@version`",
                })
            };
            value.as_ref().map(parse).transpose()
        };
        Ok(Self {
            idempotency,
            timeout_ms: raw.timeout_ms,
            replaces: target("mortise.replaces", &raw.replaces)?,
            fallback: target("mortise.fallback", &raw.fallback)?,
            nonblocking: raw.nonblocking,
        })
    }
}

// === impl Idempotency ===

impl fmt::Display for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not idempotent",
            Self::Idempotent => "idempotent",
            Self::NoSideEffects => "without side effects",
        })
    }
}

// === impl Target ===

impl Target {
    /// Reads `package.Service/Method[@version]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, version) = match text.split_once('@') {
            Some((_, "")) => return None,
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (text, None),
        };
        let (service, method) = name.split_once('/')?;
        let is_name = |it: &str| {
            it.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && it.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        (is_name(method) && service.split('.').all(is_name)).then(|| Self {
            service: service.to_owned(),
            method: method.to_owned(),
            version,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method)?;
        self.version
            .iter()
            .try_for_each(|version| write!(f, "@{version}"))
    }
}
