//! A subscription: as many slots as deliveries may be in flight, each with one event at a time.
//!
//! ```text
//!   asks --event--> offered --Done--> acknowledged --> asks
//!                    ^   |--Failed--> given back with a wait (the server counts it) --> asks
//!                    |   |--Never, or Failed for the last time--> dead letter, acknowledged --> asks
//!                    '---'--NotDelivered, receipt dropped: stays here, the same attempt, after a wait (N3)
//!   closed in any state: given back without a wait
//! ```

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use async_nats::{
    Request,
    jetstream::{
        AckKind, Message,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        context::ConsumerInfoErrorKind,
    },
};
use futures_util::StreamExt as _;
use mortise_events::{
    BoxFuture, Delivered, Event, EventError, EventErrorKind, Inbox, Outcome, Receipt, Settled,
    SubscriptionTerms,
};
use mortise_manifest::SubscribeFrom;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    link::{ANSWER_MAX, Link, State},
    log::{DESCRIPTION, Log},
    words::{Kept, closed, consumer_name, failed},
};

/// How long the server waits for a word about an event before it gives it to somebody else.
pub const ACK_WAIT: Duration = Duration::from_secs(10);
/// How often it is told that a delivery goes on.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);
/// How long a slot asks for an event before it asks anew.
const ASK_FOR: Duration = Duration::from_secs(20);
/// Wait before a slot asks again that was refused.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Events of a subscription that is not ordered that may be given out or given back, in all hosts.
const PENDING_MAX: i64 = 1024;
/// Slots of all hosts that may ask at once.
const WAITING_MAX: i64 = 2048;
/// Wait before what a closed subscription had is given back.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(20);
/// Wait before an event whose receipt was dropped is delivered again.
const DROPPED_WAIT: Duration = Duration::from_millis(100);
/// A subscription nobody asks for so many times the retention is forgotten, but not before a day is over.
const FORGET_AFTER: u32 = 7;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Kept by every slot of an open subscription; whoever has the other end hears when the last of them is gone.
pub(crate) type Life = Arc<mpsc::Receiver<Infallible>>;

/// Where deliveries come out.
struct Mail {
    deliveries: mpsc::Receiver<Delivered>,
    closing: watch::Receiver<bool>,
}

struct Slot {
    link: Arc<Link>,
    terms: Arc<SubscriptionTerms>,
    consumer: Option<Consumer<pull::Config>>,
    out: mpsc::Sender<Delivered>,
    closing: watch::Receiver<bool>,
    state: watch::Receiver<State>,
    /// What was complained about last.
    told: Option<String>,
    chance: RandomState,
    _life: Life,
}

/// What a receipt says.
struct Word {
    outcome: Outcome,
    reply: oneshot::Sender<Result<Settled, EventError>>,
}

struct Slip {
    word: oneshot::Sender<Word>,
}

/// How an attempt ended.
enum End {
    Said(Word),
    Dropped,
    Closed,
}

/// Opens a subscription, or begins it.
///
/// # Errors
/// `Unavailable`.
pub(crate) async fn open(
    link: &Arc<Link>,
    terms: SubscriptionTerms,
    life: Life,
) -> Result<Box<dyn Inbox>, EventError> {
    let consumer = link.log().await?.consumer(&terms).await?;
    let count = if terms.ordered {
        1
    } else {
        terms.concurrency.max(1)
    };
    let (out, deliveries) = mpsc::channel(count as usize);
    let terms = Arc::new(terms);
    for _ in 0..count {
        let slot = Slot {
            link: link.clone(),
            terms: terms.clone(),
            consumer: Some(consumer.clone()),
            out: out.clone(),
            closing: link.closing(),
            state: link.state(),
            told: None,
            chance: RandomState::new(),
            _life: life.clone(),
        };
        tokio::spawn(slot.run());
    }
    Ok(Box::new(Mail {
        deliveries,
        closing: link.closing(),
    }))
}

