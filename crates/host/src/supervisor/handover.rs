//! Handing state over: what a fresh instance begins with, and how it gets it.
//!
//! # Invariants
//! - **H1** While the gate is closed no call is in either instance: the cell was swapped, the door is closed, and the old one is drained, and the passage of
//!   those that it waits for sealed, before it is asked to save.
//! - **H2** Whatever goes wrong before the flip, the old instance is put back as it was, with the state that it has; what was saved stays on disk,
//!   where it is no older than what was there before.
//! - **H3** State is on disk before any other instance gets it, so a crash of the host in the middle finds it there.
//! - **H4** The gate is closed for at most `Limits::swap`. The only write in that time is H3's, which waits for no disk.
//!
//! # Steps, and who notices if one fails
//! ```text
//!  journal -> close -> drain, seal -> save -> validate -> keep -> load -> post_load -> health -> flip -> open -> journal
//!               '------------- any failure, or time is up: reopen the old one ----'
//! ```
//! The first row says what callers are about to see (S1), the last one that they have. A host that ends between the two comes back as one that ends before
//! them does: with the old version, because the load is not concluded, and with the newest snapshot.
//!
//! An instance that crashes in one of them fails that step; the supervisor hears of its end afterwards, as of any other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant as StdInstant, SystemTime},
};

use mortise_hazard::Retired;
use mortise_lifecycle::Event;
use mortise_runtime::{CallContext, CallError, InstanceId, Origin, Snapshot};
use mortise_store::{SavedState, Survives};
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use crate::{
    HostError, HostErrorKind, StateInfo, StateOrigin,
    call::next_call_id,
    carry::{self, Carry},
    gate::{Gate, Passage},
    generation::{Address, Generation, Occupant},
    host::Shared,
    info::to_unix_ms,
    life::Life,
    load::Launch,
};

/// A drain asks again at once for so long before it sleeps: most calls are over by then, and a sleep is a millisecond at least.
const EAGER: Duration = Duration::from_micros(500);
/// What happens behind the gate, in its order.
const STEPS: [&str; 6] = [
    "drain",
    "save_state",
    "store",
    "load_state",
    "post_load",
    "health",
];
/// Longest for a hook that can change nothing any more.
pub(super) const HOOK_MAX: Duration = Duration::from_secs(1);

/// Where state is handed over: what a handover knows of its supervisor.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) shared: &'a Shared,
    pub(super) address: &'a Address,
}

/// A fresh instance that has what it begins with.
pub(super) struct Handed {
    /// Set if callers wait: what is behind the gate, and the gate.
    pub(super) closed: Option<Closed>,
    /// What its predecessor knew, for the way back.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) info: Option<StateInfo>,
}

/// A gate in the cell.
pub(super) struct Closed {
    gate: Arc<Gate>,
    passage: Arc<Passage>,
    /// What it stands before.
    pub(super) retired: Retired<Occupant>,
    since: StdInstant,
}

/// What a predecessor knew, and how it fits.
pub(super) struct Taken {
    pub(super) snapshot: Snapshot,
    pub(super) kept: SavedState,
    pub(super) carry: Carry,
}

// === impl Closed ===

impl Closed {
    /// Puts a gate before a generation and sends its streams away; they are opened again at whoever comes next.
    pub(super) fn new(address: &Address, generation: &Arc<Generation>, passage: Arc<Passage>) -> Self {
        let gate = Arc::new(Gate::new(generation.clone(), passage.clone()));
        let since = StdInstant::now();
        // S2: swap, then close.
        let retired = address.cell.swap(Occupant::Gate(gate.clone()));
        generation.admission.close();
        generation.streams.end();
        Self {
            gate,
            passage,
            retired,
            since,
        }
    }

    /// The same, where no other gate closes for the same change.
    fn alone(address: &Address, generation: &Arc<Generation>) -> Self {
        let passage = Passage::new([generation.instance.id().clone()]);
        Self::new(address, generation, passage)
    }

    /// Waits until no call is in what the gate stands before, and none comes any more.
    async fn emptied(&mut self) -> Result<(), String> {
        self.drained().await?;
        self.passage.seal().await;
        self.left().await;
        Ok(())
    }

    /// Waits until no call that came by the cell is in what the gate stands before.
    pub(super) async fn drained(&mut self) -> Result<(), String> {
        let eager = self.since + EAGER;
        let pause = |pause: Duration| async move {
            if StdInstant::now() < eager {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(pause).await;
            }
        };
        self.retired
            .drained(pause)
            .await
            .map_err(|error| error.to_string())
    }

