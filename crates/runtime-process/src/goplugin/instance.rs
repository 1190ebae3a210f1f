//! One running plugin of this dialect, as callers see it.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use mortise_goplugin::{CallHeaders, Connection};
use mortise_jail::Meter;
use mortise_manifest::Limits;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, CallErrorKind, Enclosure, EndCause, Instance, InstanceId,
    MethodIndex, PipeReceiver, PipeSender, StopReport, StreamCall, StreamHandle, Usage, pipe, stream as port,
};
use mortise_wire::{Code, Health, Metadata, MethodKind, Status};
use prost::Message as _;
use rustix::process::Pid;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{memory, output::Tail, supervise::Command};

/// How long the plugin may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that broke is usually a process that ends; its end is waited for, because it is the better reason.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// What the tasks of one instance share.
pub(super) struct Shared {
    pub(super) metadata: Arc<Metadata>,
    pub(super) limits: Limits,
    pub(super) connection: Connection,
    /// Of each method, `/package.Service/Method`.
    pub(super) paths: Vec<String>,
    /// Why nothing can be called any more, once that is so.
    pub(super) over: watch::Sender<Option<CallError>>,
    pub(super) gone: AtomicBool,
}

/// One running plugin.
pub(super) struct GoPluginInstance {
    pub(super) id: InstanceId,
    pub(super) pid: Pid,
    pub(super) shared: Arc<Shared>,
    pub(super) enclosure: Enclosure,
    pub(super) meter: Meter,
    pub(super) tail: Tail,
    /// Dropping it tells the supervisor to end the process.
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) ended: watch::Receiver<Option<EndCause>>,
    pub(super) stopped: watch::Receiver<Option<StopReport>>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    fn path(&self, method: MethodIndex) -> Result<&str, CallError> {
        self.paths
            .get(method.0 as usize)
            .map(String::as_str)
            .ok_or_else(|| {
                let why = format!(
                    "plugin `{}` has {} methods and no method {}",
                    self.name(),
                    self.paths.len(),
                    method.0
                );
                CallError::new(CallErrorKind::NotFound, why)
            })
    }

    fn kind(&self, method: MethodIndex) -> MethodKind {
        let flags = self
            .metadata
            .methods
            .get(method.0 as usize)
            .map_or(0, |it| it.flags);
        MethodKind::of_flags(flags)
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
        let path = self.path(method)?;
        let kind = self.kind(method);
        if kind != MethodKind::Unary {
            return Err(port::not_unary(path.trim_start_matches('/'), kind));
        }
        let deadline = self.deadline(cx);
        let headers = headers(cx, deadline);
        tokio::select! {
            biased;
            outcome = self.connection.call(path, &headers, payload) => match outcome {
                Ok(reply) => Ok(reply),
                Err(status) => Err(self.error(status, path, deadline).await),
            },
            () = tokio::time::sleep_until(deadline.into()) => Err(self.late(path)),
            error = self.is_over() => Err(error),
        }
    }

    /// Resolves once nothing can be called any more, with why.
    async fn is_over(&self) -> CallError {
        let mut over = self.over.subscribe();
        let error = over.wait_for(Option::is_some).await.map(|error| error.clone());
        match error {
            Ok(Some(error)) => error,
            // It never closes: `self` holds its other end.
            _ => std::future::pending().await,
        }
    }

    fn deadline(&self, cx: &CallContext) -> Instant {
        cx.deadline
            .unwrap_or_else(|| Instant::now() + self.limits.deadline)
    }

    fn late(&self, path: &str) -> CallError {
        let why = format!(
            "{} of plugin `{}` did not answer by its deadline",
            path.trim_start_matches('/'),
            self.name()
        );
        CallError::new(CallErrorKind::Deadline, why)
    }

    fn lost(&self, path: &str) -> CallError {
        let why = format!(
            "the connection to plugin `{}` broke during {}",
            self.name(),
            path.trim_start_matches('/')
        );
        CallError::new(CallErrorKind::GuestFault, why)
            .with_hint("see the plugin's last log lines; other plugins are not affected")
    }

    /// What gRPC says, in our words. A status with a cause was made on this side: the connection broke.
    async fn error(&self, status: tonic::Status, path: &str, deadline: Instant) -> CallError {
        // gRPC's own timer runs beside ours, and may be first.
        if Instant::now() >= deadline {
            return self.late(path);
        }
        if status.source().is_some() || status.message() == "transport error" {
            let ended = tokio::time::timeout(EXIT_WAIT, self.is_over()).await;
            return ended.unwrap_or_else(|_| self.lost(path));
        }
        // Its details are a `google.rpc.Status`, which ours is too.
        let details = Status::decode(status.details()).unwrap_or_default();
        CallError::returned(Status {
            code: Code::from_i32(status.code() as i32) as i32,
            message: status.message().to_owned(),
            details: details.details,
            retryable: details.retryable,
        })
    }

    async fn health(&self) -> Result<Health, CallError> {
        let error = self.over.borrow().clone();
        if let Some(error) = error {
            return Err(error);
        }
        match tokio::time::timeout(HEALTH_TIMEOUT, self.connection.health()).await {
            Ok(Ok(())) => Ok(Health {
                serving: true,
                detail: String::new(),
            }),
            Ok(Err(detail)) => Ok(Health {
                serving: false,
                detail,
            }),
            Err(_) => {
                let why = format!("plugin `{}` did not say how it is within a second", self.name());
                Err(CallError::new(CallErrorKind::Unavailable, why))
            }
        }
    }
}