impl Log {
    /// The consumer of a subscription, with these terms.
    async fn consumer(&self, terms: &SubscriptionTerms) -> Result<Consumer<pull::Config>, EventError> {
        let name = consumer_name(&terms.name);
        let deliver_policy = match self.events.consumer_info(&name).await {
            // Where it began cannot be another by now.
            Ok(info) => info.config.deliver_policy,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => match terms.from {
                SubscribeFrom::New => DeliverPolicy::New,
                SubscribeFrom::Oldest => DeliverPolicy::All,
            },
            Err(error) => return Err(failed("look at the subscription", &error)),
        };
        let config = pull::Config {
            durable_name: Some(name),
            description: Some(DESCRIPTION.to_owned()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // Attempts are bounded here: what is over is a dead letter, and not nowhere.
            max_deliver: -1,
            max_ack_pending: if terms.ordered { 1 } else { PENDING_MAX },
            max_waiting: WAITING_MAX,
            filter_subject: self.event_subject(terms.pattern.as_str()),
            inactive_threshold: (self.retention() * FORGET_AFTER).max(DAY),
            ..pull::Config::default()
        };
        let opened = self.events.create_consumer(config).await;
        opened.map_err(|error| failed("open the subscription", &error))
    }
}

// === impl Mail ===

impl Inbox for Mail {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivered, EventError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|it| *it) => Err(closed()),
                next = self.deliveries.recv() => next.ok_or_else(closed),
            }
        })
    }
}

// === impl Slot ===

impl Slot {
    async fn run(mut self) {
        while !self.is_closed() {
            match self.ask().await {
                Ok(Some(message)) => self.see_through(message).await,
                Ok(None) => {}
                Err(error) => {
                    self.complain(&error);
                    self.rest(ASK_AGAIN).await;
                }
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.out.is_closed() || *self.closing.borrow()
    }

    /// The next event; `None` if there was none for a while.
    async fn ask(&mut self) -> Result<Option<Message>, EventError> {
        let log = self.link.log().await?;
        self.state.mark_unchanged();
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            none => none.insert(log.consumer(&self.terms).await?),
        };
        let asked = consumer.batch().max_messages(1).expires(ASK_FOR).messages().await;
        let mut messages = asked.map_err(|error| failed("give out events", &error))?;
        tokio::select! {
            biased;
            next = messages.next() => match next {
                Some(Ok(message)) => {
                    self.told = None;
                    Ok(Some(message))
                }
                None => Ok(None),
                Some(Err(error)) => {
                    // It may be gone: forgotten elsewhere, or with the server's data.
                    self.consumer = None;
                    Err(failed("give out events", &error))
                }
            },
            () = self.out.closed() => Ok(None),
            _ = self.closing.wait_for(|it| *it) => Ok(None),
            // Whoever asked over the lost connection is not answered.
            _ = self.state.changed() => Ok(None),
        }
    }

    /// Everything from an event's arrival to the last word about it.
    async fn see_through(&self, message: Message) {
        let log = match self.link.log().await {
            Ok(log) => log,
            // It comes again.
            Err(_) => return,
        };
        let read = Kept::of_delivery(&message).map(|it| (log.event_of(&it), it.seq));
        let is_ours = |only: &Option<String>| only.as_ref().is_none_or(|it| *it == self.terms.name);
        let Some(((event, _), place)) = read.filter(|((_, only), _)| is_ours(only)) else {
            let _ = message.ack().await;
            return;
        };
        let event = Arc::new(event);
        let delivered = message.info().map_or(1, |it| it.delivered.max(1));
        let attempt = u32::try_from(delivered).unwrap_or(u32::MAX);
        if attempt > self.terms.retry.attempts_max {
            let why = "whoever had it did not say how the delivery went, and attempts are over";
            if let Err(error) = self.bury(&log, &message, place, &event, attempt - 1, why).await {
                self.complain_of(&event, &error);
            }
            return;
        }
        loop {
            let word = match self.offer(&message, &event, attempt).await {
                End::Said(word) => Some(word),
                End::Dropped => None,
                End::Closed => return give_back(&message).await,
            };
            let wait = match word {
                None => DROPPED_WAIT,
                Some(Word {
                    outcome: Outcome::NotDelivered { wait, .. },
                    reply,
                }) => {
                    let _ = reply.send(Ok(Settled::Again(wait)));
                    wait
                }
                Some(Word { outcome, reply }) => {
                    let settled = self.settle(&log, &message, place, &event, attempt, outcome).await;
                    let _ = reply.send(settled);
                    return;
                }
            };
            if !keep(&message, self.rest(wait)).await {
                return give_back(&message).await;
            }
        }
    }

    /// One attempt.
    async fn offer(&self, message: &Message, event: &Arc<Event>, attempt: u32) -> End {
        let (word, heard) = oneshot::channel();
        let delivered = Delivered {
            event: event.clone(),
            attempt,
            receipt: Box::new(Slip { word }),
        };
        // There is room: one for each slot.
        if self.out.send(delivered).await.is_err() {
            return End::Closed;
        }
        let mut closing = self.closing.clone();
        let ending = async {
            tokio::select! {
                biased;
                word = heard => word.map_or(End::Dropped, End::Said),
                () = self.out.closed() => End::Closed,
                _ = closing.wait_for(|it| *it) => End::Closed,
            }
        };
        keep(message, ending).await
    }

    async fn settle(
        &self,
        log: &Log,
        message: &Message,
        place: u64,
        event: &Event,
        attempt: u32,
        outcome: Outcome,
    ) -> Result<Settled, EventError> {
        let retry = self.terms.retry;
        match outcome {
            Outcome::Done => {
                say(log, message, AckKind::Ack).await?;
                Ok(Settled::Done)
            }
            Outcome::NotDelivered { wait, .. } => Ok(Settled::Again(wait)),
            Outcome::Failed(_) if !retry.is_over(attempt) => {
                let chance = self.chance.hash_one((place, attempt)) as f64 / u64::MAX as f64;
                let wait = retry.wait(attempt, chance);
                say(log, message, AckKind::Nak(Some(wait))).await?;
                Ok(Settled::Again(wait))
            }
            Outcome::Failed(why) | Outcome::Never(why) => {
                self.bury(log, message, place, event, attempt, &why).await?;
                Ok(Settled::Dead)
            }
        }
    }

    async fn bury(
        &self,
        log: &Log,
        message: &Message,
        place: u64,
        event: &Event,
        attempts: u32,
        why: &str,
    ) -> Result<(), EventError> {
        let subscription = &self.terms.name;
        // N5: first the one, then the other.
        log.bury(subscription, place, event, attempts, why).await?;
        tracing::warn!(target: "mortise::events", %subscription, event = event.seq, attempts, %why, "an event is a dead letter");
        say(log, message, AckKind::Ack).await
    }

    /// Waits; false if the subscription is closed before.
    async fn rest(&self, wait: Duration) -> bool {
        let mut closing = self.closing.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.out.closed() => false,
            _ = closing.wait_for(|it| *it) => false,
        }
    }

