//! HTTP/2, as tonic's client of gRPC needs it.
//!
//! tonic has a channel of its own. A request goes through two tasks in it, and hyper, below, sends the head of a request before it asks for the body. A small
//! message is then two writes, from two threads, to a peer that wakes up twice. Here whatever the body has ready is queued with the head, before the
//! connection's task runs, so a unary call is one write.
//!
//! # Invariants
//! - H1: dropping a call, before or after its head came back, drops every handle of its stream, and with the last one h2 resets it.
//! - H2: what is queued of a request without the peer's consent is what was ready at once, at most one message beyond [`READY_BYTES_MAX`]; the rest waits for its window.
//! - H3: a connection that broke is made again by the next call, not by one that was on it: whether that ran is not known.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::poll_fn;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http_body::{Body as _, Frame};
use tonic::{body::Body, codegen::StdError};

use crate::{BoxFuture, transport::Dial};

/// Window of a stream and, twice that, of a connection: a message of several MiB flows without waiting.
pub(crate) const WINDOW_BYTES: u32 = 8 << 20;
/// Of a body that always has more ready, so much goes out with the head.
const READY_BYTES_MAX: usize = 64 << 10;
/// Longest head that is accepted: a status with its details is in it.
const HEAD_BYTES_MAX: u32 = 64 << 10;

/// A connection to one place, made when it is needed. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Http2 {
    dial: Dial,
    current: Arc<Mutex<Option<SendRequest<Bytes>>>>,
    /// Held while a connection is made.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

/// The body of an answer.
pub(crate) struct Incoming {
    received: RecvStream,
    has_data: bool,
    _upload: Option<Upload>,
}

/// The rest of a request on its way; given up when this is dropped.
struct Upload(tokio::task::JoinHandle<()>);

// === impl Http2 ===

impl Http2 {
    /// Connects with the first call.
    pub(crate) fn lazy(dial: Dial) -> Self {
        Self {
            dial,
            current: Arc::default(),
            connecting: Arc::default(),
        }
    }

    /// Connects, so that a place where nobody listens is an error now.
    pub(crate) async fn connect(dial: Dial) -> io::Result<Self> {
        let this = Self::lazy(dial);
        this.ready().await?;
        Ok(this)
    }

    /// The connection, once it takes another stream.
    async fn ready(&self) -> io::Result<SendRequest<Bytes>> {
        if let Some(ready) = self.ready_now().await {
            return Ok(ready);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(ready) = self.ready_now().await {
            return Ok(ready);
        }
        let wire = (self.dial)().await?;
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .max_header_list_size(HEAD_BYTES_MAX)
            .handshake(wire)
            .await
            .map_err(io::Error::other)?;
        // It ends with the last sender and the last stream, or when it breaks; whoever has a stream on it is told.
        tokio::spawn(async move { drop(connection.await) });
        *self.lock() = Some(sender.clone());
        Ok(sender)
    }

    async fn ready_now(&self) -> Option<SendRequest<Bytes>> {
        let current = self.lock().clone()?;
        current.ready().await.ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(self, request: http::Request<Body>) -> Result<http::Response<Incoming>, StdError> {
        let mut sender = self.ready().await.map_err(in_its_own_words)?;
        let (head, mut body) = request.into_parts();
        let (parts, ended) = what_is_ready(&mut body).await?;
        let head = http::Request::from_parts(head, ());
        // No await from here to the last part: the connection's task finds all of it.
        let (response, mut stream) = sender.send_request(head, ended && parts.is_empty())?;
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            // A peer that has refused the call by its head alone has ended the stream already; its answer says why.
            if stream.send_data(part, ended && number + 1 == count).is_err() {
                break;
            }
        }
        let upload = (!ended).then(|| Upload(tokio::spawn(upload(body, stream))));
        let response = response.await?;
        Ok(response.map(|received| Incoming {
            received,
            has_data: true,
            _upload: upload,
        }))
    }
}

impl tower::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = StdError;
    type Future = BoxFuture<'static, Result<Self::Response, StdError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// A place may be unreachable for a reason that is a status already, of the broker's for one.
fn in_its_own_words(error: io::Error) -> StdError {
    match error.downcast::<tonic::Status>() {
        Ok(status) => status.into(),
        Err(error) => error.into(),
    }
}

// === the request ===

/// What a body has ready at once, and whether that is all of it.
async fn what_is_ready(body: &mut Body) -> Result<(Vec<Bytes>, bool), tonic::Status> {
    let (mut parts, mut bytes) = (Vec::new(), 0);
    poll_fn(|cx| {
        while bytes <= READY_BYTES_MAX {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        bytes += data.len();
                        parts.push(data);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(true)),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(body.is_end_stream()))
    })
    .await
    .map(|ended| (parts, ended))
}

/// Sends what is left of a body as the peer's window allows. The peer may reset the stream meanwhile, and the answer then says why.
async fn upload(mut body: Body, mut stream: SendStream<Bytes>) {
    loop {
        let frame = tokio::select! {
            biased;
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
        };
        match frame {
            Some(Ok(frame)) => {
                let Ok(mut data) = frame.into_data() else { continue };
                while !data.is_empty() {
                    stream.reserve_capacity(data.len());
                    let Some(Ok(window)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                        return;
                    };
                    let part = data.split_to(window.min(data.len()));
                    if stream.send_data(part, false).is_err() {
                        return;
                    }
                }
            }
            Some(Err(_)) => return stream.send_reset(Reason::CANCEL),
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Incoming ===

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        while this.has_data {
            match ready!(this.received.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever polls has room for it. On a stream that was reset meanwhile there is nothing to give back.
                    let _ = this.received.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The peer needs nothing more of the request, and its answer is whole.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => this.has_data = false,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.has_data = false,
            }
        }
        Poll::Ready(match ready!(this.received.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|it| Ok(Frame::trailers(it))),
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
            Err(error) => Some(Err(error)),
        })
    }
}

#[cfg(test)]
mod tests;
