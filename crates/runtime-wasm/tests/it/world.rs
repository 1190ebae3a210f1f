//! A host for the tests: what a guest sees of it, and the steps from bytes to an instance.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, CallError, Digest, HostServices, Instance, InstanceId, LogLine,
    MethodIndex, PluginId, Runtime, RuntimeError, Start, Verified,
};
use mortise_runtime_wasm::{WasmConfig, WasmRuntime};
use mortise_wire::{Code, LogRecord, Status};
use tokio::sync::Semaphore;

use crate::guests;

/// What guests asked of the host.
pub struct Services {
    pub logs: Mutex<Vec<(LogRecord, Option<u64>)>>,
    pub calls: Mutex<Vec<(String, Option<u64>)>>,
    /// Host calls that began to wait, and those that were dropped while they waited.
    pub waiting: AtomicUsize,
    pub dropped: AtomicUsize,
    /// Opens the way for as many calls of `test.Host/Gate`.
    pub gate: Semaphore,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            logs: Mutex::default(),
            calls: Mutex::default(),
            waiting: AtomicUsize::default(),
            dropped: AtomicUsize::default(),
            gate: Semaphore::new(0),
        }
    }
}

struct CountDrop<'a>(&'a AtomicUsize);

impl Drop for CountDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl HostServices for Services {
    fn log(&self, line: LogLine<'_>) {
        let call = line.call.map(|it| it.call_id);
        self.logs
            .lock()
            .expect("no test panics while it holds it")
            .push((line.record.clone(), call));
    }

    fn call<'a>(
        &'a self,
        parent: Option<&'a CallContext>,
        target: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        let parent = parent.map(|it| it.call_id);
        self.calls
            .lock()
            .expect("no test panics while it holds it")
            .push((target.to_owned(), parent));
        Box::pin(async move {
            match target {
                "test.Host/Echo" => Ok(payload),
                "test.Host/Never" => {
                    let _dropped = CountDrop(&self.dropped);
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    std::future::pending().await
                }
                "test.Host/Gate" => {
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    self.gate.acquire().await.expect("nobody closes it").forget();
                    Ok(payload)
                }
                // Where the call is, once a timer of the executor has rung.
                "test.Host/Where" => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let here = std::thread::current();
                    Ok(here.name().unwrap_or_default().to_owned().into())
                }
                "test.Host/Huge" => Ok(vec![1; 2 << 20].into()),
                other => Err(Status::new(
                    Code::PermissionDenied,
                    format!("`{other}` is not granted"),
                )),
            }
        })
    }
}

/// A runtime with modest reservations, so that a test binary can have many.
pub fn runtime() -> WasmRuntime {
    runtime_with(|_| {})
}

pub fn runtime_with(change: impl FnOnce(&mut WasmConfig)) -> WasmRuntime {
    let mut config = WasmConfig {
        instances_max: 64,
        ..WasmConfig::default()
    };
    change(&mut config);
    WasmRuntime::new(config).expect("the machine runs WebAssembly")
}

pub fn artifact(bytes: Vec<u8>) -> Artifact {
    Artifact {
        plugin: PluginId {
            name: "guest".into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Wasm,
        digest: Digest::of(&bytes),
        bytes: bytes.into(),
        path: None,
        dialect: None,
        contract: Arc::new(guests::contract()),
    }
}

/// Verified with metadata that is right, whatever the artifact says.
pub fn verified(bytes: Vec<u8>) -> Verified {
    artifact(bytes)
        .verify(guests::metadata("guest"))
        .expect("the metadata agrees")
}

pub async fn start_with(
    runtime: &WasmRuntime,
    bytes: Vec<u8>,
    limits: Limits,
) -> Result<(Box<dyn Instance>, Arc<Services>), RuntimeError> {
    start_limited(runtime, &verified(bytes), limits, false).await
}

/// The same for a plugin that says it is pure.
pub async fn start_pure(runtime: &WasmRuntime, bytes: Vec<u8>) -> (Box<dyn Instance>, Arc<Services>) {
    start_limited(runtime, &verified(bytes), Limits::default(), true)
        .await
        .expect("the guest starts")
}

/// The same for a plugin with state. It must not be asked for that: these guests have no such methods.
pub async fn start_stateful(
    runtime: &WasmRuntime,
    bytes: Vec<u8>,
    limits: Limits,
) -> Result<(Box<dyn Instance>, Arc<Services>), RuntimeError> {
    let verified = artifact(bytes)
        .verify(guests::metadata_with_state("guest"))
        .expect("the metadata agrees");
    start_limited(runtime, &verified, limits, false).await
}

pub async fn start_verified(
    runtime: &WasmRuntime,
    verified: &Verified,
) -> Result<(Box<dyn Instance>, Arc<Services>), RuntimeError> {
    start_limited(runtime, verified, Limits::default(), false).await
}

async fn start_limited(
    runtime: &WasmRuntime,
    verified: &Verified,
    limits: Limits,
    pure: bool,
) -> Result<(Box<dyn Instance>, Arc<Services>), RuntimeError> {
    let prepared = runtime.prepare(verified, &Grant::default()).await?;
    let services = Arc::new(Services::default());
    let start = Start {
        instance: InstanceId("guest@1.0.0#1".into()),
        limits,
        config_json: "{}".into(),
        services: Arc::clone(&services) as Arc<dyn HostServices>,
        pure,
    };
    Ok((runtime.start(prepared, start).await?, services))
}

pub async fn start(runtime: &WasmRuntime, bytes: Vec<u8>) -> (Box<dyn Instance>, Arc<Services>) {
    start_with(runtime, bytes, Limits::default())
        .await
        .expect("the guest starts")
}

/// The error of a step that must fail.
pub fn refused<T>(outcome: Result<T, RuntimeError>) -> RuntimeError {
    match outcome {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => error,
    }
}

/// A call with plenty of time.
pub async fn call(
    instance: &dyn Instance,
    method: u32,
    payload: impl Into<Bytes>,
) -> Result<Bytes, CallError> {
    call_within(instance, method, payload, Duration::from_secs(30)).await
}

pub async fn call_within(
    instance: &dyn Instance,
    method: u32,
    payload: impl Into<Bytes>,
    time: Duration,
) -> Result<Bytes, CallError> {
    static CALLS: AtomicUsize = AtomicUsize::new(1000);
    let cx = CallContext {
        call_id: CALLS.fetch_add(1, Ordering::Relaxed) as u64,
        deadline: Some(Instant::now() + time),
        ..CallContext::default()
    };
    instance
        .call()
        .expect("it answers calls")
        .call(&cx, MethodIndex(method), payload.into())
        .await
}

/// A reply that is one little-endian word.
pub fn word(reply: &Bytes) -> u32 {
    u32::from_le_bytes(reply.as_ref().try_into().expect("the reply is one word"))
}
