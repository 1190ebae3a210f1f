//! Several plugins as one change: all take over, or none.
//!
//! One task leads ([`load`]); each member is loaded by the supervisor of its own address, as ever, with a [`Ticket`] that makes it wait for the others at
//! every [`Stage`]. The leader goes on when all members have left a [`Mark`] that they are through with one:
//!
//! | stage | a member | mark |
//! |---|---|---|
//! | `Checking` | verifies and prepares its package | `Checked` |
//! | `Starting(level)` | starts, is healthy | `Ready` |
//! | `Gathering` | says whom it replaces; its supervisor does nothing else from here on | `There` |
//! | `Closed` | puts a gate into its cell, drains what was in it | `Drained` |
//! | `Saving` | asks its predecessor for its state | `Saved` |
//! | `Loading(level)` | gives it to the new one; hooks, health | `Loaded` |
//! | `Offering` | offers its methods; callers wait at the gates | `Offered` |
//! | `CuttingOver(level)` | flips its cell, opens its gate | `Serves` |
//!
//! The decision falls between `Loading` and `Offering`. Who does what in the first two rows is `supervisor::attempt`, in the others `supervisor::joint`.
//!
//! # Invariants
//! - **T1** Until the leader decides, nothing that a caller can see has changed but that he waits; whoever fails makes the leader abort, and everybody
//!   stops what it started and puts back what it replaced, which knows what it knew.
//! - **T2** The decision is one transaction of the journal: the cutovers of all members, and what should run from now on. A host that is
//!   killed before it comes back to all old ones, one that is killed after it to all new ones.
//! - **T3** After the decision no member can refuse. One whose instance ends in that moment is cut over all the same and then treated as
//!   crashed in its probation.
//! - **T4** Members pass their probation together: the first that fails takes all back ([`Trial`]), the last that passes lets all
//!   predecessors go. Only the digest of the one that failed is quarantined.
//! - **T5** Providers start, load and are cut over before those members that require them.
//! - **T6** No call sees both: when the first cell is flipped no call is in an old one, because all of them are drained behind gates that close together
//!   and let through whatever such a call still needs (G3, G4 of [`crate::gate`]); and the table has all new ones before the first gate opens.
//! - **T7** The gates are closed for no longer than the least `limits.swap_ms` of those that wait behind one, up to the decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use mortise_routing::{Participant, plan};
use mortise_runtime::{BoxFuture, InstanceId, Refusal};
use mortise_store::{Desired, Package, SavedState, Survives, Transition};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    HostError, HostErrorKind, LoadRequest, PluginInfo,
    depend::Known,
    gate::Passage,
    generation::{Address, Generation},
    history::{self, Begun, Word},
    host::Shared,
    load::{self, Entrance},
    supervisor::Command,
};

/// What marks a refusal that is not a member's own fault.
const NOT_ITS_FAULT: &str = "together";

/// A member's part in a load of several plugins.
#[derive(Clone)]
pub(crate) struct Ticket {
    set: Arc<Set>,
    index: usize,
}

/// What leader and members share.
struct Set {
    candidates: Vec<Known>,
    /// By member.
    levels: Vec<usize>,
    phase: watch::Sender<Phase>,
    arrivals: mpsc::UnboundedSender<Arrival>,
    /// Set before the stage `Closed`.
    gates: OnceLock<Gates>,
    /// The new ones, as they come.
    fresh: Mutex<Vec<InstanceId>>,
    /// Whether a member may still say that it failed (T3).
    verdict: Mutex<Verdict>,
    trial: Trial,
}

/// What the gates of all members have in common.
#[derive(Debug)]
pub(crate) struct Gates {
    pub(crate) passage: Arc<Passage>,
    /// When they open again, whatever was not done by then (T7). `None` if nobody waits.
    pub(crate) until: Option<Instant>,
}

/// How far the leader lets its members go.
#[derive(Clone, Debug)]
enum Phase {
    At(Stage),
    Aborted(Arc<str>),
}

/// What members may do; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Checking,
    /// Members up to this level.
    Starting(usize),
    Gathering,
    Closed,
    Saving,
    /// Members up to this level.
    Loading(usize),
    Offering,
    /// Members up to this level.
    CuttingOver(usize),
}

