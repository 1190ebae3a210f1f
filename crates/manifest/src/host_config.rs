//! `mortise.toml`: what the operator decided.
//!
//! ```toml
//! [host]
//! data_dir = "/var/lib/mortise"
//! control_socket = "/run/mortise/control.sock"
//! keep_packages = 5                      # of each plugin, for rollbacks
//! [gateway]
//! listen = "127.0.0.1:7070"
//! [runtime]
//! prefer = ["wasm", "process", "native"]
//! [runtime.process]
//! require = ["landlock", "seccomp"]      # layers without which nothing starts
//! [routing]
//! propagate = ["x-canary-version", "baggage"]
//! [watch]
//! dir = "plugins"                        # its package folders are loaded, swapped and unloaded as they come, change and go
//! quiet_ms = 250                         # how long a folder must rest
//! poll_ms = 2000                         # look so often instead of listening, for mounts that tell nothing
//! [watch.defaults]                       # how its plugins are loaded: runtime, jail, restart, grant, limits
//! runtime = "wasm"
//! [[plugin]]
//! name = "resizer"                       # without a source: how the plugin of this name in `watch.dir` is loaded, in place of the defaults
//! grant = { kv = true }
//! [[route]]                              # see `RouteEntry`
//! plugin = "thumbnailer"
//! split = { "1.2.0" = 90, "1.3.0" = 10 }
//! sticky = "x-user-id"
//! [[canary.webhook]]                     # is told of every decision about a canary
//! url = "https://hooks.example.com/mortise"
//! secret_file = "/etc/mortise/webhook.key"  # signs every body
//! form = "json"                          # "chat" is one line for a robot
//! [events]                               # see `EventsConfig`
//! log_mib = 1024
//! [config]                               # where plugins' configuration comes from, beside what stands at the plugin
//! dir = "conf"                           # NAME.toml or NAME.json of each plugin
//! secrets = ["file:/run/secrets/{plugin}/", "env:{PLUGIN}_"]  # what `dir` and etcd may refer to
//! [config.etcd]
//! endpoints = ["http://127.0.0.1:2379"]
//! prefix = "/mortise"                    # keys are PREFIX/PLUGIN/SETTING
//! user = "mortise"
//! password = { secret = "file:/etc/mortise/etcd.password" }
//! ca_file = "/etc/mortise/etcd-ca.pem"   # for https endpoints
//! [[plugin]]
//! name = "thumbnailer"
//! source = "plugins/thumbnailer-1.2.0"   # a folder, "builtin:echo" or "embedded:thumbnailer"
//! runtime = "wasm"                       # the one line of trust
//! jail = "on"                            # of a process; "off" trusts it like the host
//! trust_adapter = false                  # take the word of a pure plugin that is native or a process, so that its functions may adapt messages
//! restart = "on-failure"                 # when its instance ends by itself: "never", "on-failure" or "always"
//! grant = { kv = true, net.connect = ["api.example.com:443"] }
//! limits = { memory_mib = 64, deadline_ms = 500, concurrency = 32, cpu_percent = 50, stop_ms = 5000, term_ms = 2000 }
//! config = { quality = 80 }
//! canary = { steps = ["5%", "50%", "promote"] }  # a new version comes beside the old one, see `CanaryEntry`
//! ```
//!
//! Paths are text here. A relative one is relative to the folder of the file, which only its reader knows.

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr, time::Duration};

use crate::{
    canary::{CanaryEntry, read_canary},
    diagnostic::Diagnostics,
    events::{EventsConfig, read_events},
    limits::LimitsOverride,
    manifest::{plugin_name, runtime_name},
    name::{NameError, check_plugin_name, clip},
    permissions::{Grant, Jail, Permissions},
    reader::{Faults, Fields, Text, read_document},
    restart::Restart,
    route::{RouteEntry, is_header_name, read_routes},
    runtime_name::RuntimeName,
    suggest::nearest,
};

