//! A plugin made with the SDK: the conformance guest's executable, if it has been built.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Manifest, RuntimeName};
use mortise_runtime::{
    Artifact, CallErrorKind, Digest, EndCause, Instance, MethodIndex, PluginId, Runtime as _, Verified,
};
use mortise_runtime_process::ProcessRuntime;

use crate::{
    fake::Begin,
    fixture::{Bench, PATIENCE, context, runs, within},
};

/// Where `cargo xtask guests` leaves it.
fn executable() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins/release/echo");
    let found = built.canonicalize().ok();
    if found.is_none() {
        println!(
            "skipped: needs {}, which `cargo xtask guests` builds",
            built.display()
        );
    }
    found
}

fn verified(runtime: &ProcessRuntime, path: &Path) -> Verified {
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let unknown = Contract::from_descriptor_set(&[], &[]).unwrap();
    let mut artifact = Artifact {
        plugin: PluginId {
            name: "echo".into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Process,
        digest: Digest::of(&bytes),
        bytes,
        path: Some(path.to_owned()),
        dialect: None,
        contract: Arc::new(unknown),
    };
    let metadata = runtime.read_metadata(&artifact).unwrap();
    let manifest = Manifest::parse(std::str::from_utf8(&metadata.manifest).unwrap(), "plugin.toml").unwrap();
    artifact.contract =
        Arc::new(Contract::from_descriptor_set(&metadata.descriptor_set, &manifest.provides).unwrap());
    artifact.verify(metadata).unwrap()
}

struct Echo {
    bench: Bench,
    verified: Verified,
}

impl Echo {
    fn new() -> Option<Self> {
        let path = executable()?;
        let bench = Bench::new(Begin::Well);
        let verified = verified(&bench.runtime, &path);
        Some(Self { bench, verified })
    }

    async fn start(&self) -> Box<dyn Instance> {
        let prepared = self
            .bench
            .runtime
            .prepare(&self.verified, &Grant::default())
            .await
            .unwrap();
        let mut start = self.bench.start_with();
        start.config_json = "{}".into();
        self.bench.runtime.start(prepared, start).await.unwrap()
    }

    fn method(&self, name: &str) -> MethodIndex {
        let methods = &self.verified.metadata().methods;
        MethodIndex(
            methods
                .iter()
                .position(|it| it.name == name)
                .unwrap()
                .try_into()
                .unwrap(),
        )
    }
}

#[tokio::test]
async fn starts_answers_and_stops() {
    let Some(echo) = Echo::new() else { return };
    let (method, payload) = (echo.method("Echo"), Bytes::from_static(b"\x0a\x02hi"));
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        let instance = echo.start().await;
        let reply = instance
            .call()
            .unwrap()
            .call(&context(1), method, payload.clone())
            .await
            .unwrap();
        best = best.min(begun.elapsed());
        assert!(reply.windows(2).any(|it| it == b"hi"), "{reply:?}");
        assert!(instance.health().await.unwrap().serving);
        let report = instance.stop(Duration::from_secs(20)).await;
        assert_eq!((report.forced, report.left), (None, None));
    }
    println!("start to first reply: {best:?}");
    let instance = echo.start().await;
    let begun = Instant::now();
    for number in 0..2000 {
        instance
            .call()
            .unwrap()
            .call(&context(number), method, payload.clone())
            .await
            .unwrap();
    }
    println!("a call: {:?}", begun.elapsed() / 2000);
}

#[tokio::test]
async fn ends_at_once_when_the_host_goes() {
    let Some(echo) = Echo::new() else { return };
    let instance = echo.start().await;
    let pid = instance.usage().pid.unwrap();
    drop(instance);
    crate::fixture::eventually("the process is gone", || (!runs(pid)).then_some(())).await;
}

#[tokio::test]
async fn endless_loop_is_killed() {
    let Some(echo) = Echo::new() else { return };
    let instance = echo.start().await;
    let (method, pid) = (echo.method("Spin"), instance.usage().pid.unwrap());
    // `bound_ms`: ten minutes.
    let cx = within(1, Duration::from_millis(100));
    let error = instance
        .call()
        .unwrap()
        .call(&cx, method, Bytes::from_static(b"\x08\xc0\xcf\x24"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    let cause = tokio::time::timeout(PATIENCE, instance.ended()).await.unwrap();
    assert!(matches!(cause, EndCause::Stuck(_)), "{cause}");
    assert!(!runs(pid));
}

#[tokio::test]
async fn memory_bomb_costs_one_process() {
    let Some(echo) = Echo::new() else { return };
    let instance = echo.start().await;
    // `mib`: 2000, and the limit is 256.
    let payload = Bytes::from_static(b"\x08\xd0\x0f");
    let error = instance
        .call()
        .unwrap()
        .call(&context(1), echo.method("Allocate"), payload)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
    let cause = instance.ended().await;
    assert!(
        matches!(cause, EndCause::Signalled(6) | EndCause::OutOfMemory(_)),
        "{cause}"
    );
    println!("{error}");
}
