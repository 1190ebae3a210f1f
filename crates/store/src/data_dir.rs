//! The host's own directory, and the lock that keeps a second host out of it.
//!
//! ```text
//! <data>/            0700
//!   lock             held (flock, LockFileEx) as long as the host lives; holds its process id, for the error message
//!   artifacts/       by digest, see `ArtifactCache`
//!   packages/        by digest, see `Shelf`
//!   mortise.db       SQLite in WAL mode: journal and key-value data
//!   events.db        the same, from the first event on: events and subscriptions, see `EventLog`
//! ```
//!
//! The lock belongs to the open file, not to the process id in it: it is gone when the host is gone, however it went.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process,
};

use crate::{
    ArtifactCache, Journal, Kv, KvLimits, Shelf, StoreError, StoreErrorKind,
    database::{Database, MAIN, WriteHook},
};

/// A locked data directory. Dropping it unlocks it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    database: Database,
    artifacts: ArtifactCache,
    packages: Shelf,
    /// Held, never read again.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, locks it and opens what is in it.
    ///
    /// # Errors
    /// `Locked` if another host has it; `Corrupt` or `TooNew` for its database; what the disk says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|source| StoreError::io("find", path.as_ref(), source))?;
        make_private_dir(&path)?;
        let lock = lock(&path)?;
        let database = Database::open(&path.join("mortise.db"), MAIN)?.checkpoint_apart()?;
        let artifacts = ArtifactCache::open(&path.join("artifacts"))?;
        let packages = Shelf::open(&path.join("packages"))?;
        Ok(Self {
            path,
            database,
            artifacts,
            packages,
            _lock: lock,
        })
    }

    /// Where it is; absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Artifacts by digest.
    #[must_use]
    pub fn artifacts(&self) -> &ArtifactCache {
        &self.artifacts
    }

    /// Packages that were loaded.
    #[must_use]
    pub fn packages(&self) -> &Shelf {
        &self.packages
    }

    /// What happened, on a connection of its own.
    ///
    /// # Errors
    /// If the database can't be opened again.
    pub fn journal(&self) -> Result<Journal, StoreError> {
        Ok(Journal::new(self.database.first()))
    }

    /// The same, and `hook` is told of every write of it. For tests that end the host at any step.
    ///
    /// # Errors
    /// As [`DataDir::journal`].
    pub fn journal_hooked(&self, hook: WriteHook) -> Result<Journal, StoreError> {
        Ok(Journal::new(self.database.first_hooked(hook)))
    }

    /// The plugins' data, on a connection of its own, so that a plugin which writes a lot does not hold up the journal for longer than
    /// one transaction.
    ///
    /// # Errors
    /// If the database can't be opened again.
    pub fn kv(&self, limits: KvLimits) -> Result<Kv, StoreError> {
        Ok(Kv::new(self.database.connect()?, limits))
    }
}

/// Makes a directory that only its owner may look into; an existing one is narrowed to that.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|source| StoreError::io("create", path, source))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(|source| StoreError::io("make private", path, source))?;
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| StoreError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The owner's id is for people; a lock file that can't be read locks all the same.
            let _ = file.take(32).read_to_string(&mut owner);
            let owner = match owner.trim() {
                "" => String::new(),
                id => format!(" (process {id})"),
            };
            return Err(StoreError::new(
                StoreErrorKind::Locked,
                format!(
                    "data directory `{}` is in use by another host{owner}",
                    dir.display()
                ),
                "stop that host, or give this one a data directory of its own (`host.data_dir`)",
            ));
        }
        Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &path, source)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(format!("{}\n", process::id()).as_bytes()));
    written.map_err(|source| StoreError::io("write", &path, source))?;
    Ok(file)
}
