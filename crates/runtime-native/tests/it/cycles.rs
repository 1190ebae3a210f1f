//! A hundred loads and unloads: nothing grows but the mappings that are documented to.

use std::path::Path;

use mortise_runtime::{Instance, RuntimeErrorKind};
use mortise_runtime_native::mappings;

use crate::bench::{Bench, LONG, call, has_compiler, until};

/// What a leak would make grow by one in every cycle.
#[derive(Debug)]
struct Counts {
    files: usize,
    threads: usize,
    mappings: u32,
}

impl Counts {
    fn now() -> Self {
        Self {
            files: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            mappings: mappings(),
        }
    }

    /// A thread that has done its work takes a moment to go, and those of the executor linger for some seconds.
    async fn come_back(&self) {
        until("files and threads are back to what they were", || {
            let now = Self::now();
            now.files <= self.files && now.threads <= self.threads
        })
        .await;
        assert_eq!(mappings(), self.mappings);
    }
}

fn entries(dir: &str) -> usize {
    std::fs::read_dir(Path::new(dir)).unwrap().count()
}

#[tokio::test]
async fn a_hundred_cycles_leave_neither_files_nor_threads() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::alone();
    let library = bench.compile("cycle", &[]);
    // Bytes after the end of an ELF file are nobody's: another digest, the same plugin.
    let versions: Vec<Vec<u8>> = (0..10u8).map(|it| [&library[..], &[it]].concat()).collect();
    let cycle = async |number: usize| {
        let probe = bench
            .start(versions[number % versions.len()].clone())
            .await
            .unwrap();
        // On a thread of the instance's own, which the stop joins.
        call(&*probe, "Meet", &[1]).await.unwrap();
        assert_eq!(probe.stop(LONG).await.forced, None);
        probe
    };
    for number in 0..versions.len() {
        cycle(number).await;
    }
    let before = Counts::now();
    let mut last: Option<Box<dyn Instance>> = None;
    for number in 0..100 {
        last = Some(cycle(number).await);
    }
    before.come_back().await;
    let retired = last.unwrap().usage().retired_mappings;
    assert!(retired >= 10, "what stays mapped is counted: {retired}");
}

#[tokio::test]
async fn failed_starts_leave_neither_files_nor_threads() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::alone();
    let broken = bench.compile("cycle-broken", &["BAD_ACTIVATE"]);
    let fail = async || {
        let error = bench.start(broken.clone()).await.map(|_| ()).expect_err("broken");
        assert_eq!(error.kind(), RuntimeErrorKind::StartFailed);
    };
    fail().await;
    let before = Counts::now();
    for _ in 0..50 {
        fail().await;
    }
    before.come_back().await;
}
