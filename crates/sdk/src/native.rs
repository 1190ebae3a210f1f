//! The native guest: `include/mortise.h` from the plugin's side.
//!
//! Rules that hold for every function the host can reach:
//! 1. Nothing unwinds out of it: the body runs in `catch_unwind`, and so does the drop of what was thrown.
//! 2. After a panic the instance is poisoned: plugin code runs in it no more, but for its destructor.
//! 3. Memory of the other side is written through `MtOut` only, and never freed.
//! 4. Fields that a later minor version of the ABI may lack are looked at through `mt_has!`.
//!
//! The panic hook of the library (each shared library has a std of its own) remembers message and place for the thread and prints
//! nothing: symbolizing a backtrace costs tens of megabytes per loaded library. The caught panic is then told to the host.

use std::{
    any::Any,
    cell::RefCell,
    ffi::c_void,
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, slice,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mortise_abi::{
    MT_ABI_MAJOR, MT_ABI_MINOR, MT_E_ABI, MT_E_BAD_ARG, MT_E_NOMEM, MT_E_PANIC, MT_F_PANIC_ABORT, MT_MAGIC,
    MT_OK, MtCall, MtEntry, MtHost, MtInstance, MtMethod, MtOut, MtSlice, MtStatus, MtStr, mt_has,
};
use mortise_wire::{CallHead, Code, Health, LogRecord, StartRequest, Status};
use prost::Message;

use crate::{
    Cx, Link, Result,
    guest::{MethodOf, Plugin, StreamOf, decode},
};

/// How often a waiting plugin looks whether its call was cancelled.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// The exported symbol.
#[repr(transparent)]
pub struct Entry(MtEntry);

/// One running copy. The host's `this` points to it.
struct Instance<P> {
    abi: MtInstance,
    /// What `abi.methods` points to.
    _methods: Box<[MtMethod]>,
    shared: Box<Shared>,
    plugin: P,
}

/// The part of an instance that does not depend on the plugin's type, and exists before the plugin does.
struct Shared {
    host: *const MtHost,
    started: StartRequest,
    /// Set for good by a panic.
    poisoned: AtomicBool,
}

/// The host's side of a `Cx`, for one call.
struct NativeLink {
    /// Outlives the link: a `Cx` is lent for the call, and the instance lives until `destroy`.
    shared: *const Shared,
    /// Valid for the call; null on the fast path and in `start`.
    call: *const MtCall,
    /// When the call came, if it has a deadline: the clock is not read for one that has none.
    began: Option<Instant>,
}

/// The host's buffer for a reply.
struct Out(*mut MtOut);

/// A buffer of ours that a host writes a reply into.
#[repr(C)]
struct VecOut {
    out: MtOut,
    buffer: Vec<u8>,
}

/// A panic on this thread that was not yet told to the host.
struct Panicked {
    message: String,
    location: String,
}

// SAFETY: an `Entry` is a constant: its pointers lead to functions and to a `'static` slice, and nothing writes through them.
unsafe impl Sync for Entry {}

// SAFETY: `host` leads to the host's table, whose functions may be called from any thread (mortise.h, `mt_host`); the rest is Sync.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

// SAFETY: `shared` leads to a Sync value, `call` to a struct that is only read (its `cancelled` with an atomic load), and both outlive
// every `&Cx` that the plugin can get hold of.
unsafe impl Send for NativeLink {}
// SAFETY: as above.
unsafe impl Sync for NativeLink {}

// === impl Entry ===

impl Entry {
    /// The entry of the plugin `P`.
    #[must_use]
    pub const fn new<P: Plugin>(metadata: &'static [u8]) -> Self {
        Self(MtEntry {
            magic: MT_MAGIC,
            size: size_of::<MtEntry>() as u32,
            abi_major: MT_ABI_MAJOR,
            abi_minor: MT_ABI_MINOR,
            flags: if cfg!(panic = "abort") {
                MT_F_PANIC_ABORT
            } else {
                0
            },
            metadata: MtSlice::new(metadata),
            create: Some(create::<P>),
            get_ext: None,
        })
    }

    /// What the host sees.
    #[must_use]
    pub const fn abi(&self) -> &MtEntry {
        &self.0
    }
}

// === what the host calls ===

unsafe extern "C" fn create<P: Plugin>(
    host: *const MtHost,
    start: MtSlice,
    instance: *mut *const MtInstance,
    err: *mut MtOut,
) -> MtStatus {
    if host.is_null() || instance.is_null() {
        return MT_E_BAD_ARG;
    }
    // SAFETY: the host passes its table, valid until `destroy`; `size` and the versions are in every version of it.
    let (size, major) = unsafe { ((*host).size, (*host).abi_major) };
    if major != MT_ABI_MAJOR || !mt_has!(size, MtHost, panicked) {
        return MT_E_ABI;
    }
    install_hook();
    // SAFETY: a slice argument is valid until this function returns.
    let Ok(started) = StartRequest::decode(unsafe { bytes(&start) }) else {
        return MT_E_BAD_ARG;
    };
    let shared = Box::new(Shared {
        host,
        started,
        poisoned: AtomicBool::new(false),
    });
    let mut made = None;
    let status = contain(&shared, err, || {
        let cx = Cx::new(NativeLink::new(&shared, ptr::null()));
        P::start(&cx).map(|plugin| made = Some(plugin))
    });
    let Some(plugin) = made.filter(|_| status == MT_OK) else {
        return status;
    };
    let instance_ptr = Instance::into_raw(plugin, shared);
    // SAFETY: checked for null above; the instance lives until `destroy`.
    unsafe { *instance = &raw const (*instance_ptr).abi };
    MT_OK
}

/// One method of `P`, compiled for it alone.
pub(crate) unsafe extern "C" fn invoke<P: 'static, M: MethodOf<P>>(
    this: *mut c_void,
    call: *const MtCall,
    input: MtSlice,
    out: *mut MtOut,
) -> MtStatus {
    // SAFETY: the host hands back the `this` of an instance that it has not destroyed.
    let instance = unsafe { &*this.cast::<Instance<P>>() };
    if instance.shared.poisoned.load(Ordering::Relaxed) {
        return poisoned(out);
    }
    let mut written = MT_OK;
    let status = contain(&instance.shared, out, || {
        // SAFETY: a slice argument is valid until this function returns.
        let request = decode::<P, M>(unsafe { bytes(&input) })?;
        let cx = Cx::new(NativeLink::new(&instance.shared, call));
        let reply = M::call(&instance.plugin, &cx, request)?;
        written = Out(out).write(&reply);
        Ok(())
    });
    if status == MT_OK { written } else { status }
}

