//! Bounds on what one plugin may use.

use std::time::Duration;

/// Bounds on what one instance may use. Every runtime says in its `Support` which of them it enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Highest memory of one instance, in bytes. Default 64 MiB. Not enforced for code in the host's address space.
    pub memory_bytes_max: u64,
    /// Deadline of a call that brings none. Default 5 s. A native plugin's CPU loop outlives it; only its caller is freed.
    pub deadline: Duration,
    /// Calls the plugin works on at once; further ones wait until their deadline. Default 32.
    pub concurrency: u32,
    /// Highest size of one request or reply, in bytes. Default 64 MiB.
    pub payload_bytes_max: usize,
    /// Time a start (`create`, `activate`, first health) may take. Default 10 s.
    pub start: Duration,
    /// Time a stop may take before force is used. Default 5 s.
    pub stop: Duration,
    /// Log lines per second that are kept; the rest are counted. Default 1000.
    pub log_lines_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            deadline: Duration::from_secs(5),
            concurrency: 32,
            payload_bytes_max: 64 << 20,
            start: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            log_lines_per_second: 1000,
        }
    }
}
