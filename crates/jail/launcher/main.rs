//! Stage 1: the small program between a host and a jailed plugin.
//!
//! It is started by the host with an empty environment and one descriptor, the control socket as standard input, and gets over it what to
//! make and the plugin's descriptors. So nothing of ours runs between fork and exec in a process that has threads, and whoever embeds
//! Mortise needs no call at the start of `main`. It makes no decision: what to allow is in what it is told, already in the kernel's words.
//!
//! ```text
//!  host ──spawn──> first ──clone into namespaces, CLONE_PARENT──> init ──fork──> plugin
//!                    │ writes the id maps,                          │ lays the ground,          │ gives up everything, executes
//!                    │ puts init into its cgroups                   │ *waits for a plugin*, completes the file tree
//!                    └ exits                                        └ stays: reaps, forwards SIGTERM, answers denied calls,
//!                                                                     ends everything when the host or the plugin is gone
//! ```
//!
//! The host may start it long before it has a plugin for it: what takes longest, namespaces, cgroups and mounts, is the same for most plugins and is then
//! there already. Joining a cgroup makes the kernel wait until every processor has passed a quiet point, which takes 5 to 20 ms on an idle
//! machine; so *first* does it while *init* works.
//!
//! CLONE_PARENT makes *init* the host's own child: it is the process that the host watches and kills. It is process 1 of the plugin's pid
//! namespace, so the kernel kills whatever is in there when it ends. Where there is no pid namespace it is a subreaper and does that by itself.
//!
//! Invariants
//! - L1: every failure before the plugin is executed is told with its step, and leaves no process.
//! - L2: the plugin never runs without a layer that ground or specification name.
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

use crate::{
    report::{Failure, Record},
    spec::Ground,
};

/// The control socket.
const CONTROL: c_int = 0;

/// What the host sent beside the specification.
struct Descriptors {
    /// Standard input, output and error.
    standard: [c_int; 3],
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
    let [ground, cgroups @ ..] = fds.as_slice() else {
        return Err(failed(sys::EINVAL));
    };
    let bytes = sys::read_all(*ground).map_err(failed)?;
    sys::close_fd(*ground);
    let ground = Ground::read(&bytes).ok_or_else(|| failed(sys::EINVAL))?;
    if ground.wants(words::WANT_OFFER) {
        report::offer(CONTROL, sys::landlock_abi(), sys::knows_notification());
    }
    sys::new_session();
    divide(&ground, cgroups)
}

/// Starts *init* in new namespaces, maps its ids and puts it into its cgroups.
fn divide(ground: &Ground<'_>, cgroups: &[c_int]) -> Result<(), Failure> {
    // The namespace of cgroups is made later: its root is where its first process is then.
    let flags = [
        (words::WANT_USER_NS, sys::CLONE_NEWUSER),
        (words::WANT_MOUNT_NS, sys::CLONE_NEWNS),
        (words::WANT_PID_NS, sys::CLONE_NEWPID),
        (words::WANT_NET_NS, sys::CLONE_NEWNET),
        (words::WANT_IPC_NS, sys::CLONE_NEWIPC),
        (words::WANT_UTS_NS, sys::CLONE_NEWUTS),
    ];
    let flags = flags
        .iter()
        .filter(|(want, _)| ground.wants(*want))
        .fold(sys::CLONE_PARENT, |all, (_, flag)| all | flag);
    let failed = |errno| Failure::at(words::STEP_NAMESPACES, errno);
    let (go, say_go) = sys::pipe().map_err(failed)?;
    let init = sys::fork(flags).map_err(failed)?;
    if init == 0 {
        sys::close_fd(say_go);
        cgroups.iter().for_each(|it| sys::close_fd(*it));
        init::run(ground, go);
    }
    // From here on the host ends it, if it has to.
    let _ = Record::new(words::INIT)
        .with(&init.to_le_bytes())
        .send(CONTROL, None);
    // It waits for two bytes; without them it ends.
    let settled = map_ids(ground, init)
        .map_err(|errno| Failure::at(words::STEP_ID_MAP, errno))
        .and_then(|()| {
            let _ = sys::write_all(say_go, b"i");
            join(cgroups, init)
        });
    match settled {
        Ok(()) => {
            let _ = sys::write_all(say_go, b"c");
        }
        Err(_) => sys::signal(init, sys::SIGKILL),
    }
    settled
}

/// Puts a process into its cgroups.
fn join(cgroups: &[c_int], pid: c_int) -> Result<(), Failure> {
    let pid = pid.to_string();
    for (number, cgroup) in cgroups.iter().enumerate() {
        sys::write_all(*cgroup, pid.as_bytes())
            .map_err(|errno| Failure::nth(words::STEP_CGROUP, errno, number))?;
    }
    Ok(())
}

fn map_ids(ground: &Ground<'_>, pid: c_int) -> sys::Result {
    if !ground.wants(words::WANT_USER_NS) {
        return Ok(());
    }
    let write = |name: &str, text: &[u8]| {
        let path = report::c_string(&format!("/proc/{pid}/{name}"));
        let fd = sys::open_file(&path, sys::O_WRONLY)?;
        let written = sys::write_all(fd, text);
        sys::close_fd(fd);
        written
    };
    if ground.wants(words::WANT_DENY_SETGROUPS) {
        write("setgroups", b"deny")?;
    }
    write("gid_map", ground.gid_map)?;
    write("uid_map", ground.uid_map)
}

impl Descriptors {
    fn sort(fds: &[c_int]) -> Option<Self> {
        let (standard, inherited) = fds.split_at_checked(3)?;
        Some(Self {
            standard: standard.try_into().ok()?,
            inherited: inherited.to_vec(),
        })
    }
}
