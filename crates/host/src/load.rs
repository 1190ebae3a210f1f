//! From a request to a healthy instance: fetch, verify, prepare, start. Nothing here changes what serves.
//!
//! Each phase is a span with exactly that name in target `mortise::load`. Up to `start` none of the plugin's code runs, and whatever can be
//! refused on bytes is refused with all reasons at once.

use std::{sync::Arc, time::Duration};

use mortise_contract::evolve::Lineage;
use mortise_manifest::{Grant, Jail, Limits, Manifest, Permissions, Restart, RuntimeName};
use mortise_runtime::{
    Artifact, Digest, Enforcement, InstanceId, Prepared, Refusal, Runtime, RuntimeError, RuntimeErrorKind,
    Start, Verified,
};
use mortise_store::{Package, StoreError};
use mortise_wire::{METHOD_IDEMPOTENT, lifecycle::Reserved};
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use crate::{
    CheckReport, HostError, HostErrorKind, LoadRequest, Source, VariantReport,
    adapt::{CallerContract, Plans, Purity},
    admission::Admission,
    config::{self, Choice, Configured, For, How, Ready},
    depend::{self, Known, MISSING},
    events,
    generation::{Address, Generation, Seat},
    host::Shared,
    services::{About, Parts, Services},
    stats::Stats,
    stream::Streams,
    together::Ticket,
};

/// Everything that is needed to start a plugin, and to start it again after a crash.
pub(crate) struct Launch {
    pub(crate) verified: Verified,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) granted: Permissions,
    pub(crate) jail: Jail,
    /// Its word that it is pure is taken for it.
    pub(crate) trust_adapter: bool,
    pub(crate) restart: Restart,
    pub(crate) limits: Limits,
    /// Its own terms: what it is configured with before any source has a word.
    pub(crate) config: Arc<serde_json::Map<String, serde_json::Value>>,
    pub(crate) source: Arc<str>,
    /// The operator insists: state that does not fit is left behind.
    pub(crate) force: bool,
}

/// In whose company a plugin is loaded.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// By itself: what it requires is there, or it is refused.
    Alone,
    /// As `Alone`; if it is refused for what is missing, it is loaded again when that is there.
    Waits,
    /// With others, all or none.
    Together(Ticket),
}

/// How often a fresh instance is asked whether it is healthy.
const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// What a runtime may need beyond `Limits::start` to take back what it started.
const START_SLACK: Duration = Duration::from_secs(2);

// === impl Launch ===

impl Launch {
    fn grant(&self) -> Grant {
        Grant {
            permissions: self.granted.clone(),
            jail: self.jail,
            trust_adapter: self.trust_adapter,
        }
    }

    fn purity(&self) -> Purity {
        Purity::of(&self.manifest, &*self.runtime, self.trust_adapter)
    }
}

// === fetch ===

/// Reads a package, whole.
pub(crate) async fn fetch(shared: &Shared, source: &Source) -> Result<Package, HostError> {
    let of_store = |error: StoreError| {
        let hint = error.hint().to_owned();
        let reasons = faults(&error);
        HostError::new(HostErrorKind::Refused, error.to_string())
            .with_hint(hint)
            .with_reasons(reasons)
            .with_source(error)
    };
    let read = |open: Box<dyn FnOnce() -> Result<Package, StoreError> + Send>| async move {
        match tokio::task::spawn_blocking(open).await {
            Ok(opened) => opened.map_err(of_store),
            Err(_) => Err(HostError::new(
                HostErrorKind::Storage,
                "reading a package was given up",
            )),
        }
    };
    let span = info_span!(target: "mortise::load", "fetch", %source);
    async {
        match source {
            Source::Folder(path) => {
                let path = path.clone();
                read(Box::new(move || Package::open(path))).await
            }
            Source::Embedded(name) => {
                let package = *shared
                    .parts
                    .embedded
                    .get(name)
                    .ok_or_else(|| unknown_source(source, shared.parts.embedded.keys()))?;
                read(Box::new(move || Package::embedded(&package))).await
            }
            Source::Kept(text) => {
                let digest = Digest::parse(text).ok_or_else(|| {
                    HostError::new(
                        HostErrorKind::NotFound,
                        format!("`{text}` is no digest of a package"),
                    )
                    .with_hint("`mortise history --output json` has the digests of packages that are kept")
                })?;
                let shelf = shared.parts.data.packages().clone();
                read(Box::new(move || shelf.get(digest))).await
            }
            Source::Builtin(name) => shared
                .parts
                .builtin
                .get(name)
                .cloned()
                .ok_or_else(|| unknown_source(source, shared.parts.builtin.keys())),
        }
    }
    .instrument(span)
    .await
}

