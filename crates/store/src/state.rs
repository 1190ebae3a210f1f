//! What plugins knew when they were last asked: at most one snapshot each, in the journal's file.
//!
//! - T1: a snapshot is there whole or not at all, and never replaced by one that was taken before it, in whatever order they are written.
//! - T2: it carries the descriptors under which it was written, so that whether another version can read it is known without the version that
//!   wrote it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{Journal, StoreError, Survives};

/// What a plugin knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Name under which the plugin is registered.
    pub plugin: String,
    /// When it was taken, to the nanosecond.
    pub taken: SystemTime,
    /// Version that saved it.
    pub version: String,
    /// Full name of the message that `bytes` is.
    pub schema: String,
    /// Hash of that message's numbers and kinds.
    pub wire_hash: Vec<u8>,
    /// The `FileDescriptorSet` in which the message is declared.
    pub descriptor_set: Vec<u8>,
    /// The encoded message.
    pub bytes: Vec<u8>,
}

impl Journal {
    /// Keeps a snapshot in place of an older one. Returns whether it is the newest.
    ///
    /// What is also in the memory of a running instance need not survive more than a crash of the host; the last word of one that goes should.
    ///
    /// # Errors
    /// What the disk says; the older snapshot is still there then.
    pub fn keep_state(&self, state: &SavedState, survives: Survives) -> Result<bool, StoreError> {
        self.link
            .write_to_survive(survives, "save state to", |db| Ok(keep(db, state)?))
    }

    /// Keeps snapshots of several plugins that were taken together: all of them, or none. Returns whether each is its plugin's newest.
    ///
    /// # Errors
    /// As [`Journal::keep_state`].
    pub fn keep_states(&self, states: &[SavedState], survives: Survives) -> Result<bool, StoreError> {
        self.link.write_to_survive(survives, "save state to", |db| {
            let mut newest = true;
            for state in states {
                newest &= keep(db, state)?;
            }
            Ok(newest)
        })
    }

    /// What a plugin knew when it was last asked.
    ///
    /// # Errors
    /// What the disk says.
    pub fn saved_state(&self, plugin: &str) -> Result<Option<SavedState>, StoreError> {
        self.link.read("read state from", |db| {
            db.prepare_cached(
                "SELECT plugin, taken_ns, version, schema, wire_hash, descriptor_set, bytes FROM state WHERE plugin = ?",
            )?
            .query_row(params![plugin], |row| {
                Ok(SavedState {
                    plugin: row.get(0)?,
                    taken: time(row.get(1)?),
                    version: row.get(2)?,
                    schema: row.get(3)?,
                    wire_hash: row.get(4)?,
                    descriptor_set: row.get(5)?,
                    bytes: row.get(6)?,
                })
            })
            .optional()
        })
    }
}

fn keep(db: &Connection, state: &SavedState) -> rusqlite::Result<bool> {
    let SavedState {
        plugin,
        taken,
        version,
        schema,
        wire_hash,
        descriptor_set,
        bytes,
    } = state;
    let changed = db
        .prepare_cached(
            "INSERT INTO state (plugin, taken_ns, version, schema, wire_hash, descriptor_set, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (plugin) DO UPDATE SET taken_ns = excluded.taken_ns, version = excluded.version, schema = excluded.schema,
             wire_hash = excluded.wire_hash, descriptor_set = excluded.descriptor_set, bytes = excluded.bytes
             WHERE excluded.taken_ns >= state.taken_ns",
        )?
        .execute(params![plugin, nanos(*taken), version, schema, wire_hash, descriptor_set, bytes])?;
    Ok(changed > 0)
}

fn nanos(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn time(nanos: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
