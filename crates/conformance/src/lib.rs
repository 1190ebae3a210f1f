//! One suite of cases, run on every runtime.
//!
//! A case is a short program against a real [`mortise::Host`] with one runtime and the plugin `plugins/echo`, built for that runtime from the same
//! source. It refuses to know which runtime it runs on: what a runtime cannot do is a row in [`EXPECTED_FAILURES`] with
//! its reason. Such a case is run all the same, and if it passes, that is a failure: the row is stale.
//!
//! - [`World`]: the host, the plugin, the log lines.
//! - `cases`: what is asked of every runtime, by topic.
//! - [`suite`]: all cases, and the expected failures.
//! - [`bad`]: artifacts that are wrong on purpose; [`survival`]: the host outlives each of them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a case fails by panicking, as a test does")]

pub mod bad;
mod cases;
pub mod log;
pub mod suite;
pub mod survival;
mod world;

pub use suite::{CASES, Case, EXPECTED_FAILURES, ExpectedFailure, Verdict, run, run_over, run_survival};
pub use world::{World, packages};
