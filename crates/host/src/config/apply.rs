//! From what is wanted to what is in force: at a start, and while a plugin runs.
//!
//! ```text
//!  wanted != in force --check--> refused: listed, and in force stays
//!        |                '----> asked (if it can be): applied | refused
//!        |                            '-- needs a restart, or cannot be asked
//!        |                                      '--> a new instance of the same artifact, by a swap like any other
//! ```

use std::{sync::Arc, time::SystemTime};

use mortise_config::{Effective, Layer};
use mortise_contract::Contract;
use mortise_lifecycle::State as LifeState;
use mortise_manifest::Manifest;
use mortise_runtime::{CallContext, Configured as Answer, Digest, Refusal, RuntimeError, RuntimeErrorKind};
use serde_json::{Map, Value};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

use super::{
    Candidate, Configs, Held, How, InForce, Ready, Tried,
    checks::{References, check, refusal, resolve},
    effective,
    engine::AGAIN,
    revisions,
};
use crate::{
    HostError, HostErrorKind,
    call::next_call_id,
    entries,
    generation::{Address, Generation},
    history::{self, Giver},
    host::Shared,
    load::{self, Entrance},
    supervisor::Command,
};

/// Longest that a plugin may think about a new configuration.
const CONFIGURE_MAX: Duration = Duration::from_secs(5);
/// Whose change it is when a secret is another one where it is.
const SECRETS: &str = "secrets";
/// What a refusal is about if the plugin that serves does not want to be replaced.
pub(crate) const VETO: &str = "veto";

/// Which configuration a start may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What is wanted; if that does not do, what was good last.
    Any,
    /// What is wanted: it is started for that.
    Wanted,
}

/// For whom a configuration is.
#[derive(Clone, Copy)]
pub(crate) struct For<'a> {
    /// The address.
    pub(crate) name: &'a str,
    pub(crate) own: &'a Map<String, Value>,
    pub(crate) manifest: &'a Manifest,
    pub(crate) contract: &'a Contract,
    pub(crate) digest: Option<Digest>,
}

impl For<'_> {
    fn base(&self) -> &str {
        self.name.split_once('@').map_or(self.name, |(base, _)| base)
    }
}

// === at a start ===

impl Configs {
    /// What a plugin may be started with, the best first; at least one.
    ///
    /// # Errors
    /// Everything against what is wanted, if nothing else will do either.
    pub(crate) fn candidates(
        &self,
        it: For<'_>,
        choice: Choice,
    ) -> Result<Vec<(Candidate, References)>, Vec<Refusal>> {
        let state = self.lock();
        let wanted = state.wanted(it.base());
        let good = state.good(it.base()).filter(|_| choice == Choice::Any);
        let tried = state.tried.get(it.name).cloned();
        drop(state);
        let mut all = Vec::new();
        let mut against = Vec::new();
        let mut consider = |layers: Vec<Layer>| {
            let effective = effective(it.own, &layers);
            match check(it.base(), &effective, it.manifest, it.contract, &self.allowed) {
                Ok(references) => all.push((Candidate { effective, layers }, references)),
                Err(refusals) => against.extend(refusals),
            }
        };
        match wanted {
            Ok(layers) => {
                let is_known_bad = |layers: &[Layer]| {
                    let it_is = |tried: &Tried| {
                        !tried.forgiven
                            && tried.digest.is_none_or(|digest| Some(digest) == it.digest)
                            && tried.effective.is_same(&effective(it.own, layers))
                    };
                    tried.as_ref().is_some_and(it_is)
                };
                let has_other = good
                    .as_ref()
                    .is_some_and(|good| !effective(it.own, good).is_same(&effective(it.own, &layers)));
                if !(choice == Choice::Any && has_other && is_known_bad(&layers)) {
                    consider(layers);
                }
                if let Some(good) = good.filter(|_| has_other) {
                    consider(good);
                }
            }
            Err(faults) => {
                if let Some(good) = good {
                    consider(good);
                }
                let hint = "correct it there: what was in force before stays in force";
                against.extend(faults.into_iter().map(|why| refusal(why, hint)));
            }
        }
        if all.is_empty() { Err(against) } else { Ok(all) }
    }