/// What stands in the table for a streaming method: it cannot be invoked.
pub(crate) unsafe extern "C" fn refuse_stream<P: 'static, M: StreamOf<P>>(
    _this: *mut c_void,
    _call: *const MtCall,
    _input: MtSlice,
    out: *mut MtOut,
) -> MtStatus {
    let before = Out(out).len();
    refuse(out, before, crate::stream::not_unary(M::SERVICE, M::NAME))
}

unsafe extern "C" fn health<P: Plugin>(this: *mut c_void, out: *mut MtOut) -> MtStatus {
    // SAFETY: as in `invoke`.
    let instance = unsafe { &*this.cast::<Instance<P>>() };
    if instance.shared.poisoned.load(Ordering::Relaxed) {
        return poisoned(out);
    }
    let mut health = Health::default();
    let status = contain(&instance.shared, out, || {
        health = crate::health_of(&instance.plugin);
        Ok(())
    });
    if status == MT_OK {
        Out(out).write(&health)
    } else {
        status
    }
}

unsafe extern "C" fn deactivate<P: Plugin>(this: *mut c_void, err: *mut MtOut) -> MtStatus {
    // SAFETY: as in `invoke`.
    let instance = unsafe { &*this.cast::<Instance<P>>() };
    if instance.shared.poisoned.load(Ordering::Relaxed) {
        return MT_OK;
    }
    contain(&instance.shared, err, || {
        instance.plugin.stop();
        Ok(())
    })
}

unsafe extern "C" fn destroy<P: Plugin>(this: *mut c_void) {
    // SAFETY: made by `Instance::into_raw`, and `destroy` is the host's last call with it.
    let instance = unsafe { Box::from_raw(this.cast::<Instance<P>>()) };
    let Instance {
        shared,
        plugin,
        _methods,
        abi: _,
    } = *instance;
    if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(plugin))) {
        tell(&shared, thrown);
    }
}

// === impl Instance ===

impl<P: Plugin> Instance<P> {
    fn into_raw(plugin: P, shared: Box<Shared>) -> *mut Self {
        let methods: Box<[MtMethod]> = (0..crate::guest::numbers::<P>())
            .map_while(crate::guest::method::<P>)
            .map(|it| MtMethod {
                size: size_of::<MtMethod>() as u32,
                flags: it.flags,
                service: MtStr::new(it.service),
                method: MtStr::new(it.name),
                wire_hash: it.wire_hash,
                invoke: Some(it.native),
                invoke_async: None,
            })
            .collect();
        let abi = MtInstance {
            size: size_of::<MtInstance>() as u32,
            n_methods: methods.len() as u32,
            method_stride: size_of::<MtMethod>() as u32,
            reserved: 0,
            this: ptr::null_mut(),
            methods: methods.as_ptr(),
            activate: None,
            deactivate: Some(deactivate::<P>),
            health: Some(health::<P>),
            save_state: None,
            load_state: None,
            cancel: None,
            destroy: Some(destroy::<P>),
            get_ext: None,
        };
        let instance = Box::into_raw(Box::new(Self {
            abi,
            _methods: methods,
            shared,
            plugin,
        }));
        // SAFETY: just made, and nobody else knows it yet.
        unsafe { (*instance).abi.this = instance.cast() };
        instance
    }
}

