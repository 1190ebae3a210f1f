//! What a plugin asks for and what the operator gives.
//!
//! The same keys stand in both files: `[permissions]` of `plugin.toml` declares, `grant` of `mortise.toml` gives. A plugin
//! runs only if everything it declares is granted ([`Permissions::missing_from`]), and then with exactly what it declared,
//! narrowed by the grant ([`Permissions::intersection`]): a wide grant gives nothing that was not asked for.

use std::fmt;

use serde::Serialize;

use crate::{
    endpoint::Endpoint,
    name::clip,
    reader::{Faults, Fields, Text},
    topic::{check_pattern, covered},
};

/// Permissions as a plugin declares them. Declaring grants nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// `host:port` pairs it wants to reach over HTTP; `*.example.com:443` allowed.
    pub net_connect: Vec<String>,
    /// Paths it wants to read.
    pub fs_read: Vec<String>,
    /// Paths it wants to write.
    pub fs_write: Vec<String>,
    /// Private key-value data.
    pub kv: bool,
    /// Patterns of the topics that it wants to publish to.
    pub events_publish: Vec<String>,
    /// Patterns of the topics that it wants to subscribe to.
    pub events_subscribe: Vec<String>,
}

/// What the operator grants; always a subset of what the plugin declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// The granted permissions.
    pub permissions: Permissions,
    /// Whether a runtime that jails its plugins jails this one.
    pub jail: Jail,
    /// Its word that it is pure is taken for it, where its runtime cannot keep it to that.
    pub trust_adapter: bool,
}

/// Whether a plugin is jailed. Only the operator's explicit word turns it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Jail {
    /// It sees and may do what it was granted, and nothing else.
    #[default]
    On,
    /// It is trusted like the host: it may do whatever the host's user may.
    Off,
}

/// One permission, printed as operators write it: `net.connect=api.example.com:443`, `kv`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub enum Permission {
    /// One `host:port` of `net.connect`.
    NetConnect(String),
    /// One path of `fs.read`.
    FsRead(String),
    /// One path of `fs.write`.
    FsWrite(String),
    /// `kv`.
    Kv,
    /// One pattern of `events.publish`.
    EventsPublish(String),
    /// One pattern of `events.subscribe`.
    EventsSubscribe(String),
}

// === impl Jail ===

impl Jail {
    /// Both.
    pub const ALL: [Self; 2] = [Self::On, Self::Off];

    /// The word used in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

// === impl Permissions ===

impl Permissions {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every single permission in here.
    pub fn iter(&self) -> impl Iterator<Item = Permission> + '_ {
        let net = self.net_connect.iter().cloned().map(Permission::NetConnect);
        let read = self.fs_read.iter().cloned().map(Permission::FsRead);
        let write = self.fs_write.iter().cloned().map(Permission::FsWrite);
        let publish = self.events_publish.iter().cloned();
        let subscribe = self.events_subscribe.iter().cloned();
        net.chain(read)
            .chain(write)
            .chain(self.kv.then_some(Permission::Kv))
            .chain(publish.map(Permission::EventsPublish))
            .chain(subscribe.map(Permission::EventsSubscribe))
    }

