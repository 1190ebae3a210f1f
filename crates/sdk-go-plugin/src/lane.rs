//! The lanes over gRPC, as the plugin has them: HTTP/2 on the inherited socket, with the plugin as its server.
//!
//! ```text
//!  host --Piece--> Frames --bytes--> FrameSource --> the SDK's thread that reads
//!       <--Piece--        <--bytes-- FrameSink   <-- whoever has a frame to send
//!  host --/package.Service/Method--> Calls::begin --> the SDK's workers --> Answer --> host       (lane `grpc` only)
//! ```
//!
//! One thread has the executor and moves everything; plugin code runs on it only where a method is nonblocking.
//!
//! Invariants
//! - N1: what waits here is bounded by the credit of the lane, and what comes by a bound of its own.
//! - N2: the end of the connection is the end of the source, and that ends the process.

use std::{
    io::{self, IoSlice},
    os::unix::net::UnixStream,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use mortise_goplugin::{BoxFuture, Invoked, Service, Shape, plugin::serve_socket};
use mortise_sdk::{
    CallHead, Result,
    guest::Plugin,
    process::{Calls, Carried, CarriedCall, Carrier, Dialect, Sink, Source},
};
use mortise_wire::{MethodKind, frame::transport, plugin::Piece};
use prost::Message as _;
use tokio::{
    runtime::{Builder, Handle},
    sync::{Notify, oneshot},
    task::yield_now,
};

use crate::{
    serve::{self, to_tonic},
    stream,
};

/// Bytes that wait for the SDK's thread; no more is taken from HTTP/2 meanwhile.
const INCOMING_BYTES_MAX: usize = 1 << 20;
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Turns of the executor in which what was taken from here is written to the socket.
const TURNS: usize = 16;

/// The `Dialect` of an executable that speaks gRPC with a Mortise host, and with no other.
#[derive(Clone, Copy, Debug)]
pub struct OnlyGrpc;

/// Carries both lanes.
pub(crate) struct GrpcCarrier;

/// What stands between the executor and the SDK's threads.
#[derive(Default)]
struct Middle {
    state: Mutex<State>,
    /// Something came, was taken, or ended.
    changed: Condvar,
    /// There is room for what comes.
    room: Notify,
    /// The transport is to end.
    closing: Notify,
    calls: OnceLock<&'static dyn Calls>,
}

#[derive(Default)]
struct State {
    incoming: BytesMut,
    /// Nothing comes any more.
    ended: bool,
    outgoing: BytesMut,
    /// Nothing goes any more.
    closed: bool,
    /// The executor waits for something to send.
    waker: Option<Waker>,
    /// The executor has ended.
    finished: bool,
}

struct FrameSource {
    middle: Arc<Middle>,
    takes_calls: bool,
}

struct FrameSink {
    middle: Arc<Middle>,
    executor: Handle,
}

/// What HTTP/2 serves.
struct Served {
    middle: Arc<Middle>,
    /// The host has opened the stream of frames.
    opened: AtomicBool,
}

/// The frames that go out, as messages.
struct Outgoing {
    middle: Arc<Middle>,
    pump: tokio::task::AbortHandle,
}

/// Tells the plugin when the host resets a call.
struct Reset {
    calls: &'static dyn Calls,
    call_id: u64,
}

// === impl OnlyGrpc ===

impl Dialect for OnlyGrpc {
    fn serve<P: Plugin>(self) -> ExitCode {
        eprintln!(
            "This is the plugin {} {}, built as a process of its own. A Mortise host starts it; try `mortise run`.",
            P::BUILD.name,
            P::BUILD.version
        );
        ExitCode::from(EXIT_USAGE)
    }

    fn carrier(&self) -> Option<Box<dyn Carrier>> {
        Some(Box::new(GrpcCarrier))
    }
}

/// Exit code of an executable that was not started by a host.
const EXIT_USAGE: u8 = 64;

// === impl GrpcCarrier ===

impl Carrier for GrpcCarrier {
    fn lanes(&self) -> &'static [&'static str] {
        &[transport::CALL_STREAM, transport::GRPC]
    }

    fn begin(self: Box<Self>, lane: &str, socket: UnixStream) -> Result<Carried, String> {
        let failed = |error: io::Error| format!("gRPC can't be served on its socket: {error}");
        socket.set_nonblocking(true).map_err(failed)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let executor = runtime.handle().clone();
        let middle = Arc::new(Middle::default());
        let (serving, served) = (
            middle.clone(),
            Arc::new(Served {
                middle: middle.clone(),
                opened: AtomicBool::new(false),
            }),
        );
        let serve = move || {
            runtime.block_on(async {
                if let Ok(socket) = tokio::net::UnixStream::from_std(socket) {
                    let closing = serving.clone();
                    let over = async move { closing.closing.notified().await };
                    serve_socket(socket, served, over).await;
                }
            });
            let mut state = serving.lock();
            (state.ended, state.finished) = (true, true);
            serving.changed.notify_all();
        };
        thread::Builder::new()
            .name("mortise-grpc".to_owned())
            .spawn(serve)
            .map_err(failed)?;
        Ok(Carried {
            source: Box::new(FrameSource {
                middle: middle.clone(),
                takes_calls: lane == transport::GRPC,
            }),
            sink: Box::new(FrameSink { middle, executor }),
        })
    }
}

