//! Several plugins as one change: all take over, or none.
//!
//! One task leads ([`load`]); each member is loaded by the supervisor of its own address, as ever, with a [`Ticket`] that makes its attempt wait
//! for the others twice:
//!
//! ```text
//!  leader            Checking ─────► Starting(0) ──► Starting(1) .. ──► decide ──► CuttingOver(0) ──► CuttingOver(1) ..
//!  member, level 0   verify, prepare │ start, health │ (waits)          │          │ swaps its cell   │
//!  member, level 1   verify, prepare │ (waits)       │ start, health    │          │ (waits)          │ swaps its cell
//! ```
//!
//! # Invariants
//! - **T1** Until the leader decides, nothing that a caller can see has changed; whoever fails makes the leader abort, and everybody
//!   stops what it started.
//! - **T2** The decision is one transaction of the journal: the cutovers of all members, and what should run from now on. A host that is
//!   killed before it comes back to all old ones, one that is killed after it to all new ones.
//! - **T3** After the decision no member can refuse. One whose instance ends in that moment is cut over all the same and then treated as
//!   crashed in its probation.
//! - **T4** Members pass their probation together: the first that fails takes all back ([`Trial`]), the last that passes lets all
//!   predecessors go. Only the digest of the one that failed is quarantined.
//! - **T5** Providers start and are cut over before those members that require them, so a new plugin never meets an old provider.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use mortise_routing::{Participant, plan};
use mortise_runtime::{BoxFuture, Refusal};
use mortise_store::{Desired, Package, Transition};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    HostError, HostErrorKind, LoadRequest, PluginInfo,
    depend::Known,
    generation::{Address, Generation},
    history::{self, Begun, Word},
    host::Shared,
    life::Life,
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
    /// Whether a member may still say that it failed (T3).
    verdict: Mutex<Verdict>,
    trial: Trial,
}

/// How far the leader lets its members go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Checking,
    /// Members up to this level may start.
    Starting(usize),
    /// Members up to this level may be cut over.
    CuttingOver(usize),
    Aborted(Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    /// A member failed after it was ready.
    Lost,
    /// All are ready; the leader writes it down.
    Decided,
}

