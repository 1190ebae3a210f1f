//! A canary: a version beside the one that serves, that gets a growing part of its calls until it is promoted or rolled back.
//!
//! The machine holds no clock, waits for nothing and measures nothing: the host tells it the time since the start and what both versions did in the
//! window, and performs the effects that it answers, in their order.
//!
//! # Definitions
//! *Step*: one line of the [`CanaryPlan`]. *Window*: the time over which both versions are measured beside each other; a new one begins with each
//! step, and in a pause whenever one is over. *Over*: a window is, after [`CanaryAnalysis::window`] and not before
//! [`CanaryAnalysis::requests_min`] calls of the canary, and as many of the version beside it unless that gets none. *Trigger*: a number of the canary's that is too bad, see [`CanaryTrigger`].
//!
//! # Invariants
//! - **C1** The canary has calls in `Measuring`, `Paused` and `Promoting` only: the way into `RollingBack` begins with the effect [`CanaryEffect::Route`]
//!   that takes them all away, in the same move.
//! - **C2** A rollback is possible in every state that is not at rest, paused or not, and waits for nothing: neither for a window nor for anything
//!   to be healthy.
//! - **C3** A step passes only when its window is over and nothing in it was a trigger.
//! - **C4** Steps are taken in their order; only an operator's `Promote` leaves some out.
//! - **C5** The digest is quarantined if and only if the canary itself was the reason.
//! - **C6** Every decision is told exactly once, with the numbers that decided ([`CanaryEffect::Tell`]).
//! - **C7** What is at rest (`Promoted`, `RolledBack`) takes no event, and a refused event changes nothing.
//!
//! # Diagram
//! ```text
//!             step passed: the next one
//!                    ┌──────┐
//!                    │      ▼     Pause, a pause step         Promote, the last step passed
//!   start ───────► Measuring ───────────────────► Paused ──────────────┐
//!                    │  │  ▲   its time is over,    │  │               ▼
//!                    │  │  └────────────────────────┘  │           Promoting ───────► Promoted
//!                    │  │        Resume                │               │    Swapped
//!                    │  └──────────────────────────────┼───────────────┘
//!                    │   a promote step                │               │ a trigger, Abort, Overtaken,
//!                    └────────────────────────────┬────┘               │ SwapFailed
//!                       a trigger, Abort,         ▼                    │
//!                       Overtaken            RollingBack ◄─────────────┘
//!                                                 │ Unloaded
//!                                                 ▼
//!                                             RolledBack
//! ```

use std::{fmt, time::Duration};

/// What a canary does, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryPlan {
    /// The steps. Without a last `Promote` the canary pauses after the last one.
    pub steps: Vec<CanaryStep>,
    /// How it is judged.
    pub analysis: CanaryAnalysis,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryStep {
    /// So many of a hundred calls go to the canary, until the window is over.
    Weight(u32),
    /// Calls with this header value go to it, whatever the weight, until the window is over and from then on.
    Header {
        /// The header's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Nothing changes for so long, or until an operator resumes. Triggers still count.
    Pause(Option<Duration>),
    /// It takes the place of the version that serves.
    Promote,
}

/// How a canary is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryAnalysis {
    /// How long a step is looked at, at least. Default 60 s.
    pub window: Duration,
    /// Calls and latency samples before a number means anything, and before a step may pass. Default 50.
    pub requests_min: u64,
    /// Errors per call that are always forgiven. Default 0.01. Only errors that count against the plugin are counted.
    pub error_ratio_floor: f64,
    /// Multiple of the baseline's error ratio that is forgiven. Default 2.
    pub error_ratio_factor: f64,
    /// How far the 95th percentile of latency may be above the baseline's. Default 15 ms.
    pub p95_step: Duration,
    /// And how many times the baseline's it may be; the smaller of the two counts. Default 3.
    pub p95_factor: f64,
    /// A rise below this never counts: of a plugin that answers in microseconds, three times is noise. Default 1 ms.
    pub p95_rise_min: Duration,
    /// Healths in a row that are too many bad ones. Default 2.
    pub bad_healths_max: u32,
}

/// What both versions did in the window so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CanaryLook {
    /// The canary.
    pub canary: Measured,
    /// The version beside it, in the same window.
    pub baseline: Measured,
    /// Bad healths of the canary in a row, up to now.
    pub bad_healths: u32,
}

