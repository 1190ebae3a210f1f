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
    ffi::CStr,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, chmodat, fchmod, fstat, openat, renameat,
        statat, unlinkat,
    },
    io::Errno,
    path::Arg,
    process::{Pid, test_kill_process},
};

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
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "the host's run directory could not be removed; the next host tries again");
        }
    }
}

/// Removes a directory with all that is in it, whatever a plugin has made of it: however deep it is, this takes four descriptors and no stack. No link is
/// followed. What is gone already is removed.
///
/// What lies in a directory of the first level is removed if it is no directory, and else moved up to the first level; then that directory is empty.
pub(crate) fn remove_tree(top: &Path) -> io::Result<()> {
    let Some(root) = present(open_dir(CWD, top))? else {
        return Ok(());
    };
    let mut moved = 0_u64;
    loop {
        let mut dirs = 0_u64;
        for entry in Dir::read_from(&root)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            if !is_dir(&root, &entry)? {
                present(unlinkat(&root, name, AtFlags::empty()))?;
                continue;
            }
            dirs += 1;
            let Some(dir) = present(open_dir(&root, name))? else {
                continue;
            };
            for below in Dir::read_from(&dir)? {
                let below = below?;
                let name = below.file_name();
                if is_dots(name) {
                    continue;
                }
                if is_dir(&dir, &below)? {
                    let free = free_name(&root, &mut moved)?;
                    present(move_up(&dir, name, &root, &free))?;
                } else {
                    present(unlinkat(&dir, name, AtFlags::empty()))?;
                }
            }
            match unlinkat(&root, name, AtFlags::REMOVEDIR) {
                // Something was missed while its directory changed: it is seen in the next round.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                other => {
                    present(other)?;
                }
            }
        }
        if dirs == 0 {
            drop(root);
            return match fs::remove_dir(top) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
        }
    }
}

/// Opens a directory to list and to change it, and takes the right to if the plugin took it away.
fn open_dir(at: impl AsFd, name: impl Arg + Copy) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(&at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(&at, name, Mode::RWXU, AtFlags::empty())?;
            openat(&at, name, flags, Mode::empty())
        }
        other => other,
    }?;
    if !Mode::from_raw_mode(fstat(&opened)?.st_mode).contains(Mode::RWXU) {
        fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

/// To move a directory elsewhere takes the right to write to it: its `..` changes.
fn move_up(from: &OwnedFd, name: &CStr, to: &OwnedFd, new: &str) -> rustix::io::Result<()> {
    match renameat(from, name, to, new) {
        Err(Errno::ACCESS) => {
            chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
            renameat(from, name, to, new)
        }
        other => other,
    }
}

/// A name that nothing has there.
fn free_name(dir: &OwnedFd, count: &mut u64) -> io::Result<String> {
    loop {
        *count += 1;
        let name = format!(".~{count}");
        if present(statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW))?.is_none() {
            return Ok(name);
        }
    }
}

fn is_dir(at: &OwnedFd, entry: &DirEntry) -> io::Result<bool> {
    match entry.file_type() {
        FileType::Unknown => {
            let found = present(statat(at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW))?;
            Ok(found.is_some_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Directory))
        }
        known => Ok(known == FileType::Directory),
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// `None` if it is not there.
fn present<T>(done: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
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
    is_here && pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
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
        let gone = is_part(&entry) && lock(&part).is_ok_and(|it| it.try_lock().is_ok());
        if gone {
            sweep_cgroups(&part);
            if let Err(error) = remove_tree(&part) {
                tracing::warn!(dir = %part.display(), %error, "what a host that is gone left could not be removed");
            }
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

/// Whether it is a directory that a host has made as its part. Somebody may keep others beside them.
fn is_part(entry: &fs::DirEntry) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let name = entry.file_name();
    let is_name = name
        .to_str()
        .and_then(|it| it.split_once('-'))
        .is_some_and(|(pid, number)| is_number(pid) && is_number(number));
    is_name && entry.file_type().is_ok_and(|it| it.is_dir())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes directories in directories, more than a path is long.
    pub(crate) fn nest(top: &Path, name: &str, depth: usize) {
        let mut at = open_dir(CWD, top).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = open_dir(&at, name).unwrap();
        }
    }

    /// One level of stack or one descriptor for each level of directories would not do.
    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let part = RunDir::open(&root.path().join("run")).unwrap();
        let (dir, _) = part.make().unwrap();
        nest(&dir, "a", 6_000);
        fs::create_dir(dir.join("b")).unwrap();
        nest(&dir.join("b"), ".~1", 100);
        fs::write(dir.join("b/file"), "x").unwrap();
        // Names that are taken, a link to elsewhere, and what may not be entered.
        fs::write(dir.join(".~2"), "x").unwrap();
        fs::create_dir_all(dir.join(".~3/c")).unwrap();
        let outside = root.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("b/link")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("link")).unwrap();
        fs::create_dir_all(dir.join("closed/below/more")).unwrap();
        for name in ["closed/below", "closed"] {
            fs::set_permissions(
                dir.join(name),
                std::os::unix::fs::PermissionsExt::from_mode(0o000),
            )
            .unwrap();
        }
        let path = part.path().to_owned();
        // As large as the stack of any thread here.
        let dropped = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || drop(part));
        dropped.unwrap().join().unwrap();
        assert!(!path.exists());
        assert!(outside.join("kept").is_dir());
        remove_tree(&path).unwrap();
    }

    #[test]
    fn only_parts_of_hosts_that_are_gone_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let kept = ["precious", "1-a", "1-2-3", "-1", "1-"];
        for name in kept {
            fs::create_dir_all(root.path().join(name).join("below")).unwrap();
        }
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("1-3")).unwrap();
        nest(root.path(), "4-0", 1);
        nest(&root.path().join("4-0"), "a", 3000);
        let living = RunDir::open(root.path()).unwrap();
        let _second = RunDir::open(root.path()).unwrap();
        for name in kept {
            assert!(root.path().join(name).join("below").is_dir(), "{name}");
            assert!(!root.path().join(name).join("lock").exists(), "{name}");
        }
        assert!(living.path().is_dir());
        assert!(elsewhere.path().is_dir());
        assert!(!root.path().join("4-0").exists());
    }

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
