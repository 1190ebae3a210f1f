//! What carries the bytes of frames: the socket that the host left open, or shared memory beside it.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use mortise_wire::frame::{Decoder, transport};

use super::{
    carrier::{Calls, Carried, Carrier, Sink, Source},
    lane::ReadError,
};

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
    Carried(Box<dyn Sink>),
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
    /// What else could be chosen; gone once something is.
    carrier: Option<Box<dyn Carrier>>,
    /// It was: then nothing comes on the socket that is ours.
    carried: Option<Box<dyn Source>>,
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
            Self::Carried(sink) => match sink.write(pieces) {
                Ok(()) => return,
                Err(_) => std::process::exit(0),
            },
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

// === before this process ends ===

impl Outlet {
    /// What was sent will arrive if this process ends now.
    pub(super) fn flush(&mut self) {
        if let Self::Carried(sink) = self {
            sink.flush();
        }
    }

    /// What was sent, and every answer that did not go as a frame, will arrive.
    pub(super) fn close(&mut self) {
        if let Self::Carried(sink) = self {
            sink.close();
        }
    }
}

// === impl Inlet ===

impl Inlet {
    pub(super) fn socket(socket: UnixStream, carrier: Option<Box<dyn Carrier>>) -> Self {
        Self {
            socket,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            #[cfg(all(target_os = "linux", feature = "shm"))]
            shm: Shm::Unknown(Vec::new()),
            carrier,
            carried: None,
        }
    }

    /// All that the host may choose of, best first.
    pub(super) fn offered(&self) -> Vec<String> {
        let further = self.carrier.as_ref().map_or(&[][..], |it| it.lanes());
        OFFERED.iter().chain(further).map(ToString::to_string).collect()
    }

    /// Goes on with what the host has chosen; gives the other half, if that is new.
    pub(super) fn change(&mut self, chosen: &str) -> Result<Option<Outlet>, String> {
        match self.carrier.take() {
            Some(carrier) if carrier.lanes().contains(&chosen) => {
                let socket = self.socket.try_clone();
                let socket = socket.map_err(|error| format!("its socket can't be used: {error}"))?;
                let Carried { source, sink } = carrier.begin(chosen, socket)?;
                self.carried = Some(source);
                self.scratch = Box::default();
                Ok(Some(Outlet::Carried(sink)))
            }
            _ => self.change_own(chosen),
        }
    }

    /// Calls may come beside the frames from now on; false if this transport has none.
    pub(super) fn take_calls(&mut self, calls: &'static dyn Calls) -> bool {
        self.carried.as_mut().is_some_and(|it| it.take_calls(calls))
    }

    #[cfg(all(target_os = "linux", feature = "shm"))]
    fn change_own(&mut self, chosen: &str) -> Result<Option<Outlet>, String> {
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

    #[cfg(not(all(target_os = "linux", feature = "shm")))]
    #[expect(clippy::unused_self, reason = "as where there is a choice")]
    fn change_own(&mut self, chosen: &str) -> Result<Option<Outlet>, String> {
        if chosen == transport::RAW || chosen.is_empty() {
            return Ok(None);
        }
        Err(unknown(chosen))
    }

    /// Waits for bytes, and gives them to `decoder`.
    pub(super) fn read(&mut self, decoder: &mut Decoder) -> Result<(), ReadError> {
        if let Some(source) = &mut self.carried {
            return match source.read(decoder.buffer_mut()) {
                Ok(1..) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    Err(ReadError::Transport(error.to_string()))
                }
                Ok(0) | Err(_) => Err(ReadError::Closed),
            };
        }
        // Behind Welcome the socket may be a carrier's: not a byte of that is read here.
        let most = match &self.carrier {
            Some(_) => decoder.missing().clamp(1, self.scratch.len()),
            None => self.scratch.len(),
        };
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
                Shm::Unknown(fds) => {
                    mortise_shm::receive_with_fds(&self.socket, &mut self.scratch[..most], fds)
                }
                Shm::Unused => self.socket.read(&mut self.scratch[..most]),
            };
            #[cfg(not(all(target_os = "linux", feature = "shm")))]
            let read = self.socket.read(&mut self.scratch[..most]);
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
