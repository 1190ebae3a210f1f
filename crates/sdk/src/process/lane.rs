//! The lane: frames in and out, and calls to the host that wait for their reply.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, IoSlice, Read as _, Write as _},
    os::{
        fd::{BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
};

use mortise_wire::{
    Code, Status,
    frame::{self, Decoder, Frame, FrameError, HEADER_BYTES, Kind},
    plugin::HostCallHead,
};
use prost::Message as _;

use crate::Result;

/// Size of one read. A larger frame takes several.
const READ_BYTES: usize = 64 << 10;
/// Largest frame before the two sides have agreed on one.
pub(super) const FRAME_BYTES_BEFORE_WELCOME: u32 = 64 << 10;

/// The sending half, shared by all threads.
pub(super) struct Lane {
    socket: Mutex<UnixStream>,
    frame_bytes_max: AtomicU32,
    host_calls: Mutex<HashMap<u64, Waiter>>,
    host_call_id: AtomicU64,
}

/// A thread that waits for a HostReply.
struct Waiter {
    parent: u64,
    reply: SyncSender<Result<Vec<u8>>>,
}

/// The receiving half, the main thread's.
pub(super) struct Reader {
    socket: UnixStream,
    decoder: Decoder,
    scratch: Box<[u8]>,
}

/// Why no frame came.
pub(super) enum ReadError {
    /// The host is gone.
    Closed,
    /// The host sent something else.
    Frame(FrameError),
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
    pub(super) fn new(socket: &UnixStream) -> io::Result<(Self, Reader)> {
        let reader = Reader {
            socket: socket.try_clone()?,
            decoder: Decoder::new(FRAME_BYTES_BEFORE_WELCOME),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
        };
        let lane = Self {
            socket: Mutex::new(socket.try_clone()?),
            frame_bytes_max: AtomicU32::new(FRAME_BYTES_BEFORE_WELCOME),
            host_calls: Mutex::default(),
            host_call_id: AtomicU64::new(1),
        };
        Ok((lane, reader))
    }

    pub(super) fn set_frame_bytes_max(&self, bytes: u32) {
        self.frame_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Sends a frame whose body is a message.
    pub(super) fn send(&self, kind: Kind, call_id: u64, body: &impl prost::Message) {
        self.send_bytes(kind, call_id, &body.encode_to_vec());
    }

    /// Sends a frame. One that is longer than agreed would end the lane, so it is replaced: a reply by an error, a log line by nothing.
    pub(super) fn send_bytes(&self, kind: Kind, call_id: u64, body: &[u8]) {
        match self.fits(body.len()) {
            Ok(bytes) => self.write(&frame::header(kind, call_id, bytes), body),
            Err(status) if matches!(kind, Kind::Reply | Kind::Error) => {
                self.send(Kind::Error, call_id, &status);
            }
            Err(_) => {}
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
        }
        .encode_to_vec();
        self.fits(8 + head.len() + payload.len())?;
        let id = self.host_call_id.fetch_add(1, Ordering::Relaxed);
        let (reply, replied) = mpsc::sync_channel(1);
        lock(&self.host_calls).insert(id, Waiter { parent, reply });
        if cancelled() {
            lock(&self.host_calls).remove(&id);
            return Err(Status::new(Code::Cancelled, "the caller is gone"));
        }
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

    fn fits(&self, body_bytes: usize) -> Result<u32> {
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

    fn write(&self, prefix: &[u8], payload: &[u8]) {
        let mut parts = [IoSlice::new(prefix), IoSlice::new(payload)];
        let mut parts = &mut parts[..];
        let mut socket = lock(&self.socket);
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match socket.write_vectored(parts) {
                Ok(bytes @ 1..) => IoSlice::advance_slices(&mut parts, bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The host is gone; the reader would notice it in a moment.
                Ok(0) | Err(_) => std::process::exit(0),
            }
        }
    }
}

// === impl Reader ===

impl Reader {
    pub(super) fn set_frame_bytes_max(&mut self, bytes: u32) {
        self.decoder.set_body_bytes_max(bytes);
    }

    pub(super) fn next(&mut self) -> Result<Frame, ReadError> {
        loop {
            if let Some(frame) = self.decoder.next().map_err(ReadError::Frame)? {
                return Ok(frame);
            }
            match self.socket.read(&mut self.scratch) {
                Ok(0) => return Err(ReadError::Closed),
                Ok(bytes) => self.decoder.push(&self.scratch[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ReadError::Closed),
            }
        }
    }
}

/// Nothing of ours panics with a lock held, and what plugin code does happens outside of them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(HEADER_BYTES < READ_BYTES);
