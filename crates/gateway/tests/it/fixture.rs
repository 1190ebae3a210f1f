//! A host with the plugin `guest`, its gateway on a free port, and a client that keeps nothing from the test.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use mortise_gateway::{CancellationToken, Gateway, Options};
use mortise_host::{Host, LoadRequest, Source};
use mortise_manifest::{Grant, HostConfig, RuntimeName};
use mortise_runtime::{
    Artifact, Bounds, BoxFuture, Call, CallContext, CallError, CallErrorKind, EndCause, Enforcement,
    Instance, InstanceId, Interrupt, Isolation, MethodIndex, Prepared, Runtime, RuntimeError, Start,
    StopReport, StreamCall, StreamHandle, Support, Usage, Verified, pipe,
};
use mortise_store::Package;
use mortise_wire::{Code, Health, Metadata, Status};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

const MANIFEST: &str = r#"
[plugin]
name = "guest"
version = "1.2.3"
api = 1
[contract]
provides = ["test.v1.Guest"]
"#;

const CONTRACT: &str = r#"
syntax = "proto3";
package test.v1;
import "google/protobuf/struct.proto";
service Guest {
  rpc Echo(Text) returns (Text);
  rpc Fail(Failure) returns (Text);
  rpc Held(Text) returns (Text);
  rpc Large(Size) returns (Text);
  rpc Lie(Text) returns (Size);
  rpc Panic(Text) returns (Text);
  rpc Seen(Text) returns (SeenReply);
  rpc Shapeless(google.protobuf.Struct) returns (google.protobuf.Struct);
  rpc Stream(stream Text) returns (stream Text);
}
message Text { string text = 1; }
message Size { uint64 bytes = 1; }
message Failure { int32 code = 1; string message = 2; }
message SeenReply { string traceparent = 1; bool has_deadline = 2; map<string, string> metadata = 3; }
"#;

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Size {
    #[prost(uint64, tag = "1")]
    bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Failure {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct SeenReply {
    #[prost(string, tag = "1")]
    traceparent: String,
    #[prost(bool, tag = "2")]
    has_deadline: bool,
    #[prost(map = "string, string", tag = "3")]
    metadata: std::collections::HashMap<String, String>,
}

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("guest.proto"), CONTRACT).unwrap();
    let protos = mortise_build::compile_protos(dir.path()).unwrap();
    mortise_build::metadata(MANIFEST, &protos.descriptor_set).unwrap()
});

/// What a test can do to the plugin, and know of it.
#[derive(Clone)]
pub(crate) struct Knobs {
    /// Calls of `Held` that wait.
    pub(crate) held: watch::Receiver<usize>,
    /// A permit lets one of them go.
    pub(crate) gate: Arc<Semaphore>,
    /// What the plugin says about its health.
    pub(crate) healthy: watch::Sender<bool>,
    arrivals: watch::Sender<usize>,
}

impl Knobs {
    fn new() -> Self {
        let (arrivals, held) = watch::channel(0);
        Self {
            held,
            gate: Arc::new(Semaphore::new(0)),
            healthy: watch::channel(true).0,
            arrivals,
        }
    }

    /// Waits until that many calls of `Held` wait.
    pub(crate) async fn until_held(&self, count: usize) {
        self.held.clone().wait_for(|it| *it == count).await.unwrap();
    }
}

/// The runtime of the test's plugin.
struct Guests(Knobs);

impl Runtime for Guests {
    fn support(&self) -> Support {
        Support {
            runtime: RuntimeName::Builtin,
            available: true,
            isolation: Isolation::None,
            interrupt: Interrupt::Never,
            memory_limit: Enforcement::NotEnforced("it is part of the test"),
            purity: Enforcement::NotEnforced("it is part of the test"),
            cpu_limit: Enforcement::NotEnforced("it is part of the test"),
            restartable: true,
            lacks: Vec::new(),
        }
    }

    fn read_metadata(&self, _: &Artifact) -> Result<Metadata, RuntimeError> {
        Ok(METADATA.clone())
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        _: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        Box::pin(async move { Ok(Prepared::new(artifact.metadata().clone(), ())) })
    }

    fn start(&self, _: Prepared, start: Start) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        let instance = Guest {
            id: start.instance,
            knobs: self.0.clone(),
        };
        Box::pin(async move { Ok(Box::new(instance) as Box<dyn Instance>) })
    }
}

struct Guest {
    id: InstanceId,
    knobs: Knobs,
}

impl Instance for Guest {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn stream(&self) -> Option<&dyn StreamCall> {
        Some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        let serving = *self.knobs.healthy.borrow();
        let detail = if serving { "" } else { "it has a cold" };
        Box::pin(async move {
            Ok(Health {
                serving,
                detail: detail.to_owned(),
            })
        })
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        Box::pin(std::future::pending())
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn stop(&self, _: Duration) -> BoxFuture<'_, StopReport> {
        Box::pin(async { StopReport::default() })
    }
}

