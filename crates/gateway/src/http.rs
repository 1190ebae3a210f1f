//! HTTP on top of [`crate::jsonrpc`]: paths, headers, bodies, health.
//!
//! A request with an `Origin` header comes from a web page, and no page has business here: it is refused, which also keeps a page
//! that re-binds its own name to this address (DNS rebinding) out. A gateway for browsers will name its origins in the configuration.

use std::{error::Error, io, sync::Arc, time::Instant};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use mortise_host::{Host, State as PluginState};
use mortise_runtime::CallErrorKind;
use mortise_wire::Header;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{RpcError, lookup},
    jsonrpc::{self, Methods},
    options::Options,
    rpc::{CONTRACT_HEADER, Caller, PluginMethods},
    server::{self, Accept, Front},
    stream,
    trace::Trace,
};

/// The deadline of a request, in milliseconds from now.
pub const TIMEOUT_HEADER: &str = "x-mortise-timeout-ms";

const RPC: &str = "/rpc";
// Hashed once: with the text of a name, a look into the headers would parse it each time.
static TIMEOUT: HeaderName = HeaderName::from_static(TIMEOUT_HEADER);
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The HTTP edge of one host.
#[derive(Clone)]
pub struct Gateway {
    app: Arc<App>,
}

struct App {
    methods: Arc<PluginMethods>,
    options: Options,
    stopping: CancellationToken,
}

// === impl Gateway ===

impl Gateway {
    /// An edge for `host`. Nothing listens yet.
    #[must_use]
    pub fn new(host: Host, options: Options) -> Self {
        let methods = PluginMethods::new(host, options.detail);
        Self {
            app: Arc::new(App {
                methods,
                options,
                stopping: CancellationToken::new(),
            }),
        }
    }

    /// The routes, for a service that has a server of its own. The bounds on connections are then that server's part.
    pub fn router(&self) -> Router {
        Router::new()
            .route(RPC, post(rpc))
            .route("/stream/{*target}", post(stream_call))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/health/plugin/{name}", get(plugin_health))
            .with_state(Arc::clone(&self.app))
    }

    /// Serves `listener` until `stop` is cancelled and the requests in flight are answered.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let tcp = Tcp {
            listener,
            gateway: self.clone(),
            router: self.router(),
        };
        let unready = async {
            stop.cancelled().await;
            self.app.stopping.cancel();
        };
        tokio::join!(server::serve(tcp, &self.app.options, stop.clone()), unready);
    }
}

// === connections ===

/// TCP, with the same front for everybody.
struct Tcp {
    listener: TcpListener,
    gateway: Gateway,
    router: Router,
}

/// The path that nearly all requests take, ahead of the router that knows all of them.
struct Edge {
    app: Arc<App>,
    router: Router,
}

impl Accept for Tcp {
    type Stream = TcpStream;
    type Front = Edge;

    async fn accept(&self) -> io::Result<(TcpStream, Edge)> {
        let (stream, _) = self.listener.accept().await?;
        // Answers are written in one piece, so waiting for more to send only adds delay. A connection that is already gone may refuse it.
        let _ = stream.set_nodelay(true);
        let (app, router) = (Arc::clone(&self.gateway.app), self.router.clone());
        Ok((stream, Edge { app, router }))
    }
}

impl Front for Edge {
    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        if request.method() == Method::POST && request.uri().path() == RPC {
            let (head, body) = request.into_parts();
            return serve_rpc(&self.app, &head.headers, body).await;
        }
        // In a box, because every request is as large as the largest way to answer it.
        Box::pin(self.router.answer(request)).await
    }
}

// === routes ===

async fn rpc(State(app): State<Arc<App>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    serve_rpc(&app, &head.headers, body).await
}

