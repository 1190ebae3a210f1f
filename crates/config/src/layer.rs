//! One source's settings of one plugin, as one object.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Setting, Settings};

/// How deep a place may be.
const DEPTH_MAX: usize = 32;

/// What one source has for one plugin. Serializes for the disk: it has references to secrets, and none of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The source's name.
    pub source: String,
    /// The source's revision that it is of.
    pub revision: u64,
    /// Its parts, in the order in which they are laid over each other.
    pub parts: Vec<Part>,
}

/// A value at a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The names that lead to it; none for the whole object.
    pub path: Vec<String>,
    /// The value.
    pub value: Value,
    /// Where it stands, for people.
    pub origin: String,
    /// The revision that brought it.
    pub revision: u64,
}

/// Why settings are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {why}")]
pub struct LayerFault {
    /// Where it stands.
    pub origin: String,
    /// What is wrong with it.
    pub why: String,
}

// === impl Layer ===

impl Layer {
    /// Makes a layer of settings.
    ///
    /// # Errors
    /// Every fault: a value that does not read, a place that is none, two places of which one is inside the other's value.
    pub fn read(source: &str, revision: u64, settings: &Settings) -> Result<Self, Vec<LayerFault>> {
        let mut faults = Vec::new();
        let mut parts: Vec<Part> = Vec::new();
        for (place, setting) in settings {
            match part(place, setting) {
                Ok(part) => parts.push(part),
                Err(why) => faults.push(LayerFault {
                    origin: setting.origin.clone(),
                    why,
                }),
            }
        }
        let places: BTreeMap<&[String], &Part> = parts.iter().map(|it| (&*it.path, it)).collect();
        for part in &parts {
            // Only what stands on the way to it can be around it, so this is no comparison of each with each.
            let around = (0..part.path.len()).find_map(|depth| {
                let (way, rest) = part.path.split_at(depth);
                places.get(way).filter(|it| reaches(&it.value, rest))
            });
            if let Some(around) = around {
                faults.push(LayerFault {
                    origin: part.origin.clone(),
                    why: format!(
                        "its place is also in the value of {}; keep one of them",
                        around.origin
                    ),
                });
            }
        }
        if faults.is_empty() {
            Ok(Self {
                source: source.to_owned(),
                revision,
                parts,
            })
        } else {
            Err(faults)
        }
    }

    /// Changes what its parts say, each as an object that has nothing else.
    pub fn edit(&mut self, mut edit: impl FnMut(&mut Map<String, Value>)) {
        for part in &mut self.parts {
            let mut whole = part.as_object();
            edit(&mut whole);
            let mut value = Value::Object(whole);
            for name in &part.path {
                value = value.get_mut(name).map(Value::take).unwrap_or_default();
            }
            part.value = value;
        }
    }

    /// Whether both say the same, whichever revision they are of.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let said = |it: &Self| -> Vec<(Vec<String>, Value)> {
            let parts = it.parts.iter();
            parts.map(|it| (it.path.clone(), it.value.clone())).collect()
        };
        self.source == other.source && said(self) == said(other)
    }
}

fn part(place: &str, setting: &Setting) -> Result<Part, String> {
    let path: Vec<String> = match place {
        "" => Vec::new(),
        place => place.split('/').map(str::to_owned).collect(),
    };
    if path.iter().any(String::is_empty) {
        return Err("its place has an empty name; write names with one `/` between them".to_owned());
    }
    if path.len() > DEPTH_MAX {
        return Err(format!("its place is more than {DEPTH_MAX} names deep"));
    }
    let value = setting.value.clone()?;
    if path.is_empty() && !value.is_object() {
        return Err("it is the whole configuration, and no JSON object".to_owned());
    }
    Ok(Part {
        path,
        value,
        origin: setting.origin.clone(),
        revision: setting.revision,
    })
}

/// Whether a value has something at `rest`, or is something that can have nothing inside.
fn reaches(value: &Value, rest: &[String]) -> bool {
    let Some((first, rest)) = rest.split_first() else {
        return true;
    };
    match value {
        Value::Object(members) if !crate::is_reference(value) => {
            members.get(first).is_some_and(|it| reaches(it, rest))
        }
        _ => true,
    }
}

impl Part {
    /// As an object that has nothing else.
    pub(crate) fn as_object(&self) -> Map<String, Value> {
        let mut value = self.value.clone();
        for name in self.path.iter().rev() {
            value = Value::Object(Map::from_iter([(name.clone(), value)]));
        }
        match value {
            Value::Object(members) => members,
            // `part` lets nothing else be the whole.
            _ => Map::new(),
        }
    }
}
