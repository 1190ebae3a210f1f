//! The two ends of a connection: regions, bells and the ring in both directions.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::{
    mapped::{self, Region},
    ring::{Broken, Consumer, Producer},
    spin::Spin,
};

/// Descriptors that make a connection, in the order in which they are sent: the maker's file, the other's file, and the bells.
pub const FDS: usize = 6;

/// Why a connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The other side broke the rules.
    #[error("it broke the rules of the shared memory: {0}")]
    Broken(#[from] Broken),
    /// The socket beside the ring was closed: the other side is gone.
    #[error("it is gone")]
    Gone,
    /// The system refused.
    #[error("the shared memory failed: {0}")]
    Io(#[from] io::Error),
}

/// One side of a connection.
#[derive(Debug)]
pub struct Port {
    /// What it sends with.
    pub sender: Sender,
    /// What it receives with.
    pub receiver: Receiver,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    ring: Producer<Region>,
    /// Rung when something was written and the reader sleeps.
    data: OwnedFd,
    /// Rung by the other side when there is room again.
    room: OwnedFd,
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    ring: Consumer<Region>,
    /// Rung by the other side when it has written something.
    data: OwnedFd,
    /// Rung when room was made and the writer waits for it.
    room: OwnedFd,
}

/// Waits on a bell and watches a socket, without an executor. One thread's.
#[derive(Debug)]
pub struct Waiter {
    epoll: OwnedFd,
    spin: Spin,
}

const BELL: u64 = 0;
const SOCKET: u64 = 1;

// === impl Port ===

impl Port {
    /// Makes a connection: this side's port, and the descriptors that the other side makes its own of, with [`Port::join`].
    ///
    /// # Errors
    /// What the system says; nothing is left behind then.
    pub fn create() -> io::Result<(Self, [OwnedFd; FDS])> {
        let (mine, theirs) = (mapped::create("mortise-host")?, mapped::create("mortise-plugin")?);
        let my_region = Arc::new(Region::map_mine(&mine)?);
        let their_region = Arc::new(Region::map_theirs(&theirs)?);
        mapped::seal_writes(&mine)?;
        mapped::seal_seals(&theirs)?;
        let bells = [bell()?, bell()?, bell()?, bell()?];
        let copies = [
            bells[0].try_clone()?,
            bells[1].try_clone()?,
            bells[2].try_clone()?,
            bells[3].try_clone()?,
        ];
        let port = Self::new(my_region, their_region, bells);
        let [a, b, c, d] = copies;
        // Swapped: what we send with, the other side receives with.
        Ok((port, [mine, theirs, c, d, a, b]))
    }

    /// The other side's port, from what [`Port::create`] gave. The files may be closed afterwards; they are.
    ///
    /// # Errors
    /// If the files are not what they should be, or what the system says.
    pub fn join(fds: [OwnedFd; FDS]) -> io::Result<Self> {
        let [theirs, mine, a, b, c, d] = fds;
        let mine = Arc::new(Region::map_mine(&mine)?);
        let theirs = Arc::new(Region::map_theirs(&theirs)?);
        Ok(Self::new(mine, theirs, [a, b, c, d]))
    }

    /// `bells`: data and room of what it sends, then of what it receives.
    fn new(mine: Arc<Region>, theirs: Arc<Region>, bells: [OwnedFd; 4]) -> Self {
        let [send_data, send_room, receive_data, receive_room] = bells;
        Self {
            sender: Sender {
                ring: Producer::new(mine.clone(), theirs.clone()),
                data: send_data,
                room: send_room,
            },
            receiver: Receiver {
                ring: Consumer::new(mine, theirs),
                data: receive_data,
                room: receive_room,
            },
        }
    }
}

// === impl Sender ===

impl Sender {
    /// Sends as much of `pieces` as there is room for, without waiting; 0 if there is none.
    ///
    /// # Errors
    /// If the other side broke the rules.
    pub fn try_send(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, PortError> {
        let written = self.ring.write(pieces)?;
        if written.wake {
            ring(&self.data);
        }
        Ok(written.bytes)
    }

    /// Says that the caller is about to wait for [`Sender::bell`]; false if there is room already. [`Sender::woken`] follows.
    ///
    /// # Errors
    /// As [`Sender::try_send`].
    pub fn sleep(&mut self) -> Result<bool, PortError> {
        Ok(self.ring.sleep()?)
    }

    /// Says that it waits no longer.
    pub fn woken(&mut self) {
        self.ring.woken();
    }

    /// Readable when there may be room again. It is never read: wait for its edges.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Sends everything, and waits for room where there is none.
    ///
    /// # Errors
    /// As [`Sender::try_send`]; `Gone` if the socket that `waiter` watches is closed.
    pub fn send_all(&mut self, mut pieces: &mut [IoSlice<'_>], waiter: &mut Waiter) -> Result<(), PortError> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match self.try_send(pieces)? {
                0 => {
                    let waited = match self.sleep()? {
                        true => waiter.wait(),
                        false => Ok(()),
                    };
                    self.woken();
                    waited?;
                }
                sent => IoSlice::advance_slices(&mut pieces, sent),
            }
        }
        Ok(())
    }
}

// === impl Receiver ===

impl Receiver {
    /// Appends what there is to `out`, until `enough` bytes were appended; does not wait. 0 if there is nothing.
    ///
    /// # Errors
    /// If the other side broke the rules.
    pub fn try_receive(&mut self, out: &mut BytesMut, enough: usize) -> Result<usize, PortError> {
        let taken = self.ring.read(out, enough)?;
        if taken.wake {
            ring(&self.room);
        }
        Ok(taken.bytes)
    }

    /// Says that the caller is about to wait for [`Receiver::bell`]; false if there is something already. [`Receiver::woken`] follows.
    #[must_use]
    pub fn sleep(&mut self) -> bool {
        self.ring.sleep()
    }

    /// Says that it waits no longer.
    pub fn woken(&mut self) {
        self.ring.woken();
    }

    /// Readable when there may be something. It is never read: wait for its edges.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.data.as_fd()
    }

    /// Appends what there is to `out`, and waits for it.
    ///
    /// # Errors
    /// As [`Receiver::try_receive`]; `Gone` if the socket that `waiter` watches is closed.
    pub fn receive(
        &mut self,
        out: &mut BytesMut,
        enough: usize,
        waiter: &mut Waiter,
    ) -> Result<usize, PortError> {
        loop {
            let taken = self.try_receive(out, enough)?;
            if taken > 0 {
                return Ok(taken);
            }
            if waiter.spin(|| self.ring.is_ready()) {
                continue;
            }
            let waited = match self.sleep() {
                true => waiter.wait(),
                false => Ok(()),
            };
            self.woken();
            match waited {
                // What it wrote before it went is still there.
                Err(PortError::Gone) if self.ring.is_ready() => {}
                other => other?,
            }
        }
    }
}

