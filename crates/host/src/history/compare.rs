//! What differs between two descriptions, in words that stand in `mortise.toml` and `plugin.toml`.

use std::collections::{BTreeMap, BTreeSet};

use mortise_contract::compat::Verdict;
use mortise_store::Package;
use serde_json::Value;

use super::{Described, Difference};

/// Everything that differs, by name.
pub(super) fn differences(before: Option<&Described>, after: Option<&Described>) -> Vec<Difference> {
    between(
        before.map(facts).unwrap_or_default(),
        after.map(facts).unwrap_or_default(),
    )
}

/// What differs between two JSON objects, under a name for the whole: configurations, or where a canary stood.
pub(super) fn values(name: &str, before: &str, after: &str) -> Vec<Difference> {
    let facts = |text: &str| {
        let mut facts = BTreeMap::new();
        let value = serde_json::from_str::<Value>(text).unwrap_or_default();
        flatten(name, &value, &mut facts);
        facts
    };
    between(facts(before), facts(after))
}

/// What two packages ask for, where it differs.
pub(super) fn packages(before: &Package, after: &Package) -> Vec<Difference> {
    let facts = |it: &Package| {
        let manifest = it.manifest();
        let mut facts = BTreeMap::new();
        let permissions = &manifest.permissions;
        for (name, all) in [
            ("declares.net.connect", &permissions.net_connect),
            ("declares.fs.read", &permissions.fs_read),
            ("declares.fs.write", &permissions.fs_write),
            ("declares.events.publish", &permissions.events_publish),
            ("declares.events.subscribe", &permissions.events_subscribe),
            ("provides", &manifest.provides),
        ] {
            if !all.is_empty() {
                facts.insert(name.to_owned(), all.join(", "));
            }
        }
        if permissions.kv {
            facts.insert("declares.kv".to_owned(), "true".to_owned());
        }
        let variants = manifest.variants.iter().map(|it| it.runtime.as_str());
        facts.insert("variants".to_owned(), variants.collect::<Vec<_>>().join(", "));
        for required in &manifest.requires {
            facts.insert(
                format!("requires.{}", required.service),
                required.version.to_string(),
            );
        }
        facts
    };
    between(facts(before), facts(after))
}

/// Routes as they stand in a change.
pub(super) fn routes_to_json(routes: &[(String, String)]) -> String {
    serde_json::to_string(routes).expect("strings serialize")
}

/// Which routes differ; their order counts, so it is said where nothing else does.
pub(super) fn routes(before: &str, after: &str) -> Vec<Difference> {
    let parse = |text: &str| -> Vec<(String, String)> { serde_json::from_str(text).unwrap_or_default() };
    let (before, after) = (parse(before), parse(after));
    let facts = |all: &[(String, String)]| {
        all.iter()
            .map(|(name, does)| (format!("route.{name}"), does.clone()))
            .collect()
    };
    let differences = between(facts(&before), facts(&after));
    if !differences.is_empty() || before == after {
        return differences;
    }
    let order =
        |all: &[(String, String)]| Some(all.iter().map(|it| it.0.as_str()).collect::<Vec<_>>().join(", "));
    vec![Difference {
        what: "order".to_owned(),
        before: order(&before),
        after: order(&after),
    }]
}

fn between(mut before: BTreeMap<String, String>, mut after: BTreeMap<String, String>) -> Vec<Difference> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    let difference = |what: String| {
        let (before, after) = (before.remove(&what), after.remove(&what));
        (before != after).then_some(Difference { what, before, after })
    };
    names.into_iter().filter_map(difference).collect()
}

/// A description as a flat list. What is not set is not there.
fn facts(described: &Described) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([
        ("version".to_owned(), described.version.clone()),
        ("package".to_owned(), described.package.clone()),
    ]);
    let request = serde_json::to_value(&described.request).unwrap_or_default();
    for (key, value) in request.as_object().into_iter().flatten() {
        let name = match key.as_str() {
            "format" | "name" => continue,
            "net_connect" => "grant.net.connect",
            "fs_read" => "grant.fs.read",
            "fs_write" => "grant.fs.write",
            "kv" => "grant.kv",
            "events_publish" => "grant.events.publish",
            "events_subscribe" => "grant.events.subscribe",
            "config_json" => "config",
            other => other,
        };
        match (name, value) {
            ("config", Value::String(text)) => {
                flatten(name, &serde_json::from_str(text).unwrap_or_default(), &mut facts)
            }
            _ => flatten(name, value, &mut facts),
        }
    }
    facts
}

fn flatten(name: &str, value: &Value, facts: &mut BTreeMap<String, String>) {
    match value {
        // Nothing was said, or what is said anyway.
        Value::Null | Value::Bool(false) => {}
        Value::Array(all) if all.is_empty() => {}
        Value::Object(members) => {
            for (key, value) in members {
                flatten(&format!("{name}.{key}"), value, facts);
            }
        }
        Value::Array(all) if all.iter().all(Value::is_string) => {
            let all: Vec<_> = all.iter().filter_map(Value::as_str).collect();
            facts.insert(name.to_owned(), all.join(", "));
        }
        Value::String(text) => {
            facts.insert(name.to_owned(), text.clone());
        }
        other => {
            facts.insert(name.to_owned(), other.to_string());
        }
    }
}

/// A verdict in a word.
pub(super) fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Exact => "exact",
        Verdict::WireCompatible => "wire-compatible",
        Verdict::Adaptable(_) => "adaptable",
        Verdict::Incompatible(_) => "incompatible",
    }
}

/// One line per broken rule.
pub(super) fn violations(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Incompatible(all) => all.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}
