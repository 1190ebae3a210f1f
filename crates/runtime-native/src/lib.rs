//! Plugins as shared libraries in the host's own address space, over the C ABI of `include/mortise.h`.
//!
//! The fastest and the least careful runtime: a call is a function call, and a crash of the plugin is a crash of the host. This crate
//! refuses what can be refused on bytes, before any of the plugin's code runs; it never unmaps a library, never compares toolchains
//! and never lets a call decide how long its caller waits (except for methods that promised not to block).
//!
//! ```text
//!  read_metadata   bytes only: machine and system, section `.mortise`
//!  prepare         budget, then a private copy at a path that is new for every content: <cache>/<digest>/plugin.so
//!  start           open (pinned) -> entry -> same metadata? -> create -> match methods by name -> activate
//!  stop            no new calls -> wait for the running -> deactivate -> destroy -> the mapping stays, counted
//! ```
//!
//! # Invariants
//!
//! - I1. A library is opened at most once per process and digest, stays mapped for ever, and is counted against the budget.
//! - I2. No plugin function runs after `destroy`, and `destroy` runs once, after every registered call has returned. A call that does
//!   not return keeps the instance's memory for ever instead ([`StopReport::left`](mortise_runtime::StopReport)).
//! - I3. What the plugin can still reach after `destroy` (its `mt_host` and the contexts of async completions) is never freed: a late
//!   call of it gets `MT_E_DRAINING`, and a late or second completion is reported, not followed.
//! - I4. Nothing unwinds across the line in either direction.
//! - I5. A plugin thread that blocks in `mt_host.call` never blocks a thread of the executor that must answer it.
//! - I6. After a caught panic no further call enters the instance.
//!
//! # Who interrupts what
//! Nobody interrupts native code. At its deadline a call's caller is freed and the plugin sees `cancelled`; if the call has not returned
//! a grace later, [`ended`](mortise_runtime::Instance::ended) says `Stuck`, and the host replaces the instance. A method that is flagged
//! NONBLOCKING runs on the caller's thread: its promise not to block is taken at its word, and a broken promise is
//! told by the same watchdog, but nothing frees that thread.
//!
//! Reading order: [`runtime`], `loader`, `entry`, `library`, `instance`, `call`, then what they use: `out`, `outcome`, `live`, `workers`, `gate`,
//! `host_table`, `watchdog`.

mod asynchronous;
mod cache;
mod call;
mod direct;
mod entry;
mod gate;
mod host_table;
mod instance;
mod library;
mod live;
mod loader;
mod out;
mod outcome;
mod runtime;
mod watchdog;
mod workers;

pub use library::{GENERATIONS_HARD_MAX, mappings};
pub use runtime::{Generations, NativeConfig, NativeRuntime};
