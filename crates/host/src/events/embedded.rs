//! Events in the host's own data directory.
//!
//! One thread writes; whoever wants something written hands it over and waits. While it waits for the disk, more gathers, and all of it is the next
//! transaction: many publishers share one sync. One task per open subscription drives its [`Delivery`] machine, asks the writer like everybody else,
//! and is woken by appends, by what was settled and by the clock. So a publisher never waits for a subscriber: what they have in common is the
//! writer, and what a subscription has written is small and bounded by what may be in flight.
//!
//! The file is opened when somebody publishes or subscribes for the first time.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use mortise_events::{
    BoxFuture, Broker, DeadLetter, DeadQuery, Delivered, Event, EventError, EventErrorKind, Inbox, NewEvent,
    Outcome, Published, ReadQuery, Receipt, Settled, SubscriptionInfo, SubscriptionTerms, TopicInfo,
    TopicSchema,
    delivery::{Bounds, Delivery, Next},
    event::unix_ms,
};
use mortise_manifest::EventsConfig;
use mortise_store::{EventLog, LogWrite, StoreError, StoreErrorKind, Survives, Written};
use tokio::{
    sync::{OnceCell, mpsc, oneshot, watch},
    time::Instant,
};

/// Askers that may wait for the writer.
const JOBS_MAX: usize = 1024;
/// Askers that share a transaction.
const BATCH_MAX: usize = 256;
/// Bytes of payloads that share a transaction, about.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Pending events of a subscription that is not ordered.
const PENDING_MAX: u32 = 1024;
/// How often what is old goes.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// A clock that goes so much further than time does is corrected all the time, and no jump.
const SKIP_MIN_MS: u64 = 5000;
/// How long a cursor that passed events of other topics may be ahead of what is kept.
const CURSOR_KEPT_AFTER: Duration = Duration::from_secs(5);
/// Wait after a write that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for a subscription's last inbox to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Wait before an event whose receipt was dropped is delivered again.
const DROPPED_WAIT: Duration = Duration::from_millis(100);

/// Events in a directory.
#[derive(Debug)]
pub(crate) struct Embedded {
    path: PathBuf,
    config: EventsConfig,
    engine: OnceCell<Arc<Engine>>,
}

/// The writer and what its askers share.
#[derive(Debug)]
struct Engine {
    log: EventLog,
    /// `None` after the end.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    open: Mutex<BTreeMap<String, mpsc::UnboundedSender<Vec<u64>>>>,
    /// Whether everything ends.
    ends: watch::Sender<bool>,
}

/// What one asker wants written.
struct Job {
    writes: Vec<LogWrite>,
    survives: Survives,
    reply: oneshot::Sender<Result<Vec<Written>, EventError>>,
}

/// Drives one subscription.
struct Driver {
    engine: Arc<Engine>,
    terms: SubscriptionTerms,
    machine: Delivery,
    out: mpsc::Sender<Delivered>,
    settle: mpsc::UnboundedSender<Word>,
    words: mpsc::UnboundedReceiver<Word>,
    revived: mpsc::UnboundedReceiver<Vec<u64>>,
    newest: watch::Receiver<u64>,
    ends: watch::Receiver<bool>,
    /// Words that came and are not written down.
    heard: VecDeque<Word>,
    /// What could not be written; goes with the next write.
    unwritten: Vec<LogWrite>,
    /// Since when the cursor is ahead of what is kept.
    ahead_since: Option<Instant>,
    chance: RandomState,
}

/// What a receipt says.
struct Word {
    seq: u64,
    outcome: Outcome,
    reply: Option<oneshot::Sender<Result<Settled, EventError>>>,
}

struct Mail {
    deliveries: mpsc::Receiver<Delivered>,
}

struct Slip {
    seq: u64,
    words: mpsc::UnboundedSender<Word>,
    is_settled: bool,
}

// === impl Embedded ===

impl Embedded {
    pub(crate) fn new(path: PathBuf, config: EventsConfig) -> Self {
        Self {
            path,
            config,
            engine: OnceCell::new(),
        }
    }

    async fn engine(&self) -> Result<&Arc<Engine>, EventError> {
        let open = async || {
            let (path, config) = (self.path.clone(), self.config.clone());
            blocking(move || EventLog::open(&path, SystemTime::now(), config))
                .await
                .and_then(Engine::start)
        };
        self.engine.get_or_try_init(open).await
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&EventLog) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, EventError> {
        let log = self.engine().await?.log.clone();
        blocking(move || look(&log)).await
    }

