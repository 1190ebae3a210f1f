//! Lane rows: the same echo plugin as a process, over each lane, beside tonic unary over a unix socket; and a plugin in Go under our host, beside the
//! same under a host in Go.
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
use mortise_manifest::{Dialect, GoPlugin, Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, Digest, HostServices, Instance, InstanceId, LogLine, MethodIndex,
    PluginId, Runtime, Start, Verified,
};
use mortise_runtime_process::{ProcessConfig, ProcessLane, ProcessRuntime};
use mortise_wire::{Code, Metadata, Status};
use prost::Message as _;
use tonic::transport::Channel;

use crate::table::Row;

#[path = "../../tests/go.rs"]
mod go;

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
    /// `plugins/go-kv`, whose one method of bytes is called as often.
    Go(Arc<Plugin>),
}

/// A running plugin, and the numbers of its methods.
pub(crate) struct Plugin {
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

/// What is measured.
#[derive(Clone, Debug)]
pub struct Executables {
    /// The echo plugin.
    pub echo: PathBuf,
    /// The same with the lanes over gRPC.
    pub echo_grpc: PathBuf,
    /// The plugin in Go and the host in Go, where there is a compiler for them.
    pub go: Option<(PathBuf, PathBuf)>,
}

/// The rows. `anchor` starts [`serve_tonic`] with the path of a socket as its last argument.
///
/// # Errors
/// If a plugin or an anchor does not start, or answers wrong.
pub async fn rows(data: &Path, executables: &Executables, anchor: Command) -> Result<Vec<Row>> {
    let (figures, go_host) = measure(data, executables, anchor).await?;
    let named = |name: &str| {
        figures
            .iter()
            .find(|it| it.name == name)
            .context("it was measured")
    };
    let (tonic, grpc) = (named(TONIC)?, named("grpc")?);
    let ours = figures.iter().filter(|it| it.name != TONIC && it.name != GO);
    let mut rows: Vec<Row> = ours.flat_map(|it| compare(it, tonic)).collect();
    let (shm, anchor) = (named("shm")?.latency_us[2].0, grpc.latency_us[2].0);
    rows.push(Row::new("shm: 1 MiB, p50", shm, "lane grpc", anchor, "us").at_most_times(0.25));
    match go_host {
        Some(go_host) => rows.extend(compare(named(GO)?, &go_host)),
        None => eprintln!("no rows of the plugin in Go: `cargo xtask setup` installs what it needs"),
    }
    Ok(rows)
}

/// The two Go programs, built if they changed.
#[must_use]
pub fn go_programs() -> Option<(PathBuf, PathBuf)> {
    Some((go::program("plugins/go-kv")?, go::program("tests/go-host")?))
}

const TONIC: &str = "tonic unary";
const GO: &str = "plugin in Go";

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
            (GO, "64 B") => median.at_most_times(1.0),
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
    let start = row(
        format!("{name}: start to first call"),
        ours.start_ms,
        anchor.start_ms,
        "ms",
    );
    rows.push(if name == GO { start } else { start.below(5.0) });
    rows.push(row(
        format!("{name}: plugin's resident memory"),
        ours.resident_mib,
        anchor.resident_mib,
        "MiB",
    ));
    rows
}

