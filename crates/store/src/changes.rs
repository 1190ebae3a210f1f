//! What people and programs asked for: one row per request, with what it made of what was there before.
//!
//! Invariants
//! - C1: a change is on record as begun before anything is done for it; a host that ends in the middle leaves it so, and the next one marks it as
//!   interrupted ([`Journal::interrupt_begun`]).
//! - C2: its end and what should run from then on are one write ([`Journal::conclude`]): a row says `done` if and only if a host that
//!   starts again comes back to what the row says, and then it is on the disk. Of two changes of one name the later one counts, whichever
//!   is concluded first.

use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use crate::{
    Desired, Journal, StoreError, Transition,
    database::{Survives, WorkError},
    journal::{insert, millis, note, time},
};

/// A request, about to be acted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Who asks: `uid:1000`, `config`, `directory`, `probation`, `api`.
    pub actor: String,
    /// What it is about: the address of a plugin.
    pub name: String,
    /// What is asked: `load`, `unload`, `rollback`, `promote`, `config`, or `canary` for a decision about one.
    pub action: String,
    /// Version of the plugin that it is to end with; empty if with none.
    pub version: String,
    /// Digest of the package; empty if there is none.
    pub digest: String,
    /// What was there before, as JSON text in the host's words; empty if nothing was. The store does not look into it.
    pub before: String,
    /// What there is to be.
    pub after: String,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// It is being made, or the host ended before it said more.
    Begun,
    /// It was made.
    Done,
    /// It was not made; what was there before is there still.
    Failed,
    /// The host ended before it was over; the next one came back to what was there before.
    Interrupted,
}

/// A change that is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedChange {
    /// Its place; grows.
    pub seq: u64,
    /// When it began, to the millisecond.
    pub at: SystemTime,
    /// What was asked.
    pub change: Change,
    /// How it ended.
    pub outcome: ChangeOutcome,
    /// Why so, for people.
    pub detail: String,
}

/// What should run from the end of a change on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Should run, and how to load it.
    pub desire: Option<Desired>,
    /// Should not run any more.
    pub forget: Option<String>,
    /// What the watched directory has to say about the name of the change.
    pub watched: Option<WatchedName>,
}

/// The last word of the watched directory, or of an entry of the configuration, about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedName {
    /// The plugin's name.
    pub name: String,
    /// What it had then: the package of the directory, or whatever the host writes for an entry; `None` if nothing any more.
    pub digest: Option<String>,
    /// An operator had a word since; it stands until the directory has another package.
    pub held: bool,
}

/// Which changes to read, newest first. The default is the newest 100 of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeQuery {
    /// Only of this name.
    pub name: Option<String>,
    /// Only older than this one.
    pub before: Option<u64>,
    /// Only those that were made.
    pub done: bool,
    /// Only those that say what runs: no changes of configuration, and no decisions about canaries.
    pub loads: bool,
    /// At most so many.
    pub limit: u32,
}

impl Default for ChangeQuery {
    fn default() -> Self {
        Self {
            name: None,
            before: None,
            done: false,
            loads: false,
            limit: 100,
        }
    }
}

/// What a change is about, as a number.
const KIND: &str = "CASE action WHEN 'config' THEN 1 WHEN 'canary' THEN 2 ELSE 0 END";
const COLUMNS: &str = "seq, at_ms, actor, name, action, version, digest, outcome, detail, before, after";

// === impl ChangeOutcome ===

impl ChangeOutcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Begun, Self::Done, Self::Failed, Self::Interrupted];

    /// As people see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

// === impl Journal ===

impl Journal {
    /// Writes a change down as begun and returns its place (C1).
    ///
    /// # Errors
    /// What the disk says; nothing must be done then.
    pub fn begin(&self, at: SystemTime, change: &Change) -> Result<u64, StoreError> {
        self.link.write_to_survive(Survives::Crash, "append to", |db| {
            Ok(record(db, at, change, ChangeOutcome::Begun, "")?)
        })
    }

    /// Writes transitions down, and with them decisions, each with its reason: changes that are made as soon as they are on record.
    ///
    /// # Errors
    /// What the disk says; none of it must happen then.
    pub fn append_decided(
        &self,
        at: SystemTime,
        transitions: &[Transition],
        decided: &[(Change, String)],
    ) -> Result<(), StoreError> {
        self.link.write_to_survive(Survives::Crash, "append to", |db| {
            insert(db, at, transitions)?;
            for (change, detail) in decided {
                record(db, at, change, ChangeOutcome::Done, detail)?;
            }
            Ok(())
        })
    }

