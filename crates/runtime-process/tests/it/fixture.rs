//! A host made of as little as possible, and the artifact that is this binary.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Jail, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, CallError, Denied, Digest, HostServices, Instance, InstanceId, LogLine,
    MethodIndex, PluginId, Prepared, Runtime, RuntimeError, Start,
};
use mortise_runtime_process::{ProcessConfig, ProcessRuntime};
use mortise_wire::{
    Code, LogRecord, METADATA_FORMAT, Metadata, MethodKind, Status, credit::StreamTerms, plugin::Method,
};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};

use crate::fake::{Begin, ENV_FAKE};

pub(crate) const DO: MethodIndex = MethodIndex(0);
pub(crate) const ECHO: MethodIndex = MethodIndex(1);
pub(crate) const STREAM: MethodIndex = MethodIndex(2);
/// Longer than anything here takes, shorter than a person's patience. Nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the plugin logged: the record, and the host's id of the call it belongs to.
pub(crate) type Logged = (LogRecord, Option<u64>);

/// Records what it is told and answers a few targets.
#[derive(Default)]
pub(crate) struct TestServices {
    pub(crate) logged: Mutex<Vec<Logged>>,
    pub(crate) called: Mutex<Vec<(String, Option<u64>)>>,
    /// What was denied: capability, target, how.
    pub(crate) denied: Mutex<Vec<(String, String, String)>>,
    pub(crate) denials_suppressed: AtomicU64,
    /// Calls that are in `test.Host/Never` now.
    pub(crate) waiting: Arc<AtomicU64>,
}

/// A runtime with its directory and a host around it.
pub(crate) struct Bench {
    pub(crate) runtime: ProcessRuntime,
    pub(crate) services: Arc<TestServices>,
    pub(crate) limits: Limits,
    pub(crate) run_dir: PathBuf,
    _dir: tempfile::TempDir,
    next: AtomicU64,
}

impl HostServices for TestServices {
    fn log(&self, line: LogLine<'_>) {
        self.logged
            .lock()
            .unwrap()
            .push((line.record.clone(), line.call.map(|it| it.call_id)));
    }

    fn denied(&self, denied: Denied<'_>) {
        let [capability, target, how] = [denied.capability, denied.target, denied.how].map(str::to_owned);
        self.denied.lock().unwrap().push((capability, target, how));
    }

    /// As a host does that granted exactly this machine's loopback.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Result<std::net::TcpStream, Status>> {
        Box::pin(async move {
            if host != "127.0.0.1" {
                return Err(Status::new(
                    Code::PermissionDenied,
                    format!("{host}:{port} is not granted"),
                ));
            }
            let stream = tokio::net::TcpStream::connect((host, port)).await;
            stream
                .and_then(tokio::net::TcpStream::into_std)
                .map_err(|error| Status::new(Code::Unavailable, error.to_string()))
        })
    }

    fn denials_suppressed(&self, count: u64) {
        self.denials_suppressed.fetch_add(count, Ordering::SeqCst);
    }

    fn call<'a>(
        &'a self,
        parent: Option<&'a CallContext>,
        target: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        self.called
            .lock()
            .unwrap()
            .push((target.to_owned(), parent.map(|it| it.call_id)));
        Box::pin(async move {
            match target {
                "test.Host/Echo" => Ok(payload),
                "test.Host/Never" => {
                    let _waiting = Counted::new(&self.waiting);
                    std::future::pending().await
                }
                "test.Host/Panic" => panic!("a host service that panics"),
                _ => Err(Status::new(
                    Code::PermissionDenied,
                    format!("{target} is not granted"),
                )),
            }
        })
    }
}

impl TestServices {
    /// Waits until a line is there whose message contains `text`.
    pub(crate) async fn wait_for_log(&self, text: &str) -> Logged {
        eventually(&format!("a log line with {text:?}"), || {
            self.logged
                .lock()
                .unwrap()
                .iter()
                .find(|(record, _)| record.message.contains(text))
                .cloned()
        })
        .await
    }
}

impl Bench {
    pub(crate) fn new(begin: Begin) -> Self {
        Self::with(begin, |_| {})
    }

