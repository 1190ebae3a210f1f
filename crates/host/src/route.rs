//! A resolved target, as its holder sees it.

use std::{fmt, sync::Arc};

use mortise_contract::{Contract, Method};
use semver::Version;

use crate::table::Target;

/// A resolved target: which method of which plugin a call goes to. Cheap to clone; may be kept and used for many calls
/// ([`crate::Host::call_route`]). It follows its plugin through swaps; after an unload it answers `Unavailable`.
#[derive(Clone)]
pub struct Route(pub(crate) Arc<Target>);

impl Route {
    /// Address of the plugin: `name`, or `name@version` for one that runs beside another.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.0.address.name
    }

    /// The plugin's version when the target was resolved.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.0.version
    }

    /// Generation of the address when the target was resolved.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// `package.Service/Method`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.0.full
    }

    /// `package.Service`.
    #[must_use]
    pub fn service(&self) -> &str {
        self.0.service()
    }

    /// The method's name.
    #[must_use]
    pub fn method_name(&self) -> &str {
        self.0.method()
    }

    /// The plugin's contract when the target was resolved: for edges that speak JSON.
    #[must_use]
    pub fn contract(&self) -> &Arc<Contract> {
        &self.0.contract
    }

    /// The method in that contract.
    #[must_use]
    pub fn method(&self) -> Option<&Method> {
        self.0.contract.method(self.service(), self.method_name())
    }

    /// What an edge has made of this method, a codec say; made at the first call, gone with the table of methods that the route comes from.
    /// `None` if `make` has nothing, or if an edge with another type of its own was here before.
    pub fn memo<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Self) -> Option<T>) -> Option<&T> {
        let memo = match self.0.memo.get() {
            Some(memo) => memo,
            None => {
                // Two threads may both make one; the first is kept.
                let made = make(self)?;
                self.0.memo.get_or_init(|| Box::new(made))
            }
        };
        memo.downcast_ref()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Route({} at {} {})",
            self.target(),
            self.plugin(),
            self.version()
        )
    }
}
