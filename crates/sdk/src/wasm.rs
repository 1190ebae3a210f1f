//! The WebAssembly guest: the world of `wit/plugin.wit`, by its canonical ABI, by hand.
//!
//! A core module has one instance, one thread, and is never entered while it is entered; so one static holds everything. What the
//! host lowers into memory (arguments, results of imports) it allocates through `realloc` and gives away; what the guest returns stays
//! its own until the host comes back. There is no `post_return`: it would be one more entry into the guest for every call. The last
//! answer is freed by whatever the host does next, and that begins with [`realloc`], before there is anything new to hold.

use std::{
    alloc::{Layout, alloc, handle_alloc_error, realloc as grow},
    cell::UnsafeCell,
    ptr,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use mortise_wire::{
    CallHead, Health, Level, LogRecord, StartRequest, Status,
    host::{NowReply, NowRequest, target},
};
use prost::Message;

use crate::{
    Cx, Link, Result,
    guest::{Plugin, method, unknown_method},
};

#[link(wasm_import_module = "mortise:plugin/host@1.0.0")]
unsafe extern "C" {
    #[link_name = "log"]
    fn host_log(record: *const u8, len: usize);
    #[link_name = "call"]
    fn host_call(
        parent: u64,
        target: *const u8,
        target_len: usize,
        payload: *const u8,
        payload_len: usize,
        result: *mut Outcome,
    );
}

/// The plugin in its module.
pub struct Guest<P> {
    plugin: OnceLock<P>,
}

/// What the last export returned.
struct Returned(UnsafeCell<Answer>);

struct Answer {
    outcome: Outcome,
    list: List,
    bytes: Vec<u8>,
}

/// `result<list<u8>, list<u8>>`, and `result<_, list<u8>>` as well.
#[repr(C)]
struct Outcome {
    tag: u8,
    list: List,
}

/// `list<u8>`
#[repr(C)]
#[derive(Clone, Copy)]
struct List {
    ptr: *mut u8,
    len: usize,
}

struct WasmLink {
    head: Vec<u8>,
    /// The host's monotonic clock when the call first looked at it.
    began_ns: OnceLock<u64>,
}

static STARTED: OnceLock<StartRequest> = OnceLock::new();

static RETURNED: Returned = Returned(UnsafeCell::new(Answer {
    outcome: Outcome { tag: 0, list: EMPTY },
    list: EMPTY,
    bytes: Vec::new(),
}));

#[cfg(all(feature = "heap", not(target_feature = "atomics")))]
#[global_allocator]
static HEAP: crate::heap::Heap = crate::heap::Heap::new();

// SAFETY: without the target feature `atomics` a module has one thread.
unsafe impl Sync for Returned {}

// SAFETY: as above.
unsafe impl<P> Sync for Guest<P> {}

const EMPTY: List = List {
    ptr: ptr::null_mut(),
    len: 0,
};

// === impl Guest: the exports ===

impl<P: Plugin> Guest<P> {
    /// A module whose plugin is not started.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a static needs it const, and nobody else makes one"
    )]
    pub const fn new() -> Self {
        Self {
            plugin: OnceLock::new(),
        }
    }

    /// Export `start`.
    ///
    /// # Safety
    /// Called by the host as the canonical ABI says: the argument is a list that it gives away.
    pub unsafe fn start(&self, request: *mut u8, len: usize) -> *const u8 {
        std::panic::set_hook(Box::new(|info| {
            let message = info.payload_as_str().unwrap_or("a panic without a text");
            let location = info.location().map(ToString::to_string).unwrap_or_default();
            log(&LogRecord {
                level: Level::Error as i32,
                message: format!("panicked at {location}: {message}"),
                ..LogRecord::default()
            });
        }));
        // SAFETY: the caller's promise.
        let request = unsafe { owned(request, len) };
        let outcome = StartRequest::decode(&*request)
            .map_err(|error| {
                Status::invalid_argument(format_args!("the start request does not parse: {error}"))
            })
            .and_then(|request| {
                let _ = STARTED.set(request);
                let plugin = P::start(&Cx::new(WasmLink::new(Vec::new())))?;
                self.plugin
                    .set(plugin)
                    .map_err(|_| Status::failed_precondition("`start` was called twice"))
            });
        RETURNED.outcome(outcome.map(|()| Vec::new()))
    }

    /// Export `invoke`.
    ///
    /// # Safety
    /// As [`Guest::start`], for both lists.
    pub unsafe fn invoke(
        &self,
        number: u32,
        head: *mut u8,
        head_len: usize,
        payload: *mut u8,
        payload_len: usize,
    ) -> *const u8 {
        // SAFETY: the caller's promise.
        let (head, payload) = unsafe { (owned(head, head_len), owned(payload, payload_len)) };
        let outcome = match (self.plugin.get(), method::<P>(number)) {
            (None, _) => Err(Status::failed_precondition("`invoke` was called before `start`")),
            (_, None) => Err(unknown_method::<P>(number)),
            (Some(plugin), Some(method)) => (method.invoke)(plugin, &Cx::new(WasmLink::new(head)), &payload),
        };
        RETURNED.outcome(outcome)
    }

    /// Export `health`.
    ///
    /// # Safety
    /// Called by the host, not during another call.
    pub unsafe fn health(&self) -> *const u8 {
        let health = match self.plugin.get() {
            Some(plugin) => crate::health_of(plugin),
            None => Health {
                serving: false,
                detail: "not started".to_owned(),
            },
        };
        RETURNED.list(health.encode_to_vec())
    }

    /// Export `stop`.
    ///
    /// # Safety
    /// Called by the host, not during another call.
    pub unsafe fn stop(&self) {
        if let Some(plugin) = self.plugin.get() {
            plugin.stop();
        }
    }
}