/// What a version did in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Its calls.
    pub calls: u64,
    /// Its errors that count against it.
    pub faults: u64,
    /// Its latency samples.
    pub samples: u64,
    /// 95th percentile of them.
    pub p95: Duration,
}

/// A canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    plan: CanaryPlan,
    state: CanaryState,
    /// Place of the current step in the plan.
    step: usize,
    traffic: CanaryTraffic,
    window_began: Duration,
}

/// Where a canary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryState {
    /// Its step's window is not over.
    Measuring,
    /// It stays as it is, until then or until an operator's word.
    Paused {
        /// When it goes on by itself, since the start.
        until: Option<Duration>,
        /// An operator paused it, in the middle of a step, which then begins again.
        held: bool,
    },
    /// The version that serves is being replaced by it.
    Promoting,
    /// It is the version that serves.
    Promoted,
    /// It gets no calls and is being unloaded.
    RollingBack,
    /// It is gone.
    RolledBack,
}

/// Which calls go to the canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CanaryTraffic {
    /// So many of a hundred.
    pub weight: u32,
    /// Those with one of these headers.
    pub headers: Vec<(String, String)>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum CanaryEvent {
    /// Somebody looked at the numbers.
    Look(CanaryLook),
    /// Its instance ended by itself.
    Crashed {
        /// Why.
        cause: String,
    },
    /// An operator stops it where it is.
    Pause,
    /// An operator lets it go on.
    Resume,
    /// An operator promotes it now.
    Promote,
    /// An operator gives it up.
    Abort {
        /// What he says.
        why: String,
    },
    /// The version that serves, or the canary, was replaced or unloaded by somebody else.
    Overtaken {
        /// What happened.
        why: String,
    },
    /// It serves under the plain name.
    Swapped,
    /// It could not be put in the place of the version that serves, which still does.
    SwapFailed {
        /// Why.
        why: String,
    },
    /// It is unloaded.
    Unloaded,
}

/// What the host does next.
#[derive(Clone, Debug, PartialEq)]
pub enum CanaryEffect {
    /// Send it these calls, from now on.
    Route(CanaryTraffic),
    /// Measure both versions from now on.
    NewWindow,
    /// Put its package in the place of the version that serves, then say `Swapped` or `SwapFailed`.
    Swap,
    /// Do not start its digest again.
    Quarantine,
    /// Stop it beside the other, then say `Unloaded`.
    Unload,
    /// Tell everybody who wants to know.
    Tell(CanaryDecision),
}

/// What was decided, and by which numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum CanaryDecision {
    /// A step began.
    Step {
        /// Its number, from 1.
        number: usize,
        /// What it is.
        step: CanaryStep,
        /// The numbers of the one before it that passed.
        passed: Option<CanaryLook>,
    },
    /// It stays where it is until an operator's word.
    Paused,
    /// It goes on.
    Resumed,
    /// It takes the place of the version that serves.
    Promoting,
    /// It has.
    Promoted,
    /// It is taken back.
    RolledBack(CanaryTrigger),
}

/// Why a canary is taken back.
#[derive(Clone, Debug, PartialEq)]
pub enum CanaryTrigger {
    /// Its instance ended by itself.
    Crash {
        /// Why.
        cause: String,
    },
    /// It was not healthy several times in a row.
    Health {
        /// How often.
        bad: u32,
    },
    /// Too many of its calls failed.
    Errors {
        /// What it did.
        canary: Measured,
        /// What the version beside it did.
        baseline: Measured,
        /// The highest ratio that would have been forgiven.
        allowed: f64,
    },
    /// It is too slow.
    Latency {
        /// What it did.
        canary: Measured,
        /// What the version beside it did.
        baseline: Measured,
        /// The highest 95th percentile that would have been forgiven.
        allowed: Duration,
    },
    /// An operator gave it up.
    Aborted {
        /// What he said.
        why: String,
    },
    /// Somebody else changed what it was compared with.
    Overtaken {
        /// How.
        why: String,
    },
    /// It could not take the place of the version that serves.
    SwapFailed {
        /// Why.
        why: String,
    },
}

/// An event that the state does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a canary that is {state} cannot {event}")]
pub struct InvalidCanaryMove {
    /// Where it stands.
    pub state: &'static str,
    /// What it was asked.
    pub event: &'static str,
}

// === impl CanaryPlan ===

