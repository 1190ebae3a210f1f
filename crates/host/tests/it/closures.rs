//! A runtime that runs Rust closures, and packages for it: the variant's file is the encoded metadata, and the code is looked up by
//! `name@version`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_host::{CallOptions, Host, HostBuilder, LoadRequest, PluginInfo, Source, State};
use mortise_manifest::{Grant, Permissions, RuntimeName};
use mortise_runtime::{
    Artifact, Bounds, BoxFuture, Call, CallContext, CallError, CallErrorKind, Configure, Configured,
    DirectCall, EndCause, Enforcement, HostServices, Instance, InstanceId, Interrupt, Isolation, LogLine,
    MethodIndex, Origin, Prepared, Runtime, RuntimeError, RuntimeErrorKind, Snapshot, Start, StopReport,
    StreamCall, StreamHandle, Successor, Support, Usage, Verified, pipe,
};
use mortise_wire::{
    Code, Health, Level, LogRecord, METADATA_FORMAT, METHOD_IDEMPOTENT, METHOD_SERVER_STREAMING, Metadata,
    Status,
    lifecycle::{Reserved, ReservedSet},
    plugin::Method,
};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MethodDescriptorProto,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use tokio::sync::watch;

pub const SERVICE: &str = "test.v1.Echo";
/// What the methods do is in [`Copy::work`].
pub const METHODS: [&str; 9] = [
    "Call", "Count", "Doze", "Fail", "Log", "Nap", "Panic", "Relay", "Watch",
];
/// The one of them that streams: it says nothing, for as long as somebody listens.
const STREAMS: &str = "Watch";
/// The one of them that is idempotent.
const IDEMPOTENT: &str = "Doze";

/// The code of one plugin version, and what is seen of it.
pub struct Program {
    /// Payloads that `Call` got, in order.
    pub seen: Mutex<Vec<Bytes>>,
    /// Contexts of all calls.
    pub contexts: Mutex<Vec<CallContext>>,
    /// Instances that exist now.
    pub live: AtomicUsize,
    /// Instances that were ever started.
    pub started: AtomicUsize,
    /// `Nap`s that are asleep now: entered and neither finished nor cancelled.
    pub napping: AtomicUsize,
    /// What `health` says.
    pub healthy: AtomicBool,
    /// Whether `start` fails.
    pub refuses: AtomicBool,
    /// Code with which every `Call` fails; 0 = it answers.
    pub broken: Mutex<Option<Code>>,
    /// What every `Call` says that fails.
    pub says: Mutex<String>,
    /// `start` waits while this is so.
    pub held: watch::Sender<bool>,
    /// `start`s that wait.
    pub starting: AtomicUsize,
    /// How long `Call` takes.
    pub slow: Mutex<Duration>,
    /// `Relay` waits while this is so, before it calls.
    pub relay_held: watch::Sender<bool>,
    /// `Relay`s that wait or call now.
    pub relaying: AtomicUsize,
    /// How many bytes `Call` appends to what it echoes.
    pub pads: AtomicUsize,
    /// How saving and loading goes.
    pub lifecycle: Mutex<Answers>,
    /// What its instances were asked about their lives, in order.
    pub asked: Mutex<Vec<String>>,
    /// Configurations that its instances were started with.
    pub configs: Mutex<Vec<String>>,
    /// How its process is said to exit in a crash.
    pub exit_code: AtomicI32,
    /// Whether there is a direct path.
    pub direct: AtomicBool,
    /// A direct call says that it is in, and waits until it may leave.
    pub inside: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    crashes: watch::Sender<u64>,
}

/// What a program answers about its own life.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Why it does not want to be replaced.
    pub veto: Option<String>,
    /// How long `save` takes. An instance that is asked for longer than it is given ends.
    pub save_takes: Duration,
    /// How long it thinks about whether it may be replaced.
    pub veto_takes: Duration,
    /// `save` fails.
    pub save_fails: bool,
    /// `load` fails, so many times.
    pub load_fails: u32,
    /// The instance ends in the middle of this.
    pub crash_in: Option<&'static str>,
    /// The schema that it says it saves.
    pub schema: String,
}

