//! Every interleaving of readers and a writer, for the version with fences.
//! `RUSTFLAGS="--cfg loom" cargo test -p mortise-hazard --test loom --release --target-dir target/loom`
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use loom::{cell::UnsafeCell, sync::Arc, thread};
use mortise_hazard::{Cell, Retired};

/// A value whose reads and whose end loom watches: an unordered pair of them fails the test.
struct Watched {
    number: usize,
    touched: UnsafeCell<usize>,
}

// SAFETY: the reads are shared; the write is made by whoever owns the value alone, which is what the tests are about.
unsafe impl Sync for Watched {}

impl Watched {
    fn new(number: usize) -> Self {
        Self {
            number,
            touched: UnsafeCell::new(number),
        }
    }

    fn read(&self) -> usize {
        // SAFETY: loom fails the test if this is not ordered before `Drop`.
        self.touched.with(|it| assert_eq!(unsafe { *it }, self.number));
        self.number
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: owned alone; loom checks it.
        self.touched.with_mut(|it| unsafe { *it = usize::MAX });
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

fn drain(mut retired: Retired<Watched>) {
    while !retired.is_drained() {
        thread::yield_now();
    }
    assert!(retired.is_drained(), "I5");
    drop(retired.into_inner().ok().expect("I5"));
}

#[test]
fn a_pinned_value_outlives_the_pin() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let reader = thread::spawn({
            let cell = cell.clone();
            move || cell.with(Watched::read)
        });
        drain(cell.swap(Watched::new(2)));
        assert_eq!(cell.with(Watched::read), 2);
        assert!((1..=2).contains(&reader.join().unwrap()));
    });
}

#[test]
fn a_frame_that_is_used_twice_orders_both_uses() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let reader = thread::spawn({
            let cell = cell.clone();
            move || {
                let first = cell.with(Watched::read);
                let second = cell.with(Watched::read);
                assert!(first <= second, "a reader never goes back");
            }
        });
        drain(cell.swap(Watched::new(2)));
        reader.join().unwrap();
    });
}

#[test]
fn a_guard_holds_the_value_on_another_thread() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let guard = cell.acquire();
        let reader = thread::spawn(move || guard.read());
        drain(cell.swap(Watched::new(2)));
        assert_eq!(reader.join().unwrap(), 1);
    });
}

#[test]
fn acquiring_races_with_a_swap() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let reader = thread::spawn({
            let cell = cell.clone();
            move || {
                let guard = cell.acquire();
                let copy = guard.clone();
                drop(guard);
                copy.read()
            }
        });
        drain(cell.swap(Watched::new(2)));
        reader.join().unwrap();
    });
}

/// Loom's build has one frame, so the inner pin counts.
#[test]
fn a_nested_pin_counts_when_the_frames_are_taken() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let reader = thread::spawn({
            let cell = cell.clone();
            move || {
                let outer = cell.pin();
                let inner = cell.pin();
                drop(outer);
                inner.read();
            }
        });
        drain(cell.swap(Watched::new(2)));
        reader.join().unwrap();
    });
}

#[test]
fn a_slot_passes_to_the_next_thread() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let readers = thread::spawn({
            let cell = cell.clone();
            move || {
                let first = cell.clone();
                let ended = thread::spawn(move || {
                    first.with(Watched::read);
                    mortise_hazard::end_of_thread();
                });
                cell.with(Watched::read);
                ended.join().unwrap();
                mortise_hazard::end_of_thread();
                cell.with(Watched::read);
            }
        });
        drain(cell.swap(Watched::new(2)));
        readers.join().unwrap();
    });
}

#[test]
fn a_value_dropped_undrained_is_freed_by_a_later_swap() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let reader = thread::spawn({
            let cell = cell.clone();
            move || cell.with(Watched::read)
        });
        drop(cell.swap(Watched::new(2)));
        reader.join().unwrap();
        drain(cell.swap(Watched::new(3)));
    });
}

#[test]
fn a_restored_value_is_found_again() {
    model(|| {
        let cell = Arc::new(Cell::new(Watched::new(1)));
        let reader = thread::spawn({
            let cell = cell.clone();
            move || cell.with(Watched::read)
        });
        let old = cell.swap(Watched::new(2));
        drain(cell.restore(old));
        assert_eq!(cell.with(Watched::read), 1);
        reader.join().unwrap();
    });
}
