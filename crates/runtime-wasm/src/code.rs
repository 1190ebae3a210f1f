//! From bytes to code that can be instantiated, and from quick code to fast code.
//!
//! ```text
//!  wasm --cache--> optimised ------------------------------.
//!    |--cache--> baseline --- when it pays --> optimised --+--> linked
//!    '--compile baseline (or optimised, if there is none) -'
//! ```
//! - C1. Compiling runs on tokio's blocking threads, `compiles_max` at a time, and is bounded by the artifact's size and by time.
//! - C2. The same bytes are compiled once per process: what is in use is found again by its digest.
//! - C3. A better tier replaces the code for *new* instances. One that runs is never touched, and a call never mixes both.
//! - C4. It pays when the guest has run for as long as the optimising compiler would: then at most twice the least possible time is spent,
//!   whatever comes (the rule of renting skis). That compiler works on one thread, at low priority: a load that somebody waits for goes first.
//! - C5. Files are written after the code is in use: a load never waits for a disk.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use mortise_runtime::{Digest, RuntimeError, RuntimeErrorKind};
use tokio::sync::Semaphore;

use crate::{
    abi::{Abi, ComponentAbi, CoreAbi, UnwrappedAbi},
    cache::{AotCache, CacheStats, Entry, MachineCode, WasmHash, compile_for},
    config::WasmConfig,
    engine::{Engines, Tier},
    scan::AbiKind,
    unwrap::inner_module,
};

/// Calls before which baseline code is never replaced.
const TIER_UP_CALLS: u64 = 256;
/// What the optimising compiler takes for a KiB of WebAssembly, about.
const OPTIMISE_PER_KIB: Duration = Duration::from_micros(700);
/// How much nicer than the service the thread is that optimises.
#[cfg(target_os = "linux")]
const OPTIMISE_NICE: i32 = 10;

/// Compiles, keeps and finds code.
pub(crate) struct Loader {
    engines: Arc<Engines>,
    cache: Option<AotCache>,
    config: WasmConfig,
    compiles: Semaphore,
    /// One at a time, and not out of `compiles`: what may take long must not stand before what somebody waits for.
    optimisers: Semaphore,
    in_use: Mutex<HashMap<Digest, WeakCode>>,
    /// Who makes what; whoever wants the same waits for the lock and then finds it in use.
    making: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// Code of one artifact, in either ABI.
#[derive(Clone)]
pub(crate) enum Code {
    /// `wit/plugin.wit`.
    Component(Arc<Tiers<ComponentAbi>>),
    /// The same, as `mortise build` makes it.
    Unwrapped(Arc<Tiers<UnwrappedAbi>>),
    /// `wit/core-abi.md`.
    CoreModule(Arc<Tiers<CoreAbi>>),
}

enum WeakCode {
    Component(Weak<Tiers<ComponentAbi>>),
    Unwrapped(Weak<Tiers<UnwrappedAbi>>),
    CoreModule(Weak<Tiers<CoreAbi>>),
}

/// The best code there is of one artifact.
pub(crate) struct Tiers<A: Abi> {
    current: ArcSwap<Linked<A>>,
    /// What the optimising compiler still needs.
    wasm: Mutex<Option<Bytes>>,
    calls: AtomicU64,
    /// Ticks that found a guest of this code running.
    busy_ticks: Arc<AtomicU64>,
    /// As many of them make optimising pay.
    ticks_to_pay: u64,
    optimising: AtomicBool,
    loader: Arc<Loader>,
}

/// Linked code of one tier.
pub(crate) struct Linked<A: Abi> {
    pub(crate) abi: A,
    pub(crate) tier: Tier,
}

impl Loader {
    pub(crate) fn new(engines: Arc<Engines>, cache: Option<AotCache>, config: WasmConfig) -> Self {
        let compiles = Semaphore::new(config.compiles_max.max(1));
        let (in_use, making) = Default::default();
        Self {
            engines,
            cache,
            config,
            compiles,
            optimisers: Semaphore::new(1),
            in_use,
            making,
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.cache.as_ref().map(AotCache::stats).unwrap_or_default()
    }

    pub(crate) fn engines(&self) -> &Arc<Engines> {
        &self.engines
    }

    pub(crate) fn config(&self) -> &WasmConfig {
        &self.config
    }

    /// The code of `wasm`, whose scan said `abi`.
    pub(crate) async fn load(
        self: &Arc<Self>,
        digest: Digest,
        wasm: &Bytes,
        abi: AbiKind,
    ) -> Result<Code, RuntimeError> {
        if let Some(code) = self.find(digest) {
            return Ok(code);
        }
        let making = self.making(digest);
        let _mine = making.lock().await;
        // Whoever had the lock before may have made it.
        if let Some(code) = self.find(digest) {
            return Ok(code);
        }
        let _turn = self
            .compiles
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let code = match abi {
            AbiKind::Component => match inner_module(wasm) {
                Some(module) => Code::Unwrapped(self.make(&module).await?),
                None => Code::Component(self.make(wasm).await?),
            },
            AbiKind::CoreModule => Code::CoreModule(self.make(wasm).await?),
        };
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|_, code| code.upgrade().is_some());
        in_use.insert(digest, code.downgrade());
        Ok(code)
    }

