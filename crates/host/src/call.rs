//! The call path: admit, pick, guest, account. Resolving comes before it ([`crate::table`]), replying after it (whoever called).
//!
//! Nothing here takes a lock or waits for a supervisor. A call costs, beside the runtime's own work: one count in the generation (so that a
//! swap waits for it), one compare-and-swap and one subtraction at the door, two counters on a cache line of this thread group, and one look at
//! the clock for its deadline. Each phase is a span at trace level in target `mortise::call`; with nobody interested that is one relaxed load.
//!
//! # A swap in the middle
//! 1. *Before* the cell was read: the call goes to the new generation.
//! 2. *After* it was read, before admission: the old one is still held and lets the call in, or has closed its door; then the cell is read
//!    again, and holds the new one because a supervisor swaps first and closes second.
//! 3. *After* admission: the old one is drained before it is stopped, and this call is one of those it waits for.
//! 4. *While state is handed over*: the cell holds a gate, and the call waits there and reads the cell again, or passes it if the gate waits for it.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use mortise_contract::evolve::{Plan, Side};
use mortise_runtime::{Call, CallContext, CallError, CallErrorKind, Trail, stream::not_unary};
use mortise_wire::{Code, DEPTH_MAX, Header};
use semver::VersionReq;
use tracing::{Instrument as _, trace_span};

use crate::{
    CallOptions, CallerContract,
    adapt::{self, Adapting},
    admission::{Place, Turned},
    events,
    gate::{Gate, Pass},
    generation::{Address, Generation, Occupant, Seat},
    table::Target,
};

/// What a call brings along, from wherever it comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) deadline: Option<Instant>,
    pub(crate) traceparent: Arc<str>,
    pub(crate) metadata: Arc<[Header]>,
    pub(crate) depth: u32,
    pub(crate) caller: Arc<str>,
    /// What the caller was built against, if that is known.
    pub(crate) contract: Option<CallerContract>,
    /// The instances that it comes out of.
    pub(crate) trail: Trail,
    /// A plugin makes it, and on nobody's behalf.
    pub(crate) is_own_accord: bool,
    /// The versions that its caller can use.
    pub(crate) range: Option<Arc<VersionReq>>,
}

impl Origin {
    /// An outside caller. Of its headers only those in `propagate` travel on.
    pub(crate) fn outside(options: CallOptions, propagate: &[String]) -> Self {
        let CallOptions {
            deadline,
            headers,
            traceparent,
            contract,
        } = options;
        let nothing = headers.is_empty() || propagate.is_empty();
        let metadata = if nothing {
            no_headers()
        } else {
            headers
                .into_iter()
                .filter(|header| propagate.contains(&header.name))
                .collect()
        };
        let traceparent = traceparent.map_or_else(no_text, Into::into);
        Self {
            deadline,
            traceparent,
            metadata,
            depth: 0,
            caller: no_text(),
            contract,
            ..Self::default()
        }
    }

    /// A plugin that calls on behalf of `parent`, or on its own.
    pub(crate) fn plugin(caller: &Arc<str>, parent: Option<&CallContext>) -> Self {
        let Some(parent) = parent else {
            return Self {
                depth: 1,
                caller: caller.clone(),
                traceparent: no_text(),
                metadata: no_headers(),
                is_own_accord: true,
                ..Self::default()
            };
        };
        Self {
            deadline: parent.deadline,
            traceparent: parent.traceparent.clone(),
            metadata: travelling(&parent.metadata),
            depth: parent.depth.saturating_add(1),
            caller: caller.clone(),
            trail: parent.trail.clone(),
            ..Self::default()
        }
    }
}

/// Headers that travel on. Of which event a call is the delivery is said of that call alone.
fn travelling(headers: &Arc<[Header]>) -> Arc<[Header]> {
    if !headers.iter().any(events::is_of_event) {
        return headers.clone();
    }
    headers
        .iter()
        .filter(|it| !events::is_of_event(it))
        .cloned()
        .collect()
}

