//! Callers that were built against another version of a contract than the plugin that answers.
//!
//! A call may bring its caller's contract ([`CallerContract`]); calls of plugins do by themselves, if their package carries the service that they call.
//! What has to be done to its bytes is worked out once for each caller, generation and method ([`mortise_contract::evolve`]), when it is bound or first
//! called, and kept with the generation: a swap works it out anew, and what is not called costs nothing. It is done on bytes, between admission and
//! the runtime, so it is the same in every runtime. A call that brings no contract pays one branch.
//!
//! # Functions
//! A step may name methods of plugins that adapt messages. They are called like any method, with the deadline of the call they are part of.
//!
//! - F1. They are pure: their plugin says so (`pure = true`), and its runtime keeps it to that or the operator takes its word ([`Purity`]). Only the provider
//!   itself need not be, if its own package names the function.
//! - F2. What a calling plugin's package says never has the host call what the plugin may not call itself: a function that only its package names has
//!   to be in its `[[requires]]`. This is looked at when a plan is made, so no plan that breaks it exists.
//! - F3. A function of the provider itself runs in the place of the call that it is part of. It waits for no second one: the calls that hold one might
//!   all be waiting for another.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use mortise_contract::{
    Contract, ContractError, Target as Method,
    evolve::{AdaptError, Function, Lineage, Plan, Refusal, Side, Stage, Strangers},
};
use mortise_manifest::{Manifest, Requirement};
use mortise_runtime::{CallError, CallErrorKind, Enforcement, Runtime};
use mortise_store::Package;
use mortise_wire::client::ClientContract;

use crate::{
    call::{self, Origin},
    generation::{Generation, Occupant},
    host::Shared,
    info::AdaptedInfo,
    table::Target,
};

/// What a client's build calls the manifest that it took along.
const MANIFEST: &str = "plugin.toml";
/// Callers whose plans one generation keeps; a further one starts over.
const CALLERS_MAX: usize = 1024;

/// The contract that a caller was built against. Cheap to clone; make one and use it for all calls, since what is worked out for it is kept by
/// its identity.
#[derive(Clone)]
pub struct CallerContract(Arc<Inner>);

struct Inner {
    key: Key,
    name: Box<str>,
    /// `None`: the version of this name, as the provider's package has it.
    known: Option<(Arc<Contract>, Arc<Lineage>)>,
    /// What it may have called for it; `None` for whoever may call everything.
    requires: Option<Vec<Requirement>>,
}

/// By what plans are kept: versions of one name are the same caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Own(u64),
    Version(Box<str>),
}

/// What is worked out for the callers of one generation.
#[derive(Default)]
pub(crate) struct Plans(ArcSwap<HashMap<Key, Arc<OfCaller>>>);

/// What is worked out for one caller: by seat, each once.
struct OfCaller {
    caller: CallerContract,
    by_seat: Box<[OnceLock<Planned>]>,
}

/// A method and what became of the question.
struct Planned {
    method: Box<str>,
    plan: Result<Arc<Plan>, CallError>,
}

/// Whether methods of a generation may adapt messages of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purity {
    /// Its package does not say that it is pure.
    Not,
    /// It says so, and this is why nobody can tell.
    Promised(&'static str),
    /// Its runtime keeps it to that, or the operator takes its word.
    Sure,
}

// === impl Purity ===

impl Purity {
    pub(crate) fn of(manifest: &Manifest, runtime: &dyn Runtime, trusted: bool) -> Self {
        match runtime.support().purity {
            _ if !manifest.pure => Self::Not,
            Enforcement::NotEnforced(why) if !trusted => Self::Promised(why),
            _ => Self::Sure,
        }
    }
}

// === impl CallerContract ===

impl CallerContract {
    /// Of an encoded `google.protobuf.FileDescriptorSet` with imports: the `contract.binpb` that was current when the caller was built.
    ///
    /// # Errors
    /// If it is none.
    pub fn new(descriptor_set: &[u8]) -> Result<Self, ContractError> {
        let contract = Contract::from_descriptor_set(descriptor_set, &[])?;
        Ok(Self::of("a caller", Arc::new(contract), Arc::default()))
    }

    /// Of a caller that ships with a package: its contract, and what its `[[adapt]]`s say of older versions.
    #[must_use]
    pub fn of_package(package: &Package) -> Self {
        Self::of(
            &package.plugin().to_string(),
            package.contract().clone(),
            package.lineage().clone(),
        )
    }

