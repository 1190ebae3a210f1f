//! One task per address: the only writer of its cell, its status and its generations' lives.
//!
//! # Invariants
//! - **S1** A move is in the journal before an effect happens that outlives the host or that a caller can see (`Life::step`), except that an
//!   instance that is already gone is taken out of the cell whatever the disk says. A cutover behind a gate was said before the gate closed; that it was done
//!   is said when nobody waits any more; of several plugins as one change it is said before, of all in one write.
//! - **S2** The cell is swapped first and the old generation's door closed second, so a call that finds the door closed finds the
//!   successor in the cell. Putting a predecessor back opens its door first.
//! - **S3** An instance is stopped only when no call holds its generation (drained), or, if its time is up or it is gone itself, when all
//!   calls in it are known to its runtime: never while a bound call may be in it.
//! - **S4** At most two generations are instantiated for callers' sake: the one that serves and the one that stands by. Others
//!   only finish their calls.
//! - **S5** The task waits for nothing but its own journal and, for at most `Limits::swap`, a handover of state: loading, draining and stopping are
//!   futures that it polls beside its commands, so a crash is noticed in the middle of a load.
//!
//! # What happens when
//! | happening | function |
//! |---|---|
//! | a load | [`Supervisor::load`], then [`Supervisor::attempted`], [`Place::hand_over`] and [`Supervisor::cut_over`] |
//! | the instance ended | [`Supervisor::crashed`], then [`Supervisor::restart`] when the backoff is over |
//! | time for a look at a fresh version | [`Supervisor::look`], then [`Supervisor::pass`] or [`Supervisor::roll_back`] |
//! | others that it was loaded with go back | [`Supervisor::fated`] |
//! | an unload, or the host's shutdown | [`Supervisor::unload`] |

mod attempt;
mod handover;
mod joint;
mod probation;
mod retire;
mod trial;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::OptionFuture, stream::FuturesUnordered};
use mortise_hazard::Retired;
use mortise_lifecycle::{Effect, Event, Restarts, State, Trigger, Verdict};
use mortise_manifest::Restart;
use mortise_runtime::{BoxFuture, EndCause, Refusal, Snapshot};
use mortise_store::{History, Package};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::info_span;

use crate::{
    HostError, HostErrorKind, LoadRequest, PluginInfo, UnloadReport,
    generation::{Address, Generation, Occupant, Status},
    history,
    host::Shared,
    life::Life,
    load::{self, Entrance, Launch},
    together::Fate,
};
use attempt::{Attempt, AttemptError};
use handover::{Handed, Place};
use joint::Joined;
use probation::Watch;
pub(crate) use probation::ask_health;
use retire::{Gone, discard, retire};
use trial::OnTrial;

/// What a supervisor is asked.
pub(crate) enum Command {
    /// Load this, and say how it went.
    Load(
        Box<Package>,
        Box<LoadRequest>,
        Entrance,
        oneshot::Sender<Result<PluginInfo, HostError>>,
    ),
    /// Start another instance of what serves with the configuration that is wanted of it, and say how it went.
    Reconfigure(oneshot::Sender<Result<PluginInfo, HostError>>),
    /// Show why this could not even be read, and say when that is done.
    Reject(HostError, oneshot::Sender<()>),
    /// List these reasons under what serves, in place of those that are listed; none clears them.
    Explain(Vec<String>, oneshot::Sender<()>),
    /// Go back to what stands by, if something does, and say whether.
    TakeBack(String, oneshot::Sender<bool>),
    /// Stop everything and end.
    Unload(oneshot::Sender<Result<UnloadReport, HostError>>),
}

/// The supervisor of one address.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    address: Arc<Address>,
    commands: mpsc::Receiver<Command>,
    closing: watch::Receiver<bool>,
    generations: u64,
    running: Option<Running>,
    standby: Option<Standby>,
    down: Option<Down>,
    attempt: Option<Pending>,
    retiring: FuturesUnordered<BoxFuture<'static, Gone>>,
    restarts: Restarts,
    began: Instant,
    /// It came with others that went back, and nothing was here before: it goes as well.
    leaving: bool,
}

