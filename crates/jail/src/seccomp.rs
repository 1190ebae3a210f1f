//! Which system calls a jailed program has.
//!
//! A list of what is allowed, not of what is forbidden: a call that a newer kernel brings is not there (`ENOSYS`) until somebody has thought about
//! it here. Calls on [`DENIED`] are known to be dangerous or to be tried by hostile code: they are refused and reported. Where the kernel has no user
//! notification they are refused all the same, and nothing is reported.
//!
//! `open` and `connect` are reported too, but not decided by the filter: see `launcher/init.rs`.

use libc as sys;

use crate::bpf::{Answer, Rule, Test, compile};

/// What a filter depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// TCP sockets exist, for a proxy on the jail's own loopback.
    pub(crate) inet: bool,
    /// Refusals are told to a listener.
    pub(crate) listener: bool,
    /// Paths and addresses are looked at by the listener. It needs the mounts to be ours.
    pub(crate) paths: bool,
}

/// The flags of `clone` that make namespaces.
const NAMESPACES: u32 = 0x7e02_0080;

/// The filter's program.
pub(crate) fn filter(shape: Shape) -> Vec<u8> {
    compile(&rules(shape))
}

/// The name of a system call that is refused, and the capability that it would need.
pub(crate) fn name_of(number: i64) -> Option<(&'static str, &'static str)> {
    let denied = DENIED.iter().map(|(number, name, what)| (*number, *name, *what));
    let looked_at = LOOKED_AT.iter().map(|(number, name)| (*number, *name, "fs"));
    let tested = [
        (sys::SYS_socket, "socket", "net"),
        (sys::SYS_connect, "connect", "net.connect"),
        (sys::SYS_clone, "clone", "namespaces"),
        (sys::SYS_ioctl, "ioctl", "terminal"),
        (sys::SYS_mknodat, "mknodat", "devices"),
        #[cfg(target_arch = "x86_64")]
        (sys::SYS_mknod, "mknod", "devices"),
    ];
    denied
        .chain(looked_at)
        .chain(tested)
        .find(|(it, ..)| *it == number)
        .map(|(_, name, what)| (name, what))
}

fn rules(shape: Shape) -> Vec<Rule> {
    let denied = if shape.listener {
        Answer::Ask
    } else {
        Answer::Errno(sys::EPERM)
    };
    let looked_at = if shape.listener && shape.paths {
        Answer::Ask
    } else {
        Answer::Allow
    };
    let plain = |number: i64, answer| Rule {
        number: number_of(number),
        cases: Vec::new(),
        otherwise: answer,
    };
    let mut rules: Vec<Rule> = ALLOWED
        .iter()
        .flat_map(|(_, numbers)| *numbers)
        .map(|it| plain(*it, Answer::Allow))
        .collect();
    rules.extend(DENIED.iter().map(|(number, ..)| plain(*number, denied)));
    rules.extend(LOOKED_AT.iter().map(|(number, _)| plain(*number, looked_at)));
    rules.push(plain(sys::SYS_connect, looked_at));
    rules.push(socket(shape, denied));
    let is = |argument, mask, value| {
        vec![Test {
            argument,
            mask,
            value,
        }]
    };
    // A namespace of one's own brings every capability over it, and with them much of the kernel within reach.
    rules.push(Rule {
        number: number_of(sys::SYS_clone),
        cases: vec![(is(0, NAMESPACES, 0), Answer::Allow)],
        otherwise: denied,
    });
    // Its flags are in memory, where a filter can't look. Every C library falls back to `clone`.
    rules.push(plain(sys::SYS_clone3, Answer::Errno(sys::ENOSYS)));
    // Typing into the terminal that the host was started from: TIOCSTI, TIOCLINUX.
    rules.push(Rule {
        number: number_of(sys::SYS_ioctl),
        cases: vec![
            (is(1, u32::MAX, 0x5412), denied),
            (is(1, u32::MAX, 0x541c), denied),
        ],
        otherwise: Answer::Allow,
    });
    // Only the usual execution domain: others weaken the address space.
    rules.push(Rule {
        number: number_of(sys::SYS_personality),
        cases: vec![
            (is(0, u32::MAX, 0), Answer::Allow),
            (is(0, u32::MAX, u32::MAX), Answer::Allow),
        ],
        otherwise: Answer::Errno(sys::EPERM),
    });
    let devices = |number: i64, argument| Rule {
        number: number_of(number),
        cases: vec![
            (is(argument, sys::S_IFMT, sys::S_IFCHR), denied),
            (is(argument, sys::S_IFMT, sys::S_IFBLK), denied),
        ],
        otherwise: Answer::Allow,
    };
    rules.push(devices(sys::SYS_mknodat, 2));
    #[cfg(target_arch = "x86_64")]
    rules.push(devices(sys::SYS_mknod, 1));
    rules
}

