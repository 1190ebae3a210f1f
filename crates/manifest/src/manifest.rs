//! `plugin.toml`: what a plugin says about itself.
//!
//! ```toml
//! [plugin]
//! name = "thumbnailer"            # ^[a-z][a-z0-9-]{1,62}$
//! version = "1.2.0"               # semver
//! api = 1                         # platform API level
//! description = "Small pictures"  # optional, one line
//! pure = false                    # its replies depend on nothing but the requests, see `Manifest::pure`
//! [contract]
//! provides = ["acme.image.v1.Thumbnailer"]
//! [[requires]]
//! service = "acme.kv.v1.Store"
//! method = "Get"                  # optional, any method of the service if left out
//! from = "acme.image.v1.Thumbnailer/Resize"  # optional, which of its own methods makes the call
//! version = "^1.1"                # optional, any version if left out
//! optional = false                # start without it
//! lazy = false                    # start before it
//! [[variant]]                     # written by `mortise build`
//! runtime = "wasm"
//! file = "thumbnailer.wasm"
//! [variant.go_plugin]             # only for a plugin that was made for go-plugin; see `Dialect`
//! [[adapt]]                       # callers of an older contract; see `Adapt`
//! [permissions]
//! kv = true
//! net.connect = ["api.example.com:443"]
//! fs.read = ["/var/lib/fonts"]
//! fs.write = []
//! [limits]
//! memory_mib = 64
//! events.publish = ["orders.>"]
//! [[subscribe]]                   # see `SubscribeEntry`
//! topic = "stock.*.low"
//! method = "acme.image.v1.Thumbnailer/Restock"
//! [state]                         # it saves and loads, and its hooks are called
//! schema = "acme.image.v1.State"  # a message of its contract; left out by a plugin that has hooks only
//! hooks = true                    # only without a schema
//! migrates = false                # it takes state of other schemas, and says itself whether it can
//! [config]                        # what the operator's configuration of it has to look like
//! message = "acme.image.v1.Config"  # a message of its contract; any object if left out
//! hot = false                     # it takes a new configuration while it runs
//! ```

use std::{collections::BTreeSet, fmt::Write as _, ops::Range};

use semver::{Version, VersionReq};
use serde::Serialize;

use crate::{
    adapt::{self, Adapt},
    diagnostic::Diagnostics,
    dialect::{Dialect, GoPlugin},
    events::{SubscribeEntry, read_subscriptions},
    limits::LimitsOverride,
    name::{NameError, check_plugin_name, check_service_name, clip},
    permissions::Permissions,
    reader::{Faults, Fields, Text, read_document},
    runtime_name::RuntimeName,
    suggest::{nearest, one_of},
};

/// Longest name of a method.
const METHOD_CHARS_MAX: usize = 128;

/// A checked `plugin.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: Version,
    /// Platform API level it was written for.
    pub api: u32,
    /// One line for people.
    pub description: Option<String>,
    /// Its replies depend on nothing but the requests, so that its methods may adapt messages of others. The host closes its services to it, configures it
    /// with nothing and tells it nothing of its calls. Excludes everything else that a plugin may ask for.
    pub pure: bool,
    /// Full names of the services it provides; at least one.
    pub provides: Vec<String>,
    /// Services it calls.
    pub requires: Vec<Requirement>,
    /// Events that it wants to be called with.
    pub subscribes: Vec<SubscribeEntry>,
    /// Its builds, at most one per runtime. Empty in a source folder.
    pub variants: Vec<Variant>,
    /// What became of older versions of its contract.
    pub adapt: Vec<Adapt>,
    /// What it asks for.
    pub permissions: Permissions,
    /// The limits it was made for; the operator's override them.
    pub limits: LimitsOverride,
    /// Full name of the message that survives a swap.
    pub state_schema: Option<String>,
    /// It wants to be asked before it is replaced, and told when it comes and goes. So does everything that has state.
    pub hooks: bool,
    /// It takes state whose schema is not its own.
    pub migrates: bool,
    /// What it says about its configuration.
    pub config: ConfigTerms,
}

