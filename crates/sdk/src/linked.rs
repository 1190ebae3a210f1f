//! The guest that is linked into its host: no boundary but the types of `mortise_wire::linked`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mortise_wire::{
    CallHead, LogRecord, StartRequest, Status, StreamLink,
    linked::{HostLink, LinkedInstance},
};

pub use mortise_wire::linked::LinkedPlugin;

use crate::{
    Cx, Link, Result,
    guest::{Plugin, method, unknown_method},
};

/// The type `P` as a value.
#[must_use]
pub const fn plugin<P: Plugin>() -> LinkedPlugin {
    LinkedPlugin {
        metadata: P::METADATA,
        start: start::<P>,
    }
}

struct Instance<P> {
    plugin: P,
    started: Arc<StartRequest>,
}

struct Call {
    started: Arc<StartRequest>,
    host: Box<dyn HostLink>,
}

fn start<P: Plugin>(request: StartRequest, host: Box<dyn HostLink>) -> Result<Box<dyn LinkedInstance>> {
    let started = Arc::new(request);
    let plugin = P::start(&Cx::new(Call {
        started: started.clone(),
        host,
    }))?;
    Ok(Box::new(Instance { plugin, started }))
}

impl<P: Plugin> LinkedInstance for Instance<P> {
    fn invoke(&self, host: Box<dyn HostLink>, number: u32, payload: &[u8]) -> Result<Vec<u8>> {
        let row = method::<P>(number).ok_or_else(|| unknown_method::<P>(number))?;
        (row.invoke)(
            &self.plugin,
            &Cx::new(Call {
                started: self.started.clone(),
                host,
            }),
            payload,
        )
    }

    fn stream(&self, host: Box<dyn HostLink>, stream: &dyn StreamLink, number: u32) -> Result<()> {
        let row = method::<P>(number).ok_or_else(|| unknown_method::<P>(number))?;
        let cx = Cx::new(Call {
            started: self.started.clone(),
            host,
        });
        (row.stream)(&self.plugin, &cx, stream)
    }

    fn health(&self) -> Result<()> {
        self.plugin.health()
    }

    fn stop(&self) {
        self.plugin.stop();
    }
}

impl Link for Call {
    fn started(&self) -> &StartRequest {
        &self.started
    }

    fn head(&self) -> CallHead {
        self.host.head()
    }

    fn elapsed(&self) -> Duration {
        self.host.elapsed()
    }

    fn is_cancelled(&self) -> bool {
        self.host.is_cancelled()
    }

    fn now(&self) -> Result<SystemTime> {
        Ok(SystemTime::now())
    }

    fn wait(&self, duration: Duration) {
        self.host.wait(duration);
    }

    fn log(&self, record: &LogRecord) {
        self.host.log(record);
    }

    fn call(&self, _: u64, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        self.host.call(target, payload)
    }
}