    /// Of a generated client: what it was built against. It is read once for all clients of the same contract.
    ///
    /// # Errors
    /// `HostBug` if the descriptors are none, which no client that was generated has.
    pub fn of_client(client: &ClientContract) -> Result<Self, CallError> {
        static KNOWN: LazyLock<ArcSwap<HashMap<[u8; 32], CallerContract>>> = LazyLock::new(ArcSwap::default);
        if let Some(known) = KNOWN.load().get(&client.fingerprint) {
            return Ok(known.clone());
        }
        let ClientContract {
            service,
            descriptor_set,
            adapts,
            ..
        } = client;
        let unknown = |error: &dyn fmt::Display| {
            CallError::new(
                CallErrorKind::HostBug,
                format!("a client of `{service}` does not know its contract: {error}"),
            )
            .with_hint("build it again; do not edit what was generated")
        };
        let name = format!("a client of {service}");
        let contract =
            Contract::shared(descriptor_set, &[(*service).to_owned()]).map_err(|error| unknown(&error))?;
        let mut lineage = Lineage::empty();
        if let Some((file, text)) = adapts.iter().find(|it| it.0 == MANIFEST) {
            let manifest =
                Manifest::parse(&String::from_utf8_lossy(text), file).map_err(|error| unknown(&error))?;
            let older = adapts
                .iter()
                .map(|(file, bytes)| ((*file).to_owned(), Bytes::from_static(bytes)))
                .collect();
            lineage =
                Package::lineage_of(&name, &manifest, &contract, &older).map_err(|error| unknown(&error))?;
        }
        let fresh = Self::of(&name, contract, lineage.into());
        // As many as the program has clients.
        KNOWN.rcu(|known| {
            let mut known = (**known).clone();
            known.entry(client.fingerprint).or_insert_with(|| fresh.clone());
            known
        });
        Ok(KNOWN.load().get(&client.fingerprint).cloned().unwrap_or(fresh))
    }

    /// The contract of that version of the plugin that answers. Its package has to know it: by its own version, or by an `[[adapt]]`.
    #[must_use]
    pub fn version(version: &str) -> Self {
        Self(Arc::new(Inner {
            key: Key::Version(version.into()),
            name: version.into(),
            known: None,
            requires: None,
        }))
    }

    fn of(name: &str, contract: Arc<Contract>, lineage: Arc<Lineage>) -> Self {
        Self::with(name, contract, lineage, None)
    }

    fn with(
        name: &str,
        contract: Arc<Contract>,
        lineage: Arc<Lineage>,
        requires: Option<Vec<Requirement>>,
    ) -> Self {
        Self(Arc::new(Inner {
            key: Key::Own(next_id()),
            name: name.into(),
            known: Some((contract, lineage)),
            requires,
        }))
    }

    /// Whether it describes a service; what a version means is known to its provider only.
    pub(crate) fn describes(&self, service: &str) -> bool {
        match &self.0.known {
            Some((contract, _)) => contract.services().iter().any(|it| it == service),
            None => true,
        }
    }

    /// What a plugin knows of the services that it calls; nothing if its package carries none of them.
    pub(crate) fn of_plugin(
        address: &str,
        contract: &Contract,
        lineage: &Arc<Lineage>,
        requires: &[Requirement],
    ) -> Option<Self> {
        let services = requires.iter().map(|it| &it.service);
        let mut carried: Vec<String> = services
            .filter(|it| contract.pool().get_service_by_name(it).is_some())
            .cloned()
            .collect();
        carried.sort_unstable();
        carried.dedup();
        if carried.is_empty() {
            return None;
        }
        let of_services = contract.of_services(&carried).ok()?;
        Some(Self::with(
            address,
            Arc::new(of_services),
            lineage.clone(),
            Some(requires.to_vec()),
        ))
    }
}

impl fmt::Debug for CallerContract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerContract({})", self.0.name)
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

// === working out ===

impl Generation {
    /// What has to be done to calls of `target` from `caller`; `None` if nothing.
    pub(crate) fn plan(
        &self,
        caller: &CallerContract,
        target: &Target,
    ) -> Result<Option<Arc<Plan>>, CallError> {
        let known = self.plans.0.load();
        let of_caller = match known.get(&caller.0.key) {
            Some(found) => found.clone(),
            // Anybody may name versions; those that do not exist take no place.
            None if self.known(caller).is_none() => return Err(unknown_version(self, caller, &self.lineage)),
            None => self.plans.add(caller, self.seats.len()),
        };
        let Some(planned) = of_caller.by_seat.get(target.seat) else {
            return Ok(None);
        };
        let planned = planned.get_or_init(|| Planned {
            method: target.full.clone(),
            plan: self.work_out(caller, target),
        });
        match &planned.plan {
            Ok(plan) if plan.is_identity() => Ok(None),
            Ok(plan) => Ok(Some(plan.clone())),
            Err(error) => Err(error.clone()),
        }
    }

