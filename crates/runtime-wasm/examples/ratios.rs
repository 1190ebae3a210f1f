//! What this crate adds to bare wasmtime: the same guest, the same typed call, with and without it, in one run.
//!
//! `cargo run --release -p mortise-runtime-wasm --example ratios [-- plugin.wasm]`. With a file, how long it takes to load instead.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to print")]
#![expect(unreachable_pub, dead_code, reason = "the guests are the tests' own")]

#[path = "../tests/it/guests.rs"]
mod guests;

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use guests::{Abi, Guest};
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, CallContext, Digest, HostServices, Instance, InstanceId, LogLine, MethodIndex,
    PluginId, Runtime, Start, Verified,
};
use mortise_runtime_wasm::{Reuse, Tiering, WasmConfig, WasmRuntime};
use mortise_wire::Status;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, StoreContextMut,
    component::{Component, Linker, TypedFunc},
};

type Invoke = TypedFunc<(u32, &'static [u8], &'static [u8]), (Result<Vec<u8>, Vec<u8>>,)>;
type StartFn = TypedFunc<(&'static [u8],), (Result<(), Vec<u8>>,)>;

struct Nothing;

impl HostServices for Nothing {
    fn log(&self, _: LogLine<'_>) {}

    fn call<'a>(
        &'a self,
        _: Option<&'a CallContext>,
        _: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async { Ok(payload) })
    }
}

/// The best of many short batches: other processes only ever add, and a short batch has a chance to run without any.
fn best(rounds: u32, mut call: impl FnMut()) -> f64 {
    let batch = (rounds / 200).max(1);
    (0..400)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..batch {
                call();
            }
            begin.elapsed().as_nanos() as f64 / f64::from(batch)
        })
        .fold(f64::MAX, f64::min)
}

/// Runs a future that never has to wait, without an executor's own cost.
fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

fn main() {
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = executor.enter();
    let files: Vec<String> = std::env::args().skip(1).collect();
    for path in &files {
        println!("before: resident {} KiB", status("VmRSS:"));
        loads(&std::fs::read(path).unwrap(), path, &executor);
    }
    if !files.is_empty() {
        return;
    }
    let payloads = [("64 B", 64, 20_000), ("1 MiB", 1 << 20, 200)];
    let bare = Bare::new();
    let head: &'static [u8] = vec![1; 24].leak();
    println!("{:<42}{:>12}{:>12}{:>8}", "", "bare ns", "mortise ns", "ratio");
    for (name, bytes, rounds) in payloads {
        let payload: &'static [u8] = vec![7; bytes].leak();
        let (mut store, invoke) = bare.instance();
        let anchor = best(rounds, || {
            black_box(
                now(invoke.call_async(&mut store, (0, head, payload)))
                    .unwrap()
                    .0
                    .unwrap(),
            );
        });
        report(
            &format!("warm, component, {name}"),
            anchor,
            ours(Abi::Component, Reuse::WARM, payload, rounds, &executor),
        );
        report(
            &format!("warm, component of the SDK, {name}"),
            anchor,
            ours(Abi::Wrapped, Reuse::WARM, payload, rounds, &executor),
        );
        report(
            &format!("warm, core module, {name}"),
            anchor,
            ours(Abi::Core, Reuse::WARM, payload, rounds, &executor),
        );
        let rounds = rounds / 8;
        let anchor = best(rounds, || {
            let (mut store, invoke) = bare.instance();
            black_box(
                now(invoke.call_async(&mut store, (0, head, payload)))
                    .unwrap()
                    .0
                    .unwrap(),
            );
        });
        report(
            &format!("fresh, component, {name}"),
            anchor,
            ours(Abi::Component, Reuse::Ephemeral, payload, rounds, &executor),
        );
        report(
            &format!("fresh, component of the SDK, {name}"),
            anchor,
            ours(Abi::Wrapped, Reuse::Ephemeral, payload, rounds, &executor),
        );
        report(
            &format!("fresh, core module, {name}"),
            anchor,
            ours(Abi::Core, Reuse::Ephemeral, payload, rounds, &executor),
        );
    }
}

fn report(name: &str, bare: f64, mortise: f64) {
    println!("{name:<42}{bare:>12.0}{mortise:>12.0}{:>8.2}", mortise / bare);
}

/// A call through the port, as the host makes it.
fn ours(
    abi: Abi,
    reuse: Reuse,
    payload: &'static [u8],
    rounds: u32,
    executor: &tokio::runtime::Runtime,
) -> f64 {
    let config = WasmConfig {
        reuse,
        tiering: Tiering::OptimisedOnly,
        ..WasmConfig::default()
    };
    let runtime = WasmRuntime::new(config).unwrap();
    let instance = executor.block_on(load(&runtime, &verified(Guest::new(abi).build())));
    let calls = instance.call().unwrap();
    best(rounds, || {
        let cx = CallContext {
            call_id: 1,
            deadline: Some(Instant::now() + Duration::from_secs(5)),
            ..CallContext::default()
        };
        black_box(now(calls.call(&cx, MethodIndex(guests::ECHO), Bytes::from_static(payload))).unwrap());
    })
}

