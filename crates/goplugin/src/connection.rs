//! The host's side of a running plugin.
//!
//! [`Connection::open`] connects, asks the plugin's health once, and begins what runs beside every call: the broker's stream and the plugin's standard output. Neither of the two is waited for:
//! a Go server sends the headers of a stream with its first message, which may never come.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    AddressPolicy, Broker,
    broker::BrokerConfig,
    client::{CallHeaders, Client, causes},
    descriptors::{Collector, ReflectError, Reflected},
    handshake::{Agreed, NetAddress},
    http2::Http2,
    mux::{Mux, Side},
    proto::{
        Empty, HEALTH_SERVICE, HealthCheckRequest, HealthCheckResponse, ReflectionRequest,
        ReflectionResponse, Serving, path,
    },
    socket::Audience,
    stdio,
    tls::{Identity, Session, TlsError},
    transport::Dial,
};

pub use crate::stdio::OutputChunk;

/// A health check that takes longer is a bad sign.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// All of reflection.
const REFLECT_WITHIN: Duration = Duration::from_secs(20);
/// A plugin that was told to shut down answers or breaks the connection in this time.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// The address is printed after the plugin began to listen, so this is only for a machine that is very busy.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What a connection needs beside the handshake.
#[derive(Debug, Default)]
pub struct ConnectOptions {
    /// The identity that was offered; `None` for no TLS.
    pub identity: Option<Identity>,
    /// What this host connects to. Its `directory` and `peer` should be set; `tcp` is as `identity` is.
    pub policy: AddressPolicy,
    /// Where this host's own sockets for the broker go: the plugin's private directory, which it can see from inside a jail too.
    pub directory: PathBuf,
    /// Gets what the plugin writes to its standard output and error. It must be read: the plugin waits if it is full. `None` to throw it away.
    pub output: Option<mpsc::Sender<OutputChunk>>,
}

/// A connected plugin. Dropping it closes the connection and does not end the plugin.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    broker: Broker,
    version: u32,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody listens there, or somebody else does.
    #[error("the plugin said that it listens on `{address}`, and a connection failed: {why}")]
    Connect {
        /// Where.
        address: NetAddress,
        /// In all words.
        why: String,
    },
    /// It does not say that it serves.
    #[error("the plugin listens, and its health check failed: {0}")]
    Health(String),
}

/// Why reflection is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReflectionFailed {
    /// The answers are wrong.
    #[error(transparent)]
    Answer(#[from] ReflectError),
    /// The call failed.
    #[error("the plugin's reflection failed: {0}")]
    Call(String),
}

// === impl Connection ===

impl Connection {
    /// Connects to a plugin that answered.
    ///
    /// # Errors
    /// If its address may not be used, nobody answers there, or it does not serve.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing.
    pub async fn open(agreed: &Agreed, options: ConnectOptions) -> Result<Self, ConnectError> {
        let tls = match (&options.identity, &agreed.certificate) {
            (Some(own), Some(peer)) => Some(Session::new(own, peer)?),
            _ => None,
        };
        let address = agreed.address.clone();
        let failed = |why: String| ConnectError::Connect {
            address: address.clone(),
            why,
        };
        let policy = AddressPolicy {
            tcp: options.policy.tcp && tls.is_some(),
            ..options.policy
        };
        let (mux, inbound) = if agreed.multiplex {
            let wire = timeout(CONNECT_WITHIN, policy.connect(&address))
                .await
                .map_err(|_| failed(format!("it took longer than {CONNECT_WITHIN:?}")))?
                .map_err(|error| failed(error.to_string()))?;
            let (mux, inbound) = Mux::start(wire, Side::Host);
            (Some(mux), Some(inbound))
        } else {
            (None, None)
        };
        let dial = dial_of(address.clone(), policy.clone(), tls.clone(), mux.clone());
        let connecting = timeout(CONNECT_WITHIN, Http2::connect(dial));
        let http2 = connecting
            .await
            .map_err(|_| failed(format!("it took longer than {CONNECT_WITHIN:?}")))?
            .map_err(|error| failed(causes(&error)))?;
        let client = Client::new(http2, tls.is_some());
        let broker = Broker::new(BrokerConfig {
            directory: options.directory,
            audience: Audience::OwnerOfDirectory,
            policy,
            tls,
            mux,
        });
        let connection = Self {
            client,
            broker,
            version: agreed.version,
            tasks: Mutex::default(),
        };
        connection.health().await.map_err(ConnectError::Health)?;
        connection.begin(inbound, options.output);
        Ok(connection)
    }

    /// The version of the application's protocol that both speak.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Its services.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Connections in both directions.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Asks how it is. Bounded by 5 s.
    ///
    /// # Errors
    /// Why it does not serve.
    pub async fn health(&self) -> Result<(), String> {
        let request = HealthCheckRequest {
            service: HEALTH_SERVICE.to_owned(),
        };
        let reply: HealthCheckResponse = self
            .client
            .ask(path::HEALTH_CHECK, &request, HEALTH_WITHIN)
            .await
            .map_err(|status| words(&status))?;
        match reply.status() {
            Serving::Serving => Ok(()),
            status => Err(format!("it says that its status is {status:?}")),
        }
    }

