//! What generated clients call through: a host, or one plugin of it.

use std::sync::Arc;

use mortise_runtime::{CallError, ReceiveHalf, SendHalf, StreamHandle};
use mortise_wire::{
    Status,
    client::{Caller, ClientContract, StreamCaller},
};

use crate::{
    CallOptions, CallerContract, Host,
    call::{self, Origin},
    stream,
    table::Target,
};

/// Calls of a generated client: whoever provides the service answers.
impl Caller for Host {
    async fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        Ok(Self::call(self, target, payload.into(), CallOptions::default())
            .await?
            .into())
    }

    async fn call_as(
        &self,
        contract: &ClientContract,
        target: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        let options = built_against(CallOptions::default(), contract)?;
        Ok(Self::call(self, target, payload.into(), options).await?.into())
    }
}

/// Streams of a generated client.
impl StreamCaller for Host {
    type Sender = Box<dyn SendHalf>;
    type Receiver = Box<dyn ReceiveHalf>;

    async fn open(&self, target: &str) -> Result<(Self::Sender, Self::Receiver), Status> {
        let StreamHandle { requests, replies } = self.open_stream(target, CallOptions::default()).await?;
        Ok((requests, replies))
    }

    async fn open_as(
        &self,
        contract: &ClientContract,
        target: &str,
    ) -> Result<(Self::Sender, Self::Receiver), Status> {
        let options = built_against(CallOptions::default(), contract)?;
        let StreamHandle { requests, replies } = self.open_stream(target, options).await?;
        Ok((requests, replies))
    }
}

/// What a client says of itself, unless its user said something else.
fn built_against(mut options: CallOptions, contract: &ClientContract) -> Result<CallOptions, CallError> {
    if options.contract.is_none() {
        options.contract = Some(CallerContract::of_client(contract)?);
    }
    Ok(options)
}

/// A caller for generated clients whose calls all go to one plugin.
#[derive(Clone, Debug)]
pub struct PluginCaller {
    host: Host,
    name: Arc<str>,
    options: CallOptions,
}

impl PluginCaller {
    pub(crate) fn new(host: Host, name: Arc<str>) -> Self {
        Self {
            host,
            name,
            options: CallOptions::default(),
        }
    }

    /// The same, with a deadline, headers or a trace that go with every call; with a contract in place of the one that the client was built against.
    #[must_use]
    pub fn with_options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    fn target(&self, name: &str) -> Result<Arc<Target>, CallError> {
        let shared = self.host.shared();
        let address = shared.find(&self.name).ok();
        let table = shared.table.load();
        let found = address.and_then(|it| {
            let found = match self.name.contains('@') {
                true => table.at(&it, name),
                false => table.of_plugin(&it, name, &self.options.headers),
            };
            found.cloned()
        });
        found.ok_or_else(|| shared.refusal_at(&self.name, name))
    }

    fn origin(&self, contract: Option<&ClientContract>) -> Result<Origin, CallError> {
        let mut options = self.options.clone();
        if let Some(contract) = contract {
            options = built_against(options, contract)?;
        }
        Ok(Origin::outside(options, &self.host.shared().parts.propagate))
    }

    async fn send(
        &self,
        contract: Option<&ClientContract>,
        target: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        let target = self.target(target)?;
        Ok(call::call(&target, payload.into(), self.origin(contract)?)
            .await?
            .into())
    }

    async fn stream(
        &self,
        contract: Option<&ClientContract>,
        target: &str,
    ) -> Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Status> {
        let target = self.target(target)?;
        let StreamHandle { requests, replies } = stream::open(&target, self.origin(contract)?).await?;
        Ok((requests, replies))
    }
}

impl Caller for PluginCaller {
    async fn call(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        self.send(None, target, payload).await
    }

    async fn call_as(
        &self,
        contract: &ClientContract,
        target: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        self.send(Some(contract), target, payload).await
    }
}

impl StreamCaller for PluginCaller {
    type Sender = Box<dyn SendHalf>;
    type Receiver = Box<dyn ReceiveHalf>;

    async fn open(&self, target: &str) -> Result<(Self::Sender, Self::Receiver), Status> {
        self.stream(None, target).await
    }

    async fn open_as(
        &self,
        contract: &ClientContract,
        target: &str,
    ) -> Result<(Self::Sender, Self::Receiver), Status> {
        self.stream(Some(contract), target).await
    }
}
