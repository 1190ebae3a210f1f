use std::{
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, CallError, CallErrorKind, Digest, EndCause, HostServices, Instance,
    InstanceId, LogLine, MethodIndex, Runtime as _, RuntimeError, RuntimeErrorKind, SendError, Start,
    StopReport, StreamHandle, Verified,
};
use mortise_wire::{
    Code, LogRecord, METADATA_FORMAT, METHOD_NONBLOCKING, Metadata, MethodKind, StartRequest, Status,
    StreamLink,
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
const STREAM: MethodIndex = MethodIndex(2);
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

    /// Each request is a word, and what to do until the next.
    fn stream(&self, link: Box<dyn HostLink>, stream: &dyn StreamLink, _: u32) -> Result<(), Status> {
        while let Some(request) = stream.receive()? {
            let text = std::str::from_utf8(&request).unwrap();
            let (word, argument) = text.split_once(' ').unwrap_or((text, ""));
            match word {
                "echo" => stream.send(argument.to_owned().into())?,
                "count" => {
                    for n in 0..argument.parse::<u32>().unwrap() {
                        stream.send(n.to_le_bytes().to_vec().into())?;
                    }
                }
                "large" => stream.send(vec![0; argument.parse().unwrap()].into())?,
                "fail" => return Err(Status::new(Code::AlreadyExists, argument)),
                "panic" => panic!("{argument}"),
                "return" => return Ok(()),
                "sleep" => std::thread::sleep(Duration::from_millis(argument.parse().unwrap())),
                "obey" => {
                    link.wait(PATIENCE);
                    assert!(link.is_cancelled());
                    stream.send(Bytes::new())?;
                }
                other => panic!("no such word: {other}"),
            }
        }
        Ok(())
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
        dialect: None,
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
        pure: false,
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
    let error = ask(&*instance, MethodIndex(3), "echo").await.unwrap_err();
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
    assert!(call.direct(MethodIndex(3)).is_none());
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
async fn a_caller_in_a_hurry_does_not_end_the_instance() {
    let (instance, _) = start().await;
    let call = instance.call().unwrap();
    let cx = within(Duration::from_millis(1));
    let error = call.call(&cx, DO, Bytes::from("sleep 1300")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    // Longer than the grace after the caller's deadline, and still within the plugin's own.
    let ended = tokio::time::timeout(Duration::from_millis(1500), instance.ended()).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn method_that_does_not_come_back_is_stuck() {
    let limits = Limits {
        deadline: Duration::from_millis(20),
        ..Limits::default()
    };
    let (instance, _) = start_with(limits, "{}").await.unwrap();
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

async fn open(instance: &dyn Instance, time: Duration) -> StreamHandle {
    instance
        .stream()
        .unwrap()
        .open(&within(time), STREAM)
        .await
        .unwrap()
}

async fn say(stream: &mut StreamHandle, text: &str) {
    stream.requests.send(text.to_owned().into()).await.unwrap();
}

/// All replies, and how it ended.
async fn rest(stream: &mut StreamHandle) -> (Vec<Bytes>, Result<(), CallError>) {
    let mut replies = Vec::new();
    loop {
        match stream.replies.next().await {
            Ok(Some(reply)) => replies.push(reply),
            Ok(None) => return (replies, Ok(())),
            Err(error) => return (replies, Err(error)),
        }
    }
}

/// All threads of its calls come back, so nothing was stuck.
async fn stops_clean(instance: &dyn Instance) {
    assert_eq!(instance.stop(PATIENCE).await, StopReport::default());
}

#[tokio::test]
async fn stream_both_ways_and_its_end() {
    let (instance, _) = start().await;
    let mut stream = open(&*instance, PATIENCE).await;
    say(&mut stream, "echo a").await;
    assert_eq!(stream.replies.next().await.unwrap().unwrap(), "a");
    say(&mut stream, "count 5000").await;
    stream.requests.finish().await.unwrap();
    let (replies, end) = rest(&mut stream).await;
    end.unwrap();
    let numbers = replies
        .iter()
        .map(|it| u32::from_le_bytes(it[..].try_into().unwrap()));
    assert!(numbers.eq(0..5000));
    assert!(matches!(
        stream.requests.send(Bytes::new()).await,
        Err(SendError::Over)
    ));
    stops_clean(&*instance).await;
}

#[tokio::test]
async fn method_that_returns_early_keeps_its_replies() {
    let (instance, _) = start().await;
    for (last, expected) in [("return", None), ("fail there", Some(Code::AlreadyExists))] {
        let mut stream = open(&*instance, PATIENCE).await;
        say(&mut stream, "count 10").await;
        say(&mut stream, last).await;
        while stream.requests.send("echo".into()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let StreamHandle {
            requests,
            mut replies,
        } = stream;
        // The call is over, so this cancels nothing.
        drop(requests);
        for n in 0..10_u32 {
            assert_eq!(replies.next().await.unwrap().unwrap(), n.to_le_bytes()[..]);
        }
        let end = loop {
            match replies.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error.status().kind()),
            }
        };
        assert_eq!(end, expected);
    }
}

#[tokio::test]
async fn slow_reader_holds_up_the_method_and_not_the_memory() {
    let (instance, _) = start_with(
        Limits {
            stream_messages_max: 4,
            payload_bytes_max: 1000,
            ..Limits::default()
        },
        "{}",
    )
    .await
    .unwrap();
    let mut stream = open(&*instance, PATIENCE).await;
    for text in ["count 1000", "count 1000", "large 1001"] {
        say(&mut stream, text).await;
    }
    let (replies, end) = rest(&mut stream).await;
    assert_eq!(replies.len(), 2000);
    assert_eq!(end.unwrap_err().status().kind(), Code::ResourceExhausted);
}

#[tokio::test]
async fn deadline_ends_a_stream_in_the_middle() {
    let (instance, _) = start().await;
    for word in ["echo", "count 100000", "obey"] {
        let mut stream = open(&*instance, Duration::from_millis(50)).await;
        say(&mut stream, word).await;
        // Nothing is read until it is too late.
        while stream.requests.send("echo".into()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let (_, end) = rest(&mut stream).await;
        let error = end.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Deadline, "{word}: {error}");
    }
    stops_clean(&*instance).await;
}

#[tokio::test]
async fn either_half_that_is_dropped_cancels_the_call() {
    let (instance, _) = start().await;
    for word in ["echo", "count 100000", "obey"] {
        let mut stream = open(&*instance, PATIENCE).await;
        say(&mut stream, word).await;
        drop(stream);
        let mut stream = open(&*instance, PATIENCE).await;
        say(&mut stream, word).await;
        drop(stream.requests);
        let end = loop {
            match stream.replies.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("half a stream must not look whole"),
                Err(error) => break error,
            }
        };
        assert_eq!(end.status().kind(), Code::Cancelled, "{word}");
    }
    stops_clean(&*instance).await;
}

#[tokio::test]
async fn panic_ends_all_streams_at_once() {
    let (instance, _) = start().await;
    let mut other = open(&*instance, PATIENCE).await;
    let mut stream = open(&*instance, PATIENCE).await;
    say(&mut stream, "panic in the stream").await;
    let error = rest(&mut stream).await.1.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            CallErrorKind::GuestFault,
            "plugin `linked` panicked: in the stream"
        )
    );
    let error = rest(&mut other).await.1.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
}

#[tokio::test]
async fn stop_by_force_ends_open_streams() {
    let (instance, _) = start().await;
    let mut stream = open(&*instance, PATIENCE).await;
    let report = instance.stop(Duration::from_millis(10)).await;
    assert_eq!(report, StopReport::default());
    let error = rest(&mut stream).await.1.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Draining);
}

#[tokio::test]
async fn unary_and_streaming_are_not_mixed_up() {
    let (instance, _) = start().await;
    let error = ask(&*instance, STREAM, "echo").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Incompatible);
    assert_eq!(
        error.to_string(),
        "`test.v1.Linked/Stream` is a bidirectional method, and it was called as a unary one"
    );
    let cx = within(PATIENCE);
    let error = instance.stream().unwrap().open(&cx, DO).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`test.v1.Linked/Do` is a unary method, and it was opened as a stream"
    );
    assert!(instance.call().unwrap().direct(STREAM).is_none());
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
        methods: vec![
            method("Do", 0),
            method("Quick", METHOD_NONBLOCKING),
            method("Stream", MethodKind::Bidi.flags()),
        ],
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
            method: vec![
                method("Do"),
                method("Quick"),
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
    Arc::new(Contract::from_descriptor_set(&set, &["test.v1.Linked".to_owned()]).unwrap())
}