    /// Once for each reason; a lost connection is told by the connection.
    fn complain(&mut self, error: &EventError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) && !self.is_closed() {
            tracing::warn!(target: "mortise::events", subscription = %self.terms.name, %error, hint = error.hint(), "no deliveries for a moment");
            self.told = Some(text);
        }
    }

    fn complain_of(&self, event: &Event, error: &EventError) {
        tracing::warn!(target: "mortise::events", subscription = %self.terms.name, event = event.seq, %error, "an event comes once more");
    }
}

impl Receipt for Slip {
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<Settled, EventError>> {
        let (reply, settled) = oneshot::channel();
        let said = self.word.send(Word { outcome, reply });
        Box::pin(async move {
            said.map_err(|_| given_back())?;
            settled.await.unwrap_or_else(|_| Err(given_back()))
        })
    }
}

/// Waits for something, and tells the server meanwhile that the event is in good hands.
async fn keep<T>(message: &Message, waiting: impl Future<Output = T>) -> T {
    let mut waiting = std::pin::pin!(waiting);
    let mut tick = tokio::time::interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
    loop {
        tokio::select! {
            biased;
            done = &mut waiting => return done,
            _ = tick.tick() => {
                // Unheard, it comes again; nobody waits for a connection that is lost.
                let _ = tokio::time::timeout(ASK_AGAIN, message.ack_with(AckKind::Progress)).await;
            }
        }
    }
}

/// Somebody else may have it, now: not another slot of the subscription that is closed, so those stop asking first.
async fn give_back(message: &Message) {
    tokio::time::sleep(GIVE_BACK_AFTER).await;
    let _ = tokio::time::timeout(ASK_AGAIN, message.ack_with(AckKind::Nak(None))).await;
}

/// Says how it went, and waits until the server heard it.
async fn say(log: &Log, message: &Message, kind: AckKind) -> Result<(), EventError> {
    let Some(reply) = message.reply.clone() else {
        return Ok(());
    };
    let request = Request::new().payload(kind.into()).timeout(Some(ANSWER_MAX));
    let heard = log.client().send_request(reply, request).await;
    heard
        .map(drop)
        .map_err(|error| failed("hear how a delivery went", &error))
}

fn given_back() -> EventError {
    EventError::new(
        EventErrorKind::Unavailable,
        "the subscription was closed, and the event is delivered again",
        "settle deliveries before the stream of them is dropped",
    )
}