/// The generation in the cell.
struct Running {
    life: Life,
    generation: Arc<Generation>,
    launch: Arc<Launch>,
    since: Instant,
    ended: BoxFuture<'static, EndCause>,
    watch: Option<Watch>,
    /// Its probation is one with that of others.
    trial: Option<OnTrial>,
}

/// The generation that comes back if the one in the cell fails its probation.
struct Standby {
    life: Life,
    generation: Arc<Generation>,
    launch: Arc<Launch>,
    since: Instant,
    retired: Retired<Occupant>,
    ended: BoxFuture<'static, EndCause>,
    /// What it knew when its successor took over, if it has state.
    snapshot: Option<Arc<Snapshot>>,
}

/// What is at rest and shown: failed, rejected or quarantined.
struct Down {
    life: Life,
    launch: Option<Arc<Launch>>,
    due: Option<Instant>,
}

/// A load or a restart under way, and who waits for it.
struct Pending {
    attempt: BoxFuture<'static, Attempt>,
    reply: Option<oneshot::Sender<Result<PluginInfo, HostError>>>,
    /// It is what serves, with another configuration: who asked for it tells why it came to nothing.
    is_of_config: bool,
}

enum Happening {
    Closing,
    Command(Command),
    NobodyAsksAnyMore,
    Attempted(Box<Attempt>),
    Ended(EndCause),
    StandbyEnded(EndCause),
    RestartDue,
    Look,
    Health(Result<(), String>),
    Fate(Fate),
    Gone(Gone),
}

