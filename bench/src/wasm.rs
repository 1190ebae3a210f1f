//! WebAssembly rows: a call through the host beside bare wasmtime doing the same typed call on the same component.

use std::{fs, hint::black_box, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use echo::contract::EchoRequest;
use mortise::{CallOptions, Host, Route, manifest::RuntimeName};
use prost::Message as _;
use wasmtime::{
    Config, Engine, Store,
    component::{Component, Linker, TypedFunc},
};

use crate::{
    subject::{self, Reuse},
    table::Row,
};

type Start = TypedFunc<(Vec<u8>,), (Result<(), Vec<u8>>,)>;
type Invoke = TypedFunc<(u32, Vec<u8>, Vec<u8>), (Result<Vec<u8>, Vec<u8>>,)>;

/// Bare wasmtime with one instance of the component, kept for ever: no limits, no deadline, no isolation between calls.
pub struct Bare {
    store: Store<()>,
    invoke: Invoke,
    method: u32,
}

impl Bare {
    /// Compiles and instantiates a component.
    ///
    /// # Errors
    /// What wasmtime says.
    pub fn new(component: &[u8], method: u32) -> Result<Self> {
        let engine = Engine::new(&Config::new()).map_err(said)?;
        let component = Component::new(&engine, component).map_err(said)?;
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&component).map_err(said)?;
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component).map_err(said)?;
        let guest = instance
            .get_export_index(&mut store, None, "mortise:plugin/guest@1.0.0")
            .context("guest")?;
        let start = mortise::wire::StartRequest {
            config_json: "{}".to_owned(),
            ..Default::default()
        };
        let index = instance
            .get_export_index(&mut store, Some(&guest), "start")
            .context("start")?;
        let function: Start = instance.get_typed_func(&mut store, index).map_err(said)?;
        let (started,) = function
            .call(&mut store, (start.encode_to_vec(),))
            .map_err(said)?;
        started.map_err(|_| anyhow::anyhow!("the guest does not start"))?;
        let index = instance
            .get_export_index(&mut store, Some(&guest), "invoke")
            .context("invoke")?;
        let invoke = instance.get_typed_func(&mut store, index).map_err(said)?;
        Ok(Self {
            store,
            invoke,
            method,
        })
    }

    /// Calls the method and returns the length of its reply.
    ///
    /// # Errors
    /// If it traps.
    pub fn call(&mut self, payload: Vec<u8>) -> Result<usize> {
        let arguments = (self.method, Vec::new(), payload);
        let (reply,) = self.invoke.call(&mut self.store, arguments).map_err(said)?;
        Ok(reply.map_err(|_| anyhow::anyhow!("an error came back"))?.len())
    }
}

/// What wasmtime said, as an error of ours.
fn said(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// A loaded WebAssembly plugin.
pub struct Subject {
    /// The host.
    pub host: Host,
    route: Route,
}

impl Subject {
    /// Loads `echo`.
    ///
    /// # Errors
    /// If the package is not there or does not load.
    pub async fn new(data: &Path, reuse: Reuse) -> Result<Self> {
        let host = subject::optimised_host(data, reuse).await?;
        subject::load(&host, "echo", RuntimeName::Wasm, &subject::package("echo")?).await?;
        let route = host.resolve("plugin.echo.Echo", &[])?;
        Ok(Self { host, route })
    }

    /// Calls it and returns the length of the reply.
    ///
    /// # Errors
    /// What the host says.
    pub async fn call(&self, payload: Bytes) -> Result<usize> {
        Ok(self
            .host
            .call_route(&self.route, payload, CallOptions::default())
            .await?
            .len())
    }

    /// Calls until the pool, the caches and the processor's clock have settled.
    async fn settle(&self, payload: &Bytes) -> Result<()> {
        let end = Instant::now() + std::time::Duration::from_secs(1);
        while Instant::now() < end {
            self.call(payload.clone()).await?;
        }
        Ok(())
    }
}

/// The rows.
///
/// # Errors
/// If the package is not there or does not load.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let package = subject::package("echo")?;
    let component = fs::read(package.join("echo.wasm"))?;
    // Methods are numbered by name; `Echo` is the fourth of them.
    let contract = mortise::contract::Contract::from_descriptor_set(
        &fs::read(package.join("contract.binpb"))?,
        &["mortise.test.v1.Echo".to_owned()],
    )?;
    let method = contract
        .methods()
        .iter()
        .position(|it| it.name() == "Echo")
        .context("no method Echo")?;
    let mut bare = Bare::new(&component, u32::try_from(method)?)?;
    let request = |bytes| {
        Bytes::from(
            EchoRequest {
                message: vec![7; bytes],
                text: String::new(),
            }
            .encode_to_vec(),
        )
    };
    for (reuse, name) in [
        (Reuse::WARM, "warm"),
        (Reuse::Ephemeral, "fresh instance per call"),
    ] {
        let subject = Subject::new(&data.join(name), reuse).await?;
        subject.settle(&request(64)).await?;
        for (bytes, shown, calls) in [(64, "64 B", 20_000_u32), (1 << 20, "1 MiB", 200)] {
            let payload = request(bytes);
            let (mut ours, mut anchor) = (f64::MAX, f64::MAX);
            for _ in 0..7 {
                let started = Instant::now();
                for _ in 0..calls {
                    black_box(bare.call(payload.to_vec())?);
                }
                anchor = anchor.min(started.elapsed().as_nanos() as f64 / f64::from(calls) / 1000.0);
                let started = Instant::now();
                for _ in 0..calls {
                    black_box(subject.call(payload.clone()).await?);
                }
                ours = ours.min(started.elapsed().as_nanos() as f64 / f64::from(calls) / 1000.0);
            }
            let row = Row::new(
                format!("wasm, {name}, {shown}"),
                ours,
                "bare wasmtime, one instance",
                anchor,
                "us",
            );
            rows.push(match (name, shown) {
                ("warm", "64 B") => row.below(1.0),
                ("warm", _) => row.below(1000.0),
                (_, "64 B") => row.below(20.0),
                _ => row,
            });
        }
        subject.host.shutdown().await;
    }
    rows.push(cached(data, &package, component.len()).await?);
    Ok(rows)
}

/// A second host on the same data directory finds the compiled code in its cache.
async fn cached(data: &Path, package: &Path, bytes: usize) -> Result<Row> {
    let data = data.join("cached");
    let mut first = 0.0;
    let mut again = f64::MAX;
    for round in 0..6 {
        let host = subject::host(&[RuntimeName::Wasm], &data, Reuse::Ephemeral).await?;
        let started = Instant::now();
        subject::load(&host, "echo", RuntimeName::Wasm, package).await?;
        let took = started.elapsed().as_secs_f64() * 1000.0;
        if round == 0 {
            first = took;
        } else {
            again = again.min(took);
        }
        host.shutdown().await;
    }
    let mib = bytes as f64 / f64::from(1 << 20);
    // Below a MiB what counts is the load itself, not the load of a MiB that is not there.
    let per_mib = again / mib.max(1.0);
    Ok(Row::new(
        "wasm, load with a warm code cache",
        per_mib,
        "its own first load",
        first,
        "ms/MiB",
    )
    .below(5.0))
}
