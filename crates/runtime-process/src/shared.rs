//! One plugin of the SDK: what its tasks share, and the calls that are made of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_goplugin::Client;
use mortise_manifest::Limits;
use mortise_runtime::{
    CallContext, CallError, CallErrorKind, HostServices, MethodIndex, StreamHandle, stream,
};
use mortise_wire::{
    Health, Metadata, MethodKind,
    frame::{self, Kind},
};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    calls::Calls,
    dialect::Plugin,
    lane::{self, Held},
};

/// How long the plugin may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the tasks of one instance share.
pub(crate) struct Shared {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) limits: Limits,
    pub(crate) services: Arc<dyn HostServices>,
    pub(crate) calls: Calls,
    pub(crate) lane: lane::Sender,
    /// Name of the transport that was chosen.
    pub(crate) lane_name: &'static str,
    /// One permit for each call that the plugin works on at once.
    pub(crate) slots: Arc<Semaphore>,
    /// Calls go over it, where they are no frames.
    pub(crate) client: Option<Client>,
}

/// An open call whose caller still waits.
pub(crate) struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
    deadline: Instant,
    /// The plugin is through with it.
    pub(crate) over: bool,
}

// === impl Shared ===

impl Shared {
    /// `package.Service/Method`, for messages.
    pub(crate) fn method_name(&self, method: MethodIndex) -> String {
        match self.metadata.methods.get(method.0 as usize) {
            Some(method) => format!("{}/{}", method.service, method.name),
            None => format!("method {}", method.0),
        }
    }

    /// How many messages of a call go which way.
    pub(crate) fn kind(&self, method: MethodIndex) -> Result<MethodKind, CallError> {
        let known = self.metadata.methods.get(method.0 as usize);
        known
            .map(|it| it.kind())
            .ok_or_else(|| CallError::no_such_method(self.name(), self.metadata.methods.len(), method))
    }

    pub(crate) fn too_late(&self, method: MethodIndex) -> CallError {
        CallError::late(self.name(), &self.method_name(method))
    }

    /// When a call of `cx` is over at the latest.
    fn deadline(&self, cx: &CallContext) -> Instant {
        cx.deadline
            .unwrap_or_else(|| Instant::now() + self.limits.deadline)
    }

    /// A call that was opened, for as long as its caller waits.
    pub(crate) fn waiting(&self, id: u64, deadline: Instant) -> Waiting<'_> {
        Waiting {
            shared: self,
            id,
            deadline,
            over: false,
        }
    }

    /// Waits until the plugin can work on one call more.
    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit, CallError> {
        let slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => Ok(slot),
            Err(_) => self.slots.clone().acquire_owned().await,
        };
        slot.map_err(|_| self.over())
    }

    /// Dropped at the deadline: then, and whenever else its caller goes, [`Waiting`] tells the plugin.
    async fn call_until(
        &self,
        cx: &CallContext,
        method: MethodIndex,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let slot = self.slot().await?;
        let mut head = cx.head(Instant::now());
        let deadline_ns = std::mem::replace(&mut head.deadline_ns, u64::MAX);
        head.call_id = u64::MAX;
        // With the longest numbers; what it takes less comes back.
        let body_bytes_max = frame::call_body_bytes(head.encoded_len(), payload.len());
        let credit = self.lane.reserve(body_bytes_max).await;
        let (id, answer) = self.calls.open(cx, method, slot)?;
        let mut waiting = self.waiting(id, deadline);
        head.call_id = id;
        head.deadline_ns = cx.deadline.filter(|_| !cx.untold).map_or(deadline_ns, |at| {
            nanoseconds(at.saturating_duration_since(Instant::now()))
        });
        let prefix = frame::call_prefix(Kind::Call, id, method.0, &head, payload.len());
        self.lane.send_call(prefix, payload, credit);
        let answer = answer.await.unwrap_or_else(|_| Err(self.over()));
        waiting.over = true;
        answer
    }

    /// Why nothing can be asked any more.
    pub(crate) fn over(&self) -> CallError {
        self.calls.closed().unwrap_or_else(|| {
            CallError::new(
                CallErrorKind::HostBug,
                format!(
                    "a call to plugin `{}` was lost by the process runtime",
                    self.name()
                ),
            )
        })
    }
}

// === impl Plugin ===

impl Plugin for Shared {
    fn name(&self) -> &str {
        &self.metadata.name
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn lane(&self) -> Option<&'static str> {
        Some(self.lane_name)
    }

    async fn call(&self, cx: &CallContext, method: MethodIndex, payload: Bytes) -> Result<Bytes, CallError> {
        let max = self.limits.payload_bytes_max;
        if payload.len() > max {
            return Err(CallError::request_too_large(self.name(), payload.len(), max));
        }
        if self.kind(method)?.streams() {
            return Err(stream::not_unary(&self.method_name(method), self.kind(method)?));
        }
        let deadline = self.deadline(cx);
        let called = async {
            match &self.client {
                None => self.call_until(cx, method, payload, deadline).await,
                Some(client) => self.call_over(client, cx, method, payload, deadline).await,
            }
        };
        tokio::time::timeout_at(deadline.into(), called)
            .await
            .unwrap_or_else(|_| Err(self.too_late(method)))
            // A method that hears of its deadline may be quicker than the timer; it is late all the same.
            .map_err(|error| {
                if error.is_late(deadline) {
                    self.too_late(method)
                } else {
                    error
                }
            })
    }

    async fn open(
        self: &Arc<Self>,
        cx: &CallContext,
        method: MethodIndex,
    ) -> Result<StreamHandle, CallError> {
        if !self.kind(method)?.streams() {
            return Err(stream::not_streaming(&self.method_name(method)));
        }
        let deadline = self.deadline(cx);
        let opened = async {
            match &self.client {
                None => self.open_until(cx, method, deadline).await,
                Some(client) => self.open_over(client, cx, method, deadline).await,
            }
        };
        tokio::time::timeout_at(deadline.into(), opened)
            .await
            .unwrap_or_else(|_| Err(self.too_late(method)))
    }

    async fn health(&self) -> Result<Health, CallError> {
        let unavailable = |why: &str| {
            CallError::new(
                CallErrorKind::Unavailable,
                format!("plugin `{}` {why}", self.name()),
            )
        };
        let Some((id, answer)) = self.calls.open_health()? else {
            return Err(unavailable(
                "has not answered the last questions about its health",
            ));
        };
        self.lane.send(Kind::Ping, id, &[], Held::default());
        match tokio::time::timeout(HEALTH_TIMEOUT, answer).await {
            Ok(Ok(health)) => Ok(health),
            Ok(Err(_)) => Err(self.over()),
            Err(_) => Err(unavailable("did not say how it is within a second")),
        }
    }

    fn close(&self, error: CallError) {
        self.calls.close(error);
        self.slots.close();
    }
}

// === impl Waiting ===

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over && self.shared.calls.abandon(self.id, self.deadline) {
            self.shared.lane.send(Kind::Cancel, self.id, &[], Held::default());
        }
    }
}

/// At least 1: 0 says that there is no deadline.
fn nanoseconds(left: Duration) -> u64 {
    u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1)
}
