//! Private directories of running plugins.
//!
//! ```text
//! <run_dir>/            0700, the user's own
//!   lock                held while a host makes or sweeps parts
//!   <pid>-<n>/          one host's part
//!     lock              held as long as that host lives; whoever can lock it may remove the part
//!     <n>/              0700: one plugin's directory
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use mortise_runtime::{RuntimeError, RuntimeErrorKind};

/// One host's part of the run directory; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    counter: AtomicU64,
    /// Held, never read.
    _lock: File,
}

impl RunDir {
    /// Makes a part and removes those of hosts that are gone.
    pub(crate) fn open(root: &Path) -> Result<Self, RuntimeError> {
        prepare(root).map_err(|source| {
            RuntimeError::new(
                RuntimeErrorKind::Loader,
                format!("the run directory `{}` can't be used: {source}", root.display()),
                "give the process runtime a directory that belongs to the host's user and to nobody else",
            )
        })
    }

    /// Makes a directory for one plugin.
    pub(crate) fn make(&self) -> io::Result<PathBuf> {
        let path = self
            .path
            .join(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What a plugin left behind there is removed at the latest by the next host.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn prepare(root: &Path) -> io::Result<RunDir> {
    let root = std::path::absolute(root)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
    let found = root.symlink_metadata()?;
    let user = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != user || found.mode() & 0o022 != 0 {
        let why = format!(
            "it must be a directory of user {user} that nobody else can write to; it belongs to user {} and has mode {:o}",
            found.uid(),
            found.mode() & 0o7777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let lock = |path: &Path| {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
    };
    // Without this one, a part that is just being made would look like one whose host is gone.
    let whole = lock(&root)?;
    whole.lock()?;
    for entry in fs::read_dir(&root)?.filter_map(Result::ok) {
        let part = entry.path();
        let gone = part.is_dir() && lock(&part).is_ok_and(|it| it.try_lock().is_ok());
        if gone {
            let _ = fs::remove_dir_all(&part);
        }
    }
    for number in 0_u32.. {
        let path = root.join(format!("{}-{number}", process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                let own = lock(&path)?;
                own.lock()?;
                return Ok(RunDir {
                    path,
                    counter: AtomicU64::new(1),
                    _lock: own,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("every name for this host's part is taken"))
}
