//! A runtime for a plugin's type that is linked into the test.
//!
//! Calls run on tokio's blocking threads. A call over its deadline is answered for, and its method is told (`Cx::is_cancelled`); it is not
//! interrupted, as in a native plugin. A panic fails the call, and the instance counts as ended, so the host starts a new one.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use mortise_manifest::{Grant, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, Call, CallContext, CallError, CallErrorKind, EndCause, Enforcement, HostServices,
    Instance, InstanceId, Interrupt, Isolation, LogLine, MethodIndex, Prepared, Runtime, RuntimeError,
    RuntimeErrorKind, Start, StopReport, Support, Usage, Verified,
};
use mortise_sdk::{
    CallHead, Code, Cx, Link, LogRecord, StartRequest, Status,
    guest::{self, Plugin},
};
use mortise_wire::{Health, METHOD_NONBLOCKING, Metadata};
use prost::Message as _;
use tokio::{runtime::Handle, sync::watch};

/// Runs one type of plugin in the test's own process, under the runtime's name `builtin`.
#[derive(Clone, Copy)]
pub struct InProcess {
    name: &'static str,
    metadata: &'static [u8],
    start: Begin,
}

/// Starts the plugin; the request is kept for its calls.
type Begin = fn(&Cx, StartRequest) -> Result<Arc<dyn Guest>, Status>;

/// A plugin that was started.
trait Guest: Send + Sync {
    fn started(&self) -> &StartRequest;
    fn invoke(&self, cx: &Cx, method: u32, payload: &[u8]) -> Result<Vec<u8>, Status>;
    fn is_nonblocking(&self, method: u32) -> bool;
    fn health(&self) -> Result<(), Status>;
    fn stop(&self);
}

struct Running<P> {
    plugin: P,
    started: StartRequest,
}

// === impl InProcess ===

impl InProcess {
    /// A runtime that knows `P`.
    #[must_use]
    pub fn new<P: Plugin>() -> Self {
        Self {
            name: P::BUILD.name,
            metadata: P::METADATA,
            start: |cx, started| {
                Ok(Arc::new(Running {
                    plugin: P::start(cx)?,
                    started,
                }))
            },
        }
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess")
            .field("plugin", &self.name)
            .finish_non_exhaustive()
    }
}

impl Runtime for InProcess {
    fn support(&self) -> Support {
        Support {
            runtime: RuntimeName::Builtin,
            available: true,
            isolation: Isolation::None,
            interrupt: Interrupt::Never,
            memory_limit: Enforcement::NotEnforced("the plugin's code is part of the test's process"),
            restartable: true,
            lacks: Vec::new(),
        }
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        let plugin = &artifact.plugin;
        if *plugin.name != *self.name {
            let message = format!(
                "this test has the plugin `{}`, and `{plugin}` was asked for",
                self.name
            );
            return Err(RuntimeError::new(
                RuntimeErrorKind::NotAPlugin,
                message,
                "make a `TestHost` for it",
            ));
        }
        Metadata::decode(self.metadata).map_err(|error| {
            let message = format!("the metadata of `{plugin}` does not parse: {error}");
            RuntimeError::new(RuntimeErrorKind::Malformed, message, "build the plugin again")
        })
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        _: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        Box::pin(async move { Ok(Prepared::new(artifact.metadata().clone(), ())) })
    }

    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(async move {
            let request = StartRequest {
                config_json: start.config_json.to_string(),
                plugin: prepared.metadata.name.clone(),
                version: prepared.metadata.version.clone(),
                instance: start.instance.to_string(),
            };
            let (make, services, handle) = (self.start, start.services.clone(), Handle::current());
            let starting = tokio::task::spawn_blocking(move || {
                let line = Line {
                    started: request.clone(),
                    context: None,
                    services,
                    handle,
                    cancel: Arc::default(),
                    nonblocking: false,
                };
                guarded(|| make(&Cx::new(line), request))
            });
            let failed = |message: String| {
                RuntimeError::new(
                    RuntimeErrorKind::StartFailed,
                    message,
                    "see what its `start` does with its configuration",
                )
            };
            let started = match tokio::time::timeout(start.limits.start, starting).await {
                Ok(Ok(Ok(started))) => started.map_err(|status| failed(status.to_string()))?,
                Ok(Ok(Err(panic))) => return Err(failed(format!("it panicked: {panic}"))),
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(_) => {
                    return Err(failed(format!(
                        "it did not start within {} ms",
                        start.limits.start.as_millis()
                    )));
                }
            };
            let (ended, _) = watch::channel(None);
            let instance = InProcessInstance {
                id: start.instance,
                guest: started,
                services: start.services,
                ended,
                stopped: AtomicBool::new(false),
            };
            Ok(Box::new(instance) as Box<dyn Instance>)
        })
    }
}

