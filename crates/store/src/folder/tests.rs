use std::path::Path;

use super::*;

/// The ways to resolve a name that this system has.
fn ways(path: &Path) -> Vec<(&'static str, DiskFolder)> {
    vec![
        ("the system's", DiskFolder::open(path).unwrap()),
        #[cfg(target_os = "linux")]
        ("the portable", DiskFolder::open_portable(path).unwrap()),
    ]
}

/// Reads `name` in every way; all must refuse it for the same kind of reason.
fn refused(path: &Path, name: &str) -> StoreErrorKind {
    let kinds: Vec<_> = ways(path)
        .into_iter()
        .map(|(way, folder)| match folder.read(name, 1000) {
            Ok(bytes) => panic!("{way} way reads `{name}`: {bytes:?}"),
            Err(error) => (error.kind(), error.to_string()),
        })
        .collect();
    assert!(kinds.windows(2).all(|pair| pair[0].0 == pair[1].0), "{kinds:?}");
    kinds[0].0
}

fn read(path: &Path, name: &str) -> Vec<Bytes> {
    ways(path)
        .into_iter()
        .map(|(way, folder)| {
            folder
                .read(name, 1000)
                .unwrap_or_else(|error| panic!("{way}: {error}"))
        })
        .collect()
}

/// A folder with a file, and a secret beside the folder.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("package");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("file"), "content").unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    (dir, inside)
}

#[test]
fn plain_files_are_read() {
    let (_dir, inside) = folder();
    fs::create_dir(inside.join("sub")).unwrap();
    fs::write(inside.join("sub/file"), "deeper").unwrap();
    assert!(read(&inside, "file").iter().all(|it| it == "content"));
    assert!(read(&inside, "sub/file").iter().all(|it| it == "deeper"));
}

#[test]
fn names_that_lead_out_are_refused_as_text() {
    let (dir, inside) = folder();
    let absolute = dir.path().join("secret");
    for name in [
        "../secret",
        "sub/../../secret",
        "./file",
        "..",
        ".",
        "",
        "/etc/passwd",
        absolute.to_str().unwrap(),
        "sub//file",
        "file/",
        "C:\\Windows\\win.ini",
        "..\\secret",
        "file:stream",
        "\\\\server\\share",
        "nul",
        "COM1.txt",
        "file.",
        "fi\0le",
        "fi\nle",
        &"x".repeat(256),
    ] {
        assert_eq!(refused(&inside, name), StoreErrorKind::Escape, "{name:?}");
        let embedded = EmbeddedFolder {
            name: "it",
            files: &[("file", b"content")],
        };
        assert_eq!(
            embedded.read(name, 1000).unwrap_err().kind(),
            StoreErrorKind::Escape,
            "{name:?}"
        );
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    #[test]
    fn links_that_lead_out_are_refused() {
        let (dir, inside) = folder();
        symlink("../secret", inside.join("relative")).unwrap();
        symlink(dir.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("..", inside.join("parent")).unwrap();
        symlink("/proc/self/root/etc/passwd", inside.join("magic")).unwrap();
        // A prefix of the folder's name is not the folder.
        let twin = dir.path().join("package-twin");
        fs::create_dir(&twin).unwrap();
        fs::write(twin.join("file"), "twin").unwrap();
        symlink("../package-twin/file", inside.join("twin")).unwrap();
        for name in ["relative", "absolute", "parent/secret", "magic", "twin"] {
            assert_eq!(refused(&inside, name), StoreErrorKind::Escape, "{name}");
        }
    }

    #[test]
    fn links_that_stay_inside_are_followed() {
        // This is what a Kubernetes volume looks like.
        let (_dir, inside) = folder();
        fs::create_dir(inside.join("..2026")).unwrap();
        fs::write(inside.join("..2026/plugin.toml"), "text").unwrap();
        symlink("..2026", inside.join("..data")).unwrap();
        symlink("..data/plugin.toml", inside.join("plugin.toml")).unwrap();
        assert!(read(&inside, "plugin.toml").iter().all(|it| it == "text"));
    }

    #[test]
    fn folder_that_is_itself_reached_by_a_link_is_fine() {
        let (dir, inside) = folder();
        symlink(&inside, dir.path().join("current")).unwrap();
        assert!(
            read(&dir.path().join("current"), "file")
                .iter()
                .all(|it| it == "content")
        );
    }

    #[test]
    fn links_in_a_circle_end() {
        let (_dir, inside) = folder();
        symlink("b", inside.join("a")).unwrap();
        symlink("a", inside.join("b")).unwrap();
        assert_eq!(refused(&inside, "a"), StoreErrorKind::Escape);
    }

    #[test]
    fn dangling_link_is_a_missing_file() {
        let (_dir, inside) = folder();
        symlink("nowhere", inside.join("a")).unwrap();
        assert_eq!(refused(&inside, "a"), StoreErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        let (_dir, inside) = folder();
        // Opening this one for reading would wait for a writer.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let _listener = UnixListener::bind(inside.join("socket")).unwrap();
        fs::create_dir(inside.join("folder")).unwrap();
        for name in ["fifo", "socket", "folder"] {
            assert_eq!(refused(&inside, name), StoreErrorKind::Escape, "{name}");
        }
    }

    #[test]
    fn devices_are_not_opened() {
        let (_dir, inside) = folder();
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.join("zero"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::RUSR,
            rustix::fs::makedev(1, 5),
        );
        if made.is_err() {
            // Without root the only device that a package can have is a link to one.
            println!("skipped: making a device needs root");
        } else {
            assert_eq!(refused(&inside, "zero"), StoreErrorKind::Escape);
        }
        symlink("/dev/zero", inside.join("link")).unwrap();
        assert_eq!(refused(&inside, "link"), StoreErrorKind::Escape);
    }

    #[test]
    fn unreadable_file_says_so() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, inside) = folder();
        fs::set_permissions(inside.join("file"), fs::Permissions::from_mode(0o000)).unwrap();
        if fs::read(inside.join("file")).is_ok() {
            println!("skipped: root reads everything");
            return;
        }
        assert_eq!(refused(&inside, "file"), StoreErrorKind::Denied);
    }
}

#[test]
fn files_are_read_up_to_the_limit_and_not_beyond() {
    let (_dir, inside) = folder();
    for (way, folder) in ways(&inside) {
        assert_eq!(folder.read("file", 7).unwrap(), "content", "{way}");
        let error = folder.read("file", 6).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::TooLarge, "{way}");
        assert!(
            error.to_string().contains("has 7 bytes, and 6 is the limit"),
            "{error}"
        );
    }
}
