//! `[[route]]`: which calls go to which plugin, by their headers and by weight.
//!
//! ```toml
//! [[route]]
//! name = "testers"                       # how `mortise route` and its explanations call it; default: `route-1`, `route-2`, ..
//! service = "acme.image.v1.Thumbnailer"  # or `plugin = "thumbnailer"`, or neither: all calls
//! method = "Resize"                      # of that service; default: all of them
//! headers = { x-canary = "yes", x-user = { prefix = "t-" }, x-app = { regex = "2\\.\\d+" }, x-bot = { present = true, not = true } }
//! to = "thumbnailer@1.3.0"               # or `to = "thumbnailer"`: whatever has the plain name
//! [[route]]
//! plugin = "thumbnailer"
//! split = { "1.2.0" = 90, "1.3.0" = 10 }
//! sticky = "x-user-id"                   # users stay where they are; without it, calls spread
//! ```
//!
//! The same shape is what the control socket takes and what a host keeps, so it is checked here for all three ([`RouteEntry::faults`]).

use std::{collections::BTreeMap, ops::Range};

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    name::{check_plugin_name, check_service_name, clip},
    reader::{Faults, Fields, Text},
};

/// Most conditions of one route.
const HEADERS_MAX: usize = 16;
/// Most parts of one split.
const SHARES_MAX: usize = 16;
/// Largest weight.
const WEIGHT_MAX: u32 = 1_000_000;
/// Longest name of a route, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// `[[route]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// How explanations call it; no two routes of a host have the same.
    pub name: String,
    /// Only calls of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only calls of this method of `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only calls that this plugin answers; the route chooses among its versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// All of these must hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderWanted>,
    /// Where they go: `name` or `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Where they go, by weight: a version of `plugin`, `name` or `name@version`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub split: BTreeMap<String, u32>,
    /// The header whose value keeps calls of a split together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderWanted {
    /// Its whole value.
    Exact(String),
    /// Something else.
    Test(HeaderTest),
}

/// What a header must be, or must not be: one of `exact`, `prefix`, `regex` and `present`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderTest {
    /// Its whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The beginning of its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// A regular expression over its whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// It is there, or is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Turns the test round; a call without the header passes then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
}

/// One part of where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteShare {
    /// The plugin.
    pub plugin: String,
    /// Its version; `None` is whatever has the plain name.
    pub version: Option<Version>,
    /// Its part.
    pub weight: u32,
}

/// What is wrong with a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFault {
    /// The key it is about, such as `to` or `headers.x-user`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

// === impl RouteEntry ===

impl RouteEntry {
    /// Everything that is wrong with it by itself. Whether a plugin or a version is there is nobody's fault: it may come later.
    #[must_use]
    pub fn faults(&self) -> Vec<RouteFault> {
        let mut faults = Vec::new();
        self.check_name(&mut faults);
        self.check_scope(&mut faults);
        if self.headers.len() > HEADERS_MAX {
            let message = format!("{} headers, and the most are {HEADERS_MAX}", self.headers.len());
            faults.push(RouteFault::new("headers", message, ""));
        }
        for (name, wanted) in &self.headers {
            check_header(name, wanted, &mut faults);
        }
        self.check_target(&mut faults);
        faults
    }

    /// Where it leads; empty if that is at fault.
    #[must_use]
    pub fn shares(&self) -> Vec<RouteShare> {
        let read = |text: &str, weight| share(text, self.plugin.as_deref(), weight).ok();
        match &self.to {
            Some(to) => read(to, 1).into_iter().collect(),
            None => self
                .split
                .iter()
                .filter_map(|(text, weight)| read(text, *weight))
                .collect(),
        }
    }

    fn check_name(&self, faults: &mut Vec<RouteFault>) {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name = &self.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(good) {
            faults.push(RouteFault::new(
                "name",
                format!("`{}` is not a route's name", clip(name)),
                "write at most 64 letters, digits, `.`, `_` and `-`",
            ));
        }
    }

    fn check_scope(&self, faults: &mut Vec<RouteFault>) {
        if let Some(service) = &self.service
            && let Err(error) = check_service_name(service)
        {
            faults.push(RouteFault::new(
                "service",
                error.to_string(),
                error.hint().unwrap_or_default(),
            ));
        }
        if let Some(plugin) = &self.plugin {
            if let Err(error) = check_plugin_name(plugin) {
                faults.push(RouteFault::new(
                    "plugin",
                    error.to_string(),
                    error.hint().unwrap_or_default(),
                ));
            }
            if self.service.is_some() {
                faults.push(RouteFault::new(
                    "plugin",
                    "a route is about a service or about a plugin, not both".to_owned(),
                    "leave one of them out",
                ));
            }
        }
        if let Some(method) = &self.method {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if method.is_empty() || !method.chars().all(word) {
                let message = format!("`{}` is not a method's name", clip(method));
                faults.push(RouteFault::new("method", message, "write it without its service"));
            }
            if self.service.is_none() {
                faults.push(RouteFault::new(
                    "method",
                    "a method of which service?".to_owned(),
                    "add `service = \"package.Service\"`",
                ));
            }
        }
    }

