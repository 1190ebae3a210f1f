//! Calls that stream, between a thread that runs the method and the executor that moves its messages.
//!
//! What waits between the two is bounded in each direction, in bytes and in messages: a request is not taken from HTTP/2 before there is room for it,
//! so its window closes and the caller waits; a reply is not taken from the method before the last ones have been sent.
//!
//! Invariants
//! - S1: a method that waits here is woken by whatever ends the call: the caller's reset, the deadline, the end of the connection.
//! - S2: nothing of a call is left once its [`Replies`] are dropped and its method has returned.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use mortise_goplugin::codec::MESSAGE_BYTES_MAX;
use mortise_sdk::{Code, Result, Status};
use mortise_wire::{StreamLink, credit::StreamTerms};
use tokio::{sync::Notify, task::AbortHandle};

use crate::serve::to_tonic;

/// What waits in one direction at most.
const MESSAGES_MAX: u32 = 64;
const BYTES_MAX: u32 = 1 << 20;

/// One call, as its method has it.
pub(crate) struct Streaming {
    middle: Arc<Middle>,
    deadline: Option<Instant>,
}

/// One call's replies, as they are sent. Dropping it before the end cancels the call.
pub(crate) struct Replies {
    middle: Arc<Middle>,
    pump: AbortHandle,
    /// Tells the method, when it is dropped.
    cancel: Option<Box<dyn Send>>,
}

struct Middle {
    terms: StreamTerms,
    state: Mutex<State>,
    /// For the method.
    changed: Condvar,
    /// For the task that takes requests: there is room again.
    room: Notify,
}

#[derive(Default)]
struct State {
    requests: Queue,
    /// No further request comes, and why.
    requests_end: Option<Result<()>>,
    replies: Queue,
    replies_end: Option<Result<()>>,
    /// Waits for a reply.
    waker: Option<Waker>,
    /// Nobody waits for the call any more.
    cancelled: bool,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    price: u32,
}

/// Begins a call. `cancel` is dropped when nobody waits any more. Must be called inside a tokio runtime.
pub(crate) fn open(
    messages: BoxStream<'static, Result<Bytes, tonic::Status>>,
    deadline: Option<Instant>,
    cancel: impl Send + 'static,
) -> (Streaming, Replies) {
    let middle = Arc::new(Middle {
        terms: StreamTerms::new(MESSAGES_MAX, BYTES_MAX),
        state: Mutex::default(),
        changed: Condvar::new(),
        room: Notify::new(),
    });
    let pump = tokio::spawn(middle.clone().take_requests(messages)).abort_handle();
    let streaming = Streaming {
        middle: middle.clone(),
        deadline,
    };
    let replies = Replies {
        middle,
        pump,
        cancel: Some(Box::new(cancel)),
    };
    (streaming, replies)
}

// === impl Middle ===

impl Middle {
    /// Ends with the requests; otherwise it is aborted with the call.
    async fn take_requests(self: Arc<Self>, mut messages: BoxStream<'static, Result<Bytes, tonic::Status>>) {
        loop {
            while !self.lock().requests.has_room(self.terms) {
                self.room.notified().await;
            }
            let next = messages.next().await;
            let mut state = self.lock();
            match next {
                Some(Ok(message)) => state.requests.push(message, self.terms),
                // The caller has reset the call: the replies hear of it at the same moment, and tell all of the plugin at once.
                Some(Err(status)) if status.code() == tonic::Code::Aborted => return,
                Some(Err(status)) => {
                    let code = Code::from_i32(status.code() as i32);
                    state.requests_end = Some(Err(Status::new(code, status.message())));
                }
                None => state.requests_end = Some(Ok(())),
            }
            self.changed.notify_all();
            if state.requests_end.is_some() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Queue ===

impl Queue {
    fn has_room(&self, terms: StreamTerms) -> bool {
        self.price < terms.window()
    }

    fn push(&mut self, message: Bytes, terms: StreamTerms) {
        self.price += terms.price(message.len());
        self.messages.push_back(message);
    }

    fn pop(&mut self, terms: StreamTerms) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.price -= terms.price(message.len());
        Some(message)
    }
}

// === impl Streaming ===

impl Streaming {
    /// The method has returned.
    pub(crate) fn finish(&self, outcome: Result<()>) {
        let mut state = self.middle.lock();
        state.replies_end = Some(outcome);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Waits until `ready` gives something, or the call is over (S1).
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<Result<T>>) -> Result<T> {
        let mut state = self.middle.lock();
        loop {
            let left = self
                .deadline
                .map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|it| it.is_zero()) {
                let why = "the call's deadline passed while it streamed";
                return Err(Status::new(Code::DeadlineExceeded, why));
            }
            if state.cancelled {
                return Err(Status::new(Code::Cancelled, "the caller is gone"));
            }
            if let Some(it) = ready(&mut state) {
                return it;
            }
            let changed = &self.middle.changed;
            state = match left {
                Some(left) => changed
                    .wait_timeout(state, left)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state),
                None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl StreamLink for Streaming {
    fn receive(&self) -> Result<Option<Bytes>> {
        let terms = self.middle.terms;
        let next = self.wait(|state| match state.requests.pop(terms) {
            Some(message) => Some(Ok(Some(message))),
            None => state.requests_end.clone().map(|end| end.map(|()| None)),
        })?;
        if next.is_some() {
            self.middle.room.notify_one();
        }
        Ok(next)
    }

    fn send(&self, message: Bytes) -> Result<()> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Status::resource_exhausted(format_args!(
                "a message of {} bytes was to be sent, and {MESSAGE_BYTES_MAX} is the longest",
                message.len()
            )));
        }
        let terms = self.middle.terms;
        let mut message = Some(message);
        self.wait(|state| {
            if !state.replies.has_room(terms) {
                return None;
            }
            state.replies.push(message.take()?, terms);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
            Some(Ok(()))
        })
    }
}

// === impl Replies ===

impl Stream for Replies {
    type Item = Result<Bytes, tonic::Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.middle.lock();
        if let Some(message) = state.replies.pop(self.middle.terms) {
            self.middle.changed.notify_all();
            return Poll::Ready(Some(Ok(message)));
        }
        match &mut state.replies_end {
            Some(end) => {
                // The status is said once, and then there is nothing more.
                let said = std::mem::replace(end, Ok(()));
                Poll::Ready(said.err().map(|status| Err(to_tonic(&status))))
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.pump.abort();
        // First: a method that wakes from its stream finds the call cancelled.
        self.cancel = None;
        self.middle.lock().cancelled = true;
        self.middle.changed.notify_all();
    }
}
