//! The host's end of the lane: frames out from any thread, frames in to one reader.
//!
//! A frame is written by whoever sends it, as far as the transport takes it; what is left is written by one task. So the common call costs no
//! task switch on the way out, and a caller that gives up cannot cut a frame in half: frames are queued whole, under a lock that is never held
//! across an await.
//!
//! Invariants
//! - L1: bytes leave in the order in which frames were queued, and a frame is queued whole or not at all.
//! - L2: if anything is queued, the writer task has been woken for it.
//! - L3: what is queued is bounded, whatever the plugin does. An honest one bounds it by its windows: a frame that uses credit is queued with it; the others
//!   belong to calls, or answer a plugin's own calls, and those give the plugin its credit back no sooner than their answer is written; credit that is given
//!   back while anything waits is added up and leaves as one frame. A plugin that sends and never reads can claim to have read, though: more than
//!   `pieces_max` pieces are the end of its lane.
//! - L4: whoever finds that the plugin broke the transport's rules while something is sent says so once, to [`Sender::broken`]: the reader may see nothing of it.

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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SetOnce};

use crate::transport::Outlet;

/// Pieces that are given to the system at once.
const SLICES: usize = 16;
/// Bodies up to this size are copied behind their header: one piece costs less than two.
const JOIN_BYTES_MAX: usize = 4 << 10;

/// Pieces of frames that belong to calls and use no credit, at the most; generous, because what has ended may still wait.
const PIECES_MORE: usize = 64 << 10;

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
    /// More than these wait only for a plugin that does not read.
    pieces_max: usize,
    /// Why nothing can be sent any more, where it is the plugin's fault.
    broken: SetOnce<String>,
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
    /// Units that are given back and not told yet, because something waits.
    untold: u32,
    /// The other side is gone: nothing is kept any more.
    closed: bool,
}

