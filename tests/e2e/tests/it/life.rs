//! `docs/life-of-a-call.md` and `docs/life-of-a-plugin.md` say what happens in which order; these tests follow the real spans.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use mortise::{
    CallOptions, Host, LoadRequest, Source,
    manifest::RuntimeName,
    runtime::{native, process},
};
use mortise_gateway::{Gateway, Options, call_json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{Id, Subscriber, span::Attributes};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, registry::LookupSpan};

static SPANS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// Notes the name of each span of ours in the order in which they begin.
struct Begun;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Begun {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target().starts_with("mortise") {
            SPANS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(metadata.name());
        }
    }
}

fn begun() -> Vec<&'static str> {
    std::mem::take(&mut *SPANS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The names in the first column of the page's table.
fn phases(page: &str) -> Vec<String> {
    let text = fs::read_to_string(mortise_e2e::root().join("docs").join(page)).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| phase "))
        .skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.split('|').nth(1).unwrap().trim().to_owned())
        .collect()
}

/// One test for both pages: the subscriber is the process's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_pages_tell_what_happens() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Begun)).unwrap();
    let data = tempfile::tempdir().unwrap();
    let config = native::NativeConfig::new(data.path().join("native"));
    let processes = process::ProcessConfig::new(data.path().join("run"));
    let builder = Host::builder()
        .data_dir(data.path().join("data"))
        .runtime(native::NativeRuntime::new(config))
        .runtime(process::ProcessRuntime::new(processes).unwrap());
    let host = builder.start().await.unwrap();

    // The life of a plugin: loaded, replaced (which drains and stops the first), removed.
    let load = async |folder: &str, runtime: RuntimeName| {
        let mut request = LoadRequest::new(Source::Folder(mortise_e2e::package(folder).unwrap()));
        request.runtime = Some(runtime);
        request.grant.permissions.kv = true;
        host.load(request).await.unwrap();
    };
    begun();
    load("echo", RuntimeName::Native).await;
    host.unload("echo").await.unwrap();
    assert_eq!(begun(), phases("life-of-a-plugin.md"));

    // The life of a call, over HTTP.
    load("echo", RuntimeName::Native).await;
    let gateway = Gateway::new(host.clone(), Options::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let stop = stop.clone();
        async move { gateway.serve(listener, stop).await }
    });
    let post = async |path: &str, body: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        begun();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"plugin.echo.Reverse","params":{"text":"live"}}"#;
    let answer = post("/rpc", body).await;
    assert!(answer.contains(r#""result":{"text":"evil"}"#), "{answer}");
    let mut documented = phases("life-of-a-call.md");
    // Over HTTP nobody is asked who they are; the test of the control socket is in `daemon`.
    documented.retain(|it| it != "authenticate");
    assert_eq!(begun(), documented);

    // Refused calls end where the page says they do.
    begun();
    call_json(&host, "plugin.echo.NoSuchMethod", "{}", None)
        .await
        .unwrap_err();
    assert_eq!(begun(), ["resolve"]);
    let too_large = vec![0; (64 << 20) + 1].into();
    host.call("plugin.echo.Echo", too_large, CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(begun(), ["resolve", "admit"]);

    // A call that streams passes the same phases, with a reply for each message, before it is accounted for.
    host.unload("echo").await.unwrap();
    load("echo", RuntimeName::Process).await;
    let answer = post("/stream/plugin.echo.Numbers", r#"{"count":3}"#).await;
    assert!(answer.contains(r#"{"value":"2"}"#), "{answer}");
    let mut seen = begun();
    while seen.last() != Some(&"account") {
        // Its task ends beside the answer.
        tokio::task::yield_now().await;
        seen.extend(begun());
    }
    let place = documented.iter().position(|it| it == "account").unwrap();
    let reply = documented.pop().unwrap();
    documented.splice(place..place, [reply.clone(), reply.clone(), reply]);
    assert_eq!(seen, documented);
    stop.cancel();
    server.await.unwrap();
    host.shutdown().await;
}
