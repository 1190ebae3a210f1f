//! Private copies of libraries, one directory per content.
//!
//! A loader knows libraries by path: the same path with new bytes would give the old code. So the path contains the digest, the file
//! is never written twice, and what is opened has been compared with its digest just before.

use std::{
    env::consts::DLL_SUFFIX,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use mortise_runtime::{Digest, RuntimeError, RuntimeErrorKind};

/// Brings `bytes` to `<dir>/<digest>/plugin.so`, readable and executable by the owner only. Blocks.
pub(crate) fn keep(dir: &Path, digest: Digest, bytes: &[u8]) -> Result<PathBuf, RuntimeError> {
    let home = dir.join(digest.to_string());
    let failed = |what: &str, path: &Path, why: io::Error| {
        RuntimeError::new(
            RuntimeErrorKind::Loader,
            format!("cannot {what} {}: {why}", path.display()),
            "check the owner, the permissions and the free space of the data directory",
        )
        .with_source(why)
    };
    if Digest::of(bytes) != digest {
        return Err(RuntimeError::new(
            RuntimeErrorKind::Tampered,
            format!(
                "the artifact's bytes have digest {}, and {digest} was expected",
                Digest::of(bytes)
            ),
            "the file changed while it was read; load it again",
        ));
    }
    create_private_dir(dir).map_err(|why| failed("create the directory", dir, why))?;
    refuse_shared_dir(dir)?;
    create_private_dir(&home).map_err(|why| failed("create the directory", &home, why))?;
    refuse_shared_dir(&home)?;
    let path = home.join(format!("plugin{DLL_SUFFIX}"));
    if holds(&path, digest) {
        return Ok(path);
    }
    // Written beside and renamed, so that a crash leaves no half file under the final name.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = home.join(format!(".partial-{}-{unique}", std::process::id()));
    let written = fs::write(&partial, bytes)
        .and_then(|()| protect(&partial))
        .and_then(|()| fs::rename(&partial, &path));
    if let Err(why) = written {
        let _ = fs::remove_file(&partial);
        // Windows refuses to replace a library that is loaded; then it is this one, written by somebody who was faster.
        if !holds(&path, digest) {
            return Err(failed("write", &path, why));
        }
    }
    Ok(path)
}

/// Whether the file is what its place says it is.
pub(crate) fn holds(path: &Path, digest: Digest) -> bool {
    fs::read(path).is_ok_and(|bytes| Digest::of(&bytes) == digest)
}

#[cfg(unix)]
fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(not(unix))]
fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

/// Whoever may write here may put code into this process.
#[cfg(unix)]
fn refuse_shared_dir(dir: &Path) -> Result<(), RuntimeError> {
    use std::os::unix::fs::MetadataExt;
    let mode = fs::metadata(dir).map_or(0, |it| it.mode());
    if mode & 0o022 == 0 {
        return Ok(());
    }
    Err(RuntimeError::new(
        RuntimeErrorKind::Loader,
        format!(
            "the directory for native plugins, {}, may be written by others (mode {:o})",
            dir.display(),
            mode & 0o7777
        ),
        format!("take the permission away with `chmod go-w {}`", dir.display()),
    ))
}

#[cfg(not(unix))]
fn refuse_shared_dir(_: &Path) -> Result<(), RuntimeError> {
    Ok(())
}

#[cfg(unix)]
fn protect(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o500))
}

#[cfg(not(unix))]
fn protect(path: &Path) -> io::Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(path, permissions)
}
