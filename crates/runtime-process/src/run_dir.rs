//! Private directories of running plugins.
//!
//! ```text
//! <run_dir>/            0700, the user's own
//!   lock                held while a host makes or sweeps parts
//!   <pid>-<n>/          one host's part
//!     lock              held as long as that host lives; whoever can lock it may remove the part
//!     cgroups           the host's places among the cgroups, one path per line; they are removed with the part, and what is in them is ended
//!     <n>/              0700: one plugin's directory
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use rustix::process::{Pid, test_kill_process};

const CGROUPS: &str = "cgroups";

/// One host's part of the run directory; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    counter: AtomicU32,
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

    /// This host's part.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory for one plugin; the number is its name.
    pub(crate) fn make(&self) -> io::Result<(PathBuf, u32)> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok((path, number))
    }

    /// A name for this part that no other host of the machine has. [`is_of_the_dead`] reads it.
    pub(crate) fn unique_name(&self) -> io::Result<String> {
        let inode = self.path.symlink_metadata()?.ino();
        let namespace = pid_namespace()?;
        Ok(format!("mortise-{}-{inode:x}-{namespace:x}", process::id()))
    }

    /// Writes down what must be swept if this host dies, before it is made.
    pub(crate) fn remember<'a>(&self, cgroups: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        let lines: Vec<String> = cgroups.map(|it| format!("{}\n", it.display())).collect();
        fs::write(self.path.join(CGROUPS), lines.concat())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What a plugin left behind there is removed at the latest by the next host.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether a host that is gone gave something this name. Only one of this process's own pid namespace is ever known to be gone: another's numbers
/// mean other processes.
pub(crate) fn is_of_the_dead(unique_name: &str) -> bool {
    let Some(fields) = unique_name.strip_prefix("mortise-") else {
        return false;
    };
    let mut fields = fields.split('-');
    let (Some(pid), Some(_inode), Some(namespace), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    let is_here =
        pid_namespace().is_ok_and(|own| u64::from_str_radix(namespace, 16).is_ok_and(|of| of == own));
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    is_here && pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// Which numbers of processes those of this process are; 0 where there is only one kind.
fn pid_namespace() -> io::Result<u64> {
    match Path::new("/proc/self/ns/pid").metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        found => Ok(found?.ino()),
    }
}

/// Ends what a dead host's plugins left running, and removes their cgroups.
fn sweep_cgroups(part: &Path) {
    let text = fs::read_to_string(part.join(CGROUPS)).unwrap_or_default();
    for place in text.lines().map(Path::new) {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        if place.is_absolute() && name.starts_with("mortise-") && place.exists() {
            tracing::info!(cgroup = %place.display(), "removing what a host that is gone left");
            mortise_jail::sweep(place);
        }
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
    // Plugins are told the way to their directories, and know no other than this one.
    let root = root.canonicalize()?;
    // Without this one, a part that is just being made would look like one whose host is gone.
    let whole = lock(&root)?;
    whole.lock()?;
    for entry in fs::read_dir(&root)?.filter_map(Result::ok) {
        let part = entry.path();
        let gone = part.is_dir() && lock(&part).is_ok_and(|it| it.try_lock().is_ok());
        if gone {
            sweep_cgroups(&part);
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
                    counter: AtomicU32::new(1),
                    _lock: own,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("every name for this host's part is taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_of_a_process_that_is_gone_here_is_of_the_dead() {
        let namespace = pid_namespace().unwrap();
        let living = format!("mortise-{}-1a-{namespace:x}", process::id());
        assert!(!is_of_the_dead(&living));
        let mut child = process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let gone = child.id();
        assert!(is_of_the_dead(&format!("mortise-{gone}-1a-{namespace:x}")));
        let elsewhere = namespace + 1;
        assert!(!is_of_the_dead(&format!("mortise-{gone}-1a-{elsewhere:x}")));
        for other in ["mortise-", "mortise-1", "mortise-probe-1-2", "user.slice", ""] {
            assert!(!is_of_the_dead(other), "{other}");
        }
    }
}
