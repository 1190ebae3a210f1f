//! Tells somebody else's server what was decided: one signed POST per decision and receiver.
//!
//! # What is sent
//! Form `json`: the whole decision, [`Notice`]. Form `chat`: `{"text": ".."}`, one line with the deciding number, which is what Slack, Mattermost, Discord's
//! `/slack` and their like take. Headers: `mortise-event` (the decision's kind), `mortise-delivery` (the decision's id, the same at every attempt: a
//! receiver that has seen it may answer 200 and forget it) and, with a secret,
//! `mortise-signature: t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 over `SECONDS.BODY`. A receiver computes the same over the body as it came, compares in
//! constant time, and refuses what is older than it likes: that is what the time is in it for.
//!
//! # What can go wrong
//! No answer, 408, 429 and 5xx are tried again after a pause that doubles from [`WebhookRetry::first`] to [`WebhookRetry::most`], each between half and all of
//! that at random, so that many hosts do not come back in step. Other answers are not: the receiver has said what it thinks. Redirects are not followed, and proxies
//! of the environment not used. Decisions wait in a queue of [`QUEUE_MAX`] per receiver; what does not fit is dropped, counted and logged. Whoever decides never
//! waits for any of this.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use mortise_manifest::WebhookForm;
use sha2::Sha256;
use tokio::sync::mpsc;

use crate::canary::Notice;

/// Decisions that wait for a receiver.
pub(crate) const QUEUE_MAX: usize = 64;
/// Bytes of a receiver's answer that are looked at, for the log.
const SHOWN_BYTES_MAX: usize = 200;

pub use crate::webhook_terms::{Webhook, WebhookRetry};

/// All receivers of a host.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    receivers: Vec<Receiver>,
}

#[derive(Debug)]
struct Receiver {
    url: Arc<str>,
    queue: mpsc::Sender<Arc<Notice>>,
    dropped: AtomicU64,
}

/// How an attempt went.
enum Attempt {
    Taken,
    /// Worth another one.
    Later(String),
    Never(String),
}

// === impl Webhooks ===

impl Webhooks {
    /// Starts a task per receiver, on the current tokio runtime. They end when this is dropped and their queues are empty.
    pub(crate) fn start(all: Vec<Webhook>) -> Self {
        let start = |webhook: Webhook| {
            let (queue, notices) = mpsc::channel(QUEUE_MAX);
            let url: Arc<str> = shown(&webhook.url).into();
            tokio::spawn(deliver(webhook, url.clone(), notices));
            Receiver {
                url,
                queue,
                dropped: AtomicU64::new(0),
            }
        };
        Self {
            receivers: all.into_iter().map(start).collect(),
        }
    }

    /// Puts a decision into every queue. Never blocks.
    pub(crate) fn tell(&self, notice: &Arc<Notice>) {
        for receiver in &self.receivers {
            if receiver.queue.try_send(notice.clone()).is_err() {
                let dropped = receiver.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::error!(target: "mortise::webhook", url = %receiver.url, dropped, "a decision was not told: {QUEUE_MAX} others wait for this receiver");
            }
        }
    }
}

// === delivering ===

async fn deliver(webhook: Webhook, url: Arc<str>, mut notices: mpsc::Receiver<Arc<Notice>>) {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(webhook.retry.timeout)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(target: "mortise::webhook", %url, %error, "no HTTP client can be made; nothing is told");
            return;
        }
    };
    while let Some(notice) = notices.recv().await {
        let body = match webhook.form {
            WebhookForm::Json => serde_json::to_vec(&*notice),
            WebhookForm::Chat => serde_json::to_vec(&serde_json::json!({ "text": notice.line() })),
        };
        let body = body.expect("strings and numbers serialize");
        let mut pause = webhook.retry.first;
        for number in 1..=webhook.retry.attempts.max(1) {
            match attempt(&client, &webhook, &notice, &body).await {
                Attempt::Taken => {
                    tracing::debug!(target: "mortise::webhook", %url, id = %notice.id, number, "told");
                    break;
                }
                Attempt::Never(why) => {
                    tracing::error!(target: "mortise::webhook", %url, id = %notice.id, kind = %notice.kind, "a decision was refused: {why}");
                    break;
                }
                Attempt::Later(why) if number == webhook.retry.attempts.max(1) => {
                    tracing::error!(target: "mortise::webhook", %url, id = %notice.id, kind = %notice.kind, "a decision was not told after {number} attempts: {why}");
                }
                Attempt::Later(why) => {
                    let wait = pause.mul_f64(0.5 + 0.5 * crate::supervisor::jitter());
                    tracing::warn!(target: "mortise::webhook", %url, id = %notice.id, number, "not told yet, again in {wait:.1?}: {why}");
                    tokio::time::sleep(wait).await;
                    pause = pause.saturating_mul(2).min(webhook.retry.most);
                }
            }
        }
    }
}

async fn attempt(client: &reqwest::Client, webhook: &Webhook, notice: &Notice, body: &[u8]) -> Attempt {
    let mut request = client
        .post(&webhook.url)
        .header("content-type", "application/json")
        .header("user-agent", concat!("mortise/", env!("CARGO_PKG_VERSION")))
        .header("mortise-event", notice.kind.as_str())
        .header("mortise-delivery", notice.id.as_str());
    if let Some(secret) = &webhook.secret {
        request = request.header("mortise-signature", signature(secret, SystemTime::now(), body));
    }
    let response = match request.body(body.to_vec()).send().await {
        Ok(response) => response,
        // The text of the error has the URL, and the URL may have a secret in it.
        Err(error) => return Attempt::Later(error.without_url().to_string()),
    };
    let status = response.status();
    if status.is_success() {
        return Attempt::Taken;
    }
    let said = beginning(response).await;
    let why = format!("it answered {status}: {}", said.escape_debug());
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => Attempt::Later(why),
        _ => Attempt::Never(why),
    }
}

/// The first bytes of an answer, for the log. No more is read of it, however long it is.
async fn beginning(mut response: reqwest::Response) -> String {
    let mut said = Vec::new();
    while said.len() < SHOWN_BYTES_MAX
        && let Ok(Some(part)) = response.chunk().await
    {
        said.extend_from_slice(&part[..part.len().min(SHOWN_BYTES_MAX - said.len())]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// `t=SECONDS,v1=HEX`.
fn signature(secret: &[u8], at: SystemTime, body: &[u8]) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("t={seconds},v1={hex}")
}

/// Scheme and host: the path or the query of a chat robot's URL is its password.
fn shown(url: &str) -> String {
    let end = url
        .find("://")
        .and_then(|at| url[at + 3..].find(['/', '?', '#']).map(|path| at + 3 + path))
        .unwrap_or(url.len());
    let start = url[..end].find("://").map_or(0, |at| at + 3);
    let host = url[start..end].rsplit('@').next().unwrap_or_default();
    format!("{}{host}", &url[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256_over_the_time_and_the_body() {
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            signature(b"secret", at, b"{}"),
            "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
        );
    }

    #[test]
    fn urls_are_shown_without_their_secrets() {
        assert_eq!(
            shown("https://u:p@hooks.example.com:8/T0/B1/secret"),
            "https://hooks.example.com:8"
        );
        assert_eq!(shown("http://localhost?token=secret"), "http://localhost");
        assert_eq!(shown("http://localhost"), "http://localhost");
        assert_eq!(shown("nonsense"), "nonsense");
    }
}
