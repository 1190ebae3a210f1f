//! What follows an instance that ended by itself, or did not start again.
//!
//! The bound of the wait doubles with every exit in a row and starts over once an instance was healthy for a while. The wait is drawn from
//! anywhere below the bound ("full jitter"): what went down together then does not come up together. Exits are also counted within a sliding
//! window; too many of them end in quarantine, which also bounds how often short draws can follow each other. The host measures times and draws the jitter;
//! nothing here has a clock.

use std::{collections::VecDeque, time::Duration};

use crate::Verdict;

/// When to restart and when to give up.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartPolicy {
    /// Longest wait before the first restart. Default 250 ms.
    pub first: Duration,
    /// Longest wait before any. Default 30 s.
    pub longest: Duration,
    /// Exits within `window` that lead to quarantine. Default 5.
    pub exits_max: u32,
    /// The sliding window. Default 2 min.
    pub window: Duration,
    /// The life after which the backoff starts over. Default 60 s.
    pub healthy: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(30),
            exits_max: 5,
            window: Duration::from_secs(120),
            healthy: Duration::from_secs(60),
        }
    }
}

/// The exits of one address.
#[derive(Clone, Debug, Default)]
pub struct Restarts {
    policy: RestartPolicy,
    exits: VecDeque<Duration>,
    in_a_row: u32,
}

impl Restarts {
    /// No exits yet.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            exits: VecDeque::new(),
            in_a_row: 0,
        }
    }

    /// An instance ended by itself, or did not start, at `now`, after it had lived for `lived`. `now` counts from any fixed moment and
    /// never goes back; `jitter` is drawn evenly from `0.0..1.0`, and the wait is that part of its bound.
    pub fn exited(&mut self, now: Duration, lived: Duration, jitter: f64) -> Verdict {
        if lived >= self.policy.healthy {
            self.in_a_row = 0;
        }
        while self
            .exits
            .front()
            .is_some_and(|at| now.saturating_sub(*at) >= self.policy.window)
        {
            self.exits.pop_front();
        }
        self.exits.push_back(now);
        if self.exits.len() >= self.policy.exits_max as usize {
            return Verdict::Quarantine;
        }
        let doubled = self
            .policy
            .first
            .saturating_mul(2_u32.saturating_pow(self.in_a_row));
        self.in_a_row = self.in_a_row.saturating_add(1);
        Verdict::Restart {
            after: doubled.min(self.policy.longest).mul_f64(jitter.clamp(0.0, 1.0)),
        }
    }

    /// Exits within the window that ended with the last exit.
    #[must_use]
    pub fn recent(&self) -> usize {
        self.exits.len()
    }

    /// An operator wants another try: everything is forgotten.
    pub fn forgive(&mut self) {
        self.exits.clear();
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Restart { after } => after,
            other => panic!("expected a restart, got {other:?}"),
        }
    }

    #[test]
    fn backoff_doubles_up_to_the_longest_and_starts_over_after_a_healthy_life() {
        let mut restarts = Restarts::default();
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..9 {
            now += Duration::from_secs(59);
            waits.push(wait(restarts.exited(now, Duration::from_secs(59), 1.0)).as_millis());
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        now += Duration::from_secs(60);
        assert_eq!(
            wait(restarts.exited(now, Duration::from_secs(60), 1.0)).as_millis(),
            250
        );
    }

    #[test]
    fn the_fifth_exit_within_two_minutes_is_the_last_and_a_sixth_outside_is_not() {
        let exits = |seconds: [u64; 5]| {
            let mut restarts = Restarts::default();
            seconds
                .map(|at| restarts.exited(Duration::from_secs(at), Duration::ZERO, 0.0))
                .last()
                .copied()
        };
        assert_eq!(exits([0, 30, 60, 90, 119]), Some(Verdict::Quarantine));
        assert!(matches!(
            exits([0, 30, 60, 90, 120]),
            Some(Verdict::Restart { .. })
        ));
    }

    #[test]
    fn the_wait_is_drawn_from_the_whole_of_its_bound() {
        for (jitter, expected) in [(0.0, 0), (0.5, 125), (1.0, 250), (7.0, 250), (-1.0, 0)] {
            let mut restarts = Restarts::default();
            assert_eq!(
                wait(restarts.exited(Duration::ZERO, Duration::ZERO, jitter)).as_millis(),
                expected
            );
        }
    }

    #[test]
    fn forgiving_forgets() {
        let mut restarts = Restarts::default();
        for at in 0..4 {
            restarts.exited(Duration::from_secs(at), Duration::ZERO, 0.5);
        }
        restarts.forgive();
        assert_eq!(restarts.recent(), 0);
        assert_eq!(
            wait(restarts.exited(Duration::from_secs(5), Duration::ZERO, 1.0)).as_millis(),
            250
        );
    }
}
