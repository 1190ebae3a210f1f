//! How a host is made.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mortise_config::ConfigSource;
use mortise_contract::Contract;
use mortise_events::Broker;
use mortise_lifecycle::{ProbationPolicy, RestartPolicy};
use mortise_manifest::{HostConfig, RuntimeName, WebhookEntry};
use mortise_routing::Rule;
use mortise_runtime::{Runtime, RuntimeError};
use mortise_store::{DataDir, EmbeddedPackage, Journal, KvLimits, Package, StoreError, WriteHook};

use crate::{
    Host, HostError, HostErrorKind, Webhook, canary,
    config::{Configs, FilesSource},
    entries,
    events::{Embedded, Events},
    history,
    host::{self, Runtimes},
    reload::{Moment, load_remembered},
    remember,
    routes::{HOST_KEYSPACE, Routing},
    services::{NameLookup, SystemLookup},
    webhook::Webhooks,
};

/// Collects what a host is made of.
#[must_use = "a builder does nothing until it is started"]
pub struct HostBuilder {
    runtimes: HashMap<RuntimeName, MakeRuntime>,
    remembers: bool,
    keep_packages: Option<usize>,
    journal_hook: Option<WriteHook>,
    data_dir: Option<PathBuf>,
    config: HostConfig,
    embedded: BTreeMap<String, EmbeddedPackage>,
    builtin: BTreeMap<String, Package>,
    probation: ProbationPolicy,
    restarts: RestartPolicy,
    rules: Vec<Rule>,
    lookup: Arc<dyn NameLookup>,
    webhooks: Vec<Webhook>,
    broker: Option<Arc<dyn Broker>>,
    config_sources: Vec<Box<dyn ConfigSource>>,
    config_wait: Duration,
}

impl Default for HostBuilder {
    fn default() -> Self {
        Self {
            runtimes: HashMap::new(),
            remembers: false,
            keep_packages: None,
            journal_hook: None,
            data_dir: None,
            config: HostConfig::default(),
            embedded: BTreeMap::new(),
            builtin: BTreeMap::new(),
            probation: ProbationPolicy::default(),
            restarts: RestartPolicy::default(),
            rules: Vec::new(),
            lookup: Arc::new(SystemLookup),
            webhooks: Vec::new(),
            broker: None,
            config_sources: Vec::new(),
            config_wait: CONFIG_WAIT,
        }
    }
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder")
            .field("runtimes", &self.runtimes.keys())
            .finish_non_exhaustive()
    }
}

