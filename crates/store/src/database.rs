//! One SQLite file: its schema, its connections, and its failures in our words.
//!
//! WAL mode, so that a reader never waits for a writer. Several connections of one process share the file; a writer waits up to
//! [`BUSY_WAIT`] for another one's transaction.
//!
//! # What survives what
//! Each transaction says which end it has to survive ([`Survives`]). Whatever was committed survives the end of the host, by a crash or a kill:
//! it is in the kernel's hands. A power cut is survived by what waited for the disk, and by everything that was committed before it, since
//! the log is synced as a whole. In either case transactions are there whole or not at all, and no later one without the earlier ones.
//! ADR 3 says which facts need which.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::{
    StoreError, StoreErrorKind,
    checkpoints::{Bounds, Checkpoints},
};

/// How long one connection waits for another's transaction.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Says that the file is ours ("MRTS"), so that another program's database is not taken for one.
const APPLICATION_ID: i32 = 0x4D52_5453;
/// Steps from an empty file to the current schema; a step is never changed once released, only followed by another.
pub(crate) type Migrations = &'static [&'static str];
/// Those of `mortise.db`.
pub(crate) const MAIN: Migrations = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
];
/// Those of `events.db`.
pub(crate) const EVENTS: Migrations = &[include_str!("schema/events/1.sql")];

/// A database file that was opened, checked and brought up to date.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    /// The connection that did so. Closing the last one of a file deletes its log, and the next write would wait for the disk to begin a new one.
    first: Link,
    /// Copies the log for all connections, if it is not to be done by their commits.
    checkpoints: Option<Checkpoints>,
}

/// The worst that a transaction survives once it has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// The end of this process, however it comes. Costs no wait for the disk, but for the first transaction after the log was copied.
    Crash,
    /// The end of the machine. Costs one sync of the disk.
    PowerCut,
}

/// One connection, used by one thread at a time.
#[derive(Clone)]
pub(crate) struct Link {
    path: Arc<Path>,
    connection: Arc<Mutex<Connection>>,
    hook: Option<WriteHook>,
}

/// Told of every write of the journal, so that a test can end the host at any step of it.
pub type WriteHook = Arc<dyn Fn(WriteMoment) + Send + Sync>;

/// A moment of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMoment {
    /// Nothing is written yet.
    Before,
    /// Everything is written, and nothing of it counts yet.
    Uncommitted,
    /// Everything counts.
    After,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.path).finish()
    }
}

impl Database {
    pub(crate) fn open(path: &Path, migrations: Migrations) -> Result<Self, StoreError> {
        let first = Link::open(path)?;
        migrate(path, &mut first.lock(), migrations)?;
        Ok(Self {
            path: path.to_owned(),
            first,
            checkpoints: None,
        })
    }

    /// From now on no commit waits for the log to be copied into the file, for as long as this value lives; afterwards only such a commit does as finds the
    /// log far too long.
    pub(crate) fn checkpoint_apart(mut self) -> Result<Self, StoreError> {
        let named = |source| failure("open", &self.path, source);
        let checkpoints = Checkpoints::start(&self.path, Bounds::default()).map_err(named)?;
        checkpoints.hear(&mut self.first.lock()).map_err(named)?;
        self.checkpoints = Some(checkpoints);
        Ok(self)
    }

    /// The connection that is there from the beginning.
    pub(crate) fn first(&self) -> Link {
        self.first.clone()
    }

    /// The same, and `hook` is told of every write.
    pub(crate) fn first_hooked(&self, hook: WriteHook) -> Link {
        Link {
            hook: Some(hook),
            ..self.first()
        }
    }

    /// Another connection.
    pub(crate) fn connect(&self) -> Result<Link, StoreError> {
        let link = Link::open(&self.path)?;
        if let Some(checkpoints) = &self.checkpoints {
            let heard = checkpoints.hear(&mut link.lock());
            heard.map_err(|source| failure("open", &self.path, source))?;
        }
        Ok(link)
    }
}

impl Link {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(|source| failure("open", path, source))?;
        make_private(path)?;
        let prepare = || {
            connection.busy_timeout(BUSY_WAIT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", Survives::PowerCut.synchronous())?;
            // A damaged or crafted schema must not run code of ours.
            connection.pragma_update(None, "trusted_schema", false)
        };
        prepare().map_err(|source| failure("open", path, source))?;
        Ok(Self {
            path: path.into(),
            connection: Arc::new(Mutex::new(connection)),
            hook: None,
        })
    }

