//! The machine of one subscription: which event is delivered when, and what is kept of it.
//!
//! ```text
//!              begin                       Done
//!   after the --------> in flight (n) -----------------> settled
//!   cursor                ^       |
//!                   begin |       | Failed, n < attempts_max; NotDelivered; the host ended
//!                         |       v
//!                       waits until due                  dead  <---- Failed, n = attempts_max; Never
//!                                                          |
//!                         waits until due (0)  <-----------+ an operator's replay
//! ```
//!
//! The machine waits for nothing and keeps nothing: it *plans*, its driver writes the plan down, and only then it *begins*. So what it knows is never
//! ahead of what is kept about what was begun, and a driver that cannot write has not lost anything.
//!
//! # Invariants
//! - **D1** Every event after the cursor that the subscription is about is begun, in the log's order, before the cursor passes it.
//! - **D2** An event that was begun is pending until it is settled or dead: whatever ends the driver, the next one finds it.
//! - **D3** At most `concurrency` events are in flight; at most `pending_max` are pending, but for those that an operator replays.
//! - **D4** An event is begun at most `attempts_max` times since it was published or replayed, but for attempts that did not reach the subscriber.
//!   An attempt that the end of the host cut off counts: an event that takes the host with it ends as a dead letter.
//! - **D5** An ordered subscription has one pending event at most, so nothing overtakes one that waits for its next attempt.

use std::collections::BTreeMap;

use crate::{RetryPolicy, broker::Outcome};

/// Longest wait for a subscriber that is not reached, whatever its retries are, in milliseconds.
const WAIT_MAX_MS: u64 = 60_000;

/// What a subscription asks of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How often and when.
    pub retry: RetryPolicy,
    /// Deliveries at once.
    pub concurrency: u32,
    /// Events that are begun and not settled.
    pub pending_max: u32,
}

/// The machine. Times are milliseconds since 1970, so that they mean the same to the next driver.
#[derive(Clone, Debug)]
pub struct Delivery {
    bounds: Bounds,
    cursor: u64,
    pending: BTreeMap<u64, Pending>,
    in_flight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    /// Attempts that were begun and count.
    attempts: u32,
    /// When the next one is; `None` while one is in flight.
    due_ms: Option<u64>,
}

/// A pending event, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The event.
    pub seq: u64,
    /// Attempts that were begun and count.
    pub attempts: u32,
    /// When the next one is; `None` while one is in flight.
    pub due_ms: Option<u64>,
}

/// An attempt that is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The event.
    pub seq: u64,
    /// Its number, from 1.
    pub attempt: u32,
}

/// What becomes of an event after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is forgotten.
    Settled,
    /// It waits.
    Again(Kept),
    /// It is a dead letter, after so many attempts.
    Dead {
        /// How many.
        attempts: u32,
    },
}

// === impl Bounds ===

impl Bounds {
    /// The bounds of an ordered subscription (D5).
    #[must_use]
    pub fn ordered(retry: RetryPolicy) -> Self {
        Self {
            retry,
            concurrency: 1,
            pending_max: 1,
        }
    }
}

// === impl Delivery ===

impl Delivery {
    /// Goes on where the last driver ended. The second part is what becomes of what was in flight then; the caller writes it down before it begins
    /// anything.
    #[must_use]
    pub fn resume(
        bounds: Bounds,
        cursor: u64,
        kept: impl IntoIterator<Item = Kept>,
        now_ms: u64,
    ) -> (Self, Vec<(u64, Next)>) {
        let mut machine = Self {
            bounds,
            cursor,
            pending: BTreeMap::new(),
            in_flight: 0,
        };
        let mut cut_off = Vec::new();
        for Kept {
            seq,
            attempts,
            due_ms,
        } in kept
        {
            machine.in_flight += u32::from(due_ms.is_none());
            machine.pending.insert(seq, Pending { attempts, due_ms });
            if due_ms.is_none() {
                cut_off.push(seq);
            }
        }
        let over = Outcome::Failed("the host ended during the delivery".to_owned());
        let settle = |seq| (seq, machine.settle(seq, &over, now_ms, 1.0));
        let cut_off = cut_off.into_iter().map(settle).collect();
        (machine, cut_off)
    }