// Shared empties, so that a plain call allocates none. One per thread: counting references to the same `Arc` would make all threads fight for
// its cache line.
thread_local! {
    static NO_TEXT: Arc<str> = Arc::from("");
    static NO_HEADERS: Arc<[Header]> = Arc::from([]);
}

fn no_text() -> Arc<str> {
    NO_TEXT.with(Arc::clone)
}

fn no_headers() -> Arc<[Header]> {
    NO_HEADERS.with(Arc::clone)
}

/// Where a call failed.
pub(crate) enum Failed {
    /// Before it was let in: the plugin has seen nothing of it.
    Outside(CallError),
    /// After.
    Inside(CallError),
}

/// Calls a resolved target.
///
/// # Cancel safety
/// Dropping the future cancels the call in the guest, and gives its place back.
pub(crate) async fn call(target: &Target, payload: Bytes, origin: Origin) -> Result<Bytes, CallError> {
    attempt(target, payload, origin)
        .await
        .map_err(|(Failed::Outside(error) | Failed::Inside(error))| error)
}

/// The same, for whoever counts attempts.
///
/// # Cancel safety
/// As [`call`].
pub(crate) async fn attempt(target: &Target, payload: Bytes, origin: Origin) -> Result<Bytes, Failed> {
    // A plugin in this process may answer without ever being pending. A task that only calls it must still let others run: the supervisor
    // that wants to replace the plugin, for one.
    tokio::task::coop::consume_budget().await;
    let began = Instant::now();
    loop {
        let span = trace_span!(target: "mortise::call", "admit", plugin = %target.address.name);
        let held = span.in_scope(|| target.address.cell.acquire());
        let generation = match &*held {
            Occupant::Serving(generation) => generation,
            Occupant::Gate(gate) => {
                let gate = gate.clone();
                // What is held here must not hold up whoever waits for it to go.
                drop(held);
                if let Some(pass) = gate.lets_through(&origin) {
                    return Box::pin(behind(&gate, pass, target, payload, origin, began)).await;
                }
                Box::pin(gate.pass(target, &origin, began))
                    .await
                    .map_err(Failed::Outside)?;
                continue;
            }
            Occupant::Vacant(why) => {
                let error = CallError::new(CallErrorKind::Unavailable, why.to_string());
                return Err(Failed::Outside(error));
            }
        };
        let admitted = admit(generation, target, &origin, payload.len(), began)
            .instrument(span)
            .await;
        match admitted {
            Ok(admitted) => {
                let served = serve(generation, target, admitted, payload, origin, began).await;
                return served.map_err(Failed::Inside);
            }
            Err(NotAdmitted::Refused(error)) => return Err(Failed::Outside(error)),
            // The door closed after the cell was read: a successor is in the cell by now.
            Err(NotAdmitted::Elsewhere) => {}
        }
    }
}

/// Calls what stands behind a gate, out of a call that the gate waits for (G3). Its door is closed to everybody else.
async fn behind(
    gate: &Gate,
    pass: Pass,
    target: &Target,
    payload: Bytes,
    origin: Origin,
    began: Instant,
) -> Result<Bytes, Failed> {
    let generation = &*gate.generation;
    let deadline = looked_over(generation, target, &origin, payload.len(), began).map_err(Failed::Outside)?;
    let entered = generation.admission.enter_closed(deadline).await;
    let place = entered.map_err(|turned| Failed::Outside(refused(generation, turned, began)))?;
    let at = Instant::now();
    let admitted = Admitted { place, at, deadline };
    let served = serve(generation, target, admitted, payload, origin, began).await;
    drop(pass);
    served.map_err(Failed::Inside)
}

/// A call that is let in.
pub(crate) struct Admitted<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) at: Instant,
    pub(crate) deadline: Instant,
}

impl Admitted<'_> {
    /// What the runtime is told of it.
    pub(crate) fn context(&self, generation: &Generation, origin: Origin) -> CallContext {
        context(generation, origin, self.at, self.deadline)
    }
}

