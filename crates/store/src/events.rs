//! The log of events, and what of it each subscription has had: a SQLite file of its own, so that events and the journal do not wait for each other's
//! syncs.
//!
//! Everything is written by [`EventLog::write`], which puts what several askers want into one transaction. What a publisher is answered survives a
//! power cut; what is written of deliveries survives the end of the host, and if a power cut takes it, events are delivered once more, never less.
//!
//! Invariants
//! - E1: an event is there as long as a subscription has not settled it or a dead letter refers to it, whatever its age.
//! - E2: `usage` equals the sum of the events' bytes, because both change in one transaction.
//! - E3: a cursor and the pending events that it passed change in one transaction, so none is between the two.
//! - E4: a refused append changes nothing, and does not touch what stands beside it in the transaction.

use std::{path::Path, time::SystemTime};

use bytes::Bytes;
use mortise_events::{
    DeadLetter, DeadQuery, Event, EventError, EventErrorKind, NewEvent, Published, SubscriptionInfo,
    TopicInfo, TopicSchema,
    delivery::{Kept, Next, Start},
    event::{of_unix_ms, unix_ms},
};
use mortise_manifest::{EventsConfig, SubscribeFrom, TopicPattern};
use mortise_wire::CallHead;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::{
    StoreError, Survives,
    database::{Database, EVENTS, Link, WorkError},
};

/// What a row costs beside what is in it.
const ROW_BYTES: u64 = 64;
/// Rows that are looked at, at once, for a pattern.
const SCAN_MAX: u32 = 1024;
/// Events that go in one transaction when their time is over.
const PRUNE_MAX: u32 = 512;
/// Topics that there may be. What they carry is kept for good, so a topic for each event would fill the disk.
const TOPICS_MAX: u64 = 4096;
/// Bytes of descriptors that are kept for them.
const SCHEMAS_BYTES_MAX: u64 = 256 << 20;
/// Payloads that one look takes, about.
const LOOK_BYTES_MAX: usize = 16 << 20;
/// A subscription nobody opened for so many times the retention is forgotten.
const FORGET_AFTER: u32 = 7;

/// Events and subscriptions. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct EventLog {
    writer: Link,
    reader: Link,
    /// For people's questions, which may walk the whole log: deliveries do not wait for them.
    asker: Link,
    config: EventsConfig,
}

/// Something to write.
#[derive(Clone, Debug)]
pub enum LogWrite {
    /// Keep an event.
    Append(NewEvent),
    /// Begin a subscription, or go on with it.
    Subscribe {
        /// Its name.
        name: String,
        /// Which topics.
        pattern: TopicPattern,
        /// Where it begins.
        from: SubscribeFrom,
    },
    /// Attempts begin.
    Begin {
        /// Whose.
        subscription: String,
        /// Everything up to here was begun.
        cursor: u64,
        /// The attempts.
        starts: Vec<Start>,
    },
    /// An attempt ended.
    Settle {
        /// Whose.
        subscription: String,
        /// The event.
        seq: u64,
        /// What becomes of it.
        next: Next,
        /// Why.
        why: String,
    },
    /// Dead letters are delivered again; none named: all.
    Revive {
        /// Whose.
        subscription: String,
        /// Which.
        letters: Vec<u64>,
    },
    /// Dead letters are dropped; none named: all.
    DropDead {
        /// Whose.
        subscription: String,
        /// Which.
        letters: Vec<u64>,
    },
    /// What a topic's events are, unless that is known.
    Schema {
        /// The topic.
        topic: String,
        /// What its events are.
        schema: TopicSchema,
    },
    /// Everything about a subscription goes.
    Forget {
        /// Which.
        subscription: String,
    },
    /// Time went by: what is old goes. `active` are seen now.
    Prune {
        /// Subscriptions that are open.
        active: Vec<String>,
        /// Milliseconds that the clock went further than time did. In them nobody could be seen.
        skipped_ms: i64,
    },
}

