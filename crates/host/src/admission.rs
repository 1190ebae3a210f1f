//! Admission: how many calls one generation works on at once, and who waits.
//!
//! One word holds everything, so that a decision is one compare-and-swap and a release is one subtraction:
//! ```text
//!  63      62 ........ 32   31 ......... 0
//!  closed  waiting          running
//! ```
//! # Invariants
//! - **A1** `running` never exceeds the limit.
//! - **A2** A free place is never left idle while somebody waits: a waiter counts itself in before it looks once more, and whoever frees a
//!   place wakes one waiter if any is counted.
//! - **A3** After [`Admission::close`] nobody is admitted and nobody waits: waiters are told to look for another generation. Who comes by
//!   [`Admission::enter_closed`] is somebody's guest who is inside already, and the door is nothing to him; the limit is.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

const RUNNING: u64 = 0xffff_ffff;
const ONE_WAITING: u64 = 1 << 32;
const WAITING: u64 = 0x7fff_ffff << 32;
const CLOSED: u64 = 1 << 63;
/// Calls that may wait for one generation; each holds its payload.
const WAITING_MAX: u64 = 65_536;

/// How often it is looked whether the last has gone. Seldom is one left by then.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The door of one generation.
#[derive(Debug)]
pub(crate) struct Admission {
    word: AtomicU64,
    limit: u64,
    freed: Notify,
}

/// A place inside; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Admission);

/// What a closed door is to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// An end.
    Stops,
    /// Nothing.
    Opens,
}

/// Why nobody was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The generation takes no new calls; another may.
    Closed,
    /// The deadline passed while waiting.
    TooLate,
    /// [`WAITING_MAX`] wait already.
    TooMany,
}

impl Admission {
    /// A door for at most `limit` calls at once.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            word: AtomicU64::new(0),
            limit: u64::from(limit.max(1)),
            freed: Notify::new(),
        }
    }

    /// Lets a call in, at once if there is room and nobody waits. Waits until `deadline` otherwise.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue, and passes a wake-up on.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<Place<'_>, Turned> {
        if let Some(answer) = self.enter_at_once() {
            return answer;
        }
        self.enter_until(deadline, Closed::Stops).await
    }

    /// The same, whether or not the door is closed.
    ///
    /// # Cancel safety
    /// As [`Admission::enter`].
    pub(crate) async fn enter_closed(&self, deadline: Instant) -> Result<Place<'_>, Turned> {
        let is_crowded = self.word.load(Ordering::Relaxed) & WAITING != 0;
        if !is_crowded && let Some(answer) = self.attempt(Closed::Opens) {
            return answer;
        }
        self.enter_until(deadline, Closed::Opens).await
    }

    async fn enter_until(&self, deadline: Instant, closed: Closed) -> Result<Place<'_>, Turned> {
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, self.wait(closed))
            .await
            .unwrap_or(Err(Turned::TooLate))
    }

    /// Lets a call in if there is room and nobody waits; `None` if it would have to wait.
    pub(crate) fn enter_at_once(&self) -> Option<Result<Place<'_>, Turned>> {
        if self.word.load(Ordering::Relaxed) & WAITING == 0 {
            self.attempt(Closed::Stops)
        } else {
            None
        }
    }

    /// Takes no new calls from now on and turns the waiting ones away.
    pub(crate) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Takes calls again.
    pub(crate) fn reopen(&self) {
        self.word.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Calls that are inside now.
    pub(crate) fn running(&self) -> u64 {
        self.word.load(Ordering::Relaxed) & RUNNING
    }

    /// Waits until nobody is inside.
    pub(crate) async fn left_by_all(&self) {
        while self.running() > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Calls that wait now.
    pub(crate) fn waiting(&self) -> u64 {
        (self.word.load(Ordering::Relaxed) & WAITING) >> 32
    }

    /// Takes a place if there is one; `None` if there is not.
    fn attempt(&self, closed: Closed) -> Option<Result<Place<'_>, Turned>> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 && closed == Closed::Stops {
                return Some(Err(Turned::Closed));
            }
            if word & RUNNING >= self.limit {
                return None;
            }
            match self
                .word
                .compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(Ok(Place(self))),
                Err(now) => word = now,
            }
        }
    }

    #[cold]
    async fn wait(&self, closed: Closed) -> Result<Place<'_>, Turned> {
        let before = self.word.fetch_add(ONE_WAITING, Ordering::AcqRel);
        let _waiting = Waiting(self);
        if before & WAITING >= WAITING_MAX * ONE_WAITING {
            return Err(Turned::TooMany);
        }
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            // A2: counted in and enlisted before this look, so a place freed after it wakes us.
            if let Some(answer) = self.attempt(closed) {
                return answer;
            }
            freed.await;
        }
    }
}

/// Counts one waiter out, whether it was let in, turned away or gave up.
struct Waiting<'a>(&'a Admission);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.word.fetch_sub(ONE_WAITING, Ordering::AcqRel);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let before = self.0.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & RUNNING > 0, "A1: only who was let in leaves");
        if before & WAITING != 0 {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        time::Duration,
    };

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn the_limit_holds_and_everybody_gets_a_turn() {
        let admission = Arc::new(Admission::new(3));
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let (admission, inside, most) = (admission.clone(), inside.clone(), most.clone());
                tokio::spawn(async move {
                    let place = admission.enter(soon()).await;
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    place.is_ok()
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.expect("no panic"), "A2: nobody is forgotten");
        }
        assert_eq!(most.load(Ordering::SeqCst), 3, "A1");
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_turned_away_and_counted_out() {
        let admission = Admission::new(1);
        let place = admission.enter(soon()).await.expect("the first has room");
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(admission.enter(deadline).await.err(), Some(Turned::TooLate));
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(place);
        assert!(admission.enter(soon()).await.is_ok());
    }

    #[tokio::test]
    async fn closing_turns_away_who_waits_and_who_comes_until_it_reopens() {
        let admission = Arc::new(Admission::new(1));
        let place = admission.enter(soon()).await.expect("the first has room");
        let waiter = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(soon()).await.err() }
        });
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        admission.close();
        assert_eq!(waiter.await.expect("no panic"), Some(Turned::Closed), "A3");
        assert_eq!(admission.enter(soon()).await.err(), Some(Turned::Closed), "A3");
        admission.reopen();
        drop(place);
        assert!(admission.enter(soon()).await.is_ok());
    }

    #[tokio::test]
    async fn guests_of_those_inside_come_in_by_a_closed_door_and_not_over_the_limit() {
        let admission = Arc::new(Admission::new(2));
        let outer = admission.enter(soon()).await.expect("the first has room");
        admission.close();
        let guest = admission.enter_closed(soon()).await.expect("it has room");
        let more = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter_closed(soon()).await.map(drop) }
        });
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((admission.running(), admission.waiting()), (2, 1), "A1");
        drop(guest);
        assert_eq!(more.await.expect("no panic"), Ok(()), "A2");
        assert_eq!(admission.enter(soon()).await.err(), Some(Turned::Closed), "A3");
        drop(outer);
        assert_eq!(admission.running(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_passes_its_wake_up_on() {
        let admission = Arc::new(Admission::new(1));
        let place = admission.enter(soon()).await.expect("the first has room");
        let mut gives_up = Box::pin(admission.enter(soon()));
        assert!(futures_util::poll!(&mut gives_up).is_pending());
        let mut stays = Box::pin(admission.enter(soon()));
        assert!(futures_util::poll!(&mut stays).is_pending());
        drop(place);
        drop(gives_up);
        assert!(stays.await.is_ok(), "A2");
    }
}
