//! One running plugin, as callers see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_jail::Meter;
use mortise_manifest::Limits;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, CallErrorKind, Enclosure, EndCause, HostServices, Instance,
    InstanceId, MethodIndex, StopReport, StreamCall, StreamHandle, Usage, stream,
};
use mortise_wire::{
    Health, Metadata, MethodKind,
    frame::{self, Kind},
};
use prost::Message as _;
use rustix::process::Pid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::{
    calls::Calls,
    lane::{self, Held},
    memory,
    output::Tail,
    supervise::Command,
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
    /// Its process is reaped, or about to be: its id means nothing any more.
    pub(crate) gone: AtomicBool,
    /// One permit for each call that the plugin works on at once.
    pub(crate) slots: Arc<Semaphore>,
}

/// One running plugin.
pub(crate) struct ProcessInstance {
    pub(crate) id: InstanceId,
    pub(crate) pid: Pid,
    pub(crate) shared: Arc<Shared>,
    pub(crate) enclosure: Enclosure,
    pub(crate) meter: Meter,
    pub(crate) tail: Tail,
    /// Dropping it tells the supervisor to end the process.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) ended: watch::Receiver<Option<EndCause>>,
    pub(crate) stopped: watch::Receiver<Option<StopReport>>,
}

/// An open call whose caller still waits.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
    deadline: Instant,
    over: bool,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// `package.Service/Method`, for messages.
    pub(crate) fn method_name(&self, method: MethodIndex) -> String {
        match self.metadata.methods.get(method.0 as usize) {
            Some(method) => format!("{}/{}", method.service, method.name),
            None => format!("method {}", method.0),
        }
    }

    async fn call(&self, cx: &CallContext, method: MethodIndex, payload: Bytes) -> Result<Bytes, CallError> {
        let max = self.limits.payload_bytes_max;
        if payload.len() > max {
            let why = format!(
                "the request has {} bytes, and {max} is the limit of plugin `{}`",
                payload.len(),
                self.name()
            );
            return Err(CallError::new(CallErrorKind::Exhausted, why));
        }
        if self.kind(method)?.streams() {
            return Err(stream::not_unary(&self.method_name(method), self.kind(method)?));
        }
        let deadline = cx
            .deadline
            .unwrap_or_else(|| Instant::now() + self.limits.deadline);
        let called = self.call_until(cx, method, payload, deadline);
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

    /// How many messages of a call go which way.
    pub(crate) fn kind(&self, method: MethodIndex) -> Result<MethodKind, CallError> {
        let known = self.metadata.methods.get(method.0 as usize);
        known.map(|it| it.kind()).ok_or_else(|| {
            let why = format!(
                "plugin `{}` has {} methods and no method {}",
                self.name(),
                self.metadata.methods.len(),
                method.0
            );
            CallError::new(CallErrorKind::NotFound, why)
        })
    }

    pub(crate) fn too_late(&self, method: MethodIndex) -> CallError {
        let why = format!(
            "{} of plugin `{}` did not answer by its deadline",
            self.method_name(method),
            self.name()
        );
        CallError::new(CallErrorKind::Deadline, why)
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
        let mut waiting = Waiting {
            shared: self,
            id,
            deadline,
            over: false,
        };
        head.call_id = id;
        head.deadline_ns = cx.deadline.map_or(deadline_ns, |at| {
            nanoseconds(at.saturating_duration_since(Instant::now()))
        });
        let prefix = frame::call_prefix(Kind::Call, id, method.0, &head, payload.len());
        self.lane.send_call(prefix, payload, credit);
        let answer = answer.await.unwrap_or_else(|_| Err(self.over()));
        waiting.over = true;
        answer
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

// === impl ProcessInstance ===

impl Call for ProcessInstance {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.shared.call(cx, method, payload))
    }
}

impl StreamCall for ProcessInstance {
    fn open<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>> {
        Box::pin(self.shared.open_stream(cx, method))
    }
}

impl Instance for ProcessInstance {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn stream(&self) -> Option<&dyn StreamCall> {
        Some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        Box::pin(self.shared.health())
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        let mut ended = self.ended.clone();
        Box::pin(async move {
            match ended.wait_for(Option::is_some).await.map(|cause| cause.clone()) {
                Ok(Some(cause)) => cause,
                // It was stopped, so it never ends by itself.
                _ => std::future::pending().await,
            }
        })
    }

    fn usage(&self) -> Usage {
        if self.shared.gone.load(Ordering::Acquire) {
            return Usage::default();
        }
        let counted = self.meter.read();
        Usage {
            memory_bytes: memory::resident_bytes(self.pid),
            pid: u32::try_from(self.pid.as_raw_nonzero().get()).ok(),
            lane: Some(self.shared.lane_name),
            cpu_time: counted.cpu_time,
            // One of them is the launcher's.
            tasks: counted.tasks.map(|it| it.saturating_sub(1)),
            ..Usage::default()
        }
    }

    fn enclosure(&self) -> Option<Enclosure> {
        Some(self.enclosure.clone())
    }

    fn last_output(&self) -> Option<String> {
        Some(self.tail.text()).filter(|text| !text.is_empty())
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        let mut stopped = self.stopped.clone();
        // If the supervisor is gone, the report is there.
        let _ = self.commands.send(Command::Stop { grace });
        Box::pin(async move {
            match stopped
                .wait_for(Option::is_some)
                .await
                .map(|report| report.clone())
            {
                Ok(Some(report)) => report,
                _ => StopReport {
                    forced: Some("the executor that supervised it ended".to_owned()),
                    left: None,
                },
            }
        })
    }
}
