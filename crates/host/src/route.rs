//! A resolved target.

use std::sync::Arc;

use mortise_contract::{Contract, Method};
use semver::Version;

/// A resolved target: which method of which plugin a call goes to. Cheap to clone; may be kept and used for many calls
/// ([`crate::Host::call_route`]). It follows its plugin through swaps; after an unload it answers `Unavailable`.
#[derive(Clone, Debug)]
pub struct Route {
    pub(crate) plugin: Arc<str>,
    pub(crate) version: Version,
    pub(crate) contract: Arc<Contract>,
    pub(crate) service: Arc<str>,
    pub(crate) method: Arc<str>,
    pub(crate) generation: u64,
}

impl Route {
    /// Address of the plugin: `name`, or `name@version` for one that runs beside another.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The plugin's version when the target was resolved.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Generation of the address when the target was resolved.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// `package.Service`.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The method's name.
    #[must_use]
    pub fn method_name(&self) -> &str {
        &self.method
    }

    /// The plugin's contract when the target was resolved: for edges that speak JSON.
    #[must_use]
    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// The method in that contract.
    #[must_use]
    pub fn method(&self) -> Option<&Method> {
        self.contract.method(&self.service, &self.method)
    }
}
