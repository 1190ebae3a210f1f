//! The broker: further connections between host and plugin, in either direction.
//!
//! An application that wants to be called back takes an id ([`Broker::next_id`]), accepts it ([`Broker::serve`]), and tells the other side the id in a message of
//! its own; the other side dials it ([`Broker::dial`]). What the two brokers say to each other is a stream of `ConnInfo`, see [`exchange`](crate::exchange).
//!
//! | | without multiplexing | with |
//! |---|---|---|
//! | to accept an id | listens on a new socket and tells where | waits for a knock, and takes the next stream |
//! | to dial an id | waits for the address, connects | knocks, waits for the answer, opens a stream; one dialer at a time |
//!
//! Each id is one listener for one service. TLS, if the session has it, is inside each of these connections too, with the same two certificates; who accepts is its server.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    AddressPolicy,
    client::Client,
    exchange::{CLAIM_WITHIN, Exchange, Received},
    handshake::NetAddress,
    http2::Http2,
    mux::Mux,
    plugin::{Service, serve_wires},
    proto::{ConnInfo, Knock},
    socket::{self, Audience},
    tls::Session,
    transport::{Dial, Wire},
};

/// Messages to the other broker that wait to be sent.
const OUTGOING_MAX: usize = 256;
/// Connections to one id that nobody took yet.
const BACKLOG: usize = 16;
/// A Go host may hear a knock before it has a listener for it, although it was told to accept; then it is knocked again.
const KNOCK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Longest name of a socket, plus the directory's, must fit `sun_path`.
const SOCKET_PATH_BYTES_MAX: usize = 104;

/// One side's broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Shared>);

/// What a broker is made of.
pub(crate) struct BrokerConfig {
    /// Where this side's sockets go.
    pub(crate) directory: PathBuf,
    /// Who may connect to them.
    pub(crate) audience: Audience,
    /// What this side connects to.
    pub(crate) policy: AddressPolicy,
    pub(crate) tls: Option<Session>,
    pub(crate) mux: Option<Mux>,
}

struct Shared {
    config: BrokerConfig,
    exchange: Mutex<Exchange<oneshot::Sender<ConnInfo>>>,
    /// Where connections of an accepted id go; multiplexed only.
    listeners: Mutex<HashMap<u32, mpsc::Sender<Wire>>>,
    /// Ids that were opened by a knock and whose stream is to come, in order.
    expected: Mutex<VecDeque<(u32, Instant)>>,
    outgoing: mpsc::Sender<ConnInfo>,
    to_send: Arc<tokio::sync::Mutex<mpsc::Receiver<ConnInfo>>>,
    next_id: AtomicU32,
    sockets: AtomicU32,
    one_dialer: tokio::sync::Mutex<()>,
    closed: watch::Sender<bool>,
}

/// Stops accepting an id when it is dropped.
struct Accepted {
    broker: Weak<Shared>,
    id: u32,
    socket: Option<PathBuf>,
}

// === impl Broker ===

impl Broker {
    pub(crate) fn new(config: BrokerConfig) -> Self {
        let (outgoing, to_send) = mpsc::channel(OUTGOING_MAX);
        Self(Arc::new(Shared {
            config,
            exchange: Mutex::default(),
            listeners: Mutex::default(),
            expected: Mutex::default(),
            outgoing,
            to_send: Arc::new(to_send.into()),
            next_id: AtomicU32::new(0),
            sockets: AtomicU32::new(0),
            one_dialer: tokio::sync::Mutex::default(),
            closed: watch::Sender::new(false),
        }))
    }

    /// A new id for this side to accept. Each side counts its own.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Accepts `id` and serves `service` there, until the returned task is aborted or the broker is closed. When this returns, the other side can dial.
    ///
    /// # Errors
    /// If no socket could be made, or the other side's broker is gone.
    pub async fn serve(&self, id: u32, service: Arc<dyn Service>) -> io::Result<tokio::task::AbortHandle> {
        let (wires, incoming) = mpsc::channel(BACKLOG);
        let accepted = if self.0.config.mux.is_some() {
            self.accept_knocks(id, wires).await?
        } else {
            self.listen(id, wires).await?
        };
        let mut closed = self.0.closed.subscribe();
        let task = tokio::spawn(async move {
            let _accepted = accepted;
            let over = async move {
                let _ = closed.wait_for(|closed| *closed).await;
            };
            serve_wires(None, service, ReceiverStream::new(incoming), over).await;
        });
        Ok(task.abort_handle())
    }

