//! Lane rows: the same echo plugin as a process, over each lane, beside tonic unary over a unix socket.
//!
//! Every subject is a process of its own on the other side of a socket, gets the same encoded message and gives it back decoded. Subjects take turns, round by
//! round, so that a noisy minute falls on all of them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use echo::contract::{EchoReply, EchoRequest, ReverseReply, ReverseRequest};
use hdrhistogram::Histogram;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, Digest, HostServices, Instance, InstanceId, LogLine, MethodIndex,
    PluginId, Runtime, Start,
};
use mortise_runtime_process::{ProcessConfig, ProcessLane, ProcessRuntime};
use mortise_wire::{Code, Status};
use prost::Message as _;
use tonic::transport::Channel;

use crate::table::Row;

/// Sizes of the message, with their names and the calls of one round.
const SIZES: [(&str, usize, u32); 3] = [
    ("64 B", 64, 2000),
    ("64 KiB", 64 << 10, 400),
    ("1 MiB", 1 << 20, 60),
];
/// Callers at once, for calls per second.
const CALLERS: [usize; 3] = [1, 8, 64];
const ROUNDS: usize = 5;
const STARTS: usize = 9;
const DEADLINE: Duration = Duration::from_secs(30);
/// Windows of both sides of the anchor: its defaults make it slower at 1 MiB.
const WINDOW_BYTES: u32 = 8 << 20;
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What is measured: somebody who echoes.
#[derive(Clone)]
enum Subject {
    Tonic(Channel),
    Lane(Arc<Plugin>),
}

/// A running plugin, and the numbers of its methods.
struct Plugin {
    instance: Box<dyn Instance>,
    echo: MethodIndex,
    reverse: MethodIndex,
}

/// Answers nothing: the echo plugin asks nothing.
struct NoServices;

/// What was measured of one subject.
struct Figures {
    name: String,
    /// p50 and p99 in microseconds, one pair per size.
    latency_us: Vec<(f64, f64)>,
    /// The same at 64 B for a method that may block.
    blocking_us: Option<(f64, f64)>,
    /// One per entry of `CALLERS`.
    calls_per_s: Vec<f64>,
    start_ms: f64,
    resident_mib: f64,
}

/// The rows. `executable` is the echo plugin; `anchor` starts [`serve_tonic`] with the path of a socket as its last argument.
///
/// # Errors
/// If the plugin or the anchor does not start, or answers wrong.
pub async fn rows(data: &Path, executable: &Path, anchor: Command) -> Result<Vec<Row>> {
    let mut figures = measure(data, executable, anchor).await?;
    let anchor = figures.remove(0);
    Ok(figures.iter().flat_map(|it| compare(it, &anchor)).collect())
}

fn compare(ours: &Figures, anchor: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    let row = |what: String, ours: f64, anchor_value: f64, unit| {
        Row::new(what, ours, anchor.name.clone(), anchor_value, unit)
    };
    let name = &ours.name;
    for (i, (size, ..)) in SIZES.iter().enumerate() {
        let ((p50, p99), (a50, a99)) = (ours.latency_us[i], anchor.latency_us[i]);
        let median = row(format!("{name}: {size}, p50"), p50, a50, "us");
        rows.push(match (name.as_str(), *size) {
            ("raw", "64 B") => median.at_most_times(0.3),
            ("shm", "1 MiB") => median.at_most_times(0.25),
            _ => median,
        });
        rows.push(row(format!("{name}: {size}, p99"), p99, a99, "us"));
    }
    if let (Some((p50, p99)), (a50, a99)) = (ours.blocking_us, anchor.latency_us[0]) {
        rows.push(row(format!("{name}: 64 B, may block, p50"), p50, a50, "us"));
        rows.push(row(format!("{name}: 64 B, may block, p99"), p99, a99, "us"));
    }
    for (i, callers) in CALLERS.iter().enumerate() {
        let what = format!("{name}: 64 B, {callers} callers");
        rows.push(row(what, ours.calls_per_s[i], anchor.calls_per_s[i], "1/s"));
    }
    rows.push(
        row(
            format!("{name}: start to first call"),
            ours.start_ms,
            anchor.start_ms,
            "ms",
        )
        .below(5.0),
    );
    rows.push(row(
        format!("{name}: plugin's resident memory"),
        ours.resident_mib,
        anchor.resident_mib,
        "MiB",
    ));
    rows
}