impl HostBuilder {
    /// Adds a technology that runs plugins. Of two for the same name, the later counts.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let name = runtime.support().runtime;
        self.runtimes
            .insert(name, Box::new(move |_| Ok(Arc::new(runtime))));
        self
    }

    /// Adds a technology that keeps something of its own in the data directory: `make` gets that directory's path at start. If it fails, the host
    /// starts without this runtime, and whoever asks for it hears why.
    pub fn runtime_in<R: Runtime>(
        mut self,
        name: RuntimeName,
        make: impl FnOnce(&Path) -> Result<R, RuntimeError> + Send + 'static,
    ) -> Self {
        let make = |dir: &Path| make(dir).map(|it| Arc::new(it) as Arc<dyn Runtime>);
        self.runtimes.insert(name, Box::new(make));
        self
    }

    /// Where journal, caches and plugins' data are kept; wins over the configuration. Default: a fresh temporary directory that is gone
    /// with the host.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A parsed `mortise.toml`. All its plugins are loaded in parallel at start (a provider before those that need it); one that cannot be is
    /// listed with all reasons, and the host starts all the same. Relative paths in it are taken as they are.
    pub fn config(mut self, config: HostConfig) -> Self {
        self.config = config;
        self
    }

    /// Loads again at start what [`Host::load`] had loaded before and nobody unloaded, beside what the configuration names (which wins). For a
    /// daemon, whose operators load plugins while it runs; a service that loads its own plugins at every start has no use for it.
    /// Default: off. Costs one more write to the disk per load and unload.
    pub fn remember_loads(mut self) -> Self {
        self.remembers = true;
        self
    }

    /// Keeps so many packages of each plugin in the data directory, the last that were loaded, so that [`Host::rollback`] can go back to them;
    /// `host.keep_packages` of the configuration wins. Costs their size on the disk, at most 512 MiB for a plugin beside the one that serves. Default: 5 with
    /// [`HostBuilder::remember_loads`], else none.
    pub fn keep_packages(mut self, number: usize) -> Self {
        self.keep_packages = Some(number);
        self
    }

    /// Tells `hook` of every write of the journal, before, within and after it: for tests that end the host at any step. The host waits for it.
    pub fn journal_hook(mut self, hook: WriteHook) -> Self {
        self.journal_hook = Some(hook);
        self
    }

    /// Makes a package that is compiled into this program known as `embedded:NAME`.
    pub fn embed(mut self, package: EmbeddedPackage) -> Self {
        self.embedded.insert(package.name.to_owned(), package);
        self
    }

    /// Makes a plugin that is itself compiled into this program known as `builtin:NAME`, by its package
    /// ([`Package::builtin`]). The runtime that knows its code is added with [`HostBuilder::runtime`].
    pub fn builtin(mut self, name: impl Into<String>, package: Package) -> Self {
        self.builtin.insert(name.into(), package);
        self
    }

    /// How fresh versions are judged. Default: see [`ProbationPolicy`].
    pub fn probation(mut self, policy: ProbationPolicy) -> Self {
        self.probation = policy;
        self
    }

    /// When crashed plugins are started again. Default: see [`RestartPolicy`].
    pub fn restarts(mut self, policy: RestartPolicy) -> Self {
        self.restarts = policy;
        self
    }

    /// Sends calls with certain headers to one of several plugins that could answer them. Earlier rules win.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Tells a server of every decision about a canary. Default: nobody but the log and the history. Costs nothing while there is nothing to
    /// tell, and whoever decides never waits for it.
    pub fn webhook(mut self, webhook: Webhook) -> Self {
        self.webhooks.push(webhook);
        self
    }

    /// Who keeps events. Default: the data directory, within the bounds of `[events]` of the configuration.
    pub fn broker(mut self, broker: impl Broker) -> Self {
        self.broker = Some(Arc::new(broker));
        self
    }

    /// Configures plugins from elsewhere, over what stands at them and over `config.dir`; of several sources the later wins. What a source says is in
    /// force as soon as it fits, without a load: the plugin is asked to take it, or another instance of it is started.
    pub fn config_source(mut self, source: impl ConfigSource) -> Self {
        self.config_sources.push(Box::new(source));
        self
    }

    /// How long the start waits for sources of configuration that are not heard. Then plugins start with what they said last, in this host or an
    /// earlier one with the same data directory. Default: 3 s.
    pub fn config_wait(mut self, wait: Duration) -> Self {
        self.config_wait = wait;
        self
    }

    /// Who turns names into addresses for plugins' HTTP requests. What it answers is checked all the same. Default: the system.
    pub fn name_lookup(mut self, lookup: impl NameLookup) -> Self {
        self.lookup = Arc::new(lookup);
        self
    }

    /// Starts the host on the current tokio runtime, and loads what the configuration names.
    ///
    /// # Errors
    /// If its data directory cannot be used. A plugin never keeps a host from starting.
    pub async fn start(self) -> Result<Host, HostError> {
        let Self {
            runtimes,
            data_dir,
            config,
            embedded,
            builtin,
            probation,
            restarts,
            lookup,
            rules,
            remembers,
            keep_packages,
            journal_hook,
            mut webhooks,
            broker,
            mut config_sources,
            config_wait,
        } = self;
        if config.config.etcd.is_some() && config_sources.iter().all(|it| it.name() != "etcd") {
            let what = "the configuration has `[config.etcd]`, and this program cannot speak with etcd";
            return Err(HostError::new(HostErrorKind::Invalid, what)
                .with_hint("build it with the feature `etcd`, and add `EtcdSource` with `config_source`"));
        }
        if config.events.nats.is_some() && broker.is_none() {
            let what = "the configuration has `[events.nats]`, and this program cannot speak with NATS";
            return Err(HostError::new(HostErrorKind::Invalid, what)
                .with_hint("build it with the feature `nats`, and add `NatsBroker` with `broker`"));
        }
        if let Some(dir) = &config.config.dir {
            config_sources.insert(0, Box::new(FilesSource::new(PathBuf::from(dir))));
        }
        for entry in &config.canary.webhooks {
            webhooks.push(webhook_of(entry).await?);
        }
        let configured = config.host.keep_packages.map(|it| it as usize);
        let chosen = data_dir.or_else(|| config.host.data_dir.clone().map(PathBuf::from));
        // What a process does once takes milliseconds; better beside the opening of the disk than in the first load.
        let preparing = tokio::task::spawn_blocking(|| {
            // Asks the kernel for its barrier, which it grants only after a quiet moment of each processor.
            let asymmetric = mortise_hazard::is_asymmetric();
            tracing::debug!(target: "mortise::life", asymmetric, "readers of cells pay stores only, or a fence");
            Contract::prepare();
        });
        let opening = tokio::task::spawn_blocking(move || {
            let (data, temporary) = open(chosen)?;
            let make = |(name, make): (_, MakeRuntime)| (name, make(data.path()));
            let runtimes: Runtimes = runtimes.into_iter().map(make).collect();
            Ok((data, temporary, runtimes))
        });
        let opened = opening
            .await
            .map_err(|_| HostError::new(HostErrorKind::Storage, "opening the data directory was given up"))?;
        let (data, temporary, runtimes) = opened?;
        if preparing.await.is_err() {
            tracing::error!(target: "mortise::life", "the preparations panicked; the first load makes them");
        }
        for (name, error) in runtimes
            .iter()
            .filter_map(|(name, made)| Some((name, made.as_ref().err()?)))
        {
            tracing::warn!(target: "mortise::life", runtime = %name, %error, hint = error.hint(), "a runtime is missing");
        }
        let parts = host::Parts {
            runtimes,
            embedded,
            builtin,
            prefer: config.prefer,
            propagate: config.routing.propagate,
            probation,
            restarts,
            lookup,
            journal: match journal_hook {
                Some(hook) => data.journal_hooked(hook),
                None => data.journal(),
            }
            .map_err(of_store)?,
            kv: data.kv(KvLimits::default()).map_err(of_store)?,
            own: data.kv(OWN_LIMITS).map_err(of_store)?.keyspace(HOST_KEYSPACE),
            data,
            _temporary: temporary,
            remembers,
            keep_packages: configured
                .or(keep_packages)
                .unwrap_or(if remembers { KEEP_PACKAGES } else { 0 }),
        };
        let routing = Routing::new(rules, config.routes);
        let broker = broker.unwrap_or_else(|| {
            let path = parts.data.path().join("events.db");
            Arc::new(Embedded::new(path, config.events))
        });
        let configs = Configs::new(config.config.secrets, parts.probation.time);
        let host = Host::new(
            parts,
            routing,
            Webhooks::start(webhooks),
            Events::new(broker),
            configs,
        );
        host.shared()
            .with_journal(|journal| {
                journal.interrupt_begun()?;
                journal.prune_changes(history::CHANGES_MAX)
            })
            .await?;
        host.shared().begin_configs(config_sources, config_wait).await?;
        if remembers {
            // Before a plugin can be called.
            host.shared().recall_routes().await?;
        }
        let mut words = Vec::new();
        if remembers {
            words = host.shared().with_journal(Journal::watched).await?;
        }
        let (of_entries, watched) = words.into_iter().partition(entries::is_of_entry);
        host.shared().entries.recall(of_entries);
        host.bring_to(config.plugins, Moment::Start, &[]).await;
        if let Some(watch) = config.watch {
            host.shared().brought.recall(watched);
            host.watch(Some(watch)).await;
        }
        if remembers {
            let recalled = remember::recall(host.shared()).await?;
            let (beside, plain): (Vec<_>, Vec<_>) = recalled.into_iter().partition(|it| it.beside);
            load_remembered(&host, plain).await;
            load_remembered(&host, beside).await;
            host.try_failed_again().await;
            canary::kept::recall(&host).await?;
        }
        Ok(host)
    }
}

