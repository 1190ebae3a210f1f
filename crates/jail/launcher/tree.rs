//! The jail's file tree: an empty memory file system with what the specification lists, read-only in the end.
//!
//! It is put over some directory, becomes the root, and what it shows is bound from the old root, which hangs below it until it is
//! complete. So a source may lie anywhere, below that directory too. Nothing of a plugin's runs before it is complete.

use std::{
    ffi::{CStr, CString, c_int},
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path},
};

use crate::{
    report::{Failure, c_string},
    spec::Entry,
    sys, words,
};

/// Where the new root is mounted for a moment: the first of these that is there.
const PLACES: [&CStr; 4] = [c"/tmp", c"/run", c"/var", c"/usr"];
/// Where the old root is until the new one is complete.
const OLD: &str = "/.old";
/// Directories and links only; a plugin can't write to it.
const ROOT_OPTIONS: &CStr = c"mode=0755,size=1m,nr_inodes=4k";

/// Makes the tree the root and puts into it what every plugin has.
pub(crate) fn begin(entries: &[Entry<'_>]) -> Result<(), Failure> {
    enter().map_err(|errno| Failure::at(words::STEP_ROOT, errno))?;
    place_all(entries)
}

/// Adds what one plugin has, takes the old root away and lets nothing more be changed.
pub(crate) fn complete(entries: &[Entry<'_>]) -> Result<(), Failure> {
    let failed = |errno| Failure::at(words::STEP_ROOT, errno);
    place_all(entries)?;
    let old = c_string(OLD);
    sys::unmount(&old).map_err(failed)?;
    sys::remove_dir(&old).map_err(failed)?;
    let flags =
        sys::MS_REMOUNT | sys::MS_BIND | sys::MS_RDONLY | sys::MS_NOSUID | sys::MS_NODEV | sys::MS_NOEXEC;
    sys::mount_at(c"none", c"/", None, flags, None).map_err(failed)
}

fn place_all(entries: &[Entry<'_>]) -> Result<(), Failure> {
    for (number, entry) in entries.iter().enumerate() {
        let step = if entry.kind == words::ENTRY_PROC {
            words::STEP_PROC
        } else {
            words::STEP_BIND
        };
        place(entry).map_err(|errno| Failure::nth(step, errno, number))?;
    }
    Ok(())
}

fn enter() -> sys::Result {
    // Nothing done here reaches the host's mounts, nor the other way round.
    sys::mount_at(c"none", c"/", None, sys::MS_REC | sys::MS_PRIVATE, None)?;
    let flags = sys::MS_NOSUID | sys::MS_NODEV;
    let mounted =
        |place: &&&CStr| sys::mount_at(c"mortise", place, Some(c"tmpfs"), flags, Some(ROOT_OPTIONS)).is_ok();
    let place = PLACES.iter().find(mounted).ok_or(sys::ENOENT)?;
    sys::change_dir(place)?;
    let old = c_string(&format!(".{OLD}"));
    sys::make_dir(&old)?;
    sys::pivot_root(c".", &old)?;
    sys::change_dir(c"/")
}

fn place(entry: &Entry<'_>) -> sys::Result {
    match entry.kind {
        words::ENTRY_BIND => bind(entry),
        words::ENTRY_SYMLINK => {
            make_parents(entry.target)?;
            sys::make_link(entry.source, entry.target)
        }
        words::ENTRY_FILE => {
            make_parents(entry.target)?;
            let fd = sys::open_file(entry.target, sys::O_WRONLY | sys::O_CREAT)?;
            let written = sys::write_all(fd, entry.source.to_bytes());
            sys::close_fd(fd);
            written
        }
        words::ENTRY_PROC => proc(entry.target),
        words::ENTRY_DIR => make_dirs(Path::new(std::ffi::OsStr::from_bytes(entry.target.to_bytes()))),
        _ => Err(sys::EINVAL),
    }
}

/// Only the processes of this pid namespace, nothing of the system; where the kernel is too old for that, everything. Inside a container whose
/// own `/proc` is covered in places the kernel lets nobody mount another: then the jail has an empty one.
fn proc(target: &CStr) -> sys::Result {
    make_parents(target)?;
    sys::make_dir(target)?;
    let flags = sys::MS_NOSUID | sys::MS_NODEV | sys::MS_NOEXEC;
    match sys::mount_at(c"proc", target, Some(c"proc"), flags, Some(c"subset=pid")) {
        Err(sys::EINVAL) => match sys::mount_at(c"proc", target, Some(c"proc"), flags, None) {
            Err(sys::EPERM) => Ok(()),
            done => done,
        },
        Err(sys::EPERM) => Ok(()),
        done => done,
    }
}

fn bind(entry: &Entry<'_>) -> sys::Result {
    let mut source = OLD.as_bytes().to_vec();
    source.extend_from_slice(entry.source.to_bytes());
    let source = CString::new(source).map_err(|_| sys::EINVAL)?;
    // The host has followed all links; one that is there now was made since.
    let source = match sys::open_place(&source) {
        Ok(source) => source,
        Err(sys::ENOENT) if entry.flags & words::BIND_OPTIONAL != 0 => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let bound = bind_at(entry, source);
    sys::close_fd(source);
    bound
}

/// Both places are open before anything is mounted, and no link was followed to them: whoever changes the tree meanwhile changes nothing of what is shown.
fn bind_at(entry: &Entry<'_>, source: c_int) -> sys::Result {
    make_parents(entry.target)?;
    let target = match sys::open_place(entry.target) {
        // It is there already, in something that is bound above it.
        Ok(target) => target,
        Err(sys::ENOENT) => {
            if sys::is_dir(source)? {
                sys::make_dir(entry.target)?;
            } else {
                let fd = sys::open_file(entry.target, sys::O_WRONLY | sys::O_CREAT)?;
                sys::close_fd(fd);
            }
            sys::open_place(entry.target)?
        }
        Err(errno) => return Err(errno),
    };
    let has = |flag: u32| entry.flags & flag != 0;
    let mut attributes = sys::ATTR_NOSUID;
    for (wanted, attribute) in [
        (!has(words::BIND_WRITABLE), sys::ATTR_RDONLY),
        (!has(words::BIND_DEVICE), sys::ATTR_NODEV),
        (has(words::BIND_NO_EXEC), sys::ATTR_NOEXEC),
    ] {
        if wanted {
            attributes |= attribute;
        }
    }
    let copy = sys::copy_mounts(source)?;
    let put = sys::set_mount_attributes(copy, attributes).and_then(|()| sys::put_mounts(copy, target));
    sys::close_fd(copy);
    sys::close_fd(target);
    put
}

fn make_parents(path: &CStr) -> sys::Result {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    path.parent().map_or(Ok(()), make_dirs)
}

fn make_dirs(path: &Path) -> sys::Result {
    let mut whole = Vec::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        whole.push(b'/');
        whole.extend_from_slice(name.as_bytes());
        let here = CString::new(whole.clone()).map_err(|_| sys::EINVAL)?;
        match sys::make_dir(&here) {
            Ok(()) | Err(sys::EEXIST) => {}
            // Below something that is bound read-only and has it already.
            Err(errno) => {
                let there = sys::open_place(&here).map_err(|_| errno)?;
                let is_dir = sys::is_dir(there);
                sys::close_fd(there);
                if is_dir != Ok(true) {
                    return Err(errno);
                }
            }
        }
    }
    Ok(())
}