    /// Runs `work` in one transaction: all of it is kept, or nothing. What is kept is on the disk when this returns.
    pub(crate) fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, WorkError>,
    ) -> Result<T, StoreError> {
        self.write_to_survive(Survives::PowerCut, doing, work)
    }

    /// The same, kept through no worse than `end`.
    pub(crate) fn write_to_survive<T>(
        &self,
        end: Survives,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, WorkError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let named = |source| failure(doing, &self.path, source);
        let tell = |moment| self.hook.iter().for_each(|hook| hook(moment));
        tell(WriteMoment::Before);
        // Said anew by every transaction, so none depends on what the one before left behind.
        connection
            .pragma_update(None, "synchronous", end.synchronous())
            .map_err(named)?;
        // Immediate: a transaction that begins as a reader and then writes can fail with "busy" halfway.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(named)?;
        let done = work(&transaction).map_err(|error| match error {
            WorkError::Sqlite(source) => named(source),
            WorkError::Refused(refusal) => refusal,
        })?;
        tell(WriteMoment::Uncommitted);
        transaction.commit().map_err(named)?;
        tell(WriteMoment::After);
        Ok(done)
    }

    /// Runs `work`, which only reads.
    pub(crate) fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        work(&self.lock()).map_err(|source| failure(doing, &self.path, source))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolled it back; the connection itself is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Survives {
    /// SQLite's word for it, in WAL mode.
    fn synchronous(self) -> &'static str {
        match self {
            Self::Crash => "NORMAL",
            Self::PowerCut => "FULL",
        }
    }
}

/// Why a transaction was given up.
#[derive(Debug)]
pub(crate) enum WorkError {
    Sqlite(rusqlite::Error),
    Refused(StoreError),
}

impl From<rusqlite::Error> for WorkError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

fn migrate(path: &Path, connection: &mut Connection, migrations: Migrations) -> Result<(), StoreError> {
    let named = |source| failure("bring up to date", path, source);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .map_err(named)?;
    let number =
        |name: &str| transaction.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let (application, version) = (
        number("application_id").map_err(named)?,
        number("user_version").map_err(named)?,
    );
    let tables = transaction
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
        .map_err(named)?;
    if application != i64::from(APPLICATION_ID) && tables > 0 {
        return Err(StoreError::new(
            StoreErrorKind::Corrupt,
            format!(
                "`{}` is a database of another program (application id {application:#x})",
                path.display()
            ),
            "give the host a data directory of its own (`host.data_dir`)",
        ));
    }
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > migrations.len() {
        return Err(StoreError::new(
            StoreErrorKind::TooNew,
            format!(
                "`{}` has schema {version}, and this host knows schemas up to {}",
                path.display(),
                migrations.len()
            ),
            "use the newer host that wrote it, or another data directory",
        ));
    }
    for step in &migrations[done..] {
        transaction.execute_batch(step).map_err(named)?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(named)?;
    transaction
        .pragma_update(None, "user_version", migrations.len() as i64)
        .map_err(named)?;
    transaction.commit().map_err(named)
}

/// SQLite's failure in our words.
fn failure(doing: &str, path: &Path, source: rusqlite::Error) -> StoreError {
    let shown = path.display();
    let (kind, why, hint) = match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (
            StoreErrorKind::DiskFull,
            "no space is left on its disk".to_owned(),
            "free some space or move the data directory; nothing was changed".to_owned(),
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            StoreErrorKind::Corrupt,
            "it is damaged".to_owned(),
            format!(
                "stop the host, move `{shown}`, `{shown}-wal` and `{shown}-shm` away (or bring them back from a backup) and start it again: \
                 {} empty, artifacts are not touched",
                if path.ends_with("events.db") {
                    "events and subscriptions start"
                } else {
                    "history, quarantine and the plugins' key-value data start"
                }
            ),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => (
            StoreErrorKind::Denied,
            "it can't be opened for writing".to_owned(),
            format!("give the user that runs the host write access to `{shown}` and its directory"),
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            StoreErrorKind::Locked,
            format!(
                "another program holds it for longer than {} s",
                BUSY_WAIT.as_secs()
            ),
            "close the other program (a database browser, say)".to_owned(),
        ),
        _ => {
            // The reason is in the message, so it is not the source as well.
            let message = format!("could not {doing} `{shown}`: {source}");
            return StoreError::new(StoreErrorKind::Io, message, "check the disk and the system's log");
        }
    };
    StoreError::new(kind, format!("could not {doing} `{shown}`: {why}"), hint).with_source(source)
}

fn make_private(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|source| StoreError::io("make private", path, source))?;
    }
    let _ = path;
    Ok(())
}
