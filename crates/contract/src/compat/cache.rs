//! Verdicts that were reached before.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Level, Report, bind};
use crate::Contract;

/// The most verdicts kept; the next one starts over. A host has far fewer pairs than this.
const VERDICTS_MAX: usize = 4096;

type Key = ([u8; 32], [u8; 32], Level);

/// Answers [`bind`] once per pair of contracts.
///
/// The key is the contracts' fingerprints and not their hashes: whether a deleted field was reserved, and which adapters methods that
/// are not provided declare, decide a verdict and are in no hash.
#[derive(Default)]
pub struct Verdicts {
    known: Mutex<HashMap<Key, Arc<Report>>>,
}

impl Verdicts {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What [`bind`] says, from memory if it was asked before.
    #[must_use]
    pub fn bind(&self, consumer: &Contract, provider: &Contract, level: Level) -> Arc<Report> {
        let key = (consumer.fingerprint(), provider.fingerprint(), level);
        if let Some(known) = self.lock().get(&key) {
            return Arc::clone(known);
        }
        // Not under the lock: a walk over big contracts takes milliseconds. Two callers may both walk; they agree.
        let report = Arc::new(bind(consumer, provider, level));
        let mut known = self.lock();
        if known.len() >= VERDICTS_MAX {
            known.clear();
        }
        known.insert(key, Arc::clone(&report));
        report
    }

    /// How many verdicts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Report>>> {
        // The map is whole after every statement above, so a panic elsewhere leaves nothing to repair.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdicts").field("known", &self.len()).finish()
    }
}
