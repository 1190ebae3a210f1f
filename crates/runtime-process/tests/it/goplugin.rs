//! A real Go plugin, `plugins/go-kv`, under the port: loaded, called, streamed to, killed, stopped like any other.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Dialect, GoPlugin, Grant, RuntimeName};
use mortise_runtime::{
    Artifact, CallErrorKind, Digest, EndCause, Instance, MethodIndex, PluginId, Runtime as _, RuntimeError,
    RuntimeErrorKind,
};
use mortise_wire::{Code, Level};
use prost::Message as _;

use crate::{
    fake::Begin,
    fixture::{Bench, context, runs},
    go,
};

/// What of `grpctest.Test` the plugin is called with; `OUTPUT` is the type of its field.
const PROTO: &str = r#"
syntax = "proto3";
package grpctest;
service Test {
  rpc Double(TestRequest) returns (TestResponse);
  rpc PrintKV(PrintKVRequest) returns (PrintKVResponse);
  rpc Stream(stream TestRequest) returns (stream TestResponse);
}
message TestRequest { int32 Input = 1; }
message TestResponse { OUTPUT Output = 2; }
message PrintKVRequest { string Key = 1; oneof Value { string ValueString = 2; int32 ValueInt = 3; } }
message PrintKVResponse {}
"#;

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct TestRequest {
    #[prost(int32, tag = "1")]
    input: i32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct TestResponse {
    #[prost(int32, tag = "2")]
    output: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PrintKvRequest {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(oneof = "Value", tags = "2, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "2")]
    Text(String),
    #[prost(int32, tag = "3")]
    Number(i32),
}

fn contract(output: &str) -> Arc<Contract> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("test.proto");
    std::fs::write(&file, PROTO.replace("OUTPUT", output)).unwrap();
    let set = protox::compile([file], [dir.path()]).unwrap();
    let provides = ["grpctest.Test".to_owned()];
    Arc::new(Contract::from_descriptor_set(&set.encode_to_vec(), &provides).unwrap())
}

fn spoken() -> GoPlugin {
    GoPlugin {
        cookie_key: "BASIC_PLUGIN".to_owned(),
        cookie_value: "hello".to_owned(),
        versions: vec![1, 2, 3],
        auto_mtls: true,
        multiplex: false,
        sha256: None,
    }
}

fn artifact(program: &Path, spoken: GoPlugin) -> Artifact {
    let bytes = Bytes::from(std::fs::read(program).unwrap());
    Artifact {
        plugin: PluginId {
            name: "go-kv".into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Process,
        digest: Digest::of(&bytes),
        bytes,
        path: Some(program.to_owned()),
        dialect: Some(Dialect::GoPlugin(spoken)),
        contract: contract("int32"),
    }
}

async fn try_start(bench: &Bench, artifact: Artifact) -> Result<Box<dyn Instance>, RuntimeError> {
    let metadata = bench.runtime.read_metadata(&artifact)?;
    let verified = artifact.verify(metadata).unwrap();
    let prepared = bench.runtime.prepare(&verified, &Grant::default()).await?;
    bench.runtime.start(prepared, bench.start_with()).await
}

async fn start(bench: &Bench, spoken: GoPlugin) -> Option<Box<dyn Instance>> {
    Some(
        try_start(bench, artifact(&go::program("plugins/go-kv")?, spoken))
            .await
            .unwrap(),
    )
}

/// Sorted by name, as metadata are.
fn method(name: &str) -> MethodIndex {
    let index = ["Double", "PrintKV", "Stream"].iter().position(|it| *it == name);
    MethodIndex(index.unwrap().try_into().unwrap())
}

async fn double(instance: &dyn Instance, input: i32) -> i32 {
    let call = instance.call().unwrap();
    let request = TestRequest { input }.encode_to_vec().into();
    let reply = call.call(&context(1), method("Double"), request).await.unwrap();
    TestResponse::decode(reply).unwrap().output
}

async fn print_kv(
    instance: &dyn Instance,
    key: &str,
    value: Value,
) -> Result<Bytes, mortise_runtime::CallError> {
    let request = PrintKvRequest {
        key: key.to_owned(),
        value: Some(value),
    };
    let call = instance.call().unwrap();
    call.call(&context(2), method("PrintKV"), request.encode_to_vec().into())
        .await
}

#[tokio::test]
async fn it_is_called_and_stopped_like_any_other() {
    for (auto_mtls, multiplex) in [(true, false), (false, false), (true, true), (false, true)] {
        // Debian's go-plugin does not multiplex.
        if multiplex && !go::is_recent() {
            continue;
        }
        let bench = Bench::new(Begin::Well);
        let Some(instance) = start(
            &bench,
            GoPlugin {
                auto_mtls,
                multiplex,
                ..spoken()
            },
        )
        .await
        else {
            return;
        };
        assert_eq!(double(&*instance, 21).await, 42);
        assert!(instance.health().await.unwrap().serving);
        let pid = instance.usage().pid.unwrap();
        assert!(instance.usage().memory_bytes.unwrap() > 1 << 20);
        let refused = print_kv(&*instance, "nonsense", Value::Number(1))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), CallErrorKind::Returned);
        assert_eq!(refused.status().kind(), Code::InvalidArgument);
        assert_eq!(refused.to_string(), "`nonsense` is no key of this plugin");
        let report = instance.stop(crate::fixture::PATIENCE).await;
        assert_eq!((report.forced, report.left), (None, None));
        assert!(!runs(pid));
        crate::fixture::eventually("its directory is gone", || {
            bench.private_dirs().is_empty().then_some(())
        })
        .await;
        let late = instance
            .call()
            .unwrap()
            .call(&context(3), method("Double"), Bytes::new())
            .await
            .unwrap_err();
        assert_eq!(late.kind(), CallErrorKind::Draining);
    }
}

#[tokio::test]
async fn its_log_lines_are_the_hosts() {
    let bench = Bench::new(Begin::Well);
    let Some(instance) = start(&bench, spoken()).await else {
        return;
    };
    print_kv(&*instance, "log", Value::Text("low on fuel".to_owned()))
        .await
        .unwrap();
    let (record, _) = bench.services.wait_for_log("low on fuel").await;
    assert_eq!((record.level(), &*record.target), (Level::Warn, "go-kv"));
    assert!(
        record
            .fields
            .iter()
            .any(|it| it.name == "number" && it.value == "7")
    );
}

#[tokio::test]
async fn a_stream_of_five_thousand_messages() {
    let bench = Bench::new(Begin::Well);
    let Some(instance) = start(&bench, spoken()).await else {
        return;
    };
    let streams = instance.stream().unwrap();
    let mut handle = streams.open(&context(1), method("Stream")).await.unwrap();
    let sending = tokio::spawn(async move {
        for input in 0..5000 {
            handle
                .requests
                .send(TestRequest { input }.encode_to_vec().into())
                .await
                .unwrap();
        }
        handle.requests.finish().await.unwrap();
    });
    let mut received = 0;
    while let Some(reply) = handle.replies.next().await.unwrap() {
        assert_eq!(TestResponse::decode(reply).unwrap().output, received);
        received += 1;
    }
    sending.await.unwrap();
    assert_eq!(received, 5000);
    // A method is called the way its contract says.
    assert_eq!(
        streams
            .open(&context(1), method("Double"))
            .await
            .unwrap_err()
            .kind(),
        CallErrorKind::Incompatible
    );
    let unary = instance
        .call()
        .unwrap()
        .call(&context(1), method("Stream"), Bytes::new())
        .await;
    assert_eq!(unary.unwrap_err().kind(), CallErrorKind::Incompatible);
}

#[tokio::test]
async fn a_stream_whose_sender_goes_away_is_cancelled() {
    let bench = Bench::new(Begin::Well);
    let Some(instance) = start(&bench, spoken()).await else {
        return;
    };
    let mut handle = instance
        .stream()
        .unwrap()
        .open(&context(1), method("Stream"))
        .await
        .unwrap();
    handle
        .requests
        .send(TestRequest { input: 1 }.encode_to_vec().into())
        .await
        .unwrap();
    assert!(handle.replies.next().await.unwrap().is_some());
    drop(handle.requests);
    assert_eq!(
        handle.replies.next().await.unwrap_err().kind(),
        CallErrorKind::Cancelled
    );
}

#[tokio::test]
async fn killed_during_a_call_and_a_stream_each_gets_one_clear_error() {
    let bench = Bench::new(Begin::Well);
    let Some(instance) = start(&bench, spoken()).await else {
        return;
    };
    let mut handle = instance
        .stream()
        .unwrap()
        .open(&context(1), method("Stream"))
        .await
        .unwrap();
    handle
        .requests
        .send(TestRequest { input: 1 }.encode_to_vec().into())
        .await
        .unwrap();
    assert!(handle.replies.next().await.unwrap().is_some());
    let pid = instance.usage().pid.unwrap();
    let kill = async {
        double(&*instance, 1).await;
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (error, ()) = tokio::join!(print_kv(&*instance, "sleep", Value::Number(600_000)), kill);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    assert!(
        error.to_string().contains("its process was ended by signal 9"),
        "{error}"
    );
    assert_eq!(
        handle.replies.next().await.unwrap_err().kind(),
        CallErrorKind::GuestFault
    );
    assert_eq!(instance.ended().await, EndCause::Signalled(9));
}

#[tokio::test]
async fn a_panic_of_go_is_told_with_its_last_words() {
    let bench = Bench::new(Begin::Well);
    let Some(instance) = start(&bench, spoken()).await else {
        return;
    };
    let error = print_kv(&*instance, "panic", Value::Text("out of fuel".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    assert_eq!(instance.ended().await, EndCause::Exited(2));
    assert!(instance.last_output().unwrap().contains("panic: out of fuel"));
}

/// How it ended after a call that it did not answer.
async fn overdone(bench: Bench, key: &str, mebibytes: i32) -> Option<(String, EndCause)> {
    let instance = start(&bench, spoken()).await?;
    let error = print_kv(&*instance, key, Value::Number(mebibytes)).await;
    Some((error.unwrap_err().to_string(), instance.ended().await))
}

#[tokio::test]
async fn too_much_memory_and_too_much_disk_are_told_as_such() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.memory_bytes_max = 64 << 20;
    let Some((error, cause)) = overdone(bench, "eat", 72).await else {
        return;
    };
    assert!(matches!(cause, EndCause::OutOfMemory(_)), "{cause:?}");
    assert!(error.contains("67108864"), "{error}");
    let bench = Bench::with(Begin::Well, |config| config.disk_bytes_max = 16 << 20);
    let (error, cause) = overdone(bench, "fill", 24).await.unwrap();
    assert!(matches!(cause, EndCause::OutOfDisk(_)), "{cause:?}");
    assert!(error.contains("16777216"), "{error}");
}

#[tokio::test]
async fn the_deadline_is_kept_and_the_plugin_hears_of_it() {
    let bench = Bench::new(Begin::Well);
    let Some(instance) = start(&bench, spoken()).await else {
        return;
    };
    let request = PrintKvRequest {
        key: "sleep".to_owned(),
        value: Some(Value::Number(600_000)),
    };
    let cx = crate::fixture::within(1, std::time::Duration::from_millis(100));
    let call = instance.call().unwrap();
    let error = call
        .call(&cx, method("PrintKV"), request.encode_to_vec().into())
        .await
        .unwrap_err();
    assert_eq!(error.status().kind(), Code::DeadlineExceeded);
    bench.services.wait_for_log("sleep was cancelled").await;
    assert_eq!(double(&*instance, 2).await, 4);
}

/// What a start was refused with; nothing may be left of it.
async fn refused(change: impl FnOnce(&mut Artifact)) -> Option<RuntimeError> {
    let bench = Bench::new(Begin::Well);
    let mut artifact = artifact(&go::program("plugins/go-kv")?, spoken());
    change(&mut artifact);
    let error = try_start(&bench, artifact).await.err().unwrap();
    crate::fixture::eventually("its directory is gone", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
    Some(error)
}

#[tokio::test]
async fn a_start_that_can_not_be_is_refused_in_words() {
    let with =
        |spoken: GoPlugin| move |artifact: &mut Artifact| artifact.dialect = Some(Dialect::GoPlugin(spoken));
    let Some(error) = refused(with(GoPlugin {
        cookie_value: "hullo".to_owned(),
        ..spoken()
    }))
    .await
    else {
        return;
    };
    assert_eq!(error.kind(), RuntimeErrorKind::StartFailed);
    assert!(
        error
            .to_string()
            .contains("exited with code 1 before it said where it listens"),
        "{error}"
    );
    let error = refused(with(GoPlugin {
        versions: vec![9],
        ..spoken()
    }))
    .await
    .unwrap();
    assert!(
        error
            .to_string()
            .contains("offers version 1 of its protocol, and this host speaks 9")
            || error.to_string().contains("version 1"),
        "{error}"
    );
    if !go::is_recent() {
        let error = refused(with(GoPlugin {
            multiplex: true,
            ..spoken()
        }))
        .await
        .unwrap();
        assert!(error.to_string().contains("can't multiplex"), "{error}");
    }
    let error = refused(with(GoPlugin {
        sha256: Some([7; 32]),
        ..spoken()
    }))
    .await
    .unwrap();
    assert_eq!(error.kind(), RuntimeErrorKind::Tampered);
    assert!(error.to_string().contains("plugin.toml pins 0707"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_serves_another_contract_is_refused_with_the_difference() {
    let Some(error) = refused(|artifact| artifact.contract = contract("string")).await else {
        return;
    };
    assert_eq!(error.kind(), RuntimeErrorKind::Tampered);
    assert!(
        error.to_string().contains("grpctest.TestResponse.Output"),
        "{error}"
    );
}

#[tokio::test]
async fn a_copy_that_was_changed_is_not_started() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("go-kv");
    std::fs::copy(program, &copy).unwrap();
    let error = refused(|artifact| {
        let mut bytes = std::fs::read(&copy).unwrap();
        bytes.push(0);
        std::fs::write(&copy, bytes).unwrap();
        artifact.path = Some(copy.clone());
    });
    assert_eq!(error.await.unwrap().kind(), RuntimeErrorKind::Tampered);
}

#[test]
fn what_is_no_executable_is_refused_from_its_bytes() {
    let bench = Bench::new(Begin::Well);
    let artifact = Artifact {
        bytes: Bytes::from_static(b"#!/bin/sh\n"),
        dialect: Some(Dialect::GoPlugin(spoken())),
        ..crate::fixture::artifact()
    };
    let error = bench.runtime.read_metadata(&artifact).unwrap_err();
    assert_eq!(error.kind(), RuntimeErrorKind::NotAPlugin);
}