    /// Waits, once the passage is sealed, for calls that passed a gate that closed before this one and came to nothing.
    pub(super) async fn left(&self) {
        self.gate.generation.admission.left_by_all().await;
    }

    /// Puts the old generation back (H2) and lets everybody go on.
    pub(super) fn reopen(self, address: &Address) {
        put_back(address, &self.gate.generation, self.retired);
        self.gate.open();
    }

    /// Lets everybody go on, after the cell was given to another.
    pub(super) fn open(&self) -> Duration {
        self.gate.open();
        self.since.elapsed()
    }
}

/// Puts what was taken out of a cell back. What it displaces nobody uses.
fn put_back(address: &Address, generation: &Generation, retired: Retired<Occupant>) {
    // S2: open first.
    generation.streams.reopen();
    generation.admission.reopen();
    drop(address.cell.restore(retired));
}

// === a load or a swap ===

impl Place<'_> {
    /// Gives a fresh, healthy instance what it begins with. With a predecessor that has state, callers wait from here on, until what is returned is
    /// opened or reopened; on `Err` everything is as before.
    pub(super) async fn hand_over(
        &self,
        life: &mut Life,
        old: Option<&Arc<Generation>>,
        new: &Arc<Generation>,
        launch: &Launch,
    ) -> Result<Handed, HostError> {
        let nothing = || Handed {
            closed: None,
            snapshot: None,
            info: None,
        };
        if new.instance.state().is_none() {
            return Ok(nothing());
        }
        let begins_empty = |origin_why: Option<String>| StateInfo::empty(new, origin_why);
        if !new.carries_state() {
            self.post_load(new, Origin::Unspecified).await?;
            return Ok(nothing());
        }
        let info = match old {
            Some(old) if old.carries_state() => match old.as_writer().map(|it| new.takes(it)) {
                Some(Ok(carry)) => return self.swap_state(life, old, new, carry).await,
                Some(Err(refusal)) if launch.force => begins_empty(Some(refusal.why)),
                Some(Err(refusal)) => return Err(self.refused(carry::why(&new.plugin, &refusal))),
                None => begins_empty(None),
            },
            _ => self.recall_state(new, launch).await?,
        };
        let origin = match info.origin {
            StateOrigin::Snapshot => Origin::Snapshot,
            _ => Origin::Unspecified,
        };
        self.post_load(new, origin).await?;
        Ok(Handed {
            info: Some(info),
            ..nothing()
        })
    }

    /// Behind the gate, from the instance that serves.
    async fn swap_state(
        &self,
        life: &mut Life,
        old: &Arc<Generation>,
        new: &Arc<Generation>,
        carry: Carry,
    ) -> Result<Handed, HostError> {
        let (from, to) = (&old.plugin.version, &new.plugin.version);
        let what = format!("what {from} knows goes to {to}");
        life.step("supervisor", Event::HandOver, &what).await?;
        let limit = new.limits.swap;
        let until = Instant::now() + limit;
        let span = info_span!(target: "mortise::load", "handover", plugin = %self.address.name, from = old.number, to = new.number);
        let step = AtomicUsize::new(0);
        let begin = |name: &str| {
            let at = STEPS.iter().position(|it| *it == name).unwrap_or_default();
            step.store(at, Ordering::Relaxed);
        };
        let mut closed = Closed::alone(self.address, old);
        let handing = async {
            closed.emptied().await?;
            begin("save_state");
            let taken = take(self.address, old, carry).await?;
            begin("store");
            let kept = taken.kept.clone();
            keep(self.shared, kept, Survives::Crash).await?;
            begin("load_state");
            let Taken { snapshot, carry, .. } = taken;
            load(new, &snapshot, carry, until).await?;
            begin("post_load");
            post_load(new, Origin::Predecessor, until).await?;
            begin("health");
            healthy(new).await?;
            Ok::<_, String>(snapshot)
        };
        let handed = tokio::time::timeout_at(until, handing).instrument(span).await;
        let step = STEPS[step.load(Ordering::Relaxed)];
        let why = match handed {
            Ok(Ok(snapshot)) => {
                let info = StateInfo::of(&snapshot, StateOrigin::Predecessor, SystemTime::now());
                return Ok(Handed {
                    closed: Some(closed),
                    snapshot: Some(Arc::new(snapshot)),
                    info: Some(info),
                });
            }
            Ok(Err(why)) if Instant::now() < until => format!("{step} failed: {why}"),
            late => {
                // A step has the same deadline as the whole, and may be the first to notice.
                let more = match (late, step, old.admission.running()) {
                    (Ok(Err(why)), ..) => format!(": {why}"),
                    (_, "drain", calls) if calls > 0 => format!(" ({calls} calls still run)"),
                    _ => String::new(),
                };
                format!("{step} was not over within the {limit:?} of `limits.swap_ms`{more}")
            }
        };
        closed.reopen(self.address);
        Err(self.refused(format!(
            "state was not handed over from {from} to {to}: {why}; {from} goes on with the state it has"
        )))
    }

    /// From the snapshot on disk, if there is one.
    pub(super) async fn recall_state(
        &self,
        new: &Arc<Generation>,
        launch: &Launch,
    ) -> Result<StateInfo, HostError> {
        let name = self.address.name.clone();
        let Some(kept) = self.shared.with_journal(move |it| it.saved_state(&name)).await? else {
            return Ok(StateInfo::empty(new, None));
        };
        self.address.has_state_of(kept.taken);
        let carry = match carry::check_kept(&kept, &new.manifest, &new.contract) {
            Ok(carry) => carry,
            Err(refusal) if launch.force => return Ok(StateInfo::empty(new, Some(refusal.why))),
            Err(refusal) => return Err(self.refused(carry::why(&new.plugin, &refusal))),
        };
        let snapshot = Snapshot {
            schema: kept.schema,
            wire_hash: kept.wire_hash,
            version: kept.version,
            bytes: kept.bytes,
        };
        // No caller waits for this, so it may take as long as a start.
        let loaded = load(new, &snapshot, carry, Instant::now() + new.limits.start).await;
        match loaded {
            Ok(()) => Ok(StateInfo::of(&snapshot, StateOrigin::Snapshot, kept.taken)),
            Err(why) => Err(self.refused(format!(
                "the state that version {} saved was not loaded: {why}",
                snapshot.version
            ))),
        }
    }

    pub(super) async fn post_load(&self, new: &Generation, origin: Origin) -> Result<(), HostError> {
        post_load(new, origin, Instant::now() + new.limits.start)
            .await
            .map_err(|why| self.refused(format!("post_load failed: {why}")))
    }

    pub(super) fn refused(&self, why: String) -> HostError {
        let name = &*self.address.name;
        HostError::new(HostErrorKind::StartFailed, format!("plugin `{name}`: {why}"))
            .with_plugin(name)
            .with_hint("look at its log; nothing was changed")
    }

    // --- the way back ---

    /// Takes the state of a version that failed its probation back into the one that stood by, as far as that is possible, and puts a gate before both
    /// meanwhile. What comes out of `beside`, which goes back at the same time, passes it. Returns what was in the cell, and what became of the state.
    pub(super) async fn hand_back(
        &self,
        bad: &Arc<Generation>,
        good: &Arc<Generation>,
        at_cutover: Option<&Snapshot>,
        gone: bool,
        beside: Vec<InstanceId>,
    ) -> (Closed, String, Option<StateInfo>) {
        let until = Instant::now() + bad.limits.swap;
        let own = [bad.instance.id().clone()];
        let passage = Passage::new(own.into_iter().chain(beside));
        let mut closed = Closed::new(self.address, bad, passage);
        let loaded = AtomicBool::new(false);
        let handing = async {
            if gone {
                return Err("its instance is gone".to_owned());
            }
            if at_cutover.is_none() {
                // It left the good one's state behind by force: what it began anew with would replace all that the good one still knows.
                return Err("it never had the state of the one that comes back".to_owned());
            }
            let writer = bad.as_writer().ok_or("it has none")?;
            let carry = good.takes(writer).map_err(|it| it.why)?;
            closed.emptied().await?;
            let taken = take(self.address, bad, carry).await?;
            loaded.store(true, Ordering::Relaxed);
            load(good, &taken.snapshot, taken.carry, until).await?;
            // H3 is kept by the snapshot of the cutover; this one replaces it only once the good version has it.
            if let Err(why) = keep(self.shared, taken.kept, Survives::Crash).await {
                tracing::warn!(target: "mortise::life", plugin = %self.address.name, why, "the state that was handed back is not on disk");
            }
            Ok(taken.snapshot)
        };
        let handed = tokio::time::timeout_at(until, handing).await;
        let why: String = match handed {
            Ok(Ok(snapshot)) => {
                let info = StateInfo::of(&snapshot, StateOrigin::Predecessor, SystemTime::now());
                let told = format!("its state ({} bytes) was handed back", info.bytes);
                return (closed, told, Some(info));
            }
            Ok(Err(why)) => why,
            Err(_) => format!("it was not over within {:?}", bad.limits.swap),
        };
        let mut told =
            format!("its state was not handed back ({why}), so what happened since the swap is lost");
        if let Some(snapshot) = at_cutover.filter(|_| loaded.load(Ordering::Relaxed)) {
            // What the good version holds after a load that failed is not to be relied on.
            let again = load(good, snapshot, Carry::AsItIs, Instant::now() + good.limits.swap);
            if let Err(why) = again.await {
                told = format!("{told}, and the state of the swap was not loaded either: {why}");
            }
        }
        (closed, told, None)
    }

    /// Puts the predecessor back, whose state is as it should be.
    pub(super) fn flip_back(&self, good: &Generation, retired: Retired<Occupant>, closed: &Closed) {
        put_back(self.address, good, retired);
        closed.open();
    }
}