/// Gives each message back; one whose text is `fail` ends it.
impl StreamCall for Guest {
    fn open<'a>(
        &'a self,
        _: &'a CallContext,
        _: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>> {
        let bounds = Bounds {
            messages: 2,
            bytes: 1 << 20,
        };
        let (requests, mut guest_requests) = pipe(bounds);
        let (mut guest_replies, replies) = pipe(bounds);
        tokio::spawn(async move {
            let end = loop {
                match guest_requests.next().await {
                    Ok(Some(text)) if Text::decode(text.clone()).unwrap().text == "fail" => {
                        break Err(CallError::returned(Status::new(Code::Aborted, "as told")));
                    }
                    Ok(Some(text)) => {
                        if guest_replies.send(text).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            drop(guest_requests);
            guest_replies.end(end);
        });
        Box::pin(async { Ok(StreamHandle::of_pipes(requests, replies)) })
    }
}

impl Call for Guest {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            let text = |text: String| Ok(Bytes::from(Text { text }.encode_to_vec()));
            match METADATA.methods[method.0 as usize].name.as_str() {
                "Echo" | "Shapeless" => Ok(payload),
                "Fail" => {
                    let failure = Failure::decode(payload).unwrap();
                    let mut status = Status::new(Code::from_i32(failure.code), failure.message);
                    status.details.push(prost_types::Any {
                        type_url: "type.googleapis.com/test.v1.Size".to_owned(),
                        value: Size { bytes: 7 }.encode_to_vec(),
                    });
                    Err(CallError::returned(status))
                }
                "Held" => {
                    self.knobs.arrivals.send_modify(|it| *it += 1);
                    let until = tokio::time::Instant::from_std(cx.deadline.expect("the host sets one"));
                    let late = || CallError::new(CallErrorKind::Deadline, "the deadline passed at the gate");
                    let permit = tokio::time::timeout_at(until, self.knobs.gate.acquire()).await;
                    permit.map_err(|_| late())?.unwrap().forget();
                    Ok(payload)
                }
                "Large" => text("x".repeat(Size::decode(payload).unwrap().bytes as usize)),
                "Lie" => Ok(Bytes::from_static(b"\xff\xff")),
                "Panic" => Err(CallError::new(
                    CallErrorKind::GuestFault,
                    "panicked with the password hunter2",
                )),
                "Seen" => {
                    let seen = SeenReply {
                        traceparent: cx.traceparent.to_string(),
                        has_deadline: cx.deadline.is_some(),
                        metadata: cx
                            .metadata
                            .iter()
                            .map(|it| (it.name.clone(), it.value.clone()))
                            .collect(),
                    };
                    Ok(seen.encode_to_vec().into())
                }
                other => unreachable!("{other}"),
            }
        })
    }
}

/// A host with the plugin loaded.
pub(crate) async fn host() -> (Host, Knobs) {
    let knobs = Knobs::new();
    let mut config = HostConfig::default();
    config.routing.propagate = vec!["x-tenant".to_owned()];
    let package = Package::builtin("guest", MANIFEST, &METADATA.descriptor_set).unwrap();
    let host = Host::builder()
        .runtime(Guests(knobs.clone()))
        .builtin("guest", package)
        .config(config)
        .start()
        .await
        .unwrap();
    host.load(LoadRequest::new(Source::Builtin("guest".to_owned())))
        .await
        .unwrap();
    (host, knobs)
}

/// A gateway that serves.
pub(crate) struct Edge {
    pub(crate) host: Host,
    pub(crate) knobs: Knobs,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Edge {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let (host, knobs) = host().await;
        let mut options = Options::default();
        options.headers = vec!["x-tenant".to_owned()];
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let gateway = Gateway::new(host.clone(), options);
        let stopped = stop.clone();
        let serving = tokio::spawn(async move { gateway.serve(listener, stopped).await });
        Self {
            host,
            knobs,
            address,
            stop,
            serving,
        }
    }

    pub(crate) async fn post(&self, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post("/rpc"), body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), "").await
    }

    pub(crate) async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        exchange(
            TokioIo::new(stream),
            request
                .header("host", "localhost")
                .body(Full::new(body.into()))
                .unwrap(),
        )
        .await
    }

    /// The `result`, or a panic with the whole answer.
    pub(crate) async fn result(&self, method: &str, params: &str) -> serde_json::Value {
        let answer = self.call(method, params).await;
        answer.get("result").unwrap_or_else(|| panic!("{answer}")).clone()
    }

    /// The `error`, or a panic with the whole answer.
    pub(crate) async fn error(&self, method: &str, params: &str) -> serde_json::Value {
        let answer = self.call(method, params).await;
        answer.get("error").unwrap_or_else(|| panic!("{answer}")).clone()
    }

    pub(crate) async fn call(&self, method: &str, params: &str) -> serde_json::Value {
        let answer = self
            .post(format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#
            ))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }
}

/// One request on a connection of its own.
pub(crate) async fn exchange<S>(io: TokioIo<S>, request: Request<Full<Bytes>>) -> Answer
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}
