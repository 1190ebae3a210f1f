//! Swaps of a plugin with state: how long its callers wait.
//!
//! Callers call as fast as they are answered while one version takes the other's place, over and over. Two figures per swap: how long the gate was
//! closed, as the host measured it, and the longest that any caller waited for any answer while the load ran, which has everything in it: the
//! gate, and the start of the new instance on the same processors. The anchor is the longest that a caller waited in as much time without a swap.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use counter::contract::AddRequest;
use hdrhistogram::Histogram;
use mortise::{
    CallOptions, Host, LoadRequest, Package, ProbationPolicy, RestartPolicy, Source, manifest::RuntimeName,
    runtime,
};
use prost::Message as _;

use crate::{subject, table::Row};

/// Folders of the two versions, in turns.
pub const VERSIONS: [&str; 2] = ["counter", "counter-1.1"];

/// A host with one runtime, where a version that was replaced goes at once and one that crashed comes back at once.
///
/// # Errors
/// What the host says.
pub async fn host(name: RuntimeName, data: &Path) -> Result<Host> {
    let builder = Host::builder()
        .data_dir(data.join("data"))
        .probation(ProbationPolicy {
            time: Duration::ZERO,
            ..ProbationPolicy::default()
        })
        .restarts(RestartPolicy {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
            exits_max: u32::MAX,
            ..RestartPolicy::default()
        });
    let builder = match name {
        RuntimeName::Builtin => {
            let mut builder = builder;
            let mut plugins = Vec::new();
            for (folder, linked) in [
                (VERSIONS[0], mortise_sdk::linked!(counter)),
                (VERSIONS[1], mortise_sdk::linked!(counter_next::plugin)),
            ] {
                let plugin = runtime::builtin::BuiltinPlugin::new(linked)?;
                let package = Package::builtin(folder, plugin.manifest_text(), plugin.descriptor_set())?;
                builder = builder.builtin(folder, package);
                plugins.push(plugin);
            }
            builder.runtime(runtime::builtin::BuiltinRuntime::new(plugins)?)
        }
        RuntimeName::Native => {
            let config = runtime::native::NativeConfig::new(data.join("native"));
            builder.runtime(runtime::native::NativeRuntime::new(config))
        }
        RuntimeName::Process => {
            let config = runtime::process::ProcessConfig::new(data.join("run"));
            builder.runtime(runtime::process::ProcessRuntime::new(config)?)
        }
        RuntimeName::Wasm => {
            let config = runtime::wasm::WasmConfig {
                cache_dir: Some(data.join("aot")),
                ..Default::default()
            };
            builder.runtime(runtime::wasm::WasmRuntime::new(config)?)
        }
    };
    Ok(builder.start().await?)
}

/// A request for one version of the counter.
///
/// # Errors
/// If its package is not there.
pub fn request(name: RuntimeName, folder: &str, config: &str) -> Result<LoadRequest> {
    let source = match name {
        RuntimeName::Builtin => Source::builtin(folder),
        _ => Source::Folder(subject::package(folder)?),
    };
    Ok(LoadRequest::new(source).runtime(name).config_json(config))
}

/// What callers waited, in nanoseconds.
struct Waits {
    gate: Histogram<u64>,
    caller: Histogram<u64>,
    quiet: Histogram<u64>,
}

/// Callers that note the longest wait of each stretch.
struct Callers {
    stop: Arc<AtomicBool>,
    worst: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Callers {
    fn begin(host: &Host, count: usize) -> Result<Self> {
        let (stop, worst) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let route = host.resolve("plugin.counter.Add", &[])?;
        let payload: Bytes = AddRequest { by: 1 }.encode_to_vec().into();
        let tasks = (0..count).map(|_| {
            let (host, route, payload) = (host.clone(), route.clone(), payload.clone());
            let (stop, worst) = (stop.clone(), worst.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    host.call_route(&route, payload.clone(), CallOptions::default())
                        .await?;
                    let waited = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    if waited > worst.load(Ordering::Relaxed) {
                        worst.fetch_max(waited, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        });
        Ok(Self {
            tasks: tasks.collect(),
            stop,
            worst,
        })
    }

    fn worst(&self) -> u64 {
        self.worst.swap(0, Ordering::Relaxed).max(1)
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn measure(name: RuntimeName, callers: usize, swaps: usize, data: &Path) -> Result<Waits> {
    let host = host(name, data).await?;
    host.load(request(name, VERSIONS[0], "{}")?).await?;
    let new = || Histogram::<u64>::new(3).context("a histogram");
    let mut waits = Waits {
        gate: new()?,
        caller: new()?,
        quiet: new()?,
    };
    let calling = Callers::begin(&host, callers)?;
    let packages = VERSIONS.map(|it| request(name, it, "{}"));
    let [one, other] = packages;
    let requests = [one?, other?];
    // The first ones fill caches.
    for swap in 1..=swaps + 4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        calling.worst();
        let began = Instant::now();
        host.load(requests[swap % 2].clone()).await?;
        let (took, worst) = (began.elapsed(), calling.worst());
        tokio::time::sleep(Duration::from_millis(2)).await;
        calling.worst();
        tokio::time::sleep(took).await;
        let quiet = calling.worst();
        if swap <= 4 {
            continue;
        }
        let carried = host.inspect("counter")?.state.context("it has state")?;
        let pause_us = carried.pause_us.context("it was handed over")?;
        waits.gate.record(pause_us * 1000)?;
        waits.caller.record(worst)?;
        waits.quiet.record(quiet)?;
    }
    calling.end().await?;
    host.shutdown().await;
    Ok(waits)
}

/// The rows: each runtime with 1, 2 and 4 callers.
///
/// # Errors
/// If the packages are not there, or a call is not answered.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in [
        RuntimeName::Builtin,
        RuntimeName::Native,
        RuntimeName::Wasm,
        RuntimeName::Process,
    ] {
        for callers in [1, 2, 4] {
            let waits = measure(name, callers, 200, &data.join(format!("{name}-{callers}"))).await?;
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            for (what, histogram) in [("gate", &waits.gate), ("caller", &waits.caller)] {
                for (mark, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                    let us = |it: &Histogram<u64>| it.value_at_quantile(quantile) as f64 / 1000.0;
                    let row = Row::new(
                        format!("swap {name}, {callers} callers, {what} {mark}"),
                        us(histogram),
                        "longest wait without a swap",
                        us(&waits.quiet),
                        "us",
                    );
                    let promised = what == "gate" && mark == "p99" && callers <= cores;
                    rows.push(if promised { row.below(1000.0) } else { row });
                }
            }
        }
    }
    Ok(rows)
}
