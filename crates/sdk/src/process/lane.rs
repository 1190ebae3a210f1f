//! The lane: frames in and out, and calls to the host that wait for their reply.
//!
//! A frame that uses credit waits for it, with one exception: the thread that reads the lane may not wait for what it alone would read. What it has to
//! say then is said by a thread that lives for that.

use std::{
    cell::Cell,
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, IoSlice},
    os::{
        fd::{BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

use mortise_wire::{
    Code, Status,
    credit::{Inflow, Outflow, StreamTerms, units},
    frame::{self, Decoder, Frame, FrameError, Kind},
    plugin::{HostCallHead, Welcome},
};
use prost::Message as _;

use super::{
    carrier::{Calls, Carrier},
    transport::{Inlet, Outlet},
};
use crate::Result;

/// Largest frame before the two sides have agreed on one.
pub(super) const FRAME_BYTES_BEFORE_WELCOME: u32 = 64 << 10;

/// The sending half, shared by all threads, and the account of what the host sends.
pub(super) struct Lane {
    outlet: Mutex<Outlet>,
    frame_bytes_max: AtomicU32,
    /// There from Welcome on; what is sent before uses none.
    credit: OnceLock<(Outflow, Inflow)>,
    terms: OnceLock<StreamTerms>,
    /// For those that wait until credit has come back.
    waiting: Mutex<()>,
    credited: Condvar,
    host_calls: Mutex<HashMap<u64, Waiter>>,
    host_call_id: AtomicU64,
}

thread_local! {
    /// Set while this thread reads the lane, which is also while it runs a method that is called nonblocking.
    static READS: Cell<bool> = const { Cell::new(false) };
}

/// A thread that waits for a HostReply.
struct Waiter {
    parent: u64,
    reply: SyncSender<Result<Vec<u8>>>,
}

/// The receiving half; one thread at a time has it.
pub(super) struct Reader {
    inlet: Inlet,
    decoder: Decoder,
}

/// Why no frame came.
pub(super) enum ReadError {
    /// The host is gone.
    Closed,
    /// The host sent something else.
    Frame(FrameError),
    /// It broke the rules of the transport.
    Transport(String),
}

/// The socket that the host left open for us.
pub(super) fn inherited(number: &OsStr) -> Result<UnixStream, String> {
    let variable = frame::ENV_LANE_FD;
    let parsed = number
        .to_str()
        .and_then(|it| it.parse::<RawFd>().ok())
        .filter(|it| *it >= 0);
    let fd = parsed
        .ok_or_else(|| format!("{variable} is {number:?}, and should be the number of an open socket"))?;
    let no_socket = |error: io::Error| format!("{variable} is {fd}, which is not an open socket: {error}");
    // SAFETY: borrowed for this one system call, which fails if the descriptor is not open.
    let copy = unsafe { BorrowedFd::borrow_raw(fd) }
        .try_clone_to_owned()
        .map_err(no_socket)?;
    let socket = UnixStream::from(copy);
    socket.local_addr().map_err(no_socket)?;
    // The copy is closed on exec, and the original now: a process that the plugin starts must not keep the lane open.
    // SAFETY: it is open, as the copy shows; the host left it open for us, and nobody else in this process knows its number.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    // The lane was standard input. Nothing is open but it yet, so this takes its number: whoever reads standard input finds its end, and
    // no file that the plugin opens later is taken for it.
    if fd == 0
        && let Ok(null) = File::open("/dev/null")
    {
        let _ = null.into_raw_fd();
    }
    Ok(socket)
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(socket: &UnixStream, carrier: Option<Box<dyn Carrier>>) -> io::Result<(Self, Reader)> {
        let reader = Reader {
            inlet: Inlet::socket(socket.try_clone()?, carrier),
            decoder: Decoder::new(FRAME_BYTES_BEFORE_WELCOME),
        };
        let lane = Self {
            outlet: Mutex::new(Outlet::Socket(socket.try_clone()?)),
            frame_bytes_max: AtomicU32::new(FRAME_BYTES_BEFORE_WELCOME),
            credit: OnceLock::new(),
            terms: OnceLock::new(),
            waiting: Mutex::new(()),
            credited: Condvar::new(),
            host_calls: Mutex::default(),
            host_call_id: AtomicU64::new(1),
        };
        Ok((lane, reader))
    }

    /// Takes up what the host has chosen. Nothing but Hello was sent before.
    pub(super) fn welcomed(&self, reader: &mut Reader, welcome: &Welcome) -> Result<(), String> {
        if welcome.frame_bytes_max != 0 {
            self.frame_bytes_max
                .store(welcome.frame_bytes_max, Ordering::Relaxed);
            reader.decoder.set_body_bytes_max(welcome.frame_bytes_max);
        }
        let least = units(welcome.frame_bytes_max as usize);
        if welcome.window_units < least {
            return Err(format!(
                "it gives {} units of credit, and one frame may need {least}",
                welcome.window_units
            ));
        }
        self.terms
            .get_or_init(|| StreamTerms::new(welcome.stream_messages, welcome.stream_bytes));
        let window = welcome.window_units;
        let first = self
            .credit
            .set((Outflow::new(window), Inflow::new(window)))
            .is_ok();
        debug_assert!(first, "Welcome comes once");
        if let Some(outlet) = reader.inlet.change(&welcome.lane)? {
            *lock(&self.outlet) = outlet;
        }
        Ok(())
    }

    /// What a stream may have on its way.
    pub(super) fn stream_terms(&self) -> StreamTerms {
        *self.terms.wait()
    }

    /// Sends a frame whose body is a number.
    pub(super) fn send_number(&self, kind: Kind, call_id: u64, number: u32) {
        self.write(&frame::numbered(kind, call_id, number), &[]);
    }

    /// Notes a frame of the host's, and gives what [`Lane::release`] is to be given once it is done with.
    pub(super) fn received(&self, frame: &Frame) -> Result<u32, String> {
        match self.credit.get() {
            Some((_, inflow)) if frame.kind.uses_lane_credit() => {
                inflow.take(frame.body.len()).map_err(|error| error.to_string())
            }
            _ => Ok(0),
        }
    }

    /// Notes that a frame of the host's is done with.
    pub(super) fn release(&self, units: u32) {
        if let Some((_, inflow)) = self.credit.get()
            && let Some(units) = inflow.give_back(units)
        {
            self.send_number(Kind::Credit, 0, units);
        }
    }

    /// Notes a Credit frame.
    pub(super) fn credited(&self, frame: &Frame) -> Result<(), String> {
        let units = frame::number(frame).map_err(|error| error.to_string())?;
        if let Some((outflow, _)) = self.credit.get() {
            outflow.returned(units).map_err(|error| error.to_string())?;
            // Whoever has found none is either waiting or has the lock.
            drop(lock(&self.waiting));
            self.credited.notify_all();
        }
        Ok(())
    }

    /// Sends a frame whose body is a message.
    pub(super) fn send(self: &Arc<Self>, kind: Kind, call_id: u64, body: &impl prost::Message) {
        self.send_bytes(kind, call_id, &body.encode_to_vec());
    }

    /// Sends a frame. One that is longer than agreed would end the lane, so it is replaced: a reply by an error, a log line by nothing.
    pub(super) fn send_bytes(self: &Arc<Self>, kind: Kind, call_id: u64, body: &[u8]) {
        let bytes = match self.fits(body.len()) {
            Ok(bytes) => bytes,
            Err(status) if matches!(kind, Kind::Reply | Kind::Error) => {
                return self.send(Kind::Error, call_id, &status);
            }
            Err(_) => return,
        };
        let header = frame::header(kind, call_id, bytes);
        if !kind.uses_lane_credit() || self.try_use_credit(body.len()) {
            return self.write(&header, body);
        }
        if !READS.get() {
            self.use_credit(body.len());
            return self.write(&header, body);
        }
        let (lane, body) = (self.clone(), body.to_vec());
        let later = thread::Builder::new()
            .name("mortise-late".to_owned())
            .spawn(move || {
                lane.use_credit(body.len());
                lane.write(&header, &body);
            });
        if let Err(error) = later {
            // A reply that is never sent would be a call that never ends.
            eprintln!("cannot start a thread: {error}");
            std::process::exit(1);
        }
    }

    fn try_use_credit(&self, body_bytes: usize) -> bool {
        self.credit
            .get()
            .is_none_or(|(outflow, _)| outflow.try_use(units(body_bytes).min(outflow.window())))
    }

    /// Waits for credit for a frame, and uses it.
    fn use_credit(&self, body_bytes: usize) {
        if self.try_use_credit(body_bytes) {
            return;
        }
        let mut waiting = lock(&self.waiting);
        while !self.try_use_credit(body_bytes) {
            waiting = self
                .credited
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls the host and waits. `cancelled` is looked at once the call is known to [`Lane::cancel`], so none can slip through.
    pub(super) fn call(
        &self,
        parent: u64,
        target: &str,
        payload: &[u8],
        cancelled: impl FnOnce() -> bool,
    ) -> Result<Vec<u8>> {
        let head = HostCallHead {
            target: target.to_owned(),
            parent_call_id: parent,
        };
        let body_bytes = frame::call_body_bytes(head.encoded_len(), payload.len());
        self.fits(body_bytes)?;
        let id = self.host_call_id.fetch_add(1, Ordering::Relaxed);
        let (reply, replied) = mpsc::sync_channel(1);
        lock(&self.host_calls).insert(id, Waiter { parent, reply });
        if cancelled() {
            lock(&self.host_calls).remove(&id);
            return Err(Status::new(Code::Cancelled, "the caller is gone"));
        }
        self.use_credit(body_bytes);
        self.write(
            &frame::call_prefix(Kind::HostCall, id, 0, &head, payload.len()),
            payload,
        );
        replied
            .recv()
            .unwrap_or_else(|_| Err(Status::unavailable("the host is gone")))
    }

    /// Hands a HostReply or HostError to its thread. One that nobody waits for belongs to a cancelled call.
    pub(super) fn replied(&self, frame: Frame) {
        let Some(waiter) = lock(&self.host_calls).remove(&frame.call_id) else {
            return;
        };
        let outcome = match frame.kind {
            Kind::HostReply => Ok(Vec::from(frame.body)),
            _ => Err(Status::decode(frame.body).unwrap_or_else(|error| {
                Status::internal(format_args!("the host's status does not parse: {error}"))
            })),
        };
        let _ = waiter.reply.send(outcome);
    }

    /// Wakes every thread that waits for the host on behalf of `parent`.
    pub(super) fn cancel(&self, parent: u64) {
        lock(&self.host_calls).retain(|_, it| {
            let keep = it.parent != parent;
            if !keep {
                let _ = it
                    .reply
                    .send(Err(Status::new(Code::Cancelled, "the caller is gone")));
            }
            keep
        });
    }

    pub(super) fn fits(&self, body_bytes: usize) -> Result<u32> {
        let max = self.frame_bytes_max.load(Ordering::Relaxed);
        u32::try_from(body_bytes)
            .ok()
            .filter(|it| *it <= max)
            .ok_or_else(|| {
                Status::resource_exhausted(format_args!(
                    "a frame of {body_bytes} bytes was to be sent, and {max} is the agreed maximum"
                ))
            })
    }

    /// Before the process ends: what was sent will arrive.
    pub(super) fn flush(&self) {
        lock(&self.outlet).flush();
    }

    /// Before the process ends in good order.
    pub(super) fn close(&self) {
        lock(&self.outlet).close();
    }

    fn write(&self, prefix: &[u8], payload: &[u8]) {
        let mut pieces = [IoSlice::new(prefix), IoSlice::new(payload)];
        lock(&self.outlet).send_all(&mut pieces);
    }
}

// === impl Reader ===

impl Reader {
    /// The transports that this process can use, best first.
    pub(super) fn offered(&self) -> Vec<String> {
        self.inlet.offered()
    }

    /// Calls may come beside the frames from now on; false if the transport has none.
    pub(super) fn take_calls(&mut self, calls: &'static dyn Calls) -> bool {
        self.inlet.take_calls(calls)
    }

    pub(super) fn next(&mut self) -> Result<Frame, ReadError> {
        READS.set(true);
        loop {
            if let Some(frame) = self.decoder.next().map_err(ReadError::Frame)? {
                return Ok(frame);
            }
            self.inlet.read(&mut self.decoder)?;
        }
    }
}

/// This thread has given the reader up: from here on it may wait.
pub(super) fn reads_no_longer() {
    READS.set(false);
}

/// Runs something on a thread without which nothing is read: it may not wait either.
pub(super) fn as_reader(run: impl FnOnce()) {
    let before = READS.replace(true);
    run();
    READS.set(before);
}

/// Nothing of ours panics with a lock held, and what plugin code does happens outside of them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
