//! The asking side.

use std::{
    convert::Infallible,
    fmt::Write as _,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::UnixStream;

use super::{
    HEADERS_HEADER,
    types::{Ask, StreamCall},
};
use crate::{error::RpcError, http::TIMEOUT_HEADER};

/// Asks one host. Each question has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody could be asked.
    #[error("no host can be reached at {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host said no.
    #[error("{0}")]
    Refused(RpcError),
    /// The other side broke off or speaks something else.
    #[error("the host at {path} does not answer as a host: {why}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        why: String,
    },
}

impl Client {
    /// A client of the host whose control socket is `path`. Nothing is opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; a load or unload that was asked for goes on.
    pub async fn ask<A: Ask>(&self, ask: &A) -> Result<A::Answer, ClientError> {
        let stream = self.connect().await?;
        let answer = self.exchange(stream, A::METHOD, ask).await?;
        match answer {
            Answer {
                error: Some(error), ..
            } => Err(ClientError::Refused(error)),
            Answer {
                result: Some(result), ..
            } => serde_json::from_str(result.get())
                .map_err(|error| self.broken(&format!("its answer does not fit: {error}"))),
            Answer {
                result: None,
                error: None,
            } => Err(self.broken(&"its answer is empty")),
        }
    }

    /// Opens a call that streams. `requests` is NDJSON in pieces of any size, one message per line; its end is the end of the requests. `reply` is given each
    /// reply, as JSON, in its order, and says whether it wants more.
    ///
    /// # Errors
    /// See [`ClientError`]; `Refused` is also how a call that began well ends badly.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn stream(
        &self,
        call: &StreamCall,
        requests: impl Stream<Item = Bytes> + Send + 'static,
        mut reply: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let stream = self.connect().await?;
        let headers = serde_json::to_string(&call.headers).map_err(|error| self.broken(&error))?;
        let body = StreamBody::new(requests.map(|it| Ok::<_, Infallible>(Frame::data(it))));
        let mut request = http::Request::post(format!("/stream/{}", percent_encoded(&call.target)))
            .header(http::header::HOST, "mortise")
            .header(http::header::CONTENT_TYPE, "application/x-ndjson")
            // Events, because a line alone does not say whether it is a reply or an error.
            .header(http::header::ACCEPT, "text/event-stream")
            .header(HEADERS_HEADER, headers);
        if let Some(ms) = call.timeout_ms {
            request = request.header(TIMEOUT_HEADER, ms);
        }
        let request = request.body(body).map_err(|error| self.broken(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| self.broken(&error))?;
            let (status, mut body) = (response.status(), response.into_body());
            if status != http::StatusCode::OK {
                let body = body.collect().await.map_err(|error| self.broken(&error))?;
                let answer: Answer =
                    serde_json::from_slice(&body.to_bytes()).map_err(|error| self.broken(&error))?;
                let refused = answer.error.map(ClientError::Refused);
                return Err(refused.unwrap_or_else(|| self.broken(&format_args!("it answers {status}"))));
            }
            let mut events = Events::default();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broken(&error))?;
                events.push(frame.data_ref().map_or(&[][..], |it| it));
                while let Some(event) = events.next() {
                    match event.map_err(|why| self.broken(&why))? {
                        Event::Reply(json) if reply(&json).is_break() => return Ok(()),
                        Event::Reply(_) => {}
                        Event::Error(error) => return Err(ClientError::Refused(error)),
                    }
                }
            }
            Ok(())
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // What came before it ended is still there to be read, and says how the call went.
            _ = &mut connection => exchange.await,
        }
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.path).await;
        stream.map_err(|source| ClientError::Unreachable {
            path: self.path.clone(),
            source,
        })
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        method: &str,
        params: &impl Serialize,
    ) -> Result<Answer, ClientError> {
        let question = Question {
            jsonrpc: "2.0",
            id: 1,
            method,
            params,
        };
        let body = serde_json::to_vec(&question).map_err(|error| self.broken(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        let request = http::Request::post("/")
            .header(http::header::HOST, "mortise")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("the parts are constants");
        let exchange = async {
            let response = sender.send_request(request).await?;
            Ok::<_, hyper::Error>(response.into_body().collect().await?.to_bytes())
        };
        // The connection is driven here, not on a task of its own: it ends with the question.
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let body = tokio::select! {
            biased;
            body = &mut exchange => body,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(error),
            },
        };
        let body = body.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }
}

#[derive(Serialize)]
struct Question<'a, P> {
    jsonrpc: &'a str,
    id: u32,
    method: &'a str,
    params: &'a P,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<RpcError>,
}

// === events ===

/// What arrived of an event stream that the host writes: each event is `data: JSON`, an error has `event: error` before it.
#[derive(Default)]
struct Events {
    rest: BytesMut,
    /// So far there is no end of an event.
    looked_at: usize,
}

enum Event {
    Reply(String),
    Error(RpcError),
}

#[derive(Deserialize)]
struct Failed {
    error: RpcError,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Result<Event, String>> {
        const END: &[u8] = b"\n\n";
        let begin = self.looked_at.saturating_sub(1);
        let Some(end) = self.rest[begin..].windows(END.len()).position(|it| it == END) else {
            self.looked_at = self.rest.len();
            return None;
        };
        self.looked_at = 0;
        let event = self.rest.split_to(begin + end + END.len());
        Some(read_event(&event).ok_or_else(|| format!("{:?} is no event", String::from_utf8_lossy(&event))))
    }
}

fn read_event(event: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(event).ok()?.trim_end();
    match text.strip_prefix("event: error\n") {
        Some(text) => {
            let failed: Failed = serde_json::from_str(text.strip_prefix("data: ")?).ok()?;
            Some(Event::Error(failed.error))
        }
        None => Some(Event::Reply(text.strip_prefix("data: ")?.to_owned())),
    }
}

/// Letters, digits and what stands in targets as they are.
fn percent_encoded(target: &str) -> String {
    let mut encoded = String::with_capacity(target.len());
    for byte in target.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b'@' => {
                encoded.push(byte.into())
            }
            _ => write!(encoded, "%{byte:02X}").expect("a String takes all text"),
        }
    }
    encoded
}
