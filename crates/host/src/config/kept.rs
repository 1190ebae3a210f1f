//! What is kept on the disk: for each plugin what each source said last, and what was good (G4). References, never secrets.

use std::{collections::BTreeSet, sync::Arc};

use mortise_config::Layer;
use mortise_contract::Contract;
use serde::{Deserialize, Serialize};

use super::{
    Plugin, Said,
    checks::{Blot, blot},
};
use crate::{HostError, host::Shared};

/// What the keys begin with, in the host's own key space.
const PREFIX: &str = "config/";
/// Version of [`Kept`]'s meaning.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    said: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good: Option<Vec<Layer>>,
}

impl Shared {
    /// What sources said in the host's earlier lives. Of sources that are configured no more nothing is left.
    pub(super) async fn recall_configs(&self) -> Result<(), HostError> {
        for key in self.own_keys(PREFIX).await? {
            let Some(text) = self.own_value(key.clone()).await? else {
                continue;
            };
            let plugin = key.strip_prefix(PREFIX).unwrap_or(&key).to_owned();
            match serde_json::from_slice::<Kept>(&text) {
                Ok(kept) if kept.format == FORMAT => self.configs.recall(plugin, kept),
                Ok(_) => {
                    tracing::warn!(target: "mortise::config", plugin, "a newer host kept its configuration; it is left out");
                }
                Err(error) => {
                    tracing::warn!(target: "mortise::config", plugin, %error, "the configuration that was kept does not read; it is left out");
                }
            }
        }
        Ok(())
    }

    /// Writes down what has changed since, of plugins that there are. What is said of others waits: it may never be wanted, and only a contract tells
    /// what in it must not be written down.
    pub(crate) async fn keep_configs(&self) {
        for (plugin, mut kept) in self.configs.take_unkept(&self.config_names()) {
            if let Some(kept) = &mut kept {
                for (message, contract) in self.messages(&plugin) {
                    for layer in kept.said.iter_mut().chain(kept.good.iter_mut().flatten()) {
                        layer.edit(|it| blot(it, &message, &contract, Blot::Sensitive));
                    }
                }
            }
            let key = format!("{PREFIX}{plugin}");
            let written = match kept {
                Some(kept) => {
                    let text = serde_json::to_vec(&kept).expect("strings and numbers serialize");
                    self.set_own_value(key, text).await
                }
                None => self.delete_own_value(key).await,
            };
            if let Err(error) = written {
                tracing::error!(target: "mortise::config", plugin, %error, "its configuration is not on the disk: without its sources the next host will not know it");
            }
        }
    }
}

impl Shared {
    /// Names of plugins that there are, serving or not.
    fn config_names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.all().iter().map(|it| it.base().to_owned()).collect();
        let waiting = self.waiting.packages();
        let held = self.configs.lock().held.keys().cloned().collect::<Vec<_>>();
        let others = waiting.keys().chain(&held);
        names.extend(others.map(|it| it.split_once('@').map_or(it.as_str(), |it| it.0).to_owned()));
        names
    }

    /// Messages that a configuration of this name has to look like, with the contracts that declare them.
    pub(super) fn messages(&self, base: &str) -> Vec<(String, Arc<Contract>)> {
        let mut all = Vec::new();
        for address in self.all().iter().filter(|it| it.base() == base) {
            let status = address.status.load();
            let Some(offer) = &status.offer else { continue };
            let message = offer.manifest.config.message.clone();
            all.extend(message.map(|it| (it, offer.contract.clone())));
        }
        let held = self.configs.held(base).into_iter().map(|(_, it)| it.package);
        let waiting = self.waiting.packages().into_iter();
        let waiting =
            waiting.filter(|(name, _)| name.split_once('@').map_or(name.as_str(), |it| it.0) == base);
        for package in held.chain(waiting.map(|(_, package)| package)) {
            let message = package.manifest().config.message.clone();
            all.extend(message.map(|it| (it, package.contract().clone())));
        }
        all
    }
}

impl super::Configs {
    fn recall(&self, plugin: String, kept: Kept) {
        let mut state = self.lock();
        let known = |it: &Layer| state.sources.iter().any(|source| source.name == it.source);
        let of_layer = |layer: Layer| {
            let said = Said {
                revision: layer.revision,
                faults: Vec::new(),
                layer: Some(layer.clone()),
            };
            (layer.source, said)
        };
        let good = kept.good.filter(|all| all.iter().all(&known));
        let said = kept.said.into_iter().filter(&known).map(of_layer).collect();
        state.plugins.insert(plugin, Plugin { said, good });
    }

    /// What was to be kept and is gone goes, whoever there is.
    fn take_unkept(&self, there: &BTreeSet<String>) -> Vec<(String, Option<Kept>)> {
        let mut state = self.lock();
        let unkept = std::mem::take(&mut state.unkept);
        let (mut names, others): (Vec<_>, Vec<_>) = unkept.into_iter().partition(|it| there.contains(it));
        for name in others {
            let says = state.plugins.get(&name);
            if says.is_some_and(|it| !it.said.is_empty() || it.good.as_ref().is_some_and(|it| !it.is_empty()))
            {
                state.unkept.insert(name);
            } else {
                names.push(name);
            }
        }
        let kept = |name: String| {
            let kept = state.plugins.get(&name).map(|plugin| Kept {
                format: FORMAT,
                said: plugin.said.values().filter_map(|it| it.layer.clone()).collect(),
                good: plugin.good.clone(),
            });
            let kept =
                kept.filter(|it| !it.said.is_empty() || it.good.as_ref().is_some_and(|it| !it.is_empty()));
            (name, kept)
        };
        names.into_iter().map(kept).collect()
    }
}
