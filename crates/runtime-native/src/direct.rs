//! The path of `bind`: one indirect call, on the caller's thread.

use std::{ffi::c_void, sync::Arc};

use mortise_abi::{MT_OK, MtInvokeFn, MtSlice, MtStatus};
use mortise_runtime::{CallError, DirectCall};

use crate::{
    asynchronous::note_panic,
    entry::Row,
    gate::Side,
    instance::Inner,
    out::{Buffer, Overrun},
    outcome::{self, Outcome},
};

/// A method, ready to be called. Allocates nothing if the reply fits into the caller's buffer, reads no clock, takes no lock.
pub(crate) struct Direct {
    invoke: MtInvokeFn,
    this: *mut c_void,
    bytes_max: usize,
    side: Arc<Side>,
    target: Arc<str>,
    /// Keeps the library's entry and the table; that no call comes after `destroy` is the caller's part of [`DirectCall`].
    _inner: Arc<Inner>,
}

// SAFETY: `invoke` is [any]: from any thread, also at once (mortise.h), and `this` is what it takes.
unsafe impl Send for Direct {}
// SAFETY: as above.
unsafe impl Sync for Direct {}

impl Direct {
    pub(crate) fn new(inner: Arc<Inner>, row: &Row) -> Option<Self> {
        let invoke = row.invoke?;
        let side = inner.side.clone();
        Some(Self {
            invoke,
            this: inner.table.this(),
            bytes_max: side.payload_bytes_max,
            side,
            target: row.target.clone(),
            _inner: inner,
        })
    }

    #[cold]
    fn failed(
        &self,
        status: MtStatus,
        written: Result<(), Overrun>,
        out: &mut Vec<u8>,
        base: usize,
    ) -> CallError {
        let said = written.map(|()| out.split_off(base));
        match note_panic(&self.side, status, outcome::read(&self.target, status, said)) {
            Outcome::Failed(error) => error,
            Outcome::Panicked(words) => outcome::panicked(&self.target, &words),
            Outcome::Reply(_) => unreachable!("a reply is no failure"),
        }
    }
}

impl DirectCall for Direct {
    fn call(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError> {
        self.side.admit()?;
        let base = out.len();
        let mut buffer = Buffer::new(out, self.bytes_max);
        // SAFETY: the plugin's own function with its own `this`; null is allowed for `call`, and the rest outlives it. The host holds the
        // instance while it calls (see `DirectCall`).
        let status = unsafe {
            (self.invoke)(
                self.this,
                std::ptr::null(),
                MtSlice::new(payload),
                buffer.as_out(),
            )
        };
        match (status, buffer.finish()) {
            (MT_OK, Ok(())) => Ok(()),
            (status, written) => Err(self.failed(status, written, out, base)),
        }
    }
}
