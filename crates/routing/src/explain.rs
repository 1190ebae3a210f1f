//! Why a call goes where it goes, for `mortise inspect` and the dashboard.

use std::{fmt, sync::Arc};

use semver::Version;

use crate::{choose::Reason, table::LookupError};

/// What every step of a lookup did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The target, as it was given.
    pub target: String,
    /// Every provider that was looked at, newest version first within a name.
    pub candidates: Vec<Candidate>,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// The provider and the reason, or why there is none.
    pub outcome: Result<(Arc<str>, Version, Reason), LookupError>,
}

/// A provider of the method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Version,
    /// Its weight.
    pub weight: u32,
}

/// One step of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The version does not match the range that the caller asked for.
    OutOfRange {
        /// The provider's name.
        name: Arc<str>,
        /// The provider's version.
        version: Version,
        /// The range.
        range: String,
    },
    /// A rule's headers or method are not the call's.
    RuleNotMatched {
        /// The rule.
        rule: Arc<str>,
    },
    /// It is settled which plugin answers; its own rules choose among its versions.
    PluginChosen {
        /// The plugin.
        name: Arc<str>,
        /// Why this one.
        why: Reason,
    },
    /// A rule matches, and one that it would share calls with is not among the candidates: the others get its part.
    ShareWithoutProvider {
        /// The rule.
        rule: Arc<str>,
        /// What is missing.
        provider: String,
    },
    /// A rule matches, and what it points at is not among the candidates.
    RuleWithoutProvider {
        /// The rule.
        rule: Arc<str>,
        /// What it points at.
        provider: String,
    },
}

/// Where a lookup writes its steps. [`Silent`] is the fast path, so that explaining and deciding are one piece of code.
pub(crate) trait Witness {
    fn step(&mut self, step: impl FnOnce() -> Step);
    fn candidate(&mut self, candidate: impl FnOnce() -> Candidate);
}

/// Nobody asks why.
pub(crate) struct Silent;

/// Everything is written down.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) steps: Vec<Step>,
}

impl Witness for Silent {
    fn step(&mut self, _: impl FnOnce() -> Step) {}
    fn candidate(&mut self, _: impl FnOnce() -> Candidate) {}
}

impl Witness for Notes {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }

    fn candidate(&mut self, candidate: impl FnOnce() -> Candidate) {
        self.candidates.push(candidate());
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        for Candidate {
            name,
            version,
            weight,
        } in &self.candidates
        {
            writeln!(f, "  candidate {name}@{version}, weight {weight}")?;
        }
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        match &self.outcome {
            Ok((name, version, reason)) => write!(f, "  goes to {name}@{version}: {reason}"),
            Err(error) => write!(f, "  goes nowhere: {error}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { name, version, range } => {
                write!(f, "{name}@{version} is not in the range `{range}`")
            }
            Self::RuleNotMatched { rule } => write!(f, "rule `{rule}` does not match"),
            Self::PluginChosen { name, why } => {
                write!(
                    f,
                    "plugin `{name}` answers, because {why}; its own rules choose the version"
                )
            }
            Self::ShareWithoutProvider { rule, provider } => write!(
                f,
                "rule `{rule}` matches, and {provider} is not a candidate: the others get its part"
            ),
            Self::RuleWithoutProvider { rule, provider } => {
                write!(
                    f,
                    "rule `{rule}` matches, and its provider {provider} is not a candidate"
                )
            }
        }
    }
}
