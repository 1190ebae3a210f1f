//! What is told of a canary: to whoever asks, and to whoever wants to hear of every decision.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, SystemTime},
};

use mortise_lifecycle::{Canary, CanaryDecision, CanaryLook, CanaryState, CanaryTrigger, Measured};
use semver::Version;
use serde::Serialize;

use crate::info::to_unix_ms;

/// A canary, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CanaryInfo {
    /// The plugin's name.
    pub plugin: String,
    /// Where the canary runs: `name@version`.
    pub address: String,
    /// Its version.
    pub version: String,
    /// The version that it is compared with.
    pub baseline_version: String,
    /// `measuring`, `paused`, `promoting`, `promoted`, `rolling-back` or `rolled-back`.
    pub state: String,
    /// Number of the step, from 1.
    pub step: usize,
    /// All steps.
    pub steps: Vec<String>,
    /// Calls of a hundred that go to it.
    pub weight: u32,
    /// Headers with which a call goes to it, as `name: value`.
    pub headers: Vec<String>,
    /// What it waits for.
    pub waits_for: String,
    /// What both did in the window.
    pub numbers: CanaryNumbers,
    /// What was decided, newest last; the last 50.
    pub decisions: Vec<CanaryEntry>,
    /// What an operator should know beside that: calls that cannot follow it, what would keep it from being promoted, a file that names something else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What two versions did, and what is allowed, where that decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CanaryNumbers {
    /// The canary.
    pub canary: CanarySide,
    /// The version beside it.
    pub baseline: CanarySide,
    /// The highest error ratio that would have been forgiven, if that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_error_ratio: Option<f64>,
    /// The highest 95th percentile that would have been forgiven, if that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_p95_ms: Option<f64>,
}

/// What one version did in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CanarySide {
    /// Calls.
    pub calls: u64,
    /// Errors that count against it.
    pub faults: u64,
    /// The one over the other.
    pub error_ratio: f64,
    /// Latency samples.
    pub samples: u64,
    /// 95th percentile of them, in milliseconds.
    pub p95_ms: f64,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CanaryEntry {
    /// When.
    pub at_unix_ms: u64,
    /// `step`, `paused`, `resumed`, `promoting`, `promoted` or `rolled_back`.
    pub kind: String,
    /// Who: `canary` for the numbers themselves.
    pub actor: String,
    /// In words, with the number that decided.
    pub text: String,
}

/// A decision as others are told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    /// Version of this form: 1. Members may be added.
    pub format: u32,
    /// Differs between decisions, and stays the same when one is told again.
    pub id: String,
    /// When.
    pub at_unix_ms: u64,
    /// `canary.step`, `canary.paused`, `canary.resumed`, `canary.promoting`, `canary.promoted` or `canary.rolled_back`.
    pub kind: String,
    /// The plugin's name.
    pub plugin: String,
    /// Where the canary runs.
    pub address: String,
    /// Its version.
    pub version: String,
    /// The version that it is compared with.
    pub baseline_version: String,
    /// Who decided.
    pub actor: String,
    /// Where the canary stands now.
    pub state: String,
    /// Number of the step, from 1.
    pub step: usize,
    /// How many there are.
    pub steps: usize,
    /// Calls of a hundred that go to it.
    pub weight: u32,
    /// In words, with the number that decided.
    pub text: String,
    /// The numbers that decided, where numbers did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<CanaryNumbers>,
}

// === impl CanaryInfo ===

impl CanaryInfo {
    /// Whether nothing happens to it any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        [CanaryState::Promoted, CanaryState::RolledBack]
            .iter()
            .any(|it| it.as_str() == self.state)
    }

    pub(super) fn of(
        plugin: &str,
        address: &str,
        (version, baseline): (&Version, &Version),
        canary: &Canary,
        look: &CanaryLook,
        now: Duration,
        said: &VecDeque<CanaryEntry>,
    ) -> Self {
        let plan = canary.plan();
        Self {
            plugin: plugin.to_owned(),
            address: address.to_owned(),
            version: version.to_string(),
            baseline_version: baseline.to_string(),
            state: canary.state().as_str().to_owned(),
            step: (canary.step() + 1).min(plan.steps.len()),
            steps: plan.steps.iter().map(|it| it.spec()).collect(),
            weight: canary.traffic().weight,
            headers: canary
                .traffic()
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect(),
            waits_for: waits_for(canary, look, now),
            numbers: CanaryNumbers {
                canary: look.canary.into(),
                baseline: look.baseline.into(),
                ..CanaryNumbers::default()
            },
            decisions: said.iter().cloned().collect(),
            notes: Vec::new(),
        }
    }
}

