//! When an event is tried again.

use std::time::Duration;

/// How often, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts before it is a dead letter; at least 1.
    pub attempts_max: u32,
    /// Wait before the second attempt; doubles from attempt to attempt.
    pub backoff: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
}

impl RetryPolicy {
    /// The wait after this many failed attempts. `chance` (0 to 1) shortens it by up to a half, so that what failed together is not tried again
    /// together.
    #[must_use]
    pub fn wait(&self, failed: u32, chance: f64) -> Duration {
        let doublings = failed.saturating_sub(1).min(31);
        let whole = self
            .backoff
            .saturating_mul(1 << doublings)
            .min(self.backoff_max.max(self.backoff));
        whole.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }

    /// Whether an event that failed so often is a dead letter.
    #[must_use]
    pub fn is_over(&self, failed: u32) -> bool {
        failed >= self.attempts_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_their_bound_and_differ_by_chance() {
        let policy = RetryPolicy {
            attempts_max: 3,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
        };
        let waits: Vec<u128> = (1..7).map(|it| policy.wait(it, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(policy.wait(2, 1.0), Duration::from_millis(100));
        assert_eq!(policy.wait(u32::MAX, 0.0), Duration::from_secs(1));
        assert!(!policy.is_over(2) && policy.is_over(3));
    }
}
