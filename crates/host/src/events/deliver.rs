//! Deliveries to plugins: one task per subscription, for as long as its plugin is loaded.
//!
//! A delivery is a call of the subscription's method at the plugin's plain name, so that routes and a canary choose among its versions, a gate
//! holds it during a swap, and an instance that fails is judged by it. Its deadline is the method's own. Its trace goes on from the publisher's, and
//! it brings headers that say what it is (below).
//!
//! While versions stand side by side, a subscription of both is one: its terms are those of the version under the plain name. A delivery is routed as any
//! call, but only to a version whose own manifest has the subscription for the event's topic: what routing says otherwise is overruled. So a subscription
//! that only the canary has begins with the canary, and all of it is the canary's.
//!
//!
//! | header | what |
//! |---|---|
//! | `mortise-event-id` | the event's number in the log |
//! | `mortise-event-topic` | its topic |
//! | `mortise-event-key` | its idempotency key; the same in every delivery of it |
//! | `mortise-event-attempt` | which attempt this is, from 1 |
//! | `mortise-event-group` | the subscription's group |
//! | `mortise-event-time` | when it was accepted, in milliseconds since 1970 |

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use mortise_events::{Delivered, Event, EventError, Inbox, Outcome, RetryPolicy, SubscriptionTerms};
use mortise_manifest::{SubscribeEntry, TopicPattern};
use mortise_runtime::{CallError, CallErrorKind, Retry};
use mortise_wire::{Code, Header};
use tokio::{sync::watch, task::JoinHandle};

use super::{EVENT_HEADERS, patience};
use crate::{
    call::{self, Failed, Origin},
    generation::Address,
    host::Shared,
    table::Target,
};

/// Wait before a subscription that could not be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// A subscription that is looked after.
pub(super) struct Running {
    entry: SubscribeEntry,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    ended: Arc<AtomicBool>,
}

/// Rings when a subscription is not looked after any more, whatever ended it.
struct Ending {
    shared: Weak<Shared>,
    ended: Arc<AtomicBool>,
}

/// What a delivery needs to know.
struct Subscriber {
    shared: Weak<Shared>,
    /// The plugin's plain name.
    plugin: Arc<str>,
    entry: SubscribeEntry,
    pattern: TopicPattern,
    /// Deliveries in a row that found nobody.
    misses: AtomicU32,
}

/// What was said last of an outage: each reason is told once, however often it is met.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn is_new(&mut self, error: &EventError) -> bool {
        let text = error.to_string();
        let is_new = self.0.as_ref() != Some(&text);
        self.0 = Some(text);
        is_new
    }
}

impl Running {
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) async fn ended(self) {
        // It panicked, or the executor ends; nothing runs either way.
        let _ = self.task.await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if std::thread::panicking() {
            // It begins again, but not round and round.
            let later = Arc::downgrade(&shared);
            shared.tokio.spawn(async move {
                tokio::time::sleep(OPEN_AGAIN).await;
                if let Some(shared) = later.upgrade() {
                    shared.events.look();
                }
            });
        } else {
            shared.events.look();
        }
    }
}

/// Begins and ends subscriptions as plugins come and go. What is to end finishes its deliveries first; nobody else waits for that.
pub(super) async fn keep_subscribed(shared: Weak<Shared>, mut rung: watch::Receiver<()>) {
    let mut closing = match shared.upgrade() {
        Some(shared) => shared.closing.subscribe(),
        None => return,
    };
    loop {
        tokio::select! {
            changed = rung.changed() => if changed.is_err() { return },
            _ = closing.wait_for(|it| *it) => return,
        }
        let Some(shared) = shared.upgrade() else { return };
        let wanted = wanted(&shared);
        let mut running = shared.events.running();
        // Under the lock, so that what `Events::stop` takes out is all there is.
        if *shared.closing.borrow() {
            return;
        }
        running.retain(|_, it| !it.has_ended());
        for (name, it) in &*running {
            if wanted.get(name).is_none_or(|(_, entry)| *entry != it.entry) {
                // It rings when it has ended; if it is wanted on other terms, it begins then.
                it.stop();
            }
        }
        for (name, (plugin, entry)) in wanted {
            if !running.contains_key(&name) {
                let started = start(&shared, name.clone(), plugin, entry);
                running.extend(started.map(|it| (name, it)));
            }
        }
    }
}

/// What plugins that are loaded subscribe to, by its durable name: the plugin's plain name, and the terms.
fn wanted(shared: &Shared) -> BTreeMap<String, (Arc<str>, SubscribeEntry)> {
    let mut wanted = BTreeMap::new();
    // Plain names come before those of versions beside them, and their word counts.
    let mut addresses = shared.all();
    addresses.sort_by_key(|it| it.is_beside());
    for address in addresses {
        let status = address.status.load();
        let Some(offer) = &status.offer else { continue };
        for entry in &offer.manifest.subscribes {
            wanted
                .entry(format!("{}/{}", address.base(), entry.group))
                .or_insert_with(|| (address.base().into(), entry.clone()));
        }
    }
    wanted
}