/// A checked `mortise.toml`. The default is what an empty file means.
#[derive(Clone, Debug, PartialEq)]
pub struct HostConfig {
    /// `[host]`.
    pub host: HostSettings,
    /// `[gateway]`; without it the host answers only on its control socket.
    pub gateway: Option<GatewayConfig>,
    /// `runtime.prefer`: tried in this order for a plugin whose entry names no runtime. Default: wasm, process, native,
    /// the least trusting first. Built-in plugins are chosen by their source and stand in no list.
    pub prefer: Vec<RuntimeName>,
    /// `[runtime.process]`.
    pub process: ProcessSettings,
    /// `[routing]`.
    pub routing: RoutingConfig,
    /// `[watch]`; without it no directory is watched.
    pub watch: Option<WatchConfig>,
    /// `[[route]]`: which calls go where; earlier ones win.
    pub routes: Vec<RouteEntry>,
    /// `[canary]`.
    pub canary: CanarySettings,
    /// `[events]`.
    pub events: EventsConfig,
    /// `[config]`.
    pub config: ConfigSettings,
    /// `[[plugin]]`: what to load at start, in the file's order.
    pub plugins: Vec<PluginEntry>,
}

/// `[host]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSettings {
    /// Where the host keeps its journal, caches and plugins' data.
    pub data_dir: Option<String>,
    /// The socket that `mortise list` and its siblings talk to. Default: `control.sock` in `data_dir`.
    pub control_socket: Option<String>,
    /// Packages that are kept of each plugin, the last that were loaded, for `mortise rollback`: 0 to 1000, default 5. Each costs its size on the disk.
    pub keep_packages: Option<u32>,
}

/// `[gateway]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The address HTTP is served on.
    pub listen: SocketAddr,
}

/// `[runtime.process]`: the jail of plugins that run as processes, and how they are talked to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Layers without which no jailed plugin starts, of [`JAIL_LAYERS`]. `cpu-cgroup` also wants a `limits.cpu_percent` of every plugin.
    pub require: Vec<String>,
    /// Further files and folders that every jailed plugin may read and execute from: where this system keeps libraries.
    pub system: Vec<String>,
    /// What carries their calls.
    pub lane: ProcessLane,
}

/// What carries calls between host and plugin. What is said is the same over all of them; what differs is what a call costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessLane {
    /// Shared memory where the system and the plugin have it, else the socket.
    #[default]
    Auto,
    /// The unix socket: works everywhere, and costs the plugin no memory.
    Raw,
    /// Shared memory beside the socket, at most 9 MiB per plugin, of which only what is used is taken; large payloads are much cheaper. A plugin that
    /// does not offer it is refused.
    Shm,
    /// The same frames in one stream of gRPC: for a plugin in a language that has gRPC and no lane of ours, and to compare. A plugin that does not offer it
    /// is refused.
    CallStream,
    /// One call of gRPC per call, of the contract's own services. The slowest, and what everything else that speaks gRPC understands. A plugin that
    /// does not offer it is refused.
    Grpc,
}

impl ProcessLane {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Raw, Self::Shm, Self::CallStream, Self::Grpc];

    /// As it is written in `mortise.toml`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Raw => "raw",
            Self::Shm => "shm",
            Self::CallStream => "call-stream",
            Self::Grpc => "grpc",
        }
    }
}

/// The layers that a jail may have, as `require` names them and `mortise doctor` lists them.
pub const JAIL_LAYERS: [&str; 17] = [
    "no-new-privileges",
    "capabilities",
    "limits",
    "user",
    "user-namespace",
    "mount-namespace",
    "pid-namespace",
    "net-namespace",
    "ipc-namespace",
    "uts-namespace",
    "cgroup-namespace",
    "landlock",
    "seccomp",
    "denial-events",
    "memory-cgroup",
    "cpu-cgroup",
    "pids-cgroup",
];