// === the last word ===

/// Saves the state of an instance that goes, and tells it that it goes. No call is in it. Returns what went wrong.
pub(super) async fn last_word(
    shared: &Shared,
    address: &Address,
    generation: &Generation,
    saves: bool,
) -> Option<String> {
    let mut wrong = None;
    if saves && generation.carries_state() {
        let saved = async {
            let taken = take(address, generation, Carry::AsItIs).await?;
            keep(shared, taken.kept, Survives::PowerCut).await
        };
        if let Err(why) = saved.await {
            let why = format!("its state was not saved: {why}");
            tracing::error!(target: "mortise::life", plugin = %address.name, why, "state is lost");
            wrong = Some(why);
        }
    }
    if let Some(state) = generation.instance.state() {
        let cx = context(Instant::now() + HOOK_MAX);
        if let Err(error) = state.pre_unload(&cx).await {
            tracing::warn!(target: "mortise::life", plugin = %address.name, %error, "pre_unload failed");
        }
    }
    wrong
}

// === single steps ===

/// Asks for what an instance knows. Whoever gives up waiting for it does so by dropping this; the instance itself is given the time of a stop, since one
/// that overruns the deadline of a call may be ended for it, and the state would go with it (H2).
pub(super) async fn take(address: &Address, generation: &Generation, carry: Carry) -> Result<Taken, String> {
    let state = generation.instance.state().ok_or("it has no state")?;
    let cx = context(Instant::now() + generation.limits.stop);
    let saved = state.save(&cx).await.map_err(told)?;
    let snapshot = generation.validated(saved)?;
    Ok(Taken {
        kept: carry::kept(address, generation, &snapshot),
        snapshot,
        carry,
    })
}

