//! The words that host and launcher exchange. Compiled into both: the host writes a specification and reads records, the launcher the
//! other way round. They are always built together, so there is no version.
//!
//! The host sends two messages: the *ground*, which many plugins have in common, with the cgroups' `cgroup.procs`; and, at once or a long time later, the
//! *specification* of one plugin, with its standard input, output and error and what else it inherits. Each is a sequence of little-endian `u32` and
//! `u64` values and of byte strings, each a `u32` length and as many bytes; the order is that of `spec::encode` in the crate and of
//! `Ground::read` and `Spec::read` in the launcher. It lies in a memory file, whose descriptor comes first in its message.
//!
//! A record is one message: a `u32` kind and what is said at it.

/// The process that will be the plugin's first ancestor exists: `u32` its id, as its starter numbers it.
pub(crate) const INIT: u32 = 1;
/// A step failed: `u32` step, `i32` errno, `u32` which of several.
pub(crate) const FAILED: u32 = 2;
/// The plugin is about to be executed. The message's credentials name it.
pub(crate) const PLUGIN: u32 = 3;
/// The plugin runs.
pub(crate) const RUNNING: u32 = 4;
/// Something was denied: `u32` system call number, `u64` first, `u64` second, `u64` third argument, then the target's bytes.
pub(crate) const DENIED: u32 = 5;
/// `u32` denials were not reported, because there were too many.
pub(crate) const SUPPRESSED: u32 = 6;
/// The plugin ended: `u32` 0 and its exit code, or 1 and the signal, as `i32`.
pub(crate) const EXITED: u32 = 7;
/// What the kernel offers: `i32` Landlock ABI or a negative errno, `i32` 0 or the negative errno of user notification.
pub(crate) const OFFER: u32 = 8;
/// A socket that listens inside the jail comes with this message.
pub(crate) const LISTENER: u32 = 9;
/// The ground is laid: it waits for a specification.
pub(crate) const READY: u32 = 10;

/// A record has at most so many bytes.
pub(crate) const RECORD_BYTES_MAX: usize = 512;
/// Of a target at most so many bytes are reported.
pub(crate) const TARGET_BYTES_MAX: usize = 256;
/// Most descriptors in one message of the host's.
pub(crate) const DESCRIPTORS_MAX: usize = 64;

// What the ground is to be, as bits.
pub(crate) const WANT_USER_NS: u32 = 1;
pub(crate) const WANT_MOUNT_NS: u32 = 1 << 1;
pub(crate) const WANT_PID_NS: u32 = 1 << 2;
pub(crate) const WANT_NET_NS: u32 = 1 << 3;
pub(crate) const WANT_IPC_NS: u32 = 1 << 4;
pub(crate) const WANT_UTS_NS: u32 = 1 << 5;
pub(crate) const WANT_CGROUP_NS: u32 = 1 << 6;
pub(crate) const WANT_LANDLOCK: u32 = 1 << 7;
pub(crate) const WANT_SECCOMP: u32 = 1 << 8;
pub(crate) const WANT_NOTIFY: u32 = 1 << 9;
pub(crate) const WANT_DROP_CAPABILITIES: u32 = 1 << 10;
/// Say what the kernel offers before anything else.
pub(crate) const WANT_OFFER: u32 = 1 << 11;
/// The user may not be able to call `setgroups`.
pub(crate) const WANT_DENY_SETGROUPS: u32 = 1 << 13;
pub(crate) const WANT_NO_NEW_PRIVILEGES: u32 = 1 << 14;

/// No user or group id of its own.
pub(crate) const KEEP_ID: u32 = u32::MAX;

// Kinds of entry in the jail's file tree.
pub(crate) const ENTRY_BIND: u32 = 1;
pub(crate) const ENTRY_SYMLINK: u32 = 2;
pub(crate) const ENTRY_FILE: u32 = 3;
pub(crate) const ENTRY_PROC: u32 = 4;
pub(crate) const ENTRY_DIR: u32 = 5;

// How a bound entry may be used, as bits.
pub(crate) const BIND_WRITABLE: u32 = 1;
pub(crate) const BIND_NO_EXEC: u32 = 1 << 1;
pub(crate) const BIND_DEVICE: u32 = 1 << 2;
/// Left out if it does not exist.
pub(crate) const BIND_OPTIONAL: u32 = 1 << 3;

// Steps that can fail.
pub(crate) const STEP_SPEC: u32 = 1;
pub(crate) const STEP_CGROUP: u32 = 2;
pub(crate) const STEP_NAMESPACES: u32 = 3;
pub(crate) const STEP_ID_MAP: u32 = 4;
pub(crate) const STEP_ROOT: u32 = 5;
pub(crate) const STEP_BIND: u32 = 6;
pub(crate) const STEP_PROC: u32 = 7;
pub(crate) const STEP_HOST_NAME: u32 = 8;
pub(crate) const STEP_LOOPBACK: u32 = 9;
pub(crate) const STEP_SUPERVISE: u32 = 10;
pub(crate) const STEP_DESCRIPTORS: u32 = 11;
pub(crate) const STEP_RLIMIT: u32 = 12;
pub(crate) const STEP_DIRECTORY: u32 = 13;
pub(crate) const STEP_CAPABILITIES: u32 = 14;
pub(crate) const STEP_USER: u32 = 15;
pub(crate) const STEP_NO_NEW_PRIVILEGES: u32 = 16;
pub(crate) const STEP_LANDLOCK: u32 = 17;
pub(crate) const STEP_SECCOMP: u32 = 18;
pub(crate) const STEP_NOTIFY: u32 = 19;
pub(crate) const STEP_EXEC: u32 = 20;
