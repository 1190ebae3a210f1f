//! Deliveries to plugins: one task per subscription, for as long as its plugin is loaded.
//!
//! A delivery is a call of the subscription's method at the plugin's plain name, so that routes and a canary choose among its versions, a gate
//! holds it during a swap, and an instance that fails is judged by it. Its deadline is the method's own. Its trace goes on from the publisher's, and
//! it brings headers that say what it is:
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
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use mortise_events::{
    Delivered, Event, EventError, EventErrorKind, Inbox, Outcome, RetryPolicy, SubscriptionTerms,
};
use mortise_manifest::{SubscribeEntry, TopicPattern};
use mortise_runtime::{CallError, CallErrorKind, Retry};
use mortise_wire::{Code, Header};
use tokio::{sync::watch, task::JoinHandle};

use super::{EVENT_HEADERS, patience};
use crate::{
    call::{self, Failed, Origin},
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

    pub(super) async fn ended(self) {
        // It panicked, or the executor ends; nothing runs either way.
        let _ = self.task.await;
    }
}

/// Begins and ends subscriptions as plugins come and go.
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
        let mut gone = Vec::new();
        {
            let mut running = shared.events.running();
            // Under the lock, so that what `Events::stop` takes out is all there is.
            if *shared.closing.borrow() {
                return;
            }
            let is_wanted = |name: &String, it: &Running| {
                wanted
                    .iter()
                    .any(|(wanted, _, entry)| wanted == name && *entry == it.entry)
            };
            let stale: Vec<String> = running
                .iter()
                .filter(|(name, it)| !is_wanted(name, it))
                .map(|(name, _)| name.clone())
                .collect();
            gone.extend(stale.iter().filter_map(|name| running.remove(name)));
            for (name, plugin, entry) in wanted {
                if running.contains_key(&name) || stale.contains(&name) {
                    continue;
                }
                let started = start(&shared, name.clone(), plugin, entry);
                running.extend(started.map(|it| (name, it)));
            }
        }
        let changed = !gone.is_empty();
        for one in &gone {
            one.stop();
        }
        drop(shared);
        for one in gone {
            one.ended().await;
        }
        if changed {
            // Those whose terms are others now.
            rung.mark_changed();
        }
    }
}

/// What plugins that are loaded subscribe to: durable name, plugin, entry.
fn wanted(shared: &Shared) -> Vec<(String, Arc<str>, SubscribeEntry)> {
    let mut wanted: Vec<(String, Arc<str>, SubscribeEntry)> = Vec::new();
    // Plain names come before those of versions beside them, and their word counts.
    let mut addresses = shared.all();
    addresses.sort_by_key(|it| it.is_beside());
    for address in addresses {
        let status = address.status.load();
        let Some(offer) = &status.offer else { continue };
        for entry in &offer.manifest.subscribes {
            let name = format!("{}/{}", address.base(), entry.group);
            if !wanted.iter().any(|(known, ..)| *known == name) {
                wanted.push((name, address.base().into(), entry.clone()));
            }
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
    let task = shared.tokio.spawn(subscriber.run(name, stopped));
    Some(Running { entry, stop, task })
}

impl Subscriber {
    async fn run(self: Arc<Self>, name: String, mut stopped: watch::Receiver<bool>) {
        let stop = stopped.wait_for(|it| *it).map(drop).fuse();
        let mut stop = std::pin::pin!(stop);
        let mut inbox = tokio::select! {
            inbox = self.open(&name) => match inbox {
                Some(inbox) => inbox,
                None => return,
            },
            () = &mut stop => return,
        };
        let most = self.entry.concurrency.max(1) as usize;
        let mut deliveries = FuturesUnordered::new();
        let mut told = Told::default();
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(()) = deliveries.next(), if !deliveries.is_empty() => {}
                next = self.when_somebody_is_there(&mut *inbox), if deliveries.len() < most => match next {
                    Ok(delivered) => {
                        told = Told::default();
                        deliveries.push(self.clone().deliver(delivered));
                    }
                    Err(error) if self.shared.strong_count() == 0 || error.kind() == EventErrorKind::Invalid => break,
                    Err(error) => {
                        if told.is_new(&error) {
                            tracing::warn!(target: "mortise::events", subscription = name, %error, "no deliveries for a moment");
                        }
                        tokio::time::sleep(OPEN_AGAIN).await;
                    }
                },
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

    /// `None`: it can never be opened.
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
        let target = match self.target(&headers) {
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
            contract: None,
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

    fn target(&self, headers: &[Header]) -> Result<Arc<Target>, CallError> {
        let down = |why: String| CallError::new(CallErrorKind::Unavailable, why);
        let shared = self
            .shared
            .upgrade()
            .ok_or_else(|| down("the host is shutting down".to_owned()))?;
        let table = shared.table.load();
        let plain = shared.find(&self.plugin).ok();
        let found = plain.and_then(|it| {
            let found = table.of_plugin(&it, &self.entry.method, headers);
            found.cloned()
        });
        let method = &self.entry.method;
        let others = || {
            table
                .resolve(&format!("plugin.{}.{method}", self.plugin), headers)
                .cloned()
        };
        match found {
            Some(found) => Ok(found),
            None => others().map_err(|_| down(format!("plugin `{}` does not serve `{method}`", self.plugin))),
        }
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