fn socket(shape: Shape, denied: Answer) -> Rule {
    let family = |family: i32| Test {
        argument: 0,
        mask: u32::MAX,
        value: family.unsigned_abs(),
    };
    // Without SOCK_CLOEXEC and SOCK_NONBLOCK.
    let stream = Test {
        argument: 1,
        mask: 0xf,
        value: sys::SOCK_STREAM.unsigned_abs(),
    };
    let mut cases = vec![(vec![family(sys::AF_UNIX)], Answer::Allow)];
    if shape.inet {
        cases.push((vec![family(sys::AF_INET), stream], Answer::Allow));
        cases.push((vec![family(sys::AF_INET6), stream], Answer::Allow));
    }
    Rule {
        number: number_of(sys::SYS_socket),
        cases,
        otherwise: denied,
    }
}

fn number_of(number: i64) -> u32 {
    u32::try_from(number).expect("system calls have small numbers")
}

/// Calls whose path is looked at for the report.
const LOOKED_AT: &[(i64, &str)] = &[
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_open, "open"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_creat, "creat"),
    (sys::SYS_openat, "openat"),
    (sys::SYS_openat2, "openat2"),
];

/// Calls that are refused and reported: number, name, what they would need.
const DENIED: &[(i64, &str, &str)] = &[
    (sys::SYS_ptrace, "ptrace", "other processes"),
    (sys::SYS_process_vm_readv, "process_vm_readv", "other processes"),
    (sys::SYS_process_vm_writev, "process_vm_writev", "other processes"),
    (sys::SYS_pidfd_getfd, "pidfd_getfd", "other processes"),
    (sys::SYS_kcmp, "kcmp", "other processes"),
    (sys::SYS_mount, "mount", "mounts"),
    (sys::SYS_umount2, "umount2", "mounts"),
    (sys::SYS_pivot_root, "pivot_root", "mounts"),
    (sys::SYS_chroot, "chroot", "mounts"),
    (sys::SYS_open_tree, "open_tree", "mounts"),
    (sys::SYS_move_mount, "move_mount", "mounts"),
    (sys::SYS_fsopen, "fsopen", "mounts"),
    (sys::SYS_fsconfig, "fsconfig", "mounts"),
    (sys::SYS_fsmount, "fsmount", "mounts"),
    (sys::SYS_fspick, "fspick", "mounts"),
    (sys::SYS_mount_setattr, "mount_setattr", "mounts"),
    (sys::SYS_unshare, "unshare", "namespaces"),
    (sys::SYS_setns, "setns", "namespaces"),
    (sys::SYS_io_uring_setup, "io_uring_setup", "io_uring"),
    (sys::SYS_io_uring_enter, "io_uring_enter", "io_uring"),
    (sys::SYS_io_uring_register, "io_uring_register", "io_uring"),
    (sys::SYS_keyctl, "keyctl", "keys"),
    (sys::SYS_add_key, "add_key", "keys"),
    (sys::SYS_request_key, "request_key", "keys"),
    (sys::SYS_bpf, "bpf", "bpf"),
    (sys::SYS_perf_event_open, "perf_event_open", "perf"),
    (sys::SYS_userfaultfd, "userfaultfd", "userfaultfd"),
    (sys::SYS_init_module, "init_module", "kernel modules"),
    (sys::SYS_finit_module, "finit_module", "kernel modules"),
    (sys::SYS_delete_module, "delete_module", "kernel modules"),
    (sys::SYS_kexec_load, "kexec_load", "the machine"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_kexec_file_load, "kexec_file_load", "the machine"),
    (sys::SYS_reboot, "reboot", "the machine"),
    (sys::SYS_swapon, "swapon", "the machine"),
    (sys::SYS_swapoff, "swapoff", "the machine"),
    (sys::SYS_acct, "acct", "the machine"),
    (sys::SYS_syslog, "syslog", "the machine"),
    (sys::SYS_quotactl, "quotactl", "the machine"),
    (sys::SYS_vhangup, "vhangup", "the machine"),
    (sys::SYS_settimeofday, "settimeofday", "the clock"),
    (sys::SYS_clock_settime, "clock_settime", "the clock"),
    (sys::SYS_clock_adjtime, "clock_adjtime", "the clock"),
    (sys::SYS_adjtimex, "adjtimex", "the clock"),
    (sys::SYS_sethostname, "sethostname", "the host name"),
    (sys::SYS_setdomainname, "setdomainname", "the host name"),
    (sys::SYS_open_by_handle_at, "open_by_handle_at", "fs"),
    (sys::SYS_name_to_handle_at, "name_to_handle_at", "fs"),
    (sys::SYS_fanotify_init, "fanotify_init", "fs"),
    (sys::SYS_fanotify_mark, "fanotify_mark", "fs"),
    (sys::SYS_move_pages, "move_pages", "other processes"),
    (sys::SYS_migrate_pages, "migrate_pages", "other processes"),
    (sys::SYS_lookup_dcookie, "lookup_dcookie", "the machine"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_iopl, "iopl", "devices"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_ioperm, "ioperm", "devices"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_modify_ldt, "modify_ldt", "the machine"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_uselib, "uselib", "the machine"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS__sysctl, "_sysctl", "the machine"),
    #[cfg(target_arch = "x86_64")]
    (sys::SYS_ustat, "ustat", "fs"),
];

