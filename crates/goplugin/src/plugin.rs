//! The plugin's side: answers a host's invitation, listens, and serves until it is told to stop.
//!
//! ```text
//!  Plugin::bind --> handshake line on standard output --> Plugin::serve
//!                                                          ends on GRPCController/Shutdown,
//!                                                          or when the host is gone
//! ```
//!
//! Beside the application's own services it serves health, the controller, standard output, the broker, reflection (v1 and v1alpha) and `mortise.goplugin.v1.PluginService/Invoke`, which
//! takes any unary method by its name.
//!
//! Unlike Go's, a plugin that is served here ends when its host does, unless it is told to stay ([`Orphan`]).

use std::{
    convert::Infallible,
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use http_body_util::BodyExt as _;
use prost::Message;
use prost_types::FileDescriptorSet;
use rustix::process::{Pid, getppid};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, body::Body, metadata::MetadataMap, server::Grpc};
use tower::service_fn;

use crate::{
    AddressPolicy, BoxFuture, Broker, Invitation,
    broker::BrokerConfig,
    codec::{BytesCodec, MESSAGE_BYTES_MAX},
    descriptors::Mirror,
    handshake::{Handshake, NetAddress},
    mux::{Mux, Side},
    proto::{
        Channel, Empty, HEALTH_SERVICE, HealthCheckRequest, HealthCheckResponse, InvokeReply, InvokeRequest,
        ReflectionRequest, ReflectionResponse, Serving, path,
    },
    socket::{self, Audience},
    stdio::Printed,
    tls::{Identity, Session, TlsError, certificate_of_pem},
    transport::{Wire, server},
    version,
};

/// The generic service.
pub const INVOKE_SERVICE: &str = "mortise.goplugin.v1.PluginService";
const INVOKE: &str = "/mortise.goplugin.v1.PluginService/Invoke";
/// Calls that still run when the host says shutdown are waited for so long; the host kills after 2 s.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
/// Connections that nobody took yet.
const BACKLOG: usize = 16;
/// How often it is looked whether the host is gone, where the kernel can't tell.
const PARENT_INTERVAL: Duration = Duration::from_secs(1);

/// What an application serves.
pub trait Service: Send + Sync + 'static {
    /// Whether there is a method `package.Service/Method`, and how it is called.
    fn shape(&self, method: &str) -> Option<Shape>;

    /// Answers a unary call.
    fn call<'a>(&'a self, invoked: Invoked<'a>, payload: Bytes) -> BoxFuture<'a, Result<Bytes, Status>>;

    /// Answers a call that streams. A call that its caller resets ends its messages with `Aborted`, and drops the replies.
    fn stream<'a>(
        &'a self,
        invoked: Invoked<'a>,
        messages: BoxStream<'static, Result<Bytes, Status>>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, Status>>, Status>> {
        drop(messages);
        let method = invoked.method.to_owned();
        Box::pin(async move { Err(Status::unimplemented(format!("`{method}` does not stream"))) })
    }

    /// Its services with their files, for reflection.
    fn descriptors(&self) -> (FileDescriptorSet, Vec<String>) {
        (FileDescriptorSet::default(), Vec::new())
    }

    /// Why it does not serve, if it does not.
    fn unhealthy(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }
}

/// How a method is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one reply.
    Unary,
    /// Anything else.
    Streaming,
}

/// What goes with a call.
#[derive(Clone, Debug)]
pub struct Invoked<'a> {
    /// `package.Service/Method`
    pub method: &'a str,
    /// The caller's headers.
    pub metadata: MetadataMap,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
}

/// What a plugin does when its host ends without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orphan {
    /// It ends too. The default.
    #[default]
    Exit,
    /// It stays, and waits for a host that reattaches.
    Stay,
}

/// What a plugin decides for itself.
#[derive(Clone, Debug, Default)]
pub struct PluginOptions {
    /// The versions of the application's protocol that it knows; at least one.
    pub versions: Vec<u32>,
    /// What it does without a host.
    pub orphan: Orphan,
}

/// A plugin that listens and has not said so yet.
pub struct Plugin {
    handshake: Handshake,
    listener: UnixListener,
    path: PathBuf,
    tls: Option<Session>,
    broker_directory: PathBuf,
    audience: Audience,
    multiplex: bool,
    orphan: Orphan,
    /// Who started this process, as of the time when it had surely not ended: it waits for the handshake.
    parent: Option<Pid>,
    printed: Printed,
}

/// Why a plugin can't answer its host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// It has no version.
    #[error("this plugin names no version of its protocol; name at least one")]
    NoVersion,
    /// No socket.
    #[error("no socket could be made at `{path}`")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

// === impl Plugin ===