fn context(generation: &Generation, origin: Origin, began: Instant, deadline: Instant) -> CallContext {
    CallContext {
        call_id: next_call_id(),
        deadline: Some(deadline),
        began: Some(began),
        traceparent: origin.traceparent,
        metadata: origin.metadata,
        depth: origin.depth,
        caller: origin.caller,
        untold: generation.manifest.pure,
        trail: origin.trail,
    }
}

/// A call that is not.
pub(crate) enum NotAdmitted {
    Refused(CallError),
    Elsewhere,
}

impl From<CallError> for NotAdmitted {
    fn from(error: CallError) -> Self {
        Self::Refused(error)
    }
}

/// Depth, size, and room before the deadline.
pub(crate) async fn admit<'a>(
    generation: &'a Generation,
    target: &Target,
    origin: &Origin,
    payload_bytes: usize,
    began: Instant,
) -> Result<Admitted<'a>, NotAdmitted> {
    let deadline = looked_over(generation, target, origin, payload_bytes, began)?;
    let (entered, at) = match generation.admission.enter_at_once() {
        Some(entered) => (entered, began),
        None => (generation.admission.enter(deadline).await, Instant::now()),
    };
    match entered {
        Ok(place) => Ok(Admitted { place, at, deadline }),
        Err(Turned::Closed) => Err(NotAdmitted::Elsewhere),
        Err(turned) => Err(refused(generation, turned, began).into()),
    }
}

/// Everything that is known before there is room; how long there may be waited for it.
fn looked_over(
    generation: &Generation,
    target: &Target,
    origin: &Origin,
    payload_bytes: usize,
    began: Instant,
) -> Result<Instant, CallError> {
    if origin.depth > DEPTH_MAX {
        return Err(too_deep(&target.full, &origin.caller));
    }
    // Another one serves than was found in the table: its version was not looked at.
    if generation.number != target.generation
        && let Some(range) = &origin.range
        && !range.matches(&generation.plugin.version)
    {
        return Err(out_of_range(generation, target, range));
    }
    let seat = seat(generation, target)?;
    check_size(generation, "request", payload_bytes)?;
    Ok(origin.deadline.unwrap_or_else(|| began + seat.deadline))
}

/// Pick, guest, account.
async fn serve(
    generation: &Generation,
    target: &Target,
    admitted: Admitted<'_>,
    payload: Bytes,
    origin: Origin,
    began: Instant,
) -> Result<Bytes, CallError> {
    let (facet, seat) = pick(generation, target)?;
    let plan = adapt::of_call(generation, target, &origin)?;
    let adapting = plan.as_deref().map(|plan| {
        let mut origin = origin.clone();
        origin.deadline = Some(admitted.deadline);
        let adapting = Adapting {
            plan,
            generation,
            target,
        };
        (adapting, origin)
    });
    let payload = match &adapting {
        Some((it, origin)) => {
            let adapted = it.message(Side::Request, payload, origin).await;
            adapted.inspect_err(|_| {
                generation.stats.begin();
                generation.stats.refused();
            })?
        }
        None => payload,
    };
    let cx = admitted.context(generation, origin);
    let sampled = generation.stats.begin();
    let span = trace_span!(
        target: "mortise::call", "guest",
        plugin = %generation.plugin.name, version = %generation.plugin.version, instance = %generation.instance.id(), call = cx.call_id
    );
    let reply = facet.call(&cx, seat.index, payload).instrument(span).await;
    // A function of the plugin's own that adapts the reply runs in the same place.
    let place = plan
        .as_deref()
        .is_some_and(Plan::has_functions)
        .then_some(admitted.place);
    let reply = reply.map_err(|error| overdue(error, target, admitted.deadline, began));
    let reply = account(generation, reply, sampled.then_some(began)).map_err(|error| seat.judge(error))?;
    let reply = match &adapting {
        Some((it, origin)) => {
            let adapted = it.message(Side::Response, reply, origin).await;
            // The call was accounted for as one that went well.
            adapted.inspect_err(|error| generation.stats.failed(error))
        }
        None => Ok(reply),
    };
    drop(place);
    reply
}

