use std::{
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, CallError, CallErrorKind, Digest, EndCause, HostServices, Instance,
    InstanceId, LogLine, MethodIndex, Runtime as _, RuntimeError, RuntimeErrorKind, Start, StopReport,
    Verified,
};
use mortise_wire::{
    Code, LogRecord, METADATA_FORMAT, METHOD_NONBLOCKING, Metadata, StartRequest, Status,
    linked::{HostLink, LinkedInstance, LinkedPlugin},
    plugin::Method,
};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};

use crate::{BuiltinPlugin, BuiltinRuntime};

const DO: MethodIndex = MethodIndex(0);
const QUICK: MethodIndex = MethodIndex(1);
const PATIENCE: Duration = Duration::from_secs(20);

static METADATA: LazyLock<Vec<u8>> = LazyLock::new(|| metadata().encode_to_vec());

/// Does what its payload says: a word and an argument.
struct Plugin;

impl LinkedInstance for Plugin {
    fn invoke(&self, link: Box<dyn HostLink>, _: u32, payload: &[u8]) -> Result<Vec<u8>, Status> {
        let text = std::str::from_utf8(payload).unwrap();
        let (word, argument) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "echo" => Ok(argument.into()),
            "thread" => Ok(format!("{:?}", std::thread::current().id()).into()),
            "fail" => Err(Status::new(Code::AlreadyExists, argument)),
            "panic" => panic!("{argument}"),
            "large" => Ok(vec![0; argument.parse().unwrap()]),
            "host" => link.call(argument, b"payload".to_vec()),
            "log" => {
                link.log(&LogRecord {
                    message: argument.to_owned(),
                    ..LogRecord::default()
                });
                Ok(link.head().call_id.to_string().into())
            }
            "obey" => {
                link.wait(PATIENCE);
                assert!(link.is_cancelled());
                Err(Status::new(Code::Cancelled, "as told"))
            }
            "sleep" => {
                std::thread::sleep(Duration::from_millis(argument.parse().unwrap()));
                Ok(Vec::new())
            }
            other => panic!("no such word: {other}"),
        }
    }

    fn health(&self) -> Result<(), Status> {
        Err(Status::new(Code::Unavailable, "unwell"))
    }

    fn stop(&self) {}
}

#[derive(Default)]
struct Services {
    logged: Mutex<Vec<(String, Option<u64>)>>,
}

impl HostServices for Services {
    fn log(&self, line: LogLine<'_>) {
        self.logged
            .lock()
            .unwrap()
            .push((line.record.message.clone(), line.call.map(|it| it.call_id)));
    }

    fn call<'a>(
        &'a self,
        parent: Option<&'a CallContext>,
        target: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async move {
            match target {
                "Echo" => Ok(payload),
                "Parent" => Ok(format!("{:?}", parent.map(|it| it.call_id)).into()),
                "Never" => std::future::pending().await,
                _ => Err(Status::new(Code::PermissionDenied, target)),
            }
        })
    }
}

fn linked() -> LinkedPlugin {
    LinkedPlugin {
        metadata: &METADATA,
        start: |request: StartRequest, link| match &*request.config_json {
            "{\"start\":\"declines\"}" => Err(Status::new(Code::InvalidArgument, "`start` must be well")),
            "{\"start\":\"panics\"}" => panic!("at the start"),
            "{\"start\":\"waits\"}" => {
                link.wait(PATIENCE);
                Ok(Box::new(Plugin))
            }
            _ => {
                link.log(&LogRecord {
                    message: format!("started {}", request.instance),
                    ..LogRecord::default()
                });
                Ok(Box::new(Plugin))
            }
        },
    }
}

fn runtime() -> BuiltinRuntime {
    BuiltinRuntime::new([BuiltinPlugin::new(linked()).unwrap()]).unwrap()
}