// === impl NativeLink ===

impl NativeLink {
    fn new(shared: &Shared, call: *const MtCall) -> Self {
        // SAFETY: null, or valid for the call.
        let deadline_ns = unsafe { call.as_ref() }.map_or(0, |it| it.deadline_ns);
        Self {
            shared,
            call,
            began: (deadline_ns != 0).then(Instant::now),
        }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: see the field.
        unsafe { &*self.shared }
    }

    fn call(&self) -> Option<&MtCall> {
        // SAFETY: see the field.
        unsafe { self.call.as_ref() }
    }
}

impl Link for NativeLink {
    fn started(&self) -> &StartRequest {
        &self.shared().started
    }

    fn head(&self) -> CallHead {
        let Some(call) = self.call() else {
            return CallHead::default();
        };
        // SAFETY: valid for the call.
        let head = CallHead::decode(unsafe { bytes(&call.head) }).unwrap_or_default();
        CallHead {
            call_id: call.call_id,
            deadline_ns: call.deadline_ns,
            depth: call.depth,
            ..head
        }
    }

    fn elapsed(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |it| it.elapsed())
    }

    fn is_cancelled(&self) -> bool {
        let flag = self.call().map_or(ptr::null(), |it| it.cancelled);
        // SAFETY: null, or aligned and valid for the call; both sides touch it with atomic operations only.
        !flag.is_null() && unsafe { AtomicU32::from_ptr(flag.cast_mut()) }.load(Ordering::Relaxed) != 0
    }

    fn now(&self) -> Result<SystemTime> {
        Ok(SystemTime::now())
    }

    fn wait(&self, duration: Duration) {
        let began = Instant::now();
        while let Some(left) = duration.checked_sub(began.elapsed()).filter(|it| !it.is_zero()) {
            if self.is_cancelled() {
                return;
            }
            std::thread::sleep(left.min(WAIT_STEP));
        }
    }

    fn log(&self, record: &LogRecord) {
        let host = self.shared().host();
        if let Some(log) = host.log {
            let record = record.encode_to_vec();
            // SAFETY: the host's own function with the host's own context; the slice outlives the call.
            unsafe { log(host.ctx, MtSlice::new(&record)) };
        }
    }

    fn call(&self, _: u64, target: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        let host = self.shared().host();
        let Some(call) = host.call else {
            return Err(Status::new(
                Code::Unimplemented,
                "this host offers no services to native plugins",
            ));
        };
        let mut reply = VecOut::new();
        // SAFETY: the host's own function and context; every argument outlives the call, and `reply` is written through `grow`.
        let status = unsafe {
            call(
                host.ctx,
                self.call,
                MtStr::new(target),
                MtSlice::new(&payload),
                (&raw mut reply).cast(),
            )
        };
        let bytes = reply.take();
        if status == MT_OK {
            Ok(bytes)
        } else {
            Err(status_of(target, status, &bytes))
        }
    }
}

impl Shared {
    fn host(&self) -> &MtHost {
        // SAFETY: the host's table is valid until `destroy` returns, and `create` checked that it is long enough.
        unsafe { &*self.host }
    }
}

/// The status of a failed call to the host.
fn status_of(target: &str, status: MtStatus, encoded: &[u8]) -> Status {
    match Status::decode(encoded) {
        Ok(it) if it.code != 0 => it,
        _ if status > 0 => Status::new(
            Code::from_i32(status),
            format!("`{target}` failed and did not say why"),
        ),
        _ => Status::internal(format_args!(
            "the host could not call `{target}`: platform status {status}"
        )),
    }
}

// === impl Out ===

impl Out {
    /// Appends an encoded message.
    fn write(&mut self, message: &impl Message) -> MtStatus {
        let bytes = message.encoded_len();
        // SAFETY: null, or the host's buffer, ours alone until the host's function returns.
        let Some(out) = (unsafe { self.0.as_mut() }) else {
            return MT_E_BAD_ARG;
        };
        if out.cap - out.len < bytes {
            let Some(grow) = out.grow else {
                return MT_E_NOMEM;
            };
            // SAFETY: the host's own function on the host's own buffer.
            let status = unsafe { grow(out, out.len.saturating_add(bytes)) };
            if status != MT_OK || out.cap - out.len < bytes {
                return MT_E_NOMEM;
            }
        }
        if bytes == 0 {
            return MT_OK;
        }
        // SAFETY: `ptr[len..cap)` is the host's memory for us to write, and at least `bytes` long as checked above.
        let mut spare: &mut [MaybeUninit<u8>] =
            unsafe { slice::from_raw_parts_mut(out.ptr.add(out.len).cast(), bytes) };
        match message.encode(&mut spare) {
            Ok(()) => {
                out.len += bytes - spare.len();
                MT_OK
            }
            Err(_) => MT_E_NOMEM,
        }
    }

