//! The method table: built once, read by every call, replaced as a whole.
//!
//! Invariants, checked by the builder:
//! - T1: no two providers have the same name and version.
//! - T2: a provider's methods are numbered by their place in [`Provider::methods`], and no method stands there twice.
//! - T3: providers of one name, and of one method, are ordered by name and then from the newest version to the oldest, whatever
//!   order they were added in; so two tables of the same providers choose the same.

use std::{collections::BTreeSet, fmt, sync::Arc};

use rustc_hash::FxHashMap;
use semver::{Version, VersionReq};

use crate::{
    choose::{Key, Reason, by_weight},
    explain::{Candidate, Explanation, Notes, Silent, Step, Witness},
    rule::{Rule, RuleSet, Scope, Share},
    target::{Address, Target, TargetError},
};

/// One running plugin as the table knows it. `H` is the host's handle on it.
#[derive(Clone, Debug)]
pub struct Provider<H> {
    /// The name it is registered under.
    pub name: Arc<str>,
    /// Its version.
    pub version: Version,
    /// Its share of the calls that several providers could answer. 0: only calls that name it, or a rule that does.
    pub weight: u32,
    /// Whether it runs beside the one that has the plain name.
    pub beside: bool,
    /// The methods it provides, in the order of its metadata: the index is the method's number.
    pub methods: Vec<Method>,
    /// What the host calls it with.
    pub handle: H,
}

/// A method's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method {
    /// Full name of its service.
    pub service: Arc<str>,
    /// Its name within the service.
    pub name: Arc<str>,
}

/// An immutable table of providers and rules.
#[derive(Debug)]
pub struct RoutingTable<H> {
    /// Ordered as T3 says.
    providers: Vec<Provider<H>>,
    rules: Vec<Arc<Rule>>,
    /// Rules that choose among all candidates, by service.
    of_service: FxHashMap<Arc<str>, RuleSet>,
    /// Rules that choose among the versions of a plugin, by its name.
    of_plugin: FxHashMap<Arc<str>, RuleSet>,
    /// Headers that any rule looks at, in lower case.
    header_names: BTreeSet<Arc<str>>,
    by_name: FxHashMap<Arc<str>, Vec<usize>>,
    by_method: FxHashMap<Arc<str>, FxHashMap<Arc<str>, Vec<Place>>>,
}

/// Collects providers and rules.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RoutingTableBuilder<H> {
    providers: Vec<Provider<H>>,
    rules: Vec<Rule>,
}

/// A method of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    provider: usize,
    method: usize,
}

/// What is asked of a table.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    /// The target; see [`Target`].
    pub target: &'q str,
    /// Only versions of this plugin will do, for a caller who holds on to one.
    pub plugin: Option<&'q str>,
    /// The caller's headers.
    pub headers: &'q [(&'q str, &'q str)],
    /// Which versions will do, for a plugin that requires a range.
    pub range: Option<&'q VersionReq>,
    /// What spreads calls over several providers.
    pub key: Key<'q>,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Choice<'t, H> {
    /// The provider.
    pub provider: &'t Provider<H>,
    /// The method's number: its index in [`Provider::methods`].
    pub method: usize,
    /// Why this one.
    pub reason: Reason,
}

/// Why nobody answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The target is not one.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No plugin of that name.
    #[error("no plugin `{name}` is loaded")]
    NoPlugin {
        /// The name.
        name: String,
    },
    /// The plugin runs, but not in that version.
    #[error("plugin `{name}` is not loaded in version {wanted}, only in {}", list(.loaded))]
    NoVersion {
        /// The name.
        name: String,
        /// The version that was asked for.
        wanted: Version,
        /// The versions that run.
        loaded: Vec<Version>,
    },
    /// Nobody provides the service.
    #[error("no loaded plugin provides the service `{service}`")]
    NoService {
        /// The service.
        service: String,
    },
    /// The service or plugin is there, the method is not.
    #[error("`{of}` has no method `{method}`; it has {}", list(.known))]
    NoMethod {
        /// The service or plugin.
        of: String,
        /// The method that was asked for.
        method: String,
        /// The methods there are.
        known: Vec<String>,
    },
    /// Several services of the plugin have a method of that name.
    #[error("plugin `{name}` has several methods `{method}`; call one of {}", list(.targets))]
    Ambiguous {
        /// The plugin.
        name: String,
        /// The method.
        method: String,
        /// Targets that are not ambiguous.
        targets: Vec<String>,
    },
    /// Providers are there, but none in the range.
    #[error("`{target}` is provided in {}, and the caller requires {range}", list(.loaded))]
    NoneInRange {
        /// The target.
        target: String,
        /// The range.
        range: VersionReq,
        /// The versions that are provided.
        loaded: Vec<Version>,
    },
    /// Every candidate has weight 0 and no rule applies.
    #[error("every provider of `{target}` has weight 0: {}", list(.providers))]
    NoWeight {
        /// The target.
        target: String,
        /// The candidates.
        providers: Vec<String>,
    },
}

