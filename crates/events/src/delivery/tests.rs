//! The machine against a disk that is all that survives a crash, and a world that answers as it likes.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;

/// What a driver keeps.
#[derive(Clone, Debug, Default)]
struct Disk {
    log: u64,
    cursor: u64,
    pending: BTreeMap<u64, Kept>,
    dead: BTreeMap<u64, u32>,
}

/// A driver, as short as one can be.
#[derive(Debug)]
struct Driver {
    bounds: Bounds,
    /// Nothing is replayed, and nothing overtakes.
    ordered: bool,
    disk: Disk,
    machine: Delivery,
    now: u64,
    /// How often each event was handed to the subscriber, and its attempt's number then.
    handed: BTreeMap<u64, Vec<u32>>,
    done: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    Work,
    /// The how-maniest of what is in flight.
    Settle(usize, u8),
    Pass(u16),
    /// The write that follows does not succeed.
    FailToWrite,
    Crash,
    Replay,
}

fn bounds(ordered: bool, concurrency: u32, pending: u32, attempts: u32) -> Bounds {
    let retry = RetryPolicy {
        attempts_max: attempts,
        backoff: Duration::from_millis(100),
        backoff_max: Duration::from_millis(1000),
    };
    if ordered {
        return Bounds::ordered(retry);
    }
    Bounds {
        retry,
        concurrency,
        pending_max: pending.max(concurrency),
    }
}