    /// A start with this came to nothing.
    pub(crate) fn note_tried(&self, name: &str, digest: Digest, ready: &Ready, reason: &str) {
        let Candidate { effective, layers } = &ready.candidate;
        let tried = Tried {
            effective: effective.clone(),
            digest: Some(digest),
            reason: reason.to_owned(),
            revision: revisions(layers),
            ..Tried::default()
        };
        self.lock().tried.insert(name.to_owned(), tried);
    }

    /// Lets be tried again what is due by now.
    pub(super) fn forgive_due(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.proving = state.proving.filter(|at| *at > now);
        for it in state.tried.values_mut() {
            if it.again.is_some_and(|at| at <= now) {
                (it.again, it.forgiven) = (None, true);
            }
        }
    }
}

impl Candidate {
    /// With its secrets in place.
    ///
    /// # Errors
    /// The secrets that cannot be read.
    pub(crate) async fn ready(self, references: References) -> Result<Ready, RuntimeError> {
        let secrets = resolve(references).await.map_err(as_start)?;
        let delivered = self.effective.deliver(secrets);
        Ok(Ready {
            candidate: self,
            delivered,
        })
    }
}

impl Ready {
    /// An error of a start, without the secrets that the plugin may have put into it.
    pub(crate) fn masked(&self, error: RuntimeError) -> RuntimeError {
        let secrets = &self.delivered.secrets;
        if secrets.is_empty() {
            return error;
        }
        let text = secrets.masked(&load::with_causes(&error));
        RuntimeError::new(error.kind(), text, secrets.masked(error.hint()))
    }
}

/// Refusals as the reason why a start came to nothing.
pub(crate) fn as_start(refusals: Vec<Refusal>) -> RuntimeError {
    let all: Vec<_> = refusals.iter().map(|it| it.why.clone()).collect();
    let hint = refusals.first().map(|it| it.hint.clone()).unwrap_or_default();
    RuntimeError::new(
        RuntimeErrorKind::StartFailed,
        format!("its configuration is not to be had: {}", all.join("; ")),
        hint,
    )
}

// === while it runs ===

/// Brings everything that has this name to what is wanted of it.
pub(super) async fn reconcile(shared: &Arc<Shared>, base: &str) {
    let wanted = shared.configs.lock().wanted(base);
    let addresses = shared.all().into_iter().filter(|it| it.base() == base);
    for address in addresses.collect::<Vec<_>>() {
        match &wanted {
            Err(faults) => refuse_faulty(shared, &address, faults).await,
            Ok(layers) => reconcile_one(shared, &address, layers).await,
        }
        shared.configs.publish_trouble(&address, &wanted);
    }
    if wanted.is_ok() {
        load_held(shared, base).await;
    }
}

async fn reconcile_one(shared: &Arc<Shared>, address: &Arc<Address>, layers: &[Layer]) {
    let status = address.status.load_full();
    let Some(generation) = &status.current else {
        let tried = shared.configs.lock().tried.get(&*address.name).cloned();
        let was_of = |it: &Tried| !it.revision.is_empty() || !layers.is_empty();
        if status.state == LifeState::Failed
            && tried.is_some_and(|it| was_of(&it) && it.revision != revisions(layers))
        {
            // It did not start with what was wanted then, and now that is another.
            let _ = swap(address).await;
        }
        return;
    };
    let in_force = generation.configured.in_force();
    let wanted = effective(&generation.configured.own, layers);
    if wanted.is_same(&in_force.effective) && !generation.configured.is_stale() {
        shared
            .configs
            .settled(address, generation, &in_force, layers, wanted, status.state);
        return;
    }
    if shared
        .configs
        .is_known_bad(&address.name, generation.digest, &wanted)
    {
        return;
    }
    apply(shared, address, generation, &in_force, layers, wanted).await;
}

