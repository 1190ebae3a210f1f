//! System calls, each as thin as it can be: the arguments in, the result or the errno out.
//!
//! Numbers above 400 are the same on every processor; the few below stand in [`nr`] for each of those that the launcher knows.

use std::{
    ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void},
    mem, ptr,
};

/// What went wrong.
pub(crate) type Errno = i32;
pub(crate) type Result<T = ()> = std::result::Result<T, Errno>;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub(crate) const CLONE: i64 = 56;
    pub(crate) const CAPSET: i64 = 126;
    pub(crate) const PIVOT_ROOT: i64 = 155;
    pub(crate) const SECCOMP: i64 = 317;
}
#[cfg(target_arch = "aarch64")]
mod nr {
    pub(crate) const CLONE: i64 = 220;
    pub(crate) const CAPSET: i64 = 91;
    pub(crate) const PIVOT_ROOT: i64 = 41;
    pub(crate) const SECCOMP: i64 = 277;
}
const OPEN_TREE: i64 = 428;
const MOVE_MOUNT: i64 = 429;
const CLOSE_RANGE: i64 = 436;
const OPENAT2: i64 = 437;
const MOUNT_SETATTR: i64 = 442;
const LANDLOCK_CREATE_RULESET: i64 = 444;
const LANDLOCK_ADD_RULE: i64 = 445;
const LANDLOCK_RESTRICT_SELF: i64 = 446;

pub(crate) const EPERM: Errno = 1;
pub(crate) const ENOENT: Errno = 2;
pub(crate) const EINTR: Errno = 4;
pub(crate) const EAGAIN: Errno = 11;
pub(crate) const EACCES: Errno = 13;
pub(crate) const EEXIST: Errno = 17;
pub(crate) const ENOTDIR: Errno = 20;
pub(crate) const EINVAL: Errno = 22;
pub(crate) const ETXTBSY: Errno = 26;
pub(crate) const ENOSYS: Errno = 38;

pub(crate) const CLONE_NEWCGROUP: u64 = 0x0200_0000;
pub(crate) const CLONE_NEWUTS: u64 = 0x0400_0000;
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
pub(crate) const CLONE_NEWNET: u64 = 0x4000_0000;
pub(crate) const CLONE_NEWNS: u64 = 0x0002_0000;
pub(crate) const CLONE_PARENT: u64 = 0x0000_8000;

pub(crate) const SIGINT: c_int = 2;
pub(crate) const SIGQUIT: c_int = 3;
pub(crate) const SIGKILL: c_int = 9;
pub(crate) const SIGTERM: c_int = 15;
pub(crate) const SIGCHLD: c_int = 17;

pub(crate) const MS_NOSUID: c_ulong = 2;
pub(crate) const MS_NODEV: c_ulong = 4;
pub(crate) const MS_NOEXEC: c_ulong = 8;
pub(crate) const MS_RDONLY: c_ulong = 1;
pub(crate) const MS_REMOUNT: c_ulong = 32;
pub(crate) const MS_BIND: c_ulong = 4096;
pub(crate) const MS_REC: c_ulong = 16384;
pub(crate) const MS_PRIVATE: c_ulong = 1 << 18;
pub(crate) const MNT_DETACH: c_int = 2;

pub(crate) const ATTR_RDONLY: u64 = 1;
pub(crate) const ATTR_NOSUID: u64 = 2;
pub(crate) const ATTR_NODEV: u64 = 4;
pub(crate) const ATTR_NOEXEC: u64 = 8;

pub(crate) const PR_SET_PDEATHSIG: c_int = 1;
pub(crate) const PR_SET_DUMPABLE: c_int = 4;
pub(crate) const PR_CAPBSET_DROP: c_int = 24;
pub(crate) const PR_SET_SECUREBITS: c_int = 28;
pub(crate) const PR_SET_CHILD_SUBREAPER: c_int = 36;
pub(crate) const PR_SET_NO_NEW_PRIVS: c_int = 38;
pub(crate) const PR_CAP_AMBIENT: c_int = 47;
pub(crate) const PR_CAP_AMBIENT_CLEAR_ALL: c_ulong = 4;

