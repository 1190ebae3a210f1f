//! A bounded queue of messages from one sender to one receiver: one direction of a streaming call.
//!
//! Each end may wait as a task or block as a thread, whatever the other one does: that is what a runtime needs whose guest runs on a thread
//! of its own. It knows no executor: a task that waits leaves its waker, a thread waits for a condition.
//!
//! # Invariants
//! - P1: at most `Bounds::messages` messages and `Bounds::bytes` bytes are queued, or one message of any length.
//! - P2: the first end is final. After [`Terminal::Said`] the receiver gets what is queued and then the end; an [`Abort`] drops what
//!   is queued, so that its memory is free at once and nobody works on what has failed.
//! - P3: a message is queued or not: a dropped `send` has queued nothing, a dropped `next` has taken nothing.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use mortise_manifest::Limits;

use crate::{BoxFuture, CallError, CallErrorKind, ReceiveHalf, SendError, SendHalf, StreamHandle};

/// How much may be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Messages; 0 is taken as 1.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Puts messages in. Dropping it without [`PipeSender::end`] fails the receiver with `Cancelled`.
#[derive(Debug)]
pub struct PipeSender(Arc<Shared>);

/// Takes messages out. Dropping it tells the sender that it is [`SendError::Over`].
#[derive(Debug)]
pub struct PipeReceiver(Arc<Shared>);

/// Ends a pipe from outside: at a deadline, after a crash. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Abort(Arc<Shared>);

/// Why a blocking operation did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// It takes no more messages.
    Over,
    /// The time is over.
    TimedOut,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A thread that blocks at one of the ends looks again.
    changed: Condvar,
    bounds: Bounds,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// How it ends, once that is known.
    terminal: Option<Terminal>,
    receiver_gone: bool,
    /// Tasks that wait, one per end.
    sending: Option<Waker>,
    receiving: Option<Waker>,
}

/// A message, the end, or an error.
type Next = Result<Option<Bytes>, CallError>;

#[derive(Clone, Debug)]
enum Terminal {
    /// The sender said that this was all, or that it failed.
    Said(Result<(), CallError>),
    /// Ended from outside.
    Aborted(CallError),
}

/// A pipe that holds this much.
#[must_use]
pub fn pipe(bounds: Bounds) -> (PipeSender, PipeReceiver) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            bytes: 0,
            terminal: None,
            receiver_gone: false,
            sending: None,
            receiving: None,
        }),
        changed: Condvar::new(),
        bounds,
    });
    (PipeSender(shared.clone()), PipeReceiver(shared))
}

/// The caller's sending half: gone before its end, it ends the replies as well.
struct Requests {
    pipe: PipeSender,
    replies: Abort,
}

impl StreamHandle {
    /// A handle over two pipes: the sender of the requests, and the receiver of the replies.
    ///
    /// If the sending half is dropped before its end, while the other end of its pipe is there, the replies are aborted with `Cancelled`. So
    /// a runtime whose method has returned gives up the requests first and ends the replies after that.
    #[must_use]
    pub fn of_pipes(requests: PipeSender, replies: PipeReceiver) -> Self {
        let requests = Requests {
            pipe: requests,
            replies: replies.abort_handle(),
        };
        Self {
            requests: Box::new(requests),
            replies: Box::new(replies),
        }
    }
}

impl SendHalf for Requests {
    fn send(&mut self, message: Bytes) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(self.pipe.send(message))
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), SendError>> {
        SendHalf::finish(&mut self.pipe)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if !self.pipe.is_over() {
            self.replies.abort(CallError::new(
                CallErrorKind::Cancelled,
                "the caller stopped sending before its end",
            ));
        }
    }
}

// === impl Bounds ===

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self {
            messages: limits.stream_messages_max as usize,
            bytes: limits.stream_bytes_max,
        }
    }
}

// === impl PipeSender ===

impl PipeSender {
    /// Queues a message; waits for room.
    ///
    /// # Errors
    /// [`SendError::Over`] after the end, or when the receiver is gone.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready: the message was not queued.
    pub async fn send(&mut self, message: Bytes) -> Result<(), SendError> {
        let mut message = Some(message);
        poll_fn(|cx| self.poll_send(cx, &mut message)).await
    }

    /// Queues the message and takes it out of the option as soon as there is room.
    ///
    /// # Errors
    /// As [`PipeSender::send`].
    ///
    /// # Panics
    /// If it is polled again after it was ready.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Option<Bytes>,
    ) -> Poll<Result<(), SendError>> {
        let mut state = self.0.lock();
        let bytes = message
            .as_ref()
            .expect("a message is sent once, so it is there until then")
            .len();
        if state.is_over() {
            return Poll::Ready(Err(SendError::Over));
        }
        if !state.has_room(bytes, self.0.bounds) {
            park(&mut state.sending, cx);
            return Poll::Pending;
        }
        let waker = state.push(message.take().unwrap_or_default());
        self.0.wake(state, waker);
        Poll::Ready(Ok(()))
    }

    /// Queues a message; blocks this thread until there is room, but not beyond `until`.
    ///
    /// # Errors
    /// [`Blocked`]; the message was not queued.
    pub fn send_blocking(&self, message: Bytes, until: Option<Instant>) -> Result<(), Blocked> {
        let bounds = self.0.bounds;
        let bytes = message.len();
        let mut state = self
            .0
            .block(until, |state| state.is_over() || state.has_room(bytes, bounds))?;
        if state.is_over() {
            return Err(Blocked::Over);
        }
        let waker = state.push(message);
        self.0.wake(state, waker);
        Ok(())
    }

    /// Says how it ends: the receiver gets what is queued, and then this.
    pub fn end(self, how: Result<(), CallError>) {
        self.0.end(Terminal::Said(how));
    }

    /// As [`PipeSender::end`] with Ok, where the sender is not to be given up.
    pub fn finish(&mut self) {
        self.0.end(Terminal::Said(Ok(())));
    }

    /// Whether nothing can be sent any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.lock().is_over()
    }

    /// A handle to end it from outside.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort(self.0.clone())
    }
}

