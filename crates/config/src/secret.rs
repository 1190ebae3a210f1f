//! References to secrets, and the secrets themselves for the short way from where they are to the plugin.
//!
//! `{ secret = "env:NAME" }` or `{ secret = "file:/PATH" }` in place of a text. An object whose only member is `secret` is always a reference, so a
//! misspelt one is a fault and not a setting.

use std::{fmt, fs::File, io::Read as _, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    Effective,
    effective::{Whence, join},
};

/// Secrets shorter than this are not looked for in texts: they would be found everywhere.
const MASKED_MIN: usize = 4;
/// What stands in a text where a secret was.
const MASK: &str = "***";
/// Largest secret that is read, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// An environment variable of the host.
    Env(String),
    /// A file, by its absolute path; a line end at its end does not belong to the secret.
    File(String),
}

/// Which references configuration from elsewhere may have. What stands at the plugin itself may have any.
///
/// Each is `env:START_OF_A_NAME` or `file:/DIR/`; `{plugin}` is the plugin's name and `{PLUGIN}` the same in capitals, with `_` for `-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(Vec<String>);

/// Why secrets are not in place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` {why}")]
pub struct Unresolved {
    /// Where.
    pub path: String,
    /// What is wrong.
    pub why: String,
}

/// Texts that must not be shown. Its `Debug` tells how many.
#[derive(Clone, Default)]
pub struct Secrets(Arc<[String]>);

/// What a plugin gets. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Delivered {
    /// JSON text, an object.
    pub json: Arc<str>,
    /// The secrets in it.
    pub secrets: Secrets,
}

/// Whether a value stands for a secret that is elsewhere.
#[must_use]
pub fn is_reference(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|it| it.len() == 1 && it.contains_key("secret"))
}

// === impl Reference ===

impl Reference {
    /// Reads `env:NAME` or `file:/PATH`. The text is not in the error: it may be the secret itself.
    ///
    /// # Errors
    /// What to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Self::Env(name.to_owned()))
            }
            Some(("file", path))
                if path.starts_with('/') && !path.contains('\0') && path.split('/').all(|it| it != "..") =>
            {
                Ok(Self::File(path.to_owned()))
            }
            _ => Err("does not say where the secret is; write `env:NAME` or `file:/PATH`".to_owned()),
        }
    }
}

