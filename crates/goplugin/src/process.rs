//! A process that is held, so that its id can't become another's unseen.

use std::{io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

/// A process of anybody's.
#[derive(Debug)]
pub(crate) struct Held(AsyncFd<OwnedFd>);

impl Held {
    pub(crate) fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe for types that may lie about their descriptor; an OwnedFd does not"
        )]
        let watched = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self(watched))
    }

    /// Resolves when it has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        // An error would be a pidfd that is none.
        let _ = self.0.readable().await;
    }

    pub(crate) fn kill(&self) {
        // It fails only if it has ended already.
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}
