//! Methods that answer later: `invoke_async` and `mt_done`.
//!
//! A plugin promises to complete a call exactly once. It is not believed: the context it gets is a number, looked up in the
//! table here. A second completion finds nothing, changes nothing and is reported (I3).

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError},
};

use mortise_abi::{MT_E_PANIC, MT_OK, MT_PENDING, MtDone, MtInvokeAsyncFn, MtSlice, MtStatus};
use mortise_runtime::{CallError, CallErrorKind, EndCause};
use tokio::sync::oneshot;

use crate::{
    gate::{Gate, Side},
    host_table,
    live::{Call, Ticket},
    out,
    outcome::{self, Outcome},
};

/// The async calls of one instance that were made and not completed.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: usize,
    waiting: HashMap<usize, Waiting>,
}

/// One of them. Keeps what the plugin may read until it completes the call.
struct Waiting {
    ticket: Arc<Ticket>,
    _call: Arc<Call>,
    reply: oneshot::Sender<Outcome>,
}

/// Calls `invoke_async`; the answer goes to `reply`, now or later.
///
/// # Safety
/// `invoke` and `this` belong to an instance that is not destroyed while a ticket of it exists.
pub(crate) unsafe fn begin(
    gate: &'static Gate,
    side: &Side,
    invoke: MtInvokeAsyncFn,
    this: *mut c_void,
    ticket: Ticket,
    reply: oneshot::Sender<Outcome>,
) {
    // Two holders: the call may be completed, on another thread, before `invoke` returns.
    let ticket = Arc::new(ticket);
    let call = Arc::new(ticket.frame.to_call());
    let number = side.pending.add(Waiting {
        ticket: ticket.clone(),
        _call: call.clone(),
        reply,
    });
    let done = MtDone {
        complete: Some(complete),
        ctx: gate.completion(number),
    };
    // SAFETY: the plugin's own function; `call` and the input live until it completes the call, and until this returns.
    let status = unsafe { invoke(this, &raw const call.raw, ticket.frame.input(), done) };
    if status == MT_PENDING || status == MT_OK {
        return;
    }
    match side.pending.take(number) {
        Some(waiting) => waiting.settle(side, status, &[]),
        None => side.end(EndCause::Protocol(format!(
            "`{}` completed a call and then refused it with status {status}",
            ticket.frame.target
        ))),
    }
}

unsafe extern "C" fn complete(ctx: *mut c_void, status: MtStatus, reply: MtSlice) {
    host_table::contain((), || {
        let Some((side, number)) =
            Gate::from_completion(ctx).and_then(|(gate, number)| Some((gate.side()?, number)))
        else {
            tracing::warn!("a native plugin completed a call after its instance was destroyed");
            return;
        };
        match side.pending.take(number) {
            // SAFETY: borrowed until this function returns.
            Some(waiting) => waiting.settle(&side, status, unsafe { out::bytes(reply) }),
            None => side.end(EndCause::Protocol(format!(
                "async call {number} was completed twice, or never made"
            ))),
        }
    });
}

impl Pending {
    fn add(&self, waiting: Waiting) -> usize {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.next += 1;
        let number = table.next;
        table.waiting.insert(number, waiting);
        number
    }

    fn take(&self, number: usize) -> Option<Waiting> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .remove(&number)
    }
}

impl Waiting {
    fn settle(self, side: &Side, status: MtStatus, reply: &[u8]) {
        let target = &self.ticket.frame.target;
        let max = side.payload_bytes_max;
        let outcome = if reply.len() > max {
            Outcome::Failed(CallError::new(
                CallErrorKind::Exhausted,
                format!(
                    "the reply of `{target}` has {} bytes, and at most {max} may cross",
                    reply.len()
                ),
            ))
        } else {
            note_panic(side, status, outcome::read(target, status, Ok(reply.to_vec())))
        };
        let Self { ticket, _call, reply } = self;
        drop(ticket);
        // The caller may be gone.
        _ = reply.send(outcome);
    }
}

/// Poisons the instance if the outcome is a panic (I6), with the words that came before it on this thread.
pub(crate) fn note_panic(side: &Side, status: MtStatus, outcome: Outcome) -> Outcome {
    if status != MT_E_PANIC {
        return outcome;
    }
    let words = match (host_table::take_panic(), outcome) {
        (Some(told), _) => told,
        (None, Outcome::Panicked(words)) => words,
        (None, other) => return other,
    };
    side.poison(&words);
    Outcome::Panicked(words)
}