    /// Everything up to here was begun at least once.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Events that are begun and not settled.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Events in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Attempts whose time has come, as far as there is room (D3).
    #[must_use]
    pub fn plan_due(&self, now_ms: u64) -> Vec<Start> {
        let room = self.bounds.concurrency.saturating_sub(self.in_flight) as usize;
        // One that is further away than any wait is of before the clock was set back.
        let longest = u64::try_from(self.bounds.retry.backoff_max.as_millis()).unwrap_or(u64::MAX);
        let latest = now_ms.saturating_add(longest.max(WAIT_MAX_MS));
        let is_due = |it: &Pending| it.due_ms.is_some_and(|due| due <= now_ms || due > latest);
        self.pending
            .iter()
            .filter(|(_, it)| is_due(it))
            .take(room)
            .map(|(seq, it)| Start {
                seq: *seq,
                attempt: it.attempts + 1,
            })
            .collect()
    }

    /// How many events after the cursor may be begun beside so many others (D3, D5).
    #[must_use]
    pub fn room(&self, planned: usize) -> usize {
        let in_flight = self.in_flight as usize + planned;
        let flying = (self.bounds.concurrency as usize).saturating_sub(in_flight);
        let pending = (self.bounds.pending_max as usize).saturating_sub(self.pending.len());
        flying.min(pending)
    }

    /// When there is something to do though nothing happens.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        if self.in_flight >= self.bounds.concurrency {
            return None;
        }
        self.pending.values().filter_map(|it| it.due_ms).min()
    }

    /// Begins what was planned and written down, and moves the cursor (D1).
    ///
    /// # Panics
    /// If the cursor goes back, or an event is begun twice at once: the driver's mistake.
    pub fn begin(&mut self, starts: &[Start], cursor: u64) {
        assert!(cursor >= self.cursor, "D1: a cursor goes forward");
        for start in starts {
            let pending = Pending {
                attempts: start.attempt,
                due_ms: None,
            };
            let before = self.pending.insert(start.seq, pending);
            let was_in_flight = before.is_some_and(|it| it.due_ms.is_none());
            assert!(!was_in_flight, "D3: event {} is in flight already", start.seq);
            self.in_flight += 1;
        }
        self.cursor = cursor;
    }

    /// Ends an attempt. Of one that is not in flight, nothing becomes.
    #[must_use = "it has to be written down"]
    pub fn settle(&mut self, seq: u64, outcome: &Outcome, now_ms: u64, chance: f64) -> Next {
        let Some(Pending {
            attempts,
            due_ms: None,
        }) = self.pending.get(&seq).copied()
        else {
            return Next::Settled;
        };
        self.in_flight -= 1;
        let retry = self.bounds.retry;
        let again = |attempts, wait: std::time::Duration| Kept {
            seq,
            attempts,
            due_ms: Some(now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))),
        };
        let next = match outcome {
            Outcome::Done => Next::Settled,
            Outcome::Never(_) => Next::Dead { attempts },
            Outcome::Failed(_) if retry.is_over(attempts) => Next::Dead { attempts },
            Outcome::Failed(_) => Next::Again(again(attempts, retry.wait(attempts, chance))),
            // D4: it does not count.
            Outcome::NotDelivered { wait, .. } => Next::Again(again(attempts.saturating_sub(1), *wait)),
        };
        match next {
            Next::Again(kept) => {
                let pending = Pending {
                    attempts: kept.attempts,
                    due_ms: kept.due_ms,
                };
                self.pending.insert(seq, pending);
            }
            Next::Settled | Next::Dead { .. } => {
                self.pending.remove(&seq);
            }
        }
        next
    }

    /// Takes dead letters back in, as an operator asked and as it is kept already.
    pub fn revive(&mut self, seqs: impl IntoIterator<Item = u64>, now_ms: u64) {
        for seq in seqs {
            let fresh = Pending {
                attempts: 0,
                due_ms: Some(now_ms),
            };
            self.pending.entry(seq).or_insert(fresh);
        }
    }

    /// What is in flight.
    pub fn flying(&self) -> impl Iterator<Item = u64> + '_ {
        let flying = self.pending.iter().filter(|(_, it)| it.due_ms.is_none());
        flying.map(|(seq, _)| *seq)
    }
}

#[cfg(test)]
mod tests;