impl Plugin {
    /// Listens where the host wants it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If there is no version, no socket or no certificate to be had.
    pub fn bind(invitation: &Invitation, options: &PluginOptions) -> Result<Self, PluginError> {
        let version =
            version::choose(&options.versions, &invitation.versions).ok_or(PluginError::NoVersion)?;
        let identity = match &invitation.certificate_pem {
            Some(pem) => Some((Identity::generate()?, certificate_of_pem(pem)?)),
            None => None,
        };
        let tls = match &identity {
            Some((own, host)) => Some(Session::new(own, host)?),
            None => None,
        };
        let path = invitation
            .directory
            .join(format!("plugin-{}", std::process::id()));
        let failed = |source| PluginError::Bind {
            path: path.clone(),
            source,
        };
        // A socket of a process that had our id and is gone.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let audience = match &invitation.group {
            None => Audience::Own,
            Some(name) => {
                let unknown =
                    || io::Error::new(io::ErrorKind::NotFound, format!("there is no group `{name}`"));
                Audience::Group(socket::group(name).ok_or_else(unknown).map_err(failed)?)
            }
        };
        let listener = socket::bind(&path, audience).map_err(failed)?;
        Ok(Self {
            handshake: Handshake {
                app: version,
                address: NetAddress::Unix(path.clone()),
                protocol: "grpc".to_owned(),
                certificate: identity.map(|(own, _)| own.der().to_vec()),
                // A seventh field would confuse a host that did not ask.
                multiplex: invitation.multiplex.map(|_| true),
            },
            listener,
            path,
            tls,
            broker_directory: invitation.directory.clone(),
            audience,
            multiplex: invitation.multiplex == Some(true),
            orphan: options.orphan,
            parent: getppid(),
            printed: Printed::default(),
        })
    }

    /// The version that both sides know, or this side's lowest.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.handshake.app
    }

    /// What must be written to standard output, with its end.
    #[must_use]
    pub fn handshake_line(&self) -> String {
        format!("{}\n", self.handshake)
    }

    /// Sends on to the host what is read from `pipe`: what the plugin prints from now on, if the pipe's other end has taken the place of its standard output or error.
    pub fn forward_output(&self, pipe: impl tokio::io::AsyncRead + Send + Unpin + 'static, is_stderr: bool) {
        let printed = self.printed.clone();
        let channel = if is_stderr {
            Channel::Stderr
        } else {
            Channel::Stdout
        };
        tokio::spawn(async move {
            let mut pipe = pipe;
            let mut chunk = vec![0; 1 << 10];
            while let Ok(read) = tokio::io::AsyncReadExt::read(&mut pipe, &mut chunk).await
                && read > 0
            {
                printed
                    .push(channel, Bytes::copy_from_slice(&chunk[..read]))
                    .await;
            }
        });
    }

    /// Serves until the host says shutdown or is gone. `make` gets the broker.
    ///
    /// # Errors
    /// If the socket breaks.
    pub async fn serve(self, make: impl FnOnce(Broker) -> Arc<dyn Service>) -> io::Result<()> {
        let (wires, incoming) = mpsc::channel(BACKLOG);
        let stop = watch::Sender::new(false);
        let (mux, broker, accepting) = if self.multiplex {
            // The one connection is the session; everything comes out of it.
            let orphaned = async {
                match self.orphan {
                    Orphan::Stay => std::future::pending().await,
                    Orphan::Exit => gone(self.parent).await,
                }
            };
            let stream = tokio::select! {
                accepted = self.listener.accept() => accepted?.0,
                () = orphaned => {
                    let _ = std::fs::remove_file(&self.path);
                    return Ok(());
                }
            };
            let (mux, streams) = Mux::start(Wire::new(stream), Side::Plugin);
            let broker = self.broker(Some(mux.clone()));
            let routing = broker.clone();
            let task = tokio::spawn(async move { routing.route_streams(streams, Some(wires)).await });
            (Some(mux), broker, task)
        } else {
            let broker = self.broker(None);
            let tls = self.tls.clone();
            let task = tokio::spawn(accept(self.listener, tls, wires));
            (None, broker, task)
        };
        let core = Core {
            broker: broker.clone(),
            printed: self.printed.clone(),
            stop: stop.clone(),
        };
        let (orphan, parent) = (self.orphan, self.parent);
        let mut stopped = stop.subscribe();
        let over = async move {
            let stopped = async {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            match orphan {
                Orphan::Stay => stopped.await,
                Orphan::Exit => tokio::select! {
                    () = stopped => {}
                    () = gone(parent) => {}
                },
            }
        };
        let closing = broker.clone();
        let over = async move {
            over.await;
            // Streams of the protocol's own end with it.
            closing.close();
            stop.send_replace(true);
        };
        serve_wires(
            Some(core),
            make(broker.clone()),
            ReceiverStream::new(incoming),
            over,
        )
        .await;
        accepting.abort();
        // The last replies are the session's by now, and not yet the socket's.
        if let Some(mux) = mux {
            mux.finish().await;
        }
        let _ = std::fs::remove_file(&self.path);
        Ok(())
    }

    fn broker(&self, mux: Option<Mux>) -> Broker {
        Broker::new(BrokerConfig {
            directory: self.broker_directory.clone(),
            audience: self.audience,
            // The host puts its sockets where it likes, and has every right over its plugin.
            policy: AddressPolicy {
                tcp: self.tls.is_some(),
                ..AddressPolicy::default()
            },
            tls: self.tls.clone(),
            mux,
        })
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

async fn accept(listener: UnixListener, tls: Option<Session>, wires: mpsc::Sender<Wire>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor to be had just now: the next host or connection is not to suffer for it.
            tokio::time::sleep(socket::ACCEPT_PAUSE).await;
            continue;
        };
        let (tls, wires) = (tls.clone(), wires.clone());
        tokio::spawn(async move {
            if let Ok(wire) = Wire::new(stream).accept_tls(tls.as_ref()).await {
                let _ = wires.send(wire).await;
            }
        });
    }
}

