//! Secrets that change where they are: a file that a configuration in force refers to has another content, and the plugin is to have that.
//!
//! What references lead to is read at a fixed pace and compared with what the instance was handed. When two looks in a row find the same other content
//! (one that is being written is not taken halfway), what the instance has is *stale*: the same settings are brought into force again, as any change is.
//! A secret that cannot be read is no change: what was handed over holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use mortise_config::{Effective, Reference};
use mortise_runtime::Digest;
use tokio::sync::watch;

use super::checks::References;
use crate::{generation::Generation, host::Shared};

/// How often what references lead to is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An instance that was handed secrets.
struct Holder {
    name: Arc<str>,
    generation: Arc<Generation>,
    effective: Effective,
    references: References,
    /// What it was handed.
    handed: Arc<str>,
}

/// Looks until the host closes.
pub(super) async fn watch_secrets(shared: Weak<Shared>, mut closing: watch::Receiver<bool>) {
    // What the last look found in place of what was handed over.
    let mut found: BTreeMap<Arc<str>, Digest> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = closing.wait_for(|it| *it) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(shared) = shared.upgrade() else { return };
        let holders = holders(&shared);
        if holders.is_empty() {
            found.clear();
            continue;
        }
        let Ok(looked) = tokio::task::spawn_blocking(move || look(holders)).await else {
            continue;
        };
        let before = std::mem::take(&mut found);
        let mut changed = false;
        for (holder, now) in looked {
            let agreed = before.get(&holder.name) == now.as_ref();
            found.extend(now.map(|it| (holder.name.clone(), it)));
            if agreed {
                changed |= shared.configs.note_secrets(&holder.name, &holder.generation, now);
            }
        }
        if changed {
            shared.configs.ring();
        }
    }
}

/// Instances whose configuration refers to files.
fn holders(shared: &Shared) -> Vec<Holder> {
    let mut all = Vec::new();
    for address in shared.all() {
        let Some(generation) = address.status.load().current.clone() else {
            continue;
        };
        let effective = generation.configured.in_force().effective.clone();
        // It was checked before it came into force.
        let Ok(references) = effective.references(address.base(), &shared.configs.allowed) else {
            continue;
        };
        if references.iter().any(|(_, it)| matches!(it, Reference::File(_))) {
            all.push(Holder {
                name: address.name.clone(),
                handed: generation.services.config_json(),
                generation,
                effective,
                references,
            });
        }
    }
    all
}

/// What each would be handed now, if that can be read and is another than what it was handed.
fn look(holders: Vec<Holder>) -> Vec<(Holder, Option<Digest>)> {
    let look = |it: Holder| {
        let secrets: Result<Vec<String>, String> = it.references.iter().map(|(_, it)| it.read()).collect();
        let secrets = secrets.ok()?;
        let delivered = it.effective.deliver(secrets);
        let other = (delivered.json != it.handed).then(|| Digest::of(delivered.json.as_bytes()));
        Some((it, other))
    };
    holders.into_iter().filter_map(look).collect()
}
