//! The connection: made when it is first asked for, and again by itself whenever it is lost.
//!
//! ```text
//!   (none) --asked for--> (made) <-----> (lost)
//!     ^ |                               whoever asks waits for [`PATIENCE`] from its beginning on, then hears `Unavailable` at once
//!     '-' failed: for [`AGAIN_AFTER`] everybody hears the same
//! ```

use std::{
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

use async_nats::{
    Auth, AuthError, Client, ConnectOptions, Event,
    jetstream::{Context, ContextBuilder},
};
use mortise_config::Reference;
use mortise_events::EventError;
use mortise_manifest::{EventsConfig, NatsSettings};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use crate::{
    log::Log,
    words::{closed, unreachable},
};

/// Longest for a first connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest for an answer of the server.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long after a failure nobody tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long after its loss a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest pause before a lost connection is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a connection on which nothing happens is tried.
const PING_EVERY: Duration = Duration::from_secs(10);

/// The way to the servers.
pub(crate) struct Link {
    settings: NatsSettings,
    config: EventsConfig,
    made: Mutex<Made>,
    heard: Arc<Heard>,
    closing: watch::Sender<bool>,
}

enum Made {
    Not,
    /// Not either, and why.
    Failed(Instant, EventError),
    Yes(Arc<Log>),
}

/// What the connection says of itself.
struct Heard {
    endpoints: String,
    state: watch::Sender<State>,
    /// What stood in the way last.
    why: SyncMutex<Option<String>>,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// How often it was made.
    pub(crate) connects: u64,
    lost_at: Option<Instant>,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(settings: NatsSettings, config: EventsConfig) -> Self {
        Self {
            heard: Arc::new(Heard {
                endpoints: settings.endpoints.join(", "),
                state: watch::Sender::default(),
                why: SyncMutex::default(),
            }),
            settings,
            config,
            made: Mutex::new(Made::Not),
            closing: watch::Sender::new(false),
        }
    }

    /// Where the servers are.
    pub(crate) fn endpoints(&self) -> &str {
        &self.heard.endpoints
    }

    pub(crate) fn config(&self) -> &EventsConfig {
        &self.config
    }

    /// The streams, over a connection that is there.
    ///
    /// # Errors
    /// `Unavailable`, and why.
    pub(crate) async fn log(&self) -> Result<Arc<Log>, EventError> {
        let log = self.made().await?;
        let mut state = self.heard.state.subscribe();
        let Some(lost_at) = state.borrow_and_update().lost_at else {
            return Ok(log);
        };
        let back = state.wait_for(|it| it.lost_at.is_none());
        match tokio::time::timeout_at(lost_at + PATIENCE, back).await {
            Ok(_) => Ok(log),
            Err(_) => Err(self.unreachable(&"the connection is lost, and tried again")),
        }
    }

    /// Rung at every connection.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.heard.state.subscribe()
    }

    /// True from the end on.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Nobody gets a connection from now on, and what waits ends.
    pub(crate) fn begin_to_close(&self) {
        self.closing.send_replace(true);
    }

    /// Sends what is written, and lets go.
    pub(crate) async fn close(&self) {
        let made = std::mem::replace(&mut *self.made.lock().await, Made::Not);
        if let Made::Yes(log) = made {
            // What does not get out is delivered again.
            let _ = tokio::time::timeout(ANSWER_MAX, log.client().flush()).await;
        }
    }

    pub(crate) fn unreachable(&self, why: &dyn std::fmt::Display) -> EventError {
        let last = self
            .heard
            .why
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match last {
            Some(last) => unreachable(self.endpoints(), &format_args!("{why} ({last})")),
            None => unreachable(self.endpoints(), why),
        }
    }

    async fn made(&self) -> Result<Arc<Log>, EventError> {
        // One tries, the others wait for it.
        let mut made = self.made.lock().await;
        if *self.closing.borrow() {
            return Err(closed());
        }
        match &*made {
            Made::Yes(log) => return Ok(log.clone()),
            Made::Failed(at, error) if at.elapsed() < AGAIN_AFTER => return Err(error.clone()),
            Made::Failed(..) | Made::Not => {}
        }
        match self.make().await {
            Ok(log) => {
                tracing::info!(target: "mortise::events", servers = self.endpoints(), prefix = self.settings.prefix, "events are kept in NATS");
                *made = Made::Yes(log.clone());
                Ok(log)
            }
            Err(error) => {
                *made = Made::Failed(Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    async fn make(&self) -> Result<Arc<Log>, EventError> {
        self.heard.take_why();
        let connecting = self.options().connect(&*self.settings.endpoints);
        let client = match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(Ok(client)) => client,
            // Credentials that are not there say so themselves; to the client it is a failure like any other.
            Ok(Err(error)) => return Err(self.or_why(&error)),
            Err(_) => return Err(self.or_why(&"nobody answers")),
        };
        let log = Arc::new(Log::open(context(client), &self.settings, &self.config).await?);
        log.look_after();
        Ok(log)
    }

    fn or_why(&self, error: &dyn std::fmt::Display) -> EventError {
        match self.heard.take_why() {
            Some(why) => unreachable(self.endpoints(), &why),
            None => unreachable(self.endpoints(), error),
        }
    }

    fn options(&self) -> ConnectOptions {
        let (heard, settings) = (self.heard.clone(), self.settings.clone());
        let is_guarded = settings.password.is_some() || settings.token.is_some();
        let mut options = match is_guarded {
            true => ConnectOptions::with_auth_callback(move |_| credentials(settings.clone(), heard.clone())),
            false => ConnectOptions::new(),
        };
        if let Some(path) = &self.settings.ca_file {
            options = options.add_root_certificates(path.into()).require_tls(true);
        }
        let heard = self.heard.clone();
        options
            .name("mortise")
            .connection_timeout(CONNECT_MAX)
            .request_timeout(Some(ANSWER_MAX))
            .ping_interval(PING_EVERY)
            .reconnect_delay_callback(|attempts| {
                let doublings = u32::try_from(attempts.min(8)).unwrap_or(8);
                (Duration::from_millis(10) * 2_u32.pow(doublings)).min(PAUSE_MAX)
            })
            .event_callback(move |event| {
                heard.take(&event);
                std::future::ready(())
            })
    }
}

/// Shows where, and no credential.
impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("endpoints", &self.settings.endpoints)
            .field("prefix", &self.settings.prefix)
            .finish_non_exhaustive()
    }
}

fn context(client: Client) -> Context {
    ContextBuilder::new()
        .timeout(ANSWER_MAX)
        .backpressure_on_inflight(true)
        .build(client)
}

/// Who we are, read anew for each connection: it may be another one by now.
async fn credentials(settings: NatsSettings, heard: Arc<Heard>) -> Result<Auth, AuthError> {
    let told = |why: String| {
        *heard.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        AuthError::new(why)
    };
    let password = secret("password", settings.password).await.map_err(told)?;
    let token = secret("token", settings.token).await.map_err(told)?;
    let mut auth = Auth::new();
    (auth.username, auth.password, auth.token) = (settings.user, password, token);
    Ok(auth)
}

async fn secret(name: &'static str, place: Option<String>) -> Result<Option<String>, String> {
    let Some(place) = place else { return Ok(None) };
    let reference = Reference::parse(&place).map_err(|why| format!("`{name}` {why}"))?;
    let reading = tokio::task::spawn_blocking(move || reference.read());
    let secret = reading
        .await
        .unwrap_or_else(|_| Err("it was not read".to_owned()));
    secret.map(Some).map_err(|why| format!("`{name}`: {why}"))
}

// === impl Heard ===

impl Heard {
    fn take(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.take_why();
                let mut is_back = false;
                self.state.send_modify(|it| {
                    is_back = it.lost_at.take().is_some();
                    it.connects += 1;
                });
                if is_back {
                    tracing::info!(target: "mortise::events", servers = self.endpoints, "NATS is back; deliveries go on");
                }
            }
            Event::Disconnected | Event::Closed => {
                let mut is_new = false;
                self.state.send_modify(|it| {
                    is_new = it.lost_at.is_none();
                    it.lost_at.get_or_insert_with(Instant::now);
                });
                if is_new {
                    tracing::warn!(target: "mortise::events", servers = self.endpoints, "NATS is lost; publishers are refused and deliveries wait until it is back");
                }
            }
            Event::ClientError(error) => self.note(error),
            Event::ServerError(error) => self.note(error),
            _ => {}
        }
    }

    fn note(&self, why: &dyn std::fmt::Display) {
        let mut last = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        // What our own credentials said is more than that somebody did not like it.
        if last.is_none() {
            *last = Some(why.to_string());
        }
    }

    fn take_why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
