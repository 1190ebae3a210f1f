//! Webhooks in a build without HTTP: nobody is told, and that is said.

use std::sync::Arc;

use crate::canary::Notice;

pub use crate::webhook_terms::{Webhook, WebhookRetry};

/// All receivers of a host.
#[derive(Debug, Default)]
pub(crate) struct Webhooks;

impl Webhooks {
    pub(crate) fn start(all: Vec<Webhook>) -> Self {
        if !all.is_empty() {
            tracing::error!(target: "mortise::webhook", "this build has no HTTP client; nobody is told of decisions");
        }
        Self
    }

    pub(crate) fn tell(&self, _: &Arc<Notice>) {}
}