/// How an attempt to bring something into force ended.
enum Outcome {
    Applied(&'static str),
    /// By the plugin or the checks: not tried again until it is another.
    Refused(String),
    /// By the machine, or a veto: tried again.
    Failed(String),
}

async fn apply(
    shared: &Arc<Shared>,
    address: &Arc<Address>,
    generation: &Arc<Generation>,
    in_force: &Arc<InForce>,
    layers: &[Layer],
    wanted: Effective,
) {
    let actor = match wanted.is_same(&in_force.effective) {
        true => SECRETS.to_owned(),
        false => actor(&in_force.layers, layers),
    };
    let checked = check(
        address.base(),
        &wanted,
        &generation.manifest,
        &generation.contract,
        &shared.configs.allowed,
    );
    // What is refused may have a secret written out where a reference belongs, and a record is for good (G6).
    let after = match &checked {
        Ok(_) => wanted.value(),
        Err(_) => in_force.effective.value(),
    };
    let begun = history::begin_config(
        shared,
        &actor,
        &address.name,
        &generation.plugin.version,
        (in_force.effective.value(), after),
    );
    let told = shared.configs.told(&address.name, &wanted);
    let begun = match begun.await {
        Ok(begun) => begun,
        Err(error) => {
            // Nothing without a record of it.
            shared.configs.note_failure(
                &address.name,
                generation.digest,
                &wanted,
                layers,
                error.to_string(),
                true,
            );
            return;
        }
    };
    let outcome = match checked {
        Ok(references) => bring_into_force(address, generation, layers, &wanted, references).await,
        Err(refusals) => Outcome::Refused(joined(&refusals)),
    };
    let plugin = &*address.name;
    let revision = revisions(layers);
    let (done, detail) = match &outcome {
        Outcome::Applied(how) => {
            tracing::info!(target: "mortise::config", plugin, revision, how, "a configuration is in force");
            shared.configs.lock().tried.remove(plugin);
            (true, (*how).to_owned())
        }
        Outcome::Refused(why) | Outcome::Failed(why) => {
            if told.as_ref() != Some(why) {
                tracing::error!(target: "mortise::config", plugin, revision, why, "a configuration is refused; what was in force stays");
            }
            let again = matches!(outcome, Outcome::Failed(_));
            shared
                .configs
                .note_failure(plugin, generation.digest, &wanted, layers, why.clone(), again);
            (false, why.clone())
        }
    };
    if !done && told.as_ref() == Some(&detail) {
        history::withdraw_config(shared, begun).await;
    } else {
        history::conclude_config(shared, begun, done, &detail).await;
    }
    if done && let Some(now) = address.status.load().current.clone() {
        let state = address.status.load().state;
        let in_force = now.configured.in_force();
        let wanted = effective(&now.configured.own, layers);
        if wanted.is_same(&in_force.effective) && !now.configured.is_stale() {
            shared
                .configs
                .settled(address, &now, &in_force, layers, wanted, state);
        }
    }
}

fn joined(refusals: &[Refusal]) -> String {
    let all: Vec<_> = refusals.iter().map(|it| it.why.as_str()).collect();
    all.join("; ")
}

async fn bring_into_force(
    address: &Arc<Address>,
    generation: &Arc<Generation>,
    layers: &[Layer],
    wanted: &Effective,
    references: References,
) -> Outcome {
    if let Some(configure) = generation.instance.configure() {
        let delivered = match resolve(references).await {
            Ok(secrets) => wanted.deliver(secrets),
            Err(refusals) => return Outcome::Failed(joined(&refusals)),
        };
        generation.services.confide(&delivered.secrets);
        let longest = generation.limits.deadline.min(CONFIGURE_MAX);
        let cx = CallContext {
            call_id: next_call_id(),
            deadline: Some(std::time::Instant::now() + longest),
            ..CallContext::default()
        };
        let answer = tokio::time::timeout(longest, configure.configure(&cx, &delivered.json)).await;
        match answer {
            Ok(Ok(Answer::Applied)) => {
                generation.services.set_config(delivered);
                generation.configured.stale().take();
                generation.configured.in_force.store(Arc::new(InForce {
                    effective: wanted.clone(),
                    layers: layers.to_vec(),
                    how: How::Hot,
                    since: SystemTime::now(),
                }));
                return Outcome::Applied("taken over by the running instance");
            }
            Ok(Ok(Answer::Refused(why))) => {
                return Outcome::Refused(format!(
                    "the plugin refuses it: {}",
                    delivered.secrets.masked(&why)
                ));
            }
            Ok(Ok(Answer::NeedsRestart)) => {}
            // Whether it has it in force is not known: an instance that starts with it has.
            Ok(Err(error)) => {
                let why = delivered.secrets.masked(&error.to_string());
                tracing::warn!(target: "mortise::config", plugin = %address.name, why, "a plugin failed over its new configuration; another instance is started");
            }
            Err(_) => {
                tracing::warn!(target: "mortise::config", plugin = %address.name, "a plugin did not say within {longest:?} whether it takes its new configuration; another instance is started");
            }
        }
    }
    match swap(address).await {
        Ok(()) => Outcome::Applied("by a new instance"),
        Err(error) if error.reasons().iter().any(|it| it.what == VETO) => Outcome::Failed(error.to_string()),
        Err(error) if error.kind() == HostErrorKind::StartFailed => {
            Outcome::Refused(load::with_causes(&error))
        }
        Err(error) => Outcome::Failed(load::with_causes(&error)),
    }
}

/// Has a new instance of what serves started with what is wanted.
async fn swap(address: &Address) -> Result<(), HostError> {
    let gone = || HostError::new(HostErrorKind::NotFound, "it is being unloaded");
    let (reply, answer) = oneshot::channel();
    address
        .commands
        .send(Command::Reconfigure(reply))
        .await
        .map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?.map(drop)
}

/// Lists what a source says wrongly, and writes it down once.
async fn refuse_faulty(shared: &Arc<Shared>, address: &Arc<Address>, faults: &[String]) {
    let Some(generation) = address.status.load().current.clone() else {
        return;
    };
    let reason = faults.join("; ");
    let revision = shared.configs.said_revisions(address.base());
    let tried = Tried {
        effective: Effective::default(),
        digest: None,
        reason: reason.clone(),
        revision: revision.clone(),
        ..Tried::default()
    };
    let before = shared
        .configs
        .lock()
        .tried
        .insert(address.name.to_string(), tried);
    if before.is_some_and(|it| it.reason == reason) {
        return;
    }
    tracing::error!(target: "mortise::config", plugin = %address.name, revision, why = reason, "a configuration is refused; what was in force stays");
    let in_force = generation.configured.in_force();
    let value = in_force.effective.value();
    let begun = history::begin_config(
        shared,
        &revision,
        &address.name,
        &generation.plugin.version,
        (value, value),
    );
    match begun.await {
        Ok(begun) => history::conclude_config(shared, begun, false, &reason).await,
        Err(error) => {
            tracing::error!(target: "mortise::config", plugin = %address.name, %error, "that is not in the history");
        }
    }
}

/// Loads what was refused for its configuration alone.
async fn load_held(shared: &Arc<Shared>, base: &str) {
    for (name, held) in shared.configs.held(base) {
        let Held {
            package,
            request,
            word,
        } = held;
        let own = super::read_own(request.config_json.as_deref());
        let Ok(own) = own else { continue };
        let asked = For {
            name: &name,
            own: &own,
            manifest: package.manifest(),
            contract: package.contract(),
            digest: None,
        };
        if shared.configs.candidates(asked, Choice::Any).is_err() {
            continue;
        }
        shared.configs.let_go(&name);
        tracing::info!(target: "mortise::config", plugin = name, "the configuration that the plugin waits for is there");
        let loaded = shared
            .load_at(&name, package.clone(), request.clone(), Entrance::Waits, &word)
            .await;
        match loaded {
            Ok(_) if word.giver() == Giver::Directory => shared.brought.set(&name, &package, &request),
            Ok(_) => entries::came_true(shared, &name, &package, &request, &word).await,
            Err(error) => {
                tracing::error!(target: "mortise::config", plugin = name, %error, "a plugin that waited for its configuration does not serve");
                shared
                    .waiting
                    .add_if_missing(&name, package, request, &word, &error);
            }
        }
    }
}

impl Configs {
    pub(super) fn held(&self, base: &str) -> Vec<(String, Held)> {
        let state = self.lock();
        let of_base = |name: &str| name == base || name.split_once('@').is_some_and(|(it, _)| it == base);
        let held = state.held.iter().filter(|(name, _)| of_base(name));
        held.map(|(name, it)| (name.clone(), it.clone())).collect()
    }

