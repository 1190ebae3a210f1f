//! Canaries that nobody starts by hand: a file or a watched directory has another package under a name whose plan says that it comes as one.

use std::time::Duration;

use mortise_lifecycle::{CanaryPlan, CanaryStep};
use mortise_manifest::CanaryEntry;
use mortise_store::Package;

use super::{CanaryInfo, CanaryRequest, Commission, Handle, kept};
use crate::{
    Host, HostError, HostErrorKind, LoadRequest, call,
    history::{Giver, Word},
};

/// What became of a package that is to come as a canary.
pub(crate) enum Coming {
    /// It has calls, from now on or from an earlier word on.
    There,
    /// It had its canary, which ended so; nobody but an operator starts another one of the same package.
    GivenUp(String),
}

/// A package that is to come as a canary, and what it comes with.
pub(crate) struct Offer<'a> {
    pub(crate) giver: Giver,
    pub(crate) name: &'a str,
    pub(crate) package: &'a Package,
    pub(crate) request: &'a LoadRequest,
    pub(crate) plan: &'a CanaryEntry,
    /// The word of the configuration's entry that it is about, see [`crate::entries`].
    pub(crate) word: Option<String>,
    /// Also if one of the same package is over.
    pub(crate) insists: bool,
}

impl Host {
    /// Lets a package come as a canary beside what serves under its name. Does nothing if it is there already.
    ///
    /// # Errors
    /// As [`Host::start_canary`]; `Conflict` also if an operator's canary of another package runs.
    pub(crate) async fn come_as_canary(&self, offer: Offer<'_>) -> Result<Coming, HostError> {
        let Offer {
            giver,
            name,
            package,
            request,
            plan,
            word,
            insists,
        } = offer;
        let shared = self.shared();
        let digest = package.digest().to_string();
        self.end_other_canary(giver, name, &digest).await?;
        if let Some(Handle { info, commission, .. }) = shared.canaries.find(name)
            && commission.package == digest
        {
            let info = info.load();
            if !info.is_over() {
                return Ok(Coming::There);
            }
            // One that this side took back itself may come again.
            let own = Word::of(giver);
            let by_itself = info.decisions.last().is_some_and(|it| *it.actor == **own.actor());
            if !insists && !by_itself && commission.giver == giver && commission.word == word {
                return Ok(Coming::GivenUp(why_over(&info)));
            }
        }
        has_own_version(self, name, package)?;
        let commission = Commission {
            giver,
            package: digest,
            word,
        };
        if kept::go_on(shared, name, package, &commission).await? {
            return Ok(Coming::There);
        }
        let mut load = request.clone();
        load.name = Some(name.to_owned());
        let (plan, sticky) = read(plan)?;
        let request = CanaryRequest { load, plan, sticky };
        let actor = Word::of(giver).actor().clone();
        self.begin_canary(&actor, commission, name.to_owned(), package, request)
            .await?;
        Ok(Coming::There)
    }

    /// Ends the canary of another package that had come from the same side: that side says something else now.
    pub(crate) async fn end_other_canary(
        &self,
        giver: Giver,
        name: &str,
        digest: &str,
    ) -> Result<(), HostError> {
        let Some(Handle { info, commission, .. }) = self.shared().canaries.find(name) else {
            return Ok(());
        };
        if info.load().is_over() || commission.giver != giver || commission.package == digest {
            return Ok(());
        }
        let word = Word::of(giver);
        let why = format!("the {} has another package now", side(giver));
        match self.abort_canary(word.actor(), name, &why).await {
            // It came to its end by itself in the meantime.
            Err(error) if error.kind() == HostErrorKind::Conflict => Ok(()),
            done => done.map(drop),
        }
    }
}

fn side(giver: Giver) -> &'static str {
    match giver {
        Giver::Directory => "watched directory",
        Giver::Config | Giver::Operator | Giver::Recalled => "configuration",
    }
}

fn why_over(info: &CanaryInfo) -> String {
    let last = info
        .decisions
        .last()
        .map(|it| it.text.as_str())
        .unwrap_or_default();
    format!(
        "its canary of {} is over ({last}), and {} serves; put another package there, or begin again with `mortise canary start`",
        info.version, info.baseline_version
    )
}

/// Two packages of one version cannot serve beside each other: nobody could say which one is meant.
fn has_own_version(host: &Host, name: &str, package: &Package) -> Result<(), HostError> {
    let version = &package.plugin().version;
    let serving = host.shared().find(name).ok();
    let serving = serving.and_then(|it| call::serving(&it).ok());
    if serving.is_none_or(|it| it.plugin.version != *version) {
        return Ok(());
    }
    let what = format!(
        "version {version} of plugin `{name}` serves, the package in {} is another one of the same version, and a canary needs a version of its own",
        package.origin()
    );
    Err(HostError::new(HostErrorKind::Refused, what)
        .with_plugin(name)
        .with_hint(
            "give the new package another version, or take `canary` out of its entry to swap it at once",
        ))
}

/// The plan of an entry; what it leaves out is the default.
fn read(entry: &CanaryEntry) -> Result<(CanaryPlan, Option<String>), HostError> {
    let CanaryEntry {
        steps,
        sticky,
        window_ms,
        requests_min,
        error_ratio,
        error_factor,
        p95_step_ms,
        p95_factor,
        p95_rise_min_ms,
        bad_healths_max,
    } = entry;
    let mut plan = CanaryPlan::default();
    if !steps.is_empty() {
        let steps = steps.iter().map(|it| it.parse::<CanaryStep>());
        plan.steps = steps
            .collect::<Result<_, _>>()
            .map_err(|error| HostError::new(HostErrorKind::Invalid, error.to_string()))?;
    }
    // Read within bounds; what an embedder writes beyond them is cut off there.
    let ms = |it: f64| Duration::try_from_secs_f64(it / 1e3).unwrap_or(Duration::MAX);
    let analysis = &mut plan.analysis;
    analysis.window = window_ms.map_or(analysis.window, Duration::from_millis);
    analysis.requests_min = requests_min.unwrap_or(analysis.requests_min);
    analysis.error_ratio_floor = error_ratio.unwrap_or(analysis.error_ratio_floor);
    analysis.error_ratio_factor = error_factor.unwrap_or(analysis.error_ratio_factor);
    analysis.p95_step = p95_step_ms.map_or(analysis.p95_step, ms);
    analysis.p95_factor = p95_factor.unwrap_or(analysis.p95_factor);
    analysis.p95_rise_min = p95_rise_min_ms.map_or(analysis.p95_rise_min, ms);
    analysis.bad_healths_max = bad_healths_max.unwrap_or(analysis.bad_healths_max);
    Ok((plan, sticky.clone()))
}
