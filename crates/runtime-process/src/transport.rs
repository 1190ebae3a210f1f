//! What carries the bytes of frames: the socket itself, shared memory beside it, or a stream of gRPC on it.
//!
//! Each is a stream of bytes in each direction. The frames, their order and everything that is built of them are the same; only this module knows
//! which it is.

use std::io::{self, IoSlice};

use bytes::{Bytes, BytesMut};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::carried;

/// What is read at once, at least.
const READ_BYTES: usize = 64 << 10;

/// Messages up to this size do not keep the buffer that they came in: it may be as long as the longest frame, and who takes the message may take his time.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// The sending half.
#[derive(Debug)]
pub(crate) enum Outlet {
    Socket(OwnedWriteHalf),
    Carried(carried::Outlet),
    /// Boxed: it knows every slab.
    #[cfg(target_os = "linux")]
    Shm(Box<shared::Outlet>),
}

/// The receiving half.
#[derive(Debug)]
pub(crate) enum Inlet {
    Socket(OwnedReadHalf),
    Carried(carried::Inlet),
    #[cfg(target_os = "linux")]
    Shm(shared::Inlet),
}

/// A message that is kept for a while: it costs its own length and no more.
pub(crate) fn kept(message: Bytes) -> Bytes {
    if message.len() <= COPIED_BYTES_MAX {
        Bytes::copy_from_slice(&message)
    } else {
        message
    }
}

// === impl Outlet ===

impl Outlet {
    /// Sends as much as there is room for, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; anything else is the end of the lane.
    pub(crate) fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_write_vectored(pieces),
            Self::Carried(carried) => carried.try_write(pieces),
            #[cfg(target_os = "linux")]
            Self::Shm(shm) => shm.try_write(pieces),
        }
    }

    /// Waits until there may be room. One task waits at a time. Cancel safe.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.writable().await,
            Self::Carried(carried) => carried.writable().await,
            #[cfg(target_os = "linux")]
            Self::Shm(shm) => shm.writable().await,
        }
    }
}

// === impl Inlet ===

impl Inlet {
    /// Appends what there is to `buffer`, and waits for it. 0: the plugin has closed its end. Cancel safe.
    ///
    /// # Errors
    /// `InvalidData` if the plugin broke the rules of the transport; anything else says that it is gone.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => {
                use tokio::io::AsyncReadExt as _;
                if buffer.capacity() == buffer.len() {
                    buffer.reserve(READ_BYTES);
                }
                socket.read_buf(buffer).await
            }
            Self::Carried(carried) => carried.read(buffer).await,
            #[cfg(target_os = "linux")]
            Self::Shm(shm) => shm.read(buffer).await,
        }
    }
}

/// Shared memory, as tokio tasks use it.
#[cfg(target_os = "linux")]
pub(crate) mod shared {
    use std::{
        io::{self, IoSlice},
        os::fd::{BorrowedFd, OwnedFd},
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use bytes::BytesMut;
    use mortise_shm::{FDS, Port, PortError, Receiver, Sender};
    use tokio::{
        io::{Interest, unix::AsyncFd},
        net::unix::{OwnedReadHalf, OwnedWriteHalf},
    };

    use super::READ_BYTES;

    #[derive(Debug)]
    pub(crate) struct Outlet {
        ring: Mutex<Sender>,
        /// Rung when there is room again.
        bell: AsyncFd<OwnedFd>,
        _control: OwnedWriteHalf,
    }

    #[derive(Debug)]
    pub(crate) struct Inlet {
        ring: Receiver,
        /// Rung when there is something to read.
        bell: AsyncFd<OwnedFd>,
        /// Nothing comes on it but its end.
        control: OwnedReadHalf,
    }

    /// A port that no task uses yet, and what the plugin needs to join it.
    #[derive(Debug)]
    pub(crate) struct Made {
        port: Port,
        pub(crate) fds: [OwnedFd; FDS],
    }

    pub(crate) fn make() -> io::Result<Made> {
        let (port, fds) = Port::create()?;
        Ok(Made { port, fds })
    }

    impl Made {
        /// From here on frames go through the memory, and the socket is watched for its end.
        pub(crate) fn begin(
            self,
            reader: OwnedReadHalf,
            writer: OwnedWriteHalf,
        ) -> io::Result<(Inlet, Outlet)> {
            let Port { sender, receiver } = self.port;
            let inlet = Inlet {
                bell: watch(receiver.bell())?,
                ring: receiver,
                control: reader,
            };
            let outlet = Outlet {
                bell: watch(sender.bell())?,
                ring: Mutex::new(sender),
                _control: writer,
            };
            Ok((inlet, outlet))
        }
    }

    impl Outlet {
        pub(super) fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            match self.lock().try_send(pieces).map_err(failed)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                bytes => Ok(bytes),
            }
        }

        pub(super) async fn writable(&self) -> io::Result<()> {
            let waits = self.lock().sleep().map_err(failed)?;
            if waits {
                // The bell may have been rung for something that was seen long ago; whoever asks again waits for the next.
                self.bell.readable().await?.clear_ready();
            }
            self.lock().woken();
            Ok(())
        }

        fn lock(&self) -> MutexGuard<'_, Sender> {
            self.ring.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Inlet {
        pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
            loop {
                let bytes = self.ring.try_receive(buffer, READ_BYTES).map_err(failed)?;
                if bytes > 0 {
                    return Ok(bytes);
                }
                let ended = match self.ring.sleep() {
                    true => self.wait().await,
                    false => Ok(false),
                };
                self.ring.woken();
                if ended? {
                    // What it wrote before it went is still there.
                    return self.ring.try_receive(buffer, READ_BYTES).map_err(failed);
                }
            }
        }

        /// Waits for the bell; true if the socket has ended.
        async fn wait(&self) -> io::Result<bool> {
            tokio::select! {
                biased;
                rung = self.bell.readable() => {
                    rung?.clear_ready();
                    Ok(false)
                }
                readable = self.control.readable() => {
                    readable?;
                    match self.control.try_read(&mut [0]) {
                        Ok(0) => Ok(true),
                        Ok(_) => Err(invalid("it sent bytes on its socket, and its lane is shared memory")),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                        Err(_) => Ok(true),
                    }
                }
            }
        }
    }

    fn watch(bell: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
        let bell = bell.try_clone_to_owned()?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe for types that may lie about their descriptor; an OwnedFd does not"
        )]
        AsyncFd::with_interest(bell, Interest::READABLE)
    }

    fn failed(error: PortError) -> io::Error {
        match error {
            PortError::Broken(how) => invalid(how),
            PortError::Gone => io::ErrorKind::BrokenPipe.into(),
            PortError::Io(error) => error,
        }
    }

    fn invalid(how: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, how)
    }
}
