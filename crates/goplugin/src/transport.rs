//! What gRPC runs over: a unix socket, a TCP connection, a stream of a multiplexed session, with TLS inside or without.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tonic::transport::{Server, server::Connected};

use crate::{
    BoxFuture,
    http2::WINDOW_BYTES,
    tls::{SERVER_NAME, Session},
};

/// Larger frames than the default of 16 KiB halve the cost of large messages.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A TLS handshake that takes longer is none.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Any connection.
pub(crate) struct Wire {
    io: Box<dyn Duplex>,
    /// Somebody learns by its end that the connection was given up.
    _held: Option<oneshot::Sender<Infallible>>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Makes connections to one place.
pub(crate) type Dial = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Wire>> + Send + Sync>;

// === impl Wire ===

impl Wire {
    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            io: Box::new(io),
            _held: None,
        }
    }

    /// With something that ends when the connection is given up.
    pub(crate) fn watched(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> (Self, oneshot::Receiver<Infallible>) {
        let (held, dropped) = oneshot::channel();
        let wire = Self {
            io: Box::new(io),
            _held: Some(held),
        };
        (wire, dropped)
    }

    /// Puts TLS inside, as the one who connected.
    pub(crate) async fn connect_tls(self, session: Option<&Session>) -> io::Result<Self> {
        let Some(session) = session else { return Ok(self) };
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let connecting = tokio_rustls::TlsConnector::from(session.client.clone()).connect(name, self.io);
        within(connecting).await
    }

    /// Puts TLS inside, as the one who accepted.
    pub(crate) async fn accept_tls(self, session: Option<&Session>) -> io::Result<Self> {
        let Some(session) = session else { return Ok(self) };
        within(tokio_rustls::TlsAcceptor::from(session.server.clone()).accept(self.io)).await
    }
}

async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<Wire>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = tokio::time::timeout(HANDSHAKE_WITHIN, handshake)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Wire::new(stream))
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

pub(crate) fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
}
