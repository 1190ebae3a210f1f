//! The facet of plugins whose methods stream: calls with a sequence of messages in one direction or in both.
//!
//! A call is opened, and is then a handle with two halves: one sends requests, the other receives replies. The halves are independent: they
//! may go to two tasks. What the contract calls unary in one direction is a sequence of exactly one message there, so all three kinds
//! ([`MethodKind`]) have the same form here.
//!
//! # How a call ends
//! | what happens | the receiving half | the sending half |
//! |---|---|---|
//! | the method returns Ok | the replies that were sent, then the end | [`SendError::Over`] |
//! | the method returns a status | the replies that were sent, then that error | `Over` |
//! | the deadline passes | `Deadline`, ahead of replies that were not read | `Over` |
//! | the plugin crashes, or its instance is stopped by force | that error, ahead of replies that were not read | `Over` |
//! | the receiving half is dropped before the end | | `Over`; the call is cancelled |
//! | the sending half is dropped before [`SendHalf::finish`] | `Cancelled` | |
//!
//! A sender that goes away in the middle cancels the call, because what it sent so far must not look like all there is.
//!
//! # Bounds
//! Each direction holds at most `Limits::stream_messages_max` messages and `Limits::stream_bytes_max` bytes that were sent and not yet
//! received (one message may be longer, and then it is alone). Whoever sends more waits until the other side has received: a slow reader slows
//! the writer, and costs no memory. [`pipe`](crate::pipe()) is a queue that does this, for runtimes that need one.

use bytes::Bytes;
use mortise_wire::{
    MethodKind, Status,
    client::{MessageReceiver, MessageSender, NotSent},
};

use crate::{BoxFuture, CallContext, CallError, CallErrorKind, MethodIndex};

/// Opens calls of streaming methods. Whether a method streams is in its metadata (`Method::kind`).
pub trait StreamCall: Send + Sync {
    /// Opens a call of one streaming method. Admission (concurrency, depth) is done; `cx.deadline` is set and the runtime enforces it over the
    /// whole life of the call. The method begins at once, it does not wait for the first message.
    ///
    /// # Errors
    /// What kept the call from being opened: `NotFound`, `Draining`, `GuestFault`, `Deadline` while it waited for a thread; [`not_streaming`] for
    /// a unary method. What the method does with the call is told by the receiving half.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    fn open<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>>;
}

/// An open call of a streaming method. Dropping it cancels the call.
pub struct StreamHandle {
    /// The sending half.
    pub requests: Box<dyn SendHalf>,
    /// The receiving half.
    pub replies: Box<dyn ReceiveHalf>,
}

/// Sends messages to a plugin. Dropping it before [`SendHalf::finish`] cancels the call.
pub trait SendHalf: Send {
    /// Sends one message; waits while too many are on their way.
    ///
    /// # Errors
    /// [`SendError`].
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready: the message was not sent.
    fn send(&mut self, message: Bytes) -> BoxFuture<'_, Result<(), SendError>>;

    /// Says that no more messages come. Waits for no room. A second time it does nothing.
    ///
    /// # Errors
    /// [`SendError::Over`].
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready: whether it was said is not known; say it again.
    fn finish(&mut self) -> BoxFuture<'_, Result<(), SendError>>;
}

/// Receives a plugin's replies. Dropping it before the end cancels the call.
pub trait ReceiveHalf: Send {
    /// The next message; `None` after the last one, which is when the method has returned Ok.
    ///
    /// # Errors
    /// Why the call failed. It is over then, and every further `next` says the same.
    ///
    /// # Cancel safety
    /// Dropping the future loses no message.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, CallError>>;
}

/// Why a message was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The call is over, or nothing may be sent any more; the receiving half tells how it ended.
    #[error("the call takes no more messages; its receiving half tells how it ended")]
    Over,
    /// This message cannot be sent (it is over the limit). The call goes on.
    #[error("{0}")]
    Refused(CallError),
}

/// The answer to a unary call of a streaming method.
#[cold]
#[must_use]
pub fn not_unary(target: &str, kind: MethodKind) -> CallError {
    CallError::new(
        CallErrorKind::Incompatible,
        format!("`{target}` is a {kind} method, and it was called as a unary one"),
    )
    .with_hint("open it as a stream: `Host::open_stream`, or `POST /stream/{target}` at a gateway")
}

/// The answer to a stream that is opened on a unary method.
#[cold]
#[must_use]
pub fn not_streaming(target: &str) -> CallError {
    CallError::new(
        CallErrorKind::Incompatible,
        format!("`{target}` is a unary method, and it was opened as a stream"),
    )
    .with_hint("call it: `Host::call`, or `POST /rpc` at a gateway")
}

// === generated clients ===

impl MessageSender for Box<dyn SendHalf> {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), NotSent> {
        (**self).send(message.into()).await.map_err(not_sent)
    }

    async fn finish(&mut self) -> Result<(), NotSent> {
        (**self).finish().await.map_err(not_sent)
    }
}

impl MessageReceiver for Box<dyn ReceiveHalf> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        Ok((**self).next().await?.map(Vec::from))
    }
}

fn not_sent(error: SendError) -> NotSent {
    match error {
        SendError::Over => NotSent::Over,
        SendError::Refused(error) => NotSent::Refused(error.into()),
    }
}

impl std::fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamHandle").finish_non_exhaustive()
    }
}