/// Why providers do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// T1.
    #[error("two providers are `{name}@{version}`")]
    SameProvider {
        /// Their name.
        name: Arc<str>,
        /// Their version.
        version: Version,
    },
    /// T2.
    #[error("`{name}@{version}` lists the method `{method}` twice")]
    SameMethod {
        /// The provider's name.
        name: Arc<str>,
        /// The provider's version.
        version: Version,
        /// The method.
        method: Method,
    },
}

// === impl RoutingTable ===

impl<H> RoutingTable<H> {
    /// Starts an empty table.
    pub fn builder() -> RoutingTableBuilder<H> {
        RoutingTableBuilder {
            providers: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// The provider that answers `query`.
    ///
    /// # Errors
    /// Why nobody does.
    pub fn lookup(&self, query: &Query<'_>) -> Result<Choice<'_, H>, LookupError> {
        self.decide(query, &mut Silent)
    }

    /// What [`RoutingTable::lookup`] answers, and why.
    #[must_use]
    pub fn explain(&self, query: &Query<'_>) -> Explanation {
        let mut notes = Notes::default();
        let outcome = self.decide(query, &mut notes);
        let outcome = outcome.map(|it| {
            (
                Arc::clone(&it.provider.name),
                it.provider.version.clone(),
                it.reason,
            )
        });
        Explanation {
            target: query.target.to_owned(),
            candidates: notes.candidates,
            steps: notes.steps,
            outcome,
        }
    }

    /// The plugin at `address`; of several versions, the newest.
    ///
    /// # Errors
    /// If there is none.
    pub fn plugin(&self, address: &Address<'_>) -> Result<&Provider<H>, LookupError> {
        let found = self.named(address)?;
        Ok(&self.providers[found[0]])
    }

    /// Every provider, by name and then from the newest version to the oldest.
    #[must_use]
    pub fn providers(&self) -> &[Provider<H>] {
        &self.providers
    }

    /// The rules, in their order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|it| &**it)
    }

    /// The headers that any rule looks at, in lower case: an edge need not hand on others for routing's sake.
    #[must_use]
    pub fn header_names(&self) -> &BTreeSet<Arc<str>> {
        &self.header_names
    }

    fn decide(&self, query: &Query<'_>, witness: &mut impl Witness) -> Result<Choice<'_, H>, LookupError> {
        let found = self.of_plugin_only(self.candidates(query.target)?, query)?;
        for place in &*found {
            witness.candidate(|| self.providers[place.provider].candidate());
        }
        let found = self.in_range(found, query, witness)?;
        if let [only] = *found {
            return Ok(self.choice(only, Reason::Only));
        }
        let rules = self.of_service.get(&self.method(found[0]).service);
        let Decision {
            place,
            reason,
            settled,
        } = match self.by_rule(rules, &found, query, witness) {
            Some(decision) => decision,
            None => self.by_key(&found, query)?,
        };
        if settled || self.of_plugin.is_empty() {
            return Ok(self.choice(place, reason));
        }
        match self.within_plugin(place, &reason, &found, query, witness) {
            Some(Decision { place, reason, .. }) => Ok(self.choice(place, reason)),
            None => Ok(self.choice(place, reason)),
        }
    }

    /// Those of the plugin that the caller holds on to, if it does.
    fn of_plugin_only<'t>(&'t self, found: Places<'t>, query: &Query<'_>) -> Result<Places<'t>, LookupError> {
        let Some(name) = query.plugin else {
            return Ok(found);
        };
        let own: Vec<Place> = found
            .iter()
            .copied()
            .filter(|place| *self.providers[place.provider].name == *name)
            .collect();
        if own.is_empty() {
            let method = query.target.rsplit(['/', '.']).next().unwrap_or_default();
            return Err(LookupError::NoMethod {
                of: name.to_owned(),
                method: method.to_owned(),
                known: Vec::new(),
            });
        }
        Ok(Places::Owned(own))
    }

    /// Whether several versions of a plugin are there, so that rules and weights choose.
    #[must_use]
    pub fn has_versions(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|it| it.len() > 1)
    }

    fn method(&self, place: Place) -> &Method {
        &self.providers[place.provider].methods[place.method]
    }

