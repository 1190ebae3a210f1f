//! This crate as the host of a real Go plugin.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use mortise_contract::Contract;
use mortise_goplugin::{
    CallHeaders, ConnectOptions, HandshakeError, LogLevel,
    proto::{InvokeReply, InvokeRequest},
    reattach::Reattach,
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::time::timeout;
use tonic::Code;

use crate::{
    fixture::{How, PATIENCE, Running, all_ways, invite, start},
    go,
    messages::{
        BIDIRECTIONAL, Bidirectional, KvValue, PING, PongResponse, STREAM, TestRequest, TestResponse,
    },
    pinger::Pinger,
};

async fn started(how: &How) -> Option<Running> {
    Some(start(&go::program("plugins/go-kv")?, how).await.unwrap())
}

/// How it can be started: Debian's go-plugin does not multiplex.
fn ways() -> Vec<How> {
    let ways = all_ways().into_iter();
    ways.filter(|how| go::is_recent() || !how.multiplex).collect()
}

#[tokio::test]
async fn the_highest_common_version_is_agreed_on() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    for (versions, expected) in [(vec![1, 2, 3], 3), (vec![2, 7], 2), (vec![1], 1)] {
        let running = start(
            &program,
            &How {
                versions,
                ..How::default()
            },
        )
        .await
        .unwrap();
        assert_eq!(
            (running.agreed.version, running.connection.version()),
            (expected, expected)
        );
    }
}

#[tokio::test]
async fn without_a_common_version_both_sides_are_named() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    let how = How {
        versions: vec![9, 8],
        ..How::default()
    };
    let refused = start(&program, &how).await.err().unwrap();
    assert_eq!(
        refused,
        HandshakeError::NoCommonVersion {
            plugin: 1,
            host: vec![9, 8]
        }
    );
}

#[tokio::test]
async fn its_line_is_printed_to_the_byte_as_it_was_read() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    for how in ways() {
        let answered = invite(&program, &how).await.unwrap();
        let fields = answered.handshake.to_string();
        assert_eq!(
            fields.matches('|').count(),
            5 + usize::from(how.multiplex),
            "{fields}"
        );
        assert_eq!(answered.handshake.multiplex, how.multiplex.then_some(true));
        assert_eq!(answered.handshake.certificate.is_some(), how.mtls);
    }
}

#[tokio::test]
async fn unary_calls_plain_and_with_mutual_tls() {
    for how in ways() {
        let Some(running) = started(&how).await else {
            return;
        };
        assert_eq!(running.double(21).await.unwrap(), 42);
        let refused = running
            .print_kv("nonsense", KvValue::Number(0))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "`nonsense` is no key of this plugin")
        );
        let unknown = running
            .call("grpctest.Test/Nothing", &TestRequest::default())
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented);
        assert!(running.stop().await.success());
    }
}

#[tokio::test]
async fn a_stream_of_five_thousand_messages() {
    for how in ways() {
        let Some(running) = started(&how).await else {
            return;
        };
        let requests = (0..5000).map(|input| Bytes::from(TestRequest { input }.encode_to_vec()));
        let requests = futures_util::stream::iter(requests);
        let mut replies = running
            .connection
            .stream(&format!("/{STREAM}"), &CallHeaders::default(), requests)
            .await
            .unwrap();
        let mut received = 0;
        while let Some(reply) = replies.next().await {
            assert_eq!(TestResponse::decode(reply.unwrap()).unwrap().output, received);
            received += 1;
        }
        assert_eq!(received, 5000);
    }
}

#[tokio::test]
async fn the_broker_in_both_directions() {
    // Debian's go-plugin can't dial through its broker under TLS: its issue 109, fixed in 1.4.4.
    for how in ways().into_iter().filter(|how| go::is_recent() || !how.mtls) {
        let Some(running) = started(&how).await else {
            return;
        };
        let broker = running.connection.broker();
        for _ in 0..3 {
            let id = broker.next_id();
            broker
                .serve(id, Arc::new(Pinger("pong from the Rust host")))
                .await
                .unwrap();
            // The plugin dials us and says what it heard, then offers a service of its own.
            let reply = running.call(BIDIRECTIONAL, &Bidirectional { id }).await.unwrap();
            let heard = running.wait_for_log("the host answered").await;
            assert!(
                heard
                    .fields
                    .contains(&("msg".to_owned(), "pong from the Rust host".to_owned())),
                "{heard:?}"
            );
            let theirs = Bidirectional::decode(reply).unwrap().id;
            let plugin = broker.dial(theirs).await.unwrap();
            let pong = plugin
                .call(&format!("/{PING}"), &CallHeaders::default(), Bytes::new())
                .await
                .unwrap();
            assert_eq!(
                PongResponse::decode(pong).unwrap().msg,
                "pong from the plugin",
                "{how:?}"
            );
        }
    }
}

