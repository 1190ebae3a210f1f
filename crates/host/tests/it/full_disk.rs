//! A data directory on a disk that is full: a real one, a small tmpfs. Needs root, to mount it.

use std::{fs, path::Path, process::Command};

use mortise_host::HostErrorKind;
use mortise_manifest::RuntimeName;

use crate::closures::{World, call, info, request};

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

#[tokio::test]
async fn a_full_disk_is_told_changes_nothing_and_is_over_when_there_is_space() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let Some(disk) = Disk::of("4m") else {
        println!("skipped: needs to mount a tmpfs");
        return;
    };
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