/// `[config]`: what a plugin says about its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigTerms {
    /// Full name of the message that its configuration has to look like; `None`: any object will do.
    pub message: Option<String>,
    /// It takes a new configuration while it runs.
    pub hot: bool,
}

/// A service that a plugin calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// Full name of the service.
    pub service: String,
    /// The one method of it; `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Which of its own methods makes the call, as `package.Service/Method`; `None`: any. Only for finding cycles: it permits nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Which versions of the provider will do. A plugin has one version, and its contract has the same.
    pub version: VersionReq,
    /// Start without it; calls to it answer `unavailable`.
    pub optional: bool,
    /// Start before it; a cycle of requirements is legal if one of them is lazy.
    pub lazy: bool,
    /// Where it is written.
    #[serde(skip)]
    pub line: Line,
}

/// A line of a file, from 1; 0 if there is no file. All lines are equal: where something is written is no part of what it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line(pub u32);

/// One build of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What it was built for.
    pub runtime: RuntimeName,
    /// File name inside the package's folder; never a path.
    pub file: String,
    /// What it speaks, if it was not made with the SDK.
    pub dialect: Option<Dialect>,
}

// === impl Requirement and Line ===

impl Requirement {
    /// Whether a call of `method` of `service` is one that it allows.
    #[must_use]
    pub fn allows(&self, service: &str, method: &str) -> bool {
        self.service == service && self.method.as_deref().is_none_or(|it| it == method)
    }

    /// `package.Service`, or `package.Service/Method` of one method.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.method {
            Some(method) => format!("{}/{method}", self.service),
            None => self.service.clone(),
        }
    }

    /// Whether its plugin cannot start before a provider serves.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        !self.optional && !self.lazy
    }
}

impl PartialEq for Line {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Line {}

// === impl Manifest ===

impl Manifest {
    /// Reads and checks the text of a `plugin.toml`. `file` is printed in front of every fault.
    ///
    /// # Errors
    /// Every fault in the text, in its order.
    pub fn parse(text: &str, file: &str) -> Result<Self, Diagnostics> {
        read_document(text, file, read_manifest)
    }

