//! One plugin of this dialect: its calls, and what the supervisor hears and says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_goplugin::Connection;
use mortise_manifest::Limits;
use mortise_runtime::{
    CallContext, CallError, CallErrorKind, MethodIndex, StreamHandle, pipe, stream as port,
};
use mortise_wire::{Health, Metadata, MethodKind};
use tokio::sync::watch;

use crate::{
    dialect::{Conversation, Over, Plugin},
    grpc::{self, Peer, Streamed},
    watched::OwnedTask,
};

/// How long the plugin may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

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

    fn deadline(&self, cx: &CallContext) -> Instant {
        cx.deadline
            .unwrap_or_else(|| Instant::now() + self.limits.deadline)
    }
}

impl Peer for Shared {
    fn plugin_name(&self) -> &str {
        &self.metadata.name
    }

    async fn is_over(&self) -> CallError {
        let mut over = self.over.subscribe();
        let error = over.wait_for(Option::is_some).await.map(|error| error.clone());
        match error {
            Ok(Some(error)) => error,
            // It never closes: `self` holds its other end.
            _ => std::future::pending().await,
        }
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
        let headers = grpc::headers(cx, deadline);
        tokio::select! {
            biased;
            outcome = self.connection.call(path, &headers, payload) => match outcome {
                Ok(reply) if reply.len() > max => Err(grpc::reply_too_large(self, reply.len(), max)),
                Ok(reply) => Ok(reply),
                Err(status) => Err(grpc::error(self, status, path, deadline).await),
            },
            () = tokio::time::sleep_until(deadline.into()) => Err(grpc::late(self, path)),
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
        let call = Streamed {
            client: self.connection.client().clone(),
            path,
            headers: grpc::headers(cx, deadline),
            deadline,
            bytes_max: self.limits.payload_bytes_max,
            requests: to_send,
            replies: received,
        };
        tokio::spawn(grpc::run_stream(self.clone(), call));
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