impl Driver {
    fn new(bounds: Bounds, ordered: bool) -> Self {
        let (machine, _) = Delivery::resume(bounds, 0, [], 0);
        Self {
            bounds,
            ordered,
            disk: Disk::default(),
            machine,
            now: 0,
            handed: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    fn work(&mut self, writes: bool) {
        let mut starts = self.machine.plan_due(self.now);
        let room = self.machine.room(starts.len()) as u64;
        let first = self.machine.cursor() + 1;
        let last = self.disk.log.min(self.machine.cursor() + room);
        starts.extend((first..=last).map(|seq| Start { seq, attempt: 1 }));
        if !writes {
            return;
        }
        self.disk.cursor = self.disk.cursor.max(last);
        for start in &starts {
            let kept = Kept {
                seq: start.seq,
                attempts: start.attempt,
                due_ms: None,
            };
            self.disk.pending.insert(start.seq, kept);
        }
        let cursor = self.machine.cursor().max(last);
        self.machine.begin(&starts, cursor);
        assert!(self.machine.in_flight() <= self.bounds.concurrency, "D3");
        for start in starts {
            let before = self.handed.entry(start.seq).or_default();
            before.push(start.attempt);
            if self.ordered {
                // D5: everything before it is done or dead.
                let open = |seq: &u64| !self.done.contains(seq) && !self.disk.dead.contains_key(seq);
                let later = (1..start.seq).find(open);
                assert_eq!(later, None, "{} overtakes", start.seq);
            }
        }
    }

    fn settle(&mut self, seq: u64, outcome: &Outcome) {
        let next = self.machine.settle(seq, outcome, self.now, 0.5);
        if matches!(outcome, Outcome::Done) {
            self.done.push(seq);
        }
        self.keep(seq, next);
    }

    fn keep(&mut self, seq: u64, next: Next) {
        match next {
            Next::Settled => drop(self.disk.pending.remove(&seq)),
            Next::Again(kept) => drop(self.disk.pending.insert(seq, kept)),
            Next::Dead { attempts } => {
                assert!(attempts <= self.bounds.retry.attempts_max, "D4");
                self.disk.pending.remove(&seq);
                self.disk.dead.insert(seq, attempts);
            }
        }
    }

    fn crash(&mut self) {
        let kept: Vec<_> = self.disk.pending.values().copied().collect();
        let (machine, cut_off) = Delivery::resume(self.bounds, self.disk.cursor, kept, self.now);
        self.machine = machine;
        for (seq, next) in cut_off {
            self.keep(seq, next);
        }
    }

    fn replay(&mut self) {
        let dead: Vec<_> = std::mem::take(&mut self.disk.dead).into_keys().collect();
        for seq in &dead {
            let kept = Kept {
                seq: *seq,
                attempts: 0,
                due_ms: Some(self.now),
            };
            self.disk.pending.insert(*seq, kept);
        }
        self.machine.revive(dead, self.now);
    }
}

fn outcome(word: u8) -> Outcome {
    match word % 4 {
        0 => Outcome::Done,
        1 => Outcome::Failed("no".to_owned()),
        2 => Outcome::Never("never".to_owned()),
        _ => Outcome::NotDelivered {
            why: "down".to_owned(),
            wait: Duration::from_millis(50),
        },
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Publish),
        4 => Just(Step::Work),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(which, word)| Step::Settle(which, word)),
        2 => (0u16..2000).prop_map(Step::Pass),
        1 => Just(Step::FailToWrite),
        1 => Just(Step::Crash),
        1 => Just(Step::Replay),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn every_event_is_handed_over_and_ends(
        steps in steps(), ordered: bool, concurrency in 1u32..5, pending in 1u32..9, attempts in 1u32..5,
    ) {
        let mut driver = Driver::new(bounds(ordered, concurrency, pending, attempts), ordered);
        let mut replayed = false;
        for step in steps {
            match step {
                Step::Publish => driver.disk.log += 1,
                Step::Work => driver.work(true),
                Step::FailToWrite => driver.work(false),
                Step::Settle(which, word) => {
                    let flying: Vec<_> = driver.machine.flying().collect();
                    if let Some(seq) = flying.get(which.checked_rem(flying.len()).unwrap_or(0)) {
                        driver.settle(*seq, &outcome(word));
                    }
                }
                Step::Pass(ms) => driver.now += u64::from(ms),
                Step::Crash => driver.crash(),
                // An operator's word may overtake what waits.
                Step::Replay if ordered => {}
                Step::Replay => {
                    replayed = true;
                    driver.replay();
                }
            }
        }
        // A well-behaved end of the world.
        driver.crash();
        while driver.machine.cursor() < driver.disk.log || driver.machine.pending() > 0 {
            driver.now += 2000;
            driver.work(true);
            for seq in driver.machine.flying().collect::<Vec<_>>() {
                driver.settle(seq, &Outcome::Done);
            }
        }
        for seq in 1..=driver.disk.log {
            prop_assert!(driver.handed.contains_key(&seq), "event {} was never handed over", seq);
            let ended = driver.done.contains(&seq) || driver.disk.dead.contains_key(&seq);
            prop_assert!(ended, "event {} is lost", seq);
            if !replayed {
                let most = driver.handed[&seq].iter().max().copied().unwrap_or(0);
                prop_assert!(most <= attempts, "D4: {} attempts", most);
            }
        }
        prop_assert!(driver.disk.pending.is_empty());
    }
}

#[test]
fn an_event_that_ends_its_host_each_time_is_a_dead_letter() {
    let mut driver = Driver::new(bounds(false, 1, 1, 3), false);
    driver.disk.log = 1;
    for _ in 0..3 {
        driver.now += 10_000;
        driver.work(true);
        driver.crash();
    }
    assert_eq!(driver.disk.dead.get(&1), Some(&3));
    assert_eq!(driver.handed[&1], [1, 2, 3]);
}

#[test]
fn an_attempt_that_reached_nobody_does_not_count() {
    let mut driver = Driver::new(bounds(false, 1, 1, 1), false);
    driver.disk.log = 1;
    for _ in 0..5 {
        driver.now += 1000;
        driver.work(true);
        driver.settle(1, &outcome(3));
    }
    assert!(driver.disk.dead.is_empty());
    assert_eq!(driver.handed[&1], [1, 1, 1, 1, 1]);
}

#[test]
fn what_waits_is_due_at_its_time_and_not_before() {
    let mut driver = Driver::new(bounds(false, 1, 4, 3), false);
    driver.disk.log = 1;
    driver.work(true);
    driver.settle(1, &outcome(1));
    assert_eq!(driver.machine.next_due(), Some(75), "100 ms, shortened by chance");
    driver.now = 74;
    assert!(driver.machine.plan_due(driver.now).is_empty());
    driver.now = 75;
    assert_eq!(
        driver.machine.plan_due(driver.now),
        [Start { seq: 1, attempt: 2 }]
    );
}

#[test]
fn a_clock_that_is_set_back_delays_no_retry() {
    let mut bounds = bounds(false, 1, 1, 8);
    bounds.retry.backoff_max = Duration::from_secs(3600);
    let (now, hour) = (1_700_000_000_000, 3_600_000);
    for (due, is_due) in [
        (now, true),
        (now + 1, false),
        (now + hour, false),
        (now + hour + 1, true),
        (now + 24 * hour, true),
    ] {
        let kept = Kept {
            seq: 1,
            attempts: 1,
            due_ms: Some(due),
        };
        let (machine, _) = Delivery::resume(bounds, 1, [kept], now);
        assert_eq!(
            machine.plan_due(now).len(),
            usize::from(is_due),
            "{} ms away",
            due - now
        );
    }
}
