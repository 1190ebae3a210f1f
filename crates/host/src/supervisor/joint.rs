//! What a member of a load of several plugins does once all of them are ready: with the gates of all closed, in step with the others.
//!
//! ```text
//!  leader  write rows │ close │ seal │ keep snapshots │ .. by level  │ decide │ new table │ .. by level
//!  member  who it is, │ close,│      │ save           │ load,        │        │ offer     │ flip, open
//!          whom it    │ drain │      │                │ post_load,   │        │           │
//!          replaces   │       │      │                │ health       │        │           │
//! ```
//! Each column begins when all members are through with the one before. Up to the decision, whoever fails or is late has all of them put back what they
//! took out of their cells (H2), state and all.
//!
//! A hook of a member without state is called after the decision, when what it requires serves, and cannot refuse any more.

use std::{pin::pin, sync::Arc, time::SystemTime};

use mortise_lifecycle::Event;
use mortise_runtime::{Origin, Snapshot};
use tokio::time::Instant;

use super::handover::{Closed, HOOK_MAX, Handed, Place, Taken, healthy, load, post_load, take};
use crate::{
    HostError, HostErrorKind, StateInfo, StateOrigin,
    carry::{self, Carry},
    generation::Generation,
    life::Life,
    load::Launch,
    together::{There, Ticket},
};

/// A member that is ready.
pub(super) struct Joined {
    pub(super) ticket: Ticket,
    /// What it was given from the disk, where what it replaces has nothing to give.
    pub(super) recalled: Option<StateInfo>,
}

/// What a fresh instance begins with.
enum Begins {
    /// It has no state.
    Without,
    /// With what its predecessor knows.
    As(Arc<Generation>, Carry),
    /// With what it was given, which may be nothing.
    Given(StateInfo),
}

/// The state of a fresh instance, once it has one.
struct Begun {
    origin: Origin,
    info: Option<StateInfo>,
    snapshot: Option<Snapshot>,
}

// === before the gates close ===