    /// Connects to what the other side accepts under `id`.
    ///
    /// # Errors
    /// `DeadlineExceeded` if it does not say where within 5 s; `PermissionDenied` if it says a place that is not its own.
    ///
    /// # Cancel safety
    /// Dropping the future gives the id up.
    pub async fn dial(&self, id: u32) -> Result<Client, Status> {
        let tls = self.0.config.tls.is_some();
        if self.0.config.mux.is_some() {
            let broker = self.clone();
            let dial: Dial = Arc::new(move || {
                let broker = broker.clone();
                Box::pin(async move { broker.knock_and_open(id).await })
            });
            return Ok(Client::new(Http2::lazy(dial), tls));
        }
        let info = self.claim(id).await?;
        let address = NetAddress::parse(&info.network, &info.address)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let shared = self.0.clone();
        let dial: Dial = Arc::new(move || {
            let (shared, address) = (shared.clone(), address.clone());
            Box::pin(async move {
                let wire = shared.config.policy.connect(&address).await?;
                wire.connect_tls(shared.config.tls.as_ref()).await
            })
        });
        // Made once here, so that a refused address is an error now and in its own words.
        let first = dial().await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Status::permission_denied(error.to_string()),
            _ => Status::unavailable(format!("id {id} can't be reached: {error}")),
        })?;
        let first = Arc::new(Mutex::new(Some(first)));
        let dial: Dial = Arc::new(move || match lock(&first).take() {
            Some(wire) => Box::pin(std::future::ready(Ok(wire))),
            None => dial(),
        });
        Ok(Client::new(Http2::lazy(dial), tls))
    }

    /// Ends everything that is served through it.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// The messages for the other broker, encoded. Only one stream has them at a time.
    pub(crate) fn outgoing(&self) -> impl Stream<Item = Bytes> + Send + 'static {
        let receiver = self.0.to_send.clone();
        let mut closed = self.0.closed.subscribe();
        let messages =
            futures_util::stream::once(async move { receiver.lock_owned().await }).flat_map(|receiver| {
                futures_util::stream::unfold(receiver, |mut receiver| async move {
                    let info: ConnInfo = receiver.recv().await?;
                    Some((Bytes::from(info.encode_to_vec()), receiver))
                })
            });
        messages.take_until(async move {
            let _ = closed.wait_for(|closed| *closed).await;
        })
    }

    /// Reads the other broker's messages until there are no more.
    pub(crate) async fn receive_all(&self, mut messages: impl Stream<Item = Result<Bytes, Status>> + Unpin) {
        let mut closed = self.0.closed.subscribe();
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = closed.wait_for(|closed| *closed) => return,
            };
            let Some(Ok(message)) = message else { return };
            // What does not parse is passed over: the stream is still in step.
            if let Ok(info) = ConnInfo::decode(message) {
                self.receive(info).await;
            }
        }
    }

    async fn receive(&self, info: ConnInfo) {
        let received = lock(&self.0.exchange).receive(info, Instant::now());
        match received {
            // Whoever waited may be gone.
            Received::Deliver(waiter, info) => drop(waiter.send(info)),
            Received::Open(id) => self.open_door(id).await,
            Received::Nothing => {}
        }
    }

    /// Hands the streams that the other side opens to whom they knocked for. Those without a knock are returned.
    pub(crate) async fn route_streams(
        &self,
        mut streams: mpsc::Receiver<Wire>,
        unasked: Option<mpsc::Sender<Wire>>,
    ) {
        while let Some(wire) = streams.recv().await {
            let to = match self.take_expected() {
                Some(id) => lock(&self.0.listeners).get(&id).cloned(),
                None => unasked.clone(),
            };
            let Some(to) = to else { continue };
            let tls = self.0.config.tls.clone();
            tokio::spawn(async move {
                if let Ok(wire) = wire.accept_tls(tls.as_ref()).await {
                    let _ = to.send(wire).await;
                }
            });
        }
    }

    fn take_expected(&self) -> Option<u32> {
        let mut expected = lock(&self.0.expected);
        while let Some((id, at)) = expected.pop_front() {
            // Whoever knocked and did not come is not waited for.
            if at.elapsed() < CLAIM_WITHIN {
                return Some(id);
            }
        }
        None
    }

    // === accepting ===

    async fn listen(&self, id: u32, wires: mpsc::Sender<Wire>) -> io::Result<Accepted> {
        let number = self.0.sockets.fetch_add(1, Ordering::Relaxed);
        let name = format!("broker-{}-{number}", std::process::id());
        let path = self.0.config.directory.join(name);
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let why = format!(
                "`{}` is longer than a socket's path may be ({SOCKET_PATH_BYTES_MAX} bytes)",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let listener = socket::bind(&path, self.0.config.audience)?;
        let accepted = Accepted {
            broker: Arc::downgrade(&self.0),
            id,
            socket: Some(path.clone()),
        };
        let (network, address) = NetAddress::Unix(path).fields();
        let (tls, peer) = (self.0.config.tls.clone(), self.0.config.policy.peer.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = wires.closed() => return,
                };
                let Ok((stream, _)) = stream else {
                    tokio::time::sleep(socket::ACCEPT_PAUSE).await;
                    continue;
                };
                if peer.as_ref().is_some_and(|peer| peer.check(&stream).is_err()) {
                    continue;
                }
                let (tls, wires) = (tls.clone(), wires.clone());
                tokio::spawn(async move {
                    if let Ok(wire) = Wire::new(stream).accept_tls(tls.as_ref()).await {
                        let _ = wires.send(wire).await;
                    }
                });
            }
        });
        self.tell(ConnInfo {
            service_id: id,
            network: network.to_owned(),
            address,
            knock: None,
        })
        .await?;
        Ok(accepted)
    }

    async fn accept_knocks(&self, id: u32, wires: mpsc::Sender<Wire>) -> io::Result<Accepted> {
        lock(&self.0.listeners).insert(id, wires);
        let accepted = Accepted {
            broker: Arc::downgrade(&self.0),
            id,
            socket: None,
        };
        let knocked = lock(&self.0.exchange).accept(id, Instant::now());
        if knocked {
            self.open_door(id).await;
        }
        Ok(accepted)
    }

    async fn open_door(&self, id: u32) {
        lock(&self.0.expected).push_back((id, Instant::now()));
        let told = self.tell(ConnInfo {
            service_id: id,
            knock: Some(Knock {
                knock: true,
                ack: true,
                error: String::new(),
            }),
            ..ConnInfo::default()
        });
        // A broker that is gone will not dial either.
        let _ = told.await;
    }

    // === dialing ===

    async fn claim(&self, id: u32) -> Result<ConnInfo, Status> {
        let (waiter, answer) = oneshot::channel();
        let claimed = lock(&self.0.exchange).claim(id, waiter, Instant::now());
        match claimed {
            Ok(Some(info)) => return Ok(info),
            Ok(None) => {}
            Err(_) => {
                return Err(Status::resource_exhausted(format!(
                    "id {id} is being dialled already, or too many are"
                )));
            }
        }
        let _give_up = GiveUp { broker: self, id };
        match timeout(CLAIM_WITHIN, answer).await {
            Ok(Ok(info)) => Ok(info),
            _ => Err(Status::deadline_exceeded(format!(
                "the other side did not say within {CLAIM_WITHIN:?} where id {id} listens"
            ))),
        }
    }

    async fn knock_and_open(&self, id: u32) -> io::Result<Wire> {
        let broker = self.clone();
        // Once a knock is answered the next stream is that id's, wanted or not. Given up between the two, it would be the one of the next knock, if that were ever heard: a
        // Go plugin hears none before it has seen the stream of the last.
        let opening = tokio::spawn(async move { broker.knock_until_heard(id).await });
        let wire = opening.await.map_err(io::Error::other)??;
        wire.connect_tls(self.0.config.tls.as_ref()).await
    }

    async fn knock_until_heard(&self, id: u32) -> io::Result<Wire> {
        let begun = Instant::now();
        loop {
            match self.knock(id).await? {
                Ok(wire) => return Ok(wire),
                Err(why) if begun.elapsed() >= CLAIM_WITHIN => {
                    return Err(io::Error::other(format!(
                        "the other side did not open id {id}: {why}"
                    )));
                }
                Err(_) => tokio::time::sleep(KNOCK_AGAIN_AFTER).await,
            }
        }
    }

    /// Knocks once. Inside is why the other side did not open, in its words.
    async fn knock(&self, id: u32) -> io::Result<Result<Wire, String>> {
        let mux = self.0.config.mux.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        // Streams have no names: between a knock and its stream there must be no other.
        let _turn = self.0.one_dialer.lock().await;
        self.tell(ConnInfo {
            service_id: id,
            knock: Some(Knock {
                knock: true,
                ..Knock::default()
            }),
            ..ConnInfo::default()
        })
        .await?;
        let answer = self.claim(id).await.map_err(io::Error::other)?;
        match answer.knock {
            Some(Knock { ack: true, error, .. }) if error.is_empty() => Ok(Ok(mux.open().await?)),
            Some(Knock { error, .. }) => Ok(Err(error)),
            None => Err(io::Error::other(format!(
                "the other side answered a knock at id {id} with an address"
            ))),
        }
    }

    async fn tell(&self, info: ConnInfo) -> io::Result<()> {
        const WITHIN: Duration = CLAIM_WITHIN;
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the other side's broker is gone");
        timeout(WITHIN, self.0.outgoing.send(info))
            .await
            .map_err(|_| gone())?
            .map_err(|_| gone())
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

struct GiveUp<'a> {
    broker: &'a Broker,
    id: u32,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        lock(&self.broker.0.exchange).give_up(self.id);
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
        if let Some(broker) = self.broker.upgrade() {
            lock(&broker.exchange).stop_accepting(self.id);
            lock(&broker.listeners).remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::{CallHeaders, mux::Side};

    /// A broker on a session, and the streams that it opens.
    fn multiplexed() -> (Broker, Mux, mpsc::Receiver<Wire>) {
        let (left, right) = duplex(1 << 16);
        let (mux, _) = Mux::start(Wire::new(left), Side::Host);
        let (peer, streams) = Mux::start(Wire::new(right), Side::Plugin);
        let broker = Broker::new(BrokerConfig {
            directory: PathBuf::new(),
            audience: Audience::Own,
            policy: AddressPolicy::default(),
            tls: None,
            mux: Some(mux),
        });
        (broker, peer, streams)
    }

    fn answer(id: u32, error: &str) -> ConnInfo {
        ConnInfo {
            service_id: id,
            knock: Some(Knock {
                knock: true,
                ack: true,
                error: error.to_owned(),
            }),
            ..ConnInfo::default()
        }
    }

    #[tokio::test]
    async fn a_dial_that_is_given_up_after_its_knock_opens_its_stream_all_the_same() {
        let (broker, _peer, mut streams) = multiplexed();
        let told = broker.outgoing();
        futures_util::pin_mut!(told);
        let headers = CallHeaders::default();
        for id in [7, 8] {
            let client = broker.dial(id).await.unwrap();
            let call = client.call("/a.B/C", &headers, Bytes::new());
            let knock = tokio::select! {
                outcome = call => panic!("{outcome:?}"),
                knock = told.next() => ConnInfo::decode(knock.unwrap()).unwrap(),
            };
            // The call is dropped by now. A Go plugin that has answered hears no further knock before it sees a stream.
            assert_eq!(knock.service_id, id);
            broker.receive(answer(id, "")).await;
            assert!(streams.recv().await.is_some());
        }
    }

    #[tokio::test]
    async fn a_knock_that_is_refused_is_tried_again() {
        let (broker, _peer, mut streams) = multiplexed();
        let told = broker.outgoing();
        futures_util::pin_mut!(told);
        let dialling = broker.clone();
        let opened = tokio::spawn(async move { dialling.knock_and_open(7).await.map(drop) });
        for error in ["no listener for id 7", ""] {
            let knock = ConnInfo::decode(told.next().await.unwrap()).unwrap();
            assert!(knock.knock.is_some_and(|it| it.knock && !it.ack));
            broker.receive(answer(7, error)).await;
        }
        assert!(streams.recv().await.is_some());
        opened.await.unwrap().unwrap();
    }
}
