//! Who depends on whom among the plugins of this host: what speaks against a load or an unload, and in which order things start and stop.
//!
//! `mortise_routing` knows the graph; here it gets the plugins, and what it says becomes reasons that a load is refused for. All of it
//! looks at one moment: a provider that goes between a check and the cutover leaves its dependents with `Unavailable`, like one that crashes.
//!
//! # What speaks against a load
//! | reason (`Refusal::what`) | what it means |
//! |---|---|
//! | `requires` ([`MISSING`]) | nobody provides a hard requirement; the only one that time may heal |
//! | `contract` | it, or a plugin that requires it, was built against a contract that does not fit the other side's |
//! | `dependents` | a plugin that runs would lose what it requires |
//! | `cycle` | plugins would wait for each other to start |

use std::{collections::BTreeSet, sync::Arc};

use mortise_contract::{Contract, Target, evolve::Lineage};
use mortise_manifest::{Manifest, Requirement};
use mortise_routing::{Chart, ChartPlugin, DependencyFault, Method, Need, Participant, plan};
use mortise_runtime::{PluginId, Refusal};
use mortise_store::Package;

use crate::{HostError, HostErrorKind, adapt, call, generation::Address, host::Shared};

/// The reason that goes away by itself when a provider appears.
pub(crate) const MISSING: &str = "requires";

/// A plugin, as far as others depend on it and it on others.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Its address: `name`, or `name@version`.
    pub(crate) address: Arc<str>,
    pub(crate) participant: Participant,
    pub(crate) contract: Arc<Contract>,
    pub(crate) lineage: Arc<Lineage>,
    /// Calls reach it now.
    pub(crate) serves: bool,
}

/// A plugin that needs another one that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependent {
    pub(crate) address: Arc<str>,
    /// What it would miss, in words.
    pub(crate) misses: Vec<String>,
}

// === impl Known ===

impl Known {
    /// A plugin that is not loaded yet.
    pub(crate) fn of_package(address: &str, package: &Package) -> Self {
        Self {
            address: address.into(),
            participant: participant(address, package.plugin(), package.contract(), package.manifest()),
            contract: package.contract().clone(),
            lineage: package.lineage().clone(),
            serves: false,
        }
    }

    /// A plugin that serves or did; `None` for one that never was healthy.
    fn of_address(address: &Address) -> Option<Self> {
        let status = address.status.load();
        let offer = status.offer.as_ref()?;
        let plugin = PluginId {
            name: address.base().into(),
            version: offer.version.clone(),
        };
        Some(Self {
            address: address.name.clone(),
            participant: participant(&address.name, &plugin, &offer.contract, &offer.manifest),
            contract: offer.contract.clone(),
            lineage: offer.lineage.clone(),
            serves: call::serving(address).is_ok(),
        })
    }

    /// Hard requirements that none of `others` meets, nor it itself.
    pub(crate) fn unmet<'a>(&'a self, others: &'a [Self]) -> impl Iterator<Item = &'a Need> {
        let needs = self.participant.requires.iter().filter(|it| it.is_hard());
        needs.filter(|need| {
            !self.participant.meets(need) && !others.iter().any(|it| it.participant.meets(need))
        })
    }
}

fn participant(address: &str, plugin: &PluginId, contract: &Contract, manifest: &Manifest) -> Participant {
    let methods = contract.methods().iter();
    Participant {
        name: address.split('@').next().unwrap_or(address).into(),
        version: plugin.version.clone(),
        provides: methods.map(|it| Method::new(it.service(), it.name())).collect(),
        requires: manifest.requires.iter().map(need).collect(),
    }
}

fn need(required: &Requirement) -> Need {
    let from = required.from.as_deref().and_then(|it| it.split_once('/'));
    Need {
        from: from.map(|(service, method)| Method::new(service, method)),
        service: required.service.as_str().into(),
        method: required.method.as_deref().map(Arc::from),
        range: required.version.clone(),
        optional: required.optional,
        lazy: required.lazy,
        place: Some(required.line.0)
            .filter(|line| *line > 0)
            .map(|line| format!("plugin.toml:{line}")),
    }
}

impl Shared {
    /// All plugins that serve or did.
    pub(crate) fn known(&self) -> Vec<Known> {
        let all = self.all();
        all.iter().filter_map(|it| Known::of_address(it)).collect()
    }

    /// Plugins that cannot run without this one, each before those it requires. Empty for one that does not serve.
    pub(crate) fn dependents(&self, address: &Address) -> Vec<Dependent> {
        if call::serving(address).is_err() {
            return Vec::new();
        }
        dependents(&self.known(), &address.name)
    }

