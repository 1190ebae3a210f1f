//! Whether a fresh version is worse than the one it replaced, and which number says so.
//!
//! The host measures and asks every now and then; the answer is a pure function of the numbers. Each trigger names its own number, so that
//! an operator who finds a version rolled back at 3 a.m. reads why.

use std::{fmt, time::Duration};

/// How a fresh version is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbationPolicy {
    /// It has passed after this time. Default 10 s. Zero switches probation off: the predecessor is stopped right after the cutover.
    pub time: Duration,
    /// It has passed earlier after this many calls, given two good healths in a row. Default 1000.
    pub calls: u64,
    /// Healths that may be bad in a row, plus one. Default 2.
    pub bad_healths_max: u32,
    /// Errors per call that are always forgiven. Default 0.01. Only errors that count against the plugin are counted.
    pub error_ratio_floor: f64,
    /// Multiple of the predecessor's error ratio that is forgiven. Default 2.
    pub error_ratio_factor: f64,
    /// Calls before the error ratio means anything. Default 50.
    pub calls_min: u64,
    /// How far the 95th percentile of latency may rise, as a part of the predecessor's: 2.0 allows three times. Default 2.
    pub p95_step: f64,
    /// A rise below this never counts, whatever the ratio. Default 5 ms.
    pub p95_rise_min: Duration,
    /// Latency samples before the percentile means anything, on both sides. Default 50.
    pub samples_min: u64,
}

impl Default for ProbationPolicy {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(10),
            calls: 1000,
            bad_healths_max: 2,
            error_ratio_floor: 0.01,
            error_ratio_factor: 2.0,
            calls_min: 50,
            p95_step: 2.0,
            p95_rise_min: Duration::from_millis(5),
            samples_min: 50,
        }
    }
}

/// What the predecessor was like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline {
    /// Its calls.
    pub calls: u64,
    /// Its errors that count against it.
    pub faults: u64,
    /// Its latency samples.
    pub samples: u64,
    /// 95th percentile of them.
    pub p95: Duration,
}

/// What the fresh version is like so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Time since the cutover.
    pub elapsed: Duration,
    /// Its calls.
    pub calls: u64,
    /// Its errors that count against it.
    pub faults: u64,
    /// Its latency samples.
    pub samples: u64,
    /// 95th percentile of them.
    pub p95: Duration,
    /// Bad healths in a row, up to now.
    pub bad_healths: u32,
    /// Good healths in a row, up to now.
    pub good_healths: u32,
    /// Why its instance ended by itself, if it did.
    pub crash: Option<String>,
}

/// The judge of one fresh version.
#[derive(Clone, Debug)]
pub struct Probation {
    policy: ProbationPolicy,
    baseline: Baseline,
}

/// What the numbers say.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Too early to say.
    Pending,
    /// It is as good as what it replaced.
    Passed,
    /// It is not.
    Failed(Trigger),
}

/// The number that decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// Its instance ended by itself.
    Crash {
        /// Why.
        cause: String,
        /// When, after the cutover.
        after: Duration,
    },
    /// It was not healthy several times in a row.
    Health {
        /// How often.
        bad: u32,
    },
    /// Somebody does not want it.
    Word {
        /// Why.
        why: String,
    },
    /// Too many of its calls failed.
    Errors {
        /// Failed calls that count against it.
        faults: u64,
        /// All calls.
        calls: u64,
        /// The highest ratio that would have been forgiven.
        allowed: f64,
        /// The predecessor's ratio.
        baseline: f64,
    },
    /// It is too slow.
    Latency {
        /// Its 95th percentile.
        p95: Duration,
        /// The predecessor's.
        baseline: Duration,
        /// The highest that would have been forgiven.
        allowed: Duration,
    },
}

impl Probation {
    /// A judge that compares with `baseline`.
    #[must_use]
    pub fn new(policy: ProbationPolicy, baseline: Baseline) -> Self {
        Self { policy, baseline }
    }

    /// What the numbers say now.
    #[must_use]
    pub fn judge(&self, now: &Sample) -> Verdict {
        let trigger = self
            .crash(now)
            .or_else(|| self.health(now))
            .or_else(|| self.errors(now));
        if let Some(trigger) = trigger.or_else(|| self.latency(now)) {
            return Verdict::Failed(trigger);
        }
        let enough_calls = now.calls >= self.policy.calls && now.good_healths >= 2;
        if now.elapsed >= self.policy.time || enough_calls {
            Verdict::Passed
        } else {
            Verdict::Pending
        }
    }

    fn crash(&self, now: &Sample) -> Option<Trigger> {
        now.crash.clone().map(|cause| Trigger::Crash {
            cause,
            after: now.elapsed,
        })
    }

    fn health(&self, now: &Sample) -> Option<Trigger> {
        let bad = now.bad_healths;
        (bad >= self.policy.bad_healths_max).then_some(Trigger::Health { bad })
    }

    fn errors(&self, now: &Sample) -> Option<Trigger> {
        if now.calls < self.policy.calls_min {
            return None;
        }
        let baseline = ratio(self.baseline.faults, self.baseline.calls);
        let allowed = (baseline * self.policy.error_ratio_factor).max(self.policy.error_ratio_floor);
        let (faults, calls) = (now.faults, now.calls);
        (ratio(faults, calls) > allowed).then_some(Trigger::Errors {
            faults,
            calls,
            allowed,
            baseline,
        })
    }

