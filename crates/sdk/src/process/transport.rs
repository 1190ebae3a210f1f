//! What carries the bytes of frames: the socket that the host left open, or shared memory beside it.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use mortise_wire::frame::{Decoder, transport};

use super::lane::ReadError;

/// Size of one read. A larger frame takes several.
const READ_BYTES: usize = 64 << 10;

/// What this build can use, best first.
#[cfg(all(target_os = "linux", feature = "shm"))]
pub(super) const OFFERED: &[&str] = &[transport::SHM, transport::RAW];
/// What this build can use, best first.
#[cfg(not(all(target_os = "linux", feature = "shm")))]
pub(super) const OFFERED: &[&str] = &[transport::RAW];

/// The sending half.
pub(super) enum Outlet {
    Socket(UnixStream),
    #[cfg(all(target_os = "linux", feature = "shm"))]
    Shm(mortise_shm::Sender, mortise_shm::Waiter),
}

/// The receiving half.
pub(super) struct Inlet {
    /// Where the bytes come from; with shared memory nothing comes on it but its end.
    socket: UnixStream,
    scratch: Box<[u8]>,
    #[cfg(all(target_os = "linux", feature = "shm"))]
    shm: Shm,
}

#[cfg(all(target_os = "linux", feature = "shm"))]
enum Shm {
    /// Welcome has not come; these descriptors have.
    Unknown(Vec<std::os::fd::OwnedFd>),
    Unused,
    Used(mortise_shm::Receiver, mortise_shm::Waiter),
}

// === impl Outlet ===

impl Outlet {
    /// Sends everything. If the host is gone, so is this process.
    pub(super) fn send_all(&mut self, mut pieces: &mut [IoSlice<'_>]) {
        let socket = match self {
            Self::Socket(socket) => socket,
            #[cfg(all(target_os = "linux", feature = "shm"))]
            Self::Shm(sender, waiter) => match sender.send_all(pieces, waiter) {
                Ok(()) => return,
                Err(mortise_shm::PortError::Gone) => std::process::exit(0),
                Err(error) => {
                    eprintln!("the host broke the protocol: {error}");
                    std::process::exit(2);
                }
            },
        };
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match socket.write_vectored(pieces) {
                Ok(bytes @ 1..) => IoSlice::advance_slices(&mut pieces, bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The host is gone; the reader would notice it in a moment.
                Ok(0) | Err(_) => std::process::exit(0),
            }
        }
    }
}

// === impl Inlet ===

impl Inlet {
    pub(super) fn socket(socket: UnixStream) -> Self {
        Self {
            socket,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            #[cfg(all(target_os = "linux", feature = "shm"))]
            shm: Shm::Unknown(Vec::new()),
        }
    }

    /// Goes on with what the host has chosen; gives the other half, if that is new.
    #[cfg(all(target_os = "linux", feature = "shm"))]
    pub(super) fn change(&mut self, chosen: &str) -> Result<Option<Outlet>, String> {
        use std::os::fd::AsFd as _;

        let Shm::Unknown(fds) = std::mem::replace(&mut self.shm, Shm::Unused) else {
            return Err("it chose a lane twice".to_owned());
        };
        if chosen == transport::RAW || chosen.is_empty() {
            return Ok(None);
        }
        if chosen != transport::SHM {
            return Err(unknown(chosen));
        }
        let sent = fds.len();
        let fds = fds.try_into().map_err(|_| {
            format!(
                "it sent {sent} descriptors for its shared memory, and {} were expected",
                mortise_shm::FDS
            )
        })?;
        let joined = |error: io::Error| format!("its shared memory can't be used: {error}");
        let mortise_shm::Port { sender, receiver } = mortise_shm::Port::join(fds).map_err(joined)?;
        let watch = |bell| mortise_shm::Waiter::new(bell, self.socket.as_fd()).map_err(joined);
        let (send, receive) = (watch(sender.bell())?, watch(receiver.bell())?);
        self.shm = Shm::Used(receiver, receive);
        self.scratch = Box::default();
        Ok(Some(Outlet::Shm(sender, send)))
    }

    /// Goes on with what the host has chosen.
    #[cfg(not(all(target_os = "linux", feature = "shm")))]
    pub(super) fn change(&mut self, chosen: &str) -> Result<Option<Outlet>, String> {
        if chosen == transport::RAW || chosen.is_empty() {
            return Ok(None);
        }
        Err(unknown(chosen))
    }

    /// Waits for bytes, and gives them to `decoder`.
    pub(super) fn read(&mut self, decoder: &mut Decoder) -> Result<(), ReadError> {
        loop {
            #[cfg(all(target_os = "linux", feature = "shm"))]
            let read = match &mut self.shm {
                Shm::Used(receiver, waiter) => {
                    return match receiver.receive(decoder.buffer_mut(), READ_BYTES, waiter) {
                        Ok(_) => Ok(()),
                        Err(mortise_shm::PortError::Broken(how)) => {
                            Err(ReadError::Transport(how.to_string()))
                        }
                        Err(_) => Err(ReadError::Closed),
                    };
                }
                Shm::Unknown(fds) => mortise_shm::receive_with_fds(&self.socket, &mut self.scratch, fds),
                Shm::Unused => self.socket.read(&mut self.scratch),
            };
            #[cfg(not(all(target_os = "linux", feature = "shm")))]
            let read = self.socket.read(&mut self.scratch);
            match read {
                Ok(0) => return Err(ReadError::Closed),
                Ok(bytes) => {
                    decoder.push(&self.scratch[..bytes]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ReadError::Closed),
            }
        }
    }
}

fn unknown(chosen: &str) -> String {
    format!("it chose the lane `{chosen}`, and {OFFERED:?} were offered")
}