    /// The variant for `runtime`.
    #[must_use]
    pub fn variant(&self, runtime: RuntimeName) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.runtime == runtime)
    }

    /// The text of a `plugin.toml` that parses to this manifest.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = Toml::default();
        out.header("[plugin]");
        out.string("name", &self.name);
        out.string("version", &self.version.to_string());
        out.raw("api", self.api);
        if let Some(description) = &self.description {
            out.string("description", description);
        }
        if self.pure {
            out.raw("pure", true);
        }
        out.header("[contract]");
        out.strings("provides", &self.provides);
        for requirement in &self.requires {
            out.header("[[requires]]");
            out.string("service", &requirement.service);
            for (key, text) in [("method", &requirement.method), ("from", &requirement.from)] {
                if let Some(text) = text {
                    out.string(key, text);
                }
            }
            out.string("version", &requirement.version.to_string());
            for (key, set) in [("optional", requirement.optional), ("lazy", requirement.lazy)] {
                if set {
                    out.raw(key, true);
                }
            }
        }
        for entry in &self.subscribes {
            let ms = |it: std::time::Duration| it.as_millis();
            out.header("[[subscribe]]");
            out.string("topic", &entry.topic);
            out.string("method", &entry.method);
            out.string("group", &entry.group);
            out.string("from", entry.from.as_str());
            out.raw("attempts", entry.attempts);
            out.raw("backoff_ms", ms(entry.backoff));
            out.raw("backoff_max_ms", ms(entry.backoff_max));
            out.raw("concurrency", entry.concurrency);
            out.raw("ordered", entry.ordered);
        }
        for variant in &self.variants {
            out.header("[[variant]]");
            out.string("runtime", variant.runtime.as_str());
            out.string("file", &variant.file);
            if let Some(Dialect::GoPlugin(spoken)) = &variant.dialect {
                out.header("[variant.go_plugin]");
                out.string("cookie_key", &spoken.cookie_key);
                out.string("cookie_value", &spoken.cookie_value);
                let versions: Vec<_> = spoken.versions.iter().map(u32::to_string).collect();
                out.raw("versions", format_args!("[{}]", versions.join(", ")));
                out.raw("auto_mtls", spoken.auto_mtls);
                out.raw("multiplex", spoken.multiplex);
                if let Some(digest) = spoken.sha256_hex() {
                    out.string("sha256", &digest);
                }
            }
        }
        adapt::write_all(&self.adapt, &mut out);
        if !self.permissions.is_empty() {
            out.header("[permissions]");
            if self.permissions.kv {
                out.raw("kv", true);
            }
            let Permissions {
                net_connect,
                fs_read,
                fs_write,
                kv: _,
                events_publish,
                events_subscribe,
            } = &self.permissions;
            for (key, list) in [
                ("net.connect", net_connect),
                ("fs.read", fs_read),
                ("fs.write", fs_write),
                ("events.publish", events_publish),
                ("events.subscribe", events_subscribe),
            ] {
                if !list.is_empty() {
                    out.strings(key, list);
                }
            }
        }
        if !self.limits.is_empty() {
            out.header("[limits]");
            for (key, value) in self.limits.to_keys() {
                out.raw(key, value);
            }
        }
        if self.hooks {
            out.header("[state]");
            match &self.state_schema {
                Some(schema) => out.string("schema", schema),
                None => out.raw("hooks", true),
            }
            if self.migrates {
                out.raw("migrates", true);
            }
        }
        if self.config != ConfigTerms::default() {
            out.header("[config]");
            if let Some(message) = &self.config.message {
                out.string("message", message);
            }
            if self.config.hot {
                out.raw("hot", true);
            }
        }
        out.0
    }
}

fn read_manifest(mut root: Fields<'_>, faults: &mut Faults) -> Option<Manifest> {
    let plugin = root
        .required_table("plugin", "[plugin]", faults)
        .map(|fields| read_plugin(fields, faults));
    let example = "provides = [\"acme.image.v1.Thumbnailer\"]";
    let contract = root.required_table("contract", &format!("[contract]` and `{example}"), faults);
    let provides = contract.map(|fields| read_contract(fields, example, faults));
    let requires = root.tables("requires", faults);
    let requires = read_requirements(requires, provides.as_deref(), faults);
    let variants = root.tables("variant", faults);
    let variants = read_variants(variants, faults);
    let adapt = root.tables("adapt", faults);
    let own_version = plugin.as_ref().and_then(|it| it.as_ref()).map(|it| &it.version);
    let adapt = adapt::read_all(adapt, own_version, faults);
    let permissions = root.table("permissions", faults);
    let permissions = permissions
        .map(|fields| Permissions::read(fields, faults))
        .unwrap_or_default();
    let subscribes = root.tables("subscribe", faults);
    let subscribes = read_subscriptions(subscribes, provides.as_deref(), &permissions, faults);
    let limits = root.table("limits", faults);
    let limits = limits
        .map(|fields| LimitsOverride::read(fields, faults))
        .unwrap_or_default();
    let state = root.table("state", faults);
    let hooks = state.is_some();
    let (state_schema, migrates) = state.map(|fields| read_state(fields, faults)).unwrap_or_default();
    let config = root.table("config", faults);
    let has_config = config.is_some();
    let config = config
        .map(|fields| read_config_terms(fields, faults))
        .unwrap_or_default();
    root.finish(faults);
    let About {
        name,
        version,
        api,
        description,
        pure,
        pure_at,
    } = plugin??;
    if pure {
        let asks = [
            ("[permissions]", !permissions.is_empty()),
            ("[[requires]]", !requires.is_empty()),
            ("[[subscribe]]", !subscribes.is_empty()),
            ("[state]", hooks),
            ("[config]", has_config),
        ];
        for (what, _) in asks.into_iter().filter(|it| it.1) {
            let message =
                format!("a pure plugin has no `{what}`: its replies depend on nothing but the requests");
            let hint =
                format!("take `{what}` or `pure = true` away; a plugin of its own may have the pure part");
            faults.add(pure_at.clone(), message, Some(hint));
        }
    }
    Some(Manifest {
        name,
        version,
        api,
        description,
        pure,
        provides: provides?,
        requires,
        subscribes,
        variants,
        adapt,
        permissions,
        limits,
        state_schema,
        hooks,
        migrates,
        config,
    })
}