/// `[routing]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingConfig {
    /// Caller headers that reach the plugin, its logs and its own calls; lower case.
    pub propagate: Vec<String>,
}

/// `[watch]`: a directory whose package folders are loaded, swapped and unloaded as they come, change and go.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchConfig {
    /// `dir`: the directory that the package folders stand in.
    pub dir: String,
    /// `quiet_ms`: how long a folder must rest before it is read. 10 ms to 1 min, default 250 ms. Longer for writers that pause; it does not
    /// keep anybody from a package that was written halfway and left so: that one is refused, and what served serves on.
    pub quiet: Duration,
    /// `poll_ms`: look so often, in place of listening to the system. 10 ms to 1 h; default: only where the system tells nothing.
    pub poll: Option<Duration>,
    /// `[watch.defaults]`: how plugins without an entry of their own are loaded.
    pub defaults: PluginTerms,
    /// `[[plugin]]` without `source`: how the plugins of these names are loaded, in place of the defaults.
    pub plugins: BTreeMap<String, PluginTerms>,
}

/// How a plugin is loaded, wherever its package is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginTerms {
    /// The runtime to use; `None` follows `runtime.prefer`.
    pub runtime: Option<RuntimeName>,
    /// What the operator gives it.
    pub grant: Grant,
    /// Whether it is started again when its instance ends by itself.
    pub restart: Restart,
    /// Limits that replace the plugin's own.
    pub limits: LimitsOverride,
    /// Its configuration as a JSON object.
    pub config_json: Option<String>,
    /// How a new version comes in; `None` swaps at once.
    pub canary: Option<CanaryEntry>,
}

/// `[config]`: where plugins' configuration comes from, beside what stands at the plugin itself. What comes later here wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSettings {
    /// `dir`: a directory with a `NAME.toml` or `NAME.json` for each plugin that has one.
    pub dir: Option<String>,
    /// `[config.etcd]`.
    pub etcd: Option<EtcdSettings>,
    /// `secrets`: what configuration from `dir` and etcd may refer to; nothing unless it stands here. `file:/DIR/` is everything below a directory,
    /// `env:START` every variable whose name begins so. `{plugin}` stands for the plugin's name, `{PLUGIN}` for it in capitals with `_` for `-`.
    pub secrets: Vec<String>,
}

/// `[config.etcd]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `endpoints`: http or https URLs; each is tried when the one before it fails.
    pub endpoints: Vec<String>,
    /// `prefix`: the keys of a plugin begin with `PREFIX/NAME/`. Default `/mortise`.
    pub prefix: String,
    /// `user`, for an etcd with authentication.
    pub user: Option<String>,
    /// `password`: where it is, as `env:NAME` or `file:/PATH`; never the password itself.
    pub password: Option<String>,
    /// `ca_file`: certificates (PEM) that an https endpoint has to be signed by.
    pub ca_file: Option<String>,
    /// `start_ms`: how long the start of the host waits for etcd before it goes on with what it knew last. 0 to 1 min, default 3 s.
    pub start: Duration,
}

/// `[canary]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CanarySettings {
    /// `[[canary.webhook]]`: who is told of every decision.
    pub webhooks: Vec<WebhookEntry>,
}

/// `[[canary.webhook]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEntry {
    /// Where to: an http or https URL.
    pub url: String,
    /// A file with the secret that signs every body.
    pub secret_file: Option<String>,
    /// What the body looks like.
    pub form: WebhookForm,
}

/// What the body of a webhook looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookForm {
    /// The whole decision, for programs.
    #[default]
    Json,
    /// `{"text": ".."}`: one line, for the robots of Slack, Mattermost and their like.
    Chat,
}

