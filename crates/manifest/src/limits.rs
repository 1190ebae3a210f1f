//! Bounds on what one plugin may use: the values in force, and the ones that a file sets.

use std::{ops::RangeInclusive, time::Duration};

use crate::reader::{Faults, Fields};

/// Bounds on what one instance may use. Every runtime says in its `Support` which of them it enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Highest memory of one instance, in bytes. Default 64 MiB. Not enforced for code in the host's address space.
    pub memory_bytes_max: u64,
    /// Deadline of a call that brings none. Default 5 s. A native plugin's CPU loop outlives it; only its caller is freed. Where an instance is ended for
    /// a call that does not end, it is after this time, however early the caller's own deadline is.
    pub deadline: Duration,
    /// Calls the plugin works on at once; further ones wait until their deadline. Default 32.
    pub concurrency: u32,
    /// Highest size of one request or reply, in bytes. Default 64 MiB.
    pub payload_bytes_max: usize,
    /// Messages of one streaming call that are on their way in one direction; the sender of a further one waits. Default 64.
    pub stream_messages_max: u32,
    /// Bytes of one streaming call that are on their way in one direction; the sender of more waits. A message that is longer than this
    /// goes alone. Default 1 MiB.
    pub stream_bytes_max: usize,
    /// Time a start (`create`, `activate`, first health) may take. Default 10 s.
    pub start: Duration,
    /// Time a stop may take before force is used: calls may end in it, streams in the first half of it. Saving state may take as long once more. Default 5 s.
    pub stop: Duration,
    /// What a process has after that, from SIGTERM to SIGKILL. Default 2 s. It bounds how much longer than `stop` a stop takes; other runtimes have no
    /// such step.
    pub term: Duration,
    /// Longest that callers wait behind the gate while state goes from one instance into its successor. Default 100 ms. What takes longer is given up,
    /// and the old instance serves on. It begins when the gate closes, so a call that runs for longer than this keeps a plugin with state from being
    /// swapped. What such a call leads to, in this plugin or another, passes the gate. Plugins without state have no gate, but where several are replaced as
    /// one change: then all have, and the least of their limits is that of all.
    pub swap: Duration,
    /// Processor time of all processes of one instance together, in hundredths of one core: 100 is one core, 250 are two and a half. Default no
    /// bound. What is over waits for the next tenth of a second, calls with it; it is not ended. Enforced for processes on Linux with a `cpu` cgroup
    /// controller, and nowhere else: `Support` says so.
    pub cpu_percent: Option<u32>,
    /// Log lines per second that are kept; the rest are counted. Default 1000.
    pub log_lines_per_second: u32,
}

/// The limits that one file sets; the others stay as they are.
///
/// The host applies the plugin's first and the operator's after, so the operator has the last word:
/// `entry.limits.apply(manifest.limits.apply(Limits::default()))`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsOverride {
    /// `memory_mib`, as bytes. 1 MiB to 64 GiB.
    pub memory_bytes_max: Option<u64>,
    /// `deadline_ms`. 1 ms to 1 h.
    pub deadline: Option<Duration>,
    /// `concurrency`. 1 to 65,536.
    pub concurrency: Option<u32>,
    /// `payload_mib`, as bytes. 1 MiB to 1 GiB.
    pub payload_bytes_max: Option<usize>,
    /// `stream_messages`. 1 to 65,536.
    pub stream_messages_max: Option<u32>,
    /// `stream_kib`, as bytes. 1 KiB to 1 GiB.
    pub stream_bytes_max: Option<usize>,
    /// `start_ms`. 1 ms to 10 min.
    pub start: Option<Duration>,
    /// `stop_ms`. 1 ms to 10 min.
    pub stop: Option<Duration>,
    /// `term_ms`. 1 ms to 10 min.
    pub term: Option<Duration>,
    /// `swap_ms`. 1 ms to 10 min.
    pub swap: Option<Duration>,
    /// `cpu_percent`. 1 to 100,000: a thousand cores.
    pub cpu_percent: Option<u32>,
    /// `log_lines_per_second`. 0 (keep none) to 1,000,000.
    pub log_lines_per_second: Option<u32>,
}

