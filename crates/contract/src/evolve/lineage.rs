//! What authors declare of the versions of a contract: which there were, and what became of the fields of one in the next.

use std::{fmt, sync::Arc};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::{Contract, Target};

/// The most versions that one lineage may name.
pub const VERSIONS_MAX: usize = 64;

/// Versions of a contract, and the steps between them.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    pub(super) versions: Vec<(Arc<str>, Arc<Contract>)>,
    pub(super) steps: Vec<Step>,
}

/// From one version to a later one, not necessarily the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The older version.
    pub from: String,
    /// The newer one.
    pub to: String,
    /// What became of messages whose fields moved or changed their meaning.
    pub messages: Vec<MessageMap>,
}

/// What became of the fields of one message. It is read in both directions: what moves when an old caller meets a new plugin moves back when a
/// new caller meets an old plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageMap {
    /// Full name of the message in the older version.
    pub older: String,
    /// Full name in the newer version.
    pub newer: String,
    /// Pairs of paths (`zip`, `address.zip`): of a field in the older message and of what it is in the newer. The value is converted where the types
    /// differ; the same path twice is a field that only changes its type. All but the last part of a path are singular messages.
    pub fields: Vec<(String, String)>,
    /// What fields of the newer message are taken for if the writer knows only the older one, in protobuf's text form. Comes before `(mortise.default)`.
    pub defaults: Vec<(String, String)>,
    /// Fields of the older message that the newer side must not be sent, because it uses their numbers for something else.
    pub drop: Vec<String>,
    /// In place of rules, for a message that is a request or a response itself: a pure function, a method of a plugin that takes the encoded older message
    /// and gives the newer.
    pub up: Option<Target>,
    /// And one that takes the newer and gives the older.
    pub down: Option<Target>,
}

/// Why declarations make no lineage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// A step names a version of which there is no contract.
    #[error(
        "a step leads from `{from}` to `{to}`, and there is no contract of `{missing}`; there are {known}"
    )]
    UnknownVersion {
        /// Where the step begins.
        from: String,
        /// Where it ends.
        to: String,
        /// Which of the two is missing.
        missing: String,
        /// What there is.
        known: String,
    },
    /// A step of a version to itself.
    #[error("a step leads from `{version}` to itself; leave it out")]
    Loop {
        /// The version.
        version: String,
    },
    /// A rule does not fit the contracts that it is about.
    #[error("from `{from}` to `{to}`: {why}")]
    Rule {
        /// The older version.
        from: String,
        /// The newer one.
        to: String,
        /// What does not fit.
        why: String,
    },
    /// Too many versions.
    #[error("{count} versions are named, and the most are {VERSIONS_MAX}; let callers of the oldest move on")]
    TooMany {
        /// How many.
        count: usize,
    },
}

// === impl Lineage ===

