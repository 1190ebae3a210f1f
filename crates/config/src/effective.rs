//! Layers over each other.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use crate::{Layer, is_reference};

/// What a plugin is configured with: secrets are references here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    value: Map<String, Value>,
    origins: Origins,
}

/// Where values came from: a tree like that of the values. Trust goes by it, so it must not be a text that is put together from names: with dots and
/// brackets in them, two places would have one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Origins {
    /// Of what stands here, if that is no object, or an empty one. A list has one for all that is in it.
    here: Option<Origin>,
    inside: BTreeMap<String, Origins>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    text: Arc<str>,
    trusted: bool,
}

/// The place in [`Origins`] of a value, on the way through a configuration.
#[derive(Clone, Copy)]
pub(crate) enum Whence<'a> {
    At(Option<&'a Origins>),
    /// In a list.
    Within(Option<&'a Origin>),
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
                text: origin.into(),
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
                text: part.origin.as_str().into(),
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
        let mut all = Vec::new();
        for (name, value) in &self.value {
            walk(name, value, self.whence().member(name), &mut all);
        }
        all
    }

    /// Where the whole came from.
    pub(crate) fn whence(&self) -> Whence<'_> {
        Whence::At(Some(&self.origins))
    }

    fn overlay(&mut self, patch: Map<String, Value>, origin: &Origin) {
        merge(&mut self.value, patch, origin, &mut self.origins);
    }
}

fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>, origin: &Origin, origins: &mut Origins) {
    for (name, new) in patch {
        match new {
            Value::Null => {
                target.remove(&name);
                origins.inside.remove(&name);
            }
            Value::Object(members) if !is_reference_object(&members) => {
                let whence = origins.inside.entry(name.clone()).or_default();
                let inner = target.entry(name).or_insert_with(|| Value::Object(Map::new()));
                let replaced = !inner.is_object() || is_reference(inner);
                if replaced {
                    *inner = Value::Object(Map::new());
                    *whence = Origins::default();
                }
                if let Value::Object(inner) = inner {
                    let is_empty = members.is_empty() && inner.is_empty();
                    whence.here = is_empty.then(|| origin.clone());
                    merge(inner, members, origin, whence);
                }
            }
            other => {
                let whence = Origins {
                    here: Some(origin.clone()),
                    inside: BTreeMap::new(),
                };
                origins.inside.insert(name.clone(), whence);
                target.insert(name, other);
            }
        }
    }
}

fn is_reference_object(members: &Map<String, Value>) -> bool {
    members.len() == 1 && members.contains_key("secret")
}

// === impl Whence ===

impl<'a> Whence<'a> {
    /// Of a member of an object here.
    pub(crate) fn member(self, name: &str) -> Self {
        match self {
            Self::At(at) => Self::At(at.and_then(|it| it.inside.get(name))),
            within @ Self::Within(_) => within,
        }
    }

    /// Of an item of a list here.
    pub(crate) fn item(self) -> Self {
        Self::Within(self.origin())
    }

    /// Whether what stands here is the operator's own.
    pub(crate) fn is_trusted(self) -> bool {
        self.origin().is_some_and(|it| it.trusted)
    }

    fn origin(self) -> Option<&'a Origin> {
        match self {
            Self::At(at) => at.and_then(|it| it.here.as_ref()),
            Self::Within(origin) => origin,
        }
    }
}

/// Everything in an object that is no object; origins are left empty.
#[must_use]
pub fn leaves(value: &Map<String, Value>) -> Vec<Leaf> {
    let mut all = Vec::new();
    for (name, value) in value {
        walk(name, value, Whence::At(None), &mut all);
    }
    all
}

fn walk(path: &str, value: &Value, whence: Whence<'_>, all: &mut Vec<Leaf>) {
    let origin = whence.origin().map(|it| it.text.to_string());
    let leaf = |value: String, secret: bool| Leaf {
        path: path.to_owned(),
        value,
        origin: origin.unwrap_or_default(),
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
                walk(&join(path, name), value, whence.member(name), all);
            }
        }
        other => all.push(leaf(other.to_string(), false)),
    }
}

/// For people: it does not tell every place from every other.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