fn artifact(runtime: &BuiltinRuntime) -> Artifact {
    Artifact {
        plugin: runtime.plugins().next().unwrap().id().clone(),
        runtime: RuntimeName::Builtin,
        digest: Digest([0; 32]),
        bytes: Bytes::new(),
        path: None,
        contract: contract(),
    }
}

fn verified(runtime: &BuiltinRuntime) -> Verified {
    let artifact = artifact(runtime);
    let metadata = runtime.read_metadata(&artifact).unwrap();
    artifact.verify(metadata).unwrap()
}

async fn start_with(
    limits: Limits,
    config_json: &str,
) -> Result<(Box<dyn Instance>, Arc<Services>), RuntimeError> {
    let (runtime, services) = (runtime(), Arc::new(Services::default()));
    let prepared = runtime.prepare(&verified(&runtime), &Grant::default()).await?;
    let instance = InstanceId("linked@1.0.0#1".into());
    let start = Start {
        instance,
        limits,
        config_json: config_json.into(),
        services: services.clone(),
    };
    Ok((runtime.start(prepared, start).await?, services))
}

async fn start() -> (Box<dyn Instance>, Arc<Services>) {
    start_with(Limits::default(), "{}").await.unwrap()
}

fn within(time: Duration) -> CallContext {
    CallContext {
        call_id: 4711,
        deadline: Some(Instant::now() + time),
        ..CallContext::default()
    }
}

async fn ask(instance: &dyn Instance, method: MethodIndex, word: &str) -> Result<String, CallError> {
    let reply = instance
        .call()
        .unwrap()
        .call(&within(PATIENCE), method, Bytes::from(word.to_owned()))
        .await?;
    Ok(String::from_utf8(reply.to_vec()).unwrap())
}

#[tokio::test]
async fn calls_and_statuses() {
    let (instance, services) = start().await;
    assert_eq!(
        *services.logged.lock().unwrap(),
        [("started linked@1.0.0#1".to_owned(), None)]
    );
    assert_eq!(ask(&*instance, DO, "echo grüezi").await.unwrap(), "grüezi");
    let error = ask(&*instance, DO, "fail there").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.status().kind()),
        (CallErrorKind::Returned, Code::AlreadyExists)
    );
    let error = ask(&*instance, MethodIndex(2), "echo").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotFound);
    let health = instance.health().await.unwrap();
    assert_eq!((health.serving, health.detail.as_str()), (false, "unwell"));
}

#[tokio::test]
async fn nonblocking_methods_run_here_and_may_not_block() {
    let (instance, _) = start().await;
    let here = format!("{:?}", std::thread::current().id());
    assert_eq!(ask(&*instance, QUICK, "thread").await.unwrap(), here);
    assert_ne!(ask(&*instance, DO, "thread").await.unwrap(), here);
    let error = ask(&*instance, QUICK, "host Echo").await.unwrap_err();
    assert_eq!(error.status().kind(), Code::FailedPrecondition);
}

#[tokio::test]
async fn host_is_called_on_behalf_of_the_call() {
    let (instance, services) = start().await;
    assert_eq!(ask(&*instance, DO, "host Echo").await.unwrap(), "payload");
    assert_eq!(ask(&*instance, DO, "host Parent").await.unwrap(), "Some(4711)");
    let error = ask(&*instance, DO, "host Other").await.unwrap_err();
    assert_eq!(error.status().kind(), Code::PermissionDenied);
    assert_eq!(ask(&*instance, DO, "log a line").await.unwrap(), "4711");
    assert!(
        services
            .logged
            .lock()
            .unwrap()
            .contains(&("a line".to_owned(), Some(4711)))
    );
}

#[tokio::test]
async fn panic_ends_the_instance() {
    let (instance, _) = start().await;
    let error = ask(&*instance, DO, "panic at the disco").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    assert_eq!(error.to_string(), "plugin `linked` panicked: at the disco");
    assert_eq!(
        instance.ended().await,
        EndCause::Panicked("at the disco".to_owned())
    );
    let error = ask(&*instance, DO, "echo").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin `linked` failed: it panicked: at the disco"
    );
    assert!(instance.health().await.is_err());
    assert_eq!(instance.stop(PATIENCE).await, StopReport::default());
}