    async fn letters(&self, write: LogWrite) -> Result<Vec<u64>, EventError> {
        match self.engine().await?.write_one(Survives::PowerCut, write).await? {
            Written::Letters(letters) => Ok(letters),
            _ => Ok(Vec::new()),
        }
    }
}

impl Broker for Embedded {
    fn describe(&self) -> String {
        format!("sqlite, {}", self.path.display())
    }

    fn publish(&self, event: NewEvent) -> BoxFuture<'_, Result<Published, EventError>> {
        Box::pin(async move {
            EventError::check_size(event.payload.len(), self.config.payload_bytes_max)?;
            let engine = self.engine().await?;
            match engine
                .write_one(Survives::PowerCut, LogWrite::Append(event))
                .await?
            {
                Written::Appended(published) => Ok(published),
                Written::Refused(refused) => Err(refused),
                _ => Err(out_of_step()),
            }
        })
    }

    fn subscribe(&self, terms: SubscriptionTerms) -> BoxFuture<'_, Result<Box<dyn Inbox>, EventError>> {
        Box::pin(async move { self.engine().await?.subscribe(terms).await })
    }

    fn forget<'a>(&'a self, subscription: &'a str) -> BoxFuture<'a, Result<bool, EventError>> {
        Box::pin(async move {
            let engine = self.engine().await?;
            // The name is ours until it is forgotten: one that is opened meanwhile waits, and begins anew.
            let (taken, _held) = mpsc::unbounded_channel();
            {
                let mut open = engine.open();
                if open.get(subscription).is_some_and(|it| !it.is_closed()) {
                    return Err(EventError::subscription_in_use(subscription));
                }
                open.insert(subscription.to_owned(), taken);
            }
            let write = LogWrite::Forget {
                subscription: subscription.to_owned(),
            };
            let gone = engine.write_one(Survives::PowerCut, write).await?;
            Ok(matches!(gone, Written::Count(1..)))
        })
    }

    fn subscriptions(&self) -> BoxFuture<'_, Result<Vec<SubscriptionInfo>, EventError>> {
        Box::pin(async move {
            let mut all = self.look(EventLog::subscriptions).await?;
            let open = self.engine().await?.open();
            for one in &mut all {
                one.active = open.get(&one.name).is_some_and(|it| !it.is_closed());
            }
            Ok(all)
        })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>, EventError>> {
        Box::pin(self.look(EventLog::topics))
    }

    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Vec<Event>, EventError>> {
        Box::pin(async move {
            let until = Instant::now() + query.wait;
            let mut newest = self.engine().await?.newest.subscribe();
            let ReadQuery { pattern, limit, .. } = query;
            let Some(mut after) = query.after else {
                let events = self.look(move |log| log.newest(pattern.as_ref(), limit)).await?;
                return Ok(events);
            };
            loop {
                let last = *newest.borrow_and_update();
                let pattern = pattern.clone();
                let (events, to) = self
                    .look(move |log| log.read(pattern.as_ref(), after, limit))
                    .await?;
                if !events.is_empty() {
                    return Ok(events);
                }
                let is_at_end = to <= after || to >= last;
                after = to;
                if is_at_end && !matches!(tokio::time::timeout_at(until, newest.changed()).await, Ok(Ok(())))
                {
                    return Ok(events);
                }
            }
        })
    }

    fn schema<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicSchema>, EventError>> {
        let topic = topic.to_owned();
        Box::pin(self.look(move |log| log.schema(&topic)))
    }

    fn set_schema<'a>(
        &'a self,
        topic: &'a str,
        schema: TopicSchema,
    ) -> BoxFuture<'a, Result<TopicSchema, EventError>> {
        Box::pin(async move {
            let topic = topic.to_owned();
            let write = LogWrite::Schema { topic, schema };
            match self.engine().await?.write_one(Survives::PowerCut, write).await? {
                Written::Schema(schema) => Ok(schema),
                Written::Refused(refused) => Err(refused),
                _ => Err(out_of_step()),
            }
        })
    }

    fn dead(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EventError>> {
        Box::pin(self.look(move |log| log.dead(&query)))
    }

    fn replay<'a>(
        &'a self,
        subscription: &'a str,
        letters: &'a [u64],
    ) -> BoxFuture<'a, Result<Vec<u64>, EventError>> {
        Box::pin(async move {
            let revived = self
                .letters(LogWrite::Revive {
                    subscription: subscription.to_owned(),
                    letters: letters.to_vec(),
                })
                .await?;
            if let Some(driver) = self.engine().await?.open().get(subscription) {
                // One that ends just now leaves them to the next.
                let _ = driver.send(revived.clone());
            }
            Ok(revived)
        })
    }

    fn drop_dead<'a>(
        &'a self,
        subscription: &'a str,
        letters: &'a [u64],
    ) -> BoxFuture<'a, Result<Vec<u64>, EventError>> {
        Box::pin(self.letters(LogWrite::DropDead {
            subscription: subscription.to_owned(),
            letters: letters.to_vec(),
        }))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(engine) = self.engine.get() {
                engine.close().await;
            }
        })
    }
}