    fn is_known_bad(&self, name: &str, digest: Digest, wanted: &Effective) -> bool {
        let state = self.lock();
        let tried = state.tried.get(name);
        tried.is_some_and(|it| !it.forgiven && it.digest == Some(digest) && it.effective.is_same(wanted))
    }

    /// Why this came to nothing when it was tried last; that is on record and in the log.
    fn told(&self, name: &str, wanted: &Effective) -> Option<String> {
        let state = self.lock();
        let before = state.tried.get(name);
        before
            .filter(|it| it.forgiven && it.effective.is_same(wanted))
            .map(|it| it.reason.clone())
    }

    fn note_failure(
        &self,
        name: &str,
        digest: Digest,
        wanted: &Effective,
        layers: &[Layer],
        reason: String,
        again: bool,
    ) {
        let tried = Tried {
            effective: wanted.clone(),
            digest: Some(digest),
            reason,
            revision: revisions(layers),
            again: again.then(|| Instant::now() + AGAIN),
            forgiven: false,
        };
        self.lock().tried.insert(name.to_owned(), tried);
    }

    /// What is in force is what is wanted. Where it came from may have changed all the same; and once it has proved itself, it is good (G4).
    fn settled(
        &self,
        address: &Address,
        generation: &Generation,
        in_force: &Arc<InForce>,
        layers: &[Layer],
        wanted: Effective,
        life: LifeState,
    ) {
        if in_force.layers != layers {
            generation.configured.in_force.store(Arc::new(InForce {
                effective: wanted,
                layers: layers.to_vec(),
                how: in_force.how,
                since: in_force.since,
            }));
        }
        let mut state = self.lock();
        state.tried.remove(&*address.name);
        if life != LifeState::Active || address.is_beside() {
            return;
        }
        let age = in_force.since.elapsed().unwrap_or_default();
        if in_force.how == How::Hot && age < self.hot_proves_after {
            // Its probation was with another one: with this it proves itself by living on.
            let then = Instant::now() + (self.hot_proves_after - age);
            state.proving = Some(state.proving.map_or(then, |at| at.min(then)));
            return;
        }
        let Some(plugin) = state.plugins.get_mut(address.base()) else {
            return;
        };
        if plugin.good.as_deref() != Some(layers) {
            plugin.good = Some(layers.to_vec());
            state.unkept.insert(address.base().to_owned());
        }
    }