async fn measure(data: &Path, executable: &Path, mut anchor: Command) -> Result<Vec<Figures>> {
    std::fs::create_dir_all(data)?;
    let bytes: Bytes = std::fs::read(executable)
        .with_context(|| format!("{}: run `cargo xtask guests`", executable.display()))?
        .into();
    let socket = data.join("anchor.sock");
    anchor.arg(&socket).stdin(Stdio::null());
    let (channel, child, anchor_start) = start_tonic(&mut anchor, &socket).await?;
    let mut subjects = vec![(
        "tonic unary".to_owned(),
        Subject::Tonic(channel),
        anchor_start,
        Some(child),
    )];
    for (name, config) in lanes(data) {
        let runtime = ProcessRuntime::new(config)?;
        let mut least = f64::MAX;
        let mut running = None;
        for _ in 0..STARTS {
            let started = Instant::now();
            let plugin = Arc::new(start(&runtime, executable, bytes.clone()).await?);
            let subject = Subject::Lane(plugin);
            subject.echo(b"first").await?;
            least = least.min(started.elapsed().as_secs_f64() * 1e3);
            running = Some(subject);
        }
        subjects.push((name, running.context("at least one start")?, least, None));
    }
    let mut latency = vec![vec![histogram()?; SIZES.len()]; subjects.len()];
    let mut blocking = vec![histogram()?; subjects.len()];
    let mut rates = vec![vec![0f64; CALLERS.len()]; subjects.len()];
    for _ in 0..ROUNDS {
        for (i, (_, subject, ..)) in subjects.iter().enumerate() {
            for (j, (_, bytes, calls)) in SIZES.iter().enumerate() {
                latency[i][j].add(&one_caller(subject, *bytes, *calls).await?)?;
            }
            if let Subject::Lane(plugin) = subject {
                blocking[i].add(&reverse(plugin.clone()).await?)?;
            }
            for (j, callers) in CALLERS.iter().enumerate() {
                // The most, and not the mean: on a shared machine noise only ever takes away.
                rates[i][j] = rates[i][j].max(many_callers(subject, *callers).await?);
            }
        }
    }
    let mut figures = Vec::new();
    for (i, (name, subject, start_ms, child)) in subjects.into_iter().enumerate() {
        let pid = match (&subject, &child) {
            (Subject::Lane(plugin), _) => plugin.instance.usage().pid,
            (_, Some(child)) => Some(child.0.id()),
            _ => None,
        };
        let pair = |it: &Histogram<u64>| {
            (
                it.value_at_quantile(0.5) as f64 / 1e3,
                it.value_at_quantile(0.99) as f64 / 1e3,
            )
        };
        figures.push(Figures {
            name,
            latency_us: latency[i].iter().map(pair).collect(),
            blocking_us: (!blocking[i].is_empty()).then(|| pair(&blocking[i])),
            calls_per_s: rates[i].clone(),
            start_ms,
            resident_mib: resident_mib(pid.context("it runs")?)?,
        });
    }
    Ok(figures)
}

/// The lanes, and the runtime that pins each.
fn lanes(data: &Path) -> Vec<(String, ProcessConfig)> {
    [("raw", ProcessLane::Raw), ("shm", ProcessLane::Shm)]
        .map(|(name, lane)| {
            let mut config = ProcessConfig::new(data.join(name));
            config.lane = lane;
            (name.to_owned(), config)
        })
        .to_vec()
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(60_000_000_000, 3)?)
}

async fn one_caller(subject: &Subject, bytes: usize, calls: u32) -> Result<Histogram<u64>> {
    let subject = subject.clone();
    // A task, as callers are: what runs on the runtime's main thread pays for another hop.
    tokio::spawn(async move {
        let message = vec![7; bytes];
        let mut histogram = histogram()?;
        for _ in 0..calls {
            let started = Instant::now();
            subject.echo(&message).await?;
            histogram.record(started.elapsed().as_nanos() as u64)?;
        }
        Ok(histogram)
    })
    .await?
}

async fn reverse(plugin: Arc<Plugin>) -> Result<Histogram<u64>> {
    tokio::spawn(async move {
        let mut histogram = histogram()?;
        for _ in 0..SIZES[0].2 {
            let started = Instant::now();
            let request = ReverseRequest { text: "a".repeat(64) };
            let reply = plugin.call(plugin.reverse, request.encode_to_vec()).await?;
            ensure!(ReverseReply::decode(reply)?.text.len() == 64, "a short reply");
            histogram.record(started.elapsed().as_nanos() as u64)?;
        }
        Ok(histogram)
    })
    .await?
}

async fn many_callers(subject: &Subject, callers: usize) -> Result<f64> {
    const TIME: Duration = Duration::from_millis(400);
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let subject = subject.clone();
            tokio::spawn(async move {
                let message = [7; 64];
                let mut calls = 0u32;
                while started.elapsed() < TIME {
                    subject.echo(&message).await?;
                    calls += 1;
                }
                anyhow::Ok(calls)
            })
        })
        .collect();
    let mut calls = 0.0;
    for task in tasks {
        calls += f64::from(task.await??);
    }
    Ok(calls / started.elapsed().as_secs_f64())
}

// === impl Subject ===

