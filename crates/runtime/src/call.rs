//! The facet of plugins that answer calls.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use mortise_wire::{CallHead, Header};

use crate::{BoxFuture, Trail, error::CallError};

/// A method's place in `Metadata.methods` of the artifact that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MethodIndex(pub u32);

/// One call, as the host admits it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// Unique in the life of the host.
    pub call_id: u64,
    /// Absolute; the host always sets one before a call reaches a runtime.
    pub deadline: Option<Instant>,
    /// When it was admitted, if somebody looked: a moment ago, so that a runtime need not ask the clock once more.
    pub began: Option<Instant>,
    /// W3C traceparent of this call's span; empty = not traced.
    pub traceparent: Arc<str>,
    /// Propagated caller headers, lower-case names.
    pub metadata: Arc<[Header]>,
    /// Nesting of plugin-to-plugin calls.
    pub depth: u32,
    /// The plugin that makes the call; empty = an outside caller.
    pub caller: Arc<str>,
    /// The plugin is not to learn any of this: it is pure, and what it replies depends on the request alone.
    pub untold: bool,
    /// The instances that it came through. The host's own: it does not leave this process, and is to come back with the calls that are made on this
    /// one's behalf.
    pub trail: Trail,
}

impl CallContext {
    /// The head that travels beside the payload, with the time that is left at `now`.
    #[must_use]
    pub fn head(&self, now: Instant) -> CallHead {
        if self.untold {
            return CallHead::default();
        }
        let left = self
            .deadline
            .map(|at| at.saturating_duration_since(now).as_nanos().max(1));
        CallHead {
            call_id: self.call_id,
            deadline_ns: left.map_or(0, |ns| u64::try_from(ns).unwrap_or(u64::MAX)),
            traceparent: self.traceparent.to_string(),
            metadata: self.metadata.to_vec(),
            depth: self.depth,
            caller: self.caller.to_string(),
        }
    }
}

/// Answers calls.
pub trait Call: Send + Sync {
    /// Calls one method and brings its reply. Admission (concurrency, size, depth) is done; `cx.deadline` is set and the runtime enforces it.
    ///
    /// # Errors
    /// The plugin's own status (`Returned`), or what kept it from answering; `blame` says whose fault it is.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: the guest is told, interrupted or killed as `Support::interrupt` says, and no state of
    /// another call is touched.
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>>;

    /// A way to call the method on the caller's own thread, without a deadline, a trace or a hop; `None` where there is none.
    fn direct(&self, method: MethodIndex) -> Option<Arc<dyn DirectCall>> {
        let _ = method;
        None
    }
}

/// A method that is called on the caller's thread: the path of `bind`.
///
/// It lives as long as its instance is not stopped; the host's hazard cell sees to that. The deadline is the caller's own business.
pub trait DirectCall: Send + Sync {
    /// Appends the reply to `out`.
    ///
    /// # Errors
    /// As [`Call::call`]; `out` is then as it was.
    fn call(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError>;
}
