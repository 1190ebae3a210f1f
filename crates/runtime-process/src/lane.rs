//! The host's end of the lane: frames out from any thread, frames in to one reader.
//!
//! A frame is written by whoever sends it, as far as the transport takes it; what is left is written by one task. So the common call costs no
//! task switch on the way out, and a caller that gives up cannot cut a frame in half: frames are queued whole, under a lock that is never held
//! across an await.
//!
//! Invariants
//! - L1: bytes leave in the order in which frames were queued, and a frame is queued whole or not at all.
//! - L2: if anything is queued, the writer task has been woken for it.
//! - L3: what is queued is bounded by the plugin's windows: a frame that uses credit is queued with it. The others belong to calls, or answer a
//!   plugin's own calls; and those give the plugin its credit back no sooner than their answer is written.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf as _, Bytes, BytesMut};
use mortise_wire::{
    credit::{self, CreditError, Inflow, Outflow},
    frame::{self, Kind},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::transport::Outlet;

/// Pieces that are given to the system at once.
const SLICES: usize = 16;
/// Bodies up to this size are copied behind their header: one piece costs less than two.
const JOIN_BYTES_MAX: usize = 4 << 10;

/// The sending side of the lane, and the account of what the plugin sends.
#[derive(Debug)]
pub(crate) struct Sender {
    outlet: Outlet,
    outbox: Mutex<Outbox>,
    /// Wakes the writer task.
    left_over: Notify,
    /// Units that we may send; a permit that was sent is forgotten and comes back with Credit.
    credit: Arc<Semaphore>,
    sent: Outflow,
    received: Inflow,
}

/// What is given back when the last byte of a frame is written.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Kept until then.
    pub(crate) _slot: Option<OwnedSemaphorePermit>,
    /// Credit of the plugin's frame that this one answers.
    pub(crate) units: u32,
}

/// Credit for one frame. Dropped unused, it is there for the next.
#[derive(Debug)]
pub(crate) struct Reserved(OwnedSemaphorePermit);

#[derive(Debug, Default)]
struct Outbox {
    pieces: VecDeque<(Bytes, Held)>,
    /// Units of frames whose last byte was written, to be given back.
    released: u32,
    /// The other side is gone: nothing is kept any more.
    closed: bool,
}

impl Sender {
    /// `window`: units that each side may have on the way to the other.
    pub(crate) fn new(outlet: Outlet, window: u32) -> Self {
        Self {
            outlet,
            outbox: Mutex::default(),
            left_over: Notify::new(),
            credit: Arc::new(Semaphore::new(window as usize)),
            sent: Outflow::new(window),
            received: Inflow::new(window),
        }
    }

