//! What happened to every plugin, what should run, and what must not.
//!
//! Invariants
//! - J1: once [`Journal::append`] returns, the transition survives the end of the host, however it comes; the caller starts the side effect after
//!   that. It need not survive a power cut, because no side effect does: instances, cells and calls are gone with the machine.
//! - J2: `seq` grows by the order of the appends, whatever the clock does; rows are never changed, only [pruned](Journal::prune)
//!   from the old end.
//! - J3: what is desired changes only by an operator's word, never by a crash; a host that starts reconciles to it.
//! - J4: what is desired, and what is in quarantine or let out of it, is on the disk before its function returns, and so is every
//!   transition before it: that is what a host acts on when the machine is back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mortise_runtime::Digest;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::{
    StoreError,
    database::{Link, Survives},
};

/// One transition, about to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transition {
    /// Name under which the plugin is registered.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Digest of its artifact; empty where there is none (yet).
    pub digest: String,
    /// Who asked for it: `uid:1000`, `probation`, `supervisor`.
    pub actor: String,
    /// The state it leaves.
    pub from: String,
    /// What made it leave.
    pub event: String,
    /// The state it enters.
    pub to: String,
    /// For people: the reason, with numbers.
    pub detail: String,
}

/// One transition that was journalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the journal.
    pub seq: u64,
    /// When it was written, to the millisecond.
    pub at: SystemTime,
    /// What was written.
    pub transition: Transition,
}

/// Which transitions to read. The default is the newest 100 of all plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Only of this plugin.
    pub plugin: Option<String>,
    /// Only older than this one; the `seq` of the last row read gives the next page.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

impl Default for History {
    fn default() -> Self {
        Self {
            plugin: None,
            before: None,
            limit: 100,
        }
    }
}

/// Something that should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Name under which it is registered.
    pub name: String,
    /// The host's own description of how to load it, as JSON text. The store does not look into it.
    pub request_json: String,
}

/// An artifact that must not be started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Digest of the artifact.
    pub digest: String,
    /// The plugin it belongs to.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Why, with the number that did it.
    pub reason: String,
    /// Since when, to the millisecond.
    pub since: SystemTime,
}

/// The journal. Cheap to clone; clones share one connection.
#[derive(Clone, Debug)]
pub struct Journal {
    pub(crate) link: Link,
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(link: Link) -> Self {
        Self { link }
    }

    /// Writes a transition down and returns its place. From then on it survives the host (J1).
    ///
    /// # Errors
    /// What the disk says; the transition must not happen then.
    pub fn append(&self, at: SystemTime, transition: &Transition) -> Result<u64, StoreError> {
        self.append_all(at, std::slice::from_ref(transition))
    }

    /// Writes several transitions down, in this order, and returns the place of the last one. All of them survive the host then,
    /// or none: one transaction for a run of transitions that have no side effects before the last.
    ///
    /// # Errors
    /// What the disk says; none of the transitions must happen then.
    pub fn append_all(&self, at: SystemTime, transitions: &[Transition]) -> Result<u64, StoreError> {
        self.link.write_to_survive(Survives::Crash, "append to", |db| {
            insert(db, at, transitions)?;
            Ok(u64::try_from(db.last_insert_rowid()).unwrap_or(0))
        })
    }

    /// Transitions, newest first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn history(&self, query: &History) -> Result<Vec<Recorded>, StoreError> {
        let before = query
            .before
            .map_or(i64::MAX, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        self.link.read("read", |db| {
            let columns = "seq, at_ms, plugin, version, digest, actor, from_state, event, to_state, detail";
            match &query.plugin {
                Some(plugin) => db
                    .prepare_cached(&format!(
                        "SELECT {columns} FROM transitions WHERE plugin = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
                    ))?
                    .query_map(params![plugin, before, query.limit], recorded)?
                    .collect(),
                None => db
                    .prepare_cached(&format!(
                        "SELECT {columns} FROM transitions WHERE seq < ? ORDER BY seq DESC LIMIT ?"
                    ))?
                    .query_map(params![before, query.limit], recorded)?
                    .collect(),
            }
        })
    }