/// What a member is through with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Checked,
    Ready,
    There,
    Drained,
    Saved,
    Loaded,
    Offered,
    Serves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    /// A member failed after it was ready.
    Lost,
    /// All are ready; the leader writes it down.
    Decided,
}

/// What a member tells the leader.
struct Arrival {
    index: usize,
    /// `None`: it has failed, and says why with its reply.
    mark: Option<Mark>,
    brings: Brings,
}

/// What it has for the leader.
enum Brings {
    Nothing,
    There(Box<There>),
    State(Option<Box<SavedState>>),
    Rows(Vec<Transition>),
}

/// A member whose supervisor waits for the others.
pub(crate) struct There {
    /// Its moves so far, and that it gives way, if something does.
    pub(crate) rows: Vec<Transition>,
    pub(crate) new: InstanceId,
    /// What serves at its address.
    pub(crate) old: Option<Arc<Generation>>,
    /// Longest that callers of it may wait.
    pub(crate) swap: Duration,
}

/// The common probation of plugins that were loaded together (T4).
struct Trial {
    fate: watch::Sender<Fate>,
    members: Mutex<Vec<OnTrial>>,
}

/// What is known of one member.
#[derive(Clone, Debug, Default)]
struct OnTrial {
    /// It is as good as what it replaced.
    passed: bool,
    /// It was replaced or unloaded: nobody takes it back any more.
    left: bool,
    /// What should have run before in its place, if the host remembers that.
    before: Option<(String, Option<Desired>)>,
}

/// What becomes of plugins that were loaded together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Some are still on probation.
    Open,
    /// All have passed.
    Passed,
    /// One has failed; all go back.
    Failed {
        /// The address that failed.
        plugin: Arc<str>,
        /// Why.
        reason: Arc<str>,
    },
}

// === impl Ticket: what a member does ===

impl Ticket {
    /// All that are loaded together.
    pub(crate) fn candidates(&self) -> &[Known] {
        &self.set.candidates
    }

    /// Its place among them.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Says that nothing speaks against this member, and waits until it may start.
    pub(crate) async fn may_start(&self) -> Result<(), Refusal> {
        self.arrive(Mark::Checked, Brings::Nothing);
        let may = self.wait(Stage::Starting(self.level())).await;
        may.map_err(|why| Refusal {
            what: NOT_ITS_FAULT.to_owned(),
            why: why.to_string(),
            hint: "see what speaks against the others".to_owned(),
        })
    }

    /// Says that this member is ready, and waits until all are.
    pub(crate) async fn agree(&self, generation: &Generation) -> Result<(), HostError> {
        let mut agreed = std::pin::pin!(self.stage(Mark::Ready, Brings::Nothing, Stage::Gathering));
        tokio::select! {
            biased;
            agreed = agreed.as_mut() => agreed,
            cause = generation.instance.ended() => {
                if self.lose() {
                    let what = format!("plugin `{}` ended before the others were ready: {cause}", self.name());
                    return Err(HostError::new(HostErrorKind::StartFailed, what).with_plugin(self.name()));
                }
                agreed.await
            }
        }
    }

    /// Says whom this member replaces, and waits until its gate may close.
    pub(crate) async fn there(&self, there: There) -> Result<&Gates, HostError> {
        self.set.fresh().push(there.new.clone());
        let there = Brings::There(Box::new(there));
        self.stage(Mark::There, there, Stage::Closed).await?;
        Ok(self.set.gates.get().expect("it is set before the stage begins"))
    }

    /// Says that no call that came before the gate is left, and waits until none can come any more.
    pub(crate) async fn drained(&self) -> Result<(), HostError> {
        self.stage(Mark::Drained, Brings::Nothing, Stage::Saving).await
    }

    /// Hands in what the old one saved, if it has state, and waits until everything is on disk and this member's turn has come.
    pub(crate) async fn saved(&self, kept: Option<SavedState>) -> Result<(), HostError> {
        let kept = Brings::State(kept.map(Box::new));
        self.stage(Mark::Saved, kept, Stage::Loading(self.level())).await
    }

