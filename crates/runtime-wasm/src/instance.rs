//! A running plugin: leases guests, calls them, and throws away what must not be used again.
//!
//! - N1. A guest that trapped, was interrupted, was dropped in the middle of a call or broke its ABI is never entered again: its store is a
//!   local variable of the call and goes with it. Only a call that ended in order gives it back.
//! - N2. `start` runs in each fresh guest before anything else, within the deadline of the call that needs it.
//! - N3. The guest that proved at load that the plugin starts serves the first call.
//! - N4. A guest is told to `stop` when it was kept and is let go of in order. An ephemeral one has nothing to say goodbye to.
//! - N5. A plugin with state has one guest, kept from the start to the stop whatever the configuration says; calls of it wait for each other.
//!   A guest that is lost (N1) takes its state along, and with it the instance: `ended` says so, and no second one is made in its place. Its
//!   calls are tasks of their own, so that a caller who goes away does not cost the state, and it is ended at the deadline of the plugin's limits if its
//!   caller's is earlier. Better code takes its state over by its own methods.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, CallErrorKind, Configure, EndCause, Instance, InstanceId,
    MethodIndex, ReservedCalls, ReservedMethods, RuntimeError, Start, State, StopReport, Usage,
};
use mortise_wire::{
    Health, Metadata, StartRequest, Status,
    lifecycle::Reserved,
    plugin::{LoadStateRequest, Method, SaveStateRequest, State as WireState},
};
use prost::Message;
use tokio::sync::{
    Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, OwnedSemaphorePermit, Semaphore, watch,
};
use tracing::Instrument as _;
use wasmtime::Store;

use crate::{
    abi::{Abi, Answer},
    code::{Linked, Tiers},
    config::Reuse,
    engine::Tier,
    fault::{Fault, TooLong},
    head,
    store::{Cell, Shared, new_store},
};

/// What the port allows a health check.
const HEALTH_MAX: Duration = Duration::from_secs(1);
/// How often `stop` looks whether the last call is over.
const STOP_POLL: Duration = Duration::from_millis(1);

/// One running copy of a plugin.
pub(crate) struct WasmInstance<A: Abi>(Arc<Guests<A>>);

/// Its guests, and what makes them.
pub(crate) struct Guests<A: Abi> {
    id: InstanceId,
    code: Arc<Tiers<A>>,
    shared: Arc<Shared>,
    metadata: Arc<Metadata>,
    /// What fresh guests start with.
    beginning: Mutex<Arc<Beginning>>,
    /// Its number, for a look without the lock.
    beginnings: AtomicU64,
    reuse: Reuse,
    idle: Mutex<Vec<Box<Lease<A>>>>,
    stopped: AtomicBool,
    reserved: ReservedMethods,
    /// Of a plugin with state.
    only: Option<Only>,
}

/// What guests start with. A new configuration makes a new one, and guests of an older one are kept no longer.
struct Beginning {
    number: u64,
    request: StartRequest,
    encoded: Vec<u8>,
}

/// What a plugin with one guest needs beside.
struct Only {
    /// Held by the call that runs. Its value: whether better code may still take the guest's state over.
    turn: AsyncMutex<bool>,
    ended: watch::Sender<Option<EndCause>>,
}

/// A started guest and its place. The store goes before the place does. Boxed wherever it goes: it changes hands five times in a call.
struct Lease<A: Abi> {
    store: Store<Cell>,
    guest: A::Guest,
    linked: Arc<Linked<A>>,
    calls: u64,
    beginning: u64,
    _slot: OwnedSemaphorePermit,
}

/// Why the state of the one guest did not move to better code.
enum Unmoved {
    /// The guest goes on as it is.
    Stays(String),
    /// It failed over it.
    Lost(Fault),
}

/// How long better code may take to take over state.
const PROMOTE_MAX: Duration = Duration::from_millis(50);

