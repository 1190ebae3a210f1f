//! Stage 1: the small program between a host and a jailed plugin.
//!
//! It is started by the host with an empty environment and one descriptor, the control socket as standard input, and gets over it a specification
//! and the plugin's descriptors. So nothing of ours runs between fork and exec in a process that has threads, and whoever embeds
//! Mortise needs no call at the start of `main`. It makes no decision: what to allow is in the specification, already in the kernel's words.
//!
//! ```text
//!  host ──spawn──> first ──clone into namespaces, CLONE_PARENT──> init ──fork──> plugin
//!                    │ joins cgroups, writes the id maps            │ builds the file tree      │ gives up everything, executes
//!                    └ exits                                        └ stays: reaps, forwards SIGTERM, answers denied calls,
//!                                                                     ends everything when the host or the plugin is gone
//! ```
//!
//! CLONE_PARENT makes *init* the host's own child: it is the process that the host watches and kills. It is process 1 of the plugin's pid
//! namespace, so the kernel kills whatever is in there when it ends. Where there is no pid namespace it is a subreaper and does that by itself.
//!
//! Invariants
//! - L1: every failure before the plugin is executed is told with its step, and leaves no process.
//! - L2: the plugin never runs without a layer that the specification names.
//! - L3: once the plugin runs, this process handles no data of the plugin's but the targets of denied calls, whose length is bounded.
//! - L4: it ends when its parent does (parent-death signal), when the control socket closes, and when the plugin ends.
#![no_main]

mod words;

mod init;
mod plugin;
mod report;
mod spec;
mod sys;
mod target;
mod tree;

use std::ffi::{c_char, c_int};

use crate::{report::Failure, spec::Spec};

/// The control socket.
const CONTROL: c_int = 0;

/// What the host sent beside the specification.
struct Descriptors {
    /// Standard input, output and error.
    standard: [c_int; 3],
    cgroups: Vec<c_int>,
    inherited: Vec<c_int>,
}

/// Called by the C library; the arguments are of no interest, but that there is one: the program that a probe executes.
#[unsafe(no_mangle)]
pub extern "C" fn main(count: c_int, _: *const *const c_char) -> c_int {
    if count > 1 {
        return 0;
    }
    match run() {
        Ok(()) => 0,
        Err(failure) => {
            report::failed(CONTROL, &failure);
            1
        }
    }
}

fn run() -> Result<(), Failure> {
    let failed = |errno| Failure::at(words::STEP_SPEC, errno);
    // What the embedding program opened without CLOEXEC.
    sys::close_from(3);
    let (_, fds) = sys::receive(CONTROL, &mut [0; 8]).map_err(failed)?;
    let [specification, rest @ ..] = fds.as_slice() else {
        return Err(failed(sys::EINVAL));
    };
    let bytes = sys::read_all(*specification).map_err(failed)?;
    sys::close_fd(*specification);
    let spec = Spec::read(&bytes).ok_or_else(|| failed(sys::EINVAL))?;
    let descriptors = Descriptors::sort(rest, spec.cgroups as usize).ok_or_else(|| failed(sys::EINVAL))?;
    if spec.wants(words::WANT_OFFER) {
        report::offer(CONTROL, sys::landlock_abi(), sys::knows_notification());
    }
    sys::new_session();
    for (number, cgroup) in descriptors.cgroups.iter().enumerate() {
        sys::write_all(*cgroup, b"0").map_err(|errno| Failure::nth(words::STEP_CGROUP, errno, number))?;
        sys::close_fd(*cgroup);
    }
    divide(&spec, &descriptors)
}

/// Starts *init* in new namespaces and maps its ids.
fn divide(spec: &Spec<'_>, descriptors: &Descriptors) -> Result<(), Failure> {
    let flags = [
        (words::WANT_USER_NS, sys::CLONE_NEWUSER),
        (words::WANT_MOUNT_NS, sys::CLONE_NEWNS),
        (words::WANT_PID_NS, sys::CLONE_NEWPID),
        (words::WANT_NET_NS, sys::CLONE_NEWNET),
        (words::WANT_IPC_NS, sys::CLONE_NEWIPC),
        (words::WANT_UTS_NS, sys::CLONE_NEWUTS),
        (words::WANT_CGROUP_NS, sys::CLONE_NEWCGROUP),
    ];
    let flags = flags
        .iter()
        .filter(|(want, _)| spec.wants(*want))
        .fold(sys::CLONE_PARENT, |all, (_, flag)| all | flag);
    let failed = |errno| Failure::at(words::STEP_NAMESPACES, errno);
    let (go, say_go) = sys::pipe().map_err(failed)?;
    let init = sys::fork(flags).map_err(failed)?;
    if init == 0 {
        sys::close_fd(say_go);
        init::run(spec, descriptors, go);
    }
    let mapped = map_ids(spec, init);
    match mapped {
        Ok(()) => {
            // It waits for this byte; without it, it ends.
            let _ = sys::write_all(say_go, b"!");
            Ok(())
        }
        Err(errno) => {
            sys::signal(init, sys::SIGKILL);
            Err(Failure::at(words::STEP_ID_MAP, errno))
        }
    }
}

fn map_ids(spec: &Spec<'_>, pid: c_int) -> sys::Result {
    if !spec.wants(words::WANT_USER_NS) {
        return Ok(());
    }
    let write = |name: &str, text: &[u8]| {
        let path = report::c_string(&format!("/proc/{pid}/{name}"));
        let fd = sys::open_file(&path, sys::O_WRONLY)?;
        let written = sys::write_all(fd, text);
        sys::close_fd(fd);
        written
    };
    if spec.wants(words::WANT_DENY_SETGROUPS) {
        write("setgroups", b"deny")?;
    }
    write("gid_map", spec.gid_map)?;
    write("uid_map", spec.uid_map)
}

impl Descriptors {
    fn sort(fds: &[c_int], cgroups: usize) -> Option<Self> {
        let (standard, rest) = fds.split_at_checked(3)?;
        let (cgroups, inherited) = rest.split_at_checked(cgroups)?;
        Some(Self {
            standard: standard.try_into().ok()?,
            cgroups: cgroups.to_vec(),
            inherited: inherited.to_vec(),
        })
    }
}
