//! Probation: a fresh version serves, is looked at, and stays or goes back.
//!
//! `mortise_lifecycle::Probation` judges; here its judge gets the numbers, and what it decides is done. The predecessor stands by meanwhile, whole and
//! idle, so that going back is one swap of the cell.

use std::{sync::Arc, time::Duration};

use mortise_lifecycle::{Baseline, Event, Probation, ProbationVerdict, Sample, Trigger};
use mortise_runtime::BoxFuture;
use tokio::time::Instant;

use super::{
    Running, Standby, Supervisor,
    retire::{discard, retire},
    trial::OnTrial,
};
use crate::{generation::Generation, history};

/// How often a fresh version's numbers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a fresh version is asked how it is.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Why a fresh version goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is worse than what it replaced.
    Own,
    /// Another one is that it was loaded with.
    Another,
}

/// A probation under way.
pub(super) struct Watch {
    judge: Probation,
    pub(super) next_look: Instant,
    next_health: Instant,
    pub(super) health: Option<BoxFuture<'static, Result<(), String>>>,
    bad_healths: u32,
    good_healths: u32,
    last_bad: String,
}

impl Supervisor {
    pub(super) fn watch(&self, baseline: Baseline) -> Watch {
        let now = Instant::now();
        Watch {
            judge: Probation::new(self.shared.parts.probation.clone(), baseline),
            next_look: now + LOOK_EVERY,
            next_health: now + HEALTH_EVERY,
            health: None,
            bad_healths: 0,
            good_healths: 0,
            last_bad: String::new(),
        }
    }

    /// Looks at a fresh version's numbers.
    pub(super) async fn look(&mut self) {
        let now = Instant::now();
        let Some(Running {
            generation,
            since,
            watch: Some(watch),
            ..
        }) = &mut self.running
        else {
            return;
        };
        watch.next_look = now + LOOK_EVERY;
        if watch.health.is_none() && now >= watch.next_health {
            watch.next_health = now + HEALTH_EVERY;
            watch.health = Some(ask_health(generation.clone()));
        }
        let totals = generation.stats.totals();
        let sample = Sample {
            elapsed: now - *since,
            calls: totals.calls,
            faults: totals.faults,
            samples: generation.stats.samples(),
            p95: generation.stats.quantile(0.95),
            bad_healths: watch.bad_healths,
            good_healths: watch.good_healths,
            crash: None,
        };
        match watch.judge.judge(&sample) {
            ProbationVerdict::Pending => {}
            ProbationVerdict::Passed => self.passed().await,
            ProbationVerdict::Failed(trigger) if self.standby.is_some() => self.roll_back(&trigger).await,
            ProbationVerdict::Failed(trigger) if self.is_on_trial() => {
                self.take_all_back(&trigger.to_string()).await;
            }
            // There is nothing to go back to, and a plugin that is ill serves better than none.
            ProbationVerdict::Failed(trigger) => {
                self.address
                    .publish(|status| status.reasons = vec![trigger.to_string()]);
                if sample.elapsed >= self.shared.parts.probation.time {
                    self.pass().await;
                }
            }
        }
    }

    pub(super) fn health_answered(&mut self, answer: Result<(), String>) {
        let Some(Running {
            watch: Some(watch), ..
        }) = &mut self.running
        else {
            return;
        };
        watch.health = None;
        match answer {
            Ok(()) => (watch.good_healths, watch.bad_healths) = (watch.good_healths + 1, 0),
            Err(why) => {
                (watch.good_healths, watch.bad_healths) = (0, watch.bad_healths + 1);
                watch.last_bad = why;
            }
        }
    }

    /// A fresh version has proved itself.
    pub(super) async fn pass(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.watch = None;
        running.trial = None;
        running.generation.stats.sample_all(false);
        running
            .life
            .must_step("probation", Event::ProbationPassed, "")
            .await;
        self.release_predecessor().await;
        self.shared.configs.look();
    }

    /// Lets what stands by finish its calls and go.
    pub(super) async fn release_predecessor(&mut self) {
        let Some(standby) = self.standby.take() else {
            return;
        };
        let Standby {
            mut life,
            generation,
            retired,
            ..
        } = standby;
        life.must_step("supervisor", Event::Superseded, "").await;
        self.retiring
            .push(Box::pin(retire(life, generation, retired, None)));
    }

