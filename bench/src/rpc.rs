//! JSON-RPC rows: requests per second of a native echo beside a bare axum echo, both in a process of their own, both driven by [`crate::load`].

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use axum::{Router, body::Bytes, http::header, routing::post};
use mortise::manifest::RuntimeName;
use mortise_gateway::{Gateway, Options};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    load::{self, Load, Report},
    subject::{self, Reuse},
    table::Row,
};

/// Connections of the three rows.
pub const CONNECTIONS: [usize; 3] = [50, 500, 2000];
const REQUEST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"plugin.echo.Echo","params":{"text":"hello"}}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"text":"hello"}}"#;

/// The anchor: axum with one route that gives the body back. Serves until the process ends.
///
/// # Errors
/// If it cannot listen.
pub async fn serve_axum() -> Result<()> {
    async fn echo(body: Bytes) -> ([(header::HeaderName, &'static str); 1], Bytes) {
        ([(header::CONTENT_TYPE, "application/json")], body)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let router = Router::new().route("/rpc", post(echo));
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // As our own server does it.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

/// Ours: the gateway with a native echo. Serves until the process ends.
///
/// # Errors
/// If the plugin does not load or it cannot listen.
pub async fn serve_mortise(data: &Path) -> Result<()> {
    let host = subject::host(&[RuntimeName::Native], data, Reuse::Ephemeral).await?;
    subject::load(&host, "echo", RuntimeName::Native, &subject::package("echo")?).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Gateway::new(host, Options::default())
        .serve(listener, CancellationToken::new())
        .await;
    Ok(())
}

/// The rows: for each number of connections both servers in turns, `seconds` each.
///
/// # Errors
/// If a server does not start, or an answer was wrong.
pub async fn rows(seconds: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        // In turns and twice, so that a busy neighbour meets both.
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            bare.push(drive("serve-axum", REQUEST, REQUEST, connections, seconds).await?);
            ours.push(drive("serve-mortise", REQUEST, ANSWER, connections, seconds).await?);
        }
        let best = |driven: &[Driven]| driven.iter().map(|it| it.report.per_second()).fold(0.0, f64::max);
        rows.push(
            Row::new(
                format!("JSON-RPC to a native echo, {connections} connections"),
                best(&ours),
                "bare axum echo",
                best(&bare),
                "req/s",
            )
            .at_least_times(0.8),
        );
        let cost = |driven: &[Driven]| driven.iter().map(|it| it.cost_us).fold(f64::INFINITY, f64::min);
        // Less of what neighbours do is in it than in a rate.
        rows.push(Row::new(
            "  processor time of the server, per request",
            cost(&ours),
            "bare axum echo",
            cost(&bare),
            "us",
        ));
        for (quantile, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            let least = |driven: &[Driven]| {
                driven
                    .iter()
                    .map(|it| it.report.latency_us.value_at_quantile(quantile))
                    .min()
                    .unwrap_or(0) as f64
            };
            rows.push(Row::new(
                format!("  latency {name}"),
                least(&ours),
                "bare axum echo",
                least(&bare),
                "us",
            ));
        }
    }
    Ok(rows)
}

/// What driving a server for a while came to.
struct Driven {
    report: Report,
    /// Processor time of the server for each request, in microseconds.
    cost_us: f64,
}

async fn drive(server: &str, body: &str, expect: &str, connections: usize, seconds: u64) -> Result<Driven> {
    let server = Server::start(server)?;
    let load = Load {
        target: server.address,
        path: "/rpc".to_owned(),
        body: body.to_owned(),
        expect: expect.to_owned(),
        connections,
        duration: Duration::from_secs(seconds),
        warm_up: Duration::from_secs(1),
    };
    let warm = async {
        tokio::time::sleep(load.warm_up).await;
        server.processor_time()
    };
    let (report, before) = tokio::join!(load::run(&load), warm);
    let (report, spent) = (report?, server.processor_time()? - before?);
    if report.errors > 0 || report.requests == 0 {
        bail!(
            "{}: {} answers and {} errors",
            server.name,
            report.requests,
            report.errors
        );
    }
    let cost_us = spent.as_secs_f64() * 1e6 / report.requests as f64;
    Ok(Driven { report, cost_us })
}

struct Server {
    name: String,
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts this program again, as a server that prints its address.
    fn start(name: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .with_context(|| format!("{name} printed no address but `{line}`"));
        match address {
            Ok(address) => Ok(Self {
                name: name.to_owned(),
                child,
                address,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

impl Server {
    /// What it has used so far, in user and kernel mode.
    fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // The second field is a name in parentheses, which may have spaces in it; utime and stime are the 14th and 15th (proc(5)).
        let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks
            .sum::<Result<_, _>>()
            .with_context(|| format!("cannot make sense of {path}"))?;
        // A tick is 10 ms for every program, whatever the kernel's own is.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
