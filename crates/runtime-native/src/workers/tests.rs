use std::sync::{
    Barrier,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use super::*;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn jobs_run_at_once_up_to_the_bound() {
    let workers = Workers::new("test", 4);
    let together = Arc::new(Barrier::new(5));
    for _ in 0..4 {
        let together = together.clone();
        workers.run(Box::new(move || _ = together.wait())).unwrap();
    }
    together.wait();
    let (sender, done) = mpsc::channel();
    for number in 0..100 {
        let sender = sender.clone();
        workers
            .run(Box::new(move || sender.send(number).unwrap()))
            .unwrap();
    }
    let mut all: Vec<_> = done.iter().take(100).collect();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    assert!(workers.shared.lock().threads <= 4);
    workers.close();
    assert_eq!(workers.wait_ended(Instant::now() + LONG), 0);
}

#[test]
fn closing_drops_what_waits_and_names_what_runs() {
    let workers = Workers::new("test", 1);
    let (go, wait) = mpsc::channel::<()>();
    let (started, is_running) = mpsc::channel();
    workers
        .run(Box::new(move || {
            started.send(()).unwrap();
            _ = wait.recv();
        }))
        .unwrap();
    is_running.recv().unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    workers
        .run(Box::new(move || _ = counted.fetch_add(1, Ordering::Relaxed)))
        .unwrap();
    workers.close();
    assert_eq!(Arc::strong_count(&ran), 1, "the waiting job is dropped at once");
    assert!(matches!(workers.run(Box::new(|| ())), Err(Refused::Closed)));
    assert_eq!(workers.wait_ended(Instant::now()), 1);
    drop(go);
    assert_eq!(workers.wait_ended(Instant::now() + LONG), 0);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}

#[test]
fn a_panicking_job_costs_no_thread() {
    let workers = Workers::new("test", 1);
    workers.run(Box::new(|| panic!("on purpose"))).unwrap();
    let (sender, done) = mpsc::channel();
    workers.run(Box::new(move || sender.send(()).unwrap())).unwrap();
    done.recv().unwrap();
    workers.close();
    assert_eq!(workers.wait_ended(Instant::now() + LONG), 0);
}
