//! One plugin of this dialect: its calls, and what the supervisor hears and says.

use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use mortise_goplugin::{CallHeaders, Connection};
use mortise_manifest::Limits;
use mortise_runtime::{
    CallContext, CallError, CallErrorKind, MethodIndex, PipeReceiver, PipeSender, StreamHandle, pipe,
    stream as port,
};
use mortise_wire::{Code, Health, Metadata, MethodKind, Status};
use prost::Message as _;
use tokio::sync::{oneshot, watch};

use crate::{
    dialect::{Conversation, Over, Plugin},
    watched::OwnedTask,
};

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
}

/// What is spoken with one plugin.
pub(super) struct GoConversation {
    pub(super) shared: Arc<Shared>,
    /// The question to end, once it was asked: it may hang, and how it goes says nothing.
    pub(super) asking: Option<OwnedTask>,
}

// === impl Shared ===

impl Shared {
    fn path(&self, method: MethodIndex) -> Result<&str, CallError> {
        self.paths
            .get(method.0 as usize)
            .map(String::as_str)
            .ok_or_else(|| CallError::no_such_method(self.name(), self.paths.len(), method))
    }

    fn kind(&self, method: MethodIndex) -> MethodKind {
        let flags = self
            .metadata
            .methods
            .get(method.0 as usize)
            .map_or(0, |it| it.flags);
        MethodKind::of_flags(flags)
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
        CallError::late(self.name(), path.trim_start_matches('/'))
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
        Some("grpc")
    }

    async fn call(&self, cx: &CallContext, method: MethodIndex, payload: Bytes) -> Result<Bytes, CallError> {
        let max = self.limits.payload_bytes_max;
        if payload.len() > max {
            return Err(CallError::request_too_large(self.name(), payload.len(), max));
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

    async fn open(
        self: &Arc<Self>,
        cx: &CallContext,
        method: MethodIndex,
    ) -> Result<StreamHandle, CallError> {
        let path = self.path(method)?.to_owned();
        if self.kind(method) == MethodKind::Unary {
            return Err(port::not_streaming(path.trim_start_matches('/')));
        }
        let error = self.over.borrow().clone();
        if let Some(error) = error {
            return Err(error);
        }
        let deadline = self.deadline(cx);
        let (requests, to_send) = pipe((&self.limits).into());
        let (received, replies) = pipe((&self.limits).into());
        // It ends with the call: at the latest at its deadline.
        tokio::spawn(run_stream(
            self.clone(),
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

    fn close(&self, error: CallError) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert(error);
            first
        });
    }
}

// === impl Conversation ===

impl Conversation for GoConversation {
    type Plugin = Shared;

    fn plugin(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its process tells when it is over. A call that is late is cancelled in the plugin and never stuck: gRPC's streams are independent.
    async fn over(&mut self) -> Over {
        std::future::pending().await
    }

    fn ask_to_stop(&mut self) {
        let shared = self.shared.clone();
        self.asking = Some(OwnedTask::spawn(
            async move { shared.connection.shutdown().await },
        ));
    }

    /// What it has answered is with the callers already, or lost with its connection.
    async fn settle(&mut self) {}
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