impl Program {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            contexts: Mutex::default(),
            live: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            napping: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            refuses: AtomicBool::new(false),
            broken: Mutex::new(None),
            says: Mutex::new("broken".to_owned()),
            held: watch::Sender::new(false),
            starting: AtomicUsize::new(0),
            slow: Mutex::new(Duration::ZERO),
            relay_held: watch::Sender::new(false),
            relaying: AtomicUsize::new(0),
            pads: AtomicUsize::new(0),
            lifecycle: Mutex::default(),
            asked: Mutex::default(),
            configs: Mutex::default(),
            exit_code: AtomicI32::new(3),
            direct: AtomicBool::new(false),
            inside: Mutex::new(None),
            crashes: watch::Sender::new(0),
        })
    }

    /// Ends all its instances.
    pub fn crash(&self) {
        self.crashes.send_modify(|it| *it += 1);
    }

    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

/// All programs, by `name@version`.
#[derive(Clone)]
pub struct Closures {
    programs: Arc<Mutex<HashMap<String, Arc<Program>>>>,
    /// What it says of plugins that say they are pure.
    pub purity: Arc<Mutex<Enforcement>>,
}

impl Default for Closures {
    fn default() -> Self {
        Self {
            programs: Arc::default(),
            purity: Arc::new(Mutex::new(Enforcement::Enforced)),
        }
    }
}

struct Copy {
    id: InstanceId,
    program: Arc<Program>,
    services: Arc<dyn HostServices>,
    crashes: watch::Receiver<u64>,
    stopped: AtomicBool,
    /// Its state.
    count: AtomicU64,
    carries: bool,
    hot: bool,
}

// === runtime ===

impl Closures {
    fn program(&self, name: &str, version: &str) -> Option<Arc<Program>> {
        self.programs
            .lock()
            .unwrap()
            .get(&format!("{name}@{version}"))
            .cloned()
    }
}

impl Runtime for Closures {
    fn support(&self) -> Support {
        Support {
            runtime: RuntimeName::Wasm,
            available: true,
            isolation: Isolation::None,
            interrupt: Interrupt::Trap,
            memory_limit: Enforcement::NotEnforced("closures share the host's memory"),
            cpu_limit: Enforcement::NotEnforced("closures share the host's threads"),
            purity: self.purity.lock().unwrap().clone(),
            restartable: true,
            lacks: Vec::new(),
        }
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        Metadata::decode(artifact.bytes.clone()).map_err(|error| {
            RuntimeError::new(
                RuntimeErrorKind::NotAPlugin,
                "these bytes are no plugin",
                "build it",
            )
            .with_source(error)
        })
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        _grant: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        assert!(
            artifact
                .artifact()
                .path
                .as_ref()
                .is_some_and(|it| it.is_absolute()),
            "it was placed by digest"
        );
        let metadata = artifact.metadata().clone();
        let program = self.program(&metadata.name, &metadata.version);
        Box::pin(async move {
            let missing =
                || RuntimeError::new(RuntimeErrorKind::MissingImport, "it has no code", "register it");
            Ok(Prepared::new(metadata, program.ok_or_else(missing)?))
        })
    }

    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(async move {
            let carries = prepared.metadata.reserved(Reserved::SaveState).is_some();
            let hot = prepared.metadata.reserved(Reserved::Configure).is_some();
            let program = prepared.into_inner::<Arc<Program>>().expect("made by prepare");
            if program.refuses.load(Ordering::SeqCst) {
                return Err(RuntimeError::new(
                    RuntimeErrorKind::StartFailed,
                    "it declined: no licence",
                    "buy one",
                ));
            }
            let config = start.config_json.to_string();
            if config.contains("no start") {
                // As a parser would have it.
                let why = format!("it declined: {config} does not fit");
                return Err(RuntimeError::new(
                    RuntimeErrorKind::StartFailed,
                    why,
                    "write another",
                ));
            }
            program.starting.fetch_add(1, Ordering::SeqCst);
            let mut held = program.held.subscribe();
            held.wait_for(|it| !*it)
                .await
                .expect("the program outlives its copies");
            program.starting.fetch_sub(1, Ordering::SeqCst);
            program.configs.lock().unwrap().push(config);
            program.started.fetch_add(1, Ordering::SeqCst);
            program.live.fetch_add(1, Ordering::SeqCst);
            let mut crashes = program.crashes.subscribe();
            crashes.mark_unchanged();
            let stopped = AtomicBool::new(false);
            Ok(Box::new(Copy {
                id: start.instance,
                program,
                services: start.services,
                crashes,
                stopped,
                count: AtomicU64::new(0),
                carries,
                hot,
            }) as Box<dyn Instance>)
        })
    }
}

