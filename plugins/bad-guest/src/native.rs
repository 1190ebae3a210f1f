//! The library: `include/mortise.h`, by hand.

use std::{ffi::c_void, ptr};

use bad_fault::Fault;
use mortise_abi::{
    MT_ABI_MAJOR, MT_ABI_MINOR, MT_E_NOMEM, MT_MAGIC, MT_OK, MT_PENDING, MtCall, MtDone, MtEntry, MtHost,
    MtInstance, MtMethod, MtOut, MtSlice, MtStatus, MtStr,
};

use crate::message::bytes_of;

/// The data of an instance behind its `this`.
struct Bad {
    fault: Fault,
    host: *const MtHost,
    /// Kept for `destroy`.
    methods: *mut MtMethod,
}

/// The one exported symbol.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the name is the ABI")]
pub static mortise_entry_v1: Entry = Entry(MtEntry {
    magic: MT_MAGIC,
    size: size_of::<MtEntry>() as u32,
    abi_major: MT_ABI_MAJOR,
    abi_minor: MT_ABI_MINOR,
    flags: 0,
    metadata: MtSlice::new(&crate::SPOKEN),
    create: Some(create),
    get_ext: None,
});

/// Makes the entry a static.
#[repr(transparent)]
pub struct Entry(MtEntry);

// SAFETY: constant data; its pointers lead to statics.
unsafe impl Sync for Entry {}

unsafe extern "C" fn create(
    host: *const MtHost,
    start: MtSlice,
    instance: *mut *const MtInstance,
    err: *mut MtOut,
) -> MtStatus {
    // SAFETY: the host lends these bytes until `create` returns.
    let fault = crate::fault(unsafe { bytes(start) });
    if fault == Fault::ExitsAtOnce {
        // SAFETY: `err` is the host's buffer.
        unsafe { write(err, &crate::status("this plugin never starts")) };
        return 9;
    }
    let answers_later = matches!(fault, Fault::NeverAnswers | Fault::AnswersTwice);
    let described = bytes_of(crate::metadata(), 8).unwrap_or_default();
    let mut wire_hash = [0; 32];
    if let Some(hash) = bytes_of(described, 3).filter(|it| it.len() == 32) {
        wire_hash.copy_from_slice(hash);
    }
    let methods = Box::into_raw(Box::new(MtMethod {
        size: size_of::<MtMethod>() as u32,
        flags: 0,
        service: MtStr::new("mortise.test.bad.v1.Bad"),
        method: MtStr::new("Call"),
        wire_hash,
        invoke: if answers_later { None } else { Some(invoke) },
        invoke_async: if answers_later { Some(invoke_async) } else { None },
    }));
    let made = Box::new(MtInstance {
        size: size_of::<MtInstance>() as u32,
        n_methods: 1,
        method_stride: size_of::<MtMethod>() as u32,
        reserved: 0,
        this: Box::into_raw(Box::new(Bad { fault, host, methods })).cast(),
        methods,
        activate: None,
        deactivate: None,
        health: Some(health),
        save_state: None,
        load_state: None,
        cancel: None,
        destroy: Some(destroy),
        get_ext: None,
    });
    // The host may look at the struct until `destroy`, which gets `this` only; so it stays where it is. A few hundred bytes per start.
    // SAFETY: `instance` is the host's own variable.
    unsafe { *instance = Box::leak(made) };
    MT_OK
}

unsafe extern "C" fn destroy(this: *mut c_void) {
    // SAFETY: made in `create`; the last call.
    let bad = unsafe { Box::from_raw(this.cast::<Bad>()) };
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(bad.methods) });
}

unsafe extern "C" fn health(_this: *mut c_void, health: *mut MtOut) -> MtStatus {
    // SAFETY: the host's buffer.
    unsafe { write(health, &crate::HEALTH) }
}

unsafe extern "C" fn invoke(
    this: *mut c_void,
    _call: *const MtCall,
    input: MtSlice,
    out: *mut MtOut,
) -> MtStatus {
    // SAFETY: made in `create`, and not destroyed while a call runs.
    let bad = unsafe { &*this.cast::<Bad>() };
    if bad.fault == Fault::FloodsItsLog {
        // SAFETY: the host's functions are valid until `destroy` returns.
        let host = unsafe { &*bad.host };
        for record in crate::flood() {
            if let Some(log) = host.log {
                // SAFETY: lent until it returns.
                unsafe { log(host.ctx, MtSlice::new(&record)) };
            }
        }
    }
    // SAFETY: lent until this function returns.
    let reply = crate::answer(bad.fault, unsafe { bytes(input) });
    // SAFETY: the host's buffer.
    unsafe { write(out, &reply) }
}

unsafe extern "C" fn invoke_async(
    this: *mut c_void,
    _call: *const MtCall,
    input: MtSlice,
    done: MtDone,
) -> MtStatus {
    // SAFETY: made in `create`, and not destroyed while a call runs.
    let bad = unsafe { &*this.cast::<Bad>() };
    if bad.fault == Fault::AnswersTwice
        && let Some(complete) = done.complete
    {
        // SAFETY: the first completion is the rule, the second the fault.
        unsafe {
            complete(done.ctx, MT_OK, input);
            complete(done.ctx, MT_OK, input);
        }
    }
    MT_PENDING
}

/// # Safety
/// `slice` is lent to the caller of this function for as long as it uses the result.
unsafe fn bytes<'a>(slice: MtSlice) -> &'a [u8] {
    if slice.ptr.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) }
}

/// # Safety
/// `out` is the host's buffer, in no other hands.
unsafe fn write(out: *mut MtOut, reply: &[u8]) -> MtStatus {
    // SAFETY: the caller's promise.
    let out = unsafe { &mut *out };
    if out.cap < reply.len() {
        // SAFETY: the host's function, with the host's buffer.
        let grown = out
            .grow
            .map_or(MT_E_NOMEM, |grow| unsafe { grow(out, reply.len()) });
        if grown != MT_OK {
            return grown;
        }
    }
    // SAFETY: `cap` bytes are there.
    unsafe { ptr::copy_nonoverlapping(reply.as_ptr(), out.ptr, reply.len()) };
    out.len = reply.len();
    MT_OK
}
