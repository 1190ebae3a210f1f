//! What is kept on the disk: for each plugin what each source said last, and what was good (G4). References, never secrets.

use mortise_config::Layer;
use serde::{Deserialize, Serialize};

use super::{Plugin, Said};
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
            let plugin = key.trim_start_matches(PREFIX).to_owned();
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

    /// Writes down what has changed since.
    pub(crate) async fn keep_configs(&self) {
        for (plugin, kept) in self.configs.take_unkept() {
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

    fn take_unkept(&self) -> Vec<(String, Option<Kept>)> {
        let mut state = self.lock();
        let names = std::mem::take(&mut state.unkept);
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