    /// Who requires what of whom.
    pub(crate) fn chart(&self) -> Chart {
        let addresses = self.all();
        let waiting = self.waiting.packages();
        let participant = |it: &Arc<Address>| {
            let waits = || Some(Known::of_package(&it.name, waiting.get(&*it.name)?));
            let known = Known::of_address(it).or_else(waits);
            known.map_or_else(
                // One that was never checked: all that is known is its name.
                || Participant {
                    name: it.base().into(),
                    version: it.status.load().plugin.version.clone(),
                    provides: Vec::new(),
                    requires: Vec::new(),
                },
                |known| known.participant,
            )
        };
        let participants: Vec<Participant> = addresses.iter().map(participant).collect();
        let mut chart = Chart::of(&participants, |index| {
            let info = addresses[index].info();
            ChartPlugin {
                name: info.name,
                runtime: info.runtime.map(|it| it.to_string()),
                state: info.state.to_string(),
                reasons: info.reasons,
                ..ChartPlugin::default()
            }
        });
        for (plugin, address) in chart.plugins.iter_mut().zip(&addresses) {
            if address.status.load().offer.is_none() {
                plugin.level = None;
            }
        }
        chart
    }
}

// === what speaks against a load ===

/// Every reason that dependencies give against `candidates[index]`, if all `candidates` are put in the place of what has their addresses
/// `now`.
pub(crate) fn refusals(now: &[Known], candidates: &[Known], index: usize) -> Vec<Refusal> {
    let candidate = &candidates[index];
    let replaced = |it: &&Known| candidates.iter().any(|other| other.address == it.address);
    let after: Vec<Known> = candidates
        .iter()
        .chain(now.iter().filter(|it| !replaced(it)))
        .cloned()
        .collect();
    let mut refusals = Vec::new();
    own_methods(candidate, &mut refusals);
    refusals.extend(candidate.unmet(&after).map(|need| missing(need, &after)));
    for provider in after.iter().filter(|it| it.address != candidate.address) {
        unfit(candidate, provider, &mut refusals, |why, provider| Refusal {
            what: "contract".to_owned(),
            why: format!("it was built against another contract than `{provider}` provides: {why}"),
            hint: adapt::ADVICE.to_owned(),
        });
    }
    for dependent in now.iter().filter(|it| it.serves && !replaced(it)) {
        bereft(dependent, now, &after, candidate, &mut refusals);
        unfit(dependent, candidate, &mut refusals, |why, _| Refusal {
            what: "contract".to_owned(),
            why: format!(
                "plugin `{}`, which requires it, was built against another contract: {why}",
                dependent.address
            ),
            hint: format!(
                "load it together with a `{}` that fits (`mortise load A B --together`), or give it a version outside of the required range",
                dependent.address
            ),
        });
    }
    if !candidate.participant.requires.is_empty() {
        cycles(&after, index, &mut refusals);
    }
    refusals
}

/// `from` names methods that are there.
fn own_methods(candidate: &Known, refusals: &mut Vec<Refusal>) {
    let own = &candidate.participant.provides;
    let named = candidate.participant.requires.iter();
    for (need, from) in named.filter_map(|need| Some((need, need.from.as_ref()?))) {
        if !own.contains(from) {
            refusals.push(Refusal {
                what: "contract".to_owned(),
                why: format!(
                    "`{from}` is said to call `{}`{}, and it has no such method",
                    need.target(),
                    at(need)
                ),
                hint: "correct `from` in that `[[requires]]`, or leave it out".to_owned(),
            });
        }
    }
}

fn missing(need: &Need, after: &[Known]) -> Refusal {
    let (service, range) = (need.target(), &need.range);
    let others: Vec<_> = after
        .iter()
        .filter(|it| it.participant.provides.iter().any(|method| need.calls(method)))
        .map(|it| it.participant.version.to_string())
        .collect();
    let lacks_method = || {
        let of_service = |it: &&Known| {
            it.participant
                .provides
                .iter()
                .any(|it| it.service == need.service)
        };
        after.iter().find(of_service)
    };
    let why = match (others.as_slice(), lacks_method()) {
        ([], Some(other)) => format!(
            "`{}` provides the service without that method",
            other.participant.address()
        ),
        ([], None) => "no plugin provides it".to_owned(),
        (versions, _) => format!("there is only {}", versions.join(", ")),
    };
    Refusal {
        what: MISSING.to_owned(),
        why: format!("it needs `{service}` {range}, and {why}{}", at(need)),
        hint: format!(
            "load a plugin that provides `{service}` first, or mark the requirement `lazy` or `optional`"
        ),
    }
}

/// A plugin that runs and would lose what it requires when `candidate` comes.
fn bereft(dependent: &Known, now: &[Known], after: &[Known], candidate: &Known, refusals: &mut Vec<Refusal>) {
    let replaces = now.iter().find(|it| it.address == candidate.address);
    let Some(replaced) = replaces else { return };
    for need in dependent.unmet(after) {
        if !replaced.participant.meets(need) {
            continue;
        }
        let (dependent, service, range) = (&dependent.address, need.target(), &need.range);
        let version = &candidate.participant.version;
        let has = candidate
            .participant
            .provides
            .iter()
            .any(|method| need.calls(method));
        let why = if has {
            format!("{version} is not in that range")
        } else {
            format!("{version} does not provide it")
        };
        refusals.push(Refusal {
            what: "dependents".to_owned(),
            why: format!("plugin `{dependent}` requires `{service}` {range}{}, and {why}", at(need)),
            hint: format!(
                "load it together with a `{dependent}` that fits (`mortise load A B --together`), or beside the version that runs (`--beside`)"
            ),
        });
    }
}