// === impl Instance ===

struct InProcessInstance {
    id: InstanceId,
    guest: Arc<dyn Guest>,
    services: Arc<dyn HostServices>,
    ended: watch::Sender<Option<EndCause>>,
    stopped: AtomicBool,
}

impl Instance for InProcessInstance {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        let guest = self.guest.clone();
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || guarded(|| guest.health()));
            match tokio::time::timeout(Duration::from_secs(1), asked).await {
                Ok(Ok(Ok(Ok(())))) => Ok(Health {
                    serving: true,
                    detail: String::new(),
                }),
                Ok(Ok(Ok(Err(status)))) => Ok(Health {
                    serving: false,
                    detail: status.message,
                }),
                Ok(Ok(Err(panic))) => Err(CallError::new(
                    CallErrorKind::GuestFault,
                    format!("its health check panicked: {panic}"),
                )),
                Ok(Err(error)) => Err(CallError::new(CallErrorKind::HostBug, error.to_string())),
                Err(_) => Err(CallError::new(
                    CallErrorKind::Deadline,
                    "its health check took more than a second",
                )),
            }
        })
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        let mut ended = self.ended.subscribe();
        Box::pin(async move {
            let cause = ended
                .wait_for(Option::is_some)
                .await
                .expect("the sender lives in the instance")
                .clone();
            cause.expect("just waited for")
        })
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        let guest = self.guest.clone();
        let first = !self.stopped.swap(true, Ordering::SeqCst);
        Box::pin(async move {
            let stopping = tokio::task::spawn_blocking(move || {
                if first {
                    guarded(|| guest.stop()).err()
                } else {
                    None
                }
            });
            match tokio::time::timeout(grace, stopping).await {
                Ok(Ok(None)) => StopReport::default(),
                Ok(Ok(Some(panic))) => StopReport {
                    forced: Some(format!("its stop panicked: {panic}")),
                    left: None,
                },
                Ok(Err(error)) => StopReport {
                    forced: Some(error.to_string()),
                    left: None,
                },
                Err(_) => StopReport {
                    forced: None,
                    left: Some("a thread in its stop".to_owned()),
                },
            }
        })
    }
}

impl Call for InProcessInstance {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            let cancel = CancelOnDrop(Arc::default());
            let line = Line {
                started: self.guest.started().clone(),
                context: Some((cx.clone(), Instant::now())),
                services: self.services.clone(),
                handle: Handle::current(),
                cancel: cancel.0.clone(),
                nonblocking: self.guest.is_nonblocking(method.0),
            };
            let guest = self.guest.clone();
            let working = tokio::task::spawn_blocking(move || {
                guarded(|| guest.invoke(&Cx::new(line), method.0, &payload))
            });
            let until = cx
                .deadline
                .map_or_else(far_future, tokio::time::Instant::from_std);
            match tokio::time::timeout_at(until, working).await {
                Ok(Ok(Ok(Ok(reply)))) => Ok(reply.into()),
                // A method that hears of the deadline may be quicker than the timer.
                Ok(Ok(Ok(Err(status)))) if status.kind() == Code::DeadlineExceeded && is_over(cx) => {
                    Err(late())
                }
                Ok(Ok(Ok(Err(status)))) => Err(CallError::returned(status)),
                Ok(Ok(Err(panic))) => {
                    self.ended.send_replace(Some(EndCause::Panicked(panic.clone())));
                    Err(CallError::new(
                        CallErrorKind::GuestFault,
                        format!("the plugin panicked: {panic}"),
                    ))
                }
                Ok(Err(error)) => Err(CallError::new(CallErrorKind::HostBug, error.to_string())),
                Err(_) => Err(late()),
            }
        })
    }
}

