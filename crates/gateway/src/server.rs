//! Connections: accepted, bounded, stopped.
//!
//! What a hostile or slow client can hold is bounded in each phase of a connection: the head by `Options::head_read`, the body by
//! `Options::body_read` (see [`crate::http`]), the answer by `Options::write_stall`, all of them together by `Options::connections_max`.
//!
//! A connection's requests are answered on the connection's own task.
//!
//! # Stopping
//! 1. The listener is dropped: new connections are refused by the kernel.
//! 2. Idle connections are closed; those with a request in flight answer it, say `connection: close` and end.
//! 3. Whatever is left after `Options::drain` is cut.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use http::Request;
use hyper::{body::Incoming, rt, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Semaphore,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::options::Options;

/// Where connections come from.
pub(crate) trait Accept: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// What answers its requests.
    type Front: Front;

    /// Waits for the next connection and says what serves it.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Front)>> + Send;
}

/// Answers the requests of one connection.
pub(crate) trait Front: Send + Sync + 'static {
    /// Answers one. Whatever goes wrong is an answer, too.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send;
}

impl Front for Router {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let Ok(response) = self.clone().oneshot(request.map(Body::new)).await;
        response
    }
}

/// Serves connections until `stop` is cancelled, then drains as the module says.
pub(crate) async fn serve(listener: impl Accept, options: &Options, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(options.connections_max));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut http = http1::Builder::new();
    http.header_read_timeout(options.head_read);

    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
                listener.accept().await.map(|accepted| (accepted, permit))
            } => accepted,
        };
        match accepted {
            Ok(((stream, front), permit)) => {
                let (mut http, stop, cut) = (http.clone(), stop.clone(), cut.clone());
                http.timer(HeadTimer::default());
                let stream = StallLimit::new(stream, options.write_stall);
                connections.spawn(async move {
                    connection(&http, stream, front, &stop, &cut).await;
                    drop(permit);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely. Connections that end give some back.
                tracing::warn!(%error, "cannot accept a connection; trying again");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    drop(listener);
    connections.close();
    let open = connections.len();
    if tokio::time::timeout(options.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open,
            left = connections.len(),
            "connections were cut because they did not end within the drain time"
        );
        cut.cancel();
        connections.wait().await;
    }
}

async fn connection(
    http: &http1::Builder,
    stream: StallLimit<impl AsyncRead + AsyncWrite + Send + Unpin + 'static>,
    front: impl Front,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    // Counted by this connection alone: requests of different connections share no cache line here.
    let front = Arc::new(front);
    let answer = service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front.answer(request).await) }
    });
    let served = http.serve_connection(TokioIo::new(stream), answer);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            // Only now: a second wait that is polled with every request would cost each of them a lock.
            tokio::select! {
                biased;
                ended = served => ended,
                () = cut.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionRefused | K::ConnectionAborted | K::ConnectionReset | K::Interrupted
    )
}

/// The clock of one connection's heads: a single timer, set anew only when it has rung.
///
/// hyper asks for a new sleep with every request, and drops it as soon as the head is there. With tokio's own that is two visits to the
/// timer wheel per request; here it is a deadline that moves, and a timer that rings once per `head_read` at most to find that it has.
#[derive(Default)]
struct HeadTimer(Arc<Mutex<Alarm>>);

/// Set for the deadline of some sleep of this connection. Deadlines only grow, so it never rings too late.
type Alarm = Option<Pin<Box<Sleep>>>;

/// hyper holds one at a time.
struct HeadSleep {
    deadline: Instant,
    alarm: Arc<Mutex<Alarm>>,
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until((Instant::now() + duration).into())
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(HeadSleep {
            deadline: deadline.into(),
            alarm: Arc::clone(&self.0),
        })
    }
}

impl rt::Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(self.deadline)));
        loop {
            ready!(alarm.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(self.deadline);
        }
    }
}

/// Fails a write that makes no progress for too long. Costs nothing while the peer reads.
struct StallLimit<S> {
    stream: S,
    stall: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<S: Unpin> StallLimit<S> {
    fn new(stream: S, stall: Duration) -> Self {
        Self {
            stream,
            stall,
            timer: None,
            waiting: false,
        }
    }

    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = write(Pin::new(&mut self.stream), cx) {
            self.waiting = false;
            return Poll::Ready(done);
        }
        let stall = self.stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(stall)));
        if !self.waiting {
            timer.as_mut().reset(Instant::now() + stall);
            self.waiting = true;
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes no bytes",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallLimit<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.limit(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limit(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