fn waits_for(canary: &Canary, look: &CanaryLook, now: Duration) -> String {
    let analysis = &canary.plan().analysis;
    match canary.state() {
        CanaryState::Measuring => {
            let elapsed = now.saturating_sub(canary.window_began());
            let time = analysis.window.saturating_sub(elapsed);
            let calls = analysis.requests_min.saturating_sub(look.canary.comparable());
            let beside = match canary.traffic().weight {
                100.. => 0,
                _ => analysis.requests_min.saturating_sub(look.baseline.comparable()),
            };
            let mut parts = Vec::new();
            if !time.is_zero() {
                parts.push(format!("{time:.0?} more"));
            }
            for (calls, whose) in [(calls, "its own"), (beside, "the other version's")] {
                if calls > 0 {
                    parts.push(format!("{calls} more calls of {whose}"));
                }
            }
            match parts.is_empty() {
                true => "the next look".to_owned(),
                false => parts.join(" and "),
            }
        }
        CanaryState::Paused {
            until: Some(until), ..
        } => {
            format!("{:.0?} more", until.saturating_sub(now))
        }
        CanaryState::Paused { .. } => "somebody who resumes, promotes or aborts it".to_owned(),
        CanaryState::Promoting => "the swap".to_owned(),
        CanaryState::RollingBack => "its last calls".to_owned(),
        CanaryState::Promoted | CanaryState::RolledBack => String::new(),
    }
}

impl From<Measured> for CanarySide {
    fn from(it: Measured) -> Self {
        Self {
            calls: it.calls,
            faults: it.faults,
            error_ratio: it.error_ratio(),
            samples: it.samples,
            p95_ms: it.p95.as_secs_f64() * 1e3,
        }
    }
}

impl CanaryEntry {
    pub(super) fn new(kind: &str, actor: &str, text: String) -> Self {
        Self {
            at_unix_ms: to_unix_ms(SystemTime::now()),
            kind: kind.to_owned(),
            actor: actor.to_owned(),
            text,
        }
    }
}

// === impl Notice ===

impl Notice {
    pub(super) fn of(decision: &CanaryDecision, actor: &str, info: &CanaryInfo) -> Self {
        let random = RandomState::new();
        Self {
            format: 1,
            id: format!("{:016x}{:016x}", random.hash_one(0_u8), random.hash_one(1_u8)),
            at_unix_ms: to_unix_ms(SystemTime::now()),
            kind: format!("canary.{}", decision.kind()),
            plugin: info.plugin.clone(),
            address: info.address.clone(),
            version: info.version.clone(),
            baseline_version: info.baseline_version.clone(),
            actor: actor.to_owned(),
            state: info.state.clone(),
            step: info.step,
            steps: info.steps.len(),
            weight: info.weight,
            text: decision.to_string(),
            numbers: numbers(decision),
        }
    }

    /// One line for a chat.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            plugin,
            version,
            baseline_version,
            text,
            ..
        } = self;
        format!("canary of `{plugin}`: {version} beside {baseline_version}: {text}")
    }
}

fn numbers(decision: &CanaryDecision) -> Option<CanaryNumbers> {
    let both = |canary: Measured, baseline: Measured| CanaryNumbers {
        canary: canary.into(),
        baseline: baseline.into(),
        ..CanaryNumbers::default()
    };
    match decision {
        CanaryDecision::Step {
            passed: Some(look), ..
        } => Some(both(look.canary, look.baseline)),
        CanaryDecision::RolledBack(CanaryTrigger::Errors {
            canary,
            baseline,
            allowed,
        }) => Some(CanaryNumbers {
            allowed_error_ratio: Some(*allowed),
            ..both(*canary, *baseline)
        }),
        CanaryDecision::RolledBack(CanaryTrigger::Latency {
            canary,
            baseline,
            allowed,
        }) => Some(CanaryNumbers {
            allowed_p95_ms: Some(allowed.as_secs_f64() * 1e3),
            ..both(*canary, *baseline)
        }),
        _ => None,
    }
}
