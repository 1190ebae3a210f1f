//! What a streaming method is handed: the caller's messages as an iterator, and a place to send replies.
//!
//! Everything blocks: a plugin has no executor, and a method that waits costs a thread and nothing else. Back-pressure is the same thing: a
//! [`Replies::send`] returns when there is room, so a slow caller makes a slow method and not a full memory. Both end with an error as soon
//! as nobody waits any more, so that `?` ends the method in time.

use std::{fmt, marker::PhantomData};

use mortise_wire::StreamLink;
use prost::Message;

use crate::{Result, Status};

/// The requests of a client-streaming or bidirectional call, in the order in which they were sent: an iterator that ends when the caller has
/// sent its last.
///
/// ```ignore
/// fn sum(&self, _cx: &Cx, requests: &mut Requests<Number>) -> Result<Total> {
///     let mut total = 0;
///     for request in requests {
///         total += request?.value;
///     }
///     Ok(Total { value: total })
/// }
/// ```
///
/// A method may return before the end; the caller is then told that no more is wanted.
pub struct Requests<'a, T> {
    link: &'a dyn StreamLink,
    target: &'a str,
    /// Nothing comes any more: the end or an error was handed out.
    over: bool,
    message: PhantomData<fn() -> T>,
}

/// The way back of a server-streaming or bidirectional call.
///
/// ```ignore
/// fn watch(&self, cx: &Cx, request: WatchRequest, replies: &mut Replies<Change>) -> Result<()> {
///     while let Some(change) = self.next_change(cx, &request)? {
///         replies.send(change)?;
///     }
///     Ok(())
/// }
/// ```
pub struct Replies<'a, T> {
    link: &'a dyn StreamLink,
    message: PhantomData<fn(T)>,
}

// === impl Requests ===

impl<'a, T: Message + Default> Requests<'a, T> {
    /// The requests that come over `link`. For generated code, and for a test that wants to be the host.
    pub fn new(link: &'a dyn StreamLink, target: &'a str) -> Self {
        Self {
            link,
            target,
            over: false,
            message: PhantomData,
        }
    }

    /// The next request; `None` after the caller's last. Blocks until then.
    ///
    /// # Errors
    /// `Cancelled` if the caller is gone, `DeadlineExceeded` if the deadline has passed, `InvalidArgument` for bytes that do not parse.
    pub fn receive(&mut self) -> Result<Option<T>> {
        if self.over {
            return Ok(None);
        }
        let received = self.link.receive().and_then(|bytes| {
            let Some(bytes) = bytes else { return Ok(None) };
            let len = bytes.len();
            T::decode(bytes).map(Some).map_err(|error| {
                Status::invalid_argument(format_args!(
                    "a request of `{}` ({len} bytes) does not parse: {error}",
                    self.target
                ))
            })
        });
        self.over = !matches!(received, Ok(Some(_)));
        received
    }
}

impl<T: Message + Default> Iterator for Requests<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receive().transpose()
    }
}

impl<T> fmt::Debug for Requests<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("target", &self.target)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

// === impl Replies ===

impl<'a, T: Message> Replies<'a, T> {
    /// Replies that go over `link`. For generated code, and for a test that wants to be the host.
    pub fn new(link: &'a dyn StreamLink) -> Self {
        Self {
            link,
            message: PhantomData,
        }
    }

    /// Sends one reply; blocks while too many are on their way.
    ///
    /// # Errors
    /// `Cancelled` if the caller is gone, `DeadlineExceeded` if the deadline has passed, `ResourceExhausted` for a reply over the
    /// host's limit, which was then not sent.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "as a unary method gives its reply away"
    )]
    pub fn send(&mut self, reply: T) -> Result<()> {
        self.link.send(reply.encode_to_vec().into())
    }
}

impl<T> fmt::Debug for Replies<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}

// === what generated code calls ===

/// Runs a server-streaming method.
///
/// # Errors
/// The method's own, or why its request did not come.
#[doc(hidden)]
pub fn server<R: Message + Default, T: Message>(
    target: &str,
    link: &dyn StreamLink,
    method: impl FnOnce(R, &mut Replies<'_, T>) -> Result<()>,
) -> Result<()> {
    let request = Requests::new(link, target).receive()?.ok_or_else(|| {
        Status::invalid_argument(format_args!(
            "the caller of `{target}` sent no request; send one before the end"
        ))
    })?;
    method(request, &mut Replies::new(link))
}

/// Runs a client-streaming method.
///
/// # Errors
/// The method's own, or why its reply was not sent.
#[doc(hidden)]
pub fn client<R: Message + Default, T: Message>(
    target: &str,
    link: &dyn StreamLink,
    method: impl FnOnce(&mut Requests<'_, R>) -> Result<T>,
) -> Result<()> {
    let reply = method(&mut Requests::new(link, target))?;
    Replies::new(link).send(reply)
}

/// Runs a method that streams both ways.
///
/// # Errors
/// The method's own.
#[doc(hidden)]
pub fn bidi<R: Message + Default, T: Message>(
    target: &str,
    link: &dyn StreamLink,
    method: impl FnOnce(&mut Requests<'_, R>, &mut Replies<'_, T>) -> Result<()>,
) -> Result<()> {
    method(&mut Requests::new(link, target), &mut Replies::new(link))
}

/// The answer of a guest whose streaming method was called as a unary one; a host asks before it comes to that.
pub(crate) fn not_unary(service: &str, name: &str) -> Status {
    Status::failed_precondition(format_args!(
        "`{service}/{name}` is a streaming method, and it was called as a unary one"
    ))
}

/// The answer of a guest whose unary method was opened as a stream.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn not_streaming(service: &str, name: &str) -> Status {
    Status::failed_precondition(format_args!(
        "`{service}/{name}` is a unary method, and it was opened as a stream"
    ))
}

#[cfg(test)]
mod tests;
