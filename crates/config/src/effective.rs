//! Layers over each other.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{Layer, is_reference};

/// What a plugin is configured with: secrets are references here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    value: Map<String, Value>,
    /// By dotted path: where each value that is no object came from.
    origins: BTreeMap<String, Origin>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    text: String,
    trusted: bool,
}

/// One value that is no object, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where: `limits.rate`.
    pub path: String,
    /// The value as JSON, or the reference of a secret.
    pub value: String,
    /// Where it came from.
    pub origin: String,
    /// Whether `value` is a reference to a secret.
    pub secret: bool,
}

// === impl Effective ===

impl Effective {
    /// What stands at the plugin itself. Its references are the operator's own and need no leave.
    #[must_use]
    pub fn of(base: Map<String, Value>, origin: &str) -> Self {
        let mut effective = Self::default();
        effective.overlay(
            base,
            &Origin {
                text: origin.to_owned(),
                trusted: true,
            },
        );
        effective
    }

    /// Lays a layer over it.
    #[must_use]
    pub fn under(mut self, layer: &Layer) -> Self {
        for part in &layer.parts {
            let origin = Origin {
                text: part.origin.clone(),
                trusted: false,
            };
            self.overlay(part.as_object(), &origin);
        }
        self
    }

    /// Whether both are the same for the plugin, wherever it came from.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.value == other.value
    }

    /// The object, with references.
    #[must_use]
    pub fn value(&self) -> &Map<String, Value> {
        &self.value
    }

    /// The object as text, with references.
    #[must_use]
    pub fn to_json(&self) -> String {
        Value::Object(self.value.clone()).to_string()
    }

    /// Everything in it that is no object.
    #[must_use]
    pub fn leaves(&self) -> Vec<Leaf> {
        let mut leaves = leaves(&self.value);
        for leaf in &mut leaves {
            leaf.origin = self
                .origin(&leaf.path)
                .map(|it| it.text.clone())
                .unwrap_or_default();
        }
        leaves
    }

    /// Whether the reference at a path is the operator's own.
    pub(crate) fn is_trusted(&self, path: &str) -> bool {
        self.origin(path).is_some_and(|it| it.trusted)
    }

    /// Lists have the origin of the whole.
    fn origin(&self, path: &str) -> Option<&Origin> {
        let whole = path.split_once('[').map_or(path, |(before, _)| before);
        self.origins.get(path).or_else(|| self.origins.get(whole))
    }

    fn overlay(&mut self, patch: Map<String, Value>, origin: &Origin) {
        let Self { value, origins } = self;
        merge(value, patch, "", origin, origins);
    }
}

fn merge(
    target: &mut Map<String, Value>,
    patch: Map<String, Value>,
    path: &str,
    origin: &Origin,
    origins: &mut BTreeMap<String, Origin>,
) {
    for (name, new) in patch {
        let at = join(path, &name);
        match new {
            Value::Null => {
                target.remove(&name);
                forget(origins, &at);
            }
            Value::Object(members) if !is_reference_object(&members) => {
                let inner = target.entry(name).or_insert_with(|| Value::Object(Map::new()));
                let replaced = !inner.is_object() || is_reference(inner);
                if replaced {
                    *inner = Value::Object(Map::new());
                    forget(origins, &at);
                }
                if let Value::Object(inner) = inner {
                    if members.is_empty() && inner.is_empty() {
                        origins.insert(at.clone(), origin.clone());
                    } else {
                        origins.remove(&at);
                    }
                    merge(inner, members, &at, origin, origins);
                }
            }
            other => {
                forget(origins, &at);
                origins.insert(at, origin.clone());
                target.insert(name, other);
            }
        }
    }
}

fn forget(origins: &mut BTreeMap<String, Origin>, at: &str) {
    let inside = format!("{at}.");
    origins.retain(|path, _| path != at && !path.starts_with(&inside));
}

fn is_reference_object(members: &Map<String, Value>) -> bool {
    members.len() == 1 && members.contains_key("secret")
}

/// Everything in an object that is no object; origins are left empty.
#[must_use]
pub fn leaves(value: &Map<String, Value>) -> Vec<Leaf> {
    let mut all = Vec::new();
    for (name, value) in value {
        walk(name, value, &mut all);
    }
    all
}

fn walk(path: &str, value: &Value, all: &mut Vec<Leaf>) {
    let leaf = |value: String, secret: bool| Leaf {
        path: path.to_owned(),
        value,
        origin: String::new(),
        secret,
    };
    match value {
        reference if is_reference(reference) => {
            let text = reference
                .get("secret")
                .and_then(Value::as_str)
                .unwrap_or_default();
            all.push(leaf(text.to_owned(), true));
        }
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                walk(&join(path, name), value, all);
            }
        }
        other => all.push(leaf(other.to_string(), false)),
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