/// `[[plugin]]`: one plugin to load.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginEntry {
    /// The name it is registered under. Default: the name in its manifest.
    pub name: Option<String>,
    /// Where its package is.
    pub source: PackageSource,
    /// The runtime to use; `None` follows `runtime.prefer`.
    pub runtime: Option<RuntimeName>,
    /// What the operator gives it.
    pub grant: Grant,
    /// Whether it is started again when its instance ends by itself.
    pub restart: Restart,
    /// Limits that replace the plugin's own.
    pub limits: LimitsOverride,
    /// Its configuration as a JSON object.
    pub config_json: Option<String>,
    /// How a new version comes in; `None` swaps at once.
    pub canary: Option<CanaryEntry>,
}

/// Where a package is found: `builtin:NAME`, `embedded:NAME`, anything else is a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PackageSource {
    /// A folder with a `plugin.toml`.
    Folder(String),
    /// A package folder embedded in the host's binary, by its name.
    Embedded(String),
    /// A plugin compiled into the host, by its name.
    Builtin(String),
}

// === impl WatchConfig ===

impl WatchConfig {
    /// `quiet_ms`, if nobody says.
    pub const QUIET: Duration = Duration::from_millis(250);

    /// Watches `dir` with everything else at its default.
    #[must_use]
    pub fn new(dir: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            quiet: Self::QUIET,
            poll: None,
            defaults: PluginTerms::default(),
            plugins: BTreeMap::new(),
        }
    }

    /// How the plugin of this name is loaded.
    #[must_use]
    pub fn terms(&self, plugin: &str) -> &PluginTerms {
        self.plugins.get(plugin).unwrap_or(&self.defaults)
    }
}

// === impl EtcdSettings ===

impl EtcdSettings {
    /// `prefix`, if nobody says.
    pub const PREFIX: &'static str = "/mortise";
    /// `start_ms`, if nobody says.
    pub const START: Duration = Duration::from_secs(3);
}

// === impl HostConfig ===

impl HostConfig {
    /// Reads and checks the text of a `mortise.toml`. `file` is printed in front of every fault.
    ///
    /// # Errors
    /// Every fault in the text, in its order.
    pub fn parse(text: &str, file: &str) -> Result<Self, Diagnostics> {
        read_document(text, file, |root, faults| Some(read_config(root, faults)))
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            host: HostSettings::default(),
            gateway: None,
            prefer: vec![RuntimeName::Wasm, RuntimeName::Process, RuntimeName::Native],
            process: ProcessSettings::default(),
            routing: RoutingConfig::default(),
            watch: None,
            routes: Vec::new(),
            canary: CanarySettings::default(),
            events: EventsConfig::default(),
            config: ConfigSettings::default(),
            plugins: Vec::new(),
        }
    }
}

fn read_config(mut root: Fields<'_>, faults: &mut Faults) -> HostConfig {
    let mut config = HostConfig::default();
    if let Some(mut fields) = root.table("host", faults) {
        config.host.data_dir = fields
            .string("data_dir", faults)
            .and_then(|text| path(&text, faults));
        config.host.control_socket = fields
            .string("control_socket", faults)
            .and_then(|text| path(&text, faults));
        config.host.keep_packages = fields.integer("keep_packages", 0..=1000, faults);
        fields.finish(faults);
    }
    if let Some(mut fields) = root.table("gateway", faults) {
        let listen = fields.required_string("listen", "listen = \"127.0.0.1:7070\"", faults);
        config.gateway = listen
            .and_then(|text| socket_address(&text, faults))
            .map(|listen| GatewayConfig { listen });
        fields.finish(faults);
    }
    if let Some(mut fields) = root.table("runtime", faults) {
        if fields.contains("prefer") {
            let names = fields.strings("prefer", faults, |text, faults| {
                runtime_name(text, &RuntimeName::BUILT, faults);
            });
            config.prefer = names.iter().filter_map(|name| RuntimeName::parse(name)).collect();
        }
        if let Some(mut fields) = fields.table("process", faults) {
            config.process.require = fields.strings("require", faults, check_layer);
            config.process.system = fields.strings("system", faults, check_system_path);
            config.process.lane = fields
                .string("lane", faults)
                .and_then(|text| lane(&text, faults))
                .unwrap_or_default();
            fields.finish(faults);
        }
        fields.finish(faults);
    }
    if let Some(mut fields) = root.table("routing", faults) {
        let propagate = fields.strings("propagate", faults, check_header_name);
        config.routing.propagate = propagate
            .into_iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        fields.finish(faults);
    }
    if let Some(mut fields) = root.table("canary", faults) {
        config.canary.webhooks = read_webhooks(fields.tables("webhook", faults), faults);
        fields.finish(faults);
    }
    if let Some(fields) = root.table("events", faults) {
        config.events = read_events(fields, faults);
    }
    if let Some(fields) = root.table("config", faults) {
        config.config = read_config_settings(fields, faults);
    }
    config.routes = read_routes(root.tables("route", faults), faults);
    config.watch = root
        .table("watch", faults)
        .and_then(|fields| read_watch(fields, faults));
    let has_watch = root.contains("watch");
    let (plugins, terms) = read_plugins(root.tables("plugin", faults), has_watch, faults);
    config.plugins = plugins;
    if let Some(watch) = &mut config.watch {
        watch.plugins = terms;
    }
    root.finish(faults);
    config
}