/// Resolves when `parent`, the process that started this one, has ended.
async fn gone(parent: Option<Pid>) {
    #[cfg(target_os = "linux")]
    if let Some(parent) = parent
        && let Ok(held) = crate::process::Held::open(parent)
    {
        // It may have ended before it was held, and its id be another's.
        if getppid() == Some(parent) {
            held.ended().await;
        }
        return;
    }
    while getppid() == parent {
        tokio::time::sleep(PARENT_INTERVAL).await;
    }
}

// === serving ===

/// What the first connection serves beside the application.
#[derive(Clone)]
pub(crate) struct Core {
    broker: Broker,
    printed: Printed,
    stop: watch::Sender<bool>,
}

#[derive(Clone)]
struct Dispatch {
    core: Option<Core>,
    app: Arc<dyn Service>,
    mirror: Arc<Mirror>,
}

/// Serves `app`, and nothing of the protocol's own, over a socket that is open already: gRPC's server for somebody who has no use for the rest.
/// Returns when the client is gone, or after `over` when running calls have finished or had their time.
pub async fn serve_socket(
    socket: UnixStream,
    app: Arc<dyn Service>,
    over: impl Future<Output = ()> + Send + 'static,
) {
    let (wire, client_gone) = Wire::watched(socket);
    let over = async move {
        tokio::select! {
            _ = client_gone => {}
            () = over => {}
        }
    };
    // Nothing else comes, and the server is not to end for that.
    let wires = futures_util::stream::iter([wire]).chain(futures_util::stream::pending());
    serve_wires(None, app, wires, over).await;
}

