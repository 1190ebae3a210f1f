//! The probation of plugins that were loaded together: they pass together, or go back together.
//!
//! Each supervisor judges its own member as ever; here it hears of the others. Whoever fails first says so to all ([`Supervisor::fail_all`]),
//! everybody hears it ([`Supervisor::fated`]) and goes back by itself: to its predecessor, or away if there was none.

use mortise_lifecycle::Event;
use mortise_runtime::InstanceId;
use tokio::sync::watch;

use super::{Running, Standby, Supervisor, probation::Fault, retire::retire};
use crate::together::{Fate, Ticket};

/// A member on its common probation. Dropped, it keeps nobody waiting any more.
pub(super) struct OnTrial {
    ticket: Ticket,
    fate: watch::Receiver<Fate>,
}

// === impl OnTrial ===

impl OnTrial {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self {
            fate: ticket.fate(),
            ticket,
        }
    }

    /// The instances that are on it.
    pub(super) fn fresh(&self) -> Vec<InstanceId> {
        self.ticket.fresh()
    }

    /// Waits until it is known what becomes of all of them.
    pub(super) async fn decided(&mut self) -> Fate {
        let decided = self.fate.wait_for(|fate| *fate != Fate::Open).await;
        let decided = decided.map(|fate| fate.clone());
        match decided {
            Ok(fate) => fate,
            // Cannot be: the ticket holds the sender.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for OnTrial {
    fn drop(&mut self) {
        self.ticket.leave();
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// Whether the fresh version here is still judged together with others.
    pub(super) fn is_on_trial(&self) -> bool {
        self.running.as_ref().is_some_and(|it| it.trial.is_some())
    }

    /// Lets what stands by go, beside everything else: in a cutover nothing may wait for the disk, because others that are loaded with it wait for
    /// their turn, and callers meet old and new ones meanwhile.
    pub(super) fn release_predecessor_later(&mut self) {
        let Some(standby) = self.standby.take() else {
            return;
        };
        let Standby {
            mut life,
            generation,
            retired,
            ..
        } = standby;
        self.retiring.push(Box::pin(async move {
            life.must_step("supervisor", Event::Superseded, "").await;
            retire(life, generation, retired, None).await
        }));
    }

    /// The fresh version has proved itself. If it came with others, it waits for them.
    pub(super) async fn passed(&mut self) {
        let trial = self.running.as_ref().and_then(|it| it.trial.as_ref());
        if trial.is_none_or(|it| it.ticket.passed()) {
            self.pass().await;
        }
    }

    /// Tells all others that the fresh version here has failed, and makes what should run what it was before.
    pub(super) async fn fail_all(&mut self, reason: &str) {
        let trial = self.running.as_ref().and_then(|it| it.trial.as_ref());
        let Some(ticket) = trial.map(|it| it.ticket.clone()) else {
            return;
        };
        ticket.fail(&self.shared, reason).await;
    }

    /// The fresh version here has failed and has no predecessor: all others go back, and it goes.
    pub(super) async fn take_all_back(&mut self, reason: &str) {
        self.fail_all(reason).await;
        let Some(Running { generation, .. }) = &self.running else {
            return;
        };
        let generation = generation.clone();
        tracing::error!(target: "mortise::life", plugin = %self.address.name, reason, "a plugin that was loaded with others failed its probation");
        self.shared
            .quarantine(&self.address.name, &generation, reason)
            .await;
        self.leaving = true;
    }

    /// It is known what becomes of all that were loaded together.
    pub(super) async fn fated(&mut self, fate: Fate) {
        match fate {
            Fate::Open => {}
            Fate::Passed => self.pass().await,
            Fate::Failed { plugin, reason } => {
                let reason = format!("`{plugin}`, which was loaded with it, went back: {reason}");
                if self.standby.is_some() {
                    self.put_back(reason, Fault::Another, false).await;
                } else {
                    tracing::error!(target: "mortise::life", plugin = %self.address.name, reason, "a plugin goes with those that it was loaded with");
                    self.leaving = true;
                }
            }
        }
    }
}