impl Sender {
    /// `window`: units that each side may have on the way to the other. `items`: messages that all streams may have on the way to the plugin.
    pub(crate) fn new(outlet: Outlet, window: u32, items: usize) -> Self {
        // A frame is two pieces at the most.
        let pieces_max = (window as usize).saturating_add(items).saturating_mul(2);
        Self {
            outlet,
            outbox: Mutex::default(),
            left_over: Notify::new(),
            credit: Arc::new(Semaphore::new(window as usize)),
            sent: Outflow::new(window),
            received: Inflow::new(window),
            pieces_max: pieces_max.saturating_add(PIECES_MORE),
            broken: SetOnce::new(),
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
        let Some(units) = self.received.give_back(units) else {
            return;
        };
        {
            let mut outbox = self.lock();
            if !outbox.pieces.is_empty() {
                // It goes behind what waits: a frame for each would be without bound.
                outbox.untold = outbox.untold.saturating_add(units);
                return;
            }
        }
        self.queue([(credit_frame(units), Held::default())]);
    }

    /// Resolves when the plugin broke the rules of what it is sent, with how. Cancel safe.
    pub(crate) async fn broken(&self) -> String {
        self.broken.wait().await.clone()
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
        if outbox.pieces.len() > self.pieces_max {
            let how = format!(
                "it does not read its lane: {} pieces of frames wait for it",
                self.pieces_max
            );
            return self.end(&mut outbox, Some(how));
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
                if let Err(error) = self.outlet.writable().await {
                    return self.end(&mut self.lock(), fault(&error));
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
                Err(error) => self.end(outbox, fault(&error)),
            }
            let released = std::mem::take(&mut outbox.released);
            let done = self.received.give_back(released).unwrap_or(0);
            let units = done.saturating_add(std::mem::take(&mut outbox.untold));
            if units > 0 && !outbox.closed {
                outbox.pieces.push_back((credit_frame(units), Held::default()));
            }
        }
        true
    }

    /// Keeps nothing any more. `fault`: what the plugin did; without one the reader sees the end of the lane and says so.
    fn end(&self, outbox: &mut Outbox, fault: Option<String>) {
        outbox.close();
        if let Some(how) = fault {
            // The first is the reason.
            let _ = self.broken.set(how);
        }
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

/// What the plugin did, if it is its doing and not its end.
fn fault(error: &io::Error) -> Option<String> {
    (error.kind() == io::ErrorKind::InvalidData).then(|| error.to_string())
}

fn credit_frame(units: u32) -> Bytes {
    Bytes::copy_from_slice(&frame::numbered(Kind::Credit, 0, units))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mortise_wire::frame::Decoder;
    use tokio::{
        io::AsyncReadExt as _,
        net::{UnixStream, unix::OwnedReadHalf},
    };

    use super::*;

    const WINDOW: u32 = 256;

    /// A sender to a plugin that has not read so far: its socket is full, and something waits.
    fn clogged() -> (Sender, OwnedReadHalf, UnixStream) {
        let (host, plugin) = UnixStream::pair().unwrap();
        let (reader, writer) = host.into_split();
        let sender = Sender::new(Outlet::Socket(writer), WINDOW, 0);
        while sender.lock().pieces.is_empty() {
            sender.send(Kind::Ping, 1, &[], Held::default());
        }
        (sender, reader, plugin)
    }

    #[tokio::test]
    async fn credit_for_a_plugin_that_does_not_read_is_added_up() {
        let (sender, _reader, mut plugin) = clogged();
        let waiting = sender.lock().pieces.len();
        for _ in 0..100_000 {
            let units = sender.received(0).unwrap();
            sender.release(units);
        }
        assert_eq!(sender.lock().pieces.len(), waiting);
        let sender = Arc::new(sender);
        let writing = tokio::spawn({
            let sender = sender.clone();
            async move { sender.write_left_over().await }
        });
        let mut decoder = Decoder::new(64);
        let credit = loop {
            match decoder.next().unwrap() {
                Some(frame) if frame.kind == Kind::Credit => break frame::number(&frame).unwrap(),
                Some(_) => {}
                None => drop(plugin.read_buf(decoder.buffer_mut()).await.unwrap()),
            }
        };
        // All that was told of in quarters.
        assert_eq!(credit, 100_000 / (WINDOW / 4) * (WINDOW / 4));
        writing.abort();
    }

    #[tokio::test]
    async fn a_plugin_that_never_reads_comes_to_its_end() {
        let (sender, _reader, _plugin) = clogged();
        let broken = sender.broken();
        for _ in 0..1_000_000 {
            sender.send(Kind::Grant, 1, &[0; 4], Held::default());
        }
        assert!(sender.lock().pieces.is_empty());
        let how = broken.await;
        assert!(how.contains("does not read its lane"), "{how}");
    }

    /// On shared memory the reader sees nothing of it.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn memory_that_a_plugin_spoiled_is_told_of_by_who_finds_it() {
        use std::{fs::File, os::unix::fs::FileExt as _};

        use mortise_shm::{Port, Word};

        let made = crate::transport::shared::make().unwrap();
        let fds = made.fds.each_ref().map(|it| it.try_clone().unwrap());
        let theirs = File::from(made.fds[1].try_clone().unwrap());
        let _plugin = Port::join(fds).unwrap();
        let (host, _other) = UnixStream::pair().unwrap();
        let (reader, writer) = host.into_split();
        let (_inlet, outlet) = made.begin(reader, writer).unwrap();
        let sender = Sender::new(Outlet::Shm(outlet.into()), WINDOW, 0);
        theirs
            .write_all_at(&u64::MAX.to_ne_bytes(), Word::Head.offset() as u64)
            .unwrap();
        // It looks there when its ring seems full, and that is soon.
        while !sender.lock().closed {
            sender.send(Kind::Ping, 1, &[], Held::default());
        }
        let how = sender.broken().await;
        assert!(how.contains("it says that it has read up to"), "{how}");
    }
}
