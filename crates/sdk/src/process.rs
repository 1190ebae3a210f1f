//! The process guest: the SDK's dialect over an inherited socket, on plain threads.
//!
//! # Threads and who may block
//! 1. One thread reads the lane at a time. A method that its contract calls nonblocking runs on it, and saves two context switches. So does any
//!    other method that has been quick so far; but then the reading thread gives the lane up meanwhile, and a thread that stands by takes it over
//!    within a millisecond if the method turns out to be slow, or at once if it waits for the host (module `relief`).
//! 2. Workers run the other methods: as many as the host lets the plugin work on at once, started when first needed.
//! 3. `start`, `health` and `stop` each run on a short-lived thread of their own, so a busy plugin still answers how it is.
//! 4. Whoever has a frame to send takes the writer's lock and writes it whole.
//!
//! # How it ends
//! | what happens | exit code |
//! |---|---|
//! | the lane is closed: the host is gone | 0, at once |
//! | Stop, and the last call has returned | 0, after `Plugin::stop` |
//! | `start` gave an error | 1, after Failed |
//! | the host broke the protocol | 2 |
//! | a panic in plugin code | 101, after a log line |
//!
//! Standard output and error are the plugin's own; the host makes log lines of them.

use std::process::ExitCode;

use crate::guest::Plugin;

#[cfg(unix)]
mod carrier;
#[cfg(unix)]
mod lane;
#[cfg(unix)]
mod relief;
#[cfg(unix)]
mod streams;
#[cfg(unix)]
mod transport;
#[cfg(unix)]
mod work;

#[cfg(unix)]
pub use carrier::{Answer, Calls, Carried, CarriedCall, Carrier, Sink, Source};

/// Exit code of an executable that was not started by a host.
const EXIT_USAGE: u8 = 64;

/// What an executable can speak beside this crate's own. A crate of its own implements it, so that this one needs no executor and no gRPC.
pub trait Dialect: Sized {
    /// Serves whoever started this process, if it was no Mortise host, or says that nobody did.
    fn serve<P: Plugin>(self) -> ExitCode;

    /// Further transports that a Mortise host may choose.
    #[cfg(unix)]
    fn carrier(&self) -> Option<Box<dyn Carrier>> {
        None
    }
}

/// The dialect of an executable that has no other.
struct Nobody;

/// The `main` of a plugin's executable.
#[must_use]
pub fn main<P: Plugin>(metadata: &'static [u8]) -> ExitCode {
    main_with::<P>(metadata, Nobody)
}

/// The `main` of an executable that speaks `other` where it has no lane.
#[must_use]
pub fn main_with<P: Plugin>(metadata: &'static [u8], other: impl Dialect) -> ExitCode {
    // Keeps the section in the executable: nothing else here looks at it.
    std::hint::black_box(metadata.as_ptr());
    #[cfg(unix)]
    if let Some(fd) = std::env::var_os(mortise_wire::frame::ENV_LANE_FD) {
        return match lane::inherited(&fd) {
            Ok(socket) => work::serve::<P>(socket, other.carrier()),
            Err(why) => {
                eprintln!("{} {}: {why}", P::BUILD.name, P::BUILD.version);
                ExitCode::from(EXIT_USAGE)
            }
        };
    }
    other.serve::<P>()
}

impl Dialect for Nobody {
    fn serve<P: Plugin>(self) -> ExitCode {
        eprintln!(
            "This is the plugin {} {}, built as a process of its own. A host starts it; try `mortise run`.",
            P::BUILD.name,
            P::BUILD.version
        );
        ExitCode::from(EXIT_USAGE)
    }
}