// === impl Supervisor ===

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>, address: Arc<Address>, commands: mpsc::Receiver<Command>) -> Self {
        Self {
            closing: address.closing.subscribe(),
            restarts: Restarts::new(shared.parts.restarts.clone()),
            shared,
            address,
            commands,
            generations: 0,
            running: None,
            standby: None,
            down: None,
            attempt: None,
            retiring: FuturesUnordered::new(),
            began: Instant::now(),
            leaving: false,
        }
    }

    pub(crate) async fn run(mut self) {
        self.remember().await;
        loop {
            match self.next().await {
                Happening::Closing | Happening::NobodyAsksAnyMore => {
                    self.unload("shutdown").await;
                    break;
                }
                Happening::Command(Command::Unload(reply)) => {
                    let report = self.unload("operator").await;
                    let _ = reply.send(Ok(report));
                    break;
                }
                Happening::Command(Command::Load(package, request, entrance, reply)) => {
                    self.load(*package, *request, entrance, reply).await
                }
                Happening::Command(Command::Reconfigure(reply)) => self.reconfigure(reply).await,
                Happening::Command(Command::Reject(error, reply)) => {
                    self.reject(&error).await;
                    let _ = reply.send(());
                }
                Happening::Command(Command::Explain(reasons, reply)) => {
                    if self.running.is_some() {
                        self.address.publish(|status| status.reasons = reasons);
                    }
                    let _ = reply.send(());
                }
                Happening::Command(Command::TakeBack(why, reply)) => {
                    let stands_by = self.standby.is_some();
                    if stands_by {
                        self.roll_back(&Trigger::Word { why }).await;
                    }
                    let _ = reply.send(stands_by);
                }
                Happening::Attempted(attempt) => self.attempted(*attempt).await,
                Happening::Ended(cause) => self.crashed(cause).await,
                Happening::StandbyEnded(cause) => self.standby_ended(&cause).await,
                Happening::RestartDue => self.restart(),
                Happening::Look => self.look().await,
                Happening::Health(answer) => self.health_answered(answer),
                Happening::Fate(fate) => self.fated(fate).await,
                Happening::Gone(gone) => self.settle(&gone),
            }
            if self.leaving {
                self.unload("probation").await;
                history::taken_back(&self.shared, &self.address.name).await;
                break;
            }
        }
    }

    /// Brings back what the journal knows of this address from the host's earlier lives.
    async fn remember(&mut self) {
        let query = History {
            plugin: Some(self.address.name.to_string()),
            limit: u32::try_from(Status::HISTORY_MAX).unwrap_or(u32::MAX),
            ..History::default()
        };
        match self.shared.with_journal(move |it| it.history(&query)).await {
            Ok(newest_first) => self.address.publish(|status| status.recall(newest_first)),
            Err(error) => {
                tracing::warn!(target: "mortise::life", plugin = %self.address.name, %error, "the history does not read");
            }
        }
    }

    /// What happens next. Commands wait while a load or restart is under way; crashes do not.
    async fn next(&mut self) -> Happening {
        let free = self.attempt.is_none();
        let due = self.down.as_ref().and_then(|it| it.due).filter(|_| free);
        let (ended, watch, trial) = match &mut self.running {
            Some(running) => (
                Some(&mut running.ended),
                running.watch.as_mut(),
                running.trial.as_mut(),
            ),
            None => (None, None, None),
        };
        let (look, health) = match watch {
            Some(watch) => (Some(watch.next_look), watch.health.as_mut()),
            None => (None, None),
        };
        let sleep_until = |at: Option<Instant>| OptionFuture::from(at.map(tokio::time::sleep_until));
        tokio::select! {
            biased;
            // An instance that is gone comes before whatever wants to know about it.
            Some(cause) = OptionFuture::from(ended) => Happening::Ended(cause),
            Some(cause) = OptionFuture::from(self.standby.as_mut().map(|it| &mut it.ended)) => Happening::StandbyEnded(cause),
            Some(attempt) = OptionFuture::from(self.attempt.as_mut().map(|it| &mut it.attempt)) => Happening::Attempted(Box::new(attempt)),
            Some(fate) = OptionFuture::from(trial.map(OnTrial::decided)) => Happening::Fate(fate),
            closing = self.closing.wait_for(|it| *it) => { drop(closing); Happening::Closing }
            command = self.commands.recv(), if free => command.map_or(Happening::NobodyAsksAnyMore, Happening::Command),
            Some(answer) = OptionFuture::from(health) => Happening::Health(answer),
            Some(gone) = self.retiring.next(), if !self.retiring.is_empty() => Happening::Gone(gone),
            Some(()) = sleep_until(due) => Happening::RestartDue,
            Some(()) = sleep_until(look) => Happening::Look,
        }
    }

    // --- load ---

    async fn load(
        &mut self,
        package: Package,
        request: LoadRequest,
        entrance: Entrance,
        reply: oneshot::Sender<Result<PluginInfo, HostError>>,
    ) {
        self.generations += 1;
        let plugin = package.plugin().clone();
        let mut life = Life::new(
            self.shared.clone(),
            self.address.clone(),
            self.generations,
            plugin,
        );
        if self.running.is_none() {
            // What failed before makes room for the new attempt, and so does its backoff.
            self.give_up_down("replaced by another load").await;
            life.shown = true;
            let (source, runtime, restart) = (request.source.to_string(), request.runtime, request.restart);
            self.address.publish(|status| {
                (status.source, status.runtime, status.restart) = (source.into(), runtime, restart);
                status.reasons.clear();
            });
        }
        if request.force {
            self.restarts.forgive();
        }
        let (shared, address) = (self.shared.clone(), self.address.clone());
        let attempt = attempt::first(shared, address, life, package, request, entrance);
        self.attempt = Some(Pending {
            attempt: Box::pin(attempt),
            reply: Some(reply),
            is_of_config: false,
        });
    }

    /// Begins to start another instance of what serves, or did not start, with the configuration that is wanted of it.
    async fn reconfigure(&mut self, reply: oneshot::Sender<Result<PluginInfo, HostError>>) {
        let launch = match (&self.running, &self.down) {
            (Some(running), _) => Some(running.launch.clone()),
            (None, Some(down)) => down.launch.clone(),
            (None, None) => None,
        };
        let Some(launch) = launch else {
            let what = format!("plugin `{}` has nothing to start again", self.address.name);
            let _ = reply.send(Err(HostError::new(HostErrorKind::Conflict, what)));
            return;
        };
        self.generations += 1;
        let plugin = launch.verified.artifact().plugin.clone();
        let (shared, address) = (self.shared.clone(), self.address.clone());
        let mut life = Life::new(shared.clone(), address.clone(), self.generations, plugin);
        if self.running.is_none() {
            self.give_up_down("started again with another configuration")
                .await;
            life.shown = true;
            self.address.publish(|status| status.reasons.clear());
        }
        let attempt = attempt::reconfigured(shared, address, life, launch);
        self.attempt = Some(Pending {
            attempt: Box::pin(attempt),
            reply: Some(reply),
            is_of_config: true,
        });
    }

    /// Shows a plugin whose package could not even be read.
    async fn reject(&mut self, error: &HostError) {
        let is_coming_back = self.down.as_ref().is_some_and(|it| it.due.is_some());
        if self.running.is_some() || is_coming_back {
            return;
        }
        self.generations += 1;
        let plugin = self.address.status.load().plugin.clone();
        let mut life = Life::new(
            self.shared.clone(),
            self.address.clone(),
            self.generations,
            plugin,
        );
        life.shown = true;
        life.must_step("config", Event::Load, "").await;
        life.must_step("supervisor", Event::Refused, &error.to_string())
            .await;
        self.rest(life, None, None, reasons_of(error));
    }

    /// A load or restart has come to an end.
    async fn attempted(&mut self, attempt: Attempt) {
        let pending = self.attempt.take();
        let is_of_config = pending.as_ref().is_some_and(|it| it.is_of_config);
        let listed = self.address.status.load().reasons.clone();
        let reply = pending.and_then(|it| it.reply);
        let Attempt {
            mut life,
            launch,
            outcome,
            joined,
        } = attempt;
        let is_restart = reply.is_none();
        let outcome = match (outcome, launch) {
            (Ok(generation), Some(launch)) => {
                self.cut_over(life, generation, launch, joined, is_restart).await
            }
            (Ok(_), None) => Err(HostError::new(
                HostErrorKind::Conflict,
                "a generation came out of nothing",
            )),
            (Err(AttemptError::Over(error)), launch) => {
                self.over(life, launch, &error);
                Err(error)
            }
            (Err(AttemptError::NotStarted(error)), launch) => {
                let event = if is_restart {
                    Event::StartFailed(self.verdict(Duration::ZERO))
                } else {
                    attempt::never_ran()
                };
                let effects = life.must_step("supervisor", event, &error.to_string()).await;
                self.fall(life, launch, &effects, reasons_of(&error)).await;
                Err(error)
            }
        };
        if let Err(error) = &outcome {
            tracing::warn!(target: "mortise::life", plugin = %self.address.name, %error, "nothing was started");
            if is_of_config && self.running.is_some() {
                self.address.publish(|status| status.reasons = listed);
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(outcome.map(|()| self.address.info()));
        }
    }

    /// An attempt that is at rest already, or that never began because the journal could not be written.
    fn over(&mut self, life: Life, launch: Option<Arc<Launch>>, error: &HostError) {
        if self.running.is_some() {
            let reason = format!("the last load of {} came to nothing: {error}", life.plugin);
            self.address.publish(|status| status.reasons = vec![reason]);
        } else {
            self.rest(life, launch, None, reasons_of(error));
        }
    }

    /// Points the cell at a healthy generation. On `Err` it is stopped again, and what served serves on.
    async fn cut_over(
        &mut self,
        mut life: Life,
        generation: Arc<Generation>,
        launch: Arc<Launch>,
        joined: Option<Joined>,
        is_restart: bool,
    ) -> Result<(), HostError> {
        if joined.is_none()
            && let Err(error) = life.note("supervisor", Event::Started, &generation.instance.id().0)
        {
            generation.instance.stop(generation.limits.stop).await;
            self.over(life, Some(launch), &error);
            return Err(error);
        }
        let serving = self.running.as_ref().map(|it| it.generation.clone());
        let (place, old) = (self.place(), serving.as_ref());
        let handed = match &joined {
            Some(joined) => {
                place
                    .hand_over_together(&mut life, old, &generation, &launch, joined)
                    .await
            }
            None => place.hand_over(&mut life, old, &generation, &launch).await,
        };
        let handed = match handed {
            Ok(handed) => handed,
            Err(error) => {
                generation.instance.stop(generation.limits.stop).await;
                let verdict = if is_restart {
                    self.verdict(Duration::ZERO)
                } else {
                    Verdict::Stay
                };
                // One of several may be told to stop before its gate closes.
                let event = match life.state() {
                    State::Starting => Event::StartFailed(verdict),
                    _ => Event::HandoverFailed(verdict),
                };
                let effects = life.must_step("supervisor", event, &error.to_string()).await;
                self.fall(life, Some(launch), &effects, reasons_of(&error)).await;
                return Err(error);
            }
        };
        let Handed {
            closed,
            snapshot,
            mut info,
        } = handed;
        let detail = info.as_ref().map(ToString::to_string).unwrap_or_default();
        // Behind a gate it is said later (S1): nobody is to wait there for a disk.
        let is_said = joined.is_some() || closed.is_some();
        if !is_said && let Err(error) = life.step("supervisor", Event::CutOver, &detail).await {
            generation.instance.stop(generation.limits.stop).await;
            self.over(life, Some(launch), &error);
            return Err(error);
        }
        let is_said_later = joined.is_none() && closed.is_some();
        let span = info_span!(target: "mortise::load", "cutover", plugin = %self.address.name, generation = generation.number);
        let replaced = self.replace().await;
        let retired = {
            let _span = span.entered();
            generation.stats.sample_all(true);
            // S2: swap, then close.
            let retired = self.address.cell.swap(Occupant::Serving(generation.clone()));
            if let Some(old) = &replaced {
                old.generation.admission.close();
            }
            match closed {
                // What was displaced is the gate, and nobody stays in it.
                Some(closed) => {
                    drop(retired);
                    let pause = closed.open();
                    if let Some(info) = &mut info {
                        info.pause_us = u64::try_from(pause.as_micros()).ok();
                    }
                    closed.retired
                }
                None => retired,
            }
        };
        let ticket = joined.map(|it| it.ticket);
        if let Some(ticket) = &ticket {
            ticket.serves();
        }
        if is_said_later {
            life.must_step("supervisor", Event::CutOver, &detail).await;
        }
        self.down = None;
        let baseline = replaced.as_ref().map(|it| it.generation.stats.baseline());
        self.standby = replaced.map(|old| Standby {
            life: old.life,
            generation: old.generation,
            launch: old.launch,
            since: old.since,
            ended: old.ended,
            retired,
            snapshot,
        });
        let number = generation.number;
        let watch = self.watch(baseline.unwrap_or_default());
        self.address.publish(|status| {
            status.offer = Some(generation.offer());
            let replaced = status.current.replace(generation.clone());
            status.others.extend(replaced.filter(|it| it.number != number));
            (status.source, status.runtime) = (launch.source.clone(), Some(generation.runtime));
            status.restart = launch.restart;
            status.reasons = info.iter().filter_map(|it| it.left_behind.clone()).collect();
            status.state_info = info;
        });
        life.show();
        self.running = Some(Running {
            ended: ended(&generation),
            life,
            launch,
            since: Instant::now(),
            watch: Some(watch),
            trial: ticket.map(OnTrial::new),
            generation,
        });
        self.shared.rebuild_table();
        if self.shared.parts.probation.time.is_zero() {
            self.passed().await;
        }
        Ok(())
    }

    fn place(&self) -> Place<'_> {
        Place {
            shared: &self.shared,
            address: &self.address,
        }
    }

    /// Tells what serves that it was replaced; whatever stood by until now is let go.
    async fn replace(&mut self) -> Option<Running> {
        let mut old = self.running.take()?;
        // It has no effect of its own; its successor's cutover is in the journal.
        let effects = old
            .life
            .note("supervisor", Event::Replaced, "")
            .unwrap_or_default();
        old.life.shown = false;
        old.watch = None;
        // Who is replaced keeps nobody waiting.
        drop(old.trial.take());
        old.generation.stats.sample_all(false);
        if effects.contains(&Effect::ReleasePredecessor) {
            self.release_predecessor_later();
        }
        Some(old)
    }

    // --- crashes ---

    /// The instance in the cell ended by itself.
    async fn crashed(&mut self, cause: EndCause) {
        self.address.publish(|status| status.crashes += 1);
        let Some(running) = &self.running else { return };
        let elapsed = running.since.elapsed();
        tracing::error!(target: "mortise::life", plugin = %self.address.name, instance = %running.generation.instance.id(), %cause, "an instance ended by itself");
        if running.watch.is_some() && self.standby.is_some() {
            let trigger = Trigger::Crash {
                cause: cause.to_string(),
                after: elapsed,
            };
            return self.roll_back(&trigger).await;
        }
        if running.trial.is_some() && running.watch.is_some() {
            return self.take_all_back(&cause.to_string()).await;
        }
        let verdict = match running.launch.restart {
            Restart::Always => self.verdict(elapsed),
            Restart::OnFailure if !cause.is_clean() => self.verdict(elapsed),
            Restart::OnFailure | Restart::Never => Verdict::Stay,
        };
        let Some(mut running) = self.running.take() else {
            return;
        };
        let effects = running
            .life
            .must_step("supervisor", Event::Crashed(verdict), &cause.to_string())
            .await;
        let recent = self.restarts.recent();
        let why = match verdict {
            Verdict::Restart { after } => format!(
                "plugin `{}` is down and starts again in {after:.1?}: {cause}",
                self.address.name
            ),
            Verdict::Stay => format!(
                "plugin `{}` is down and stays down, because its `restart` is `{}`: {cause}",
                self.address.name, running.launch.restart
            ),
            Verdict::Quarantine => format!(
                "plugin `{}` is quarantined after {recent} exits: {cause}",
                self.address.name
            ),
        };
        // S1: it is gone, so it leaves the cell even if the journal failed.
        let retired = self.address.cell.swap(Occupant::Vacant(why.clone().into()));
        running.generation.admission.close();
        self.address.publish(|status| {
            status.current = None;
            status.state_info = None;
            status.others.push(running.generation.clone());
        });
        if effects.contains(&Effect::ReleasePredecessor) {
            self.release_predecessor().await;
        }
        if effects.contains(&Effect::QuarantineDigest) {
            let reason = format!(
                "{recent} exits within {:?}, the last: {cause}",
                self.shared.parts.restarts.window
            );
            self.shared
                .quarantine(&self.address.name, &running.generation, &reason)
                .await;
        }
        self.retiring
            .push(Box::pin(discard(running.generation.clone(), retired)));
        self.fall(running.life, Some(running.launch), &effects, vec![why])
            .await;
        self.shared.rebuild_table();
    }

    /// What stands by ended by itself: there is nothing to go back to any more.
    async fn standby_ended(&mut self, cause: &EndCause) {
        let Some(standby) = self.standby.take() else {
            return;
        };
        let Standby {
            mut life,
            generation,
            retired,
            ..
        } = standby;
        life.must_step("supervisor", Event::Crashed(Verdict::Stay), &cause.to_string())
            .await;
        self.retiring.push(Box::pin(discard(generation, retired)));
    }

    /// A new restart verdict, with the time and the jitter that the policy does not have.
    fn verdict(&mut self, lived: Duration) -> Verdict {
        self.restarts.exited(self.began.elapsed(), lived, jitter())
    }

    /// Comes to rest after a crash or a failed start, perhaps only for a while.
    async fn fall(
        &mut self,
        life: Life,
        launch: Option<Arc<Launch>>,
        effects: &[Effect],
        reasons: Vec<String>,
    ) {
        if self.running.is_some() {
            let reason = format!(
                "the last load of {} came to nothing: {}",
                life.plugin,
                reasons.join("; ")
            );
            self.address.publish(|status| status.reasons = vec![reason]);
            return;
        }
        let after = effects.iter().find_map(|it| match it {
            Effect::ScheduleRestart(after) => Some(*after),
            _ => None,
        });
        self.rest(life, launch, after.map(|it| Instant::now() + it), reasons);
    }

    fn rest(
        &mut self,
        mut life: Life,
        launch: Option<Arc<Launch>>,
        due: Option<Instant>,
        reasons: Vec<String>,
    ) {
        let (name, state) = (&self.address.name, life.state());
        let why = reasons
            .first()
            .cloned()
            .unwrap_or_else(|| format!("plugin `{name}` is {state}"));
        if matches!(&*self.address.cell.pin(), Occupant::Vacant(_)) {
            // Nothing was served, so nobody waits for what is displaced.
            drop(self.address.cell.swap(Occupant::Vacant(why.into())));
        }
        life.show();
        self.address.publish(|status| {
            status.reasons = reasons;
            if let Some(launch) = &launch {
                status.runtime = Some(launch.verified.artifact().runtime);
            }
        });
        self.down = Some(Down { life, launch, due });
    }

    /// The backoff is over.
    fn restart(&mut self) {
        let Some(Down {
            life,
            launch: Some(launch),
            ..
        }) = self.down.take()
        else {
            return;
        };
        let attempt = attempt::next(self.shared.clone(), self.address.clone(), life, launch);
        self.attempt = Some(Pending {
            attempt: Box::pin(attempt),
            reply: None,
            is_of_config: false,
        });
    }

    async fn give_up_down(&mut self, why: &str) {
        if let Some(mut down) = self.down.take()
            && !matches!(down.life.state(), State::Absent)
        {
            down.life.must_step("operator", Event::Unload, why).await;
        }
    }

    // --- the end ---

    /// Takes the plugin out of the table, drains and stops everything, and forgets the address.
    async fn unload(&mut self, actor: &'static str) -> UnloadReport {
        if let Some(pending) = self.attempt.take() {
            // Dropping a start tears down what it started.
            drop(pending.attempt);
        }
        let mut report = UnloadReport {
            name: self.address.name.to_string(),
            ..UnloadReport::default()
        };
        let why: Arc<str> = format!("plugin `{}` was unloaded", self.address.name).into();
        self.give_up_down("").await;
        let mut drained_for = Duration::ZERO;
        if let Some(mut running) = self.running.take() {
            drained_for = running.generation.limits.stop;
            let effects = running.life.must_step(actor, Event::Unload, "").await;
            if effects.contains(&Effect::ReleasePredecessor) {
                self.release_predecessor().await;
            }
            let retired = self.address.cell.swap(Occupant::Vacant(why));
            running.generation.admission.close();
            let (life, generation) = (running.life, running.generation);
            self.retiring
                .push(Box::pin(retire(life, generation, retired, Some(drained_for))));
        }
        self.shared.rebuild_table();
        self.finish(drained_for, &mut report).await;
        self.shared.forget(&self.address);
        self.end_commands();
        report
    }

    /// Waits for everything that is on its way out; what stood by gets no longer than what served.
    async fn finish(&mut self, drained_for: Duration, report: &mut UnloadReport) {
        // To drain, to save and to stop; the rest is for the last hook and for force.
        let until = Instant::now() + drained_for * 3 + Duration::from_secs(6);
        while !self.retiring.is_empty() {
            let Ok(Some(gone)) = tokio::time::timeout_at(until, self.retiring.next()).await else {
                report.left =
                    Some("an older generation still has calls; it goes with the last of them".to_owned());
                let rest = std::mem::take(&mut self.retiring);
                tokio::spawn(rest.for_each(|_| async {}));
                return;
            };
            self.settle(&gone);
            report.cancelled += gone.cancelled;
            report.forced = gone.stop.forced.or(report.forced.take());
            report.left = gone.stop.left.or(report.left.take());
        }
    }

    /// Drops what came too late. Whoever waits for a reply sees that nobody answers, and asks the address's next supervisor.
    fn end_commands(&mut self) {
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
    }

    /// Adds up what a generation did that is no more.
    fn settle(&self, gone: &Gone) {
        self.address.publish(|status| {
            status.others.retain(|it| !Arc::ptr_eq(it, &gone.generation));
            status.past.add(gone.generation.stats.totals());
        });
    }
}

// === futures that the supervisor polls ===

fn ended(generation: &Arc<Generation>) -> BoxFuture<'static, EndCause> {
    let generation = generation.clone();
    Box::pin(async move { generation.instance.ended().await })
}

/// A number from 0 to 1 that differs between hosts and moments; nothing depends on its quality.
#[expect(clippy::cast_precision_loss, reason = "53 bits of it are plenty")]
pub(crate) fn jitter() -> f64 {
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

fn reasons_of(error: &HostError) -> Vec<String> {
    match error.reasons() {
        [] => vec![load::with_causes(error)],
        all => all.iter().map(Refusal::to_string).collect(),
    }
}