    /// Whether everything in here is also allowed by `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|permission| other.covers(&permission))
    }

    /// What is in here and not allowed by `grant`: the reasons to refuse a plugin, one by one.
    #[must_use]
    pub fn missing_from(&self, grant: &Grant) -> Vec<Permission> {
        self.iter()
            .filter(|permission| !grant.permissions.covers(permission))
            .collect()
    }

    /// What both allow. Of two patterns that overlap, the narrower one; each list is sorted.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self {
            kv: self.kv && other.kv,
            ..Self::default()
        };
        let mine = self.iter().filter(|permission| other.covers(permission));
        let theirs = other.iter().filter(|permission| self.covers(permission));
        for permission in mine.chain(theirs) {
            let (list, value) = match permission {
                Permission::NetConnect(value) => (&mut both.net_connect, value),
                Permission::FsRead(value) => (&mut both.fs_read, value),
                Permission::FsWrite(value) => (&mut both.fs_write, value),
                Permission::EventsPublish(value) => (&mut both.events_publish, value),
                Permission::EventsSubscribe(value) => (&mut both.events_subscribe, value),
                Permission::Kv => continue,
            };
            if !list.contains(&value) {
                list.push(value);
            }
        }
        for list in [
            &mut both.net_connect,
            &mut both.fs_read,
            &mut both.fs_write,
            &mut both.events_publish,
            &mut both.events_subscribe,
        ] {
            list.sort();
        }
        both
    }

    /// Whether `permission` is allowed by these. Text that does not parse allows nothing.
    #[must_use]
    pub fn covers(&self, permission: &Permission) -> bool {
        match permission {
            Permission::NetConnect(asked) => asked.parse::<Endpoint>().is_ok_and(|asked| {
                self.net_connect
                    .iter()
                    .filter_map(|own| own.parse::<Endpoint>().ok())
                    .any(|own| own.covers(&asked))
            }),
            Permission::FsRead(path) => allows_path(&self.fs_read, path),
            Permission::FsWrite(path) => allows_path(&self.fs_write, path),
            Permission::Kv => self.kv,
            Permission::EventsPublish(pattern) => covered(&self.events_publish, pattern),
            Permission::EventsSubscribe(pattern) => covered(&self.events_subscribe, pattern),
        }
    }

    pub(crate) fn read(mut fields: Fields<'_>, faults: &mut Faults) -> Self {
        let mut permissions = Self::default();
        if let Some(mut net) = fields.table("net", faults) {
            permissions.net_connect = net.strings("connect", faults, check_endpoint);
            net.finish(faults);
        }
        if let Some(mut fs) = fields.table("fs", faults) {
            permissions.fs_read = fs.strings("read", faults, check_path);
            permissions.fs_write = fs.strings("write", faults, check_path);
            fs.finish(faults);
        }
        if let Some(mut events) = fields.table("events", faults) {
            permissions.events_publish = events.strings("publish", faults, check_pattern);
            permissions.events_subscribe = events.strings("subscribe", faults, check_pattern);
            events.finish(faults);
        }
        permissions.kv = fields.boolean("kv", faults).unwrap_or(false);
        fields.finish(faults);
        permissions
    }
}

// === impl Grant ===

impl Grant {
    /// Whether a guest may open a connection to `host` (a name, or an address with or without brackets) on `port`.
    /// Where the name resolves to is for whoever connects to check; see [`Endpoint`].
    #[must_use]
    pub fn allows_connect(&self, host: &str, port: u16) -> bool {
        let endpoints = self
            .permissions
            .net_connect
            .iter()
            .filter_map(|own| own.parse::<Endpoint>().ok());
        endpoints.into_iter().any(|own| own.matches(host, port))
    }

    /// Whether a guest may publish to `topic`.
    #[must_use]
    pub fn allows_publish(&self, topic: &str) -> bool {
        covered(&self.permissions.events_publish, topic)
    }

    /// Whether a guest may read `path`, by its text alone. It does not follow symbolic links: whoever opens it does.
    #[must_use]
    pub fn allows_read(&self, path: &str) -> bool {
        allows_path(&self.permissions.fs_read, path)
    }

    /// Whether a guest may write `path`, by its text alone. It does not follow symbolic links: whoever opens it does.
    #[must_use]
    pub fn allows_write(&self, path: &str) -> bool {
        allows_path(&self.permissions.fs_write, path)
    }
}

// === impl Permission ===

impl Permission {
    /// Its key in a file, such as `net.connect`.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::NetConnect(_) => "net.connect",
            Self::FsRead(_) => "fs.read",
            Self::FsWrite(_) => "fs.write",
            Self::Kv => "kv",
            Self::EventsPublish(_) => "events.publish",
            Self::EventsSubscribe(_) => "events.subscribe",
        }
    }

    /// Its value: an endpoint, a path or a pattern of topics.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::NetConnect(value)
            | Self::FsRead(value)
            | Self::FsWrite(value)
            | Self::EventsPublish(value)
            | Self::EventsSubscribe(value) => Some(value),
            Self::Kv => None,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value() {
            Some(value) => write!(f, "{}={value}", self.key()),
            None => f.write_str(self.key()),
        }
    }
}

