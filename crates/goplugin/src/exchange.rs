//! The broker's bookkeeping, without a socket.
//!
//! Two kinds of message come down the broker's stream. *Offers* say where a service with an id listens, or, with multiplexing, that a knock was heard; a dialer waits for
//! them. *Knocks* ask that the next stream be given to an id; an acceptor waits for them. Both may come before the one who waits does, so both
//! are kept for a while.
//!
//! Invariants
//! - E1: at most [`KEPT_MAX`] messages are kept and [`KEPT_MAX`] waiters wait, whatever the peer sends.
//! - E2: a message is given to one waiter, and a waiter gets one message.
//! - E3: what nobody claimed within [`CLAIM_WITHIN`] is forgotten.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::proto::ConnInfo;

/// A dialer waits so long, and a message is kept so long. go-plugin's own number.
pub const CLAIM_WITHIN: Duration = Duration::from_secs(5);
/// Bound on either map.
pub const KEPT_MAX: usize = 1024;

/// What to do with a message that was received.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<W> {
    /// Give it to the one who waits.
    Deliver(W, ConnInfo),
    /// A knock for an id that is being accepted: let the next stream in there, and acknowledge.
    Open(u32),
    /// It is kept, or it was one too many, or it makes no sense.
    Nothing,
}

/// What one side of the broker knows. `W` is whatever wakes a waiter.
#[derive(Debug)]
pub struct Exchange<W> {
    offers: HashMap<u32, Offered<W>>,
    acceptors: HashMap<u32, Accepting>,
}

#[derive(Debug)]
enum Offered<W> {
    Kept(ConnInfo, Instant),
    Awaited(W, Instant),
}

#[derive(Debug)]
enum Accepting {
    /// Somebody accepts this id.
    Open,
    /// It was knocked at, and nobody accepts it yet.
    Knocked(Instant),
}

// === impl Exchange ===

impl<W> Default for Exchange<W> {
    fn default() -> Self {
        Self {
            offers: HashMap::new(),
            acceptors: HashMap::new(),
        }
    }
}

impl<W> Exchange<W> {
    /// A message from the peer.
    pub fn receive(&mut self, info: ConnInfo, now: Instant) -> Received<W> {
        let id = info.service_id;
        self.expire(id, now);
        if info.knock.as_ref().is_some_and(|it| it.knock && !it.ack) {
            return match self.acceptors.get(&id) {
                Some(Accepting::Open) => Received::Open(id),
                Some(Accepting::Knocked(_)) => Received::Nothing,
                None => {
                    if self.acceptors.len() < KEPT_MAX {
                        self.acceptors.insert(id, Accepting::Knocked(now));
                    }
                    Received::Nothing
                }
            };
        }
        match self.offers.remove(&id) {
            Some(Offered::Awaited(waiter, _)) => Received::Deliver(waiter, info),
            // The first one counts, as in Go.
            Some(kept @ Offered::Kept(..)) => {
                self.offers.insert(id, kept);
                Received::Nothing
            }
            None => {
                if self.offers.len() < KEPT_MAX {
                    self.offers.insert(id, Offered::Kept(info, now));
                }
                Received::Nothing
            }
        }
    }

    /// Claims the offer with this id: at once if it is there, else the waiter is kept.
    ///
    /// # Errors
    /// The waiter back, if another waits for the same id or too many wait.
    pub fn claim(&mut self, id: u32, waiter: W, now: Instant) -> Result<Option<ConnInfo>, W> {
        self.expire(id, now);
        match self.offers.remove(&id) {
            Some(Offered::Kept(info, _)) => Ok(Some(info)),
            Some(other @ Offered::Awaited(..)) => {
                self.offers.insert(id, other);
                Err(waiter)
            }
            None if self.offers.len() >= KEPT_MAX => Err(waiter),
            None => {
                self.offers.insert(id, Offered::Awaited(waiter, now));
                Ok(None)
            }
        }
    }

    /// Whoever waited for this id does so no longer.
    pub fn give_up(&mut self, id: u32) {
        if matches!(self.offers.get(&id), Some(Offered::Awaited(..))) {
            self.offers.remove(&id);
        }
    }

    /// Begins to accept an id. True if it was knocked at already: then open and acknowledge.
    pub fn accept(&mut self, id: u32, now: Instant) -> bool {
        self.expire(id, now);
        matches!(
            self.acceptors.insert(id, Accepting::Open),
            Some(Accepting::Knocked(_))
        )
    }

