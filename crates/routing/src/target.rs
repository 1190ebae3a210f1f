//! What a caller writes to name a method or a plugin.
//!
//! | written | means |
//! |---|---|
//! | `acme.image.v1.Thumbnailer/Resize` | that method, whoever provides it |
//! | `plugin.thumbnailer.Resize` | the method of that name of that plugin |
//! | `plugin.thumbnailer@1.2.0.Resize` | the same, of exactly that version |
//!
//! A text with `/` is always the first form, so a protobuf package may be called `plugin`. The last dot separates the method in the
//! other forms, so a version may have dots.

use std::fmt;

use semver::Version;

/// A method to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'t> {
    /// `package.Service/Method`.
    Method {
        /// Full name of the service.
        service: &'t str,
        /// Name of the method.
        method: &'t str,
    },
    /// `plugin.{address}.{method}`.
    Plugin {
        /// The plugin.
        address: Address<'t>,
        /// Name of the method, without its service.
        method: &'t str,
    },
}

/// A plugin: `name`, or `name@version` when two versions run side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'t> {
    /// The name it is registered under.
    pub name: &'t str,
    /// Its version, if it matters.
    pub version: Option<Version>,
}

/// Why a text names no method and no plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {why}")]
pub struct TargetError {
    text: String,
    what: &'static str,
    why: String,
}

/// Longest target or address that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 512;

// === impl Target ===

impl<'t> Target<'t> {
    /// Reads a target.
    ///
    /// # Errors
    /// If it is none; the message shows the forms there are.
    pub fn parse(text: &'t str) -> Result<Self, TargetError> {
        const WHAT: &str = "a method (`package.Service/Method` or `plugin.{name}.{method}`)";
        let fault = |why: &str| TargetError::new(text, WHAT, why.to_owned());
        if text.len() > TEXT_BYTES_MAX {
            return Err(fault("it is too long"));
        }
        if let Some((service, method)) = text.split_once('/') {
            if service.is_empty() || method.is_empty() || method.contains('/') {
                return Err(fault("one service and one method stand around `/`"));
            }
            return Ok(Self::Method { service, method });
        }
        let Some(rest) = text.strip_prefix("plugin.") else {
            return Err(fault("it has no `/` and does not begin with `plugin.`"));
        };
        let Some((address, method)) = rest.rsplit_once('.').filter(|(_, method)| !method.is_empty()) else {
            return Err(fault("the plugin's name is not followed by a method"));
        };
        let address = Address::parse(address).map_err(|error| TargetError::new(text, WHAT, error.why))?;
        Ok(Self::Plugin { address, method })
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method { service, method } => write!(f, "{service}/{method}"),
            Self::Plugin { address, method } => write!(f, "plugin.{address}.{method}"),
        }
    }
}

// === impl Address ===

impl<'t> Address<'t> {
    /// Reads `name` or `name@version`.
    ///
    /// # Errors
    /// If the name is empty or has a `.` or `/` in it, or the version is none.
    pub fn parse(text: &'t str) -> Result<Self, TargetError> {
        const WHAT: &str = "a plugin (`name` or `name@version`)";
        let fault = |why: String| TargetError::new(text, WHAT, why);
        if text.len() > TEXT_BYTES_MAX {
            return Err(fault("it is too long".to_owned()));
        }
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => match Version::parse(version) {
                Ok(version) => (name, Some(version)),
                Err(error) => return Err(fault(format!("`{version}` is not a version: {error}"))),
            },
        };
        if name.is_empty() || name.contains(['.', '/']) {
            return Err(fault("a name is not empty and has no `.` and no `/`".to_owned()));
        }
        Ok(Self { name, version })
    }

    /// Whether a provider of this name and version is meant.
    #[must_use]
    pub fn matches(&self, name: &str, version: &Version) -> bool {
        self.name == name && self.version.as_ref().is_none_or(|own| own == version)
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => f.write_str(self.name),
        }
    }
}

// === impl TargetError ===

impl TargetError {
    fn new(text: &str, what: &'static str, why: String) -> Self {
        const CHARS_MAX: usize = 80;
        let mut shown: String = text
            .chars()
            .take(CHARS_MAX)
            .flat_map(char::escape_debug)
            .collect();
        if text.chars().count() > CHARS_MAX {
            shown.push('…');
        }
        Self {
            text: shown,
            what,
            why,
        }
    }
}
