//! Canaries: a version beside the one that serves, that gets a growing part of its calls until it is promoted or taken back.
//!
//! `mortise_lifecycle::Canary` decides; here it gets its numbers, and what it decides is done. The canary is an ordinary address `name@version` with its own
//! supervisor, and its calls are rules of the routing table. To promote it is to load its package under the plain name, as an operator would, with
//! probation and all, and then to unload the address beside. One task per canary drives it.
//!
//! # Invariants
//! - **D1** Everything is in the journal before it is done, but one thing: what takes calls *away* from a canary is done first and written after,
//!   because nothing of it outlives the host.
//! - **D2** The task waits for nothing while calls go to the canary: loads, health checks and operators' words are polled beside the numbers. An unload is
//!   waited for only when no call goes there any more.
//! - **D3** Whoever decides never waits for whoever is told ([`crate::webhook`]).
//! - **D4** A host that remembers loads finds its canaries again: at the beginning of the step that they were in, with a fresh window. One whose package serves
//!   under the plain name by then is promoted; one that cannot be started is rolled back, and that is told.
//! - **D5** Each decision is a change of the plugin in the history, with the number that decided, written in one transaction with its move.

pub(crate) mod come;
mod info;
pub(crate) mod kept;
mod notes;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::OptionFuture;
use mortise_lifecycle::{
    Canary, CanaryDecision, CanaryEffect, CanaryEvent, CanaryLook, CanaryPlan, CanaryState, CanaryTraffic,
    CanaryTrigger,
};
use mortise_manifest::check_plugin_name;
use mortise_routing::{HeaderMatch, Rule, Scope, Share};
use mortise_runtime::BoxFuture;
use mortise_store::{Package, Transition};
use semver::Version;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    Host, HostError, HostErrorKind, LoadRequest, PluginInfo, call,
    generation::{Address, Generation},
    history::{Decided, Giver, Word as Order},
    host::Shared,
    load::{self, Entrance},
    stats::Mark,
};
pub use info::{CanaryEntry, CanaryInfo, CanaryNumbers, CanarySide, Notice};

/// How often the numbers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a canary is asked how it is.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// From the moment that no call is sent to a canary any more to its unload.
const GRACE: Duration = Duration::from_millis(100);
/// From a decision that could not be written down to the next look.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Decisions that are kept to be shown.
const SAID_MAX: usize = 50;
/// Words of operators that wait.
const WORDS_MAX: usize = 16;

/// A canary to start.
#[derive(Clone, Debug)]
pub struct CanaryRequest {
    /// The package, and what it is loaded with. Its `beside` means nothing here.
    pub load: LoadRequest,
    /// The steps, and how it is judged.
    pub plan: CanaryPlan,
    /// The header whose value keeps a caller with the canary or away from it.
    pub sticky: Option<String>,
}

impl CanaryRequest {
    /// With the default plan: 5, 25 and 50 %, a minute each, then promotion.
    #[must_use]
    pub fn new(load: LoadRequest) -> Self {
        Self {
            load,
            plan: CanaryPlan::default(),
            sticky: None,
        }
    }
}

/// All canaries of a host, by the plugin's name; one that is over stays until there is another.
#[derive(Default)]
pub(crate) struct Canaries {
    all: Mutex<BTreeMap<String, Handle>>,
    /// Held while one is started.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Handle {
    words: mpsc::Sender<Word>,
    info: Arc<ArcSwap<CanaryInfo>>,
    commission: Commission,
}

/// Who had a canary begun, and of what.
#[derive(Clone)]
struct Commission {
    giver: Giver,
    /// Digest of the package.
    package: String,
    /// What the configuration's entry said, if it was that.
    word: Option<String>,
}

/// What an operator says.
struct Word {
    event: CanaryEvent,
    actor: String,
    reply: oneshot::Sender<Result<CanaryInfo, HostError>>,
}

