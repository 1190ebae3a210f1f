//! A plugin that is linked into its host's own binary: what the two sides know of each other.
//!
//! The SDK makes a [`LinkedPlugin`] of a plugin's type, and the builtin runtime runs it; neither knows the other, and both know this crate.
//! Nothing is encoded on the way but what is encoded on every boundary, so a plugin behaves here as it does elsewhere.

use std::{fmt, time::Duration};

use crate::{
    Code, StreamLink,
    plugin::{CallHead, LogRecord, StartRequest, Status},
};

/// A plugin that is linked into this program. `mortise_sdk::linked!(my_plugin)` makes one.
#[derive(Clone, Copy)]
pub struct LinkedPlugin {
    /// The encoded `Metadata`.
    pub metadata: &'static [u8],
    /// Starts an instance.
    pub start: StartFn,
}

/// Starts an instance of one plugin, or says why not. May panic; the host catches it.
pub type StartFn = fn(StartRequest, Box<dyn HostLink>) -> Result<Box<dyn LinkedInstance>, Status>;

/// One running copy. Every function may panic; the host catches it.
pub trait LinkedInstance: Send + Sync {
    /// Calls the method with this number and returns the encoded reply.
    ///
    /// # Errors
    /// The plugin's status.
    fn invoke(&self, link: Box<dyn HostLink>, method: u32, payload: &[u8]) -> Result<Vec<u8>, Status>;

    /// Calls the streaming method with this number, over `stream`; its end is the end of the replies.
    ///
    /// # Errors
    /// The plugin's status. `Unimplemented` unless told otherwise.
    fn stream(&self, link: Box<dyn HostLink>, stream: &dyn StreamLink, method: u32) -> Result<(), Status> {
        let _ = (link, stream);
        Err(Status::new(
            Code::Unimplemented,
            format!("the plugin cannot stream, and its method {method} was called so"),
        ))
    }

    /// Asks how it is.
    ///
    /// # Errors
    /// Why it cannot serve.
    fn health(&self) -> Result<(), Status>;

    /// The last thing that is asked of it, with no call running.
    fn stop(&self);
}

/// The host, as one call (or a start, where there is no call) sees it.
pub trait HostLink: Send + Sync {
    /// The call's head; empty in a start.
    fn head(&self) -> CallHead;
    /// Time since the call reached the plugin.
    fn elapsed(&self) -> Duration;
    /// Whether nobody waits for the reply any more.
    fn is_cancelled(&self) -> bool;
    /// Waits that long, or until nobody waits for the reply any more.
    fn wait(&self, duration: Duration);
    /// Takes a log line.
    fn log(&self, record: &LogRecord);
    /// Calls `package.Service/Method` on behalf of this call, and blocks.
    ///
    /// # Errors
    /// The callee's status, or the host's own.
    fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status>;
}

impl fmt::Debug for LinkedPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkedPlugin")
            .field("metadata_bytes", &self.metadata.len())
            .finish_non_exhaustive()
    }
}
