//! Who keeps the events of a test. What is promised of events is promised of all of them, so the tests of it are written once.

use mortise_events_nats::NatsBroker;
use mortise_host::{Host, HostBuilder};
use mortise_manifest::{HostConfig, NatsSettings};

use crate::{closures::World, nats::Nats};

/// One of them.
pub enum Keeper {
    /// The host's own data directory.
    Embedded,
    /// A server of its own.
    Nats(Nats),
}

impl Keeper {
    /// `None`, and a line that says so, if this machine has no server.
    pub fn nats() -> Option<Self> {
        Nats::start().map(Self::Nats)
    }

    /// A host that has its events kept there.
    pub fn builder(&self, world: &World, config: HostConfig) -> HostBuilder {
        let events = config.events.clone();
        let builder = world.builder().config(config);
        match self {
            Self::Embedded => builder,
            Self::Nats(nats) => builder.broker(NatsBroker::new(settings(&nats.endpoint), events)),
        }
    }

    /// The same with the defaults, started.
    pub async fn host(&self, world: &World) -> Host {
        self.builder(world, HostConfig::default()).start().await.unwrap()
    }
}

pub fn settings(endpoint: &str) -> NatsSettings {
    NatsSettings {
        endpoints: vec![endpoint.to_owned()],
        prefix: NatsSettings::PREFIX.to_owned(),
        user: None,
        password: None,
        token: None,
        ca_file: None,
        replicas: 1,
    }
}

/// Tests of everybody who keeps events: each is a function of the keeper.
macro_rules! on_every_keeper {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test] async fn $test() {
                super::$test(&crate::keepers::Keeper::Embedded).await;
            })*
        }
        mod nats {
            $(#[tokio::test] async fn $test() {
                let Some(keeper) = crate::keepers::Keeper::nats() else { return };
                super::$test(&keeper).await;
            })*
        }
    };
}

pub(crate) use on_every_keeper;
