//! The state machine of one *generation*: one loaded (artifact, configuration) under one address.
//!
//! During a swap two generations of an address live at once, each in a machine of its own; the supervisor holds both and turns an effect
//! of one (`RestorePredecessor`) into an event of the other (`Restored`).
//!
//! # Who may write
//! One supervisor task per address calls [`step`], writes the transition to the journal, and only then performs the effects, in their order.
//!
//! # Definitions
//! *Live*: an instance of it exists ([`State::has_instance`]). *Routed*: the address's cell points at it, so new calls reach it
//! ([`State::is_routed`]). *At rest*: nothing of it runs, and only an operator moves it on.
//!
//! # Invariants
//! - **I1** What is routed is live: no state routes calls to nothing.
//! - **I2** `Start` is asked for only when no instance exists, `Stop` and `Discard` only when one does or a start failed.
//! - **I3** What is at rest (`Absent`, `Rejected`, `Failed`, `Quarantined`, `Retired`) has no instance.
//! - **I4** A stopped instance holds no calls: `Stop` comes after `Drained`, or after the instance itself is gone.
//! - **I5** Every state has a way out, and from every state `Retired` can be reached.
//! - **I6** `Quarantined` is entered only together with `QuarantineDigest`.
//! - **I7** A predecessor is let go (`ReleasePredecessor`) or put back (`RestorePredecessor`) exactly once after a cutover.
//! - **I8** A refused event changes nothing: `step` takes and gives values.
//!
//! # Diagram
//! ```text
//!              Load             ChecksPassed         Prepared            Activate
//!   Absent ──────────► Loaded ──────────────► Checked ────────► Validated ────────► Starting ◄─────────┐
//!                       │ ▲                      │                                   │    │            │
//!                Refused│ │Retry          Refused│                       StartFailed │    │Started     │RestartDue
//!                       ▼ │                      │                                   ▼    ▼            │
//!                     Rejected ◄─────────────────┘         Quarantined ◄───────── Failed◄Ready         │
//!                                                          (Retry: Loaded)           │    │            │
//!                                                               ▲                    └────┼────────────┘
//!                                                               │ ProbationFailed,        │CutOver
//!                                                               │ Crashed(Quarantine)     ▼
//!                                                               ├──────────────────── Probation ───────┐
//!                                                               │                         │ProbationPassed
//!                                          Crashed(Restart):    │                         ▼            │
//!                                            Failed ◄───────────┴─────────────────────  Active         │
//!                                                                           Restored ▲    │Replaced    │Replaced
//!                                                                                    │    ▼            │
//!                                                                                   Standby ◄──────────┘
//!                                                     Drained          Superseded         │
//!   Absent ◄──── Retired ◄──── Stopped ◄──── Draining ◄───────────────────────────────────┘
//!         Forget     Released                   ▲ Unload (Probation, Active), Withdrawn (Probation)
//! ```
//!
//! # Edges
//! | from | event | to | effects, performed by (in `mortise-host`) |
//! |---|---|---|---|
//! | Absent | Load | Loaded | `Check`: `load::check` |
//! | Loaded | ChecksPassed | Checked | `Prepare`: `load::prepare` |
//! | Loaded, Checked | Refused | Rejected | - |
//! | Checked | Prepared | Validated | - |
//! | Validated | Activate | Starting | `Start`: `supervisor::start` |
//! | Starting | Started | Ready | `CutOver`: `supervisor::cut_over` |
//! | Starting | StartFailed | Failed, Quarantined | `Discard`; `ScheduleRestart` or `QuarantineDigest` as the verdict says |
//! | Ready | HandOver | Ready | - : said before callers are held up for it, `supervisor::handover` |
//! | Ready | CutOver | Probation | `Watch`: `supervisor::watch` |
//! | Ready | HandoverFailed | Failed, Quarantined | as `StartFailed`; what serves goes on with the state it has |
//! | Probation | ProbationPassed | Active | `ReleasePredecessor`: `supervisor::release_predecessor` |
//! | Probation | ProbationFailed | Quarantined | `RestorePredecessor`: `supervisor::roll_back`; `Discard`, `QuarantineDigest` |
//! | Probation | Withdrawn | Draining | `RestorePredecessor`: `supervisor::put_back`; `Drain` |
//! | Probation | Replaced | Standby | `ReleasePredecessor` |
//! | Active | Replaced | Standby | - |
//! | Standby | Restored | Active | `Route`: `supervisor::roll_back` |
//! | Standby | Superseded | Draining | `Drain`: `supervisor::retire` |
//! | Probation, Active | Unload | Draining | `Unroute`, `Drain`: `supervisor::unload` (from Probation also `ReleasePredecessor`) |
//! | Probation, Active | Crashed | Failed, Quarantined | `Unroute`, `Discard`; then as the verdict says (from Probation also `ReleasePredecessor`) |
//! | Standby, Draining | Crashed | Stopped | `Discard`, `Release` |
//! | Draining | Drained | Stopped | `Stop`, `Release`: `supervisor::retire` |
//! | Stopped | Released | Retired | - |
//! | Failed | RestartDue | Starting | `Start` |
//! | Failed, Rejected, Quarantined | Retry | Loaded | `Check` |
//! | Failed, Rejected, Quarantined | Unload | Retired | - |
//! | Retired | Forget | Absent | - |