// === impl Returned ===

impl Returned {
    /// Frees it: the host has copied it, or it would not be here again.
    fn clear(&self) {
        // SAFETY: one thread, and no reference outlives the functions of this `impl`.
        let answer = unsafe { &mut *self.0.get() };
        if answer.bytes.capacity() != 0 {
            answer.bytes = Vec::new();
        }
    }

    /// Leaves a `result` for the host.
    fn outcome(&self, outcome: Result<Vec<u8>>) -> *const u8 {
        let (tag, bytes) = match outcome {
            Ok(bytes) => (0, bytes),
            Err(status) => (
                1,
                Status {
                    code: status.kind() as i32,
                    ..status
                }
                .encode_to_vec(),
            ),
        };
        // SAFETY: as in `clear`.
        let answer = unsafe { &mut *self.0.get() };
        let list = answer.keep(bytes);
        answer.outcome = Outcome { tag, list };
        (&raw const answer.outcome).cast()
    }

    /// Leaves a `list<u8>` for the host.
    fn list(&self, bytes: Vec<u8>) -> *const u8 {
        // SAFETY: as in `clear`.
        let answer = unsafe { &mut *self.0.get() };
        answer.list = answer.keep(bytes);
        (&raw const answer.list).cast()
    }
}

impl Answer {
    fn keep(&mut self, bytes: Vec<u8>) -> List {
        self.bytes = bytes;
        List {
            ptr: self.bytes.as_mut_ptr(),
            len: self.bytes.len(),
        }
    }
}

/// Export `cabi_realloc`.
///
/// # Safety
/// `old` is null or came from here with `old_len` and `align`. The host calls it to enter an export or to answer an import, never between an
/// export's return and its own look at what was returned.
pub unsafe fn realloc(old: *mut u8, old_len: usize, align: usize, len: usize) -> *mut u8 {
    if len == 0 {
        return ptr::without_provenance_mut(align);
    }
    RETURNED.clear();
    let Ok(layout) = Layout::from_size_align(len, align) else {
        std::process::abort();
    };
    let new = if old_len == 0 {
        // SAFETY: `len` is not 0.
        unsafe { alloc(layout) }
    } else {
        // SAFETY: the caller's promise; the alignment is the same, so `old` had a valid layout.
        unsafe { grow(old, Layout::from_size_align_unchecked(old_len, align), len) }
    };
    if new.is_null() {
        handle_alloc_error(layout);
    }
    new
}

// === impl WasmLink ===

impl WasmLink {
    const fn new(head: Vec<u8>) -> Self {
        Self {
            head,
            began_ns: OnceLock::new(),
        }
    }

    fn clock(&self) -> Result<NowReply> {
        let reply = call(0, target::CLOCK_NOW, &NowRequest {}.encode_to_vec())?;
        NowReply::decode(&*reply)
            .map_err(|error| Status::internal(format_args!("the host's time does not parse: {error}")))
    }
}

impl Link for WasmLink {
    fn started(&self) -> &StartRequest {
        STARTED.get_or_init(StartRequest::default)
    }

    fn head(&self) -> CallHead {
        CallHead::decode(&*self.head).unwrap_or_default()
    }

    fn elapsed(&self) -> Duration {
        let Ok(NowReply { monotonic_ns, .. }) = self.clock() else {
            return Duration::ZERO;
        };
        Duration::from_nanos(monotonic_ns.saturating_sub(*self.began_ns.get_or_init(|| monotonic_ns)))
    }

    /// A cancelled call is torn down by the host; it is never told.
    fn is_cancelled(&self) -> bool {
        false
    }

    fn now(&self) -> Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(self.clock()?.unix_ns))
    }

    fn wait(&self, duration: Duration) {
        let Ok(NowReply {
            monotonic_ns: began, ..
        }) = self.clock()
        else {
            return;
        };
        let until = began.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        while self.clock().is_ok_and(|it| it.monotonic_ns < until) {}
    }

    fn log(&self, record: &LogRecord) {
        log(record);
    }

    fn call(&self, call_id: u64, target: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        call(call_id, target, &payload)
    }
}

fn log(record: &LogRecord) {
    let record = record.encode_to_vec();
    // SAFETY: the host copies the list before it returns.
    unsafe { host_log(record.as_ptr(), record.len()) };
}

fn call(parent: u64, target: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let mut outcome = Outcome { tag: 0, list: EMPTY };
    // SAFETY: the host copies both arguments before it returns, and writes one `Outcome`.
    unsafe {
        host_call(
            parent,
            target.as_ptr(),
            target.len(),
            payload.as_ptr(),
            payload.len(),
            &raw mut outcome,
        )
    };
    // SAFETY: the host allocated the list with `realloc` at alignment 1 and gives it away.
    let bytes = unsafe { owned(outcome.list.ptr, outcome.list.len) };
    match outcome.tag {
        0 => Ok(bytes),
        _ => Err(Status::decode(&*bytes).unwrap_or_else(|error| {
            Status::internal(format_args!(
                "`{target}` failed, and its status does not parse: {error}"
            ))
        })),
    }
}

/// A list that the host gave away.
///
/// # Safety
/// `len` bytes at `ptr` were allocated by `realloc` with alignment 1, and nobody else frees them.
unsafe fn owned(ptr: *mut u8, len: usize) -> Vec<u8> {
    // SAFETY: the caller's promise; an empty list was not allocated.
    if len == 0 {
        Vec::new()
    } else {
        unsafe { Vec::from_raw_parts(ptr, len, len) }
    }
}
