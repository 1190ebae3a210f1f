//! The host as its embedder sees it, and what all its parts share.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use mortise_lifecycle::{ProbationPolicy, RestartPolicy, State};
use mortise_manifest::{Permissions, RuntimeName, check_plugin_name};
use mortise_runtime::{
    CallError, CallErrorKind, Enclosure, Enforcement, Interrupt, Isolation, Lack, Runtime, RuntimeError,
    StreamHandle, Support,
};
use mortise_store::{
    DataDir, EmbeddedPackage, Journal, KeySpace, Kv, Package, StoreError, Transition, WatchedName,
};
use mortise_wire::{Header, Health, METHOD_IDEMPOTENT, METHOD_NONBLOCKING};
use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot, watch},
};
use tracing::trace_span;

use crate::{
    BoundMethod, CallOptions, CallerContract, Chart, CheckReport, Counters, HostBuilder, HostError,
    HostErrorKind, LoadRequest, MethodInfo, PluginCaller, PluginDetail, PluginInfo, Route, Source,
    UnloadReport,
    call::{self, Origin},
    canary::Canaries,
    config::Configs,
    depend,
    directory::{Brought, Directory},
    entries::Entries,
    events::Events,
    generation::{Address, Generation},
    history::{self, Word},
    load::{self, Entrance},
    methods::{self, MethodChange, MethodEvents, ServedMethod},
    reload::Configured,
    routes::Routing,
    services::NameLookup,
    stream,
    supervisor::{Command, Supervisor},
    table::{Table, Target},
    together,
    waiting::Waiting,
    webhook::Webhooks,
};

/// A running host. Cheap to clone; all clones are the same host. When the last one is dropped, its plugins are stopped in the background; call
/// [`Host::shutdown`] to wait for it.
#[derive(Clone)]
pub struct Host {
    owner: Arc<Owner>,
    /// Who holds this handle, for the history.
    actor: Arc<str>,
}

/// Closes the host when the last handle is gone; supervisors hold [`Shared`] themselves.
pub(crate) struct Owner(Arc<Shared>);

/// What the embedder added, or why it could not be made.
pub(crate) type Runtimes = HashMap<RuntimeName, Result<Arc<dyn Runtime>, RuntimeError>>;

/// What a host is made of; nothing of it changes while it lives.
pub(crate) struct Parts {
    pub(crate) runtimes: Runtimes,
    pub(crate) embedded: BTreeMap<String, EmbeddedPackage>,
    pub(crate) builtin: BTreeMap<String, Package>,
    pub(crate) prefer: Vec<RuntimeName>,
    pub(crate) propagate: Vec<String>,
    pub(crate) probation: ProbationPolicy,
    pub(crate) restarts: RestartPolicy,
    pub(crate) lookup: Arc<dyn NameLookup>,
    pub(crate) data: DataDir,
    pub(crate) journal: Journal,
    pub(crate) kv: Kv,
    /// What the host keeps for itself.
    pub(crate) own: KeySpace,
    /// Whether loads are kept for the host's next life.
    pub(crate) remembers: bool,
    /// Packages that are kept of each plugin, for rollbacks.
    pub(crate) keep_packages: usize,
    /// Where `data` is, if the host was not given a directory; removed with the host.
    pub(crate) _temporary: Option<tempfile::TempDir>,
}

/// What all tasks of a host share: its parts, and what changes while it lives.
pub(crate) struct Shared {
    pub(crate) parts: Parts,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) closing: watch::Sender<bool>,
    /// The runtime that the host lives on.
    pub(crate) tokio: Handle,
    /// What the configuration named last; held during a reload.
    pub(crate) configured: tokio::sync::Mutex<Configured>,
    /// The directory that is watched; locked after `configured`.
    pub(crate) directory: tokio::sync::Mutex<Directory>,
    /// What the directory brought, and where an operator had a word since.
    pub(crate) brought: Brought,
    /// What the configuration's entries said, and where somebody had a word since.
    pub(crate) entries: Entries,
    /// What is to run when its providers do.
    pub(crate) waiting: Waiting,
    /// Held while several plugins are loaded together: two such loads could wait for each other.
    pub(crate) together: tokio::sync::Mutex<()>,
    /// What the table is built with beside the addresses. Taken after `addresses`.
    pub(crate) routing: Mutex<Routing>,
    /// Held by whoever changes the routes, from the first look to the last.
    pub(crate) changing_routes: tokio::sync::Mutex<()>,
    method_events: MethodEvents,
    pub(crate) canaries: Canaries,
    pub(crate) events: Events,
    pub(crate) webhooks: Webhooks,
    /// What plugins are configured with, beside what stands at them.
    pub(crate) configs: Configs,
    addresses: Mutex<BTreeMap<Arc<str>, Arc<Address>>>,
    instances: AtomicU64,
}