    /// The caller's contract, with what its package says of versions.
    fn known<'a>(&'a self, caller: &'a CallerContract) -> Option<(&'a Contract, Option<&'a Lineage>)> {
        match &caller.0.known {
            Some((contract, lineage)) => Some((contract, Some(lineage))),
            None if self.plugin.version.to_string() == *caller.0.name => Some((&self.contract, None)),
            None => Some((self.lineage.version(&caller.0.name)?, None)),
        }
    }

    fn work_out(&self, caller: &CallerContract, target: &Target) -> Result<Arc<Plan>, CallError> {
        let Some((contract, lineage)) = self.known(caller) else {
            return Err(unknown_version(self, caller, &self.lineage));
        };
        let lineages: Vec<&Lineage> = lineage.into_iter().chain([&*self.lineage]).collect();
        let planned = plan(contract, &self.contract, target, &lineages);
        match planned {
            Ok(plan) => {
                if let Some(requires) = &caller.0.requires {
                    let allows = |it: &Method| requires.iter().any(|own| own.allows(&it.service, &it.method));
                    if let Some(function) = out_of_reach(&plan, &self.lineage, allows) {
                        return Err(denied(caller, target, function));
                    }
                }
                tracing::debug!(
                    target: "mortise::call", plugin = %self.plugin, method = %target.full, caller = %caller.0.name,
                    way = %plan.way(), via = ?plan.via(), "a caller was built against another contract"
                );
                Ok(Arc::new(plan))
            }
            Err(refusal) => Err(refused(self, caller, &refusal)),
        }
    }

    /// What is worked out so far, for people.
    pub(crate) fn adapted(&self) -> Vec<AdaptedInfo> {
        let known = self.plans.0.load();
        let mut all: Vec<AdaptedInfo> = known
            .values()
            .flat_map(|of| {
                of.by_seat
                    .iter()
                    .filter_map(OnceLock::get)
                    .map(move |it| (of, it))
            })
            .map(|(of, it)| AdaptedInfo::of(&of.caller.0.name, &it.method, &it.plan))
            .collect();
        all.sort_by(|a, b| (&a.caller, &a.method).cmp(&(&b.caller, &b.method)));
        all
    }
}

impl Plans {
    #[cold]
    fn add(&self, caller: &CallerContract, seats: usize) -> Arc<OfCaller> {
        let fresh = Arc::new(OfCaller {
            caller: caller.clone(),
            by_seat: (0..seats).map(|_| OnceLock::new()).collect(),
        });
        self.0.rcu(|known| {
            let mut known = match known.len() < CALLERS_MAX {
                true => (**known).clone(),
                false => HashMap::new(),
            };
            known.entry(caller.0.key.clone()).or_insert_with(|| fresh.clone());
            known
        });
        self.0.load().get(&caller.0.key).cloned().unwrap_or(fresh)
    }
}

fn plan(
    caller: &Contract,
    provider: &Contract,
    target: &Target,
    lineages: &[&Lineage],
) -> Result<Plan, Refusal> {
    match caller.method(target.service(), target.method()) {
        Some(method) => Plan::between(caller, method, provider, lineages),
        None => Err(Refusal {
            method: target.full.to_string(),
            violations: Vec::new(),
            faults: vec!["the caller's contract has no such method".to_owned()],
        }),
    }
}

/// F2: the first function of a plan that neither the provider's package names nor the caller may call.
fn out_of_reach<'a>(
    plan: &'a Plan,
    provider: &Lineage,
    allows: impl Fn(&Method) -> bool,
) -> Option<&'a Method> {
    plan.functions().find(|it| !provider.names(it) && !allows(it))
}

// === doing it ===

/// What is done to one call.
pub(crate) struct Adapting<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) generation: &'a Generation,
    pub(crate) target: &'a Target,
}

