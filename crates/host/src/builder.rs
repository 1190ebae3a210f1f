//! How a host is made, and how it loads what its configuration names.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::join_all;
use mortise_lifecycle::{ProbationPolicy, RestartPolicy};
use mortise_manifest::{HostConfig, RuntimeName};
use mortise_routing::Rule;
use mortise_runtime::{Runtime, RuntimeError};
use mortise_store::{DataDir, EmbeddedPackage, KvLimits, Package, StoreError};

use crate::{
    Host, HostError, HostErrorKind, LoadRequest, Source,
    host::{self, Runtimes, is_well},
    load, remember,
    services::{NameLookup, SystemLookup},
};

/// Collects what a host is made of.
#[must_use = "a builder does nothing until it is started"]
pub struct HostBuilder {
    runtimes: HashMap<RuntimeName, MakeRuntime>,
    remembers: bool,
    data_dir: Option<PathBuf>,
    config: HostConfig,
    embedded: BTreeMap<String, EmbeddedPackage>,
    builtin: BTreeMap<String, Package>,
    probation: ProbationPolicy,
    restarts: RestartPolicy,
    rules: Vec<Rule>,
    lookup: Arc<dyn NameLookup>,
}

/// A plugin of the configuration whose package was read.
struct Entry {
    name: String,
    package: Package,
    request: LoadRequest,
}

impl Default for HostBuilder {
    fn default() -> Self {
        Self {
            runtimes: HashMap::new(),
            remembers: false,
            data_dir: None,
            config: HostConfig::default(),
            embedded: BTreeMap::new(),
            builtin: BTreeMap::new(),
            probation: ProbationPolicy::default(),
            restarts: RestartPolicy::default(),
            rules: Vec::new(),
            lookup: Arc::new(SystemLookup),
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
        } = self;
        let chosen = data_dir.or_else(|| config.host.data_dir.clone().map(PathBuf::from));
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
            rules,
            probation,
            restarts,
            lookup,
            journal: data.journal().map_err(of_store)?,
            kv: data.kv(KvLimits::default()).map_err(of_store)?,
            data,
            temporary,
            remembers,
        };
        let host = Host::new(parts);
        load_all(&host, config.plugins.into_iter().map(LoadRequest::from).collect()).await;
        if remembers {
            let recalled = remember::recall(host.shared()).await?;
            let (beside, plain): (Vec<_>, Vec<_>) = recalled.into_iter().partition(|it| it.beside);
            load_all(&host, plain).await;
            load_all(&host, beside).await;
        }
        Ok(host)
    }
}

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

fn of_store(error: StoreError) -> HostError {
    let hint = error.hint().to_owned();
    HostError::new(HostErrorKind::Storage, error.to_string())
        .with_hint(hint)
        .with_source(error)
}

/// Loads everything, in waves: first what needs nothing that another one provides, then what the first wave provides for, and so on.
async fn load_all(host: &Host, requests: Vec<LoadRequest>) {
    let mut entries = read_all(host, requests).await;
    while !entries.is_empty() {
        let waits = |(index, entry): (usize, &Entry)| {
            let others = || {
                entries
                    .iter()
                    .enumerate()
                    .filter(move |(other, _)| *other != index)
            };
            let provided =
                |service: &String| others().any(|(_, it)| it.package.manifest().provides.contains(service));
            let hard = entry
                .package
                .manifest()
                .requires
                .iter()
                .filter(|it| !it.optional && !it.lazy);
            hard.into_iter().any(|it| provided(&it.service))
        };
        let waiting: Vec<bool> = entries.iter().enumerate().map(waits).collect();
        // In a cycle all wait for each other; their checks say so better than we could.
        let stuck = waiting.iter().all(|it| *it);
        let (later, now): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .zip(waiting)
            .partition(|(_, waits)| *waits && !stuck);
        join_all(now.into_iter().map(|(entry, _)| load_one(host, entry))).await;
        entries = later.into_iter().map(|(entry, _)| entry).collect();
    }
}

/// Reads all packages; what cannot be read is listed as rejected.
async fn read_all(host: &Host, requests: Vec<LoadRequest>) -> Vec<Entry> {
    let fetched = join_all(requests.into_iter().map(|request| async {
        let package = load::fetch(host.shared(), &request.source).await;
        (request, package)
    }));
    // What the configuration named before wins over what is only remembered.
    let known: HashSet<String> = host.list().into_iter().map(|it| it.name).collect();
    let mut names = HashSet::new();
    let mut entries = Vec::new();
    for (request, package) in fetched.await {
        let package = match package {
            Ok(package) => package,
            Err(error) => {
                let name = request.name.clone().unwrap_or_else(|| stand_in(&request.source));
                host.reject(&name, &request.source, error).await;
                continue;
            }
        };
        let name = request
            .name
            .clone()
            .unwrap_or_else(|| package.plugin().name.to_string());
        if known.contains(&name) && !request.beside {
            continue;
        }
        if names.insert(name.clone()) || request.beside {
            entries.push(Entry {
                name,
                package,
                request,
            });
        } else {
            let what = format!("the name `{name}` is taken by an entry before it");
            let error =
                HostError::new(HostErrorKind::Conflict, what).with_hint("give each entry its own `name`");
            host.reject(
                &format!("{name}@{}", package.plugin().version),
                &request.source,
                error,
            )
            .await;
        }
    }
    entries
}

async fn load_one(host: &Host, entry: Entry) {
    let Entry {
        name,
        package,
        request,
    } = entry;
    let source = request.source.clone();
    match host.load_package(package, request).await {
        Ok(info) if is_well(info.state) => {}
        Ok(info) => {
            tracing::warn!(target: "mortise::life", plugin = name, state = %info.state, "a plugin of the configuration does not serve")
        }
        Err(error) => {
            tracing::error!(target: "mortise::life", plugin = name, %source, %error, hint = error.hint(), "a plugin of the configuration does not serve");
        }
    }
}

/// A name for something that could not say its own.
fn stand_in(source: &Source) -> String {
    match source {
        Source::Builtin(name) | Source::Embedded(name) => name.clone(),
        Source::Folder(path) => path.file_name().map_or_else(
            || path.display().to_string(),
            |it| it.to_string_lossy().into_owned(),
        ),
    }
}