    /// Ends it.
    pub fn stop_accepting(&mut self, id: u32) {
        self.acceptors.remove(&id);
    }

    /// How much is kept, and how many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offers.len() + self.acceptors.len()
    }

    /// Whether nothing is kept and nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what is too old under this id, and everywhere if there is no room.
    fn expire(&mut self, id: u32, now: Instant) {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < CLAIM_WITHIN;
        let offered = |offered: &Offered<W>| match offered {
            Offered::Kept(_, at) | Offered::Awaited(_, at) => fresh(at),
        };
        let accepting = |accepting: &Accepting| match accepting {
            Accepting::Open => true,
            Accepting::Knocked(at) => fresh(at),
        };
        if self.offers.get(&id).is_some_and(|it| !offered(it)) {
            self.offers.remove(&id);
        }
        if self.acceptors.get(&id).is_some_and(|it| !accepting(it)) {
            self.acceptors.remove(&id);
        }
        // A peer that fills it makes each of its messages cost a walk; an honest one never comes here.
        if self.offers.len() >= KEPT_MAX {
            self.offers.retain(|_, it| offered(it));
        }
        if self.acceptors.len() >= KEPT_MAX {
            self.acceptors.retain(|_, it| accepting(it));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::Knock;

    fn offer(id: u32) -> ConnInfo {
        ConnInfo {
            service_id: id,
            network: "unix".to_owned(),
            address: "/a".to_owned(),
            knock: None,
        }
    }

    fn knock(id: u32) -> ConnInfo {
        ConnInfo {
            service_id: id,
            knock: Some(Knock {
                knock: true,
                ..Knock::default()
            }),
            ..ConnInfo::default()
        }
    }

    #[test]
    fn an_offer_before_or_after_its_claim() {
        let now = Instant::now();
        let mut exchange = Exchange::default();
        assert_eq!(exchange.receive(offer(1), now), Received::Nothing);
        assert_eq!(exchange.claim(1, "late", now), Ok(Some(offer(1))));
        assert_eq!(exchange.claim(2, "early", now), Ok(None));
        assert_eq!(
            exchange.receive(offer(2), now),
            Received::Deliver("early", offer(2))
        );
        assert!(exchange.is_empty());
    }

    #[test]
    fn two_can_not_wait_for_the_same_id() {
        let now = Instant::now();
        let mut exchange = Exchange::default();
        assert_eq!(exchange.claim(1, "first", now), Ok(None));
        assert_eq!(exchange.claim(1, "second", now), Err("second"));
        exchange.give_up(1);
        assert_eq!(exchange.claim(1, "third", now), Ok(None));
    }

    #[test]
    fn what_nobody_claims_is_forgotten() {
        let now = Instant::now();
        let mut exchange = Exchange::default();
        exchange.receive(offer(1), now);
        exchange.receive(knock(2), now);
        let later = now + CLAIM_WITHIN;
        assert_eq!(exchange.claim(1, (), later), Ok(None));
        assert!(!exchange.accept(2, later));
    }

    #[test]
    fn a_knock_opens_the_door_of_its_id_only() {
        let now = Instant::now();
        let mut exchange = Exchange::<()>::default();
        assert!(!exchange.accept(1, now));
        assert_eq!(exchange.receive(knock(1), now), Received::Open(1));
        assert_eq!(exchange.receive(knock(1), now), Received::Open(1));
        assert_eq!(exchange.receive(knock(2), now), Received::Nothing);
        assert!(exchange.accept(2, now), "the knock was kept");
        exchange.stop_accepting(1);
        assert_eq!(exchange.receive(knock(1), now), Received::Nothing);
        // An answer to a knock is an offer to the dialer.
        let mut ack = knock(9);
        ack.knock.as_mut().unwrap().ack = true;
        assert_eq!(exchange.claim(9, (), now), Ok(None));
        assert_eq!(exchange.receive(ack.clone(), now), Received::Deliver((), ack));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn a_flood_is_bounded(messages in proptest::collection::vec((any::<u32>(), 0_u8..4, 0_u64..20), 2000..4000)) {
            let start = Instant::now();
            let mut exchange = Exchange::default();
            for (id, kind, after) in messages {
                let now = start + Duration::from_millis(after);
                match kind {
                    0 => { exchange.receive(offer(id), now); }
                    1 => { exchange.receive(knock(id), now); }
                    2 => { let _ = exchange.claim(id, id, now); }
                    _ => exchange.give_up(id),
                }
                prop_assert!(exchange.len() <= 2 * KEPT_MAX);
            }
        }
    }
}
