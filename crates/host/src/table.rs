//! Who answers a target: one immutable table, replaced as a whole when a plugin comes, goes or changes its methods.
//!
//! `mortise_routing` decides: versions, header rules, weights. In front of it stands a map of every spelling of every target that
//! only one plugin can answer, whatever the headers; that is nearly all of them, and then resolving is one lookup.
//!
//! A plugin that is down keeps its entries, so that a call to it hears that it is down and not that there is no such method.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use mortise_contract::{Contract, evolve::Lineage};
use mortise_manifest::Manifest;
use mortise_routing::{Explanation, Key, LookupError, Method, Provider, Query, RoutingTable, Rule};
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::{Header, Metadata};
use rustc_hash::FxHashMap;
use semver::{Version, VersionReq};

use crate::{
    call,
    generation::{Address, Occupant},
    methods::Served,
};

/// Headers of a call that fit on the stack; one with more costs an allocation, where a route may decide.
const HEADERS_INLINE: usize = 16;

/// One method of one address.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: Arc<Address>,
    pub(crate) seat: usize,
    /// `package.Service/Method`.
    pub(crate) full: Box<str>,
    /// Length of `package.Service` in it.
    service_len: usize,
    pub(crate) version: Version,
    pub(crate) contract: Arc<Contract>,
    pub(crate) generation: u64,
    /// See [`crate::Route::memo`].
    pub(crate) memo: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// What an address offers: that of its newest generation that was ever healthy.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) version: Version,
    pub(crate) contract: Arc<Contract>,
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) generation: u64,
}

/// All methods of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Table {
    only: FxHashMap<Box<str>, Arc<Target>>,
    routing: RoutingTable<Arc<Address>>,
    /// By address, then by the method's number.
    targets: FxHashMap<Arc<str>, Vec<Arc<Target>>>,
    addresses: Vec<Arc<Address>>,
}

// === impl Target ===

impl Target {
    pub(crate) fn service(&self) -> &str {
        &self.full[..self.service_len]
    }

    pub(crate) fn method(&self) -> &str {
        &self.full[self.service_len + 1..]
    }
}

// === impl Table ===

impl Table {
    /// The table of what these addresses offer now.
    pub(crate) fn of(addresses: impl IntoIterator<Item = Arc<Address>>, rules: &[Rule]) -> Self {
        let addresses: Vec<_> = addresses.into_iter().collect();
        let mut builder = rules
            .iter()
            .cloned()
            .fold(RoutingTable::builder(), |builder, rule| builder.rule(rule));
        let mut targets = FxHashMap::default();
        for address in &addresses {
            let status = address.status.load();
            let Some(offer) = &status.offer else { continue };
            let first = addresses.iter().find(|it| *it.name == *address.base());
            // T1 of the routing table: one provider of each name and version. The plain name wins.
            let first_offer = first.and_then(|it| it.status.load().offer.clone());
            if address.is_beside() && first_offer.as_ref().is_some_and(|it| it.version == offer.version) {
                continue;
            }
            builder = builder.provider(Provider {
                name: address.base().into(),
                version: offer.version.clone(),
                weight: u32::from(!address.is_beside() || first_offer.is_none()),
                beside: address.is_beside(),
                methods: offer
                    .metadata
                    .public_methods()
                    .iter()
                    .map(|it| Method::new(&*it.service, &*it.name))
                    .collect(),
                handle: address.clone(),
            });
            targets.insert(address.name.clone(), targets_of(address, offer));
        }
        let routing = builder.build().unwrap_or_else(|error| {
            tracing::error!(target: "mortise::life", %error, "the method table cannot be built; nothing is routed");
            RoutingTable::default()
        });
        let mut table = Self {
            only: FxHashMap::default(),
            routing,
            targets,
            addresses,
        };
        table.only = table.without_a_choice();
        table
    }

    /// Who answers.
    ///
    /// # Errors
    /// Why nobody does, and what there is instead.
    pub(crate) fn resolve(&self, target: &str, headers: &[Header]) -> Result<&Arc<Target>, CallError> {
        if let Some(only) = self.only.get(target) {
            return Ok(only);
        }
        with_pairs(headers, |headers| self.look_up(target, None, headers, None))
    }

    /// Who answers a plugin that requires a range of versions.
    ///
    /// # Errors
    /// As [`Table::resolve`].
    pub(crate) fn resolve_in(
        &self,
        target: &str,
        headers: &[Header],
        range: &VersionReq,
    ) -> Result<&Arc<Target>, CallError> {
        if let Some(only) = self.only.get(target)
            && range.matches(&only.version)
        {
            return Ok(only);
        }
        with_pairs(headers, |headers| {
            self.look_up(target, None, headers, Some(range))
        })
    }

    /// What [`Table::resolve`] does, step by step.
    pub(crate) fn explain(&self, target: &str, headers: &[Header]) -> Explanation {
        with_pairs(headers, |headers| {
            self.routing.explain(&Query {
                target,
                plugin: None,
                headers,
                range: None,
                key: Key::Spread(call::next_call_id()),
            })
        })
    }