impl Adapting<'_> {
    /// One message, where no function is to be called: of a stream, whose plans have none, or of a bound call.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn at_once(&self, side: Side, message: Bytes) -> Result<Bytes, CallError> {
        debug_assert!(!self.plan.has_functions(), "functions are calls");
        let bytes_max = self.generation.limits.payload_bytes_max;
        let adapted = match side {
            Side::Request => self.plan.request(message, bytes_max),
            Side::Response => self.plan.response(message, bytes_max),
        };
        adapted.map_err(|error| self.misfit(side, &error))
    }

    /// One message, with functions.
    pub(crate) async fn message(
        &self,
        side: Side,
        mut message: Bytes,
        origin: &Origin,
    ) -> Result<Bytes, CallError> {
        let stages = match side {
            Side::Request => self.plan.request_stages(),
            Side::Response => self.plan.response_stages(),
        };
        let bytes_max = self.generation.limits.payload_bytes_max;
        for stage in stages {
            message = match stage {
                Stage::Rewrite(rewriter) => rewriter
                    .apply(&message, bytes_max)
                    .map_err(|error| self.misfit(side, &error))?,
                // A call inside of a call: its future has to be on the heap.
                Stage::Function(function) => Box::pin(self.call(side, function, message, origin)).await?,
            };
        }
        // A function's reply has the length that its plugin allows, which need not be what this one takes.
        let what = match side {
            Side::Request => "request",
            Side::Response => "reply",
        };
        call::check_size(self.generation, what, message.len())?;
        Ok(message)
    }

    /// What a function makes of a message, with what the function does not know of it.
    async fn call(
        &self,
        side: Side,
        function: &Function,
        message: Bytes,
        origin: &Origin,
    ) -> Result<Bytes, CallError> {
        let shared = self
            .generation
            .services
            .shared
            .upgrade()
            .ok_or_else(|| CallError::new(CallErrorKind::Unavailable, "the host is shutting down"))?;
        let (target, contract) = self.pure(&shared, function.target())?;
        let strangers = match contract.method(target.service(), target.method()) {
            Some(it) => function
                .strangers(&it.input(), &it.output(), &message)
                .map_err(|error| self.misfit(side, &error))?,
            None => Strangers::default(),
        };
        let inner = Origin {
            depth: origin.depth + 1,
            contract: None,
            range: None,
            is_own_accord: false,
            trail: origin.trail.through(self.generation.instance.id().clone()),
            ..origin.clone()
        };
        let answered = match Arc::ptr_eq(&target.address, &self.target.address) {
            true => call::inside(self.generation, &target, message, inner).await,
            false => call::call(&target, message, inner).await,
        };
        let failed = |kind, why: &dyn fmt::Display| {
            let what = format!(
                "`{}` is adapted by `{}`, which failed: {why}",
                self.target.full,
                function.target()
            );
            CallError::new(kind, what).not_retryable()
        };
        let answer = answered.map_err(|error| failed(error.kind(), &error))?;
        strangers
            .join(answer)
            .map_err(|error| failed(CallErrorKind::GuestFault, &error))
    }

    /// Who has the function, if he can do nothing else, and the contract that he has it by.
    fn pure(&self, shared: &Shared, function: &Method) -> Result<(Arc<Target>, Arc<Contract>), CallError> {
        let name = function.to_string();
        let found = shared.table.load();
        if self.generation.lineage.names(function)
            && let Some(own) = found.at(&self.target.address, &name)
        {
            return Ok((own.clone(), self.generation.contract.clone()));
        }
        let missing = |why: String| {
            CallError::new(
                CallErrorKind::Unavailable,
                format!("`{}` is adapted by `{name}`: {why}", self.target.full),
            )
            .with_hint("load the adapter plugin, or build the caller against the plugin's contract")
        };
        let target = found.resolve(&name, &[]).map_err(|it| missing(it.to_string()))?;
        let adapter = match &*target.address.cell.acquire() {
            Occupant::Serving(adapter) => adapter.clone(),
            Occupant::Gate(gate) => gate.generation.clone(),
            Occupant::Vacant(why) => return Err(missing(why.to_string())),
        };
        let (why, hint) = match adapter.purity {
            Purity::Sure => return Ok((target.clone(), adapter.contract.clone())),
            Purity::Not => (
                "its plugin.toml does not say `pure = true`",
                "move the function into a plugin that says it".to_owned(),
            ),
            Purity::Promised(why) => (
                why,
                format!(
                    "run it with `runtime = \"wasm\"`, which can keep it to that, or write `trust_adapter = true` at plugin `{}` to take its author's word",
                    target.address.name
                ),
            ),
        };
        Err(CallError::new(
            CallErrorKind::Incompatible,
            format!(
                "`{}` is adapted by `{name}` of plugin `{}`, of which nobody knows that it is a pure function: {why}",
                self.target.full, adapter.plugin
            ),
        )
        .with_hint(hint))
    }

    fn misfit(&self, side: Side, error: &AdaptError) -> CallError {
        let kind = match (error, side) {
            (AdaptError::Unfit { .. } | AdaptError::Stranger { .. }, _) => CallErrorKind::Incompatible,
            (AdaptError::TooLarge { .. }, _) => CallErrorKind::Exhausted,
            (_, Side::Request) => CallErrorKind::Malformed,
            (_, Side::Response) => CallErrorKind::GuestFault,
        };
        let of = format!("the {side} of `{}`: {error}", self.target.full);
        let error = CallError::new(kind, of);
        match side {
            Side::Request => error,
            // The plugin has done its work by then.
            Side::Response => error.not_retryable(),
        }
    }
}

