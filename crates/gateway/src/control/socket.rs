//! The listening side: binding, and the kernel's word about the peer.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, Request, State},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use http::StatusCode;
use mortise_host::Host;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{
    HEADERS_HEADER,
    methods::{self, ControlMethods, HostFacts, Peer},
};
use crate::{
    error::RpcError,
    http::{TIMEOUT_HEADER, answer, json_response, read_body},
    jsonrpc,
    options::Options,
    server::{self, Accept},
    stream,
};

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the control socket {path} cannot be opened: {why}")]
pub struct BindError {
    /// Where it should have been.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

/// A bound control socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Binds `path` with mode 0600, and makes the folders above it. A socket left by a host that was killed is replaced; one that
    /// answers is not. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If another host answers there, something else stands there, or the path cannot be used.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let refuse = |why: String, hint: &str| BindError {
            path: path.to_owned(),
            why,
            hint: hint.to_owned(),
        };
        let of_io = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "set `host.control_socket` to a folder that this user may write to"
                }
                io::ErrorKind::InvalidInput => {
                    "a socket's path has at most 107 bytes; set `host.control_socket` to a shorter one"
                }
                _ => "set `host.control_socket` to another path",
            };
            refuse(error.to_string(), hint)
        };
        if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(of_io)?;
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(of_io(error)),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(refuse(
                    "there is a file that is no socket".to_owned(),
                    "move it away, or set another `host.control_socket`",
                ));
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => {
                    return Err(refuse(
                        "another host answers there".to_owned(),
                        "stop it, or set another `host.control_socket`",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(of_io)?
                }
                Err(error) => return Err(of_io(error)),
            },
        }
        let listener = UnixListener::bind(path).map_err(of_io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(of_io)?;
        let inode = fs::symlink_metadata(path).map_err(of_io)?.ino();
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `stop` is cancelled, by the caller or by `mortise.shutdown`, and the requests in flight are answered.
    pub async fn serve(self, host: Host, facts: HostFacts, stop: CancellationToken) {
        let options = Options {
            connections_max: 64,
            ..Options::default()
        };
        let app = Arc::new(App {
            methods: ControlMethods::new(host, facts, stop.clone()),
            options: options.clone(),
        });
        server::serve(Peers { socket: &self, app }, &options, stop).await;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A host that started later may have put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|it| it.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct App {
    methods: ControlMethods,
    options: Options,
}

/// Unix connections, each with the router that its peer deserves.
struct Peers<'a> {
    socket: &'a ControlSocket,
    app: Arc<App>,
}

impl Accept for Peers<'_> {
    type Stream = UnixStream;
    type Front = Router;

    async fn accept(&self) -> io::Result<(UnixStream, Router)> {
        let (stream, _) = self.socket.listener.accept().await?;
        let owner = rustix::process::geteuid().as_raw();
        let router = tracing::trace_span!("authenticate").in_scope(|| match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == owner => {
                let peer = Peer {
                    uid: peer.uid(),
                    pid: peer.pid(),
                };
                Router::new()
                    .route("/stream/{*target}", post(stream_for_peer))
                    .fallback(any(serve_peer))
                    .with_state((Arc::clone(&self.app), peer))
            }
            Ok(peer) => refuse_peer(format!("user {} may not control this host", peer.uid()), owner),
            Err(error) => refuse_peer(format!("the peer's user is not known: {error}"), owner),
        });
        Ok((stream, router))
    }
}

async fn serve_peer(State((app, peer)): State<(Arc<App>, Peer)>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    match read_body(body, &head.headers, &app.options).await {
        Ok(body) => answer(&app.methods, &peer, &body, &app.options).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn stream_for_peer(
    State((app, _)): State<(Arc<App>, Peer)>,
    UrlPath(target): UrlPath<String>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let text = |name: &str| head.headers.get(name).map(|it| it.as_bytes());
    let timeout_ms = text(TIMEOUT_HEADER).map(serde_json::from_slice).transpose();
    let headers = text(HEADERS_HEADER).map(serde_json::from_slice).transpose();
    let (timeout_ms, headers) = match (timeout_ms, headers) {
        (Ok(timeout_ms), Ok(headers)) => (timeout_ms, headers.unwrap_or_default()),
        (Err(error), _) | (_, Err(error)) => {
            let hint = format!("`{TIMEOUT_HEADER}` is a number, `{HEADERS_HEADER}` a JSON object of strings");
            let error = RpcError::invalid_params(format!("the request's headers do not fit: {error}"), hint);
            return json_response(StatusCode::BAD_REQUEST, jsonrpc::refused(&error));
        }
    };
    let caller = methods::caller(headers, timeout_ms);
    let (plugins, most) = (Arc::clone(&app.methods.plugins), app.options.body_bytes_max);
    let (stopping, grace) = (app.methods.stop.clone(), app.options.drain / 2);
    let cut = async move {
        stopping.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    stream::answer(plugins, &target, caller, &head.headers, body, most, cut).await
}

fn refuse_peer(message: String, owner: u32) -> Router {
    tracing::warn!(%message, "control connection refused");
    let hint = format!("run the command as root or as the host's own user ({owner})");
    let refusal = jsonrpc::refused(&RpcError::protocol(-32001, "denied", message, hint));
    Router::new().fallback(any(move |request: Request<Body>| {
        let refusal = refusal.clone();
        async move {
            drop(request);
            let mut response = json_response(StatusCode::FORBIDDEN, refusal);
            response
                .headers_mut()
                .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
            response
        }
    }))
}