// === impl Waiter ===

impl Waiter {
    /// Waits on `bell`, and watches `socket` for its end. Nothing is expected on the socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(bell: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), edges)?;
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP;
        epoll::add(&epoll, socket, epoll::EventData::new_u64(SOCKET), end)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            epoll,
            spin: Spin::new(processors),
        })
    }

    /// Waits until the bell was rung since the last wait, or the socket is closed.
    fn wait(&mut self) -> Result<(), PortError> {
        let mut events: [epoll::Event; 2] = std::array::from_fn(|_| epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(BELL),
        });
        let count = loop {
            match epoll::wait(&self.epoll, &mut events[..], None) {
                Ok(count) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(PortError::Io(error.into())),
            }
        };
        let gone = events[..count].iter().any(|it| it.data.u64() == SOCKET);
        if gone { Err(PortError::Gone) } else { Ok(()) }
    }

    fn spin(&mut self, ready: impl Fn() -> bool) -> bool {
        let time = self.spin.time();
        if time.is_zero() {
            return false;
        }
        let end = Instant::now() + time;
        let came = loop {
            if ready() {
                break true;
            }
            if Instant::now() >= end {
                break false;
            }
            std::hint::spin_loop();
        };
        self.spin.note(came);
        came
    }
}

fn bell() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// A counter at its end can't be counted further; then the bell has been rung (M5).
fn ring(bell: &OwnedFd) {
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests;
