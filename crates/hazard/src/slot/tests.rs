use std::{sync::LazyLock, thread};

use super::*;
use crate::Cell as Hazard;

/// The tests here count what the whole process has.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn slots_of_ended_threads_are_reused_unless_pinned() {
    let _alone = lock(&ALONE);
    static CELL: LazyLock<Hazard<u32>> = LazyLock::new(|| Hazard::new(1));
    let before = count();
    for _ in 0..100 {
        thread::spawn(|| CELL.with(|it| assert_eq!(*it, 1)))
            .join()
            .unwrap();
    }
    assert!(count() <= before + 1, "one slot for all of them");
    let before = count();

    thread::spawn(|| std::mem::forget(CELL.pin())).join().unwrap();
    thread::spawn(|| CELL.with(|_| ())).join().unwrap();
    assert_eq!(count(), before + 1, "I1: a slot that still pins is not handed on");
    assert!(!CELL.swap(2).is_drained());
}

/// A pin in a thread-local that is destroyed after the slot was given back.
#[test]
fn a_pin_in_a_thread_local_destructor_is_safe() {
    let _alone = lock(&ALONE);
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            let cell = Hazard::new(7);
            assert_eq!(*cell.pin(), 7);
            assert!(cell.swap(8).is_drained());
        }
    }
    thread_local!(static LATE: Late = const { Late });
    let order = |late_first: bool| {
        thread::spawn(move || {
            if late_first {
                LATE.with(|_| ());
            }
            Hazard::new(1).with(|it| assert_eq!(*it, 1));
            LATE.with(|_| ());
        })
    };
    order(true).join().unwrap();
    order(false).join().unwrap();
}
