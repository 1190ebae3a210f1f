//! What a generation did: counts on a cache line per thread group, latency sampled into a histogram.
//!
//! Counting must not make callers on different cores fight for one cache line, so each thread has a shard of its own as long as there
//! are no more threads than shards, and readers add the shards up. Most calls take no time stamp: one of 64 is sampled, or every one while
//! a fresh version is on probation and a percentile is wanted soon.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use mortise_lifecycle::{Baseline, Measured};
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::Code;

const SHARDS: usize = 16;
/// One call of this many is sampled, outside probation.
const SAMPLE_EVERY: u32 = 64;

/// What a generation did.
#[derive(Debug)]
pub(crate) struct Stats {
    shards: [Shard; SHARDS],
    sample_mask: AtomicU32,
    latency: Histogram,
}

/// The sum over all threads, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) faults: u64,
}

/// How things stood at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    totals: Totals,
    buckets: Vec<u32>,
}

/// Two cache lines, because the prefetcher takes them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    calls: AtomicU64,
    errors: AtomicU64,
    faults: AtomicU64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            shards: Default::default(),
            sample_mask: AtomicU32::new(SAMPLE_EVERY - 1),
            latency: Histogram::new(),
        }
    }

    /// Counts a call that begins, and says whether its latency is to be sampled.
    pub(crate) fn begin(&self) -> bool {
        let number = self.shards[shard()].calls.fetch_add(1, Ordering::Relaxed);
        number & u64::from(self.sample_mask.load(Ordering::Relaxed)) == 0
    }

    /// Counts how it ended.
    pub(crate) fn failed(&self, error: &CallError) {
        let shard = &self.shards[shard()];
        shard.errors.fetch_add(1, Ordering::Relaxed);
        if is_fault(error) {
            shard.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts that it was never let in.
    pub(crate) fn refused(&self) {
        self.shards[shard()].errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a latency sample.
    pub(crate) fn sample(&self, latency: Duration) {
        self.latency
            .record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Samples every call, or one of 64.
    pub(crate) fn sample_all(&self, all: bool) {
        self.sample_mask
            .store(if all { 0 } else { SAMPLE_EVERY - 1 }, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        let sum = |count: fn(&Shard) -> &AtomicU64| {
            self.shards
                .iter()
                .map(|shard| count(shard).load(Ordering::Relaxed))
                .sum()
        };
        Totals {
            calls: sum(|it| &it.calls),
            errors: sum(|it| &it.errors),
            faults: sum(|it| &it.faults),
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.latency.count()
    }

    /// The latency below which this part of the samples lies; zero without samples.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        Duration::from_nanos(self.latency.quantile(part))
    }

    /// How things stand now, to measure from.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            totals: self.totals(),
            buckets: self.latency.buckets(),
        }
    }

    /// What happened since.
    pub(crate) fn since(&self, mark: &Mark) -> Measured {
        let now = self.totals();
        let buckets: Vec<u32> = self
            .latency
            .buckets()
            .iter()
            .zip(&mark.buckets)
            .map(|(now, then)| now.wrapping_sub(*then))
            .collect();
        Measured {
            calls: now.calls.saturating_sub(mark.totals.calls),
            faults: now.faults.saturating_sub(mark.totals.faults),
            samples: buckets.iter().map(|it| u64::from(*it)).sum(),
            p95: Duration::from_nanos(quantile(&buckets, 0.95)),
        }
    }

    pub(crate) fn baseline(&self) -> Baseline {
        let Totals { calls, faults, .. } = self.totals();
        Baseline {
            calls,
            faults,
            samples: self.samples(),
            p95: self.quantile(0.95),
        }
    }
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.faults += other.faults;
    }
}

/// Whether an error counts against the plugin: it crashed, overran its deadline, or called itself broken. What a caller did wrong, and what
/// a plugin refuses on purpose, does not.
pub(crate) fn is_fault(error: &CallError) -> bool {
    match error.kind() {
        CallErrorKind::GuestFault | CallErrorKind::Deadline => true,
        CallErrorKind::Returned => {
            matches!(
                error.status().kind(),
                Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented
            )
        }
        _ => false,
    }
}

/// This thread's shard.
fn shard() -> usize {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local!(static MINE: Cell<Option<u32>> = const { Cell::new(None) });
    let mine = MINE.with(|mine| match mine.get() {
        Some(number) => number,
        None => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(number));
            number
        }
    });
    mine as usize % SHARDS
}

/// Log-linear buckets over nanoseconds: 16 per power of two, so a quantile is at most 1/16 too high.
#[derive(Debug)]
struct Histogram {
    buckets: Box<[AtomicU32]>,
}

