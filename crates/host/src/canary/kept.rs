//! Canaries over the end of their host: what is kept of them, and how they are found again.

use std::{sync::Arc, time::Duration};

use mortise_lifecycle::{Canary, CanaryAnalysis, CanaryPlan, CanaryState, CanaryStep};
use mortise_manifest::RuntimeName;
use mortise_runtime::Digest;
use mortise_store::Package;
use serde::{Deserialize, Serialize};

use super::{CanaryRequest, Commission, Driver};
use crate::{Host, HostError, HostErrorKind, call, history::Giver, host::Shared, load, remember};

/// Version of [`Kept`]'s meaning.
const FORMAT: u32 = 1;
/// What the keys in the host's own key space begin with.
const PREFIX: &str = "canary:";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// The load, in the form of [`crate::remember`].
    load: String,
    steps: Vec<String>,
    window_ms: u64,
    requests_min: u64,
    error_ratio_floor: f64,
    error_ratio_factor: f64,
    p95_step_ms: f64,
    p95_factor: f64,
    p95_rise_min_ms: f64,
    bad_healths_max: u32,
    #[serde(default)]
    sticky: Option<String>,
    step: usize,
    held: bool,
    /// Digest of what is measured.
    digest: String,
    /// Who had it begun: `config` or `directory`, else an operator.
    #[serde(default)]
    giver: String,
    /// Digest of its package.
    #[serde(default)]
    package: String,
    /// What the configuration's entry said.
    #[serde(default)]
    word: Option<String>,
}

impl Shared {
    pub(super) async fn keep_canary(
        &self,
        plugin: &str,
        request: &CanaryRequest,
        canary: &Canary,
        digest: Digest,
        commission: &Commission,
    ) -> Result<(), HostError> {
        let kept = Kept::of(request, canary, digest, commission);
        let text = serde_json::to_vec(&kept).expect("strings and numbers serialize");
        self.set_own_value(format!("{PREFIX}{plugin}"), text).await
    }

    pub(super) async fn forget_canary(&self, plugin: &str) -> Result<(), HostError> {
        if self.parts.remembers {
            self.delete_own_value(format!("{PREFIX}{plugin}")).await?;
        }
        Ok(())
    }
}

/// Finds the canaries of the host's earlier lives again (D4). What they are compared with is loaded already.
pub(crate) async fn recall(host: &Host) -> Result<(), HostError> {
    let shared = host.shared();
    for key in shared.own_keys(PREFIX).await? {
        let Some(text) = shared.own_value(key.clone()).await? else {
            continue;
        };
        let plugin = key.strip_prefix(PREFIX).unwrap_or(&key);
        if shared.canaries.runs(plugin) {
            // A file that is read before this had it go on.
            continue;
        }
        let again = match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) if kept.format == FORMAT => start_again(shared, plugin, &kept, kept.commission()).await,
            Ok(kept) => Err(invalid(format!("a newer host kept it, in form {}", kept.format))),
            Err(error) => Err(invalid(format!("what is kept of it does not read: {error}"))),
        };
        if let Err(error) = again {
            let why = load::with_causes(&error);
            if error.kind() == HostErrorKind::Storage {
                tracing::error!(target: "mortise::life", plugin, why, "a canary does not go on in this life of the host; the next one tries again");
                continue;
            }
            shared.tell_of_lost_canary(plugin, &why).await;
            if let Err(error) = shared.forget_canary(plugin).await {
                tracing::error!(target: "mortise::life", plugin, %error, "a canary that is lost could not be forgotten");
            }
        }
    }
    Ok(())
}

/// Goes on with the canary of this package that an earlier life of the host had. Whether there is one.
pub(super) async fn go_on(
    shared: &Arc<Shared>,
    plugin: &str,
    package: &Package,
    commission: &Commission,
) -> Result<bool, HostError> {
    if !shared.parts.remembers {
        return Ok(false);
    }
    let Some(text) = shared.own_value(format!("{PREFIX}{plugin}")).await? else {
        return Ok(false);
    };
    let kept = serde_json::from_slice::<Kept>(&text).ok();
    let digest = package.digest().to_string();
    let Some(kept) = kept.filter(|it| it.format == FORMAT && it.package == digest) else {
        return Ok(false);
    };
    if kept.commission().giver != commission.giver {
        return Ok(false);
    }
    let _one_at_a_time = shared.canaries.starting.lock().await;
    start_again(shared, plugin, &kept, commission.clone())
        .await
        .map(|()| true)
}

