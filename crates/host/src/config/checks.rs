//! What can be said against a configuration before any plugin hears of it.

use std::{collections::BTreeSet, sync::Arc};

use mortise_config::{Allowed, Effective, Reference, is_reference};
use mortise_contract::Contract;
use mortise_manifest::Manifest;
use mortise_runtime::Refusal;
use serde_json::{Map, Value};

/// What a refusal is about if it is about configuration.
pub(crate) const WHAT: &str = "configuration";

/// What stands where something was blotted out.
const BLOT: &str = "***";

/// References by the path where each stands.
pub(crate) type References = Vec<(String, Reference)>;

/// Reads a plugin's own terms.
pub(crate) fn read_own(json: Option<&str>) -> Result<Arc<Map<String, Value>>, Refusal> {
    match serde_json::from_str::<Map<String, Value>>(json.unwrap_or("{}")) {
        Ok(own) => Ok(Arc::new(own)),
        Err(error) => Err(refusal(
            format!("it is not a JSON object: {error}"),
            "write the plugin's `config` as a table",
        )),
    }
}

/// Something against a configuration.
pub(super) struct Fault {
    /// Which value; empty for the whole.
    pub(super) path: String,
    pub(super) why: String,
    pub(super) hint: &'static str,
}

/// Everything against a configuration that needs no plugin to say it. The references in it, if there is nothing.
pub(super) fn check(
    plugin: &str,
    effective: &Effective,
    manifest: &Manifest,
    contract: &Contract,
    allowed: &Allowed,
) -> Result<References, Vec<Refusal>> {
    faults(plugin, effective, manifest, contract, allowed).map_err(|faults| {
        let origins = effective.leaves();
        let told = |it: Fault| {
            let leaf = origins.iter().find(|leaf| leaf.path == it.path);
            let from = leaf.map(|it| format!(" ({})", it.origin)).unwrap_or_default();
            let what = if it.path.is_empty() {
                it.why
            } else {
                format!("`{}` {}", it.path, it.why)
            };
            refusal(what + &from, it.hint)
        };
        faults.into_iter().map(told).collect()
    })
}

/// The same, by the place of each.
pub(super) fn faults(
    plugin: &str,
    effective: &Effective,
    manifest: &Manifest,
    contract: &Contract,
    allowed: &Allowed,
) -> Result<References, Vec<Fault>> {
    let mut all = Vec::new();
    if manifest.pure && !effective.value().is_empty() {
        all.push(Fault {
            path: String::new(),
            why: "its manifest says `pure = true`, and a pure plugin is configured with nothing".to_owned(),
            hint: "take its configuration away; `mortise config show` tells where each value comes from",
        });
    }
    if let Some(message) = &manifest.config.message {
        let value = Value::Object(effective.value().clone());
        match contract.check_value(message, &value, &is_reference) {
            None => all.push(Fault {
                path: String::new(),
                why: format!(
                    "its manifest says `message = \"{message}\"`, and its contract declares no such message"
                ),
                hint: "declare the message, and build the plugin again",
            }),
            Some(faults) => all.extend(faults.into_iter().map(|it| Fault {
                path: it.path,
                why: it.why,
                hint: "`mortise config show` tells where each value comes from",
            })),
        }
    }
    match effective.references(plugin, allowed) {
        Ok(references) if all.is_empty() => Ok(references),
        Ok(_) => Err(all),
        Err(faults) => {
            all.extend(faults.into_iter().map(|it| Fault {
                path: it.path,
                why: it.why,
                hint: "a secret is where the reference says, and nowhere else",
            }));
            Err(all)
        }
    }
}

/// Which of the places where something is wrong to blot out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blot {
    /// Those of fields that must be references.
    Sensitive,
    /// All: what stands under a misspelt name may be a secret, too.
    Faulty,
}

/// Puts [`BLOT`] where something stands that must be neither kept nor shown. What was blotted is refused as what was there before.
pub(super) fn blot(object: &mut Map<String, Value>, message: &str, contract: &Contract, which: Blot) {
    let value = Value::Object(std::mem::take(object));
    let faults = contract
        .check_value(message, &value, &is_reference)
        .unwrap_or_default();
    let places: BTreeSet<String> = faults
        .into_iter()
        .filter(|it| it.sensitive || which == Blot::Faulty)
        .map(|it| it.path)
        .collect();
    if let Value::Object(members) = value {
        *object = members;
    }
    for (name, value) in object {
        blot_at(value, name, &places);
    }
}

fn blot_at(value: &mut Value, path: &str, places: &BTreeSet<String>) {
    if is_reference(value) {
        return;
    }
    if places.contains(path) {
        *value = Value::from(BLOT);
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                blot_at(value, &format!("{path}.{name}"), places);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter_mut().enumerate() {
                blot_at(value, &format!("{path}[{number}]"), places);
            }
        }
        _ => {}
    }
}

/// Reads secrets, in the order of their references.
///
/// # Errors
/// Every one that cannot be read, by the place where it is wanted.
pub(super) async fn resolve(references: References) -> Result<Vec<String>, Vec<Refusal>> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    let reading = tokio::task::spawn_blocking(move || {
        let (mut secrets, mut refusals) = (Vec::new(), Vec::new());
        for (path, reference) in references {
            match reference.read() {
                Ok(secret) => secrets.push(secret),
                Err(why) => refusals.push(refusal(
                    format!("the secret of `{path}` cannot be read from {why}"),
                    "put it there, readable for the host's user alone",
                )),
            }
        }
        if refusals.is_empty() {
            Ok(secrets)
        } else {
            Err(refusals)
        }
    });
    reading
        .await
        .unwrap_or_else(|_| Err(vec![refusal("its secrets were not read".to_owned(), "try again")]))
}

pub(super) fn refusal(why: String, hint: &str) -> Refusal {
    Refusal {
        what: WHAT.to_owned(),
        why,
        hint: hint.to_owned(),
    }
}
