//! Attempts that are one system call.

use std::ptr;

use crate::{Outcome, attempt::Attempt, check};

pub(crate) fn other(attempt: Attempt, argument: &str) -> Outcome {
    use Attempt as A;
    let zeros = [0_u64; 32];
    let null = ptr::null::<u8>();
    let at = zeros.as_ptr();
    let path = c"/".as_ptr();
    // Calls with arguments that could not succeed anyway where success would do harm: what is asked is whether the call exists.
    // SAFETY: every pointer is null, or points to something long enough that lives through the call.
    let result = unsafe {
        match attempt {
            A::Mount => libc::syscall(
                libc::SYS_mount,
                c"none".as_ptr(),
                c"/tmp".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                null,
            ),
            A::Unmount => libc::syscall(libc::SYS_umount2, c"/proc".as_ptr(), libc::MNT_DETACH),
            A::PivotRoot => libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()),
            A::Chroot => libc::syscall(libc::SYS_chroot, path),
            A::UnshareUser => {
                in_child(|| libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNET))
            }
            A::CloneUser => clone_user(),
            A::Clone3User => {
                // flags, then zeros; exit signal at its place.
                let mut arguments = [0_u64; 11];
                arguments[0] = libc::CLONE_NEWUSER as u64;
                arguments[4] = libc::SIGCHLD as u64;
                reap(libc::syscall(
                    libc::SYS_clone3,
                    arguments.as_ptr(),
                    size_of_val(&arguments),
                ))
            }
            A::JoinNamespace => match std::fs::File::open(format!("/proc/{argument}/ns/mnt")) {
                Ok(file) => {
                    use std::os::fd::AsRawFd as _;
                    libc::syscall(libc::SYS_setns, file.as_raw_fd(), 0)
                }
                Err(error) => return Err(crate::errno_of(error)),
            },
            A::IoUring => libc::syscall(libc::SYS_io_uring_setup, 4, at),
            A::KeyControl => libc::syscall(libc::SYS_keyctl, 0, -3, 1, 0, 0),
            A::AddKey => libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                c"mortise".as_ptr(),
                c"x".as_ptr(),
                1,
                -3,
            ),
            A::Bpf => {
                // An array map of one: type 2, key 4, value 4, entries 1.
                let map = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                libc::syscall(libc::SYS_bpf, 0, map.as_ptr(), size_of_val(&map))
            }
            A::PerfEvent => {
                // A software clock of this process.
                let mut event = [0_u32; 28];
                event[0] = 1;
                event[1] = 112;
                libc::syscall(libc::SYS_perf_event_open, event.as_ptr(), 0, -1, -1, 0)
            }
            A::Userfaultfd => libc::syscall(libc::SYS_userfaultfd, 0),
            A::TypeIntoTerminal => libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr()),
            A::LoadModule => libc::syscall(libc::SYS_init_module, at, 256, c"".as_ptr()),
            A::LoadKernel => libc::syscall(libc::SYS_kexec_load, 0, 1_000_000, null, 0),
            A::Reboot => libc::syscall(libc::SYS_reboot, 0, 0, 0, null),
            A::SwapOn => libc::syscall(libc::SYS_swapon, c"/no/such/file".as_ptr(), 0),
            A::SetTime => libc::syscall(libc::SYS_settimeofday, null, null),
            A::SetClock => libc::syscall(libc::SYS_clock_settime, 9999, at),
            A::SetHostName => libc::syscall(libc::SYS_sethostname, c"gotcha".as_ptr(), 6),
            A::Fanotify => libc::syscall(libc::SYS_fanotify_init, 0, 0),
            #[cfg(target_arch = "x86_64")]
            A::IoPorts => libc::syscall(libc::SYS_iopl, 3),
            A::Persona => libc::syscall(libc::SYS_personality, 0x0040_0000_u64),
            #[cfg(target_arch = "x86_64")]
            A::OtherNumbering => libc::syscall(0x4000_0000 + libc::SYS_getpid),
            A::UnknownCall => libc::syscall(4000),
            other => unreachable!("{other:?} is made elsewhere"),
        }
    };
    check(result).map(|value| format!("{attempt:?} gave {value}"))
}

/// In a child, so that a success leaves this process as it is.
unsafe fn in_child(call: impl FnOnce() -> i64) -> i64 {
    // SAFETY: the child calls nothing but the system.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let result = call();
            libc::_exit(if result < 0 { crate::errno() } else { 0 });
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        match libc::WEXITSTATUS(status) {
            0 => 0,
            errno => {
                *libc::__errno_location() = errno;
                -1
            }
        }
    }
}

unsafe fn clone_user() -> i64 {
    // SAFETY: as of a fork: the child has a copy and only exits.
    unsafe {
        reap(libc::syscall(
            libc::SYS_clone,
            libc::CLONE_NEWUSER | libc::SIGCHLD,
            0,
            0,
            0,
            0,
        ))
    }
}