impl<A: Abi> WasmInstance<A> {
    /// Starts it: one guest is made and keeps for the first call.
    pub(crate) async fn start(
        code: Arc<Tiers<A>>,
        metadata: Arc<Metadata>,
        reuse: Reuse,
        start: Start,
    ) -> Result<Self, RuntimeError> {
        let plugin: Arc<str> = metadata.name.as_str().into();
        let request = StartRequest {
            config_json: start.config_json.to_string(),
            plugin: metadata.name.clone(),
            version: metadata.version.clone(),
            instance: if start.pure {
                String::new()
            } else {
                start.instance.to_string()
            },
        };
        // What a guest leaves in its memory is a request's of before.
        let reuse = if start.pure { Reuse::Ephemeral } else { reuse };
        let limit = start.limits.start;
        let busy_ticks = Arc::clone(code.busy_ticks());
        let shared = Shared::new(Arc::clone(&plugin), start.limits, start.services, busy_ticks);
        let shared = Arc::new(shared);
        let reserved = ReservedMethods::of(&metadata);
        let only = reserved.carry_state().then(|| Only {
            turn: AsyncMutex::new(true),
            ended: watch::Sender::new(None),
        });
        let instance = Guests {
            id: start.instance,
            code,
            shared,
            metadata,
            beginning: Mutex::new(Arc::new(Beginning::new(0, request))),
            beginnings: AtomicU64::new(0),
            reuse: if only.is_some() { Reuse::ONLY } else { reuse },
            idle: Mutex::new(Vec::new()),
            stopped: AtomicBool::new(false),
            reserved,
            only,
        };
        let deadline = Instant::now() + limit;
        let _running = instance.code.engines().enter();
        match instance.fresh(None, deadline).await {
            Ok(mut lease) => {
                lease.store.data_mut().end();
                instance.idle().push(lease);
            }
            Err(fault) => return Err(fault.of_start(&plugin, limit)),
        }
        drop(_running);
        Ok(Self(Arc::new(instance)))
    }
}