    /// Writes down how a change ended, and what should run from here on (C2).
    ///
    /// # Errors
    /// What the disk says; then neither is written.
    pub fn conclude(
        &self,
        at: SystemTime,
        seq: u64,
        outcome: ChangeOutcome,
        detail: &str,
        aftermath: &Aftermath,
    ) -> Result<(), StoreError> {
        // What nobody comes back to need not survive the machine.
        let end = if *aftermath == Aftermath::default() {
            Survives::Crash
        } else {
            Survives::PowerCut
        };
        self.link.write_to_survive(end, "write to", |db| {
            conclude(db, at, seq, outcome, detail, aftermath)
        })
    }

    /// Writes transitions down and several changes as made, with what should run from here on, all in one transaction: a change of several plugins
    /// that is there as a whole or not at all. If it is to survive a crash only, [`Journal::sync`] follows before anybody is told (J4).
    ///
    /// # Errors
    /// What the disk says; none of it must happen then.
    pub fn append_and_conclude(
        &self,
        at: SystemTime,
        transitions: &[Transition],
        done: &[(u64, Aftermath)],
        survives: Survives,
    ) -> Result<(), StoreError> {
        self.link.write_to_survive(survives, "write to", |db| {
            insert(db, at, transitions)?;
            for (seq, aftermath) in done {
                conclude(db, at, *seq, ChangeOutcome::Done, "", aftermath)?;
            }
            Ok(())
        })
    }

    /// Brings everything that was written to the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> Result<(), StoreError> {
        // The log is synced by a transaction that writes to it.
        self.link.write("sync", |db| {
            db.execute(
                "UPDATE changes SET detail = detail WHERE seq = (SELECT max(seq) FROM changes)",
                [],
            )?;
            Ok(())
        })
    }

    /// Takes a change off the record that came to nothing, as one on record did before. One that was concluded stays.
    ///
    /// # Errors
    /// What the disk says.
    pub fn withdraw(&self, seq: u64) -> Result<(), StoreError> {
        self.link.write_to_survive(Survives::Crash, "write to", |db| {
            let seq = i64::try_from(seq).unwrap_or(i64::MAX);
            db.prepare_cached("DELETE FROM changes WHERE seq = ? AND outcome = 'begun'")?
                .execute([seq])?;
            Ok(())
        })
    }

    /// Marks what an earlier host left as begun. Returns how many there were.
    ///
    /// # Errors
    /// What the disk says.
    pub fn interrupt_begun(&self) -> Result<usize, StoreError> {
        self.link.write_to_survive(Survives::Crash, "write to", |db| {
            Ok(db.execute(
                "UPDATE changes SET outcome = 'interrupted', detail = 'the host ended before it was over' WHERE outcome = 'begun'",
                [],
            )?)
        })
    }

    /// Changes, newest first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn changes(&self, query: &ChangeQuery) -> Result<Vec<RecordedChange>, StoreError> {
        let before = query
            .before
            .map_or(i64::MAX, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        self.link.read("read", |db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM changes WHERE seq < ?1 AND (?2 IS NULL OR name = ?2) AND (NOT ?3 OR outcome = 'done')
                 AND (NOT ?5 OR action NOT IN ('config', 'canary')) ORDER BY seq DESC LIMIT ?4"
            ))?
            .query_map(
                params![before, query.name, query.done, query.limit, query.loads],
                recorded,
            )?
            .collect()
        })
    }

    /// One change.
    ///
    /// # Errors
    /// What the disk says.
    pub fn change(&self, seq: u64) -> Result<Option<RecordedChange>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM changes WHERE seq = ?"))?
                .query_row([i64::try_from(seq).unwrap_or(i64::MAX)], recorded)
                .optional()
        })
    }

    /// Name and package of every change that was made, or is being made, and ends with one, newest first; those that only say what was decided about a
    /// canary come last.
    ///
    /// # Errors
    /// What the disk says.
    pub fn packages_used(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached(
                "SELECT name, digest FROM changes WHERE outcome IN ('done', 'begun') AND digest <> ''
                 ORDER BY action = 'canary', seq DESC",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })
    }

    /// Forgets all but the newest `keep` changes of configuration, the newest `keep` of others, and the last one of every name. Apart, because the
    /// former may come by the thousand, and the latter say what can be gone back to.
    ///
    /// # Errors
    /// What the disk says.
    pub fn prune_changes(&self, keep: u32) -> Result<usize, StoreError> {
        self.link.write_to_survive(Survives::Crash, "prune", |db| {
            // Changes of configuration and decisions about canaries push out no loads.
            let mut gone = 0;
            for kind in 0..3 {
                gone += db.execute(
                    &format!(
                        "DELETE FROM changes WHERE {KIND} = ?1
                         AND seq <= (SELECT seq FROM changes WHERE {KIND} = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)
                         AND seq NOT IN (SELECT max(seq) FROM changes GROUP BY name, {KIND})"
                    ),
                    params![kind, keep],
                )?;
            }
            Ok(gone)
        })
    }

    /// The last words of the watched directory.
    ///
    /// # Errors
    /// What the disk says.
    pub fn watched(&self) -> Result<Vec<WatchedName>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached("SELECT name, digest, held FROM watched ORDER BY name")?
                .query_map([], |row| {
                    Ok(WatchedName {
                        name: row.get(0)?,
                        digest: Some(row.get(1)?),
                        held: row.get(2)?,
                    })
                })?
                .collect()
        })
    }

    /// Notes the last word of the watched directory about a name, apart from any change.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_watched(&self, watched: &WatchedName) -> Result<(), StoreError> {
        self.link.write("write to", |db| watched.write(db))
    }
}

