//! The calls that run in one instance now: what is looked up when the plugin logs or calls back, what a stop waits for, and what
//! the watchdog looks through.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use mortise_abi::{MtCall, MtSlice};
use mortise_runtime::CallContext;
use prost::Message as _;
use tokio::sync::Notify;

/// Calls are spread over these, so that two cores rarely meet.
const SHARDS: usize = 16;

/// One call, from before it enters the plugin until after it has left it, however long its caller waits.
pub(crate) struct Frame {
    /// The number by which the plugin knows it: never used twice in the life of an instance.
    pub(crate) id: u64,
    pub(crate) cx: CallContext,
    pub(crate) target: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) deadline: Instant,
    /// When it has to be over: the deadline, or what the plugin's own limits give it if its caller is in more of a hurry.
    latest: Instant,
    head: Vec<u8>,
    cancelled: AtomicU32,
    cancel: Notify,
    /// The plugin's `cancel` was called for it, or is about to be.
    told: AtomicBool,
    /// The watchdog has told of it.
    overdue: AtomicBool,
}

/// The calls of one instance.
#[derive(Default)]
pub(crate) struct Live {
    shards: [Mutex<Vec<Arc<Frame>>>; SHARDS],
    next: AtomicU64,
    closed: AtomicBool,
}

/// A frame's place among the live ones; dropped when the plugin's function has returned (I2).
pub(crate) struct Ticket {
    pub(crate) frame: Arc<Frame>,
    live: Arc<Live>,
}

/// An `mt_call`, which points into its frame.
pub(crate) struct Call {
    pub(crate) raw: MtCall,
    _frame: Arc<Frame>,
}

// SAFETY: the pointers of `raw` lead into the frame that it holds: bytes that are never written, and an atomic.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

// === impl Live ===

impl Live {
    /// Enters a call; `None` once closed. It counts as overdue after `latest`, and not before its deadline.
    pub(crate) fn enter(
        self: &Arc<Self>,
        cx: &CallContext,
        target: &Arc<str>,
        payload: Bytes,
        deadline: Instant,
        latest: Instant,
    ) -> Option<Ticket> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut head = cx.head(Instant::now());
        head.call_id = id;
        let frame = Arc::new(Frame {
            id,
            cx: cx.clone(),
            target: target.clone(),
            payload,
            deadline,
            latest: latest.max(deadline),
            head: head.encode_to_vec(),
            cancelled: AtomicU32::new(0),
            cancel: Notify::new(),
            told: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
        });
        let mut shard = self.shard(id);
        // Looked at under the shard's lock: `close` sets it first and looks at the shard afterwards, so one of the two sees the other.
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        shard.push(frame.clone());
        drop(shard);
        Some(Ticket {
            frame,
            live: self.clone(),
        })
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Frame>> {
        self.shard(id).iter().find(|it| it.id == id).cloned()
    }

    /// From now on `enter` refuses.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Empty for good once it is empty after `close`.
    pub(crate) fn all(&self) -> Vec<Arc<Frame>> {
        self.shards.iter().flat_map(|it| lock(it).clone()).collect()
    }

    /// A call that should have returned before `limit`, each one once.
    pub(crate) fn overdue(&self, limit: Instant) -> Option<Arc<Frame>> {
        let mut all = self.shards.iter().flat_map(|it| lock(it).clone());
        all.find(|it| it.latest < limit && !it.overdue.swap(true, Ordering::Relaxed))
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Vec<Arc<Frame>>> {
        lock(&self.shards[usize::try_from(id % SHARDS as u64).expect("less than SHARDS")])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shard = self.live.shard(self.frame.id);
        if let Some(index) = shard.iter().position(|it| it.id == self.frame.id) {
            shard.swap_remove(index);
        }
    }
}

// === impl Frame ===

impl Frame {
    /// Tells the plugin, and whoever waits for the host on its behalf, that nobody waits for this call any more.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(1, Ordering::Release);
        self.cancel.notify_waiters();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) != 0
    }

    /// Whether the plugin's `cancel` is to be called for it now: once for every cancelled call.
    pub(crate) fn is_to_be_told(&self) -> bool {
        self.is_cancelled() && !self.told.swap(true, Ordering::AcqRel)
    }

    /// Resolves when it is cancelled.
    pub(crate) async fn cancelled(&self) {
        let notified = self.cancel.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_cancelled() {
            notified.await;
        }
    }

    /// What the plugin gets to see of it.
    pub(crate) fn to_call(self: &Arc<Self>) -> Call {
        let left = self
            .deadline
            .saturating_duration_since(Instant::now())
            .as_nanos()
            .max(1);
        let raw = MtCall {
            size: size_of::<MtCall>() as u32,
            flags: 0,
            call_id: self.id,
            deadline_ns: u64::try_from(left).unwrap_or(u64::MAX),
            cancelled: self.cancelled.as_ptr(),
            head: MtSlice::new(&self.head),
            depth: self.cx.depth,
            reserved: 0,
        };
        Call {
            raw,
            _frame: self.clone(),
        }
    }

    pub(crate) fn input(&self) -> MtSlice {
        MtSlice::new(&self.payload)
    }
}