/// One canary and all that it needs.
struct Driver {
    shared: Arc<Shared>,
    canary: Canary,
    request: CanaryRequest,
    /// What is measured is what is promoted, whatever becomes of the place that it came from.
    package: Package,
    commission: Commission,
    plugin: String,
    address: Arc<Address>,
    /// What is compared.
    own: Arc<Generation>,
    base: Arc<Generation>,
    base_address: Arc<Address>,
    marks: (Mark, Mark),
    look: CanaryLook,
    crashes: u64,
    bad_healths: u32,
    next_health: Instant,
    health: Option<BoxFuture<'static, Result<(), String>>>,
    swap: Option<BoxFuture<'static, Result<PluginInfo, HostError>>>,
    /// How its promotion ended, until that is written down.
    swapped: Option<CanaryEvent>,
    /// When to look again, after something could not be written down.
    looks_again: Instant,
    /// Its row is there for the host's next life.
    kept: bool,
    began: Instant,
    said: VecDeque<CanaryEntry>,
    notes: Vec<String>,
    /// Where it stood when it was last written down, as JSON.
    stood: String,
    /// Whoever began it wants something else now.
    withdrawn: bool,
    words: mpsc::Receiver<Word>,
    closing: watch::Receiver<bool>,
    info: Arc<ArcSwap<CanaryInfo>>,
}

enum Happening {
    Closing,
    Word(Word),
    Swapped(Result<PluginInfo, HostError>),
    Health(Result<(), String>),
    Look,
}

// === impl Host ===

impl Host {
    /// Loads a package beside the version that serves under the same name, and gives it calls as its plan says. Returns when its first step has begun.
    ///
    /// # Errors
    /// `Conflict` if nothing serves under the name, it has a canary already, or a route without a header splits its calls; else as [`Host::load`].
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun.
    pub async fn start_canary(&self, actor: &str, request: CanaryRequest) -> Result<CanaryInfo, HostError> {
        let shared = self.shared();
        let package = load::fetch(shared, &request.load.source).await?;
        let own_name = || package.plugin().name.to_string();
        let plugin = request.load.name.clone().unwrap_or_else(own_name);
        check_plugin_name(&plugin).map_err(|error| {
            HostError::new(HostErrorKind::Invalid, error.to_string())
                .with_hint(error.hint().unwrap_or_default())
        })?;
        let commission = Commission {
            giver: Giver::Operator,
            package: package.digest().to_string(),
            word: None,
        };
        self.begin_canary(actor, commission, plugin, &package, request)
            .await
    }

    /// The same for whoever has read the package.
    async fn begin_canary(
        &self,
        actor: &str,
        commission: Commission,
        plugin: String,
        package: &Package,
        request: CanaryRequest,
    ) -> Result<CanaryInfo, HostError> {
        let shared = self.shared();
        let _one_at_a_time = shared.canaries.starting.lock().await;
        check(shared, &plugin, &request)?;
        let (canary, effects) = Canary::start(request.plan.clone(), Duration::ZERO);
        let (driver, handle) = Driver::load(shared, plugin, package, request, commission, canary).await?;
        driver.begin(handle, effects, actor).await
    }

    /// All canaries, by plugin: those that run, and of the others the last of each plugin.
    #[must_use]
    pub fn canaries(&self) -> Vec<CanaryInfo> {
        let all = self.shared().canaries.all().clone();
        let overruled: BTreeMap<_, _> = self.overruled().into_iter().collect();
        let told = |(plugin, it): (String, Handle)| {
            let mut info = (**it.info.load()).clone();
            info.notes.extend(overruled.get(&plugin).cloned());
            info
        };
        all.into_iter().map(told).collect()
    }

    /// Holds a canary where it is. Numbers that are too bad take it back all the same.
    ///
    /// # Errors
    /// `NotFound` if the plugin has none, `Conflict` if it is over or held already.
    pub async fn pause_canary(&self, actor: &str, plugin: &str) -> Result<CanaryInfo, HostError> {
        self.say(actor, plugin, CanaryEvent::Pause).await
    }

    /// Lets a canary go on that was held or waits in a pause of its plan.
    ///
    /// # Errors
    /// `NotFound` if the plugin has none, `Conflict` if it does not wait.
    pub async fn resume_canary(&self, actor: &str, plugin: &str) -> Result<CanaryInfo, HostError> {
        self.say(actor, plugin, CanaryEvent::Resume).await
    }

    /// Puts a canary in the place of the version that serves, whatever steps are left. Returns when that has begun.
    ///
    /// # Errors
    /// `NotFound` if the plugin has none, `Conflict` if it is over.
    pub async fn promote_canary(&self, actor: &str, plugin: &str) -> Result<CanaryInfo, HostError> {
        self.say(actor, plugin, CanaryEvent::Promote).await
    }