// === instance ===

impl Copy {
    async fn work(&self, cx: &CallContext, method: &str, payload: Bytes) -> Result<Bytes, CallError> {
        self.program.contexts.lock().unwrap().push(cx.clone());
        match method {
            // Echoes, notes the payload.
            "Call" => {
                self.program.seen.lock().unwrap().push(payload.clone());
                let slow = *self.program.slow.lock().unwrap();
                if !slow.is_zero() {
                    std::thread::sleep(slow);
                }
                match *self.program.broken.lock().unwrap() {
                    // As a runtime says it of a guest that is out of memory.
                    Some(Code::ResourceExhausted) => {
                        Err(CallError::new(CallErrorKind::Exhausted, "it ran out of memory"))
                    }
                    Some(code) => {
                        let says = self.program.says.lock().unwrap().clone();
                        Err(CallError::returned(Status::new(code, says)))
                    }
                    None => match self.program.pads.load(Ordering::SeqCst) {
                        0 => Ok(payload),
                        more => Ok([&payload[..], &vec![0; more]].concat().into()),
                    },
                }
            }
            // Counts: the state of an instance.
            "Count" => {
                let slow = *self.program.slow.lock().unwrap();
                if !slow.is_zero() {
                    tokio::time::sleep(slow).await;
                }
                let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(count.to_string().into())
            }
            // Fails with the code that the payload names.
            "Fail" => {
                let code = Code::from_i32(text(&payload).parse().unwrap());
                Err(CallError::returned(Status::new(code, "as you wish")))
            }
            // Writes so many lines.
            "Log" => {
                for number in 0..text(&payload).parse::<u32>().unwrap() {
                    let record = LogRecord {
                        level: Level::Info.into(),
                        message: format!("line {number}"),
                        ..LogRecord::default()
                    };
                    self.services.log(LogLine {
                        record: &record,
                        call: Some(cx),
                    });
                }
                Ok(Bytes::new())
            }
            // Sleeps so many milliseconds.
            "Nap" | "Doze" => {
                let _napping = Napping::new(&self.program.napping);
                tokio::time::sleep(Duration::from_millis(text(&payload).parse().unwrap())).await;
                Ok(payload)
            }
            "Panic" => Err(CallError::new(CallErrorKind::GuestFault, "it panicked")),
            // Calls `target payload`; `self` as target goes round until somebody refuses, and `!` before it has the instance call of its own accord.
            "Relay" => {
                let _relaying = Napping::new(&self.program.relaying);
                let mut held = self.program.relay_held.subscribe();
                let go = held.wait_for(|it| !*it).await;
                drop(go.expect("the program outlives its copies"));
                let space = payload.iter().position(|it| *it == b' ').unwrap_or(payload.len());
                let target = text(&payload.slice(..space));
                let (target, inner) = match target.as_str() {
                    "self" => ("test.v1.Echo/Relay", Bytes::from_static(b"self")),
                    other => (other, payload.slice(payload.len().min(space + 1)..)),
                };
                let (parent, target) = match target.strip_prefix('!') {
                    Some(target) => (None, target),
                    None => (Some(cx), target),
                };
                self.services
                    .call(parent, target, inner)
                    .await
                    .map_err(CallError::returned)
            }
            _ => unreachable!("the host calls only what the metadata lists"),
        }
    }
}

fn text(payload: &Bytes) -> String {
    String::from_utf8(payload.to_vec()).unwrap()
}

struct Napping<'a>(&'a AtomicUsize);

impl<'a> Napping<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Napping<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Call for Copy {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            assert!(
                !self.stopped.load(Ordering::SeqCst),
                "S3: a stopped instance is not called"
            );
            let mut crashes = self.crashes.clone();
            let left = cx
                .deadline
                .expect("the host always sets one")
                .saturating_duration_since(Instant::now());
            let work = tokio::time::timeout(left, self.work(cx, METHODS[method.0 as usize], payload));
            tokio::select! {
                done = work => done.unwrap_or_else(|_| Err(CallError::new(CallErrorKind::Deadline, "too late"))),
                _ = crashes.changed() => Err(CallError::new(CallErrorKind::GuestFault, "it exited in the middle of the call")),
            }
        })
    }

    fn direct(&self, method: MethodIndex) -> Option<Arc<dyn DirectCall>> {
        let offered = self.program.direct.load(Ordering::SeqCst) && METHODS[method.0 as usize] == "Call";
        offered.then(|| Arc::new(Direct(self.program.clone())) as Arc<dyn DirectCall>)
    }
}

