//! What a runtime may ask of the host, on behalf of a guest.

use std::net::TcpStream;

use bytes::Bytes;
use mortise_wire::{Code, LogRecord, Status};

use crate::{BoxFuture, CallContext};

/// A guest's log line with the call it belongs to, if the runtime knows it.
#[derive(Clone, Copy, Debug)]
pub struct LogLine<'a> {
    /// What the guest said.
    pub record: &'a LogRecord,
    /// The call during which it said it.
    pub call: Option<&'a CallContext>,
}

/// Something that the system kept from a guest, by the layers around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied<'a> {
    /// What it would have needed: `fs.read`, `fs.write`, `net.connect`, or a word for what no permission gives.
    pub capability: &'a str,
    /// What it was about: a path, an address. The guest chose it; it is short and has no control characters.
    pub target: &'a str,
    /// How it tried: the system call.
    pub how: &'a str,
}

/// The host, as one instance sees it. Every capability is checked behind this trait, in one place for all runtimes.
pub trait HostServices: Send + Sync + 'static {
    /// Takes a log line. Never blocks; the host limits rate and size and counts what it drops.
    fn log(&self, line: LogLine<'_>);

    /// Is told what the guest was denied. Never blocks; the runtime bounds the rate.
    fn denied(&self, denied: Denied<'_>) {
        let _ = denied;
    }

    /// Is told of so many denials that were not told one by one.
    fn denials_suppressed(&self, count: u64) {
        let _ = count;
    }

    /// Opens a TCP connection on behalf of the guest. Name, every address that it resolves to, and port are checked behind this trait, against the same rules
    /// as HTTP requests.
    ///
    /// # Errors
    /// `PermissionDenied` naming the missing grant, `Unavailable` if nobody answers, `Unimplemented` by a host that dials for nobody.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the connection.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream, Status>> {
        let refused = Status::new(
            Code::Unimplemented,
            format!("this host opens no connections; `{host}:{port}` was asked for"),
        );
        Box::pin(std::future::ready(Err(refused)))
    }

    /// Calls `package.Service/Method` of the host or, through routing, of another plugin. `parent` is the call on whose behalf it is made: its
    /// deadline, trace and depth are inherited.
    ///
    /// # Errors
    /// `PermissionDenied` naming the missing grant, `Unimplemented` for an unknown target, or the callee's status.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    fn call<'a>(
        &'a self,
        parent: Option<&'a CallContext>,
        target: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>>;
}
