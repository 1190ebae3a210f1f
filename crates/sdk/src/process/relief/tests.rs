use std::{
    sync::{Arc, Barrier, mpsc},
    thread,
};

use super::*;

/// The reader, and threads that give it to each other as `Work::read` does.
struct Desk {
    relief: Relief,
    reader: Mutex<()>,
}

impl Desk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            relief: Relief::new(2),
            reader: Mutex::new(()),
        })
    }

    fn wait_until_somebody_stands_by(&self) {
        while !self.relief.may_run(1) {
            thread::yield_now();
        }
    }
}

#[test]
fn a_method_that_does_not_return_is_relieved_and_counts_as_slow() {
    let desk = Desk::new();
    let (taken, was_taken) = mpsc::channel();
    let done = Arc::new(Barrier::new(2));
    let reading = desk.reader.lock().unwrap();
    let relief = {
        let (desk, done) = (desk.clone(), done.clone());
        thread::spawn(move || {
            let reader = desk.relief.stand_by(|| desk.reader.try_lock().ok());
            taken.send(()).unwrap();
            done.wait();
            drop(reader);
        })
    };
    desk.wait_until_somebody_stands_by();
    drop(reading);
    desk.relief.begin(0);
    // The method runs until the other thread has the reader.
    was_taken.recv().unwrap();
    desk.relief.end();
    assert!(desk.reader.try_lock().is_err(), "R3");
    assert!(!desk.relief.may_run(1), "R2: nobody stands by");
    done.wait();
    relief.join().unwrap();
    desk.relief.standing_by.store(true, Ordering::Release);
    assert!(!desk.relief.may_run(0), "it was slow");
    assert!(desk.relief.may_run(1));
}

#[test]
fn a_method_that_begins_wakes_the_one_that_stands_by() {
    let desk = Desk::new();
    let reading = desk.reader.lock().unwrap();
    let relief = {
        let desk = desk.clone();
        thread::spawn(move || drop(desk.relief.stand_by(|| desk.reader.try_lock().ok())))
    };
    while !desk.relief.asleep.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    drop(reading);
    desk.relief.begin(1);
    relief.join().unwrap();
    desk.relief.end();
}

#[test]
fn a_slow_method_is_forgiven_after_quick_runs() {
    let relief = Relief::new(1);
    relief.standing_by.store(true, Ordering::Release);
    assert!(relief.may_run(0));
    relief.note(0, QUICK * 2, true);
    for _ in 0..FORGIVEN_AFTER {
        assert!(!relief.may_run(0));
        relief.note(0, Duration::ZERO, true);
    }
    assert!(relief.may_run(0));
    assert!(!relief.may_run(1), "a number that is no method");
}