impl<A: Abi> Guests<A> {
    async fn answer(
        &self,
        cx: &CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(CallError::new(
                CallErrorKind::Draining,
                format!("plugin `{}` is stopped", self.shared.plugin),
            ));
        }
        let Some(target) = self.metadata.methods.get(method.0 as usize) else {
            let methods = self.metadata.methods.len();
            return Err(CallError::no_such_method(&self.shared.plugin, methods, method));
        };
        let fail = |fault: Fault| fault.of_call(&self.shared.plugin, &method_name(target));
        let now = cx.began.unwrap_or_else(Instant::now);
        let deadline = cx.deadline.unwrap_or_else(|| now + self.shared.limits.deadline);
        if deadline <= now {
            return Err(fail(Fault::Deadline));
        }
        let turn = self.turn(deadline).await.map_err(fail)?;
        let _running = self.code.engines().enter();
        // A guest is ended at its deadline, and the only one takes the state along. That is not for a caller in a hurry to bring about: he goes at his own
        // deadline (see `call`), and the guest has at least what the plugin's limits give it.
        let own = || deadline.max(Instant::now() + self.shared.limits.deadline);
        let until = self.only.as_ref().map_or(deadline, |_| own());
        let mut lease = self.lease(cx, until).await.map_err(fail)?;
        let head = &mut lease.store.data_mut().scratch;
        head.clear();
        head::encode(cx, now, head);
        let call = async move {
            let answer = lease
                .linked
                .abi
                .invoke(&lease.guest, &mut lease.store, method.0, payload)
                .await;
            (lease, answer)
        };
        let pool = self.code.engines().pool();
        let (mut lease, answer) = pool.run(Box::pin(call)).await.map_err(|_| fail(Fault::Halted))?;
        let in_order = answer.is_ok();
        let answer = match lease.settle(answer) {
            Ok(answer) => answer,
            Err(fault) => {
                match turn {
                    // It only said too much.
                    Some(mut turn) if in_order => self.put_back(lease, &mut turn).await,
                    _ => self.lost(&fault, &method_name(target)),
                }
                return Err(fail(fault));
            }
        };
        lease.calls += 1;
        if let Some(mut turn) = turn {
            self.put_back(lease, &mut turn).await;
        } else if let Some(worn) = self.keep(lease) {
            Box::pin(self.retire(worn)).await;
        }
        match answer {
            Ok(reply) => Ok(reply.into()),
            Err(status) => Err(CallError::returned(decode_status(&status))),
        }
    }

    /// A started guest, kept or fresh, with its clock set. What is rarely needed is boxed, so that a warm call's future stays small.
    async fn lease(&self, cx: &CallContext, deadline: Instant) -> Result<Box<Lease<A>>, Fault> {
        loop {
            let Some(mut lease) = self.idle().pop() else { break };
            if self.only.is_some() || self.is_current(&lease) {
                lease.begin(Some(cx), deadline);
                return Ok(lease);
            }
            Box::pin(self.retire(lease)).await;
        }
        if self.only.is_some() {
            return Err(Fault::Guest(
                "its one guest, which held its state, is lost".to_owned(),
            ));
        }
        Box::pin(self.fresh(Some(cx), deadline)).await
    }

    /// Whether it runs the best code there is, and started as a fresh one would.
    fn is_current(&self, lease: &Lease<A>) -> bool {
        self.code.is_current(&lease.linked) && lease.beginning == self.beginnings.load(Ordering::Acquire)
    }

    /// A guest took a new configuration: fresh ones start with it, and what was kept of the others goes.
    fn begin_with(&self, json: &str) {
        let mut beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let request = StartRequest {
            config_json: json.to_owned(),
            ..beginning.request.clone()
        };
        let number = beginning.number + 1;
        *beginning = Arc::new(Beginning::new(number, request));
        self.beginnings.store(number, Ordering::Release);
    }

    // --- the one guest of a plugin with state ---

    /// Waits until no other call is in the guest; `None` for a plugin that has as many as it needs.
    async fn turn(&self, deadline: Instant) -> Result<Option<AsyncMutexGuard<'_, bool>>, Fault> {
        let Some(only) = &self.only else { return Ok(None) };
        if let Ok(turn) = only.turn.try_lock() {
            return Ok(Some(turn));
        }
        match tokio::time::timeout_at(deadline.into(), only.turn.lock()).await {
            Ok(turn) => Ok(Some(turn)),
            Err(_) => Err(Fault::Deadline),
        }
    }

    /// The one guest is not entered again (N1), so the instance is over.
    fn lost(&self, fault: &Fault, doing: &str) {
        let Some(only) = &self.only else { return };
        let cause = match fault {
            Fault::Halted => return,
            Fault::Deadline => EndCause::Stuck(doing.to_owned()),
            Fault::Memory { refused, .. } => EndCause::OutOfMemory(refused.to_string()),
            other => EndCause::Panicked(format!("in {doing}: {other:?}")),
        };
        only.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(cause);
            first
        });
    }

    /// Keeps the one guest, in better code if there is any by now.
    async fn put_back(&self, mut lease: Box<Lease<A>>, may_promote: &mut bool) {
        lease.store.data_mut().end();
        if lease.linked.tier == Tier::Baseline {
            self.code.count_call(Tier::Baseline);
        }
        if *may_promote && !self.code.is_current(&lease.linked) {
            let why = match Box::pin(self.promoted(&mut lease)).await {
                Ok(better) => {
                    lease = better;
                    None
                }
                Err(Unmoved::Stays(why)) => Some(why),
                Err(Unmoved::Lost(fault)) => return self.lost(&fault, Reserved::SaveState.name()),
            };
            if let Some(why) = why {
                *may_promote = false;
                tracing::warn!(instance = %self.id, why, "its state could not move to optimised code; it goes on as it is");
            }
        }
        self.idle().push(lease);
    }

    /// A guest of the best code, with the state of this one.
    async fn promoted(&self, old: &mut Lease<A>) -> Result<Box<Lease<A>>, Unmoved> {
        let deadline = Instant::now() + PROMOTE_MAX;
        let stays = |fault: Fault| Unmoved::Stays(format!("the fresh guest failed: {fault:?}"));
        let mut better = self.fresh(None, deadline).await.map_err(stays)?;
        old.begin(None, deadline);
        let saved = self
            .ask(old, Reserved::SaveState, SaveStateRequest {}.encode_to_vec())
            .await;
        old.store.data_mut().end();
        let saved = saved.map_err(Unmoved::Lost)?.map_err(Unmoved::Stays)?;
        let state = WireState::decode(&*saved).map_err(|error| Unmoved::Stays(error.to_string()))?;
        let request = LoadStateRequest {
            state: Some(state),
            migrate: false,
        };
        let loaded = self.ask(&mut better, Reserved::LoadState, request.encode_to_vec());
        loaded.await.map_err(stays)?.map_err(Unmoved::Stays)?;
        better.store.data_mut().end();
        Ok(better)
    }

    /// The reply, or the plugin's own reason. After a fault the guest is not to be entered again.
    async fn ask(
        &self,
        lease: &mut Lease<A>,
        method: Reserved,
        request: Vec<u8>,
    ) -> Result<Result<Vec<u8>, String>, Fault> {
        let Some(number) = self.metadata.reserved(method) else {
            return Ok(Err(format!("it has no {}", method.name())));
        };
        lease.store.data_mut().scratch.clear();
        let answer = lease
            .linked
            .abi
            .invoke(&lease.guest, &mut lease.store, number, request.into())
            .await;
        let answer = lease.settle(answer)?;
        Ok(answer.map_err(|status| decode_status(&status).to_string()))
    }

    /// A new guest: a place, a store with its limits, the module's own start function, then `start`.
    async fn fresh(&self, cx: Option<&CallContext>, deadline: Instant) -> Result<Box<Lease<A>>, Fault> {
        let linked = self.code.current();
        self.code.count_call(linked.tier);
        let lane = self.code.engines().lane(linked.tier);
        let slot = place(lane.slots(), linked.abi.slots(), deadline).await?;
        let mut store = new_store(lane.wasmtime(), &self.shared, deadline);
        store.data_mut().begin(
            cx,
            deadline.min(cx.and_then(|it| it.began).unwrap_or_else(Instant::now) + self.shared.limits.start),
        );
        let doorway = match self.reuse {
            Reuse::Warm { .. } => lane.doorway(),
            Reuse::Ephemeral => None,
        };
        let guest = match linked.abi.instantiate(&mut store, doorway).await {
            Ok(guest) => guest,
            Err(error) => return Err(Fault::of(&error, store.data())),
        };
        let beginning = self
            .beginning
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answer = linked.abi.start(&guest, &mut store, &beginning.encoded).await;
        let mut lease = Box::new(Lease {
            store,
            guest,
            linked,
            calls: 0,
            beginning: beginning.number,
            _slot: slot,
        });
        match lease.settle(answer)? {
            Ok(()) => {
                lease.begin(cx, deadline);
                Ok(lease)
            }
            Err(status) => Err(Fault::Declined(decode_status(&status))),
        }
    }

    /// Keeps a guest whose call ended in order, if the policy says so. Gives back one that was kept for long enough, to be retired; an
    /// ephemeral one is dropped.
    fn keep(&self, mut lease: Box<Lease<A>>) -> Option<Box<Lease<A>>> {
        let Reuse::Warm { instances, calls_max } = self.reuse else {
            return None;
        };
        lease.store.data_mut().end();
        if lease.linked.tier == Tier::Baseline {
            self.code.count_call(Tier::Baseline);
        }
        let worn = lease.calls >= calls_max
            || lease.store.data().memory_bytes() > self.shared.limits.memory_bytes_max / 2
            || !self.is_current(&lease)
            || self.stopped.load(Ordering::Relaxed);
        if worn {
            return Some(lease);
        }
        let mut idle = self.idle();
        if idle.len() < instances {
            idle.push(lease);
            return None;
        }
        Some(lease)
    }

    /// Lets go of a kept guest in order.
    async fn retire(&self, mut lease: Box<Lease<A>>) {
        lease.begin(None, Instant::now() + self.shared.limits.stop);
        if let Err(error) = lease.linked.abi.stop(&lease.guest, &mut lease.store).await {
            let fault = Fault::of(&error, lease.store.data());
            tracing::debug!(instance = %self.id, ?fault, "a guest failed in `stop`");
        }
    }

    async fn check_health(&self) -> Result<Health, CallError> {
        let fail = |fault: Fault| fault.of_call(&self.shared.plugin, "health");
        let deadline = Instant::now() + HEALTH_MAX;
        let cx = CallContext {
            deadline: Some(deadline),
            ..CallContext::default()
        };
        // A call that takes its time is no sign of ill health.
        let turn = match self.turn(deadline).await {
            Ok(turn) => turn,
            Err(_) => {
                return Ok(Health {
                    serving: true,
                    detail: "a call is in its one guest".to_owned(),
                });
            }
        };
        let _running = self.code.engines().enter();
        // However long it waited for its turn: a guest that is ended over the question takes its state along.
        let deadline = self
            .only
            .as_ref()
            .map_or(deadline, |_| Instant::now() + HEALTH_MAX);
        let mut lease = self.lease(&cx, deadline).await.map_err(fail)?;
        let answer = lease.linked.abi.health(&lease.guest, &mut lease.store).await;
        let health = match answer {
            Ok(None) => Health {
                serving: true,
                detail: String::new(),
            },
            Ok(Some(encoded)) => Health::decode(encoded.as_slice())
                .map_err(|error| fail(Fault::Guest(format!("its answer is no Health message: {error}"))))?,
            Err(error) => {
                let fault = Fault::of(&error, lease.store.data());
                self.lost(&fault, "health");
                return Err(fail(fault));
            }
        };
        if let Some(mut turn) = turn {
            self.put_back(lease, &mut turn).await;
        } else if let Some(worn) = self.keep(lease) {
            self.retire(worn).await;
        }
        Ok(health)
    }

    async fn shut_down(&self, grace: Duration) -> StopReport {
        let mut report = StopReport::default();
        if self.stopped.swap(true, Ordering::SeqCst) {
            return report;
        }
        let end = Instant::now() + grace;
        let _running = self.code.engines().enter();
        let idle = std::mem::take(&mut *self.idle());
        for lease in idle {
            // The guest kept for a first call that never came has not been used, and an ephemeral one is not told.
            if matches!(self.reuse, Reuse::Warm { .. }) && Instant::now() < end {
                self.retire(lease).await;
            }
        }
        while self.shared.stores() > 0 {
            if Instant::now() >= end && report.forced.is_none() {
                report.forced = Some(format!(
                    "{} calls were still running after {grace:?}",
                    self.shared.stores()
                ));
                self.shared.halt();
            }
            // A store goes when its caller is polled; a caller that never polls again holds it, and no force of ours changes that.
            if report.forced.is_some() && Instant::now() >= end + HEALTH_MAX {
                report.left = Some(format!(
                    "{} calls whose callers do not go on",
                    self.shared.stores()
                ));
                break;
            }
            tokio::time::sleep(STOP_POLL).await;
        }
        tracing::debug!(instance = %self.id, memory_peak_bytes = self.shared.memory.peak(), "stopped");
        report
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Box<Lease<A>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beginning {
    fn new(number: u64, request: StartRequest) -> Self {
        Self {
            number,
            encoded: request.encode_to_vec(),
            request,
        }
    }
}

impl<A: Abi> Lease<A> {
    fn begin(&mut self, call: Option<&CallContext>, deadline: Instant) {
        self.store.data_mut().begin(call, deadline);
        self.store.set_epoch_deadline(1);
    }

    /// Tells the guest's own answer from a fault, and holds it to the size that is carried.
    fn settle<T: AsBytes>(&self, answer: Answer<T>) -> Result<Result<T, Vec<u8>>, Fault> {
        let cell = self.store.data();
        let answer = answer.map_err(|error| Fault::of(&error, cell))?;
        let bytes = answer.as_ref().map_or_else(Vec::len, AsBytes::len);
        let bytes_max = cell.payload_bytes_max();
        if bytes > bytes_max {
            Err(Fault::TooLong(TooLong { bytes, bytes_max }))
        } else {
            Ok(answer)
        }
    }
}

/// A place for one guest, or the deadline.
async fn place(
    slots: &Arc<Semaphore>,
    wanted: u32,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, Fault> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_many_owned(wanted) {
        return Ok(slot);
    }
    match tokio::time::timeout_at(deadline.into(), Arc::clone(slots).acquire_many_owned(wanted)).await {
        Ok(slot) => slot.map_err(|_| Fault::Halted),
        Err(_) => Err(Fault::NoSlot(
            "all instances of the runtime were busy until the deadline".to_owned(),
        )),
    }
}

fn decode_status(encoded: &[u8]) -> Status {
    Status::decode(encoded).unwrap_or_else(|error| {
        Status::new(
            mortise_wire::Code::Unknown,
            format!("the plugin answered with an error that is no Status message: {error}"),
        )
    })
}

/// What an answer weighs.
trait AsBytes {
    fn len(&self) -> usize;
}

impl AsBytes for Vec<u8> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
}

