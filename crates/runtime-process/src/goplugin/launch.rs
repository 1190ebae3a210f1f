//! From an executable that was checked to an instance.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mortise_contract::Contract;
use mortise_jail::Policy;
use mortise_manifest::GoPlugin;
use mortise_runtime::{Instance, ReservedMethods, RuntimeError, RuntimeErrorKind as Kind, Start};
use mortise_wire::Metadata;
use tokio::sync::watch;

use super::{
    calls::{GoConversation, Shared},
    reach::{GoPluginError, Reach, Reached},
};
use crate::{ProcessConfig, instance::ProcessInstance, spawner::Spawner};

/// What is started.
pub(crate) struct Launch<'a> {
    pub(crate) config: &'a Arc<ProcessConfig>,
    pub(crate) path: PathBuf,
    pub(crate) spoken: &'a GoPlugin,
    pub(crate) contract: &'a Contract,
    pub(crate) metadata: Arc<Metadata>,
    /// What the jail lets it do.
    pub(crate) policy: Policy,
}

// === impl Launch ===

impl Launch<'_> {
    /// Starts it. On `Err` nothing is left.
    pub(crate) async fn run(
        self,
        spawner: &Spawner,
        start: &Start,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        let reach = Reach {
            config: self.config,
            name: &self.metadata.name,
            path: &self.path,
            spoken: self.spoken,
            policy: self.policy.clone(),
            limit: start.limits.start,
            services: &start.services,
        };
        let reached = match reach.run(spawner).await {
            Ok(reached) => reached,
            Err(error) => return Err(self.refused(error)),
        };
        if let Err(error) = reached.compare(self.contract) {
            // It did nothing yet that it would have to finish.
            reached.end(Duration::ZERO).await;
            return Err(self.refused(error));
        }
        Ok(self.supervise(reached, start))
    }

    fn supervise(self, reached: Reached, start: &Start) -> Box<dyn Instance> {
        let paths = self.metadata.methods.iter();
        let shared = Arc::new(Shared {
            paths: paths.map(|it| format!("/{}/{}", it.service, it.name)).collect(),
            metadata: self.metadata,
            limits: start.limits.clone(),
            connection: reached.connection,
            over: watch::Sender::new(None),
        });
        let conversation = GoConversation { shared, asking: None };
        let id = start.instance.clone();
        Box::new(ProcessInstance::supervised(
            id,
            // Its protocol has no word for state.
            ReservedMethods::default(),
            conversation,
            reached.child,
            self.config.clone(),
        ))
    }

    fn refused(&self, error: GoPluginError) -> RuntimeError {
        let (kind, hint) = match &error {
            GoPluginError::NotStarted(_) => (Kind::Loader, ""),
            GoPluginError::Silent { .. } => (
                Kind::StartFailed,
                "the cookie may be another's: compare `cookie_key` and `cookie_value` in plugin.toml with what the plugin's own hosts use",
            ),
            GoPluginError::Differs(_) => (
                Kind::Tampered,
                "import the plugin again (`mortise import go-plugin`), or use the executable that the contract was made from",
            ),
            GoPluginError::Late { .. }
            | GoPluginError::Version { .. }
            | GoPluginError::Identity { .. }
            | GoPluginError::Said(_) => (
                Kind::StartFailed,
                "compare `[variant.go_plugin]` in plugin.toml with what the plugin's own hosts use",
            ),
        };
        match error {
            GoPluginError::NotStarted(error) => error,
            error => {
                let name = &self.metadata.name;
                RuntimeError::new(kind, format!("plugin `{name}` did not start: {error}"), hint)
            }
        }
    }
}
