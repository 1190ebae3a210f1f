//! One running copy: made, asked for its health, stopped. Calls are in `call`.

use std::{
    ffi::c_void,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_abi::{MT_OK, MtInstance, MtMethod, MtOut, MtStatus};
use mortise_manifest::Limits;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, CallErrorKind, Configure, Digest, EndCause, Instance,
    InstanceId, ReservedCalls, ReservedMethods, RuntimeError, RuntimeErrorKind, Start, State, StopReport,
    Usage,
};
use mortise_wire::{Health, Metadata, StartRequest};
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{OnceCell, oneshot},
};

use crate::{
    asynchronous::note_panic,
    entry::{Row, match_methods, start_failed},
    gate::{Gate, Side},
    library::{self, Library},
    out::{Buffer, Overrun},
    outcome::{self, Outcome, STATUS_BYTES_MAX},
    runtime::Generations,
    workers::Workers,
};

/// How long `health` may take.
const HEALTH: Duration = Duration::from_secs(1);
/// How long cancelled calls are given to return once the grace of a stop is over.
const LAST_CHANCE: Duration = Duration::from_millis(500);
/// How long past its grace a stop waits for `deactivate` and `destroy`.
const TEAR_DOWN: Duration = Duration::from_secs(2);

/// Everything that `start` needs and `prepare` found out.
pub(crate) struct Recipe {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) plugin: Arc<str>,
    pub(crate) version: String,
    pub(crate) section: Bytes,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) generations: Generations,
    pub(crate) executor: Handle,
}

/// The plugin's `mt_instance`, copied: the functions of a size that was checked.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    this: *mut c_void,
    methods: *const MtMethod,
    method_count: u32,
    method_stride: u32,
    activate: Option<Lifecycle>,
    deactivate: Option<Lifecycle>,
    health: Option<Lifecycle>,
    cancel: Option<unsafe extern "C" fn(this: *mut c_void, call_id: u64)>,
    destroy: unsafe extern "C" fn(this: *mut c_void),
}

type Lifecycle = unsafe extern "C" fn(this: *mut c_void, out: *mut MtOut) -> MtStatus;

// SAFETY: pointers into the plugin, whose functions say themselves which threads may call them; [control] ones are called by `start` and
// `Inner::tear_down` only, one after the other.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// A started instance. Dropping it tears it down on a thread of its own.
pub(crate) struct NativeInstance {
    pub(crate) inner: Arc<Inner>,
    reserved: ReservedMethods,
    stopped: OnceCell<StopReport>,
}

/// What calls, threads and direct methods share.
pub(crate) struct Inner {
    pub(crate) table: Table,
    pub(crate) rows: Vec<Row>,
    pub(crate) side: Arc<Side>,
    pub(crate) gate: &'static Gate,
    pub(crate) limits: Limits,
    /// For methods that may block.
    pub(crate) workers: Workers,
    /// For what must get through although all of those are taken: health, cancellations.
    pub(crate) control: Workers,
    plugin: Arc<str>,
    health_runs: AtomicBool,
    /// The library until it is given back; the report once torn down.
    ending: Mutex<Ending>,
}

enum Ending {
    Running { _library: Library },
    Done(StopReport),
}

// === start ===

/// Starts an instance on a thread of its own, within `limits.start`. When the future is dropped, or the time is over, the thread tears down
/// what it has made as soon as the plugin lets it.
pub(crate) async fn start(recipe: Recipe, start: Start) -> Result<NativeInstance, RuntimeError> {
    let (limit, plugin) = (start.limits.start, recipe.plugin.clone());
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("mt-start".to_owned())
        .spawn(move || {
            // Nobody waits any more: the instance is dropped, which stops it.
            drop(sender.send(build(&recipe, start)));
        })
        .map_err(|why| no_thread(&why))?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(started)) => started,
        Ok(Err(_)) => Err(failed(
            format!("the start of {plugin} ended without a result"),
            "this is a fault of the host; report it",
        )),
        Err(_) => Err(failed(
            format!("{plugin} did not start within {} ms", limit.as_millis()),
            "raise `limits.start_ms`, or let the plugin do its slow work after `activate`; it is torn down when it returns",
        )),
    }
}

