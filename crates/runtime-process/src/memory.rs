//! How much memory a plugin's process may have and has.
//!
//! Three things hold `Limits::memory_bytes_max` on Linux. The kernel refuses private writable memory (`RLIMIT_DATA`) beyond the limit and an
//! allowance for stacks, so a runaway allocation fails at once inside the plugin. And the supervisor looks at the memory really used every
//! [`SAMPLE_INTERVAL`] and kills the process that is above the limit itself. The first acts before anything is lost, the second is exact.
//! A process can exceed the limit for one interval, and only by the allowance. Where the jail has a memory cgroup it bounds all of the plugin's
//! processes together, with a reserve for the kernel's own bookkeeping and the page cache; elsewhere children count for themselves.

use std::time::Duration;

use rustix::process::Pid;

/// How often the memory in use is looked at.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// What a thread's stack may count although it is hardly touched.
const STACK_BYTES: u64 = (2 << 20) + (64 << 10);
/// Threads beside those that work on calls.
const THREADS_MORE: u64 = 8;
/// The program's own writable data, and what an allocator keeps in reserve.
const RESERVE_BYTES: u64 = 16 << 20;

/// The limit for the kernel, from the limit on use.
pub(crate) fn data_bytes_max(memory_bytes_max: u64, concurrency: u32) -> u64 {
    let stacks = (u64::from(concurrency) + THREADS_MORE).saturating_mul(STACK_BYTES);
    memory_bytes_max
        .saturating_add(stacks)
        .saturating_add(RESERVE_BYTES)
}

/// The bound on all processes together.
pub(crate) fn group_bytes_max(memory_bytes_max: u64) -> u64 {
    memory_bytes_max.saturating_add(RESERVE_BYTES)
}

/// Memory that would be free without the process: what it wrote, and shared memory it holds mapped. Not its program, which is in the page
/// cache anyway.
pub(crate) fn used_bytes(pid: Pid) -> Option<u64> {
    let [anonymous, shared] = status_bytes(pid, ["RssAnon:", "RssShmem:"])?;
    Some(anonymous + shared)
}

/// All resident memory of the process, its program included.
pub(crate) fn resident_bytes(pid: Pid) -> Option<u64> {
    status_bytes(pid, ["VmRSS:"]).map(|[resident]| resident)
}

#[cfg(target_os = "linux")]
fn status_bytes<const N: usize>(pid: Pid, names: [&str; N]) -> Option<[u64; N]> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let mut bytes = [0; N];
    for (bytes, name) in bytes.iter_mut().zip(names) {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        *bytes = kibibytes << 10;
    }
    Some(bytes)
}

#[cfg(not(target_os = "linux"))]
fn status_bytes<const N: usize>(_: Pid, _: [&str; N]) -> Option<[u64; N]> {
    None
}
