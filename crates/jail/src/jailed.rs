//! A program that runs in its enclosure.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    process::ExitStatus,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, waitpid,
};

use crate::{Denial, Enclosure, Event, Exit, GroupUsage, cgroup::Cgroup, launch, seccomp, words};

/// A program in its enclosure, with everything that it started. Dropping it ends all of it and waits until that is done.
#[derive(Debug)]
pub struct Jailed {
    control: OwnedFd,
    /// The process above the program: the host's child. `None` once it is reaped.
    init: Option<Pid>,
    plugin: Option<Pid>,
    listener: Option<OwnedFd>,
    cgroup: Option<Arc<Cgroup>>,
    enclosure: Enclosure,
    /// All it starts ends with `init`, by the kernel's doing.
    own_pids: bool,
}

/// How long dropping waits. A process that hangs in the kernel takes longer; it is dead all the same.
pub(crate) const END_WAIT: Duration = Duration::from_secs(2);

impl Jailed {
    pub(crate) fn new(
        control: OwnedFd,
        init: Option<Pid>,
        plugin: Option<Pid>,
        listener: Option<OwnedFd>,
        cgroup: Option<Cgroup>,
        enclosure: Enclosure,
        own_pids: bool,
    ) -> Self {
        Self {
            control,
            init,
            plugin,
            listener,
            cgroup: cgroup.map(Arc::new),
            enclosure,
            own_pids,
        }
    }

    /// The process whose exit means that nothing of the program is left; `None` once it is reaped.
    #[must_use]
    pub fn init(&self) -> Option<Pid> {
        self.init
    }

    /// The program's own process, as this process numbers it. It is a number and no more: once the program ended it may be another's.
    #[must_use]
    pub fn plugin(&self) -> Option<Pid> {
        self.plugin
    }