/// Serves until `over`, then lets running calls finish for a while.
pub(crate) async fn serve_wires(
    core: Option<Core>,
    app: Arc<dyn Service>,
    wires: impl Stream<Item = Wire> + Send + 'static,
    over: impl Future<Output = ()> + Send + 'static,
) {
    let (files, services) = app.descriptors();
    let mirror = Arc::new(Mirror::new(&files, services));
    let dispatch = Dispatch { core, app, mirror };
    let (ended, end) = tokio::sync::oneshot::channel();
    let over = async move {
        over.await;
        let _ = ended.send(());
    };
    let serving = server().serve_with_incoming_shutdown(dispatch, wires.map(Ok::<_, Infallible>), over);
    let too_long = async {
        // Without a word the server has ended by itself.
        match end.await {
            Ok(()) => tokio::time::sleep(FINISH_WITHIN).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = serving => {}
        () = too_long => {}
    }
}

impl tower::Service<http::Request<Body>> for Dispatch {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

impl Dispatch {
    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        match (&*path, self.core.clone()) {
            (path::HEALTH_CHECK, Some(_)) => {
                unary(request, |request| async move { self.health(request).await }).await
            }
            (path::SHUTDOWN, Some(core)) => {
                unary(request, |_| async move {
                    core.stop.send_replace(true);
                    reply(&Empty {})
                })
                .await
            }
            (path::STDIO, Some(core)) => {
                let printed = core.printed.stream().map(Ok);
                streaming(request, |_| async move { Ok(until(core.stop, printed)) }).await
            }
            (path::BROKER, Some(core)) => {
                streaming(request, |messages| async move {
                    let outgoing = core.broker.outgoing().map(Ok);
                    tokio::spawn(async move { core.broker.receive_all(messages).await });
                    Ok(outgoing.boxed())
                })
                .await
            }
            (path::REFLECTION_V1 | path::REFLECTION_V1ALPHA, Some(core)) => {
                let mirror = self.mirror.clone();
                streaming(request, |messages| async move {
                    let answers = messages.map(move |message| reflect(&mirror, message?));
                    Ok(until(core.stop, answers))
                })
                .await
            }
            (INVOKE, Some(_)) => unary(request, |request| async move { self.invoke(request).await }).await,
            (path, _) => {
                let method = path.trim_start_matches('/').to_owned();
                self.application(method, request).await
            }
        }
    }

    async fn application(self, method: String, request: http::Request<Body>) -> http::Response<Body> {
        match self.app.shape(&method) {
            Some(Shape::Unary) => {
                unary(request, |request| async move {
                    let (metadata, _, payload) = request.into_parts();
                    let invoked = invoked(&method, metadata);
                    self.app.call(invoked, payload).await.map(Response::new)
                })
                .await
            }
            Some(Shape::Streaming) => {
                let (parts, body) = request.into_parts();
                let metadata = MetadataMap::from_headers(parts.headers.clone());
                // tonic takes a call that its caller has cancelled for one whose requests have come to their end.
                let body = body.map_err(|error| Status::aborted(error.message()));
                let request = http::Request::from_parts(parts, Body::new(body));
                streaming(request, |messages| async move {
                    self.app
                        .stream(invoked(&method, metadata), messages.boxed())
                        .await
                })
                .await
            }
            None => Status::unimplemented(format!("`{method}` is no method of this plugin")).into_http(),
        }
    }

    async fn health(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let HealthCheckRequest { service } = decode(request.into_inner())?;
        if !service.is_empty() && service != HEALTH_SERVICE {
            return Err(Status::not_found(format!(
                "there is no service `{service}`; ask for `{HEALTH_SERVICE}`"
            )));
        }
        let status = match self.app.unhealthy().await {
            None => Serving::Serving,
            Some(_) => Serving::NotServing,
        };
        reply(&HealthCheckResponse {
            status: status.into(),
        })
    }

    async fn invoke(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let (metadata, _, payload) = request.into_parts();
        let InvokeRequest { method, payload } = decode(payload)?;
        if self.app.shape(&method) != Some(Shape::Unary) {
            return Err(Status::unimplemented(format!(
                "`{method}` is no unary method of this plugin"
            )));
        }
        let payload = self.app.call(invoked(&method, metadata), payload).await?;
        reply(&InvokeReply { payload })
    }
}

fn invoked(method: &str, metadata: MetadataMap) -> Invoked<'_> {
    let timeout = metadata
        .get("grpc-timeout")
        .and_then(|it| parse_timeout(it.to_str().ok()?));
    Invoked {
        method,
        metadata,
        timeout,
    }
}

/// gRPC's own form: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn reflect(mirror: &Mirror, message: Bytes) -> Result<Bytes, Status> {
    let request: ReflectionRequest = decode(message)?;
    let answer = mirror.answer(request.ask.as_ref());
    let response = ReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        answer: Some(answer),
    };
    Ok(response.encode_to_vec().into())
}

fn decode<T: Message + Default>(payload: Bytes) -> Result<T, Status> {
    T::decode(payload)
        .map_err(|error| Status::invalid_argument(format!("the request does not parse: {error}")))
}

#[expect(clippy::unnecessary_wraps, reason = "it ends a function that can fail")]
fn reply(message: &impl Message) -> Result<Response<Bytes>, Status> {
    Ok(Response::new(message.encode_to_vec().into()))
}

/// Ends a stream when the plugin does.
fn until(
    stop: watch::Sender<bool>,
    stream: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> BoxStream<'static, Result<Bytes, Status>> {
    let mut stopped = stop.subscribe();
    stream
        .take_until(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .boxed()
}

fn grpc() -> Grpc<BytesCodec> {
    Grpc::new(BytesCodec)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

async fn unary<F>(
    request: http::Request<Body>,
    answer: impl FnOnce(Request<Bytes>) -> F + Send,
) -> http::Response<Body>
where
    F: Future<Output = Result<Response<Bytes>, Status>> + Send,
{
    let mut answer = Some(answer);
    let service = service_fn(|request| {
        let answer = answer.take();
        async move {
            match answer {
                Some(answer) => answer(request).await,
                None => Err(Status::internal("a request was answered twice")),
            }
        }
    });
    grpc().unary(service, request).await
}

async fn streaming<F>(
    request: http::Request<Body>,
    answer: impl FnOnce(Streaming<Bytes>) -> F + Send,
) -> http::Response<Body>
where
    F: Future<Output = Result<BoxStream<'static, Result<Bytes, Status>>, Status>> + Send,
{
    let mut answer = Some(answer);
    let service = service_fn(|request: Request<Streaming<Bytes>>| {
        let answer = answer.take();
        async move {
            match answer {
                Some(answer) => answer(request.into_inner()).await.map(Response::new),
                None => Err(Status::internal("a request was answered twice")),
            }
        }
    });
    grpc().streaming(service, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            parse_timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for wrong in ["", "m", "1", "123456789S", "1x", "-1S", "é"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
    }
}