    /// Says that this member could take over, and waits for the decision. Once that is `Ok` it must.
    pub(crate) async fn loaded(&self, rows: Vec<Transition>) -> Result<(), HostError> {
        self.stage(Mark::Loaded, Brings::Rows(rows), Stage::Offering)
            .await
    }

    /// Says that this member's methods are on offer, and waits for its turn.
    pub(crate) async fn offered(&self) {
        // Nobody aborts any more (T3).
        let turn = Stage::CuttingOver(self.level());
        let _ = self.stage(Mark::Offered, Brings::Nothing, turn).await;
    }

    /// Says that this member's gate is open.
    pub(crate) fn serves(&self) {
        self.arrive(Mark::Serves, Brings::Nothing);
    }

    /// Says that this member has failed, before it has stopped what it started.
    pub(crate) fn fail_early(&self) {
        let (index, mark, brings) = (self.index, None, Brings::Nothing);
        let _ = self.set.arrivals.send(Arrival { index, mark, brings });
    }

    /// Says that this member is not ready any more. `false` if it is too late for that.
    pub(crate) fn lose(&self) -> bool {
        self.set.lose()
    }

    /// The new instances of all members.
    pub(crate) fn fresh(&self) -> Vec<InstanceId> {
        self.set.fresh().clone()
    }

    /// What becomes of all of them, as it comes.
    pub(crate) fn fate(&self) -> watch::Receiver<Fate> {
        self.set.trial.fate.subscribe()
    }

    /// This member is as good as what it replaced. Whether all are.
    pub(crate) fn passed(&self) -> bool {
        self.set.trial.mark(self.index, |it| it.passed = true)
    }

    /// Nobody can take this member back any more; it keeps the others waiting no longer.
    pub(crate) fn leave(&self) {
        self.set.trial.mark(self.index, |it| it.left = true);
    }

    /// This member has failed its probation: all go back, and what should run is again what it was before. Does nothing if their fate is
    /// decided.
    pub(crate) async fn fail(&self, shared: &Shared, reason: &str) {
        let name = &self.set.candidates[self.index].address;
        let before = self.set.trial.fail(name, reason);
        if before.is_empty() {
            return;
        }
        let written = shared.with_journal(move |it| it.desire_again(SystemTime::now(), &before));
        if let Err(error) = written.await {
            tracing::error!(target: "mortise::life", %error, "the plugins are rolled back, and the journal says that the new ones should run");
        }
    }

    fn name(&self) -> &str {
        &self.set.candidates[self.index].address
    }

    fn level(&self) -> usize {
        self.set.levels[self.index]
    }

    async fn stage(&self, mark: Mark, brings: Brings, next: Stage) -> Result<(), HostError> {
        self.arrive(mark, brings);
        let reached = self.wait(next).await;
        reached
            .map_err(|why| HostError::new(HostErrorKind::Conflict, why.to_string()).with_plugin(self.name()))
    }

    fn arrive(&self, mark: Mark, brings: Brings) {
        let (index, mark) = (self.index, Some(mark));
        // A leader that does not listen any more has said what becomes of this.
        let _ = self.set.arrivals.send(Arrival { index, mark, brings });
    }

    async fn wait(&self, for_stage: Stage) -> Result<(), Arc<str>> {
        let mut phase = self.set.phase.subscribe();
        let reached = phase.wait_for(|phase| match phase {
            Phase::At(stage) => *stage >= for_stage,
            Phase::Aborted(_) => true,
        });
        let reached = reached.await;
        match reached.as_deref() {
            Ok(Phase::Aborted(why)) => Err(why.clone()),
            Ok(Phase::At(_)) => Ok(()),
            Err(_) => Err("the load was given up".into()),
        }
    }
}

impl Set {
    fn fresh(&self) -> MutexGuard<'_, Vec<InstanceId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a member that was ready is not. `false` if it is too late for that.
    fn lose(&self) -> bool {
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        if *verdict == Verdict::Open {
            *verdict = Verdict::Lost;
        }
        *verdict == Verdict::Lost
    }

