//! Calls by path, with messages as bytes.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    metadata::{MetadataKey, MetadataMap, MetadataValue},
    transport::Channel,
};

use crate::{
    codec::{BytesCodec, MESSAGE_BYTES_MAX},
    transport::{Dial, Wire, channel},
};

/// A side's services, as the other side calls them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
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
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
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
    pub async fn over(socket: UnixStream) -> Result<Self, tonic::transport::Error> {
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
        Ok(Self::new(channel(dial, false).await?))
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
        let mut grpc = self.grpc().await?;
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
        let mut grpc = self.grpc().await?;
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

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(format!("the connection is gone: {}", causes(&error))))?;
        Ok(grpc)
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
