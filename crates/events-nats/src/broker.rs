//! The broker: the port's questions, asked of the log.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mortise_events::{
    BoxFuture, Broker, DeadLetter, DeadQuery, Event, EventError, Inbox, NewEvent, Published, ReadQuery,
    SubscriptionInfo, SubscriptionTerms, TopicInfo, TopicSchema,
};
use mortise_manifest::{EventsConfig, NatsSettings};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    link::Link,
    slots::{self, Life},
};

/// Longest wait for a subscription's last inbox to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Events in JetStream. Connects when it is first asked, and again by itself whenever a server comes back.
pub struct NatsBroker {
    link: Arc<Link>,
    /// Subscriptions that are open here; the other end is gone when the last of one is.
    open: Mutex<BTreeMap<String, mpsc::Sender<Infallible>>>,
}

impl NatsBroker {
    /// A broker on these servers, within the limits of `config`. Nothing is opened yet; call it where there is a tokio runtime with time and sockets.
    #[must_use]
    pub fn new(settings: NatsSettings, config: EventsConfig) -> Self {
        Self {
            link: Arc::new(Link::new(settings, config)),
            open: Mutex::default(),
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, mpsc::Sender<Infallible>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, subscription: &str) -> bool {
        self.open().get(subscription).is_some_and(|it| !it.is_closed())
    }

    /// Takes a name, as soon as the inbox before it has ended.
    async fn take_name(&self, subscription: &str) -> Result<Life, EventError> {
        let (ended, life) = mpsc::channel(1);
        let until = Instant::now() + ENDS_WITHIN;
        loop {
            let before = {
                let mut open = self.open();
                match open.get(subscription) {
                    Some(before) if !before.is_closed() => before.clone(),
                    _ => {
                        open.insert(subscription.to_owned(), ended);
                        return Ok(Arc::new(life));
                    }
                }
            };
            if tokio::time::timeout_at(until, before.closed()).await.is_err() {
                return Err(EventError::subscription_in_use(subscription));
            }
        }
    }
}

impl Broker for NatsBroker {
    fn describe(&self) -> String {
        format!("nats, {}", self.link.endpoints())
    }

    fn publish(&self, event: NewEvent) -> BoxFuture<'_, Result<Published, EventError>> {
        Box::pin(async move {
            EventError::check_size(event.payload.len(), self.link.config().payload_bytes_max)?;
            self.link.log().await?.publish(&event).await
        })
    }

    fn subscribe(&self, terms: SubscriptionTerms) -> BoxFuture<'_, Result<Box<dyn Inbox>, EventError>> {
        Box::pin(async move {
            let life = self.take_name(&terms.name).await?;
            // Should this fail, `life` goes, and the name is free again.
            slots::open(&self.link, terms, life).await
        })
    }

    fn forget<'a>(&'a self, subscription: &'a str) -> BoxFuture<'a, Result<bool, EventError>> {
        Box::pin(async move {
            // The name is ours until it is forgotten: one that is opened here meanwhile waits, and begins anew.
            let (taken, _held) = mpsc::channel(1);
            {
                let mut open = self.open();
                if open.get(subscription).is_some_and(|it| !it.is_closed()) {
                    return Err(EventError::subscription_in_use(subscription));
                }
                open.insert(subscription.to_owned(), taken);
            }
            self.link.log().await?.forget(subscription).await
        })
    }

    fn subscriptions(&self) -> BoxFuture<'_, Result<Vec<SubscriptionInfo>, EventError>> {
        Box::pin(async move {
            let mut all = self.link.log().await?.subscriptions().await?;
            for one in &mut all {
                one.active |= self.is_open(&one.name);
            }
            Ok(all)
        })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>, EventError>> {
        Box::pin(async move { self.link.log().await?.topics().await })
    }

    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Vec<Event>, EventError>> {
        Box::pin(async move { self.link.log().await?.read(&query).await })
    }

    fn schema<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicSchema>, EventError>> {
        Box::pin(async move { self.link.log().await?.schema(topic).await })
    }

    fn set_schema<'a>(
        &'a self,
        topic: &'a str,
        schema: TopicSchema,
    ) -> BoxFuture<'a, Result<TopicSchema, EventError>> {
        Box::pin(async move { self.link.log().await?.set_schema(topic, schema).await })
    }

    fn dead(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EventError>> {
        Box::pin(async move { self.link.log().await?.letters(&query).await })
    }

    fn replay<'a>(
        &'a self,
        subscription: &'a str,
        letters: &'a [u64],
    ) -> BoxFuture<'a, Result<Vec<u64>, EventError>> {
        Box::pin(async move { self.link.log().await?.replay(subscription, letters).await })
    }

    fn drop_dead<'a>(
        &'a self,
        subscription: &'a str,
        letters: &'a [u64],
    ) -> BoxFuture<'a, Result<Vec<u64>, EventError>> {
        Box::pin(async move { self.link.log().await?.drop_letters(subscription, letters).await })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.link.begin_to_close();
            let ending: Vec<_> = self.open().values().cloned().collect();
            for one in ending {
                let _ = tokio::time::timeout(ENDS_WITHIN, one.closed()).await;
            }
            self.link.close().await;
        })
    }
}

/// Shows where, and no credential.
impl fmt::Debug for NatsBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBroker")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