    /// Waits until a frame with a body of up to `body_bytes` may be sent. Cancel safe.
    pub(crate) async fn reserve(&self, body_bytes: usize) -> Reserved {
        let units = credit::units(body_bytes).min(self.sent.window());
        let permit = match self.credit.clone().try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => self
                .credit
                .clone()
                .acquire_many_owned(units)
                .await
                .expect("the semaphore is never closed"),
        };
        Reserved(permit)
    }

    /// Sends a frame that uses no credit.
    pub(crate) fn send(&self, kind: Kind, call_id: u64, body: &[u8], held: Held) {
        debug_assert!(!kind.uses_lane_credit(), "L3: {kind:?} is sent with credit");
        let header = frame::header(kind, call_id, u32::try_from(body.len()).unwrap_or(u32::MAX));
        self.queue([([&header[..], body].concat().into(), held)]);
    }

    /// Sends a frame whose body is `body`.
    pub(crate) fn send_reserved(&self, kind: Kind, call_id: u64, body: Bytes, credit: Reserved, held: Held) {
        let header = frame::header(kind, call_id, u32::try_from(body.len()).unwrap_or(u32::MAX));
        self.use_up(credit, body.len());
        self.send_joined(BytesMut::from(&header[..]), body, held);
    }

    /// Sends a call's frame: what `frame::call_prefix` made, and the payload.
    pub(crate) fn send_call(&self, prefix: BytesMut, payload: Bytes, credit: Reserved) {
        self.use_up(credit, prefix.len() - frame::HEADER_BYTES + payload.len());
        self.send_joined(prefix, payload, Held::default());
    }

    /// Sends a message of a stream, whose own credit is used.
    pub(crate) fn send_item(&self, call_id: u64, message: Bytes) {
        let bytes = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let header = frame::header(Kind::Item, call_id, bytes);
        self.send_joined(BytesMut::from(&header[..]), message, Held::default());
    }

    /// Notes a frame that the plugin sent, and gives its units.
    ///
    /// # Errors
    /// If it had no credit for it.
    pub(crate) fn received(&self, body_bytes: usize) -> Result<u32, CreditError> {
        self.received.take(body_bytes)
    }

    /// Notes that a frame of the plugin is done with.
    pub(crate) fn release(&self, units: u32) {
        if let Some(units) = self.received.give_back(units) {
            self.queue([(credit_frame(units), Held::default())]);
        }
    }

    /// Notes a Credit frame.
    ///
    /// # Errors
    /// If so much was never used.
    pub(crate) fn credited(&self, units: u32) -> Result<(), CreditError> {
        self.sent.returned(units)?;
        self.credit.add_permits(units as usize);
        Ok(())
    }

    fn use_up(&self, Reserved(mut permit): Reserved, body_bytes: usize) {
        let units = credit::units(body_bytes).min(self.sent.window());
        if let Some(used) = permit.split(units as usize) {
            used.forget();
            let counted = self.sent.try_use(units);
            debug_assert!(counted, "W2: there are as many permits as units in the window");
        }
    }

    fn send_joined(&self, mut prefix: BytesMut, body: Bytes, held: Held) {
        if body.len() <= JOIN_BYTES_MAX {
            prefix.extend_from_slice(&body);
            self.queue([(prefix.freeze(), held)]);
        } else {
            self.queue([(prefix.freeze(), Held::default()), (body, held)]);
        }
    }

    fn queue<const N: usize>(&self, pieces: [(Bytes, Held); N]) {
        let mut outbox = self.lock();
        if outbox.closed {
            return;
        }
        let idle = outbox.pieces.is_empty();
        outbox.pieces.extend(pieces);
        // If something was there, the writer task is at it already (L2).
        if idle && !self.flush(&mut outbox) {
            self.left_over.notify_one();
        }
    }

    /// Writes what senders could not. Ends when the other side is gone.
    pub(crate) async fn write_left_over(&self) {
        loop {
            self.left_over.notified().await;
            loop {
                if self.outlet.writable().await.is_err() {
                    self.lock().close();
                    return;
                }
                let mut outbox = self.lock();
                if self.flush(&mut outbox) {
                    if outbox.closed {
                        return;
                    }
                    break;
                }
            }
        }
    }

    /// Writes as much as the transport takes. True if nothing is left.
    fn flush(&self, outbox: &mut Outbox) -> bool {
        while !outbox.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            for (slice, (piece, _)) in slices.iter_mut().zip(&outbox.pieces) {
                *slice = IoSlice::new(piece);
            }
            let filled = outbox.pieces.len().min(SLICES);
            match self.outlet.try_write(&slices[..filled]) {
                Ok(written) => outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The reader sees the end of the lane and says so.
                Err(_) => outbox.close(),
            }
            let released = std::mem::take(&mut outbox.released);
            if let Some(units) = self.received.give_back(released) {
                outbox.pieces.push_back((credit_frame(units), Held::default()));
            }
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    fn advance(&mut self, mut written: usize) {
        while let Some((front, held)) = self.pieces.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.released += held.units;
            self.pieces.pop_front();
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.pieces.clear();
    }
}

fn credit_frame(units: u32) -> Bytes {
    Bytes::copy_from_slice(&frame::numbered(Kind::Credit, 0, units))
}
