//! Chains of adapters: methods that say which older method's calls they accept.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
};

use crate::{Contract, Method, Target};

/// The most adapters that one call may go through.
pub const CHAIN_MAX: usize = 3;

/// One step of a chain: calls of `accepts` go, adapted, to `method`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Adapter {
    /// What the adapter accepts, with the version if the contract names one.
    pub accepts: Target,
    /// The method that declares it; never with a version.
    pub method: Target,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` -> `{}`", self.accepts, self.method)
    }
}

/// The shortest chain from calls of `method` to a method that `provider` provides.
///
/// A method may replace an older version of itself, so the first step may lead back to where it starts.
pub(super) fn chain(provider: &Contract, method: &Method) -> Option<Vec<Adapter>> {
    // BTreeMap and sorted rows: of several shortest chains the same one is found every time.
    let mut adapters: BTreeMap<(String, String), Vec<Adapter>> = BTreeMap::new();
    for (target, options) in provider.declared() {
        if let Some(accepts) = &options.replaces {
            let key = (accepts.service.clone(), accepts.method.clone());
            adapters.entry(key).or_default().push(Adapter {
                accepts: accepts.clone(),
                method: target,
            });
        }
    }
    adapters.values_mut().for_each(|row| row.sort());

    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(
        (method.service().to_owned(), method.name().to_owned()),
        Vec::new(),
    )]);
    while let Some((at, chain)) = queue.pop_front() {
        if chain.len() == CHAIN_MAX {
            continue;
        }
        for adapter in adapters.get(&at).into_iter().flatten() {
            let next = (adapter.method.service.clone(), adapter.method.method.clone());
            if !seen.insert(next.clone()) {
                continue;
            }
            let mut longer: Vec<Adapter> = chain.clone();
            longer.push(adapter.clone());
            if provider.method(&next.0, &next.1).is_some() {
                return Some(longer);
            }
            queue.push_back((next, longer));
        }
    }
    None
}