impl Reference {
    /// Reads the secret. May block.
    ///
    /// # Errors
    /// What keeps it from being read; nothing of the secret is in it.
    pub fn read(&self) -> Result<String, String> {
        let secret = match self {
            Self::Env(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => format!("{self}: the host has no such variable"),
                std::env::VarError::NotUnicode(_) => format!("{self} is not text"),
            })?,
            Self::File(path) => {
                let mut bytes = Vec::new();
                // To open a pipe would wait for its writer, and all of configuration with it.
                if !std::fs::metadata(path)
                    .map_err(|error| format!("{self}: {error}"))?
                    .is_file()
                {
                    return Err(format!("{self} is no file"));
                }
                File::open(path)
                    .and_then(|it| it.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
                    .map_err(|error| format!("{self}: {error}"))?;
                if bytes.len() as u64 > SECRET_BYTES_MAX {
                    return Err(format!("{self} has more than {SECRET_BYTES_MAX} bytes"));
                }
                let mut text = String::from_utf8(bytes).map_err(|_| format!("{self} is not text"))?;
                let end = text
                    .strip_suffix('\n')
                    .map(|it| it.strip_suffix('\r').unwrap_or(it).len());
                text.truncate(end.unwrap_or(text.len()));
                text
            }
        };
        if secret.is_empty() {
            return Err(format!("{self} is empty"));
        }
        Ok(secret)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

// === impl Allowed ===

impl Allowed {
    /// These.
    #[must_use]
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// Whether configuration of `plugin` from elsewhere may refer to this.
    #[must_use]
    pub fn allows(&self, plugin: &str, reference: &Reference) -> bool {
        let capitals = plugin.to_ascii_uppercase().replace('-', "_");
        self.0.iter().any(|pattern| {
            let pattern = pattern.replace("{plugin}", plugin).replace("{PLUGIN}", &capitals);
            match (Reference::parse(&pattern), reference) {
                (Ok(Reference::Env(start)), Reference::Env(name)) => name.starts_with(&start),
                (Ok(Reference::File(dir)), Reference::File(path)) => {
                    path == dir.trim_end_matches('/')
                        || path.starts_with(&format!("{}/", dir.trim_end_matches('/')))
                }
                _ => false,
            }
        })
    }
}

// === impl Effective ===

impl Effective {
    /// Its references, by path.
    ///
    /// # Errors
    /// Every one that is none, or that configuration of `plugin` from elsewhere may not have.
    pub fn references(
        &self,
        plugin: &str,
        allowed: &Allowed,
    ) -> Result<Vec<(String, Reference)>, Vec<Unresolved>> {
        let (mut found, mut faults) = (Vec::new(), Vec::new());
        let mut visit = |path: &str, value: &Value, whence: Whence<'_>| {
            let text = value.get("secret").and_then(Value::as_str).unwrap_or_default();
            let fault = |why: String| Unresolved {
                path: path.to_owned(),
                why,
            };
            match Reference::parse(text) {
                Ok(it) if whence.is_trusted() || allowed.allows(plugin, &it) => {
                    found.push((path.to_owned(), it));
                }
                Ok(it) => faults.push(fault(format!(
                    "refers to {it}, which configuration of `{plugin}` from elsewhere may not; allow it with `secrets` in `[config]` of mortise.toml"
                ))),
                Err(why) => faults.push(fault(why)),
            }
        };
        for (name, value) in self.value() {
            walk(name, value, self.whence().member(name), &mut visit);
        }
        if faults.is_empty() { Ok(found) } else { Err(faults) }
    }

    /// Puts secrets in place. `secrets` has one for each of [`Effective::references`], in their order.
    #[must_use]
    pub fn deliver(&self, secrets: Vec<String>) -> Delivered {
        let mut next = secrets.iter();
        let value = filled(self.value(), &mut next);
        let mut masked: Vec<String> = secrets.into_iter().filter(|it| it.len() >= MASKED_MIN).collect();
        // Of two that overlap the longer one first, so that nothing of it is left.
        masked.sort_by_key(|it| std::cmp::Reverse(it.len()));
        masked.dedup();
        Delivered {
            json: Value::Object(value).to_string().into(),
            secrets: Secrets(masked.into()),
        }
    }
}

fn walk(path: &str, value: &Value, whence: Whence<'_>, visit: &mut dyn FnMut(&str, &Value, Whence<'_>)) {
    match value {
        reference if is_reference(reference) => visit(path, reference, whence),
        Value::Object(members) => {
            for (name, value) in members {
                walk(&join(path, name), value, whence.member(name), visit);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                walk(&format!("{path}[{number}]"), value, whence.item(), visit);
            }
        }
        _ => {}
    }
}

/// The same, in the order of [`walk`], with a secret for each reference.
fn filled(members: &Map<String, Value>, next: &mut std::slice::Iter<'_, String>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in members {
        out.insert(name.clone(), filled_value(value, next));
    }
    out
}

fn filled_value(value: &Value, next: &mut std::slice::Iter<'_, String>) -> Value {
    match value {
        reference if is_reference(reference) => next.next().cloned().map_or(Value::Null, Value::String),
        Value::Object(members) => {
            let members = members.iter();
            Value::Object(
                members
                    .map(|(name, it)| (name.clone(), filled_value(it, next)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(|it| filled_value(it, next)).collect()),
        other => other.clone(),
    }
}

// === impl Secrets and Delivered ===

impl Secrets {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// They, and those.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        let mut all: Vec<String> = self.0.iter().chain(&*others.0).cloned().collect();
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all.into())
    }

    /// A text without them.
    #[must_use]
    pub fn masked(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            text.replace(secret.as_str(), MASK)
        })
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered").finish_non_exhaustive()
    }
}