/// Figures of all subjects, and those of the host in Go.
async fn measure(
    data: &Path,
    executables: &Executables,
    mut anchor: Command,
) -> Result<(Vec<Figures>, Option<Figures>)> {
    std::fs::create_dir_all(data)?;
    let socket = data.join("anchor.sock");
    anchor.arg(&socket).stdin(Stdio::null());
    let (channel, child, anchor_start) = start_tonic(&mut anchor, &socket).await?;
    let mut subjects = vec![(
        TONIC.to_owned(),
        Subject::Tonic(channel),
        anchor_start,
        Some(child),
    )];
    for (name, lane) in LANES {
        let (subject, least) = over(data, executables, name, lane).await?;
        subjects.push((name.to_owned(), subject, least, None));
    }
    if let Some((plugin, _)) = &executables.go {
        let (subject, least) = over_go(data, plugin).await?;
        subjects.push((GO.to_owned(), subject, least, None));
    }
    let mut go_host = GoHost::new()?;
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
        if let Some((plugin, host)) = &executables.go {
            go_host.round(plugin, host)?;
        }
    }
    let mut figures = Vec::new();
    for (i, (name, subject, start_ms, child)) in subjects.into_iter().enumerate() {
        let pid = match (&subject, &child) {
            (Subject::Lane(plugin) | Subject::Go(plugin), _) => plugin.instance.usage().pid,
            (_, Some(child)) => Some(child.0.id()),
            _ => None,
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
    // It is the same program, and nobody looked at it there.
    let resident = figures.iter().find(|it| it.name == GO).map(|it| it.resident_mib);
    let go_host = resident.map(|resident_mib| go_host.figures(resident_mib));
    Ok((figures, go_host))
}

/// The echo plugin over one lane, and the least time from its start to the first reply.
async fn over(
    data: &Path,
    executables: &Executables,
    name: &str,
    lane: ProcessLane,
) -> Result<(Subject, f64)> {
    let mut config = ProcessConfig::new(data.join(name));
    config.lane = lane;
    let runtime = ProcessRuntime::new(config)?;
    let executable = match lane {
        ProcessLane::CallStream | ProcessLane::Grpc => &executables.echo_grpc,
        _ => &executables.echo,
    };
    begin(&runtime, &echo(&runtime, executable)?, Subject::Lane).await
}

/// The plugin in Go, likewise.
async fn over_go(data: &Path, plugin: &Path) -> Result<(Subject, f64)> {
    let runtime = ProcessRuntime::new(ProcessConfig::new(data.join("go")))?;
    begin(&runtime, &go_kv(&runtime, plugin)?, Subject::Go).await
}

/// Calls over one lane, for a profiler; prints what they took.
///
/// # Errors
/// If the plugin does not start, or answers wrong.
pub async fn alone(
    data: &Path,
    executables: &Executables,
    name: &str,
    bytes: usize,
    calls: u32,
) -> Result<()> {
    std::fs::create_dir_all(data)?;
    let (subject, _) = match LANES.iter().find(|(known, _)| *known == name) {
        Some((name, lane)) => over(data, executables, name, *lane).await?,
        None => {
            let (plugin, _) = executables.go.as_ref().context("needs a compiler of Go")?;
            over_go(data, plugin).await?
        }
    };
    let (p50, p99) = pair(&one_caller(&subject, bytes, calls).await?);
    println!("{name}, {bytes} B, {calls} calls: p50 {p50} us, p99 {p99} us");
    Ok(())
}

/// The lanes, and what pins each.
const LANES: [(&str, ProcessLane); 4] = [
    ("grpc", ProcessLane::Grpc),
    ("call-stream", ProcessLane::CallStream),
    ("raw", ProcessLane::Raw),
    ("shm", ProcessLane::Shm),
];

/// p50 and p99, in microseconds.
fn pair(it: &Histogram<u64>) -> (f64, f64) {
    let at = |quantile| it.value_at_quantile(quantile) as f64 / 1e3;
    (at(0.5), at(0.99))
}

/// Starts a plugin a few times: the last of them, and the least time from the start to the first reply.
async fn begin(
    runtime: &ProcessRuntime,
    artifact: &Verified,
    subject: impl Fn(Arc<Plugin>) -> Subject,
) -> Result<(Subject, f64)> {
    let mut least = f64::MAX;
    let mut running = None;
    for _ in 0..STARTS {
        // A host has a moment between two starts, in which it makes the next launcher. `starting` has the figures without one.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let started = Instant::now();
        let subject = subject(Arc::new(start(runtime, artifact).await?));
        subject.echo(b"first").await?;
        least = least.min(started.elapsed().as_secs_f64() * 1e3);
        running = Some(subject);
    }
    Ok((running.context("at least one start")?, least))
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
        if let Self::Go(plugin) = self {
            let request = InvokeRequest {
                method: "upper".to_owned(),
                payload: message.to_vec(),
            };
            let reply = plugin.call(plugin.echo, request.encode_to_vec()).await?;
            let reply = InvokeReply::decode(reply)?;
            ensure!(
                reply.payload.len() == message.len(),
                "the reply is of another length"
            );
            return Ok(());
        }
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
            Self::Lane(plugin) | Self::Go(plugin) => {
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
    /// Calls it once.
    pub(crate) async fn first_answer(&self) -> Result<()> {
        let request = EchoRequest::default().encode_to_vec();
        self.call(self.echo, request).await.map(drop)
    }

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

/// The echo plugin, by what its executable says of itself.
pub(crate) fn echo(runtime: &ProcessRuntime, executable: &Path) -> Result<Verified> {
    let mut artifact = artifact(executable, "echo", None)
        .with_context(|| format!("{}: run `cargo xtask guests`", executable.display()))?;
    let metadata = runtime.read_metadata(&artifact)?;
    let mut services: Vec<_> = metadata.methods.iter().map(|it| it.service.clone()).collect();
    services.dedup();
    artifact.contract = Arc::new(Contract::from_descriptor_set(
        &metadata.descriptor_set,
        &services,
    )?);
    verify(artifact, metadata)
}

/// The plugin in Go, by what is known of it.
fn go_kv(runtime: &ProcessRuntime, executable: &Path) -> Result<Verified> {
    let spoken = GoPlugin {
        cookie_key: "BASIC_PLUGIN".to_owned(),
        cookie_value: "hello".to_owned(),
        versions: vec![1],
        auto_mtls: false,
        multiplex: false,
        sha256: None,
    };
    let mut artifact = artifact(executable, "go-kv", Some(Dialect::GoPlugin(spoken)))?;
    artifact.digest = Digest::of(&artifact.bytes);
    let provides = ["mortise.goplugin.v1.PluginService".to_owned()];
    artifact.contract = Arc::new(Contract::from_descriptor_set(&invoke_service(), &provides)?);
    let metadata = runtime.read_metadata(&artifact)?;
    verify(artifact, metadata)
}

fn artifact(executable: &Path, name: &str, dialect: Option<Dialect>) -> Result<Artifact> {
    Ok(Artifact {
        plugin: PluginId {
            name: name.into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Process,
        digest: Digest([0; 32]),
        bytes: std::fs::read(executable)?.into(),
        path: Some(executable.canonicalize()?),
        dialect,
        contract: Arc::new(Contract::from_descriptor_set(&[], &[])?),
    })
}

fn verify(artifact: Artifact, metadata: Metadata) -> Result<Verified> {
    artifact
        .verify(metadata)
        .map_err(|refusals| anyhow!("{refusals:?}"))
}

pub(crate) async fn start(runtime: &ProcessRuntime, artifact: &Verified) -> Result<Plugin> {
    let methods = &artifact.metadata().methods;
    let number = |names: [&str; 2]| {
        let found = methods.iter().position(|it| names.contains(&&*it.name));
        anyhow::Ok(MethodIndex(u32::try_from(found.context("the method is there")?)?))
    };
    let (echo, reverse) = (number(["Echo", "Invoke"])?, number(["Reverse", "Invoke"])?);
    let prepared = runtime.prepare(artifact, &Grant::default()).await?;
    let start = Start {
        instance: InstanceId("echo@1.0.0#1".into()),
        limits: Limits {
            payload_bytes_max: MESSAGE_BYTES_MAX,
            ..Limits::default()
        },
        config_json: "{}".into(),
        services: Arc::new(NoServices),
        pure: false,
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

// === Go ===

/// The request of `mortise.goplugin.v1.PluginService/Invoke`.
#[derive(Clone, PartialEq, prost::Message)]
struct InvokeRequest {
    #[prost(string, tag = "1")]
    method: String,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// Its reply.
#[derive(Clone, PartialEq, prost::Message)]
struct InvokeReply {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
}

/// Its contract: a `FileDescriptorSet`.
fn invoke_service() -> Vec<u8> {
    use prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
        ServiceDescriptorProto,
        field_descriptor_proto::{Label, Type},
    };
    let field = |name: &str, number, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        json_name: Some(name.to_owned()),
        ..FieldDescriptorProto::default()
    };
    let message = |name: &str, field: Vec<FieldDescriptorProto>| DescriptorProto {
        name: Some(name.to_owned()),
        field,
        ..DescriptorProto::default()
    };
    let invoke = MethodDescriptorProto {
        name: Some("Invoke".to_owned()),
        input_type: Some(".mortise.goplugin.v1.InvokeRequest".to_owned()),
        output_type: Some(".mortise.goplugin.v1.InvokeReply".to_owned()),
        ..MethodDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("mortise/goplugin/v1/plugin.proto".to_owned()),
        package: Some("mortise.goplugin.v1".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![
            message(
                "InvokeRequest",
                vec![field("method", 1, Type::String), field("payload", 2, Type::Bytes)],
            ),
            message("InvokeReply", vec![field("payload", 1, Type::Bytes)]),
        ],
        service: vec![ServiceDescriptorProto {
            name: Some("PluginService".to_owned()),
            method: vec![invoke],
            ..ServiceDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

/// What the host in Go measures of the plugin in Go.
struct GoHost {
    latency: Vec<Histogram<u64>>,
    rates: Vec<f64>,
    start_ms: f64,
}

impl GoHost {
    fn new() -> Result<Self> {
        Ok(Self {
            latency: vec![histogram()?; SIZES.len()],
            rates: vec![0.0; CALLERS.len()],
            start_ms: f64::MAX,
        })
    }

    /// Starts it, and takes in what it prints: `name=a,b,c`, in nanoseconds.
    fn round(&mut self, plugin: &Path, host: &Path) -> Result<()> {
        let mut command = Command::new(host);
        command
            .arg("-plugin")
            .arg(plugin)
            .args(["-versions", "1", "-steps", "measure,kill"]);
        let output = command.stderr(Stdio::null()).output()?;
        let text = String::from_utf8(output.stdout)?;
        let said = text.lines().find_map(|line| line.strip_prefix("ok measure "));
        for part in said
            .with_context(|| format!("the host in Go said: {text}"))?
            .split(' ')
        {
            let (name, values) = part.split_once('=').context("a name and values")?;
            let values = values
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<u64>, _>>()?;
            let size = SIZES.iter().position(|(_, bytes, _)| name == bytes.to_string());
            let callers = CALLERS.iter().position(|it| name == format!("callers{it}"));
            match (size, callers) {
                (Some(i), _) => values.iter().try_for_each(|it| self.latency[i].record(*it))?,
                (None, Some(i)) => self.rates[i] = self.rates[i].max(values[0] as f64),
                (None, None) => self.start_ms = self.start_ms.min(values[0] as f64 / 1e6),
            }
        }
        Ok(())
    }

    fn figures(&self, resident_mib: f64) -> Figures {
        Figures {
            name: "the same, host in Go".to_owned(),
            latency_us: self.latency.iter().map(pair).collect(),
            blocking_us: None,
            calls_per_s: self.rates.clone(),
            start_ms: self.start_ms,
            resident_mib,
        }
    }
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
