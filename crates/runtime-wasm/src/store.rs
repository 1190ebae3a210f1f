//! A guest's store: what it may use, what it has used, when it must stop, and what it may ask of the host.
//!
//! ## Limits
//! - S1. The limiter is set before anything is instantiated, so a memory's *initial* size counts like its growth.
//! - S2. The bound holds for all linear memories of one instance together. Tables and nested instances have fixed bounds (`engine.rs`).
//! - S3. A refused growth fails inside the guest (`memory.grow` gives -1). If the guest then dies of it, the refusal is named as the cause.
//! - S4. What one host call may copy out of the guest is bounded (hostcall fuel, or a look at the length), so a guest cannot make the host
//!   allocate gigabytes.
//!
//! ## Time
//! - S5. Whatever a guest can spend time on asks [`Cell::verdict`]: its own code at every tick, a host call by a timer. There is no timer per
//!   call, so a call that is over within a tick pays for none of this.
//! - S6. At every tick a running guest gives its thread back to the executor, through tokio's own yield: that one lets the timers and the
//!   sockets be polled too, where waking oneself does not. At the first, its call moves to other threads (`pool.rs`).

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use mortise_manifest::Limits;
use mortise_runtime::{CallContext, HostServices, LogLine};
use mortise_wire::{Code, Level, LogRecord, Status};
use prost::Message;
use tokio::sync::Notify;
use wasmtime::{Caller, Memory, ResourceLimiter, Store, TypedFunc, UpdateDeadline, WasmParams};

use crate::{
    engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX},
    fault::Interrupted,
    pool,
};

/// Longest encoded log record that is read; the host cuts and counts far below that.
const LOG_RECORD_BYTES_MAX: usize = 64 << 10;
/// Longest `package.Service/Method` of a call to the host.
const TARGET_BYTES_MAX: usize = 4096;

/// What all stores of one plugin instance share.
pub(crate) struct Shared {
    pub(crate) plugin: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) services: Arc<dyn HostServices>,
    pub(crate) memory: MemoryMeter,
    /// Ticks that found a guest of this artifact running: how long it has run, without a clock.
    pub(crate) busy_ticks: Arc<AtomicU64>,
    no_call: CallContext,
    halted: AtomicBool,
    halt: Notify,
}

/// Bytes of linear memory, over all stores of an instance.
#[derive(Default)]
pub(crate) struct MemoryMeter {
    now: AtomicU64,
    peak: AtomicU64,
}

impl MemoryMeter {
    fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    fn sub(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Shared {
    pub(crate) fn new(
        plugin: Arc<str>,
        limits: Limits,
        services: Arc<dyn HostServices>,
        busy_ticks: Arc<AtomicU64>,
    ) -> Self {
        Self {
            plugin,
            limits,
            services,
            memory: MemoryMeter::default(),
            busy_ticks,
            no_call: CallContext::default(),
            halted: AtomicBool::new(false),
            halt: Notify::new(),
        }
    }

    /// Stores that are alive. Each holds one reference, the instance another.
    pub(crate) fn stores(self: &Arc<Self>) -> usize {
        Arc::strong_count(self).saturating_sub(1)
    }

    /// Ends every guest of this instance at its next tick, and every host call it waits for at once. For good.
    pub(crate) fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
        self.halt.notify_waiters();
    }

    pub(crate) fn halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }

    async fn until_halted(&self) {
        let mut halt = std::pin::pin!(self.halt.notified());
        // Registered before the flag is read, or a halt in between would be missed.
        halt.as_mut().enable();
        if !self.halted() {
            halt.await;
        }
    }
}

/// A growth that the limiter refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    asked_bytes: u64,
    limit_bytes: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it asked for {} KiB of linear memory, and may have {}",
            self.asked_bytes >> 10,
            self.limit_bytes >> 10
        )
    }
}

