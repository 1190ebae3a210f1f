//! Who may connect to a socket that was made for the other side.
//!
//! To connect to a unix socket takes the right to write to it. A host that is root and runs its plugin as another user makes the broker's sockets in the
//! plugin's directory, and they would be root's: so they are given to whom the directory belongs. A host that is another user and no root asks for a
//! group instead, in `PLUGIN_UNIX_SOCKET_GROUP`, and the plugin gives its sockets to that.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use tokio::net::UnixListener;

/// After a connection that could not be accepted, for want of descriptors most likely, the next is waited for after so long.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who else may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Its own user alone.
    #[default]
    Own,
    /// The user to whom the directory belongs, which nobody else can enter.
    OwnerOfDirectory,
    /// Its own user, and this group.
    Group(u32),
}

/// Listens at `path`, which must not be there yet, for `audience`.
///
/// # Errors
/// What the system says; then nothing is left at `path`.
pub(crate) fn bind(path: &Path, audience: Audience) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    let given = match audience {
        Audience::Own => fs::set_permissions(path, fs::Permissions::from_mode(0o600)),
        Audience::Group(group) => chown(path, None, Some(group))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660))),
        Audience::OwnerOfDirectory => hand_over(path),
    };
    match given {
        Ok(()) => Ok(listener),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// The group of this number or name; `None` if there is none.
pub(crate) fn group(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    group_of(&fs::read_to_string("/etc/group").ok()?, text)
}

fn group_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Gives a socket that was just made to the owner of its directory.
///
/// That owner may have put something else in its place meanwhile. What is given away is therefore looked at through a descriptor: a socket of ours that has no
/// second name, so that it can't be one of ours from elsewhere. Whatever else the owner put there is its own already.
#[cfg(target_os = "linux")]
fn hand_over(path: &Path) -> io::Result<()> {
    use rustix::{
        fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, open},
        process::geteuid,
    };
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let owner = directory.symlink_metadata()?;
    let us = geteuid().as_raw();
    if owner.uid() == us {
        return Ok(());
    }
    let socket = open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let found = fstat(&socket)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket || found.st_uid != us || found.st_nlink != 1
    {
        let why = format!("somebody put something else in the place of `{}`", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    Ok(chownat(
        &socket,
        "",
        Some(user),
        Some(group),
        AtFlags::EMPTY_PATH,
    )?)
}

/// Only on Linux does a host run a plugin as another user.
#[cfg(not(target_os = "linux"))]
fn hand_over(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn groups_have_numbers_and_names() {
        let groups = "root:x:0:\nusers:x:100:a,b\nbroken\n";
        assert_eq!(group_of(groups, "users"), Some(100));
        assert_eq!(group_of(groups, "broken"), None);
        assert_eq!(group("1234"), Some(1234));
    }

    #[tokio::test]
    async fn a_socket_is_for_its_user_or_for_a_group() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let _own = bind(&own, Audience::Own).unwrap();
        assert_eq!(mode(&own), 0o600);
        let shared = dir.path().join("shared");
        let group = rustix::process::getegid().as_raw();
        let _shared = bind(&shared, Audience::Group(group)).unwrap();
        assert_eq!((mode(&shared), shared.metadata().unwrap().gid()), (0o660, group));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_goes_to_the_owner_of_its_directory_and_nothing_else_does() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        const SOMEBODY: u32 = 54_321;
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        let path = dir.path().join("socket");
        let _listener = bind(&path, Audience::OwnerOfDirectory).unwrap();
        let found = path.symlink_metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (SOMEBODY, SOMEBODY));

        // What the owner may put in its place between the two steps.
        let elsewhere = tempfile::tempdir().unwrap();
        let of_root = elsewhere.path().join("of-root");
        let _of_root = UnixListener::bind(&of_root).unwrap();
        let file = elsewhere.path().join("file");
        fs::write(&file, "secret").unwrap();
        let (linked, hard, plain) = (
            dir.path().join("linked"),
            dir.path().join("hard"),
            dir.path().join("plain"),
        );
        std::os::unix::fs::symlink(&of_root, &linked).unwrap();
        fs::hard_link(&of_root, &hard).unwrap();
        fs::hard_link(&file, &plain).unwrap();
        for trap in [linked, hard, plain] {
            let refused = hand_over(&trap).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
        }
        assert_eq!(
            (of_root.metadata().unwrap().uid(), file.metadata().unwrap().uid()),
            (0, 0)
        );
    }
}
