//! One call of a go-plugin host, as the plugin's code sees it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use mortise_sdk::{CallHead, Link, LogRecord, Result, StartRequest, Status};

use crate::log::Logger;

/// The host's side of a `Cx`.
pub(crate) struct Call {
    pub(crate) started: Arc<StartRequest>,
    pub(crate) head: CallHead,
    pub(crate) arrived: Instant,
    pub(crate) cancel: Arc<Cancel>,
    pub(crate) logger: Logger,
}

/// Set when nobody waits for the reply any more.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    set: Mutex<bool>,
    woken: Condvar,
}

/// Cancels when it is dropped, which is when the host resets the call.
pub(crate) struct CancelOnDrop(pub(crate) Arc<Cancel>);

// === impl Cancel ===

impl Cancel {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        *self.0.lock() = true;
        self.0.woken.notify_all();
    }
}

impl Link for Call {
    fn started(&self) -> &StartRequest {
        &self.started
    }

    fn head(&self) -> CallHead {
        self.head.clone()
    }

    fn elapsed(&self) -> Duration {
        self.arrived.elapsed()
    }

    fn is_cancelled(&self) -> bool {
        *self.cancel.lock()
    }

    fn now(&self) -> Result<SystemTime> {
        Ok(SystemTime::now())
    }

    fn wait(&self, duration: Duration) {
        let set = self.cancel.lock();
        let waited = self.cancel.woken.wait_timeout_while(set, duration, |set| !*set);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn log(&self, record: &LogRecord) {
        self.logger.record(record);
    }

    fn call(&self, _: u64, target: &str, _: Vec<u8>) -> Result<Vec<u8>> {
        Err(Status::unavailable(format_args!(
            "`{target}` can't be called: a go-plugin host offers no services; run this plugin under a Mortise host"
        )))
    }
}
