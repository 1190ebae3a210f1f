//! Who answers a target: one immutable table, replaced as a whole when a plugin comes, goes or changes its methods.
//!
//! Every spelling of a target has an entry of its own, so resolving is one lookup whatever is written:
//! `package.Service/Method`, `plugin.NAME.Method` and `plugin.NAME@VERSION.Method`. Of several plugins that provide a service, the
//! first in the order of [`Target::rank`] answers the first spelling.

use std::{cmp::Reverse, sync::Arc};

use mortise_contract::Contract;
use mortise_runtime::{CallError, CallErrorKind};
use rustc_hash::FxHashMap;
use semver::{Version, VersionReq};

use crate::generation::{Address, Generation, Occupant};

/// One method of one address.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: Arc<Address>,
    pub(crate) seat: usize,
    /// `package.Service/Method`.
    pub(crate) full: Box<str>,
    /// Length of `package.Service` in it.
    pub(crate) service_len: usize,
    pub(crate) version: Version,
    pub(crate) contract: Arc<Contract>,
    pub(crate) generation: u64,
}

/// All spellings of all methods.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: FxHashMap<Box<str>, Entry>,
    addresses: Vec<Arc<Address>>,
}

/// Who answers one spelling, best first; never empty.
type Entry = Box<[Arc<Target>]>;

// === impl Target ===

impl Target {
    pub(crate) fn service(&self) -> &str {
        &self.full[..self.service_len]
    }

    pub(crate) fn method(&self) -> &str {
        &self.full[self.service_len + 1..]
    }

    /// Order of those who provide the same method: a plugin under its own name before one that runs beside it, then the highest version, then
    /// the name.
    fn rank(&self) -> (bool, Reverse<&Version>, &str) {
        (
            self.address.is_beside(),
            Reverse(&self.version),
            &self.address.name,
        )
    }
}

// === impl Table ===

impl Table {
    /// The table of what these addresses serve now.
    pub(crate) fn of(addresses: impl IntoIterator<Item = Arc<Address>>) -> Self {
        let addresses: Vec<_> = addresses.into_iter().collect();
        let mut all: FxHashMap<Box<str>, Vec<Arc<Target>>> = FxHashMap::default();
        for address in &addresses {
            let occupant = address.cell.acquire();
            let Occupant::Serving(generation) = &*occupant else {
                continue;
            };
            for target in targets(address, generation) {
                for spelling in spellings(&target) {
                    all.entry(spelling.into()).or_default().push(target.clone());
                }
            }
        }
        let rank = |(spelling, mut targets): (_, Vec<Arc<Target>>)| {
            targets.sort_by(|a, b| a.rank().cmp(&b.rank()));
            (spelling, targets.into_boxed_slice())
        };
        Self {
            entries: all.into_iter().map(rank).collect(),
            addresses,
        }
    }

    /// Who answers this spelling.
    pub(crate) fn get(&self, target: &str) -> Option<&Arc<Target>> {
        match &**self.entries.get(target)? {
            [only] => Some(only),
            // `plugin.NAME.Method` for a name that two services of the plugin share.
            [first, second, ..] if target.starts_with("plugin.") && first.full != second.full => None,
            [first, ..] => Some(first),
            [] => None,
        }
    }

    /// Who answers `package.Service/Method` in a version that `range` allows.
    pub(crate) fn get_in_range(&self, target: &str, range: &VersionReq) -> Option<&Arc<Target>> {
        self.entries
            .get(target)?
            .iter()
            .find(|it| range.matches(&it.version))
    }

    /// Who answers `package.Service/Method` at this address (`name` or `name@version`).
    pub(crate) fn get_at(&self, address: &str, target: &str) -> Option<&Arc<Target>> {
        self.entries.get(target)?.iter().find(|it| names(it, address))
    }

    /// Whether a service is provided in a version that `range` allows; with what is there instead.
    pub(crate) fn provides(&self, service: &str, range: &VersionReq) -> Result<(), Vec<Version>> {
        let of_service = |it: &&Arc<Target>| it.service() == service;
        let mut found: Vec<Version> = Vec::new();
        for target in self.entries.values().flatten().filter(of_service) {
            if range.matches(&target.version) {
                return Ok(());
            }
            if !found.contains(&target.version) {
                found.push(target.version.clone());
            }
        }
        Err(found)
    }