/// How long a start waits for sources of configuration, if nobody says.
const CONFIG_WAIT: Duration = Duration::from_secs(3);
/// The host keeps routes, canaries and what sources say for itself, and no guest has a say in how much that is.
const OWN_LIMITS: KvLimits = KvLimits {
    key_bytes_max: 512,
    value_bytes_max: 16 << 20,
    keys_max: 100_000,
    bytes_max: 1 << 30,
    list_max: 100_000,
};
/// Packages that a daemon keeps of each plugin, if nobody says.
const KEEP_PACKAGES: usize = 5;

/// Makes a runtime that may keep something in the data directory.
type MakeRuntime = Box<dyn FnOnce(&Path) -> Result<Arc<dyn Runtime>, RuntimeError> + Send>;

fn open(chosen: Option<PathBuf>) -> Result<(DataDir, Option<tempfile::TempDir>), HostError> {
    let Some(path) = chosen else {
        let temporary = tempfile::Builder::new()
            .prefix("mortise-")
            .tempdir()
            .map_err(|error| {
                HostError::new(
                    HostErrorKind::Storage,
                    format!("no temporary data directory could be made: {error}"),
                )
                .with_hint("name one with `data_dir`")
                .with_source(error)
            })?;
        let data = DataDir::open(temporary.path()).map_err(of_store)?;
        return Ok((data, Some(temporary)));
    };
    Ok((DataDir::open(path).map_err(of_store)?, None))
}

/// A receiver as the configuration names it, with its secret.
async fn webhook_of(entry: &WebhookEntry) -> Result<Webhook, HostError> {
    let mut webhook = Webhook::new(entry.url.clone(), entry.form);
    if let Some(path) = &entry.secret_file {
        let read = tokio::fs::read(path).await;
        let secret = read.map_err(|error| {
            let what = format!("the secret of a webhook cannot be read from `{path}`: {error}");
            HostError::new(HostErrorKind::Invalid, what)
                .with_hint("write it there, readable for the host's user alone")
        })?;
        let secret = secret.trim_ascii().to_vec();
        if secret.is_empty() {
            let what = format!("the secret of a webhook in `{path}` is empty");
            return Err(HostError::new(HostErrorKind::Invalid, what)
                .with_hint("write some random characters there, and tell the receiver"));
        }
        webhook.secret = Some(secret);
    }
    Ok(webhook)
}

fn of_store(error: StoreError) -> HostError {
    let hint = error.hint().to_owned();
    HostError::new(HostErrorKind::Storage, error.to_string())
        .with_hint(hint)
        .with_source(error)
}
