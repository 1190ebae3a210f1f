//! Why something could not be read or kept: one type for the whole crate, with what to do about it.

use std::{error::Error, fmt, io, path::Path};

use mortise_manifest::Diagnostics;

/// Why something could not be read or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It is not there.
    NotFound,
    /// The operating system does not let us.
    Denied,
    /// A name or a link leads out of its folder, or is not a plain file.
    Escape,
    /// Larger or more than the limit.
    TooLarge,
    /// It is there and makes no sense: not UTF-8, a manifest with faults, a contract that does not parse.
    Malformed,
    /// Another host uses the data directory.
    Locked,
    /// The disk (or the quota) is full.
    DiskFull,
    /// A database is damaged.
    Corrupt,
    /// Written by a newer version of the host.
    TooNew,
    /// The operating system failed in another way.
    Io,
}

/// What failed and why, and what to do about it.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    hint: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    also: Vec<StoreError>,
}

impl StoreError {
    pub(crate) fn new(kind: StoreErrorKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: hint.into(),
            source: None,
            also: Vec::new(),
        }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// One error out of several. There is at least one.
    pub(crate) fn all(mut faults: Vec<Self>) -> Self {
        let mut first = faults.remove(0);
        first.also = faults;
        first
    }

    /// `doing` is an infinitive: "read", "create".
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        let path = path.display();
        let (kind, message, hint) = match source.kind() {
            io::ErrorKind::NotFound => (
                StoreErrorKind::NotFound,
                format!("could not {doing} `{path}`: it does not exist"),
                "check the path".to_owned(),
            ),
            io::ErrorKind::PermissionDenied => (
                StoreErrorKind::Denied,
                format!("could not {doing} `{path}`: permission denied"),
                format!("give the user that runs the host access to `{path}`"),
            ),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                StoreErrorKind::DiskFull,
                format!("could not {doing} `{path}`: no space is left on its disk"),
                "free some space or move the data directory; nothing was changed".to_owned(),
            ),
            _ => {
                // The reason is in the message, so it is not the source as well.
                let message = format!("could not {doing} `{path}`: {source}");
                return Self::new(StoreErrorKind::Io, message, "check the disk and the system's log");
            }
        };
        Self::new(kind, message, hint).with_source(source)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The manifest's faults with their places, if it was the manifest.
    #[must_use]
    pub fn diagnostics(&self) -> Option<&Diagnostics> {
        self.source.as_deref()?.downcast_ref()
    }

    /// What else is wrong with the same package.
    #[must_use]
    pub fn also(&self) -> &[StoreError] {
        &self.also
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|it| it as _)
    }
}