/// Calls a method of a generation out of a call that is in it already, in that one's place.
pub(crate) async fn inside(
    generation: &Generation,
    target: &Target,
    payload: Bytes,
    origin: Origin,
) -> Result<Bytes, CallError> {
    if origin.depth > DEPTH_MAX {
        return Err(too_deep(&target.full, &origin.caller));
    }
    let (facet, seat) = pick(generation, target)?;
    check_size(generation, "request", payload.len())?;
    let began = Instant::now();
    let deadline = origin.deadline.unwrap_or_else(|| began + seat.deadline);
    let cx = context(generation, origin, began, deadline);
    let sampled = generation.stats.begin();
    let reply = facet.call(&cx, seat.index, payload).await;
    let reply = reply.map_err(|error| overdue(error, target, deadline, began));
    account(generation, reply, sampled.then_some(began))
}

/// The instance's answering side, and the method in it.
fn pick<'a>(generation: &'a Generation, target: &Target) -> Result<(&'a dyn Call, &'a Seat), CallError> {
    let _span = trace_span!(target: "mortise::call", "pick").entered();
    let seat = seat(generation, target)?;
    if seat.kind.streams() {
        return Err(not_unary(&target.full, seat.kind));
    }
    match generation.instance.call() {
        Some(facet) => Ok((facet, seat)),
        None => Err(CallError::new(
            CallErrorKind::Incompatible,
            "the plugin answers no calls",
        )),
    }
}

pub(crate) fn seat<'a>(generation: &'a Generation, target: &Target) -> Result<&'a Seat, CallError> {
    match generation.seats.get(target.seat) {
        Some(Some(seat)) => Ok(seat),
        _ => Err(lacks_method(generation, target)),
    }
}

fn account(
    generation: &Generation,
    reply: Result<Bytes, CallError>,
    began: Option<Instant>,
) -> Result<Bytes, CallError> {
    let _span = trace_span!(target: "mortise::call", "account").entered();
    if let Some(began) = began {
        generation.stats.sample(began.elapsed());
    }
    let reply = reply.and_then(|bytes| check_size(generation, "reply", bytes.len()).map(|()| bytes));
    if let Err(error) = &reply {
        generation.stats.failed(error);
    }
    reply
}

// === refusals ===

/// A guest that looks at its clock notices the deadline in the same instant as the runtime's timer, and may answer first. Whoever
/// is first, the caller sees one and the same error.
fn overdue(error: CallError, target: &Target, deadline: Instant, began: Instant) -> CallError {
    let noticed = error.kind() == CallErrorKind::Returned && error.status().kind() == Code::DeadlineExceeded;
    if !noticed || Instant::now() < deadline {
        return error;
    }
    let allowed = deadline.saturating_duration_since(began);
    CallError::new(
        CallErrorKind::Deadline,
        format!("`{}` did not answer within the {allowed:.0?} it had", target.full),
    )
}

#[cold]
fn too_deep(target: &str, caller: &str) -> CallError {
    CallError::new(
        CallErrorKind::Exhausted,
        format!(
            "plugin `{caller}` called `{target}` {} calls deep, and the most are {DEPTH_MAX}",
            DEPTH_MAX + 1
        ),
    )
    .with_hint("two plugins call each other without an end; look at the callers in the trace")
    .not_retryable()
}

#[cold]
fn out_of_range(generation: &Generation, target: &Target, range: &VersionReq) -> CallError {
    let plugin = &generation.plugin;
    CallError::new(
        CallErrorKind::Incompatible,
        format!(
            "`{}` is answered by {plugin} now, and the caller requires {range}",
            target.full
        ),
    )
    .with_hint("load a version of the provider that the caller can use")
}

#[cold]
pub(crate) fn lacks_method(generation: &Generation, target: &Target) -> CallError {
    let plugin = &generation.plugin;
    CallError::new(
        CallErrorKind::NotFound,
        format!("plugin `{plugin}` has no method `{}` any more", target.full),
    )
    .with_hint("resolve the target again")
}