#[tokio::test]
async fn panic_in_a_direct_call_is_caught() {
    let (instance, _) = start().await;
    let call = instance.call().unwrap();
    let direct = call.direct(QUICK).unwrap();
    let mut out = b"kept ".to_vec();
    direct.call(b"echo there", &mut out).unwrap();
    assert_eq!(out, b"kept there");
    assert_eq!(
        direct.call(b"panic", &mut out).unwrap_err().kind(),
        CallErrorKind::GuestFault
    );
    assert_eq!(out, b"kept there");
    assert!(call.direct(MethodIndex(2)).is_none());
}

#[tokio::test]
async fn deadline_frees_the_caller_and_the_plugin_is_told() {
    let (instance, _) = start().await;
    let call = instance.call().unwrap();
    let error = call
        .call(&within(Duration::from_millis(50)), DO, Bytes::from("obey"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(
        error.to_string(),
        "test.v1.Linked/Do of plugin `linked` did not answer by its deadline"
    );
    // All its threads come back, so it is not stuck and can be stopped.
    assert_eq!(instance.stop(PATIENCE).await, StopReport::default());
    assert!(
        tokio::time::timeout(Duration::ZERO, instance.ended())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn caller_that_goes_ends_the_plugins_own_calls() {
    let (instance, _) = start().await;
    let cx = within(PATIENCE);
    let call = instance.call().unwrap().call(&cx, DO, Bytes::from("host Never"));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), call)
            .await
            .is_err()
    );
    assert_eq!(instance.stop(PATIENCE).await, StopReport::default());
}

#[tokio::test]
async fn method_that_does_not_come_back_is_stuck() {
    let (instance, _) = start().await;
    let call = instance.call().unwrap();
    let cx = within(Duration::from_millis(20));
    let error = call.call(&cx, DO, Bytes::from("sleep 3000")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(
        instance.ended().await,
        EndCause::Stuck("test.v1.Linked/Do".to_owned())
    );
    let report = instance.stop(Duration::from_millis(10)).await;
    assert_eq!(
        report.left.unwrap(),
        "1 threads of its calls, which cannot be ended"
    );
}

#[tokio::test]
async fn no_more_methods_run_at_once_than_allowed() {
    let (instance, _) = start_with(
        Limits {
            concurrency: 1,
            ..Limits::default()
        },
        "{}",
    )
    .await
    .unwrap();
    let instance: Arc<dyn Instance> = instance.into();
    let began = Instant::now();
    let first = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { ask(&*instance, DO, "sleep 300").await }
    });
    tokio::task::yield_now().await;
    ask(&*instance, DO, "echo").await.unwrap();
    // The only place was taken for 300 ms. A busy machine makes this longer and never shorter.
    assert!(
        began.elapsed() >= Duration::from_millis(300),
        "the second call overtook the first"
    );
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn payloads_over_the_limit_cost_one_call() {
    let (instance, _) = start_with(
        Limits {
            payload_bytes_max: 100,
            ..Limits::default()
        },
        "{}",
    )
    .await
    .unwrap();
    for word in ["large 101", &format!("echo {}", "x".repeat(100))] {
        assert_eq!(
            ask(&*instance, DO, word).await.unwrap_err().kind(),
            CallErrorKind::Exhausted
        );
    }
    assert_eq!(ask(&*instance, DO, "large 100").await.unwrap().len(), 100);
}

#[tokio::test]
async fn starts_that_fail() {
    let fails = async |config: &str, start_ms: u64| {
        let limits = Limits {
            start: Duration::from_millis(start_ms),
            ..Limits::default()
        };
        let Err(error) = start_with(limits, config).await else {
            panic!("{config} started")
        };
        assert_eq!(error.kind(), RuntimeErrorKind::StartFailed);
        error.to_string()
    };
    let declined = fails("{\"start\":\"declines\"}", 60_000).await;
    assert_eq!(
        declined,
        "plugin `linked` declined to start: `start` must be well"
    );
    let panicked = fails("{\"start\":\"panics\"}", 60_000).await;
    assert_eq!(panicked, "plugin `linked` panicked in its start: at the start");
    let late = fails("{\"start\":\"waits\"}", 200).await;
    assert!(
        late.starts_with("plugin `linked` was not ready after 200ms"),
        "{late}"
    );
}

#[tokio::test]
async fn stop_is_final_and_twice_the_same() {
    let (instance, _) = start().await;
    let (first, second) = tokio::join!(instance.stop(PATIENCE), instance.stop(PATIENCE));
    assert_eq!((first, second), (StopReport::default(), StopReport::default()));
    assert_eq!(
        ask(&*instance, DO, "echo").await.unwrap_err().kind(),
        CallErrorKind::Draining
    );
    assert_eq!(
        ask(&*instance, QUICK, "echo").await.unwrap_err().kind(),
        CallErrorKind::Draining
    );
}

#[test]
fn names_are_checked_and_unique() {
    let with = |change: fn(&mut Metadata)| {
        let mut metadata = metadata();
        change(&mut metadata);
        BuiltinPlugin::new(LinkedPlugin {
            metadata: metadata.encode_to_vec().leak(),
            ..linked()
        })
    };
    for change in [
        (|it| it.name = "../evil".to_owned()) as fn(&mut Metadata),
        |it| it.version = "one".to_owned(),
        |it| it.format = 99,
        |it| it.manifest = vec![0xff],
    ] {
        assert_eq!(with(change).unwrap_err().kind(), RuntimeErrorKind::Malformed);
    }
    let twice = BuiltinRuntime::new([
        BuiltinPlugin::new(linked()).unwrap(),
        BuiltinPlugin::new(linked()).unwrap(),
    ]);
    assert_eq!(
        twice.unwrap_err().to_string(),
        "two builtin plugins are both `linked 1.0.0`"
    );
    let newer = with(|it| it.version = "1.1.0".to_owned()).unwrap();
    assert_eq!(
        BuiltinRuntime::new([BuiltinPlugin::new(linked()).unwrap(), newer])
            .unwrap()
            .plugins()
            .count(),
        2
    );
}

#[test]
fn unknown_plugin_names_the_known_ones() {
    let runtime = runtime();
    let mut artifact = artifact(&runtime);
    artifact.plugin.version = "2.0.0".parse().unwrap();
    let error = runtime.read_metadata(&artifact).unwrap_err();
    assert_eq!(error.kind(), RuntimeErrorKind::NotAPlugin);
    assert_eq!(
        error.to_string(),
        "no builtin plugin is `linked 2.0.0`; this host has `linked 1.0.0`"
    );
}

fn metadata() -> Metadata {
    let method = |name: &str, flags| Method {
        service: "test.v1.Linked".to_owned(),
        name: name.to_owned(),
        flags,
        ..Method::default()
    };
    Metadata {
        format: METADATA_FORMAT,
        name: "linked".to_owned(),
        version: "1.0.0".to_owned(),
        api: 1,
        contract_hash: contract().hash().to_vec(),
        methods: vec![method("Do", 0), method("Quick", METHOD_NONBLOCKING)],
        ..Metadata::default()
    }
}

fn contract() -> Arc<Contract> {
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.v1.Bytes".to_owned()),
        output_type: Some(".test.v1.Bytes".to_owned()),
        ..MethodDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("test/v1/linked.proto".to_owned()),
        package: Some("test.v1".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Bytes".to_owned()),
            ..DescriptorProto::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("Linked".to_owned()),
            method: vec![method("Do"), method("Quick")],
            ..ServiceDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    let set = FileDescriptorSet { file: vec![file] }.encode_to_vec();
    Arc::new(Contract::from_descriptor_set(&set, &["test.v1.Linked".to_owned()]).unwrap())
}
