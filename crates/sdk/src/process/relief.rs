//! Who reads the lane while a method runs on the thread that read it.
//!
//! Handing a call to another thread costs more than most methods: a wake-up, a context switch, and the same back. So a method that has been
//! quick so far is run by the thread that has read its call. It puts the reader down before, and takes it up again after. A second thread *stands
//! by*: it looks every [`TICK`] whether the same method still runs, and if so takes the reader over; the first one stands by when it comes
//! back. A method that waits (for the host, for time) calls for relief at once. While nobody stands by, calls go to workers.
//!
//! ```text
//!  reading --quick method--> running, reader put down --returns, reader still there--> reading
//!                                   |                 --returns, reader taken--------> standing by
//!  standing by --the same method at two ticks, or asked for--> reading
//!              --nothing ran for IDLE_TICKS--> asleep --a method begins--> standing by
//! ```
//!
//! Invariants
//! - R1: at most one thread stands by, and it never runs plugin code.
//! - R2: the reader is put down only while a thread stands by: so it is never left lying for longer than two ticks.
//! - R3: whoever finds the reader put down and takes it has it alone; it is behind a lock.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::lane::lock;

/// How often the thread that stands by looks.
const TICK: Duration = Duration::from_micros(500);
/// Looks in vain after which it goes to sleep.
const IDLE_TICKS: u32 = 20;
/// A method that takes longer is slow.
pub(super) const QUICK: Duration = Duration::from_micros(100);
/// Quick runs on a worker after which a method that was slow counts as quick again.
const FORGIVEN_AFTER: i32 = 16;

/// The arrangement of one process.
pub(super) struct Relief {
    /// Odd while a method runs on the reading thread; every begin and end counts.
    turns: AtomicU64,
    /// The method that runs, for the one who finds it slow.
    method: AtomicU32,
    standing_by: AtomicBool,
    asleep: AtomicBool,
    /// True: relief is wanted now.
    wanted: Mutex<bool>,
    wake: Condvar,
    /// Below 0: the method was slow, and so many quick runs on a worker are missing.
    scores: Box<[AtomicI32]>,
}

impl Relief {
    pub(super) fn new(methods: u32) -> Self {
        Self {
            turns: AtomicU64::new(0),
            method: AtomicU32::new(0),
            standing_by: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            wanted: Mutex::new(false),
            wake: Condvar::new(),
            scores: (0..methods).map(|_| AtomicI32::new(0)).collect(),
        }
    }

    /// Whether the reading thread may run this method itself.
    pub(super) fn may_run(&self, number: u32) -> bool {
        self.standing_by.load(Ordering::Acquire)
            && self
                .scores
                .get(number as usize)
                .is_some_and(|score| score.load(Ordering::Relaxed) >= 0)
    }

    /// The reading thread begins to run a method. It has put the reader down.
    pub(super) fn begin(&self, number: u32) {
        self.method.store(number, Ordering::Relaxed);
        // Against `sleep`: either it sees this turn, or we see that it is asleep.
        self.turns.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            drop(lock(&self.wanted));
            self.wake.notify_one();
        }
    }

    /// The method has returned.
    pub(super) fn end(&self) {
        self.turns.fetch_add(1, Ordering::Release);
    }

    /// The method that runs will wait: let somebody else read at once.
    pub(super) fn call(&self) {
        *lock(&self.wanted) = true;
        self.wake.notify_one();
    }

    /// Notes how long a method took.
    pub(super) fn note(&self, number: u32, took: Duration, on_worker: bool) {
        let Some(score) = self.scores.get(number as usize) else {
            return;
        };
        if took > QUICK {
            score.store(-FORGIVEN_AFTER, Ordering::Relaxed);
        } else if on_worker && score.load(Ordering::Relaxed) < 0 {
            score.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stands by until `take` has given the reader.
    pub(super) fn stand_by<T>(&self, mut take: impl FnMut() -> Option<T>) -> T {
        self.standing_by.store(true, Ordering::Release);
        let (mut seen, mut idle) = (0, 0);
        loop {
            let turn = self.turns.load(Ordering::Acquire);
            let runs = turn % 2 == 1;
            // Asked for by a method that has returned meanwhile, it is not wanted any more.
            let wanted = std::mem::take(&mut *lock(&self.wanted));
            if runs && (turn == seen || wanted) {
                // Before the reader is taken: whoever reads must find that nobody stands by (R2).
                self.standing_by.store(false, Ordering::Release);
                if let Some(reader) = take() {
                    self.note(self.method.load(Ordering::Relaxed), Duration::MAX, false);
                    return reader;
                }
                self.standing_by.store(true, Ordering::Release);
            }
            idle = if turn == seen { idle + 1 } else { 0 };
            seen = turn;
            if idle < IDLE_TICKS {
                self.wait(Some(TICK));
            } else {
                self.sleep();
                idle = 0;
            }
        }
    }

    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        if self.turns.load(Ordering::SeqCst).is_multiple_of(2) {
            self.wait(None);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    fn wait(&self, time: Option<Duration>) {
        let wanted = lock(&self.wanted);
        if *wanted {
            return;
        }
        let over = |turns: u64| !turns.is_multiple_of(2);
        match time {
            Some(time) => {
                let waited = self.wake.wait_timeout(wanted, time);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            // `begin` takes the lock before it notifies, so a turn is seen here or the notice is.
            None if !over(self.turns.load(Ordering::SeqCst)) => {
                drop(self.wake.wait(wanted).unwrap_or_else(PoisonError::into_inner));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
