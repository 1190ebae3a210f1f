//! Why something about a plugin's life could not be done. Calls have an error of their own: `CallError`.

use std::{error::Error, fmt};

use mortise_runtime::{Refusal, RuntimeError};

/// Why something about a plugin's life could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostErrorKind {
    /// No plugin of this name.
    NotFound,
    /// The request itself makes no sense.
    Invalid,
    /// Static checks found reasons against it; [`HostError::reasons`] has all of them.
    Refused,
    /// Its digest is quarantined.
    Quarantined,
    /// It did not start.
    StartFailed,
    /// The state it is in does not allow it.
    Conflict,
    /// The data directory, the journal or the store failed.
    Storage,
    /// The host is shutting down.
    ShuttingDown,
}

impl HostErrorKind {
    /// The word that machines see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Quarantined => "quarantined",
            Self::StartFailed => "start_failed",
            Self::Conflict => "conflict",
            Self::Storage => "storage",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// What failed and why, with the values, and what to do about it.
#[derive(Debug)]
pub struct HostError {
    kind: HostErrorKind,
    plugin: Option<String>,
    message: String,
    hint: Option<String>,
    reasons: Vec<Refusal>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl HostError {
    pub(crate) fn new(kind: HostErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            plugin: None,
            message: message.into(),
            hint: None,
            reasons: Vec::new(),
            source: None,
        }
    }

    pub(crate) fn refused(plugin: &str, reasons: Vec<Refusal>) -> Self {
        let count = reasons.len();
        let plural = if count == 1 { "reason" } else { "reasons" };
        let first = reasons.first().map(|it| format!(": {it}")).unwrap_or_default();
        let mut error = Self::new(
            HostErrorKind::Refused,
            format!("plugin `{plugin}` was refused for {count} {plural}{first}"),
        )
        .with_plugin(plugin);
        error.hint = reasons.first().map(|it| it.hint.clone());
        error.reasons = reasons;
        error
    }

    pub(crate) fn start_failed(plugin: &str, error: RuntimeError) -> Self {
        let hint = error.hint().to_owned();
        Self::new(
            HostErrorKind::StartFailed,
            format!("plugin `{plugin}` did not start: {error}"),
        )
        .with_plugin(plugin)
        .with_hint(hint)
        .with_source(error)
    }

    pub(crate) fn with_plugin(mut self, plugin: impl Into<String>) -> Self {
        self.plugin = Some(plugin.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_reasons(mut self, reasons: Vec<Refusal>) -> Self {
        self.reasons = reasons;
        self
    }

    /// The same in another place, with its causes in its words.
    pub(crate) fn retold(&self) -> Self {
        Self {
            kind: self.kind,
            plugin: self.plugin.clone(),
            message: crate::load::with_causes(self),
            hint: self.hint.clone(),
            reasons: self.reasons.clone(),
            source: None,
        }
    }

    pub(crate) fn of_kind(mut self, kind: HostErrorKind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> HostErrorKind {
        self.kind
    }

    /// The address of the plugin it is about.
    #[must_use]
    pub fn plugin(&self) -> Option<&str> {
        self.plugin.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// All reasons for a refusal.
    #[must_use]
    pub fn reasons(&self) -> &[Refusal] {
        &self.reasons
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for HostError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|it| it as _)
    }
}
