//! A data directory on a disk that is full: a real one, a small tmpfs. Needs root, to mount it.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use mortise_host::{
    EventStream, Host, HostError, HostErrorKind, Publication,
    event::{Outcome, ReadQuery, RetryPolicy, SubscriptionTerms},
};
use mortise_manifest::{RuntimeName, SubscribeFrom};

use crate::closures::{World, call, contract, info, request};

/// A file system of its own; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where it cannot be mounted.
    fn of(size: &str) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "mortise-test"])
            .arg(place.path())
            .output();
        mounted.is_ok_and(|it| it.status.success()).then(|| Self(place))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space that is left.
    fn fill(&self) {
        let mut chunk = 64 << 10;
        let mut number = 0;
        while chunk > 0 {
            let file = self.path().join(format!("filler-{number}"));
            if fs::write(&file, vec![1; chunk]).is_err() {
                let _ = fs::remove_file(file);
                chunk /= 2;
            }
            number += 1;
        }
    }

    fn free(&self) {
        for entry in fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("filler-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// A small one; `None`, and a line that says so, where it cannot be.
fn small_disk(size: &str) -> Option<Disk> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let disk = Disk::of(size);
    if disk.is_none() {
        println!("skipped: needs to mount a tmpfs");
    }
    disk
}

#[tokio::test]
async fn a_full_disk_is_told_changes_nothing_and_is_over_when_there_is_space() {
    let Some(disk) = small_disk("4m") else { return };
    let world = World::new();
    let host = async || {
        let builder = world.builder().data_dir(disk.path().join("data"));
        builder.remember_loads().start().await.unwrap()
    };
    let running = host().await;
    let (old, _) = world.package("echo", "1.0.0", "");
    let (new, _) = world.package("echo", "1.1.0", "");
    running.load(request(&old)).await.unwrap();

    disk.fill();
    // Everything that would change something is refused before anything is done, and says why.
    for error in [
        running.load(request(&new)).await.unwrap_err(),
        running.unload("echo").await.unwrap_err(),
        running.rollback("echo", Some(1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), HostErrorKind::Storage, "{error}");
        assert!(
            error.to_string().contains("no space is left on its disk"),
            "{error}"
        );
        assert!(
            error.hint().is_some_and(|it| it.contains("free some space")),
            "{error:?}"
        );
    }
    // What serves serves, and what is on record can be read.
    assert_eq!(call(&running, "plugin.echo.Call", "x").await.unwrap(), "x");
    assert_eq!(info(&running, "echo").plugin.version.to_string(), "1.0.0");
    let before = running.changes(Some("echo"), None, 10).await.unwrap();
    assert_eq!(
        before.len(),
        1,
        "what could not be written down was not done: {before:?}"
    );

    disk.free();
    running.load(request(&new)).await.unwrap();
    assert_eq!(call(&running, "plugin.echo.Call", "y").await.unwrap(), "y");
    running.shutdown().await;
    drop(running);
    let again = host().await;
    let echo = info(&again, "echo");
    assert_eq!(
        (echo.plugin.version.to_string(), echo.runtime),
        ("1.1.0".to_owned(), Some(RuntimeName::Wasm))
    );
    let changes = again.changes(Some("echo"), None, 10).await.unwrap();
    let outcomes: Vec<_> = changes.iter().map(|it| it.outcome.as_str()).collect();
    assert_eq!(
        outcomes,
        ["done", "done"],
        "nothing is lost, and coming back is no change"
    );
}

/// An event of 20 kB that says which one it is.
async fn publish(host: &Host, number: u64) -> Result<u64, HostError> {
    let event = Publication {
        topic: "test.things".to_owned(),
        payload: Bytes::from(format!("{number} {}", "x".repeat(20_000))),
        type_name: Some("test.v1.Blob".to_owned()),
        descriptor_set: Some(contract().into()),
        ..Publication::default()
    };
    host.publish(event).await.map(|it| it.seq)
}

async fn subscribe(host: &Host) -> EventStream {
    let terms = SubscriptionTerms {
        name: "ours".to_owned(),
        pattern: "test.>".parse().unwrap(),
        from: SubscribeFrom::Oldest,
        retry: RetryPolicy {
            attempts_max: 100,
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(20),
        },
        concurrency: 4,
        ordered: false,
    };
    host.subscribe(terms).await.unwrap()
}

/// Takes deliveries until each of these was there.
async fn take(stream: &mut EventStream, mut missing: BTreeSet<u64>) {
    while !missing.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
        let delivered = next
            .unwrap_or_else(|_| panic!("never delivered: {missing:?}"))
            .unwrap();
        missing.remove(&delivered.event.seq);
        delivered.receipt.settle(Outcome::Done).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_publishers_and_deliveries_go_on_when_there_is_space() {
    let Some(disk) = small_disk("6m") else { return };
    let world = World::new();
    let builder = || world.builder().data_dir(disk.path().join("data"));
    let host = builder().start().await.unwrap();
    let mut stream = subscribe(&host).await;
    let mut accepted = BTreeSet::from([publish(&host, 0).await.unwrap()]);
    let held = stream.next().await.unwrap();

    disk.fill();
    let refused = loop {
        match publish(&host, accepted.len() as u64).await {
            // There may be room in the file still.
            Ok(seq) => assert!(accepted.insert(seq)),
            Err(error) => break error,
        }
        assert!(accepted.len() < 1000, "it is never full");
    };
    assert_eq!(refused.kind(), HostErrorKind::Storage, "{refused}");
    assert!(
        refused.to_string().contains("no space is left on its disk"),
        "{refused}"
    );
    let hint = refused.hint().unwrap_or_default();
    assert!(hint.contains("free some space"), "{hint}");
    // Again and again, and it stays what it is: refused.
    for _ in 0..3 {
        assert!(publish(&host, 0).await.is_err());
    }
    // That a delivery is done may not be written down now; it is remembered until it can be.
    if let Err(error) = held.receipt.settle(Outcome::Done).await {
        assert!(error.to_string().contains("no space is left"), "{error}");
    }

    disk.free();
    let first = *accepted.first().unwrap();
    let missing = accepted.iter().copied().filter(|it| *it != first).collect();
    take(&mut stream, missing).await;
    accepted.insert(publish(&host, 0).await.unwrap());
    take(&mut stream, accepted.last().copied().into_iter().collect()).await;
    drop(stream);
    host.shutdown().await;
    drop(host);

    let host = builder().start().await.unwrap();
    let all = ReadQuery {
        pattern: None,
        after: Some(0),
        limit: 1000,
        wait: Duration::ZERO,
    };
    let kept = host.read_events(all).await.unwrap();
    let kept: BTreeSet<u64> = kept.iter().map(|it| it.seq).collect();
    assert_eq!(kept, accepted, "what was accepted, and nothing that was refused");
    let mut stream = subscribe(&host).await;
    let over = tokio::time::timeout(Duration::from_millis(400), stream.next()).await;
    assert!(over.is_err(), "all of it is done: {over:?}");
}
