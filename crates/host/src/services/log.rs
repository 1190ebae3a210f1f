//! Log lines of plugins: bounded in number and size, and marked with who said them during which call.
//!
//! Lines become `tracing` events with target `mortise::plugin`. Beyond the limit of one second they are dropped and counted; when
//! the second is over, one line says how many.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mortise_runtime::LogLine;
use mortise_wire::{Header, Level, LogRecord};
use tokio::runtime::Handle;

use super::About;

/// Longest message and longest value of a field, in bytes; the rest is cut off and counted.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Most fields of one line.
const FIELDS_MAX: usize = 32;
const SECOND: Duration = Duration::from_secs(1);

/// Lets so many lines a second through.
pub(crate) struct LogGate {
    inner: Arc<Inner>,
    /// Where the line about dropped lines is written from; plugins log on threads of their own.
    runtime: Option<Handle>,
}

struct Inner {
    about: About,
    lines_max: u32,
    window: Mutex<Window>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    dropped: u64,
}

impl LogGate {
    pub(crate) fn new(about: About, lines_max: u32) -> Self {
        let inner = Inner {
            about,
            lines_max,
            window: Mutex::default(),
            dropped: AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
            runtime: Handle::try_current().ok(),
        }
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    /// Takes a line, or counts it.
    pub(crate) fn take(&self, line: &LogLine<'_>) {
        let (kept, first_dropped, said) = self.inner.count(Instant::now());
        if let Some(number) = said {
            self.inner.say_dropped(number);
        }
        if kept {
            self.inner.write(line);
        } else if first_dropped && let Some(runtime) = &self.runtime {
            let inner = self.inner.clone();
            runtime.spawn(async move {
                tokio::time::sleep(SECOND).await;
                if let Some(number) = inner.settle() {
                    inner.say_dropped(number);
                }
            });
        }
    }
}

impl Inner {
    /// Whether the line is kept, whether it is the first dropped one of its second, and how many of an earlier second are still to be told.
    fn count(&self, now: Instant) -> (bool, bool, Option<u64>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = None;
        if window
            .began
            .is_none_or(|began| now.duration_since(began) >= SECOND)
        {
            said = Some(window.dropped).filter(|it| *it > 0);
            *window = Window {
                began: Some(now),
                lines: 0,
                dropped: 0,
            };
        }
        if window.lines < self.lines_max {
            window.lines += 1;
            return (true, false, said);
        }
        window.dropped += 1;
        self.dropped.fetch_add(1, Ordering::Relaxed);
        (false, window.dropped == 1, said)
    }

    /// What has not been told yet.
    fn settle(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut window.dropped)).filter(|it| *it > 0)
    }

    fn say_dropped(&self, number: u64) {
        let About {
            address,
            plugin,
            instance,
        } = &self.about;
        tracing::warn!(
            target: "mortise::plugin", plugin = %address, version = %plugin.version, %instance,
            "{number} log lines dropped: more than {} a second", self.lines_max
        );
    }

    fn write(&self, line: &LogLine<'_>) {
        let About {
            address,
            plugin,
            instance,
        } = &self.about;
        let LogRecord {
            target,
            message,
            fields,
            ..
        } = line.record;
        let trace = line.call.map_or("", |call| trace_id(&call.traceparent));
        let call = line.call.map_or(line.record.call_id, |call| call.call_id);
        // Those that the host hands on, so that one user's way through all plugins can be found in the log.
        let headers = line.call.map(|call| join(&call.metadata)).unwrap_or_default();
        let (message, fields, target) = (cut(message), join(fields), cut(target));
        macro_rules! event {
            ($level:expr) => {
                tracing::event!(
                    target: "mortise::plugin", $level, plugin = %address, version = %plugin.version, %instance,
                    trace, call, headers = %headers, source = %target, fields = %fields, "{message}"
                )
            };
        }
        match line.record.level() {
            Level::Error => event!(tracing::Level::ERROR),
            Level::Warn => event!(tracing::Level::WARN),
            Level::Debug => event!(tracing::Level::DEBUG),
            Level::Trace => event!(tracing::Level::TRACE),
            Level::Info | Level::Unspecified => event!(tracing::Level::INFO),
        }
    }
}

/// The trace's id in a W3C traceparent (`00-<32 hex digits>-..`); empty without one.
fn trace_id(traceparent: &str) -> &str {
    traceparent
        .split('-')
        .nth(1)
        .filter(|id| id.len() == 32)
        .unwrap_or("")
}

/// At most [`TEXT_BYTES_MAX`] bytes, cut at a character, with what is missing. Control characters could forge a second line.
pub(super) fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    let mut kept: String = text[..end]
        .chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if end < text.len() {
        kept.push_str(&format!(" ... ({} more bytes)", text.len() - end));
    }
    kept
}

fn join(fields: &[Header]) -> String {
    let mut all = String::new();
    for Header { name, value } in fields.iter().take(FIELDS_MAX) {
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(&cut(name));
        all.push('=');
        all.push_str(&cut(value));
    }
    if fields.len() > FIELDS_MAX {
        all.push_str(&format!(" ... ({} more fields)", fields.len() - FIELDS_MAX));
    }
    all
}

#[cfg(test)]
mod tests {
    use mortise_runtime::{InstanceId, PluginId};

    use super::*;

    fn inner(lines_max: u32) -> Inner {
        let plugin = PluginId {
            name: "p".into(),
            version: semver::Version::new(1, 0, 0),
        };
        let about = About {
            address: "p".into(),
            plugin,
            instance: InstanceId("p@1.0.0#1".into()),
        };
        Inner {
            about,
            lines_max,
            window: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    #[test]
    fn so_many_lines_a_second_and_the_rest_is_told_once() {
        let (gate, start) = (inner(2), Instant::now());
        let at = |ms| gate.count(start + Duration::from_millis(ms));
        assert_eq!([at(0), at(1)], [(true, false, None); 2]);
        assert_eq!(
            [at(2), at(3), at(999)],
            [(false, true, None), (false, false, None), (false, false, None)]
        );
        assert_eq!(at(1000), (true, false, Some(3)));
        assert_eq!(gate.settle(), None, "told already");
        assert_eq!(gate.dropped.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing() {
        assert_eq!(inner(0).count(Instant::now()), (false, true, None));
    }

    #[test]
    fn long_and_forged_lines_are_cut_and_defused() {
        assert_eq!(cut("a\nERROR b"), "a\u{fffd}ERROR b");
        let long = "ä".repeat(TEXT_BYTES_MAX);
        assert_eq!(
            cut(&long).len(),
            TEXT_BYTES_MAX + format!(" ... ({TEXT_BYTES_MAX} more bytes)").len()
        );
        let field = Header {
            name: "k".to_owned(),
            value: "v".to_owned(),
        };
        assert!(join(&vec![field; 33]).ends_with("k=v ... (1 more fields)"));
    }

    #[test]
    fn trace_ids_come_out_of_traceparents() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), id);
        assert_eq!([trace_id(""), trace_id("00-short-1")], ["", ""]);
    }
}
