//! What a dialect gives to what stands around every process: the instance that callers see, and the supervisor.
//!
//! ```text
//!  instance --calls, streams, health--> Plugin <--close-- supervisor --over?, ask to stop, settle--> Conversation
//! ```
//!
//! A new dialect implements the two traits and hands them to [`ProcessInstance::supervised`](crate::instance::ProcessInstance::supervised);
//! exits, limits, the stop ladder, usage and reports come with it.

use std::sync::Arc;

use bytes::Bytes;
use mortise_manifest::Limits;
use mortise_runtime::{CallContext, CallError, EndCause, MethodIndex, StreamHandle};
use mortise_wire::Health;

/// A running plugin that can be asked something.
pub(crate) trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &str;

    fn limits(&self) -> &Limits;

    /// Name of what carries its calls, where there is a choice.
    fn lane(&self) -> Option<&'static str>;

    fn call(
        &self,
        cx: &CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;

    fn open(
        self: &Arc<Self>,
        cx: &CallContext,
        method: MethodIndex,
    ) -> impl Future<Output = Result<StreamHandle, CallError>> + Send;

    fn health(&self) -> impl Future<Output = Result<Health, CallError>> + Send;

    /// Answers everything that is open with `error`, now and from now on. The first one stays.
    fn close(&self, error: CallError);
}

/// The host's side of what is spoken with one plugin.
pub(crate) trait Conversation: Send + 'static {
    type Plugin: Plugin;

    fn plugin(&self) -> &Arc<Self::Plugin>;

    /// Resolves when nothing more will be said, or something that must not be. Cancel safe; not asked again after it has resolved.
    fn over(&mut self) -> impl Future<Output = Over> + Send;

    /// Asks the plugin to end. Whether it does is seen from its process.
    fn ask_to_stop(&mut self);

    /// Takes in what an ended process has said before.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;
}

/// How a conversation comes to its end while the process runs.
#[derive(Debug)]
pub(crate) enum Over {
    /// The plugin's side was closed. It is about to exit, or at fault.
    Closed,
    /// The plugin is at fault.
    AtFault(EndCause),
}
