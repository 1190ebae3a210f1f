//! What the host is told.

use std::ffi::{CString, c_int};

use crate::{sys, words};

/// A step that failed.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) step: u32,
    pub(crate) errno: sys::Errno,
    /// Which of several.
    pub(crate) which: u32,
}

/// One record, of bounded length.
pub(crate) struct Record {
    bytes: [u8; words::RECORD_BYTES_MAX],
    length: usize,
}

// === impl Failure ===

impl Failure {
    pub(crate) fn at(step: u32, errno: sys::Errno) -> Self {
        Self::nth(step, errno, 0)
    }

    pub(crate) fn nth(step: u32, errno: sys::Errno, which: usize) -> Self {
        Self {
            step,
            errno,
            which: which as u32,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.step.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_le_bytes());
        bytes[8..].copy_from_slice(&self.which.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            step: u32::from_le_bytes([a, b, c, d]),
            errno: i32::from_le_bytes([e, f, g, h]),
            which: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn new(kind: u32) -> Self {
        let record = Self {
            bytes: [0; words::RECORD_BYTES_MAX],
            length: 0,
        };
        record.with(&kind.to_le_bytes())
    }

    /// Adds bytes, as many as there is room for.
    pub(crate) fn with(mut self, bytes: &[u8]) -> Self {
        let fitting = bytes.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + fitting].copy_from_slice(&bytes[..fitting]);
        self.length += fitting;
        self
    }

    /// Sends it and waits if need be.
    pub(crate) fn send(&self, control: c_int, descriptor: Option<c_int>) -> sys::Result {
        sys::send(control, &self.bytes[..self.length], descriptor, true)
    }

    /// Sends it if the host has room for it.
    pub(crate) fn try_send(&self, control: c_int) -> sys::Result {
        sys::send(control, &self.bytes[..self.length], None, false)
    }
}

// === what is said ===

pub(crate) fn failed(control: c_int, failure: &Failure) {
    // If the host is gone there is nobody to tell.
    let _ = Record::new(words::FAILED)
        .with(&failure.to_bytes())
        .send(control, None);
}

pub(crate) fn offer(control: c_int, landlock: sys::Result<i32>, notification: sys::Result) {
    let landlock = landlock.unwrap_or_else(|errno| -errno);
    let notification = notification.map_or_else(|errno| -errno, |()| 0);
    let _ = Record::new(words::OFFER)
        .with(&landlock.to_le_bytes())
        .with(&notification.to_le_bytes())
        .send(control, None);
}

/// A text with a zero at its end; empty if it has one inside, which none of ours has.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
