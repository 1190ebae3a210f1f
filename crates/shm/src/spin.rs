//! Whether a reader looks at the ring for a while before it sleeps.
//!
//! Waking a sleeping reader costs two system calls and a switch; a reader that spins while the answer comes saves them. It also burns a processor that
//! the answer may be waiting for. So: only with more than two processors, only while answers come quickly, and after two waits that were in vain not
//! at all for a while.

use std::time::Duration;

/// Longest that a reader spins.
const SPIN: Duration = Duration::from_micros(20);
/// Waits in vain after which it stops.
const VAIN_MAX: u32 = 2;
/// Sleeps after which it tries again.
const REST: u32 = 256;

/// The state of one reader.
#[derive(Debug)]
pub struct Spin {
    allowed: bool,
    vain: u32,
    rested: u32,
}

impl Spin {
    /// For a machine with so many processors that are online.
    #[must_use]
    pub fn new(processors: usize) -> Self {
        Self {
            allowed: processors > 2,
            vain: 0,
            rested: 0,
        }
    }

    /// How long to look at the ring before sleeping.
    pub fn time(&mut self) -> Duration {
        if !self.allowed {
            return Duration::ZERO;
        }
        if self.vain >= VAIN_MAX {
            self.rested += 1;
            if self.rested < REST {
                return Duration::ZERO;
            }
            // One try: in vain again, and it rests again.
            (self.rested, self.vain) = (0, VAIN_MAX - 1);
        }
        SPIN
    }

    /// Notes whether something came while it was looked for.
    pub fn note(&mut self, came: bool) {
        self.vain = if came { 0 } else { (self.vain + 1).min(VAIN_MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processors_never_spin() {
        let mut spin = Spin::new(2);
        assert_eq!(spin.time(), Duration::ZERO);
    }

    #[test]
    fn two_waits_in_vain_end_it_and_a_rest_begins_it_anew() {
        let mut spin = Spin::new(4);
        assert_eq!(spin.time(), SPIN);
        spin.note(false);
        assert_eq!(spin.time(), SPIN);
        spin.note(false);
        let zeros = (0..).take_while(|_| spin.time().is_zero()).count();
        assert_eq!(zeros, REST as usize - 1);
        spin.note(false);
        assert_eq!(
            spin.time(),
            Duration::ZERO,
            "one more in vain is enough after a rest"
        );
        (1..REST).for_each(|_| assert!(spin.time() <= SPIN));
        spin.note(true);
        assert_eq!(spin.time(), SPIN);
    }
}