async fn keep(shared: &Shared, kept: SavedState, survives: Survives) -> Result<(), String> {
    let kept = shared.with_journal(move |it| it.keep_state(&kept, survives));
    match kept.await {
        Ok(true) => Ok(()),
        Ok(false) => Err("the snapshot on disk was taken later".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) async fn load(
    generation: &Generation,
    snapshot: &Snapshot,
    carry: Carry,
    until: Instant,
) -> Result<(), String> {
    let state = generation.instance.state().ok_or("it has no state")?;
    state
        .load(&context(until), snapshot, carry == Carry::Migrated)
        .await
        .map_err(told)
}

pub(super) async fn post_load(generation: &Generation, origin: Origin, until: Instant) -> Result<(), String> {
    match generation.instance.state() {
        Some(state) => state.post_load(&context(until), origin).await.map_err(told),
        None => Ok(()),
    }
}

pub(super) async fn healthy(generation: &Generation) -> Result<(), String> {
    match generation.instance.health().await {
        Ok(health) if health.serving => Ok(()),
        Ok(health) => Err(health.detail),
        Err(error) => Err(told(error)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn told(error: CallError) -> String {
    error.to_string()
}

/// A call of the host's own.
fn context(until: Instant) -> CallContext {
    CallContext {
        call_id: next_call_id(),
        deadline: Some(until.into_std()),
        ..CallContext::default()
    }
}

// === impl StateInfo ===

impl StateInfo {
    pub(super) fn of(snapshot: &Snapshot, origin: StateOrigin, saved: SystemTime) -> Self {
        Self {
            schema: snapshot.schema.clone(),
            origin,
            from_version: Some(snapshot.version.clone()),
            bytes: snapshot.bytes.len() as u64,
            saved_at_unix_ms: Some(to_unix_ms(saved)),
            pause_us: None,
            left_behind: None,
        }
    }

    pub(super) fn empty(generation: &Generation, left_behind: Option<String>) -> Self {
        Self {
            schema: generation.manifest.state_schema.clone().unwrap_or_default(),
            origin: StateOrigin::Nothing,
            from_version: None,
            bytes: 0,
            saved_at_unix_ms: None,
            pause_us: None,
            left_behind,
        }
    }
}
