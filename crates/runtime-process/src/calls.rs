//! The calls that are open in one instance.
//!
//! ```text
//!  open --------> Waiting --answer--> gone
//!                    |
//!      caller gone or deadline: Cancel is sent
//!                    v
//!                Abandoned --answer--> gone
//!                    |
//!         `stuck_grace` after the deadline: the instance is stuck
//! ```
//!
//! The deadline is then the caller's or the plugin's own (`Limits::deadline` after the call began), whichever is later: a caller in a hurry must not be able
//! to have the process killed, with everybody's calls and its state.
//!
//! Invariants
//! - C1: an id is used for one call only, and an answer to an id that is not open is a breach of the protocol.
//! - C2: every open call is answered once, by the plugin or by [`Calls::close`].
//! - C3: a call keeps its slot until the plugin has answered it, also when its caller is gone: the plugin's thread is not free before.
//! - C4: after [`Calls::close`] nothing is open, and opening gives the error it was closed with.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_runtime::{CallContext, CallError, MethodIndex};
use mortise_wire::Health;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::streams::Incoming;

/// Questions about health that may be without an answer. A plugin that lets more pass is not asked again until it has answered.
const UNANSWERED_HEALTH_MAX: usize = 4;

/// Calls that are over and still known to their log lines, where those come another way than the answer.
const RECENT_MAX: usize = 256;

/// The open calls of one instance.
#[derive(Debug)]
pub(crate) struct Calls {
    table: Mutex<Table>,
    stuck_grace: Duration,
    /// What the plugin's limits give a call.
    allowed: Duration,
    /// The earliest time at which a call counts as stuck may have changed.
    due_changed: Notify,
    /// [`Calls::close`] was called.
    closing: Notify,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    open: HashMap<u64, Open>,
    unanswered_health: usize,
    /// The last of those that [`Calls::finish`] ended.
    recent: VecDeque<(u64, CallContext)>,
    closed: Option<CallError>,
}

#[derive(Debug)]
enum Open {
    Waiting {
        reply: oneshot::Sender<Result<Bytes, CallError>>,
        context: CallContext,
        method: MethodIndex,
        began: Instant,
        _slot: OwnedSemaphorePermit,
    },
    Abandoned {
        method: MethodIndex,
        due: Instant,
        _slot: OwnedSemaphorePermit,
    },
    /// A call that streams; abandoned, it is like any other.
    Streaming {
        incoming: Incoming,
        context: CallContext,
        method: MethodIndex,
        began: Instant,
        _slot: OwnedSemaphorePermit,
    },
    Health {
        reply: oneshot::Sender<Health>,
    },
}

/// Whose call a plugin's own call is made for.
#[derive(Debug)]
pub(crate) enum Parent {
    /// Nobody's: the plugin's own thread.
    None,
    /// A call that is open.
    Open(CallContext),
    /// A call that is over, or never was.
    Over,
}

/// What the plugin sent for an id that has nothing open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotOpen {
    AnsweredBefore,
    NeverMade,
    /// It is open, but it is a call and not a question about health, or the other way round.
    OtherKind,
}

// === impl Calls ===

impl Calls {
    pub(crate) fn new(stuck_grace: Duration, allowed: Duration) -> Self {
        Self {
            table: Mutex::default(),
            stuck_grace,
            allowed,
            due_changed: Notify::new(),
            closing: Notify::new(),
        }
    }

    /// Opens a call and gives it an id.
    pub(crate) fn open(
        &self,
        context: &CallContext,
        method: MethodIndex,
        slot: OwnedSemaphorePermit,
    ) -> Result<(u64, oneshot::Receiver<Result<Bytes, CallError>>), CallError> {
        let (reply, answer) = oneshot::channel();
        let context = context.clone();
        let id = self.lock().insert(Open::Waiting {
            reply,
            context,
            method,
            began: Instant::now(),
            _slot: slot,
        })?;
        Ok((id, answer))
    }

    /// Opens a call that streams and gives it an id.
    pub(crate) fn open_stream(
        &self,
        context: &CallContext,
        method: MethodIndex,
        slot: OwnedSemaphorePermit,
        incoming: Incoming,
    ) -> Result<u64, CallError> {
        let context = context.clone();
        self.lock().insert(Open::Streaming {
            incoming,
            context,
            method,
            began: Instant::now(),
            _slot: slot,
        })
    }