fn read_webhooks(tables: Vec<Fields<'_>>, faults: &mut Faults) -> Vec<WebhookEntry> {
    let mut webhooks = Vec::new();
    for mut fields in tables {
        fields.hide("url", faults);
        let url = fields.required_string("url", "url = \"https://hooks.example.com/mortise\"", faults);
        let url = url.and_then(|text| web_address(&text, faults));
        let secret_file = fields
            .string("secret_file", faults)
            .and_then(|text| path(&text, faults));
        let form = fields
            .string("form", faults)
            .and_then(|text| webhook_form(&text, faults))
            .unwrap_or_default();
        fields.finish(faults);
        if let Some(url) = url {
            webhooks.push(WebhookEntry {
                url,
                secret_file,
                form,
            });
        }
    }
    webhooks
}

fn read_config_settings(mut fields: Fields<'_>, faults: &mut Faults) -> ConfigSettings {
    let dir = fields.string("dir", faults);
    let settings = ConfigSettings {
        dir: dir.and_then(|text| path(&text, faults)),
        secrets: fields.strings("secrets", faults, check_secrets),
        etcd: fields
            .table("etcd", faults)
            .and_then(|fields| read_etcd(fields, faults)),
    };
    fields.finish(faults);
    settings
}

fn read_etcd(mut fields: Fields<'_>, faults: &mut Faults) -> Option<EtcdSettings> {
    for key in ["endpoints", "password"] {
        fields.hide(key, faults);
    }
    const EXAMPLE: &str = "endpoints = [\"http://127.0.0.1:2379\"]";
    if !fields.contains("endpoints") {
        fields.missing("endpoints", EXAMPLE, faults);
    } else if fields.is_empty_list("endpoints") {
        let hint = Some(format!("write where etcd is, such as `{EXAMPLE}`"));
        faults.add(
            fields.span_of("endpoints"),
            "`endpoints` is empty".to_owned(),
            hint,
        );
    }
    let endpoints = fields.strings("endpoints", faults, check_endpoint);
    let prefix = fields
        .string("prefix", faults)
        .and_then(|text| key_prefix(&text, faults));
    let user = fields.string("user", faults).map(|text| text.value.to_owned());
    let password = fields.table("password", faults).and_then(|mut fields| {
        let secret = fields.required_string("secret", "secret = \"file:/etc/mortise/etcd.password\"", faults);
        fields.finish(faults);
        secret.and_then(|text| secret_place(&text, faults))
    });
    if user.is_some() != fields.contains("password") {
        let hint = "write both, or none for an etcd without authentication";
        let message = "`user` and `password` belong together".to_owned();
        faults.add(fields.span.clone(), message, Some(hint.to_owned()));
    }
    let ca_file = fields
        .string("ca_file", faults)
        .and_then(|text| path(&text, faults));
    let start = fields.integer("start_ms", 0..=60_000, faults);
    fields.finish(faults);
    (!endpoints.is_empty()).then(|| EtcdSettings {
        endpoints,
        prefix: prefix.unwrap_or_else(|| EtcdSettings::PREFIX.to_owned()),
        user,
        password,
        ca_file,
        start: start.map_or(EtcdSettings::START, Duration::from_millis),
    })
}