impl Place<'_> {
    /// Gives a fresh instance the state that is on disk, if it is from there that it gets it; waits until all others are ready, too. On `Err` it is stopped.
    pub(super) async fn join(
        &self,
        ticket: Ticket,
        new: &Arc<Generation>,
        launch: &Launch,
    ) -> Result<Joined, HostError> {
        let serving = self.address.status.load().current.clone();
        let inherits = serving.is_some_and(|it| it.carries_state());
        let joined = async {
            let recalled = match new.carries_state() && !inherits {
                true => Some(self.recall_state(new, launch).await?),
                false => None,
            };
            ticket.agree(new).await?;
            Ok(recalled)
        };
        match joined.await {
            Ok(recalled) => Ok(Joined { ticket, recalled }),
            Err(error) => {
                new.instance.stop(new.limits.stop).await;
                Err(error)
            }
        }
    }

    // --- while they are closed ---

    /// Takes a member that is ready to the point where its cell may be flipped. On `Err` nothing of this address has changed, and the others hear of it.
    pub(super) async fn hand_over_together(
        &self,
        life: &mut Life,
        old: Option<&Arc<Generation>>,
        new: &Arc<Generation>,
        launch: &Launch,
        joined: &Joined,
    ) -> Result<Handed, HostError> {
        let ticket = &joined.ticket;
        let mut closed = None;
        let handed = {
            let mut steps = pin!(self.in_step(life, old, new, launch, joined, &mut closed));
            tokio::select! {
                biased;
                handed = steps.as_mut() => handed,
                cause = new.instance.ended() => {
                    if ticket.lose() {
                        let what = format!("plugin `{}` ended before the others were ready: {cause}", self.address.name);
                        Err(HostError::new(HostErrorKind::StartFailed, what).with_plugin(&*self.address.name))
                    } else {
                        steps.await
                    }
                }
            }
        };
        match handed {
            Ok(begun) => Ok(Handed {
                closed,
                snapshot: begun.snapshot.map(Arc::new),
                info: begun.info,
            }),
            Err(error) => {
                if let Some(closed) = closed {
                    closed.reopen(self.address);
                }
                ticket.fail_early();
                Err(error)
            }
        }
    }

    async fn in_step(
        &self,
        life: &mut Life,
        old: Option<&Arc<Generation>>,
        new: &Arc<Generation>,
        launch: &Launch,
        joined: &Joined,
        closed: &mut Option<Closed>,
    ) -> Result<Begun, HostError> {
        let ticket = &joined.ticket;
        let begins = self.begins(old, new, launch, joined.recalled.clone()).await?;
        let instance = &*new.instance.id().0;
        let mut run = vec![(Event::Started, instance)];
        let what = old.map(|it| {
            format!(
                "{} gives way to {}, as one of several",
                it.plugin.version, new.plugin.version
            )
        });
        run.extend(what.as_deref().map(|what| (Event::HandOver, what)));
        let there = There {
            rows: life.rows(&run)?,
            new: new.instance.id().clone(),
            old: old.cloned(),
            swap: new.limits.swap,
        };
        let gates = ticket.there(there).await?;
        life.written(&run);
        let until = gates.until.unwrap_or_else(|| Instant::now() + new.limits.start);
        // A step has the same deadline as the whole, and may be the first to notice.
        let is_late = || gates.until.is_some_and(|it| Instant::now() >= it);
        let failed = |step: &str, why: String| {
            let why = match is_late() {
                true => format!("the time of `limits.swap_ms` was over: {why}"),
                false => why,
            };
            self.not_handed_over(old, new, step, &why)
        };
        if let Some(old) = old {
            let closed = closed.insert(Closed::new(self.address, old, gates.passage.clone()));
            closed.drained().await.map_err(|why| failed("drain", why))?;
        }
        ticket.drained().await?;
        if let Some(closed) = closed {
            closed.left().await;
        }
        let taken = match &begins {
            Begins::As(old, carry) => {
                let taken = take(self.address, old, *carry).await;
                Some(taken.map_err(|why| failed("save_state", why))?)
            }
            Begins::Without | Begins::Given(_) => None,
        };
        ticket.saved(taken.as_ref().map(|it| it.kept.clone())).await?;
        let begun = begin_with(new, begins, taken, until).await;
        let begun = begun.map_err(|(step, why)| failed(step, why))?;
        let detail = begun.info.as_ref().map(ToString::to_string).unwrap_or_default();
        let run = [(Event::CutOver, &*detail)];
        ticket.loaded(life.rows(&run)?).await?;
        // T3: it is decided.
        life.written(&run);
        self.address.publish(|status| status.offer = Some(new.offer()));
        ticket.offered().await;
        let until = until.max(Instant::now() + HOOK_MAX);
        if !new.carries_state()
            && let Err(why) = post_load(new, Origin::Unspecified, until).await
        {
            tracing::warn!(target: "mortise::life", plugin = %self.address.name, why, "post_load failed; it serves all the same");
        }
        Ok(begun)
    }

    /// Where its state comes from.
    async fn begins(
        &self,
        old: Option<&Arc<Generation>>,
        new: &Arc<Generation>,
        launch: &Launch,
        recalled: Option<StateInfo>,
    ) -> Result<Begins, HostError> {
        if !new.carries_state() {
            return Ok(Begins::Without);
        }
        let Some(old) = old.filter(|it| it.carries_state()) else {
            let given = match recalled {
                Some(recalled) => recalled,
                // What it was to inherit from has ended in the meantime.
                None => self.recall_state(new, launch).await?,
            };
            return Ok(Begins::Given(given));
        };
        match old.as_writer().map(|it| new.takes(it)) {
            Some(Ok(carry)) => Ok(Begins::As(old.clone(), carry)),
            Some(Err(refusal)) if launch.force => Ok(Begins::Given(StateInfo::empty(new, Some(refusal.why)))),
            Some(Err(refusal)) => Err(self.refused(carry::why(&new.plugin, &refusal))),
            None => Ok(Begins::Given(StateInfo::empty(new, None))),
        }
    }

    fn not_handed_over(
        &self,
        old: Option<&Arc<Generation>>,
        new: &Generation,
        step: &str,
        why: &str,
    ) -> HostError {
        let to = &new.plugin.version;
        self.refused(match old {
            Some(old) => {
                let from = &old.plugin.version;
                format!("it was not handed over from {from} to {to}: {step} failed: {why}; {from} goes on with the state it has")
            }
            None => format!("version {to} does not begin: {step} failed: {why}"),
        })
    }
}

/// Gives a fresh instance its state. On `Err` it says which step failed.
async fn begin_with(
    new: &Arc<Generation>,
    begins: Begins,
    taken: Option<Taken>,
    until: Instant,
) -> Result<Begun, (&'static str, String)> {
    let begun = match (begins, taken) {
        (Begins::Without, _) => {
            return Ok(Begun {
                origin: Origin::Unspecified,
                info: None,
                snapshot: None,
            });
        }
        (Begins::As(..), Some(Taken { snapshot, carry, .. })) => {
            let loaded = load(new, &snapshot, carry, until).await;
            loaded.map_err(|why| ("load_state", why))?;
            Begun {
                origin: Origin::Predecessor,
                info: Some(StateInfo::of(
                    &snapshot,
                    StateOrigin::Predecessor,
                    SystemTime::now(),
                )),
                snapshot: Some(snapshot),
            }
        }
        (Begins::As(..), None) => return Err(("save_state", "nothing was saved".to_owned())),
        (Begins::Given(info), _) => Begun {
            origin: match info.origin {
                StateOrigin::Snapshot => Origin::Snapshot,
                _ => Origin::Unspecified,
            },
            info: Some(info),
            snapshot: None,
        },
    };
    post_load(new, begun.origin, until)
        .await
        .map_err(|why| ("post_load", why))?;
    healthy(new).await.map_err(|why| ("health", why))?;
    Ok(begun)
}
