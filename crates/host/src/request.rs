//! What a host is asked to do.

use std::{fmt, path::PathBuf, time::Instant};

use mortise_manifest::{
    Grant, Jail, LimitsOverride, PackageSource, Permissions, PluginEntry, Restart, RuntimeName,
};
use mortise_wire::Header;

use crate::CallerContract;

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A package folder, as `mortise build` writes it.
    Folder(PathBuf),
    /// A package folder that is embedded in this program ([`crate::HostBuilder::embed`]).
    Embedded(String),
    /// A plugin that is compiled into this program.
    Builtin(String),
    /// A package that this host keeps, by its digest: `kept:DIGEST` in a plugin's `source` after a rollback.
    Kept(String),
}

impl Source {
    /// A package folder, as `mortise build` writes it.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::Folder(path.into())
    }

    /// A package folder that is embedded in this program.
    pub fn embedded(name: impl Into<String>) -> Self {
        Self::Embedded(name.into())
    }

    /// A plugin that is compiled into this program.
    pub fn builtin(name: impl Into<String>) -> Self {
        Self::Builtin(name.into())
    }

    /// Reads `builtin:NAME`, `embedded:NAME`, `kept:DIGEST` or a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some(("builtin", name)) => Self::Builtin(name.to_owned()),
            Some(("embedded", name)) => Self::Embedded(name.to_owned()),
            Some(("kept", digest)) => Self::Kept(digest.to_owned()),
            _ => Self::Folder(PathBuf::from(text)),
        }
    }
}

impl LoadRequest {
    /// Registers it under this name in place of its manifest's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Trusts it this far.
    #[must_use]
    pub fn runtime(mut self, runtime: RuntimeName) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Grants these permissions, out of what it declares.
    #[must_use]
    pub fn grant(mut self, permissions: Permissions) -> Self {
        self.grant.permissions = permissions;
        self
    }

    /// Jails it or not, where its runtime has a jail.
    #[must_use]
    pub fn jail(mut self, jail: Jail) -> Self {
        self.grant.jail = jail;
        self
    }

    /// Takes its word that it is pure, where its runtime cannot keep it to that: its functions may adapt messages of others.
    #[must_use]
    pub fn trust_adapter(mut self) -> Self {
        self.grant.trust_adapter = true;
        self
    }

    /// Starts it again when its instance ends by itself, or not.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Replaces limits of its manifest.
    #[must_use]
    pub fn limits(mut self, limits: LimitsOverride) -> Self {
        self.limits = limits;
        self
    }

    /// Configures it: JSON text, an object.
    #[must_use]
    pub fn config_json(mut self, json: impl Into<String>) -> Self {
        self.config_json = Some(json.into());
        self
    }

    /// Runs it beside a version that runs under the same name, in place of replacing it.
    #[must_use]
    pub fn beside(mut self) -> Self {
        self.beside = true;
        self
    }

    /// Starts it although its digest is quarantined.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
}

impl From<PackageSource> for Source {
    fn from(source: PackageSource) -> Self {
        match source {
            PackageSource::Folder(path) => Self::Folder(PathBuf::from(path)),
            PackageSource::Embedded(name) => Self::Embedded(name),
            PackageSource::Builtin(name) => Self::Builtin(name),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Embedded(name) => write!(f, "embedded:{name}"),
            Self::Kept(digest) => write!(f, "kept:{digest}"),
            Self::Builtin(name) => write!(f, "builtin:{name}"),
        }
    }
}

/// A plugin to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// Where it comes from.
    pub source: Source,
    /// The name it is registered under; default: its manifest's. The same package can run three times under three names.
    pub name: Option<String>,
    /// How far it is trusted; default: the first of the host's preference that the package has a variant for and that is available here.
    pub runtime: Option<RuntimeName>,
    /// What it may use, out of what it declares. Default: nothing.
    pub grant: Grant,
    /// Whether it is started again when its instance ends by itself. Default: after a failure.
    pub restart: Restart,
    /// Limits that replace those of its manifest.
    pub limits: LimitsOverride,
    /// Its configuration: JSON text, an object. Default `{}`.
    pub config_json: Option<String>,
    /// Run it beside a version that runs under the same name, as `name@version`, instead of replacing it.
    pub beside: bool,
    /// Start it although its digest is quarantined; lifts the quarantine.
    pub force: bool,
}

impl LoadRequest {
    /// A request with everything else at its default: nothing granted, the manifest's name and limits.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            name: None,
            runtime: None,
            grant: Grant::default(),
            restart: Restart::default(),
            limits: LimitsOverride::default(),
            config_json: None,
            beside: false,
            force: false,
        }
    }
}

impl From<PluginEntry> for LoadRequest {
    fn from(entry: PluginEntry) -> Self {
        Self {
            name: entry.name,
            runtime: entry.runtime,
            grant: entry.grant,
            restart: entry.restart,
            limits: entry.limits,
            config_json: entry.config_json,
            ..Self::new(entry.source.into())
        }
    }
}

/// What goes with a call.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Absolute; default: now plus the plugin's own default deadline.
    pub deadline: Option<Instant>,
    /// The caller's headers, lower-case names. Routing rules see all of them; the plugin sees those named in `routing.propagate`.
    pub headers: Vec<Header>,
    /// W3C traceparent of the span that this call belongs to.
    pub traceparent: Option<String>,
    /// What the caller was built against; the call is adapted to the plugin's contract, or refused with all that is in the way. Default: nobody
    /// asks, and bytes pass as they are.
    pub contract: Option<CallerContract>,
}
