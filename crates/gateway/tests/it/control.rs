//! The control socket: who may use it, and that server and client mean the same.

use std::{
    ops::ControlFlow,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::Command,
    time::Instant,
};

use mortise_gateway::{
    CancellationToken,
    control::{self, Client, ClientError, ControlSocket, HostFacts},
};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use crate::fixture::{Knobs, host};

struct Control {
    client: Client,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    knobs: Knobs,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

async fn start() -> Control {
    let (host, knobs) = host().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/control.sock");
    let socket = ControlSocket::bind(&path).unwrap();
    let stop = CancellationToken::new();
    let facts = HostFacts {
        version: "9.9.9".to_owned(),
        started: Instant::now(),
        data_dir: None,
        listen: None,
        reload: None,
    };
    let serving = tokio::spawn(socket.serve(host, facts, stop.clone()));
    Control {
        client: Client::new(&path),
        stop,
        serving,
        knobs,
        path,
        _dir: dir,
    }
}

fn raw(json: &str) -> Option<Box<RawValue>> {
    Some(RawValue::from_string(json.to_owned()).unwrap())
}

fn refusal(error: ClientError) -> mortise_gateway::RpcError {
    match error {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_the_host_says_is_what_the_client_reads() {
    let control = start().await;
    let client = &control.client;
    let all = client.ask(&control::List {}).await.unwrap();
    assert_eq!(
        (all.len(), &*all[0].name, &*all[0].plugin),
        (1, "guest", "guest 1.2.3")
    );
    assert_eq!(all[0].runtime.as_deref(), Some("builtin"));

    let call = control::Call {
        target: "plugin.guest.Echo".to_owned(),
        params: raw(r#"{"text":"hi"}"#),
        timeout_ms: Some(5000),
        headers: [("X-Tenant".to_owned(), "acme".to_owned())].into(),
    };
    assert_eq!(client.ask(&call).await.unwrap().get(), r#"{"text":"hi"}"#);
    let seen = client
        .ask(&control::Call {
            target: "plugin.guest.Seen".to_owned(),
            params: None,
            ..call
        })
        .await
        .unwrap();
    assert!(seen.get().contains(r#""x-tenant":"acme""#), "{seen}");

    let detail = client
        .ask(&control::Inspect {
            plugin: "guest".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(detail.methods.len(), 9);
    assert_eq!(detail.plugin.calls, 2);
    let history = client
        .ask(&control::History {
            plugin: "guest".to_owned(),
        })
        .await
        .unwrap();
    assert!(!history.is_empty() && history.len() == detail.history.len());

    let doctor = client.ask(&control::Doctor {}).await.unwrap();
    assert_eq!((&*doctor.version, doctor.pid), ("9.9.9", std::process::id()));
    assert_eq!(doctor.runtimes, client.ask(&control::Supports {}).await.unwrap());
    assert_eq!(doctor.runtimes[0].runtime, "builtin");
}

#[tokio::test]
async fn load_and_unload() {
    let control = start().await;
    let client = &control.client;
    let second = control::Load {
        source: "builtin:guest".to_owned(),
        name: Some("second".to_owned()),
        ..control::Load::default()
    };
    assert_eq!(client.ask(&second).await.unwrap().name, "second");
    let replaced = client.ask(&second).await.unwrap();
    assert_eq!(replaced.generation, 2, "the same name again is a swap");
    let gone = client
        .ask(&control::Unload {
            plugin: "second".to_owned(),
            cascade: false,
        })
        .await
        .unwrap();
    assert_eq!((&*gone.name, gone.cancelled), ("second", 0));
}

#[tokio::test]
async fn refusals_have_a_kind_and_a_hint() {
    let control = start().await;
    let client = &control.client;
    let load = |source: &str| control::Load {
        source: source.to_owned(),
        ..control::Load::default()
    };
    let mut text = String::new();
    let mut note = |what: &str, error: mortise_gateway::RpcError| {
        text += &format!(
            "{what}\n  {} {} {error}\n  {}\n",
            error.code,
            error.kind(),
            error.hint().unwrap_or("-")
        );
    };
    note(
        "unload",
        refusal(
            client
                .ask(&control::Unload {
                    plugin: "nobody".to_owned(),
                    cascade: false,
                })
                .await
                .unwrap_err(),
        ),
    );
    note(
        "load, nothing there",
        refusal(client.ask(&load("/nowhere/at/all")).await.unwrap_err()),
    );
    note(
        "load, relative",
        refusal(client.ask(&load("plugins/x")).await.unwrap_err()),
    );
    note(
        "load, builtin",
        refusal(client.ask(&load("builtin:nobody")).await.unwrap_err()),
    );
    let odd = control::Load {
        runtime: Some("jvm".to_owned()),
        ..load("builtin:guest")
    };
    note("load, runtime", refusal(client.ask(&odd).await.unwrap_err()));
    let mut none = load("builtin:guest");
    none.limits.concurrency = Some(0);
    note("load, limits", refusal(client.ask(&none).await.unwrap_err()));
    // The operator sees what the network does not.
    let panic = control::Call {
        target: "plugin.guest.Panic".to_owned(),
        params: None,
        timeout_ms: None,
        headers: Default::default(),
    };
    note("call", refusal(client.ask(&panic).await.unwrap_err()));
    insta::assert_snapshot!(text);
}

#[tokio::test]
async fn shutdown_answers_finishes_calls_and_takes_the_socket_away() {
    let control = start().await;
    let held = control::Call {
        target: "plugin.guest.Held".to_owned(),
        params: None,
        timeout_ms: None,
        headers: Default::default(),
    };
    let client = control.client.clone();
    let in_flight = tokio::spawn(async move { client.ask(&held).await });
    control.knobs.until_held(1).await;
    assert!(control.client.ask(&control::Shutdown {}).await.unwrap().stopping);
    assert!(control.stop.is_cancelled());
    control.knobs.gate.add_permits(1);
    in_flight.await.unwrap().unwrap();
    control.serving.await.unwrap();
    assert!(!control.path.exists());
    assert!(matches!(
        control.client.ask(&control::List {}).await,
        Err(ClientError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn the_socket_is_the_owners_alone() {
    let control = start().await;
    let mode = std::fs::metadata(&control.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Another user, past the mode: the kernel's word decides.
#[tokio::test]
async fn another_user_gets_one_clear_refusal() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to be somebody else");
        return;
    }
    let control = start().await;
    std::fs::set_permissions(&control.path, std::fs::Permissions::from_mode(0o777)).unwrap();
    for folder in control.path.ancestors().skip(1).take(2) {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = control.path.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
                      print $s \"POST / HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 2\\r\\n\\r\\n{}\"; local $/; print <$s>";
        Command::new("perl")
            .args(["-e", script])
            .arg(path)
            .uid(65534)
            .gid(65534)
            .output()
    });
    let Ok(asked) = asked.await.unwrap() else {
        println!("skipped: needs perl, to speak as somebody else");
        return;
    };
    let answer = String::from_utf8_lossy(&asked.stdout);
    assert!(
        answer.starts_with("HTTP/1.1 403 "),
        "{answer} {}",
        String::from_utf8_lossy(&asked.stderr)
    );
    assert!(
        answer.contains("user 65534 may not control this host"),
        "{answer}"
    );
    control
        .client
        .ask(&control::List {})
        .await
        .expect("the owner is served all the same");
}

#[tokio::test]
async fn a_path_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let first = ControlSocket::bind(&path).unwrap();
    assert!(
        ControlSocket::bind(&path)
            .unwrap_err()
            .to_string()
            .contains("another host answers there")
    );
    // A host that was killed leaves its socket behind.
    std::mem::forget(first);
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    ControlSocket::bind(&stale).expect("nobody listens there any more");

    let file = dir.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    assert!(
        ControlSocket::bind(&file)
            .unwrap_err()
            .to_string()
            .contains("no socket")
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");

    let long = dir.path().join("x".repeat(120));
    assert!(ControlSocket::bind(&long).unwrap_err().hint.contains("107"));
}

#[tokio::test]
async fn a_socket_is_removed_only_by_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let first = ControlSocket::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _second = ControlSocket::bind(&path).unwrap();
    drop(first);
    assert!(path.exists(), "the second host's socket is still there");
}

/// Streams, and what it heard: the replies, and how it ended.
async fn stream(
    client: &Client,
    call: &control::StreamCall,
    pieces: &[&'static str],
) -> (Vec<String>, Result<(), ClientError>) {
    let mut replies = Vec::new();
    let requests: Vec<_> = pieces
        .iter()
        .map(|it| bytes::Bytes::from_static(it.as_bytes()))
        .collect();
    let ended = client
        .stream(call, futures_util::stream::iter(requests), |reply| {
            replies.push(reply.to_owned());
            ControlFlow::Continue(())
        })
        .await;
    (replies, ended)
}

#[tokio::test]
async fn streams_go_over_the_control_socket_too() {
    let control = start().await;
    let client = &control.client;
    let call = |target: &str| control::StreamCall {
        target: target.to_owned(),
        ..control::StreamCall::default()
    };
    // Pieces have nothing to do with lines, and replies may look like errors.
    let pieces = [
        "{\"text\":\"a\"}\n{\"te",
        "xt\":\"event: error\\n\\n\"}",
        "\n\n{\"text\":\"ö\"}",
    ];
    for target in ["plugin.guest.Stream", "test.v1.Guest/Stream"] {
        let (replies, ended) = stream(client, &call(target), &pieces).await;
        ended.unwrap();
        assert_eq!(
            replies,
            [
                "{\"text\":\"a\"}",
                "{\"text\":\"event: error\\n\\n\"}",
                "{\"text\":\"ö\"}"
            ]
        );
    }
    let (replies, ended) = stream(
        client,
        &call("plugin.guest.Stream"),
        &["{\"text\":\"a\"}\n{\"text\":\"fail\"}\n"],
    )
    .await;
    assert_eq!(replies, ["{\"text\":\"a\"}"]);
    let error = refusal(ended.unwrap_err());
    assert_eq!((&*error.message, error.kind()), ("as told", "returned"));
    // Refused before it began, whatever its name is.
    for target in ["plugin.nobody.Stream", "plugin.guest.Strömung ?#"] {
        let (replies, ended) = stream(client, &call(target), &[]).await;
        assert!(replies.is_empty());
        assert_eq!(refusal(ended.unwrap_err()).kind(), "not_found", "{target}");
    }
    let (_, ended) = stream(client, &call("plugin.guest.Echo"), &["{}"]).await;
    assert_eq!(refusal(ended.unwrap_err()).kind(), "incompatible");
    // Whoever has enough ends it.
    let mut seen = 0;
    let endless = futures_util::stream::repeat(bytes::Bytes::from_static(b"{\"text\":\"x\"}\n"));
    let enough = |_: &str| {
        seen += 1;
        if seen == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    client
        .stream(&call("plugin.guest.Stream"), endless, enough)
        .await
        .unwrap();
    assert_eq!(seen, 3);
}

#[tokio::test]
async fn who_serves_a_method_and_how_it_is_called() {
    let control = start().await;
    let ask = |target: &str| control::Resolve {
        target: target.to_owned(),
        ..control::Resolve::default()
    };
    for (target, method, streams) in [
        ("plugin.guest.Echo", "Echo", false),
        ("test.v1.Guest/Stream", "Stream", true),
    ] {
        let resolved = control.client.ask(&ask(target)).await.unwrap();
        let expected = control::Resolved {
            plugin: "guest".to_owned(),
            version: "1.2.3".to_owned(),
            service: "test.v1.Guest".to_owned(),
            method: method.to_owned(),
            client_streaming: streams,
            server_streaming: streams,
        };
        assert_eq!(resolved, expected);
    }
    let error = refusal(
        control
            .client
            .ask(&ask("plugin.guest.Nothing"))
            .await
            .unwrap_err(),
    );
    assert!(error.hint().is_some(), "{error}");
}

#[tokio::test]
async fn a_change_goes_on_when_whoever_asked_for_it_is_gone() {
    let control = start().await;
    let call = control::Call {
        target: "plugin.guest.Held".to_owned(),
        params: raw(r#"{"text":"last"}"#),
        timeout_ms: Some(60_000),
        headers: [].into(),
    };
    let held = Client::new(&control.path);
    let held = tokio::spawn(async move { held.ask(&call).await });
    control.knobs.until_held(1).await;
    let impatient = Client::new(&control.path);
    let unload = control::Unload {
        plugin: "guest".to_owned(),
        cascade: false,
    };
    let impatient = tokio::spawn(async move { impatient.ask(&unload).await });
    let outcome = async || {
        let changes = control::Changes::default();
        let mut changes = control.client.ask(&changes).await.unwrap();
        let newest = changes.swap_remove(0);
        (newest.action, newest.outcome)
    };
    while outcome().await != ("unload".to_owned(), "begun".to_owned()) {
        tokio::task::yield_now().await;
    }
    impatient.abort();
    impatient.await.unwrap_err();
    control.knobs.gate.add_permits(1);
    held.await.unwrap().unwrap();
    while outcome().await.1 == "begun" {
        tokio::task::yield_now().await;
    }
    assert_eq!(outcome().await.1, "done");
    assert!(control.client.ask(&control::List {}).await.unwrap().is_empty());
}