    /// Takes a canary back. Its digest is not quarantined. Returns when no call goes to it and it is unloaded.
    ///
    /// # Errors
    /// `NotFound` if the plugin has none, `Conflict` if it is over.
    pub async fn abort_canary(&self, actor: &str, plugin: &str, why: &str) -> Result<CanaryInfo, HostError> {
        let event = CanaryEvent::Abort { why: why.to_owned() };
        self.say(actor, plugin, event).await
    }

    async fn say(&self, actor: &str, plugin: &str, event: CanaryEvent) -> Result<CanaryInfo, HostError> {
        let handle = self.shared().canaries.all().get(plugin).cloned();
        let Some(Handle { words, info, .. }) = handle else {
            let what = format!("plugin `{plugin}` has no canary");
            return Err(HostError::new(HostErrorKind::NotFound, what)
                .with_plugin(plugin)
                .with_hint("`mortise canary start` begins one"));
        };
        let (reply, answer) = oneshot::channel();
        let word = Word {
            event,
            actor: actor.to_owned(),
            reply,
        };
        let over = || {
            let what = format!(
                "the canary of plugin `{plugin}` is over: it is {}",
                info.load().state
            );
            HostError::new(HostErrorKind::Conflict, what).with_plugin(plugin)
        };
        words.send(word).await.map_err(|_| over())?;
        answer.await.map_err(|_| over())?
    }
}

/// What speaks against a canary before anything is loaded.
fn check(shared: &Shared, plugin: &str, request: &CanaryRequest) -> Result<(), HostError> {
    let conflict = |what: String, hint: &str| {
        Err(HostError::new(HostErrorKind::Conflict, what)
            .with_plugin(plugin)
            .with_hint(hint))
    };
    if request.plan.steps.is_empty() {
        return Err(HostError::new(HostErrorKind::Invalid, "the canary has no steps")
            .with_hint("give it at least one, such as `10%`"));
    }
    let running = shared.canaries.all().get(plugin).map(|it| it.info.load_full());
    if let Some(info) = running.filter(|it| !it.is_over()) {
        let what = format!(
            "plugin `{plugin}` has a canary already: {}, {}",
            info.version, info.state
        );
        return conflict(what, "abort or promote it first");
    }
    if shared
        .find(plugin)
        .map(|it| call::serving(&it).is_err())
        .unwrap_or(true)
    {
        let what = format!("nothing serves under the name `{plugin}`, so there is nothing to compare with");
        return conflict(what, "load the first version with `mortise load`");
    }
    if let Some(route) = shared.route_that_splits(plugin) {
        let what = format!("route `{route}` sends all calls of plugin `{plugin}` somewhere already");
        return conflict(what, "remove it, or give it a header");
    }
    Ok(())
}

// === impl Canaries ===

impl Canaries {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Handle>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The canary of a plugin, or its last one.
    fn find(&self, plugin: &str) -> Option<Handle> {
        self.all().get(plugin).cloned()
    }

    /// Whether a plugin has a canary that is not over.
    pub(crate) fn runs(&self, plugin: &str) -> bool {
        self.find(plugin).is_some_and(|it| !it.info.load().is_over())
    }
}

// === impl Driver ===

impl Driver {
    /// Loads the canary beside what serves. On `Err` nothing of it is left.
    async fn load(
        shared: &Arc<Shared>,
        plugin: String,
        package: &Package,
        request: CanaryRequest,
        commission: Commission,
        canary: Canary,
    ) -> Result<(Self, Handle), HostError> {
        let notes = notes::about(shared, &plugin, package, &request);
        let load = LoadRequest {
            name: Some(plugin.clone()),
            beside: true,
            ..request.load.clone()
        };
        let beside = shared.name_for(package, &load)?;
        if beside == plugin || shared.find(&beside).is_ok() {
            let what = format!("`{beside}` is there already, and is not this canary's");
            return Err(HostError::new(HostErrorKind::Conflict, what)
                .with_plugin(&plugin)
                .with_hint("unload it first"));
        }
        let loaded = shared
            .load_unrecorded(&beside, package, &load, Entrance::Alone)
            .await?;
        let package = package.clone();
        let made = Self::new(shared, plugin, &loaded.name, package, request, commission, canary).map(
            |(mut driver, handle)| {
                driver.notes = notes;
                (driver, handle)
            },
        );
        if made.is_err()
            && let Ok(address) = shared.find(&loaded.name)
        {
            let _ = shared.unload_unrecorded(&address).await;
        }
        made
    }