fn verified(wasm: Vec<u8>) -> Verified {
    let plugin = PluginId {
        name: "guest".into(),
        version: semver::Version::new(1, 0, 0),
    };
    let (digest, contract) = (Digest::of(&wasm), Arc::new(guests::contract()));
    let artifact = Artifact {
        plugin,
        runtime: RuntimeName::Wasm,
        digest,
        bytes: wasm.into(),
        path: None,
        dialect: None,
        contract,
    };
    artifact.verify(guests::metadata("guest")).unwrap()
}

async fn load(runtime: &WasmRuntime, verified: &Verified) -> Box<dyn Instance> {
    let prepared = runtime.prepare(verified, &Grant::default()).await.unwrap();
    let start = Start {
        instance: InstanceId("guest#1".into()),
        limits: Limits::default(),
        config_json: "{}".into(),
        services: Arc::new(Nothing),
        pure: false,
    };
    runtime.start(prepared, start).await.unwrap()
}

/// Load times of one artifact, in milliseconds: from bytes to a started instance.
fn loads(wasm: &[u8], path: &str, executor: &tokio::runtime::Runtime) {
    let wasm = if wasm.get(4) == Some(&1) {
        guests::componentize(wasm.to_vec())
    } else {
        wasm.to_vec()
    };
    let artifact = verified(wasm.clone());
    println!("\n{path}: {} bytes as a component", wasm.len());
    for tiering in [Tiering::BaselineFirst, Tiering::OptimisedOnly] {
        let dir = tempfile::tempdir().unwrap();
        for what in ["cold", "from the cache"] {
            let mut times: Vec<f64> = Vec::new();
            for round in 0..5 {
                let cache = dir.path().join(if what == "cold" {
                    round.to_string()
                } else {
                    "0".to_owned()
                });
                let config = WasmConfig {
                    tiering,
                    cache_dir: Some(cache.clone()),
                    ..WasmConfig::default()
                };
                let runtime = WasmRuntime::new(config).unwrap();
                let begin = Instant::now();
                drop(executor.block_on(load(&runtime, &artifact)));
                times.push(begin.elapsed().as_secs_f64() * 1e3);
                while std::fs::read_dir(&cache).unwrap().count() < 2 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            times.sort_by(f64::total_cmp);
            println!(
                "{tiering:?}, {what:<16} best {:>8.2} ms, median {:>8.2} ms; resident {} KiB, at most {} KiB",
                times[0],
                times[2],
                status("VmRSS:"),
                status("VmHWM:")
            );
        }
    }
}

/// A line of this process's status, on Linux.
fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap_or("?");
    line.trim().trim_end_matches(" kB").to_owned()
}

/// wasmtime as a careful host would set it up, and nothing else: pool, epochs, async, typed function.
struct Bare {
    engine: Engine,
    pre: wasmtime::component::InstancePre<()>,
    start: wasmtime::component::ComponentExportIndex,
    invoke: wasmtime::component::ComponentExportIndex,
}

impl Bare {
    fn new() -> Self {
        let mut config = Config::new();
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(512)
            .total_core_instances(2048)
            .total_memories(512)
            .total_tables(1024)
            .total_stacks(512);
        pool.linear_memory_keep_resident(64 << 10)
            .table_keep_resident(4 << 10)
            .pagemap_scan(Enabled::Auto);
        config
            .epoch_interruption(true)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).unwrap();
        let component = Component::new(&engine, Guest::new(Abi::Component).build()).unwrap();
        let mut linker = Linker::<()>::new(&engine);
        let mut host = linker.instance("mortise:plugin/host@1.0.0").unwrap();
        host.func_wrap("log", |_: StoreContextMut<'_, ()>, _: (Vec<u8>,)| Ok(()))
            .unwrap();
        host.func_wrap_async(
            "call",
            |_: StoreContextMut<'_, ()>, (_, _, payload): (u64, String, Vec<u8>)| {
                Box::new(async move { Ok((Result::<Vec<u8>, Vec<u8>>::Ok(payload),)) })
            },
        )
        .unwrap();
        let pre = linker.instantiate_pre(&component).unwrap();
        let guest = component
            .get_export_index(None, "mortise:plugin/guest@1.0.0")
            .unwrap();
        let export = |name| component.get_export_index(Some(&guest), name).unwrap();
        Self {
            pre,
            start: export("start"),
            invoke: export("invoke"),
            engine,
        }
    }

    fn instance(&self) -> (Store<()>, Invoke) {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = now(self.pre.instantiate_async(&mut store)).unwrap();
        let start: StartFn = instance.get_typed_func(&mut store, self.start).unwrap();
        now(start.call_async(&mut store, (b"\x0a\x02{}",)))
            .unwrap()
            .0
            .unwrap();
        let invoke = instance.get_typed_func(&mut store, self.invoke).unwrap();
        (store, invoke)
    }
}
