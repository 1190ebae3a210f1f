//! From keys to plugins' settings.

use std::collections::{BTreeMap, BTreeSet};

use mortise_config::{Setting, Settings, Update};
use mortise_manifest::check_plugin_name;

use crate::{api, client::Listing};

/// All that is below a prefix, by plugin.
pub(crate) struct Keys {
    /// With its `/`.
    prefix: String,
    plugins: BTreeMap<String, Settings>,
}

impl Keys {
    /// `prefix` without a `/` at its end.
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}/"),
            plugins: BTreeMap::new(),
        }
    }

    /// What every key begins with.
    pub(crate) fn prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    /// Takes over a listing in place of all that was.
    pub(crate) fn replace(&mut self, listing: Listing) -> Update {
        self.plugins.clear();
        let mut strangers = 0;
        for kv in listing.kvs {
            match self.place(&kv.key) {
                Some((plugin, place)) => {
                    let setting = self.setting(&kv);
                    self.plugins.entry(plugin).or_default().insert(place, setting);
                }
                None => strangers += 1,
            }
        }
        if strangers > 0 {
            tracing::warn!(target: "mortise::config", prefix = self.prefix, keys = strangers, "keys in etcd begin with no plugin's name; they are left alone");
        }
        Update {
            revision: listing.revision.unsigned_abs(),
            complete: true,
            plugins: self.plugins.clone(),
        }
    }

    /// Takes over changes.
    pub(crate) fn change(&mut self, revision: i64, events: Vec<api::Event>) -> Update {
        let mut touched = BTreeSet::new();
        for event in events {
            let deleted = event.kind() == api::EventType::Delete;
            let Some(kv) = event.kv else { continue };
            let Some((plugin, place)) = self.place(&kv.key) else {
                tracing::debug!(target: "mortise::config", prefix = self.prefix, "a key in etcd begins with no plugin's name; it is left alone");
                continue;
            };
            let setting = self.setting(&kv);
            let settings = self.plugins.entry(plugin.clone()).or_default();
            if deleted {
                settings.remove(&place);
            } else {
                settings.insert(place, setting);
            }
            touched.insert(plugin);
        }
        let plugins = touched
            .into_iter()
            .map(|plugin| {
                let settings = self.plugins.get(&plugin).cloned().unwrap_or_default();
                if settings.is_empty() {
                    self.plugins.remove(&plugin);
                }
                (plugin, settings)
            })
            .collect();
        Update {
            revision: revision.unsigned_abs(),
            complete: false,
            plugins,
        }
    }

    /// Whose key it is, and which of its settings.
    fn place(&self, key: &[u8]) -> Option<(String, String)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (plugin, place) = match rest.split_once('/') {
            // `PREFIX/NAME/` is no place.
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (rest, ""),
        };
        check_plugin_name(plugin).ok()?;
        Some((plugin.to_owned(), place.to_owned()))
    }

    fn setting(&self, kv: &api::KeyValue) -> Setting {
        Setting {
            // The parser says where it stumbled, and not over what.
            value: serde_json::from_slice(&kv.value)
                .map_err(|error| format!("its value is no JSON ({error}); text is written in quotes")),
            origin: format!("etcd {}", String::from_utf8_lossy(&kv.key)),
            revision: kv.mod_revision.unsigned_abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str) -> api::KeyValue {
        api::KeyValue {
            key: key.as_bytes().to_vec(),
            mod_revision: 3,
            value: value.as_bytes().to_vec(),
        }
    }

    fn keys(all: &[(&str, &str)]) -> (Keys, Update) {
        let mut keys = Keys::new("/mortise");
        let update = keys.replace(Listing {
            revision: 3,
            cluster: 1,
            kvs: all.iter().map(|(key, value)| kv(key, value)).collect(),
        });
        (keys, update)
    }

    #[test]
    fn each_key_is_one_plugins_or_nobodys() {
        let (_, update) = keys(&[
            ("/mortise/echo", "{}"),
            ("/mortise/echo/a", "1"),
            ("/mortise/echo-2/a", "2"),
            ("/mortise/echo/b/c", "3"),
            ("/mortise/echo/../echo-2/a", "4"),
            ("/mortise/../etc", "5"),
            ("/mortise//a", "6"),
            ("/mortise/Echo/a", "7"),
            ("/mortise/echo/", "8"),
            ("/mortise-other/echo/a", "9"),
            ("/mortise", "10"),
        ]);
        let names: Vec<_> = update.plugins.keys().map(String::as_str).collect();
        assert_eq!(names, ["echo", "echo-2"]);
        let of = |name: &str| {
            update.plugins[name]
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("echo"),
            ["", "../echo-2/a", "a", "b/c"],
            "a strange setting of its own"
        );
        assert_eq!(of("echo-2"), ["a"]);
        assert_eq!(update.plugins["echo-2"]["a"].value, Ok(2.into()));
        assert_eq!(update.plugins["echo-2"]["a"].origin, "etcd /mortise/echo-2/a");
    }

    #[test]
    fn a_value_that_is_no_json_is_told_without_it() {
        let (_, update) = keys(&[("/mortise/echo/a", "hunter2")]);
        let why = update.plugins["echo"]["a"].value.clone().expect_err("no JSON");
        assert!(why.contains("no JSON") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn the_last_key_that_goes_takes_the_settings_along() {
        let (mut keys, _) = keys(&[("/mortise/echo/a", "1"), ("/mortise/echo/b", "2")]);
        let gone = |key: &str| api::Event {
            kind: api::EventType::Delete.into(),
            kv: Some(kv(key, "")),
        };
        let update = keys.change(4, vec![gone("/mortise/echo/a")]);
        assert_eq!((update.revision, update.complete), (4, false));
        assert_eq!(update.plugins["echo"].len(), 1);
        let update = keys.change(5, vec![gone("/mortise/echo/b"), gone("/mortise/x/y")]);
        assert!(update.plugins["echo"].is_empty());
        assert!(
            !update.plugins.contains_key("x"),
            "a name of one character is none"
        );
    }
}