/// What a member tells the leader when it stops to wait.
enum Arrival {
    Checked(usize),
    Ready(usize, Vec<Transition>),
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
        let _ = self.set.arrivals.send(Arrival::Checked(self.index));
        let level = self.set.levels[self.index];
        let gone_on = self
            .wait(|phase| match phase {
                Phase::Checking => false,
                Phase::Starting(up_to) => *up_to >= level,
                Phase::CuttingOver(_) | Phase::Aborted(_) => true,
            })
            .await;
        gone_on.map_err(|why| Refusal {
            what: NOT_ITS_FAULT.to_owned(),
            why: why.to_string(),
            hint: "see what speaks against the others".to_owned(),
        })
    }

    /// Says that this member is ready, and waits until it may be cut over. On `Err` its instance is stopped.
    pub(crate) async fn agree(&self, life: &mut Life, generation: &Generation) -> Result<(), HostError> {
        let instance = &generation.instance.id().0;
        let agreed = async {
            let rows = life.cut_over_rows(instance)?;
            let _ = self.set.arrivals.send(Arrival::Ready(self.index, rows));
            let level = self.set.levels[self.index];
            let decided = self.wait(|phase| match phase {
                Phase::Checking | Phase::Starting(_) => false,
                Phase::CuttingOver(up_to) => *up_to >= level,
                Phase::Aborted(_) => true,
            });
            let mut decided = std::pin::pin!(decided);
            let decided = tokio::select! {
                biased;
                decided = decided.as_mut() => decided,
                cause = generation.instance.ended() => {
                    if self.set.lose() {
                        let what = format!("plugin `{}` ended before the others were ready: {cause}", self.name());
                        return Err(HostError::new(HostErrorKind::StartFailed, what).with_plugin(self.name()));
                    }
                    decided.await
                }
            };
            decided.map_err(|why| {
                HostError::new(HostErrorKind::Conflict, why.to_string()).with_plugin(self.name())
            })
        };
        match agreed.await {
            Ok(()) => {
                life.cut_over_written(instance);
                Ok(())
            }
            Err(error) => {
                generation.instance.stop(generation.limits.stop).await;
                Err(error)
            }
        }
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

    async fn wait(&self, go: impl Fn(&Phase) -> bool) -> Result<(), Arc<str>> {
        let mut phase = self.set.phase.subscribe();
        let reached = phase.wait_for(|phase| go(phase)).await;
        match reached.as_deref() {
            Ok(Phase::Aborted(why)) => Err(why.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err("the load was given up".into()),
        }
    }
}

impl Set {
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

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<OnTrial>> {
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
    /// Who waits, and since which stop.
    checked: BTreeSet<usize>,
    rows: BTreeMap<usize, Vec<Transition>>,
    done: BTreeMap<usize, Result<PluginInfo, HostError>>,
}

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
    let (mut leader, last) = Leader::begin(shared, members).await?;
    let everybody: Vec<usize> = (0..members.len()).collect();
    if !leader
        .until(&everybody, |it, index| it.checked.contains(&index))
        .await
    {
        return Err(leader
            .abort("another plugin of the same load was refused", members)
            .await);
    }
    for level in 0..=last {
        leader.set.phase.send_replace(Phase::Starting(level));
        let starting = leader.of_level(level);
        if !leader
            .until(&starting, |it, index| it.rows.contains_key(&index))
            .await
        {
            return Err(leader
                .abort("another plugin of the same load did not start", members)
                .await);
        }
    }
    if let Err(error) = leader.decide(members, begun).await {
        let why =
            "the decision could not be written to the journal, or another plugin of the same load ended";
        let first = leader.abort(why, members).await;
        return Err(error.unwrap_or(first));
    }
    for level in 0..=last {
        leader.set.phase.send_replace(Phase::CuttingOver(level));
        let members = leader.of_level(level);
        leader
            .until(&members, |it, index| it.done.contains_key(&index))
            .await;
    }
    leader.done.into_values().collect()
}

impl Leader {
    /// Gives every member's supervisor its part.
    async fn begin(shared: &Arc<Shared>, members: &[Member]) -> Result<(Self, usize), HostError> {
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
        let last = levels.iter().copied().max().unwrap_or_default();
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let set = Arc::new(Set {
            candidates,
            levels,
            phase: watch::Sender::new(Phase::Checking),
            arrivals: arrived,
            verdict: Mutex::new(Verdict::Open),
            trial: Trial::new(members.len()),
        });
        let leader = Self {
            shared: shared.clone(),
            set: set.clone(),
            arrivals,
            replies: FuturesUnordered::new(),
            checked: BTreeSet::new(),
            rows: BTreeMap::new(),
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
        Ok((leader, last))
    }

    fn of_level(&self, level: usize) -> Vec<usize> {
        let levels = self.set.levels.iter().enumerate();
        levels
            .filter(|(_, it)| **it == level)
            .map(|(index, _)| index)
            .collect()
    }

    /// Listens until all of `members` are where they should be, or have failed. Whether nobody has.
    async fn until(&mut self, members: &[usize], there: impl Fn(&Self, usize) -> bool) -> bool {
        while !members
            .iter()
            .all(|index| there(self, *index) || self.done.contains_key(index))
        {
            tokio::select! {
                Some(arrival) = self.arrivals.recv() => match arrival {
                    Arrival::Checked(index) => drop(self.checked.insert(index)),
                    Arrival::Ready(index, rows) => drop(self.rows.insert(index, rows)),
                },
                Some((index, reply)) = self.replies.next(), if !self.replies.is_empty() => {
                    self.done.insert(index, reply);
                }
            }
        }
        self.done.values().all(Result::is_ok)
    }

    /// Writes the cutovers of all, and what should run from now on (T2). `Err(None)`: one of them has failed in the meantime.
    async fn decide(&mut self, members: &[Member], begun: &[Begun]) -> Result<(), Option<HostError>> {
        if !self.set.decide() {
            return Err(None);
        }
        let rows: Vec<Transition> = self.rows.values().flatten().cloned().collect();
        let done: Vec<_> = begun.iter().map(|it| it.done(&self.shared)).collect();
        let remembered = self.shared.parts.remembers;
        let written = self.shared.with_journal(move |it| {
            let known = it.desired()?;
            it.append_and_conclude(SystemTime::now(), &rows, &done)?;
            Ok(known)
        });
        let known = written.await.map_err(Some)?;
        for (on_trial, member) in self.set.trial.members().iter_mut().zip(members) {
            let before = known.iter().find(|it| it.name == member.name).cloned();
            on_trial.before = remembered.then(|| (member.name.clone(), before));
        }
        Ok(())
    }

    /// Has everybody stop what it started, and says what was wrong.
    async fn abort(mut self, why: &str, members: &[Member]) -> HostError {
        // Those that have failed by now have reasons of their own; the others only hear of it.
        let guilty: BTreeSet<usize> = self.done.keys().copied().collect();
        set_aside(&self.set, why);
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
        all_reasons(members, failed)
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
