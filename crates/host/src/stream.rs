//! Calls of streaming methods: the same phases as [`crate::call`], with a handle in the place of the reply.
//!
//! Each open stream has a task that holds its generation (so that a swap waits for it) and its place at the door (so that
//! `Limits::concurrency` counts it). The two halves that the caller gets are the runtime's own with a tally around them; a message goes through no
//! queue here.
//!
//! # How it is over
//! 1. The receiving half has handed out the end or an error: the task accounts for it and lets go.
//! 2. The receiving half is dropped: as 1, as a cancelled call. Dropping it cancels the call in the runtime.
//! 3. A swap or an unload has waited for [`Streams::grace`], or state is to be handed over, which does not wait: the task takes the runtime's receiving half away, which cancels the call,
//!    and the caller hears `Draining`. A crash is told by the runtime, as 1.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_contract::evolve::{Plan, Side};
use mortise_manifest::Limits;
use mortise_runtime::{
    BoxFuture, CallContext, CallError, CallErrorKind, MethodIndex, ReceiveHalf, SendError, SendHalf,
    StreamCall, StreamHandle, stream::not_streaming,
};
use mortise_wire::MethodKind;
use tokio::sync::{Mutex, oneshot, watch};
use tracing::{Instrument as _, debug, trace_span};

use crate::{
    adapt::{self, Adapting},
    call::{NotAdmitted, Origin, admit, check_size, lacks_method, seat},
    generation::{Generation, Occupant},
    table::Target,
};