/// Commands that wait for a supervisor that is busy.
const COMMANDS_MAX: usize = 64;
/// Longest wait for an answer of [`Host::health`].
const HEALTH_MAX: Duration = Duration::from_secs(1);

// === impl Host ===

impl Host {
    /// Collects what a host is made of.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    pub(crate) fn new(
        parts: Parts,
        routing: Routing,
        webhooks: Webhooks,
        events: Events,
        configs: Configs,
    ) -> Self {
        let shared = Arc::new(Shared::new(parts, routing, webhooks, events, configs));
        shared.watch_over_what_waits();
        shared.watch_over_subscriptions();
        Self {
            owner: Arc::new(Owner(shared)),
            actor: "api".into(),
        }
    }

    /// The same host, held by somebody of this name: it stands in the history beside everything that is asked through this handle.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<Arc<str>>) -> Self {
        Self {
            owner: self.owner.clone(),
            actor: actor.into(),
        }
    }

    pub(crate) fn actor(&self) -> &Arc<str> {
        &self.actor
    }

    /// For a task that must not keep the host open.
    pub(crate) fn downgrade(&self) -> Weak<Owner> {
        Arc::downgrade(&self.owner)
    }

    pub(crate) fn upgrade(owner: &Weak<Owner>) -> Option<Self> {
        Some(Self {
            owner: owner.upgrade()?,
            actor: "host".into(),
        })
    }

    /// Loads a plugin and returns when it serves. If one runs under the same name, it is replaced without losing a call (or stays beside the new
    /// one, with `request.beside`); on any failure it serves on.
    ///
    /// A fresh version that replaced another is on probation when this returns: [`Host::inspect`] tells what becomes of it.
    ///
    /// # Errors
    /// All reasons against it, or what kept it from starting.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the load.
    pub async fn load(&self, request: LoadRequest) -> Result<PluginInfo, HostError> {
        let shared = self.shared();
        let package = load::fetch(shared, &request.source).await?;
        let name = shared.name_for(&package, &request)?;
        let word = Word::from_operator(self);
        shared
            .load_at(&name, package, request, Entrance::Alone, &word)
            .await
    }

    /// Loads several plugins, all or none: each is checked with all the others in place, all are prepared and started, what requires another after
    /// it. When all of them are healthy, callers wait at a gate before each that is replaced, calls that came before end, state goes over, and all take
    /// over. Whatever goes wrong in any of them until then leaves every old one as it was, with its state. If one of them fails its probation, all of them go
    /// back together.
    ///
    /// No call meets both old and new ones. Callers wait for at most the least `Limits::swap` of those that are replaced, and a call that runs for longer
    /// keeps them all. A plugin that calls another one while it starts meets what serves then.
    ///
    /// # Errors
    /// All reasons against any of them, or what kept the first from starting. What served before still does, and what was new is gone.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the load.
    pub async fn load_all(&self, requests: Vec<LoadRequest>) -> Result<Vec<PluginInfo>, HostError> {
        let loading = self.shared().tokio.spawn(together::load(
            self.shared().clone(),
            requests,
            Word::from_operator(self),
        ));
        loading.await.unwrap_or_else(|_| {
            Err(HostError::new(
                HostErrorKind::ShuttingDown,
                "the load was given up, because the host's executor ends",
            ))
        })
    }

    /// Who requires what of whom, and in which order they start.
    #[must_use]
    pub fn graph(&self) -> Chart {
        self.shared().chart()
    }

    /// Lists a plugin that could not even be read, with the reasons.
    pub(crate) async fn reject(&self, name: &str, source: &Source, error: HostError) {
        if let Ok(address) = self.shared().address(name, source) {
            // A supervisor ends only when its address is unloaded; then there is nothing to list.
            let (reply, listed) = oneshot::channel();
            let _ = address.commands.send(Command::Reject(error, reply)).await;
            let _ = listed.await;
        }
    }

    /// Lists reasons under what serves at an address, in place of those that are listed.
    pub(crate) async fn explain(&self, name: &str, reasons: Vec<String>) {
        if let Ok(address) = self.shared().find(name) {
            let (reply, listed) = oneshot::channel();
            let _ = address.commands.send(Command::Explain(reasons, reply)).await;
            let _ = listed.await;
        }
    }

    /// Drains and stops a plugin: `name`, or `name@version`.
    ///
    /// # Errors
    /// If there is none, and `Conflict` if a plugin that runs requires it: [`HostError::reasons`] lists them all.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the unload.
    pub async fn unload(&self, plugin: &str) -> Result<UnloadReport, HostError> {
        let shared = self.shared();
        let address = shared.find(plugin)?;
        shared
            .unload_unrequired(&address, plugin, &Word::from_operator(self))
            .await
    }

    /// Drains and stops a plugin and every plugin that cannot run without it, one after another, each before those it requires. The reports are in
    /// that order; the last is the plugin's own.
    ///
    /// # Errors
    /// If there is none, or the first unload that fails; what went before is gone.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun, and begins nothing more.
    pub async fn unload_cascade(&self, plugin: &str) -> Result<Vec<UnloadReport>, HostError> {
        let shared = self.shared();
        let address = shared.find(plugin)?;
        let word = Word::from_operator(self);
        let mut reports = Vec::new();
        for dependent in shared.dependents(&address) {
            // One that is gone already was unloaded by somebody else in between.
            if let Ok(dependent) = shared.find(&dependent.address) {
                reports.push(shared.unload(&dependent, &word).await?);
            }
        }
        reports.push(shared.unload(&address, &word).await?);
        Ok(reports)
    }

    /// All plugins, by name; also those that failed or were rejected.
    #[must_use]
    pub fn list(&self) -> Vec<PluginInfo> {
        self.shared().all().iter().map(|it| it.info()).collect()
    }

    /// Everything about one plugin.
    ///
    /// # Errors
    /// If there is none.
    pub fn inspect(&self, plugin: &str) -> Result<PluginDetail, HostError> {
        let shared = self.shared();
        let address = shared.find(plugin)?;
        Ok(shared.detail(&address))
    }

    /// Runs the static checks for every variant of a package and starts nothing.
    ///
    /// # Errors
    /// If there is nothing to check.
    pub async fn check(&self, source: &Source) -> Result<CheckReport, HostError> {
        load::check(self.shared(), source).await
    }

    /// Finds who answers a target: `package.Service/Method`, `plugin.{name}.{method}` or `plugin.{name}@{version}.{method}`.
    ///
    /// # Errors
    /// `NotFound` with what there is instead, `Unavailable` if the plugin is down.
    pub fn resolve(&self, target: &str, headers: &[Header]) -> Result<Route, CallError> {
        let _span = trace_span!(target: "mortise::call", "resolve", method = target).entered();
        self.shared().resolve(target, headers).map(Route)
    }

    /// Resolves and calls.
    ///
    /// # Errors
    /// The plugin's own status, or what kept it from answering.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn call(&self, target: &str, payload: Bytes, options: CallOptions) -> Result<Bytes, CallError> {
        let route = self.resolve(target, &options.headers)?;
        self.call_route(&route, payload, options).await
    }

    /// Calls what was resolved before.
    ///
    /// # Errors
    /// As [`Host::call`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn call_route(
        &self,
        route: &Route,
        payload: Bytes,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        call::call(
            &route.0,
            payload,
            Origin::outside(options, &self.shared().parts.propagate),
        )
        .await
    }

    /// Resolves and opens a call of a streaming method. The handle's halves may go to two tasks; dropping either before its end cancels the call.
    ///
    /// The call has a deadline like any other, over its whole life: a stream that is to stay open names a late one. A swap waits for it for as long as a
    /// stop may take, then it ends with `Draining` and may be opened again.
    ///
    /// # Errors
    /// What kept the call from being opened, `Incompatible` for a unary method. What becomes of it is told by the receiving half.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn open_stream(&self, target: &str, options: CallOptions) -> Result<StreamHandle, CallError> {
        let route = self.resolve(target, &options.headers)?;
        self.open_stream_route(&route, options).await
    }

    /// Opens a call of what was resolved before.
    ///
    /// # Errors
    /// As [`Host::open_stream`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn open_stream_route(
        &self,
        route: &Route,
        options: CallOptions,
    ) -> Result<StreamHandle, CallError> {
        stream::open(&route.0, Origin::outside(options, &self.shared().parts.propagate)).await
    }

    /// Looks a method up once, for synchronous calls. Routes decide once, too, and only between plugins: unless the target names a version, it is
    /// that with the plain name, so a version beside it, a canary say, gets none of its calls.
    ///
    /// # Errors
    /// As [`Host::resolve`].
    pub fn bind(&self, target: &str) -> Result<BoundMethod, CallError> {
        let mut route = self.resolve(target, &[])?;
        if let Some((base, _)) = route.plugin().split_once('@')
            && !target.contains('@')
            && let Ok(plain) = self.shared().find(base)
            && let Some(found) = self.shared().table.load().at(&plain, route.target())
        {
            route = Route(found.clone());
        }
        Ok(BoundMethod::new(self.clone(), route, self.shared().tokio.clone()))
    }

    /// As [`Host::bind`], for a caller that was built against this contract. What has to be done to its bytes is worked out here, and again when the
    /// plugin is swapped; where nothing has to be done, a call costs one look more.
    ///
    /// # Errors
    /// As [`Host::bind`], and `Incompatible` with everything that is in the way.
    pub fn bind_with(&self, target: &str, contract: &CallerContract) -> Result<BoundMethod, CallError> {
        let mut bound = self.bind(target)?;
        if let Ok(generation) = call::serving(&bound.route().0.address) {
            generation.plan(contract, &bound.route().0)?;
        }
        bound.set_contract(contract.clone());
        Ok(bound)
    }

    /// Asks a plugin how it is.
    ///
    /// # Errors
    /// If there is none, it does not serve, or it does not answer within a second.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the question.
    pub async fn health(&self, plugin: &str) -> Result<Health, CallError> {
        let of_host = |error: HostError| CallError::new(CallErrorKind::NotFound, error.to_string());
        let address = self.shared().find(plugin).map_err(of_host)?;
        let generation = call::serving(&address)?;
        match tokio::time::timeout(HEALTH_MAX, generation.instance.health()).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::new(
                CallErrorKind::Deadline,
                format!("plugin `{plugin}` did not say within {HEALTH_MAX:?} how it is"),
            )),
        }
    }

    /// What each runtime can do on this machine.
    #[must_use]
    pub fn supports(&self) -> Vec<Support> {
        let support = |(name, made): (&RuntimeName, &Result<Arc<dyn Runtime>, RuntimeError>)| match made {
            Ok(runtime) => runtime.support(),
            Err(error) => unmade(*name, error),
        };
        let mut all: Vec<_> = self.shared().parts.runtimes.iter().map(support).collect();
        all.sort_by_key(|it| it.runtime);
        all
    }

    /// The layers that this machine can put around plugins of a runtime; `None` where there are none to speak of. The first call may try them out, which
    /// takes some milliseconds.
    pub fn enclosure(&self, runtime: RuntimeName) -> Option<Enclosure> {
        let made = self.shared().parts.runtimes.get(&runtime)?;
        made.as_ref().ok()?.enclosure()
    }

    /// Drains and stops everything, each plugin before those it requires: until its turn comes, a plugin can still call them. Later calls
    /// answer `Unavailable`. Twice is the same as once.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the shutdown.
    pub async fn shutdown(&self) {
        self.shared().closing.send_replace(true);
        self.shared().directory.lock().await.end().await;
        self.shared().close().await;
    }

    /// Whether [`Host::shutdown`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.shared().closing.borrow()
    }

    /// A caller for generated clients whose calls all go to one plugin: `FooClient::new(host.plugin("foo"))`. Of several versions of it, routes and
    /// weights choose, unless the name is `name@version`.
    #[must_use]
    pub fn plugin(&self, name: &str) -> PluginCaller {
        PluginCaller::new(self.clone(), name.into())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("plugins", &self.list().len())
            .finish_non_exhaustive()
    }
}