impl Default for CanaryPlan {
    fn default() -> Self {
        Self {
            steps: vec![
                CanaryStep::Weight(5),
                CanaryStep::Weight(25),
                CanaryStep::Weight(50),
                CanaryStep::Promote,
            ],
            analysis: CanaryAnalysis::default(),
        }
    }
}

impl Default for CanaryAnalysis {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            requests_min: 50,
            error_ratio_floor: 0.01,
            error_ratio_factor: 2.0,
            p95_step: Duration::from_millis(15),
            p95_factor: 3.0,
            p95_rise_min: Duration::from_millis(1),
            bad_healths_max: 2,
        }
    }
}

impl CanaryAnalysis {
    /// The first number that is too bad; `None` while there is none.
    #[must_use]
    pub fn trigger(&self, look: &CanaryLook) -> Option<CanaryTrigger> {
        if look.bad_healths >= self.bad_healths_max {
            return Some(CanaryTrigger::Health {
                bad: look.bad_healths,
            });
        }
        self.errors(look).or_else(|| self.latency(look))
    }

    fn errors(&self, look: &CanaryLook) -> Option<CanaryTrigger> {
        let CanaryLook { canary, baseline, .. } = *look;
        if canary.calls < self.requests_min {
            return None;
        }
        let allowed = (baseline.error_ratio() * self.error_ratio_factor).max(self.error_ratio_floor);
        (canary.error_ratio() > allowed).then_some(CanaryTrigger::Errors {
            canary,
            baseline,
            allowed,
        })
    }

    fn latency(&self, look: &CanaryLook) -> Option<CanaryTrigger> {
        let CanaryLook { canary, baseline, .. } = *look;
        if canary.samples < self.requests_min || baseline.samples < self.requests_min {
            return None;
        }
        let factor = match self.p95_factor.is_finite() {
            true => self.p95_factor.clamp(1.0, 1e6),
            false => 1e6,
        };
        let by_factor = baseline.p95.mul_f64(factor);
        let by_step = baseline.p95.saturating_add(self.p95_step);
        let least = baseline.p95.saturating_add(self.p95_rise_min);
        let allowed = by_factor.min(by_step).max(least);
        (canary.p95 > allowed).then_some(CanaryTrigger::Latency {
            canary,
            baseline,
            allowed,
        })
    }
}

impl Measured {
    /// Calls of which everything is known that is compared: a call without a sample says nothing of latency.
    #[must_use]
    pub fn comparable(&self) -> u64 {
        self.calls.min(self.samples)
    }

    /// Faults per call; 0 of nothing.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts beyond 2^52 calls may be off by one"
    )]
    pub fn error_ratio(&self) -> f64 {
        if self.calls == 0 {
            0.0
        } else {
            self.faults as f64 / self.calls as f64
        }
    }
}

// === impl Canary ===

impl Canary {
    /// A canary at its first step, and what to do for it. `now` is the time on the clock that all later times are of.
    #[must_use]
    pub fn start(plan: CanaryPlan, now: Duration) -> (Self, Vec<CanaryEffect>) {
        Self::resume(plan, 0, false, now)
    }

