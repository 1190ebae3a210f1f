//! One running copy of a builtin plugin.
//!
//! Invariants
//! - B1: a call holds a permit of `slots` for as long as its method runs, also when its caller is gone; so at most `Limits::concurrency`
//!   methods run at once, and an instance has no call running when all permits are free.
//! - B2: a panic ends the instance: its cause is told once, and no method is called after it.
//! - B3: a method that runs `STUCK_GRACE` after its deadline ends the instance as stuck; its thread cannot be ended. A caller in a hurry must not be able to
//!   bring that about, so it is at least the deadline of the plugin's limits.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_manifest::Limits;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, CallErrorKind, Configure, DirectCall, EndCause, HostServices,
    Instance, InstanceId, MethodIndex, ReservedCalls, ReservedMethods, Start, State, StopReport, StreamCall,
    Usage, stream::not_unary,
};
use mortise_wire::{Health, METHOD_NONBLOCKING, Metadata, linked::LinkedInstance, plugin::Method};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::{sleep_until, timeout, timeout_at},
};

use crate::host_link::{Cancel, CancelOnDrop, Link};

/// How long after its deadline a method may go on before its instance counts as stuck.
pub(crate) const STUCK_GRACE: Duration = Duration::from_secs(1);
/// How long streaming methods may take to return once a stop has ended their calls.
const STREAM_GRACE: Duration = Duration::from_secs(1);
/// How long the plugin may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// One running copy.
pub(crate) struct BuiltinInstance {
    id: InstanceId,
    reserved: ReservedMethods,
    pub(crate) shared: Arc<Shared>,
    stopped: watch::Sender<Stop>,
}

/// How far its stop is.
#[derive(Clone, Debug)]
enum Stop {
    NotAsked,
    Stopping,
    Stopped(StopReport),
}

pub(crate) struct Shared {
    metadata: Arc<Metadata>,
    pub(crate) limits: Limits,
    pub(crate) services: Arc<dyn HostServices>,
    pub(crate) plugin: Box<dyn LinkedInstance>,
    pub(crate) slots: Arc<Semaphore>,
    stopping: AtomicBool,
    pub(crate) ended: watch::Sender<Option<EndCause>>,
    /// Calls of streaming methods whose method has not returned.
    pub(crate) streams: AtomicUsize,
    /// A stop by force: all of them end now.
    pub(crate) forced: watch::Sender<bool>,
}

/// A method on the caller's thread.
struct Direct {
    shared: Arc<Shared>,
    method: MethodIndex,
}

// === impl BuiltinInstance ===

impl BuiltinInstance {
    pub(crate) fn new(start: Start, metadata: Arc<Metadata>, plugin: Box<dyn LinkedInstance>) -> Self {
        let slots = Arc::new(Semaphore::new(slots(&start.limits)));
        let reserved = ReservedMethods::of(&metadata);
        let shared = Shared {
            metadata,
            limits: start.limits,
            services: start.services,
            plugin,
            slots,
            stopping: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            streams: AtomicUsize::new(0),
            forced: watch::Sender::new(false),
        };
        Self {
            id: start.instance,
            reserved,
            shared: Arc::new(shared),
            stopped: watch::Sender::new(Stop::NotAsked),
        }
    }
}

impl Instance for BuiltinInstance {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn stream(&self) -> Option<&dyn StreamCall> {
        Some(self)
    }

    fn state(&self) -> Option<&dyn State> {
        (!self.reserved.is_empty()).then_some(self)
    }

    fn configure(&self) -> Option<&dyn Configure> {
        self.reserved.configure().then_some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.check()?;
            let asked = shared.clone();
            let asking = tokio::task::spawn_blocking(move || guarded(|| asked.plugin.health()));
            let unavailable = |why: String| {
                CallError::new(
                    CallErrorKind::Unavailable,
                    format!("plugin `{}` {why}", shared.name()),
                )
            };
            match timeout(HEALTH_TIMEOUT, asking).await {
                Ok(Ok(Ok(Ok(())))) => Ok(Health {
                    serving: true,
                    detail: String::new(),
                }),
                Ok(Ok(Ok(Err(status)))) => Ok(Health {
                    serving: false,
                    detail: status.message,
                }),
                Ok(Ok(Err(panic))) => Err(shared.panicked(panic)),
                Ok(Err(error)) => Err(unavailable(format!("could not be asked how it is: {error}"))),
                Err(_) => Err(unavailable("did not say how it is within a second".to_owned())),
            }
        })
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        let mut ended = self.shared.ended.subscribe();
        let shared = self.shared.clone();
        Box::pin(async move {
            // The sender lives in `shared`, so this resolves with a cause or not at all.
            let cause = ended
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|cause| cause.clone());
            drop(shared);
            match cause {
                Some(cause) => cause,
                None => std::future::pending().await,
            }
        })
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        Box::pin(async move {
            let mut stopped = self.stopped.subscribe();
            let first = self.stopped.send_if_modified(|stop| {
                let first = matches!(stop, Stop::NotAsked);
                if first {
                    *stop = Stop::Stopping;
                }
                first
            });
            if first {
                // As a task, so that a stop that is dropped is finished all the same.
                let (shared, done) = (self.shared.clone(), self.stopped.clone());
                tokio::spawn(async move { done.send_replace(Stop::Stopped(shared.stop(grace).await)) });
            }
            let report = stopped
                .wait_for(|stop| matches!(stop, Stop::Stopped(_)))
                .await
                .map(|stop| stop.clone());
            match report {
                Ok(Stop::Stopped(report)) => report,
                _ => StopReport {
                    forced: Some("the executor that ran it ended".to_owned()),
                    left: None,
                },
            }
        })
    }
}

