//! The C ABI of native plugins, as Rust types: the mirror of `include/mortise.h`.
//!
//! This crate holds layouts and constants only. It calls nothing, opens nothing and has no dependency, because it is
//! compiled into every plugin. The header is the source; a test compiles it with the machine's C compiler and compares
//! every size and offset with what stands here.
//!
//! Read a field that a minor version appended only after [`mt_has!`]: a plugin built against an older minor
//! version has shorter structs.
#![no_std]
#![forbid(unsafe_code)]

use core::ffi::c_void;

/// First field of every entry: `"MTE1"` in memory order on a little-endian machine.
pub const MT_MAGIC: u32 = 0x3145_544D;
/// Bumped with a new entry symbol; a host refuses another major.
pub const MT_ABI_MAJOR: u16 = 1;
/// Bumped when fields are appended; any minor is accepted.
pub const MT_ABI_MINOR: u16 = 0;
/// Name of the one exported symbol, NUL-terminated.
pub const MT_ENTRY_SYMBOL: &core::ffi::CStr = c"mortise_entry_v1";
/// Object section that holds the metadata: ELF and PE.
pub const MT_SECTION: &str = ".mortise";
/// Segment and section that hold the metadata: Mach-O.
pub const MT_SECTION_MACHO: (&str, &str) = ("__DATA", "__mortise");

/// Bytes, borrowed: valid until the callee returns. `ptr` may be null when `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MtSlice {
    /// First byte.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl MtSlice {
    /// No bytes.
    pub const EMPTY: Self = Self {
        ptr: core::ptr::null(),
        len: 0,
    };

    /// Lends `bytes` to the callee.
    #[must_use]
    pub const fn new(bytes: &[u8]) -> Self {
        Self {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        }
    }
}

/// UTF-8 without NUL, of static lifetime unless the field says otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MtStr {
    /// First byte.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl MtStr {
    /// Lends `text` to the callee.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        Self {
            ptr: text.as_ptr(),
            len: text.len(),
        }
    }
}

/// The host's output buffer. The plugin writes `ptr[len..cap)`, sets `len` and asks `grow` for more.
#[repr(C)]
#[derive(Debug)]
pub struct MtOut {
    /// `size_of::<MtOut>()` as the host was built.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// Start of the buffer.
    pub ptr: *mut u8,
    /// Bytes written so far.
    pub len: usize,
    /// Bytes that fit.
    pub cap: usize,
    /// Makes `cap` at least `min_cap`; may move `ptr`; 0 or `MT_E_NOMEM`.
    pub grow: Option<unsafe extern "C" fn(out: *mut MtOut, min_cap: usize) -> i32>,
}

/// 0 is success, > 0 a gRPC status code, < 0 one of the `MT_E_*`.
pub type MtStatus = i32;
/// Success.
pub const MT_OK: MtStatus = 0;
/// The instance has no such method.
pub const MT_E_UNKNOWN_METHOD: MtStatus = -1;
/// An argument or a payload does not parse.
pub const MT_E_BAD_ARG: MtStatus = -2;
/// Out of memory, or over the host's limit.
pub const MT_E_NOMEM: MtStatus = -3;
/// The plugin caught a panic; the instance is poisoned.
pub const MT_E_PANIC: MtStatus = -4;
/// The instance takes no new calls.
pub const MT_E_DRAINING: MtStatus = -5;
/// The answer comes through `mt_done`.
pub const MT_PENDING: MtStatus = -6;
/// The two sides do not agree on the ABI.
pub const MT_E_ABI: MtStatus = -7;

/// The call may be repeated.
pub const MT_CALL_IDEMPOTENT: u32 = 1;

/// What travels beside the payload.
#[repr(C)]
#[derive(Debug)]
pub struct MtCall {
    /// `size_of::<MtCall>()` as the host was built.
    pub size: u32,
    /// `MT_CALL_*`.
    pub flags: u32,
    /// Unique within the instance.
    pub call_id: u64,
    /// Nanoseconds left when the call began; 0 = none.
    pub deadline_ns: u64,
    /// Non-zero once the call is cancelled; read with an atomic load; may be null.
    pub cancelled: *const u32,
    /// An encoded `CallHead`.
    pub head: MtSlice,
    /// Nesting of plugin-to-plugin calls.
    pub depth: u32,
    /// Zero.
    pub reserved: u32,
}

/// A method, called on the caller's thread.
pub type MtInvokeFn =
    unsafe extern "C" fn(this: *mut c_void, call: *const MtCall, input: MtSlice, out: *mut MtOut) -> MtStatus;

/// Completion of an async method: called exactly once, from any thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MtDone {
    /// Takes the status and the reply (or the encoded `Status`).
    pub complete: Option<unsafe extern "C" fn(ctx: *mut c_void, status: MtStatus, out: MtSlice)>,
    /// Handed back to `complete`.
    pub ctx: *mut c_void,
}

/// A method that answers through [`MtDone`].
pub type MtInvokeAsyncFn =
    unsafe extern "C" fn(this: *mut c_void, call: *const MtCall, input: MtSlice, done: MtDone) -> MtStatus;

/// The method may be repeated.
pub const MT_METHOD_IDEMPOTENT: u32 = 1;
/// The method returns promptly and never blocks.
pub const MT_METHOD_NONBLOCKING: u32 = 2;
/// `mt_method.flags`: the caller sends a stream of requests.
pub const MT_METHOD_CLIENT_STREAMING: u32 = 4;
/// `mt_method.flags`: the method answers with a stream of replies.
pub const MT_METHOD_SERVER_STREAMING: u32 = 8;

