//! What can be said against a plugin's configuration before any host runs with it.

use std::path::PathBuf;

use mortise_config::{Allowed, Layer};
use mortise_manifest::ConfigSettings;
use serde::Serialize;

use super::{OWN, checks, effective, files};
use crate::{Host, HostError, LoadRequest, load};

/// Something that is wrong with what a plugin would be configured with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigFault {
    /// Where it stands: `own` for the plugin's own terms, or a file.
    pub origin: String,
    /// Which value: `limits.rate`, `hosts[2]`; empty for the whole.
    pub path: String,
    /// What is wrong, without the value.
    pub why: String,
    /// What to do.
    pub hint: String,
}

impl Host {
    /// Checks what a plugin would be configured with: its own terms in `asked`, and its file in the directory that `settings` names. Nothing is loaded;
    /// sources that are no files are not asked, and secrets are not read.
    ///
    /// # Errors
    /// If there is no such package.
    pub async fn check_config(
        &self,
        settings: &ConfigSettings,
        asked: &LoadRequest,
    ) -> Result<Vec<ConfigFault>, HostError> {
        let package = load::fetch(self.shared(), &asked.source).await?;
        let manifest = package.manifest();
        let name = asked.name.clone().unwrap_or_else(|| manifest.name.to_string());
        let fault = |origin: &str, why: String, hint: &str| ConfigFault {
            origin: origin.to_owned(),
            path: String::new(),
            why,
            hint: hint.to_owned(),
        };
        let own = match checks::read_own(asked.config_json.as_deref()) {
            Ok(own) => own,
            Err(refusal) => return Ok(vec![fault(OWN, refusal.why, &refusal.hint)]),
        };
        let mut layers = Vec::new();
        if let Some(dir) = settings.dir.clone().map(PathBuf::from) {
            let plugin = name.clone();
            let reading = tokio::task::spawn_blocking(move || files::settings_of(dir, &plugin));
            let settings = reading.await.unwrap_or_default();
            if !settings.is_empty() {
                match Layer::read(files::NAME, 0, &settings) {
                    Ok(layer) => layers.push(layer),
                    Err(faults) => {
                        let hint = "correct it there";
                        let faults = faults.into_iter();
                        return Ok(faults.map(|it| fault(&it.origin, it.why, hint)).collect());
                    }
                }
            }
        }
        let effective = effective(&own, &layers);
        let allowed = Allowed::new(settings.secrets.clone());
        let faults = checks::faults(&name, &effective, manifest, package.contract(), &allowed);
        let origins = effective.leaves();
        let origin = |path: &str| {
            let is_within = |inner: &str, outer: &str| {
                let rest = inner.strip_prefix(outer);
                rest.is_some_and(|it| it.is_empty() || it.starts_with(['.', '[']))
            };
            let leaf = origins
                .iter()
                .find(|it| is_within(&it.path, path) || is_within(path, &it.path));
            leaf.map_or_else(|| OWN.to_owned(), |it| it.origin.clone())
        };
        let told = |it: checks::Fault| ConfigFault {
            origin: origin(&it.path),
            path: it.path,
            why: it.why,
            hint: it.hint.to_owned(),
        };
        Ok(faults.err().unwrap_or_default().into_iter().map(told).collect())
    }
}