#[tokio::test]
async fn shutdown_ends_it_with_code_zero_and_leaves_nothing() {
    for how in ways() {
        let Some(running) = started(&how).await else {
            return;
        };
        running.double(1).await.unwrap();
        let dir = running.dir.path().to_owned();
        let connection = running.connection.clone();
        let status = running.stop().await;
        assert_eq!(status.code(), Some(0));
        assert!(!dir.exists(), "the fixture's directory goes with it");
        let refused = connection
            .call("/grpctest.Test/Double", &CallHeaders::default(), Bytes::new())
            .await
            .unwrap_err();
        assert!(
            matches!(refused.code(), Code::Unavailable | Code::Unknown),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_plugin_that_is_killed_during_a_call_is_one_clear_error_at_once() {
    for how in ways() {
        let Some(mut running) = started(&how).await else {
            return;
        };
        let connection = running.connection.clone();
        let request = crate::messages::PrintKvRequest {
            key: "sleep".to_owned(),
            value: Some(KvValue::Number(600_000)),
        };
        let payload = Bytes::from(request.encode_to_vec());
        let call = tokio::spawn(async move {
            connection
                .call("/grpctest.Test/PrintKV", &CallHeaders::default(), payload)
                .await
        });
        // Another call on the same connection comes through, so the first has been sent.
        running.double(1).await.unwrap();
        running.child.start_kill().unwrap();
        let outcome = timeout(PATIENCE, call).await.unwrap().unwrap();
        let status = outcome.unwrap_err();
        assert!(
            matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn dropping_a_call_cancels_it_in_the_plugin() {
    let Some(running) = started(&How::default()).await else {
        return;
    };
    let call = running.print_kv("sleep", KvValue::Number(600_000));
    assert!(timeout(Duration::from_millis(50), call).await.is_err());
    running.wait_for_log("sleep was cancelled").await;
}

#[tokio::test]
async fn headers_and_the_time_left_reach_it() {
    let Some(running) = started(&How::default()).await else {
        return;
    };
    let headers = CallHeaders {
        timeout: Some(Duration::from_secs(9)),
        metadata: vec![("traceparent".to_owned(), "00-ab".to_owned())],
    };
    let request = crate::messages::PrintKvRequest {
        key: "header".to_owned(),
        value: Some(KvValue::Text("traceparent".to_owned())),
    };
    let status = running
        .connection
        .call("/grpctest.Test/PrintKV", &headers, request.encode_to_vec().into())
        .await
        .unwrap_err();
    assert_eq!(status.message(), "00-ab");
}

#[tokio::test]
async fn its_log_lines_are_events() {
    let Some(running) = started(&How::default()).await else {
        return;
    };
    running
        .print_kv("log", KvValue::Text("low on fuel".to_owned()))
        .await
        .unwrap();
    let event = running.wait_for_log("low on fuel").await;
    assert_eq!((event.level, &*event.module), (LogLevel::Warn, "go-kv"));
    for field in [("number", "7"), ("nested", r#"{"a":[1,2]}"#), ("nothing", "null")] {
        assert!(
            event.fields.contains(&(field.0.to_owned(), field.1.to_owned())),
            "{event:?}"
        );
    }
    assert_eq!(running.wait_for_log("go-kv starts").await.level, LogLevel::Info);
    // Go's runtime writes the stack trace; all of it is an error.
    let _ = running
        .print_kv("panic", KvValue::Text("out of fuel".to_owned()))
        .await;
    assert_eq!(
        running.wait_for_log("panic: out of fuel").await.level,
        LogLevel::Error
    );
    assert_eq!(running.wait_for_log("goroutine ").await.level, LogLevel::Error);
}

#[tokio::test]
async fn it_sees_no_variable_that_it_was_not_given() {
    let Some(running) = started(&How::default()).await else {
        return;
    };
    let status = running.print_kv("env", KvValue::Number(0)).await.unwrap_err();
    let names: Vec<_> = status
        .message()
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    let expected = [
        "BASIC_PLUGIN",
        "PLUGIN_PROTOCOL_VERSIONS",
        "PLUGIN_MIN_PORT",
        "PLUGIN_MAX_PORT",
        "PLUGIN_UNIX_SOCKET_DIR",
        "TMPDIR",
    ];
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");
}

#[tokio::test]
async fn its_services_are_reflected_and_callable_from_json() {
    for how in ways() {
        let Some(running) = started(&how).await else {
            return;
        };
        let reflected = running.connection.reflect().await.unwrap().unwrap();
        assert_eq!(
            reflected.services,
            ["grpctest.Test", "mortise.goplugin.v1.PluginService"]
        );
        let bytes = reflected.files.encode_to_vec();
        Contract::from_descriptor_set(&bytes, &reflected.services).unwrap();
        let pool = DescriptorPool::decode(&*bytes).unwrap();
        let method = pool
            .get_service_by_name("grpctest.Test")
            .unwrap()
            .methods()
            .find(|it| it.name() == "Double")
            .unwrap();
        let request: serde_json::Value = serde_json::json!({ "Input": 21 });
        let request = DynamicMessage::deserialize(method.input(), request).unwrap();
        let reply = running
            .connection
            .call(
                "/grpctest.Test/Double",
                &CallHeaders::default(),
                request.encode_to_vec().into(),
            )
            .await
            .unwrap();
        let reply = DynamicMessage::decode(method.output(), reply).unwrap();
        assert_eq!(
            serde_json::to_value(&reply).unwrap(),
            serde_json::json!({ "Output": 42 })
        );
    }
}

#[tokio::test]
async fn a_generic_service_takes_any_method_by_its_name() {
    let Some(running) = started(&How::default()).await else {
        return;
    };
    let invoke = |method: &str| InvokeRequest {
        method: method.to_owned(),
        payload: Bytes::from_static(b"abc"),
    };
    let service = "mortise.goplugin.v1.PluginService/Invoke";
    let reply = running.call(service, &invoke("reverse")).await.unwrap();
    assert_eq!(&*InvokeReply::decode(reply).unwrap().payload, b"cba");
    let refused = running.call(service, &invoke("sideways")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_running_plugin_is_reattached_and_stopped() {
    let Some(mut running) = started(&How::default()).await else {
        return;
    };
    let pid = running.child.id().unwrap();
    let reattach = Reattach {
        version: 3,
        address: running.agreed.address.clone(),
        pid,
        test: false,
    };
    let options = || ConnectOptions {
        directory: running.dir.path().to_owned(),
        ..ConnectOptions::default()
    };
    // Another process is not taken for it, even if it lives.
    let stranger = Reattach {
        pid: std::process::id(),
        ..reattach.clone()
    };
    let refused = stranger.connect(options()).await.err().unwrap().to_string();
    assert!(
        refused.contains(&format!("process {pid} listens there")),
        "{refused}"
    );
    let again = reattach.connect(options()).await.unwrap();
    let reply = again
        .connection
        .call(
            "/grpctest.Test/Double",
            &CallHeaders::default(),
            TestRequest { input: 2 }.encode_to_vec().into(),
        )
        .await
        .unwrap();
    assert_eq!(TestResponse::decode(reply).unwrap().output, 4);
    again.stop(PATIENCE).await;
    assert_eq!(running.child.wait().await.unwrap().code(), Some(0));
    assert!(reattach.connect(options()).await.is_err());
}

#[tokio::test]
async fn a_message_larger_than_the_peer_takes_is_its_own_refusal() {
    for how in ways() {
        let Some(running) = started(&how).await else {
            return;
        };
        // A Go server takes 4 MiB unless its author raised that; the reply may be larger.
        let request = InvokeRequest {
            method: "upper".to_owned(),
            payload: vec![b'x'; 3 << 20].into(),
        };
        let service = "mortise.goplugin.v1.PluginService/Invoke";
        let reply = running.call(service, &request).await.unwrap();
        assert_eq!(InvokeReply::decode(reply).unwrap().payload.len(), 3 << 20);
        let request = InvokeRequest {
            payload: vec![b'x'; 5 << 20].into(),
            ..request
        };
        assert_eq!(
            running.call(service, &request).await.unwrap_err().code(),
            Code::ResourceExhausted
        );
    }
}