/// What was written.
#[derive(Clone, Debug)]
pub enum Written {
    /// The event is kept.
    Appended(Published),
    /// It is not.
    Refused(EventError),
    /// Where the subscription stands.
    Subscribed {
        /// Its cursor.
        cursor: u64,
        /// What is pending.
        pending: Vec<Kept>,
    },
    /// The dead letters that it was about.
    Letters(Vec<u64>),
    /// What the topic's events are.
    Schema(TopicSchema),
    /// How much it was: dead letters that made room, rows that went.
    Count(u64),
    /// What went for its age.
    Pruned {
        /// Events.
        events: u64,
        /// Subscriptions that nobody opened for so long.
        forgotten: Vec<String>,
    },
}

/// One transaction at work.
struct Work<'a> {
    db: &'a Transaction<'a>,
    config: &'a EventsConfig,
    now_ms: u64,
}

// === impl EventLog ===

impl EventLog {
    /// Opens or makes the file. The time since it was written last does not count for subscriptions: while nobody had it open, nobody could be seen.
    ///
    /// # Errors
    /// What the disk says; `Corrupt`, `TooNew`.
    pub fn open(path: &Path, at: SystemTime, config: EventsConfig) -> Result<Self, StoreError> {
        let database = Database::open(path, EVENTS)?;
        let writer = database.first();
        writer.write_to_survive(Survives::Crash, "write to", |db| {
            let last: Option<i64> =
                db.query_row("SELECT max(seen_ms) FROM subscriptions", [], |row| row.get(0))?;
            let off = last.map_or(0, |last| signed(unix_ms(at)).saturating_sub(last));
            see_later(db, off)
        })?;
        Ok(Self {
            reader: database.connect()?,
            asker: database.connect()?,
            writer,
            config,
        })
    }

    /// Its limits.
    #[must_use]
    pub fn config(&self) -> &EventsConfig {
        &self.config
    }

    /// Writes all of it in one transaction. An append that is refused is told in its place and keeps nothing from the others.
    ///
    /// # Errors
    /// What the disk says; nothing is written then.
    pub fn write(
        &self,
        at: SystemTime,
        survives: Survives,
        writes: &[LogWrite],
    ) -> Result<Vec<Written>, StoreError> {
        let now_ms = unix_ms(at);
        self.writer.write_to_survive(survives, "write to", |db| {
            let work = Work {
                db,
                config: &self.config,
                now_ms,
            };
            writes.iter().map(|it| work.one(it)).collect()
        })
    }