/// What a generation knows of its streams.
#[derive(Debug)]
pub(crate) struct Streams {
    /// They have been waited for long enough.
    over: watch::Sender<bool>,
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// What one stream carried, and where its task finds the runtime's half.
struct Shared {
    generation: Arc<Generation>,
    target: Arc<Target>,
    kind: MethodKind,
    /// What is done to its messages.
    plan: Option<Arc<Plan>>,
    sent: AtomicU64,
    received: AtomicU64,
    bytes: AtomicU64,
    /// Taken away by a drain.
    replies: Mutex<Option<Box<dyn ReceiveHalf>>>,
}

struct Sender {
    inner: Box<dyn SendHalf>,
    shared: Arc<Shared>,
}

struct Receiver {
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
    /// How it ended, once that is known; said again to whoever asks again.
    end: Option<Result<(), CallError>>,
    /// Tells the task how it ended. Dropped unused, it says that the caller is gone.
    over: Option<oneshot::Sender<Option<CallError>>>,
}

// === impl Streams ===

impl Streams {
    pub(crate) fn new() -> Self {
        Self {
            over: watch::Sender::new(false),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// How long a swap waits for open streams before it ends them.
    pub(crate) fn grace(limits: &Limits) -> Duration {
        limits.stop
    }

    /// Ends all that are open, with `Draining`.
    pub(crate) fn end(&self) {
        self.over.send_replace(true);
    }

    /// Lets new ones stay open again, in a generation that is put back.
    pub(crate) fn reopen(&self) {
        self.over.send_replace(false);
    }
}

// === opening ===

/// Opens a stream of a resolved target.
///
/// # Cancel safety
/// Dropping the future cancels the call.
pub(crate) async fn open(target: &Arc<Target>, origin: Origin) -> Result<StreamHandle, CallError> {
    let (opened, answer) = oneshot::channel();
    tokio::spawn(serve(target.clone(), origin, opened).in_current_span());
    answer.await.unwrap_or_else(|_| {
        Err(CallError::new(
            CallErrorKind::HostBug,
            "the task of a stream ended before it was open",
        ))
    })
}

type Opened = oneshot::Sender<Result<StreamHandle, CallError>>;

/// The task of one stream: admit, pick, hold, account.
async fn serve(target: Arc<Target>, origin: Origin, mut opened: Opened) {
    let began = Instant::now();
    let address = target.address.clone();
    loop {
        let span = trace_span!(target: "mortise::call", "admit", plugin = %address.name);
        let held = span.in_scope(|| address.cell.acquire());
        let generation = match &*held {
            Occupant::Serving(generation) => generation,
            Occupant::Gate(gate) => {
                let gate = gate.clone();
                drop(held);
                let passed = tokio::select! {
                    biased;
                    () = opened.closed() => return,
                    passed = gate.pass(&target, &origin, began) => passed,
                };
                if let Err(error) = passed {
                    let _ = opened.send(Err(error));
                    return;
                }
                continue;
            }
            Occupant::Vacant(why) => {
                let _ = opened.send(Err(CallError::new(CallErrorKind::Unavailable, why.to_string())));
                return;
            }
        };
        let admitted = tokio::select! {
            biased;
            () = opened.closed() => return,
            admitted = admit(generation, &target, &origin, 0, began).instrument(span) => admitted,
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(NotAdmitted::Refused(error)) => {
                let _ = opened.send(Err(error));
                return;
            }
            Err(NotAdmitted::Elsewhere) => continue,
        };
        let plan = match adapt::of_call(generation, &target, &origin) {
            Ok(plan) => plan,
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        let cx = admitted.context(generation, origin);
        hold(generation, &target, plan, &cx, opened, began).await;
        return;
    }
}

/// From the opened call to its end. The caller of this holds the generation and the place.
async fn hold(
    generation: &Arc<Generation>,
    target: &Arc<Target>,
    plan: Option<Arc<Plan>>,
    cx: &CallContext,
    mut opened: Opened,
    began: Instant,
) {
    let picked = trace_span!(target: "mortise::call", "pick").in_scope(|| pick(generation, target));
    let (facet, method, kind) = match picked {
        Ok(picked) => picked,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let sampled = generation.stats.begin();
    let guest = trace_span!(
        target: "mortise::call", "guest",
        plugin = %generation.plugin.name, version = %generation.plugin.version, instance = %generation.instance.id(), call = cx.call_id
    );
    let handle = tokio::select! {
        biased;
        () = opened.closed() => return,
        handle = facet.open(cx, method).instrument(guest.clone()) => handle,
    };
    let handle = match handle {
        Ok(handle) => handle,
        Err(error) => {
            generation.stats.failed(&error);
            let _ = opened.send(Err(judge(generation, target, error)));
            return;
        }
    };
    let shared = Arc::new(Shared {
        generation: generation.clone(),
        target: target.clone(),
        kind,
        plan,
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        replies: Mutex::new(Some(handle.replies)),
    });
    let mut draining = generation.streams.over.subscribe();
    let (over, mut ended) = oneshot::channel();
    let handle = StreamHandle {
        requests: Box::new(Sender {
            inner: handle.requests,
            shared: shared.clone(),
        }),
        replies: Box::new(Receiver {
            shared: shared.clone(),
            draining: draining.clone(),
            end: None,
            over: Some(over),
        }),
    };
    // If nobody waits any more, the handle is dropped here, which cancels the call.
    let _ = opened.send(Ok(handle));
    let outcome = async {
        tokio::select! {
            outcome = &mut ended => outcome,
            () = raised(&mut draining) => {
                shared.replies.lock().await.take();
                Ok(Some(shared.drained()))
            }
        }
    };
    let outcome = outcome.instrument(guest).await;
    let error =
        outcome.unwrap_or_else(|_| Some(CallError::new(CallErrorKind::Cancelled, "the caller is gone")));
    shared.account(error.as_ref(), sampled.then_some(began), cx.call_id);
}

/// Resolves once the flag is set; never if nobody can set it any more.
async fn raised(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        std::future::pending().await
    }
}

fn pick<'a>(
    generation: &'a Generation,
    target: &Target,
) -> Result<(&'a dyn StreamCall, MethodIndex, MethodKind), CallError> {
    let seat = seat(generation, target)?;
    if !seat.kind.streams() {
        return Err(not_streaming(&target.full));
    }
    if generation.metadata.methods.get(seat.index.0 as usize).is_none() {
        return Err(lacks_method(generation, target));
    }
    match generation.instance.stream() {
        Some(facet) => Ok((facet, seat.index, seat.kind)),
        None => Err(CallError::new(
            CallErrorKind::NotFound,
            format!(
                "`{}` is a {} method, and the runtime `{}` cannot stream",
                target.full, seat.kind, generation.runtime
            ),
        )
        .with_hint("load the plugin with a runtime that can; `mortise doctor` lists what each lacks")),
    }
}

/// Whether it may be opened again, which depends on whether that does no harm.
fn judge(generation: &Generation, target: &Target, error: CallError) -> CallError {
    match seat(generation, target) {
        Ok(seat) => seat.judge(error),
        Err(_) => error,
    }
}

// === impl Shared ===

impl Shared {
    fn drained(&self) -> CallError {
        CallError::new(
            CallErrorKind::Draining,
            format!(
                "plugin `{}` was replaced or unloaded while a stream of `{}` was open",
                self.generation.plugin, self.target.full
            ),
        )
        .with_hint("open the stream again; it goes to the instance that serves now")
    }

    /// A message as the other side knows it.
    fn adapt(&self, side: Side, message: Bytes) -> Result<Bytes, CallError> {
        let Some(plan) = &self.plan else {
            return Ok(message);
        };
        let adapting = Adapting {
            plan,
            generation: &self.generation,
            target: &self.target,
        };
        adapting.at_once(side, message)
    }

    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.generation.streams.messages.fetch_add(1, Ordering::Relaxed);
        self.generation.streams.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn account(&self, error: Option<&CallError>, began: Option<Instant>, call_id: u64) {
        let _span = trace_span!(target: "mortise::call", "account").entered();
        let stats = &self.generation.stats;
        if let Some(began) = began {
            stats.sample(began.elapsed());
        }
        if let Some(error) = error {
            stats.failed(error);
        }
        debug!(
            target: "mortise::call",
            plugin = %self.generation.plugin, call = call_id,
            sent = self.sent.load(Ordering::Relaxed), received = self.received.load(Ordering::Relaxed),
            bytes = self.bytes.load(Ordering::Relaxed),
            outcome = error.map_or("ok", |it| it.kind().as_str()),
            "a stream is over"
        );
    }

    /// What a reply is checked for: its size, and that a method with one reply sends one.
    fn check_reply(&self, reply: Option<&Bytes>) -> Result<(), CallError> {
        let before = self.received.load(Ordering::Relaxed);
        let broken = match reply {
            Some(_) if !self.kind.server_streams() && before > 0 => "a second",
            None if !self.kind.server_streams() && before == 0 => "no",
            Some(reply) => return check_size(&self.generation, "reply", reply.len()),
            None => return Ok(()),
        };
        Err(CallError::new(
            CallErrorKind::GuestFault,
            format!(
                "plugin `{}` sent {broken} reply in a call of `{}`, which has one",
                self.generation.plugin, self.target.full
            ),
        ))
    }
}

// === the halves ===

impl SendHalf for Sender {
    fn send(&mut self, message: Bytes) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async move {
            let shared = &self.shared;
            let bytes = message.len();
            check_size(&shared.generation, "request", bytes).map_err(SendError::Refused)?;
            if !shared.kind.client_streams() && shared.sent.load(Ordering::Relaxed) > 0 {
                let why = format!(
                    "`{}` takes one request, and this is a second one",
                    shared.target.full
                );
                return Err(SendError::Refused(CallError::new(CallErrorKind::Malformed, why)));
            }
            let message = shared.adapt(Side::Request, message).map_err(SendError::Refused)?;
            self.inner.send(message).await?;
            shared.sent.fetch_add(1, Ordering::Relaxed);
            shared.count(bytes);
            Ok(())
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), SendError>> {
        self.inner.finish()
    }
}

impl Receiver {
    async fn receive(&mut self) -> Result<Option<Bytes>, CallError> {
        if let Some(end) = &self.end {
            return end.clone().map(|()| None);
        }
        let shared = &self.shared;
        let of_plugin = |next: Result<Option<Bytes>, CallError>| {
            next.and_then(|it| shared.check_reply(it.as_ref()).map(|()| it))
                .and_then(|it| it.map(|it| shared.adapt(Side::Response, it)).transpose())
                .map_err(|error| judge(&shared.generation, &shared.target, error))
        };
        let next = {
            let mut replies = shared.replies.lock().await;
            let draining = raised(&mut self.draining);
            match &mut *replies {
                // Ended by the host, for a swap: that it is opened again is how such a stream goes on.
                None => Err(shared.drained()),
                Some(inner) => tokio::select! {
                    biased;
                    next = inner.next() => of_plugin(next),
                    () = draining => Err(shared.drained()),
                },
            }
        };
        let end = match &next {
            Ok(Some(reply)) => {
                self.shared.received.fetch_add(1, Ordering::Relaxed);
                self.shared.count(reply.len());
                return next;
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error.clone()),
        };
        if let Some(over) = self.over.take() {
            let _ = over.send(end.clone().err());
        }
        self.end = Some(end);
        self.shared.replies.lock().await.take();
        next
    }
}

impl ReceiveHalf for Receiver {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, CallError>> {
        Box::pin(self.receive())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody else waits for this lock for long: the task takes it once, at a drain, and takes the half away itself then.
        if let Ok(mut replies) = self.shared.replies.try_lock() {
            replies.take();
        }
    }
}