    /// Why nobody answers, and what there is instead.
    #[cold]
    pub(crate) fn refusal(&self, target: &str) -> CallError {
        let unknown = |what: String| CallError::new(CallErrorKind::NotFound, what);
        if let Some(rest) = target.strip_prefix("plugin.") {
            let known = |name: &str| self.addresses.iter().find(|it| *it.name == *name);
            let named = rest
                .match_indices('.')
                .filter_map(|(dot, _)| known(&rest[..dot]).map(|it| (it, &rest[dot + 1..])));
            let Some((address, method)) = named.last() else {
                let name = rest.split('.').next().unwrap_or(rest);
                return unknown(format!("there is no plugin `{name}`")).with_hint(self.list_of_plugins());
            };
            if let Occupant::Vacant(why) = &*address.cell.acquire() {
                return CallError::new(CallErrorKind::Unavailable, why.to_string());
            }
            if let Some(several) = self.entries.get(target) {
                let full: Vec<_> = several.iter().map(|it| format!("`{}`", it.full)).collect();
                return unknown(format!(
                    "`{method}` of plugin `{}` is the name of several methods",
                    address.name
                ))
                .with_hint(format!("write one of {}", full.join(", ")));
            }
            return unknown(format!("plugin `{}` has no method `{method}`", address.name))
                .with_hint(self.list_of_methods(&address.name));
        }
        let Some((service, method)) = target.split_once('/') else {
            return CallError::new(
                CallErrorKind::Malformed,
                format!("`{target}` is not the name of a method"),
            )
            .with_hint("write `package.Service/Method` or `plugin.NAME.METHOD`");
        };
        let of_service = |it: &&Arc<Target>| it.service() == service;
        match self.entries.values().flatten().find(of_service) {
            Some(other) => unknown(format!("service `{service}` has no method `{method}`"))
                .with_hint(self.list_of_methods(&other.address.name)),
            None => unknown(format!("no plugin provides `{service}`")).with_hint(self.list_of_plugins()),
        }
    }

    fn list_of_plugins(&self) -> String {
        match self.addresses.as_slice() {
            [] => "no plugin is loaded".to_owned(),
            some => {
                let names: Vec<_> = some.iter().map(|it| format!("`{}`", it.name)).collect();
                format!("loaded are {}", names.join(", "))
            }
        }
    }

    fn list_of_methods(&self, address: &str) -> String {
        let own = self.entries.iter().filter(|(spelling, targets)| {
            spelling.contains('/') && targets.iter().any(|it| *it.address.name == *address)
        });
        let mut names: Vec<_> = own.map(|(spelling, _)| format!("`{spelling}`")).collect();
        names.sort_unstable();
        format!("it has {}", names.join(", "))
    }
}

/// Whether `address` (`name` or `name@version`) means the address of this target.
fn names(target: &Target, address: &str) -> bool {
    *target.address.name == *address
        || address.split_once('@').is_some_and(|(name, version)| {
            *target.address.name == *name && Version::parse(version).is_ok_and(|it| it == target.version)
        })
}

fn targets(address: &Arc<Address>, generation: &Generation) -> Vec<Arc<Target>> {
    let numbers = address.seat_numbers(&generation.metadata);
    let methods = generation.metadata.methods.iter().zip(numbers);
    let target = |(method, seat): (&mortise_wire::plugin::Method, usize)| {
        Arc::new(Target {
            address: address.clone(),
            seat,
            full: format!("{}/{}", method.service, method.name).into(),
            service_len: method.service.len(),
            version: generation.plugin.version.clone(),
            contract: generation.contract.clone(),
            generation: generation.number,
        })
    };
    methods.map(target).collect()
}

fn spellings(target: &Target) -> Vec<String> {
    let (name, method) = (&target.address.name, target.method());
    let mut all = vec![target.full.to_string(), format!("plugin.{name}.{method}")];
    if !target.address.is_beside() {
        all.push(format!("plugin.{name}@{}.{method}", target.version));
    }
    all
}