    /// From here on nobody can refuse (T3). `false` if somebody did.
    fn decide(&self) -> bool {
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        if *verdict == Verdict::Open {
            *verdict = Verdict::Decided;
        }
        *verdict == Verdict::Decided
    }
}

// === impl Trial ===

impl Trial {
    fn new(members: usize) -> Self {
        Self {
            fate: watch::Sender::new(Fate::Open),
            members: Mutex::new(vec![OnTrial::default(); members]),
        }
    }

    /// Notes something about a member. Whether all have passed.
    fn mark(&self, index: usize, note: impl FnOnce(&mut OnTrial)) -> bool {
        let mut members = self.members();
        note(&mut members[index]);
        if members.iter().all(|it| it.passed || it.left) {
            self.decide(Fate::Passed);
        }
        *self.fate.borrow() == Fate::Passed
    }

    /// Sends all back, and says what should have run before; nothing if their fate was decided.
    fn fail(&self, plugin: &Arc<str>, reason: &str) -> Vec<(String, Option<Desired>)> {
        // Held until it is decided: a member that hears of it leaves, and what should run in its place is still to be restored.
        let members = self.members();
        let (plugin, reason) = (plugin.clone(), reason.into());
        if !self.decide(Fate::Failed { plugin, reason }) {
            return Vec::new();
        }
        let staying = members.iter().filter(|it| !it.left);
        staying.filter_map(|it| it.before.clone()).collect()
    }

    /// Whether it was open.
    fn decide(&self, decided: Fate) -> bool {
        self.fate.send_if_modified(|fate| {
            let open = *fate == Fate::Open;
            if open {
                *fate = decided;
            }
            open
        })
    }

    fn members(&self) -> MutexGuard<'_, Vec<OnTrial>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === the leader ===

/// One that is loaded.
struct Member {
    name: String,
    package: Package,
    request: LoadRequest,
}

struct Leader {
    shared: Arc<Shared>,
    set: Arc<Set>,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    replies: FuturesUnordered<BoxFuture<'static, (usize, Result<PluginInfo, HostError>)>>,
    /// What each is through with.
    marks: Vec<Option<Mark>>,
    there: BTreeMap<usize, There>,
    kept: Vec<SavedState>,
    rows: Vec<Transition>,
    failed: BTreeSet<usize>,
    done: BTreeMap<usize, Result<PluginInfo, HostError>>,
}

/// Why nothing came of it.
struct GivenUp {
    /// What those hear of it that have not failed.
    why: String,
    /// What is to be told, if no member has a reason of its own.
    error: Option<HostError>,
}

/// Lets go of members whose leader ends before its time.
struct Leash(Arc<Set>);

/// Loads all of them, or none.
pub(crate) async fn load(
    shared: Arc<Shared>,
    requests: Vec<LoadRequest>,
    word: Word,
) -> Result<Vec<PluginInfo>, HostError> {
    let members = read(&shared, requests).await?;
    let _one_at_a_time = shared.together.lock().await;
    let existed: BTreeSet<Arc<str>> = shared.all().into_iter().map(|it| it.name.clone()).collect();
    let begun = begin(&shared, &members, &word).await?;
    let kept = join_all(
        members
            .iter()
            .map(|it| history::keep_package(&shared, &it.package)),
    );
    let (loaded, kept) = tokio::join!(lead(&shared, &members, &begun), kept);
    if kept.contains(&true) {
        history::prune_packages(&shared).await;
    }
    if let Err(error) = &loaded {
        for begun in begun {
            // A disk that does not take this has refused the load; the next life of the host marks it.
            let _ = begun.conclude(&shared, Some(error)).await;
        }
        let new = members.iter().filter(|it| !existed.contains(it.name.as_str()));
        join_all(new.map(|it| forget(&shared, &it.name))).await;
    }
    loaded
}

/// Puts the load of every member on record.
async fn begin(shared: &Shared, members: &[Member], word: &Word) -> Result<Vec<Begun>, HostError> {
    let mut begun = Vec::with_capacity(members.len());
    for Member {
        name,
        package,
        request,
    } in members
    {
        begun.push(history::begin_load(shared, word, name, package, request).await?);
    }
    Ok(begun)
}

async fn lead(
    shared: &Arc<Shared>,
    members: &[Member],
    begun: &[Begun],
) -> Result<Vec<PluginInfo>, HostError> {
    let mut leader = Leader::begin(shared, members).await?;
    let _leash = Leash(leader.set.clone());
    if let Err(given_up) = leader.change(members, begun).await {
        return Err(leader.abort(given_up, members).await);
    }
    // Nobody was told yet, and now it survives a power cut, too. The gates did not wait for that.
    if let Err(error) = shared.with_journal(mortise_store::Journal::sync).await {
        tracing::error!(target: "mortise::life", %error, "plugins were loaded together, and a host that starts after a power cut may not know of it");
    }
    leader.done.into_values().collect()
}

impl Drop for Leash {
    fn drop(&mut self) {
        let is_decided = matches!(*self.0.phase.borrow(), Phase::At(stage) if stage >= Stage::Offering);
        if is_decided {
            self.0
                .phase
                .send_replace(Phase::At(Stage::CuttingOver(usize::MAX)));
        } else {
            set_aside(&self.0, "it was given up");
        }
    }
}

impl From<&str> for GivenUp {
    fn from(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            error: None,
        }
    }
}