    fn new(
        shared: &Arc<Shared>,
        plugin: String,
        address: &str,
        package: Package,
        request: CanaryRequest,
        commission: Commission,
        canary: Canary,
    ) -> Result<(Self, Handle), HostError> {
        let gone = |error: mortise_runtime::CallError| {
            HostError::new(HostErrorKind::Conflict, error.to_string()).with_plugin(&*plugin)
        };
        let address = shared.find(address)?;
        let own = call::serving(&address).map_err(gone)?;
        let base_address = shared.find(&plugin)?;
        let base = call::serving(&base_address).map_err(gone)?;
        let (words, inbox) = mpsc::channel(WORDS_MAX);
        let info = Arc::new(ArcSwap::from_pointee(CanaryInfo::default()));
        let handle = Handle {
            words,
            info: info.clone(),
            commission: commission.clone(),
        };
        let now = Instant::now();
        let driver = Self {
            closing: shared.closing.subscribe(),
            shared: shared.clone(),
            canary,
            request,
            package,
            commission,
            plugin,
            crashes: address.status.load().crashes,
            address,
            marks: (own.stats.mark(), base.stats.mark()),
            own,
            base,
            base_address,
            look: CanaryLook::default(),
            bad_healths: 0,
            next_health: now + HEALTH_EVERY,
            health: None,
            swap: None,
            swapped: None,
            looks_again: now,
            kept: false,
            began: now,
            said: VecDeque::new(),
            notes: Vec::new(),
            stood: String::new(),
            withdrawn: false,
            words: inbox,
            info,
        };
        Ok((driver, handle))
    }

    /// Performs what the start asked for, and leaves the rest to a task.
    async fn begin(
        mut self,
        handle: Handle,
        effects: Vec<CanaryEffect>,
        actor: &str,
    ) -> Result<CanaryInfo, HostError> {
        let before = CanaryState::Measuring;
        if let Err(error) = self.write_down(before, &effects, actor).await {
            let _ = self.shared.unload_unrecorded(&self.address).await;
            return Err(error);
        }
        self.shared.canaries.all().insert(self.plugin.clone(), handle);
        self.perform(effects, actor).await;
        let info = self.publish();
        let tokio = self.shared.tokio.clone();
        tokio.spawn(self.run());
        Ok(info)
    }