/// What every program may do, by what it is for.
const ALLOWED: &[(&str, &[i64])] = &[
    (
        "memory",
        &[
            sys::SYS_brk,
            sys::SYS_mmap,
            sys::SYS_munmap,
            sys::SYS_mremap,
            sys::SYS_mprotect,
            sys::SYS_pkey_mprotect,
            sys::SYS_pkey_alloc,
            sys::SYS_pkey_free,
            sys::SYS_madvise,
            sys::SYS_mincore,
            sys::SYS_msync,
            sys::SYS_mlock,
            sys::SYS_mlock2,
            sys::SYS_munlock,
            sys::SYS_mlockall,
            sys::SYS_munlockall,
            sys::SYS_membarrier,
            sys::SYS_memfd_create,
            sys::SYS_get_mempolicy,
            sys::SYS_set_mempolicy,
            sys::SYS_mbind,
            sys::SYS_remap_file_pages,
        ],
    ),
    (
        "threads and processes of its own",
        &[
            sys::SYS_execve,
            sys::SYS_execveat,
            sys::SYS_exit,
            sys::SYS_exit_group,
            sys::SYS_wait4,
            sys::SYS_waitid,
            sys::SYS_futex,
            sys::SYS_futex_waitv,
            sys::SYS_set_robust_list,
            sys::SYS_get_robust_list,
            sys::SYS_set_tid_address,
            sys::SYS_rseq,
            sys::SYS_gettid,
            sys::SYS_getpid,
            sys::SYS_getppid,
            sys::SYS_getpgid,
            sys::SYS_setpgid,
            sys::SYS_getsid,
            sys::SYS_setsid,
            sys::SYS_prctl,
            sys::SYS_getrusage,
            sys::SYS_times,
            sys::SYS_getrlimit,
            sys::SYS_setrlimit,
            sys::SYS_prlimit64,
            sys::SYS_pidfd_open,
            sys::SYS_pidfd_send_signal,
            sys::SYS_restart_syscall,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_fork,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_vfork,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_getpgrp,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_arch_prctl,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_set_thread_area,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_get_thread_area,
        ],
    ),
    (
        "scheduling",
        &[
            sys::SYS_sched_yield,
            sys::SYS_sched_getaffinity,
            sys::SYS_sched_setaffinity,
            sys::SYS_sched_getparam,
            sys::SYS_sched_setparam,
            sys::SYS_sched_getscheduler,
            sys::SYS_sched_setscheduler,
            sys::SYS_sched_get_priority_max,
            sys::SYS_sched_get_priority_min,
            sys::SYS_sched_rr_get_interval,
            sys::SYS_sched_getattr,
            sys::SYS_sched_setattr,
            sys::SYS_getpriority,
            sys::SYS_setpriority,
            sys::SYS_ioprio_get,
            sys::SYS_ioprio_set,
            sys::SYS_getcpu,
        ],
    ),
    (
        "signals; whose it may signal is for the pid namespace and Landlock to say",
        &[
            sys::SYS_rt_sigaction,
            sys::SYS_rt_sigprocmask,
            sys::SYS_rt_sigreturn,
            sys::SYS_rt_sigpending,
            sys::SYS_rt_sigqueueinfo,
            sys::SYS_rt_tgsigqueueinfo,
            sys::SYS_rt_sigsuspend,
            sys::SYS_rt_sigtimedwait,
            sys::SYS_sigaltstack,
            sys::SYS_signalfd4,
            sys::SYS_kill,
            sys::SYS_tkill,
            sys::SYS_tgkill,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_signalfd,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_pause,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_alarm,
        ],
    ),
    (
        "time",
        &[
            sys::SYS_clock_gettime,
            sys::SYS_clock_getres,
            sys::SYS_clock_nanosleep,
            sys::SYS_nanosleep,
            sys::SYS_gettimeofday,
            sys::SYS_timer_create,
            sys::SYS_timer_delete,
            sys::SYS_timer_settime,
            sys::SYS_timer_gettime,
            sys::SYS_timer_getoverrun,
            sys::SYS_timerfd_create,
            sys::SYS_timerfd_settime,
            sys::SYS_timerfd_gettime,
            sys::SYS_getitimer,
            sys::SYS_setitimer,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_time,
        ],
    ),
    (
        "descriptors",
        &[
            sys::SYS_read,
            sys::SYS_readv,
            sys::SYS_pread64,
            sys::SYS_preadv,
            sys::SYS_preadv2,
            sys::SYS_write,
            sys::SYS_writev,
            sys::SYS_pwrite64,
            sys::SYS_pwritev,
            sys::SYS_pwritev2,
            sys::SYS_close,
            sys::SYS_close_range,
            sys::SYS_dup,
            sys::SYS_dup3,
            sys::SYS_fcntl,
            sys::SYS_flock,
            sys::SYS_lseek,
            sys::SYS_pipe2,
            sys::SYS_eventfd2,
            sys::SYS_ppoll,
            sys::SYS_pselect6,
            sys::SYS_epoll_create1,
            sys::SYS_epoll_ctl,
            sys::SYS_epoll_pwait,
            sys::SYS_epoll_pwait2,
            sys::SYS_sendfile,
            sys::SYS_splice,
            sys::SYS_tee,
            sys::SYS_vmsplice,
            sys::SYS_copy_file_range,
            sys::SYS_readahead,
            sys::SYS_inotify_init1,
            sys::SYS_inotify_add_watch,
            sys::SYS_inotify_rm_watch,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_dup2,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_pipe,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_poll,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_select,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_eventfd,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_epoll_create,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_epoll_wait,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_inotify_init,
        ],
    ),
    (
        "files; which ones is for the mounts and Landlock to say",
        &[
            sys::SYS_fstat,
            sys::SYS_newfstatat,
            sys::SYS_statx,
            sys::SYS_statfs,
            sys::SYS_fstatfs,
            sys::SYS_faccessat,
            sys::SYS_faccessat2,
            sys::SYS_readlinkat,
            sys::SYS_getdents64,
            sys::SYS_getcwd,
            sys::SYS_chdir,
            sys::SYS_fchdir,
            sys::SYS_mkdirat,
            sys::SYS_unlinkat,
            sys::SYS_renameat,
            sys::SYS_renameat2,
            sys::SYS_linkat,
            sys::SYS_symlinkat,
            sys::SYS_fchmod,
            sys::SYS_fchmodat,
            sys::SYS_fchmodat2,
            sys::SYS_fchown,
            sys::SYS_fchownat,
            sys::SYS_umask,
            sys::SYS_utimensat,
            sys::SYS_truncate,
            sys::SYS_ftruncate,
            sys::SYS_fallocate,
            sys::SYS_fadvise64,
            sys::SYS_fsync,
            sys::SYS_fdatasync,
            sys::SYS_sync,
            sys::SYS_syncfs,
            sys::SYS_sync_file_range,
            sys::SYS_getxattr,
            sys::SYS_lgetxattr,
            sys::SYS_fgetxattr,
            sys::SYS_listxattr,
            sys::SYS_llistxattr,
            sys::SYS_flistxattr,
            sys::SYS_setxattr,
            sys::SYS_lsetxattr,
            sys::SYS_fsetxattr,
            sys::SYS_removexattr,
            sys::SYS_lremovexattr,
            sys::SYS_fremovexattr,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_stat,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_lstat,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_access,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_readlink,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_getdents,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_mkdir,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_rmdir,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_unlink,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_rename,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_link,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_symlink,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_chmod,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_chown,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_lchown,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_utime,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_utimes,
            #[cfg(target_arch = "x86_64")]
            sys::SYS_futimesat,
        ],
    ),
    (
        "sockets, once there is one",
        &[
            sys::SYS_socketpair,
            sys::SYS_bind,
            sys::SYS_listen,
            sys::SYS_accept,
            sys::SYS_accept4,
            sys::SYS_getsockname,
            sys::SYS_getpeername,
            sys::SYS_getsockopt,
            sys::SYS_setsockopt,
            sys::SYS_shutdown,
            sys::SYS_sendto,
            sys::SYS_sendmsg,
            sys::SYS_sendmmsg,
            sys::SYS_recvfrom,
            sys::SYS_recvmsg,
            sys::SYS_recvmmsg,
        ],
    ),
    (
        "System V IPC and message queues, which are its own",
        &[
            sys::SYS_shmget,
            sys::SYS_shmat,
            sys::SYS_shmdt,
            sys::SYS_shmctl,
            sys::SYS_semget,
            sys::SYS_semop,
            sys::SYS_semtimedop,
            sys::SYS_semctl,
            sys::SYS_msgget,
            sys::SYS_msgsnd,
            sys::SYS_msgrcv,
            sys::SYS_msgctl,
            sys::SYS_mq_open,
            sys::SYS_mq_unlink,
            sys::SYS_mq_timedsend,
            sys::SYS_mq_timedreceive,
            sys::SYS_mq_notify,
            sys::SYS_mq_getsetattr,
        ],
    ),
    (
        "who it is and what it runs on",
        &[
            sys::SYS_getuid,
            sys::SYS_geteuid,
            sys::SYS_getgid,
            sys::SYS_getegid,
            sys::SYS_getresuid,
            sys::SYS_getresgid,
            sys::SYS_getgroups,
            sys::SYS_setuid,
            sys::SYS_setgid,
            sys::SYS_setreuid,
            sys::SYS_setregid,
            sys::SYS_setresuid,
            sys::SYS_setresgid,
            sys::SYS_setgroups,
            sys::SYS_setfsuid,
            sys::SYS_setfsgid,
            sys::SYS_capget,
            sys::SYS_capset,
            sys::SYS_uname,
            sys::SYS_sysinfo,
            sys::SYS_getrandom,
        ],
    ),
    (
        "jails of its own, inside this one",
        &[
            sys::SYS_seccomp,
            sys::SYS_landlock_create_ruleset,
            sys::SYS_landlock_add_rule,
            sys::SYS_landlock_restrict_self,
        ],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bpf::tests::answer;

    const STRICT: Shape = Shape {
        inet: false,
        listener: true,
        paths: true,
    };

    fn asked(shape: Shape, number: i64, arguments: [u64; 6]) -> Answer {
        answer(&filter(shape), number_of(number), arguments)
    }

    #[test]
    fn no_number_stands_twice() {
        let mut seen = BTreeMap::new();
        for rule in rules(STRICT) {
            assert_eq!(seen.insert(rule.number, ()), None, "{}", rule.number);
        }
    }

    #[test]
    fn only_unix_sockets_without_a_network() {
        let socket = |shape, family: i32, kind: i32| {
            asked(shape, sys::SYS_socket, [family as u64, kind as u64, 0, 0, 0, 0])
        };
        let proxy = Shape { inet: true, ..STRICT };
        let silent = Shape {
            listener: false,
            ..STRICT
        };
        for family in 0..64 {
            let expected = if family == sys::AF_UNIX {
                Answer::Allow
            } else {
                Answer::Ask
            };
            assert_eq!(socket(STRICT, family, sys::SOCK_STREAM), expected, "{family}");
            let inet = matches!(family, sys::AF_INET | sys::AF_INET6);
            let expected = if inet { Answer::Allow } else { expected };
            assert_eq!(
                socket(proxy, family, sys::SOCK_STREAM | sys::SOCK_CLOEXEC),
                expected
            );
        }
        for kind in [sys::SOCK_DGRAM, sys::SOCK_RAW] {
            assert_eq!(socket(proxy, sys::AF_INET, kind), Answer::Ask);
        }
        assert_eq!(
            socket(silent, sys::AF_INET, sys::SOCK_STREAM),
            Answer::Errno(sys::EPERM)
        );
    }

    #[test]
    fn threads_are_made_and_namespaces_are_not() {
        let clone = |flags: u64| asked(STRICT, sys::SYS_clone, [flags, 0, 0, 0, 0, 0]);
        assert_eq!(clone(0x003d_0f00), Answer::Allow, "a thread");
        assert_eq!(clone(17), Answer::Allow, "a fork");
        for flag in [
            sys::CLONE_NEWUSER,
            sys::CLONE_NEWNS,
            sys::CLONE_NEWPID,
            sys::CLONE_NEWNET,
            sys::CLONE_NEWIPC,
            sys::CLONE_NEWUTS,
            sys::CLONE_NEWCGROUP,
        ] {
            assert_eq!(clone(flag as u32 as u64 | 17), Answer::Ask, "{flag:#x}");
        }
        assert_eq!(asked(STRICT, sys::SYS_clone3, [0; 6]), Answer::Errno(sys::ENOSYS));
    }

    #[test]
    fn pipes_in_the_file_tree_but_no_devices() {
        let make = |mode: u32| asked(STRICT, sys::SYS_mknodat, [0, 0, u64::from(mode | 0o600), 0, 0, 0]);
        assert_eq!(make(sys::S_IFIFO), Answer::Allow);
        assert_eq!(make(sys::S_IFCHR), Answer::Ask);
        assert_eq!(make(sys::S_IFBLK), Answer::Ask);
    }

    #[test]
    fn what_is_refused_has_a_name() {
        for rule in rules(STRICT) {
            let asks = rule.otherwise == Answer::Ask || rule.cases.iter().any(|(_, it)| *it == Answer::Ask);
            if asks {
                assert!(name_of(rule.number.into()).is_some(), "{}", rule.number);
            }
        }
    }

    #[test]
    fn a_program_fits_and_is_refused_nothing_that_it_needs_to_begin() {
        assert!(filter(STRICT).len() / 8 <= 4096, "BPF_MAXINSNS");
        for number in [
            sys::SYS_execve,
            sys::SYS_mmap,
            sys::SYS_brk,
            sys::SYS_exit_group,
            sys::SYS_futex,
        ] {
            assert_eq!(asked(STRICT, number, [0; 6]), Answer::Allow);
        }
        assert_eq!(asked(STRICT, sys::SYS_bpf, [0; 6]), Answer::Ask);
        assert_eq!(asked(STRICT, 9999, [0; 6]), Answer::Errno(sys::ENOSYS));
    }
}