use std::{fmt, time::Duration};

/// Where a generation stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Nothing is known of it.
    Absent,
    /// Its package was found and read.
    Loaded,
    /// The static checks on its bytes passed.
    Checked,
    /// Its runtime can start it.
    Validated,
    /// Its instance is being started.
    Starting,
    /// Its instance is healthy; no call reaches it yet.
    Ready,
    /// It serves, and is watched; what it replaced stands by.
    Probation,
    /// It serves.
    Active,
    /// It was replaced and stands by, in case its successor has to be rolled back. No new call reaches it.
    Standby,
    /// It finishes its calls and takes no new ones.
    Draining,
    /// Its instance is being stopped.
    Stopped,
    /// It is gone.
    Retired,
    /// It did not start, or ended by itself.
    Failed,
    /// The static checks found reasons against it.
    Rejected,
    /// Its digest is not to be started again without an operator's word.
    Quarantined,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An operator or the configuration wants it.
    Load,
    /// Nothing on its bytes speaks against it.
    ChecksPassed,
    /// Something speaks against it.
    Refused,
    /// Its runtime prepared it.
    Prepared,
    /// It shall start.
    Activate,
    /// Its instance started and is healthy.
    Started,
    /// Its instance did not start, or was not healthy in time.
    StartFailed(Verdict),
    /// It begins to take over the state of what it is to replace; whoever calls waits from here on, until one of the two serves.
    HandOver,
    /// It could not take over the state of what it was to replace, or the state that was saved last.
    HandoverFailed(Verdict),
    /// The cell points at it.
    CutOver,
    /// Its time of probation is over.
    ProbationPassed,
    /// It is worse than what it replaced, and that still stands by.
    ProbationFailed,
    /// Another one is worse that it was put into service with; what it replaced comes back.
    Withdrawn,
    /// A successor serves in its place.
    Replaced,
    /// Its successor was rolled back.
    Restored,
    /// Its successor proved itself.
    Superseded,
    /// An operator wants it gone.
    Unload,
    /// Its instance ended by itself.
    Crashed(Verdict),
    /// No call is left in it, or the stop timeout passed.
    Drained,
    /// Its instance gave everything back.
    Released,
    /// The backoff is over.
    RestartDue,
    /// An operator wants another try.
    Retry,
    /// Nobody needs to see it any more.
    Forget,
}

/// What follows an instance that ended by itself or did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays down until an operator says otherwise.
    Stay,
    /// It is started again after a while.
    Restart {
        /// How long to wait.
        after: Duration,
    },
    /// It failed too often.
    Quarantine,
}

/// What the supervisor has to do, after the transition is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Run the static checks on its bytes.
    Check,
    /// Have its runtime prepare it.
    Prepare,
    /// Start an instance.
    Start,
    /// Point the cell at it, and tell the predecessor that it was replaced.
    CutOver,
    /// Begin to watch its calls and its health.
    Watch,
    /// Point the cell at it again.
    Route,
    /// Point the cell at nothing.
    Unroute,
    /// Put the predecessor back: it becomes `Active` by `Restored`.
    RestorePredecessor,
    /// Let the predecessor go, if there is one: it becomes `Draining` by `Superseded`.
    ReleasePredecessor,
    /// Wait until no call is left in it, at most for the stop timeout.
    Drain,
    /// Stop its instance, politely first.
    Stop,
    /// Drop what is left of an instance that is gone or did not start.
    Discard,
    /// Give back what it held beside its instance.
    Release,
    /// Start it again after this time.
    ScheduleRestart(Duration),
    /// Do not start its digest again without an operator's word.
    QuarantineDigest,
}