pub(crate) fn check_size(generation: &Generation, what: &str, bytes: usize) -> Result<(), CallError> {
    let most = generation.limits.payload_bytes_max;
    if bytes <= most {
        return Ok(());
    }
    let plugin = &generation.plugin.name;
    Err(CallError::new(
        CallErrorKind::Exhausted,
        format!("the {what} has {bytes} bytes, and plugin `{plugin}` may have {most}"),
    )
    .with_hint("raise `limits.payload_mib` of the plugin, or send less at once")
    // It is as large the next time.
    .not_retryable())
}

/// Who was turned away is counted.
#[cold]
fn refused(generation: &Generation, turned: Turned, since: Instant) -> CallError {
    generation.stats.begin();
    generation.stats.refused();
    turned_away(generation, turned, since)
}

#[cold]
fn turned_away(generation: &Generation, turned: Turned, since: Instant) -> CallError {
    let (plugin, limit) = (&generation.plugin.name, generation.limits.concurrency);
    match turned {
        Turned::TooLate => CallError::new(
            CallErrorKind::Deadline,
            format!("the deadline passed after {:.1?} in the queue of plugin `{plugin}`, which works on {limit} calls at once", since.elapsed()),
        ),
        Turned::TooMany | Turned::Closed => {
            CallError::new(CallErrorKind::Exhausted, format!("the queue of plugin `{plugin}` is full"))
        }
    }
    .with_hint("raise `limits.concurrency` of the plugin, or call it less")
}

// === call ids ===

/// A number that no other call of this process has. Threads take them in blocks, so that they do not meet at one counter.
pub(crate) fn next_call_id() -> u64 {
    const BLOCK: u64 = 1024;
    static NEXT_BLOCK: AtomicU64 = AtomicU64::new(0);
    thread_local!(static MINE: Cell<u64> = const { Cell::new(0) });
    MINE.with(|mine| {
        let mut id = mine.get();
        if id % BLOCK == 0 {
            id = NEXT_BLOCK.fetch_add(1, Ordering::Relaxed) * BLOCK + 1;
        }
        mine.set(id + 1);
        id
    })
}

/// The generation that an address serves with now.
pub(crate) fn serving(address: &Address) -> Result<Arc<Generation>, CallError> {
    match &*address.cell.acquire() {
        Occupant::Serving(generation) => Ok(generation.clone()),
        Occupant::Gate(gate) => Ok(gate.generation.clone()),
        Occupant::Vacant(why) => Err(CallError::new(CallErrorKind::Unavailable, why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn call_ids_are_unique_and_never_zero() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..5000).map(|_| next_call_id()).collect::<Vec<_>>()))
            .collect();
        let all: Vec<u64> = threads
            .into_iter()
            .flat_map(|it| it.join().expect("no panic"))
            .collect();
        assert!(!all.contains(&0), "0 means no call");
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn only_named_headers_travel_on() {
        let header = |name: &str| Header {
            name: name.to_owned(),
            value: "v".to_owned(),
        };
        let headers = vec![header("baggage"), header("authorization")];
        let options = CallOptions {
            headers,
            ..CallOptions::default()
        };
        let origin = Origin::outside(options, &["baggage".to_owned()]);
        assert_eq!(*origin.metadata, [header("baggage")]);
        let parent = CallContext {
            metadata: origin.metadata,
            depth: 4,
            ..CallContext::default()
        };
        let delivery = CallContext {
            metadata: [header("mortise-event-id"), header("baggage")].into(),
            ..CallContext::default()
        };
        let led_to = Origin::plugin(&"a".into(), Some(&delivery));
        assert_eq!(*led_to.metadata, [header("baggage")], "it delivers no event");
        let inner = Origin::plugin(&"a".into(), Some(&parent));
        assert_eq!(
            (&*inner.metadata, inner.depth, &*inner.caller),
            (&*parent.metadata, 5, "a")
        );
    }
}
