//! What needs unsafe code: the anchor that calls a plugin's library through a plain function pointer, and what processes have used.

use std::{ffi::c_void, path::Path, ptr};

use anyhow::{Context as _, Result, ensure};
use mortise::wire::StartRequest;
use mortise_abi::{
    MT_ABI_MAJOR, MT_ABI_MINOR, MT_ENTRY_SYMBOL, MT_MAGIC, MT_OK, MtEntry, MtHost, MtInstance, MtInvokeFn,
    MtOut, MtSlice,
};
use prost::Message as _;

/// One method of a library, called as directly as C would.
pub struct BareMethod {
    invoke: MtInvokeFn,
    this: *mut c_void,
    out: MtOut,
    // The storage behind `out`, and what must outlive the method.
    _buffer: Box<[u8]>,
    _host: Box<MtHost>,
    _library: libloading::Library,
}

impl BareMethod {
    /// Opens a plugin's library and finds `method` in its first instance.
    ///
    /// # Errors
    /// If the library is no plugin or has no such method.
    pub fn open(library: &Path, method: &str) -> Result<Self> {
        // SAFETY: the library is a plugin that this repository built; its constructors are those of std.
        let library = unsafe { libloading::Library::new(library) }
            .with_context(|| format!("cannot open {}", library.display()))?;
        // SAFETY: the symbol is a data symbol of this type in every plugin of this ABI; magic and major are checked next.
        let entry: &MtEntry = unsafe { &**library.get::<*const MtEntry>(MT_ENTRY_SYMBOL)? };
        ensure!(
            entry.magic == MT_MAGIC && entry.abi_major == MT_ABI_MAJOR,
            "not a plugin of this ABI"
        );
        let host = Box::new(MtHost {
            size: size_of::<MtHost>() as u32,
            abi_major: MT_ABI_MAJOR,
            abi_minor: MT_ABI_MINOR,
            ctx: ptr::null_mut(),
            log: None,
            call: None,
            panicked: None,
            get_ext: None,
        });
        let mut buffer = vec![0; 1 << 21].into_boxed_slice();
        let mut out = MtOut {
            size: size_of::<MtOut>() as u32,
            reserved: 0,
            ptr: buffer.as_mut_ptr(),
            len: 0,
            cap: buffer.len(),
            grow: Some(refuse_to_grow),
        };
        let start = StartRequest {
            config_json: "{}".to_owned(),
            plugin: "bare".to_owned(),
            version: "0.0.0".to_owned(),
            instance: "bare".to_owned(),
        }
        .encode_to_vec();
        let create = entry.create.context("a plugin without `create`")?;
        let mut instance: *const MtInstance = ptr::null();
        // SAFETY: the arguments are what the header asks for; host and buffer live in the returned value.
        let status = unsafe {
            create(
                &raw const *host,
                MtSlice::new(&start),
                &raw mut instance,
                &raw mut out,
            )
        };
        ensure!(
            status == MT_OK && !instance.is_null(),
            "the plugin does not start: status {status}"
        );
        // SAFETY: `create` succeeded, so the instance is valid until `destroy`, which is never called here.
        let instance = unsafe { &*instance };
        let invoke = (0..instance.n_methods as usize)
            .find_map(|row| {
                // SAFETY: the header says that the table has `n_methods` rows, `method_stride` bytes apart.
                let row = unsafe {
                    let row = instance
                        .methods
                        .cast::<u8>()
                        .add(row * instance.method_stride as usize);
                    &*row.cast::<mortise_abi::MtMethod>()
                };
                // SAFETY: names are static UTF-8 of this length.
                let name = unsafe { std::slice::from_raw_parts(row.method.ptr, row.method.len) };
                (name == method.as_bytes()).then_some(row.invoke).flatten()
            })
            .with_context(|| format!("no method {method}"))?;
        let this = instance.this;
        Ok(Self {
            invoke,
            this,
            out,
            _buffer: buffer,
            _host: host,
            _library: library,
        })
    }

    /// Calls it and returns the length of the reply.
    pub fn call(&mut self, payload: &[u8]) -> usize {
        self.out.len = 0;
        // SAFETY: function, instance and buffer live as long as `self`; a null call is allowed on the fast path.
        let status =
            unsafe { (self.invoke)(self.this, ptr::null(), MtSlice::new(payload), &raw mut self.out) };
        assert!(status == MT_OK, "status {status}");
        self.out.len
    }
}

unsafe extern "C" fn refuse_to_grow(_: *mut MtOut, _: usize) -> i32 {
    mortise_abi::MT_E_NOMEM
}

/// Processor time of this process and of all children that it has waited for, with theirs.
#[must_use]
pub fn processor_time() -> std::time::Duration {
    let of = |who| {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: there is room for the answer; all zeros is a valid one if there is none.
        let usage = unsafe {
            libc::getrusage(who, usage.as_mut_ptr());
            usage.assume_init()
        };
        let time = |it: libc::timeval| {
            std::time::Duration::new(it.tv_sec.unsigned_abs(), it.tv_usec.unsigned_abs() as u32 * 1000)
        };
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}
