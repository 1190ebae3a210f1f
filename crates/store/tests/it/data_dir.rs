//! The data directory: its lock, and a database that can't be used.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    process::Command,
    time::SystemTime,
};

use mortise_store::{DataDir, History, KvLimits, StoreErrorKind, Transition};

/// Set for a copy of this binary that holds a data directory until it is killed.
const ENV_HOLD: &str = "MORTISE_TEST_HOLD";

#[test]
fn second_host_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataDir::open(dir.path()).unwrap();
    let error = DataDir::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Locked);
    let us = std::process::id();
    assert_eq!(
        error.to_string(),
        format!(
            "data directory `{}` is in use by another host (process {us})",
            dir.path().display()
        )
    );
    drop(first);
    DataDir::open(dir.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn lock_of_a_host_that_was_killed_is_free() {
    use std::io::BufRead as _;
    if let Some(path) = std::env::var_os(ENV_HOLD) {
        let _held = DataDir::open(path).unwrap();
        println!("held");
        loop {
            std::thread::park();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args([
            "data_dir::lock_of_a_host_that_was_killed_is_free",
            "--exact",
            "--nocapture",
        ])
        .env(ENV_HOLD, dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(host.stdout.take().unwrap())
        .lines()
        .map(|it| it.unwrap());
    assert!(lines.any(|line| line.ends_with("held")));
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(
        error.to_string().ends_with(&format!("(process {})", host.id())),
        "{error}"
    );
    host.kill().unwrap();
    host.wait().unwrap();
    DataDir::open(dir.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn nobody_else_may_look() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let _data = DataDir::open(&path).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("mortise.db"))), (0o700, 0o600));
}

#[test]
fn place_that_can_not_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DataDir::open(file.join("data")).unwrap_err();
    assert!(error.to_string().starts_with("could not create"), "{error}");
}

#[test]
fn file_that_is_no_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("mortise.db"),
        "certainly no database, and long enough to have a header".repeat(100),
    )
    .unwrap();
    let error = DataDir::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(
        error.to_string().ends_with("mortise.db`: it is damaged"),
        "{error}"
    );
    assert!(error.hint().contains("move"), "{}", error.hint());
}

#[test]
fn database_with_damaged_pages() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let kv = data.kv(KvLimits::default()).unwrap().keyspace("a");
    for number in 0..200 {
        kv.set(&format!("key{number}"), &[1; 1000]).unwrap();
    }
    drop((kv, data));
    let mut file = fs::File::options()
        .write(true)
        .open(dir.path().join("mortise.db"))
        .unwrap();
    // The header stays; everything behind the first page goes.
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&[0xa5; 150_000]).unwrap();
    drop(file);
    let error = DataDir::open(dir.path())
        .and_then(|data| data.kv(KvLimits::default())?.keyspace("a").list("", 0))
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
}

#[test]
fn database_of_another_program_and_of_a_newer_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mortise.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    drop(other);
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("is a database of another program"),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    drop(DataDir::open(dir.path()).unwrap());
    rusqlite::Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = DataDir::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TooNew);
    assert!(error.to_string().contains("has schema 99"), "{error}");
}

/// A disk that is full in the middle of work: a small file system of its own, where root may mount one.
#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_named_and_nothing_is_half_done() {
    const ENV_FULL: &str = "MORTISE_TEST_FULL";
    const NAME: &str = "data_dir::full_disk_is_named_and_nothing_is_half_done";
    if let Some(path) = std::env::var_os(ENV_FULL) {
        return on_a_small_disk(path.as_ref());
    }
    let dir = tempfile::tempdir().unwrap();
    // In a mount namespace of its own: it is gone with the process.
    let script = format!(
        "mount -t tmpfs -o size=2m none {0} && exec {1} {NAME} --exact --nocapture",
        dir.path().display(),
        std::env::current_exe().unwrap().display()
    );
    let run = |program: &str| {
        Command::new("unshare")
            .args(["-m", "sh", "-c", program])
            .env(ENV_FULL, dir.path())
            .output()
    };
    if !run(&format!("mount -t tmpfs none {}", dir.path().display())).is_ok_and(|it| it.status.success()) {
        println!("skipped: needs the right to mount");
        return;
    }
    let output = run(&script).unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(target_os = "linux")]
fn on_a_small_disk(dir: &std::path::Path) {
    let data = DataDir::open(dir).unwrap();
    let (kv, journal) = (
        data.kv(KvLimits::default()).unwrap().keyspace("a"),
        data.journal().unwrap(),
    );
    journal.append(SystemTime::now(), &Transition::default()).unwrap();
    let (full, error) = (0..)
        .find_map(|number| {
            kv.set(&format!("{number}"), &[1; 100_000])
                .err()
                .map(|error| (number, error))
        })
        .unwrap();
    assert_eq!(error.kind(), StoreErrorKind::DiskFull, "{error}");
    assert!(
        error.to_string().ends_with("no space is left on its disk"),
        "{error}"
    );
    // Nothing of the refused write is there, and what was there still is.
    assert_eq!(kv.usage().unwrap().0, full);
    assert_eq!(kv.get(&full.to_string()).unwrap(), None);
    assert_eq!(journal.history(&History::default()).unwrap().len(), 1);

    let package = crate::fixture::package();
    let mut artifact = mortise_store::Package::open(package.path()).unwrap().artifacts()[0].clone();
    artifact.bytes = vec![7; 4 << 20].into();
    artifact.digest = mortise_runtime::Digest::of(&artifact.bytes);
    let error = data.artifacts().place(&mut artifact).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::DiskFull, "{error}");
    let left = fs::read_dir(dir.join("artifacts"))
        .unwrap()
        .filter(|it| !it.as_ref().unwrap().path().is_dir())
        .count();
    assert_eq!(left, 0, "no half file");
}