fn read_config_terms(mut fields: Fields<'_>, faults: &mut Faults) -> ConfigTerms {
    let message = fields.string("message", faults);
    let hot = fields.boolean("hot", faults).unwrap_or(false);
    fields.finish(faults);
    ConfigTerms {
        message: message.and_then(|text| service_name(&text, faults)),
        hot,
    }
}

/// The schema, and whether others are migrated.
fn read_state(mut fields: Fields<'_>, faults: &mut Faults) -> (Option<String>, bool) {
    let schema = fields.string("schema", faults);
    let hooks = fields.boolean("hooks", faults);
    let migrates = fields.boolean("migrates", faults);
    if schema.is_none() && !fields.contains("schema") && hooks != Some(true) {
        fields.missing("schema", "schema = \"acme.image.v1.State\"", faults);
    }
    if hooks == Some(false) {
        let hint = Some("take the line away: a plugin with state has its hooks called too".to_owned());
        faults.add(fields.span_of("hooks"), "`hooks` is false".to_owned(), hint);
    }
    if schema.is_none() && migrates == Some(true) {
        let hint =
            Some("name the message that it migrates to: `schema = \"acme.image.v1.State\"`".to_owned());
        faults.add(
            fields.span_of("migrates"),
            "`migrates` without a `schema`".to_owned(),
            hint,
        );
    }
    fields.finish(faults);
    let schema = schema.and_then(|text| service_name(&text, faults));
    (schema, migrates.unwrap_or(false))
}

/// `[plugin]`.
struct About {
    name: String,
    version: Version,
    api: u32,
    description: Option<String>,
    pure: bool,
    /// Where that is written.
    pure_at: Range<usize>,
}

fn read_plugin(mut fields: Fields<'_>, faults: &mut Faults) -> Option<About> {
    let name = fields.required_string("name", "name = \"my-plugin\"", faults);
    let name = name.and_then(|text| plugin_name(&text, faults));
    let version = fields.required_string("version", "version = \"0.1.0\"", faults);
    let version = version.and_then(|text| {
        let parsed = Version::parse(text.value);
        if let Err(error) = &parsed {
            let message = format!("`{}` is not a version: {error}", clip(text.value));
            faults.add(
                text.span,
                message,
                Some("write three numbers, such as `1.2.0`".to_owned()),
            );
        }
        parsed.ok()
    });
    if !fields.contains("api") {
        fields.missing("api", "api = 1", faults);
    }
    let api = fields.integer("api", 1..=u32::MAX, faults);
    let description = fields.string("description", faults).and_then(|text| {
        if text.value.contains(['\n', '\r']) {
            faults.add(text.span, "`description` has more than one line".to_owned(), None);
            return None;
        }
        Some(text.value.to_owned())
    });
    let pure_at = fields.span_of("pure");
    let pure = fields.boolean("pure", faults).unwrap_or(false);
    fields.finish(faults);
    Some(About {
        name: name?,
        version: version?,
        api: api?,
        description,
        pure,
        pure_at,
    })
}

fn read_contract(mut fields: Fields<'_>, example: &str, faults: &mut Faults) -> Vec<String> {
    let provides = fields.strings("provides", faults, |text, faults| {
        service_name(text, faults);
    });
    if !fields.contains("provides") {
        fields.missing("provides", example, faults);
    } else if provides.is_empty() && fields.is_empty_list("provides") {
        let hint = Some(format!("add a service, such as `{example}`"));
        faults.add(fields.span_of("provides"), "`provides` is empty".to_owned(), hint);
    }
    fields.finish(faults);
    provides
}

