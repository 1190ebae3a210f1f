//! From the invitation to the end.
//!
//! Invariants
//! - G1: nothing but the handshake line is written to the standard output that the process was started with; what the plugin prints later goes into a pipe.
//! - G2: the plugin is started before the line is printed, so a host that sees it can call.
//! - G3: plugin code runs on threads that may block; the executor's own do not run any.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{ExitCode, exit},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use mortise_goplugin::{
    BoxFuture, Cookie, Invitation, Invoked, LogEvent, LogLevel, Plugin as Listening, PluginOptions, Service,
    Shape, plugin::Orphan,
};
use mortise_sdk::{
    CallHead, Cx, Header, StartRequest, Status,
    guest::{Method, Plugin},
    process::{Carrier, Dialect},
};
use mortise_wire::{Metadata, MethodKind, StreamLink};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    stdio::{dup2_stderr, dup2_stdout},
};
use tokio::{net::unix::pipe, runtime::Builder, task::spawn_blocking};
use tonic::metadata::{KeyAndValueRef, MetadataMap};

use crate::{
    call::{Call, Cancel, CancelOnDrop},
    lane::GrpcCarrier,
    log::Logger,
    stream,
};

/// The plugin's configuration, JSON text, if the host's operator sets it.
pub const CONFIG: &str = "MORTISE_CONFIG_JSON";
/// What Go's plugins exit with when they were not started by a host.
const EXIT_NOT_INVITED: u8 = 1;
const EXIT_FAILED: u8 = 1;
const EXIT_PANICKED: i32 = 101;
/// Threads of the executor. They only move frames.
const WORKERS: usize = 2;

/// The go-plugin dialect of an executable.
#[derive(Clone, Debug)]
pub struct GoPlugin {
    cookie: &'static str,
    versions: &'static [u32],
    orphan: Orphan,
}

/// A started plugin.
struct Work<P: 'static> {
    plugin: P,
    started: Arc<StartRequest>,
    logger: Logger,
    methods: HashMap<String, &'static Method<P>>,
    next_call: AtomicU64,
}

/// A plugin as a service of the protocol.
struct Served<P: 'static>(Arc<Work<P>>);

// === impl GoPlugin ===

impl GoPlugin {
    /// With the application's cookie, `KEY=value`, and the versions of its protocol that the plugin knows.
    #[must_use]
    pub const fn new(cookie: &'static str, versions: &'static [u32]) -> Self {
        Self {
            cookie,
            versions,
            orphan: Orphan::Exit,
        }
    }

    /// What the plugin does when its host ends without a word; the default is to end too. Stay only for hosts that reattach.
    #[must_use]
    pub const fn orphan(mut self, orphan: Orphan) -> Self {
        self.orphan = orphan;
        self
    }
}

impl Dialect for GoPlugin {
    fn carrier(&self) -> Option<Box<dyn Carrier>> {
        Some(Box::new(GrpcCarrier))
    }

    fn serve<P: Plugin>(self) -> ExitCode {
        let (name, version) = (P::BUILD.name, P::BUILD.version);
        let Some(cookie) = Cookie::parse(self.cookie) else {
            eprintln!(
                "{name} {version}: `{}` is no cookie; write `KEY=value` in main!",
                self.cookie
            );
            return ExitCode::from(EXIT_FAILED);
        };
        let Ok(invitation) = Invitation::from_process(&cookie) else {
            eprintln!(
                "This is the plugin {name} {version}, built as a process of its own. A host starts it: a Mortise host, or a go-plugin host that knows its cookie."
            );
            return ExitCode::from(EXIT_NOT_INVITED);
        };
        let options = PluginOptions {
            versions: self.versions.to_vec(),
            orphan: self.orphan,
        };
        match run::<P>(&invitation, &options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{name} {version}: {why}");
                ExitCode::from(EXIT_FAILED)
            }
        }
    }
}

fn run<P: Plugin>(invitation: &Invitation, options: &PluginOptions) -> Result<(), String> {
    let logger = original_stderr()?;
    log_panics(&logger);
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| format!("no executor: {error}"))?;
    let work = Arc::new(Work::<P>::start(logger)?);
    let served = work.clone();
    let outcome = runtime.block_on(async move {
        let listening = Listening::bind(invitation, options).map_err(|error| chain(&error))?;
        announce(&listening)?;
        let serving = listening.serve(|_| Arc::new(Served(served)));
        serving
            .await
            .map_err(|error| format!("its socket broke: {error}"))
    });
    // A call that does not end must not keep the process.
    runtime.shutdown_background();
    if outcome.is_ok() {
        guarded(|| work.plugin.stop());
    }
    outcome
}