impl Lineage {
    /// Versions by name, each with its contract, and the steps between them.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub fn new(
        versions: Vec<(Arc<str>, Arc<Contract>)>,
        steps: Vec<Step>,
    ) -> Result<Self, Vec<LineageError>> {
        let mut errors = Vec::new();
        if versions.len() > VERSIONS_MAX {
            return Err(vec![LineageError::TooMany {
                count: versions.len(),
            }]);
        }
        let lineage = Self { versions, steps };
        for step in &lineage.steps {
            lineage.check(step, &mut errors);
        }
        match errors.is_empty() {
            true => Ok(lineage),
            false => Err(errors),
        }
    }

    /// Nothing but what contracts say themselves.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Whether nothing is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The contract of a version.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Arc<Contract>> {
        self.versions.iter().find(|it| *it.0 == *name).map(|it| &it.1)
    }

    /// Names of all versions, in the order they were given.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.versions.iter().map(|it| &*it.0)
    }

    /// All steps, in the order they were given.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether one of its steps names this function.
    #[must_use]
    pub fn names(&self, function: &Target) -> bool {
        let maps = self.steps.iter().flat_map(|it| &it.messages);
        maps.flat_map(|it| it.up.iter().chain(&it.down))
            .any(|it| it == function)
    }

    fn check(&self, step: &Step, errors: &mut Vec<LineageError>) {
        if step.from == step.to {
            errors.push(LineageError::Loop {
                version: step.from.clone(),
            });
            return;
        }
        let find = |name: &str| {
            self.version(name).ok_or_else(|| LineageError::UnknownVersion {
                from: step.from.clone(),
                to: step.to.clone(),
                missing: name.to_owned(),
                known: self
                    .versions()
                    .map(|it| format!("`{it}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
            })
        };
        let (older, newer) = match (find(&step.from), find(&step.to)) {
            (Ok(older), Ok(newer)) => (older, newer),
            (older, newer) => {
                errors.extend(older.err().into_iter().chain(newer.err()));
                return;
            }
        };
        let rule = |why: String| LineageError::Rule {
            from: step.from.clone(),
            to: step.to.clone(),
            why,
        };
        for map in &step.messages {
            errors.extend(map.faults(older, newer).into_iter().map(rule));
        }
    }
}

// === impl MessageMap ===

impl MessageMap {
    pub(super) fn has_functions(&self) -> bool {
        self.up.is_some() || self.down.is_some()
    }

    fn faults(&self, older: &Contract, newer: &Contract) -> Vec<String> {
        let find = |contract: &Contract, name: &str| {
            let found = contract.pool().get_message_by_name(name);
            found.ok_or_else(|| format!("there is no message `{name}`"))
        };
        let (older, newer) = match (find(older, &self.older), find(newer, &self.newer)) {
            (Ok(older), Ok(newer)) => (older, newer),
            (older, newer) => return older.err().into_iter().chain(newer.err()).collect(),
        };
        let mut faults = Vec::new();
        let has_rules = !(self.fields.is_empty() && self.defaults.is_empty() && self.drop.is_empty());
        if self.has_functions() && has_rules {
            faults.push(format!(
                "`{}` has both rules and functions; keep one of them",
                self.older
            ));
        }
        for (from, to) in &self.fields {
            faults.extend(path(&older, from).err());
            faults.extend(path(&newer, to).err());
        }
        faults.extend(self.clashes());
        faults.extend(self.drop.iter().filter_map(|name| field(&older, name).err()));
        for (name, text) in &self.defaults {
            match field(&newer, name) {
                Ok(field) => faults.extend(
                    crate::defaults::encode(&field, text)
                        .err()
                        .map(|it| it.to_string()),
                ),
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// Rules that are about the same field, on either side: the one would undo what the other does, in one direction at least.
    fn clashes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (index, (from, to)) in self.fields.iter().enumerate() {
            for (other_from, other_to) in &self.fields[..index] {
                for (message, one, other) in [(&self.older, other_from, from), (&self.newer, other_to, to)] {
                    if overlap(one, other) {
                        found.push(format!(
                            "`{message}`: the rules `{other_from}` -> `{other_to}` and `{from}` -> `{to}` are both about `{}`; keep one of them, or use a function",
                            if one.len() <= other.len() { one } else { other }
                        ));
                    }
                }
            }
        }
        found
    }
}

/// Whether one path is the other, or leads into what the other is about.
fn overlap(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() {
        (one, other)
    } else {
        (other, one)
    };
    long.strip_prefix(short)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The fields that a path leads through; all but the last are singular messages.
pub(super) fn path(message: &MessageDescriptor, path: &str) -> Result<Vec<FieldDescriptor>, String> {
    let mut at = message.clone();
    let mut found: Vec<FieldDescriptor> = Vec::new();
    for name in path.split('.') {
        if let Some(last) = found.last() {
            at = match last.kind() {
                Kind::Message(inner) if !last.is_list() && !last.is_map() && !last.is_group() => inner,
                _ => {
                    return Err(format!(
                        "`{path}` leads through `{}`, which is not a single message",
                        last.full_name()
                    ));
                }
            };
        }
        found.push(field(&at, name)?);
    }
    Ok(found)
}

fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    message
        .get_field_by_name(name)
        .ok_or_else(|| format!("message `{}` has no field `{name}`", message.full_name()))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}
