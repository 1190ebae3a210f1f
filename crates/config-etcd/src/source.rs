//! The source: lists, watches, and finds its way back after whatever happened.
//!
//! ```text
//!   (nothing known) --list at R--> (known to R) --watch from R + 1--> (watching)
//!          ^                           ^                                  |
//!          |                           '--- connection lost, pause -------|
//!          '--- compacted, another cluster, data lost --------------------'
//! ```

use std::time::Duration;

use mortise_config::{BoxFuture, ConfigSource, Outage, Update};
use mortise_manifest::EtcdSettings;
use tokio::time::Instant;

use crate::{
    api::WatchResponse,
    client::{Client, Watching, told},
    keys::Keys,
};

/// Shortest pause before etcd is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before etcd is tried again.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Configuration below one prefix of an etcd.
pub struct EtcdSource {
    settings: EtcdSettings,
    keys: Keys,
    /// What is known: everything up to this revision of this cluster.
    known: Option<Known>,
    client: Option<Client>,
    watching: Option<Watching>,
    /// Counts attempts; chooses the endpoint.
    attempts: usize,
    pause: Duration,
    not_before: Option<Instant>,
    /// Listings in a row after which the watch said that they are of no use.
    losses: u32,
    /// An outage was told, and its end was not.
    is_out: bool,
}

#[derive(Clone, Copy)]
struct Known {
    revision: i64,
    cluster: u64,
}

/// What a word of etcd comes to.
enum Heard {
    Nothing,
    Update(Update),
    /// What is known is of no use any more.
    Lost(&'static str),
    Failed(Outage),
}

// === impl EtcdSource ===

impl EtcdSource {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(settings: EtcdSettings) -> Self {
        Self {
            keys: Keys::new(&settings.prefix),
            settings,
            known: None,
            client: None,
            watching: None,
            attempts: 0,
            pause: PAUSE_MIN,
            not_before: None,
            losses: 0,
            is_out: false,
        }
    }

    async fn next_update(&mut self) -> Result<Update, Outage> {
        loop {
            if let Some(at) = self.not_before {
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            let Some(watching) = &mut self.watching else {
                match self.open().await {
                    Ok(Some(update)) => return Ok(self.update(update)),
                    Ok(None) => continue,
                    Err(outage) => return Err(self.failed(outage)),
                }
            };
            // Cancel safe: what has arrived stays in the stream.
            let heard = match watching.responses.message().await {
                Ok(Some(response)) => self.take(response),
                Ok(None) => Heard::Failed(Outage::new("it ended the watch")),
                Err(status) => Heard::Failed(Outage::new(format_args!(
                    "the watch broke off: {}",
                    told(&status)
                ))),
            };
            match heard {
                Heard::Nothing => {}
                Heard::Update(update) => {
                    self.losses = 0;
                    return Ok(self.update(update));
                }
                Heard::Lost(why) => {
                    tracing::warn!(target: "mortise::config", prefix = self.settings.prefix, "etcd is listed again: {why}");
                    (self.watching, self.known) = (None, None);
                    // Behind a balancer list and watch may go to two members, of which one lags: not as fast as both can answer.
                    if self.losses > 0 {
                        let pause = PAUSE_MIN * 2_u32.saturating_pow(self.losses.min(7));
                        self.not_before = Some(Instant::now() + pause.min(PAUSE_MAX));
                    }
                    self.losses = self.losses.saturating_add(1);
                    continue;
                }
                Heard::Failed(outage) => return Err(self.failed(outage)),
            }
            self.losses = 0;
        }
    }

    /// Takes the next step towards a watch. An update if it was a listing.
    async fn open(&mut self) -> Result<Option<Update>, Outage> {
        if self.client.is_none() {
            let endpoints = &self.settings.endpoints;
            let endpoint = endpoints
                .get(self.attempts % endpoints.len().max(1))
                .ok_or_else(|| Outage::new("no endpoint is configured"))?;
            self.client = Some(Client::connect(&self.settings, endpoint).await?);
        }
        let Some(client) = &self.client else {
            return Ok(None);
        };
        match self.known {
            None => {
                let listing = client.list(self.keys.prefix()).await?;
                self.known = Some(Known {
                    revision: listing.revision,
                    cluster: listing.cluster,
                });
                Ok(Some(self.keys.replace(listing)))
            }
            Some(known) => {
                self.watching = Some(client.watch(self.keys.prefix(), known.revision + 1).await?);
                Ok(None)
            }
        }
    }

    fn take(&mut self, response: WatchResponse) -> Heard {
        let header = response.header.unwrap_or_default();
        let Some(known) = &mut self.known else {
            return Heard::Lost("it tells of what was never listed");
        };
        if response.compact_revision != 0 {
            return Heard::Lost("what happened in between is compacted");
        }
        if response.canceled {
            let why = format_args!("it cancelled the watch: {}", response.cancel_reason);
            return Heard::Failed(Outage::new(why));
        }
        if header.cluster_id != known.cluster {
            return Heard::Lost("it is another cluster");
        }
        if response.created && header.revision < known.revision {
            // A watch of the future would hear nothing for a long time.
            return Heard::Lost("it is behind what was seen of it, so it lost its data");
        }
        if response.events.is_empty() {
            if !response.created {
                // Progress: nothing of ours happened up to here.
                known.revision = known.revision.max(header.revision);
            } else if self.is_out {
                return Heard::Update(Update {
                    revision: known.revision.unsigned_abs(),
                    complete: false,
                    plugins: Default::default(),
                });
            }
            return Heard::Nothing;
        }
        let last = response
            .events
            .iter()
            .filter_map(|it| it.kv.as_ref())
            .map(|it| it.mod_revision)
            .max();
        known.revision = known.revision.max(last.unwrap_or(header.revision));
        let revision = known.revision;
        Heard::Update(self.keys.change(revision, response.events))
    }

    fn update(&mut self, update: Update) -> Update {
        self.is_out = false;
        self.pause = PAUSE_MIN;
        update
    }

    fn failed(&mut self, outage: Outage) -> Outage {
        // A token may have run out, an address may be another: everything anew.
        (self.client, self.watching) = (None, None);
        self.attempts = self.attempts.wrapping_add(1);
        self.not_before = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.is_out = true;
        outage
    }
}

impl ConfigSource for EtcdSource {
    fn name(&self) -> &str {
        "etcd"
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Update, Outage>> {
        Box::pin(self.next_update())
    }
}

/// Shows where, and no credential.
impl std::fmt::Debug for EtcdSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdSource")
            .field("endpoints", &self.settings.endpoints)
            .field("prefix", &self.settings.prefix)
            .finish_non_exhaustive()
    }
}
