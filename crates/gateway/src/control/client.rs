//! The asking side.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::UnixStream;

use super::types::Ask;
use crate::error::RpcError;

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
        let stream = UnixStream::connect(&self.path).await;
        let stream = stream.map_err(|source| ClientError::Unreachable {
            path: self.path.clone(),
            source,
        })?;
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