    fn check_target(&self, faults: &mut Vec<RouteFault>) {
        match (&self.to, self.split.is_empty()) {
            (None, true) => {
                let hint = "add `to = \"name@1.3.0\"` or `split = { \"1.2.0\" = 90, \"1.3.0\" = 10 }`";
                faults.push(RouteFault::new("", "the route leads nowhere".to_owned(), hint));
            }
            (Some(_), false) => faults.push(RouteFault::new(
                "split",
                "a route has `to` or `split`, not both".to_owned(),
                "leave one of them out",
            )),
            (Some(to), true) => {
                if let Err(why) = share(to, self.plugin.as_deref(), 1) {
                    faults.push(RouteFault::new("to", why, "write `name` or `name@1.3.0`"));
                }
            }
            (None, false) => self.check_split(faults),
        }
        if let Some(sticky) = &self.sticky {
            if !is_header_name(sticky) {
                let message = format!("`{}` is not a header's name", clip(sticky));
                faults.push(RouteFault::new("sticky", message, ""));
            }
            if self.split.is_empty() {
                faults.push(RouteFault::new(
                    "sticky",
                    "there is no split whose calls could stay together".to_owned(),
                    "leave `sticky` out, or write `split` instead of `to`",
                ));
            }
        }
    }

    fn check_split(&self, faults: &mut Vec<RouteFault>) {
        if self.split.len() > SHARES_MAX {
            let message = format!("{} parts, and the most are {SHARES_MAX}", self.split.len());
            faults.push(RouteFault::new("split", message, ""));
        }
        for (text, weight) in &self.split {
            let key = format!("split.{text}");
            if let Err(why) = share(text, self.plugin.as_deref(), *weight) {
                let hint = "write a version of `plugin`, `name` or `name@1.3.0`";
                faults.push(RouteFault::new(&key, why, hint));
            }
            if *weight > WEIGHT_MAX {
                let message = format!("the weight is {weight}, and the most is {WEIGHT_MAX}");
                faults.push(RouteFault::new(&key, message, ""));
            }
        }
        if self.split.values().all(|it| *it == 0) {
            faults.push(RouteFault::new(
                "split",
                "all weights are 0".to_owned(),
                "give at least one part a weight",
            ));
        }
    }
}

impl RouteFault {
    fn new(key: &str, message: String, hint: &str) -> Self {
        Self {
            key: key.to_owned(),
            message,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        }
    }
}

impl std::fmt::Display for RouteFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "`{}`: {}", self.key, self.message)
        }
    }
}

// === impl HeaderWanted ===

impl HeaderWanted {
    /// The long form.
    #[must_use]
    pub fn test(&self) -> HeaderTest {
        match self {
            Self::Test(test) => test.clone(),
            Self::Exact(value) => HeaderTest {
                exact: Some(value.clone()),
                ..HeaderTest::default()
            },
        }
    }
}

// === checks ===

fn check_header(name: &str, wanted: &HeaderWanted, faults: &mut Vec<RouteFault>) {
    let key = format!("headers.{name}");
    if !is_header_name(name) {
        let message = format!("`{}` is not a header's name", clip(name));
        faults.push(RouteFault::new(&key, message, ""));
    }
    let HeaderTest {
        exact,
        prefix,
        regex,
        present,
        ..
    } = wanted.test();
    let tests = [
        exact.is_some(),
        prefix.is_some(),
        regex.is_some(),
        present.is_some(),
    ];
    if tests.iter().filter(|it| **it).count() != 1 {
        faults.push(RouteFault::new(
            &key,
            format!("`{}` is tested in no way, or in several", clip(name)),
            "write a string, or one of `exact`, `prefix`, `regex` and `present`",
        ));
    }
    if let Some(regex) = &regex
        && let Err(why) = check_pattern(regex)
    {
        let hint = "write a regular expression over the whole value, such as `2\\.\\d+`";
        faults.push(RouteFault::new(&key, why, hint));
    }
}

#[cfg(feature = "patterns")]
fn check_pattern(text: &str) -> Result<(), String> {
    mortise_routing::Pattern::new(text)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Without the feature nobody routes by what was read; a host has it.
#[cfg(not(feature = "patterns"))]
fn check_pattern(_: &str) -> Result<(), String> {
    Ok(())
}

/// A header's name as HTTP has it: the token of RFC 9110.
pub(crate) fn is_header_name(text: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(token)
}

/// A version of `plugin`, `name` or `name@version`.
fn share(text: &str, plugin: Option<&str>, weight: u32) -> Result<RouteShare, String> {
    let made = |plugin: &str, version| RouteShare {
        plugin: plugin.to_owned(),
        version,
        weight,
    };
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let Some(plugin) = plugin else {
            return Err(format!("`{}` is a version of no plugin", clip(text)));
        };
        return match Version::parse(text) {
            Ok(version) => Ok(made(plugin, Some(version))),
            Err(error) => Err(format!("`{}` is not a version: {error}", clip(text))),
        };
    }
    let (name, version) = match text.split_once('@') {
        None => (text, None),
        Some((name, version)) => match Version::parse(version) {
            Ok(version) => (name, Some(version)),
            Err(error) => return Err(format!("`{}` is not a version: {error}", clip(version))),
        },
    };
    check_plugin_name(name).map_err(|error| error.to_string())?;
    match plugin {
        Some(plugin) if plugin != name => Err(format!(
            "the route is about plugin `{plugin}` and leads to `{name}`"
        )),
        _ => Ok(made(name, version)),
    }
}