impl Call for BuiltinInstance {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.shared.clone().call(cx, method, payload))
    }

    fn direct(&self, method: MethodIndex) -> Option<Arc<dyn DirectCall>> {
        let row = self.shared.metadata.methods.get(method.0 as usize)?;
        if row.kind().streams() {
            return None;
        }
        Some(Arc::new(Direct {
            shared: self.shared.clone(),
            method,
        }))
    }
}

impl ReservedCalls for BuiltinInstance {
    fn reserved(&self) -> &ReservedMethods {
        &self.reserved
    }
}

impl DirectCall for Direct {
    fn call(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError> {
        self.shared.check()?;
        // Without a context there is no call to make others for; and blocking is the caller's own business here.
        let link = Link {
            services: self.shared.services.clone(),
            call: None,
            cancel: Cancel::new(),
            executor: None,
        };
        let reply = self.shared.invoke(link, self.method, payload)?;
        out.extend_from_slice(&reply);
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    fn name(&self) -> &str {
        &self.metadata.name
    }

    /// `package.Service/Method`, for messages.
    pub(crate) fn method_name(&self, method: MethodIndex) -> String {
        match self.metadata.methods.get(method.0 as usize) {
            Some(method) => format!("{}/{}", method.service, method.name),
            None => format!("method {}", method.0),
        }
    }

    /// Whether it may be called at all.
    pub(crate) fn check(&self) -> Result<(), CallError> {
        if let Some(cause) = &*self.ended.borrow() {
            let why = format!("plugin `{}` failed: {cause}", self.name());
            return Err(CallError::new(CallErrorKind::GuestFault, why));
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(self.stopped());
        }
        Ok(())
    }

    /// What the metadata says about a method.
    pub(crate) fn row(&self, method: MethodIndex) -> Result<&Method, CallError> {
        let methods = &self.metadata.methods;
        methods
            .get(method.0 as usize)
            .ok_or_else(|| CallError::no_such_method(self.name(), methods.len(), method))
    }

    /// The deadline passed.
    pub(crate) fn late(&self, method: MethodIndex) -> CallError {
        CallError::late(self.name(), &self.method_name(method))
    }

    /// It was stopped.
    pub(crate) fn stopped(&self) -> CallError {
        let why = format!("the instance of plugin `{}` was stopped", self.name());
        CallError::new(CallErrorKind::Draining, why)
    }

    /// A method did not come back (B3).
    /// When a call that begins now has to be over, whatever its caller's deadline is (B3).
    pub(crate) fn latest(&self, deadline: Instant) -> Instant {
        deadline.max(Instant::now() + self.limits.deadline)
    }

    pub(crate) fn stuck(&self, method: MethodIndex) {
        self.end(EndCause::Stuck(self.method_name(method)));
    }

    async fn call(
        self: Arc<Self>,
        cx: &CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        self.check()?;
        let max = self.limits.payload_bytes_max;
        if payload.len() > max {
            return Err(CallError::request_too_large(self.name(), payload.len(), max));
        }
        let row = self.row(method)?;
        if row.kind().streams() {
            return Err(not_unary(&self.method_name(method), row.kind()));
        }
        let link = |cancel: &Cancel, executor| Link {
            services: self.services.clone(),
            call: Some((cx.clone(), Instant::now())),
            cancel: cancel.clone(),
            executor,
        };
        let cancel = Cancel::new();
        if row.flags & METHOD_NONBLOCKING != 0 {
            return self.invoke(link(&cancel, None), method, &payload);
        }
        let deadline = cx
            .deadline
            .unwrap_or_else(|| Instant::now() + self.limits.deadline);
        let late = || self.late(method);
        let slot = match timeout_at(deadline.into(), self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => {
                self.check()?;
                return Err(CallError::new(
                    CallErrorKind::Draining,
                    format!("plugin `{}` was stopped", self.name()),
                ));
            }
            Err(_) => return Err(late()),
        };
        let mut watch = Watch {
            shared: self.clone(),
            method,
            deadline: self.latest(deadline),
            done: Arc::default(),
            over: false,
        };
        // Also when this future is dropped.
        let _cancel = CancelOnDrop(cancel.clone());
        let (shared, link, done) = (
            self.clone(),
            link(&cancel, Some(Handle::current())),
            watch.done.clone(),
        );
        let working = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let reply = shared.invoke(link, method, &payload);
            done.store(true, Ordering::Release);
            reply
        });
        match timeout_at(deadline.into(), working).await {
            Ok(Ok(reply)) => {
                watch.over = true;
                // A method that hears of its deadline may be quicker than the timer; it is late all the same.
                reply.map_err(|error| if error.is_late(deadline) { late() } else { error })
            }
            Ok(Err(error)) => Err(CallError::new(
                CallErrorKind::Unavailable,
                format!("the call was not run: {error}"),
            )),
            Err(_) => Err(late()),
        }
    }