    fn latency(&self, now: &Sample) -> Option<Trigger> {
        let enough = self.policy.samples_min;
        if now.samples < enough || self.baseline.samples < enough {
            return None;
        }
        let baseline = self.baseline.p95;
        let by_step = baseline.mul_f64(1.0 + self.policy.p95_step.max(0.0));
        let allowed = by_step.max(baseline + self.policy.p95_rise_min);
        (now.p95 > allowed).then_some(Trigger::Latency {
            p95: now.p95,
            baseline,
            allowed,
        })
    }
}

/// Part of a whole; 0 of nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts beyond 2^52 calls may be off by one"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { cause, after } => {
                write!(f, "its instance ended {after:.1?} after the cutover: {cause}")
            }
            Self::Health { bad } => write!(f, "{bad} health checks in a row were bad"),
            Self::Word { why } => f.write_str(why),
            Self::Errors {
                faults,
                calls,
                allowed,
                baseline,
            } => write!(
                f,
                "{faults} of {calls} calls failed ({:.1} %), and {:.1} % is allowed (the version before had {:.1} %)",
                100.0 * ratio(*faults, *calls),
                100.0 * allowed,
                100.0 * baseline
            ),
            Self::Latency {
                p95,
                baseline,
                allowed,
            } => write!(
                f,
                "the 95th percentile of latency is {p95:.1?}, and {allowed:.1?} is allowed (the version before had {baseline:.1?})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: Baseline = Baseline {
        calls: 10_000,
        faults: 200,
        samples: 160,
        p95: Duration::from_millis(4),
    };

    fn judge(sample: Sample) -> String {
        match Probation::new(ProbationPolicy::default(), BASELINE).judge(&sample) {
            Verdict::Pending => "pending".to_owned(),
            Verdict::Passed => "passed".to_owned(),
            Verdict::Failed(trigger) => trigger.to_string(),
        }
    }

    #[test]
    fn time_or_calls_with_good_health_end_it() {
        let sample = Sample {
            elapsed: Duration::from_millis(9999),
            ..Sample::default()
        };
        assert_eq!(judge(sample.clone()), "pending");
        assert_eq!(
            judge(Sample {
                elapsed: Duration::from_secs(10),
                ..sample.clone()
            }),
            "passed"
        );
        assert_eq!(
            judge(Sample {
                calls: 1000,
                good_healths: 1,
                ..sample.clone()
            }),
            "pending"
        );
        assert_eq!(
            judge(Sample {
                calls: 999,
                good_healths: 2,
                ..sample.clone()
            }),
            "pending"
        );
        assert_eq!(
            judge(Sample {
                calls: 1000,
                good_healths: 2,
                ..sample
            }),
            "passed"
        );
    }

    #[test]
    fn each_trigger_says_its_number() {
        let sample = Sample {
            elapsed: Duration::from_secs(3),
            calls: 100,
            ..Sample::default()
        };
        assert_eq!(
            judge(Sample {
                crash: Some("its process exited with code 3".to_owned()),
                ..sample.clone()
            }),
            "its instance ended 3.0s after the cutover: its process exited with code 3"
        );
        assert_eq!(
            judge(Sample {
                bad_healths: 2,
                ..sample.clone()
            }),
            "2 health checks in a row were bad"
        );
        assert_eq!(
            judge(Sample {
                faults: 5,
                ..sample.clone()
            }),
            "5 of 100 calls failed (5.0 %), and 4.0 % is allowed (the version before had 2.0 %)"
        );
        assert_eq!(
            judge(Sample {
                samples: 50,
                p95: Duration::from_millis(13),
                ..sample
            }),
            "the 95th percentile of latency is 13.0ms, and 12.0ms is allowed (the version before had 4.0ms)"
        );
    }

    #[test]
    fn just_below_each_threshold_is_forgiven() {
        let sample = Sample {
            elapsed: Duration::from_secs(3),
            calls: 100,
            ..Sample::default()
        };
        let below = [
            Sample {
                bad_healths: 1,
                ..sample.clone()
            },
            Sample {
                faults: 4,
                ..sample.clone()
            },
            Sample {
                calls: 49,
                faults: 49,
                ..sample.clone()
            },
            Sample {
                samples: 50,
                p95: Duration::from_millis(12),
                ..sample.clone()
            },
            Sample {
                samples: 49,
                p95: Duration::from_secs(1),
                ..sample
            },
        ];
        for sample in below {
            assert_eq!(judge(sample), "pending");
        }
    }

    #[test]
    fn a_small_rise_over_a_fast_predecessor_is_no_reason() {
        let baseline = Baseline {
            samples: 50,
            p95: Duration::from_micros(10),
            ..Baseline::default()
        };
        let probation = Probation::new(ProbationPolicy::default(), baseline);
        let at = |p95| {
            probation.judge(&Sample {
                samples: 50,
                p95,
                ..Sample::default()
            })
        };
        assert_eq!(at(Duration::from_millis(5)), Verdict::Pending);
        assert!(matches!(
            at(Duration::from_millis(6)),
            Verdict::Failed(Trigger::Latency { .. })
        ));
    }

    #[test]
    fn without_a_predecessor_one_percent_is_allowed() {
        let probation = Probation::new(ProbationPolicy::default(), Baseline::default());
        let at = |faults| {
            probation.judge(&Sample {
                calls: 100,
                faults,
                ..Sample::default()
            })
        };
        assert_eq!(at(1), Verdict::Pending);
        assert!(matches!(at(2), Verdict::Failed(Trigger::Errors { .. })));
    }
}