fn build(recipe: &Recipe, start: Start) -> Result<NativeInstance, RuntimeError> {
    let library = Library::open(&recipe.path, recipe.digest, &recipe.plugin, &recipe.generations)?;
    let checked = library.entry().check(&recipe.section)?;
    let request = StartRequest {
        config_json: start.config_json.to_string(),
        plugin: recipe.plugin.to_string(),
        version: recipe.version.clone(),
        instance: start.instance.to_string(),
    };
    let side = Arc::new(Side::new(
        start.instance,
        start.services,
        recipe.executor.clone(),
        start.limits.payload_bytes_max,
    ));
    let gate = Gate::open(side.clone())?;
    // SAFETY: gates are never freed.
    let made = unsafe { checked.create(gate.table(), &request.encode_to_vec()) };
    let table = made.inspect_err(|_| gate.close())?;
    let activated = match_methods(&table, &recipe.metadata).and_then(|rows| table.activate().map(|()| rows));
    let rows = activated.inspect_err(|_| {
        // SAFETY: made, never called, and not used again.
        unsafe { table.destroy() };
        gate.close();
    })?;
    let threads = usize::try_from(start.limits.concurrency).unwrap_or(usize::MAX);
    // The system cuts names to 15 bytes.
    let name = format!("mt-{}", recipe.plugin);
    let inner = Inner {
        table,
        rows,
        side,
        gate,
        limits: start.limits,
        workers: Workers::new(&name, threads),
        control: Workers::new(&name, 1),
        plugin: recipe.plugin.clone(),
        health_runs: AtomicBool::new(false),
        ending: Mutex::new(Ending::Running { _library: library }),
    };
    Ok(NativeInstance {
        inner: Arc::new(inner),
        reserved: ReservedMethods::of(&recipe.metadata),
        stopped: OnceCell::new(),
    })
}

fn no_thread(why: &std::io::Error) -> RuntimeError {
    failed(
        format!("the system gave no thread for a native plugin: {why}"),
        "raise the host's limit of threads, or lower the concurrency of its plugins",
    )
}

fn failed(message: String, hint: &str) -> RuntimeError {
    RuntimeError::new(RuntimeErrorKind::StartFailed, message, hint)
}

// === impl Table ===

impl Table {
    /// Copies what the instance offers; `None` without `destroy`.
    ///
    /// # Safety
    /// `made` came from `create`, and its `size` reaches past `destroy`.
    pub(crate) unsafe fn new(made: *const MtInstance) -> Option<Self> {
        // SAFETY: field by field, because the struct may end before `get_ext`; the caller's promise covers all up to `destroy`.
        unsafe {
            Some(Self {
                this: (*made).this,
                methods: (*made).methods,
                method_count: (*made).n_methods,
                method_stride: (*made).method_stride,
                activate: (*made).activate,
                deactivate: (*made).deactivate,
                health: (*made).health,
                cancel: (*made).cancel,
                destroy: (*made).destroy?,
            })
        }
    }

    pub(crate) fn this(&self) -> *mut c_void {
        self.this
    }

    /// First row, number of rows, size of a row.
    pub(crate) fn methods(&self) -> (*const MtMethod, u32, u32) {
        (self.methods, self.method_count, self.method_stride)
    }

    fn activate(&self) -> Result<(), RuntimeError> {
        let Some(activate) = self.activate else {
            return Ok(());
        };
        // SAFETY: [control], and this is the only thread that knows the instance.
        let (status, said) = unsafe { self.run(activate) };
        if status == MT_OK {
            Ok(())
        } else {
            Err(start_failed("activate", status, said))
        }
    }

    /// # Safety
    /// The rules of the function for threads and order hold, and the instance is not destroyed.
    unsafe fn run(&self, function: Lifecycle) -> (MtStatus, Result<Vec<u8>, Overrun>) {
        let mut said = Vec::new();
        let mut buffer = Buffer::new(&mut said, STATUS_BYTES_MAX);
        // SAFETY: the caller's promise; the buffer outlives the call.
        let status = unsafe { function(self.this, buffer.as_out()) };
        let written = buffer.finish();
        (status, written.map(|()| said))
    }