fn unknown_source<'a>(source: &Source, known: impl Iterator<Item = &'a String>) -> HostError {
    let known: Vec<_> = known.map(|it| format!("`{it}`")).collect();
    let known = if known.is_empty() {
        "none of its kind".to_owned()
    } else {
        known.join(", ")
    };
    let what = format!("there is no `{source}`; this program has {known}");
    HostError::new(HostErrorKind::NotFound, what)
        .with_hint("correct the name, or load the plugin from its package folder")
}

/// Every fault that a package's error carries.
fn faults(error: &StoreError) -> Vec<Refusal> {
    let refusal = |error: &StoreError| Refusal {
        what: "package".to_owned(),
        why: with_causes(error),
        hint: error.hint().to_owned(),
    };
    std::iter::once(error).chain(error.also()).map(refusal).collect()
}

/// A message with its causes; `Display` of an error never repeats them.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(it) = cause {
        let it_text = it.to_string();
        if !text.contains(&it_text) {
            text = format!("{text}: {it_text}");
        }
        cause = it.source();
    }
    text
}

// === verify ===

/// The static checks: runs none of the plugin's code, takes nothing, and finds all reasons.
pub(crate) async fn verify(
    shared: &Shared,
    address: &str,
    package: &Package,
    request: &LoadRequest,
    entrance: &Entrance,
) -> Result<Launch, Vec<Refusal>> {
    let span = info_span!(target: "mortise::load", "verify", plugin = %package.plugin());
    async {
        let manifest = package.manifest().clone();
        let mut refusals = Vec::new();
        let config = config::read_own(request.config_json.as_deref()).unwrap_or_else(|refusal| {
            refusals.push(refusal);
            Arc::default()
        });
        ungranted(&manifest, &request.grant, &mut refusals);
        refusals.extend(undependable(shared, address, package, entrance));
        let verified = match choose(shared, package, request.runtime) {
            Ok((runtime, artifact)) => {
                let checked = verify_artifact(&runtime, artifact).await;
                checked
                    .map(|it| (runtime, it))
                    .map_err(|all| refusals.extend(all))
                    .ok()
            }
            Err(refusal) => {
                refusals.push(refusal);
                None
            }
        };
        let asked = For {
            name: address,
            own: &config,
            manifest: &manifest,
            contract: package.contract(),
            digest: verified.as_ref().map(|(_, it)| it.artifact().digest),
        };
        if refusals.iter().all(|it| it.what != config::WHAT) {
            refusals.extend(
                shared
                    .configs
                    .candidates(asked, Choice::Any)
                    .err()
                    .unwrap_or_default(),
            );
        }
        if let Some((_, verified)) = &verified {
            refusals.extend(without_state(&manifest, verified));
            refusals.extend(not_pure(&manifest, verified));
            refusals.extend(events::refusals(shared, &manifest, &verified.artifact().contract).await);
        }
        match verified {
            Some((runtime, verified)) if refusals.is_empty() => Ok(Launch {
                verified,
                runtime,
                granted: manifest.permissions.intersection(&request.grant.permissions),
                jail: request.grant.jail,
                trust_adapter: request.grant.trust_adapter,
                restart: request.restart,
                limits: request.limits.apply(manifest.limits.apply(Limits::default())),
                manifest,
                lineage: package.lineage().clone(),
                config,
                source: package.origin().into(),
                force: request.force,
            }),
            _ => Err(refusals),
        }
    }
    .instrument(span)
    .await
}