    /// Step 1: who provides the target at all; never empty.
    fn candidates(&self, target: &str) -> Result<Places<'_>, LookupError> {
        match Target::parse(target)? {
            Target::Method { service, method } => {
                let no_service = || LookupError::NoService {
                    service: service.to_owned(),
                };
                let methods = self.by_method.get(service).ok_or_else(no_service)?;
                let places = methods.get(method).ok_or_else(|| LookupError::NoMethod {
                    of: service.to_owned(),
                    method: method.to_owned(),
                    known: sorted(methods.keys().map(ToString::to_string)),
                })?;
                Ok(Places::Borrowed(places))
            }
            Target::Plugin { address, method } => self.methods_of(&address, method).map(Places::Owned),
        }
    }

    /// The method of that short name in each version of a plugin.
    fn methods_of(&self, address: &Address<'_>, method: &str) -> Result<Vec<Place>, LookupError> {
        let mut places = Vec::new();
        let mut services = BTreeSet::new();
        let named = self.named(address)?;
        for &provider in &named {
            for (index, own) in self.providers[provider].methods.iter().enumerate() {
                if &*own.name == method {
                    places.push(Place {
                        provider,
                        method: index,
                    });
                    services.insert(&*own.service);
                }
            }
        }
        if places.is_empty() {
            let methods = named
                .iter()
                .flat_map(|provider| &self.providers[*provider].methods);
            return Err(LookupError::NoMethod {
                of: address.to_string(),
                method: method.to_owned(),
                known: sorted(methods.map(|own| own.name.to_string())),
            });
        }
        if services.len() > 1 {
            return Err(LookupError::Ambiguous {
                name: address.name.to_owned(),
                method: method.to_owned(),
                targets: services
                    .iter()
                    .map(|service| format!("{service}/{method}"))
                    .collect(),
            });
        }
        Ok(places)
    }

    /// Providers at `address`, newest first; never empty.
    fn named(&self, address: &Address<'_>) -> Result<Vec<usize>, LookupError> {
        let no_plugin = || LookupError::NoPlugin {
            name: address.name.to_owned(),
        };
        let all = self.by_name.get(address.name).ok_or_else(no_plugin)?;
        let Some(wanted) = &address.version else {
            return Ok(all.clone());
        };
        let version = |index: &usize| &self.providers[*index].version;
        let found: Vec<usize> = all
            .iter()
            .copied()
            .filter(|index| version(index) == wanted)
            .collect();
        if found.is_empty() {
            let loaded = all.iter().map(|index| version(index).clone()).collect();
            return Err(LookupError::NoVersion {
                name: address.name.to_owned(),
                wanted: wanted.clone(),
                loaded,
            });
        }
        Ok(found)
    }

    /// Step 2: those whose version the caller accepts.
    fn in_range<'t>(
        &'t self,
        found: Places<'t>,
        query: &Query<'_>,
        witness: &mut impl Witness,
    ) -> Result<Places<'t>, LookupError> {
        let Some(range) = query.range else {
            return Ok(found);
        };
        let (inside, outside): (Vec<Place>, Vec<Place>) = found
            .iter()
            .partition(|place| range.matches(&self.providers[place.provider].version));
        for place in &outside {
            let Provider { name, version, .. } = &self.providers[place.provider];
            witness.step(|| Step::OutOfRange {
                name: Arc::clone(name),
                version: version.clone(),
                range: range.to_string(),
            });
        }
        if inside.is_empty() {
            let loaded = outside
                .iter()
                .map(|place| self.providers[place.provider].version.clone())
                .collect();
            return Err(LookupError::NoneInRange {
                target: query.target.to_owned(),
                range: range.clone(),
                loaded,
            });
        }
        Ok(Places::Owned(inside))
    }

    /// Step 3: the first rule that matches and points at a candidate.
    fn by_rule(
        &self,
        rules: Option<&RuleSet>,
        found: &[Place],
        query: &Query<'_>,
        witness: &mut impl Witness,
    ) -> Option<Decision> {
        let rules = rules?;
        let method = &*self.method(found[0]).name;
        let mut from = 0;
        loop {
            let hit = rules.first(from, method, query.headers);
            for passed in &rules.rules()[from..hit.unwrap_or(rules.rules().len())] {
                witness.step(|| Step::RuleNotMatched {
                    rule: Arc::clone(&passed.name),
                });
            }
            let number = hit?;
            let rule = &rules.rules()[number];
            if let Some(chosen) = self.share_of(rule, found, query, witness) {
                return Some(chosen);
            }
            witness.step(|| Step::RuleWithoutProvider {
                rule: Arc::clone(&rule.name),
                provider: rule
                    .to
                    .iter()
                    .map(Share::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            });
            from = number + 1;
        }
    }

    /// Where a rule that matches sends the call; `None` if nobody of those it names is a candidate.
    fn share_of(
        &self,
        rule: &Rule,
        found: &[Place],
        query: &Query<'_>,
        witness: &mut impl Witness,
    ) -> Option<Decision> {
        if let [only] = rule.to.as_slice() {
            return Some(Decision {
                place: self.meant(only, found)?,
                reason: Reason::Rule(Arc::clone(&rule.name)),
                settled: only.version.is_some(),
            });
        }
        let sticky = rule.sticky.as_ref().and_then(|header| {
            let same = |it: &&(&str, &str)| it.0.eq_ignore_ascii_case(header);
            let (_, value) = query.headers.iter().find(same)?;
            Some((header, *value))
        });
        let key = sticky.map_or(query.key, |(_, value)| Key::Sticky(value.as_bytes()));
        let mut total = 0;
        let scored = rule.to.iter().filter_map(|share| {
            let Some(place) = self.meant(share, found) else {
                witness.step(|| Step::ShareWithoutProvider {
                    rule: Arc::clone(&rule.name),
                    provider: share.to_string(),
                });
                return None;
            };
            total += u64::from(share.weight);
            let Provider { name, version, .. } = &self.providers[place.provider];
            Some(((place, share), share.weight, key.hash_with(name, version)))
        });
        let (place, share) = by_weight(scored)?;
        let reason = Reason::Split {
            rule: Arc::clone(&rule.name),
            weight: share.weight,
            total,
            sticky: sticky.map(|(header, _)| Arc::clone(header)),
        };
        Some(Decision {
            place,
            reason,
            settled: share.version.is_some(),
        })
    }

    /// The candidate that a share names.
    fn meant(&self, share: &Share, found: &[Place]) -> Option<Place> {
        let named = || {
            found.iter().filter(|place| {
                let Provider { name, version, .. } = &self.providers[place.provider];
                *name == share.provider && share.version.as_ref().is_none_or(|own| own == version)
            })
        };
        let plain = named().find(|place| !self.providers[place.provider].beside);
        plain.or_else(|| named().next()).copied()
    }

    /// Step 5: the rules of the plugin that answers, among its versions.
    fn within_plugin(
        &self,
        place: Place,
        why: &Reason,
        found: &[Place],
        query: &Query<'_>,
        witness: &mut impl Witness,
    ) -> Option<Decision> {
        let name = &self.providers[place.provider].name;
        let rules = self.of_plugin.get(name)?;
        let own: Vec<Place>;
        let of_plugin = |place: &Place| self.providers[place.provider].name == *name;
        let versions = if found.iter().all(of_plugin) {
            found
        } else {
            witness.step(|| Step::PluginChosen {
                name: Arc::clone(name),
                why: why.clone(),
            });
            own = found.iter().copied().filter(of_plugin).collect();
            &own
        };
        self.by_rule(Some(rules), versions, query, witness)
    }

    /// Step 4: the one that the key falls to.
    fn by_key(&self, found: &[Place], query: &Query<'_>) -> Result<Decision, LookupError> {
        let total = found
            .iter()
            .map(|place| u64::from(self.providers[place.provider].weight))
            .sum();
        let scored = found.iter().map(|place| {
            let provider = &self.providers[place.provider];
            (
                *place,
                provider.weight,
                query.key.hash_with(&provider.name, &provider.version),
            )
        });
        let Some(place) = by_weight(scored) else {
            let providers = found
                .iter()
                .map(|place| self.providers[place.provider].address())
                .collect();
            return Err(LookupError::NoWeight {
                target: query.target.to_owned(),
                providers,
            });
        };
        let reason = Reason::Weight {
            weight: self.providers[place.provider].weight,
            total,
        };
        Ok(Decision {
            place,
            reason,
            settled: false,
        })
    }

    fn choice(&self, place: Place, reason: Reason) -> Choice<'_, H> {
        Choice {
            provider: &self.providers[place.provider],
            method: place.method,
            reason,
        }
    }
}

