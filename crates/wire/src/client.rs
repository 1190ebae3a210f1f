//! The traits that generated clients are written against.
//!
//! `mortise-build` generates one client per service, `FooClient<C>`. With a [`Caller`] its methods are `async` (a service that embeds the
//! host); with a [`BlockingCaller`] they block (a plugin that calls another plugin through its `Cx`); with a [`StreamCaller`] it has the methods that
//! stream, in one of three forms:
//!
//! | the contract says | the client's method gives |
//! |---|---|
//! | `rpc Watch(Q) returns (stream R)` | [`Replies`] |
//! | `rpc Sum(stream Q) returns (R)` | [`Upload`] |
//! | `rpc Chat(stream Q) returns (stream R)` | [`Requests`] and [`Replies`], which may go to two tasks |
//!
//! A client knows what it was built against ([`ClientContract`]) and says so with each call ([`As`]), so that a caller that is a host can have the call adapted to
//! a plugin of another version. A plugin says nothing: its package has its contract.

use std::{fmt, marker::PhantomData};

use prost::Message;

use crate::plugin::Status;

/// Carries a request to `package.Service/Method` and brings the reply.
pub trait Caller {
    /// Calls `target`. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The plugin's own status, or one that says why it was not reached.
    fn call(&self, target: &str, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;

    /// The same for a client that was built against `contract`. Whoever cannot do anything with that calls as if nothing had been said.
    ///
    /// # Errors
    /// As [`Caller::call`], and that the contracts do not fit.
    fn call_as(
        &self,
        contract: &ClientContract,
        target: &str,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Status>> + Send {
        let _ = contract;
        self.call(target, payload)
    }
}

/// Carries a request to `package.Service/Method` and waits for the reply.
pub trait BlockingCaller {
    /// Calls `target` and blocks until it has answered.
    ///
    /// # Errors
    /// The callee's own status, or one that says why it was not reached.
    fn call_blocking(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status>;
}

/// Opens calls of methods that stream.
pub trait StreamCaller {
    /// The half that sends encoded messages.
    type Sender: MessageSender;
    /// The half that receives them.
    type Receiver: MessageReceiver;

    /// Opens a call of `target`. Dropping the future, or later either half before its end, cancels the call.
    ///
    /// # Errors
    /// What kept it from being opened. What the method does with it is told by the receiving half.
    fn open(
        &self,
        target: &str,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver), Status>> + Send;

    /// The same for a client that was built against `contract`, as [`Caller::call_as`].
    ///
    /// # Errors
    /// As [`StreamCaller::open`], and that the contracts do not fit.
    fn open_as(
        &self,
        contract: &ClientContract,
        target: &str,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver), Status>> + Send {
        let _ = contract;
        self.open(target)
    }
}

/// What a generated client was built against: `FooClient::<C>::CONTRACT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientContract {
    /// Full name of the service.
    pub service: &'static str,
    /// Identity of the descriptors: of two clients with the same one, what is worked out for one does for the other.
    pub fingerprint: [u8; 32],
    /// Encoded `google.protobuf.FileDescriptorSet` of the file that declares the service, and of what it imports; without `google/protobuf/*`.
    pub descriptor_set: &'static [u8],
    /// What is declared of older versions, for calls to plugins that are older: a `plugin.toml` with its `[[adapt]]`s, and the descriptor sets that it names.
    /// Empty if nothing is.
    pub adapts: &'static [(&'static str, &'static [u8])],
}

/// A caller that says with each call what its client was built against.
#[derive(Clone, Copy, Debug)]
pub struct As<'a, C> {
    /// Who carries the calls.
    pub caller: &'a C,
    /// What is said.
    pub contract: &'a ClientContract,
}

/// Sends encoded messages to a method. Dropping it before [`MessageSender::finish`] cancels the call.
pub trait MessageSender: Send {
    /// Sends one message; waits while too many are on their way. Cancel safe: a message is sent whole, and only by a future that became ready.
    ///
    /// # Errors
    /// [`NotSent`].
    fn send(&mut self, message: Vec<u8>) -> impl Future<Output = Result<(), NotSent>> + Send;

    /// Says that no more messages come.
    ///
    /// # Errors
    /// [`NotSent::Over`].
    fn finish(&mut self) -> impl Future<Output = Result<(), NotSent>> + Send;
}

/// Receives a method's encoded messages. Dropping it before the end cancels the call.
pub trait MessageReceiver: Send {
    /// The next message; `None` after the last one, when the method has returned Ok. Cancel safe: no message is lost.
    ///
    /// # Errors
    /// The method's own status, or one that says why the call broke off. Every further call says the same.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, Status>> + Send;
}

/// Why a message was not sent.
#[derive(Clone, Debug)]
pub enum NotSent {
    /// The call is over; its receiving half tells how it ended.
    Over,
    /// This message can't be sent: it is over the plugin's limit. The call goes on.
    Refused(Status),
}

/// The replies of one call.
pub struct Replies<R, M> {
    receiver: R,
    target: Box<str>,
    of: PhantomData<fn() -> M>,
}

/// The requests of one call. Dropping it before [`Requests::finish`] cancels the call.
pub struct Requests<S, M> {
    sender: S,
    of: PhantomData<fn(M)>,
}

/// A call that is sent many requests and gives one reply.
#[derive(Debug)]
pub struct Upload<S, R, Q, P> {
    requests: Requests<S, Q>,
    replies: Replies<R, P>,
}

// === callers ===

impl<C: StreamCaller + Sync + ?Sized> StreamCaller for &C {
    type Sender = C::Sender;
    type Receiver = C::Receiver;