impl Subject {
    async fn echo(&self, message: &[u8]) -> Result<()> {
        let request = EchoRequest {
            message: message.to_vec(),
            text: String::new(),
        };
        let reply = match self {
            Self::Tonic(channel) => {
                let mut grpc =
                    tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                grpc.ready().await?;
                let codec = tonic_prost::ProstCodec::<EchoRequest, EchoReply>::default();
                let path = http::uri::PathAndQuery::from_static("/mortise.test.v1.Echo/Echo");
                grpc.unary(tonic::Request::new(request), path, codec)
                    .await?
                    .into_inner()
            }
            Self::Lane(plugin) => {
                EchoReply::decode(plugin.call(plugin.echo, request.encode_to_vec()).await?)?
            }
        };
        ensure!(
            reply.message.len() == message.len(),
            "the echo is of another length"
        );
        Ok(())
    }
}

// === the plugin ===

impl Plugin {
    async fn call(&self, method: MethodIndex, payload: Vec<u8>) -> Result<Bytes> {
        let cx = CallContext {
            call_id: 1,
            deadline: Some(Instant::now() + DEADLINE),
            ..CallContext::default()
        };
        let call = self.instance.call().context("it answers calls")?;
        Ok(call.call(&cx, method, payload.into()).await?)
    }
}

impl HostServices for NoServices {
    fn log(&self, line: LogLine<'_>) {
        eprintln!("{}", line.record.message);
    }

    fn call<'a>(
        &'a self,
        _: Option<&'a CallContext>,
        _: &'a str,
        _: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async { Err(Status::new(Code::PermissionDenied, "nothing is offered here")) })
    }
}

async fn start(runtime: &ProcessRuntime, executable: &Path, bytes: Bytes) -> Result<Plugin> {
    let mut artifact = Artifact {
        plugin: PluginId {
            name: "echo".into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Process,
        digest: Digest([0; 32]),
        bytes,
        path: Some(PathBuf::from(executable)),
        dialect: None,
        contract: Arc::new(Contract::from_descriptor_set(&[], &[])?),
    };
    let metadata = runtime.read_metadata(&artifact)?;
    let mut services: Vec<_> = metadata.methods.iter().map(|it| it.service.clone()).collect();
    services.dedup();
    artifact.contract = Arc::new(Contract::from_descriptor_set(
        &metadata.descriptor_set,
        &services,
    )?);
    let number = |name: &str| {
        let found = metadata.methods.iter().position(|it| it.name == name);
        anyhow::Ok(MethodIndex(u32::try_from(found.context("the method is there")?)?))
    };
    let (echo, reverse) = (number("Echo")?, number("Reverse")?);
    let verified = artifact
        .verify(metadata)
        .map_err(|refusals| anyhow!("{refusals:?}"))?;
    let prepared = runtime.prepare(&verified, &Grant::default()).await?;
    let start = Start {
        instance: InstanceId("echo@1.0.0#1".into()),
        limits: Limits {
            payload_bytes_max: MESSAGE_BYTES_MAX,
            ..Limits::default()
        },
        config_json: "{}".into(),
        services: Arc::new(NoServices),
    };
    Ok(Plugin {
        instance: runtime.start(prepared, start).await?,
        echo,
        reverse,
    })
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|it| it.split_whitespace().next())
        .context("its status has no VmRSS")?
        .parse()?;
    Ok(kib / 1024.0)
}

// === the anchor ===

/// Ends its process when it goes.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start_tonic(command: &mut Command, socket: &Path) -> Result<(Channel, KillOnDrop, f64)> {
    let started = Instant::now();
    let child = KillOnDrop(command.spawn()?);
    while tokio::net::UnixStream::connect(socket).await.is_err() {
        ensure!(started.elapsed() < DEADLINE, "the anchor does not listen");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let path = socket.to_owned();
    let channel = tonic::transport::Endpoint::from_static("http://anchor.invalid")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                std::io::Result::Ok(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await?;
    Subject::Tonic(channel.clone()).echo(b"first").await?;
    Ok((channel, child, started.elapsed().as_secs_f64() * 1e3))
}

/// Serves the anchor on `socket` until it is killed.
///
/// # Errors
/// If it cannot listen there.
pub async fn serve_tonic(socket: &Path) -> Result<()> {
    let listener = tokio::net::UnixListener::bind(socket)?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(Anchor)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// The echo service as tonic serves it.
#[derive(Clone)]
struct Anchor;

impl tonic::server::NamedService for Anchor {
    const NAME: &'static str = "mortise.test.v1.Echo";
}

impl tower::Service<http::Request<tonic::body::Body>> for Anchor {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<EchoReply, EchoRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.unary(Self, request).await)
        })
    }
}

impl tonic::server::UnaryService<EchoRequest> for Anchor {
    type Response = EchoReply;
    type Future = std::future::Ready<Result<tonic::Response<EchoReply>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<EchoRequest>) -> Self::Future {
        let EchoRequest { message, text } = request.into_inner();
        std::future::ready(Ok(tonic::Response::new(EchoReply { message, text })))
    }
}