    /// Runs the method here. A panic ends the instance.
    fn invoke(&self, link: Link, method: MethodIndex, payload: &[u8]) -> Result<Bytes, CallError> {
        match guarded(|| self.plugin.invoke(Box::new(link), method.0, payload)) {
            Ok(Ok(reply)) if reply.len() > self.limits.payload_bytes_max => {
                let max = self.limits.payload_bytes_max;
                let why = format!(
                    "the reply of plugin `{}` has {} bytes, and {max} is the limit",
                    self.name(),
                    reply.len()
                );
                Err(CallError::new(CallErrorKind::Exhausted, why))
            }
            Ok(Ok(reply)) => Ok(reply.into()),
            Ok(Err(status)) => Err(CallError::returned(status)),
            Err(panic) => Err(self.panicked(panic)),
        }
    }

    /// Ends the instance, with what the caller is told.
    pub(crate) fn panicked(&self, panic: String) -> CallError {
        let error = self.panic_error(&panic);
        self.end(EndCause::Panicked(panic));
        error
    }

    pub(crate) fn panic_error(&self, panic: &str) -> CallError {
        let why = format!("plugin `{}` panicked: {panic}", self.name());
        CallError::new(CallErrorKind::GuestFault, why)
            .with_hint("see the host's log for the place; other plugins are not affected")
    }

    /// The first cause stays.
    pub(crate) fn end(&self, cause: EndCause) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(cause);
            first
        });
    }

    async fn stop(self: Arc<Self>, grace: Duration) -> StopReport {
        self.stopping.store(true, Ordering::Release);
        let mut until = tokio::time::Instant::now() + grace;
        let all = u32::try_from(slots(&self.limits)).unwrap_or(u32::MAX);
        let mut idle = timeout_at(until, self.slots.acquire_many(all)).await.is_ok();
        // A stream may go on for as long as its caller likes; it is told now, and its method returns.
        self.forced.send_replace(true);
        if !idle && self.streams.load(Ordering::Acquire) > 0 {
            until = until.max(tokio::time::Instant::now() + STREAM_GRACE);
            idle = timeout_at(until, self.slots.acquire_many(all)).await.is_ok();
        }
        self.slots.close();
        if !idle {
            let running = slots(&self.limits) - self.slots.available_permits();
            return StopReport {
                forced: Some(format!("{running} of its calls did not return within {grace:?}")),
                left: Some(format!("{running} threads of its calls, which cannot be ended")),
            };
        }
        if self.ended.borrow().is_some() {
            // Its state is not to be trusted.
            return StopReport::default();
        }
        let stopping = tokio::task::spawn_blocking({
            let shared = self.clone();
            move || guarded(|| shared.plugin.stop())
        });
        match timeout_at(until, stopping).await {
            Ok(Ok(Ok(()))) => StopReport::default(),
            Ok(Ok(Err(panic))) => StopReport {
                forced: Some(format!("its stop panicked: {panic}")),
                left: None,
            },
            Ok(Err(error)) => StopReport {
                forced: Some(format!("its stop was not run: {error}")),
                left: None,
            },
            Err(_) => StopReport {
                forced: Some(format!("its stop did not return within {grace:?}")),
                left: Some("the thread of its stop, which cannot be ended".to_owned()),
            },
        }
    }
}

/// Looks whether a method whose caller is gone comes back (B3).
struct Watch {
    shared: Arc<Shared>,
    method: MethodIndex,
    /// The later one of its caller's and its own (B3).
    deadline: Instant,
    /// The method has returned.
    done: Arc<AtomicBool>,
    over: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Without an executor the host is going down, and nobody asks.
        let Ok(executor) = Handle::try_current() else {
            return;
        };
        let (shared, method, done) = (self.shared.clone(), self.method, self.done.clone());
        let due = self.deadline.max(Instant::now()) + STUCK_GRACE;
        executor.spawn(async move {
            sleep_until(due.into()).await;
            if !done.load(Ordering::Acquire) {
                shared.stuck(method);
            }
        });
    }
}

fn slots(limits: &Limits) -> usize {
    (limits.concurrency as usize).clamp(1, Semaphore::MAX_PERMITS)
}

/// Runs plugin code; the text of its panic, if it does.
pub(crate) fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|it| (*it).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