struct Direct(Arc<Program>);

impl DirectCall for Direct {
    fn call(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError> {
        assert!(self.0.live() > 0, "S3: a stopped instance is not called");
        if let Some((enter, left)) = self.0.inside.lock().unwrap().take() {
            enter.send(()).unwrap();
            left.recv().unwrap();
            assert!(self.0.live() > 0, "S3: it was stopped in the middle of a call");
        }
        self.0.seen.lock().unwrap().push(Bytes::copy_from_slice(payload));
        out.extend_from_slice(payload);
        Ok(())
    }
}

impl Instance for Copy {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn stream(&self) -> Option<&dyn StreamCall> {
        Some(self)
    }

    fn state(&self) -> Option<&dyn mortise_runtime::State> {
        self.carries.then_some(self)
    }

    fn configure(&self) -> Option<&dyn Configure> {
        self.hot.then_some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        let serving = self.program.healthy.load(Ordering::SeqCst);
        Box::pin(async move {
            Ok(Health {
                serving,
                detail: "out of sorts".to_owned(),
            })
        })
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        let mut crashes = self.crashes.clone();
        Box::pin(async move {
            crashes.changed().await.expect("the program outlives its copies");
            EndCause::Exited(self.program.exit_code.load(Ordering::SeqCst))
        })
    }

    fn usage(&self) -> Usage {
        Usage {
            pid: Some(7),
            ..Usage::default()
        }
    }

    fn stop(&self, _grace: Duration) -> BoxFuture<'_, StopReport> {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            self.program.live.fetch_sub(1, Ordering::SeqCst);
        }
        Box::pin(async { StopReport::default() })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            self.program.live.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Copy {
    /// Takes its time, whether or not anybody waits for it, and ends if that is longer than it was given: as a guest does that can only be interrupted.
    async fn take(&self, cx: &CallContext, time: Duration) {
        let deadline = cx.deadline.expect("the host always sets one");
        if Instant::now() + time > deadline {
            let program = self.program.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(deadline.into()).await;
                program.crash();
            });
        }
        tokio::time::sleep(time).await;
    }

    fn ask(&self, what: &str) -> Result<Answers, CallError> {
        self.program.asked.lock().unwrap().push(what.to_owned());
        let answers = self.program.lifecycle.lock().unwrap().clone();
        if answers.crash_in.is_some_and(|it| what.starts_with(it)) {
            self.program.crash();
            return Err(CallError::new(
                CallErrorKind::GuestFault,
                format!("it exited in {what}"),
            ));
        }
        Ok(answers)
    }
}

impl StreamCall for Copy {
    fn open<'a>(
        &'a self,
        _cx: &'a CallContext,
        _method: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>> {
        Box::pin(async move {
            let bounds = Bounds {
                messages: 1,
                bytes: 1,
            };
            let (requests, asked) = pipe(bounds);
            let (answers, replies) = pipe(bounds);
            tokio::spawn(async move {
                while !answers.is_over() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                drop(asked);
            });
            Ok(StreamHandle {
                requests: Box::new(requests),
                replies: Box::new(replies),
            })
        })
    }
}

impl Configure for Copy {
    fn configure<'a>(
        &'a self,
        _cx: &'a CallContext,
        json: &'a str,
    ) -> BoxFuture<'a, Result<Configured, CallError>> {
        Box::pin(async move {
            self.ask(&format!("configure {json}"))?;
            let record = LogRecord {
                level: Level::Info.into(),
                message: format!("configured with {json}"),
                ..LogRecord::default()
            };
            self.services.log(LogLine {
                record: &record,
                call: None,
            });
            Ok(if json.contains("needs restart") {
                Configured::NeedsRestart
            } else if json.contains("no good") {
                Configured::Refused(format!("{json} is no good"))
            } else {
                Configured::Applied
            })
        })
    }
}

impl mortise_runtime::State for Copy {
    fn carries_state(&self) -> bool {
        true
    }

