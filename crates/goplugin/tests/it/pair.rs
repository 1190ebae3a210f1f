//! Both sides by this crate, and a Go plugin of today where there is one: what Debian's go-plugin is too old for.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use mortise_goplugin::{
    CallHeaders, HandshakeError,
    proto::{ReflectionAnswer, ReflectionAsk, ReflectionRequest, ReflectionResponse, path},
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::Code;

use crate::{
    fixture::{How, PATIENCE, Running, all_ways, plugins, pong, start, wait_for_end},
    go,
    messages::{
        BIDIRECTIONAL, Bidirectional, KvValue, PING, PongResponse, STREAM, TestRequest, TestResponse,
    },
    pinger::Pinger,
};

/// Every plugin in every way.
fn everything() -> impl Iterator<Item = (PathBuf, How)> {
    plugins()
        .into_iter()
        .flat_map(|plugin| all_ways().map(|how| (plugin.clone(), how)))
}

#[tokio::test]
async fn calls_and_streams_all_four_ways() {
    for (plugin, how) in everything() {
        let running = start(&plugin, &how).await.unwrap();
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
    for (plugin, how) in everything() {
        let running = start(&plugin, &how).await.unwrap();
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
            let theirs = broker
                .dial(Bidirectional::decode(reply).unwrap().id)
                .await
                .unwrap();
            let pong = theirs
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
    for (plugin, how) in everything().filter(|(_, how)| how.multiplex) {
        let running = Arc::new(start(&plugin, &how).await.unwrap());
        let dials = (0..16).map(|_| {
            let running = running.clone();
            tokio::spawn(async move {
                let broker = running.connection.broker();
                let id = broker.next_id();
                broker.serve(id, Arc::new(Pinger("pong"))).await.unwrap();
                let reply = running.call(BIDIRECTIONAL, &Bidirectional { id }).await.unwrap();
                let theirs = broker
                    .dial(Bidirectional::decode(reply).unwrap().id)
                    .await
                    .unwrap();
                theirs
                    .call(&format!("/{PING}"), &CallHeaders::default(), Bytes::new())
                    .await
                    .unwrap();
            })
        });
        for dial in dials.collect::<Vec<_>>() {
            timeout(PATIENCE, dial).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn dials_that_are_given_up_leave_the_broker_whole() {
    for (plugin, how) in everything().filter(|(_, how)| how.multiplex) {
        let running = start(&plugin, &how).await.unwrap();
        let broker = running.connection.broker();
        let (method, headers) = (format!("/{PING}"), CallHeaders::default());
        for micros in (0..1500).step_by(50) {
            let id = broker.next_id();
            broker.serve(id, Arc::new(Pinger("pong"))).await.unwrap();
            let reply = timeout(PATIENCE, running.call(BIDIRECTIONAL, &Bidirectional { id }))
                .await
                .unwrap();
            let theirs = Bidirectional::decode(reply.unwrap()).unwrap().id;
            let theirs = broker.dial(theirs).await.unwrap();
            // Somewhere between the knock and the answer.
            let call = theirs.call(&method, &headers, Bytes::new());
            let _ = timeout(Duration::from_micros(micros), call).await;
            let call = theirs.call(&method, &headers, Bytes::new());
            let pong = timeout(PATIENCE, call).await.unwrap().unwrap();
            assert_eq!(PongResponse::decode(pong).unwrap().msg, "pong from the plugin");
        }
    }
}

#[tokio::test]
async fn an_id_that_nobody_accepts_is_an_error_after_a_while() {
    for (plugin, how) in everything().filter(|(_, how)| !how.mtls) {
        let running = start(&plugin, &how).await.unwrap();
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

/// Of one channel, until there is so much.
async fn printed(running: &mut Running, is_stderr: bool, bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < bytes {
        let chunk = timeout(PATIENCE, running.output.recv()).await.unwrap().unwrap();
        assert_eq!(chunk.is_stderr, is_stderr);
        text.extend(chunk.data);
    }
    text
}

#[tokio::test]
async fn what_a_go_plugin_prints_comes_through_the_protocol() {
    for plugin in plugins().iter().filter(|it| **it != pong()) {
        for how in all_ways() {
            let mut running = start(plugin, &how).await.unwrap();
            for (key, is_stderr) in [("stdout", false), ("stderr", true)] {
                // More than one of its pieces.
                let line = "printed ".repeat(1000);
                let text = KvValue::Text(line.clone());
                running.print_kv(key, text).await.unwrap();
                let said = printed(&mut running, is_stderr, line.len() + 1).await;
                assert_eq!(String::from_utf8(said).unwrap(), line + "\n", "{key} {how:?}");
            }
        }
    }
}

#[tokio::test]
async fn lines_before_the_handshake_are_passed_over_and_reported() {
    let how = How {
        extra_env: vec![("PONG_NOISE", "1".to_owned())],
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
async fn reflection_of_both_versions() {
    for (plugin, how) in everything() {
        let running = start(&plugin, &how).await.unwrap();
        for version in [path::REFLECTION_V1, path::REFLECTION_V1ALPHA] {
            let request = ReflectionRequest {
                host: String::new(),
                ask: Some(ReflectionAsk::ListServices(String::new())),
            };
            let request = futures_util::stream::iter([Bytes::from(request.encode_to_vec())]);
            let headers = CallHeaders::default();
            let mut answers = running
                .connection
                .stream(version, &headers, request)
                .await
                .unwrap();
            let answer = timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
            let Some(ReflectionAnswer::Services(list)) = ReflectionResponse::decode(answer).unwrap().answer
            else {
                panic!("{version}");
            };
            let names: Vec<_> = list.services.iter().map(|it| &*it.name).collect();
            assert!(names.contains(&"grpctest.Test"), "{version} {names:?}");
        }
    }
}

#[tokio::test]
async fn a_group_may_connect_to_its_sockets() {
    let group = if rustix::process::geteuid().is_root() {
        54_321
    } else {
        rustix::process::getegid().as_raw()
    };
    for plugin in plugins() {
        let how = How {
            extra_env: vec![("PLUGIN_UNIX_SOCKET_GROUP", group.to_string())],
            ..How::default()
        };
        let running = start(&plugin, &how).await.unwrap();
        assert_eq!(running.double(4).await.unwrap(), 8);
        // Nobody serves what it is to dial, but it offers a service of its own and so has a second socket.
        let broker = running.connection.broker();
        let id = broker.next_id();
        broker.serve(id, Arc::new(Pinger("pong"))).await.unwrap();
        running.call(BIDIRECTIONAL, &Bidirectional { id }).await.unwrap();
        let shared = std::fs::read_dir(running.dir.path()).unwrap().filter(|entry| {
            let found = entry.as_ref().unwrap().metadata().unwrap();
            (found.mode() & 0o777, found.gid()) == (0o660, group)
        });
        assert_eq!(shared.count(), 2, "its own, and its broker's");
    }
}

#[test]
fn a_plugin_whose_host_goes_before_it_connects_goes_too() {
    for multiplex in ["", "true"] {
        let dir = tempfile::tempdir().unwrap();
        // It starts the plugin and waits for it, without a word to it.
        let mut host = Command::new("sh")
            .args(["-c", r#""$0" & echo "$!" >&2; wait"#])
            .arg(pong())
            .env_clear()
            .envs([("BASIC_PLUGIN", "hello"), ("PLUGIN_PROTOCOL_VERSIONS", "1")])
            .env("PLUGIN_MULTIPLEX_GRPC", multiplex)
            .env("PLUGIN_UNIX_SOCKET_DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(host.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = line.trim().parse().unwrap();
        let mut stdout = BufReader::new(host.stdout.take().unwrap());
        let mut handshake = String::new();
        stdout.read_line(&mut handshake).unwrap();
        assert!(handshake.starts_with("1|1|unix|"), "{handshake}");
        host.kill().unwrap();
        host.wait().unwrap();
        wait_for_end(pid);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "its socket is gone"
        );
    }
}

#[tokio::test]
async fn a_go_plugin_that_can_not_multiplex_says_so() {
    if go::is_recent() {
        return;
    }
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
    for (plugin, how) in everything() {
        let running = start(&plugin, &how).await.unwrap();
        let connection = running.connection.clone();
        let request = crate::messages::PrintKvRequest {
            key: "sleep".to_owned(),
            value: Some(KvValue::Number(600_000)),
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
        assert_eq!(running.stop().await.code(), Some(0), "{how:?}");
        assert!(call.await.unwrap().is_err());
    }
}