impl Leader {
    /// Gives every member's supervisor its part.
    async fn begin(shared: &Arc<Shared>, members: &[Member]) -> Result<Self, HostError> {
        let candidates: Vec<Known> = members
            .iter()
            .map(|it| Known::of_package(&it.name, &it.package))
            .collect();
        let mut participants: Vec<_> = candidates.iter().map(|it| it.participant.clone()).collect();
        // What runs already provides, and waits for nobody.
        let others = shared.known().into_iter();
        let others = others.filter(|it| candidates.iter().all(|other| other.address != it.address));
        participants.extend(others.map(|it| Participant {
            requires: Vec::new(),
            ..it.participant
        }));
        let planned = plan(&participants);
        // What is held here is refused by its check.
        let level = |index: usize| planned.levels.iter().position(|level| level.contains(&index));
        let levels: Vec<usize> = (0..members.len())
            .map(|it| level(it).unwrap_or_default())
            .collect();
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let set = Arc::new(Set {
            candidates,
            levels,
            phase: watch::Sender::new(Phase::At(Stage::Checking)),
            arrivals: arrived,
            gates: OnceLock::new(),
            fresh: Mutex::default(),
            verdict: Mutex::new(Verdict::Open),
            trial: Trial::new(members.len()),
        });
        let leader = Self {
            shared: shared.clone(),
            set: set.clone(),
            arrivals,
            replies: FuturesUnordered::new(),
            marks: vec![None; members.len()],
            there: BTreeMap::new(),
            kept: Vec::new(),
            rows: Vec::new(),
            failed: BTreeSet::new(),
            done: BTreeMap::new(),
        };
        for (index, member) in members.iter().enumerate() {
            let set = set.clone();
            let ticket = Ticket { set, index };
            match hand_out(shared, member, ticket).await {
                Ok(answer) => {
                    let name = member.name.clone();
                    leader.replies.push(Box::pin(async move {
                        let gone = |_| Err(unloaded(&name));
                        (index, answer.await.unwrap_or_else(gone))
                    }));
                }
                Err(error) => {
                    set_aside(&leader.set, "the host is shutting down");
                    return Err(error);
                }
            }
        }
        Ok(leader)
    }

    /// From the checks to the last gate that opens.
    async fn change(&mut self, members: &[Member], begun: &[Begun]) -> Result<(), GivenUp> {
        let last = self.set.levels.iter().copied().max().unwrap_or_default();
        if !self.all(Mark::Checked).await {
            return Err("another plugin of the same load was refused".into());
        }
        for level in 0..=last {
            self.go(Stage::Starting(level));
            if !self.level(level, Mark::Ready).await {
                return Err("another plugin of the same load did not start".into());
            }
        }
        self.go(Stage::Gathering);
        if !self.all(Mark::There).await {
            return Err("another plugin of the same load ended".into());
        }
        let until = self.close().await?;
        match until {
            Some(until) => match tokio::time::timeout_at(until, self.hand_over(last)).await {
                Ok(handed) => handed?,
                Err(_) => return Err(self.late(members)),
            },
            None => self.hand_over(last).await?,
        }
        self.decide(members, begun).await?;
        self.go(Stage::Offering);
        self.all(Mark::Offered).await;
        self.shared.rebuild_table();
        for level in 0..=last {
            self.go(Stage::CuttingOver(level));
            self.level(level, Mark::Serves).await;
        }
        self.until(&self.everybody(), |it, index| it.done.contains_key(&index))
            .await;
        Ok(())
    }

