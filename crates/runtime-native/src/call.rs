//! Calls with a deadline: on the caller's thread, on one of the instance's own, or completed later.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use mortise_abi::{MtInvokeAsyncFn, MtInvokeFn};
use mortise_runtime::{BoxFuture, Call, CallContext, CallError, CallErrorKind, DirectCall, MethodIndex};
use tokio::sync::oneshot;

use crate::{
    asynchronous::{self, note_panic},
    direct::Direct,
    entry::Row,
    gate::Side,
    host_table,
    instance::{Inner, NativeInstance},
    live::{Frame, Ticket},
    out::Buffer,
    outcome::{self, Outcome},
    workers::Refused,
};

impl Call for NativeInstance {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.inner.call(cx, method, payload))
    }

    fn direct(&self, method: MethodIndex) -> Option<Arc<dyn DirectCall>> {
        let direct = Direct::new(self.inner.clone(), self.inner.row(method).ok()?)?;
        Some(Arc::new(direct))
    }
}

impl Inner {
    async fn call(
        self: &Arc<Self>,
        cx: &CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        self.side.admit()?;
        let row = self.row(method)?;
        let max = self.limits.payload_bytes_max;
        if payload.len() > max {
            return Err(CallError::request_too_large(
                self.side.id.plugin(),
                payload.len(),
                max,
            ));
        }
        let now = Instant::now();
        let deadline = cx.deadline.unwrap_or_else(|| now + self.limits.deadline);
        if deadline <= now {
            return Err(late(&self.side, row));
        }
        let ticket = self
            .side
            .live
            .enter(cx, &row.target, payload, deadline, now + self.limits.deadline)
            .ok_or_else(|| self.side.draining())?;
        // An async function of a method that may block at all is not trusted to return at once either.
        match (row.nonblocking, row.invoke, row.invoke_async) {
            (true, Some(invoke), _) => self.settle(row, self.run(invoke, ticket)),
            (true, None, Some(invoke)) => {
                self.answered(row, ticket, |inner, ticket, reply| {
                    inner.begin(invoke, ticket, reply)
                })
                .await
            }
            (false, _, Some(invoke)) => {
                self.answered(row, ticket, |inner, ticket, reply| {
                    inner.queue(ticket, reply, move |inner, ticket, reply| {
                        inner.begin(invoke, ticket, reply)
                    });
                })
                .await
            }
            (false, Some(invoke), None) => {
                self.answered(row, ticket, |inner, ticket, reply| {
                    inner.queue(ticket, reply, move |inner, ticket, reply| {
                        _ = reply.send(inner.run(invoke, ticket))
                    });
                })
                .await
            }
            (_, None, None) => Err(CallError::new(
                CallErrorKind::HostBug,
                format!("`{}` was matched without a function", row.target),
            )),
        }
    }

    pub(crate) fn row(&self, method: MethodIndex) -> Result<&Row, CallError> {
        usize::try_from(method.0)
            .ok()
            .and_then(|it| self.rows.get(it))
            .ok_or_else(|| CallError::no_such_method(self.side.id.plugin(), self.rows.len(), method))
    }

    /// Waits for the answer to what `begin` begins, until the deadline.
    async fn answered(
        self: &Arc<Self>,
        row: &Row,
        ticket: Ticket,
        begin: impl FnOnce(&Arc<Self>, Ticket, oneshot::Sender<Outcome>),
    ) -> Result<Bytes, CallError> {
        let mut waiting = Waiting {
            inner: self,
            frame: ticket.frame.clone(),
            is_async: row.invoke_async.is_some(),
            answered: false,
        };
        let (reply, answer) = oneshot::channel();
        begin(self, ticket, reply);
        tokio::select! {
            biased;
            outcome = answer => {
                waiting.answered = true;
                // Dropped unsent: the queue was closed.
                self.settle(row, outcome.map_err(|_| self.side.draining())?)
            }
            () = tokio::time::sleep_until(waiting.frame.deadline.into()) => Err(late(&self.side, row)),
        }
    }

    fn queue(
        self: &Arc<Self>,
        ticket: Ticket,
        reply: oneshot::Sender<Outcome>,
        begin: impl FnOnce(&Arc<Self>, Ticket, oneshot::Sender<Outcome>) + Send + 'static,
    ) {
        let inner = self.clone();
        let job = move || {
            // Its caller may have gone while it waited, or the instance may have been poisoned (I6).
            if ticket.frame.is_cancelled() {
                return;
            }
            match inner.side.admit() {
                Ok(()) => begin(&inner, ticket, reply),
                Err(error) => {
                    drop(ticket);
                    _ = reply.send(Outcome::Failed(error));
                }
            }
        };
        if let Err(Refused::NoThread(why)) = self.workers.run(Box::new(job)) {
            tracing::error!(instance = %self.side.id, %why, "no thread for a call; it is refused");
        }
    }

    fn begin(&self, invoke: MtInvokeAsyncFn, ticket: Ticket, reply: oneshot::Sender<Outcome>) {
        // SAFETY: this instance's own function and `this`; destroyed only when no ticket is left (I2).
        unsafe { asynchronous::begin(self.gate, &self.side, invoke, self.table.this(), ticket, reply) }
    }

    fn run(&self, invoke: MtInvokeFn, ticket: Ticket) -> Outcome {
        // What an earlier call on this thread told and did not return.
        _ = host_table::take_panic();
        let mut reply = Vec::new();
        let mut buffer = Buffer::new(&mut reply, self.limits.payload_bytes_max);
        let call = ticket.frame.to_call();
        // SAFETY: this instance's own function and `this`, not destroyed while there is a ticket (I2); all arguments outlive the call.
        let status = unsafe {
            invoke(
                self.table.this(),
                &raw const call.raw,
                ticket.frame.input(),
                buffer.as_out(),
            )
        };
        let written = buffer.finish();
        let outcome = outcome::read(&ticket.frame.target, status, written.map(|()| reply));
        note_panic(&self.side, status, outcome)
    }

    fn settle(&self, row: &Row, outcome: Outcome) -> Result<Bytes, CallError> {
        match outcome {
            Outcome::Reply(bytes) => Ok(bytes.into()),
            Outcome::Failed(error) => Err(error),
            Outcome::Panicked(words) => Err(outcome::panicked(&row.target, &words)),
        }
    }
}

/// A caller that waits. When it goes without an answer, at its deadline or because its future was dropped, the plugin is told.
struct Waiting<'a> {
    inner: &'a Arc<Inner>,
    frame: Arc<Frame>,
    is_async: bool,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.frame.cancel();
        if !self.is_async || !self.inner.table.can_cancel() {
            return;
        }
        let (inner, frame) = (self.inner.clone(), self.frame.clone());
        let target: Arc<str> = format!("cancel of {}", frame.target).into();
        // Without a ticket it is being stopped, and the stop tells the plugin.
        let Some(ticket) = inner.side.live.enter(
            &frame.cx,
            &target,
            Bytes::new(),
            frame.deadline,
            Instant::now() + inner.limits.deadline,
        ) else {
            return;
        };
        // On a thread of its own: the plugin's `cancel` may block as any function may.
        _ = self.inner.control.run(Box::new(move || {
            if frame.is_to_be_told() {
                // SAFETY: the ticket.
                unsafe { inner.table.cancel(frame.id) };
            }
            drop(ticket);
        }));
    }
}

fn late(side: &Side, row: &Row) -> CallError {
    CallError::late(side.id.plugin(), &row.target).with_hint(
        "give the call more time; a native plugin is not interrupted, it sees that the call was cancelled",
    )
}