/// Values that `memory_mib` may have.
const MEMORY_MIB: RangeInclusive<u64> = 1..=65_536;
/// Values that `deadline_ms` may have.
const DEADLINE_MS: RangeInclusive<u64> = 1..=3_600_000;
/// Values that `concurrency` may have.
const CONCURRENCY: RangeInclusive<u32> = 1..=65_536;
/// Values that `payload_mib` may have.
const PAYLOAD_MIB: RangeInclusive<usize> = 1..=1024;
/// Values that `stream_messages` may have.
const STREAM_MESSAGES: RangeInclusive<u32> = 1..=65_536;
/// Values that `stream_kib` may have.
const STREAM_KIB: RangeInclusive<usize> = 1..=1 << 20;
/// Values that `start_ms`, `stop_ms`, `term_ms` and `swap_ms` may have.
const START_STOP_MS: RangeInclusive<u64> = 1..=600_000;
/// Values that `cpu_percent` may have. The kernel gives no less than a hundredth of a core.
const CPU_PERCENT: RangeInclusive<u32> = 1..=100_000;
/// Values that `log_lines_per_second` may have.
const LOG_LINES: RangeInclusive<u32> = 0..=1_000_000;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            deadline: Duration::from_secs(5),
            concurrency: 32,
            payload_bytes_max: 64 << 20,
            stream_messages_max: 64,
            stream_bytes_max: 1 << 20,
            start: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            term: Duration::from_secs(2),
            swap: Duration::from_millis(100),
            cpu_percent: None,
            log_lines_per_second: 1000,
        }
    }
}

// === impl LimitsOverride ===

impl LimitsOverride {
    /// `limits`, with the values that are set here in their place.
    #[must_use]
    pub fn apply(&self, limits: Limits) -> Limits {
        Limits {
            memory_bytes_max: self.memory_bytes_max.unwrap_or(limits.memory_bytes_max),
            deadline: self.deadline.unwrap_or(limits.deadline),
            concurrency: self.concurrency.unwrap_or(limits.concurrency),
            payload_bytes_max: self.payload_bytes_max.unwrap_or(limits.payload_bytes_max),
            stream_messages_max: self.stream_messages_max.unwrap_or(limits.stream_messages_max),
            stream_bytes_max: self.stream_bytes_max.unwrap_or(limits.stream_bytes_max),
            start: self.start.unwrap_or(limits.start),
            stop: self.stop.unwrap_or(limits.stop),
            term: self.term.unwrap_or(limits.term),
            swap: self.swap.unwrap_or(limits.swap),
            cpu_percent: self.cpu_percent.or(limits.cpu_percent),
            log_lines_per_second: self.log_lines_per_second.unwrap_or(limits.log_lines_per_second),
        }
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn read(mut fields: Fields<'_>, faults: &mut Faults) -> Self {
        let limits = Self {
            memory_bytes_max: fields
                .integer("memory_mib", MEMORY_MIB, faults)
                .map(|mib| mib << 20),
            deadline: fields
                .integer("deadline_ms", DEADLINE_MS, faults)
                .map(Duration::from_millis),
            concurrency: fields.integer("concurrency", CONCURRENCY, faults),
            payload_bytes_max: fields
                .integer("payload_mib", PAYLOAD_MIB, faults)
                .map(|mib| mib << 20),
            stream_messages_max: fields.integer("stream_messages", STREAM_MESSAGES, faults),
            stream_bytes_max: fields
                .integer("stream_kib", STREAM_KIB, faults)
                .map(|kib| kib << 10),
            start: fields
                .integer("start_ms", START_STOP_MS, faults)
                .map(Duration::from_millis),
            stop: fields
                .integer("stop_ms", START_STOP_MS, faults)
                .map(Duration::from_millis),
            term: fields
                .integer("term_ms", START_STOP_MS, faults)
                .map(Duration::from_millis),
            swap: fields
                .integer("swap_ms", START_STOP_MS, faults)
                .map(Duration::from_millis),
            cpu_percent: fields.integer("cpu_percent", CPU_PERCENT, faults),
            log_lines_per_second: fields.integer("log_lines_per_second", LOG_LINES, faults),
        };
        fields.finish(faults);
        limits
    }

    /// The keys and values as a file has them.
    pub(crate) fn to_keys(self) -> Vec<(&'static str, u64)> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let keys = [
            ("memory_mib", self.memory_bytes_max.map(|bytes| bytes >> 20)),
            ("deadline_ms", self.deadline.map(ms)),
            ("concurrency", self.concurrency.map(u64::from)),
            (
                "payload_mib",
                self.payload_bytes_max.map(|bytes| (bytes >> 20) as u64),
            ),
            ("stream_messages", self.stream_messages_max.map(u64::from)),
            (
                "stream_kib",
                self.stream_bytes_max.map(|bytes| (bytes >> 10) as u64),
            ),
            ("start_ms", self.start.map(ms)),
            ("stop_ms", self.stop.map(ms)),
            ("term_ms", self.term.map(ms)),
            ("swap_ms", self.swap.map(ms)),
            ("cpu_percent", self.cpu_percent.map(u64::from)),
            ("log_lines_per_second", self.log_lines_per_second.map(u64::from)),
        ];
        keys.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}