    pub(crate) fn with(begin: Begin, change: impl FnOnce(&mut ProcessConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let mut config = ProcessConfig::new(&run_dir);
        config.env.push((ENV_FAKE.into(), begin.name().into()));
        config.args = ["fake::plugin", "--exact", "--nocapture"]
            .map(Into::into)
            .to_vec();
        config.stuck_grace = Duration::from_millis(100);
        change(&mut config);
        Self {
            runtime: ProcessRuntime::new(config).unwrap(),
            services: Arc::default(),
            limits: Limits {
                memory_bytes_max: 256 << 20,
                start: PATIENCE,
                ..Limits::default()
            },
            run_dir,
            _dir: dir,
            next: AtomicU64::new(1),
        }
    }

    pub(crate) async fn prepare(&self) -> Prepared {
        let verified = artifact().verify(metadata()).unwrap();
        self.runtime.prepare(&verified, &Grant::default()).await.unwrap()
    }

    pub(crate) fn start_with(&self) -> Start {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Start {
            instance: InstanceId(format!("fake@1.0.0#{number}").into()),
            limits: self.limits.clone(),
            config_json: "{\"a\":1}".into(),
            services: self.services.clone(),
            pure: false,
        }
    }

    pub(crate) async fn try_start(&self) -> Result<Box<dyn Instance>, RuntimeError> {
        self.runtime.start(self.prepare().await, self.start_with()).await
    }

    /// Starts one without a jail.
    pub(crate) async fn start_free(&self) -> Box<dyn Instance> {
        let grant = Grant {
            jail: Jail::Off,
            ..Grant::default()
        };
        let verified = artifact().verify(metadata()).unwrap();
        let prepared = self.runtime.prepare(&verified, &grant).await.unwrap();
        self.runtime.start(prepared, self.start_with()).await.unwrap()
    }

    pub(crate) async fn start(&self) -> Box<dyn Instance> {
        self.try_start().await.unwrap()
    }

    /// Private directories that are there now.
    pub(crate) fn private_dirs(&self) -> Vec<PathBuf> {
        let parts = std::fs::read_dir(&self.run_dir)
            .unwrap()
            .map(|it| it.unwrap().path())
            .filter(|it| it.is_dir());
        parts
            .flat_map(|part| std::fs::read_dir(part).unwrap())
            .map(|it| it.unwrap().path())
            .filter(|it| it.is_dir())
            .collect()
    }
}

/// Counts as long as it lives.
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(counter: &Arc<AtomicU64>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn context(call_id: u64) -> CallContext {
    within(call_id, PATIENCE)
}

pub(crate) fn within(call_id: u64, time: Duration) -> CallContext {
    CallContext {
        call_id,
        deadline: Some(Instant::now() + time),
        ..CallContext::default()
    }
}

/// Calls `Do` with a word.
pub(crate) async fn ask(instance: &dyn Instance, word: &str) -> Result<String, CallError> {
    let cx = context(4711);
    let reply = instance
        .call()
        .unwrap()
        .call(&cx, DO, Bytes::from(word.to_owned()))
        .await?;
    Ok(String::from_utf8(reply.to_vec()).unwrap())
}

/// Has the plugin start a child: its id, as this process numbers it.
pub(crate) async fn grandchild_of(instance: &dyn Instance) -> u32 {
    let inner: u32 = ask(instance, "grandchild").await.unwrap().parse().unwrap();
    from_inside(instance.usage().pid.unwrap(), inner)
}

/// The id that this process knows the process by that is `inner` in the pid namespace of `plugin`.
pub(crate) fn from_inside(plugin: u32, inner: u32) -> u32 {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = namespace(plugin) else {
        return inner;
    };
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.and_then(|ids| ids.split_whitespace().last()?.parse().ok()) == Some(inner)
            && namespace(*pid).as_ref() == Some(&own)
    };
    processes.into_iter().find(is_it).expect("it runs")
}

/// Waits for a state, never for a time.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process with this id runs, a zombie not counted.
pub(crate) fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|it| !matches!(it, 'Z' | 'X'))
}

/// Stops a process with SIGSTOP and waits until it stands still.
pub(crate) async fn freeze(pid: u32) {
    let id = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    eventually("the process stands still", || {
        (state(pid) == Some('T')).then_some(())
    })
    .await;
}

fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").unwrap().1.chars().next()
}

/// What a stream may have on its way by default.
pub(crate) fn terms() -> StreamTerms {
    let limits = Limits::default();
    StreamTerms::new(limits.stream_messages_max, limits.stream_bytes_max as u32)
}

pub(crate) fn artifact() -> Artifact {
    let path = std::env::current_exe().unwrap();
    Artifact {
        plugin: PluginId {
            name: "fake".into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Process,
        digest: Digest([1; 32]),
        bytes: Bytes::new(),
        path: Some(path),
        dialect: None,
        contract: contract(),
    }
}

pub(crate) fn metadata() -> Metadata {
    let contract = contract();
    let method = |name: &str| Method {
        service: "test.v1.Fake".to_owned(),
        name: name.to_owned(),
        ..Method::default()
    };
    Metadata {
        format: METADATA_FORMAT,
        name: "fake".to_owned(),
        version: "1.0.0".to_owned(),
        api: 1,
        contract_hash: contract.hash().to_vec(),
        methods: vec![
            method("Do"),
            method("Echo"),
            Method {
                flags: MethodKind::Bidi.flags(),
                ..method("Stream")
            },
        ],
        ..Metadata::default()
    }
}

fn contract() -> Arc<Contract> {
    let bytes = ".test.v1.Bytes".to_owned();
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(bytes.clone()),
        output_type: Some(bytes.clone()),
        ..MethodDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("test/v1/fake.proto".to_owned()),
        package: Some("test.v1".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Bytes".to_owned()),
            ..DescriptorProto::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("Fake".to_owned()),
            method: vec![
                method("Do"),
                method("Echo"),
                MethodDescriptorProto {
                    client_streaming: Some(true),
                    server_streaming: Some(true),
                    ..method("Stream")
                },
            ],
            ..ServiceDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    let set = FileDescriptorSet { file: vec![file] }.encode_to_vec();
    Arc::new(Contract::from_descriptor_set(&set, &["test.v1.Fake".to_owned()]).unwrap())
}
