//! Connections: accepted, bounded, stopped.
//!
//! What a hostile or slow client can hold is bounded in each phase of a connection: the head by `Options::head_read`, the body by
//! `Options::body_read` (see [`crate::http`]), the answer by `Options::write_stall`, all of them together by `Options::connections_max`.
//!
//! # Stopping
//! 1. The listener is dropped: new connections are refused by the kernel.
//! 2. Idle connections are closed; those with a request in flight answer it, say `connection: close` and end.
//! 3. Whatever is left after `Options::drain` is cut.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, Sleep, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::options::Options;

/// Where connections come from.
pub(crate) trait Accept: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection and says what serves it.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Router)>> + Send;
}

/// TCP with one router for everybody.
pub(crate) struct Tcp {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
}

impl Accept for Tcp {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Router)> {
        let (stream, _) = self.listener.accept().await?;
        // Answers are written in one piece, so waiting for more to send only adds delay. A connection that is already gone may refuse it.
        let _ = stream.set_nodelay(true);
        Ok((stream, self.router.clone()))
    }
}

/// Serves connections until `stop` is cancelled, then drains as the module says.
pub(crate) async fn serve(listener: impl Accept, options: &Options, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(options.connections_max));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.head_read);

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
            Ok(((stream, router), permit)) => {
                let (http, stop, cut) = (http.clone(), stop.clone(), cut.clone());
                let stream = StallLimit::new(stream, options.write_stall);
                connections.spawn(async move {
                    connection(&http, stream, router, &stop, &cut).await;
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
    router: Router,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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