    fn find(&self, digest: Digest) -> Option<Code> {
        self.in_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&digest)?
            .upgrade()
    }

    fn making(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = making.get(&digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        making.insert(digest, Arc::downgrade(&lock));
        lock
    }

    async fn make<A: Abi>(self: &Arc<Self>, wasm: &Bytes) -> Result<Arc<Tiers<A>>, RuntimeError> {
        let (loader, bytes) = (Arc::clone(self), wasm.clone());
        let work = tokio::task::spawn_blocking(move || loader.find_or_compile::<A>(&bytes));
        let linked = match tokio::time::timeout(self.config.compile_max, work).await {
            Ok(Ok(linked)) => linked?,
            Ok(Err(panic)) => {
                return Err(RuntimeError::new(
                    RuntimeErrorKind::Loader,
                    format!("the WebAssembly compiler failed: {panic}"),
                    "this is a bug in the host; keep the artifact and report it",
                ));
            }
            Err(_) => {
                return Err(RuntimeError::new(
                    RuntimeErrorKind::Exhausted,
                    format!(
                        "compiling {} KiB of WebAssembly took longer than {:?}",
                        wasm.len() >> 10,
                        self.config.compile_max
                    ),
                    "raise `compile_max` of the WebAssembly runtime, or make the plugin smaller (`opt-level = \"s\"`, `lto = true`)",
                ));
            }
        };
        let optimise = OPTIMISE_PER_KIB * u32::try_from(wasm.len() >> 10).unwrap_or(u32::MAX);
        let ticks_to_pay = optimise.as_nanos() / self.config.tick.as_nanos().max(1);
        let wasm = (linked.tier == Tier::Baseline).then(|| wasm.clone());
        Ok(Arc::new(Tiers {
            current: ArcSwap::from_pointee(linked),
            wasm: Mutex::new(wasm),
            calls: AtomicU64::new(0),
            busy_ticks: Arc::default(),
            ticks_to_pay: u64::try_from(ticks_to_pay).unwrap_or(u64::MAX),
            optimising: AtomicBool::new(false),
            loader: Arc::clone(self),
        }))
    }

    fn find_or_compile<A: Abi>(self: &Arc<Self>, wasm: &Bytes) -> Result<Linked<A>, RuntimeError> {
        let tiers: &[Tier] = if self.engines.has_baseline() {
            &[Tier::Optimised, Tier::Baseline]
        } else {
            &[Tier::Optimised]
        };
        let mut hash = None;
        if let Some(cache) = &self.cache {
            let hash = *hash.insert(WasmHash::of(wasm));
            for &tier in tiers {
                let engine = self.engines.lane(tier).wasmtime();
                if let Some(code) = cache.get(engine, Entry::of(engine, hash)) {
                    return Ok(Linked {
                        abi: A::link(engine, code)?,
                        tier,
                    });
                }
            }
            cache.count_miss();
        }
        if self.config.keeps_any() {
            let first = if self.engines.has_baseline() {
                Tier::Baseline
            } else {
                Tier::Optimised
            };
            self.engines.lane(first).doorway();
        }
        // Quickest first; the last one's error is the answer.
        let mut failed = None;
        for &tier in tiers.iter().rev() {
            let engine = self.engines.lane(tier).wasmtime();
            match compile::<A::Code>(engine, wasm) {
                Ok(code) => {
                    self.keep(engine, hash, &code);
                    return Ok(Linked {
                        abi: A::link(engine, code)?,
                        tier,
                    });
                }
                Err(error) => failed = Some(error),
            }
        }
        let why = failed.map(|it| format!("{it:#}")).unwrap_or_default();
        Err(RuntimeError::new(
            RuntimeErrorKind::Malformed,
            format!("the WebAssembly does not compile: {why}"),
            "the file is damaged, or uses a proposal that plugins may not use (threads, memory64, garbage collection, exceptions)",
        ))
    }

    /// Writes `code` to the cache, later. Without a hash there is no cache.
    fn keep<C: MachineCode>(self: &Arc<Self>, engine: &wasmtime::Engine, hash: Option<WasmHash>, code: &C) {
        let Some(hash) = hash else { return };
        let (loader, entry, code) = (Arc::clone(self), Entry::of(engine, hash), code.clone());
        tokio::task::spawn_blocking(move || loader.write(entry, &code));
    }

    fn write<C: MachineCode>(&self, entry: Entry, code: &C) {
        let Some(cache) = &self.cache else { return };
        match code.freeze() {
            Ok(bytes) => cache.put(entry, &bytes),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "compiled WebAssembly could not be kept"
            ),
        }
    }
}

