//! One logical guest, two ABIs, three ways to run them.
//!
//! [`component`]: `wit/plugin.wit`, whoever made it. [`unwrapped`]: the same, as `mortise build` makes it, without the component model.
//! [`core_module`]: `wit/core-abi.md`, for languages without component tooling. [`module`]: what the latter two share.
//! Everything above this module is written once, against [`Abi`].

use std::future::Future;

use bytes::Bytes;
use mortise_runtime::RuntimeError;
use wasmtime::{Engine, Module, Store};

use crate::{cache::MachineCode, store::Cell};

pub(crate) mod component;
pub(crate) mod core_module;
mod module;
pub(crate) mod unwrapped;

pub(crate) use component::ComponentAbi;
pub(crate) use core_module::CoreAbi;
pub(crate) use unwrapped::UnwrappedAbi;

/// What a guest answers: its bytes, or an encoded `Status`. The outer error is wasmtime's; after one, the store is not to be entered again.
pub(crate) type Answer<T> = wasmtime::Result<Result<T, Vec<u8>>>;

/// Compiled code of one ABI, its imports resolved and its exports found: all that is the same for every instance of it.
pub(crate) trait Abi: Send + Sync + Sized + 'static {
    /// What wasmtime compiled.
    type Code: MachineCode;
    /// Handles into one store.
    type Guest: Send + Sync + 'static;

    /// Resolves imports and exports.
    fn link(engine: &Engine, code: Self::Code) -> Result<Self, RuntimeError>;

    /// Bytes of machine code and its data.
    fn code_bytes(&self) -> u64;

    /// How many of the engine's slots one instance takes.
    fn slots(&self) -> u32;

    /// Makes an instance. Runs the module's own start function, if it has one. A `doorway` is given to guests that are kept.
    fn instantiate(
        &self,
        store: &mut Store<Cell>,
        doorway: Option<&Module>,
    ) -> impl Future<Output = wasmtime::Result<Self::Guest>> + Send;

    /// `start`, once, before anything else.
    fn start(
        &self,
        guest: &Self::Guest,
        store: &mut Store<Cell>,
        request: &[u8],
    ) -> impl Future<Output = Answer<()>> + Send;

    /// Calls a method. The encoded head is in the cell's `scratch`, and is there again after a call that ended in order.
    fn invoke(
        &self,
        guest: &Self::Guest,
        store: &mut Store<Cell>,
        method: u32,
        payload: Bytes,
    ) -> impl Future<Output = Answer<Vec<u8>>> + Send;

    /// `health`: an encoded `Health`. `None` if the guest has nothing to say.
    fn health(
        &self,
        guest: &Self::Guest,
        store: &mut Store<Cell>,
    ) -> impl Future<Output = wasmtime::Result<Option<Vec<u8>>>> + Send;

    /// `stop`, the last call.
    fn stop(
        &self,
        guest: &Self::Guest,
        store: &mut Store<Cell>,
    ) -> impl Future<Output = wasmtime::Result<()>> + Send;
}
