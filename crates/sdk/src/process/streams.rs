//! Calls that stream, as the thread sees them that runs the method.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_wire::{
    CallHead, Code, Status, StreamLink,
    credit::{Inflow, StreamTerms},
    frame::Kind,
};
use prost::Message as _;

use super::lane::{Lane, lock};
use crate::Result;

/// One call. The thread that reads the lane puts in; the method's thread takes out and sends.
pub(super) struct Streaming {
    lane: Arc<Lane>,
    call_id: u64,
    head: Bytes,
    arrived: Instant,
    terms: StreamTerms,
    /// Bounds `messages`: the host sends no more than that.
    inflow: Inflow,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    messages: VecDeque<(Bytes, u32)>,
    /// No further message comes.
    ended: bool,
    /// Nobody waits for the call any more.
    cancelled: bool,
    /// What the host has room for.
    credit: u32,
}

impl Streaming {
    pub(super) fn new(lane: Arc<Lane>, call_id: u64, head: Bytes, arrived: Instant) -> Self {
        let terms = lane.stream_terms();
        Self {
            lane,
            call_id,
            head,
            arrived,
            terms,
            inflow: Inflow::new(terms.window()),
            state: Mutex::new(State {
                messages: VecDeque::new(),
                ended: false,
                cancelled: false,
                credit: terms.window(),
            }),
            changed: Condvar::new(),
        }
    }

    /// An Item of the host's.
    ///
    /// # Errors
    /// How the host broke the protocol.
    pub(super) fn item(&self, message: Bytes) -> Result<(), String> {
        let units = self
            .inflow
            .take_units(self.terms.price(message.len()))
            .map_err(|error| error.to_string())?;
        let mut state = lock(&self.state);
        if state.ended {
            return Err(format!("it sent an Item of call {} after its End", self.call_id));
        }
        state.messages.push_back((message, units));
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// # Errors
    /// How the host broke the protocol.
    pub(super) fn granted(&self, units: u32) -> Result<(), String> {
        let mut state = lock(&self.state);
        let credit = state
            .credit
            .checked_add(units)
            .filter(|it| *it <= self.terms.window());
        state.credit = credit.ok_or_else(|| {
            format!(
                "it gave {units} bytes back to call {}, which has used less",
                self.call_id
            )
        })?;
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn cancel(&self) {
        lock(&self.state).cancelled = true;
        self.changed.notify_all();
    }

    /// Why nobody waits any more.
    fn why(&self) -> Status {
        let head = CallHead::decode(self.head.clone()).unwrap_or_default();
        let deadline = Duration::from_nanos(head.deadline_ns);
        if !deadline.is_zero() && self.arrived.elapsed() >= deadline {
            let why = "the call's deadline passed while it streamed";
            return Status::new(Code::DeadlineExceeded, why);
        }
        Status::new(Code::Cancelled, "the caller is gone")
    }

    /// Waits until `ready` gives something, or the call is cancelled.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let mut state: MutexGuard<'_, State> = lock(&self.state);
        loop {
            if state.cancelled {
                drop(state);
                return Err(self.why());
            }
            if let Some(it) = ready(&mut state) {
                return Ok(it);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl StreamLink for Streaming {
    fn receive(&self) -> Result<Option<Bytes>> {
        let next = self.wait(|state| match state.messages.pop_front() {
            Some(it) => Some(Some(it)),
            None => state.ended.then_some(None),
        })?;
        let Some((message, units)) = next else {
            return Ok(None);
        };
        if let Some(units) = self.inflow.give_back(units) {
            self.lane.send_number(Kind::Grant, self.call_id, units);
        }
        Ok(Some(message))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        self.lane.fits(message.len())?;
        let price = self.terms.price(message.len());
        self.wait(|state| {
            state.credit = state.credit.checked_sub(price)?;
            Some(())
        })?;
        self.lane.send_bytes(Kind::Item, self.call_id, &message);
        Ok(())
    }
}
