//! The asymmetric version under load: what loom cannot check. Bounded: about three seconds in all.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mortise_hazard::{Cell, FRAMES, Undrained};

/// A generation that notices when it is used after its end.
struct Counter {
    calls: AtomicU64,
    open: AtomicBool,
}

impl Counter {
    fn new(calls: u64) -> Self {
        Self {
            calls: AtomicU64::new(calls),
            open: AtomicBool::new(true),
        }
    }

    fn call(&self) {
        assert!(self.open.load(Ordering::Relaxed), "I2: used after it was drained");
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn close(&self) -> u64 {
        self.open.store(false, Ordering::Relaxed);
        self.calls.load(Ordering::Relaxed)
    }
}

/// The value is poisoned *before* it is freed, so a reader that is late is seen even if the memory is not reused.
impl Drop for Counter {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

/// Carries the count from generation to generation: after the last swap it must equal the calls made. `call` is what a reader does.
fn no_call_is_lost(threads: usize, call: impl Fn(&Cell<Counter>) + Send + Sync + Copy + 'static) {
    let cell = Arc::new(Cell::new(Counter::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..threads)
        .map(|_| {
            let (cell, stop) = (cell.clone(), stop.clone());
            thread::spawn(move || {
                let mut made = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    call(&cell);
                    made += 1;
                }
                made
            })
        })
        .collect();
    let until = Instant::now() + Duration::from_millis(900);
    let (mut swaps, mut closed) = (0u64, 0u64);
    while Instant::now() < until {
        let mut old = cell.swap(Counter::new(0));
        old.wait_drained(Duration::from_secs(60)).unwrap();
        closed += old.close();
        swaps += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let made: u64 = readers.into_iter().map(|it| it.join().unwrap()).sum();
    assert_eq!(closed + cell.with(|it| it.close()), made, "lost or doubled");
    assert!(swaps > 0 && made > 0);
}

#[test]
fn pins_under_swaps() {
    no_call_is_lost(3, |cell| cell.with(Counter::call));
}

#[test]
fn guards_under_swaps() {
    no_call_is_lost(3, |cell| cell.acquire().clone().call());
}

#[test]
fn nested_pins_under_swaps() {
    no_call_is_lost(3, |cell| {
        let deep: Vec<_> = (0..FRAMES + 4).map(|_| cell.pin()).collect();
        deep[deep.len() - 1].call();
    });
}

#[test]
fn a_pin_keeps_its_value_and_only_its_own() {
    let cell = Cell::new(1);
    let pinned = cell.pin();
    let mut old = cell.swap(2);
    assert!(!old.is_drained());
    assert_eq!(old.wait_drained(Duration::ZERO), Err(Undrained::TimedOut));
    assert_eq!((*pinned, *old), (1, 1));
    let newer = cell.pin();
    assert!(!old.is_drained());
    drop(pinned);
    assert!(
        old.is_drained(),
        "a pin of the new value does not hold the old one"
    );
    assert_eq!(old.into_inner().ok(), Some(1));
    assert_eq!(*newer, 2);
}

#[test]
fn pins_are_dropped_in_any_order_and_beyond_the_frames() {
    let cell = Cell::new(1);
    let mut pins: Vec<_> = (0..FRAMES * 2).map(|_| cell.pin()).collect();
    let mut old = cell.swap(2);
    while !pins.is_empty() {
        assert!(!old.is_drained());
        assert_eq!(*pins.swap_remove(pins.len() / 2), 1);
    }
    assert!(old.is_drained());
}

#[test]
fn a_guard_outlives_its_cell() {
    let value = Arc::new(());
    let cell = Cell::new(value.clone());
    let guard = cell.acquire();
    drop(cell);
    assert_eq!(Arc::strong_count(&guard), 2);
    drop(guard);
    drop(Cell::new(0).swap(1)); // any swap sweeps the graveyard; other tests may have done it already
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn an_undrained_value_is_restored() {
    let cell = Cell::new("old");
    let pinned = cell.pin();
    let old = cell.swap("gate");
    let mut gate = cell.restore(old);
    assert!(gate.is_drained());
    assert_eq!(
        (*pinned, *cell.pin(), gate.into_inner().ok()),
        ("old", "old", Some("gate"))
    );
}

#[test]
fn a_panicking_reader_lets_go() {
    let cell = Cell::new(1);
    let reader = thread::scope(|scope| scope.spawn(|| cell.with(|_| panic!("on purpose"))).join());
    assert!(reader.is_err());
    assert!(cell.swap(2).is_drained());
}

#[test]
fn drained_waits_on_any_executor() {
    let cell = Cell::new(1);
    let pinned = cell.pin();
    let mut old = cell.swap(2);
    let mut waits = 0;
    let mut pinned = Some(pinned);
    let future = old.drained(|time| {
        assert!(time <= Duration::from_millis(1));
        waits += 1;
        if waits == 50 {
            pinned = None;
        }
        std::future::ready(())
    });
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert_eq!(future.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(())));
}

/// Linux grants the barrier unless a filter forbids it; then the fences must carry the tests above.
#[test]
#[cfg(all(target_os = "linux", not(feature = "fence"), not(miri)))]
fn linux_reads_without_fences() {
    let barrier = rustix::thread::MembarrierQuery::PRIVATE_EXPEDITED;
    assert_eq!(
        mortise_hazard::is_asymmetric(),
        rustix::thread::membarrier_query().contains(barrier)
    );
}
