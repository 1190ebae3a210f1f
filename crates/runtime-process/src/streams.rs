//! Calls that stream, as their caller sees them.
//!
//! The call is opened like any other, with a slot that it keeps until the plugin has ended it. Its messages are Items, within the window of
//! `mortise_wire::credit` in each direction. The two halves share the call. It is cancelled when the receiving half goes before the end, when the sending
//! half goes before it has finished, and at the deadline, whether anybody waits at that moment or not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use mortise_runtime::{
    Abort, Bounds, BoxFuture, CallContext, CallError, CallErrorKind, MethodIndex, PipeReceiver, PipeSender,
    ReceiveHalf, SendError, SendHalf, StreamHandle, pipe,
};
use mortise_wire::{
    credit::{Inflow, StreamTerms},
    frame::{self, Kind},
};
use prost::Message as _;
use tokio::{sync::Semaphore, task::AbortHandle};

use crate::{dialect::Plugin as _, lane::Held, shared::Shared, transport::kept};

/// What the reader of the lane knows of a stream.
#[derive(Debug)]
pub(crate) struct Incoming {
    replies: PipeSender,
    terms: StreamTerms,
    /// Replies that are not taken yet: it bounds the pipe.
    inflow: Arc<Inflow>,
    outgoing: Arc<Outgoing>,
}

/// What may be sent to the plugin. Closed once the call is over.
#[derive(Debug)]
struct Outgoing {
    credit: Semaphore,
    /// What of it is in use; the plugin gives back no more.
    sent: AtomicU32,
}

/// The call that the two halves share.
struct Open {
    shared: Arc<Shared>,
    id: u64,
    method: MethodIndex,
    deadline: Instant,
    outgoing: Arc<Outgoing>,
    replies: Abort,
    /// The plugin was told that nobody waits, or has ended the call.
    over: AtomicBool,
}

/// The call and its clock, which ends with the halves.
struct Timed {
    open: Arc<Open>,
    clock: AbortHandle,
}

struct Sending {
    call: Arc<Timed>,
    terms: StreamTerms,
    finished: bool,
}

struct Receiving {
    call: Arc<Timed>,
    terms: StreamTerms,
    inflow: Arc<Inflow>,
    replies: PipeReceiver,
}

// === impl Incoming ===

impl Incoming {
    /// An Item of the plugin's.
    ///
    /// # Errors
    /// If it had no credit for it.
    pub(crate) fn item(&self, message: Bytes, bytes_max: usize) -> Result<(), String> {
        let taken = self.inflow.take_units(self.terms.price(message.len()));
        taken.map_err(|error| error.to_string())?;
        if message.len() > bytes_max {
            let why = format!(
                "a reply of {} bytes came in a stream, and {bytes_max} is the limit",
                message.len()
            );
            self.replies
                .abort_handle()
                .abort(CallError::new(CallErrorKind::Exhausted, why));
        } else {
            // The pipe has room for whatever credit was given; and if nobody reads any more, the call is being cancelled.
            let _ = self.replies.send_blocking(kept(message), None);
        }
        Ok(())
    }

    /// A Grant of the plugin's.
    ///
    /// # Errors
    /// If so much was never sent.
    pub(crate) fn granted(&self, units: u32) -> Result<(), String> {
        let sent = &self.outgoing.sent;
        sent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sent| {
            sent.checked_sub(units)
        })
        .map_err(|sent| format!("it gave {units} bytes back to a stream, and {sent} were sent"))?;
        self.outgoing.credit.add_permits(units as usize);
        Ok(())
    }

    /// The plugin has ended the call.
    pub(crate) fn end(self, outcome: Result<(), CallError>) {
        self.outgoing.credit.close();
        self.replies.end(outcome);
    }

    /// The instance has come to its end.
    pub(crate) fn abort(self, why: CallError) {
        self.outgoing.credit.close();
        self.replies.abort_handle().abort(why);
    }
}

// === opening ===