/// The runtime to use: the one asked for, or the first of the host's preference that works here and for which there is a variant.
fn choose(
    shared: &Shared,
    package: &Package,
    asked: Option<RuntimeName>,
) -> Result<(Arc<dyn Runtime>, Artifact), Refusal> {
    let mut why = Vec::new();
    let candidates = match asked {
        Some(name) => vec![name],
        None => std::iter::once(RuntimeName::Builtin)
            .chain(shared.parts.prefer.iter().copied())
            .collect(),
    };
    for name in candidates {
        let Some(artifact) = package.artifact(name) else {
            if asked.is_some() {
                why.push(format!("the package has no variant for {name}"));
            }
            continue;
        };
        let runtime = match shared.parts.runtimes.get(&name) {
            Some(Ok(runtime)) => runtime,
            Some(Err(error)) => {
                why.push(format!("the runtime {name} could not be made: {error}"));
                continue;
            }
            None => {
                why.push(format!("this host was made without the runtime {name}"));
                continue;
            }
        };
        let support = runtime.support();
        if support.available {
            return Ok((runtime.clone(), artifact.clone()));
        }
        let lacks: Vec<_> = support
            .lacks
            .iter()
            .map(|it| format!("{}: {}", it.what, it.why))
            .collect();
        why.push(format!(
            "{name} does not work on this machine ({})",
            lacks.join("; ")
        ));
    }
    let variants: Vec<_> = package.artifacts().iter().map(|it| it.runtime.as_str()).collect();
    if why.is_empty() {
        why.push("the host's preference (`runtime.prefer`) names none of its variants".to_owned());
    }
    Err(Refusal {
        what: "runtime".to_owned(),
        why: why.join(", and "),
        hint: format!(
            "the package has variants for {}; build another with `mortise build --runtime`, or ask for one of these",
            variants.join(", ")
        ),
    })
}

async fn verify_artifact(runtime: &Arc<dyn Runtime>, artifact: Artifact) -> Result<Verified, Vec<Refusal>> {
    let runtime = runtime.clone();
    let read = tokio::task::spawn_blocking(move || {
        let metadata = runtime
            .read_metadata(&artifact)
            .map_err(|error| vec![of_runtime("artifact", &error)])?;
        artifact.verify(metadata)
    });
    read.await.unwrap_or_else(|_| {
        Err(vec![Refusal {
            what: "artifact".to_owned(),
            why: "the runtime panicked over its metadata".to_owned(),
            hint: "report it, with the artifact".to_owned(),
        }])
    })
}

pub(crate) fn of_runtime(what: &str, error: &RuntimeError) -> Refusal {
    Refusal {
        what: what.to_owned(),
        why: with_causes(error),
        hint: error.hint().to_owned(),
    }
}

/// A plugin that says it has state, and has no methods for it.
fn without_state(manifest: &Manifest, verified: &Verified) -> Option<Refusal> {
    let schema = manifest.state_schema.as_ref()?;
    let (metadata, contract) = (verified.metadata(), &verified.artifact().contract);
    let (why, hint) = if contract.message_wire_hash(schema).is_none() {
        (
            format!("its manifest says `schema = \"{schema}\"`, and its contract declares no such message"),
            "declare the message, and build the plugin again",
        )
    } else if [Reserved::SaveState, Reserved::LoadState]
        .iter()
        .any(|it| metadata.reserved(*it).is_none())
    {
        (
            format!(
                "its manifest says `schema = \"{schema}\"`, and its {} artifact cannot save and load it",
                verified.artifact().runtime
            ),
            "build the plugin again with `mortise build`; a plugin that was made for go-plugin cannot have state",
        )
    } else {
        return None;
    };
    Some(Refusal {
        what: "state".to_owned(),
        why,
        hint: hint.to_owned(),
    })
}

/// A plugin that says it is pure, and has methods that only others need.
fn not_pure(manifest: &Manifest, verified: &Verified) -> Option<Refusal> {
    let reserved = |it: &Reserved| verified.metadata().reserved(*it).is_some();
    let found = Reserved::ALL
        .into_iter()
        .find(|it| manifest.pure && reserved(it))?;
    Some(Refusal {
        what: "pure".to_owned(),
        why: format!(
            "its manifest says `pure = true`, and its {} artifact has the method `{}`",
            verified.artifact().runtime,
            found.name()
        ),
        hint: "build the plugin again with `mortise build`".to_owned(),
    })
}