/// Ends a child that was made, in the child and here.
unsafe fn reap(child: i64) -> i64 {
    // SAFETY: no pointer is involved.
    unsafe {
        match child {
            0 => libc::_exit(0),
            1.. => {
                libc::waitpid(child as i32, ptr::null_mut(), 0);
            }
            _ => {}
        }
    }
    child
}

fn pid(argument: &str) -> i32 {
    argument.parse().unwrap_or(1)
}

pub(crate) fn signal(argument: &str) -> Outcome {
    // SAFETY: no pointer is involved. Signal 0 only asks.
    check(unsafe { libc::kill(pid(argument), 0) }.into())?;
    Ok("could signal it".to_owned())
}

/// Everything that may be signalled but this process, which ignores it.
pub(crate) fn signal_everybody() -> Outcome {
    // SAFETY: no pointer is involved; the handler is the constant for ignoring.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        let result = check(libc::kill(-1, libc::SIGTERM).into());
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        result.map(|_| "signalled somebody".to_owned())
    }
}

pub(crate) fn ptrace(argument: &str) -> Outcome {
    // SAFETY: no pointer is involved. PTRACE_SEIZE stops nothing.
    unsafe {
        check(libc::syscall(libc::SYS_ptrace, 0x4206, pid(argument), 0, 0))?;
        libc::syscall(libc::SYS_ptrace, libc::PTRACE_DETACH, pid(argument), 0, 0);
    }
    Ok("attached".to_owned())
}

pub(crate) fn read_process(argument: &str) -> Outcome {
    transfer(libc::SYS_process_vm_readv, argument)
}

pub(crate) fn write_process(argument: &str) -> Outcome {
    transfer(libc::SYS_process_vm_writev, argument)
}

/// No bytes at all: the right to it is asked first.
fn transfer(number: i64, argument: &str) -> Outcome {
    let nothing = libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    };
    // As wide as the kernel reads them: the last goes by the stack, where an i32 leaves half of its place as it was.
    let (one, flags) = (1_usize, 0_usize);
    // SAFETY: nothing is transferred.
    let result = unsafe {
        libc::syscall(
            number,
            pid(argument),
            &raw const nothing,
            one,
            &raw const nothing,
            one,
            flags,
        )
    };
    check(result).map(|_| "could".to_owned())
}

pub(crate) fn steal_descriptor(argument: &str) -> Outcome {
    // SAFETY: no pointer is involved.
    unsafe {
        let process = check(libc::syscall(libc::SYS_pidfd_open, pid(argument), 0))?;
        check(libc::syscall(libc::SYS_pidfd_getfd, process, 1, 0))
            .map(|_| "has its standard output".to_owned())
    }
}

pub(crate) fn set_user() -> Outcome {
    // SAFETY: no pointer is involved. The raw call: of this thread alone.
    unsafe {
        let before = libc::getuid();
        check(libc::syscall(
            libc::SYS_setresuid,
            before,
            before.wrapping_add(1),
            before,
        ))?;
        libc::syscall(libc::SYS_setresuid, before, before, before);
    }
    Ok("is somebody else".to_owned())
}

pub(crate) fn regain_capabilities() -> Outcome {
    let header = [0x2008_0522_u32, 0];
    let data = [u32::MAX, u32::MAX, 0, 0x1ff, 0x1ff, 0];
    // SAFETY: a version 3 header and its two blocks.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    Ok("has all capabilities".to_owned())
}

pub(crate) fn raise_limit() -> Outcome {
    let limit = libc::rlimit {
        rlim_cur: 1 << 20,
        rlim_max: 1 << 20,
    };
    // SAFETY: the limit lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }.into())?;
    Ok("a million descriptors".to_owned())
}

pub(crate) fn make_device() -> Outcome {
    let _ = std::fs::remove_file("mem");
    // SAFETY: the path ends with a zero.
    check(unsafe { libc::mknod(c"mem".as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1)) }.into())?;
    let _ = std::fs::remove_file("mem");
    Ok("made a device of the memory".to_owned())
}

pub(crate) fn open_tree() -> Outcome {
    // SAFETY: the path ends with a zero. OPEN_TREE_CLONE.
    check(unsafe { libc::syscall(libc::SYS_open_tree, -100, c"/".as_ptr(), 1) })?;
    Ok("a mount of its own".to_owned())
}

pub(crate) fn open_by_handle() -> Outcome {
    // Type and bytes of the root directory of most file systems: inode 2.
    let handle = [8_u32, 1, 2, 0];
    // SAFETY: a file handle of 8 bytes.
    let opened = unsafe { libc::syscall(libc::SYS_open_by_handle_at, -100, handle.as_ptr(), 0) };
    match check(opened) {
        // It was looked for: nothing but the number was wrong.
        Err(libc::ESTALE | libc::EINVAL) => Ok("may try handles".to_owned()),
        other => other.map(|_| "opened the root".to_owned()),
    }
}