    fn save<'a>(&'a self, cx: &'a CallContext) -> BoxFuture<'a, Result<Snapshot, CallError>> {
        Box::pin(async move {
            let answers = self.ask("save")?;
            self.take(cx, answers.save_takes).await;
            if answers.save_fails {
                return Err(CallError::returned(Status::new(Code::Internal, "out of paper")));
            }
            let count = self.count.load(Ordering::SeqCst);
            Ok(Snapshot {
                schema: answers.schema,
                wire_hash: Vec::new(),
                version: String::new(),
                bytes: count.to_string().into_bytes(),
            })
        })
    }

    fn load<'a>(
        &'a self,
        _cx: &'a CallContext,
        snapshot: &'a Snapshot,
        migrate: bool,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let how = if migrate { "migrate" } else { "load" };
            let answers = self.ask(&format!("{how} {}", snapshot.version))?;
            // What it holds after a failure is not to be relied on.
            self.count.store(u64::MAX / 2, Ordering::SeqCst);
            if answers.load_fails > 0 {
                self.program.lifecycle.lock().unwrap().load_fails -= 1;
                return Err(CallError::returned(Status::new(Code::Internal, "illegible")));
            }
            let count = std::str::from_utf8(&snapshot.bytes).unwrap().parse().unwrap();
            self.count.store(count, Ordering::SeqCst);
            Ok(())
        })
    }

    fn may_replace<'a>(
        &'a self,
        cx: &'a CallContext,
        _successor: Option<Successor<'a>>,
    ) -> BoxFuture<'a, Result<Option<String>, CallError>> {
        Box::pin(async move {
            let answers = self.ask("may_replace")?;
            self.take(cx, answers.veto_takes).await;
            Ok(answers.veto)
        })
    }

    fn post_load<'a>(&'a self, _cx: &'a CallContext, origin: Origin) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move { self.ask(&format!("post_load {origin:?}")).map(drop) })
    }

    fn pre_unload<'a>(&'a self, _cx: &'a CallContext) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move { self.ask("pre_unload").map(drop) })
    }
}

// === packages and hosts ===

/// A host's parts on disk, removed with it.
pub struct World {
    pub dir: tempfile::TempDir,
    pub closures: Closures,
}

impl World {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            closures: Closures::default(),
        }
    }

    /// The code of a package.
    pub fn program(&self, name: &str, version: &str) -> Arc<Program> {
        self.closures.program(name, version).expect("it was registered")
    }

    pub fn builder(&self) -> HostBuilder {
        Host::builder()
            .runtime(self.closures.clone())
            .data_dir(self.dir.path().join("data"))
    }

    pub async fn host(&self) -> Host {
        self.builder().start().await.unwrap()
    }

    /// Writes a package to a folder of its own choice.
    pub fn package_at(&self, folder: &Path, name: &str, version: &str, more: &str) -> Arc<Program> {
        let (written, program) = self.package(name, version, more);
        std::fs::rename(written, folder).unwrap();
        program
    }

    /// Writes a package and registers its code; `more` is appended to its manifest.
    pub fn package(&self, name: &str, version: &str, more: &str) -> (PathBuf, Arc<Program>) {
        let program = Program::new();
        self.closures
            .programs
            .lock()
            .unwrap()
            .insert(format!("{name}@{version}"), program.clone());
        let folder = self.dir.path().join(format!("{name}-{version}"));
        write_package(&folder, name, version, more);
        (folder, program)
    }

    /// Writes a package and loads it under its own name.
    pub async fn load(&self, host: &Host, name: &str, version: &str) -> (PluginInfo, Arc<Program>) {
        let (folder, program) = self.package(name, version, "");
        (host.load(request(&folder)).await.unwrap(), program)
    }
}

pub fn request(folder: &Path) -> LoadRequest {
    LoadRequest::new(Source::Folder(folder.to_owned()))
}

pub fn grant(permissions: Permissions) -> Grant {
    Grant {
        permissions,
        ..Grant::default()
    }
}