impl<H> RoutingTable<H> {
    /// Sorts the rules by where a lookup asks for them.
    fn index_rules(&mut self) {
        let Self { rules, by_method, .. } = self;
        for service in by_method.keys() {
            let about = |rule: &&Arc<Rule>| match &rule.scope {
                Scope::All => true,
                Scope::Service(wanted) => wanted == service,
                Scope::Method(wanted) => wanted.service == *service,
                Scope::Plugin(_) => false,
            };
            let set = RuleSet::of(rules.iter().filter(about).cloned());
            if !set.rules().is_empty() {
                self.of_service.insert(Arc::clone(service), set);
            }
        }
        for name in self.by_name.keys() {
            let about = |rule: &&Arc<Rule>| matches!(&rule.scope, Scope::Plugin(wanted) if wanted == name);
            let set = RuleSet::of(rules.iter().filter(about).cloned());
            if !set.rules().is_empty() {
                self.of_plugin.insert(Arc::clone(name), set);
            }
        }
        let names = rules.iter().flat_map(|rule| rule.header_names());
        self.header_names = names.map(|it| it.to_ascii_lowercase().into()).collect();
    }
}

impl<H> Default for RoutingTable<H> {
    /// The table of a host without plugins.
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            rules: Vec::new(),
            of_service: FxHashMap::default(),
            of_plugin: FxHashMap::default(),
            header_names: BTreeSet::new(),
            by_name: FxHashMap::default(),
            by_method: FxHashMap::default(),
        }
    }
}

