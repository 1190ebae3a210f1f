//! One attempt to get from `Absent` to a healthy instance, with every move of it in the journal: the first, one after a crash, and one with another
//! configuration. The steps themselves are [`crate::load`]'s; here is what speaks against taking them.

use std::{sync::Arc, time::Duration};

use mortise_lifecycle::{Event, Verdict};
use mortise_runtime::{Artifact, CallContext, Prepared, Refusal, Successor};
use mortise_store::Package;

use super::{handover::Place, joint::Joined};
use crate::{
    HostError, HostErrorKind, LoadRequest,
    call::next_call_id,
    carry,
    config::{Choice, VETO},
    generation::{Address, Generation},
    host::Shared,
    life::Life,
    load::{Entrance, Launch, prepare, start, verify},
};

/// How long a plugin may think about whether it may be replaced.
const VETO_MAX: Duration = Duration::from_secs(1);

/// Whether an operator wants something although the plugin objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Insists {
    Yes,
    No,
}

/// What came of an attempt.
pub(super) struct Attempt {
    pub(super) life: Life,
    pub(super) launch: Option<Arc<Launch>>,
    pub(super) outcome: Result<Arc<Generation>, AttemptError>,
    /// It is loaded with others, and all of them are ready.
    pub(super) joined: Option<Joined>,
}

/// Why an attempt came to nothing.
pub(super) enum AttemptError {
    /// The life already says so (rejected), or nothing began (quarantined, journal).
    Over(HostError),
    /// It did not start; the supervisor decides what follows.
    NotStarted(HostError),
}

/// Takes a new generation from `Absent` to `Starting` and, if all is well, to an instance that is healthy.
///
/// With a ticket it stops twice to wait for the others: before it starts, and when it is ready.
pub(super) async fn first(
    shared: Arc<Shared>,
    address: Arc<Address>,
    mut life: Life,
    package: Package,
    request: LoadRequest,
    entrance: Entrance,
) -> Attempt {
    match checked(&shared, &address, &mut life, &package, &request, &entrance).await {
        Ok((launch, prepared)) => {
            let starting = begin(
                &shared,
                &address,
                &mut life,
                Event::Activate,
                &launch,
                prepared,
                Choice::Any,
            );
            let mut outcome = starting.await;
            let mut joined = None;
            if let (Entrance::Together(ticket), Ok(generation)) = (entrance, &outcome) {
                let place = Place {
                    shared: &shared,
                    address: &address,
                };
                match place.join(ticket, generation, &launch).await {
                    Ok(it) => joined = Some(it),
                    Err(error) => outcome = Err(AttemptError::NotStarted(error)),
                }
            }
            Attempt {
                life,
                launch: Some(launch),
                outcome,
                joined,
            }
        }
        Err(error) => Attempt {
            life,
            launch: None,
            outcome: Err(AttemptError::Over(error)),
            joined: None,
        },
    }
}

/// Starts a generation again that ended by itself.
pub(super) async fn next(
    shared: Arc<Shared>,
    address: Arc<Address>,
    mut life: Life,
    launch: Arc<Launch>,
) -> Attempt {
    let outcome = match prepare(&shared, &launch).await {
        Ok(prepared) => {
            begin(
                &shared,
                &address,
                &mut life,
                Event::RestartDue,
                &launch,
                prepared,
                Choice::Any,
            )
            .await
        }
        Err(refusal) => {
            life.must_step("supervisor", Event::RestartDue, "").await;
            Err(AttemptError::NotStarted(HostError::refused(
                &address.name,
                vec![refusal],
            )))
        }
    };
    Attempt {
        life,
        launch: Some(launch),
        outcome,
        joined: None,
    }
}

/// Starts another instance of what serves, or did not start, with the configuration that is wanted of it.
pub(super) async fn reconfigured(
    shared: Arc<Shared>,
    address: Arc<Address>,
    mut life: Life,
    launch: Arc<Launch>,
) -> Attempt {
    let prepared = async {
        life.digest = Some(launch.verified.artifact().digest);
        life.note("config", Event::Load, &launch.source)?;
        // Whoever insisted on this version then did not speak of another configuration now.
        let against = against_replacing(&shared, &address, &launch, Insists::No).await?;
        if !against.is_empty() {
            return Err(rejected(&address, &mut life, against).await);
        }
        life.note("supervisor", Event::ChecksPassed, "")?;
        match prepare(&shared, &launch).await {
            Ok(prepared) => {
                life.note("supervisor", Event::Prepared, "")?;
                Ok(prepared)
            }
            Err(refusal) => Err(rejected(&address, &mut life, vec![refusal]).await),
        }
    };
    let prepared = prepared.await;
    let outcome = match prepared {
        Ok(prepared) => {
            begin(
                &shared,
                &address,
                &mut life,
                Event::Activate,
                &launch,
                prepared,
                Choice::Wanted,
            )
            .await
        }
        Err(error) => Err(AttemptError::Over(error)),
    };
    Attempt {
        life,
        launch: Some(launch),
        outcome,
        joined: None,
    }
}