fn write_package(folder: &Path, name: &str, version: &str, more: &str) {
    let contract_bytes = contract();
    let contract = Contract::from_descriptor_set(&contract_bytes, &[SERVICE.to_owned()]).unwrap();
    let methods = contract.methods().iter().map(|it| Method {
        service: it.service().to_owned(),
        name: it.name().to_owned(),
        wire_hash: it.wire_hash().to_vec(),
        full_hash: it.full_hash().to_vec(),
        flags: match it.name() {
            IDEMPOTENT => METHOD_IDEMPOTENT,
            STREAMS => METHOD_SERVER_STREAMING,
            _ => 0,
        },
    });
    let reserved = reserved(more);
    let metadata = Metadata {
        format: METADATA_FORMAT,
        name: name.to_owned(),
        version: version.to_owned(),
        api: 1,
        contract_hash: contract.hash().to_vec(),
        methods: methods.chain(reserved).collect(),
        ..Metadata::default()
    };
    std::fs::create_dir_all(folder).unwrap();
    let manifest = format!(
        "[plugin]\nname = \"{name}\"\nversion = \"{version}\"\napi = 1\n[contract]\nprovides = [\"{SERVICE}\"]\n\
         [[variant]]\nruntime = \"wasm\"\nfile = \"p.wasm\"\n{more}"
    );
    std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
    std::fs::write(folder.join("contract.binpb"), &contract_bytes).unwrap();
    std::fs::write(folder.join("p.wasm"), metadata.encode_to_vec()).unwrap();
}

/// The methods of the host's own that a package with this in its manifest answers.
pub fn reserved(more: &str) -> impl Iterator<Item = Method> {
    let mut reserved = ReservedSet::NONE;
    if more.contains("[state]") {
        reserved = ReservedSet::STATE;
    }
    if more.contains("hot = true") {
        reserved = reserved.with(Reserved::Configure);
    }
    reserved.iter().map(Reserved::row)
}

pub fn contract() -> Vec<u8> {
    let message = DescriptorProto {
        name: Some("Blob".to_owned()),
        field: vec![FieldDescriptorProto {
            name: Some("data".to_owned()),
            number: Some(1),
            label: Some(Label::Optional.into()),
            r#type: Some(Type::Bytes.into()),
            ..FieldDescriptorProto::default()
        }],
        ..DescriptorProto::default()
    };
    // State of another shape.
    let other = DescriptorProto {
        name: Some("Ledger".to_owned()),
        field: vec![FieldDescriptorProto {
            name: Some("number".to_owned()),
            number: Some(1),
            label: Some(Label::Optional.into()),
            r#type: Some(Type::Int64.into()),
            ..FieldDescriptorProto::default()
        }],
        ..DescriptorProto::default()
    };
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.v1.Blob".to_owned()),
        output_type: Some(".test.v1.Blob".to_owned()),
        server_streaming: (name == STREAMS).then_some(true),
        ..MethodDescriptorProto::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Echo".to_owned()),
        method: METHODS.map(method).to_vec(),
        ..ServiceDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("echo.proto".to_owned()),
        package: Some("test.v1".to_owned()),
        message_type: vec![message, other],
        service: vec![service],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let mut file = file.encode_to_vec();
    part(4, &login(), &mut file);
    let mut set = Vec::new();
    part(1, &file, &mut set);
    set
}

/// `message Login { string user = 1; string password = 2 [(mortise.sensitive) = true]; }`, by hand because of its option.
fn login() -> Vec<u8> {
    let field = |name: &str, number: i32| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::String.into()),
        ..FieldDescriptorProto::default()
    };
    let mut login = DescriptorProto {
        name: Some("Login".to_owned()),
        field: vec![field("user", 1)],
        ..DescriptorProto::default()
    }
    .encode_to_vec();
    let mut options = Vec::new();
    prost::encoding::bool::encode(50781, &true, &mut options);
    let mut password = field("password", 2).encode_to_vec();
    part(8, &options, &mut password);
    part(2, &password, &mut login);
    login
}

fn part(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    prost::encoding::bytes::encode(number, &bytes.to_vec(), out);
}

// === calls and waiting ===

pub async fn call(host: &Host, target: &str, payload: &str) -> Result<String, CallError> {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    host.call(target, payload, CallOptions::default())
        .await
        .map(|it| text(&it))
}

pub fn info(host: &Host, name: &str) -> PluginInfo {
    host.inspect(name).unwrap().info
}

pub fn state(host: &Host, name: &str) -> State {
    info(host, name).state
}

/// Starts a host where another one was: its last tasks let go of the data directory a moment after it is dropped.
pub async fn start_again(builder: impl Fn() -> HostBuilder) -> Host {
    for _ in 0..2000 {
        match builder().start().await {
            Ok(host) => return host,
            Err(error) if error.to_string().contains("in use by another host") => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("the host starts: {error}"),
        }
    }
    panic!("the data directory is never free");
}

/// Waits until something is so. Fails after a time that only a hang can take.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}