impl SendHalf for PipeSender {
    fn send(&mut self, message: Bytes) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(self.send(message))
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), SendError>> {
        self.finish();
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for PipeSender {
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        self.0.end(Terminal::Aborted(CallError::new(
            CallErrorKind::Cancelled,
            "the sender of this stream went away before its end",
        )));
    }
}

// === impl PipeReceiver ===

impl PipeReceiver {
    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// How the sender said it ended, or whoever ended it from outside.
    ///
    /// # Cancel safety
    /// Dropping the future loses no message.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`PipeReceiver::next`].
    ///
    /// # Errors
    /// As [`PipeReceiver::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, CallError>> {
        let mut state = self.0.lock();
        match state.pop() {
            Some((next, waker)) => {
                self.0.wake(state, waker);
                Poll::Ready(next)
            }
            None => {
                park(&mut state.receiving, cx);
                Poll::Pending
            }
        }
    }

    /// The next message; blocks this thread until there is one, but not beyond `until`. The error of `Ok(..)` is that of [`PipeReceiver::next`].
    ///
    /// # Errors
    /// [`Blocked::TimedOut`].
    pub fn next_blocking(&self, until: Option<Instant>) -> Result<Result<Option<Bytes>, CallError>, Blocked> {
        let mut state = self
            .0
            .block(until, |state| !state.queue.is_empty() || state.terminal.is_some())?;
        let (next, waker) = state.pop().ok_or(Blocked::TimedOut)?;
        self.0.wake(state, waker);
        Ok(next)
    }

    /// A handle to end it from outside.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort(self.0.clone())
    }
}

impl ReceiveHalf for PipeReceiver {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, CallError>> {
        Box::pin(self.next())
    }
}

impl Drop for PipeReceiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        state.clear();
        let waker = state.sending.take();
        self.0.wake(state, waker);
    }
}

// === impl Abort ===

impl Abort {
    /// Ends it now, unless it has ended: what is queued is dropped, the receiver gets `why`, the sender [`SendError::Over`].
    /// If the sender has said that this was all, what is queued counts as lost too, and the receiver gets `why`; only an end that
    /// the receiver could have seen already stays.
    pub fn abort(&self, why: CallError) {
        self.0.end(Terminal::Aborted(why));
    }

    /// Resolves when nothing can be sent any more: the receiver is gone, it was aborted, or the sender said the end.
    /// Only one task may wait, and not while a task sends.
    pub async fn over(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.is_over() {
                return Poll::Ready(());
            }
            park(&mut state.sending, cx);
            Poll::Pending
        })
        .await;
    }

    /// Resolves when nobody wants the rest: the receiver is gone, or it was aborted. An end that the sender says does not resolve it.
    /// Only one task may wait, and not while a task sends.
    pub async fn abandoned(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.receiver_gone || matches!(state.terminal, Some(Terminal::Aborted(_))) {
                return Poll::Ready(());
            }
            park(&mut state.sending, cx);
            Poll::Pending
        })
        .await;
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one holds a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes a task and all threads, outside the lock.
    fn wake(&self, state: MutexGuard<'_, State>, waker: Option<Waker>) {
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn block(
        &self,
        until: Option<Instant>,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>, Blocked> {
        let mut state = self.lock();
        while !ready(&state) {
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Blocked::TimedOut);
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Ok(state)
    }

    fn end(&self, how: Terminal) {
        let mut state = self.lock();
        match (&state.terminal, &how) {
            // P2. An abort comes before what the receiver has not read yet.
            (None, _) => {}
            (Some(Terminal::Said(_)), Terminal::Aborted(_)) if !state.queue.is_empty() => {}
            _ => return,
        }
        if matches!(how, Terminal::Aborted(_)) {
            state.clear();
        }
        state.terminal = Some(how);
        let wakers = (state.sending.take(), state.receiving.take());
        self.wake(state, wakers.0);
        if let Some(waker) = wakers.1 {
            waker.wake();
        }
    }
}

// === impl State ===

impl State {
    fn is_over(&self) -> bool {
        self.receiver_gone || self.terminal.is_some()
    }

    fn has_room(&self, bytes: usize, bounds: Bounds) -> bool {
        self.queue.is_empty()
            || (self.queue.len() < bounds.messages && self.bytes.saturating_add(bytes) <= bounds.bytes)
    }

    fn push(&mut self, message: Bytes) -> Option<Waker> {
        self.bytes += message.len();
        self.queue.push_back(message);
        self.receiving.take()
    }

    /// The next message or the end, and who waits for the room that it leaves; `None` if there is neither yet.
    fn pop(&mut self) -> Option<(Next, Option<Waker>)> {
        if let Some(message) = self.queue.pop_front() {
            self.bytes -= message.len();
            return Some((Ok(Some(message)), self.sending.take()));
        }
        let end = match self.terminal.as_ref()? {
            Terminal::Said(how) => how.clone(),
            Terminal::Aborted(why) => Err(why.clone()),
        };
        Some((end.map(|()| None), None))
    }

    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }
}

fn park(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests;