/// Moves messages between the pipes and gRPC until the call is over, however it ends.
async fn run_stream(
    shared: Arc<Shared>,
    path: String,
    headers: CallHeaders,
    deadline: Instant,
    requests: PipeReceiver,
    mut replies: PipeSender,
) {
    let replies_end = replies.abort_handle();
    let (broken, is_broken) = oneshot::channel();
    let exchange = async {
        let outgoing = outgoing(requests, broken);
        let mut incoming = match shared.connection.stream(&path, &headers, outgoing).await {
            Ok(incoming) => incoming,
            Err(status) => return Err(shared.error(status, &path, deadline).await),
        };
        loop {
            match incoming.message().await {
                Ok(Some(message)) => {
                    if replies.send(message).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(shared.error(status, &path, deadline).await),
            }
        }
    };
    let sender_gone = async {
        match is_broken.await {
            Ok(why) => why,
            // All was sent.
            Err(_) => std::future::pending().await,
        }
    };
    // Leaving the selection drops the exchange, and that resets gRPC's stream: the plugin's context is cancelled.
    let aborted = tokio::select! {
        outcome = exchange => Err(outcome),
        why = sender_gone => Ok(why),
        () = replies_end.over() => Err(Ok(())),
        () = tokio::time::sleep_until(deadline.into()) => Ok(shared.late(&path)),
        error = shared.is_over() => Ok(error),
    };
    match aborted {
        Ok(why) => replies_end.abort(why),
        Err(outcome) => replies.end(outcome),
    }
}

/// The requests as gRPC takes them. A sender that went away before its end is told to `broken`, and its stream has no end.
fn outgoing(
    requests: PipeReceiver,
    broken: oneshot::Sender<CallError>,
) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold((requests, broken), |(mut requests, broken)| async move {
        match requests.next().await {
            Ok(Some(message)) => Some((message, (requests, broken))),
            Ok(None) => None,
            Err(why) => {
                let _ = broken.send(why);
                std::future::pending().await
            }
        }
    })
}

fn headers(cx: &CallContext, deadline: Instant) -> CallHeaders {
    let own = cx.metadata.iter().map(|it| (it.name.clone(), it.value.clone()));
    let traced =
        Some(("traceparent".to_owned(), cx.traceparent.to_string())).filter(|(_, value)| !value.is_empty());
    CallHeaders {
        timeout: Some(deadline.saturating_duration_since(Instant::now())),
        metadata: own.chain(traced).collect(),
    }
}

// === impl GoPluginInstance ===

impl Call for GoPluginInstance {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.shared.call(cx, method, payload))
    }
}

impl StreamCall for GoPluginInstance {
    fn open<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>> {
        let opened = || {
            let shared = &self.shared;
            let path = shared.path(method)?.to_owned();
            if shared.kind(method) == MethodKind::Unary {
                return Err(port::not_streaming(path.trim_start_matches('/')));
            }
            let error = shared.over.borrow().clone();
            if let Some(error) = error {
                return Err(error);
            }
            let deadline = shared.deadline(cx);
            let (requests, to_send) = pipe((&shared.limits).into());
            let (received, replies) = pipe((&shared.limits).into());
            // It ends with the call: at the latest at its deadline.
            tokio::spawn(run_stream(
                shared.clone(),
                path,
                headers(cx, deadline),
                deadline,
                to_send,
                received,
            ));
            Ok(StreamHandle {
                requests: Box::new(requests),
                replies: Box::new(replies),
            })
        };
        Box::pin(std::future::ready(opened()))
    }
}

impl Instance for GoPluginInstance {
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