    async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.canary.state().is_at_rest() {
            let happening = tokio::select! {
                biased;
                closing = self.closing.wait_for(|it| *it) => { drop(closing); Happening::Closing }
                Some(done) = OptionFuture::from(self.swap.as_mut()) => Happening::Swapped(done),
                Some(word) = self.words.recv() => Happening::Word(word),
                Some(answer) = OptionFuture::from(self.health.as_mut()) => Happening::Health(answer),
                _ = looks.tick() => Happening::Look,
            };
            match happening {
                // It is found again in the host's next life.
                Happening::Closing => return,
                Happening::Word(Word { event, actor, reply }) => {
                    let done = self.take(event, &actor).await;
                    let _ = reply.send(done.map(|()| self.publish()));
                }
                Happening::Swapped(done) => {
                    self.swap = None;
                    self.swapped = Some(match done {
                        Ok(_) => CanaryEvent::Swapped,
                        // It serves, and only that could not be written down.
                        Err(_) if self.is_promoted() => CanaryEvent::Swapped,
                        Err(error) => CanaryEvent::SwapFailed {
                            why: load::with_causes(&error),
                        },
                    });
                    self.end_swap().await;
                }
                Happening::Health(answer) => {
                    self.health = None;
                    self.bad_healths = answer.map_or_else(|_| self.bad_healths + 1, |()| 0);
                }
                Happening::Look if Instant::now() < self.looks_again => {}
                Happening::Look if self.swapped.is_some() => self.end_swap().await,
                Happening::Look => {
                    if let Some(mut event) = self.look_around() {
                        if let CanaryEvent::Crashed { cause } = &mut event {
                            *cause = self.cause().await;
                        }
                        self.must_take(event).await;
                    }
                }
            }
            self.publish();
        }
        self.words.close();
        self.base.stats.sample_all(false);
        if self.kept {
            self.goes_for_good().await;
        }
        self.publish();
    }

    /// Tells the machine how the promotion ended; once more if that could not be written down.
    async fn end_swap(&mut self) {
        if let Some(event) = self.swapped.clone()
            && self.must_take(event).await
        {
            self.swapped = None;
        }
    }

    /// Whether what is measured serves under the plain name.
    fn is_promoted(&self) -> bool {
        call::serving(&self.base_address).is_ok_and(|it| it.digest == self.own.digest)
    }

    /// The host's next life knows nothing of it any more. Before its end is written down, and long before it is unloaded: whoever kills the host in between
    /// finds it gone, and never back with its calls.
    async fn goes_for_good(&mut self) {
        self.stays_away().await;
        match self.shared.forget_canary(&self.plugin).await {
            Ok(()) => self.kept = false,
            Err(error) => {
                tracing::error!(target: "mortise::life", plugin = self.plugin, %error, "a canary that is over could not be forgotten");
            }
        }
    }

    /// One that was taken back does not come again because a file still names it: not by a reload, and not when the host starts again.
    async fn stays_away(&mut self) {
        let is_taken_back = matches!(
            self.canary.state(),
            CanaryState::RollingBack | CanaryState::RolledBack
        );
        if !is_taken_back || self.withdrawn {
            return;
        }
        let Commission { giver, package, word } = &self.commission;
        let held = match (giver, word) {
            (Giver::Config, Some(word)) => self.shared.entries.hold_if(&self.plugin, word),
            (Giver::Directory, _) => Some(self.shared.brought.hold_at(&self.plugin, package)),
            _ => None,
        };
        if let Some(held) = held {
            self.shared.note_word(held).await;
        }
    }

    /// What the numbers, and the two addresses, say now.
    fn look_around(&mut self) -> Option<CanaryEvent> {
        let status = self.address.status.load();
        if status.crashes > self.crashes {
            self.crashes = status.crashes;
            // The supervisor counts it first, and says why when it has written it down; the instance itself knows it now.
            return Some(CanaryEvent::Crashed { cause: String::new() });
        }
        if self.canary.state() == CanaryState::Promoting {
            return None;
        }
        if let Some(why) = self.overtaken() {
            return Some(CanaryEvent::Overtaken { why });
        }
        let now = Instant::now();
        if self.health.is_none() && now >= self.next_health {
            self.next_health = now + HEALTH_EVERY;
            self.health = Some(crate::supervisor::ask_health(self.own.clone()));
        }
        // The end of a probation would go back to one call of 64.
        self.own.stats.sample_all(true);
        self.base.stats.sample_all(true);
        self.look = CanaryLook {
            canary: self.own.stats.since(&self.marks.0),
            baseline: self.base.stats.since(&self.marks.1),
            bad_healths: self.bad_healths,
        };
        Some(CanaryEvent::Look(self.look.clone()))
    }

    /// Why the canary's instance ended, from itself.
    async fn cause(&mut self) -> String {
        // It has ended, so it says so at once; the bound is for one that does not know.
        match tokio::time::timeout(GRACE, self.own.instance.ended()).await {
            Ok(cause) => cause.to_string(),
            Err(_) => "it is not known why".to_owned(),
        }
    }

    /// What somebody else did to one of the two.
    fn overtaken(&mut self) -> Option<String> {
        let still = |address: &Arc<Address>, of: &Generation| {
            let name = &address.name;
            let found = self.shared.find(name);
            if !found.is_ok_and(|it| Arc::ptr_eq(&it, address)) {
                return Err(format!("`{name}` was unloaded"));
            }
            // One that is down and starts again is no other.
            // So is one that took over another configuration.
            match call::serving(address).ok() {
                Some(now) if now.digest != of.digest || now.plugin.version != of.plugin.version => {
                    Err(format!("`{name}` was replaced by {}", now.plugin.version))
                }
                now => Ok(now),
            }
        };
        let own = match still(&self.address, &self.own) {
            Err(why) => return Some(why),
            Ok(now) => now,
        };
        let base = match still(&self.base_address, &self.base) {
            Err(why) => return Some(why),
            Ok(now) => now,
        };
        let own = own.filter(|it| !Arc::ptr_eq(it, &self.own));
        let base = base.filter(|it| !Arc::ptr_eq(it, &self.base));
        if own.is_some() || base.is_some() {
            self.own = own.unwrap_or_else(|| self.own.clone());
            self.base = base.unwrap_or_else(|| self.base.clone());
            // What is compared has to have seen the same time.
            self.marks = (self.own.stats.mark(), self.base.stats.mark());
        }
        None
    }

    /// Whether it was taken.
    async fn must_take(&mut self, event: CanaryEvent) -> bool {
        let taken = self.take(event, "canary").await;
        if let Err(error) = &taken {
            self.looks_again = Instant::now() + LOOK_AGAIN_AFTER;
            tracing::error!(target: "mortise::life", plugin = self.plugin, %error, "a canary stays where it is");
        }
        taken.is_ok()
    }

    /// Gives an event to the machine, writes down what it decides, and does it.
    async fn take(&mut self, event: CanaryEvent, actor: &str) -> Result<(), HostError> {
        let before = self.canary.clone();
        let is_abort = matches!(event, CanaryEvent::Abort { .. });
        let effects = self.canary.on(event, self.began.elapsed()).map_err(|refused| {
            HostError::new(HostErrorKind::Conflict, refused.to_string()).with_plugin(&*self.plugin)
        })?;
        self.withdrawn |= is_abort && *actor == **Order::of(self.commission.giver).actor();
        let takes_away = self.canary.state() == CanaryState::RollingBack;
        if takes_away {
            // D1.
            for effect in &effects {
                if let CanaryEffect::Route(traffic) = effect {
                    self.route(traffic);
                }
            }
            self.goes_for_good().await;
        }
        if let Err(error) = self.write_down(before.state(), &effects, actor).await {
            if !takes_away {
                self.canary = before;
                return Err(error);
            }
            tracing::error!(target: "mortise::life", plugin = self.plugin, %error, "a canary's end is not in the journal");
        }
        self.perform(effects, actor).await;
        Ok(())
    }

    async fn perform(&mut self, effects: Vec<CanaryEffect>, actor: &str) {
        for effect in effects {
            match effect {
                CanaryEffect::Route(traffic) => self.route(&traffic),
                CanaryEffect::NewWindow => {
                    self.marks = (self.own.stats.mark(), self.base.stats.mark());
                    self.look = CanaryLook::default();
                }
                CanaryEffect::Swap => self.swap = Some(self.swapping(actor)),
                CanaryEffect::Quarantine => {
                    let reason = self.said.back().map_or_else(String::new, |it| it.text.clone());
                    self.shared.quarantine(&self.plugin, &self.own, &reason).await;
                }
                CanaryEffect::Tell(decision) => self.tell(&decision, actor),
                CanaryEffect::Unload => self.unload().await,
            }
        }
    }

    /// Gives the canary these calls.
    fn route(&self, traffic: &CanaryTraffic) {
        let rules = rules(
            &self.plugin,
            &self.own.plugin.version,
            traffic,
            self.request.sticky.as_deref(),
        );
        self.shared.set_canary_rules(&self.plugin, rules);
    }

    fn swapping(&self, actor: &str) -> BoxFuture<'static, Result<PluginInfo, HostError>> {
        let shared = self.shared.clone();
        let request = LoadRequest {
            name: Some(self.plugin.clone()),
            beside: false,
            ..self.request.load.clone()
        };
        let package = self.package.clone();
        let giver = self.commission.giver;
        let word = Order::promotion(giver, actor);
        Box::pin(async move {
            let name = request.name.clone().unwrap_or_default();
            let (again, asked) = (package.clone(), request.clone());
            let promoted = shared
                .load_at(&name, package, request, Entrance::Alone, &word)
                .await;
            if promoted.is_ok() && giver == Giver::Directory {
                shared.brought.set(&name, &again, &asked);
            }
            promoted
        })
    }

    /// Stops the version beside; no call goes there any more.
    async fn unload(&mut self) {
        if let Some(swap) = self.swap.take()
            && swap.await.is_ok()
        {
            // It was given up while it was being promoted.
            self.take_back().await;
        }
        // Calls that were sent here a moment ago have still to come in.
        tokio::time::sleep(GRACE).await;
        // This very address, not whoever has its name by now. Whoever unloaded it before did what was to be done.
        let (reply, gone) = oneshot::channel();
        let command = crate::supervisor::Command::Unload(reply);
        if self.address.commands.send(command).await.is_ok() {
            let _ = gone.await;
        }
        if self.canary.state() == CanaryState::RollingBack
            && let Err(refused) = self.canary.on(CanaryEvent::Unloaded, self.began.elapsed())
        {
            tracing::error!(target: "mortise::life", plugin = self.plugin, %refused, "a canary that is gone is still there");
        }
    }

    /// Puts back what the plain name served before.
    async fn take_back(&mut self) {
        let Ok(address) = self.shared.find(&self.plugin) else {
            return;
        };
        let (reply, done) = oneshot::channel();
        let why = "its canary was given up while it was being promoted".to_owned();
        let command = crate::supervisor::Command::TakeBack(why, reply);
        let asked = address.commands.send(command).await.is_ok();
        if !asked || !done.await.unwrap_or(false) {
            tracing::error!(target: "mortise::life", plugin = self.plugin, "version {} has passed its probation and stays", self.own.plugin.version);
        }
    }

    // --- telling ---

    fn tell(&mut self, decision: &CanaryDecision, actor: &str) {
        let text = decision.to_string();
        let (plugin, version) = (&self.plugin, &self.own.plugin.version);
        match decision {
            CanaryDecision::RolledBack(_) => {
                tracing::error!(target: "mortise::life", plugin, %version, actor, "canary: {text}");
            }
            _ => tracing::info!(target: "mortise::life", plugin, %version, actor, "canary: {text}"),
        }
        if self.said.len() == SAID_MAX {
            self.said.pop_front();
        }
        self.said
            .push_back(CanaryEntry::new(decision.kind(), actor, text));
        let notice = Arc::new(Notice::of(decision, actor, &self.describe()));
        self.shared.webhooks.tell(&notice);
    }

    /// Writes down what was decided, and where a later life of the host goes on.
    async fn write_down(
        &mut self,
        from: CanaryState,
        effects: &[CanaryEffect],
        actor: &str,
    ) -> Result<(), HostError> {
        let decision = |effect: &CanaryEffect| match effect {
            CanaryEffect::Tell(decision) => Some(decision.clone()),
            _ => None,
        };
        let decisions: Vec<_> = effects.iter().filter_map(decision).collect();
        let Some(last) = decisions.last() else {
            return Ok(());
        };
        let texts: Vec<_> = decisions.iter().map(ToString::to_string).collect();
        let stands = self.stands();
        let mut before = self.stood.clone();
        let decided: Vec<_> = texts
            .iter()
            .map(|text| {
                let decided = Decided {
                    actor: actor.to_owned(),
                    plugin: self.plugin.clone(),
                    version: self.own.plugin.version.to_string(),
                    digest: self.commission.package.clone(),
                    before: std::mem::replace(&mut before, stands.clone()),
                    after: stands.clone(),
                    detail: text.clone(),
                };
                decided.change()
            })
            .collect();
        let row = Transition {
            plugin: self.plugin.clone(),
            version: self.own.plugin.version.to_string(),
            digest: self.own.digest.to_string(),
            actor: actor.to_owned(),
            from: format!("canary {}", from.as_str()),
            event: format!("canary_{}", last.kind()),
            to: format!("canary {}", self.canary.state().as_str()),
            detail: texts.join("; "),
        };
        let is_over = matches!(
            self.canary.state(),
            CanaryState::RollingBack | CanaryState::RolledBack | CanaryState::Promoted
        );
        if self.shared.parts.remembers && !is_over {
            self.shared
                .keep_canary(
                    &self.plugin,
                    &self.request,
                    &self.canary,
                    self.own.digest,
                    &self.commission,
                )
                .await?;
            self.kept = true;
        }
        self.shared.decide(row, decided).await?;
        self.stood = stands;
        Ok(())
    }

    /// Where it stands, for the history.
    fn stands(&self) -> String {
        let traffic = self.canary.traffic();
        let headers: Vec<_> = traffic
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let state = match self.canary.state() {
            // What is left of it is to unload.
            CanaryState::RollingBack => CanaryState::RolledBack,
            other => other,
        };
        let stands = serde_json::json!({
            "version": self.own.plugin.version.to_string(),
            "beside": self.base.plugin.version.to_string(),
            "state": state.as_str(),
            "weight": traffic.weight,
            "headers": headers,
        });
        stands.to_string()
    }

    fn publish(&self) -> CanaryInfo {
        let info = self.describe();
        self.info.store(Arc::new(info.clone()));
        info
    }

    fn describe(&self) -> CanaryInfo {
        let info = CanaryInfo::of(
            &self.plugin,
            &self.address.name,
            (&self.own.plugin.version, &self.base.plugin.version),
            &self.canary,
            &self.look,
            self.began.elapsed(),
            &self.said,
        );
        CanaryInfo {
            notes: self.notes.clone(),
            ..info
        }
    }
}