fn record(
    db: &Transaction<'_>,
    at: SystemTime,
    change: &Change,
    outcome: ChangeOutcome,
    detail: &str,
) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "INSERT INTO changes (at_ms, actor, name, action, version, digest, outcome, detail, before, after)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        millis(at),
        change.actor,
        change.name,
        change.action,
        change.version,
        change.digest,
        outcome.as_str(),
        detail,
        change.before,
        change.after
    ])?;
    Ok(u64::try_from(db.last_insert_rowid()).unwrap_or(0))
}

fn conclude(
    db: &Transaction<'_>,
    at: SystemTime,
    seq: u64,
    outcome: ChangeOutcome,
    detail: &str,
    aftermath: &Aftermath,
) -> Result<(), WorkError> {
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    db.execute(
        "UPDATE changes SET outcome = ?, detail = ? WHERE seq = ?",
        params![outcome.as_str(), detail, seq],
    )?;
    let overtaken = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM changes later JOIN changes this ON later.name = this.name
         WHERE this.seq = ?1 AND later.seq > ?1 AND later.outcome = 'done'
         AND later.action NOT IN ('config', 'canary'))",
        [seq],
        |row| row.get(0),
    )?;
    if overtaken {
        Ok(())
    } else {
        aftermath.write(at, db)
    }
}

impl Aftermath {
    fn write(&self, at: SystemTime, db: &Transaction<'_>) -> Result<(), WorkError> {
        if let Some(desired) = &self.desire {
            note(db, at, desired)?;
        }
        if let Some(name) = &self.forget {
            db.execute("DELETE FROM desired WHERE name = ?", params![name])?;
        }
        self.watched.as_ref().map_or(Ok(()), |it| it.write(db))
    }
}

impl WatchedName {
    fn write(&self, db: &Transaction<'_>) -> Result<(), WorkError> {
        match &self.digest {
            Some(digest) => db.execute(
                "INSERT OR REPLACE INTO watched (name, digest, held) VALUES (?, ?, ?)",
                params![self.name, digest, self.held],
            )?,
            None => db.execute("DELETE FROM watched WHERE name = ?", params![self.name])?,
        };
        Ok(())
    }
}

fn recorded(row: &Row<'_>) -> rusqlite::Result<RecordedChange> {
    let outcome: String = row.get(7)?;
    let outcome = ChangeOutcome::ALL.into_iter().find(|it| it.as_str() == outcome);
    Ok(RecordedChange {
        seq: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        at: time(row.get(1)?),
        change: Change {
            actor: row.get(2)?,
            name: row.get(3)?,
            action: row.get(4)?,
            version: row.get(5)?,
            digest: row.get(6)?,
            before: row.get(9)?,
            after: row.get(10)?,
        },
        outcome: outcome.unwrap_or(ChangeOutcome::Interrupted),
        detail: row.get(8)?,
    })
}
