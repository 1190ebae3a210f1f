//! The module: `wit/plugin.wit` by its canonical ABI, by hand.
//!
//! Nothing is ever given back: a store lives for one call, or for a test.

use std::{
    alloc::{Layout, alloc},
    sync::Mutex,
};

use bad_fault::Fault;

#[link(wasm_import_module = "mortise:plugin/host@1.0.0")]
unsafe extern "C" {
    #[link_name = "log"]
    fn host_log(record: *const u8, len: usize);
}

/// `list<u8>`
#[repr(C)]
pub struct List {
    ptr: *const u8,
    len: usize,
}

/// `result<list<u8>, list<u8>>`, and `result<_, list<u8>>` as well.
#[repr(C)]
pub struct Outcome {
    tag: u8,
    list: List,
}

/// The configuration's fault.
static CHOSEN: Mutex<Fault> = Mutex::new(Fault::None);

/// Where the host puts what it passes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(_old: *mut u8, _old_len: usize, align: usize, len: usize) -> *mut u8 {
    match Layout::from_size_align(len.max(1), align) {
        // SAFETY: the size is not 0.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => core::arch::wasm32::unreachable(),
    }
}

#[unsafe(export_name = "mortise:plugin/guest@1.0.0#start")]
unsafe extern "C" fn start(request: *const u8, len: usize) -> *const Outcome {
    // SAFETY: a list that the host gave away.
    let fault = crate::fault(unsafe { bytes(request, len) });
    if let Ok(mut chosen) = CHOSEN.lock() {
        *chosen = fault;
    }
    if fault == Fault::ExitsAtOnce {
        return outcome(1, crate::status("this plugin never starts"));
    }
    outcome(0, Vec::new())
}

#[unsafe(export_name = "mortise:plugin/guest@1.0.0#invoke")]
unsafe extern "C" fn invoke(
    _method: u32,
    _head: *const u8,
    _head_len: usize,
    payload: *const u8,
    payload_len: usize,
) -> *const Outcome {
    let fault = CHOSEN.lock().map_or(Fault::None, |it| *it);
    match fault {
        Fault::NeverAnswers => loop {
            std::hint::black_box(fault);
        },
        Fault::ExitsInACall => core::arch::wasm32::unreachable(),
        Fault::FloodsItsLog => {
            for record in crate::flood() {
                // SAFETY: lent until it returns.
                unsafe { host_log(record.as_ptr(), record.len()) };
            }
        }
        _ => {}
    }
    // SAFETY: a list that the host gave away.
    outcome(0, crate::answer(fault, unsafe { bytes(payload, payload_len) }))
}

#[unsafe(export_name = "mortise:plugin/guest@1.0.0#health")]
extern "C" fn health() -> *const List {
    Box::leak(Box::new(list(crate::HEALTH.to_vec())))
}

#[unsafe(export_name = "mortise:plugin/guest@1.0.0#stop")]
extern "C" fn stop() {}

fn outcome(tag: u8, bytes: Vec<u8>) -> *const Outcome {
    Box::leak(Box::new(Outcome {
        tag,
        list: list(bytes),
    }))
}

fn list(bytes: Vec<u8>) -> List {
    let bytes = Vec::leak(bytes);
    List {
        ptr: bytes.as_ptr(),
        len: bytes.len(),
    }
}

/// # Safety
/// `len` bytes are there.
unsafe fn bytes<'a>(ptr: *const u8, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(ptr, len) }
}
