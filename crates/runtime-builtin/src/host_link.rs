//! The host as a builtin plugin's call sees it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mortise_runtime::{CallContext, HostServices, LogLine};
use mortise_wire::{CallHead, Code, LogRecord, Status, linked::HostLink};
use tokio::{runtime::Handle, sync::watch};

/// Whether a call is cancelled. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Cancel(watch::Sender<bool>);

/// Cancels when whoever waits is gone, for whatever reason. After the reply nobody looks any more.
pub(crate) struct CancelOnDrop(pub(crate) Cancel);

/// One call's way to the host.
pub(crate) struct Link {
    pub(crate) services: Arc<dyn HostServices>,
    /// The call and when it came; `None` in a start.
    pub(crate) call: Option<(CallContext, Instant)>,
    pub(crate) cancel: Cancel,
    /// The executor that carries the plugin's own calls; `None` where the method promised not to block.
    pub(crate) executor: Option<Handle>,
}

// === impl Cancel ===

impl Cancel {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    async fn wait(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|set| *set).await;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

// === impl Link ===

impl Link {
    fn context(&self) -> Option<&CallContext> {
        self.call.as_ref().map(|(context, _)| context)
    }
}

impl HostLink for Link {
    fn head(&self) -> CallHead {
        self.call
            .as_ref()
            .map(|(context, came)| context.head(*came))
            .unwrap_or_default()
    }

    fn elapsed(&self) -> Duration {
        self.call
            .as_ref()
            .map(|(_, came)| came.elapsed())
            .unwrap_or_default()
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_set()
    }

    fn wait(&self, duration: Duration) {
        // A method that promised not to block does not get to.
        if let Some(executor) = &self.executor {
            let _ = executor.block_on(async { tokio::time::timeout(duration, self.cancel.wait()).await });
        }
    }

    fn log(&self, record: &LogRecord) {
        self.services.log(LogLine {
            record,
            call: self.context(),
        });
    }

    fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        let Some(executor) = &self.executor else {
            let why = format!(
                "`{target}` was called out of a method that its contract calls nonblocking; take the option from the method"
            );
            return Err(Status::new(Code::FailedPrecondition, why));
        };
        executor.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.wait() => Err(Status::new(Code::Cancelled, "the caller is gone")),
                reply = self.services.call(self.context(), target, payload.into()) => reply.map(Into::into),
            }
        })
    }
}