fn read_requirements(
    tables: Vec<Fields<'_>>,
    provides: Option<&[String]>,
    faults: &mut Faults,
) -> Vec<Requirement> {
    let mut requires: Vec<Requirement> = Vec::new();
    for fields in tables {
        let span = fields.span.clone();
        let Some(requirement) = read_requirement(fields, provides, faults) else {
            continue;
        };
        let same = |it: &&Requirement| it.target() == requirement.target() && it.from == requirement.from;
        if let Some(first) = requires.iter().find(same) {
            let message = format!(
                "`{}` is required twice, first in line {}",
                requirement.target(),
                first.line.0
            );
            let hint = "keep one `[[requires]]` with the range that both mean";
            faults.add(span, message, Some(hint.to_owned()));
        }
        requires.push(requirement);
    }
    requires
}

fn read_requirement(
    mut fields: Fields<'_>,
    provides: Option<&[String]>,
    faults: &mut Faults,
) -> Option<Requirement> {
    let line = Line(faults.line_of(&fields.span));
    let service = fields.required_string("service", "service = \"acme.kv.v1.Store\"", faults);
    let service = service.and_then(|text| service_name(&text, faults));
    let method = match fields.string("method", faults) {
        None => Some(None),
        Some(text) => method_name(&text, faults).map(Some),
    };
    let from = match fields.string("from", faults) {
        None => Some(None),
        Some(text) => own_method(&text, provides, "from", faults).map(Some),
    };
    let version = match fields.string("version", faults) {
        None => Some(VersionReq::STAR),
        Some(text) => {
            let parsed = VersionReq::parse(text.value);
            if let Err(error) = &parsed {
                let message = format!("`{}` is not a range of versions: {error}", clip(text.value));
                faults.add(
                    text.span,
                    message,
                    Some("write a range, such as `^1.1` or `>=1.1, <3`".to_owned()),
                );
            }
            parsed.ok()
        }
    };
    let optional = fields.boolean("optional", faults).unwrap_or(false);
    let lazy = fields.boolean("lazy", faults).unwrap_or(false);
    fields.finish(faults);
    Some(Requirement {
        service: service?,
        method: method?,
        from: from?,
        version: version?,
        optional,
        lazy,
        line,
    })
}

fn read_variants(tables: Vec<Fields<'_>>, faults: &mut Faults) -> Vec<Variant> {
    let mut seen = BTreeSet::new();
    let mut variants = Vec::new();
    for mut fields in tables {
        let runtime = fields.required_string("runtime", "runtime = \"wasm\"", faults);
        let runtime = runtime.and_then(|text| {
            let runtime = runtime_name(&text, &RuntimeName::BUILT, faults)?;
            if !seen.insert(runtime) {
                let message = format!("there is already a variant for `{runtime}`");
                faults.add(
                    text.span,
                    message,
                    Some("keep one `[[variant]]` per runtime".to_owned()),
                );
                return None;
            }
            Some(runtime)
        });
        let file = fields.required_string("file", "file = \"my-plugin.wasm\"", faults);
        let file = file.and_then(|text| file_name(&text, faults));
        let spoken_at = fields.span_of("go_plugin");
        let dialect = match fields.table("go_plugin", faults) {
            None => Some(None),
            Some(table) => GoPlugin::read(table, faults).map(|it| Some(Dialect::GoPlugin(it))),
        };
        fields.finish(faults);
        if matches!(dialect, Some(Some(_))) && runtime.is_some_and(|it| it != RuntimeName::Process) {
            let message = "`go_plugin` says how to speak with a process, and this variant is none".to_owned();
            faults.add(
                spoken_at,
                message,
                Some("write `runtime = \"process\"`".to_owned()),
            );
        }
        if let (Some(runtime), Some(file), Some(dialect)) = (runtime, file, dialect) {
            variants.push(Variant {
                runtime,
                file,
                dialect,
            });
        }
    }
    variants
}

