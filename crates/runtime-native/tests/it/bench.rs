//! What every test needs: a built plugin, a runtime, a host.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, CallError, Digest, HostServices, Instance, InstanceId, LogLine,
    MethodIndex, PluginId, Runtime, RuntimeError, Start,
};
use mortise_runtime_native::{NativeConfig, NativeRuntime};
use mortise_wire::{Code, Metadata, Status};

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Tests that count what the process has run alone.
static PROCESS: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held for its lifetime")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: NativeRuntime,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) limits: Limits,
    _turn: Turn,
}

/// The contract and the metadata of `probe.proto`.
struct Probe {
    contract: Arc<Contract>,
    metadata: Metadata,
    header: String,
}

static PROBE: LazyLock<Probe> = LazyLock::new(|| {
    let manifest = "[plugin]\nname = \"probe\"\nversion = \"1.0.0\"\napi = 1\n[contract]\nprovides = [\"probe.v1.Probe\"]\n";
    let descriptors = mortise_build::compile_protos(&here().join("probe"))
        .unwrap()
        .descriptor_set;
    let metadata = mortise_build::metadata(manifest, &descriptors).unwrap();
    let contract = Contract::from_descriptor_set(&descriptors, &["probe.v1.Probe".to_owned()]).unwrap();
    let header = mortise_build::write_c(&metadata);
    Probe {
        contract: Arc::new(contract),
        metadata,
        header,
    }
});

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// False, with the line that is counted, where there is no C compiler.
pub(crate) fn has_compiler() -> bool {
    let found = Command::new("gcc")
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success());
    if !found {
        println!("skipped: needs a C compiler (`gcc`)");
    }
    found
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(configure: impl FnOnce(&mut NativeConfig)) -> Self {
        let turn = Turn::Shared(PROCESS.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        Self::make(turn, configure)
    }

    /// No other test runs meanwhile.
    pub(crate) fn alone() -> Self {
        let turn = Turn::Alone(PROCESS.write().unwrap_or_else(std::sync::PoisonError::into_inner));
        Self::make(turn, |_| ())
    }

    fn make(turn: Turn, configure: impl FnOnce(&mut NativeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NativeConfig::new(dir.path().join("cache"));
        configure(&mut config);
        let runtime = NativeRuntime::new(config);
        Self {
            dir,
            runtime,
            host: Arc::default(),
            limits: Limits::default(),
            _turn: turn,
        }
    }

    /// Compiles the probe with `defines`; `name` makes its digest its own.
    pub(crate) fn compile(&self, name: &str, defines: &[&str]) -> Vec<u8> {
        self.gcc(name, &["-shared", "-fPIC"], defines)
    }

    pub(crate) fn gcc(&self, name: &str, flags: &[&str], defines: &[&str]) -> Vec<u8> {
        std::fs::write(self.dir.path().join("metadata.h"), &PROBE.header).unwrap();
        let output = self.dir.path().join(format!("{name}.so"));
        let compiled = Command::new("gcc")
            .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"])
            .args(flags)
            .arg("-I")
            .arg(root().join("include"))
            .arg("-I")
            .arg(self.dir.path())
            .arg(format!("-DUNIQUE=\"{name}\""))
            .args(defines.iter().map(|it| format!("-D{it}")))
            .arg(here().join("probe/probe.c"))
            .arg("-o")
            .arg(&output)
            .output()
            .unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        std::fs::read(output).unwrap()
    }

    pub(crate) fn artifact(&self, bytes: impl Into<Bytes>) -> Artifact {
        let bytes = bytes.into();
        Artifact {
            plugin: PluginId {
                name: "probe".into(),
                version: semver::Version::new(1, 0, 0),
            },
            runtime: RuntimeName::Native,
            digest: Digest::of(&bytes),
            bytes,
            path: None,
            dialect: None,
            contract: PROBE.contract.clone(),
        }
    }

    /// The whole way from bytes to a running instance.
    pub(crate) async fn start(&self, bytes: impl Into<Bytes>) -> Result<Box<dyn Instance>, RuntimeError> {
        self.start_artifact(self.artifact(bytes)).await
    }

    pub(crate) async fn start_artifact(&self, artifact: Artifact) -> Result<Box<dyn Instance>, RuntimeError> {
        let metadata = self.runtime.read_metadata(&artifact)?;
        let verified = artifact.verify(metadata).unwrap();
        let prepared = self.runtime.prepare(&verified, &Grant::default()).await?;
        self.runtime.start(prepared, self.how()).await
    }

    pub(crate) fn how(&self) -> Start {
        Start {
            instance: InstanceId("probe@1.0.0#1".into()),
            limits: self.limits.clone(),
            config_json: "{}".into(),
            services: self.host.clone(),
            pure: false,
        }
    }

    /// A started probe of its own.
    pub(crate) async fn probe(&self, name: &str) -> Box<dyn Instance> {
        self.start(self.compile(name, &[])).await.unwrap()
    }

    /// Where a probe that was compiled with the define writes what happened to it.
    pub(crate) fn witness(&self) -> (PathBuf, String) {
        let path = self.dir.path().join("witness");
        let define = format!("WITNESS=\"{}\"", path.display());
        (path, define)
    }
}

/// The number of a method of the probe.
pub(crate) fn method(name: &str) -> MethodIndex {
    let index = PROBE
        .metadata
        .methods
        .iter()
        .position(|it| it.name == name)
        .unwrap();
    MethodIndex(u32::try_from(index).unwrap())
}

pub(crate) fn context(deadline: Duration) -> CallContext {
    CallContext {
        call_id: 4711,
        deadline: Some(Instant::now() + deadline),
        ..CallContext::default()
    }
}

/// One call with a long deadline.
pub(crate) async fn call(instance: &dyn Instance, name: &str, payload: &[u8]) -> Result<Bytes, CallError> {
    call_within(instance, name, payload, LONG).await
}

pub(crate) async fn call_within(
    instance: &dyn Instance,
    name: &str,
    payload: &[u8],
    deadline: Duration,
) -> Result<Bytes, CallError> {
    instance
        .call()
        .unwrap()
        .call(&context(deadline), method(name), Bytes::copy_from_slice(payload))
        .await
}

/// Waits for a state, not for a time.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A host that answers a few targets and remembers the rest.
#[derive(Default)]
pub(crate) struct FakeHost {
    /// Message and call id of each line, and whether the runtime knew the call.
    pub(crate) lines: Mutex<Vec<(String, u64, Option<u64>)>>,
    /// Calls of `wait` that began, and that were dropped.
    pub(crate) waits: Mutex<(u32, u32)>,
}

impl FakeHost {
    pub(crate) fn messages(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|it| it.0.clone()).collect()
    }
}

struct Waiting<'a>(&'a FakeHost);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waits.lock().unwrap().1 += 1;
    }
}

impl HostServices for FakeHost {
    fn log(&self, line: LogLine<'_>) {
        let known = line.call.map(|it| it.call_id);
        self.lines
            .lock()
            .unwrap()
            .push((line.record.message.clone(), line.record.call_id, known));
    }

    fn call<'a>(
        &'a self,
        parent: Option<&'a CallContext>,
        target: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async move {
            match target {
                "echo" => {
                    // Elsewhere and back, as a real host would.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Ok(payload)
                }
                "parent" => Ok(parent.map_or(0, |it| it.call_id).to_string().into()),
                "deny" => Err(Status::new(Code::PermissionDenied, "no grant for `deny`")),
                "panic" => panic!("the host has a fault"),
                "wait" => {
                    self.waits.lock().unwrap().0 += 1;
                    let _waiting = Waiting(self);
                    std::future::pending().await
                }
                _ => Err(Status::new(Code::Unimplemented, format!("no `{target}`"))),
            }
        })
    }
}