    fn open(
        &self,
        target: &str,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver), Status>> + Send {
        (**self).open(target)
    }

    fn open_as(
        &self,
        contract: &ClientContract,
        target: &str,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver), Status>> + Send {
        (**self).open_as(contract, target)
    }
}

impl<C: Caller + ?Sized> Caller for &C {
    fn call(&self, target: &str, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Status>> + Send {
        (**self).call(target, payload)
    }

    fn call_as(
        &self,
        contract: &ClientContract,
        target: &str,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Status>> + Send {
        (**self).call_as(contract, target, payload)
    }
}

impl<C: Caller> Caller for As<'_, C> {
    fn call(&self, target: &str, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Status>> + Send {
        self.caller.call_as(self.contract, target, payload)
    }
}

impl<C: StreamCaller> StreamCaller for As<'_, C> {
    type Sender = C::Sender;
    type Receiver = C::Receiver;

    fn open(
        &self,
        target: &str,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver), Status>> + Send {
        self.caller.open_as(self.contract, target)
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

// === streams ===

/// Opens a typed call of a method that answers with a stream: what a generated client does.
///
/// # Errors
/// As [`StreamCaller::open`].
pub async fn server_stream<C: StreamCaller, P>(
    caller: &C,
    target: &str,
    request: &impl Message,
) -> Result<Replies<C::Receiver, P>, Status> {
    let (mut sender, receiver) = caller.open(target).await?;
    match sender.send(request.encode_to_vec()).await {
        Ok(()) => {}
        Err(NotSent::Refused(status)) => return Err(status),
        // How it ended is the first thing that the replies tell.
        Err(NotSent::Over) => return Ok(Replies::new(receiver, target)),
    }
    let _over_is_told_by_the_replies = sender.finish().await;
    Ok(Replies::new(receiver, target))
}

/// Opens a typed call of a method that is sent a stream: what a generated client does.
///
/// # Errors
/// As [`StreamCaller::open`].
pub async fn client_stream<C: StreamCaller, Q: Message, P: Message + Default>(
    caller: &C,
    target: &str,
) -> Result<Upload<C::Sender, C::Receiver, Q, P>, Status> {
    let (requests, replies) = bidi_stream(caller, target).await?;
    Ok(Upload { requests, replies })
}

/// Opens a typed call of a method that streams both ways: what a generated client does.
///
/// # Errors
/// As [`StreamCaller::open`].
pub async fn bidi_stream<C: StreamCaller, Q, P>(
    caller: &C,
    target: &str,
) -> Result<(Requests<C::Sender, Q>, Replies<C::Receiver, P>), Status> {
    let (sender, receiver) = caller.open(target).await?;
    let requests = Requests {
        sender,
        of: PhantomData,
    };
    Ok((requests, Replies::new(receiver, target)))
}

impl<R: MessageReceiver, M> Replies<R, M> {
    fn new(receiver: R, target: &str) -> Self {
        Self {
            receiver,
            target: target.into(),
            of: PhantomData,
        }
    }
}

impl<R: MessageReceiver, M: Message + Default> Replies<R, M> {
    /// The next reply; `None` after the last one, when the method has returned Ok. Cancel safe: no reply is lost.
    ///
    /// # Errors
    /// As [`MessageReceiver::next`], and `Internal` when a reply does not parse as `M`.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        let reply = self.receiver.next().await?;
        reply.map(|reply| decode_reply(&self.target, &reply)).transpose()
    }
}

impl<S: MessageSender, M: Message> Requests<S, M> {
    /// Sends one request; waits while too many are on their way. Cancel safe.
    ///
    /// # Errors
    /// [`NotSent`].
    pub async fn send(&mut self, request: &M) -> Result<(), NotSent> {
        self.sender.send(request.encode_to_vec()).await
    }

    /// Says that no more requests come.
    ///
    /// # Errors
    /// [`NotSent::Over`].
    pub async fn finish(mut self) -> Result<(), NotSent> {
        self.sender.finish().await
    }
}

impl<S: MessageSender, R: MessageReceiver, Q: Message, P: Message + Default> Upload<S, R, Q, P> {
    /// Sends one request; waits while too many are on their way. Cancel safe.
    ///
    /// # Errors
    /// [`NotSent`]; after `Over` there is only [`Upload::finish`], which tells why.
    pub async fn send(&mut self, request: &Q) -> Result<(), NotSent> {
        self.requests.send(request).await
    }

    /// Says that no more requests come, and waits for the reply.
    ///
    /// # Errors
    /// As [`Replies::next`], and `Internal` if the method returned without a reply.
    pub async fn finish(mut self) -> Result<P, Status> {
        let _over_is_told_by_the_reply = self.requests.finish().await;
        let reply = self.replies.next().await?;
        reply.ok_or_else(|| {
            Status::internal(format_args!(
                "`{}` returned without its reply",
                self.replies.target
            ))
        })
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over => {
                f.write_str("the call takes no more messages; its receiving half tells how it ended")
            }
            Self::Refused(status) => status.fmt(f),
        }
    }
}

impl std::error::Error for NotSent {}

impl<R, M> fmt::Debug for Replies<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl<S, M> fmt::Debug for Requests<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}