impl<A: Abi> Tiers<A> {
    /// The best there is now.
    pub(crate) fn current(&self) -> Arc<Linked<A>> {
        self.current.load_full()
    }

    /// Whether there is nothing better than `linked`. Optimised code is never replaced.
    pub(crate) fn is_current(&self, linked: &Linked<A>) -> bool {
        linked.tier == Tier::Optimised || self.current.load().tier == Tier::Baseline
    }

    pub(crate) fn engines(&self) -> &Arc<Engines> {
        &self.loader.engines
    }

    /// Where running guests count the ticks that find them running.
    pub(crate) fn busy_ticks(&self) -> &Arc<AtomicU64> {
        &self.busy_ticks
    }

    /// Counts a call in code of `tier`, and has better code made when it pays (C4).
    pub(crate) fn count_call(self: &Arc<Self>, tier: Tier) {
        if tier == Tier::Optimised
            || self.calls.fetch_add(1, Ordering::Relaxed) + 1 < TIER_UP_CALLS
            || self.busy_ticks.load(Ordering::Relaxed) < self.ticks_to_pay
            || self.optimising.load(Ordering::Relaxed)
            || self.optimising.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let tiers = Arc::clone(self);
        tokio::spawn(async move {
            let loader = Arc::clone(&tiers.loader);
            let Ok(_turn) = loader.optimisers.acquire().await else {
                return;
            };
            let (done, finished) = tokio::sync::oneshot::channel::<()>();
            // A thread of its own, because a thread that has become nice does not become quick again.
            let optimise = move || {
                be_nice();
                tiers.tier_up();
                drop(done);
            };
            let thread = std::thread::Builder::new().name("mortise-wasm-opt".to_owned());
            match thread.spawn(optimise) {
                // It may take its time; an error leaves things as they are.
                Ok(_) => drop(finished.await),
                Err(error) => {
                    tracing::warn!(%error, "no thread to optimise WebAssembly on; the plugin goes on with what it has")
                }
            }
        });
    }

    /// Compiles on this thread alone, so that the service's other cores go on serving.
    fn tier_up(&self) {
        let Some(wasm) = self.wasm.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let engine = self.loader.engines.lane(Tier::Optimised).wasmtime();
        let made = compile_for::<A::Code>(self.loader.engines.background(), engine, &wasm)
            .map_err(|error| format!("{error:#}"))
            .and_then(|code| {
                let abi = A::link(engine, code.clone()).map_err(|error| error.to_string())?;
                Ok((abi, code))
            });
        match made {
            Ok((abi, code)) => {
                let tier = Tier::Optimised;
                self.current.store(Arc::new(Linked { abi, tier }));
                if self.loader.cache.is_some() {
                    self.loader.write(Entry::of(engine, WasmHash::of(&wasm)), &code);
                }
            }
            Err(error) => tracing::warn!(
                error,
                "optimised code could not be made; the plugin goes on with what it has"
            ),
        }
    }
}

/// Gives this thread less of the processor than those that serve. Where that is not possible, it has as much as they.
fn be_nice() {
    // Linux applies it to the calling thread; elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, OPTIMISE_NICE) {
        tracing::debug!(%error, "the optimising thread stays as urgent as the others");
    }
}

/// Compiles. A compiler that panics over a stranger's code is a compiler that refuses it.
fn compile<C: MachineCode>(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<C> {
    let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| C::compile(engine, wasm)));
    compiled.unwrap_or_else(|_| {
        Err(wasmtime::Error::msg(
            "the compiler panicked; see the host's standard error",
        ))
    })
}

impl Code {
    fn downgrade(&self) -> WeakCode {
        match self {
            Self::Component(code) => WeakCode::Component(Arc::downgrade(code)),
            Self::Unwrapped(code) => WeakCode::Unwrapped(Arc::downgrade(code)),
            Self::CoreModule(code) => WeakCode::CoreModule(Arc::downgrade(code)),
        }
    }
}

impl WeakCode {
    fn upgrade(&self) -> Option<Code> {
        match self {
            Self::Component(code) => code.upgrade().map(Code::Component),
            Self::Unwrapped(code) => code.upgrade().map(Code::Unwrapped),
            Self::CoreModule(code) => code.upgrade().map(Code::CoreModule),
        }
    }
}

#[cfg(test)]
mod tests;