    /// A canary that a host finds again after its own restart: at the beginning of the step that it was in, with the calls that the steps before had
    /// given it, and a fresh window, because what was measured before is gone. One that an operator had paused stays paused.
    #[must_use]
    pub fn resume(plan: CanaryPlan, step: usize, held: bool, now: Duration) -> (Self, Vec<CanaryEffect>) {
        let mut traffic = CanaryTraffic::default();
        for earlier in plan.steps.iter().take(step) {
            traffic.add(earlier);
        }
        let mut canary = Self {
            plan,
            state: CanaryState::Measuring,
            step,
            traffic,
            window_began: now,
        };
        let mut effects = Vec::new();
        canary.enter_step(None, now, &mut effects);
        if canary.state == CanaryState::Promoting {
            // It had these calls while it waited for its promotion, and has them again.
            effects.insert(0, CanaryEffect::Route(canary.traffic.clone()));
        } else if held {
            canary.state = CanaryState::Paused {
                until: None,
                held: true,
            };
            effects.push(CanaryEffect::Tell(CanaryDecision::Paused));
        }
        (canary, effects)
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> CanaryState {
        self.state
    }

    /// Place of the current step in the plan, from 0; the plan's length after the last.
    #[must_use]
    pub fn step(&self) -> usize {
        self.step
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &CanaryPlan {
        &self.plan
    }

    /// The calls that it gets.
    #[must_use]
    pub fn traffic(&self) -> &CanaryTraffic {
        &self.traffic
    }

    /// When the window began, on the clock of [`Canary::start`].
    #[must_use]
    pub fn window_began(&self) -> Duration {
        self.window_began
    }

    /// Takes an event, and says what to do for it.
    ///
    /// # Errors
    /// If its state does not take it; nothing has changed then.
    pub fn on(&mut self, event: CanaryEvent, now: Duration) -> Result<Vec<CanaryEffect>, InvalidCanaryMove> {
        use CanaryState::{Measuring, Paused, Promoted, Promoting, RolledBack, RollingBack};
        let mut effects = Vec::new();
        match (self.state, event) {
            (Promoted | RolledBack, event) => return Err(self.refuse(&event)),
            (RollingBack, CanaryEvent::Unloaded) => self.state = RolledBack,
            // What is on its way out stays on it, whatever else goes wrong (C6).
            (
                RollingBack,
                CanaryEvent::Look(_)
                | CanaryEvent::Crashed { .. }
                | CanaryEvent::Overtaken { .. }
                | CanaryEvent::Abort { .. }
                | CanaryEvent::Swapped
                | CanaryEvent::SwapFailed { .. },
            ) => {}
            (_, CanaryEvent::Crashed { cause }) => {
                self.roll_back(CanaryTrigger::Crash { cause }, &mut effects);
            }
            (_, CanaryEvent::Abort { why }) => self.roll_back(CanaryTrigger::Aborted { why }, &mut effects),
            (Measuring | Paused { .. }, CanaryEvent::Overtaken { why }) => {
                self.roll_back(CanaryTrigger::Overtaken { why }, &mut effects);
            }
            (Promoting, CanaryEvent::Swapped) => {
                self.state = Promoted;
                self.traffic = CanaryTraffic::default();
                effects.push(CanaryEffect::Route(self.traffic.clone()));
                effects.push(CanaryEffect::Tell(CanaryDecision::Promoted));
                effects.push(CanaryEffect::Unload);
            }
            (Promoting, CanaryEvent::SwapFailed { why }) => {
                self.roll_back(CanaryTrigger::SwapFailed { why }, &mut effects);
            }
            // The swap changes what it is compared with.
            (Promoting, CanaryEvent::Look(_) | CanaryEvent::Overtaken { .. }) => {}
            (Measuring | Paused { .. }, CanaryEvent::Look(look)) => self.look(&look, now, &mut effects),
            (Measuring | Paused { .. }, CanaryEvent::Promote) => self.promote(&mut effects),
            (Measuring | Paused { held: false, .. }, CanaryEvent::Pause) => {
                // A pause of the plan's is one step; after the operator's word it begins again.
                self.state = Paused {
                    until: None,
                    held: true,
                };
                effects.push(CanaryEffect::Tell(CanaryDecision::Paused));
            }
            (Paused { held, .. }, CanaryEvent::Resume) => {
                effects.push(CanaryEffect::Tell(CanaryDecision::Resumed));
                if !held {
                    self.step += 1;
                }
                self.enter_step(None, now, &mut effects);
            }
            (_, event) => return Err(self.refuse(&event)),
        }
        Ok(effects)
    }

    fn refuse(&self, event: &CanaryEvent) -> InvalidCanaryMove {
        InvalidCanaryMove {
            state: self.state.as_str(),
            event: event.verb(),
        }
    }

    fn look(&mut self, look: &CanaryLook, now: Duration, effects: &mut Vec<CanaryEffect>) {
        if let Some(trigger) = self.plan.analysis.trigger(look) {
            return self.roll_back(trigger, effects);
        }
        let CanaryAnalysis {
            window, requests_min, ..
        } = self.plan.analysis;
        let elapsed = now.saturating_sub(self.window_began);
        let enough = |it: &Measured| it.comparable() >= requests_min;
        let compared = self.traffic.weight >= 100 || enough(&look.baseline);
        let over = elapsed >= window && enough(&look.canary) && compared;
        match self.state {
            CanaryState::Paused {
                until: Some(until), ..
            } if now >= until => {
                self.step += 1;
                self.enter_step(None, now, effects);
            }
            CanaryState::Measuring if over => {
                self.step += 1;
                self.enter_step(Some(look.clone()), now, effects);
            }
            // What was good for long must not hide what is bad now.
            CanaryState::Paused { .. } if over => {
                self.window_began = now;
                effects.push(CanaryEffect::NewWindow);
            }
            _ => {}
        }
    }

    /// Begins the step that `self.step` names.
    fn enter_step(&mut self, passed: Option<CanaryLook>, now: Duration, effects: &mut Vec<CanaryEffect>) {
        self.window_began = now;
        let Some(step) = self.plan.steps.get(self.step).cloned() else {
            // Nothing is left but an operator's word.
            self.state = CanaryState::Paused {
                until: None,
                held: false,
            };
            effects.push(CanaryEffect::Route(self.traffic.clone()));
            effects.push(CanaryEffect::NewWindow);
            effects.push(CanaryEffect::Tell(CanaryDecision::Paused));
            return;
        };
        self.traffic.add(&step);
        effects.push(CanaryEffect::Tell(CanaryDecision::Step {
            number: self.step + 1,
            step: step.clone(),
            passed,
        }));
        match step {
            CanaryStep::Promote => return self.promote(effects),
            CanaryStep::Pause(time) => {
                self.state = CanaryState::Paused {
                    until: time.map(|it| now.saturating_add(it)),
                    held: false,
                };
            }
            CanaryStep::Weight(_) | CanaryStep::Header { .. } => self.state = CanaryState::Measuring,
        }
        effects.push(CanaryEffect::Route(self.traffic.clone()));
        effects.push(CanaryEffect::NewWindow);
    }

    fn promote(&mut self, effects: &mut Vec<CanaryEffect>) {
        self.state = CanaryState::Promoting;
        effects.push(CanaryEffect::Tell(CanaryDecision::Promoting));
        effects.push(CanaryEffect::Swap);
    }

    fn roll_back(&mut self, trigger: CanaryTrigger, effects: &mut Vec<CanaryEffect>) {
        self.state = CanaryState::RollingBack;
        self.traffic = CanaryTraffic::default();
        // C1: before anything else.
        effects.push(CanaryEffect::Route(self.traffic.clone()));
        let its_own = trigger.is_its_own();
        effects.push(CanaryEffect::Tell(CanaryDecision::RolledBack(trigger)));
        if its_own {
            effects.push(CanaryEffect::Quarantine);
        }
        effects.push(CanaryEffect::Unload);
    }
}

impl CanaryTraffic {
    fn add(&mut self, step: &CanaryStep) {
        match step {
            CanaryStep::Weight(weight) => self.weight = (*weight).min(100),
            CanaryStep::Header { name, value } => {
                let header = (name.clone(), value.clone());
                if !self.headers.contains(&header) {
                    self.headers.push(header);
                }
            }
            CanaryStep::Pause(_) | CanaryStep::Promote => {}
        }
    }
}

impl CanaryTrigger {
    /// Whether the canary itself was the reason (C5).
    #[must_use]
    pub fn is_its_own(&self) -> bool {
        match self {
            Self::Crash { .. } | Self::Health { .. } | Self::Errors { .. } | Self::Latency { .. } => true,
            Self::Aborted { .. } | Self::Overtaken { .. } | Self::SwapFailed { .. } => false,
        }
    }
}

// === words ===

/// Why a text is no step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no step of a canary: write `25%`, `header NAME=VALUE`, `pause`, `pause 30s` or `promote`")]
pub struct CanaryStepError(String);

impl CanaryStep {
    /// As people write it; [`CanaryStep::from_str`](std::str::FromStr) reads it.
    #[must_use]
    pub fn spec(&self) -> String {
        match self {
            Self::Weight(weight) => format!("{weight}%"),
            Self::Header { name, value } => format!("header {name}={value}"),
            Self::Pause(None) => "pause".to_owned(),
            Self::Pause(Some(time)) => format!("pause {}ms", time.as_millis()),
            Self::Promote => "promote".to_owned(),
        }
    }
}

impl std::str::FromStr for CanaryStep {
    type Err = CanaryStepError;

    fn from_str(text: &str) -> Result<Self, CanaryStepError> {
        let fault = || CanaryStepError(text.chars().take(80).collect());
        let text = text.trim();
        if let Some(weight) = text.strip_suffix('%') {
            let weight = weight.trim().parse().ok().filter(|it| *it <= 100);
            return weight.map(Self::Weight).ok_or_else(fault);
        }
        match text.split_once(' ').unwrap_or((text, "")) {
            ("promote", "") => Ok(Self::Promote),
            ("pause", "") => Ok(Self::Pause(None)),
            ("pause", time) => duration(time).map(|it| Self::Pause(Some(it))).ok_or_else(fault),
            ("header", header) => {
                let (name, value) = header.split_once('=').ok_or_else(fault)?;
                let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
                if name.is_empty() || !name.chars().all(token) {
                    return Err(fault());
                }
                Ok(Self::Header {
                    name: name.to_ascii_lowercase(),
                    value: value.to_owned(),
                })
            }
            _ => Err(fault()),
        }
    }
}

/// `500ms`, `30s`, `5m` or `2h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

impl CanaryState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measuring => "measuring",
            Self::Paused { .. } => "paused",
            Self::Promoting => "promoting",
            Self::Promoted => "promoted",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
        }
    }

    /// Whether nothing happens to it any more.
    #[must_use]
    pub const fn is_at_rest(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack)
    }
}