// === reading ===

/// Reads all `[[route]]`s.
pub(crate) fn read_routes(tables: Vec<Fields<'_>>, faults: &mut Faults) -> Vec<RouteEntry> {
    let mut routes: Vec<RouteEntry> = Vec::new();
    for (index, fields) in tables.into_iter().enumerate() {
        let place = fields.span.clone();
        let (route, places) = read_route(fields, index, faults);
        for fault in route.faults() {
            // A pair that could not be read is told already, and is not there.
            let at = places.get(&fault.key).unwrap_or(&place);
            faults.add(at.clone(), fault.message, fault.hint);
        }
        if routes.iter().any(|it| it.name == route.name) {
            let at = places.get("name").unwrap_or(&place);
            let message = format!("there is already a route named `{}`", clip(&route.name));
            faults.add(at.clone(), message, Some("give each its own `name`".to_owned()));
        }
        routes.push(route);
    }
    routes
}

/// One route, and where its keys stand.
fn read_route(
    mut fields: Fields<'_>,
    index: usize,
    faults: &mut Faults,
) -> (RouteEntry, BTreeMap<String, Range<usize>>) {
    let mut places = BTreeMap::new();
    let mut string = |key: &'static str, fields: &mut Fields<'_>, faults: &mut Faults| {
        let Text { value, span } = fields.string(key, faults)?;
        places.insert(key.to_owned(), span);
        Some(value.to_owned())
    };
    let mut route = RouteEntry {
        name: string("name", &mut fields, faults).unwrap_or_else(|| format!("route-{}", index + 1)),
        service: string("service", &mut fields, faults),
        method: string("method", &mut fields, faults),
        plugin: string("plugin", &mut fields, faults),
        to: string("to", &mut fields, faults),
        sticky: string("sticky", &mut fields, faults).map(|it| it.to_ascii_lowercase()),
        ..RouteEntry::default()
    };
    for key in ["headers", "split"] {
        places.insert(key.to_owned(), fields.span_of(key));
    }
    if let Some(headers) = fields.table("headers", faults) {
        for entry in headers.into_entries() {
            places.insert(
                format!("headers.{}", entry.key.value.to_ascii_lowercase()),
                entry.span(),
            );
            let wanted = match entry.table(faults) {
                Some(test) => read_test(test, faults).map(HeaderWanted::Test),
                None => entry
                    .string(
                        "a string, or a table with one of `exact`, `prefix`, `regex` and `present`",
                        faults,
                    )
                    .map(|it| HeaderWanted::Exact(it.to_owned())),
            };
            if let Some(wanted) = wanted {
                route.headers.insert(entry.key.value.to_ascii_lowercase(), wanted);
            }
        }
    }
    let mut unread = false;
    if let Some(split) = fields.table("split", faults) {
        for entry in split.into_entries() {
            places.insert(format!("split.{}", entry.key.value), entry.span());
            match entry.integer(0..=WEIGHT_MAX, faults) {
                Some(weight) => drop(route.split.insert(entry.key.value.to_owned(), weight)),
                None => unread = true,
            }
        }
    }
    if unread && route.split.values().all(|it| *it == 0) {
        // What is wrong was told; that nothing is left of it is no second fault.
        route
            .split
            .insert(route.plugin.clone().unwrap_or_else(|| "unread".to_owned()), 1);
    }
    fields.finish(faults);
    (route, places)
}

fn read_test(mut fields: Fields<'_>, faults: &mut Faults) -> Option<HeaderTest> {
    let mut string = |key: &'static str| {
        let text = fields.string(key, faults);
        text.map(|it| it.value.to_owned())
    };
    let test = HeaderTest {
        exact: string("exact"),
        prefix: string("prefix"),
        regex: string("regex"),
        present: fields.boolean("present", faults),
        not: fields.boolean("not", faults).unwrap_or_default(),
    };
    let typed = ["exact", "prefix", "regex", "present"]
        .iter()
        .filter(|it| fields.contains(it))
        .count();
    let read = [
        test.exact.is_some(),
        test.prefix.is_some(),
        test.regex.is_some(),
        test.present.is_some(),
    ];
    // One of a wrong type was told already.
    let told = typed != read.iter().filter(|it| **it).count();
    fields.finish(faults);
    (!told).then_some(test)
}
