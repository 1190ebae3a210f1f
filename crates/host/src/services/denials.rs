//! What a plugin was denied: counted, told in the log, and the last of it kept for whoever asks.
//!
//! A denial comes from the layers around an instance, which bound their rate themselves, or from the host's own services, whose caller is the
//! plugin: so telling is bounded here, for both. What is not told is counted, and the count told with the next one.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use mortise_runtime::Denied;

use super::About;
use crate::info::{DenialEntry, to_unix_ms};

/// Denials that are kept, the last ones.
const KEPT_MAX: usize = 32;
/// Denials that are told at once.
const BURST: f64 = 64.0;
/// Denials that are told per second after that.
const PER_SECOND: f64 = 20.0;
/// Longest target that is told, in characters.
const TARGET_CHARS_MAX: usize = 256;

/// The denials of one instance.
#[derive(Debug)]
pub(crate) struct Denials {
    about: About,
    count: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: VecDeque<DenialEntry>,
    /// How many may still be told now.
    room: f64,
    at: Instant,
    untold: u64,
}

impl Denials {
    pub(crate) fn new(about: About) -> Self {
        Self {
            about,
            count: AtomicU64::new(0),
            state: Mutex::new(State {
                last: VecDeque::new(),
                room: BURST,
                at: Instant::now(),
                untold: 0,
            }),
        }
    }

    /// All of them, told one by one or not.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The last ones, newest last.
    pub(crate) fn last(&self) -> Vec<DenialEntry> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last.iter().cloned().collect()
    }

    pub(crate) fn tell(&self, denied: Denied<'_>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let entry = DenialEntry {
            at_unix_ms: to_unix_ms(SystemTime::now()),
            capability: denied.capability.to_owned(),
            target: denied.target.chars().take(TARGET_CHARS_MAX).collect(),
            how: denied.how.to_owned(),
        };
        let Some(untold) = self.keep(&entry, Instant::now()) else {
            return;
        };
        if untold > 0 {
            self.tell_suppressed(untold);
        }
        let About {
            address,
            plugin,
            instance,
        } = &self.about;
        let DenialEntry {
            capability,
            target,
            how,
            ..
        } = entry;
        tracing::warn!(
            target: "mortise::denied", plugin = %address, version = %plugin.version, %instance, capability, to = target, how,
            "plugin `{address}` was denied `{capability}`: {target}"
        );
    }

    /// So many were denied that nobody told one by one.
    pub(crate) fn suppressed(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.tell_suppressed(count);
    }

    fn tell_suppressed(&self, count: u64) {
        let About {
            address, instance, ..
        } = &self.about;
        tracing::warn!(
            target: "mortise::denied", plugin = %address, %instance, count,
            "plugin `{address}` was denied {count} more things, too fast to tell them one by one"
        );
    }

    /// Keeps it. `Some` if it is to be told, with how many before it were not.
    fn keep(&self, entry: &DenialEntry, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.len() == KEPT_MAX {
            state.last.pop_front();
        }
        state.last.push_back(entry.clone());
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        (state.room, state.at) = ((state.room + passed * PER_SECOND).min(BURST), now);
        if state.room < 1.0 {
            state.untold += 1;
            return None;
        }
        state.room -= 1.0;
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mortise_runtime::{InstanceId, PluginId};

    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_in_part() {
        let denials = Denials::new(About {
            address: "a".into(),
            plugin: PluginId {
                name: "a".into(),
                version: semver::Version::new(1, 0, 0),
            },
            instance: InstanceId("a#1".into()),
        });
        let entry = |number: u64| DenialEntry {
            at_unix_ms: number,
            capability: "kv".to_owned(),
            target: String::new(),
            how: String::new(),
        };
        let begun = Instant::now();
        let told = (0..1000)
            .filter(|it| denials.keep(&entry(*it), begun).is_some())
            .count();
        assert_eq!(told, 64);
        let second_later = begun + Duration::from_secs(1);
        assert_eq!(denials.keep(&entry(1000), second_later), Some(936));
        assert_eq!(denials.keep(&entry(1001), second_later), Some(0));
        let last = denials.last();
        assert_eq!(
            (last.len(), last[0].at_unix_ms, last[31].at_unix_ms),
            (32, 970, 1001)
        );
    }
}
