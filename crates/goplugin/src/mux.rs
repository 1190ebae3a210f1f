//! Many connections in one: a yamux session, as Go's `hashicorp/yamux` speaks it.
//!
//! The host is the session's client, the plugin its server; either may open streams. TLS, if there is any, is inside each stream. One task owns the session
//! and moves its frames; it ends with the last [`Mux`] or with the connection.
//!
//! Two things are as Go's library expects them and `yamux` leaves open:
//! - Y1: a stream is announced when it is opened, not with its first bytes. Go hands streams to its brokered listeners in the order in which they are announced, and
//!   whoever knocked next must not be first.
//! - Y2: the end of a stream is told once. Go takes a second time for a broken peer, and ends the session with everything in it.
//!
//! Bounds: [`STREAMS_MAX`] streams, [`WINDOW_BYTES_MAX`] bytes on their way in all of them, [`INBOUND_MAX`] streams that nobody took yet. A peer that breaks the protocol ends the session.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    future::poll_fn,
    io::{AsyncRead, AsyncWrite},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::{Config, Connection, Mode, Stream};

use crate::transport::Wire;

/// Streams at once, both directions together.
pub const STREAMS_MAX: usize = 128;
/// What all streams together may have in flight towards us.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;
/// Streams that the peer opened and nobody took.
pub const INBOUND_MAX: usize = 16;

/// Which side of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It connected.
    Host,
    /// It accepted.
    Plugin,
}

/// Opens streams. The session ends with its last clone.
#[derive(Clone, Debug)]
pub struct Mux {
    asks: mpsc::Sender<Ask>,
    closed: watch::Receiver<bool>,
}

type Open = oneshot::Sender<io::Result<Stream>>;

enum Ask {
    Open(Open),
    End,
}

/// A stream whose end is told once.
struct Ends {
    stream: Stream,
    has_ended: bool,
}

struct Driver {
    connection: Connection<Compat<Wire>>,
    asks: mpsc::Receiver<Ask>,
    opening: Option<Open>,
    inbound: mpsc::Sender<Wire>,
    closed: watch::Sender<bool>,
}

// === impl Mux ===

impl Mux {
    /// Starts a session. The peer's streams come out of the receiver.
    pub(crate) fn start(wire: Wire, side: Side) -> (Self, mpsc::Receiver<Wire>) {
        let mut config = Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        config.set_max_connection_receive_window(Some(WINDOW_BYTES_MAX));
        let mode = match side {
            Side::Host => Mode::Client,
            Side::Plugin => Mode::Server,
        };
        let (asks, asked) = mpsc::channel(STREAMS_MAX);
        let (inbound, streams) = mpsc::channel(INBOUND_MAX);
        let (closed, watch_closed) = watch::channel(false);
        let driver = Driver {
            connection: Connection::new(wire.compat(), config, mode),
            asks: asked,
            opening: None,
            inbound,
            closed,
        };
        tokio::spawn(driver.run());
        let mux = Self {
            asks,
            closed: watch_closed,
        };
        (mux, streams)
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// If the session is over.
    ///
    /// # Cancel safety
    /// A stream that nobody waits for any more is closed.
    pub(crate) async fn open(&self) -> io::Result<Wire> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the multiplexed session is over");
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Open(reply)).await.map_err(|_| gone())?;
        let stream = answer.await.map_err(|_| gone())??;
        Ok(Ends::wire(stream))
    }

    /// Ends the session when what its streams have written is sent, or could not be for a second.
    pub(crate) async fn finish(&self) {
        // One that is over takes no more.
        let _ = self.asks.send(Ask::End).await;
        self.closed().await;
    }

    /// Resolves when the session is over.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // A sender that is gone says the same.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

// === impl Driver ===