    /// Says what callers are about to see, and has the gates close. Returns when they have to open.
    async fn close(&mut self) -> Result<Option<Instant>, GivenUp> {
        let there = self.there.values_mut();
        let rows: Vec<Transition> = there.flat_map(|it| std::mem::take(&mut it.rows)).collect();
        let said = self.shared.journal(rows).await;
        said.map_err(|error| GivenUp {
            why: "the journal could not be written".to_owned(),
            error: Some(error),
        })?;
        let gated = || self.there.values().filter(|it| it.old.is_some());
        let behind = gated().filter_map(|it| it.old.as_ref().map(|it| it.instance.id().clone()));
        let until = gated().map(|it| it.swap).min().map(|it| Instant::now() + it);
        let gates = Gates {
            passage: Passage::new(behind),
            until,
        };
        self.set.gates.set(gates).expect("they close once");
        self.go(Stage::Closed);
        Ok(until)
    }

    /// Behind the gates: everything that may fail.
    async fn hand_over(&mut self, last: usize) -> Result<(), GivenUp> {
        let failed = || GivenUp::from("another plugin of the same load could not be handed over");
        if !self.all(Mark::Drained).await {
            return Err(failed());
        }
        if let Some(gates) = self.set.gates.get() {
            gates.passage.seal().await;
        }
        self.go(Stage::Saving);
        if !self.all(Mark::Saved).await {
            return Err(failed());
        }
        let kept = std::mem::take(&mut self.kept);
        if !kept.is_empty() {
            let kept = self
                .shared
                .with_journal(move |it| it.keep_states(&kept, Survives::Crash));
            match kept.await {
                Ok(true) => {}
                Ok(false) => return Err("a snapshot on disk was taken later".into()),
                Err(error) => {
                    return Err(GivenUp {
                        why: "the states could not be kept".to_owned(),
                        error: Some(error),
                    });
                }
            }
        }
        for level in 0..=last {
            self.go(Stage::Loading(level));
            if !self.level(level, Mark::Loaded).await {
                return Err(failed());
            }
        }
        Ok(())
    }

    /// Time was up behind the gates: whose, and who was waited for.
    fn late(&self, members: &[Member]) -> GivenUp {
        let gated = self.there.iter().filter(|(_, it)| it.old.is_some());
        let least = gated.min_by_key(|(_, it)| it.swap);
        let (whose, limit) = least.map_or(("", Duration::ZERO), |(index, it)| {
            (&*members[*index].name, it.swap)
        });
        let slowest = self.marks.iter().min().copied().flatten();
        let step = match slowest {
            Some(Mark::There) => "drained",
            Some(Mark::Drained) if matches!(*self.set.phase.borrow(), Phase::At(Stage::Closed)) => {
                "left by calls of other members"
            }
            Some(Mark::Drained) => "saved",
            _ => "loaded",
        };
        let behind = (0..members.len()).filter(|index| self.marks[*index] == slowest);
        let told = |index: usize| {
            let name = &members[index].name;
            let old = self.there.get(&index).and_then(|it| it.old.as_ref());
            match old.map(|it| it.admission.running()) {
                Some(calls) if calls > 0 => format!("`{name}` ({calls} calls still run)"),
                _ => format!("`{name}`"),
            }
        };
        let behind: Vec<String> = behind.map(told).collect();
        let why = format!(
            "{} not {step} within the {limit:?} of `limits.swap_ms` of `{whose}`; all go on with the state they have",
            behind.join(", ")
        );
        let what = format!("none of {} plugins was loaded: {why}", members.len());
        GivenUp {
            error: Some(
                HostError::new(HostErrorKind::StartFailed, what)
                    .with_hint("load them when fewer or shorter calls run, or raise `limits.swap_ms`"),
            ),
            why,
        }
    }