async fn start_again(
    shared: &Arc<Shared>,
    plugin: &str,
    kept: &Kept,
    commission: Commission,
) -> Result<(), HostError> {
    let (request, step, held) = kept.read()?;
    let package = load::fetch(shared, &request.load.source).await?;
    let base = shared.find(plugin)?;
    let base =
        call::serving(&base).map_err(|error| HostError::new(HostErrorKind::Conflict, error.to_string()))?;
    if base.plugin.version == package.plugin().version {
        tracing::info!(target: "mortise::life", plugin, version = %base.plugin.version, "canary: it serves under the plain name since the host's last life");
        return shared.forget_canary(plugin).await;
    }
    let is_it = |runtime: &RuntimeName| {
        let artifact = package.artifact(*runtime);
        artifact.is_some_and(|it| it.digest.to_string() == kept.digest)
    };
    if !RuntimeName::ALL.iter().any(is_it) {
        return Err(invalid(format!(
            "{} is not what it was when the canary began",
            request.load.source
        )));
    }
    let (canary, effects) = Canary::resume(request.plan.clone(), step, held, Duration::ZERO);
    let (driver, handle) =
        Driver::load(shared, plugin.to_owned(), &package, request, commission, canary).await?;
    driver.begin(handle, effects, "host").await.map(drop)
}

fn invalid(why: String) -> HostError {
    HostError::new(HostErrorKind::Invalid, why)
}

impl Kept {
    fn commission(&self) -> Commission {
        let giver = match self.giver.as_str() {
            "config" => Giver::Config,
            "directory" => Giver::Directory,
            _ => Giver::Operator,
        };
        Commission {
            giver,
            package: self.package.clone(),
            word: self.word.clone(),
        }
    }

    fn of(request: &CanaryRequest, canary: &Canary, digest: Digest, commission: &Commission) -> Self {
        let CanaryAnalysis {
            window,
            requests_min,
            error_ratio_floor,
            error_ratio_factor,
            p95_step,
            p95_factor,
            p95_rise_min,
            bad_healths_max,
        } = request.plan.analysis;
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        Self {
            format: FORMAT,
            load: remember::to_text(request.load.clone()),
            steps: request.plan.steps.iter().map(|it| it.spec()).collect(),
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            requests_min,
            error_ratio_floor,
            error_ratio_factor,
            p95_step_ms: ms(p95_step),
            p95_factor,
            p95_rise_min_ms: ms(p95_rise_min),
            bad_healths_max,
            sticky: request.sticky.clone(),
            step: canary.step(),
            held: matches!(canary.state(), CanaryState::Paused { held: true, .. }),
            digest: digest.to_string(),
            giver: match commission.giver {
                Giver::Config => "config".to_owned(),
                Giver::Directory => "directory".to_owned(),
                Giver::Operator | Giver::Recalled => String::new(),
            },
            package: commission.package.clone(),
            word: commission.word.clone(),
        }
    }

    fn read(&self) -> Result<(CanaryRequest, usize, bool), HostError> {
        let steps = self.steps.iter().map(|it| it.parse::<CanaryStep>());
        let steps = steps
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid(error.to_string()))?;
        let load = remember::from_text(&self.load).map_err(|error| invalid(error.to_string()))?;
        let of_ms = |it: f64| Duration::from_secs_f64((it / 1e3).clamp(0.0, 1e9));
        let analysis = CanaryAnalysis {
            window: Duration::from_millis(self.window_ms),
            requests_min: self.requests_min,
            error_ratio_floor: self.error_ratio_floor,
            error_ratio_factor: self.error_ratio_factor,
            p95_step: of_ms(self.p95_step_ms),
            p95_factor: self.p95_factor,
            p95_rise_min: of_ms(self.p95_rise_min_ms),
            bad_healths_max: self.bad_healths_max,
        };
        let request = CanaryRequest {
            load,
            plan: CanaryPlan { steps, analysis },
            sticky: self.sticky.clone(),
        };
        Ok((request, self.step, self.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoadRequest, Source};

    #[test]
    fn a_canary_comes_back_as_it_was() {
        let request = CanaryRequest {
            load: LoadRequest::new(Source::folder("/p/q")),
            plan: CanaryPlan {
                steps: vec![
                    CanaryStep::Weight(5),
                    CanaryStep::Pause(None),
                    CanaryStep::Promote,
                ],
                analysis: CanaryAnalysis {
                    window: Duration::from_millis(1),
                    requests_min: 2,
                    error_ratio_floor: 0.25,
                    error_ratio_factor: 4.0,
                    p95_step: Duration::from_millis(5),
                    p95_factor: 6.0,
                    p95_rise_min: Duration::from_millis(7),
                    bad_healths_max: 8,
                },
            },
            sticky: Some("x-user".to_owned()),
        };
        let (canary, _) = Canary::resume(request.plan.clone(), 1, true, Duration::ZERO);
        let commission = Commission {
            giver: Giver::Config,
            package: "p".to_owned(),
            word: Some("w".to_owned()),
        };
        let kept = Kept::of(&request, &canary, Digest::of(b""), &commission);
        let text = serde_json::to_string(&kept).expect("serializes");
        let kept: Kept = serde_json::from_str(&text).expect("reads");
        let (back, step, held) = kept.read().expect("is sound");
        assert_eq!((step, held), (1, true));
        let again = kept.commission();
        assert_eq!(
            (again.giver, &*again.package, again.word.as_deref()),
            (Giver::Config, "p", Some("w"))
        );
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }
}