/// A store's own data.
pub(crate) struct Cell {
    shared: Arc<Shared>,
    /// Of the call that the guest is in. Kept between calls: see [`take_over`].
    call: CallContext,
    in_call: bool,
    deadline: Instant,
    memory_bytes: u64,
    refused: Option<Refused>,
    /// Reused for the encoded head of each call.
    pub(crate) scratch: Vec<u8>,
    /// Of the call that the doorway of `abi/unwrapped.rs` brings in.
    pub(crate) payload: Bytes,
    /// The guest's memory, where the doorway needs it.
    pub(crate) memory: Option<Memory>,
    /// The host has the guest's allocator make room for what it answers: see [`room_for_answer`].
    allocates: bool,
}

/// Has the guest's allocator make room in the middle of a call to the host: an entry into the guest, and so a fiber, inside another one. An allocator
/// that calls the host itself would get one more with each level, and their stacks are no memory that a limit counts; so it may not
/// ([`no_host_in_allocator`]), and a guest has two fibers at most.
pub(crate) async fn room_for_answer<P: WasmParams + Sync>(
    caller: &mut Caller<'_, Cell>,
    alloc: TypedFunc<P, u32>,
    params: P,
) -> wasmtime::Result<u32> {
    caller.data_mut().allocates = true;
    let at = alloc.call_async(&mut *caller, params).await;
    caller.data_mut().allocates = false;
    at
}

/// The other half of [`room_for_answer`]: what a call to the host begins with.
pub(crate) fn no_host_in_allocator(cell: &Cell) -> wasmtime::Result<()> {
    if cell.allocates {
        return Err(wasmtime::Error::msg(
            "the guest called the host from within its allocator, while the host waited for room for an answer",
        ));
    }
    Ok(())
}

/// A store with its limits set. Nothing has been instantiated in it.
pub(crate) fn new_store(engine: &wasmtime::Engine, shared: &Arc<Shared>, deadline: Instant) -> Store<Cell> {
    let cell = Cell {
        shared: Arc::clone(shared),
        call: CallContext::default(),
        in_call: false,
        deadline,
        memory_bytes: 0,
        refused: None,
        scratch: Vec::new(),
        payload: Bytes::new(),
        memory: None,
        allocates: false,
    };
    let mut store = Store::new(engine, cell);
    store.limiter(|cell| cell);
    // A message and its copy, and room for the rest of what crosses (a target, a status).
    store.set_hostcall_fuel(
        shared
            .limits
            .payload_bytes_max
            .saturating_mul(2)
            .saturating_add(1 << 20),
    );
    store.epoch_deadline_callback(|store| {
        store.data().shared.busy_ticks.fetch_add(1, Ordering::Relaxed);
        match store.data().verdict(Instant::now()) {
            Some(why) => Err(wasmtime::Error::new(why)),
            None => {
                pool::ticked();
                Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
            }
        }
    });
    store.set_epoch_deadline(1);
    store
}

impl Cell {
    /// Starts the clock of one entry into the guest. The caller resets the store's epoch deadline, too.
    pub(crate) fn begin(&mut self, call: Option<&CallContext>, deadline: Instant) {
        self.in_call = call.is_some();
        if let Some(call) = call {
            take_over(&mut self.call, call);
        }
        self.deadline = deadline;
        self.refused = None;
    }

    /// Forgets the call after the guest has answered it.
    pub(crate) fn end(&mut self) {
        self.in_call = false;
        take_over(&mut self.call, &self.shared.no_call);
    }

    fn call(&self) -> Option<&CallContext> {
        self.in_call.then_some(&self.call)
    }

