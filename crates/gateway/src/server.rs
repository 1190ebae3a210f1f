//! Connections: accepted, bounded, stopped.
//!
//! What a hostile or slow client can hold is bounded in each phase of a connection: the head by `Options::head_read`, the body by
//! `Options::body_read` (see [`crate::http`]), the answer by `Options::write_stall`, all of them together by `Options::connections_max`.
//!
//! A connection's requests are answered on the connection's own task. Its clocks are in [`Patience`], not in hyper, whose own for a head costs
//! a second pass over the connection, an allocation and two looks at the clock for each request.
//!
//! # Stopping
//! 1. The listener is dropped: new connections are refused by the kernel.
//! 2. Idle connections are closed; those with a request in flight answer it, say `connection: close` and end.
//! 3. Whatever is left after `Options::drain` is cut.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::Request;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
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

/// From one word about connections that cannot be accepted to the next.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

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
    http.header_read_timeout(None);
    let mut told: Option<Instant> = None;

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
                let (http, stop, cut) = (http.clone(), stop.clone(), cut.clone());
                let line = Arc::new(Line {
                    front,
                    asked: AtomicU64::new(0),
                    answered: AtomicU64::new(0),
                });
                let stream = Patience::new(stream, Arc::clone(&line), options);
                connections.spawn(async move {
                    connection(&http, stream, line, &stop, &cut).await;
                    drop(permit);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely. Connections that end give some back.
                if told.is_none_or(|it| it.elapsed() > TELL_AGAIN_AFTER) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections; trying again, and telling of it once a minute (raise the limit of open files, `ulimit -n`)");
                }
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

/// One connection's part of the edge. Counted by this connection alone: requests of different connections share no cache line here.
struct Line<F> {
    front: F,
    /// Heads that have come.
    asked: AtomicU64,
    /// Answers that hyper has taken, to their end.
    answered: AtomicU64,
}

/// The body of an answer, which counts it when it has gone.
struct Answer<F> {
    body: Body,
    line: Arc<Line<F>>,
}

async fn connection<F: Front>(
    http: &http1::Builder,
    stream: Patience<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, F>,
    line: Arc<Line<F>>,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    let answer = service_fn(move |request| {
        let line = Arc::clone(&line);
        async move {
            line.asked.fetch_add(1, Ordering::Relaxed);
            let response = line.front.answer(request).await;
            Ok::<_, Infallible>(response.map(|body| Answer { body, line }))
        }
    });
    let served = http.serve_connection(TokioIo::new(stream), answer);
    let mut served = std::pin::pin!(served);
    // Each look at a token takes locks that all connections share, and this task is polled with every request.
    let stop = std::pin::pin!(stop.cancelled());
    let stop = Dormant::new(stop);
    let ended = tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = stop => {
            served.as_mut().graceful_shutdown();
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

/// A future that is polled only when it has asked for it, however often the task is.
struct Dormant<'a, F: ?Sized> {
    bell: Option<Arc<Bell>>,
    future: Pin<&'a mut F>,
}

/// What a dormant future wakes.
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

// === impl Dormant ===

impl<'a, F: Future + ?Sized> Dormant<'a, F> {
    fn new(future: Pin<&'a mut F>) -> Self {
        Self { bell: None, future }
    }
}

impl<F: Future + ?Sized> Future for Dormant<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let bell = match &self.bell {
            Some(bell) if bell.task.will_wake(cx.waker()) => {
                // A plain load first: nobody else writes here until it has something to say.
                if !bell.rung.load(Ordering::Relaxed) || !bell.rung.swap(false, Ordering::Acquire) {
                    return Poll::Pending;
                }
                Arc::clone(bell)
            }
            _ => Arc::new(Bell {
                rung: AtomicBool::new(false),
                task: cx.waker().clone(),
            }),
        };
        self.bell = Some(Arc::clone(&bell));
        self.future
            .as_mut()
            .poll(&mut Context::from_waker(&Waker::from(bell)))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

// === impl Line ===

impl<F> Line<F> {
    /// How many heads have come, if none of them is still to be answered.
    fn waits_for_head(&self) -> Option<u64> {
        // One task does all of it; atomics are what a shared counter has to be.
        let asked = self.asked.load(Ordering::Relaxed);
        (asked == self.answered.load(Ordering::Relaxed)).then_some(asked)
    }
}

// === impl Answer ===

impl<F> HttpBody for Answer<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<F> Drop for Answer<F> {
    fn drop(&mut self) {
        self.line.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends a connection whose client makes it wait too long: for the next head, or for a byte of an answer to be taken.
///
/// - P1. The wait for a head begins when everything before it is answered and flushed, and ends with the head: bytes of it do not prolong it.
/// - P2. Each clock is one timer for the connection's whole life. It is set anew only when it has rung, and then rings for whatever is waited for by
///   then: a deadline only moves on, so it never rings too late. A request costs one look at the time, and a client that reads costs none.
struct Patience<S, F> {
    stream: S,
    line: Arc<Line<F>>,
    head: Clock,
    /// The head that is waited for: how many came before it.
    head_number: Option<u64>,
    write: Clock,
    writes: bool,
}

/// Time since something began, and a timer for when it has taken too long.
struct Clock {
    most: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Patience ===

impl<S, F> Patience<S, F> {
    fn new(stream: S, line: Arc<Line<F>>, options: &Options) -> Self {
        Self {
            stream,
            line,
            head: Clock::new(options.head_read),
            head_number: None,
            write: Clock::new(options.write_stall),
            writes: false,
        }
    }

    /// Begins or goes on waiting for a head, if there is nothing else to do. An error, if that has taken too long.
    fn wait_for_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(number) = self.line.waits_for_head() else {
            return Poll::Pending;
        };
        let late = if self.head_number == Some(number) {
            self.head.is_over(cx)
        } else {
            self.head_number = Some(number);
            self.head.begin(cx)
        };
        late.map(|()| io::Error::new(io::ErrorKind::TimedOut, "the client sends no whole head"))
    }

    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        if let Poll::Ready(done) = write(Pin::new(&mut self.stream), cx) {
            self.writes = false;
            return Poll::Ready(done);
        }
        let late = if self.writes {
            self.write.is_over(cx)
        } else {
            self.writes = true;
            self.write.begin(cx)
        };
        late.map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client takes no bytes",
            ))
        })
    }
}

impl<S: AsyncRead + Unpin, F> AsyncRead for Patience<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        self.wait_for_head(cx).map(Err)
    }
}

impl<S: AsyncWrite + Unpin, F> AsyncWrite for Patience<S, F> {
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
        let flushed = ready!(self.limit(cx, |stream, cx| stream.poll_flush(cx)));
        // Begun here, too: where hyper has asked for bytes before the answer went, it does not ask again until some are there.
        match self.wait_for_head(cx) {
            Poll::Ready(late) => Poll::Ready(flushed.and(Err(late))),
            Poll::Pending => Poll::Ready(flushed),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

// === impl Clock ===

impl Clock {
    const fn new(most: Duration) -> Self {
        Self {
            most,
            since: None,
            timer: None,
        }
    }

    /// Ready if no time is given at all.
    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        self.since = Some(now);
        match &self.timer {
            // This task has polled it, and will be woken when it rings.
            Some(timer) if now < timer.deadline() => Poll::Pending,
            _ => self.is_over(cx),
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.since else {
            return Poll::Pending;
        };
        let end = since + self.most;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}
