//! Attempts on files.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write as _},
    os::{fd::FromRawFd as _, unix::fs::PermissionsExt as _},
    process::Command,
};

use crate::{Outcome, errno, errno_of};

pub(crate) fn read(path: &str) -> Outcome {
    let bytes = fs::read(path).map_err(errno_of)?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', "\n");
    Ok(text.chars().take(4096).collect())
}

/// The first bytes: the whole would have no end.
pub(crate) fn read_some(path: &str) -> Outcome {
    let mut bytes = [0; 16];
    let read = File::open(path)
        .and_then(|mut it| it.read(&mut bytes))
        .map_err(errno_of)?;
    Ok(format!("{read} bytes"))
}

pub(crate) fn write(path: &str) -> Outcome {
    fs::write(path, "mortise was here").map_err(errno_of)?;
    Ok(format!("wrote {path}"))
}

/// Opens it for writing and writes nothing: if that works, the rest would.
pub(crate) fn append(path: &str) -> Outcome {
    OpenOptions::new().write(true).open(path).map_err(errno_of)?;
    Ok(format!("opened {path} for writing"))
}

pub(crate) fn by_link(path: &str) -> Outcome {
    let _ = fs::remove_file("link");
    std::os::unix::fs::symlink(path, "link").map_err(errno_of)?;
    read("link")
}

pub(crate) fn by_hard_link(path: &str) -> Outcome {
    let _ = fs::remove_file("hard");
    fs::hard_link(path, "hard").map_err(errno_of)?;
    read("hard")
}

pub(crate) fn move_to(path: &str) -> Outcome {
    fs::write("mine", "mine").map_err(errno_of)?;
    fs::rename("mine", path).map_err(errno_of)?;
    Ok(format!("moved to {path}"))
}

pub(crate) fn write_own_program() -> Outcome {
    let own = std::env::current_exe().map_err(errno_of)?;
    // Not while it runs; a new file in its place would do as well.
    let other = own.with_extension("new");
    fs::write(&other, "mortise was here").map_err(errno_of)?;
    let _ = fs::remove_file(&other);
    Ok(format!("could replace {}", own.display()))
}

const SCRIPT: &str = "#!/bin/sh\necho executed\n";

pub(crate) fn execute_written() -> Outcome {
    // The script's own bit is asked, not its interpreter's.
    fs::write("script", SCRIPT).map_err(errno_of)?;
    fs::set_permissions("script", fs::Permissions::from_mode(0o755)).map_err(errno_of)?;
    said(Command::new("./script"))
}

/// Runs a program from memory, which then tries to read what it must not.
pub(crate) fn execute_memfd() -> Outcome {
    // SAFETY: the name ends with a zero; the descriptor is new and nobody else's.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"program".as_ptr(), 0);
        if fd < 0 {
            return Err(errno());
        }
        File::from_raw_fd(fd)
    };
    let shell = fs::read("/bin/sh").map_err(errno_of)?;
    file.write_all(&shell).map_err(errno_of)?;
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut command = Command::new(path);
    command.args(["-c", "cat /etc/shadow"]);
    said(command)
}

/// Preloads something into a set-user-id program.
pub(crate) fn preload_written() -> Outcome {
    fs::write("evil.so", "not even a library").map_err(errno_of)?;
    let mut command = Command::new("/bin/su");
    command
        .env("LD_PRELOAD", "./evil.so")
        .args(["-c", "cat /etc/shadow"]);
    said(command)
}

/// Runs a set-user-id program and says whether it made it root.
pub(crate) fn execute_set_user() -> Outcome {
    let candidates = [
        "/bin/su",
        "/usr/bin/passwd",
        "/usr/bin/chsh",
        "/bin/mount",
        "/usr/bin/newgrp",
    ];
    let found = candidates
        .iter()
        .find(|it| fs::metadata(it).is_ok_and(|it| it.permissions().mode() & 0o4000 != 0));
    let Some(found) = found else {
        return Err(libc::ENOENT);
    };
    let mut child = Command::new(found)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(errno_of)?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let _ = child.kill();
    let _ = child.wait();
    let ids = status
        .lines()
        .find_map(|it| it.strip_prefix("Uid:"))
        .unwrap_or_default();
    match ids.split_whitespace().nth(1) {
        Some("0") => Ok(format!("{found} runs as root")),
        _ => Err(libc::EPERM),
    }
}

fn said(mut command: Command) -> Outcome {
    let output = command.output().map_err(errno_of)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(libc::EACCES)
    }
}