    fn len(&self) -> usize {
        // SAFETY: as in `write`.
        unsafe { self.0.as_ref() }.map_or(0, |it| it.len)
    }

    fn truncate(&mut self, len: usize) {
        // SAFETY: as in `write`.
        if let Some(out) = unsafe { self.0.as_mut() } {
            out.len = out.len.min(len);
        }
    }
}

impl VecOut {
    fn new() -> Self {
        let out = MtOut {
            size: size_of::<MtOut>() as u32,
            reserved: 0,
            ptr: ptr::null_mut(),
            len: 0,
            cap: 0,
            grow: Some(Self::grow),
        };
        Self {
            out,
            buffer: Vec::new(),
        }
    }

    fn take(mut self) -> Vec<u8> {
        // SAFETY: the host wrote `ptr[..len]`, and `len` is at most `cap`, the vector's capacity.
        unsafe { self.buffer.set_len(self.out.len.min(self.buffer.capacity())) };
        self.buffer
    }

    unsafe extern "C" fn grow(out: *mut MtOut, min_cap: usize) -> MtStatus {
        // SAFETY: only `call` hands out this function, together with the `out` of a `VecOut`, which is its first field.
        let this = unsafe { &mut *out.cast::<Self>() };
        let len = this.out.len.min(this.buffer.capacity());
        // SAFETY: the host wrote `ptr[..len]`.
        unsafe { this.buffer.set_len(len) };
        if this.buffer.try_reserve(min_cap.saturating_sub(len)).is_err() {
            return MT_E_NOMEM;
        }
        this.out.ptr = this.buffer.as_mut_ptr();
        this.out.cap = this.buffer.capacity();
        MT_OK
    }
}

// === panics ===

thread_local! {
    static LAST: RefCell<Option<Panicked>> = const { RefCell::new(None) };
}

/// Runs plugin code. An error becomes an encoded Status in `out`, a panic MT_E_PANIC and a poisoned instance.
fn contain(shared: &Shared, out: *mut MtOut, body: impl FnOnce() -> Result<()>) -> MtStatus {
    let before = Out(out).len();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => MT_OK,
        Ok(Err(status)) => refuse(out, before, status),
        Err(thrown) => {
            shared.poisoned.store(true, Ordering::Relaxed);
            let message = tell(shared, thrown);
            let _ = refuse(out, before, Status::internal(message));
            MT_E_PANIC
        }
    }
}

#[cold]
fn refuse(out: *mut MtOut, before: usize, status: Status) -> MtStatus {
    let code = status.kind() as MtStatus;
    let mut out = Out(out);
    out.truncate(before);
    // Without room for the status its code has to do.
    let _ = out.write(&Status { code, ..status });
    code
}

#[cold]
fn poisoned(out: *mut MtOut) -> MtStatus {
    let before = Out(out).len();
    let _ = refuse(
        out,
        before,
        Status::internal("the instance panicked before, and its state is not to be trusted"),
    );
    MT_E_PANIC
}

/// Tells the host of a caught panic; gives the message.
#[cold]
fn tell(shared: &Shared, thrown: Box<dyn Any + Send>) -> String {
    let last = LAST.try_with(|it| it.take()).ok().flatten();
    let Panicked { message, location } = last.unwrap_or_else(|| Panicked {
        message: "a panic without a message".to_owned(),
        location: String::new(),
    });
    // What was thrown may have a destructor of the plugin's, which may panic in turn.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
        std::mem::forget(again);
    }
    let host = shared.host();
    if let Some(panicked) = host.panicked {
        // SAFETY: the host's own function and context; both texts outlive the call.
        unsafe { panicked(host.ctx, MtStr::new(&message), MtStr::new(&location)) };
    }
    format!("the plugin panicked at {location}: {message}")
}

/// Once per loaded library. In an executable (a test, the process variant) the default hook stays.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let message = info
                .payload_as_str()
                .unwrap_or("a panic without a text")
                .to_owned();
            let location = info.location().map(ToString::to_string).unwrap_or_default();
            // A thread that is going away has no place to remember it.
            let _ = LAST.try_with(|it| it.replace(Some(Panicked { message, location })));
        }));
    });
}

/// The bytes of a slice argument.
///
/// # Safety
/// `slice` is valid for as long as the result is used.
unsafe fn bytes(slice: &MtSlice) -> &[u8] {
    if slice.len == 0 || slice.ptr.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(slice.ptr, slice.len) }
}
