//! A running plugin: leases guests, calls them, and throws away what must not be used again.
//!
//! - N1. A guest that trapped, was interrupted, was dropped in the middle of a call or broke its ABI is never entered again: its store is a
//!   local variable of the call and goes with it. Only a call that ended in order gives it back.
//! - N2. `start` runs in each fresh guest before anything else, within the deadline of the call that needs it.
//! - N3. The guest that proved at load that the plugin starts serves the first call.
//! - N4. A guest is told to `stop` when it was kept and is let go of in order. An ephemeral one has nothing to say goodbye to.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, CallErrorKind, EndCause, Instance, InstanceId, MethodIndex,
    RuntimeError, Start, StopReport, Usage,
};
use mortise_wire::{Health, Metadata, StartRequest, Status};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
pub(crate) struct WasmInstance<A: Abi> {
    id: InstanceId,
    code: Arc<Tiers<A>>,
    shared: Arc<Shared>,
    metadata: Arc<Metadata>,
    start_request: Vec<u8>,
    reuse: Reuse,
    idle: Mutex<Vec<Box<Lease<A>>>>,
    stopped: AtomicBool,
}

/// A started guest and its place. The store goes before the place does. Boxed wherever it goes: it changes hands five times in a call.
struct Lease<A: Abi> {
    store: Store<Cell>,
    guest: A::Guest,
    linked: Arc<Linked<A>>,
    calls: u64,
    _slot: OwnedSemaphorePermit,
}

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
            instance: start.instance.to_string(),
        };
        let limit = start.limits.start;
        let busy_ticks = Arc::clone(code.busy_ticks());
        let shared = Shared::new(Arc::clone(&plugin), start.limits, start.services, busy_ticks);
        let shared = Arc::new(shared);
        let instance = Self {
            id: start.instance,
            code,
            shared,
            metadata,
            start_request: request.encode_to_vec(),
            reuse,
            idle: Mutex::new(Vec::new()),
            stopped: AtomicBool::new(false),
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
        Ok(instance)
    }

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
        let fail = |fault: Fault| {
            fault.of_call(
                &self.shared.plugin,
                &format!("{}/{}", target.service, target.name),
            )
        };
        let now = cx.began.unwrap_or_else(Instant::now);
        let deadline = cx.deadline.unwrap_or_else(|| now + self.shared.limits.deadline);
        if deadline <= now {
            return Err(fail(Fault::Deadline));
        }
        let _running = self.code.engines().enter();
        let mut lease = self.lease(cx, deadline).await.map_err(fail)?;
        let head = &mut lease.store.data_mut().scratch;
        head.clear();
        head::encode(cx, now, head);
        let answer = lease
            .linked
            .abi
            .invoke(&lease.guest, &mut lease.store, method.0, payload)
            .await;
        let answer = lease.settle(answer).map_err(fail)?;
        lease.calls += 1;
        if let Some(worn) = self.keep(lease) {
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
            if self.code.is_current(&lease.linked) {
                lease.begin(Some(cx), deadline);
                return Ok(lease);
            }
            Box::pin(self.retire(lease)).await;
        }
        Box::pin(self.fresh(Some(cx), deadline)).await
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
        let answer = linked.abi.start(&guest, &mut store, &self.start_request).await;
        let mut lease = Box::new(Lease {
            store,
            guest,
            linked,
            calls: 0,
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
            || !self.code.is_current(&lease.linked)
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
        let _running = self.code.engines().enter();
        let mut lease = self.lease(&cx, deadline).await.map_err(fail)?;
        let answer = lease.linked.abi.health(&lease.guest, &mut lease.store).await;
        let health = match answer {
            Ok(None) => Health {
                serving: true,
                detail: String::new(),
            },
            Ok(Some(encoded)) => Health::decode(encoded.as_slice())
                .map_err(|error| fail(Fault::Guest(format!("its answer is no Health message: {error}"))))?,
            Err(error) => return Err(fail(Fault::of(&error, lease.store.data()))),
        };
        if let Some(worn) = self.keep(lease) {
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
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        Box::pin(self.check_health())
    }

    /// Never: what breaks is one guest, and the next call gets a fresh one.
    fn ended(&self) -> BoxFuture<'_, EndCause> {
        Box::pin(std::future::pending())
    }

    fn usage(&self) -> Usage {
        let memory = self.code.current().abi.code_bytes() + self.shared.memory.now();
        Usage {
            memory_bytes: Some(memory),
            pid: None,
            ..Usage::default()
        }
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        Box::pin(self.shut_down(grace))
    }
}

impl<A: Abi> Call for WasmInstance<A> {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.answer(cx, method, payload))
    }
}