impl CanaryEvent {
    fn verb(&self) -> &'static str {
        match self {
            Self::Look(_) => "be measured",
            Self::Crashed { .. } => "crash",
            Self::Pause => "be paused",
            Self::Resume => "be resumed",
            Self::Promote => "be promoted",
            Self::Abort { .. } => "be aborted",
            Self::Overtaken { .. } => "be overtaken",
            Self::Swapped | Self::SwapFailed { .. } => "be swapped",
            Self::Unloaded => "be unloaded",
        }
    }
}

impl CanaryDecision {
    /// The word for it, for machines.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Step { .. } => "step",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Promoting => "promoting",
            Self::Promoted => "promoted",
            Self::RolledBack(_) => "rolled_back",
        }
    }
}

impl fmt::Display for CanaryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(weight) => write!(f, "{weight} % of the calls"),
            Self::Header { name, value } => write!(f, "calls with `{name}: {value}`"),
            Self::Pause(None) => f.write_str("a pause until somebody resumes"),
            Self::Pause(Some(time)) => write!(f, "a pause of {time:?}"),
            Self::Promote => f.write_str("promotion"),
        }
    }
}

impl fmt::Display for CanaryDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step {
                number,
                step,
                passed: None,
            } => write!(f, "step {number}: {step}"),
            Self::Step {
                number,
                step,
                passed: Some(look),
            } => write!(f, "step {number}: {step}, after {look}"),
            Self::Paused => f.write_str("paused until somebody resumes, promotes or aborts it"),
            Self::Resumed => f.write_str("resumed"),
            Self::Promoting => f.write_str("takes the place of the version that serves"),
            Self::Promoted => f.write_str("promoted: it serves under the plain name"),
            Self::RolledBack(trigger) => write!(f, "rolled back: {trigger}"),
        }
    }
}