/// An event that has no place in this state. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` is not possible in state {from}; possible are: {}", .allowed.join(", "))]
pub struct InvalidTransition {
    /// The state.
    pub from: State,
    /// The event's name.
    pub event: &'static str,
    /// Names of the events that are possible in this state.
    pub allowed: Vec<&'static str>,
}

/// Where `event` leads from `state`, and what is to be done for it.
///
/// # Errors
/// If the event has no place in this state; nothing is changed then.
pub fn step(state: State, event: Event) -> Result<(State, Vec<Effect>), InvalidTransition> {
    use Effect as Do;
    use State as S;
    let taken = match (state, event) {
        (S::Absent, Event::Load) => (S::Loaded, vec![Do::Check]),
        (S::Loaded, Event::ChecksPassed) => (S::Checked, vec![Do::Prepare]),
        (S::Loaded | S::Checked, Event::Refused) => (S::Rejected, vec![]),
        (S::Checked, Event::Prepared) => (S::Validated, vec![]),
        (S::Validated, Event::Activate) => (S::Starting, vec![Do::Start]),
        (S::Starting, Event::Started) => (S::Ready, vec![Do::CutOver]),
        (S::Starting, Event::StartFailed(verdict)) => down(verdict, vec![Do::Discard]),
        (S::Ready, Event::HandOver) => (S::Ready, vec![]),
        (S::Ready, Event::HandoverFailed(verdict)) => down(verdict, vec![Do::Discard]),
        (S::Ready, Event::CutOver) => (S::Probation, vec![Do::Watch]),
        (S::Probation, Event::ProbationPassed) => (S::Active, vec![Do::ReleasePredecessor]),
        (S::Probation, Event::ProbationFailed) => (
            S::Quarantined,
            vec![Do::RestorePredecessor, Do::Discard, Do::QuarantineDigest],
        ),
        (S::Probation, Event::Withdrawn) => (S::Draining, vec![Do::RestorePredecessor, Do::Drain]),
        (S::Probation, Event::Replaced) => (S::Standby, vec![Do::ReleasePredecessor]),
        (S::Active, Event::Replaced) => (S::Standby, vec![]),
        (S::Standby, Event::Restored) => (S::Active, vec![Do::Route]),
        (S::Standby, Event::Superseded) => (S::Draining, vec![Do::Drain]),
        (S::Probation, Event::Unload) => (S::Draining, vec![Do::ReleasePredecessor, Do::Unroute, Do::Drain]),
        (S::Active, Event::Unload) => (S::Draining, vec![Do::Unroute, Do::Drain]),
        (S::Probation, Event::Crashed(verdict)) => {
            down(verdict, vec![Do::ReleasePredecessor, Do::Unroute, Do::Discard])
        }
        (S::Active, Event::Crashed(verdict)) => down(verdict, vec![Do::Unroute, Do::Discard]),
        (S::Standby | S::Draining, Event::Crashed(_)) => (S::Stopped, vec![Do::Discard, Do::Release]),
        (S::Draining, Event::Drained) => (S::Stopped, vec![Do::Stop, Do::Release]),
        (S::Stopped, Event::Released) => (S::Retired, vec![]),
        (S::Failed, Event::RestartDue) => (S::Starting, vec![Do::Start]),
        (S::Failed | S::Rejected | S::Quarantined, Event::Retry) => (S::Loaded, vec![Do::Check]),
        (S::Failed | S::Rejected | S::Quarantined, Event::Unload) => (S::Retired, vec![]),
        (S::Retired, Event::Forget) => (S::Absent, vec![]),
        (from, event) => {
            return Err(InvalidTransition {
                from,
                event: event.name(),
                allowed: from.allowed(),
            });
        }
    };
    Ok(taken)
}

/// Down for now or for good.
fn down(verdict: Verdict, mut effects: Vec<Effect>) -> (State, Vec<Effect>) {
    match verdict {
        Verdict::Stay => (State::Failed, effects),
        Verdict::Restart { after } => {
            effects.push(Effect::ScheduleRestart(after));
            (State::Failed, effects)
        }
        Verdict::Quarantine => {
            effects.push(Effect::QuarantineDigest);
            (State::Quarantined, effects)
        }
    }
}

// === impl State ===

impl State {
    /// All of them, in the order of a good life, then the three bad ends.
    pub const ALL: [Self; 15] = [
        Self::Absent,
        Self::Loaded,
        Self::Checked,
        Self::Validated,
        Self::Starting,
        Self::Ready,
        Self::Probation,
        Self::Active,
        Self::Standby,
        Self::Draining,
        Self::Stopped,
        Self::Retired,
        Self::Failed,
        Self::Rejected,
        Self::Quarantined,
    ];

