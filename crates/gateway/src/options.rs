//! Knobs of the edge. Every queue, buffer and wait of this crate is bounded by one of them.

use std::time::Duration;

use crate::{error::Detail, jsonrpc::Bounds};

/// How the edge behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Highest size of a request's body, in bytes; a larger one is refused with 413 before it is read. Default 96 MiB, which is
    /// room for the 64 MiB of `Limits::payload_bytes_max` in base64. It bounds one request: `connections_max` requests may be held at once.
    pub body_bytes_max: usize,
    /// Entries of one batch; a longer one is refused whole. Default 1000.
    pub batch_entries_max: usize,
    /// Entries of one batch that run at the same time. Default 16. The plugin's own `concurrency` limit holds as well.
    pub batch_concurrency: usize,
    /// Highest size of the answers to one batch, in bytes: from there on its entries are answered with an error and not run. Those that run then still
    /// bring theirs. Default 96 MiB.
    pub batch_answer_bytes_max: usize,
    /// Connections held at once; further ones wait in the kernel's backlog. Default 10 000.
    pub connections_max: usize,
    /// Time a client may take to send a request's head, and time a kept connection may be idle. Default 30 s. It does not bound the body.
    pub head_read: Duration,
    /// Time a client may take to send a whole body. Default 30 s.
    pub body_read: Duration,
    /// Time a client may refuse to take a single byte of an answer before its connection is cut. Default 30 s.
    pub write_stall: Duration,
    /// Time that requests in flight get to finish after a stop, before their connections are cut. Default 30 s.
    pub drain: Duration,
    /// Highest value taken from `x-mortise-timeout-ms`; a higher one is lowered to it. Default 10 minutes.
    pub deadline_max: Duration,
    /// Caller headers handed to the host, lower-case names: those of `routing.propagate`. Default: none. Each costs two small
    /// allocations per request that brings it.
    pub headers: Vec<String>,
    /// How much an answer tells about faults behind the edge. Default [`Detail::Public`].
    pub detail: Detail,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_bytes_max: 96 << 20,
            batch_entries_max: 1000,
            batch_concurrency: 16,
            batch_answer_bytes_max: 96 << 20,
            connections_max: 10_000,
            head_read: Duration::from_secs(30),
            body_read: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            deadline_max: Duration::from_secs(600),
            headers: Vec::new(),
            detail: Detail::Public,
        }
    }
}

impl Options {
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            batch_entries_max: self.batch_entries_max,
            batch_concurrency: self.batch_concurrency,
            batch_answer_bytes_max: self.batch_answer_bytes_max,
        }
    }
}