impl Deref for Owner {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        if self.all().is_empty() {
            // As after a shutdown: nothing is left that would hold the data directory a moment longer.
            return;
        }
        let shared = self.0.clone();
        self.tokio.spawn(async move { shared.close().await });
    }
}

// === impl Shared ===

impl Shared {
    fn new(parts: Parts, routing: Routing, webhooks: Webhooks, events: Events, configs: Configs) -> Self {
        Self {
            parts,
            events,
            configs,
            canaries: Canaries::default(),
            webhooks,
            routing: Mutex::new(routing),
            changing_routes: tokio::sync::Mutex::default(),
            method_events: MethodEvents::new(),
            table: ArcSwap::default(),
            closing: watch::Sender::new(false),
            tokio: Handle::current(),
            configured: tokio::sync::Mutex::default(),
            directory: tokio::sync::Mutex::default(),
            brought: Brought::default(),
            entries: Entries::default(),
            waiting: Waiting::new(),
            together: tokio::sync::Mutex::default(),
            addresses: Mutex::default(),
            instances: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_instance(&self) -> u64 {
        self.instances.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn resolve(&self, target: &str, headers: &[Header]) -> Result<Arc<Target>, CallError> {
        match self.table.load().resolve(target, headers) {
            Ok(found) => Ok(found.clone()),
            Err(_) if *self.closing.borrow() => Err(CallError::new(
                CallErrorKind::Unavailable,
                "the host is shut down",
            )),
            Err(refused) => Err(refused),
        }
    }

    pub(crate) fn refusal_at(&self, name: &str, target: &str) -> CallError {
        match self.find(name).map(|address| call::serving(&address)) {
            Ok(Ok(_)) => CallError::new(
                CallErrorKind::NotFound,
                format!("plugin `{name}` has no method `{target}`"),
            ),
            Ok(Err(unavailable)) => unavailable,
            Err(unknown) => CallError::new(CallErrorKind::NotFound, unknown.to_string()),
        }
    }

    // --- addresses ---

    /// The address of this name; made, with its supervisor, if there is none.
    pub(crate) fn address(self: &Arc<Self>, name: &str, source: &Source) -> Result<Arc<Address>, HostError> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.closing.borrow() {
            return Err(HostError::new(
                HostErrorKind::ShuttingDown,
                "the host is shutting down",
            ));
        }
        if let Some(known) = addresses.get(name) {
            return Ok(known.clone());
        }
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let name: Arc<str> = name.into();
        let address = Arc::new(Address::new(name.clone(), commands, source.to_string().into()));
        addresses.insert(name, address.clone());
        self.store_table(&addresses);
        self.tokio
            .spawn(Supervisor::new(self.clone(), address.clone(), inbox).run());
        Ok(address)
    }

    /// Has the supervisor of its name load a package.
    pub(crate) async fn load_at(
        self: &Arc<Self>,
        name: &str,
        package: Package,
        request: LoadRequest,
        entrance: Entrance,
        word: &Word,
    ) -> Result<PluginInfo, HostError> {
        let begun = history::begin_load(self, word, name, &package, &request).await?;
        let (loaded, keeps_one_more) = tokio::join!(
            self.load_unrecorded(name, &package, &request, entrance),
            history::keep_package(self, &package)
        );
        begun.conclude(self, loaded.as_ref().err()).await?;
        if keeps_one_more {
            history::prune_packages(self).await;
        }
        loaded
    }

    pub(crate) async fn load_unrecorded(
        self: &Arc<Self>,
        name: &str,
        package: &Package,
        request: &LoadRequest,
        entrance: Entrance,
    ) -> Result<PluginInfo, HostError> {
        self.waiting.remove(name);
        self.configs.let_go(name);
        loop {
            let address = self.address(name, &request.source)?;
            let (reply, answer) = oneshot::channel();
            let (package, request) = (Box::new(package.clone()), Box::new(request.clone()));
            let command = Command::Load(package, request, entrance.clone(), reply);
            if address.commands.send(command).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
            // An unload came in between; the next supervisor of this name takes it.
            self.gone(&address).await;
        }
    }

    /// The address that a load is for.
    pub(crate) fn name_for(&self, package: &Package, request: &LoadRequest) -> Result<String, HostError> {
        let own = || package.plugin().name.to_string();
        let name = request.name.clone().unwrap_or_else(own);
        check_plugin_name(&name).map_err(|error| {
            HostError::new(HostErrorKind::Invalid, error.to_string())
                .with_hint(error.hint().unwrap_or_default())
        })?;
        if request.beside {
            self.name_beside(&name, package)
        } else {
            Ok(name)
        }
    }

    /// Has the supervisor of an address unload it, whoever may require it.
    pub(crate) async fn unload(&self, address: &Address, word: &Word) -> Result<UnloadReport, HostError> {
        let begun = history::begin_unload(self, word, &address.name).await?;
        let unloaded = self.unload_unrecorded(address).await;
        begun.conclude(self, unloaded.as_ref().err()).await?;
        unloaded
    }

    /// The same, unless what runs requires it.
    pub(crate) async fn unload_unrequired(
        &self,
        address: &Arc<Address>,
        plugin: &str,
        word: &Word,
    ) -> Result<UnloadReport, HostError> {
        let dependents = self.dependents(address);
        if dependents.is_empty() {
            self.unload(address, word).await
        } else {
            Err(depend::still_required(plugin, &dependents))
        }
    }

    /// Drains and stops a plugin; nobody hears of it.
    pub(crate) async fn unload_unrecorded(&self, address: &Address) -> Result<UnloadReport, HostError> {
        self.waiting.remove(&address.name);
        self.configs.let_go(&address.name);
        let (reply, answer) = oneshot::channel();
        let gone = || self.unknown_plugin(&address.name);
        address
            .commands
            .send(Command::Unload(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Stops everything, what is required after what requires it. Nothing new comes in from the first moment on.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        self.events.stop().await;
        let all = self.all();
        let known = self.known();
        let find = |index: &usize| all.iter().find(|it| it.name == known[*index].address);
        // First what never served: it may hang in its start.
        let fresh = all
            .iter()
            .filter(|it| !known.iter().any(|known| known.address == it.name));
        let mut levels: Vec<Vec<&Arc<Address>>> = vec![fresh.collect()];
        let order = depend::stop_order(&known);
        levels.extend(order.iter().map(|level| level.iter().filter_map(find).collect()));
        // What sources say is kept of plugins that there are.
        self.keep_configs().await;
        for level in levels {
            for address in &level {
                address.closing.send_replace(true);
            }
            for address in level {
                address.commands.closed().await;
            }
        }
        // One that came while the list was made.
        for address in self.all() {
            address.closing.send_replace(true);
            address.commands.closed().await;
        }
        self.keep_configs().await;
        self.events.close().await;
    }

    /// Where a version runs beside the one that has the name; the plain name if nothing runs there.
    fn name_beside(&self, name: &str, package: &Package) -> Result<String, HostError> {
        let Ok(first) = self.find(name) else {
            return Ok(name.to_owned());
        };
        let Ok(serving) = call::serving(&first) else {
            return Ok(name.to_owned());
        };
        let version = &package.plugin().version;
        if serving.plugin.version == *version {
            let what = format!("version {version} of plugin `{name}` runs already");
            return Err(HostError::new(HostErrorKind::Conflict, what)
                .with_plugin(name)
                .with_hint("load it without `beside` to replace it, or under another name"));
        }
        Ok(format!("{name}@{version}"))
    }

    /// `name`, or `name@version` for one that runs beside another or is the only one of that version.
    pub(crate) fn find(&self, plugin: &str) -> Result<Arc<Address>, HostError> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let of_version = || {
            let (name, version) = plugin.split_once('@')?;
            let address = addresses.get(name)?;
            let serving = call::serving(address).ok()?;
            (serving.plugin.version.to_string() == version).then_some(address)
        };
        match addresses.get(plugin).or_else(of_version) {
            Some(address) => Ok(address.clone()),
            None => {
                drop(addresses);
                Err(self.unknown_plugin(plugin))
            }
        }
    }

    fn unknown_plugin(&self, plugin: &str) -> HostError {
        let names: Vec<_> = self.all().iter().map(|it| format!("`{}`", it.name)).collect();
        let hint = if names.is_empty() {
            "no plugin is loaded".to_owned()
        } else {
            format!("loaded are {}", names.join(", "))
        };
        HostError::new(HostErrorKind::NotFound, format!("there is no plugin `{plugin}`"))
            .with_plugin(plugin)
            .with_hint(hint)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Address>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Forgets an address whose supervisor ends.
    pub(crate) fn forget(&self, address: &Address) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses
            .get(&address.name)
            .is_some_and(|it| std::ptr::eq(&**it, address))
        {
            addresses.remove(&address.name);
        }
        self.store_table(&addresses);
        self.events.look();
    }

    /// Waits until an address is forgotten.
    pub(crate) async fn gone(&self, address: &Address) {
        address.commands.closed().await;
        self.forget(address);
    }

    /// Publishes what all addresses serve now.
    pub(crate) fn rebuild_table(&self) {
        {
            let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            self.store_table(&addresses);
        }
        self.waiting.look();
        self.events.look();
        self.configs.look();
    }

    /// The lock is held meanwhile, so that of two tables the newer one stays.
    fn store_table(&self, addresses: &BTreeMap<Arc<str>, Arc<Address>>) {
        let new = Arc::new(Table::of(addresses.values().cloned(), self.routing().rules()));
        let old = self.table.swap(new.clone());
        self.method_events.tell(&old, &new);
    }

    /// A subscription, and what is served when it begins.
    pub(crate) fn subscribe_to_methods(&self) -> (broadcast::Receiver<MethodChange>, Vec<ServedMethod>) {
        // Tables change under this lock only.
        let _addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let served = methods::list(&self.table.load().served());
        (self.method_events.subscribe(), served)
    }

    // --- journal ---

    /// Writes moves down; they survive this process when this returns.
    pub(crate) async fn journal(&self, run: Vec<Transition>) -> Result<(), HostError> {
        let at = std::time::SystemTime::now();
        self.with_journal(move |journal| journal.append_all(at, &run))
            .await
            .map(|_| ())
    }

    /// Notes what the watched directory has under a name, for the host's next life.
    pub(crate) async fn note_watched(&self, name: &str, digest: Option<String>, held: bool) {
        let name = name.to_owned();
        self.note_word(WatchedName { name, digest, held }).await;
    }

    /// The same, also of an entry of the configuration.
    pub(crate) async fn note_word(&self, word: WatchedName) {
        if !self.parts.remembers {
            return;
        }
        let name = word.name.clone();
        if let Err(error) = self.with_journal(move |it| it.note_watched(&word)).await {
            tracing::warn!(target: "mortise::life", plugin = name, %error, "the next life of this host will not know what was said last of it");
        }
    }

    /// The runtime of this name, if the host has it.
    pub(crate) fn runtime(&self, name: RuntimeName) -> Option<&Arc<dyn Runtime>> {
        self.parts.runtimes.get(&name)?.as_ref().ok()
    }

    /// Puts the digest of a generation into quarantine. A disk that does not take that is told of, and nothing else: what is bad goes all the same.
    pub(crate) async fn quarantine(&self, plugin: &str, generation: &Generation, reason: &str) {
        let (digest, of, reason) = (generation.digest, generation.plugin.clone(), reason.to_owned());
        let now = std::time::SystemTime::now();
        let (name, version) = (of.name.to_string(), of.version.to_string());
        let written = self.with_journal(move |it| it.quarantine(now, digest, &name, &version, &reason));
        if let Err(error) = written.await {
            tracing::error!(target: "mortise::life", plugin, %error, "the quarantine of {digest} is not in the journal");
        }
    }

    /// Works with the journal on a thread that may block.
    pub(crate) async fn with_journal<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, HostError> {
        let journal = self.parts.journal.clone();
        match tokio::task::spawn_blocking(move || work(&journal)).await {
            Ok(done) => done.map_err(|error| {
                let hint = error.hint().to_owned();
                HostError::new(HostErrorKind::Storage, error.to_string())
                    .with_hint(hint)
                    .with_source(error)
            }),
            Err(_) => Err(HostError::new(
                HostErrorKind::Storage,
                "the journal gave up on a request",
            )),
        }
    }

    // --- inspect ---

    fn detail(&self, address: &Address) -> PluginDetail {
        let info = address.info();
        let status = address.status.load();
        let serving = status.current.as_deref();
        let counters = Counters {
            calls: info.calls,
            errors: info.errors,
            in_flight: info.in_flight,
            starts: status.starts,
            crashes: status.crashes,
            faults: status.past.faults
                + status
                    .current
                    .iter()
                    .chain(&status.others)
                    .map(|it| it.stats.totals().faults)
                    .sum::<u64>(),
            ..serving.map(counters_of).unwrap_or_default()
        };
        PluginDetail {
            instance: serving.map(|it| it.instance.id().to_string()),
            methods: serving.map(methods_of).unwrap_or_default(),
            adapts: serving
                .map(|it| it.lineage.steps().iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            adapted: serving.map(Generation::adapted).unwrap_or_default(),
            requires: serving
                .map(|it| {
                    it.manifest
                        .requires
                        .iter()
                        .map(mortise_manifest::Requirement::target)
                        .collect()
                })
                .unwrap_or_default(),
            declared: serving.map_or_else(Permissions::default, |it| it.manifest.permissions.clone()),
            granted: serving.map_or_else(Permissions::default, |it| it.granted.clone()),
            restart: status.restart,
            limits: serving.map(|it| it.limits.clone()).unwrap_or_default(),
            counters,
            state: status.state_info.clone(),
            usage: serving.map(|it| it.instance.usage()).unwrap_or_default(),
            enclosure: serving.and_then(|it| it.instance.enclosure()),
            denied: serving.map(|it| it.services.denials.last()).unwrap_or_default(),
            history: status.history.iter().cloned().collect(),
            support: info
                .runtime
                .and_then(|it| self.runtime(it))
                .map(|it| it.support()),
            info,
        }
    }
}

fn counters_of(serving: &Generation) -> Counters {
    let ns = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
    Counters {
        waiting: serving.admission.waiting(),
        stream_messages: serving.streams.messages.load(Ordering::Relaxed),
        stream_bytes: serving.streams.bytes.load(Ordering::Relaxed),
        log_lines_dropped: serving.services.log_lines_dropped(),
        denials: serving.services.denials.count(),
        latency_samples: serving.stats.samples(),
        latency_p50_ns: ns(serving.stats.quantile(0.5)),
        latency_p99_ns: ns(serving.stats.quantile(0.99)),
        ..Counters::default()
    }
}

fn methods_of(serving: &Generation) -> Vec<MethodInfo> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let methods = serving.metadata.public_methods().iter();
    methods
        .map(|method| MethodInfo {
            service: method.service.clone(),
            name: method.name.clone(),
            wire_hash: hex(&method.wire_hash),
            full_hash: hex(&method.full_hash),
            idempotent: method.flags & METHOD_IDEMPOTENT != 0,
            nonblocking: method.flags & METHOD_NONBLOCKING != 0,
        })
        .collect()
}

/// What can be said of a runtime that could not be made.
fn unmade(runtime: RuntimeName, error: &RuntimeError) -> Support {
    Support {
        runtime,
        available: false,
        isolation: Isolation::None,
        interrupt: Interrupt::Never,
        memory_limit: Enforcement::NotEnforced("the runtime is missing"),
        cpu_limit: Enforcement::NotEnforced("the runtime is missing"),
        purity: Enforcement::NotEnforced("the runtime is missing"),
        restartable: false,
        lacks: vec![Lack {
            what: "runtime",
            why: format!("{error}; {}", error.hint()),
        }],
    }
}

/// Whether a state is one that a plugin should be in.
pub(crate) fn is_well(state: State) -> bool {
    state.is_routed()
}