pub(crate) const POLLIN: i16 = 1;
pub(crate) const POLLHUP: i16 = 16;
pub(crate) const POLLERR: i16 = 8;

pub(crate) const O_RDONLY: c_int = 0;
pub(crate) const O_WRONLY: c_int = 1;
pub(crate) const O_CREAT: c_int = 0o100;
pub(crate) const O_CLOEXEC: c_int = 0o2_000_000;
pub(crate) const O_PATH: c_int = 0o10_000_000;

const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_DONTWAIT: c_int = 0x40;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PollFd {
    pub(crate) fd: c_int,
    pub(crate) events: i16,
    pub(crate) revents: i16,
}

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_length: c_uint,
    iov: *mut IoVec,
    iov_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

#[repr(C)]
struct RLimit {
    current: u64,
    maximum: u64,
}

/// glibc and musl both give it 128 bytes.
#[repr(C)]
struct SigSet([u64; 16]);

/// What a signal descriptor gives; only its head matters here.
#[repr(C)]
pub(crate) struct SignalInfo {
    pub(crate) signal: u32,
    _errno: i32,
    _code: i32,
    pub(crate) pid: u32,
    _rest: [u8; 112],
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) flags: u32,
    pub(crate) number: i32,
    pub(crate) arch: u32,
    pub(crate) instruction: u64,
    pub(crate) arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
pub(crate) struct Response {
    pub(crate) id: u64,
    pub(crate) value: i64,
    pub(crate) error: i32,
    pub(crate) flags: u32,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
    fn _exit(status: c_int) -> !;
    fn close(fd: c_int) -> c_int;
    fn dup2(old: c_int, new: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize;
    fn write(fd: c_int, buffer: *const c_void, length: usize) -> isize;
    fn readlink(path: *const c_char, buffer: *mut c_char, length: usize) -> isize;
    fn mkdir(path: *const c_char, mode: c_uint) -> c_int;
    fn rmdir(path: *const c_char) -> c_int;
    fn symlink(target: *const c_char, path: *const c_char) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut i64) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn setsid() -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn setgroups(count: usize, list: *const c_uint) -> c_int;
    fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn sethostname(name: *const c_char, length: usize) -> c_int;
    fn setrlimit(resource: c_int, limit: *const RLimit) -> c_int;
    fn umask(mode: c_uint) -> c_uint;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn sigfillset(set: *mut SigSet) -> c_int;
    fn sigemptyset(set: *mut SigSet) -> c_int;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SigSet, flags: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int;
    fn bind(fd: c_int, address: *const c_void, length: c_uint) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn sendmsg(fd: c_int, message: *const MsgHdr, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut MsgHdr, flags: c_int) -> isize;
    fn process_vm_readv(
        pid: c_int,
        local: *const IoVec,
        local_count: c_ulong,
        remote: *const IoVec,
        remote_count: c_ulong,
        flags: c_ulong,
    ) -> isize;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
}

fn errno() -> Errno {
    // SAFETY: it points to this thread's errno, always.
    unsafe { *__errno_location() }
}

fn check(result: c_int) -> Result<c_int> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn check_long(result: i64) -> Result<i64> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

// === processes ===

pub(crate) fn exit(status: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { _exit(status) }
}

/// Forks, into new namespaces if flags say so. 0 in the child.
pub(crate) fn fork(flags: u64) -> Result<c_int> {
    let flags = flags as c_long | c_long::from(SIGCHLD);
    // SAFETY: no CLONE_VM, so the child has a copy of this single-threaded process; the null stack is the caller's own, as of a fork.
    let pid = check_long(unsafe { syscall(nr::CLONE, flags, 0_i64, 0_i64, 0_i64, 0_i64) })?;
    Ok(pid as c_int)
}

/// Leaves namespaces for new ones.
pub(crate) fn leave_namespaces(flags: u64) -> Result {
    // SAFETY: no pointer is involved.
    check(unsafe { unshare(flags as c_int) }).map(drop)
}