fn ungranted(manifest: &Manifest, grant: &Grant, refusals: &mut Vec<Refusal>) {
    refusals.extend(
        manifest
            .permissions
            .missing_from(grant)
            .into_iter()
            .map(|permission| Refusal {
                what: "permissions".to_owned(),
                why: format!("it declares `{permission}`, and no grant allows it"),
                hint: format!(
                    "add `{permission}` to the plugin's `grant`, or remove it from its plugin.toml"
                ),
            }),
    );
}

/// What its dependencies, and those of others on it, say against it.
fn undependable(shared: &Shared, address: &str, package: &Package, entrance: &Entrance) -> Vec<Refusal> {
    let now = shared.known();
    match entrance {
        Entrance::Alone => depend::refusals(&now, &[Known::of_package(address, package)], 0),
        Entrance::Waits => {
            let mut refusals = depend::refusals(&now, &[Known::of_package(address, package)], 0);
            if refusals.iter().all(|it| it.what == MISSING) {
                for refusal in &mut refusals {
                    refusal.why += "; it starts by itself when a provider is there";
                }
            }
            refusals
        }
        Entrance::Together(ticket) => depend::refusals(&now, ticket.candidates(), ticket.index()),
    }
}

// === prepare and start ===

/// Has the runtime prepare it. Takes the artifact to a place of its own on disk first, for runtimes that open a path.
pub(crate) async fn prepare(shared: &Shared, launch: &Launch) -> Result<Prepared, Refusal> {
    let span = info_span!(target: "mortise::load", "prepare", plugin = %launch.verified.artifact().plugin);
    async {
        let grant = launch.grant();
        let verified = placed(shared, &*launch.runtime, &launch.verified).await?;
        launch
            .runtime
            .prepare(&verified, &grant)
            .await
            .map_err(|error| of_runtime("artifact", &error))
    }
    .instrument(span)
    .await
}

/// The same, with the path of a read-only copy by digest.
async fn placed(shared: &Shared, runtime: &dyn Runtime, verified: &Verified) -> Result<Verified, Refusal> {
    if verified.artifact().bytes.is_empty() || !runtime.needs_path() {
        return Ok(verified.clone());
    }
    let (cache, mut artifact) = (shared.parts.data.artifacts().clone(), verified.artifact().clone());
    let placing =
        tokio::task::spawn_blocking(move || cache.place(&mut artifact).map(|placed| (artifact, placed)));
    let refusal = |why: String, hint: &str| Refusal {
        what: "artifact".to_owned(),
        why,
        hint: hint.to_owned(),
    };
    let (artifact, placed) = match placing.await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return Err(refusal(with_causes(&error), error.hint())),
        Err(_) => return Err(refusal("placing it on disk was given up".to_owned(), "try again")),
    };
    if let Some(what) = placed.replaced {
        tracing::warn!(target: "mortise::life", path = %placed.path.display(), "the artifact on disk was {what}; it was replaced");
    }
    artifact
        .verify((**verified.metadata()).clone())
        .map_err(|mut all| all.swap_remove(0))
}