    fn go(&self, stage: Stage) {
        self.set.phase.send_replace(Phase::At(stage));
    }

    fn everybody(&self) -> Vec<usize> {
        (0..self.marks.len()).collect()
    }

    async fn all(&mut self, mark: Mark) -> bool {
        let all = self.everybody();
        self.until(&all, |it, index| it.marks[index] >= Some(mark)).await
    }

    async fn level(&mut self, level: usize, mark: Mark) -> bool {
        let members = self.of_level(level);
        self.until(&members, |it, index| it.marks[index] >= Some(mark))
            .await
    }

    fn of_level(&self, level: usize) -> Vec<usize> {
        let levels = self.set.levels.iter().enumerate();
        levels
            .filter(|(_, it)| **it == level)
            .map(|(index, _)| index)
            .collect()
    }

    /// Listens until all of `members` are where they should be, or one has failed. Whether nobody has.
    async fn until(&mut self, members: &[usize], there: impl Fn(&Self, usize) -> bool) -> bool {
        while self.failed.is_empty()
            && !members
                .iter()
                .all(|index| there(self, *index) || self.done.contains_key(index))
        {
            tokio::select! {
                Some(arrival) = self.arrivals.recv() => self.heard(arrival),
                Some((index, reply)) = self.replies.next(), if !self.replies.is_empty() => {
                    self.done.insert(index, reply);
                }
            }
        }
        self.failed.is_empty() && self.done.values().all(Result::is_ok)
    }

    fn heard(&mut self, Arrival { index, mark, brings }: Arrival) {
        match mark {
            Some(mark) => self.marks[index] = Some(mark),
            None => drop(self.failed.insert(index)),
        }
        match brings {
            Brings::Nothing => {}
            Brings::There(there) => drop(self.there.insert(index, *there)),
            Brings::State(kept) => self.kept.extend(kept.map(|it| *it)),
            Brings::Rows(rows) => self.rows.extend(rows),
        }
    }

    /// Writes the cutovers of all, and what should run from now on (T2). It waits for no disk, because callers wait for it.
    async fn decide(&mut self, members: &[Member], begun: &[Begun]) -> Result<(), GivenUp> {
        if !self.set.decide() {
            return Err("another plugin of the same load ended".into());
        }
        let rows = std::mem::take(&mut self.rows);
        let done: Vec<_> = begun.iter().map(|it| it.done(&self.shared)).collect();
        let remembered = self.shared.parts.remembers;
        let written = self.shared.with_journal(move |it| {
            let known = it.desired()?;
            it.append_and_conclude(SystemTime::now(), &rows, &done, Survives::Crash)?;
            Ok(known)
        });
        let known = written.await.map_err(|error| GivenUp {
            why: "the decision could not be written to the journal".to_owned(),
            error: Some(error),
        })?;
        for (on_trial, member) in self.set.trial.members().iter_mut().zip(members) {
            let before = known.iter().find(|it| it.name == member.name).cloned();
            on_trial.before = remembered.then(|| (member.name.clone(), before));
        }
        Ok(())
    }

    /// Has everybody stop what it started, and says what was wrong.
    async fn abort(mut self, given_up: GivenUp, members: &[Member]) -> HostError {
        // Those that have failed by now have reasons of their own; the others only hear of it.
        let guilty: BTreeSet<usize> = self.done.keys().chain(&self.failed).copied().collect();
        set_aside(&self.set, &given_up.why);
        while let Some((index, reply)) = self.replies.next().await {
            self.done.insert(index, reply);
        }
        let own_fault = |(index, error): &(usize, HostError)| guilty.contains(index) || is_own_fault(error);
        let failed: Vec<(usize, HostError)> = self
            .done
            .into_iter()
            .filter_map(|(index, reply)| Some((index, reply.err()?)))
            .filter(own_fault)
            .collect();
        match given_up.error {
            Some(error) if failed.is_empty() => error,
            _ => all_reasons(members, failed),
        }
    }
}