    /// # Safety
    /// No function of the instance runs or will run (I2).
    unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { (self.destroy)(self.this) }
    }

    pub(crate) fn can_cancel(&self) -> bool {
        self.cancel.is_some()
    }

    /// # Safety
    /// A ticket of the instance is held.
    pub(crate) unsafe fn cancel(&self, call_id: u64) {
        if let Some(cancel) = self.cancel {
            // SAFETY: [any]; not destroyed while there is a ticket.
            unsafe { cancel(self.this, call_id) }
        }
    }
}

// === impl NativeInstance ===

impl NativeInstance {
    pub(crate) fn side(&self) -> &Arc<Side> {
        &self.inner.side
    }
}

impl Instance for NativeInstance {
    fn id(&self) -> &InstanceId {
        &self.inner.side.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn state(&self) -> Option<&dyn State> {
        (!self.reserved.is_empty()).then_some(self)
    }

    fn configure(&self) -> Option<&dyn Configure> {
        self.reserved.configure().then_some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        Box::pin(self.inner.clone().health())
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        Box::pin(self.inner.side.ended())
    }

    fn usage(&self) -> Usage {
        Usage {
            memory_bytes: None,
            pid: None,
            retired_mappings: library::retired(&self.inner.plugin),
            ..Usage::default()
        }
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        Box::pin(async move {
            self.stopped
                .get_or_init(|| stop(self.inner.clone(), grace))
                .await
                .clone()
        })
    }
}

impl ReservedCalls for NativeInstance {
    fn reserved(&self) -> &ReservedMethods {
        &self.reserved
    }
}

impl Drop for NativeInstance {
    fn drop(&mut self) {
        // Torn down already, or just now; a stop that left something gets a second try here.
        let done = match self.inner.ending.try_lock() {
            Ok(ending) => matches!(*ending, Ending::Done(_)),
            Err(_) => true,
        };
        if !done {
            self.inner.side.set_stopping();
            let inner = self.inner.clone();
            let grace = inner.limits.stop;
            let spawned = thread::Builder::new()
                .name("mt-stop".to_owned())
                .spawn(move || drop(inner.tear_down(grace)));
            if let Err(why) = spawned {
                tracing::error!(instance = %self.inner.side.id, %why, "no thread to tear a native instance down; its memory is kept");
            }
        }
    }
}

/// Tears down on a thread of its own, because the plugin may block; waits no longer than it must.
async fn stop(inner: Arc<Inner>, grace: Duration) -> StopReport {
    inner.side.set_stopping();
    let (sender, receiver) = oneshot::channel();
    let torn = inner.clone();
    let spawned = thread::Builder::new().name("mt-stop".to_owned()).spawn(move || {
        _ = sender.send(torn.tear_down(grace));
    });
    let kept = || Some("its memory and its threads are kept, because code in it may still run".to_owned());
    if let Err(why) = spawned {
        return StopReport {
            forced: Some(format!("the system gave no thread to stop it: {why}")),
            left: kept(),
        };
    }
    match tokio::time::timeout(grace + LAST_CHANCE + TEAR_DOWN, receiver).await {
        Ok(Ok(report)) => report,
        Ok(Err(_)) | Err(_) => StopReport {
            forced: Some(
                "its `deactivate`, its `destroy` or the end of one of its threads did not return in time"
                    .to_owned(),
            ),
            left: kept(),
        },
    }
}

// === impl Inner ===

impl Inner {
    /// Stops the instance; blocks. Steps and order are I2's.
    fn tear_down(&self, grace: Duration) -> StopReport {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ending::Done(report) = &*ending {
            return report.clone();
        }
        self.side.set_stopping();
        let mut forced = None;
        if !self.drained(Instant::now() + grace) {
            let stuck: Vec<_> = self
                .side
                .live
                .all()
                .iter()
                .map(|it| format!("`{}`", it.target))
                .collect();
            forced = Some(format!(
                "{} did not return within {} ms",
                stuck.join(", "),
                grace.as_millis()
            ));
            self.side.live.all().iter().for_each(|it| it.cancel());
        }
        let last = Instant::now() + LAST_CHANCE;
        self.workers.close();
        self.control.close();
        let running = self.workers.wait_ended(last) + self.control.wait_ended(last);
        if running > 0 || !self.drained(last) {
            // Not destroyed, never freed, and the gate stays open: code of the plugin is running in it. A later `tear_down`, from the
            // drop of the instance, tries once more.
            let left = format!(
                "{} of its calls and {running} of its threads run on; its memory is kept",
                self.side.live.all().len()
            );
            return StopReport {
                forced,
                left: Some(left),
            };
        }
        if let Some(deactivate) = self.table.deactivate {
            // SAFETY: [control]: `start` has ended, and the lock above keeps other stops out.
            let (status, said) = unsafe { self.table.run(deactivate) };
            if status != MT_OK {
                let said = said.map_or_else(|it| it.to_string(), |it| outcome::words(status, &it));
                forced.get_or_insert(format!("its `deactivate` failed: {said}"));
            }
        }
        // SAFETY: no call is live and none can enter (`set_stopping`), the threads that ran plugin code have ended, and `Ending` sees to it that
        // this happens once. `direct` callers are the host's to keep away.
        unsafe { self.table.destroy() };
        self.gate.close();
        let mapped = format!(
            "its library stays mapped, one of {} in this process",
            library::mappings()
        );
        let report = StopReport {
            forced,
            left: Some(mapped),
        };
        // Gives the library back.
        *ending = Ending::Done(report.clone());
        report
    }

