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
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use http::StatusCode;
use mortise_host::Host;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::methods::{ControlMethods, HostFacts, Peer};
use crate::{
    error::RpcError,
    http::{answer, json_response, read_body},
    jsonrpc,
    options::Options,
    server::{self, Accept},
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