impl fmt::Display for CanaryLook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { canary, baseline, .. } = self;
        write!(f, "{canary}, beside {baseline}")
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            calls, faults, p95, ..
        } = self;
        write!(
            f,
            "{calls} calls with {:.1} % errors ({faults}) and p95 {p95:.1?}",
            100.0 * self.error_ratio()
        )
    }
}

impl fmt::Display for CanaryTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { cause } => write!(f, "its instance ended: {cause}"),
            Self::Health { bad } => write!(f, "{bad} health checks in a row were bad"),
            Self::Errors {
                canary,
                baseline,
                allowed,
            } => write!(
                f,
                "{} of {} calls failed ({:.1} %), and {:.1} % is allowed (the version beside it had {:.1} % of {})",
                canary.faults,
                canary.calls,
                100.0 * canary.error_ratio(),
                100.0 * allowed,
                100.0 * baseline.error_ratio(),
                baseline.calls
            ),
            Self::Latency {
                canary,
                baseline,
                allowed,
            } => write!(
                f,
                "the 95th percentile of latency is {:.1?}, and {allowed:.1?} is allowed (the version beside it had {:.1?})",
                canary.p95, baseline.p95
            ),
            Self::Aborted { why } if why.is_empty() => f.write_str("an operator gave it up"),
            Self::Aborted { why } => write!(f, "an operator gave it up: {why}"),
            Self::Overtaken { why } => write!(f, "it was overtaken: {why}"),
            Self::SwapFailed { why } => {
                write!(f, "it could not take the place of the version that serves: {why}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
