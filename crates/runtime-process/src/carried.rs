//! Frames over gRPC: HTTP/2 on the plugin's socket, with the plugin as its server, and one stream on it that carries them as pieces of bytes.
//!
//! What the plugin sends is taken as it comes: a piece has a longest size, is never empty, and its bytes go the way of all bytes that a plugin sends.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use mortise_goplugin::{CallHeaders, Client};
use mortise_runtime::BoxFuture;
use mortise_wire::{frame::transport, plugin::Piece};
use prost::Message as _;
use tokio::{net::UnixStream, sync::Notify};
use tonic::{Status, Streaming};

use crate::grpc;

/// Bytes that wait for HTTP/2 to take them.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// What a piece's message has beside its bytes.
const PIECE_HEAD_BYTES_MAX: usize = 16;

/// The sending half.
#[derive(Debug)]
pub(crate) struct Outlet(Arc<Waiting>);

/// The receiving half.
pub(crate) struct Inlet(Replies);

enum Replies {
    /// Servers may send the stream's head with their first message, and no earlier.
    Opening(BoxFuture<'static, Result<Streaming<Bytes>, Status>>),
    Open(Box<Streaming<Bytes>>),
}

/// What was sent and not yet taken.
#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<State>,
    /// There is room again, or nobody who makes any.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    waker: Option<Waker>,
    /// HTTP/2 takes nothing any more.
    closed: bool,
    /// The sender is gone: what is left is the last.
    finished: bool,
}

/// What waits, as the messages of the stream.
struct Pieces(Arc<Waiting>);

/// Begins HTTP/2 on the socket, and the stream of frames on that.
pub(crate) async fn begin(socket: UnixStream) -> io::Result<(Inlet, Outlet, Client)> {
    let client = Client::over(socket).await.map_err(io::Error::other)?;
    let waiting = Arc::new(Waiting::default());
    let pieces = Pieces(waiting.clone());
    let frames = client
        .clone()
        .bounded(transport::PIECE_BYTES_MAX + PIECE_HEAD_BYTES_MAX);
    let opening = Box::pin(async move {
        let path = format!("/{}", transport::FRAMES);
        frames.stream(&path, &CallHeaders::default(), pieces).await
    });
    Ok((Inlet(Replies::Opening(opening)), Outlet(waiting), client))
}

// === impl Outlet ===

impl Outlet {
    pub(crate) fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = state.bytes.len();
        for piece in pieces {
            let room = WAITING_BYTES_MAX - state.bytes.len();
            let taken = piece.len().min(room);
            state.bytes.extend_from_slice(&piece[..taken]);
            if taken < piece.len() {
                break;
            }
        }
        let taken = state.bytes.len() - before;
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Ok(taken)
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        loop {
            {
                let state = self.0.lock();
                if state.closed {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                if state.bytes.len() < WAITING_BYTES_MAX {
                    return Ok(());
                }
            }
            self.0.room.notified().await;
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.finished = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

// === impl Inlet ===

impl Inlet {
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let replies = loop {
            match &mut self.0 {
                Replies::Open(replies) => break replies,
                Replies::Opening(opening) => {
                    let opened = opening.await.map_err(|status| ended(&status))?;
                    self.0 = Replies::Open(Box::new(opened));
                }
            }
        };
        let Some(message) = replies.message().await.map_err(|status| ended(&status))? else {
            return Ok(0);
        };
        let Piece { frames } = Piece::decode(message)
            .map_err(|error| invalid(format!("a piece of its frames does not parse: {error}")))?;
        if frames.is_empty() {
            return Err(invalid("it sent a piece of its frames that is empty".to_owned()));
        }
        buffer.extend_from_slice(&frames);
        Ok(frames.len())
    }
}

impl std::fmt::Debug for Inlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inlet").finish_non_exhaustive()
    }
}

/// A connection that broke says that the plugin is gone; everything else it said itself, or made this side say it.
fn ended(status: &Status) -> io::Error {
    if grpc::is_broken(status) {
        return io::ErrorKind::ConnectionReset.into();
    }
    invalid(format!(
        "it ended the stream of its frames with {:?}: {}",
        status.code(),
        status.message().escape_debug()
    ))
}

fn invalid(how: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, how)
}

// === impl Waiting ===

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Pieces {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.0.lock();
        if state.bytes.is_empty() {
            if state.finished {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = state.bytes.len().min(transport::PIECE_BYTES_MAX);
        let frames = state.bytes.split_to(bytes).freeze();
        drop(state);
        self.0.room.notify_one();
        Poll::Ready(Some(Piece { frames }.encode_to_vec().into()))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.room.notify_one();
    }
}
