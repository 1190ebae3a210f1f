//! Transports that another crate brings: where their bytes come from and go to, and how calls come in that are no frames.
//!
//! The first frames go over the inherited socket, whatever is chosen. Once the host has chosen a lane of a [`Carrier`]'s, the socket is the carrier's; what
//! it makes of it is a [`Source`] and a [`Sink`] of bytes for the SDK's threads, which block.

use std::{
    io::{self, IoSlice},
    os::unix::net::UnixStream,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use mortise_wire::{CallHead, MethodKind, StreamLink};

use crate::Result;

/// A transport that this crate has not.
pub trait Carrier: Send {
    /// The lanes that it can carry, best first.
    fn lanes(&self) -> &'static [&'static str];

    /// Takes over the socket: the host has chosen `lane`, and nothing was read past its Welcome.
    ///
    /// # Errors
    /// Why it can't; the process then ends.
    fn begin(self: Box<Self>, lane: &str, socket: UnixStream) -> Result<Carried, String>;
}

/// A transport that was begun.
pub struct Carried {
    /// What the host sends.
    pub source: Box<dyn Source>,
    /// What is sent to it.
    pub sink: Box<dyn Sink>,
}

/// Bytes of the host's frames. One thread at a time reads.
pub trait Source: Send {
    /// Appends what there is, and waits for it. 0: the host is gone.
    ///
    /// # Errors
    /// `InvalidData` if the host broke the rules of the transport; anything else says that it is gone.
    fn read(&mut self, into: &mut BytesMut) -> io::Result<usize>;

    /// Calls may come to `calls` from now on, beside the frames. False if this transport has no other calls than frames.
    fn take_calls(&mut self, calls: &'static dyn Calls) -> bool {
        let _ = calls;
        false
    }
}

/// Where bytes of frames go.
pub trait Sink: Send {
    /// Takes everything. It does not wait: what is on its way is bounded by the credit that the host gives.
    ///
    /// # Errors
    /// The host is gone.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// Waits, a second at most, until what was taken is out of this process's hands: it is about to end without another word.
    fn flush(&mut self);

    /// Ends the transport in good order: what was taken is sent, and every answer that was given. Waits, two seconds at most.
    fn close(&mut self);
}

/// The plugin's methods, for a transport on which calls are no frames.
pub trait Calls: Sync {
    /// The number and kind of `package.Service/Method`.
    fn find(&self, target: &str) -> Option<(u32, MethodKind)>;

    /// Works on a call. A nonblocking method runs at once, on this thread; all others on the plugin's own.
    fn begin(&'static self, call: CarriedCall);

    /// Nobody waits any more for the call with this `CallHead.call_id`.
    fn cancel(&self, call_id: u64);
}

/// One call that came over such a transport.
pub struct CarriedCall {
    /// The method's number.
    pub number: u32,
    /// What travels beside the payload. Its `call_id` is the host's, and no other call's.
    pub head: CallHead,
    /// The request; empty for one that streams.
    pub payload: Bytes,
    /// The messages of one that streams.
    pub stream: Option<Arc<dyn StreamLink>>,
    /// Takes the outcome, once.
    pub answer: Answer,
}

/// Takes the outcome of a call: a reply, or `None` for one that streamed.
pub type Answer = Box<dyn FnOnce(Result<Option<Vec<u8>>>) + Send>;
