//! What such a plugin writes: the handshake line, then output; and log lines of hclog on its standard error.

use std::{io, os::fd::OwnedFd, sync::Arc};

use mortise_goplugin::{Handshake, HandshakeError, LogEvent, LogLevel, LogParser, OutputChunk, Scanner};
use mortise_runtime::{HostServices, LogLine};
use mortise_wire::{Header, LogRecord, plugin::log_record::Level};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

use crate::output::Tail;

const CHUNK_BYTES: usize = 8 << 10;
/// Longer lines of output are logged in pieces.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Why no handshake came.
#[derive(Debug)]
pub(super) enum NoHandshake {
    Wrong(HandshakeError),
    /// Its standard output was closed; with what stood there without an end of line.
    Closed(String),
}

/// Reads the standard output to its end: first for the handshake, then as log lines.
pub(super) async fn read_stdout(
    pipe: OwnedFd,
    services: Arc<dyn HostServices>,
    answer: oneshot::Sender<Result<Handshake, NoHandshake>>,
) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let (mut scanner, mut chunk) = (Scanner::default(), vec![0; CHUNK_BYTES]);
    let (found, rest) = loop {
        let read = pipe.read(&mut chunk).await?;
        if read == 0 {
            break (Err(NoHandshake::Closed(scanner.unfinished())), 0..0);
        }
        match scanner.push(&chunk[..read]) {
            Ok(None) => {}
            Ok(Some((handshake, taken))) => break (Ok(handshake), taken..read),
            Err(error) => break (Err(NoHandshake::Wrong(error)), 0..0),
        }
    };
    for line in scanner.take_stray() {
        let message = format!("it wrote this to its standard output before its handshake: {line}");
        tell(&*services, Level::Warn, "stdout", message);
    }
    // Whoever waited may have given up.
    let _ = answer.send(found);
    let mut lines = Lines::default();
    lines.push(&chunk[rest], |line| tell(&*services, Level::Info, "stdout", line));
    loop {
        let read = pipe.read(&mut chunk).await?;
        if read == 0 {
            lines.finish(|line| tell(&*services, Level::Info, "stdout", line));
            return Ok(());
        }
        lines.push(&chunk[..read], |line| {
            tell(&*services, Level::Info, "stdout", line)
        });
    }
}

/// Reads the standard error to its end.
pub(super) async fn read_stderr(
    pipe: OwnedFd,
    services: Arc<dyn HostServices>,
    tail: Tail,
) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let (mut parser, mut chunk) = (LogParser::default(), vec![0; CHUNK_BYTES]);
    loop {
        let read = pipe.read(&mut chunk).await?;
        if read == 0 {
            parser.finish(|event| log(&*services, event));
            return Ok(());
        }
        tail.push(&chunk[..read]);
        parser.push(&chunk[..read], |event| log(&*services, event));
    }
}

/// Logs what comes through the protocol's own stream.
pub(super) async fn read_stream(mut chunks: mpsc::Receiver<OutputChunk>, services: Arc<dyn HostServices>) {
    let (mut out, mut err) = (Lines::default(), Lines::default());
    while let Some(chunk) = chunks.recv().await {
        if chunk.is_stderr {
            err.push(&chunk.data, |line| tell(&*services, Level::Warn, "stderr", line));
        } else {
            out.push(&chunk.data, |line| tell(&*services, Level::Info, "stdout", line));
        }
    }
    out.finish(|line| tell(&*services, Level::Info, "stdout", line));
    err.finish(|line| tell(&*services, Level::Warn, "stderr", line));
}

/// Bytes, cut into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, mut bytes: &[u8], mut tell: impl FnMut(String)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.0.len();
            let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            let part = end.unwrap_or_else(|| bytes.len().min(room));
            self.0.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part + usize::from(end.is_some())..];
            if end.is_some() || self.0.len() == LINE_BYTES_MAX {
                self.finish(&mut tell);
            }
        }
    }

    fn finish(&mut self, mut tell: impl FnMut(String)) {
        let line = String::from_utf8_lossy(&self.0).trim_end_matches('\r').to_owned();
        self.0.clear();
        if !line.is_empty() {
            tell(line);
        }
    }
}

fn log(services: &dyn HostServices, event: LogEvent) {
    let level = match event.level {
        LogLevel::Trace => Level::Trace,
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
    };
    let fields = event
        .fields
        .into_iter()
        .map(|(name, value)| Header { name, value });
    send(
        services,
        &LogRecord {
            level: level.into(),
            target: event.module,
            message: event.message,
            fields: fields.collect(),
            call_id: 0,
        },
    );
}

fn tell(services: &dyn HostServices, level: Level, target: &str, message: String) {
    send(
        services,
        &LogRecord {
            level: level.into(),
            target: target.to_owned(),
            message,
            fields: Vec::new(),
            call_id: 0,
        },
    );
}

fn send(services: &dyn HostServices, record: &LogRecord) {
    services.log(LogLine { record, call: None });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_whatever_the_pieces_and_bounded() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for piece in ["a", "b\r\n\nc\nd"] {
            lines.push(piece.as_bytes(), |line| seen.push(line));
        }
        lines.finish(|line| seen.push(line));
        assert_eq!(seen, ["ab", "c", "d"]);
        let mut sizes = Vec::new();
        lines.push(&vec![b'x'; LINE_BYTES_MAX + 5], |line| sizes.push(line.len()));
        lines.push(b"\n", |line| sizes.push(line.len()));
        assert_eq!(sizes, [LINE_BYTES_MAX, 5]);
    }
}