    /// Events after `after` that a pattern means, at most `limit`, and how far the log was looked at: everything up to there that is meant is in the
    /// answer.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read(
        &self,
        pattern: Option<&TopicPattern>,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<Event>, u64), StoreError> {
        self.reader.read("read", |db| {
            // What is appended after this look may be in the answer, and is looked at again.
            let last = last_seq(db)?;
            if let Some(topic) = pattern.filter(|it| it.is_topic()) {
                let mut found = db.prepare_cached(
                    "SELECT * FROM events WHERE topic = ? AND seq > ? ORDER BY seq LIMIT ?",
                )?;
                let mut rows = found.query(params![topic.as_str(), signed(after), limit])?;
                let mut events = Look::up_to(limit);
                while events.has_room()
                    && let Some(row) = rows.next()?
                {
                    events.push(event_of(row)?);
                }
                let whole = events.has_room();
                let events = events.taken;
                let to = events.last().map_or(after, |it| it.seq);
                return Ok((events, if whole { to.max(last) } else { to }));
            }
            let mut rows =
                db.prepare_cached("SELECT seq, topic FROM events WHERE seq > ? ORDER BY seq LIMIT ?")?;
            let mut rows = rows.query(params![signed(after), SCAN_MAX])?;
            let mut one = db.prepare_cached("SELECT * FROM events WHERE seq = ?")?;
            let (mut events, mut to) = (Look::up_to(limit), after);
            while events.has_room()
                && let Some(row) = rows.next()?
            {
                let seq: i64 = row.get(0)?;
                let topic = row.get_ref(1)?.as_str().unwrap_or_default();
                if pattern.is_none_or(|it| it.matches(topic)) {
                    events.push(one.query_row([seq], event_of)?);
                }
                to = unsigned(seq);
            }
            Ok((events.taken, to))
        })
    }

    /// The newest events that a pattern means, in the log's order.
    ///
    /// # Errors
    /// What the disk says.
    pub fn newest(&self, pattern: Option<&TopicPattern>, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.asker.read("read", |db| {
            let mut seqs: Vec<i64> = Vec::new();
            match pattern {
                None => {
                    let mut newest = db.prepare_cached("SELECT seq FROM events ORDER BY seq DESC LIMIT ?")?;
                    let mut rows = newest.query([limit])?;
                    while let Some(row) = rows.next()? {
                        seqs.push(row.get(0)?);
                    }
                }
                // By topic, and not by walking back: what is rare may be far behind.
                Some(pattern) => {
                    let mut newest = db
                        .prepare_cached("SELECT seq FROM events WHERE topic = ? ORDER BY seq DESC LIMIT ?")?;
                    for topic in topics_in(db)?.iter().filter(|it| pattern.matches(it)) {
                        let mut rows = newest.query(params![topic, limit])?;
                        while let Some(row) = rows.next()? {
                            seqs.push(row.get(0)?);
                        }
                    }
                    seqs.sort_unstable_by(|one, other| other.cmp(one));
                    seqs.truncate(limit as usize);
                }
            }
            let mut one = db.prepare_cached("SELECT * FROM events WHERE seq = ?")?;
            let mut events = Look::up_to(limit);
            for seq in seqs {
                if !events.has_room() {
                    break;
                }
                events.push(one.query_row([seq], event_of)?);
            }
            events.taken.reverse();
            Ok(events.taken)
        })
    }

    /// The events with these numbers that are there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn events(&self, seqs: &[u64]) -> Result<Vec<Event>, StoreError> {
        self.reader.read("read", |db| {
            let mut one = db.prepare_cached("SELECT * FROM events WHERE seq = ?")?;
            let mut events = Vec::with_capacity(seqs.len());
            for seq in seqs {
                events.extend(one.query_row([signed(*seq)], event_of).optional()?);
            }
            Ok(events)
        })
    }

    /// The number of the newest event there ever was.
    ///
    /// # Errors
    /// What the disk says.
    pub fn last(&self) -> Result<u64, StoreError> {
        self.reader.read("read", last_seq)
    }

    /// What a topic's events are.
    ///
    /// # Errors
    /// What the disk says.
    pub fn schema(&self, topic: &str) -> Result<Option<TopicSchema>, StoreError> {
        self.reader.read("read", |db| schema_in(db, topic))
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// What the disk says.
    pub fn topics(&self) -> Result<Vec<TopicInfo>, StoreError> {
        self.asker.read("read", |db| {
            let mut found = db.prepare_cached(
                "SELECT names.topic, COALESCE(schemas.type, ''), COALESCE(n, 0), COALESCE(b, 0), COALESCE(newest, 0)
                 FROM (SELECT topic FROM events UNION SELECT topic FROM schemas) AS names
                 LEFT JOIN schemas ON schemas.topic = names.topic
                 LEFT JOIN (SELECT topic, count(*) AS n, sum(bytes) AS b, max(at_ms) AS newest FROM events GROUP BY topic) AS kept
                   ON kept.topic = names.topic
                 ORDER BY names.topic",
            )?;
            let topic = |row: &Row<'_>| {
                Ok(TopicInfo {
                    topic: row.get(0)?,
                    type_name: row.get(1)?,
                    events: unsigned(row.get(2)?),
                    bytes: unsigned(row.get(3)?),
                    newest_unix_ms: unsigned(row.get(4)?),
                })
            };
            found.query_map([], topic)?.collect()
        })
    }

    /// All subscriptions, by name; none is said to be active.
    ///
    /// # Errors
    /// What the disk says.
    pub fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>, StoreError> {
        self.asker.read("read", |db| {
            let topics = topics_in(db)?;
            let mut found = db.prepare_cached(
                "SELECT name, pattern, cursor, dead_dropped,
                   (SELECT count(*) FROM pending WHERE subscription = name), (SELECT count(*) FROM dead WHERE subscription = name)
                 FROM subscriptions ORDER BY name",
            )?;
            let mut rows = found.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let (pattern, cursor): (String, i64) = (row.get(1)?, row.get(2)?);
                let behind = behind(db, &topics, &pattern, cursor)?;
                all.push(SubscriptionInfo {
                    name: row.get(0)?,
                    pattern,
                    active: false,
                    cursor: unsigned(cursor),
                    behind,
                    pending: unsigned(row.get(4)?),
                    dead: unsigned(row.get(5)?),
                    dead_dropped: unsigned(row.get(3)?),
                });
            }
            Ok(all)
        })
    }

    /// Dead letters, oldest first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn dead(&self, query: &DeadQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.asker.read("read", |db| {
            // In this order, and not the other way round: there are few dead letters and many events.
            let mut found = db.prepare_cached(
                "SELECT events.*, dead.subscription, dead.attempts, dead.at_ms, dead.why FROM dead CROSS JOIN events USING (seq)
                 WHERE (?1 IS NULL OR dead.subscription = ?1) AND (?2 IS NULL OR dead.seq = ?2)
                 ORDER BY dead.seq, dead.subscription LIMIT ?3",
            )?;
            let letter = |row: &Row<'_>| -> rusqlite::Result<DeadLetter> {
                let event = event_of(row)?;
                Ok(DeadLetter {
                    subscription: row.get(8)?,
                    letter: event.seq,
                    event,
                    attempts: row.get(9)?,
                    at_unix_ms: unsigned(row.get(10)?),
                    why: row.get(11)?,
                })
            };
            let seq = query.seq.map(signed);
            let mut rows = found.query(params![query.subscription, seq, query.limit])?;
            let (mut letters, mut bytes) = (Vec::new(), 0);
            while bytes < LOOK_BYTES_MAX
                && let Some(row) = rows.next()?
            {
                let letter = letter(row)?;
                bytes += letter.event.content.payload.len();
                letters.push(letter);
            }
            Ok(letters)
        })
    }
}