// === refusals ===

impl crate::Route {
    /// The plugin's contract as that version had it: for edges that speak JSON with callers of an older one.
    ///
    /// # Errors
    /// `Incompatible` if the plugin's package does not know that version, `Unavailable` if the plugin does not serve.
    pub fn contract_of(&self, version: &str) -> Result<Arc<Contract>, CallError> {
        let generation = call::serving(&self.0.address)?;
        if generation.plugin.version.to_string() == version {
            return Ok(generation.contract.clone());
        }
        match generation.lineage.version(version) {
            Some(contract) => Ok(contract.clone()),
            None => Err(unknown_version(
                &generation,
                &CallerContract::version(version),
                &generation.lineage,
            )),
        }
    }
}

#[cold]
fn refused(generation: &Generation, caller: &CallerContract, refusal: &Refusal) -> CallError {
    CallError::new(
        CallErrorKind::Incompatible,
        format!(
            "plugin `{}` does not fit the contract of its caller ({}): {refusal}",
            generation.plugin, caller.0.name
        ),
    )
    .with_hint(ADVICE)
}

#[cold]
fn denied(caller: &CallerContract, target: &Target, function: &Method) -> CallError {
    CallError::new(
        CallErrorKind::Denied,
        format!(
            "calls of `{}` by plugin `{}` are {}",
            target.full,
            caller.0.name,
            too_far(function)
        ),
    )
    .with_hint(format!(
        "declare `[[requires]]` with `service = \"{}\"` in its plugin.toml and build it again, or have the package of the plugin that answers name the function",
        function.service
    ))
}

fn too_far(function: &Method) -> String {
    format!(
        "adapted by `{function}`, which only its own package says, and it declares no `[[requires]]` for that"
    )
}

#[cold]
fn unknown_version(generation: &Generation, caller: &CallerContract, lineage: &Lineage) -> CallError {
    let mut known: Vec<String> = lineage.versions().map(|it| format!("`{it}`")).collect();
    if known.is_empty() {
        known.push(format!("`{}`", generation.plugin.version));
    }
    CallError::new(
        CallErrorKind::Incompatible,
        format!(
            "plugin `{}` does not know the contract of version `{}`; it knows {}",
            generation.plugin,
            caller.0.name,
            known.join(", ")
        ),
    )
    .with_hint(ADVICE)
}

/// What to do where two contracts do not fit.
pub(crate) const ADVICE: &str = "build the caller against the plugin's contract, or say in an `[[adapt]]` of either package what became of the old version; `mortise contract diff` shows the difference";

/// What speaks against calls of a plugin, or nothing. `consumer` and `provider` each with what its package says of versions; `called` are the methods that
/// it calls, and `allows` are those that it may.
pub(crate) fn against(
    (consumer, of_consumer): (&Contract, &Lineage),
    (provider, of_provider): (&Contract, &Lineage),
    called: impl Fn(&str) -> bool,
    allows: impl Fn(&Method) -> bool,
) -> Vec<Refusal> {
    let methods = consumer.methods().iter().filter(|it| called(it.name()));
    methods
        .filter_map(
            |it| match Plan::between(consumer, it, provider, &[of_consumer, of_provider]) {
                Ok(plan) => out_of_reach(&plan, of_provider, &allows).map(|function| Refusal {
                    method: it.target(),
                    violations: Vec::new(),
                    faults: vec![format!("calls of it are {}", too_far(function))],
                }),
                Err(refusal) => Some(refusal),
            },
        )
        .collect()
}

/// The plan for a call that is about to be made, if it brings a contract.
pub(crate) fn of_call(
    generation: &Generation,
    target: &Target,
    origin: &Origin,
) -> Result<Option<Arc<Plan>>, CallError> {
    match &origin.contract {
        None => Ok(None),
        Some(caller) => generation.plan(caller, target),
    }
}
