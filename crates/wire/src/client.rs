//! The traits that generated clients are written against.
//!
//! `mortise-build` generates one client per service, `FooClient<C>`. With a [`Caller`] its methods are `async` (a service that embeds the
//! host); with a [`BlockingCaller`] they block (a plugin that calls another plugin through its `Cx`).

use crate::plugin::Status;

/// Carries a request to `package.Service/Method` and brings the reply.
pub trait Caller {
    /// Calls `target`. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The plugin's own status, or one that says why it was not reached.
    fn call(&self, target: &str, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;
}

/// Carries a request to `package.Service/Method` and waits for the reply.
pub trait BlockingCaller {
    /// Calls `target` and blocks until it has answered.
    ///
    /// # Errors
    /// The callee's own status, or one that says why it was not reached.
    fn call_blocking(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status>;
}

impl<C: Caller + ?Sized> Caller for &C {
    fn call(&self, target: &str, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Status>> + Send {
        (**self).call(target, payload)
    }
}

impl<C: BlockingCaller + ?Sized> BlockingCaller for &C {
    fn call_blocking(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        (**self).call_blocking(target, payload)
    }
}