/// Starts a prepared plugin with the first configuration that will do, and waits until it is healthy. On `Err` nothing of it runs.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    address: &Arc<Address>,
    launch: &Launch,
    prepared: Prepared,
    number: u64,
    choice: Choice,
) -> Result<Arc<Generation>, RuntimeError> {
    let artifact = launch.verified.artifact();
    let asked = For {
        name: &address.name,
        own: &launch.config,
        manifest: &launch.manifest,
        contract: &artifact.contract,
        digest: Some(artifact.digest),
    };
    let candidates = shared
        .configs
        .candidates(asked, choice)
        .map_err(config::as_start)?;
    let mut prepared = Some(prepared);
    let mut first = None;
    for (candidate, references) in candidates {
        let tried = async {
            let ready = candidate.ready(references).await?;
            let prepared = match prepared.take() {
                Some(prepared) => prepared,
                None => prepare(shared, launch)
                    .await
                    .map_err(|refusal| config::as_start(vec![refusal]))?,
            };
            let started = start_with(shared, address, launch, prepared, number, &ready, choice).await;
            started.map_err(|error| {
                let error = ready.masked(error);
                shared
                    .configs
                    .note_tried(&address.name, artifact.digest, &ready, &error.to_string());
                error
            })
        };
        match tried.await {
            Ok(generation) => return Ok(generation),
            Err(error) => {
                tracing::warn!(target: "mortise::life", plugin = %address.name, %error, "it does not start with this configuration");
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| config::as_start(Vec::new())))
}

async fn start_with(
    shared: &Arc<Shared>,
    address: &Arc<Address>,
    launch: &Launch,
    prepared: Prepared,
    number: u64,
    ready: &Ready,
    choice: Choice,
) -> Result<Arc<Generation>, RuntimeError> {
    let plugin = launch.verified.artifact().plugin.clone();
    let instance =
        InstanceId(format!("{}@{}#{}", address.base(), plugin.version, shared.next_instance()).into());
    let span = info_span!(target: "mortise::load", "start", %plugin, %instance);
    async {
        let services = Arc::new(Services::new(Parts {
            shared: Arc::downgrade(shared),
            about: About {
                address: address.name.clone(),
                plugin,
                instance: instance.clone(),
            },
            grant: launch.grant(),
            requires: launch.manifest.requires.clone(),
            pure: launch.manifest.pure,
            contract: launch.verified.artifact().contract.clone(),
            caller: CallerContract::of_plugin(
                &address.name,
                &launch.verified.artifact().contract,
                &launch.lineage,
                &launch.manifest.requires,
            ),
            config: ready.delivered.clone(),
            keys: shared.parts.kv.keyspace(address.base()),
            lookup: shared.parts.lookup.clone(),
            limits: launch.limits.clone(),
        }));
        let start = Start {
            instance,
            limits: launch.limits.clone(),
            config_json: ready.delivered.json.clone(),
            services: services.clone(),
            pure: launch.manifest.pure,
        };
        warn_of(address, launch);
        let until = Instant::now() + launch.limits.start;
        let starting = launch.runtime.start(prepared, start);
        let started = tokio::time::timeout_at(until + START_SLACK, starting).await;
        let instance = started.unwrap_or_else(|_| Err(too_slow(launch)))?;
        let how = match choice {
            Choice::Any => How::Start,
            Choice::Wanted => How::Swap,
        };
        let configured = Configured::new(launch.config.clone(), ready, how);
        let generation = generation(address, launch, instance, services, number, configured);
        match healthy(&generation, until).await {
            Ok(()) => Ok(generation),
            Err(error) => {
                generation.instance.stop(launch.limits.stop).await;
                Err(error)
            }
        }
    }
    .instrument(span)
    .await
}

/// Says loudly what an operator should not find out later.
fn warn_of(address: &Address, launch: &Launch) {
    let plugin = &address.name;
    if launch.jail == Jail::Off && launch.runtime.enclosure().is_some() {
        tracing::warn!(target: "mortise::life", %plugin, "a plugin starts without a jail: it may do whatever the host's user may");
    }
    if let Purity::Promised(why) = launch.purity() {
        tracing::warn!(target: "mortise::life", %plugin, "its functions adapt no messages of others, because {why}; write `trust_adapter = true` to take its author's word");
    }
    if let (Some(percent), Enforcement::NotEnforced(why)) =
        (launch.limits.cpu_percent, launch.runtime.support().cpu_limit)
    {
        tracing::warn!(target: "mortise::life", %plugin, "`limits.cpu_percent` is {percent} and is not enforced: {why}");
    }
}

fn too_slow(launch: &Launch) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::StartFailed,
        format!("it did not start within {:?}", launch.limits.start),
        "raise `limits.start_ms`, or look at what its start waits for",
    )
}

