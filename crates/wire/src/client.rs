//! The traits that generated clients are written against.
//!
//! `mortise-build` generates one client per service, `FooClient<C>`. With a [`Caller`] its methods are `async` (a service that embeds the
//! host); with a [`BlockingCaller`] they block (a plugin that calls another plugin through its `Cx`).

use prost::Message;

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

/// One typed call: what the methods of a generated client do.
///
/// # Errors
/// As [`Caller::call`], and `Internal` when the reply does not parse as `R`.
pub async fn unary<C: Caller, R: Message + Default>(
    caller: &C,
    target: &str,
    request: &impl Message,
) -> Result<R, Status> {
    let reply = caller.call(target, request.encode_to_vec()).await?;
    decode_reply(target, &reply)
}

/// One typed call that blocks: what the `_blocking` methods of a generated client do.
///
/// # Errors
/// As [`BlockingCaller::call_blocking`], and `Internal` when the reply does not parse as `R`.
pub fn unary_blocking<C: BlockingCaller + ?Sized, R: Message + Default>(
    caller: &C,
    target: &str,
    request: &impl Message,
) -> Result<R, Status> {
    let reply = caller.call_blocking(target, request.encode_to_vec())?;
    decode_reply(target, &reply)
}

fn decode_reply<R: Message + Default>(target: &str, reply: &[u8]) -> Result<R, Status> {
    R::decode(reply).map_err(|error| {
        Status::internal(format_args!(
            "the reply of `{target}` ({} bytes) does not parse: {error}",
            reply.len()
        ))
    })
}
