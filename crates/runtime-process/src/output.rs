//! What a plugin writes to its standard output and error: log lines of the host, and the last words of a crash.
//!
//! Lines go to the host as they come; it bounds their rate and counts what it drops. Here only their length is bounded, and the memory: one
//! line per pipe, and the tail. The pipes are always drained, so a plugin that floods them is never blocked by us and never blocks a call.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use mortise_runtime::{HostServices, LogLine};
use mortise_wire::{LogRecord, plugin::log_record::Level};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

/// Longer lines are logged in pieces.
const LINE_BYTES_MAX: usize = 16 << 10;
/// How much of what was written last to the standard error is kept.
const TAIL_BYTES_MAX: usize = 64 << 10;
/// How much of it goes into an error's message.
const LAST_WORDS_BYTES_MAX: usize = 1 << 10;

/// What the plugin wrote last to its standard error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let surplus = (tail.len() + bytes.len()).saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..surplus);
        tail.extend(bytes);
    }

    /// All that is kept.
    pub(crate) fn text(&self) -> String {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }

    /// The last lines, short enough for a message, with what was said before them; empty if nothing was written.
    pub(crate) fn last_words(&self) -> String {
        let text = self.text();
        let text = text.trim_end();
        if text.is_empty() {
            return String::new();
        }
        let mut start = text.len().saturating_sub(LAST_WORDS_BYTES_MAX);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        // Whole lines, unless one alone is longer.
        let whole = match text[start..].find('\n') {
            Some(end) if start > 0 => start + end + 1,
            _ => start,
        };
        format!("; it wrote last: {}", text[whole..].trim_end())
    }
}

/// Logs every line of a pipe until its other end is closed everywhere.
pub(crate) async fn capture(
    pipe: OwnedFd,
    target: &'static str,
    level: Level,
    services: Arc<dyn HostServices>,
    tail: Option<Tail>,
) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut line = Vec::new();
    let mut chunk = vec![0; 8 << 10];
    loop {
        let read = pipe.read(&mut chunk).await?;
        let mut rest = &chunk[..read];
        if let Some(tail) = &tail {
            tail.push(rest);
        }
        if read == 0 {
            log(&*services, target, level, &mut line);
            return Ok(());
        }
        while !rest.is_empty() {
            let room = LINE_BYTES_MAX - line.len();
            let (part, ended) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) if end <= room => (end, true),
                _ => (rest.len().min(room), false),
            };
            line.extend_from_slice(&rest[..part]);
            rest = &rest[part + usize::from(ended)..];
            if ended || line.len() == LINE_BYTES_MAX {
                log(&*services, target, level, &mut line);
            }
        }
    }
}

fn log(services: &dyn HostServices, target: &str, level: Level, line: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    if !text.is_empty() {
        let record = LogRecord {
            level: level.into(),
            target: target.to_owned(),
            message: text.to_owned(),
            fields: Vec::new(),
            call_id: 0,
        };
        services.log(LogLine {
            record: &record,
            call: None,
        });
    }
    line.clear();
}