    /// The last transition of every (plugin, version): where a host that starts again finds them.
    ///
    /// # Errors
    /// What the disk says.
    pub fn last_of_each(&self) -> Result<Vec<Recorded>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached(
                "SELECT seq, at_ms, plugin, version, digest, actor, from_state, event, to_state, detail FROM transitions
                 WHERE seq IN (SELECT max(seq) FROM transitions GROUP BY plugin, version) ORDER BY seq",
            )?
            .query_map([], recorded)?
            .collect()
        })
    }

    /// Forgets all but the newest `keep` transitions, and the last one of every (plugin, version).
    ///
    /// # Errors
    /// What the disk says.
    pub fn prune(&self, keep: u32) -> Result<usize, StoreError> {
        self.link.write_to_survive(Survives::Crash, "prune", |db| {
            Ok(db.execute(
                "DELETE FROM transitions WHERE seq <= (SELECT max(seq) FROM transitions) - ?
                 AND seq NOT IN (SELECT max(seq) FROM transitions GROUP BY plugin, version)",
                params![keep],
            )?)
        })
    }

    /// Notes that `name` should run, and how to load it; replaces an older note.
    ///
    /// # Errors
    /// What the disk says.
    pub fn desire(&self, at: SystemTime, desired: &Desired) -> Result<(), StoreError> {
        self.link.write("write to", |db| Ok(note(db, at, desired)?))
    }

    /// Makes what should run what it was before, name by name, in one transaction; `None` for what should not run.
    ///
    /// # Errors
    /// What the disk says; nothing has changed then.
    pub fn desire_again(
        &self,
        at: SystemTime,
        before: &[(String, Option<Desired>)],
    ) -> Result<(), StoreError> {
        self.link.write("write to", |db| {
            for (name, desired) in before {
                match desired {
                    Some(desired) => note(db, at, desired)?,
                    None => drop(db.execute("DELETE FROM desired WHERE name = ?", params![name])?),
                }
            }
            Ok(())
        })
    }

    /// Notes that `name` should no longer run. Returns whether it should have.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget(&self, name: &str) -> Result<bool, StoreError> {
        self.link.write("write to", |db| {
            Ok(db.execute("DELETE FROM desired WHERE name = ?", params![name])? > 0)
        })
    }

    /// Everything that should run, by name.
    ///
    /// # Errors
    /// What the disk says.
    pub fn desired(&self) -> Result<Vec<Desired>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached("SELECT name, request FROM desired ORDER BY name")?
                .query_map([], |row| {
                    Ok(Desired {
                        name: row.get(0)?,
                        request_json: row.get(1)?,
                    })
                })?
                .collect()
        })
    }

    /// Puts an artifact into quarantine; a second reason replaces the first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn quarantine(
        &self,
        at: SystemTime,
        digest: Digest,
        plugin: &str,
        version: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.link.write("write to", |db| {
            db.execute(
                "INSERT OR REPLACE INTO quarantine (digest, plugin, version, reason, at_ms) VALUES (?, ?, ?, ?, ?)",
                params![digest.to_string(), plugin, version, reason, millis(at)],
            )?;
            Ok(())
        })
    }

    /// The artifact's quarantine, if it is in one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn quarantined(&self, digest: Digest) -> Result<Option<Quarantine>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached(
                "SELECT digest, plugin, version, reason, at_ms FROM quarantine WHERE digest = ?",
            )?
            .query_row(params![digest.to_string()], quarantine)
            .optional()
        })
    }

    /// Everything that is in quarantine, newest first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn quarantines(&self) -> Result<Vec<Quarantine>, StoreError> {
        self.link.read("read", |db| {
            db.prepare_cached(
                "SELECT digest, plugin, version, reason, at_ms FROM quarantine ORDER BY at_ms DESC, digest",
            )?
            .query_map([], quarantine)?
            .collect()
        })
    }

    /// Lets an artifact out of quarantine. Returns whether it was in one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn release(&self, digest: Digest) -> Result<bool, StoreError> {
        self.link.write("write to", |db| {
            Ok(db.execute(
                "DELETE FROM quarantine WHERE digest = ?",
                params![digest.to_string()],
            )? > 0)
        })
    }
}

pub(crate) fn insert(db: &Connection, at: SystemTime, transitions: &[Transition]) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT INTO transitions (at_ms, plugin, version, digest, actor, from_state, event, to_state, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for transition in transitions {
        let Transition {
            plugin,
            version,
            digest,
            actor,
            from,
            event,
            to,
            detail,
        } = transition;
        insert.execute(params![
            millis(at),
            plugin,
            version,
            digest,
            actor,
            from,
            event,
            to,
            detail
        ])?;
    }
    Ok(())
}

pub(crate) fn note(db: &Connection, at: SystemTime, desired: &Desired) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO desired (name, request, at_ms) VALUES (?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET request = excluded.request, at_ms = excluded.at_ms",
        params![desired.name, desired.request_json, millis(at)],
    )
    .map(drop)
}

fn recorded(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    Ok(Recorded {
        seq: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        at: time(row.get(1)?),
        transition: Transition {
            plugin: row.get(2)?,
            version: row.get(3)?,
            digest: row.get(4)?,
            actor: row.get(5)?,
            from: row.get(6)?,
            event: row.get(7)?,
            to: row.get(8)?,
            detail: row.get(9)?,
        },
    })
}

fn quarantine(row: &Row<'_>) -> rusqlite::Result<Quarantine> {
    Ok(Quarantine {
        digest: row.get(0)?,
        plugin: row.get(1)?,
        version: row.get(2)?,
        reason: row.get(3)?,
        since: time(row.get(4)?),
    })
}

pub(crate) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
