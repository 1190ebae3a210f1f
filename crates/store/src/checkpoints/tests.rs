//! Where the pages of a log go, and when.

use std::{fs, path::PathBuf, time::Duration};

use rusqlite::Connection;

use super::{Bounds, Checkpoints};

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3600);
const PAGE: u64 = 4096;

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            path: dir.path().join("test.db"),
            _dir: dir,
        }
    }

    fn open(&self) -> Connection {
        let connection = Connection::open(&self.path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS pages (bytes BLOB)")
            .unwrap();
        connection
    }

    fn file_bytes(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    fn log_bytes(&self) -> u64 {
        fs::metadata(self.path.with_extension("db-wal")).unwrap().len()
    }
}

fn write(connection: &Connection, pages: u64) {
    for _ in 0..pages {
        connection
            .execute("INSERT INTO pages VALUES (zeroblob(4096))", [])
            .unwrap();
    }
}

#[test]
fn a_commit_that_makes_the_log_long_does_not_copy_it() {
    let place = Place::new();
    let mut connection = place.open();
    let bounds = Bounds {
        pages: 10,
        pause: NEVER,
        pages_max: 1_000_000,
    };
    let checkpoints = Checkpoints::start(&place.path, bounds).unwrap();
    checkpoints.hear(&mut connection).unwrap();
    // SQLite itself would have copied it at the thousandth.
    write(&connection, 1500);
    assert!(place.log_bytes() > 1500 * PAGE);
    assert!(place.file_bytes() < 10 * PAGE, "{}", place.file_bytes());
}

#[test]
fn the_thread_copies_it_again_and_again() {
    let place = Place::new();
    let mut connection = place.open();
    let bounds = Bounds {
        pages: 100,
        pause: Duration::ZERO,
        pages_max: 1_000_000,
    };
    let checkpoints = Checkpoints::start(&place.path, bounds).unwrap();
    checkpoints.hear(&mut connection).unwrap();
    for round in 1..=5 {
        write(&connection, 200);
        // All but what came after the last time that it was told.
        let copied = round * 100 * PAGE;
        for _ in 0..10_000 {
            if place.file_bytes() > copied {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(place.file_bytes() > copied, "nothing is copied in round {round}");
    }
    drop(checkpoints);
    let pages: i64 = connection
        .query_row("SELECT count(*) FROM pages", [], |row| row.get(0))
        .unwrap();
    assert_eq!(pages, 1000);
}

#[test]
fn a_log_that_nobody_copies_is_bounded() {
    let place = Place::new();
    let mut connection = place.open();
    let bounds = Bounds {
        pages: 10,
        pause: NEVER,
        pages_max: 300,
    };
    let checkpoints = Checkpoints::start(&place.path, bounds).unwrap();
    checkpoints.hear(&mut connection).unwrap();
    write(&connection, 2000);
    assert!(place.log_bytes() < 400 * PAGE, "{}", place.log_bytes());
    // Also after the thread is gone.
    drop(checkpoints);
    write(&connection, 2000);
    assert!(place.log_bytes() < 400 * PAGE, "{}", place.log_bytes());
}