fn set_aside(set: &Set, why: &str) {
    set.phase.send_replace(Phase::Aborted(
        format!("nothing of this load was done: {why}").into(),
    ));
}

/// A member that was told to abort answers with `Conflict` or with [`NOT_ITS_FAULT`].
fn is_own_fault(error: &HostError) -> bool {
    error.kind() != HostErrorKind::Conflict && error.reasons().iter().all(|it| it.what != NOT_ITS_FAULT)
}

/// One error for all that failed.
fn all_reasons(members: &[Member], failed: Vec<(usize, HostError)>) -> HostError {
    let mut reasons = Vec::new();
    let mut told = Vec::new();
    let mut kind = HostErrorKind::Conflict;
    for (index, error) in &failed {
        let name = &members[*index].name;
        kind = error.kind();
        told.push(load::with_causes(error));
        let of_member = |refusal: &Refusal| Refusal {
            what: format!("{name}: {}", refusal.what),
            ..refusal.clone()
        };
        reasons.extend(error.reasons().iter().map(of_member));
        if error.reasons().is_empty() {
            reasons.push(Refusal {
                what: format!("{name}: load"),
                why: load::with_causes(error),
                hint: error.hint().unwrap_or_default().to_owned(),
            });
        }
    }
    let why = match told.as_slice() {
        [] => "one of them was unloaded in the meantime".to_owned(),
        all => all.join("; "),
    };
    let what = format!("none of {} plugins was loaded: {why}", members.len());
    let hint = reasons
        .first()
        .map(|it: &Refusal| it.hint.clone())
        .unwrap_or_default();
    HostError::new(kind, what).with_hint(hint).with_reasons(reasons)
}

// === steps ===

/// Reads all packages, and finds their addresses.
async fn read(shared: &Shared, requests: Vec<LoadRequest>) -> Result<Vec<Member>, HostError> {
    let read = join_all(requests.into_iter().map(|request| async move {
        let package = load::fetch(shared, &request.source).await?;
        let name = shared.name_for(&package, &request)?;
        Ok(Member {
            name,
            package,
            request,
        })
    }));
    let mut members: Vec<Member> = Vec::new();
    let mut reasons = Vec::new();
    let mut first = None;
    for member in read.await {
        match member {
            Ok(member) if members.iter().any(|it| it.name == member.name) => {
                let what = format!("`{}` is in the list twice", member.name);
                let hint = "leave one out, or give it another name";
                return Err(HostError::new(HostErrorKind::Invalid, what).with_hint(hint));
            }
            Ok(member) => members.push(member),
            Err(error) => {
                let error: HostError = error;
                reasons.extend(error.reasons().iter().cloned());
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) => Err(error.with_reasons(reasons)),
        None => Ok(members),
    }
}

async fn hand_out(
    shared: &Arc<Shared>,
    member: &Member,
    ticket: Ticket,
) -> Result<oneshot::Receiver<Result<PluginInfo, HostError>>, HostError> {
    shared.waiting.remove(&member.name);
    loop {
        let address: Arc<Address> = shared.address(&member.name, &member.request.source)?;
        let (reply, answer) = oneshot::channel();
        let entrance = Entrance::Together(ticket.clone());
        let (package, request) = (Box::new(member.package.clone()), Box::new(member.request.clone()));
        if address
            .commands
            .send(Command::Load(package, request, entrance, reply))
            .await
            .is_ok()
        {
            return Ok(answer);
        }
        // An unload came in between; the next supervisor of this name takes it.
        shared.gone(&address).await;
    }
}

fn unloaded(name: &str) -> HostError {
    HostError::new(
        HostErrorKind::Conflict,
        format!("plugin `{name}` was unloaded while it was loaded with others"),
    )
    .with_plugin(name)
}

/// Takes away an address that the load made and that came to nothing.
async fn forget(shared: &Shared, name: &str) {
    if let Ok(address) = shared.find(name) {
        let (reply, answer) = oneshot::channel();
        if address.commands.send(Command::Unload(reply)).await.is_ok() {
            let _ = answer.await;
        }
    }
}
