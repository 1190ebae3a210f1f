//! What follows an instance that ended by itself, or did not start again.
//!
//! The backoff doubles with every exit in a row and starts over once an instance lived for a whole window. Exits are also counted within
//! a sliding window; too many of them end in quarantine. The host measures times and draws the jitter; nothing here has a clock.

use std::{collections::VecDeque, time::Duration};

use crate::Verdict;

/// When to restart and when to give up.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartPolicy {
    /// Wait before the first restart. Default 250 ms.
    pub first: Duration,
    /// Highest wait. Default 30 s.
    pub longest: Duration,
    /// Exits within `window` that lead to quarantine. Default 5.
    pub exits_max: u32,
    /// The sliding window; also the life after which the backoff starts over. Default 2 min.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(30),
            exits_max: 5,
            window: Duration::from_secs(120),
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
    /// never goes back; `jitter` is drawn from `0.0..1.0` and spreads the wait over 80 % to 120 %.
    pub fn exited(&mut self, now: Duration, lived: Duration, jitter: f64) -> Verdict {
        if lived >= self.policy.window {
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
        let after = doubled
            .min(self.policy.longest)
            .mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
        Verdict::Restart {
            after: after.min(self.policy.longest),
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
    fn backoff_doubles_up_to_the_longest_and_starts_over_after_a_window_of_life() {
        let mut restarts = Restarts::default();
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..9 {
            now += Duration::from_secs(60);
            waits.push(wait(restarts.exited(now, Duration::from_secs(60), 0.5)).as_millis());
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        now += Duration::from_secs(120);
        assert_eq!(
            wait(restarts.exited(now, Duration::from_secs(120), 0.5)).as_millis(),
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
    fn jitter_spreads_the_wait_and_never_exceeds_the_longest() {
        for (jitter, expected) in [(0.0, 200), (0.5, 250), (1.0, 300), (7.0, 300)] {
            let mut restarts = Restarts::default();
            assert_eq!(
                wait(restarts.exited(Duration::ZERO, Duration::ZERO, jitter)).as_millis(),
                expected
            );
        }
        let policy = RestartPolicy {
            first: Duration::from_secs(30),
            ..RestartPolicy::default()
        };
        assert_eq!(
            wait(Restarts::new(policy).exited(Duration::ZERO, Duration::ZERO, 1.0)).as_secs(),
            30
        );
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
            wait(restarts.exited(Duration::from_secs(5), Duration::ZERO, 0.5)).as_millis(),
            250
        );
    }
}