impl Driver {
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        let _ = tokio::time::timeout(
            std::time::Duration::from_secs(1),
            poll_fn(|cx| self.connection.poll_close(cx)),
        )
        .await;
        self.closed.send_replace(true);
    }

    /// Ready when the session is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // All reading and writing happens in here.
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    // One too many is dropped, which resets it.
                    let _ = self.inbound.try_send(Ends::wire(stream));
                    continue;
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if self.opening.is_none() {
                match self.asks.poll_recv(cx) {
                    Poll::Ready(Some(Ask::Open(open))) => self.opening = Some(open),
                    // With none left nobody can open any more; streams that are open hold no handle, so this ends them.
                    Poll::Ready(Some(Ask::End) | None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(opened) => {
                    let opened = opened
                        .map_err(io::Error::other)
                        .and_then(|stream| announced(stream, cx));
                    if let Some(open) = self.opening.take() {
                        let _ = open.send(opened);
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Y1: no bytes are a frame all the same, and the first frame announces the stream.
fn announced(mut stream: Stream, cx: &mut Context<'_>) -> io::Result<Stream> {
    match Pin::new(&mut stream).poll_write(cx, &[]) {
        Poll::Ready(Ok(_)) => Ok(stream),
        Poll::Ready(Err(error)) => Err(error),
        Poll::Pending => Err(io::Error::other("a new stream has no room for its first frame")),
    }
}

// === impl Ends ===

impl Ends {
    fn wire(stream: Stream) -> Wire {
        let ends = Self {
            stream,
            has_ended: false,
        };
        Wire::new(ends.compat())
    }
}

impl AsyncRead for Ends {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Ends {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            ready!(Pin::new(&mut self.stream).poll_close(cx))?;
            self.has_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn both_sides_open_streams() {
        let (left, right) = duplex(1 << 16);
        let (host, mut to_host) = Mux::start(Wire::new(left), Side::Host);
        let (plugin, mut to_plugin) = Mux::start(Wire::new(right), Side::Plugin);
        for (opener, accepted) in [(&host, &mut to_plugin), (&plugin, &mut to_host)] {
            let mut near = opener.open().await.unwrap();
            near.write_all(b"hello").await.unwrap();
            near.flush().await.unwrap();
            let mut far = accepted.recv().await.unwrap();
            let mut text = [0; 5];
            far.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"hello");
        }
    }

    #[tokio::test]
    async fn what_was_written_is_sent_before_a_session_is_finished() {
        let (left, right) = duplex(1 << 10);
        let (host, mut to_host) = Mux::start(Wire::new(left), Side::Host);
        let (plugin, _inbound) = Mux::start(Wire::new(right), Side::Plugin);
        let mut near = plugin.open().await.unwrap();
        let text = vec![7; 100 << 10];
        near.write_all(&text).await.unwrap();
        let mut far = to_host.recv().await.unwrap();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            let _ = far.read_to_end(&mut read).await;
            read
        });
        plugin.finish().await;
        assert!(reader.await.unwrap() == text);
        host.closed().await;
    }

    #[tokio::test]
    async fn a_session_ends_with_its_connection_and_with_its_last_handle() {
        let (left, right) = duplex(1 << 16);
        let (host, _streams) = Mux::start(Wire::new(left), Side::Host);
        drop(right);
        host.closed().await;
        assert!(host.open().await.is_err());
        let (left, right) = duplex(1 << 16);
        let (host, _streams) = Mux::start(Wire::new(left), Side::Host);
        let (plugin, _inbound) = Mux::start(Wire::new(right), Side::Plugin);
        drop(host);
        plugin.closed().await;
    }

    /// Reads one header: its kind, flags, stream and length. What it brings along is passed over.
    async fn header(from: &mut tokio::io::DuplexStream) -> (u8, u16, u32, u32) {
        const DATA: u8 = 0;
        let mut header = [0; 12];
        from.read_exact(&mut header).await.unwrap();
        let [_, kind, flag, flags, a, b, c, d, length @ ..] = header;
        let length = u32::from_be_bytes(length);
        if kind == DATA {
            let mut body = vec![0; length as usize];
            from.read_exact(&mut body).await.unwrap();
        }
        (
            kind,
            u16::from_be_bytes([flag, flags]),
            u32::from_be_bytes([a, b, c, d]),
            length,
        )
    }

    /// Of a stream's frames, but not of the session's own.
    async fn stream_header(from: &mut tokio::io::DuplexStream) -> (u16, u32) {
        const OF_STREAMS: [u8; 2] = [0, 1];
        loop {
            let (kind, flags, stream, _) = header(from).await;
            if OF_STREAMS.contains(&kind) {
                return (flags, stream);
            }
        }
    }

    const SYN: u16 = 1;
    const FIN: u16 = 4;
    const RST: u16 = 8;

    #[tokio::test]
    async fn a_stream_is_announced_when_it_is_opened() {
        let (left, mut right) = duplex(1 << 16);
        let (host, _streams) = Mux::start(Wire::new(left), Side::Host);
        // Nobody writes anything, and the second one is used first.
        let _first = host.open().await.unwrap();
        let mut second = host.open().await.unwrap();
        second.write_all(b"x").await.unwrap();
        assert_eq!(stream_header(&mut right).await, (SYN, 1));
        assert_eq!(stream_header(&mut right).await, (SYN, 3));
        assert_eq!(stream_header(&mut right).await, (0, 3));
    }

    #[tokio::test]
    async fn a_stream_that_nobody_took_is_announced_and_reset() {
        let (left, mut right) = duplex(1 << 16);
        let (host, _streams) = Mux::start(Wire::new(left), Side::Host);
        drop(host.open().await.unwrap());
        assert_eq!(stream_header(&mut right).await, (SYN, 1));
        assert_eq!(stream_header(&mut right).await, (RST, 1));
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_told_once() {
        let (left, mut right) = duplex(1 << 16);
        let (host, _streams) = Mux::start(Wire::new(left), Side::Host);
        let mut stream = host.open().await.unwrap();
        stream.shutdown().await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let _next = host.open().await.unwrap();
        assert_eq!(stream_header(&mut right).await, (SYN, 1));
        assert_eq!(stream_header(&mut right).await, (FIN, 1));
        assert_eq!(stream_header(&mut right).await, (SYN, 3));
    }

    /// Frames that are almost right, and others.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let header = (0_u8..6, 0_u16..16, 0_u32..8, prop_oneof![0_u32..64, any::<u32>()]);
        let body = proptest::collection::vec(any::<u8>(), 0..64);
        prop_oneof![
            4 => (header, body).prop_map(|((kind, flags, stream, length), body)| {
                let mut frame = vec![0, kind];
                frame.extend(flags.to_be_bytes());
                frame.extend(stream.to_be_bytes());
                frame.extend(length.to_be_bytes());
                frame.extend(body);
                frame
            }),
            1 => proptest::collection::vec(any::<u8>(), 0..100),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn any_frames_end_in_a_closed_session_and_never_a_panic(frames in proptest::collection::vec(frame(), 0..20), host: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let (ours, mut theirs) = duplex(1 << 20);
                let (mux, mut inbound) = Mux::start(Wire::new(ours), if host { Side::Host } else { Side::Plugin });
                for frame in frames {
                    if theirs.write_all(&frame).await.is_err() { break }
                }
                let (mut reader, writer) = tokio::io::split(theirs);
                let drain = tokio::spawn(async move { let mut sink = Vec::new(); let _ = reader.read_to_end(&mut sink).await; sink.len() });
                let mut writer = writer;
                let _ = writer.shutdown().await;
                let mut accepted = 0;
                while let Some(stream) = inbound.recv().await { accepted += 1; drop(stream); }
                assert!(accepted <= STREAMS_MAX);
                mux.closed().await;
                drop(mux);
                let _ = drain.await;
            });
        }
    }
}
