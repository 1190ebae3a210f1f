//! Attempts to use up what everybody needs. What ends them is the jail, or this process's end.

use std::{
    fs::{self, File},
    io::Write as _,
    ptr,
};

use crate::{Outcome, check, errno, errno_of};

/// More than any test's bounds, less than what harms a machine without any.
const MANY: usize = 2000;
const MIB: usize = 1 << 20;

pub(crate) fn forks() -> Outcome {
    let mut children = Vec::new();
    let mut refused = None;
    for _ in 0..MANY {
        // SAFETY: the child only waits to be killed.
        let child = unsafe { libc::fork() };
        match child {
            0 => unsafe {
                // SAFETY: no pointer is involved.
                libc::pause();
                libc::_exit(0)
            },
            1.. => children.push(child),
            _ => {
                refused = Some(errno());
                break;
            }
        }
    }
    let made = children.len();
    for child in children {
        // SAFETY: our own children.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, ptr::null_mut(), 0);
        }
    }
    refused.map_or_else(|| Ok(format!("{made} processes")), Err)
}

pub(crate) fn memory() -> Outcome {
    let mut all = Vec::new();
    for _ in 0..512 {
        let mut part: Vec<u8> = Vec::new();
        if part.try_reserve_exact(MIB).is_err() {
            return Err(libc::ENOMEM);
        }
        part.resize(MIB, 1);
        all.push(part);
    }
    Ok(format!("{} MiB", all.len()))
}

/// Each within the bounds of one process, all together not.
pub(crate) fn memory_of_children() -> Outcome {
    let mut children = Vec::new();
    for _ in 0..16 {
        // SAFETY: the child is single-threaded and uses memory that it maps itself.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: a mapping of its own, written within its bounds.
            unsafe {
                let size = 40 * MIB;
                let at = libc::mmap(
                    ptr::null_mut(),
                    size,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                if at == libc::MAP_FAILED {
                    libc::_exit(1);
                }
                ptr::write_bytes(at.cast::<u8>(), 1, size);
                libc::sleep(1);
                libc::_exit(0);
            }
        }
        if child > 0 {
            children.push(child);
        }
    }
    let mut whole = 0;
    for child in &children {
        let mut status = 0;
        // SAFETY: our own child.
        unsafe { libc::waitpid(*child, &raw mut status, 0) };
        whole += i32::from(status == 0);
    }
    if whole == 16 {
        Ok("all 16 had their 40 MiB".to_owned())
    } else {
        Err(libc::ENOMEM)
    }
}

pub(crate) fn descriptors() -> Outcome {
    let mut open = Vec::new();
    for _ in 0..MANY {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => return Err(errno_of(error)),
        }
    }
    Ok(format!("{} descriptors", open.len()))
}

/// One file that grows and grows, sparse, so that it costs nothing where it is allowed.
pub(crate) fn one_file() -> Outcome {
    // SAFETY: no pointer is involved: SIG_IGN. A file that is too large is an error then and no signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let file = File::create("large").map_err(errno_of)?;
    let grown = file.set_len(64 << 30).map_err(errno_of);
    let _ = fs::remove_file("large");
    grown.map(|()| "64 GiB".to_owned())
}

pub(crate) fn disk() -> Outcome {
    let part = vec![1; MIB];
    for number in 0..64 {
        File::create(format!("part-{number}"))
            .and_then(|mut it| it.write_all(&part))
            .map_err(errno_of)?;
    }
    Ok("64 MiB".to_owned())
}

pub(crate) fn deep_directories() -> Outcome {
    const DEPTH: usize = 3000;
    for _ in 0..DEPTH {
        fs::create_dir("ab").map_err(errno_of)?;
        std::env::set_current_dir("ab").map_err(errno_of)?;
    }
    Ok(format!("{DEPTH} levels"))
}

pub(crate) fn nameless_file() -> Outcome {
    static PART: [u8; 64 << 10] = [1; 64 << 10];
    // SAFETY: the children make system calls and nothing else; the path is a C string, and the buffer as long as is said.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            if libc::fork() == 0 {
                let file = libc::open(c"nameless".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600);
                libc::unlink(c"nameless".as_ptr());
                for _ in 0..64 * MIB / PART.len() {
                    libc::write(file, PART.as_ptr().cast(), PART.len());
                }
                loop {
                    libc::pause();
                }
            }
            libc::_exit(0);
        }
        check(child.into())?;
        libc::waitpid(child, ptr::null_mut(), 0);
    }
    Ok("64 MiB without a name".to_owned())
}

pub(crate) fn denials() -> Outcome {
    let mut refused = 0;
    for _ in 0..MANY {
        // SAFETY: no pointer is involved.
        refused += i32::from(check(unsafe { libc::syscall(libc::SYS_userfaultfd, 0) }).is_err());
    }
    if refused as usize == MANY {
        Err(libc::EPERM)
    } else {
        Ok("not all were refused".to_owned())
    }
}
