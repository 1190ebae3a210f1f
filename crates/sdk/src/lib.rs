//! Write a Mortise plugin: one trait, three runtimes.
//!
//! A plugin is a crate with a contract (`contract/*.proto`), a manifest (`plugin.toml`), a `build.rs` of one line and an `impl` of
//! the trait that is generated from the contract. The same source becomes a shared library, a WebAssembly component and an
//! executable; the operator picks one, and the plugin cannot tell which but by what it costs.
//!
//! This crate explicitly refuses to know what runs it: no threads, sockets or files are offered, because a sandbox has none. What a
//! plugin needs of the world comes through [`Cx`], and is granted or denied by the operator.
//!
//! # A whole plugin
//! `plugin.toml`:
//! ```toml
//! [plugin]
//! name = "greeter"
//! version = "0.1.0"
//! api = 1
//! [contract]
//! provides = ["acme.v1.Greeter"]
//! [permissions]
//! kv = true
//! ```
//! `contract/greeter.proto`:
//! ```proto
//! syntax = "proto3";
//! package acme.v1;
//! service Greeter { rpc Greet(GreetRequest) returns (GreetReply); }
//! message GreetRequest { string name = 1; }
//! message GreetReply { string text = 1; uint64 times = 2; }
//! ```
//! `build.rs`: `fn main() { mortise_build::plugin(); }`, and `src/main.rs`: `mortise_sdk::main!(greeter);`
//!
//! `src/lib.rs`:
//! ```ignore
//! #![forbid(unsafe_code)]
//! use mortise_sdk::prelude::*;
//!
//! mortise_sdk::contract!();
//! use contract::{GreetReply, GreetRequest, Greeter};
//!
//! #[derive(Default)]
//! struct MyPlugin;
//!
//! #[mortise_sdk::plugin]
//! impl Greeter for MyPlugin {
//!     fn greet(&self, cx: &Cx, request: GreetRequest) -> Result<GreetReply> {
//!         if request.name.is_empty() {
//!             return Err(Status::invalid_argument("`name` is empty; say whom to greet"));
//!         }
//!         let before = cx.kv().get(&request.name)?.and_then(|it| it.try_into().ok());
//!         let times = before.map_or(1, |it| u64::from_le_bytes(it) + 1);
//!         cx.kv().set(&request.name, times.to_le_bytes())?;
//!         info!(cx, { times = times }, "greeting {}", request.name);
//!         Ok(GreetReply { text: format!("Hello, {}!", request.name), times })
//!     }
//! }
//! ```
//! `mortise build` makes the package, and `mortise new greeter` writes all of this.
//!
//! # Panics, and what the SDK does about them
//! | runtime | a panic in a method |
//! |---|---|
//! | native | is caught; the call fails, message and place go to the host, the instance answers no further call and is replaced |
//! | wasm | is logged with message and place, then traps; the instance is dropped |
//! | process | is logged with message and place, then the process ends with code 101 and is replaced |
//!
//! Return an `Err` for what a caller did wrong; a panic is for what cannot be.
//!
//! # Unsafe code
//! A plugin may say `#![forbid(unsafe_code)]`. What crosses the boundary needs unsafe code; all of it is in this crate's ABI modules
//! and in the expansion of this crate's macros, which the lint does not look into.
//!
//! # Methods that stream
//! `rpc Watch(WatchRequest) returns (stream Change)` becomes `fn watch(&self, cx: &Cx, request: WatchRequest, replies: &mut Replies<Change>) ->
//! Result<()>`, `rpc Sum(stream Number) returns (Total)` becomes `fn sum(&self, cx: &Cx, requests: &mut Requests<Number>) -> Result<Total>`, and a
//! method with the word on both sides gets both. See [`Requests`] and [`Replies`]. A streaming method cannot be `nonblocking`, and where a
//! runtime cannot stream (WebAssembly) it is answered with `Unimplemented`.
//!
//! # State that outlives an instance
//! A plugin that keeps something in memory says in `plugin.toml` which message of its contract that is (`[state]`, `schema`), implements
//! [`Stateful`], and says so: `#[mortise_sdk::plugin(stateful)]`. A swap then carries it into the new version, an unload saves it, and a load
//! begins with what was saved last. See [`lifecycle`], also for what a plugin may say when it is to be replaced.
//!
//! # Events
//! `cx.events().publish("orders.eu.placed", &message)` publishes a message of the contract; `[[subscribe]]` in `plugin.toml` names the method that is
//! called with one. See [`Events`].
//!
//! # Configuration that changes
//! The operator's configuration is JSON ([`Cx::config_json`]). `[config]` in `plugin.toml` names the message of the contract that it has to look like, and
//! with `hot = true` a running instance is asked to take a new one: see [`lifecycle`].
//!
//! # Methods that promise to be `nonblocking`
//! The contract's option `mortise.nonblocking` says that a method returns promptly. The process runtime runs it on the thread
//! that reads the lane, the native one on a thread of the host's executor. Such a method may log; a call to the host or to another
//! plugin out of it is refused with `FailedPrecondition` where it would block the one who has to answer.

mod cx;
mod events;
pub mod guest;
#[cfg(any(
    test,
    all(target_family = "wasm", feature = "heap", not(target_feature = "atomics"))
))]
mod heap;
#[cfg(feature = "serde")]
pub mod json;
mod kv;
pub mod lifecycle;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod linked;
mod log;
mod macros;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod native;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod process;
pub mod stream;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod wasm;

#[doc(no_inline)]
pub use mortise_wire::{
    CallHead, Code, Header, Level, LogRecord, StartRequest, Status, StreamLink, client,
    host::{HttpHeader, HttpReply, HttpRequest},
};
#[doc(no_inline)]
pub use prost;
#[doc(no_inline)]
pub use prost_types;

pub use cx::{Cx, Http, Link};
pub use events::{EventInfo, Events};
pub use kv::Kv;
pub use lifecycle::Stateful;
pub use mortise_sdk_macros::plugin;
pub use stream::{Replies, Requests};

/// What a method returns: the reply, or what went wrong.
pub type Result<T, E = Status> = std::result::Result<T, E>;

/// What a plugin's source usually names.
pub mod prelude {
    pub use crate::{
        Code, Cx, Level, Replies, Requests, Result, Stateful, Status, client::BlockingCaller as _, debug,
        error, info, plugin, trace, warn,
    };
}

/// A plugin's answer to the question how it is.
fn health_of<P: guest::Plugin>(plugin: &P) -> mortise_wire::Health {
    match plugin.health() {
        Ok(()) => mortise_wire::Health {
            serving: true,
            detail: String::new(),
        },
        Err(status) => mortise_wire::Health {
            serving: false,
            detail: status.message,
        },
    }
}