    /// Opens a question about health; `None` if too many are without an answer.
    pub(crate) fn open_health(&self) -> Result<Option<(u64, oneshot::Receiver<Health>)>, CallError> {
        let mut table = self.lock();
        if table.unanswered_health >= UNANSWERED_HEALTH_MAX && table.closed.is_none() {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        let id = table.insert(Open::Health { reply })?;
        table.unanswered_health += 1;
        Ok(Some((id, answer)))
    }

    /// Notes that nobody waits for `id` any more. True if the plugin should be told.
    pub(crate) fn abandon(&self, id: u64, deadline: Instant) -> bool {
        let mut table = self.lock();
        match table.open.remove(&id) {
            Some(
                Open::Waiting {
                    method, began, _slot, ..
                }
                | Open::Streaming {
                    method, began, _slot, ..
                },
            ) => {
                let due = deadline.max(Instant::now()).max(began + self.allowed) + self.stuck_grace;
                table.open.insert(id, Open::Abandoned { method, due, _slot });
                drop(table);
                self.due_changed.notify_one();
                true
            }
            Some(other) => {
                table.open.insert(id, other);
                false
            }
            None => false,
        }
    }

    /// Hands the plugin's answer to whoever waits for it.
    pub(crate) fn answer(&self, id: u64, answer: Result<Bytes, CallError>) -> Result<(), NotOpen> {
        let mut table = self.lock();
        match table.open.remove(&id) {
            Some(Open::Waiting { reply, .. }) => {
                drop(table);
                // The caller may have gone at this very moment.
                let _ = reply.send(answer);
                Ok(())
            }
            Some(Open::Abandoned { .. }) => Ok(()),
            // An error ends a stream; a reply is none.
            Some(Open::Streaming { incoming, .. }) if answer.is_err() => {
                drop(table);
                incoming.end(answer.map(drop));
                Ok(())
            }
            Some(other) => {
                table.open.insert(id, other);
                Err(NotOpen::OtherKind)
            }
            None => Err(table.not_open(id)),
        }
    }

    /// Notes that a call was answered beside the frames. Its log lines may be among them and come later.
    pub(crate) fn finish(&self, id: u64) {
        let mut table = self.lock();
        let removed = table.open.remove(&id);
        if let Some(Open::Waiting { context, .. }) = removed {
            if table.recent.len() == RECENT_MAX {
                table.recent.pop_front();
            }
            table.recent.push_back((id, context));
        }
    }

    /// The call that a log line names, if it is open or was a moment ago.
    pub(crate) fn of_line(&self, id: u64) -> Option<CallContext> {
        if let Parent::Open(context) = self.parent(id) {
            return Some(context);
        }
        let table = self.lock();
        let found = table.recent.iter().rev().find(|(recent, _)| *recent == id);
        found.map(|(_, context)| context.clone())
    }

    /// The plugin has ended a stream.
    pub(crate) fn end_stream(&self, id: u64) -> Result<(), NotOpen> {
        let mut table = self.lock();
        match table.open.remove(&id) {
            Some(Open::Streaming { incoming, .. }) => {
                drop(table);
                incoming.end(Ok(()));
                Ok(())
            }
            Some(Open::Abandoned { .. }) => Ok(()),
            Some(other) => {
                table.open.insert(id, other);
                Err(NotOpen::OtherKind)
            }
            None => Err(table.not_open(id)),
        }
    }

    /// Something came for an open stream. What comes for one that is abandoned is dropped.
    pub(crate) fn on_stream(
        &self,
        id: u64,
        take: impl FnOnce(&Incoming) -> Result<(), String>,
    ) -> Result<Result<(), String>, NotOpen> {
        let table = self.lock();
        match table.open.get(&id) {
            Some(Open::Streaming { incoming, .. }) => Ok(take(incoming)),
            Some(Open::Abandoned { .. }) => Ok(Ok(())),
            Some(_) => Err(NotOpen::OtherKind),
            None => Err(table.not_open(id)),
        }
    }

    /// Hands the plugin's health to whoever asked.
    pub(crate) fn answer_health(&self, id: u64, health: Health) -> Result<(), NotOpen> {
        let mut table = self.lock();
        match table.open.remove(&id) {
            Some(Open::Health { reply }) => {
                table.unanswered_health -= 1;
                let _ = reply.send(health);
                Ok(())
            }
            Some(call) => {
                table.open.insert(id, call);
                Err(NotOpen::OtherKind)
            }
            None => Err(table.not_open(id)),
        }
    }

    /// The call that a plugin names as the parent of its own.
    pub(crate) fn parent(&self, id: u64) -> Parent {
        match (id, self.lock().open.get(&id)) {
            (0, _) => Parent::None,
            (_, Some(Open::Waiting { context, .. } | Open::Streaming { context, .. })) => {
                Parent::Open(context.clone())
            }
            _ => Parent::Over,
        }
    }

    /// The call that counts as stuck first, and when.
    pub(crate) fn first_due(&self) -> Option<(Instant, MethodIndex)> {
        let due = |open: &Open| match open {
            Open::Abandoned { method, due, .. } => Some((*due, *method)),
            _ => None,
        };
        self.lock()
            .open
            .values()
            .filter_map(due)
            .min_by_key(|(due, _)| *due)
    }

    /// Resolves when [`Calls::first_due`] may have changed.
    pub(crate) async fn due_changed(&self) {
        self.due_changed.notified().await;
    }

    /// Answers everything that is open with `error`, now and from now on (C4). The first one stays.
    pub(crate) fn close(&self, error: CallError) {
        let open = {
            let mut table = self.lock();
            table.closed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut table.open)
        };
        self.closing.notify_waiters();
        for call in open.into_values() {
            match call {
                Open::Waiting { reply, .. } => drop(reply.send(Err(error.clone()))),
                Open::Streaming { incoming, .. } => incoming.abort(error.clone()),
                Open::Abandoned { .. } | Open::Health { .. } => {}
            }
        }
    }

    /// Resolves once it was closed, with the error.
    pub(crate) async fn until_closed(&self) -> CallError {
        loop {
            let mut closing = std::pin::pin!(self.closing.notified());
            // Before it is looked: what comes after that wakes.
            closing.as_mut().enable();
            if let Some(error) = self.closed() {
                return error;
            }
            closing.await;
        }
    }

    /// The error with which it was closed.
    pub(crate) fn closed(&self) -> Option<CallError> {
        self.lock().closed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, open: Open) -> Result<u64, CallError> {
        if let Some(error) = &self.closed {
            return Err(error.clone());
        }
        self.last_id += 1;
        self.open.insert(self.last_id, open);
        Ok(self.last_id)
    }

    fn not_open(&self, id: u64) -> NotOpen {
        if (1..=self.last_id).contains(&id) {
            NotOpen::AnsweredBefore
        } else {
            NotOpen::NeverMade
        }
    }
}
