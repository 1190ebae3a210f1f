//! The engines: one per compiler, with their ticks.
//!
//! ## Two compilers
//! Cranelift takes 50 ms and two cores for a guest of 70 KB, Winch 12 ms, and its code runs slower. So a guest that is not in the cache starts
//! on Winch's code, and one that runs much gets Cranelift's, made on one thread beside the running service (`code.rs`). Both compilers are
//! of wasmtime's first support tier on x86-64; elsewhere there is only Cranelift. Code of one compiler cannot run in an engine of the other,
//! hence two engines; they share nothing but the ticks.
//!
//! ## Ticks
//! wasmtime's compiled code compares a counter of the engine with a deadline of the store at every loop header and function entry. The
//! counter is advanced by one plain thread, never by a task (a guest that holds the executor's threads would hold its own watchdog) and never
//! per call (a shared counter that calls advance ends other people's calls early). The thread sleeps while no guest runs:
//!
//! - T1. [`Engines::enter`] adds to `active` *before* it reads `parked`.
//! - T2. The ticker sets `parked` *before* it reads `active`, and parks only if that is 0.
//! - T3. Both pairs are `SeqCst`, so at least one side sees the other: a running guest always has ticks.
//!
//! The thread ends with the runtime: it holds only a weak engine and is woken by `Drop`.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, EngineWeak, InstanceAllocationStrategy, Module, OptLevel, PoolingAllocationConfig,
    RegallocAlgorithm, Strategy,
};

use crate::{
    abi::unwrapped::DOORWAY,
    config::{Pooling, Tiering, WasmConfig},
    pool::Pool,
};

/// Table elements one guest may have. Part of the sandbox, not of `Limits`: no honest plugin comes near.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances inside one guest: a component made by `wit-component` has four.
pub(crate) const CORE_INSTANCES_MAX: usize = 32;
/// Tables inside one guest.
pub(crate) const TABLES_MAX: usize = 16;
/// Linear memories inside one guest.
pub(crate) const MEMORIES_MAX: usize = 2;
/// Native stack of a guest's call; the guest itself may use half a megabyte of it.
const STACK_BYTES: usize = 2 << 20;
/// Ticks without a running guest after which the ticker sleeps.
const IDLE_TICKS_MAX: u32 = 20;

/// Engines of one runtime, with one ticker.
pub(crate) struct Engines {
    optimised: Lane,
    baseline: Option<Lane>,
    background: wasmtime::Engine,
    pool: Pool,
    pulse: Arc<Pulse>,
    ticker: Option<JoinHandle<()>>,
}

/// An engine that runs guests, and the number of guests it can hold.
pub(crate) struct Lane {
    wasmtime: wasmtime::Engine,
    slots: Arc<Semaphore>,
    pooled: bool,
    doorway: OnceLock<Option<Module>>,
}

/// Which compiler made a piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Winch: compiles four times faster, runs slower.
    Baseline,
    /// Cranelift.
    Optimised,
}

struct Pulse {
    active: AtomicUsize,
    parked: AtomicBool,
    over: AtomicBool,
}

/// While it lives there are ticks.
pub(crate) struct Running<'a> {
    pulse: &'a Pulse,
}

impl Engines {
    pub(crate) fn new(config: &WasmConfig) -> Result<Self, RuntimeError> {
        let optimised = Lane::new(config, base)?;
        // Winch is of wasmtime's first tier on x86-64 only.
        let wanted = config.tiering == Tiering::BaselineFirst && cfg!(target_arch = "x86_64");
        let baseline = if wanted {
            Some(Lane::new(config, winch)?)
        } else {
            None
        };
        let mut serial = base();
        serial.parallel_compilation(false);
        if !optimised.pooled {
            mapped(&mut serial);
        }
        let background = wasmtime::Engine::new(&serial).map_err(no_engine)?;
        let pulse = Arc::new(Pulse {
            active: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let weak: Vec<EngineWeak> = [Some(&optimised), baseline.as_ref()]
            .into_iter()
            .flatten()
            .map(|it| it.wasmtime.weak())
            .collect();
        let (beat, tick) = (Arc::clone(&pulse), config.tick.max(Duration::from_micros(100)));
        let ticker = std::thread::Builder::new()
            .name("mortise-wasm-tick".to_owned())
            .stack_size(64 << 10)
            .spawn(move || tick_until_over(&weak, &beat, tick))
            .map_err(|error| {
                RuntimeError::new(
                    RuntimeErrorKind::Loader,
                    format!("the thread that interrupts WebAssembly guests could not be started: {error}"),
                    "raise the limit on threads (`ulimit -u`, pids cgroup)",
                )
            })?;
        Ok(Self {
            optimised,
            baseline,
            background,
            pool: Pool::default(),
            pulse,
            ticker: Some(ticker),
        })
    }

    /// The lane that runs code of `tier`. Without a baseline there is only one.
    pub(crate) fn lane(&self, tier: Tier) -> &Lane {
        match tier {
            Tier::Baseline => self.baseline.as_ref().unwrap_or(&self.optimised),
            Tier::Optimised => &self.optimised,
        }
    }

    /// Whether there is a quick compiler.
    pub(crate) fn has_baseline(&self) -> bool {
        self.baseline.is_some()
    }

    /// Compiles for [`Tier::Optimised`] on one thread, beside running guests.
    pub(crate) fn background(&self) -> &wasmtime::Engine {
        &self.background
    }

    /// Where calls go that take long.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Must be held while a guest may run, or its deadline is not seen.
    pub(crate) fn enter(&self) -> Running<'_> {
        let pulse = &*self.pulse;
        pulse.active.fetch_add(1, Ordering::SeqCst);
        if pulse.parked.load(Ordering::SeqCst)
            && let Some(ticker) = &self.ticker
        {
            ticker.thread().unpark();
        }
        Running { pulse }
    }
}

impl Lane {
    /// A lane with a pool if the machine has the address space for one. Reserving it is the probe: the pool maps everything at once, and
    /// under `ulimit -v` or on a small address space that fails here and not in the middle of a call.
    fn new(config: &WasmConfig, base: fn() -> Config) -> Result<Self, RuntimeError> {
        let slots = Arc::new(Semaphore::new(config.instances_max as usize));
        if config.pooling == Pooling::Auto {
            let mut pooled = base();
            pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config.instances_max)));
            match wasmtime::Engine::new(&pooled) {
                Ok(wasmtime) => {
                    return Ok(Self {
                        wasmtime,
                        slots,
                        pooled: true,
                        doorway: OnceLock::new(),
                    });
                }
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "no address space for a pool of {} WebAssembly guests; each is mapped on its own, which is slower. Lift `ulimit -v`, \
                     or configure fewer instances",
                    config.instances_max
                ),
            }
        }
        let mut config = base();
        mapped(&mut config);
        let wasmtime = wasmtime::Engine::new(&config).map_err(no_engine)?;
        Ok(Self {
            wasmtime,
            slots,
            pooled: false,
            doorway: OnceLock::new(),
        })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// Admits guests; the pool's own exhaustion is an error, not a wait.
    pub(crate) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// The module beside kept guests of the unwrapped ABI; `None` if it cannot be compiled, and they get along without. The first to ask waits
    /// a millisecond.
    pub(crate) fn doorway(&self) -> Option<&Module> {
        let compile = || {
            Module::from_binary(&self.wasmtime, DOORWAY)
                .inspect_err(|error| {
                    tracing::warn!(error = format!("{error:#}"), "kept guests have no doorway")
                })
                .ok()
        };
        self.doorway.get_or_init(compile).as_ref()
    }

    /// Whether guests come from the pool.
    pub(crate) fn pooled(&self) -> bool {
        self.pooled
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.pulse.active.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.pulse.over.store(true, Ordering::SeqCst);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            // It does nothing but count, so it cannot have panicked; and if it had, there is nobody left to tell.
            let _ = ticker.join();
        }
    }
}