impl AsBytes for () {
    fn len(&self) -> usize {
        0
    }
}

impl<A: Abi> Instance for WasmInstance<A> {
    fn id(&self) -> &InstanceId {
        &self.0.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn state(&self) -> Option<&dyn State> {
        (!self.0.reserved.is_empty()).then_some(self)
    }

    fn configure(&self) -> Option<&dyn Configure> {
        self.0.reserved.configure().then_some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        if self.0.only.is_none() {
            return Box::pin(self.0.check_health());
        }
        let guests = self.0.clone();
        Box::pin(apart(async move { guests.check_health().await }))
    }

    /// Without state never: what breaks is one guest, and the next call gets a fresh one.
    fn ended(&self) -> BoxFuture<'_, EndCause> {
        let Some(only) = &self.0.only else {
            return Box::pin(std::future::pending());
        };
        let mut ended = only.ended.subscribe();
        Box::pin(async move {
            match ended.wait_for(Option::is_some).await.map(|it| it.clone()) {
                Ok(Some(cause)) => cause,
                // It was stopped.
                _ => std::future::pending().await,
            }
        })
    }

    fn usage(&self) -> Usage {
        let memory = self.0.code.current().abi.code_bytes() + self.0.shared.memory.now();
        Usage {
            memory_bytes: Some(memory),
            pid: None,
            ..Usage::default()
        }
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        Box::pin(self.0.shut_down(grace))
    }
}