impl Shared {
    /// Dropped while it waits, it has opened nothing: what follows the last wait is done at once.
    pub(crate) async fn open_until(
        self: &Arc<Self>,
        cx: &CallContext,
        method: MethodIndex,
        deadline: Instant,
    ) -> Result<StreamHandle, CallError> {
        let slot = self.slot().await?;
        let mut head = cx.head(Instant::now());
        head.call_id = u64::MAX;
        let credit = self
            .lane
            .reserve(frame::call_body_bytes(head.encoded_len(), 0))
            .await;
        let terms = StreamTerms::new(
            self.limits.stream_messages_max,
            u32::try_from(self.limits.stream_bytes_max).unwrap_or(u32::MAX),
        );
        let (sender, receiver) = pipe(Bounds {
            messages: usize::MAX,
            bytes: usize::MAX,
        });
        let outgoing = Arc::new(Outgoing {
            credit: Semaphore::new(terms.window() as usize),
            sent: AtomicU32::new(0),
        });
        let inflow = Arc::new(Inflow::new(terms.window()));
        let incoming = Incoming {
            replies: sender,
            terms,
            inflow: inflow.clone(),
            outgoing: outgoing.clone(),
        };
        let id = self.calls.open_stream(cx, method, slot, incoming)?;
        head.call_id = id;
        let prefix = frame::call_prefix(Kind::Open, id, method.0, &head, 0);
        self.lane.send_call(prefix, Bytes::new(), credit);
        let open = Arc::new(Open {
            shared: self.clone(),
            id,
            method,
            deadline,
            outgoing,
            replies: receiver.abort_handle(),
            over: AtomicBool::new(false),
        });
        let timed = open.clone();
        let clock = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            timed.cancel(timed.shared.too_late(method));
        });
        let call = Arc::new(Timed {
            open,
            clock: clock.abort_handle(),
        });
        Ok(StreamHandle {
            requests: Box::new(Sending {
                call: call.clone(),
                terms,
                finished: false,
            }),
            replies: Box::new(Receiving {
                call,
                terms,
                inflow,
                replies: receiver,
            }),
        })
    }
}

// === impl Open ===

impl Open {
    fn send(&self, kind: Kind, body: &[u8]) {
        self.shared.lane.send(kind, self.id, body, Held::default());
    }

    /// Nobody waits for it any more, and why.
    fn cancel(&self, why: CallError) {
        self.outgoing.credit.close();
        self.replies.abort(why);
        self.abandon();
    }

    fn abandon(&self) {
        self.outgoing.credit.close();
        if !self.over.swap(true, Ordering::AcqRel) && self.shared.calls.abandon(self.id, self.deadline) {
            self.send(Kind::Cancel, &[]);
        }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

// === impl Sending ===

impl SendHalf for Sending {
    fn send(&mut self, message: Bytes) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async move {
            let open = &self.call.open;
            let max = open.shared.limits.payload_bytes_max;
            if message.len() > max {
                let why = format!(
                    "a request of {} bytes was to be sent in a stream, and {max} is the limit of plugin `{}`",
                    message.len(),
                    open.shared.name()
                );
                return Err(SendError::Refused(CallError::new(CallErrorKind::Exhausted, why)));
            }
            if self.finished {
                return Err(SendError::Over);
            }
            let price = self.terms.price(message.len());
            let Ok(permit) = open.outgoing.credit.acquire_many(price).await else {
                return Err(SendError::Over);
            };
            permit.forget();
            // Before it is sent: the plugin may give it back at once.
            open.outgoing.sent.fetch_add(price, Ordering::Relaxed);
            open.shared.lane.send_item(open.id, message);
            Ok(())
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), SendError>> {
        let open = &self.call.open;
        let over = open.outgoing.credit.is_closed();
        if !std::mem::replace(&mut self.finished, true) && !over {
            open.send(Kind::End, &[]);
        }
        let said = if over { Err(SendError::Over) } else { Ok(()) };
        Box::pin(std::future::ready(said))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let open = &self.call.open;
        if !self.finished && !open.outgoing.credit.is_closed() {
            open.cancel(CallError::new(
                CallErrorKind::Cancelled,
                "the sender of this stream went away before its end",
            ));
        }
    }
}

// === impl Receiving ===

impl ReceiveHalf for Receiving {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, CallError>> {
        Box::pin(async move {
            let open = &self.call.open;
            let next = self.replies.next().await;
            // A method that hears of its deadline may be quicker than the clock here; it is late all the same.
            let next = next.map_err(|error| {
                if error.is_late(open.deadline) {
                    open.shared.too_late(open.method)
                } else {
                    error
                }
            });
            match &next {
                Ok(Some(message)) => {
                    let price = self.terms.price(message.len());
                    if let Some(units) = self.inflow.give_back(price)
                        && !open.outgoing.credit.is_closed()
                    {
                        open.send(Kind::Grant, &units.to_le_bytes());
                    }
                }
                Ok(None) => open.over.store(true, Ordering::Release),
                // Where the plugin has ended it, there is nothing to abandon.
                Err(_) => open.abandon(),
            }
            next
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.call.open.abandon();
    }
}