fn tick_until_over(engines: &[EngineWeak], pulse: &Pulse, tick: Duration) {
    let mut idle = 0;
    while !pulse.over.load(Ordering::SeqCst) {
        if pulse.active.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else if idle < IDLE_TICKS_MAX {
            idle += 1;
        } else {
            pulse.parked.store(true, Ordering::SeqCst);
            if pulse.active.load(Ordering::SeqCst) == 0 && !pulse.over.load(Ordering::SeqCst) {
                std::thread::park();
            }
            pulse.parked.store(false, Ordering::SeqCst);
            continue;
        }
        std::thread::park_timeout(tick);
        for engine in engines {
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    }
}

fn no_engine(error: wasmtime::Error) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Loader,
        format!("the WebAssembly engine could not be made: {error:#}"),
        "run `mortise doctor`; a processor or a system without virtual memory is not supported",
    )
}

/// Each guest's memory mapped on its own, with bounds checks instead of gigabytes of guard pages, or the fallback would fail for the reason
/// the pool did.
fn mapped(config: &mut Config) {
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config
        .memory_reservation(0)
        .memory_reservation_for_growth(1 << 20)
        .memory_guard_size(64 << 10);
}

fn base() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(true)
        .memory_init_cow(true)
        .generate_address_map(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(STACK_BYTES)
        .async_stack_zeroing(true)
        // The build has no threads, garbage collection, exceptions or component-model async in it at all; these are the rest of what a
        // plugin of the fixed world has no use for.
        .shared_memory(false)
        .wasm_memory64(false)
        .concurrency_support(false);
    // For native debuggers only, and a tenth of the code's size. A guest's own trace is made without it.
    #[cfg(not(windows))]
    config.native_unwind_info(false);
    config
}

/// As `base`, compiled by Winch, which knows neither tail calls nor relaxed SIMD. Code that needs them is compiled by Cranelift at once.
/// Cranelift makes the trampolines here, too; at its quickest, or they would take as long as the guest.
fn winch() -> Config {
    let mut config = base();
    config
        .strategy(Strategy::Winch)
        .cranelift_opt_level(OptLevel::None)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass)
        // A tenth of its time and of its code. A trap names its functions all the same, only not the byte in them.
        .generate_address_map(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false);
    config
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(2))
        // A guest whose allocator makes room for what the host answers is in its call and in its allocator.
        .total_stacks(instances.saturating_mul(2))
        .max_core_instances_per_component(CORE_INSTANCES_MAX as u32)
        .max_memories_per_component(MEMORIES_MAX as u32)
        .max_tables_per_component(TABLES_MAX as u32)
        .max_memories_per_module(MEMORIES_MAX as u32)
        .max_tables_per_module(TABLES_MAX as u32)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(4 << 30)
        // What is kept is cleared by memset, the rest is given back to the system. Measured: 64 KiB covers the pages a small guest dirties,
        // and a fresh instance costs a fifth less than with 0 and half of what it costs with 1 MiB.
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(4 << 10)
        .async_stack_keep_resident(16 << 10)
        .decommit_batch_size(16)
        .max_unused_warm_slots(32)
        .pagemap_scan(Enabled::Auto);
    pool
}