// === impl Engine ===

impl Engine {
    fn start(log: EventLog) -> Result<Arc<Self>, EventError> {
        let last = log.last().map_err(|error| of_store(&error))?;
        let (jobs, inbox) = mpsc::channel(JOBS_MAX);
        let newest = watch::Sender::new(last);
        let (of_writer, bell) = (log.clone(), newest.clone());
        let thread = std::thread::Builder::new()
            .name("mortise-events".to_owned())
            .spawn(move || write_jobs(&of_writer, inbox, &bell))
            .map_err(|error| {
                let message = format!("the thread that writes events cannot be started: {error}");
                EventError::new(EventErrorKind::Storage, message, "check the limit of threads")
            })?;
        let engine = Arc::new(Self {
            log,
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            newest,
            open: Mutex::default(),
            ends: watch::Sender::new(false),
        });
        tokio::spawn(prune_now_and_then(Arc::downgrade(&engine)));
        Ok(engine)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, mpsc::UnboundedSender<Vec<u64>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_one(&self, survives: Survives, write: LogWrite) -> Result<Written, EventError> {
        let mut written = self.write(survives, vec![write]).await?;
        written.pop().ok_or_else(out_of_step)
    }

    /// Hands over what is to be written, and waits until it is.
    async fn write(&self, survives: Survives, writes: Vec<LogWrite>) -> Result<Vec<Written>, EventError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (reply, written) = oneshot::channel();
        let job = Job {
            writes,
            survives,
            reply,
        };
        let Some(jobs) = jobs else { return Err(closed()) };
        jobs.send(job).await.map_err(|_| closed())?;
        drop(jobs);
        written.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn subscribe(self: &Arc<Self>, terms: SubscriptionTerms) -> Result<Box<dyn Inbox>, EventError> {
        let (revive, revived) = mpsc::unbounded_channel();
        let until = Instant::now() + ENDS_WITHIN;
        loop {
            let before = {
                let mut open = self.open();
                // Under the lock: `close` sets it, and then waits for those that are open.
                if *self.ends.borrow() {
                    return Err(closed());
                }
                match open.get(&terms.name) {
                    Some(before) if !before.is_closed() => before.clone(),
                    _ => {
                        open.insert(terms.name.clone(), revive);
                        break;
                    }
                }
            };
            if tokio::time::timeout_at(until, before.closed()).await.is_err() {
                return Err(EventError::subscription_in_use(&terms.name));
            }
        }
        let write = LogWrite::Subscribe {
            name: terms.name.clone(),
            pattern: terms.pattern.clone(),
            from: terms.from,
        };
        // Should this fail, `revived` goes, and the name is free again.
        let Written::Subscribed { cursor, pending } = self.write_one(Survives::PowerCut, write).await? else {
            return Err(out_of_step());
        };
        let bounds = match terms.ordered {
            true => Bounds::ordered(terms.retry),
            false => Bounds {
                retry: terms.retry,
                concurrency: terms.concurrency,
                pending_max: PENDING_MAX.max(terms.concurrency),
            },
        };
        let (machine, cut_off) = Delivery::resume(bounds, cursor, pending, now_ms());
        let (out, deliveries) = mpsc::channel(terms.concurrency.max(1) as usize);
        let (settle, words) = mpsc::unbounded_channel();
        let cut_off = cut_off.into_iter().map(|(seq, next)| LogWrite::Settle {
            subscription: terms.name.clone(),
            seq,
            next,
            why: "the host ended during the delivery".to_owned(),
        });
        let driver = Driver {
            engine: self.clone(),
            unwritten: cut_off.collect(),
            terms,
            machine,
            out,
            settle,
            words,
            revived,
            newest: self.newest.subscribe(),
            ends: self.ends.subscribe(),
            heard: VecDeque::new(),
            ahead_since: None,
            chance: RandomState::new(),
        };
        tokio::spawn(driver.run());
        Ok(Box::new(Mail { deliveries }))
    }

    async fn close(&self) {
        let waiting: Vec<_> = {
            let open = self.open();
            self.ends.send_replace(true);
            open.values().cloned().collect()
        };
        for driver in waiting {
            let _ = tokio::time::timeout(ENDS_WITHIN, driver.closed()).await;
        }
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// The writer: one transaction per batch, and one sync for all publishers in it.
fn write_jobs(log: &EventLog, mut inbox: mpsc::Receiver<Job>, newest: &watch::Sender<u64>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut bytes = size(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(next) = inbox.try_recv()
        {
            bytes += size(&next);
            batch.push(next);
        }
        let survives = match batch.iter().any(|it| it.survives == Survives::PowerCut) {
            true => Survives::PowerCut,
            false => Survives::Crash,
        };
        let mut writes = Vec::new();
        let mut askers = Vec::with_capacity(batch.len());
        for job in batch {
            askers.push((job.writes.len(), job.reply));
            writes.extend(job.writes);
        }
        match log.write(SystemTime::now(), survives, &writes) {
            Ok(written) => {
                let seqs = written.iter().filter_map(|it| match it {
                    Written::Appended(it) if !it.duplicate => Some(it.seq),
                    _ => None,
                });
                let last = seqs.max();
                let mut written = written.into_iter();
                for (count, reply) in askers {
                    let _ = reply.send(Ok(written.by_ref().take(count).collect()));
                }
                if let Some(last) = last {
                    newest.send_replace(last);
                }
            }
            Err(error) => {
                let error = of_store(&error);
                for (_, reply) in askers {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

fn size(job: &Job) -> usize {
    let payload = |it: &LogWrite| match it {
        LogWrite::Append(event) => event.payload.len(),
        _ => 0,
    };
    job.writes.iter().map(payload).sum()
}

async fn prune_now_and_then(engine: Weak<Engine>) {
    let (mut last, mut last_time) = (Instant::now(), now_ms());
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        let Some(engine) = engine.upgrade() else { return };
        let (now, time) = (Instant::now(), now_ms());
        let passed = i64::try_from(now.duration_since(last).as_millis()).unwrap_or(i64::MAX);
        let mut skipped_ms = time
            .cast_signed()
            .wrapping_sub(last_time.cast_signed())
            .saturating_sub(passed);
        (last, last_time) = (now, time);
        if skipped_ms.unsigned_abs() < SKIP_MIN_MS {
            skipped_ms = 0;
        }
        let active = || -> Vec<String> {
            let open = engine.open();
            let open = open.iter().filter(|(_, it)| !it.is_closed());
            open.map(|(name, _)| name.clone()).collect()
        };
        loop {
            let prune = LogWrite::Prune {
                active: active(),
                skipped_ms: std::mem::take(&mut skipped_ms),
            };
            match engine.write_one(Survives::Crash, prune).await {
                Ok(Written::Pruned { events, forgotten }) => {
                    for subscription in forgotten {
                        tracing::warn!(target: "mortise::events", subscription, "a subscription that nobody opened for so long is forgotten, with what it has not had and its dead letters");
                    }
                    if events == 0 {
                        break;
                    }
                }
                Ok(_) => break,
                Err(error) if error.kind() == EventErrorKind::Unavailable => return,
                Err(error) => {
                    tracing::warn!(target: "mortise::events", %error, "old events stay for now");
                    break;
                }
            }
        }
    }
}

// === impl Driver ===

impl Driver {
    async fn run(mut self) {
        while !self.out.is_closed() && !*self.ends.borrow() {
            let again = self.turn().await;
            if again.is_some_and(|it| it.is_zero()) {
                continue;
            }
            self.rest(again).await;
        }
        self.end().await;
    }

    /// Writes down what was heard and what begins, and hands out what began. How long to rest at most; zero: there may be more at once.
    async fn turn(&mut self) -> Option<Duration> {
        while let Ok(word) = self.words.try_recv() {
            self.heard.push_back(word);
        }
        while let Ok(letters) = self.revived.try_recv() {
            self.machine.revive(letters, now_ms());
        }
        let mut writes = std::mem::take(&mut self.unwritten);
        let mut replies = Vec::new();
        while let Some(word) = self.heard.pop_front() {
            let (write, settled) = self.settle(&word);
            writes.push(write);
            replies.extend(word.reply.map(|it| (it, settled)));
        }
        let settlements = writes.len();
        let planned = self.plan().await;
        let (starts, events, cursor) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                self.unwritten = writes;
                self.complain(&error);
                replies
                    .into_iter()
                    .for_each(|(reply, _)| drop(reply.send(Err(error.clone()))));
                return Some(WRITE_AGAIN);
            }
        };
        let moved = cursor > self.machine.cursor();
        let is_late = self
            .ahead_since
            .is_some_and(|it| it.elapsed() >= CURSOR_KEPT_AFTER);
        if !starts.is_empty() || is_late {
            writes.push(LogWrite::Begin {
                subscription: self.terms.name.clone(),
                cursor,
                starts: starts.clone(),
            });
        }
        let begins = writes.len() > settlements;
        if !writes.is_empty() {
            let kept = writes[..settlements].to_vec();
            if let Err(error) = self.engine.write(Survives::Crash, writes).await {
                self.unwritten = kept;
                self.complain(&error);
                replies
                    .into_iter()
                    .for_each(|(reply, _)| drop(reply.send(Err(error.clone()))));
                return Some(WRITE_AGAIN);
            }
        }
        for (reply, settled) in replies {
            let _ = reply.send(Ok(settled));
        }
        self.machine.begin(&starts, cursor);
        self.ahead_since = match begins {
            true => None,
            false if moved => self.ahead_since.or_else(|| Some(Instant::now())),
            false => self.ahead_since,
        };
        for (start, event) in starts.iter().zip(events) {
            let slip = Slip {
                seq: start.seq,
                words: self.settle.clone(),
                is_settled: false,
            };
            let delivered = Delivered {
                event: Arc::new(event),
                attempt: start.attempt,
                receipt: Box::new(slip),
            };
            // There is room: no more are in flight than it holds. If nobody reads any more, the slip says so.
            let _ = self.out.try_send(delivered);
        }
        (moved || !starts.is_empty()).then_some(Duration::ZERO)
    }

    /// What begins next, with the events, and where the cursor is then.
    async fn plan(&mut self) -> Result<(Vec<mortise_events::delivery::Start>, Vec<Event>, u64), EventError> {
        let mut starts = self.machine.plan_due(now_ms());
        let mut cursor = self.machine.cursor();
        let room = u32::try_from(self.machine.room(starts.len())).unwrap_or(u32::MAX);
        let looks = room > 0 && cursor < *self.newest.borrow_and_update();
        if starts.is_empty() && !looks {
            return Ok((starts, Vec::new(), cursor));
        }
        let (log, pattern) = (self.engine.log.clone(), self.terms.pattern.clone());
        let due: Vec<u64> = starts.iter().map(|it| it.seq).collect();
        let (again, fresh) = blocking(move || {
            let again = log.events(&due)?;
            let fresh = match looks {
                true => log.read(Some(&pattern), cursor, room)?,
                false => (Vec::new(), cursor),
            };
            Ok((again, fresh))
        })
        .await?;
        let (fresh, to) = fresh;
        cursor = cursor.max(to);
        // One that is gone was pruned by somebody else's hand; there is nothing left to deliver.
        for gone in starts.extract_if(.., |it| !again.iter().any(|event| event.seq == it.seq)) {
            tracing::error!(target: "mortise::events", subscription = %self.terms.name, event = gone.seq, "a pending event is not in the log any more");
            self.unwritten.push(LogWrite::Settle {
                subscription: self.terms.name.clone(),
                seq: gone.seq,
                next: Next::Settled,
                why: String::new(),
            });
            self.machine.begin(&[gone], self.machine.cursor());
            let _settled = self.machine.settle(gone.seq, &Outcome::Done, 0, 0.0);
        }
        starts.extend(fresh.iter().map(|it| mortise_events::delivery::Start {
            seq: it.seq,
            attempt: 1,
        }));
        Ok((starts, again.into_iter().chain(fresh).collect(), cursor))
    }

    /// What is written of a word, and what its speaker hears.
    fn settle(&mut self, word: &Word) -> (LogWrite, Settled) {
        let now = now_ms();
        let chance = self.chance.hash_one((word.seq, now)) as f64 / u64::MAX as f64;
        let next = self.machine.settle(word.seq, &word.outcome, now, chance);
        let why = match &word.outcome {
            Outcome::Done => String::new(),
            Outcome::Failed(why) | Outcome::Never(why) | Outcome::NotDelivered { why, .. } => why.clone(),
        };
        let settled = match next {
            Next::Settled => Settled::Done,
            Next::Again(kept) => Settled::Again(Duration::from_millis(
                kept.due_ms.unwrap_or(now).saturating_sub(now),
            )),
            Next::Dead { attempts } => {
                tracing::warn!(target: "mortise::events", subscription = %self.terms.name, event = word.seq, attempts, %why, "an event is a dead letter");
                Settled::Dead
            }
        };
        let write = LogWrite::Settle {
            subscription: self.terms.name.clone(),
            seq: word.seq,
            next,
            why,
        };
        (write, settled)
    }

    /// Waits for something to do.
    async fn rest(&mut self, most: Option<Duration>) {
        let now = now_ms();
        let due = self
            .machine
            .next_due()
            .map(|due| Duration::from_millis(due.saturating_sub(now).max(1)));
        let kept = self
            .ahead_since
            .map(|it| CURSOR_KEPT_AFTER.saturating_sub(it.elapsed()));
        let failed = most.is_some();
        let rest = [most, due.filter(|_| !failed), kept.filter(|_| !failed)]
            .into_iter()
            .flatten()
            .min();
        let has_room = !failed && self.machine.room(0) > 0;
        tokio::select! {
            () = self.out.closed() => {}
            _ = self.ends.wait_for(|it| *it) => {}
            word = self.words.recv() => self.heard.extend(word),
            letters = self.revived.recv() => {
                self.machine.revive(letters.into_iter().flatten(), now_ms());
            }
            _ = self.newest.changed(), if has_room => {}
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {}
        }
    }

    /// What is in flight did not get there, as far as anybody knows.
    async fn end(mut self) {
        while let Ok(word) = self.words.try_recv() {
            self.heard.push_back(word);
        }
        let mut writes = std::mem::take(&mut self.unwritten);
        while let Some(word) = self.heard.pop_front() {
            let (write, settled) = self.settle(&word);
            writes.push(write);
            if let Some(reply) = word.reply {
                let _ = reply.send(Ok(settled));
            }
        }
        for seq in self.machine.flying().collect::<Vec<_>>() {
            let word = Word {
                seq,
                outcome: dropped(Duration::ZERO),
                reply: None,
            };
            writes.push(self.settle(&word).0);
        }
        if self.ahead_since.is_some() {
            writes.push(LogWrite::Begin {
                subscription: self.terms.name.clone(),
                cursor: self.machine.cursor(),
                starts: Vec::new(),
            });
        }
        if !writes.is_empty()
            && let Err(error) = self.engine.write(Survives::Crash, writes).await
        {
            self.complain(&error);
        }
    }

    fn complain(&self, error: &EventError) {
        tracing::error!(target: "mortise::events", subscription = %self.terms.name, %error, hint = error.hint(), "deliveries wait for the disk");
    }
}

impl Inbox for Mail {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivered, EventError>> {
        Box::pin(async move { self.deliveries.recv().await.ok_or_else(closed) })
    }
}

impl Receipt for Slip {
    fn settle(mut self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<Settled, EventError>> {
        self.is_settled = true;
        let (reply, settled) = oneshot::channel();
        let word = Word {
            seq: self.seq,
            outcome,
            reply: Some(reply),
        };
        let said = self.words.send(word);
        Box::pin(async move {
            said.map_err(|_| closed())?;
            settled.await.unwrap_or_else(|_| Err(closed()))
        })
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        if !self.is_settled {
            // Nobody hears it after the end, which says the same of all that is in flight.
            let _ = self.words.send(Word {
                seq: self.seq,
                outcome: dropped(DROPPED_WAIT),
                reply: None,
            });
        }
    }
}

// === words ===

fn dropped(wait: Duration) -> Outcome {
    Outcome::NotDelivered {
        why: "the delivery was given up".to_owned(),
        wait,
    }
}

fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, EventError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| of_store(&error)),
        Err(_) => Err(closed()),
    }
}

fn of_store(error: &StoreError) -> EventError {
    let kind = match error.kind() {
        StoreErrorKind::DiskFull => EventErrorKind::Full,
        _ => EventErrorKind::Storage,
    };
    EventError::new(kind, error.to_string(), error.hint())
}

fn closed() -> EventError {
    EventError::new(
        EventErrorKind::Unavailable,
        "the host is shutting down",
        "publish again when it is back, with the same key",
    )
}

fn out_of_step() -> EventError {
    EventError::new(
        EventErrorKind::Storage,
        "the log of events answered something else",
        "report it",
    )
}