/// Where log lines go also after standard error has become a pipe.
fn original_stderr() -> Result<Logger, String> {
    let original = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3);
    let original = original.map_err(|error| format!("no standard error: {error}"))?;
    Ok(Logger::new(File::from(original)))
}

/// Prints the line; from then on standard output and error belong to the protocol.
fn announce(listening: &Listening) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("its standard output can't be used: {error}");
    let mut out = std::io::stdout();
    out.write_all(listening.handshake_line().as_bytes())
        .and_then(|()| out.flush())
        .map_err(failed)?;
    let open = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()));
    let ((out_reader, out_writer), (err_reader, err_writer)) = (open()?, open()?);
    dup2_stdout(&out_writer).map_err(|error| failed(error.into()))?;
    dup2_stderr(&err_writer).map_err(|error| failed(error.into()))?;
    let receive = |reader: OwnedFd| pipe::Receiver::from_owned_fd(reader).map_err(failed);
    listening.forward_output(receive(out_reader)?, false);
    listening.forward_output(receive(err_reader)?, true);
    Ok(())
}

// === impl Work ===

impl<P: Plugin> Work<P> {
    fn start(logger: Logger) -> Result<Self, String> {
        let started = Arc::new(StartRequest {
            config_json: std::env::var(CONFIG).unwrap_or_else(|_| "{}".to_owned()),
            plugin: P::BUILD.name.to_owned(),
            version: P::BUILD.version.to_owned(),
            instance: format!("{}@{}#{}", P::BUILD.name, P::BUILD.version, std::process::id()),
        });
        let cx = Cx::new(Call {
            started: started.clone(),
            head: CallHead::default(),
            arrived: Instant::now(),
            cancel: Arc::default(),
            logger: logger.clone(),
        });
        let plugin = guarded(|| P::start(&cx))
            .map_err(|status| format!("it declined to start: {}", status.message))?;
        let methods = P::SERVICES.iter().flat_map(|service| service.methods);
        Ok(Self {
            plugin,
            started,
            logger,
            methods: methods
                .map(|it| (format!("{}/{}", it.service, it.name), it))
                .collect(),
            next_call: AtomicU64::new(1),
        })
    }

    /// What a method sees of a call.
    fn cx(&self, head: CallHead, arrived: Instant, cancel: Arc<Cancel>) -> Cx<Call> {
        Cx::new(Call {
            started: self.started.clone(),
            head,
            arrived,
            cancel,
            logger: self.logger.clone(),
        })
    }

    fn call(
        &self,
        method: &Method<P>,
        head: CallHead,
        arrived: Instant,
        cancel: Arc<Cancel>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Status> {
        let cx = self.cx(head, arrived, cancel);
        guarded(|| (method.invoke)(&self.plugin, &cx, payload))
    }

    fn stream(
        &self,
        method: &Method<P>,
        head: CallHead,
        arrived: Instant,
        cancel: Arc<Cancel>,
        link: &dyn StreamLink,
    ) -> Result<(), Status> {
        let cx = self.cx(head, arrived, cancel);
        guarded(|| (method.stream)(&self.plugin, &cx, link))
    }
}

impl<P: Plugin> Served<P> {
    fn method(&self, invoked: &Invoked<'_>) -> Result<&'static Method<P>, tonic::Status> {
        let found = self.0.methods.get(invoked.method).copied();
        found.ok_or_else(|| {
            tonic::Status::unimplemented(format!("`{}` is no method of this plugin", invoked.method))
        })
    }

    fn head(&self, invoked: &Invoked<'_>) -> CallHead {
        head(self.0.next_call.fetch_add(1, Ordering::Relaxed), invoked)
    }
}

impl<P: Plugin> Service for Served<P> {
    fn shape(&self, method: &str) -> Option<Shape> {
        let method = self.0.methods.get(method)?;
        Some(if MethodKind::of_flags(method.flags).streams() {
            Shape::Streaming
        } else {
            Shape::Unary
        })
    }