    /// The word that people and machines see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "ABSENT",
            Self::Loaded => "LOADED",
            Self::Checked => "CHECKED",
            Self::Validated => "VALIDATED",
            Self::Starting => "STARTING",
            Self::Ready => "READY",
            Self::Probation => "PROBATION",
            Self::Active => "ACTIVE",
            Self::Standby => "STANDBY",
            Self::Draining => "DRAINING",
            Self::Stopped => "STOPPED",
            Self::Retired => "RETIRED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
            Self::Quarantined => "QUARANTINED",
        }
    }

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }

    /// Whether new calls reach it.
    #[must_use]
    pub const fn is_routed(self) -> bool {
        matches!(self, Self::Probation | Self::Active)
    }

    /// Whether an instance of it exists, as far as the machine knows.
    #[must_use]
    pub const fn has_instance(self) -> bool {
        matches!(
            self,
            Self::Ready | Self::Probation | Self::Active | Self::Standby | Self::Draining
        )
    }

    /// Names of the events that are possible here.
    #[must_use]
    pub fn allowed(self) -> Vec<&'static str> {
        let possible = Event::ALL.into_iter().filter(|event| step_exists(self, *event));
        possible.map(Event::name).collect()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl Event ===

impl Event {
    /// One of each; those with a verdict with `Stay`.
    pub const ALL: [Self; 23] = [
        Self::Load,
        Self::ChecksPassed,
        Self::Refused,
        Self::Prepared,
        Self::Activate,
        Self::Started,
        Self::StartFailed(Verdict::Stay),
        Self::HandOver,
        Self::HandoverFailed(Verdict::Stay),
        Self::CutOver,
        Self::ProbationPassed,
        Self::ProbationFailed,
        Self::Withdrawn,
        Self::Replaced,
        Self::Restored,
        Self::Superseded,
        Self::Unload,
        Self::Crashed(Verdict::Stay),
        Self::Drained,
        Self::Released,
        Self::RestartDue,
        Self::Retry,
        Self::Forget,
    ];

    /// The word that stands in the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::ChecksPassed => "checks_passed",
            Self::Refused => "refused",
            Self::Prepared => "prepared",
            Self::Activate => "activate",
            Self::Started => "started",
            Self::StartFailed(_) => "start_failed",
            Self::HandOver => "hand_over",
            Self::HandoverFailed(_) => "handover_failed",
            Self::CutOver => "cut_over",
            Self::ProbationPassed => "probation_passed",
            Self::ProbationFailed => "probation_failed",
            Self::Withdrawn => "withdrawn",
            Self::Replaced => "replaced",
            Self::Restored => "restored",
            Self::Superseded => "superseded",
            Self::Unload => "unload",
            Self::Crashed(_) => "crashed",
            Self::Drained => "drained",
            Self::Released => "released",
            Self::RestartDue => "restart_due",
            Self::Retry => "retry",
            Self::Forget => "forget",
        }
    }
}

/// Whether `step` would take it. The arm of `InvalidTransition` asks this question for other events only, so it does not recurse deeper.
fn step_exists(state: State, event: Event) -> bool {
    use State as S;
    let from: &[State] = match event {
        Event::Load => &[S::Absent],
        Event::ChecksPassed => &[S::Loaded],
        Event::Refused => &[S::Loaded, S::Checked],
        Event::Prepared => &[S::Checked],
        Event::Activate => &[S::Validated],
        Event::Started | Event::StartFailed(_) => &[S::Starting],
        Event::HandOver | Event::CutOver | Event::HandoverFailed(_) => &[S::Ready],
        Event::ProbationPassed | Event::ProbationFailed | Event::Withdrawn => &[S::Probation],
        Event::Replaced => &[S::Probation, S::Active],
        Event::Restored | Event::Superseded => &[S::Standby],
        Event::Unload => &[S::Probation, S::Active, S::Failed, S::Rejected, S::Quarantined],
        Event::Crashed(_) => &[S::Probation, S::Active, S::Standby, S::Draining],
        Event::Drained => &[S::Draining],
        Event::Released => &[S::Stopped],
        Event::RestartDue => &[S::Failed],
        Event::Retry => &[S::Failed, S::Rejected, S::Quarantined],
        Event::Forget => &[S::Retired],
    };
    from.contains(&state)
}

#[cfg(test)]
mod tests;