/// Asks a fresh instance until it says that it serves.
async fn healthy(generation: &Generation, until: Instant) -> Result<(), RuntimeError> {
    loop {
        let said = match tokio::time::timeout_at(until, generation.instance.health()).await {
            Ok(Ok(health)) if health.serving => return Ok(()),
            Ok(Ok(health)) => format!("it says that it does not serve: {}", health.detail),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        if Instant::now() + HEALTH_EVERY >= until {
            let limit = generation.limits.start;
            return Err(RuntimeError::new(
                RuntimeErrorKind::StartFailed,
                format!("it started and was not healthy within {limit:?}: {said}"),
                "look at its log; raise `limits.start_ms` if it only needs longer",
            ));
        }
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}

fn generation(
    address: &Address,
    launch: &Launch,
    instance: Box<dyn mortise_runtime::Instance>,
    services: Arc<Services>,
    number: u64,
    configured: Configured,
) -> Arc<Generation> {
    let artifact = launch.verified.artifact();
    let metadata = launch.verified.metadata().clone();
    let numbers = address.seat_numbers(&metadata);
    let mut seats: Vec<Option<Seat>> = Vec::new();
    for (index, (method, number)) in (0..).zip(metadata.public_methods().iter().zip(numbers)) {
        let index = mortise_runtime::MethodIndex(index);
        let described = artifact.contract.method(&method.service, &method.name);
        let own = described
            .and_then(|it| it.options().timeout_ms)
            .map(|ms| Duration::from_millis(ms.into()));
        if seats.len() <= number {
            seats.resize_with(number + 1, || None);
        }
        seats[number] = Some(Seat {
            index,
            deadline: own.unwrap_or(launch.limits.deadline),
            kind: method.kind(),
            idempotent: method.flags & METHOD_IDEMPOTENT != 0,
            direct: instance.call().and_then(|it| it.direct(index)),
        });
    }
    Arc::new(Generation {
        number,
        plugin: artifact.plugin.clone(),
        runtime: artifact.runtime,
        digest: artifact.digest,
        source: launch.source.clone(),
        contract: artifact.contract.clone(),
        lineage: launch.lineage.clone(),
        metadata,
        manifest: launch.manifest.clone(),
        purity: launch.purity(),
        granted: launch.granted.clone(),
        limits: launch.limits.clone(),
        configured,
        instance,
        services,
        seats: seats.into(),
        admission: Admission::new(launch.limits.concurrency),
        stats: Stats::new(),
        streams: Streams::new(),
        plans: Plans::default(),
    })
}

// === check ===

/// The static checks for every variant. Starts nothing.
pub(crate) async fn check(shared: &Shared, source: &Source) -> Result<CheckReport, HostError> {
    let mut report = CheckReport {
        source: source.to_string(),
        plugin: None,
        refusals: Vec::new(),
        variants: Vec::new(),
    };
    let package = match fetch(shared, source).await {
        Ok(package) => package,
        Err(error) if error.kind() == HostErrorKind::Refused => {
            report.refusals = error.reasons().to_vec();
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.plugin = Some(package.plugin().clone());
    for artifact in package.artifacts() {
        report
            .variants
            .push(check_variant(shared, &package, artifact).await);
    }
    Ok(report)
}

async fn check_variant(shared: &Shared, package: &Package, artifact: &Artifact) -> VariantReport {
    let runtime = shared.runtime(artifact.runtime);
    let mut report = VariantReport {
        runtime: artifact.runtime,
        digest: Some(artifact.digest),
        available: runtime.is_some_and(|it| it.support().available),
        refusals: Vec::new(),
    };
    let Some(runtime) = runtime else { return report };
    match verify_artifact(runtime, artifact.clone()).await {
        Err(refusals) => report.refusals = refusals,
        Ok(verified) if report.available => {
            let launch = Launch {
                verified,
                runtime: runtime.clone(),
                manifest: package.manifest().clone(),
                lineage: package.lineage().clone(),
                granted: package.manifest().permissions.clone(),
                jail: Jail::default(),
                trust_adapter: false,
                restart: Restart::default(),
                limits: package.manifest().limits.apply(Limits::default()),
                config: Arc::default(),
                source: package.origin().into(),
                force: false,
            };
            report.refusals.extend(prepare(shared, &launch).await.err());
        }
        Ok(_) => {}
    }
    report
}