// === impl Work ===

impl Work<'_> {
    fn one(&self, write: &LogWrite) -> Result<Written, WorkError> {
        Ok(match write {
            LogWrite::Append(event) => match self.append(event)? {
                Ok(published) => Written::Appended(published),
                Err(refused) => Written::Refused(refused),
            },
            LogWrite::Subscribe { name, pattern, from } => self.subscribe(name, pattern, *from)?,
            LogWrite::Begin {
                subscription,
                cursor,
                starts,
            } => {
                self.begin(subscription, *cursor, starts)?;
                Written::Count(0)
            }
            LogWrite::Settle {
                subscription,
                seq,
                next,
                why,
            } => Written::Count(self.settle(subscription, *seq, next, why)?),
            LogWrite::Revive {
                subscription,
                letters,
            } => {
                let letters = self.take_dead(subscription, letters)?;
                for seq in &letters {
                    self.keep(
                        subscription,
                        Kept {
                            seq: *seq,
                            attempts: 0,
                            due_ms: Some(self.now_ms),
                        },
                    )?;
                }
                Written::Letters(letters)
            }
            LogWrite::DropDead {
                subscription,
                letters,
            } => Written::Letters(self.take_dead(subscription, letters)?),
            LogWrite::Schema { topic, schema } => match schema_in(self.db, topic)? {
                Some(known) => Written::Schema(known),
                None => self.begin_topic(topic, schema)?,
            },
            LogWrite::Forget { subscription } => Written::Count(self.forget(subscription)?),
            LogWrite::Prune { active, skipped_ms } => self.prune(active, *skipped_ms)?,
        })
    }

    fn begin_topic(&self, topic: &str, schema: &TopicSchema) -> Result<Written, WorkError> {
        let (topics, bytes): (i64, i64) = self
            .db
            .prepare_cached("SELECT count(*), COALESCE(sum(length(descriptor_set)), 0) FROM schemas")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (topics, bytes) = (unsigned(topics), unsigned(bytes));
        if topics >= TOPICS_MAX || bytes + schema.descriptor_set.len() as u64 > SCHEMAS_BYTES_MAX {
            return Ok(Written::Refused(EventError::new(
                EventErrorKind::Full,
                format!(
                    "topic `{topic}` would be one too many: there are {topics}, and the descriptors of what they carry have {} MiB",
                    bytes >> 20
                ),
                format!(
                    "put what differs from event to event into the message and not into the topic's name; there may be {TOPICS_MAX} topics and {} MiB",
                    SCHEMAS_BYTES_MAX >> 20
                ),
            )));
        }
        self.db
            .prepare_cached("INSERT INTO schemas (topic, type, descriptor_set) VALUES (?, ?, ?)")?
            .execute(params![topic, schema.type_name, &*schema.descriptor_set])?;
        Ok(Written::Schema(schema.clone()))
    }

    fn append(&self, event: &NewEvent) -> Result<Result<Published, EventError>, WorkError> {
        if let Some(key) = &event.key {
            let since = self.now_ms.saturating_sub(millis(self.config.dedup));
            let known: Option<i64> = self
                .db
                .prepare_cached("SELECT seq FROM keys WHERE topic = ? AND key = ? AND at_ms > ?")?
                .query_row(params![event.topic, key, signed(since)], |row| row.get(0))
                .optional()?;
            if let Some(seq) = known {
                return Ok(Ok(Published {
                    seq: unsigned(seq),
                    duplicate: true,
                }));
            }
        }
        let head = CallHead {
            traceparent: event.traceparent.clone(),
            metadata: event.headers.clone(),
            depth: event.depth,
            caller: event.publisher.clone(),
            ..CallHead::default()
        }
        .encode_to_vec();
        let bytes = ROW_BYTES + (head.len() + event.topic.len() + event.payload.len()) as u64;
        if let Err(full) = self.make_room(bytes)? {
            return Ok(Err(full));
        }
        let key = event.key.as_deref().unwrap_or_default();
        self.db
            .prepare_cached(
                "INSERT INTO events (at_ms, topic, type, key, bytes, head, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                signed(self.now_ms),
                event.topic,
                event.type_name,
                key,
                signed(bytes),
                head,
                &*event.payload
            ])?;
        let seq = self.db.last_insert_rowid();
        self.use_bytes(signed(bytes))?;
        if event.key.is_some() {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO keys (topic, key, seq, at_ms) VALUES (?, ?, ?, ?)")?
                .execute(params![event.topic, key, seq, signed(self.now_ms)])?;
        }
        Ok(Ok(Published {
            seq: unsigned(seq),
            duplicate: false,
        }))
    }

    /// Has what everybody is done with go, whatever its age, if there is no room else.
    fn make_room(&self, bytes: u64) -> Result<Result<(), EventError>, WorkError> {
        let most = self.config.log_bytes_max;
        while self.used()? + bytes > most {
            if self.prune_settled(None)? > 0 {
                continue;
            }
            self.pass_over()?;
            if self.prune_settled(None)? == 0 {
                return Ok(Err(self.full(most)?));
            }
        }
        Ok(Ok(()))
    }

    fn full(&self, most: u64) -> Result<EventError, WorkError> {
        let slowest: Option<(String, String, i64)> = self
            .db
            .prepare_cached("SELECT name, pattern, cursor FROM subscriptions ORDER BY cursor LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let behind = match slowest {
            Some((name, pattern, cursor)) => {
                Some((name, behind(self.db, &topics_in(self.db)?, &pattern, cursor)?))
            }
            None => None,
        };
        if let Some((name, behind)) = behind.filter(|(_, behind)| *behind > 0) {
            return Ok(EventError::full_behind(most, &name, behind));
        }
        let message = format!(
            "the log of events is full: it may have {} MiB, and dead letters take the room",
            most >> 20
        );
        let hint = "replay or drop dead letters (`mortise events dead`), or raise `events.log_mib`";
        Ok(EventError::new(EventErrorKind::Full, message, hint))
    }

    fn used(&self) -> Result<u64, WorkError> {
        let bytes = self
            .db
            .prepare_cached("SELECT bytes FROM usage WHERE id = 1")?
            .query_row([], |row| row.get(0))?;
        Ok(unsigned(bytes))
    }

    fn use_bytes(&self, more: i64) -> Result<(), WorkError> {
        self.db
            .prepare_cached("UPDATE usage SET bytes = bytes + ? WHERE id = 1")?
            .execute([more])?;
        Ok(())
    }

    fn subscribe(
        &self,
        name: &str,
        pattern: &TopicPattern,
        from: SubscribeFrom,
    ) -> Result<Written, WorkError> {
        let begin = match from {
            SubscribeFrom::New => last_seq(self.db)?,
            SubscribeFrom::Oldest => 0,
        };
        self.db
            .prepare_cached(
                "INSERT INTO subscriptions (name, pattern, cursor, seen_ms) VALUES (?, ?, ?, ?)
                 ON CONFLICT (name) DO UPDATE SET pattern = excluded.pattern, seen_ms = excluded.seen_ms",
            )?
            .execute(params![
                name,
                pattern.as_str(),
                signed(begin),
                signed(self.now_ms)
            ])?;
        let cursor: i64 = self
            .db
            .prepare_cached("SELECT cursor FROM subscriptions WHERE name = ?")?
            .query_row([name], |row| row.get(0))?;
        let kept = |row: &Row<'_>| {
            Ok(Kept {
                seq: unsigned(row.get(0)?),
                attempts: row.get(1)?,
                due_ms: row.get::<_, Option<i64>>(2)?.map(unsigned),
            })
        };
        let pending = self
            .db
            .prepare_cached("SELECT seq, attempts, due_ms FROM pending WHERE subscription = ?")?
            .query_map([name], kept)?
            .collect::<Result<_, _>>()?;
        Ok(Written::Subscribed {
            cursor: unsigned(cursor),
            pending,
        })
    }

    fn begin(&self, subscription: &str, cursor: u64, starts: &[Start]) -> Result<(), WorkError> {
        self.db
            // It may have been passed over events of other topics meanwhile.
            .prepare_cached("UPDATE subscriptions SET cursor = max(cursor, ?) WHERE name = ?")?
            .execute(params![signed(cursor), subscription])?;
        for start in starts {
            let kept = Kept {
                seq: start.seq,
                attempts: start.attempt,
                due_ms: None,
            };
            self.keep(subscription, kept)?;
        }
        Ok(())
    }

    fn keep(&self, subscription: &str, kept: Kept) -> Result<(), WorkError> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO pending (subscription, seq, attempts, due_ms) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![
                subscription,
                signed(kept.seq),
                kept.attempts,
                kept.due_ms.map(signed)
            ])?;
        Ok(())
    }

    /// How many dead letters made room for this one.
    fn settle(&self, subscription: &str, seq: u64, next: &Next, why: &str) -> Result<u64, WorkError> {
        if let Next::Again(kept) = next {
            self.keep(subscription, *kept)?;
            return Ok(0);
        }
        self.db
            .prepare_cached("DELETE FROM pending WHERE subscription = ? AND seq = ?")?
            .execute(params![subscription, signed(seq)])?;
        let Next::Dead { attempts } = next else {
            return Ok(0);
        };
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO dead (subscription, seq, attempts, at_ms, why) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                subscription,
                signed(seq),
                attempts,
                signed(self.now_ms),
                why
            ])?;
        let dropped = self
            .db
            .prepare_cached(
                "DELETE FROM dead WHERE subscription = ?1 AND seq IN
                   (SELECT seq FROM dead WHERE subscription = ?1 ORDER BY seq DESC LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![subscription, self.config.dead_letters_max])? as u64;
        if dropped > 0 {
            self.db
                .prepare_cached("UPDATE subscriptions SET dead_dropped = dead_dropped + ? WHERE name = ?")?
                .execute(params![signed(dropped), subscription])?;
        }
        Ok(dropped)
    }

    fn take_dead(&self, subscription: &str, letters: &[u64]) -> Result<Vec<u64>, WorkError> {
        let all: Vec<u64> = if letters.is_empty() {
            self.db
                .prepare_cached("SELECT seq FROM dead WHERE subscription = ? ORDER BY seq")?
                .query_map([subscription], |row| row.get(0).map(unsigned))?
                .collect::<Result<_, _>>()?
        } else {
            letters.to_vec()
        };
        let mut delete = self
            .db
            .prepare_cached("DELETE FROM dead WHERE subscription = ? AND seq = ?")?;
        let mut taken = Vec::new();
        for seq in all {
            if delete.execute(params![subscription, signed(seq)])? > 0 {
                taken.push(seq);
            }
        }
        Ok(taken)
    }

    fn forget(&self, subscription: &str) -> Result<u64, WorkError> {
        for table in ["pending", "dead"] {
            self.db
                .prepare_cached(&format!("DELETE FROM {table} WHERE subscription = ?"))?
                .execute([subscription])?;
        }
        let gone = self
            .db
            .prepare_cached("DELETE FROM subscriptions WHERE name = ?")?
            .execute([subscription])?;
        Ok(gone as u64)
    }

    fn prune(&self, active: &[String], skipped_ms: i64) -> Result<Written, WorkError> {
        see_later(self.db, skipped_ms)?;
        let mut seen = self
            .db
            .prepare_cached("UPDATE subscriptions SET seen_ms = ? WHERE name = ?")?;
        for name in active {
            seen.execute(params![signed(self.now_ms), name])?;
        }
        let retention = millis(self.config.retention);
        let unseen = self
            .now_ms
            .saturating_sub(retention.saturating_mul(FORGET_AFTER.into()).max(DAY_MS));
        let abandoned: Vec<String> = self
            .db
            .prepare_cached("SELECT name FROM subscriptions WHERE seen_ms < ?")?
            .query_map([signed(unseen)], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for name in &abandoned {
            self.forget(name)?;
        }
        self.db
            .prepare_cached("DELETE FROM keys WHERE at_ms <= ?")?
            .execute([signed(self.now_ms.saturating_sub(millis(self.config.dedup)))])?;
        self.pass_over()?;
        let events = self.prune_settled(Some(self.now_ms.saturating_sub(retention)))?;
        Ok(Written::Pruned {
            events,
            forgotten: abandoned,
        })
    }

    /// Moves cursors over events that their subscriptions are not about: one that nobody opens must not hold what is only others'.
    fn pass_over(&self) -> Result<(), WorkError> {
        let last = signed(last_seq(self.db)?);
        let topics = topics_in(self.db)?;
        let mut behind = self
            .db
            .prepare_cached("SELECT name, pattern, cursor FROM subscriptions WHERE cursor < ?")?;
        let behind: Vec<(String, String, i64)> = behind
            .query_map([last], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let mut first_of = self
            .db
            .prepare_cached("SELECT min(seq) FROM events WHERE topic = ? AND seq > ?")?;
        let mut pass = self
            .db
            .prepare_cached("UPDATE subscriptions SET cursor = ? WHERE name = ?")?;
        for (name, pattern, cursor) in behind {
            // One that a newer host wrote is left alone.
            let Ok(pattern) = pattern.parse::<TopicPattern>() else {
                continue;
            };
            let mut to = last;
            for topic in topics.iter().filter(|it| pattern.matches(it)) {
                let first: Option<i64> = first_of.query_row(params![topic, cursor], |row| row.get(0))?;
                to = to.min(first.map_or(to, |it| it - 1));
                if to <= cursor {
                    break;
                }
            }
            if to > cursor {
                pass.execute(params![to, name])?;
            }
        }
        Ok(())
    }

    /// Has up to [`PRUNE_MAX`] events go that nobody needs (E1): those before the first that is as young as this, or of any age. The log is in the order
    /// of time but for jumps of the clock, so this does not look at all that is young.
    fn prune_settled(&self, before_ms: Option<u64>) -> Result<u64, WorkError> {
        let young: Option<i64> = match before_ms {
            Some(before) => self
                .db
                .prepare_cached("SELECT seq FROM events WHERE at_ms >= ? ORDER BY seq LIMIT 1")?
                .query_row([signed(before)], |row| row.get(0))
                .optional()?,
            None => None,
        };
        let old: Vec<(i64, i64)> = self
            .db
            .prepare_cached(
                "SELECT seq, bytes FROM events
                 WHERE seq <= (SELECT COALESCE(MIN(cursor), 9223372036854775807) FROM subscriptions) AND seq < ?1
                   AND NOT EXISTS (SELECT 1 FROM pending WHERE pending.seq = events.seq)
                   AND NOT EXISTS (SELECT 1 FROM dead WHERE dead.seq = events.seq)
                 ORDER BY seq LIMIT ?2",
            )?
            .query_map(params![young.unwrap_or(i64::MAX), PRUNE_MAX], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut delete = self.db.prepare_cached("DELETE FROM events WHERE seq = ?")?;
        let mut freed = 0;
        for (seq, bytes) in &old {
            delete.execute([seq])?;
            freed += bytes;
        }
        self.use_bytes(-freed)?;
        Ok(old.len() as u64)
    }
}

/// However short the retention is, a subscription is not forgotten before.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What one look takes: so many events, and no more than memory should hold.
struct Look {
    taken: Vec<Event>,
    limit: usize,
    bytes: usize,
}

impl Look {
    fn up_to(limit: u32) -> Self {
        Self {
            taken: Vec::new(),
            limit: limit as usize,
            bytes: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.taken.len() < self.limit && self.bytes < LOOK_BYTES_MAX
    }

    fn push(&mut self, event: Event) {
        self.bytes += event.content.payload.len();
        self.taken.push(event);
    }
}

// === rows ===

/// Topics that have an event, by name: one seek for each, and not one row for each event.
fn topics_in(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached(
        "WITH RECURSIVE names (topic) AS (
           SELECT min(topic) FROM events
           UNION ALL SELECT (SELECT min(topic) FROM events WHERE topic > names.topic) FROM names WHERE names.topic IS NOT NULL)
         SELECT topic FROM names WHERE topic IS NOT NULL",
    )?
    .query_map([], |row| row.get(0))?
    .collect()
}

/// Events after a cursor that a pattern means.
fn behind(db: &Connection, topics: &[String], pattern: &str, cursor: i64) -> rusqlite::Result<u64> {
    let mut of_topic = db.prepare_cached("SELECT count(*) FROM events WHERE topic = ? AND seq > ?")?;
    let mut behind = 0;
    // What a newer host wrote, nobody here can tell.
    let pattern = pattern.parse::<TopicPattern>();
    let meant = |it: &&String| pattern.as_ref().is_ok_and(|pattern| pattern.matches(it));
    for topic in topics.iter().filter(meant) {
        behind += unsigned(of_topic.query_row(params![topic, cursor], |row| row.get(0))?);
    }
    Ok(behind)
}

/// Has everybody be seen so much later (or earlier).
fn see_later(db: &Connection, ms: i64) -> Result<(), WorkError> {
    if ms != 0 {
        db.prepare_cached("UPDATE subscriptions SET seen_ms = seen_ms + ?")?
            .execute([ms])?;
    }
    Ok(())
}

/// A row of `events`, in its columns' order.
fn event_of(row: &Row<'_>) -> rusqlite::Result<Event> {
    let head: Vec<u8> = row.get(6)?;
    // Written by us; if it does not read, the event is worth more than its head.
    let head = CallHead::decode(&*head).unwrap_or_default();
    let key: String = row.get(4)?;
    Ok(Event {
        seq: unsigned(row.get(0)?),
        at: of_unix_ms(unsigned(row.get(1)?)),
        content: NewEvent {
            topic: row.get(2)?,
            type_name: row.get(3)?,
            key: Some(key).filter(|it| !it.is_empty()),
            payload: Bytes::from(row.get::<_, Vec<u8>>(7)?),
            publisher: head.caller,
            traceparent: head.traceparent,
            headers: head.metadata,
            depth: head.depth,
        },
    })
}

fn schema_in(db: &Connection, topic: &str) -> rusqlite::Result<Option<TopicSchema>> {
    let schema = |row: &Row<'_>| {
        Ok(TopicSchema {
            type_name: row.get(0)?,
            descriptor_set: Bytes::from(row.get::<_, Vec<u8>>(1)?),
        })
    };
    db.prepare_cached("SELECT type, descriptor_set FROM schemas WHERE topic = ?")?
        .query_row([topic], schema)
        .optional()
}

fn last_seq(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?
        .query_row([], |row| row.get(0))
        .optional()
        .map(|it| it.map_or(0, unsigned))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
