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

use mortise_contract::Contract;
use mortise_manifest::Manifest;
use mortise_routing::{Key, LookupError, Method, Provider, Query, RoutingTable, Rule};
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::{Header, Metadata};
use rustc_hash::FxHashMap;
use semver::{Version, VersionReq};

use crate::{
    call,
    generation::{Address, Occupant},
};

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
                methods: offer
                    .metadata
                    .methods
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
        let headers: Vec<_> = headers
            .iter()
            .map(|it| (it.name.as_str(), it.value.as_str()))
            .collect();
        self.look_up(target, &headers, None)
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
        let headers: Vec<_> = headers
            .iter()
            .map(|it| (it.name.as_str(), it.value.as_str()))
            .collect();
        self.look_up(target, &headers, Some(range))
    }

    /// Who answers `package.Service/Method` at this very address.
    pub(crate) fn at(&self, address: &Address, target: &str) -> Option<&Arc<Target>> {
        self.targets
            .get(&address.name)?
            .iter()
            .find(|it| *it.full == *target)
    }

    fn look_up(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        range: Option<&VersionReq>,
    ) -> Result<&Arc<Target>, CallError> {
        let query = Query {
            target,
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

fn targets_of(address: &Arc<Address>, offer: &Offer) -> Vec<Arc<Target>> {
    let numbers = address.seat_numbers(&offer.metadata);
    let methods = offer.metadata.methods.iter().zip(numbers);
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