fn is_over(cx: &CallContext) -> bool {
    cx.deadline.is_some_and(|it| it <= Instant::now())
}

fn late() -> CallError {
    CallError::new(
        CallErrorKind::Deadline,
        "the call's deadline passed while the plugin was working",
    )
}

/// The host sets a deadline for every call; this is for a test that drives the port itself.
fn far_future() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400 * 365)
}

/// Runs plugin code; the text of its panic, if it does.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|it| (*it).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

// === impl Guest ===

impl<P: Plugin> Guest for Running<P> {
    fn started(&self) -> &StartRequest {
        &self.started
    }

    fn invoke(&self, cx: &Cx, method: u32, payload: &[u8]) -> Result<Vec<u8>, Status> {
        let row = guest::method::<P>(method).ok_or_else(|| {
            Status::new(
                Code::Unimplemented,
                format!("the plugin has no method number {method}"),
            )
        })?;
        (row.invoke)(&self.plugin, cx, payload)
    }

    fn is_nonblocking(&self, method: u32) -> bool {
        guest::method::<P>(method).is_some_and(|it| it.flags & METHOD_NONBLOCKING != 0)
    }

    fn health(&self) -> Result<(), Status> {
        self.plugin.health()
    }

    fn stop(&self) {
        self.plugin.stop();
    }
}

// === what a method sees ===

/// Whether a call is cancelled, and who waits to hear it.
#[derive(Default)]
struct Cancel {
    set: Mutex<bool>,
    woken: Condvar,
}

/// Cancels when the caller's future goes, for whatever reason; after the reply nobody looks any more.
struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        *self.0.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.woken.notify_all();
    }
}

/// The way from one call to the host.
struct Line {
    started: StartRequest,
    /// The call and when it came; `None` in `start`.
    context: Option<(CallContext, Instant)>,
    services: Arc<dyn HostServices>,
    handle: Handle,
    cancel: Arc<Cancel>,
    nonblocking: bool,
}

impl Line {
    fn context(&self) -> Option<&CallContext> {
        self.context.as_ref().map(|(context, _)| context)
    }
}

impl Link for Line {
    fn started(&self) -> &StartRequest {
        &self.started
    }

    fn head(&self) -> CallHead {
        self.context
            .as_ref()
            .map(|(context, came)| context.head(*came))
            .unwrap_or_default()
    }

    fn elapsed(&self) -> Duration {
        self.context
            .as_ref()
            .map(|(_, came)| came.elapsed())
            .unwrap_or_default()
    }

    fn is_cancelled(&self) -> bool {
        *self.cancel.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> mortise_sdk::Result<SystemTime> {
        Ok(SystemTime::now())
    }

    fn wait(&self, duration: Duration) {
        let set = self.cancel.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.cancel.woken.wait_timeout_while(set, duration, |set| !*set);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn log(&self, record: &LogRecord) {
        self.services.log(LogLine {
            record,
            call: self.context(),
        });
    }

    fn call(&self, _: u64, target: &str, payload: Vec<u8>) -> mortise_sdk::Result<Vec<u8>> {
        if self.nonblocking {
            let message = format!(
                "`{target}` was called out of a method that its contract calls nonblocking; take the option from the method"
            );
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let reply = self
            .handle
            .block_on(self.services.call(self.context(), target, payload.into()));
        reply.map(Into::into)
    }
}