// === checks of single values, shared with mortise.toml ===

pub(crate) fn plugin_name(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    named(text, check_plugin_name(text.value), faults)
}

pub(crate) fn service_name(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    named(text, check_service_name(text.value), faults)
}

/// The name of a method alone.
fn method_name(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    if is_method_name(text.value) {
        return Some(text.value.to_owned());
    }
    let message = format!("`{}` is not the name of a method", clip(text.value));
    let hint = "write its name alone, such as `Get`, and its service into `service`";
    faults.add(text.span.clone(), message, Some(hint.to_owned()));
    None
}

/// `package.Service/Method` of a service that the plugin provides.
pub(crate) fn own_method(
    text: &Text<'_>,
    provides: Option<&[String]>,
    key: &str,
    faults: &mut Faults,
) -> Option<String> {
    let parts = text.value.split_once('/');
    let Some((service, _)) = parts.filter(|(_, method)| is_method_name(method)) else {
        let message = format!("`{}` is not a method", clip(text.value));
        let hint = "write `package.Service/Method`, one that this plugin provides";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
        return None;
    };
    // What it provides may itself be at fault; that is told already.
    let Some(provides) = provides else {
        return Some(text.value.to_owned());
    };
    if provides.iter().any(|it| it == service) {
        return Some(text.value.to_owned());
    }
    let message = format!("this plugin does not provide `{}`", clip(service));
    let what = if key == "from" { " that makes the call" } else { "" };
    let hint = format!(
        "`{key}` names the method{what}, of one of {}",
        provides.join(", ")
    );
    faults.add(text.span.clone(), message, Some(hint));
    None
}

/// As protobuf has it: a letter or `_`, then letters, digits and `_`.
fn is_method_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && text.len() <= METHOD_CHARS_MAX
}

fn named(text: &Text<'_>, checked: Result<(), NameError>, faults: &mut Faults) -> Option<String> {
    match checked {
        Ok(()) => Some(text.value.to_owned()),
        Err(error) => {
            faults.add(
                text.span.clone(),
                error.to_string(),
                error.hint().map(str::to_owned),
            );
            None
        }
    }
}

/// A runtime's name that is among `allowed`.
pub(crate) fn runtime_name(
    text: &Text<'_>,
    allowed: &[RuntimeName],
    faults: &mut Faults,
) -> Option<RuntimeName> {
    let runtime = RuntimeName::parse(text.value).filter(|runtime| allowed.contains(runtime));
    if runtime.is_none() {
        let names = allowed.iter().map(|runtime| runtime.as_str());
        let hint = match nearest(text.value, names.clone()) {
            Some(near) if near != text.value => format!("did you mean `{near}`?"),
            _ => format!("write {}", one_of(names)),
        };
        faults.add(
            text.span.clone(),
            format!("`{}` is not a runtime here", clip(text.value)),
            Some(hint),
        );
    }
    runtime
}

/// A file's name, so that no package can point outside its own folder.
pub(crate) fn file_name(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    let name = text.value;
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.len() <= 255
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+'));
    if !plain {
        let message = format!("`{}` is not a plain file name", clip(name));
        let hint = "name a file that lies beside plugin.toml, of letters, digits, `.`, `-`, `_` and `+`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
        return None;
    }
    Some(name.to_owned())
}

// === writing ===

/// A TOML text under construction.
#[derive(Default)]
pub(crate) struct Toml(String);

impl Toml {
    pub(crate) fn header(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(format_args!("{header}"));
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.line(format_args!("{key} = {}", quoted(value)));
    }

    pub(crate) fn strings(&mut self, key: &str, values: &[String]) {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        self.line(format_args!("{key} = [{}]", values.join(", ")));
    }

    /// An inline table of strings.
    pub(crate) fn pairs(&mut self, key: &str, pairs: &[(String, String)]) {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)))
            .collect();
        self.line(format_args!("{key} = {{ {} }}", pairs.join(", ")));
    }

    pub(crate) fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes all text");
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
