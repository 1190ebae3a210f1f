//! Calls over gRPC, as both dialects make them: a go-plugin's, and those of the lane `grpc`.

use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use mortise_goplugin::{CallHeaders, Client};
use mortise_runtime::{CallContext, CallError, CallErrorKind, PipeReceiver, PipeSender};
use mortise_wire::{Code, Status};
use prost::Message as _;
use tokio::sync::oneshot;

/// A connection that broke is usually a process that ends; its end is waited for, because it is the better reason.
pub(crate) const EXIT_WAIT: Duration = Duration::from_millis(500);

/// A plugin that is called so.
pub(crate) trait Peer: Send + Sync + 'static {
    /// The plugin's name, for messages.
    fn plugin_name(&self) -> &str;

    /// Resolves once nothing can be called any more, with why.
    fn is_over(&self) -> impl Future<Output = CallError> + Send;
}

/// One call that streams.
pub(crate) struct Streamed {
    pub(crate) client: Client,
    /// `/package.Service/Method`
    pub(crate) path: String,
    pub(crate) headers: CallHeaders,
    pub(crate) deadline: Instant,
    /// Longest reply.
    pub(crate) bytes_max: usize,
    pub(crate) requests: PipeReceiver,
    pub(crate) replies: PipeSender,
}

/// Who ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedBy {
    Plugin,
    /// The caller, the deadline or the end of the instance: gRPC's stream was reset, and the method may still run.
    Host,
}

impl EndedBy {
    fn of(status: &tonic::Status, deadline: Instant) -> Self {
        if is_answer(status, deadline) {
            Self::Plugin
        } else {
            Self::Host
        }
    }
}

/// What goes beside a request.
pub(crate) fn headers(cx: &CallContext, deadline: Instant) -> CallHeaders {
    let own = cx.metadata.iter().map(|it| (it.name.clone(), it.value.clone()));
    let traced =
        Some(("traceparent".to_owned(), cx.traceparent.to_string())).filter(|(_, value)| !value.is_empty());
    CallHeaders {
        timeout: Some(deadline.saturating_duration_since(Instant::now())),
        metadata: own.chain(traced).collect(),
    }
}

/// The error of a call that did not end by its deadline.
pub(crate) fn late(peer: &impl Peer, path: &str) -> CallError {
    CallError::late(peer.plugin_name(), path.trim_start_matches('/'))
}

/// What gRPC says, in our words.
pub(crate) async fn error(
    peer: &impl Peer,
    status: tonic::Status,
    path: &str,
    deadline: Instant,
) -> CallError {
    // gRPC's own timer runs beside ours, and may be first.
    if Instant::now() >= deadline {
        return late(peer, path);
    }
    if is_broken(&status) {
        let ended = tokio::time::timeout(EXIT_WAIT, peer.is_over()).await;
        return ended.unwrap_or_else(|_| lost(peer, path));
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

/// Whether a status was made on this side because the connection broke: then it has a cause.
pub(crate) fn is_broken(status: &tonic::Status) -> bool {
    status.source().is_some()
}

/// Whether a status is the method's, so that it has returned. gRPC makes others by itself: at the deadline, and when the connection breaks or the call is reset.
pub(crate) fn is_answer(status: &tonic::Status, deadline: Instant) -> bool {
    Instant::now() < deadline && !is_broken(status)
}

fn lost(peer: &impl Peer, path: &str) -> CallError {
    let why = format!(
        "the connection to plugin `{}` broke during {}",
        peer.plugin_name(),
        path.trim_start_matches('/')
    );
    CallError::new(CallErrorKind::GuestFault, why)
        .with_hint("see the plugin's last log lines; other plugins are not affected")
}

/// The error of a reply that is longer than the host takes.
pub(crate) fn reply_too_large(peer: &impl Peer, bytes: usize, max: usize) -> CallError {
    let why = format!(
        "a reply of plugin `{}` has {bytes} bytes, and {max} is the limit",
        peer.plugin_name()
    );
    CallError::new(CallErrorKind::Exhausted, why)
}

/// Moves messages between the pipes and gRPC until the call is over, however it ends.
pub(crate) async fn run_stream<P: Peer>(peer: Arc<P>, call: Streamed) -> EndedBy {
    let Streamed {
        client,
        path,
        headers,
        deadline,
        bytes_max,
        requests,
        mut replies,
    } = call;
    let replies_end = replies.abort_handle();
    let (broken, is_broken) = oneshot::channel();
    let exchange = async {
        let outgoing = outgoing(requests, broken);
        let mut incoming = match client.stream(&path, &headers, outgoing).await {
            Ok(incoming) => incoming,
            Err(status) => {
                let by = EndedBy::of(&status, deadline);
                return (Err(error(&*peer, status, &path, deadline).await), by);
            }
        };
        loop {
            match incoming.message().await {
                Ok(Some(message)) if message.len() > bytes_max => {
                    let error = reply_too_large(&*peer, message.len(), bytes_max);
                    return (Err(error), EndedBy::Host);
                }
                Ok(Some(message)) => {
                    if replies.send(message).await.is_err() {
                        return (Ok(()), EndedBy::Host);
                    }
                    // Neither side of this waits for the system as long as the other keeps up.
                    tokio::task::coop::consume_budget().await;
                }
                Ok(None) => return (Ok(()), EndedBy::Plugin),
                Err(status) => {
                    let by = EndedBy::of(&status, deadline);
                    return (Err(error(&*peer, status, &path, deadline).await), by);
                }
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
    let (aborted, ended) = tokio::select! {
        (outcome, by) = exchange => (Err(outcome), by),
        why = sender_gone => (Ok(why), EndedBy::Host),
        () = replies_end.over() => (Err(Ok(())), EndedBy::Host),
        () = tokio::time::sleep_until(deadline.into()) => (Ok(late(&*peer, &path)), EndedBy::Host),
        error = peer.is_over() => (Ok(error), EndedBy::Host),
    };
    match aborted {
        Ok(why) => replies_end.abort(why),
        Err(outcome) => replies.end(outcome),
    }
    ended
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
