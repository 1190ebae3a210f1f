//! Where one-shot commands keep what is dear to make again: the user's own cache folder.
//!
//! What is kept there is run, so the folder must be nobody else's: it is made with mode 0700, and one that somebody else owns or may write to
//! is not used. Doing without costs time and nothing else, so it is told in the log and is no failure.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// Who else may write: group and others.
const OTHERS_WRITE: u32 = 0o022;

/// The folder `mortise/NAME` in the user's cache folder; `None` if there is none that is the user's alone.
pub(crate) fn dir(name: &str) -> Option<PathBuf> {
    let base = base(|name| std::env::var_os(name))?;
    match own(&base, &["mortise", name]) {
        Ok(dir) => Some(dir),
        Err(error) => {
            tracing::debug!(folder = %base.display(), %error, "without a cache");
            None
        }
    }
}

/// `$XDG_CACHE_HOME`, else `~/.cache`. A relative path means nothing there, as the XDG specification says.
fn base(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|it| it.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|it| it.join(".cache")))
}

/// Makes the folders `parts` below `base`, and looks at each.
fn own(base: &Path, parts: &[&str]) -> io::Result<PathBuf> {
    fs::create_dir_all(base)?;
    let mut dir = base.to_owned();
    for part in parts {
        dir.push(part);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Not what a link leads to: who made the link could lead it elsewhere later.
        let found = fs::symlink_metadata(&dir)?;
        let refuse = |why: &str| Err(io::Error::other(format!("`{}` {why}", dir.display())));
        if !found.is_dir() {
            return refuse("is no folder");
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return refuse("belongs to somebody else");
        }
        if found.mode() & OTHERS_WRITE != 0 {
            return refuse("may be written by others");
        }
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_folder_is_where_the_user_says() {
        let of = |all: &'static [(&str, &str)]| {
            base(|name| all.iter().find(|it| it.0 == name).map(|it| it.1.into()))
        };
        assert_eq!(of(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c".into()));
        assert_eq!(
            of(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")]),
            Some("/h/.cache".into())
        );
        assert_eq!(of(&[("HOME", "h")]), None);
    }

    #[test]
    fn the_folder_is_the_users_alone() {
        let base = tempfile::tempdir().unwrap();
        let dir = own(base.path(), &["a", "b"]).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(own(base.path(), &["a", "b"]).unwrap(), dir, "again is the same");

        fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(
            own(base.path(), &["a", "b"])
                .unwrap_err()
                .to_string()
                .contains("written by others")
        );
        symlink(&dir, base.path().join("link")).unwrap();
        assert!(
            own(base.path(), &["link"])
                .unwrap_err()
                .to_string()
                .contains("no folder")
        );
        fs::write(base.path().join("file"), "").unwrap();
        assert!(
            own(base.path(), &["file"])
                .unwrap_err()
                .to_string()
                .contains("no folder")
        );
        assert!(own(&base.path().join("file"), &["a"]).is_err());
    }
}
