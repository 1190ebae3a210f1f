//! Credit: how much the two ends of a lane may have on the way to each other.
//!
//! Credit is counted in units of [`UNIT_BYTES`]. A frame costs its length in units, rounded up, and at least one, so that a flood of empty
//! frames is bounded too.
//!
//! - **Of the lane.** Each side says in `Hello` or `Welcome` how many units of frames it is ready to hold. The other side sends no more than that; what
//!   the holder is done with it gives back in a Credit frame. A call's frame is done with when a thread or task has taken the call up, a
//!   reply's when it is handed to its caller, a plugin's own call's when its answer is on the way: so a plugin that calls and does not read cannot
//!   fill the host with answers.
//! - **Of a stream.** Items have a window of their own per call and direction, in bytes, said in `Welcome`: a slow stream holds up no call and no
//!   other stream. [`StreamTerms::price`] is what an Item costs: a share of the window at least, so that the number of messages is bounded too, and three
//!   quarters of it at most, so that a longer message can be sent at all. The holder gives back with Grant what its reader has taken.
//!
//! Frames that use no credit are bounded by what they answer or belong to: one Cancel, one End per call; one Pong per Ping; a Credit for units that
//! were used.
//!
//! Invariants
//! - W1: units on the way and units held are never more than the window: [`Inflow::take`] refuses the frame that would make it so, and ends the lane.
//! - W2: what is given back was taken before: [`Outflow::returned`] refuses more.
//! - W3: giving back is told in batches of a quarter of the window, so a small call does not cost a frame more.

use std::sync::atomic::{AtomicU32, Ordering};

/// One unit of credit stands for so many bytes.
pub const UNIT_BYTES: usize = 4 << 10;
/// Smallest window of a lane: every frame that may be sent must fit, and calls with small frames must not wait for each other.
pub const LANE_UNITS_MIN: u32 = 256;

/// What a frame with a body of `body_bytes` costs.
#[must_use]
pub fn units(body_bytes: usize) -> u32 {
    let bytes = body_bytes.saturating_add(crate::frame::HEADER_BYTES);
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The window that a side announces: twice the largest frame, so that one can be on the way while another is taken up.
#[must_use]
pub fn window(frame_bytes_max: u32) -> u32 {
    units(frame_bytes_max as usize)
        .saturating_mul(2)
        .max(LANE_UNITS_MIN)
}

/// What the two sides of a stream may have on the way to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTerms {
    bytes: u32,
    messages: u32,
}

/// A peer that does not keep to its credit. The lane is of no further use then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum CreditError {
    #[error("a frame of {units} units was sent with {left} units of credit left")]
    Overdrawn { units: u32, left: u32 },
    #[error("{units} units of credit were given back, and {used} were used")]
    NeverUsed { units: u32, used: u32 },
}

/// The receiver's side: what the peer has on the way to us and what we hold.
#[derive(Debug)]
pub struct Inflow {
    window: u32,
    /// Units that the peer has used and was not told to be free again.
    used: AtomicU32,
    /// Units that are done with and not told yet; part of `used`.
    done: AtomicU32,
}

/// The sender's side: what we have on the way. It never waits; whoever finds no credit waits in the way of his side.
#[derive(Debug)]
pub struct Outflow {
    window: u32,
    used: AtomicU32,
}

// === impl StreamTerms ===

impl StreamTerms {
    /// At most `messages` and `bytes` per direction, at least one of each kind.
    #[must_use]
    pub fn new(messages: u32, bytes: u32) -> Self {
        Self {
            bytes: bytes.max(4),
            messages: messages.max(1),
        }
    }

    /// The window of one direction.
    #[must_use]
    pub fn window(self) -> u32 {
        self.bytes
    }

    /// What a message costs. A window is told to be free in quarters (W3), so what is more than the rest of it could never be waited for.
    #[must_use]
    pub fn price(self, message_bytes: usize) -> u32 {
        let most = self.bytes - self.bytes / 4;
        let least = self.bytes.div_ceil(self.messages).min(most);
        u32::try_from(message_bytes)
            .unwrap_or(u32::MAX)
            .clamp(least, most)
    }
}

// === impl Inflow ===

impl Inflow {
    /// A window of `window` units, none of them used.
    #[must_use]
    pub fn new(window: u32) -> Self {
        Self {
            window,
            used: AtomicU32::new(0),
            done: AtomicU32::new(0),
        }
    }

    /// Notes a frame that has come, and gives its units. Called by the one thread or task that reads.
    ///
    /// # Errors
    /// If the peer had no credit for it (W1).
    pub fn take(&self, body_bytes: usize) -> Result<u32, CreditError> {
        self.take_units(units(body_bytes))
    }

    /// The same where the price is known: an Item's.
    ///
    /// # Errors
    /// As [`Inflow::take`].
    pub fn take_units(&self, units: u32) -> Result<u32, CreditError> {
        // Others only ever make it smaller.
        let left = self.window - self.used.load(Ordering::Relaxed).min(self.window);
        if units > left {
            return Err(CreditError::Overdrawn { units, left });
        }
        self.used.fetch_add(units, Ordering::Relaxed);
        Ok(units)
    }

    /// Notes that `units` that were taken are done with. `Some` says: send a Credit frame with that number now (W3).
    #[must_use = "the peer waits for a Credit frame with this number"]
    pub fn give_back(&self, units: u32) -> Option<u32> {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        if done < self.window / 4 {
            return None;
        }
        // Whoever swaps tells it; another thread may have been faster.
        let done = self.done.swap(0, Ordering::Relaxed);
        // Before the frame is sent: from then on the peer may use them again.
        self.used.fetch_sub(done, Ordering::Relaxed);
        (done > 0).then_some(done)
    }
}

// === impl Outflow ===

impl Outflow {
    /// A peer that holds up to `window` units.
    #[must_use]
    pub fn new(window: u32) -> Self {
        Self {
            window,
            used: AtomicU32::new(0),
        }
    }

    /// The peer's window.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Uses `units`, if there are so many.
    #[must_use]
    pub fn try_use(&self, units: u32) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(units).filter(|used| *used <= self.window)
            })
            .is_ok()
    }

    /// Notes a Credit frame, or units that were not sent after all.
    ///
    /// # Errors
    /// If so many were never used (W2).
    pub fn returned(&self, units: u32) -> Result<(), CreditError> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_sub(units)
            })
            .map(drop)
            .map_err(|used| CreditError::NeverUsed { units, used })
    }
}

#[cfg(test)]
mod tests;
