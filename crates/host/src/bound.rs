//! A method that was looked up once: the fastest way to call a plugin in process.

use std::{
    fmt,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use bytes::Bytes;
use mortise_contract::evolve::Side;
use mortise_runtime::{CallError, CallErrorKind, DirectCall};
use tokio::runtime::Handle;

use crate::{
    CallerContract, Host, Route,
    adapt::Adapting,
    call::{self, Origin},
    generation::Occupant,
};

/// A method that was looked up once, for synchronous calls without a lookup, a lock, a read-modify-write or a clock.
///
/// Where the plugin's runtime offers a direct path (native, built-in), a call pins the plugin's current generation with one plain store, calls
/// the method on this thread and lets go. There is no deadline, no admission, no counting and no span on that path: it is for callers
/// who trust the plugin as much as their own code. A swap waits until every such call is out of the old version.
///
/// Elsewhere the call goes the way of [`Host::call`] and blocks this thread until it is answered. Do not use it on a thread of a
/// current-thread tokio runtime that the host itself runs on: nobody would be left to answer.
#[derive(Clone)]
pub struct BoundMethod {
    host: Host,
    route: Route,
    runtime: Handle,
    contract: Option<CallerContract>,
}

impl BoundMethod {
    pub(crate) fn new(host: Host, route: Route, runtime: Handle) -> Self {
        Self {
            host,
            route,
            runtime,
            contract: None,
        }
    }

    /// Calls the method and appends its reply to `out`.
    ///
    /// # Errors
    /// As [`Host::call`]; `out` is then as it was.
    pub fn call(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError> {
        let target = &*self.route.0;
        let pinned = target.address.cell.pin();
        if let Occupant::Serving(generation) = &*pinned
            && let Some(Some(seat)) = generation.seats.get(target.seat)
            && let Some(direct) = &seat.direct
        {
            let call = |payload: &[u8], out: &mut Vec<u8>| {
                DirectCall::call(&**direct, payload, out).map_err(|error| seat.judge(error))
            };
            let Some(caller) = &self.contract else {
                return call(payload, out);
            };
            match generation.plan(caller, target)? {
                None => return call(payload, out),
                // Functions are calls, and a pin must not be held meanwhile.
                Some(plan) if plan.has_functions() => {}
                Some(plan) => {
                    let adapting = Adapting {
                        plan: &plan,
                        generation,
                        target,
                    };
                    let request = adapting.at_once(Side::Request, Bytes::copy_from_slice(payload))?;
                    let mut reply = Vec::new();
                    call(&request, &mut reply)?;
                    out.extend_from_slice(&adapting.at_once(Side::Response, reply.into())?);
                    return Ok(());
                }
            }
        }
        // The managed path waits, and a pin must not be held meanwhile: a swap would wait for it.
        drop(pinned);
        self.call_managed(payload, out)
    }

    pub(crate) fn set_contract(&mut self, contract: CallerContract) {
        self.contract = Some(contract);
    }

    /// What it is bound to.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    #[cold]
    fn call_managed(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CallError> {
        if self.host.is_closed() {
            return Err(CallError::new(
                CallErrorKind::Unavailable,
                "the host is shut down",
            ));
        }
        let _runtime = self.runtime.enter();
        let payload = Bytes::copy_from_slice(payload);
        let origin = Origin {
            contract: self.contract.clone(),
            ..Origin::default()
        };
        // On a thread that is polling a task, that task's budget would never be renewed while it blocks here.
        let call = tokio::task::coop::unconstrained(call::call(&self.route.0, payload, origin));
        let reply = block_on(call)?;
        out.extend_from_slice(&reply);
        Ok(())
    }
}

impl fmt::Debug for BoundMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoundMethod({:?})", self.route)
    }
}

/// Drives a future on this thread. Its timers and tasks live on the tokio runtime that is entered; tokio's own `block_on` would panic on a
/// thread of such a runtime, and a multi-thread runtime can well spare one.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