    /// Puts the predecessor back into the cell and the digest of the fresh version into quarantine.
    pub(super) async fn roll_back(&mut self, trigger: &Trigger) {
        let watch = self.running.as_ref().and_then(|it| it.watch.as_ref());
        let last_bad = watch.map(|it| it.last_bad.clone()).filter(|it| !it.is_empty());
        let reason = match (trigger, last_bad) {
            (Trigger::Health { .. }, Some(why)) => format!("{trigger}: {why}"),
            _ => trigger.to_string(),
        };
        self.fail_all(&reason).await;
        let gone = matches!(trigger, Trigger::Crash { .. });
        self.put_back(reason, Fault::Own, gone).await;
    }

    /// Puts the predecessor back into the cell. State comes back too, unless the instance that has it is `gone`.
    pub(super) async fn put_back(&mut self, reason: String, fault: Fault, gone: bool) {
        let (Some(mut bad), Some(mut good)) = (self.running.take(), self.standby.take()) else {
            return;
        };
        let event = match fault {
            Fault::Own => Event::ProbationFailed,
            Fault::Another => Event::Withdrawn,
        };
        bad.life.shown = false;
        bad.life.must_step("probation", event, &reason).await;
        good.life.shown = true;
        good.life.must_step("probation", Event::Restored, &reason).await;
        let (retired, of_state, info) = if good.generation.carries_state() {
            let at_cutover = good.snapshot.as_deref();
            let beside = bad.trial.as_ref().map(OnTrial::fresh).unwrap_or_default();
            let (closed, told, info) = self
                .place()
                .hand_back(&bad.generation, &good.generation, at_cutover, gone, beside)
                .await;
            self.place().flip_back(&good.generation, good.retired, &closed);
            (closed.retired, format!("; {told}"), info)
        } else {
            // S2: open, put back, close.
            good.generation.admission.reopen();
            let retired = self.address.cell.restore(good.retired);
            bad.generation.admission.close();
            (retired, String::new(), None)
        };
        let (from, to) = (&bad.generation.plugin.version, &good.generation.plugin.version);
        // The same artifact, started for another configuration: that is what goes.
        let is_of_config = Arc::ptr_eq(&bad.launch, &good.launch);
        if is_of_config {
            let in_force = bad.generation.configured.in_force();
            let digest = bad.generation.digest;
            self.shared
                .configs
                .reject(&self.address.name, digest, &in_force, &reason);
        }
        tracing::error!(target: "mortise::life", plugin = %self.address.name, reason, "version {from} was rolled back to {to}{of_state}");
        let quarantined = if fault == Fault::Own {
            " and quarantined"
        } else {
            ""
        };
        let told = if is_of_config {
            format!("version {from} was rolled back to the configuration before: {reason}{of_state}")
        } else {
            format!("version {from} was rolled back to {to}{quarantined}: {reason}{of_state}")
        };
        self.address.publish(|status| {
            status.offer = Some(good.generation.offer());
            status.current = Some(good.generation.clone());
            status.others.retain(|it| it.number != good.generation.number);
            status.others.push(bad.generation.clone());
            (status.source, status.restart) = (good.launch.source.clone(), good.launch.restart);
            status.reasons = vec![told];
            status.state_info = info;
        });
        if fault == Fault::Own && !is_of_config {
            self.shared
                .quarantine(&self.address.name, &bad.generation, &reason)
                .await;
        }
        let version = bad.generation.plugin.version.to_string();
        if is_of_config {
            let (was, is) = (
                bad.generation.configured.in_force(),
                good.generation.configured.in_force(),
            );
            let values = (was.effective.value(), is.effective.value());
            history::config_taken_back(&self.shared, &self.address.name, from, values, &reason).await;
        } else {
            history::rolled_back(&self.shared, &self.address.name, &version, &reason).await;
        }
        self.running = Some(Running {
            life: good.life,
            generation: good.generation,
            launch: good.launch,
            since: good.since,
            ended: good.ended,
            watch: None,
            trial: None,
        });
        self.shared.rebuild_table();
        self.retiring.push(match fault {
            Fault::Own => Box::pin(discard(bad.generation, retired)),
            // It did nothing wrong: its calls may end.
            Fault::Another => Box::pin(retire(bad.life, bad.generation, retired, None)),
        });
    }
}

/// Asks a generation how it is; an answer that takes too long is a bad one.
pub(crate) fn ask_health(generation: Arc<Generation>) -> BoxFuture<'static, Result<(), String>> {
    Box::pin(async move {
        match tokio::time::timeout(2 * HEALTH_EVERY, generation.instance.health()).await {
            Ok(Ok(health)) if health.serving => Ok(()),
            Ok(Ok(health)) => Err(health.detail),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it does not answer".to_owned()),
        }
    })
}
