//! Who is told of decisions, and how.

use std::{fmt, time::Duration};

use mortise_manifest::WebhookForm;

/// A server that is told of every decision about a canary.
#[derive(Clone)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// Signs every body, if it is there.
    pub secret: Option<Vec<u8>>,
    /// What the body looks like.
    pub form: WebhookForm,
    /// What happens when it does not answer.
    pub retry: WebhookRetry,
}

/// How often and when a decision is told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRetry {
    /// Attempts in all. Default 8.
    pub attempts: u32,
    /// The pause after the first; each is twice the one before it. Default 1 s.
    pub first: Duration,
    /// The longest pause. Default 60 s.
    pub most: Duration,
    /// How long one attempt may take. Default 10 s.
    pub timeout: Duration,
}

impl Webhook {
    /// A receiver of unsigned bodies.
    pub fn new(url: impl Into<String>, form: WebhookForm) -> Self {
        Self {
            url: url.into(),
            secret: None,
            form,
            retry: WebhookRetry::default(),
        }
    }
}

impl Default for WebhookRetry {
    fn default() -> Self {
        Self {
            attempts: 8,
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for Webhook {
    /// Without the URL and the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("form", &self.form)
            .field("signed", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}
