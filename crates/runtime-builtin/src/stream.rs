//! Calls of streaming methods: the method on a thread of its own, a pipe in each direction, and a task that ends both in time.
//!
//! # Timing points of an end
//! 1. The method returns: its request pipe is given up first (a sender is told that nothing more is wanted), then the replies end.
//! 2. The deadline, a crash of the instance, a stop by force: the task aborts both pipes, which wakes a method that waits at one of them,
//!    and sets the cancellation that `Cx` shows. What the receiver has not read is dropped.
//! 3. The caller drops a half: its pipe is over, which wakes the task, and 2 follows.
//!
//! A method that runs on [`STUCK_GRACE`] after 2 ends the instance as stuck, as a unary one does (B3).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use mortise_runtime::{
    Abort, Blocked, Bounds, BoxFuture, CallContext, CallError, CallErrorKind, EndCause, MethodIndex,
    PipeReceiver, PipeSender, StreamCall, StreamHandle, pipe, stream::not_streaming,
};
use mortise_wire::{Code, Status, StreamLink};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::{sleep_until, timeout_at},
};

use crate::{
    host_link::{Cancel, Link},
    instance::{BuiltinInstance, STUCK_GRACE, Shared, guarded},
};

/// The guest's ends.
struct Guest {
    requests: PipeReceiver,
    replies: PipeSender,
    deadline: Instant,
    payload_bytes_max: usize,
}

/// What ends a call before its method returns.
struct Guard {
    shared: Arc<Shared>,
    method: MethodIndex,
    deadline: Instant,
    /// The later one of its caller's and its own (B3).
    latest: Instant,
    cancel: Cancel,
    requests: Abort,
    replies: Abort,
    forced: watch::Receiver<bool>,
}

impl StreamCall for BuiltinInstance {
    fn open<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>> {
        Box::pin(self.shared.clone().open(cx, method))
    }
}

impl Shared {
    async fn open(self: Arc<Self>, cx: &CallContext, method: MethodIndex) -> Result<StreamHandle, CallError> {
        self.check()?;
        if !self.row(method)?.kind().streams() {
            return Err(not_streaming(&self.method_name(method)));
        }
        let deadline = cx
            .deadline
            .unwrap_or_else(|| Instant::now() + self.limits.deadline);
        let forced = self.forced.subscribe();
        let slot = match timeout_at(deadline.into(), self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => {
                self.check()?;
                return Err(self.stopped());
            }
            Err(_) => return Err(self.late(method)),
        };
        let bounds = Bounds::from(&self.limits);
        let (requests, guest_requests) = pipe(bounds);
        let (guest_replies, replies) = pipe(bounds);
        let cancel = Cancel::new();
        let link = Link {
            services: self.services.clone(),
            call: Some((cx.clone(), Instant::now())),
            cancel: cancel.clone(),
            executor: Some(Handle::current()),
        };
        let guard = Guard {
            shared: self.clone(),
            method,
            deadline,
            latest: self.latest(deadline),
            cancel,
            requests: guest_requests.abort_handle(),
            replies: guest_replies.abort_handle(),
            forced,
        };
        let guest = Guest {
            requests: guest_requests,
            replies: guest_replies,
            deadline,
            payload_bytes_max: self.limits.payload_bytes_max,
        };
        let (done, over) = oneshot::channel();
        self.streams.fetch_add(1, Ordering::AcqRel);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            self.run(link, method, guest);
            self.streams.fetch_sub(1, Ordering::AcqRel);
            let _ = done.send(());
        });
        tokio::spawn(guard.watch(over));
        Ok(StreamHandle::of_pipes(requests, replies))
    }

    /// Runs the method here, and ends its replies. A panic ends the instance.
    fn run(&self, link: Link, method: MethodIndex, guest: Guest) {
        let mut panicked = None;
        let outcome = match guarded(|| self.plugin.stream(Box::new(link), &guest, method.0)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                let error = CallError::returned(status);
                Err(if error.is_late(guest.deadline) {
                    self.late(method)
                } else {
                    error
                })
            }
            Err(panic) => {
                let error = self.panic_error(&panic);
                panicked = Some(panic);
                Err(error)
            }
        };
        let Guest {
            requests, replies, ..
        } = guest;
        // In this order: a caller that hears the end then knows that its sending half is over too.
        drop(requests);
        replies.end(outcome);
        // Last: whoever called this method is told of its panic before the guards tell everybody of the instance's end.
        if let Some(panic) = panicked {
            self.end(EndCause::Panicked(panic));
        }
    }
}

impl Guard {
    async fn watch(mut self, mut over: oneshot::Receiver<()>) {
        let mut ended = self.shared.ended.subscribe();
        let why = tokio::select! {
            biased;
            _ = &mut over => return,
            _ = ended.wait_for(Option::is_some) => match self.shared.check() {
                Err(why) => why,
                Ok(()) => return,
            },
            () = sleep_until(self.deadline.into()) => self.shared.late(self.method),
            _ = self.forced.wait_for(|forced| *forced) => self.shared.stopped(),
            () = self.replies.abandoned() => CallError::new(CallErrorKind::Cancelled, "the caller is gone"),
        };
        self.cancel.set();
        // In this order: a method that is woken by its requests must not tell the caller first.
        self.replies.abort(why.clone());
        self.requests.abort(why);
        // A method whose caller is gone has until its deadline to notice.
        let last = self.latest.max(Instant::now()) + STUCK_GRACE;
        if timeout_at(last.into(), over).await.is_err() {
            self.shared.stuck(self.method);
        }
    }
}

impl Guest {
    fn is_over(&self) -> Status {
        if self.deadline <= Instant::now() {
            return too_late();
        }
        Status::new(Code::Cancelled, "the caller is gone")
    }
}

fn too_late() -> Status {
    Status::new(
        Code::DeadlineExceeded,
        "the call's deadline passed while the plugin was working",
    )
}

impl StreamLink for Guest {
    fn receive(&self) -> Result<Option<Bytes>, Status> {
        match self.requests.next_blocking(Some(self.deadline)) {
            Ok(next) => next.map_err(Status::from),
            Err(Blocked::TimedOut) => Err(too_late()),
            Err(Blocked::Over) => Err(self.is_over()),
        }
    }

    fn send(&self, message: Bytes) -> Result<(), Status> {
        let (bytes, max) = (message.len(), self.payload_bytes_max);
        if bytes > max {
            return Err(Status::resource_exhausted(format_args!(
                "a reply has {bytes} bytes, and {max} is the limit"
            )));
        }
        match self.replies.send_blocking(message, Some(self.deadline)) {
            Ok(()) => Ok(()),
            Err(Blocked::TimedOut) => Err(too_late()),
            Err(Blocked::Over) => Err(self.is_over()),
        }
    }
}
