//! The way out of a generation: drain, then stop.
//!
//! A drain waits until the hazard cell knows that no caller holds the generation, and its door that nobody is inside. What happens if that takes too long depends on who
//! the callers are. A call that its runtime knows of is ended by the runtime's own stop. A bound call on a caller's own thread is known
//! to nobody but the cell, so nothing may be stopped under it, whatever the time (S3 of the supervisor).

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use mortise_hazard::{Retired, Undrained};
use mortise_lifecycle::Event;
use mortise_runtime::StopReport;
use tracing::{Instrument as _, info_span};

use super::handover::last_word;
use crate::{
    generation::{Generation, Occupant},
    life::Life,
    stream::Streams,
};

/// A generation that is no more.
pub(super) struct Gone {
    pub(super) generation: Arc<Generation>,
    pub(super) stop: StopReport,
    pub(super) cancelled: u64,
}

/// Drains and stops a generation that no cell holds; with a limit on an unload, to its last call otherwise.
pub(super) async fn retire(
    mut life: Life,
    generation: Arc<Generation>,
    retired: Retired<Occupant>,
    limit: Option<Duration>,
) -> Gone {
    let span = info_span!(target: "mortise::load", "drain", plugin = %generation.plugin, generation = generation.number);
    let drained = drain(&generation, retired, limit).instrument(span).await;
    // What was handed over already is the successor's; with a limit nobody comes after it, and its state is the last there is.
    let unsaved = match drained {
        Drained::Yes => last_word(life.shared(), life.address(), &generation, limit.is_some()).await,
        Drained::Late | Drained::Unknown if limit.is_some() && generation.carries_state() => {
            let why = "its state was not saved, because a call was still in it";
            // At a shutdown nobody reads the report.
            tracing::error!(target: "mortise::life", plugin = %generation.plugin, why, "state is lost");
            Some(why.to_owned())
        }
        Drained::Late | Drained::Unknown => None,
    };
    let cancelled = if drained == Drained::Yes {
        0
    } else {
        generation.admission.running()
    };
    let detail = if cancelled == 0 {
        String::new()
    } else {
        format!("{cancelled} calls did not end in time")
    };
    life.must_step("supervisor", Event::Drained, &detail).await;
    let mut stop = stop(&generation, drained).await;
    if let Some(unsaved) = unsaved {
        stop.left = Some(match stop.left {
            Some(left) => format!("{unsaved}; {left}"),
            None => unsaved,
        });
    }
    let detail = [stop.forced.as_deref(), stop.left.as_deref()]
        .map(Option::unwrap_or_default)
        .join(" ");
    life.must_step("supervisor", Event::Released, detail.trim()).await;
    Gone {
        generation,
        stop,
        cancelled,
    }
}

/// Stops a generation whose life is over already: it crashed or was rolled back. Calls that still run in it may end first.
pub(super) async fn discard(generation: Arc<Generation>, retired: Retired<Occupant>) -> Gone {
    let limit = generation.limits.stop.max(generation.limits.deadline);
    let drained = drain(&generation, retired, Some(limit)).await;
    let cancelled = if drained == Drained::Yes {
        0
    } else {
        generation.admission.running()
    };
    let stop = stop(&generation, drained).await;
    Gone {
        generation,
        stop,
        cancelled,
    }
}

/// How draining went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// No call is left in it.
    Yes,
    /// Time is up. Whatever is left is known to its runtime, which ends it.
    Late,
    /// Nobody can tell any more, and a caller's own thread may be in it.
    Unknown,
}

/// Waits until no call is left in a generation, at most for `limit`.
///
/// The limit does not hold for a generation with a direct path (S3): a call on a caller's own thread is unknown to the runtime, so a stop would
/// pull the plugin away under it. Such a generation waits for its last caller.
async fn drain(generation: &Generation, mut retired: Retired<Occupant>, limit: Option<Duration>) -> Drained {
    let is_direct = generation.seats.iter().flatten().any(|it| it.direct.is_some());
    let mut drained = pin!(async {
        retired.drained(tokio::time::sleep).await?;
        // Who passed a gate is not held by the cell, and stays inside if nothing came of that change.
        generation.admission.left_by_all().await;
        Ok::<_, Undrained>(())
    });
    let in_time = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, drained.as_mut()).await,
            None => Ok(drained.as_mut().await),
        }
    };
    // A stream may stay open for as long as its caller likes; it is ended here, and opened again at the successor. Where there is a limit, at half of it:
    // a stream that is ended when time is up costs the orderly stop, and the state with it.
    let grace = Streams::grace(&generation.limits);
    let grace = limit.map_or(grace, |limit| grace.min(limit / 2));
    let end_streams = async {
        tokio::time::sleep(grace).await;
        generation.streams.end();
        std::future::pending::<Infallible>().await
    };
    let in_time = tokio::select! {
        biased;
        in_time = in_time => in_time,
        never = end_streams => match never {},
    };
    generation.streams.end();
    match in_time {
        Ok(Ok(())) => Drained::Yes,
        Ok(Err(_)) if is_direct => Drained::Unknown,
        Ok(Err(_)) => Drained::Late,
        Err(_) if !is_direct => Drained::Late,
        Err(_) => match drained.await {
            Ok(()) => Drained::Yes,
            Err(_) => Drained::Unknown,
        },
    }
}

async fn stop(generation: &Generation, drained: Drained) -> StopReport {
    let grace = match drained {
        Drained::Yes => generation.limits.stop,
        Drained::Late => Duration::ZERO,
        Drained::Unknown => {
            let left =
                "the system does not tell whether a caller is still in it, so it was not stopped".to_owned();
            tracing::error!(target: "mortise::life", instance = %generation.instance.id(), left, "an instance stays");
            return StopReport {
                left: Some(left),
                ..StopReport::default()
            };
        }
    };
    let span = info_span!(target: "mortise::load", "stop", plugin = %generation.plugin, generation = generation.number);
    generation.instance.stop(grace).instrument(span).await
}