fn read_watch(mut fields: Fields<'_>, faults: &mut Faults) -> Option<WatchConfig> {
    let dir = fields.required_string("dir", "dir = \"plugins\"", faults);
    let mut watch = WatchConfig::new(dir.and_then(|text| path(&text, faults)).unwrap_or_default());
    if let Some(ms) = fields.integer("quiet_ms", 10..=60_000, faults) {
        watch.quiet = Duration::from_millis(ms);
    }
    watch.poll = fields
        .integer("poll_ms", 10..=3_600_000, faults)
        .map(Duration::from_millis);
    if let Some(mut fields) = fields.table("defaults", faults) {
        watch.defaults = read_terms(&mut fields, &RuntimeName::BUILT, faults);
        fields.finish(faults);
    }
    fields.finish(faults);
    (!watch.dir.is_empty()).then_some(watch)
}

/// The entries that name a source; and by name, if a directory is watched, those that do not.
fn read_plugins(
    tables: Vec<Fields<'_>>,
    has_watch: bool,
    faults: &mut Faults,
) -> (Vec<PluginEntry>, BTreeMap<String, PluginTerms>) {
    let mut names = BTreeMap::new();
    let (mut plugins, mut unsourced) = (Vec::new(), BTreeMap::new());
    for mut fields in tables {
        let name = fields.string("name", faults);
        if let Some(text) = &name
            && names.insert(text.value, ()).is_some()
        {
            let message = format!("there is already a plugin named `{}`", clip(text.value));
            let hint = "give each its own `name`; the same package may run under several names".to_owned();
            faults.add(text.span.clone(), message, Some(hint));
        }
        let name = name.and_then(|text| plugin_name(&text, faults));
        let is_of_directory = has_watch && name.is_some() && !fields.contains("source");
        let source = if is_of_directory {
            fields.string("source", faults)
        } else {
            fields.required_string("source", "source = \"plugins/my-plugin-0.1.0\"", faults)
        };
        let source = source.and_then(|text| package_source(&text, faults));
        let allowed: &[RuntimeName] = match source {
            Some(PackageSource::Builtin(_)) => &[RuntimeName::Builtin],
            _ => &RuntimeName::BUILT,
        };
        let terms = read_terms(&mut fields, allowed, faults);
        fields.finish(faults);
        match (source, name) {
            (Some(source), name) => plugins.push(PluginEntry {
                name,
                source,
                runtime: terms.runtime,
                grant: terms.grant,
                restart: terms.restart,
                limits: terms.limits,
                config_json: terms.config_json,
                canary: terms.canary,
            }),
            (None, Some(name)) if is_of_directory => {
                unsourced.insert(name, terms);
            }
            (None, _) => {}
        }
    }
    (plugins, unsourced)
}

