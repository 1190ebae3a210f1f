//! What a plugin holds of its host: one gate per instance, which outlives it (I3).

use std::{
    ffi::c_void,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering},
    },
};

use mortise_abi::MtHost;
use mortise_runtime::{
    CallError, CallErrorKind, EndCause, HostServices, InstanceId, RuntimeError, RuntimeErrorKind,
};
use tokio::{runtime::Handle, sync::watch};

use crate::{asynchronous::Pending, host_table, live::Live};

/// The low bits of an async completion's context number the call, the others the gate. 2 million instances and 8 thousand billion calls of
/// each on a 64-bit machine.
const CALL_BITS: u32 = usize::BITS - usize::BITS / 3;

/// The host as one instance sees it, while it exists.
pub(crate) struct Side {
    pub(crate) id: InstanceId,
    pub(crate) services: Arc<dyn HostServices>,
    /// Of the executor that serves the plugin's calls to the host.
    pub(crate) executor: Handle,
    pub(crate) live: Arc<Live>,
    pub(crate) pending: Pending,
    pub(crate) payload_bytes_max: usize,
    state: AtomicU8,
    ended: watch::Sender<Option<EndCause>>,
}

const RUNNING: u8 = 0;
const POISONED: u8 = 1;
const STOPPING: u8 = 2;

/// Never freed: about a hundred bytes per started instance.
pub(crate) struct Gate {
    table: MtHost,
    number: usize,
    side: RwLock<Option<Arc<Side>>>,
}

// SAFETY: `table` is not written after `open`; its pointers lead to functions and to the gate itself.
unsafe impl Sync for Gate {}
// SAFETY: as above.
unsafe impl Send for Gate {}

static GATES: Mutex<Vec<&'static Gate>> = Mutex::new(Vec::new());

// === impl Gate ===

impl Gate {
    /// A gate to `side`.
    pub(crate) fn open(side: Arc<Side>) -> Result<&'static Self, RuntimeError> {
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        let number = gates.len();
        if number >> (usize::BITS / 3) != 0 {
            return Err(RuntimeError::new(
                RuntimeErrorKind::Exhausted,
                format!(
                    "{number} native instances were started since this host started, and their numbers end here"
                ),
                "restart the host",
            ));
        }
        let gate = Box::leak(Box::new(Self {
            table: host_table::table(std::ptr::null_mut()),
            number,
            side: RwLock::new(Some(side)),
        }));
        gate.table.ctx = std::ptr::from_mut(gate).cast();
        let gate: &'static Self = gate;
        gates.push(gate);
        Ok(gate)
    }

    /// From now on the plugin talks to nobody.
    pub(crate) fn close(&self) {
        self.side.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn table(&self) -> *const MtHost {
        &raw const self.table
    }

    pub(crate) fn side(&self) -> Option<Arc<Side>> {
        self.side.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The gate that an `mt_host.ctx` leads to.
    ///
    /// # Safety
    /// `ctx` is null or came from [`Gate::table`].
    pub(crate) unsafe fn from_ctx(ctx: *mut c_void) -> Option<&'static Self> {
        // SAFETY: the caller's promise; gates are never freed.
        unsafe { ctx.cast::<Self>().as_ref() }
    }

    /// Names the async call `number` of this gate without a pointer: whatever the plugin does with it, nothing dangles.
    pub(crate) fn completion(&self, number: usize) -> *mut c_void {
        let word = self.number << CALL_BITS | (number & ((1 << CALL_BITS) - 1));
        std::ptr::without_provenance_mut(word)
    }

    /// The other direction.
    pub(crate) fn from_completion(ctx: *mut c_void) -> Option<(&'static Self, usize)> {
        let word = ctx.addr();
        let gate = GATES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(word >> CALL_BITS)
            .copied()?;
        Some((gate, word & ((1 << CALL_BITS) - 1)))
    }
}

// === impl Side ===

impl Side {
    pub(crate) fn new(
        id: InstanceId,
        services: Arc<dyn HostServices>,
        executor: Handle,
        payload_bytes_max: usize,
    ) -> Self {
        Self {
            id,
            services,
            executor,
            live: Arc::default(),
            pending: Pending::default(),
            payload_bytes_max,
            state: AtomicU8::new(RUNNING),
            ended: watch::Sender::new(None),
        }
    }

    /// Notes why the instance can serve no longer. The first cause stays.
    pub(crate) fn end(&self, cause: EndCause) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                tracing::warn!(instance = %self.id, %cause, "native instance ended by itself");
                *ended = Some(cause);
            }
            first
        });
    }

    /// I6.
    pub(crate) fn poison(&self, message: &str) {
        _ = self
            .state
            .compare_exchange(RUNNING, POISONED, Ordering::Relaxed, Ordering::Relaxed);
        self.end(EndCause::Panicked(message.to_owned()));
    }

    pub(crate) fn set_stopping(&self) {
        self.state.store(STOPPING, Ordering::Relaxed);
        self.live.close();
    }

    /// Whether a call may enter; one load.
    #[inline]
    pub(crate) fn admit(&self) -> Result<(), CallError> {
        if self.state.load(Ordering::Relaxed) == RUNNING {
            Ok(())
        } else {
            Err(self.refusal())
        }
    }

    #[cold]
    fn refusal(&self) -> CallError {
        if self.state.load(Ordering::Relaxed) == POISONED {
            let cause = self
                .end_cause()
                .map_or_else(|| "it panicked".to_owned(), |it| it.to_string());
            return CallError::new(
                CallErrorKind::Unavailable,
                format!("the instance {} takes no calls, because {cause}", self.id),
            )
            .with_hint("it is being replaced; try again");
        }
        self.draining()
    }

    pub(crate) fn draining(&self) -> CallError {
        CallError::new(
            CallErrorKind::Draining,
            format!("the instance {} is being stopped", self.id),
        )
    }

    pub(crate) fn end_cause(&self) -> Option<EndCause> {
        self.ended.borrow().clone()
    }

    /// Resolves with the cause, if there ever is one.
    pub(crate) async fn ended(&self) -> EndCause {
        let mut ended = self.ended.subscribe();
        let cause = ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|it| it.clone());
        match cause {
            Some(cause) => cause,
            // The sender is a field of `self`.
            None => std::future::pending().await,
        }
    }
}