fn start(shared: &Arc<Shared>, name: String, plugin: Arc<str>, entry: SubscribeEntry) -> Option<Running> {
    let pattern = entry.pattern()?;
    let (stop, stopped) = watch::channel(false);
    let subscriber = Arc::new(Subscriber {
        shared: Arc::downgrade(shared),
        plugin,
        entry: entry.clone(),
        pattern,
        misses: AtomicU32::new(0),
    });
    let ended = Arc::new(AtomicBool::new(false));
    let ending = Ending {
        shared: Arc::downgrade(shared),
        ended: ended.clone(),
    };
    let task = shared.tokio.spawn(async move {
        let _ending = ending;
        subscriber.run(name, stopped).await;
    });
    Some(Running {
        entry,
        stop,
        task,
        ended,
    })
}

impl Subscriber {
    async fn run(self: Arc<Self>, name: String, mut stopped: watch::Receiver<bool>) {
        let stop = stopped.wait_for(|it| *it).map(drop).fuse();
        let mut stop = std::pin::pin!(stop);
        let most = self.entry.concurrency.max(1) as usize;
        let mut deliveries = FuturesUnordered::new();
        let mut told = Told::default();
        'open: loop {
            let mut inbox = {
                let mut opening = std::pin::pin!(self.open(&name));
                loop {
                    tokio::select! {
                        () = &mut stop => break 'open,
                        Some(()) = deliveries.next(), if !deliveries.is_empty() => {}
                        inbox = &mut opening => match inbox {
                            Some(inbox) => break inbox,
                            None => break 'open,
                        },
                    }
                }
            };
            loop {
                tokio::select! {
                    () = &mut stop => break 'open,
                    Some(()) = deliveries.next(), if !deliveries.is_empty() => {}
                    next = self.when_somebody_is_there(&mut *inbox), if deliveries.len() < most => match next {
                        Ok(delivered) => {
                            told = Told::default();
                            deliveries.push(self.clone().deliver(delivered));
                        }
                        Err(error) => {
                            if told.is_new(&error) {
                                tracing::warn!(target: "mortise::events", subscription = name, %error, "no deliveries for a moment");
                            }
                            // This inbox has nothing more to give.
                            break;
                        }
                    },
                }
            }
            drop(inbox);
            tokio::select! {
                () = &mut stop => break 'open,
                () = tokio::time::sleep(OPEN_AGAIN) => {}
            }
        }
        while deliveries.next().await.is_some() {}
    }

    /// The next delivery; after some that found nobody, not at once: the others would find nobody either, and each costs two writes.
    ///
    /// Cancel safe: nothing is taken before the last line.
    async fn when_somebody_is_there(&self, inbox: &mut dyn Inbox) -> Result<Delivered, EventError> {
        let misses = self.misses.load(Ordering::Relaxed);
        if misses > 0 {
            tokio::time::sleep(patience(misses)).await;
        }
        inbox.next().await
    }

    /// `None`: the host is gone.
    async fn open(&self, name: &str) -> Option<Box<dyn Inbox>> {
        let entry = &self.entry;
        let terms = SubscriptionTerms {
            name: name.to_owned(),
            pattern: self.pattern.clone(),
            from: entry.from,
            retry: RetryPolicy {
                attempts_max: entry.attempts,
                backoff: entry.backoff,
                backoff_max: entry.backoff_max,
            },
            concurrency: if entry.ordered { 1 } else { entry.concurrency },
            ordered: entry.ordered,
        };
        let mut told = Told::default();
        loop {
            let broker = self.shared.upgrade()?.events.broker.clone();
            match broker.subscribe(terms.clone()).await {
                Ok(inbox) => return Some(inbox),
                Err(error) if !told.is_new(&error) => {}
                Err(error) => {
                    tracing::warn!(target: "mortise::events", subscription = name, %error, hint = error.hint(), "a subscription cannot be opened yet");
                }
            }
            tokio::time::sleep(OPEN_AGAIN).await;
        }
    }

    async fn deliver(self: Arc<Self>, delivered: Delivered) {
        let Delivered {
            event,
            attempt,
            receipt,
        } = delivered;
        let outcome = self.call(&event, attempt).await;
        match &outcome {
            Outcome::NotDelivered { .. } => self.misses.fetch_add(1, Ordering::Relaxed),
            _ => self.misses.swap(0, Ordering::Relaxed),
        };
        if let Err(error) = receipt.settle(outcome).await {
            tracing::warn!(target: "mortise::events", plugin = %self.plugin, event = event.seq, %error, "how a delivery went is not kept; it comes once more");
        }
    }

    async fn call(&self, event: &Event, attempt: u32) -> Outcome {
        let missed = |why: String| Outcome::NotDelivered {
            why,
            wait: patience(self.misses.load(Ordering::Relaxed)),
        };
        // What is pending, or replayed, may be of earlier terms: its bytes are another message's.
        let topic = &event.content.topic;
        if !self.pattern.matches(topic) {
            let now = &self.entry.topic;
            return Outcome::Never(format!(
                "it is of topic `{topic}`, and the subscription is about `{now}` now"
            ));
        }
        let headers = self.headers(event, attempt);
        let target = match self.target(topic, &headers) {
            Ok(target) => target,
            Err(error) => return missed(error.to_string()),
        };
        let content = &event.content;
        let origin = Origin {
            deadline: None,
            traceparent: content.traceparent.as_str().into(),
            metadata: headers.into(),
            depth: content.depth,
            caller: content.publisher.as_str().into(),
            ..Origin::default()
        };
        let (error, got_in) = match call::attempt(&target, content.payload.clone(), origin).await {
            Ok(_) => return Outcome::Done,
            Err(Failed::Outside(error)) => (error, false),
            Err(Failed::Inside(error)) => (error, true),
        };
        let said = error.to_string();
        let why = match call::serving(&target.address) {
            Ok(generation) => generation.services.fit(&said),
            // Whose secrets to look for is not known any more.
            Err(gone) if got_in => format!("it failed, and then: {gone}"),
            Err(_) => said,
        };
        match error.kind() {
            // It did not get in: the plugin is down, on its way out, or has its hands full.
            CallErrorKind::Unavailable
            | CallErrorKind::Draining
            | CallErrorKind::NotFound
            | CallErrorKind::Cancelled => missed(why),
            CallErrorKind::Deadline if !got_in => missed(why),
            // One that is too large never gets in: it counts, and ends.
            CallErrorKind::Exhausted if !got_in && error.retry() != Retry::Never => missed(why),
            // The plugin says that these bytes will never do.
            CallErrorKind::Returned if error.status().kind() == Code::InvalidArgument => Outcome::Never(why),
            CallErrorKind::Incompatible | CallErrorKind::Malformed => Outcome::Never(why),
            _ => Outcome::Failed(why),
        }
    }

    /// The version of the plugin that is called.
    fn target(&self, topic: &str, headers: &[Header]) -> Result<Arc<Target>, CallError> {
        let down = |why: String| CallError::new(CallErrorKind::Unavailable, why);
        let shared = self
            .shared
            .upgrade()
            .ok_or_else(|| down("the host is shutting down".to_owned()))?;
        let table = shared.table.load();
        let method = &self.entry.method;
        let plain = shared.find(&self.plugin).ok();
        let found = plain.and_then(|it| table.of_plugin(&it, method, headers).cloned());
        let found = match found {
            Some(found) => found,
            None => table
                .resolve(&format!("plugin.{}.{method}", self.plugin), headers)
                .cloned()
                .map_err(|_| down(format!("plugin `{}` does not serve `{method}`", self.plugin)))?,
        };
        if self.is_of(&found.address, topic) {
            return Ok(found);
        }
        let others = shared.all();
        let mut others = others
            .iter()
            .filter(|it| *it.base() == *self.plugin && self.is_of(it, topic));
        others
            .find_map(|it| table.at(it, method).cloned())
            .ok_or_else(|| {
                down(format!(
                    "no version of plugin `{}` that serves has the subscription",
                    self.plugin
                ))
            })
    }

    /// Whether the version at this address has the subscription, for this topic.
    fn is_of(&self, address: &Address, topic: &str) -> bool {
        let status = address.status.load();
        let Some(offer) = &status.offer else { return false };
        let own = &self.entry;
        offer.manifest.subscribes.iter().any(|it| {
            it.group == own.group
                && it.method == own.method
                && it.pattern().is_some_and(|it| it.matches(topic))
        })
    }

    fn headers(&self, event: &Event, attempt: u32) -> Vec<Header> {
        let own = |name: &str, value: String| Header {
            name: format!("{EVENT_HEADERS}{name}"),
            value,
        };
        let mut headers = event.content.headers.clone();
        headers.extend([
            own("id", event.seq.to_string()),
            own("topic", event.content.topic.clone()),
            own("key", event.key()),
            own("attempt", attempt.to_string()),
            own("group", self.entry.group.clone()),
            own("time", event.at_unix_ms().to_string()),
        ]);
        headers
    }
}