fn read_terms(fields: &mut Fields<'_>, runtimes: &[RuntimeName], faults: &mut Faults) -> PluginTerms {
    let runtime = fields
        .string("runtime", faults)
        .and_then(|text| runtime_name(&text, runtimes, faults));
    let grant = fields.table("grant", faults);
    let permissions = grant
        .map(|fields| Permissions::read(fields, faults))
        .unwrap_or_default();
    let jail = fields
        .string("jail", faults)
        .and_then(|text| jail(&text, faults))
        .unwrap_or_default();
    let trust_adapter = fields.boolean("trust_adapter", faults).unwrap_or(false);
    let restart = fields
        .string("restart", faults)
        .and_then(|text| restart(&text, faults))
        .unwrap_or_default();
    let limits = fields.table("limits", faults);
    let limits = limits
        .map(|fields| LimitsOverride::read(fields, faults))
        .unwrap_or_default();
    let config_json = fields.json("config", faults);
    let canary = fields.table("canary", faults);
    let canary = canary.map(|fields| read_canary(fields, faults));
    PluginTerms {
        runtime,
        grant: Grant {
            permissions,
            jail,
            trust_adapter,
        },
        restart,
        limits,
        config_json,
        canary,
    }
}

// === impl PackageSource ===

impl FromStr for PackageSource {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(name) = text.strip_prefix("builtin:") {
            return check_plugin_name(name).map(|()| Self::Builtin(name.to_owned()));
        }
        if let Some(name) = text.strip_prefix("embedded:") {
            return check_plugin_name(name).map(|()| Self::Embedded(name.to_owned()));
        }
        Ok(Self::Folder(text.to_owned()))
    }
}

impl fmt::Display for PackageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => f.write_str(path),
            Self::Embedded(name) => write!(f, "embedded:{name}"),
            Self::Builtin(name) => write!(f, "builtin:{name}"),
        }
    }
}

// === checks of single values ===

fn package_source(text: &Text<'_>, faults: &mut Faults) -> Option<PackageSource> {
    match text.value.parse::<PackageSource>() {
        Ok(PackageSource::Folder(_)) => path(text, faults).map(PackageSource::Folder),
        Ok(source) => Some(source),
        Err(error) => {
            let hint = error
                .hint()
                .unwrap_or("write a name, not a path; `mortise doctor` lists what comes with the command");
            faults.add(text.span.clone(), error.to_string(), Some(hint.to_owned()));
            None
        }
    }
}

pub(crate) fn path(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    if text.value.is_empty() || text.value.contains('\0') {
        faults.add(text.span.clone(), "this is not a path".to_owned(), None);
        return None;
    }
    Some(text.value.to_owned())
}

fn jail(text: &Text<'_>, faults: &mut Faults) -> Option<Jail> {
    let found = Jail::ALL.into_iter().find(|it| it.as_str() == text.value);
    if found.is_none() {
        faults.add(
            text.span.clone(),
            format!("`{}` is no word for a jail", clip(text.value)),
            Some(
                "write `on`, which is the default, or `off` for a plugin that you trust like the host"
                    .to_owned(),
            ),
        );
    }
    found
}

fn restart(text: &Text<'_>, faults: &mut Faults) -> Option<Restart> {
    let found = Restart::parse(text.value);
    if found.is_none() {
        faults.add(
            text.span.clone(),
            format!("`{}` does not say when to restart", clip(text.value)),
            Some("write `never`, `on-failure`, which is the default, or `always`".to_owned()),
        );
    }
    found
}

fn lane(text: &Text<'_>, faults: &mut Faults) -> Option<ProcessLane> {
    let found = ProcessLane::ALL.into_iter().find(|it| it.as_str() == text.value);
    if found.is_none() {
        faults.add(
            text.span.clone(),
            format!("`{}` is no lane", clip(text.value)),
            Some("write `auto`, which is the default, `raw` for the socket alone, `shm` for shared memory or nothing, or `call-stream` or `grpc` for plugins that offer gRPC".to_owned()),
        );
    }
    found
}

fn web_address(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.value.strip_prefix(scheme));
    let host = rest.map(|it| it.split(['/', '?', '#']).next().unwrap_or_default());
    let good = host.is_some_and(|it| !it.is_empty()) && text.value.chars().all(|c| c.is_ascii_graphic());
    if !good {
        // The URL of a robot is its password, so it is not shown.
        faults.add(
            text.span.clone(),
            "this is not a URL to send to".to_owned(),
            Some("write `https://host/path`".to_owned()),
        );
        return None;
    }
    Some(text.value.to_owned())
}