/// What `consumer` was built against, compared with what `provider` has, if the one requires the other and its package carries the contract.
fn unfit(
    consumer: &Known,
    provider: &Known,
    refusals: &mut Vec<Refusal>,
    refusal: impl Fn(String, String) -> Refusal,
) {
    let needs = consumer.participant.requires.iter();
    for need in needs.filter(|need| provider.participant.meets(need)) {
        let Some(expected) = built_against(&consumer.contract, &need.service) else {
            continue;
        };
        let called = |name: &str| need.method.as_deref().is_none_or(|method| method == name);
        let allows = |function: &Target| {
            let needs = &consumer.participant.requires;
            needs.iter().any(|it| {
                *it.service == *function.service
                    && it.method.as_deref().is_none_or(|own| own == function.method)
            })
        };
        let (near, far) = (
            (&expected, &*consumer.lineage),
            (&*provider.contract, &*provider.lineage),
        );
        for why in adapt::against(near, far, called, allows) {
            refusals.push(refusal(
                format!("{why}{}", at(need)),
                provider.participant.address(),
            ));
        }
    }
}

/// The service as a package that calls it knows it; `None` if the package does not carry it.
fn built_against(contract: &Contract, service: &str) -> Option<Contract> {
    contract.pool().get_service_by_name(service)?;
    Contract::from_descriptor_set(contract.descriptor_set_bytes(), &[service.to_owned()]).ok()
}

/// Circles through `after[index]`.
fn cycles(after: &[Known], index: usize, refusals: &mut Vec<Refusal>) {
    let participants: Vec<Participant> = after.iter().map(|it| it.participant.clone()).collect();
    let planned = plan(&participants);
    refusals.extend(planned.held.get(&index).into_iter().flatten().filter_map(cycle));
}

/// The refusal for a circle; `None` for other faults.
pub(crate) fn cycle(fault: &DependencyFault) -> Option<Refusal> {
    let (DependencyFault::CallCycle { cut, .. } | DependencyFault::StartCycle { cut, .. }) = fault else {
        return None;
    };
    Some(Refusal {
        what: "cycle".to_owned(),
        why: fault.to_string(),
        hint: cut.to_string(),
    })
}

fn at(need: &Need) -> String {
    need.place
        .as_ref()
        .map(|it| format!(" ({it})"))
        .unwrap_or_default()
}

// === who goes with whom ===

/// Plugins that cannot run without `gone`, nor without those that cannot: each before those it requires.
fn dependents(now: &[Known], gone: &str) -> Vec<Dependent> {
    let mut going: BTreeSet<&str> = BTreeSet::from([gone]);
    let mut found: Vec<(&Known, Dependent)> = Vec::new();
    loop {
        let rest: Vec<Known> = now
            .iter()
            .filter(|it| !going.contains(&*it.address))
            .cloned()
            .collect();
        let before = found.len();
        for it in now.iter().filter(|it| it.serves && !going.contains(&*it.address)) {
            let lost = it
                .unmet(&rest)
                .filter(|need| now.iter().any(|other| other.participant.meets(need)));
            let misses: Vec<String> = lost
                .map(|need| format!("`{}` {}{}", need.target(), need.range, at(need)))
                .collect();
            if !misses.is_empty() {
                let address = it.address.clone();
                found.push((it, Dependent { address, misses }));
            }
        }
        if found.len() == before {
            break;
        }
        going.extend(found[before..].iter().map(|(it, _)| &*it.address));
    }
    let order = stop_order(now).into_iter().flatten();
    order
        .filter_map(|index| found.iter().find(|(it, _)| it.address == now[index].address))
        .map(|(_, dependent)| dependent.clone())
        .collect()
}

/// In which order plugins stop: each inner list at once, what is required last. Whose order matters must be among them together with all
/// between.
pub(crate) fn stop_order(known: &[Known]) -> Vec<Vec<usize>> {
    let participants: Vec<Participant> = known.iter().map(|it| it.participant.clone()).collect();
    let planned = plan(&participants);
    let mut order = planned.levels;
    // What lost its provider or stands in a circle: nobody that can stop in order waits for it.
    order.push(planned.held.into_keys().collect());
    order.retain(|it| !it.is_empty());
    order.reverse();
    order
}

/// The refusal of an unload.
pub(crate) fn still_required(plugin: &str, dependents: &[Dependent]) -> HostError {
    let names: Vec<_> = dependents.iter().map(|it| format!("`{}`", it.address)).collect();
    let what = format!("plugin `{plugin}` is required by {}", names.join(", "));
    let reasons = dependents.iter().map(|it| Refusal {
        what: "dependents".to_owned(),
        why: format!("plugin `{}` would miss {}", it.address, it.misses.join(", ")),
        hint: format!("unload `{}` first, or all at once with `--cascade`", it.address),
    });
    HostError::new(HostErrorKind::Conflict, what)
        .with_plugin(plugin)
        .with_hint("unload them first, or all of them at once with `--cascade`")
        .with_reasons(reasons.collect())
}
