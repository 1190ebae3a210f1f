//! Calls that the plugin makes: to the host's services and, through them, to other plugins.
//!
//! Each runs as a task of its own, so that a slow one holds up nothing on the lane. They end with the instance. How many run at once is bounded;
//! one above is refused and not queued, because the lane would have to be held up for it, with the answers on it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use mortise_wire::{
    Code, Status,
    frame::{self, Frame, Kind},
    plugin::HostCallHead,
};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use crate::{calls::Parent, lane::Held, shared::Shared, transport::kept};

/// Calls that a plugin may make beside one for each call that it works on: from `start`, from threads of its own.
const MORE_THAN_CALLS: usize = 16;

/// The plugin's calls that are not answered yet. Dropping it ends them.
pub(crate) struct HostCalls {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    slots: Arc<Semaphore>,
    open: Arc<Mutex<HashSet<u64>>>,
    max: usize,
}

/// One of them. Answers with `Internal` if it ends without an answer, by a panic in the host, say.
struct HostCall {
    shared: Arc<Shared>,
    open: Arc<Mutex<HashSet<u64>>>,
    id: u64,
    slot: Option<OwnedSemaphorePermit>,
    /// Credit that its frame used.
    units: u32,
    answered: bool,
}

impl HostCalls {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let max = shared.limits.concurrency as usize + MORE_THAN_CALLS;
        Self {
            shared,
            tasks: JoinSet::new(),
            slots: Arc::new(Semaphore::new(max)),
            open: Arc::default(),
            max,
        }
    }

    /// Takes a `HostCall` frame, which used `units` of the plugin's credit.
    ///
    /// # Errors
    /// How the plugin broke the protocol.
    pub(crate) fn begin(&mut self, frame: Frame, units: u32) -> Result<(), String> {
        while self.tasks.try_join_next().is_some() {}
        let id = frame.call_id;
        let (_, head, payload) = frame::split_call(frame.body).map_err(|error| error.to_string())?;
        let head = HostCallHead::decode(head)
            .map_err(|error| format!("the head of its call {id} does not parse: {error}"))?;
        let refuse = |code, why: String| {
            let status = Status {
                retryable: code == Code::ResourceExhausted,
                ..Status::new(code, why)
            };
            let held = Held { _slot: None, units };
            self.shared
                .lane
                .send(Kind::HostError, id, &status.encode_to_vec(), held);
        };
        let max = self.shared.limits.payload_bytes_max;
        if payload.len() > max {
            refuse(
                Code::ResourceExhausted,
                format!("the request has {} bytes, and {max} is the limit", payload.len()),
            );
            return Ok(());
        }
        let parent = match self.shared.calls.parent(head.parent_call_id) {
            Parent::None => None,
            Parent::Open(context) => Some(context),
            Parent::Over => {
                refuse(
                    Code::Cancelled,
                    format!("call {}, for which it is made, is over", head.parent_call_id),
                );
                return Ok(());
            }
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            refuse(
                Code::ResourceExhausted,
                format!("the plugin makes {} calls already, which is the limit", self.max),
            );
            return Ok(());
        };
        if !lock(&self.open).insert(id) {
            return Err(format!("it made two calls with the id {id} at the same time"));
        }
        let call = HostCall {
            shared: self.shared.clone(),
            open: self.open.clone(),
            id,
            slot: Some(slot),
            units,
            answered: false,
        };
        let payload = kept(payload);
        self.tasks.spawn(async move {
            let services = call.shared.services.clone();
            let answer = services.call(parent.as_ref(), &head.target, payload).await;
            call.answer(answer).await;
        });
        Ok(())
    }
}

impl HostCall {
    async fn answer(mut self, answer: Result<Bytes, Status>) {
        let max = self.shared.limits.payload_bytes_max;
        let answer = match answer {
            Ok(payload) if payload.len() > max => {
                let why = format!("the reply has {} bytes, and {max} is the limit", payload.len());
                Err(Status::new(Code::ResourceExhausted, why))
            }
            other => other,
        };
        let lane = &self.shared.lane;
        let answer = match answer {
            Ok(payload) => Ok((lane.reserve(payload.len()).await, payload)),
            Err(status) => Err(status),
        };
        // From here on its id may be used again: the plugin sees the answer first.
        lock(&self.open).remove(&self.id);
        self.answered = true;
        let held = Held {
            _slot: self.slot.take(),
            units: self.units,
        };
        match answer {
            Ok((credit, payload)) => {
                lane.send_reserved(Kind::HostReply, self.id, payload, credit, held);
            }
            Err(status) => lane.send(Kind::HostError, self.id, &status.encode_to_vec(), held),
        }
    }
}

impl Drop for HostCall {
    fn drop(&mut self) {
        if !self.answered {
            lock(&self.open).remove(&self.id);
            let status = Status::new(Code::Internal, "the host did not finish the call");
            let held = Held {
                _slot: None,
                units: self.units,
            };
            self.shared
                .lane
                .send(Kind::HostError, self.id, &status.encode_to_vec(), held);
        }
    }
}

fn lock(open: &Mutex<HashSet<u64>>) -> MutexGuard<'_, HashSet<u64>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