const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
/// Up to 2^40 ns (18 minutes); whatever is longer falls into the last bucket.
const BUCKETS: usize = ((40 - SUB_BITS as usize) + 1) * SUB as usize;

impl Histogram {
    fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn record(&self, value: u64) {
        self.buckets[bucket(value).min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.buckets
            .iter()
            .map(|it| u64::from(it.load(Ordering::Relaxed)))
            .sum()
    }

    fn buckets(&self) -> Vec<u32> {
        self.buckets.iter().map(|it| it.load(Ordering::Relaxed)).collect()
    }

    fn quantile(&self, part: f64) -> u64 {
        quantile(&self.buckets(), part)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a count is a count; beyond 2^52 samples a quantile may be off by one sample"
)]
fn quantile(buckets: &[u32], part: f64) -> u64 {
    let count: u64 = buckets.iter().map(|it| u64::from(*it)).sum();
    let wanted = (count as f64 * part.clamp(0.0, 1.0)).ceil() as u64;
    let mut seen = 0;
    for (index, count) in buckets.iter().enumerate() {
        seen += u64::from(*count);
        if seen >= wanted && seen > 0 {
            return highest_of(index);
        }
    }
    0
}

#[expect(clippy::cast_possible_truncation, reason = "bounded by 64 * SUB")]
fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + ((value >> shift) - SUB)) as usize
}

/// The highest value that falls into a bucket.
fn highest_of(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let shift = index / SUB - 1;
    ((index % SUB + SUB + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use mortise_wire::Status;

    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_at_most_a_sixteenth_below_its_top() {
        let values =
            (0..200).chain((8..40).flat_map(|bits| [(1_u64 << bits) - 1, 1 << bits, (1 << bits) + 1]));
        for value in values {
            let top = highest_of(bucket(value));
            assert!(
                top >= value && top - value <= value / SUB,
                "{value} has top {top}"
            );
            assert_eq!(bucket(top), bucket(value));
            assert_eq!(bucket(top + 1), bucket(value) + 1);
        }
    }

    #[test]
    fn quantiles_of_known_samples() {
        let stats = Stats::new();
        assert_eq!(stats.quantile(0.95), Duration::ZERO);
        for value in 1..=100 {
            stats.sample(Duration::from_nanos(value * 1000));
        }
        let near = |part, expected: u64| {
            let found = u64::try_from(stats.quantile(part).as_nanos()).expect("small");
            assert!(
                found >= expected && found <= expected + expected / 16,
                "{part}: {found}, not {expected}"
            );
        };
        near(0.5, 50_000);
        near(0.95, 95_000);
        near(0.99, 99_000);
        near(1.0, 100_000);
        stats.sample(Duration::from_secs(86_400));
        assert_eq!(stats.samples(), 101);
    }

    #[test]
    fn what_was_before_a_mark_is_not_measured() {
        let stats = Stats::new();
        stats.begin();
        stats.sample(Duration::from_secs(1));
        let mark = stats.mark();
        assert_eq!(stats.since(&mark), Measured::default());
        for _ in 0..20 {
            stats.begin();
            stats.sample(Duration::from_micros(100));
        }
        stats.failed(&CallError::new(CallErrorKind::GuestFault, "panicked"));
        let measured = stats.since(&mark);
        assert_eq!((measured.calls, measured.faults, measured.samples), (20, 1, 20));
        assert!(measured.p95 < Duration::from_micros(110), "{measured:?}");
        assert!(stats.quantile(1.0) >= Duration::from_secs(1));
    }

    #[test]
    fn one_of_sixty_four_is_sampled_and_all_on_probation() {
        let stats = Stats::new();
        assert_eq!((0..640).filter(|_| stats.begin()).count(), 10);
        stats.sample_all(true);
        assert_eq!((0..640).filter(|_| stats.begin()).count(), 640);
        assert_eq!(stats.totals().calls, 1280);
    }

    #[test]
    fn what_the_caller_did_wrong_is_no_fault() {
        let stats = Stats::new();
        stats.failed(&CallError::returned(Status::new(Code::InvalidArgument, "no")));
        stats.failed(&CallError::returned(Status::new(Code::Internal, "broken")));
        stats.failed(&CallError::new(CallErrorKind::Cancelled, "gone"));
        stats.failed(&CallError::new(CallErrorKind::GuestFault, "panicked"));
        assert_eq!(
            stats.totals(),
            Totals {
                calls: 0,
                errors: 4,
                faults: 2
            }
        );
    }
}
