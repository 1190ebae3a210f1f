//! Each plugin's private key-value data.
//!
//! Invariants
//! - K1: a [`KeySpace`] reads and writes rows of its own name only; the name is part of every statement, never of a key.
//! - K2: `kv_usage` equals the number and the bytes (keys and values) of the rows, because both change in one transaction.
//! - K3: a refused write changes nothing.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::{
    StoreError, StoreErrorKind,
    database::{Link, WorkError},
};

/// Bounds on what one plugin may keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLimits {
    /// Longest key, in bytes of UTF-8. Default 512.
    pub key_bytes_max: usize,
    /// Longest value, in bytes. Default 1 MiB. A larger one belongs into a file or another service.
    pub value_bytes_max: usize,
    /// Highest number of keys. Default 10 000.
    pub keys_max: u64,
    /// Highest sum of keys and values, in bytes. Default 64 MiB.
    pub bytes_max: u64,
    /// Most keys that one [`KeySpace::list`] returns. Default 1000.
    pub list_max: u32,
}

impl Default for KvLimits {
    fn default() -> Self {
        Self {
            key_bytes_max: 512,
            value_bytes_max: 1 << 20,
            keys_max: 10_000,
            bytes_max: 64 << 20,
            list_max: 1000,
        }
    }
}

/// The key-value data of all plugins. Cheap to clone; clones share one connection.
#[derive(Clone, Debug)]
pub struct Kv {
    link: Link,
    limits: KvLimits,
}

/// The key-value data of one plugin.
#[derive(Clone, Debug)]
pub struct KeySpace {
    kv: Kv,
    plugin: String,
}

// === impl Kv ===

impl Kv {
    pub(crate) fn new(link: Link, limits: KvLimits) -> Self {
        Self { link, limits }
    }

    /// The data of the plugin registered as `plugin`; made with its first key.
    #[must_use]
    pub fn keyspace(&self, plugin: &str) -> KeySpace {
        KeySpace {
            kv: self.clone(),
            plugin: plugin.to_owned(),
        }
    }
}

// === impl KeySpace ===