    /// The last growth that was refused, if any was.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Linear memory of this store.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Largest message in either direction.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.shared.limits.payload_bytes_max
    }

    fn verdict(&self, now: Instant) -> Option<Interrupted> {
        if self.shared.halted() {
            Some(Interrupted::Halted)
        } else if now >= self.deadline {
            Some(Interrupted::Deadline)
        } else {
            None
        }
    }

    /// Takes a log record as the guest encoded it.
    pub(crate) fn log(&self, encoded: &[u8]) {
        let record = match LogRecord::decode(&encoded[..encoded.len().min(LOG_RECORD_BYTES_MAX)]) {
            Ok(record) => record,
            Err(_) => LogRecord {
                level: Level::Warn as i32,
                target: "mortise".to_owned(),
                message: format!("the plugin logged {} bytes that are no LogRecord", encoded.len()),
                ..LogRecord::default()
            },
        };
        self.shared.services.log(LogLine {
            record: &record,
            call: self.call(),
        });
    }

    /// What a guest is told that calls with more than is carried. Asked before anything is copied, where the guest's lengths are known.
    pub(crate) fn too_much(&self, target_bytes: usize, payload_bytes: usize) -> Option<Status> {
        let bytes_max = self.payload_bytes_max();
        if target_bytes > TARGET_BYTES_MAX {
            let text = format!(
                "the name of what is called has {target_bytes} bytes, and no method's has more than {TARGET_BYTES_MAX}"
            );
            return Some(Status::new(Code::InvalidArgument, text));
        }
        (payload_bytes > bytes_max).then(|| too_long("request", payload_bytes, bytes_max))
    }

    /// A call of the guest to the host, or the status that it gets instead. The parent is always the call that the guest is in, whatever it says: it could escape its own deadline
    /// and depth otherwise. The answer's error is for the guest; the outer error ends it.
    pub(crate) fn call_host(
        &self,
        request: Result<(String, Bytes), Status>,
    ) -> impl Future<Output = Result<Result<Vec<u8>, Vec<u8>>, Interrupted>> + Send + use<> {
        let (shared, parent, deadline) = (Arc::clone(&self.shared), self.call().cloned(), self.deadline);
        async move {
            let bytes_max = shared.limits.payload_bytes_max;
            let (target, payload) = match request {
                Ok(request) => request,
                Err(status) => return Ok(Err(status.encode_to_vec())),
            };
            let answer = tokio::select! {
                biased;
                answer = shared.services.call(parent.as_ref(), &target, payload) => answer,
                () = tokio::time::sleep_until(deadline.into()) => return Err(Interrupted::Deadline),
                () = shared.until_halted() => return Err(Interrupted::Halted),
            };
            Ok(match answer {
                Ok(reply) if reply.len() > bytes_max => {
                    Err(too_long("reply", reply.len(), bytes_max).encode_to_vec())
                }
                Ok(reply) => Ok(reply.into()),
                Err(status) => Err(status.encode_to_vec()),
            })
        }
    }
}

/// Makes `kept` equal to `new`. Most calls carry no trace, no headers and no caller; where both have none, nothing is counted up or down.
fn take_over(kept: &mut CallContext, new: &CallContext) {
    let CallContext {
        call_id,
        deadline,
        began,
        traceparent,
        metadata,
        depth,
        caller,
        untold,
        trail,
    } = new;
    (kept.call_id, kept.deadline, kept.began, kept.depth) = (*call_id, *deadline, *began, *depth);
    kept.untold = *untold;
    if !(kept.traceparent.is_empty() && traceparent.is_empty()) {
        kept.traceparent = Arc::clone(traceparent);
    }
    if !(kept.metadata.is_empty() && metadata.is_empty()) {
        kept.metadata = Arc::clone(metadata);
    }
    if !(kept.caller.is_empty() && caller.is_empty()) {
        kept.caller = Arc::clone(caller);
    }
    if !(kept.trail.is_empty() && trail.is_empty()) {
        kept.trail = trail.clone();
    }
}

fn too_long(what: &str, bytes: usize, bytes_max: usize) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!("the {what} has {bytes} bytes, and at most {bytes_max} are carried"),
    )
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.shared.memory.sub(self.memory_bytes);
    }
}

impl ResourceLimiter for Cell {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = (desired as u64).saturating_sub(current as u64);
        let total = self.memory_bytes.saturating_add(grown);
        let limit_bytes = self.shared.limits.memory_bytes_max;
        if total > limit_bytes {
            self.refused = Some(Refused {
                asked_bytes: total,
                limit_bytes,
            });
            return Ok(false);
        }
        self.memory_bytes = total;
        self.shared.memory.add(grown);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