// === paths ===

/// A path as its parts, if it is absolute and has no `.` or `..` in it.
fn path_parts(path: &str) -> Option<Vec<&str>> {
    let bytes = path.as_bytes();
    let drive = bytes.len() >= 3
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'/' | b'\\');
    if !(drive || path.starts_with('/')) || path.contains('\0') {
        return None;
    }
    // A backslash is a separator on Windows and a letter elsewhere; only a path with a drive is a Windows path.
    let parts: Vec<&str> = path
        .split(|c: char| c == '/' || (drive && c == '\\'))
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.iter().any(|part| matches!(*part, "." | ".."))).then_some(parts)
}

fn allows_path(allowed: &[String], path: &str) -> bool {
    let Some(path) = path_parts(path) else {
        return false;
    };
    allowed
        .iter()
        .filter_map(|own| path_parts(own))
        .any(|own| path.starts_with(&own))
}

// === checks of single values ===

fn check_endpoint(text: &Text<'_>, faults: &mut Faults) {
    if let Err(error) = text.value.parse::<Endpoint>() {
        faults.add(
            text.span.clone(),
            error.to_string(),
            Some(error.hint().to_owned()),
        );
    }
}

fn check_path(text: &Text<'_>, faults: &mut Faults) {
    if path_parts(text.value).is_none() {
        let why = if text.value.contains("..") {
            "it climbs with `..`"
        } else {
            "it is not absolute"
        };
        let message = format!("`{}` cannot be a permission: {why}", clip(text.value));
        let hint = "write a whole path, such as `/var/lib/fonts`; a folder stands for everything below it";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(net: &[&str], read: &[&str], kv: bool) -> Permissions {
        let own = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Permissions {
            net_connect: own(net),
            fs_read: own(read),
            fs_write: Vec::new(),
            kv,
            ..Permissions::default()
        }
    }

    #[test]
    fn names_what_is_missing() {
        let declared = permissions(
            &["api.example.com:443", "a.org:80"],
            &["/var/lib/fonts", "/etc"],
            true,
        );
        let grant = Grant {
            permissions: permissions(&["*.example.com:443"], &["/var/lib"], false),
            ..Grant::default()
        };
        let missing: Vec<String> = declared
            .missing_from(&grant)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(missing, ["net.connect=a.org:80", "fs.read=/etc", "kv"]);
        assert!(!declared.is_subset(&grant.permissions));
        assert!(permissions(&[], &["/var/lib/fonts"], false).is_subset(&grant.permissions));
    }

    #[test]
    fn a_wide_grant_gives_only_what_was_declared() {
        let declared = permissions(&["api.example.com:443", "*.b.org:1"], &["/var/lib/fonts"], false);
        let granted = permissions(&["*.example.com:443", "x.b.org:1"], &["/"], true);
        let both = declared.intersection(&granted);
        assert_eq!(
            both,
            permissions(&["api.example.com:443", "x.b.org:1"], &["/var/lib/fonts"], false)
        );
        assert_eq!(
            both,
            granted.intersection(&declared),
            "the order of the two does not matter here"
        );
    }

    #[test]
    fn paths_match_by_whole_parts() {
        let grant = Grant {
            permissions: permissions(&[], &["/var/lib/fonts/", "C:\\fonts"], false),
            ..Grant::default()
        };
        for (path, expected) in [
            ("/var/lib/fonts", true),
            ("/var/lib/fonts/a/b.ttf", true),
            ("//var//lib/fonts/a", true),
            ("/var/lib/fonts2", false),
            ("/var/lib/fonts/../shadow", false),
            ("var/lib/fonts/a", false),
            ("/var/lib", false),
            ("C:\\fonts\\a", true),
            ("C:/fonts/a", true),
            ("", false),
        ] {
            assert_eq!(grant.allows_read(path), expected, "{path}");
            assert!(!grant.allows_write(path), "{path}");
        }
    }

    #[test]
    fn an_empty_grant_allows_nothing() {
        assert!(!Grant::default().allows_connect("localhost", 80));
        assert!(Permissions::default().is_subset(&Permissions::default()));
    }
}