impl<A: Abi> Call for WasmInstance<A> {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        if self.0.only.is_none() {
            return Box::pin(self.0.answer(cx, method, payload));
        }
        let (guests, due, cx) = (self.0.clone(), cx.deadline, cx.clone());
        let answered = apart(async move { guests.answer(&cx, method, payload).await });
        Box::pin(async move {
            let Some(due) = due else { return answered.await };
            match tokio::time::timeout_at(due.into(), answered).await {
                Ok(answer) => answer,
                Err(_) => {
                    let target = self.0.metadata.methods.get(method.0 as usize);
                    let target = target.map(method_name).unwrap_or_default();
                    Err(Fault::Deadline.of_call(&self.0.shared.plugin, &target))
                }
            }
        })
    }
}

impl<A: Abi> ReservedCalls for WasmInstance<A> {
    fn reserved(&self) -> &ReservedMethods {
        &self.0.reserved
    }

    fn configured(&self, json: &str) {
        self.0.begin_with(json);
    }
}

/// Runs to its end although nobody may wait for it any more: a guest that is dropped in the middle of a call is lost, and its state with it.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> Result<T, CallError> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|error| {
            Err(CallError::new(
                CallErrorKind::HostBug,
                format!("a call of a WebAssembly guest was given up: {error}"),
            ))
        })
}

fn method_name(method: &Method) -> String {
    format!("{}/{}", method.service, method.name)
}
