//! Calls by path, with messages as bytes.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use http::{Uri, uri::PathAndQuery};
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    metadata::{MetadataKey, MetadataMap, MetadataValue},
};

use crate::{
    codec::{BytesCodec, MESSAGE_BYTES_MAX},
    http2::Http2,
    transport::{Dial, Wire},
};

/// A side's services, as the other side calls them. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http2: Http2,
    /// What the callee sees as the authority.
    origin: Uri,
    message_bytes_max: usize,
}

/// What goes beside a request.
#[derive(Clone, Debug, Default)]
pub struct CallHeaders {
    /// Time left; the callee is told, and the caller still has to enforce it.
    pub timeout: Option<Duration>,
    /// Headers: lower-case names, text values. What HTTP/2 can't carry is left out.
    pub metadata: Vec<(String, String)>,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(http2: Http2, tls: bool) -> Self {
        // What Go's host calls it. TLS is below this: the scheme is HTTP's in either case.
        let origin = if tls { "http://localhost" } else { "http://unused" };
        Self {
            http2,
            origin: Uri::from_static(origin),
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }

    /// The same, for messages of at most so many bytes in either direction.
    #[must_use]
    pub fn bounded(self, message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            ..self
        }
    }

    /// Speaks gRPC over a socket that is open already, as the client. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If HTTP/2 can't begin there.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn over(socket: UnixStream) -> io::Result<Self> {
        let socket = Arc::new(Mutex::new(Some(socket)));
        let dial: Dial = Arc::new(move || {
            let socket = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
            Box::pin(async move {
                // There is no second one to connect to.
                socket
                    .map(Wire::new)
                    .ok_or_else(|| io::ErrorKind::NotConnected.into())
            })
        });
        Ok(Self::new(Http2::connect(dial).await?, false))
    }

    /// Calls the unary method at `path`, `/package.Service/Method`.
    ///
    /// # Errors
    /// The callee's status; `Unavailable` or `Unknown` with the transport's words if the connection broke.
    ///
    /// # Cancel safety
    /// Dropping the future resets the call's stream, and the callee sees its context cancelled.
    pub async fn call(&self, path: &str, headers: &CallHeaders, payload: Bytes) -> Result<Bytes, Status> {
        let path = parse_path(path)?;
        let mut grpc = self.grpc();
        let response = grpc.unary(headers.request(payload), path, BytesCodec).await?;
        Ok(response.into_inner())
    }

    /// Calls any method that streams, in either or both directions.
    ///
    /// It may not return before the callee has sent its first message: Go's servers send their headers with it.
    ///
    /// # Errors
    /// As [`Client::call`].
    ///
    /// # Cancel safety
    /// Dropping the future, or what it gave, resets the call's stream.
    pub async fn stream(
        &self,
        path: &str,
        headers: &CallHeaders,
        payloads: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        let path = parse_path(path)?;
        let mut grpc = self.grpc();
        let response = grpc
            .streaming(headers.request(payloads), path, BytesCodec)
            .await?;
        Ok(response.into_inner())
    }

    /// A unary call of the protocol's own.
    pub(crate) async fn ask<Reply: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<Reply, Status> {
        let headers = CallHeaders {
            timeout: Some(timeout),
            ..CallHeaders::default()
        };
        let call = self.call(path, &headers, request.encode_to_vec().into());
        let reply = tokio::time::timeout(timeout, call)
            .await
            .map_err(|_| Status::deadline_exceeded(format!("`{path}` took longer than {timeout:?}")))??;
        Reply::decode(reply)
            .map_err(|error| Status::internal(format!("the reply of `{path}` does not parse: {error}")))
    }

    fn grpc(&self) -> Grpc<Http2> {
        Grpc::with_origin(self.http2.clone(), self.origin.clone())
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

// === impl CallHeaders ===

impl CallHeaders {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        self.add_to(request.metadata_mut());
        request
    }

    fn add_to(&self, map: &mut MetadataMap) {
        for (name, value) in &self.metadata {
            if let (Ok(name), Ok(value)) = (
                MetadataKey::from_bytes(name.as_bytes()),
                MetadataValue::try_from(value),
            ) {
                map.append(name, value);
            }
        }
    }
}

fn parse_path(path: &str) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(path)
        .ok()
        .filter(|it| it.query().is_none() && path.starts_with('/') && path.matches('/').count() == 2)
        .ok_or_else(|| Status::invalid_argument(format!("`{path}` is not `/package.Service/Method`")))
}

/// An error with what caused it, in one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
