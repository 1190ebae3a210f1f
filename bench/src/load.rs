//! A closed-loop HTTP/1.1 load generator.
//!
//! Each connection sends one request, waits for the whole answer, checks it and sends the next. It parses as little of HTTP as it can, because
//! it shares the machine's cores with the server it measures: every cycle spent here is missing there, for the anchor as for us.
//! The same generator drives both, so its cost cancels out of a ratio.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What to send, to whom, and what must come back.
#[derive(Clone, Debug)]
pub struct Load {
    /// Only loopback addresses are accepted.
    pub target: SocketAddr,
    /// Path of the POST request.
    pub path: String,
    /// Body of every request, as JSON.
    pub body: String,
    /// What every answer's body must be, to the byte.
    pub expect: String,
    /// Keep-alive connections, all open before the clock starts.
    pub connections: usize,
    /// Measured time; the warm-up comes before it.
    pub duration: Duration,
    /// Time before the measurement in which answers are not counted.
    pub warm_up: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Answers counted.
    pub requests: u64,
    /// Wrong answers and broken connections.
    pub errors: u64,
    /// Measured time.
    pub elapsed: Duration,
    /// Latencies in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Report {
    /// Answers per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

/// Runs the load to its end. Must be called on a tokio runtime.
///
/// # Errors
/// If the target is not a loopback address, or a connection cannot be opened.
pub async fn run(load: &Load) -> anyhow::Result<Report> {
    if !load.target.ip().is_loopback() {
        bail!(
            "the load generator sends to loopback addresses only, and {} is none",
            load.target
        );
    }
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        load.path,
        load.target,
        load.body.len(),
        load.body
    );
    let mut connections = Vec::with_capacity(load.connections);
    for number in 0..load.connections {
        let stream = TcpStream::connect(load.target)
            .await
            .with_context(|| format!("connection {number} to {} cannot be opened", load.target))?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let start = Instant::now() + load.warm_up;
    let end = start + load.duration;
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|stream| {
            let (request, expect) = (request.clone().into_bytes(), load.expect.clone().into_bytes());
            tokio::spawn(connection(stream, request, expect, start, end))
        })
        .collect();
    let mut report = Report {
        requests: 0,
        errors: 0,
        elapsed: load.duration,
        latency_us: Histogram::new(3).context("histogram")?,
    };
    for task in tasks {
        let one = task.await.context("a connection's task panicked")?;
        report.requests += one.requests;
        report.errors += one.errors;
        report.latency_us.add(one.latency_us).context("histogram")?;
    }
    Ok(report)
}

struct ConnectionReport {
    requests: u64,
    errors: u64,
    latency_us: Histogram<u64>,
}

async fn connection(
    mut stream: TcpStream,
    request: Vec<u8>,
    expect: Vec<u8>,
    start: Instant,
    end: Instant,
) -> ConnectionReport {
    // Up to a minute; recording beyond it saturates.
    let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are sound");
    let mut report = ConnectionReport {
        requests: 0,
        errors: 0,
        latency_us,
    };
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let sent = Instant::now();
        if sent >= end {
            return report;
        }
        let answer = exchange(&mut stream, &request, &expect, &mut buffer).await;
        let done = Instant::now();
        match answer {
            Ok(true) if sent >= start => {
                report.requests += 1;
                report
                    .latency_us
                    .saturating_record((done - sent).as_micros() as u64);
            }
            Ok(true) => {}
            Ok(false) => report.errors += 1,
            Err(_) => {
                report.errors += 1;
                return report;
            }
        }
    }
}

/// Sends one request and reads its answer; false if the answer is a wrong one.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    expect: &[u8],
    buffer: &mut Vec<u8>,
) -> std::io::Result<bool> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head_bytes) = find(buffer, b"\r\n\r\n").map(|at| at + 4) else {
            continue;
        };
        let body_bytes = content_length(&buffer[..head_bytes]).ok_or(std::io::ErrorKind::InvalidData)?;
        if buffer.len() >= head_bytes + body_bytes {
            return Ok(buffer.starts_with(b"HTTP/1.1 200") && &buffer[head_bytes..] == expect);
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