impl Shared {
    /// Writes a move of a canary down, and what was decided.
    async fn decide(
        &self,
        row: Transition,
        decided: Vec<(mortise_store::Change, String)>,
    ) -> Result<(), HostError> {
        let at = std::time::SystemTime::now();
        self.with_journal(move |journal| journal.append_decided(at, &[row], &decided))
            .await
    }

    /// Tells that a canary of an earlier life of the host cannot go on.
    async fn tell_of_lost_canary(&self, plugin: &str, why: &str) {
        let decision = CanaryDecision::RolledBack(CanaryTrigger::Overtaken {
            why: format!("it could not go on after a restart of the host: {why}"),
        });
        let text = decision.to_string();
        tracing::error!(target: "mortise::life", plugin, "canary: {text}");
        let rolled_back = CanaryState::RolledBack.as_str();
        let row = Transition {
            plugin: plugin.to_owned(),
            actor: "host".to_owned(),
            event: format!("canary_{}", decision.kind()),
            to: format!("canary {rolled_back}"),
            detail: text.clone(),
            ..Transition::default()
        };
        let decided = Decided {
            actor: row.actor.clone(),
            plugin: row.plugin.clone(),
            version: String::new(),
            digest: String::new(),
            before: String::new(),
            after: serde_json::json!({ "state": rolled_back }).to_string(),
            detail: row.detail.clone(),
        };
        if let Err(error) = self.decide(row, vec![decided.change()]).await {
            tracing::error!(target: "mortise::life", plugin, %error, "a canary's end is not in the journal");
        }
        let info = CanaryInfo {
            plugin: plugin.to_owned(),
            state: rolled_back.to_owned(),
            decisions: vec![CanaryEntry::new(decision.kind(), "host", text)],
            ..CanaryInfo::default()
        };
        self.webhooks
            .tell(&Arc::new(Notice::of(&decision, "host", &info)));
        let handle = Handle {
            words: mpsc::channel(1).0,
            info: Arc::new(ArcSwap::from_pointee(info)),
            commission: Commission {
                giver: Giver::Recalled,
                package: String::new(),
                word: None,
            },
        };
        self.canaries.all().insert(plugin.to_owned(), handle);
    }
}

/// The rules that give a canary its calls.
fn rules(plugin: &str, version: &Version, traffic: &CanaryTraffic, sticky: Option<&str>) -> Vec<Rule> {
    let share = |version: Option<&Version>, weight| Share {
        provider: plugin.into(),
        version: version.cloned(),
        weight,
    };
    let mut rules: Vec<_> = traffic
        .headers
        .iter()
        .map(|(name, value)| Rule {
            name: format!("canary-{plugin}-header").into(),
            scope: Scope::Plugin(plugin.into()),
            headers: vec![HeaderMatch::Exact {
                name: name.as_str().into(),
                value: value.as_str().into(),
            }],
            to: vec![share(Some(version), 1)],
            sticky: None,
        })
        .collect();
    if traffic.weight > 0 {
        rules.push(Rule {
            name: format!("canary-{plugin}").into(),
            scope: Scope::Plugin(plugin.into()),
            headers: Vec::new(),
            to: vec![
                share(None, 100_u32.saturating_sub(traffic.weight)),
                share(Some(version), traffic.weight),
            ],
            sticky: sticky.map(Into::into),
        });
    }
    rules
}