    /// Readable when [`Jailed::init`] has exited.
    ///
    /// # Errors
    /// `Unsupported` on kernels before 5.3, and when it is reaped already.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        let init = self.init.ok_or(io::ErrorKind::Unsupported)?;
        Ok(pidfd_open(init, PidfdFlags::NONBLOCK).or_else(|_| pidfd_open(init, PidfdFlags::empty()))?)
    }

    /// The layers that it has.
    #[must_use]
    pub fn enclosure(&self) -> &Enclosure {
        &self.enclosure
    }

    /// What its cgroups count, to be read as long as they are there.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter(self.cgroup.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// The socket that listens on its loopback, the first time it is asked for.
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        self.listener.take()
    }

    /// Readable when there is an event. Another descriptor of the same, to be waited for elsewhere.
    ///
    /// # Errors
    /// `Unsupported` where nothing is heard, and when there are no more descriptors to be had.
    pub fn events(&self) -> io::Result<Events> {
        Ok(Events(self.control.try_clone()?))
    }

    /// Asks the program to end: SIGTERM to its process group.
    pub fn terminate(&self) {
        if let Some(init) = self.init {
            let _ = kill_process(init, Signal::TERM);
        }
    }

    /// Ends the program and all it started, at once and by force.
    pub fn kill(&self) {
        let Some(init) = self.init else { return };
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        if self.own_pids {
            let _ = kill_process(init, Signal::KILL);
            return;
        }
        // It ends what is below it and then itself.
        let _ = kill_process(init, Signal::QUIT);
        if let Some(plugin) = self.plugin {
            let _ = kill_process_group(plugin, Signal::KILL);
        }
    }

    /// Whether nothing is left of it. Then its cgroups are removed.
    ///
    /// # Errors
    /// If somebody else reaped it, which comes to the same.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        use std::os::unix::process::ExitStatusExt as _;
        let Some(init) = self.init else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let waited = waitpid(Some(init), WaitOptions::NOHANG);
        if matches!(waited, Ok(None)) {
            return Ok(None);
        }
        self.init = None;
        let status = waited?.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        Ok(status)
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        self.kill();
        let begun = Instant::now();
        while let Ok(None) = self.try_wait() {
            if begun.elapsed() > END_WAIT {
                break;
            }
            if !self.own_pids && begun.elapsed() > END_WAIT / 4 {
                // It did not end what is below it in time; the cgroup's removal will try again.
                if let Some(init) = self.init {
                    let _ = kill_process(init, Signal::KILL);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads what a program uses. It keeps nothing of the program.
#[derive(Clone, Debug, Default)]
pub struct Meter(Weak<Cgroup>);

impl Meter {
    /// What its cgroups count now; all `None` without any, and once the program is gone.
    #[must_use]
    pub fn read(&self) -> GroupUsage {
        self.0.upgrade().map(|it| it.usage()).unwrap_or_default()
    }
}

/// What is heard of a program.
#[derive(Debug)]
pub struct Events(OwnedFd);

impl Events {
    /// The next event; `None` when there will be no more.
    ///
    /// # Errors
    /// `WouldBlock` if there is none now.
    pub fn next_event(&self) -> io::Result<Option<Event>> {
        loop {
            let Some(message) = launch::receive(&self.0)? else {
                return Ok(None);
            };
            let body = message.body.as_slice();
            return Ok(Some(match message.kind {
                words::DENIED => Event::Denied(denial(body)),
                words::SUPPRESSED => Event::Suppressed(launch::number(body, 0).unsigned_abs()),
                words::EXITED => Event::Exited(match (launch::number(body, 0), launch::number(body, 1)) {
                    (0, code) => Exit::Code(code),
                    (_, signal) => Exit::Signal(signal),
                }),
                _ => continue,
            }));
        }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn denial(body: &[u8]) -> Denial {
    let word = |at: usize| {
        body.get(at..at + 8)
            .and_then(|it| it.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let number = i64::from(launch::number(body, 0));
    let (call, mut capability) = seccomp::name_of(number).unwrap_or(("a system call", "the machine"));
    let [first, second, third] = [word(4), word(12), word(20)];
    let rest = body.get(28..).unwrap_or_default();
    let target = match number {
        libc::SYS_connect => address(rest),
        libc::SYS_socket => family(first as u32, second as u32),
        _ if !rest.is_empty() => printable(rest),
        libc::SYS_clone => format!("flags {first:#x}"),
        libc::SYS_ioctl => format!("request {second:#x}"),
        _ => call.to_owned(),
    };
    if capability == "fs" {
        capability = if opens_for_writing(number, first, second, third) {
            "fs.write"
        } else {
            "fs.read"
        };
    }
    Denial {
        call,
        capability,
        target,
    }
}

fn opens_for_writing(number: i64, _first: u64, second: u64, third: u64) -> bool {
    let writes = |flags: u64| flags as i32 & (libc::O_ACCMODE | libc::O_CREAT) != 0;
    match number {
        libc::SYS_openat => writes(third),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => writes(second),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => true,
        // Its flags are in memory that was not read.
        _ => {
            let _ = second;
            false
        }
    }
}

/// A socket address in words.
fn address(bytes: &[u8]) -> String {
    let Some((head, rest)) = bytes.split_first_chunk::<2>() else {
        return "an address that can't be read".to_owned();
    };
    let port = |rest: &[u8]| rest.first_chunk::<2>().map_or(0, |it| u16::from_be_bytes(*it));
    let part = |from: usize, to: usize| rest.get(from..to);
    match i32::from(u16::from_ne_bytes(*head)) {
        libc::AF_UNIX if rest.first() == Some(&0) => format!("abstract socket `{}`", printable(&rest[1..])),
        libc::AF_UNIX => printable(rest.split(|it| *it == 0).next().unwrap_or_default()),
        libc::AF_INET => {
            let ip = part(2, 6)
                .and_then(|it| <[u8; 4]>::try_from(it).ok())
                .map(Ipv4Addr::from);
            SocketAddr::new(IpAddr::V4(ip.unwrap_or(Ipv4Addr::UNSPECIFIED)), port(rest)).to_string()
        }
        libc::AF_INET6 => {
            let ip = part(6, 22)
                .and_then(|it| <[u8; 16]>::try_from(it).ok())
                .map(Ipv6Addr::from);
            SocketAddr::new(IpAddr::V6(ip.unwrap_or(Ipv6Addr::UNSPECIFIED)), port(rest)).to_string()
        }
        other => format!("an address of family {other}"),
    }
}

fn family(family: u32, kind: u32) -> String {
    let known = [
        (libc::AF_INET, "inet"),
        (libc::AF_INET6, "inet6"),
        (libc::AF_NETLINK, "netlink"),
        (libc::AF_PACKET, "packet"),
        (libc::AF_VSOCK, "vsock"),
        (libc::AF_BLUETOOTH, "bluetooth"),
        (libc::AF_ALG, "alg"),
        (libc::AF_XDP, "xdp"),
        (libc::AF_TIPC, "tipc"),
    ];
    let kinds = [
        (libc::SOCK_STREAM, "stream"),
        (libc::SOCK_DGRAM, "datagram"),
        (libc::SOCK_RAW, "raw"),
        (libc::SOCK_SEQPACKET, "seqpacket"),
    ];
    let name = |table: &[(i32, &str)], value: u32| {
        let found = table.iter().find(|(it, _)| it.unsigned_abs() == value);
        found.map_or_else(|| format!("number {value}"), |(_, name)| (*name).to_owned())
    };
    format!(
        "a socket of family {}, kind {}",
        name(&known, family),
        name(&kinds, kind & 0xf)
    )
}

/// A plugin chooses these bytes: nothing in them may break a line of a log.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(number: i64, arguments: [u64; 3], rest: &[u8]) -> Denial {
        let mut body = (number as u32).to_le_bytes().to_vec();
        arguments.iter().for_each(|it| body.extend(it.to_le_bytes()));
        body.extend(rest);
        denial(&body)
    }

    #[test]
    fn denials_name_what_they_are_about() {
        let metadata = [2, 0, 0, 80, 169, 254, 169, 254];
        let it = denied(libc::SYS_connect, [3, 0, 16], &metadata);
        assert_eq!(
            (it.capability, &*it.target),
            ("net.connect", "169.254.169.254:80")
        );
        let it = denied(libc::SYS_connect, [3, 0, 16], b"\x01\x00/run/docker.sock\0\0");
        assert_eq!(it.target, "/run/docker.sock");
        let it = denied(
            libc::SYS_socket,
            [libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0],
            &[],
        );
        assert_eq!(it.target, "a socket of family packet, kind raw");
        let it = denied(libc::SYS_openat, [0, 0, libc::O_WRONLY as u64], b"/etc/shadow");
        assert_eq!((it.capability, &*it.target), ("fs.write", "/etc/shadow"));
        let it = denied(libc::SYS_bpf, [0; 3], &[]);
        assert_eq!((it.call, &*it.target), ("bpf", "bpf"));
    }

    #[test]
    fn a_short_or_odd_report_is_no_trouble() {
        for length in 0..40 {
            let _ = denial(&vec![0xff; length]);
        }
        let it = denied(libc::SYS_openat, [0; 3], b"/a\nERROR forged");
        assert!(!it.target.contains('\n'), "{}", it.target);
    }
}