async fn checked(
    shared: &Arc<Shared>,
    address: &Address,
    life: &mut Life,
    package: &Package,
    request: &LoadRequest,
    entrance: &Entrance,
) -> Result<(Arc<Launch>, Prepared), HostError> {
    life.note("operator", Event::Load, &request.source.to_string())?;
    let launch = match verify(shared, &address.name, package, request, entrance).await {
        Ok(launch) => Arc::new(launch),
        Err(refusals) => return Err(rejected(address, life, refusals).await),
    };
    let digest = launch.verified.artifact().digest;
    life.digest = Some(digest);
    if let Some(refusal) = quarantined(shared, &launch, request.force).await? {
        let hint = refusal.hint.clone();
        let error = rejected(address, life, vec![refusal]).await;
        return Err(error.of_kind(HostErrorKind::Quarantined).with_hint(hint));
    }
    let insists = if launch.force { Insists::Yes } else { Insists::No };
    let against = against_replacing(shared, address, &launch, insists).await?;
    if !against.is_empty() {
        return Err(rejected(address, life, against).await);
    }
    life.note("supervisor", Event::ChecksPassed, "")?;
    let prepared = match prepare(shared, &launch).await {
        Ok(prepared) => prepared,
        Err(refusal) => return Err(rejected(address, life, vec![refusal]).await),
    };
    if let Entrance::Together(ticket) = entrance
        && let Err(refusal) = ticket.may_start().await
    {
        return Err(rejected(address, life, vec![refusal]).await);
    }
    life.note("supervisor", Event::Prepared, "")?;
    Ok((launch, prepared))
}

async fn begin(
    shared: &Arc<Shared>,
    address: &Arc<Address>,
    life: &mut Life,
    event: Event,
    launch: &Launch,
    prepared: Prepared,
    choice: Choice,
) -> Result<Arc<Generation>, AttemptError> {
    life.step("supervisor", event, launch.verified.artifact().runtime.as_str())
        .await
        .map_err(AttemptError::Over)?;
    let started = start(shared, address, launch, prepared, life.number, choice).await;
    address.publish(|status| status.starts += 1);
    started.map_err(|error| AttemptError::NotStarted(HostError::start_failed(&address.name, error)))
}

async fn rejected(address: &Address, life: &mut Life, refusals: Vec<Refusal>) -> HostError {
    let detail: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    life.must_step("supervisor", Event::Refused, &detail.join("; "))
        .await;
    HostError::refused(&address.name, refusals)
}

/// What the plugin that serves says against its successor, and what its state does; nothing if the operator insists.
async fn against_replacing(
    shared: &Shared,
    address: &Address,
    launch: &Launch,
    insists: Insists,
) -> Result<Vec<Refusal>, HostError> {
    if insists == Insists::Yes {
        return Ok(Vec::new());
    }
    let artifact = launch.verified.artifact();
    let (manifest, contract) = (&launch.manifest, &artifact.contract);
    let serving = address.status.load().current.clone();
    let Some(serving) = serving else {
        if manifest.state_schema.is_none() {
            return Ok(Vec::new());
        }
        let name = address.name.clone();
        let kept = shared.with_journal(move |it| it.saved_state(&name)).await?;
        let refusal = kept.and_then(|it| carry::check_kept(&it, manifest, contract).err());
        return Ok(refusal.into_iter().collect());
    };
    let mut against = Vec::new();
    if serving.carries_state()
        && let Some(writer) = serving.as_writer()
    {
        against.extend(carry::check(writer, manifest, contract).err());
    }
    if let Some(why) = veto(&serving, artifact).await {
        against.push(Refusal {
            what: VETO.to_owned(),
            why: format!("{} does not want to be replaced now: {why}", serving.plugin),
            hint: "try again later, or load it with `force`".to_owned(),
        });
    }
    Ok(against)
}

/// Asks the plugin that serves. No answer is no veto: one that is ill must be replaceable.
async fn veto(serving: &Generation, successor: &Artifact) -> Option<String> {
    let state = serving.instance.state()?;
    let cx = CallContext {
        call_id: next_call_id(),
        // Later than anybody waits: one that is asked late must not be ended for it, with its state.
        deadline: Some(std::time::Instant::now() + VETO_MAX + serving.limits.deadline),
        ..CallContext::default()
    };
    let successor = Successor {
        version: &successor.plugin.version,
        digest: successor.digest,
    };
    let asked = state.may_replace(&cx, Some(successor));
    match tokio::time::timeout(VETO_MAX, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(target: "mortise::life", plugin = %serving.plugin, %error, "it was asked whether it may be replaced, and failed");
            None
        }
        Err(_) => {
            tracing::warn!(target: "mortise::life", plugin = %serving.plugin, "it was asked whether it may be replaced, and did not answer");
            None
        }
    }
}

/// The digest's quarantine, unless the operator lifts it.
async fn quarantined(shared: &Shared, launch: &Launch, force: bool) -> Result<Option<Refusal>, HostError> {
    let digest = launch.verified.artifact().digest;
    let Some(found) = shared.with_journal(move |it| it.quarantined(digest)).await? else {
        return Ok(None);
    };
    if force {
        shared.with_journal(move |it| it.release(digest)).await?;
        return Ok(None);
    }
    Ok(Some(Refusal {
        what: "quarantine".to_owned(),
        why: format!(
            "artifact {} is quarantined: {}",
            &digest.to_string()[..12],
            found.reason
        ),
        hint: "load another version, or load this one with `force` to try it again".to_owned(),
    }))
}

/// The event for a start that failed: nothing follows by itself for one that never ran.
pub(super) fn never_ran() -> Event {
    Event::StartFailed(Verdict::Stay)
}