    /// Waits until no call is in the plugin; tells it of those that were cancelled.
    fn drained(&self, until: Instant) -> bool {
        let mut pause = Duration::from_micros(50);
        loop {
            let live = self.side.live.all();
            if live.is_empty() {
                return true;
            }
            for frame in live.iter().filter(|it| it.is_to_be_told()) {
                // SAFETY: the frame may just be leaving, but nothing is destroyed before this function has returned.
                unsafe { self.table.cancel(frame.id) };
            }
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    async fn health(self: Arc<Self>) -> Result<Health, CallError> {
        if let Some(cause) = self.side.end_cause() {
            return Ok(Health {
                serving: false,
                detail: cause.to_string(),
            });
        }
        self.side.admit()?;
        let Some(health) = self.table.health else {
            return Ok(Health {
                serving: true,
                detail: String::new(),
            });
        };
        let late = || {
            CallError::new(
                CallErrorKind::Deadline,
                format!(
                    "the health function of {} did not return within 1 s",
                    self.side.id
                ),
            )
        };
        if self.health_runs.swap(true, Ordering::AcqRel) {
            return Err(late());
        }
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        let job = move || {
            let result = this.ask(health);
            this.health_runs.store(false, Ordering::Release);
            _ = sender.send(result);
        };
        if self.control.run(Box::new(job)).is_err() {
            self.health_runs.store(false, Ordering::Release);
            return Err(self.side.draining());
        }
        match tokio::time::timeout(HEALTH, receiver).await {
            Ok(result) => result.unwrap_or_else(|_| Err(self.side.draining())),
            Err(_) => Err(late()),
        }
    }

    fn ask(&self, health: Lifecycle) -> Result<Health, CallError> {
        let target: Arc<str> = "health".into();
        let until = Instant::now() + HEALTH;
        let cx = CallContext::default();
        let ticket = self.side.live.enter(&cx, &target, Bytes::new(), until, until);
        let ticket = ticket.ok_or_else(|| self.side.draining())?;
        // SAFETY: [any], and there is a ticket.
        let (status, said) = unsafe { self.table.run(health) };
        let outcome = note_panic(&self.side, status, outcome::read(&target, status, said));
        drop(ticket);
        match outcome {
            Outcome::Reply(bytes) => Health::decode(&*bytes).map_err(|why| {
                CallError::new(
                    CallErrorKind::GuestFault,
                    format!("the health of {} does not parse: {why}", self.side.id),
                )
            }),
            Outcome::Panicked(words) => Err(outcome::panicked(&target, &words)),
            Outcome::Failed(error) => Err(error),
        }
    }
}
