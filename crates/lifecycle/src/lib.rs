//! The life of a plugin as a pure function: state and event in, state and effects out.
//!
//! This crate never waits: no executor, no clock, no files. Times come in as `Duration`s that the host measured, so that a test can
//! run two minutes of crashes in a microsecond. The host's supervisor is the only caller.
//!
//! - [`step`]: the machine, its diagram and its numbered invariants.
//! - [`Restarts`]: what follows an instance that ended by itself: a restart after a backoff, or quarantine.
//! - [`Probation`]: whether a fresh version is worse than the one it replaced, and which number says so.
//! - [`Canary`]: a version beside the one that serves, its steps, and what takes it back.
#![forbid(unsafe_code)]

mod canary;
mod machine;
mod probation;
mod restarts;

pub use canary::{
    Canary, CanaryAnalysis, CanaryDecision, CanaryEffect, CanaryEvent, CanaryLook, CanaryPlan, CanaryState,
    CanaryStep, CanaryStepError, CanaryTraffic, CanaryTrigger, InvalidCanaryMove, Measured,
};
pub use machine::{Effect, Event, InvalidTransition, State, Verdict, step};
pub use probation::{Baseline, Probation, ProbationPolicy, Sample, Trigger, Verdict as ProbationVerdict};
pub use restarts::{RestartPolicy, Restarts};
