//! The host's end of the lane: frames out from any thread, frames in to one reader.
//!
//! A frame is written by whoever sends it, as far as the socket takes it; what is left is written by one task. So the common call costs no
//! task switch on the way out, and a caller that gives up cannot cut a frame in half: frames are queued whole, under a lock that is never held
//! across an await.
//!
//! Invariants
//! - L1: bytes leave in the order in which frames were queued, and a frame is queued whole or not at all.
//! - L2: if anything is queued, the writer task has been woken for it.
//! - L3: what is queued is bounded: a payload takes permits of `budget` with it until its last byte is written, and the frames without a
//!   payload are bounded by the calls they belong to.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf as _, Bytes};
use mortise_wire::frame::{self, Kind};
use tokio::{
    net::unix::OwnedWriteHalf,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

/// Pieces that are given to the system at once.
const SLICES: usize = 16;
/// One permit of the budget stands for so many bytes.
const PERMIT_BYTES: usize = 4 << 10;

/// The sending side of the lane.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: OwnedWriteHalf,
    outbox: Mutex<Outbox>,
    /// Wakes the writer task.
    left_over: Notify,
    budget: Arc<Semaphore>,
    budget_permits: u32,
}

/// Permits that are given back when the last byte of a frame is written.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "held for the sake of their drop")]
pub(crate) struct Held {
    pub(crate) bytes: Option<OwnedSemaphorePermit>,
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct Outbox {
    pieces: VecDeque<(Bytes, Held)>,
    /// The other side is gone: nothing is kept any more.
    closed: bool,
}

impl Sender {
    /// `budget_bytes` bounds what callers may have queued together.
    pub(crate) fn new(socket: OwnedWriteHalf, budget_bytes: usize) -> Self {
        let permits = budget_bytes
            .div_ceil(PERMIT_BYTES)
            .clamp(1, u32::MAX as usize >> 4);
        Self {
            socket,
            outbox: Mutex::default(),
            left_over: Notify::new(),
            budget: Arc::new(Semaphore::new(permits)),
            budget_permits: u32::try_from(permits).unwrap_or(u32::MAX),
        }
    }

    /// Waits until a payload of `bytes` may be queued. Cancel safe.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES))
            .unwrap_or(u32::MAX)
            .min(self.budget_permits);
        if let Ok(permit) = self.budget.clone().try_acquire_many_owned(permits) {
            return Some(permit);
        }
        // The semaphore is never closed.
        self.budget.clone().acquire_many_owned(permits).await.ok()
    }

    /// Sends a frame whose body is `body`.
    pub(crate) fn send(&self, kind: Kind, call_id: u64, body: Bytes, held: Held) {
        let header = frame::header(kind, call_id, u32::try_from(body.len()).unwrap_or(u32::MAX));
        if body.len() <= 256 {
            let whole = [&header[..], &body].concat();
            self.queue([(whole.into(), held)]);
        } else {
            self.queue([(Bytes::copy_from_slice(&header), Held::default()), (body, held)]);
        }
    }

    /// Sends a call's frame: what `frame::call_prefix` made, and the payload.
    pub(crate) fn send_call(&self, prefix: Bytes, payload: Bytes, held: Held) {
        self.queue([(prefix, Held::default()), (payload, held)]);
    }

    fn queue<const N: usize>(&self, pieces: [(Bytes, Held); N]) {
        let mut outbox = self.lock();
        if outbox.closed {
            return;
        }
        let idle = outbox.pieces.is_empty();
        outbox.pieces.extend(pieces);
        // If something was there, the writer task is at it already (L2).
        if idle && !outbox.flush(&self.socket) {
            self.left_over.notify_one();
        }
    }

    /// Writes what senders could not. Ends when the other side is gone.
    pub(crate) async fn write_left_over(&self) {
        loop {
            self.left_over.notified().await;
            loop {
                if self.socket.writable().await.is_err() {
                    self.lock().close();
                    return;
                }
                let mut outbox = self.lock();
                if outbox.flush(&self.socket) {
                    if outbox.closed {
                        return;
                    }
                    break;
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Writes as much as the socket takes. True if nothing is left.
    fn flush(&mut self, socket: &OwnedWriteHalf) -> bool {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            for (slice, (piece, _)) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let filled = self.pieces.len().min(SLICES);
            match socket.try_write_vectored(&slices[..filled]) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The reader sees the end of the lane and says so.
                Err(_) => self.close(),
            }
        }
        true
    }

    fn advance(&mut self, mut written: usize) {
        while let Some((front, _)) = self.pieces.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.pieces.pop_front();
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.pieces.clear();
    }
}
