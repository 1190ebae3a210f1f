//! Encloses a program in what the machine has: namespaces, Landlock, seccomp, cgroups, limits. Denied by default.
//!
//! This crate refuses to know what a plugin is, what a permission means and who asks: it takes a [`Policy`] of paths and numbers. It has no executor, and no
//! `unsafe`: what has to happen between fork and exec happens in a launcher, a program of its own that this crate embeds.
//!
//! Why a launcher of its own, compiled by the build script with the same compiler and embedded: between `fork` and `exec` in a process with threads
//! next to nothing is allowed, so a library would need `unsafe` in the host; and a second meaning of the host's own binary would need a call in
//! every embedder's `main`. The launcher is half a megabyte of read-only memory, shared by all programs, and is started from a sealed memory
//! file, so there is no path that could be replaced. It stays as the program's process 1; see `launcher/main.rs`.
//!
//! # What keeps what
//!
//! | attempt | kept by |
//! |---|---|
//! | files, unix sockets outside | mount namespace (they are not there), Landlock (again) |
//! | abstract sockets, signals, `/proc` of others | pid, net namespace, Landlock |
//! | network | net namespace (there is none), seccomp (no such sockets) |
//! | dangerous system calls | seccomp, a list of what is *allowed* |
//! | root by set-user-id, capabilities | no new privileges, no capabilities, `nosuid`, user namespace |
//! | memory, processor, processes, files | cgroups, resource limits |
//! | outliving the host | pid namespace, parent-death signal, the control socket's end |
//!
//! Each layer that a machine does not give is [`Presence::Absent`] with a reason, in [`Machine::layers`] and in [`Jailed::enclosure`]. A policy may
//! *require* layers; then a program does not start without them.
//!
//! # What is reported
//!
//! A refused system call is an [`Event::Denied`]. The filter's listener is the launcher's process, which reads the target from the program's memory,
//! reports it and *always* refuses, so it does not matter that the program can change it meanwhile. `open` and `connect` go through the
//! listener as well: if the path is below nothing that the jail shows, or the address is not the proxy's, it is reported and refused; otherwise the
//! kernel goes on, and the mounts and Landlock decide. So of these two
//! - reported is what names something outside, by the path as it was written, links not followed;
//! - not reported is what the kernel refuses inside: a write to something shown read-only, a link that leads out, a path changed by another
//!   thread between the look and the call. It is refused all the same.
//!
//! Other calls with a path (`stat`, `rename`, `unlink`, ...) find nothing outside and are not reported. More than 64 reports at once, and then 20 per
//! second, are counted and not told.
//!
//! # Systems
//!
//! The jail is Linux's, on x86-64 and AArch64. On other Unix systems [`start`] starts a plain child in a process group of its own, and a policy that requires
//! any layer is refused; on Windows there is no `start`. [`Machine::probe`] says everywhere what is not there.
//!
//! Reading order: [`Layer`], [`Policy`], `machine`, `spec`, `launch`, `launcher/`, [`Jailed`]; `seccomp` with `bpf`, `landlock` and `cgroup` on their own.
#![forbid(unsafe_code)]

mod layer;
mod policy;
#[cfg(unix)]
mod program;

#[cfg(launcher)]
mod bpf;
#[cfg(launcher)]
mod cgroup;
#[cfg(launcher)]
mod jailed;
#[cfg(launcher)]
mod landlock;
#[cfg(launcher)]
mod launch;
#[cfg(launcher)]
mod machine;
#[cfg(launcher)]
mod seccomp;
#[cfg(launcher)]
mod spec;
#[cfg(launcher)]
#[path = "../launcher/words.rs"]
#[allow(dead_code, reason = "some are the launcher's alone")]
mod words;

#[cfg(not(launcher))]
#[path = "nowhere.rs"]
mod machine;
#[cfg(all(unix, not(launcher)))]
mod plain;

pub use layer::{Enclosure, Layer, Presence};
pub use machine::Machine;
pub use policy::{Bounds, Mode, Network, PROXY_PORT, Policy, User};
#[cfg(unix)]
pub use program::{Denial, Event, Executable, Exit, GroupUsage, Program, StartError};

#[cfg(all(unix, not(launcher)))]
pub use crate::plain::{CgroupRoot, Events, Jailed, Launcher, Meter, start, start_in, sweep};
#[cfg(launcher)]
pub use crate::{
    cgroup::{CgroupRoot, sweep},
    jailed::{Events, Jailed, Meter},
    launch::{Launcher, start, start_in},
};