/// Where an etcd is: told wherever something goes wrong with it, so nothing secret may stand in it.
fn check_endpoint(text: &Text<'_>, faults: &mut Faults) {
    let Some(address) = web_address(text, faults) else {
        return;
    };
    let rest = address.split_once("://").map_or("", |it| it.1);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        let message = "an endpoint says where etcd is, and this one says who we are, too".to_owned();
        let hint =
            "write `https://HOST:PORT`, the name as `user`, and `password = { secret = \"file:/PATH\" }`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
}

fn webhook_form(text: &Text<'_>, faults: &mut Faults) -> Option<WebhookForm> {
    match text.value {
        "json" => Some(WebhookForm::Json),
        "chat" => Some(WebhookForm::Chat),
        other => {
            faults.add(
                text.span.clone(),
                format!("`{}` is no form of a webhook", clip(other)),
                Some("write `json`, which is the default, or `chat` for a robot".to_owned()),
            );
            None
        }
    }
}

/// What keys begin with; the `/` at its end is nobody's business.
fn key_prefix(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    let plain = text.value.trim_end_matches('/');
    if plain.is_empty() || plain.chars().any(char::is_control) {
        let message = "this is no prefix of keys".to_owned();
        let hint = "write a path of its own, such as `/mortise`: other keys are not read";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
        return None;
    }
    Some(plain.to_owned())
}

/// `env:NAME` or `file:/PATH`.
pub(crate) fn secret_place(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    if is_secret_place(text.value) {
        return Some(text.value.to_owned());
    }
    // It may be the secret itself, so it is not shown.
    let hint = "write `env:NAME` or `file:/PATH`, and put the secret there";
    faults.add(
        text.span.clone(),
        "this does not say where the secret is".to_owned(),
        Some(hint.to_owned()),
    );
    None
}

fn check_secrets(text: &Text<'_>, faults: &mut Faults) {
    if !is_secret_place(text.value) {
        let message = format!("`{}` names no place of secrets", clip(text.value));
        let hint = "write `file:/DIR/` or `env:START_OF_A_NAME`; `{plugin}` and `{PLUGIN}` stand for the plugin's name";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
}

fn is_secret_place(text: &str) -> bool {
    match text.split_once(':') {
        Some(("env", name)) => !name.is_empty(),
        Some(("file", path)) => path.starts_with('/') && path.split('/').all(|it| it != ".."),
        _ => false,
    }
}

fn check_layer(text: &Text<'_>, faults: &mut Faults) {
    if JAIL_LAYERS.contains(&text.value) {
        return;
    }
    let hint = match nearest(text.value, JAIL_LAYERS.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`mortise doctor` lists the layers".to_owned(),
    };
    faults.add(
        text.span.clone(),
        format!("the jail has no layer `{}`", clip(text.value)),
        Some(hint),
    );
}

fn check_system_path(text: &Text<'_>, faults: &mut Faults) {
    if !text.value.starts_with('/') || text.value.split('/').any(|part| part == "..") {
        faults.add(
            text.span.clone(),
            format!("`{}` is not a whole path", clip(text.value)),
            Some("write a path from the root, such as `/opt/lib`".to_owned()),
        );
    }
}

fn socket_address(text: &Text<'_>, faults: &mut Faults) -> Option<SocketAddr> {
    let address = text.value.parse().ok();
    if address.is_none() {
        let message = format!("`{}` is not an address to listen on", clip(text.value));
        let hint = "write an IP address and a port, such as `127.0.0.1:7070` or `[::]:7070`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
    address
}

fn check_header_name(text: &Text<'_>, faults: &mut Faults) {
    if !is_header_name(text.value) {
        faults.add(
            text.span.clone(),
            format!("`{}` is not a header's name", clip(text.value)),
            None,
        );
    }
}