    /// What the sources say of a plugin, reading or not.
    fn said_revisions(&self, base: &str) -> String {
        let state = self.lock();
        let plugin = state.plugins.get(base);
        let said = plugin.into_iter().flat_map(|it| &it.said);
        let faulty = said.filter(|(_, it)| !it.faults.is_empty());
        let all: Vec<_> = faulty
            .map(|(source, it)| format!("{source}:{}", it.revision))
            .collect();
        all.join("+")
    }

    /// Shows beside the plugin what keeps it from what is wanted of it.
    fn publish_trouble(&self, address: &Address, wanted: &Result<Vec<Layer>, Vec<String>>) {
        let state = self.lock();
        let tried = state.tried.get(&*address.name);
        let serving = address.status.load().current.clone();
        let differs = match (wanted, &serving) {
            (Err(_), serving) => serving.is_some(),
            (Ok(layers), Some(generation)) => {
                let wanted = effective(&generation.configured.own, layers);
                let configured = &generation.configured;
                configured.is_stale() || !wanted.is_same(&configured.in_force().effective)
            }
            // Why it does not serve is told anyway.
            (Ok(_), None) => false,
        };
        let trouble = tried
            .filter(|_| differs)
            .map(|it| format!("configuration {} is not in force: {}", it.revision, it.reason));
        address.trouble.store(trouble.map(Arc::new));
    }
}

/// Whose change it is: the sources that say something else now.
fn actor(before: &[Layer], after: &[Layer]) -> String {
    let differs = |it: &&Layer| !before.iter().any(|old| old.says_the_same(it));
    let mut all: Vec<_> = after
        .iter()
        .filter(differs)
        .map(|it| format!("{}:{}", it.source, it.revision))
        .collect();
    let gone = before
        .iter()
        .filter(|it| !after.iter().any(|new| new.source == it.source));
    all.extend(gone.map(|it| it.source.clone()));
    if all.is_empty() {
        "config".to_owned()
    } else {
        all.join("+")
    }
}
