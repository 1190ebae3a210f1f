//! Canaries, as the control socket tells of them.

use serde::{Deserialize, Serialize};

/// A canary, as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// The plugin's name.
    pub plugin: String,
    /// Where it runs: `name@version`.
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
    /// Headers with which a call goes to it.
    pub headers: Vec<String>,
    /// What it waits for.
    pub waits_for: String,
    /// What both did in the window.
    pub numbers: CanaryNumbers,
    /// What was decided, newest last.
    pub decisions: Vec<CanaryDecision>,
    /// What else an operator should know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a canary and the version beside it did in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CanaryNumbers {
    /// The canary.
    pub canary: CanarySide,
    /// The version beside it.
    pub baseline: CanarySide,
}

/// What one version did in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// One decision about a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryDecision {
    /// When.
    pub at_unix_ms: u64,
    /// `step`, `paused`, `resumed`, `promoting`, `promoted` or `rolled_back`.
    pub kind: String,
    /// Who.
    pub actor: String,
    /// In words, with the number that decided.
    pub text: String,
}