    /// Calls the unary method at `path`; see [`Client::call`].
    ///
    /// # Errors
    /// As there.
    pub async fn call(&self, path: &str, headers: &CallHeaders, payload: Bytes) -> Result<Bytes, Status> {
        self.client.call(path, headers, payload).await
    }

    /// Calls a method that streams; see [`Client::stream`].
    ///
    /// # Errors
    /// As there.
    pub async fn stream(
        &self,
        path: &str,
        headers: &CallHeaders,
        payloads: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        self.client.stream(path, headers, payloads).await
    }

    /// Asks the plugin to end, and does not wait for that: the caller watches its process. A Go plugin breaks the connection while it answers, so how this goes says nothing.
    pub async fn shutdown(&self) {
        self.broker.close();
        let _: Result<Empty, Status> = self.client.ask(path::SHUTDOWN, &Empty {}, SHUTDOWN_WITHIN).await;
    }

    /// The plugin's services with their messages, if it tells. Bounded by 20 s.
    ///
    /// # Errors
    /// If what it tells makes no sense.
    pub async fn reflect(&self) -> Result<Option<Reflected>, ReflectionFailed> {
        let until = Instant::now() + REFLECT_WITHIN;
        for path in [path::REFLECTION_V1, path::REFLECTION_V1ALPHA] {
            match self.converse(path, until).await {
                Err(Conversation::Unimplemented) => {}
                Err(Conversation::Failed(error)) => return Err(error),
                Ok(reflected) => return Ok(Some(reflected)),
            }
        }
        Ok(None)
    }

    async fn converse(&self, path: &str, until: Instant) -> Result<Reflected, Conversation> {
        let (mut collector, headers) = (Collector::default(), CallHeaders::default());
        let (asks, asked) = mpsc::channel::<Bytes>(1);
        let mut answers = None;
        let mut asked = Some(asked);
        while let Some(ask) = collector.next_ask() {
            let request = ReflectionRequest {
                host: String::new(),
                ask: Some(ask.clone()),
            };
            let sent = asks.send(request.encode_to_vec().into()).await;
            let exchange = async {
                if let Some(asked) = asked.take() {
                    let stream = self.stream(path, &headers, ReceiverStream::new(asked));
                    answers = Some(stream.await?);
                }
                let answers = answers.as_mut().ok_or_else(|| Status::internal("no stream"))?;
                answers.message().await
            };
            let answer = tokio::select! {
                answer = exchange => answer,
                () = sleep_until(until) => Err(Status::deadline_exceeded(format!("it took longer than {REFLECT_WITHIN:?}"))),
            };
            let answer = match answer {
                Ok(Some(answer)) if sent.is_ok() => answer,
                Ok(_) => return Err(call_failed("it ended the conversation".to_owned())),
                Err(status) if status.code() == Code::Unimplemented => {
                    return Err(Conversation::Unimplemented);
                }
                Err(status) => return Err(call_failed(words(&status))),
            };
            let response = ReflectionResponse::decode(answer)
                .map_err(|error| call_failed(format!("an answer does not parse: {error}")))?;
            collector
                .answer(&ask, response)
                .map_err(|error| Conversation::Failed(error.into()))?;
        }
        collector
            .finish()
            .map_err(|error| Conversation::Failed(error.into()))
    }

    fn begin(
        &self,
        inbound: Option<mpsc::Receiver<crate::transport::Wire>>,
        output: Option<mpsc::Sender<OutputChunk>>,
    ) {
        let broker = self.broker.clone();
        let client = self.client.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(tokio::spawn(async move {
            let messages = client
                .stream(path::BROKER, &CallHeaders::default(), broker.outgoing())
                .await;
            if let Ok(messages) = messages {
                broker.receive_all(messages).await;
            }
        }));
        tasks.push(tokio::spawn(stdio::consume(self.client.clone(), output)));
        if let Some(inbound) = inbound {
            let broker = self.broker.clone();
            tasks.push(tokio::spawn(
                async move { broker.route_streams(inbound, None).await },
            ));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.broker.close();
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}

enum Conversation {
    Unimplemented,
    Failed(ReflectionFailed),
}

fn call_failed(why: String) -> Conversation {
    Conversation::Failed(ReflectionFailed::Call(why))
}

fn words(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(source) = std::error::Error::source(status) {
        text.push_str(": ");
        text.push_str(&causes(source));
    }
    text
}

fn dial_of(address: NetAddress, policy: AddressPolicy, tls: Option<Session>, mux: Option<Mux>) -> Dial {
    let context = Arc::new((address, policy, tls, mux));
    Arc::new(move || {
        let context = context.clone();
        Box::pin(async move {
            let (address, policy, tls, mux) = &*context;
            let wire = match mux {
                Some(mux) => mux.open().await?,
                None => policy.connect(address).await?,
            };
            wire.connect_tls(tls.as_ref())
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("the TLS handshake failed: {error}")))
        })
    })
}