    /// Headers that any rule looks at, in lower case.
    pub(crate) fn routed_headers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routing.header_names().iter()
    }

    /// All methods of all addresses, with the hash of their shape.
    pub(crate) fn served(&self) -> Served {
        let all = self.targets.iter().flat_map(|(address, targets)| {
            targets.iter().map(move |target| {
                let (service, method) = (target.service(), target.method());
                let shape = target.contract.method(service, method);
                let shape = shape.map(|it| it.full_hash().to_vec()).unwrap_or_default();
                let key = (address.to_string(), service.to_owned(), method.to_owned());
                (key, (target.version.clone(), shape))
            })
        });
        all.collect()
    }

    /// Who answers `package.Service/Method` at this very address.
    pub(crate) fn at(&self, address: &Address, target: &str) -> Option<&Arc<Target>> {
        self.targets
            .get(&address.name)?
            .iter()
            .find(|it| *it.full == *target)
    }

    /// Who answers `package.Service/Method` for a caller who holds on to the plugin with this plain name: one of its versions.
    pub(crate) fn of_plugin(
        &self,
        address: &Address,
        target: &str,
        headers: &[Header],
    ) -> Option<&Arc<Target>> {
        let own = self.at(address, target);
        if address.is_beside() || !self.routing.has_versions(address.base()) {
            return own;
        }
        let found = with_pairs(headers, |headers| {
            self.look_up(target, Some(address.base()), headers, None)
        });
        found.ok().or(own)
    }

    fn look_up(
        &self,
        target: &str,
        plugin: Option<&str>,
        headers: &[(&str, &str)],
        range: Option<&VersionReq>,
    ) -> Result<&Arc<Target>, CallError> {
        let query = Query {
            target,
            plugin,
            headers,
            range,
            key: Key::Spread(call::next_call_id()),
        };
        match self.routing.lookup(&query) {
            Ok(choice) => {
                let targets = self.targets.get(&choice.provider.handle.name);
                let found = targets.and_then(|it| it.get(choice.method));
                found.ok_or_else(|| {
                    CallError::new(CallErrorKind::HostBug, format!("`{target}` was routed to nobody"))
                })
            }
            Err(error) => Err(self.refusal(target, &error)),
        }
    }

    /// Every spelling that leads to one method of one plugin, whatever the headers say.
    fn without_a_choice(&self) -> FxHashMap<Box<str>, Arc<Target>> {
        let mut spellings: FxHashMap<Box<str>, Vec<&Arc<Target>>> = FxHashMap::default();
        for target in self.targets.values().flatten() {
            let (name, method, version) = (target.address.base(), target.method(), &target.version);
            for text in [
                target.full.to_string(),
                format!("plugin.{name}.{method}"),
                format!("plugin.{name}@{version}.{method}"),
            ] {
                spellings.entry(text.into()).or_default().push(target);
            }
        }
        let single = spellings
            .into_iter()
            .filter_map(|(text, found)| match found.as_slice() {
                [only] => Some((text, Arc::clone(only))),
                _ => None,
            });
        single.collect()
    }

    #[cold]
    fn refusal(&self, target: &str, error: &LookupError) -> CallError {
        // A plugin that is known and never served has no entries: it is down, not missing.
        if let LookupError::NoPlugin { name } = error
            && let Some(address) = self.addresses.iter().find(|it| *it.name == **name)
            && let Occupant::Vacant(why) = &*address.cell.acquire()
        {
            return CallError::new(CallErrorKind::Unavailable, why.to_string());
        }
        let kind = match error {
            LookupError::Target(_) => CallErrorKind::Malformed,
            LookupError::NoWeight { .. } => CallErrorKind::Unavailable,
            LookupError::NoneInRange { .. } => CallErrorKind::Incompatible,
            _ => CallErrorKind::NotFound,
        };
        let hint = match error {
            LookupError::NoPlugin { .. } | LookupError::NoService { .. } => self.list(),
            LookupError::Target(_) => "write `package.Service/Method` or `plugin.NAME.METHOD`".to_owned(),
            LookupError::NoWeight { .. } => "name the plugin, as in `plugin.NAME.METHOD`".to_owned(),
            LookupError::NoneInRange { .. } => {
                "load a version of the provider that the caller can use".to_owned()
            }
            _ => format!("`mortise inspect` shows what answers `{target}`"),
        };
        CallError::new(kind, error.to_string()).with_hint(hint)
    }

    fn list(&self) -> String {
        let names: Vec<_> = self
            .addresses
            .iter()
            .take(20)
            .map(|it| format!("`{}`", it.name))
            .collect();
        if names.is_empty() {
            "no plugin is loaded".to_owned()
        } else {
            format!("loaded are {}", names.join(", "))
        }
    }
}

/// Headers as the routing table takes them.
fn with_pairs<T>(headers: &[Header], then: impl FnOnce(&[(&str, &str)]) -> T) -> T {
    let mut inline = [("", ""); HEADERS_INLINE];
    if headers.len() <= HEADERS_INLINE {
        for (place, header) in inline.iter_mut().zip(headers) {
            *place = (header.name.as_str(), header.value.as_str());
        }
        return then(&inline[..headers.len()]);
    }
    let all: Vec<_> = headers
        .iter()
        .map(|it| (it.name.as_str(), it.value.as_str()))
        .collect();
    then(&all)
}

fn targets_of(address: &Arc<Address>, offer: &Offer) -> Vec<Arc<Target>> {
    let numbers = address.seat_numbers(&offer.metadata);
    let methods = offer.metadata.public_methods().iter().zip(numbers);
    let target = |(method, seat): (&mortise_wire::plugin::Method, usize)| {
        Arc::new(Target {
            address: address.clone(),
            seat,
            full: format!("{}/{}", method.service, method.name).into(),
            service_len: method.service.len(),
            version: offer.version.clone(),
            contract: offer.contract.clone(),
            generation: offer.generation,
            memo: OnceLock::new(),
        })
    };
    methods.map(target).collect()
}