impl KeySpace {
    /// The value of `key`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.kv.link.read("read", |db| {
            let value: Option<Vec<u8>> = db
                .prepare_cached("SELECT value FROM kv WHERE plugin = ? AND key = ?")?
                .query_row(params![self.plugin, key.as_bytes()], |row| row.get(0))
                .optional()?;
            Ok(value.map(Bytes::from))
        })
    }

    /// Sets `key`; on the disk when it returns.
    ///
    /// # Errors
    /// `Malformed` for an empty key, `TooLarge` with the limit that was reached (nothing changes then), what the disk says.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let limits = &self.kv.limits;
        if key.is_empty() {
            return Err(StoreError::new(
                StoreErrorKind::Malformed,
                format!("plugin `{}` set an empty key", self.plugin),
                "give the value a key of at least one character",
            ));
        }
        self.bound("a key", key.len() as u64, limits.key_bytes_max as u64, "bytes")?;
        self.bound(
            "a value",
            value.len() as u64,
            limits.value_bytes_max as u64,
            "bytes",
        )?;
        self.kv.link.write("write to", |db| {
            let (keys, bytes) = self.usage_in(db)?;
            let old = self.length_in(db, key)?;
            let keys = keys + u64::from(old.is_none());
            let bytes = bytes - old.unwrap_or(0) + (key.len() + value.len()) as u64;
            // An overwrite that makes the data smaller is allowed even above a limit that was lowered since.
            if old.is_none() {
                self.bound("the number of keys", keys, limits.keys_max, "keys")
                    .map_err(WorkError::Refused)?;
            }
            if (key.len() + value.len()) as u64 > old.unwrap_or(0) {
                self.bound("the sum of all keys and values", bytes, limits.bytes_max, "bytes")
                    .map_err(WorkError::Refused)?;
            }
            db.prepare_cached(
                "INSERT INTO kv (plugin, key, value) VALUES (?, ?, ?)
                 ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value",
            )?
            .execute(params![self.plugin, key.as_bytes(), value])?;
            self.set_usage_in(db, keys, bytes)
        })
    }

    /// Deletes `key`. Returns whether it existed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.kv.link.write("write to", |db| {
            let Some(old) = self.length_in(db, key)? else {
                return Ok(false);
            };
            let (keys, bytes) = self.usage_in(db)?;
            db.prepare_cached("DELETE FROM kv WHERE plugin = ? AND key = ?")?
                .execute(params![self.plugin, key.as_bytes()])?;
            self.set_usage_in(db, keys - 1, bytes - old)?;
            Ok(true)
        })
    }

    /// Keys that begin with `prefix`, in byte order; at most `limit` (0 = as many as [`KvLimits::list_max`] allows).
    ///
    /// # Errors
    /// What the disk says.
    pub fn list(&self, prefix: &str, limit: u32) -> Result<Vec<String>, StoreError> {
        let most = self.kv.limits.list_max;
        let limit = if limit == 0 { most } else { limit.min(most) };
        // No UTF-8 text has a byte 0xff: every key with the prefix sorts before prefix + 0xff.
        let end = [prefix.as_bytes(), &[0xff]].concat();
        self.kv.link.read("read", |db| {
            db.prepare_cached(
                "SELECT key FROM kv WHERE plugin = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
            )?
            .query_map(params![self.plugin, prefix.as_bytes(), end, limit], |row| {
                Ok(String::from_utf8_lossy(&row.get::<_, Vec<u8>>(0)?).into_owned())
            })?
            .collect()
        })
    }

    /// Number of keys, and bytes of keys and values.
    ///
    /// # Errors
    /// What the disk says.
    pub fn usage(&self) -> Result<(u64, u64), StoreError> {
        self.kv.link.write("read", |db| Ok(self.usage_in(db)?))
    }

    /// Deletes everything. Returns how many keys there were.
    ///
    /// # Errors
    /// What the disk says.
    pub fn clear(&self) -> Result<u64, StoreError> {
        self.kv.link.write("write to", |db| {
            let gone = db.execute("DELETE FROM kv WHERE plugin = ?", params![self.plugin])?;
            db.execute("DELETE FROM kv_usage WHERE plugin = ?", params![self.plugin])?;
            Ok(gone as u64)
        })
    }

    fn bound(&self, what: &str, found: u64, max: u64, unit: &str) -> Result<(), StoreError> {
        if found <= max {
            return Ok(());
        }
        Err(StoreError::new(
            StoreErrorKind::TooLarge,
            format!(
                "plugin `{}` may not keep that: {what} would be {found} {unit}, and {max} is the limit",
                self.plugin
            ),
            "delete keys, or store less in each",
        ))
    }

    fn usage_in(&self, db: &Transaction<'_>) -> rusqlite::Result<(u64, u64)> {
        let found = db
            .prepare_cached("SELECT keys, bytes FROM kv_usage WHERE plugin = ?")?
            .query_row(params![self.plugin], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        Ok(found.map_or((0, 0), |(keys, bytes)| {
            (
                u64::try_from(keys).unwrap_or(0),
                u64::try_from(bytes).unwrap_or(0),
            )
        }))
    }

    fn length_in(&self, db: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<u64>> {
        db.prepare_cached("SELECT length(key) + length(value) FROM kv WHERE plugin = ? AND key = ?")?
            .query_row(params![self.plugin, key.as_bytes()], |row| row.get::<_, i64>(0))
            .optional()
            .map(|length| length.map(|it| u64::try_from(it).unwrap_or(0)))
    }

    fn set_usage_in(&self, db: &Transaction<'_>, keys: u64, bytes: u64) -> Result<(), WorkError> {
        db.prepare_cached("INSERT OR REPLACE INTO kv_usage (plugin, keys, bytes) VALUES (?, ?, ?)")?
            .execute(params![
                self.plugin,
                i64::try_from(keys).unwrap_or(i64::MAX),
                i64::try_from(bytes).unwrap_or(i64::MAX)
            ])?;
        Ok(())
    }
}