/// One row of an instance's method table.
#[repr(C)]
#[derive(Debug)]
pub struct MtMethod {
    /// `size_of::<MtMethod>()` as the plugin was built.
    pub size: u32,
    /// `MT_METHOD_*`.
    pub flags: u32,
    /// `package.Service`.
    pub service: MtStr,
    /// Method name.
    pub method: MtStr,
    /// See `mortise-contract`.
    pub wire_hash: [u8; 32],
    /// Null if the method is async only.
    pub invoke: Option<MtInvokeFn>,
    /// Null if the method is sync only.
    pub invoke_async: Option<MtInvokeAsyncFn>,
}

/// One instance, owned by the plugin until `destroy`.
#[repr(C)]
#[derive(Debug)]
pub struct MtInstance {
    /// `size_of::<MtInstance>()` as the plugin was built.
    pub size: u32,
    /// Rows in `methods`.
    pub n_methods: u32,
    /// `size_of::<MtMethod>()` as the plugin was built.
    pub method_stride: u32,
    /// Zero.
    pub reserved: u32,
    /// Handed to every function.
    pub this: *mut c_void,
    /// First row.
    pub methods: *const MtMethod,
    /// Before the first call.
    pub activate: Option<unsafe extern "C" fn(this: *mut c_void, err: *mut MtOut) -> MtStatus>,
    /// After the last call; joins every thread the plugin started.
    pub deactivate: Option<unsafe extern "C" fn(this: *mut c_void, err: *mut MtOut) -> MtStatus>,
    /// Writes an encoded `Health`.
    pub health: Option<unsafe extern "C" fn(this: *mut c_void, health: *mut MtOut) -> MtStatus>,
    /// Not called: state travels by reserved methods.
    pub save_state: Option<unsafe extern "C" fn(this: *mut c_void, out: *mut MtOut) -> MtStatus>,
    /// Not called.
    pub load_state:
        Option<unsafe extern "C" fn(this: *mut c_void, state: MtSlice, err: *mut MtOut) -> MtStatus>,
    /// Asks an async call to end early.
    pub cancel: Option<unsafe extern "C" fn(this: *mut c_void, call_id: u64)>,
    /// The last call.
    pub destroy: Option<unsafe extern "C" fn(this: *mut c_void)>,
    /// Extensions by string id.
    pub get_ext: Option<unsafe extern "C" fn(this: *mut c_void, id: MtStr) -> *const c_void>,
}

/// What the host offers. Valid from `create` until `destroy` returns.
#[repr(C)]
#[derive(Debug)]
pub struct MtHost {
    /// `size_of::<MtHost>()` as the host was built.
    pub size: u32,
    /// The host's ABI.
    pub abi_major: u16,
    /// The host's ABI.
    pub abi_minor: u16,
    /// Handed to every function.
    pub ctx: *mut c_void,
    /// Takes an encoded `LogRecord`.
    pub log: Option<unsafe extern "C" fn(ctx: *mut c_void, record: MtSlice)>,
    /// Calls `package.Service/Method` on behalf of `parent` (null = none); blocks.
    pub call: Option<
        unsafe extern "C" fn(
            ctx: *mut c_void,
            parent: *const MtCall,
            target: MtStr,
            input: MtSlice,
            out: *mut MtOut,
        ) -> MtStatus,
    >,
    /// Tells of a panic that the plugin caught.
    pub panicked: Option<unsafe extern "C" fn(ctx: *mut c_void, message: MtStr, location: MtStr)>,
    /// Extensions by string id.
    pub get_ext: Option<unsafe extern "C" fn(ctx: *mut c_void, id: MtStr) -> *const c_void>,
}

/// The library may really be closed: no thread-locals, no threads.
pub const MT_F_UNLOAD_SAFE: u32 = 1;
/// A panic aborts the process: refused in process.
pub const MT_F_PANIC_ABORT: u32 = 2;

/// The exported symbol `mortise_entry_v1`.
#[repr(C)]
#[derive(Debug)]
pub struct MtEntry {
    /// [`MT_MAGIC`].
    pub magic: u32,
    /// `size_of::<MtEntry>()` as the plugin was built.
    pub size: u32,
    /// The plugin's ABI.
    pub abi_major: u16,
    /// The plugin's ABI.
    pub abi_minor: u16,
    /// `MT_F_*`.
    pub flags: u32,
    /// The same bytes as in the object section.
    pub metadata: MtSlice,
    /// Makes an instance from an encoded `StartRequest`.
    pub create: Option<
        unsafe extern "C" fn(
            host: *const MtHost,
            start: MtSlice,
            instance: *mut *const MtInstance,
            err: *mut MtOut,
        ) -> MtStatus,
    >,
    /// Extensions by string id.
    pub get_ext: Option<unsafe extern "C" fn(id: MtStr) -> *const c_void>,
}

/// True if a struct of `size` bytes, as its author built it, reaches past the field `$field` of `$type`.
#[macro_export]
macro_rules! mt_has {
    ($size:expr, $type:ty, $field:ident) => {{
        const END: usize = ::core::mem::offset_of!($type, $field) + {
            const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
                ::core::mem::size_of::<F>()
            }
            size_of_field::<$type, _>(|it| &it.$field)
        };
        ($size as usize) >= END
    }};
}
