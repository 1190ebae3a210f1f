//! One generation's place in its life, and the only way to change it: step, write to the journal, publish.

use std::{sync::Arc, time::SystemTime};

use mortise_lifecycle::{Effect, Event, State, step};
use mortise_runtime::{Digest, PluginId};
use mortise_store::Transition;

use crate::{
    HostError, HostErrorKind,
    generation::{Address, Status},
    host::Shared,
};

/// One generation's place in its life.
pub(crate) struct Life {
    shared: Arc<Shared>,
    address: Arc<Address>,
    pub(crate) number: u64,
    pub(crate) plugin: PluginId,
    pub(crate) digest: Option<Digest>,
    state: State,
    /// Moves that were made and have no effect of their own; they are written together with the next one.
    noted: Vec<Transition>,
    /// Whether this generation is what the address shows: the one that serves or, if none does, the last attempt.
    pub(crate) shown: bool,
}

impl Life {
    pub(crate) fn new(shared: Arc<Shared>, address: Arc<Address>, number: u64, plugin: PluginId) -> Self {
        Self {
            shared,
            address,
            number,
            plugin,
            digest: None,
            state: State::Absent,
            noted: Vec::new(),
            shown: false,
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Makes a move: it is in the journal before this returns, so the caller may perform the effects.
    ///
    /// # Errors
    /// `Conflict` if the move does not exist, `Storage` if the journal cannot be written; nothing has changed then.
    pub(crate) async fn step(
        &mut self,
        actor: &'static str,
        event: Event,
        detail: &str,
    ) -> Result<Vec<Effect>, HostError> {
        let (to, effects) = self.ask(event)?;
        let mut run = self.noted.clone();
        run.push(self.transition(actor, event, to, detail));
        self.shared.journal(run).await?;
        self.noted.clear();
        self.enter(event, to, detail);
        Ok(effects)
    }

    /// Makes a move whose effects touch nothing that outlives the host. It is written together with the next one, because every write waits
    /// for the disk.
    ///
    /// # Errors
    /// `Conflict` if the move does not exist; nothing has changed then.
    pub(crate) fn note(
        &mut self,
        actor: &'static str,
        event: Event,
        detail: &str,
    ) -> Result<Vec<Effect>, HostError> {
        let (to, effects) = self.ask(event)?;
        self.noted.push(self.transition(actor, event, to, detail));
        self.enter(event, to, detail);
        Ok(effects)
    }

    /// A run of moves, for somebody who writes those of several generations at once. Nothing is entered until [`Life::written`].
    ///
    /// # Errors
    /// `Conflict` if one of them does not exist.
    pub(crate) fn rows(&self, run: &[(Event, &str)]) -> Result<Vec<Transition>, HostError> {
        let mut rows = self.noted.clone();
        let mut at = self.state;
        for (event, detail) in run {
            let (to, _) = self.ask_at(at, *event)?;
            rows.push(Transition {
                from: at.to_string(),
                ..self.transition("supervisor", *event, to, detail)
            });
            at = to;
        }
        Ok(rows)
    }

    /// The rows of [`Life::rows`] are in the journal.
    pub(crate) fn written(&mut self, run: &[(Event, &str)]) {
        self.noted.clear();
        for (event, detail) in run {
            if let Ok((to, _)) = step(self.state, *event) {
                self.enter(*event, to, detail);
            }
        }
    }

    /// A move that must happen whatever the disk says: the instance is gone, or is going.
    pub(crate) async fn must_step(&mut self, actor: &'static str, event: Event, detail: &str) -> Vec<Effect> {
        match self.step(actor, event, detail).await {
            Ok(effects) => effects,
            Err(error) => {
                tracing::error!(target: "mortise::life", plugin = %self.address.name, %error, event = event.name(), "a move is not in the journal");
                let Ok((to, effects)) = step(self.state, event) else {
                    return Vec::new();
                };
                self.enter(event, to, detail);
                effects
            }
        }
    }

    fn ask(&self, event: Event) -> Result<(State, Vec<Effect>), HostError> {
        self.ask_at(self.state, event)
    }

    fn ask_at(&self, at: State, event: Event) -> Result<(State, Vec<Effect>), HostError> {
        step(at, event).map_err(|refused| {
            HostError::new(
                HostErrorKind::Conflict,
                format!("plugin `{}`: {refused}", self.address.name),
            )
            .with_plugin(&*self.address.name)
            .with_source(refused)
        })
    }

    fn transition(&self, actor: &str, event: Event, to: State, detail: &str) -> Transition {
        Transition {
            plugin: self.address.name.to_string(),
            version: self.plugin.version.to_string(),
            digest: self.digest.map(|it| it.to_string()).unwrap_or_default(),
            actor: actor.to_owned(),
            from: self.state.to_string(),
            event: event.name().to_owned(),
            to: to.to_string(),
            detail: detail.to_owned(),
        }
    }

    fn enter(&mut self, event: Event, to: State, detail: &str) {
        let from = std::mem::replace(&mut self.state, to);
        tracing::info!(
            target: "mortise::life", plugin = %self.address.name, version = %self.plugin.version, generation = self.number,
            event = event.name(), detail, "{from} -> {to}"
        );
        self.publish(|status| status.moved(self.number, from, event.name(), to, detail));
    }

    /// Shows this generation as the address's own.
    pub(crate) fn show(&mut self) {
        self.shown = true;
        self.publish(|_| {});
    }

    fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.address.publish(|status| {
            change(status);
            if self.shown {
                status.state = self.state;
                status.since = SystemTime::now();
                status.number = self.number;
                status.plugin = self.plugin.clone();
                status.digest = self.digest;
            }
        });
    }
}
