//! Both sides by this crate: what Debian's go-plugin is too old for.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mortise_goplugin::{CallHeaders, HandshakeError};
use prost::Message as _;
use tokio::time::timeout;
use tonic::Code;

use crate::{
    fixture::{How, PATIENCE, pong, start},
    go,
    messages::{
        BIDIRECTIONAL, Bidirectional, KvValue, PING, PongResponse, STREAM, TestRequest, TestResponse,
    },
    pinger::Pinger,
};

/// Plain and TLS, multiplexed or not.
fn all_ways() -> [How; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(mtls, multiplex)| How {
        mtls,
        multiplex,
        ..How::default()
    })
}

#[tokio::test]
async fn calls_and_streams_all_four_ways() {
    for how in all_ways() {
        let running = start(&pong(), &how).await.unwrap();
        assert_eq!(running.agreed.multiplex, how.multiplex);
        assert_eq!(running.double(4).await.unwrap(), 8, "{how:?}");
        let requests = (0..5000).map(|input| Bytes::from(TestRequest { input }.encode_to_vec()));
        let requests = futures_util::stream::iter(requests);
        let replies = running
            .connection
            .stream(&format!("/{STREAM}"), &CallHeaders::default(), requests)
            .await
            .unwrap();
        let outputs: Vec<i32> = replies
            .map(|reply| TestResponse::decode(reply.unwrap()).unwrap().output)
            .collect()
            .await;
        assert_eq!(outputs, (0..5000).collect::<Vec<_>>(), "{how:?}");
        assert_eq!(running.stop().await.code(), Some(0), "{how:?}");
    }
}

#[tokio::test]
async fn the_broker_in_both_directions_all_four_ways() {
    for how in all_ways() {
        let running = start(&pong(), &how).await.unwrap();
        let broker = running.connection.broker();
        for _ in 0..5 {
            let id = broker.next_id();
            broker
                .serve(id, Arc::new(Pinger("pong from the host")))
                .await
                .unwrap();
            let reply = timeout(PATIENCE, running.call(BIDIRECTIONAL, &Bidirectional { id }))
                .await
                .unwrap();
            let reply = reply.unwrap_or_else(|status| panic!("{how:?}: {status:?}"));
            let plugin = broker
                .dial(Bidirectional::decode(reply).unwrap().id)
                .await
                .unwrap();
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
        let sockets = std::fs::read_dir(running.dir.path()).unwrap().count();
        // The plugin's own, and one per id in each direction that is still served.
        assert_eq!(sockets, if how.multiplex { 1 } else { 11 }, "{how:?}");
    }
}

#[tokio::test]
async fn many_dial_at_once_through_one_session() {
    let how = How {
        multiplex: true,
        mtls: true,
        ..How::default()
    };
    let running = Arc::new(start(&pong(), &how).await.unwrap());
    let dials = (0..16).map(|_| {
        let running = running.clone();
        tokio::spawn(async move {
            let broker = running.connection.broker();
            let id = broker.next_id();
            broker.serve(id, Arc::new(Pinger("pong"))).await.unwrap();
            let reply = running.call(BIDIRECTIONAL, &Bidirectional { id }).await.unwrap();
            let plugin = broker
                .dial(Bidirectional::decode(reply).unwrap().id)
                .await
                .unwrap();
            plugin
                .call(&format!("/{PING}"), &CallHeaders::default(), Bytes::new())
                .await
                .unwrap();
        })
    });
    for dial in dials.collect::<Vec<_>>() {
        timeout(PATIENCE, dial).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_id_that_nobody_accepts_is_an_error_after_a_while() {
    for multiplex in [false, true] {
        let running = start(
            &pong(),
            &How {
                multiplex,
                ..How::default()
            },
        )
        .await
        .unwrap();
        let outcome = match running.connection.broker().dial(4711).await {
            Ok(client) => client
                .call(&format!("/{PING}"), &CallHeaders::default(), Bytes::new())
                .await
                .map(drop),
            Err(status) => Err(status),
        };
        let status = outcome.unwrap_err();
        assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn what_it_prints_comes_through_the_protocol() {
    let mut running = start(&pong(), &How::default()).await.unwrap();
    let chunk = timeout(PATIENCE, running.output.recv()).await.unwrap().unwrap();
    assert_eq!(
        (chunk.is_stderr, &*chunk.data),
        (false, &b"printed by pong\n"[..])
    );
}

#[tokio::test]
async fn lines_before_the_handshake_are_passed_over_and_reported() {
    let how = How {
        extra_env: vec![("PONG_NOISE", "1")],
        ..How::default()
    };
    let running = start(&pong(), &how).await.unwrap();
    assert_eq!(
        running.stray,
        ["noise before the handshake, as libraries make it"]
    );
}

#[tokio::test]
async fn reflection_of_the_newer_version() {
    let running = start(&pong(), &How::default()).await.unwrap();
    let reflected = running.connection.reflect().await.unwrap().unwrap();
    assert_eq!(reflected.services, ["grpctest.Test"]);
    assert_eq!(reflected.files.file[0].name(), "pong.proto");
}

#[tokio::test]
async fn a_go_plugin_that_can_not_multiplex_says_so() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    let how = How {
        multiplex: true,
        ..How::default()
    };
    assert_eq!(
        start(&program, &how).await.err(),
        Some(HandshakeError::NoMultiplex)
    );
}

#[tokio::test]
async fn a_call_that_does_not_end_does_not_keep_a_plugin_from_ending() {
    let running = start(&pong(), &How::default()).await.unwrap();
    let connection = running.connection.clone();
    let request = crate::messages::PrintKvRequest {
        key: "sleep".to_owned(),
        value: Some(KvValue::Number(0)),
    };
    let call = tokio::spawn(async move {
        connection
            .call(
                "/grpctest.Test/PrintKV",
                &CallHeaders::default(),
                request.encode_to_vec().into(),
            )
            .await
    });
    running.double(1).await.unwrap();
    assert_eq!(running.stop().await.code(), Some(0));
    assert!(call.await.unwrap().is_err());
}