async fn stream_call(State(app): State<Arc<App>>, Path(target): Path<String>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let accept = tracing::trace_span!("accept");
    match accept.in_scope(|| caller(&head.headers, &app.options, &app.methods.host)) {
        Ok(caller) => {
            let (methods, most) = (Arc::clone(&app.methods), app.options.body_bytes_max);
            // Half of the time that requests get, so that the other half is there to send the last line.
            let (stopping, grace) = (app.stopping.clone(), app.options.drain / 2);
            let cut = async move {
                stopping.cancelled().await;
                tokio::time::sleep(grace).await;
            };
            stream::answer(methods, &target, caller, &head.headers, body, most, cut).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn serve_rpc<B>(app: &App, headers: &HeaderMap, body: B) -> Response
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let accept = tracing::trace_span!("accept");
    let caller = match accept.in_scope(|| caller(headers, &app.options, &app.methods.host)) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let body = match read_body(body, headers, &app.options).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    answer(&*app.methods, &caller, &body, &app.options).await
}

/// Answers a body that was read; shared with the control socket.
pub(crate) async fn answer<M: Methods>(
    methods: &M,
    caller: &M::Caller,
    body: &[u8],
    options: &Options,
) -> Response {
    match jsonrpc::answer(methods, caller, body, options.bounds()).await {
        Some(answer) => json_response(StatusCode::OK, answer),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn healthz() -> Response {
    json_response(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())
}

/// Ready means that the host takes requests. Plugins do not matter: a sick one has a path of its own.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.stopping.is_cancelled() {
        return json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            br#"{"status":"stopping"}"#.to_vec(),
        );
    }
    let plugins = app.methods.host.list();
    let serving = plugins
        .iter()
        .filter(|it| matches!(it.state, PluginState::Probation | PluginState::Active))
        .count();
    let body = json!({ "status": "ready", "plugins": { "loaded": plugins.len(), "serving": serving } });
    json_response(StatusCode::OK, body.to_string().into_bytes())
}

async fn plugin_health(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let (status, body) = match app.methods.host.health(&name).await {
        Ok(health) => {
            let status = if health.serving {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            (
                status,
                json!({ "plugin": name, "serving": health.serving, "detail": health.detail }),
            )
        }
        Err(error) => {
            let status = match error.kind() {
                CallErrorKind::NotFound => StatusCode::NOT_FOUND,
                // Whatever kept the plugin from answering, a probe must read it as "not now".
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let mut body = json!({ "plugin": name, "serving": false, "kind": error.kind().as_str() });
            body["detail"] = error.to_string().into();
            body["hint"] = error.hint().into();
            (status, body)
        }
    };
    json_response(status, body.to_string().into_bytes())
}

// === requests ===

/// A request that is refused before its body counts.
pub(crate) struct HttpRefusal {
    status: StatusCode,
    error: RpcError,
}

impl HttpRefusal {
    fn new(status: StatusCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status,
            error: RpcError::invalid_request(message, hint),
        }
    }
}

impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, jsonrpc::refused(&self.error));
        // The rest of the body was not read, so the connection cannot be used again.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// What the headers say.
fn caller(headers: &HeaderMap, options: &Options, host: &Host) -> Result<Caller, HttpRefusal> {
    if let Some(origin) = headers.get(header::ORIGIN) {
        let message = format!(
            "the request comes from the web page {}",
            String::from_utf8_lossy(origin.as_bytes())
        );
        let hint = "this gateway does not serve browsers; call it from a program, without an `Origin` header";
        return Err(HttpRefusal::new(
            lookup(CallErrorKind::Denied).http,
            message,
            hint,
        ));
    }
    let deadline = headers
        .get(&TIMEOUT)
        .map(|value| deadline(value, options))
        .transpose()?;
    let trace = Trace::of(headers.get(&TRACEPARENT).map(HeaderValue::as_bytes));
    let named = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?.to_owned();
        Some(Header {
            name: name.to_owned(),
            value,
        })
    };
    let mut given: Vec<Header> = options.headers.iter().filter_map(|it| named(it)).collect();
    given.extend(named(CONTRACT_HEADER));
    // What only routes look at; the host hands it on to nobody.
    host.for_each_routed_header(|name| {
        if !options.headers.iter().any(|it| it == name) {
            given.extend(named(name));
        }
    });
    Ok(Caller {
        headers: given,
        trace,
        deadline,
    })
}

fn deadline(value: &HeaderValue, options: &Options) -> Result<Instant, HttpRefusal> {
    let given = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|ms| *ms > 0);
    let Some(ms) = given else {
        let message = format!(
            "`{TIMEOUT_HEADER}` is {:?}",
            String::from_utf8_lossy(value.as_bytes())
        );
        return Err(HttpRefusal::new(
            StatusCode::BAD_REQUEST,
            message,
            "give the time left in milliseconds, at least 1",
        ));
    };
    Ok(Instant::now() + std::time::Duration::from_millis(ms).min(options.deadline_max))
}

/// Reads a body within its bounds of size and time.
pub(crate) async fn read_body<B>(
    body: B,
    headers: &HeaderMap,
    options: &Options,
) -> Result<Bytes, HttpRefusal>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let too_large = || {
        let message = format!("the body is larger than {} bytes", options.body_bytes_max);
        HttpRefusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, "send less at once")
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > options.body_bytes_max as u64) {
        return Err(too_large());
    }
    let mut read = std::pin::pin!(Limited::new(body, options.body_bytes_max).collect());
    // Most bodies arrived with their head: then no timer is made.
    let read = match read.as_mut().now_or_never() {
        Some(read) => read,
        None => match tokio::time::timeout(options.body_read, read).await {
            Ok(read) => read,
            Err(_) => {
                let message = format!(
                    "the body did not arrive within {} ms",
                    options.body_read.as_millis()
                );
                return Err(HttpRefusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    message,
                    "send it faster, or in smaller requests",
                ));
            }
        },
    };
    match read {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => {
            let message = format!("the body broke off: {error}");
            Err(HttpRefusal::new(
                StatusCode::BAD_REQUEST,
                message,
                "send as many bytes as the head announces",
            ))
        }
    }
}

pub(crate) fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