    fn call<'a>(
        &'a self,
        invoked: Invoked<'a>,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, tonic::Status>> {
        Box::pin(async move {
            let (work, method) = (self.0.clone(), self.method(&invoked)?);
            let (head, arrived) = (self.head(&invoked), Instant::now());
            let cancel = Arc::new(Cancel::default());
            let cancelling = CancelOnDrop(cancel.clone());
            let running = spawn_blocking(move || work.call(method, head, arrived, cancel, &payload));
            let outcome = running.await;
            drop(cancelling);
            match outcome {
                Ok(outcome) => outcome.map(Bytes::from).map_err(|status| to_tonic(&status)),
                Err(error) => Err(tonic::Status::internal(error.to_string())),
            }
        })
    }

    fn stream<'a>(
        &'a self,
        invoked: Invoked<'a>,
        messages: BoxStream<'static, Result<Bytes, tonic::Status>>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, tonic::Status>>, tonic::Status>> {
        let begun = self.method(&invoked).map(|method| {
            let (work, head, arrived) = (self.0.clone(), self.head(&invoked), Instant::now());
            let deadline = invoked.timeout.and_then(|left| arrived.checked_add(left));
            let cancel = Arc::new(Cancel::default());
            let (streaming, replies) = stream::open(messages, deadline, CancelOnDrop(cancel.clone()));
            // It ends with the method, which is woken by whatever ends the call.
            spawn_blocking(move || {
                let outcome = work.stream(method, head, arrived, cancel, &streaming);
                streaming.finish(outcome);
            });
            replies.boxed()
        });
        Box::pin(std::future::ready(begun))
    }

    fn descriptors(&self) -> (FileDescriptorSet, Vec<String>) {
        // Both were written by mortise-build; without them there is nothing to tell.
        let metadata = Metadata::decode(P::METADATA).unwrap_or_default();
        let files = FileDescriptorSet::decode(&*metadata.descriptor_set).unwrap_or_default();
        (
            files,
            P::SERVICES
                .iter()
                .map(|service| service.name.to_owned())
                .collect(),
        )
    }

    fn unhealthy(&self) -> BoxFuture<'_, Option<String>> {
        let work = self.0.clone();
        Box::pin(async move {
            let asked = spawn_blocking(move || guarded(|| work.plugin.health())).await;
            match asked {
                Ok(Ok(())) => None,
                Ok(Err(status)) => Some(status.message),
                Err(error) => Some(error.to_string()),
            }
        })
    }
}

pub(crate) fn head(call_id: u64, invoked: &Invoked<'_>) -> CallHead {
    let text = |name: &str| {
        invoked
            .metadata
            .get(name)
            .and_then(|it| it.to_str().ok())
            .unwrap_or_default()
    };
    let deadline_ns = invoked.timeout.map_or(0, |left| {
        u64::try_from(left.as_nanos().max(1)).unwrap_or(u64::MAX)
    });
    CallHead {
        call_id,
        deadline_ns,
        traceparent: text("traceparent").to_owned(),
        metadata: headers(&invoked.metadata),
        depth: 0,
        caller: String::new(),
    }
}

/// The caller's own headers, without those of gRPC.
fn headers(metadata: &MetadataMap) -> Vec<Header> {
    let own = metadata.iter().filter_map(|entry| {
        let KeyAndValueRef::Ascii(name, value) = entry else {
            return None;
        };
        let name = name.as_str();
        if name.starts_with("grpc-")
            || name.starts_with("mortise-")
            || matches!(name, "te" | "content-type" | "user-agent" | "traceparent")
        {
            return None;
        }
        Some(Header {
            name: name.to_owned(),
            value: value.to_str().ok()?.to_owned(),
        })
    });
    own.collect()
}

/// Our status is `google.rpc.Status` and one field more, so its details travel as gRPC's own do.
pub(crate) fn to_tonic(status: &Status) -> tonic::Status {
    let code = tonic::Code::from_i32(status.kind() as i32);
    if status.details.is_empty() {
        tonic::Status::new(code, status.message.clone())
    } else {
        tonic::Status::with_details(code, status.message.clone(), status.encode_to_vec().into())
    }
}

/// Runs plugin code. A panic in it ends the process: its state is not to be trusted, and a process is replaced for little.
fn guarded<T>(body: impl FnOnce() -> T) -> T {
    // The hook has told the host.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| exit(EXIT_PANICKED))
}

fn log_panics(logger: &Logger) {
    let logger = logger.clone();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or("a panic without a text");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        logger.event(&LogEvent {
            level: LogLevel::Error,
            message: format!("panicked at {location}: {message}"),
            module: String::new(),
            fields: Vec::new(),
        });
    }));
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