// === impl RoutingTableBuilder ===

impl<H> RoutingTableBuilder<H> {
    /// Adds a provider.
    pub fn provider(mut self, provider: Provider<H>) -> Self {
        self.providers.push(provider);
        self
    }

    /// Adds a rule; earlier rules win.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Makes the table.
    ///
    /// # Errors
    /// If T1 or T2 does not hold.
    pub fn build(self) -> Result<RoutingTable<H>, BuildError> {
        let Self { mut providers, rules } = self;
        providers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| b.version.cmp(&a.version)));
        for pair in providers.windows(2) {
            if pair[0].name == pair[1].name && pair[0].version == pair[1].version {
                let Provider { name, version, .. } = &pair[0];
                return Err(BuildError::SameProvider {
                    name: Arc::clone(name),
                    version: version.clone(),
                });
            }
        }
        let mut table = RoutingTable {
            rules: rules.into_iter().map(Arc::new).collect(),
            ..RoutingTable::default()
        };
        for (index, provider) in providers.iter().enumerate() {
            table
                .by_name
                .entry(Arc::clone(&provider.name))
                .or_default()
                .push(index);
            let mut seen = BTreeSet::new();
            for (number, method) in provider.methods.iter().enumerate() {
                if !seen.insert(method) {
                    return Err(BuildError::SameMethod {
                        name: Arc::clone(&provider.name),
                        version: provider.version.clone(),
                        method: method.clone(),
                    });
                }
                let methods = table.by_method.entry(Arc::clone(&method.service)).or_default();
                let places = methods.entry(Arc::clone(&method.name)).or_default();
                places.push(Place {
                    provider: index,
                    method: number,
                });
            }
        }
        table.providers = providers;
        table.index_rules();
        Ok(table)
    }
}

// === impl Provider ===

impl<H> Provider<H> {
    /// `name@version`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            name: Arc::clone(&self.name),
            version: self.version.clone(),
            weight: self.weight,
        }
    }
}

// === impl Method ===

impl Method {
    /// The method `name` of `service`.
    pub fn new(service: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

// === private helpers ===

/// Where a step sends a call.
struct Decision {
    place: Place,
    reason: Reason,
    /// Whether it names a version, so that the plugin's own rules have no say.
    settled: bool,
}

/// Candidates: a list of the table, which costs nothing, or one made for this call.
enum Places<'t> {
    Borrowed(&'t [Place]),
    Owned(Vec<Place>),
}

impl std::ops::Deref for Places<'_> {
    type Target = [Place];

    fn deref(&self) -> &[Place] {
        match self {
            Self::Borrowed(places) => places,
            Self::Owned(places) => places,
        }
    }
}

fn sorted(words: impl Iterator<Item = String>) -> Vec<String> {
    words.collect::<BTreeSet<_>>().into_iter().collect()
}

/// `a`, `b` and `c`, or the first few and how many more; for messages.
fn list(items: &[impl fmt::Display]) -> String {
    const SHOWN_MAX: usize = 8;
    let mut shown: Vec<String> = items
        .iter()
        .take(SHOWN_MAX)
        .map(|item| format!("`{item}`"))
        .collect();
    match items.len() {
        0 => "none".to_owned(),
        n if n > SHOWN_MAX => format!("{} and {} more", shown.join(", "), n - SHOWN_MAX),
        _ => {
            let last = shown.pop().unwrap_or_default();
            if shown.is_empty() {
                last
            } else {
                format!("{} and {last}", shown.join(", "))
            }
        }
    }
}
