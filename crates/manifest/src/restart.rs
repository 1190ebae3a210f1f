//! Whether a plugin is started again when its instance ends by itself.

use std::fmt;

/// Whether a plugin is started again when its instance ends by itself. How long that waits, and after how many exits it is given up, is the host's
/// business and the same for all.
///
/// A fresh version that ends while its predecessor stands by is rolled back, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Restart {
    /// It stays down until an operator loads it again.
    Never,
    /// Unless it ended on purpose: an exit with code 0. All else is a failure: another code, a signal, too much memory, a stuck call.
    #[default]
    OnFailure,
    /// Also after an exit with code 0.
    Always,
}

impl Restart {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Never, Self::OnFailure, Self::Always];

    /// The word used in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }

    /// The one of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