pub(crate) fn new_session() {
    // SAFETY: no pointer is involved. It fails for a group leader, which then has what it wants.
    unsafe { setsid() };
}

pub(crate) fn control_process(option: c_int, value: c_ulong) -> Result {
    // SAFETY: none of the options used takes a pointer.
    check(unsafe { prctl(option, value, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) }).map(drop)
}

pub(crate) fn signal(pid: c_int, signal: c_int) {
    // SAFETY: no pointer is involved.
    unsafe { kill(pid, signal) };
}

/// A child that has ended and its status; `None` if none has; an error if there are no children.
pub(crate) fn reap(block: bool) -> Result<Option<(c_int, c_int)>> {
    let mut status = 0;
    // SAFETY: `status` lives through the call. 1 is WNOHANG; 0x40000000 is __WALL.
    let pid = check(unsafe { waitpid(-1, &raw mut status, 0x4000_0000 | c_int::from(!block)) })?;
    Ok((pid > 0).then_some((pid, status)))
}

/// # Errors
/// Always: it returns only if it failed.
pub(crate) fn execute(program: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> Errno {
    let arguments = null_ended(arguments);
    let environment = null_ended(environment);
    // SAFETY: both lists end with a null and point to strings that live through the call.
    unsafe { execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    errno()
}

fn null_ended(list: &[&CStr]) -> Vec<*const c_char> {
    list.iter().map(|it| it.as_ptr()).chain([ptr::null()]).collect()
}

// === descriptors ===

pub(crate) fn close_fd(fd: c_int) {
    // SAFETY: nothing that is used later owns the number.
    unsafe { close(fd) };
}

pub(crate) fn duplicate(old: c_int, new: c_int) -> Result {
    // SAFETY: no pointer is involved.
    check(unsafe { dup2(old, new) }).map(drop)
}

/// A copy with a number of at least `least`, closed on exec.
pub(crate) fn move_up(fd: c_int, least: c_int) -> Result<c_int> {
    // SAFETY: no pointer is involved. 1030 is F_DUPFD_CLOEXEC.
    check(unsafe { fcntl(fd, 1030, least) })
}

/// Closes everything from `first` on.
pub(crate) fn close_from(first: c_int) {
    // SAFETY: nothing is open yet that is used later.
    let closed = check_long(unsafe { syscall(CLOSE_RANGE, first as c_uint, c_uint::MAX, 0 as c_uint) });
    if closed.is_err() {
        (first..65_536).for_each(close_fd);
    }
}

/// Everything from `first` on is closed when the plugin is executed.
pub(crate) fn close_on_exec_from(first: c_int) -> Result {
    // SAFETY: no pointer is involved. 4 is CLOSE_RANGE_CLOEXEC.
    match check_long(unsafe { syscall(CLOSE_RANGE, first as c_uint, c_uint::MAX, 4 as c_uint) }) {
        Ok(_) => Ok(()),
        // Before Linux 5.11: one by one, as far as numbers go.
        Err(ENOSYS | EINVAL) => {
            for fd in first..65_536 {
                // SAFETY: as above. 2 is F_SETFD, 1 is FD_CLOEXEC.
                unsafe { fcntl(fd, 2, 1) };
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn keep_on_exec(fd: c_int) -> Result {
    // SAFETY: no pointer is involved. 2 is F_SETFD.
    check(unsafe { fcntl(fd, 2, 0) }).map(drop)
}

pub(crate) fn pipe() -> Result<(c_int, c_int)> {
    let mut fds = [0; 2];
    // SAFETY: there is room for two.
    check(unsafe { pipe2(fds.as_mut_ptr(), O_CLOEXEC) })?;
    Ok((fds[0], fds[1]))
}

pub(crate) fn socket_pair() -> Result<(c_int, c_int)> {
    let mut fds = [0; 2];
    // SAFETY: there is room for two. AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC.
    check(unsafe { socketpair(1, 5 | O_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    Ok((fds[0], fds[1]))
}

pub(crate) fn read_some(fd: c_int, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is as long as said.
    let got = unsafe { read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(got).map_err(|_| errno())
}

pub(crate) fn read_all(fd: c_int) -> Result<Vec<u8>> {
    let mut all = Vec::with_capacity(64 << 10);
    let mut chunk = [0; 16 << 10];
    loop {
        match read_some(fd, &mut chunk) {
            Ok(0) => return Ok(all),
            Ok(got) => all.extend_from_slice(&chunk[..got]),
            Err(EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn write_all(fd: c_int, bytes: &[u8]) -> Result {
    // SAFETY: the buffer is as long as said.
    let put = unsafe { write(fd, bytes.as_ptr().cast(), bytes.len()) };
    match usize::try_from(put) {
        Ok(put) if put == bytes.len() => Ok(()),
        Ok(_) => Err(EAGAIN),
        Err(_) => Err(errno()),
    }
}

pub(crate) fn wait_for(fds: &mut [PollFd]) -> Result {
    // SAFETY: the list is as long as said. -1 waits without end.
    check(unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, -1) }).map(drop)
}

/// Milliseconds since some moment.
pub(crate) fn now_ms() -> u64 {
    let mut now = [0_i64; 2];
    // SAFETY: a timespec is two of these on every processor that the launcher knows. 1 is CLOCK_MONOTONIC.
    unsafe { clock_gettime(1, now.as_mut_ptr()) };
    now[0] as u64 * 1000 + now[1] as u64 / 1_000_000
}

pub(crate) fn pause_ms(time: c_int) {
    // SAFETY: an empty list is read nowhere.
    unsafe { poll(ptr::null_mut(), 0, time) };
}

// === messages ===

/// Room for the descriptors of one message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 16 + 4 * crate::words::DESCRIPTORS_MAX]);

/// Sends a message, with a descriptor if there is one. Never waits if `wait` is not set.
pub(crate) fn send(socket: c_int, bytes: &[u8], descriptor: Option<c_int>, wait: bool) -> Result {
    let mut iov = IoVec {
        base: bytes.as_ptr().cast_mut().cast(),
        length: bytes.len(),
    };
    let mut room = Ancillary([0; _]);
    let mut message = MsgHdr {
        name: ptr::null_mut(),
        name_length: 0,
        iov: &raw mut iov,
        iov_count: 1,
        control: ptr::null_mut(),
        control_length: 0,
        flags: 0,
    };
    if let Some(fd) = descriptor {
        // A cmsghdr: length (size_t), level, type; then the descriptor.
        room.0[..8].copy_from_slice(&20_usize.to_ne_bytes());
        room.0[8..12].copy_from_slice(&SOL_SOCKET.to_ne_bytes());
        room.0[12..16].copy_from_slice(&SCM_RIGHTS.to_ne_bytes());
        room.0[16..20].copy_from_slice(&fd.to_ne_bytes());
        message.control = room.0.as_mut_ptr().cast();
        message.control_length = 24;
    }
    let flags = MSG_NOSIGNAL | if wait { 0 } else { MSG_DONTWAIT };
    // SAFETY: everything that the header points to lives through the call; nothing is written through `base`.
    let sent = unsafe { sendmsg(socket, &raw const message, flags) };
    if sent < 0 { Err(errno()) } else { Ok(()) }
}

/// Receives a message with its descriptors, which close on exec.
pub(crate) fn receive(socket: c_int, buffer: &mut [u8]) -> Result<(usize, Vec<c_int>)> {
    let mut iov = IoVec {
        base: buffer.as_mut_ptr().cast(),
        length: buffer.len(),
    };
    let mut room = Ancillary([0; _]);
    let mut message = MsgHdr {
        name: ptr::null_mut(),
        name_length: 0,
        iov: &raw mut iov,
        iov_count: 1,
        control: room.0.as_mut_ptr().cast(),
        control_length: room.0.len(),
        flags: 0,
    };
    let got = loop {
        // SAFETY: everything that the header points to lives through the call and is as long as said.
        let got = unsafe { recvmsg(socket, &raw mut message, MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Ok(got) => break got,
            Err(_) if errno() == EINTR => {}
            Err(_) => return Err(errno()),
        }
    };
    let mut fds = Vec::new();
    let (mut at, end) = (0, message.control_length.min(room.0.len()));
    // The peer is the host or our own child, and credentials may come along: skip what is no descriptor.
    while at + 16 <= end {
        let length = usize::from_ne_bytes(room.0[at..at + 8].try_into().map_err(|_| EINVAL)?);
        let kind = i32::from_ne_bytes(room.0[at + 12..at + 16].try_into().map_err(|_| EINVAL)?);
        if length < 16 || at + length > end {
            break;
        }
        if kind == SCM_RIGHTS {
            let list = room.0[at + 16..at + length].chunks_exact(4);
            fds.extend(list.filter_map(|it| it.try_into().ok().map(i32::from_ne_bytes)));
        }
        at += length.next_multiple_of(8);
    }
    Ok((got, fds))
}

// === files ===

pub(crate) fn open_file(path: &CStr, flags: c_int) -> Result<c_int> {
    // SAFETY: the path ends with a zero; the mode is read only with O_CREAT.
    check(unsafe { open(path.as_ptr(), flags | O_CLOEXEC, 0o644 as c_uint) })
}

pub(crate) fn make_dir(path: &CStr) -> Result {
    // SAFETY: the path ends with a zero.
    check(unsafe { mkdir(path.as_ptr(), 0o755) }).map(drop)
}

pub(crate) fn remove_dir(path: &CStr) -> Result {
    // SAFETY: the path ends with a zero.
    check(unsafe { rmdir(path.as_ptr()) }).map(drop)
}

pub(crate) fn make_link(target: &CStr, path: &CStr) -> Result {
    // SAFETY: both end with a zero.
    check(unsafe { symlink(target.as_ptr(), path.as_ptr()) }).map(drop)
}

pub(crate) fn read_link(path: &CStr, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is as long as said.
    let got = unsafe { readlink(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(got).map_err(|_| errno())
}

pub(crate) fn change_dir(path: &CStr) -> Result {
    // SAFETY: the path ends with a zero.
    check(unsafe { chdir(path.as_ptr()) }).map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // SAFETY: no pointer is involved; it can't fail.
    unsafe { umask(mask) };
}

pub(crate) fn mount_at(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    data: Option<&CStr>,
) -> Result {
    let text = |it: Option<&CStr>| it.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every text ends with a zero and lives through the call.
    check(unsafe {
        mount(
            source.as_ptr(),
            target.as_ptr(),
            text(kind),
            flags,
            text(data).cast(),
        )
    })
    .map(drop)
}

/// Opens a place without reading what is there. A link on the way, or at its end, is an error.
pub(crate) fn open_place(path: &CStr) -> Result<c_int> {
    // Flags, mode, and RESOLVE_NO_SYMLINKS.
    let how = [(O_PATH | O_CLOEXEC) as u64, 0, 4];
    // SAFETY: the path ends with a zero; `how` is an `open_how` of the size said. -100 is AT_FDCWD.
    let fd = check_long(unsafe {
        syscall(
            OPENAT2,
            -100_i64,
            path.as_ptr(),
            how.as_ptr(),
            mem::size_of_val(&how),
        )
    })?;
    Ok(fd as c_int)
}

/// Whether a place is a directory.
pub(crate) fn is_dir(place: c_int) -> Result<bool> {
    // Only in a directory can anything be looked for, with success or without permission.
    let how = [(O_PATH | O_CLOEXEC) as u64, 0, 0];
    // SAFETY: as above.
    let looked = check_long(unsafe {
        syscall(
            OPENAT2,
            place,
            c".".as_ptr(),
            how.as_ptr(),
            mem::size_of_val(&how),
        )
    });
    match looked {
        Ok(fd) => {
            close_fd(fd as c_int);
            Ok(true)
        }
        Err(EACCES) => Ok(true),
        Err(ENOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A copy of the mounts at a place and below it, which is nowhere yet.
pub(crate) fn copy_mounts(place: c_int) -> Result<c_int> {
    // OPEN_TREE_CLONE, AT_EMPTY_PATH, AT_RECURSIVE.
    let flags = 1 | 0x1000 | 0x8000 | O_CLOEXEC;
    // SAFETY: the empty path ends with a zero.
    let fd = check_long(unsafe { syscall(OPEN_TREE, place, c"".as_ptr(), flags) })?;
    Ok(fd as c_int)
}

/// Sets attributes of such a copy.
pub(crate) fn set_mount_attributes(mounts: c_int, attributes: u64) -> Result {
    let set = [attributes, 0, 0, 0];
    // SAFETY: the empty path ends with a zero; `set` is a `mount_attr` of the size said. The flags are AT_EMPTY_PATH and AT_RECURSIVE.
    check_long(unsafe {
        syscall(
            MOUNT_SETATTR,
            mounts,
            c"".as_ptr(),
            0x9000_i64,
            set.as_ptr(),
            mem::size_of_val(&set),
        )
    })
    .map(drop)
}

/// Puts such a copy at a place.
pub(crate) fn put_mounts(mounts: c_int, place: c_int) -> Result {
    // MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH.
    let flags = 4 | 0x40;
    // SAFETY: both paths are empty and end with a zero.
    check_long(unsafe {
        syscall(
            MOVE_MOUNT,
            mounts,
            c"".as_ptr(),
            place,
            c"".as_ptr(),
            flags as c_int,
        )
    })
    .map(drop)
}

pub(crate) fn unmount(target: &CStr) -> Result {
    // SAFETY: the path ends with a zero.
    check(unsafe { umount2(target.as_ptr(), MNT_DETACH) }).map(drop)
}

pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> Result {
    // SAFETY: both paths end with a zero.
    check_long(unsafe { syscall(nr::PIVOT_ROOT, new.as_ptr(), old.as_ptr()) }).map(drop)
}

pub(crate) fn set_host_name(name: &[u8]) -> Result {
    // SAFETY: the name is as long as said.
    check(unsafe { sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

// === identity and limits ===

pub(crate) fn set_limit(resource: u32, value: u64) -> Result {
    let limit = RLimit {
        current: value,
        maximum: value,
    };
    // SAFETY: the limit lives through the call.
    check(unsafe { setrlimit(resource as c_int, &raw const limit) }).map(drop)
}

pub(crate) fn drop_groups() -> Result {
    // SAFETY: an empty list is read nowhere.
    check(unsafe { setgroups(0, ptr::null()) }).map(drop)
}

pub(crate) fn become_group(id: u32) -> Result {
    // SAFETY: no pointer is involved.
    check(unsafe { setresgid(id, id, id) }).map(drop)
}

pub(crate) fn become_user(id: u32) -> Result {
    // SAFETY: no pointer is involved.
    check(unsafe { setresuid(id, id, id) }).map(drop)
}

/// Sets the permitted and effective capabilities; none are inheritable.
pub(crate) fn set_capabilities(set: u64) -> Result {
    let (low, high) = (set as u32, (set >> 32) as u32);
    let header = [0x2008_0522_u32, 0];
    let data = [low, low, 0, high, high, 0];
    // SAFETY: a version 3 header and its two data blocks, as the kernel wants them.
    check_long(unsafe { syscall(nr::CAPSET, header.as_ptr(), data.as_ptr()) }).map(drop)
}

pub(crate) fn clear_ambient() {
    // SAFETY: no pointer is involved. Kernels before 4.3 have none.
    unsafe {
        prctl(
            PR_CAP_AMBIENT,
            PR_CAP_AMBIENT_CLEAR_ALL,
            0 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
        )
    };
}

// === signals ===

/// Blocks every signal and gives a descriptor that tells of them.
pub(crate) fn take_signals() -> Result<c_int> {
    let mut all = SigSet([0; 16]);
    // SAFETY: the set has the C library's size. 0 is SIG_BLOCK, 0o4000 is SFD_NONBLOCK.
    unsafe {
        sigfillset(&raw mut all);
        check(sigprocmask(0, &raw const all, ptr::null_mut()))?;
        check(signalfd(-1, &raw const all, O_CLOEXEC | 0o4000))
    }
}

/// No signal is blocked any more.
pub(crate) fn let_signals_through() {
    let mut none = SigSet([0; 16]);
    // SAFETY: the set has the C library's size. 2 is SIG_SETMASK.
    unsafe {
        sigemptyset(&raw mut none);
        sigprocmask(2, &raw const none, ptr::null_mut());
    }
}

pub(crate) fn next_signal(fd: c_int) -> Option<SignalInfo> {
    // SAFETY: all zeros is a valid value of these integers.
    let mut info: SignalInfo = unsafe { mem::zeroed() };
    let size = mem::size_of::<SignalInfo>();
    // SAFETY: there is room for one.
    let got = unsafe { read(fd, (&raw mut info).cast(), size) };
    (got == size as isize).then_some(info)
}

// === loopback ===

/// Brings the loopback device of this network namespace up and listens on it.
pub(crate) fn listen_on_loopback(port: u16) -> Result<c_int> {
    // An ifreq: 16 bytes of name, then the flags. IFF_UP | IFF_RUNNING.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&0x41_u16.to_ne_bytes());
    // A sockaddr_in: AF_INET, the port, 127.0.0.1.
    let mut address = [0_u8; 16];
    address[..2].copy_from_slice(&2_u16.to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    // SAFETY: the request and the address have the sizes of the structures they stand for and live through the calls.
    // AF_INET, SOCK_STREAM | SOCK_CLOEXEC; 0x8914 is SIOCSIFFLAGS.
    unsafe {
        let fd = check(socket(2, 1 | O_CLOEXEC, 0))?;
        check(ioctl(fd, 0x8914, request.as_ptr()))?;
        check(bind(fd, address.as_ptr().cast(), 16))?;
        check(listen(fd, 64))?;
        Ok(fd)
    }
}

// === Landlock and seccomp ===

/// The Landlock ABI of this kernel.
pub(crate) fn landlock_abi() -> Result<i32> {
    // SAFETY: the version is asked with a null and no size. 1 is LANDLOCK_CREATE_RULESET_VERSION.
    let abi = check_long(unsafe { syscall(LANDLOCK_CREATE_RULESET, 0_i64, 0_i64, 1_i64) })?;
    Ok(abi as i32)
}

/// `size` bytes of the attributes are of the kernel's version.
pub(crate) fn new_ruleset(attributes: &[u64; 3], size: usize) -> Result<c_int> {
    // SAFETY: the attributes have at least `size` bytes, 24 at most.
    let fd = check_long(unsafe { syscall(LANDLOCK_CREATE_RULESET, attributes.as_ptr(), size, 0_i64) })?;
    Ok(fd as c_int)
}

pub(crate) fn allow_below(ruleset: c_int, parent: c_int, access: u64) -> Result {
    let mut rule = [0_u8; 12];
    rule[..8].copy_from_slice(&access.to_ne_bytes());
    rule[8..].copy_from_slice(&parent.to_ne_bytes());
    // SAFETY: a packed landlock_path_beneath_attr. 1 is LANDLOCK_RULE_PATH_BENEATH.
    check_long(unsafe { syscall(LANDLOCK_ADD_RULE, ruleset, 1_i64, rule.as_ptr(), 0_i64) }).map(drop)
}

pub(crate) fn allow_connect(ruleset: c_int, port: u16) -> Result {
    // A landlock_net_port_attr with LANDLOCK_ACCESS_NET_CONNECT_TCP.
    let rule = [2_u64, port.into()];
    // SAFETY: the attributes live through the call. 2 is LANDLOCK_RULE_NET_PORT.
    check_long(unsafe { syscall(LANDLOCK_ADD_RULE, ruleset, 2_i64, rule.as_ptr(), 0_i64) }).map(drop)
}

pub(crate) fn enforce(ruleset: c_int) -> Result {
    // SAFETY: no pointer is involved.
    check_long(unsafe { syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0_i64) }).map(drop)
}

/// Whether filters may leave a decision to a listener.
pub(crate) fn knows_notification() -> Result {
    let action = 0x7fc0_0000_u32;
    // SAFETY: the action lives through the call. 2 is SECCOMP_GET_ACTION_AVAIL.
    check_long(unsafe { syscall(nr::SECCOMP, 2_i64, 0_i64, &raw const action) }).map(drop)
}

/// Installs a filter; with `listen`, gives the descriptor of its listener.
pub(crate) fn filter(program: &[u8], listen: bool) -> Result<Option<c_int>> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const u8,
    }
    let program = Program {
        length: u16::try_from(program.len() / 8).map_err(|_| EINVAL)?,
        instructions: program.as_ptr(),
    };
    // SECCOMP_FILTER_FLAG_NEW_LISTENER, and WAIT_KILLABLE_RECV where it is known: a signal then can't interrupt what was already received.
    let flags: &[i64] = if listen { &[8 | 32, 8] } else { &[0] };
    let mut last = Err(EINVAL);
    for flags in flags {
        // SAFETY: the program lives through the call and has as many instructions as said. 1 is SECCOMP_SET_MODE_FILTER.
        last = check_long(unsafe { syscall(nr::SECCOMP, 1_i64, *flags, &raw const program) });
        if last != Err(EINVAL) {
            break;
        }
    }
    last.map(|fd| listen.then_some(fd as c_int))
}

/// Tells the kernel that caller and listener take turns, so that waking one puts the other to sleep on the same processor: a call that is looked at
/// then costs a few microseconds instead of two journeys between processors. Kernels before 6.6 do not know it.
pub(crate) fn wake_in_turn(listener: c_int) {
    // SAFETY: the flags are a number. The request is SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1 is SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP.
    unsafe { ioctl(listener, 0x4008_2104, 1 as c_ulong) };
}

pub(crate) fn next_notification(listener: c_int) -> Result<Notification> {
    let mut notification = Notification::default();
    // SAFETY: it is zeroed, as the kernel demands, and of the size of a seccomp_notif. The number is SECCOMP_IOCTL_NOTIF_RECV.
    check(unsafe { ioctl(listener, 0xc050_2100, &raw mut notification) })?;
    Ok(notification)
}

/// Whether the call is still waiting: what was read from its process then was really its own.
pub(crate) fn still_waits(listener: c_int, id: u64) -> bool {
    // SAFETY: the id lives through the call. The number is SECCOMP_IOCTL_NOTIF_ID_VALID.
    unsafe { ioctl(listener, 0x4008_2102, &raw const id) == 0 }
}

pub(crate) fn answer(listener: c_int, response: &Response) -> Result {
    // SAFETY: of the size of a seccomp_notif_resp. The number is SECCOMP_IOCTL_NOTIF_SEND.
    check(unsafe { ioctl(listener, 0xc018_2101, ptr::from_ref(response)) }).map(drop)
}

/// Reads another process's memory, as far as it goes; a text only as far as its zero.
pub(crate) fn read_memory(pid: u32, address: u64, buffer: &mut [u8], text: bool) -> Result<usize> {
    // A page at a time: a string may end right before one that is not there.
    let mut done = 0;
    while done < buffer.len() {
        let at = address.wrapping_add(done as u64);
        let length = (4096 - (at % 4096) as usize).min(buffer.len() - done);
        let local = IoVec {
            base: buffer[done..].as_mut_ptr().cast(),
            length,
        };
        let remote = IoVec {
            base: at as *mut c_void,
            length,
        };
        // SAFETY: the local buffer is as long as said; the remote address is checked by the kernel.
        let got = unsafe { process_vm_readv(pid as c_int, &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(got) {
            Ok(got) if got == length => done += got,
            Ok(got) => return Ok(done + got),
            Err(_) if done > 0 => return Ok(done),
            Err(_) => return Err(errno()),
        }
        if text && buffer[..done].contains(&0) {
            break;
        }
    }
    Ok(done)
}