// === impl Middle ===

impl Middle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or until `within` is over; `None` waits for ever.
    fn wait(&self, within: Option<Duration>, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let until = within.map(|it| Instant::now() + it);
        let mut state = self.lock();
        while !ready(&state) {
            let Some(until) = until else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        state
    }

    /// Takes in what the host sends, until it ends.
    async fn take(self: Arc<Self>, mut messages: BoxStream<'static, Result<Bytes, tonic::Status>>) {
        while let Some(Ok(message)) = messages.next().await {
            let Ok(Piece { frames }) = Piece::decode(message) else {
                break;
            };
            while self.lock().incoming.len() >= INCOMING_BYTES_MAX {
                self.room.notified().await;
            }
            self.lock().incoming.extend_from_slice(&frames);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

// === what the SDK sees ===

impl Source for FrameSource {
    fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        // While it closes, the answers that are on their way keep the process.
        let over = |it: &State| if it.closed { it.finished } else { it.ended };
        let mut state = self.middle.wait(None, |it| !it.incoming.is_empty() || over(it));
        let bytes = state.incoming.len();
        if into.is_empty() {
            std::mem::swap(into, &mut state.incoming);
        } else {
            into.extend_from_slice(&state.incoming);
        }
        state.incoming.clear();
        drop(state);
        self.middle.room.notify_one();
        Ok(bytes)
    }

    fn take_calls(&mut self, calls: &'static dyn Calls) -> bool {
        if self.takes_calls {
            // It is asked once, before the plugin has said that it is ready.
            let _ = self.middle.calls.set(calls);
        }
        self.takes_calls
    }
}

impl Sink for FrameSink {
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.middle.lock();
        if state.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for piece in pieces {
            state.outgoing.extend_from_slice(piece);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn flush(&mut self) {
        if Handle::try_current().is_ok() {
            // On the executor's own thread there is nobody to wait for.
            return;
        }
        let gone = |it: &State| it.ended || it.outgoing.is_empty() && it.waker.is_some();
        drop(self.middle.wait(Some(FLUSH_WITHIN), gone));
        let (tell, told) = mpsc::sync_channel(1);
        self.executor.spawn(async move {
            for _ in 0..TURNS {
                yield_now().await;
            }
            let _ = tell.send(());
        });
        let _ = told.recv_timeout(FLUSH_WITHIN);
    }

    fn close(&mut self) {
        let mut state = self.middle.lock();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        self.middle.closing.notify_one();
        drop(self.middle.wait(Some(CLOSE_WITHIN), |it| it.finished));
    }
}

// === what the host sees ===

impl Served {
    fn open(
        &self,
        messages: BoxStream<'static, Result<Bytes, tonic::Status>>,
    ) -> Result<BoxStream<'static, Result<Bytes, tonic::Status>>, tonic::Status> {
        if self.opened.swap(true, Ordering::AcqRel) {
            return Err(tonic::Status::already_exists("the frames have a stream already"));
        }
        let pump = tokio::spawn(self.middle.clone().take(messages)).abort_handle();
        let middle = self.middle.clone();
        Ok(Outgoing { middle, pump }.boxed())
    }

    /// A call's number, its head, and where it goes.
    fn call_of(&self, invoked: &Invoked<'_>) -> Result<(&'static dyn Calls, u32, CallHead), tonic::Status> {
        let found = self.middle.calls.get().and_then(|calls| {
            let (number, _) = calls.find(invoked.method)?;
            Some((*calls, number))
        });
        let (calls, number) = found.ok_or_else(|| {
            tonic::Status::unimplemented(format!("`{}` is no method of this plugin", invoked.method))
        })?;
        let text = |name: &str| invoked.metadata.get(name).and_then(|it| it.to_str().ok());
        let call_id = text(transport::CALL_ID).and_then(|it| it.parse().ok());
        let call_id = call_id.ok_or_else(|| {
            tonic::Status::invalid_argument(format!("the call has no number in `{}`", transport::CALL_ID))
        })?;
        let depth = text(transport::DEPTH).and_then(|it| it.parse().ok());
        let head = CallHead {
            depth: depth.unwrap_or_default(),
            caller: text(transport::CALLER).unwrap_or_default().to_owned(),
            ..serve::head(call_id, invoked)
        };
        Ok((calls, number, head))
    }
}

impl Service for Served {
    fn shape(&self, method: &str) -> Option<Shape> {
        if method == transport::FRAMES {
            return Some(Shape::Streaming);
        }
        let (_, kind) = self.middle.calls.get()?.find(method)?;
        Some(match kind {
            MethodKind::Unary => Shape::Unary,
            _ => Shape::Streaming,
        })
    }

    fn call<'a>(
        &'a self,
        invoked: Invoked<'a>,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, tonic::Status>> {
        Box::pin(async move {
            let (calls, number, head) = self.call_of(&invoked)?;
            let reset = Reset {
                calls,
                call_id: head.call_id,
            };
            let (tell, answered) = oneshot::channel();
            calls.begin(CarriedCall {
                number,
                head,
                payload,
                stream: None,
                answer: Box::new(move |outcome| drop(tell.send(outcome))),
            });
            let outcome = answered.await;
            // Nothing is to be told any more.
            std::mem::forget(reset);
            match outcome {
                Ok(Ok(reply)) => Ok(reply.unwrap_or_default().into()),
                Ok(Err(status)) => Err(to_tonic(&status)),
                Err(_) => Err(tonic::Status::internal("the call was lost in the plugin")),
            }
        })
    }

    fn stream<'a>(
        &'a self,
        invoked: Invoked<'a>,
        messages: BoxStream<'static, Result<Bytes, tonic::Status>>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, tonic::Status>>, tonic::Status>> {
        let begin = || {
            if invoked.method == transport::FRAMES {
                return self.open(messages);
            }
            let (calls, number, head) = self.call_of(&invoked)?;
            let deadline = invoked.timeout.and_then(|left| Instant::now().checked_add(left));
            let reset = Reset {
                calls,
                call_id: head.call_id,
            };
            let (streaming, replies) = stream::open(messages, deadline, reset);
            let streaming = Arc::new(streaming);
            let finishing = streaming.clone();
            calls.begin(CarriedCall {
                number,
                head,
                payload: Bytes::new(),
                stream: Some(streaming),
                answer: Box::new(move |outcome| finishing.finish(outcome.map(drop))),
            });
            Ok(replies.boxed())
        };
        let begun = begin();
        Box::pin(std::future::ready(begun))
    }
}

impl Drop for Reset {
    fn drop(&mut self) {
        self.calls.cancel(self.call_id);
    }
}

// === impl Outgoing ===

impl Stream for Outgoing {
    type Item = Result<Bytes, tonic::Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.middle.lock();
        if state.outgoing.is_empty() {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            self.middle.changed.notify_all();
            return Poll::Pending;
        }
        let bytes = state.outgoing.len().min(transport::PIECE_BYTES_MAX);
        let piece = state.outgoing.split_to(bytes);
        let frames = piece.freeze();
        Poll::Ready(Some(Ok(Piece { frames }.encode_to_vec().into())))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.pump.abort();
        self.middle.lock().ended = true;
        self.middle.changed.notify_all();
    }
}
