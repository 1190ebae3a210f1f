//! The core module of a component whose wrapper was taken off (`unwrap.rs`): the world of `wit/plugin.wit` by its canonical ABI, without
//! wasmtime's component model.
//!
//! What the wrapper says is done here: lists and strings are copied into memory that the guest's `cabi_realloc` gives, a `result` comes back as
//! a pointer to tag, pointer and length, and nothing is called after a call. Everything a guest hands out is checked, as in `core_module.rs`.
//! One rule of the component model is kept only where it matters: a guest that calls the host from within `cabi_realloc` is trapped for it while the
//! host waits for room for an answer, and gets what it would get elsewhere at other times.
//!
//! ## The doorway
//! An entry into a guest costs a fiber and more, and a call is three of them: room for the head, room for the payload, the call. A kept guest
//! has a second instance beside it (`doorway.wat`) that does all three in one entry and has the host copy head and payload in between. For a
//! guest that serves one call that instance would cost more than it saves.

use bytes::Bytes;
use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use wasmtime::{
    AsContext, Caller, Engine, Error, Extern, Func, Instance, InstancePre, Linker, Memory, Module,
    ModuleExport, Store, TypedFunc,
};

use super::{
    Abi, Answer,
    module::{
        RESULT_PLACE, code_bytes, length, link_log, memory_of, place, request, slice, slots, word, write,
    },
};
use crate::{
    fault::TooLong,
    scan::{GUEST_INTERFACE, HOST_INTERFACE},
    store::{Cell, no_host_in_allocator, room_for_answer},
};

/// `doorway.wat` in binary.
pub(crate) const DOORWAY: &[u8] = include_bytes!("doorway.wasm");

/// The guest's allocator.
const REALLOC: &str = "cabi_realloc";
/// What it gives, for messages.
const ROOM: &str = "what `cabi_realloc` gave";

/// A module without its wrapper, ready to be instantiated.
pub(crate) struct UnwrappedAbi {
    pre: InstancePre<Cell>,
    exports: Exports,
}

struct Exports {
    memory: ModuleExport,
    realloc: ModuleExport,
    start: ModuleExport,
    invoke: ModuleExport,
    health: ModuleExport,
    stop: ModuleExport,
}

type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;
type Invoke = TypedFunc<(u32, u32, u32, u32, u32), u32>;

/// One instance. The functions that are called once in its life are looked up then.
pub(crate) struct Guest {
    instance: Instance,
    memory: Memory,
    realloc: Realloc,
    entry: Entry,
}

enum Entry {
    Doorway(TypedFunc<(u32, u32, u32), u32>),
    Direct(Invoke),
}

impl Abi for UnwrappedAbi {
    type Code = Module;
    type Guest = Guest;

    fn link(engine: &Engine, module: Module) -> Result<Self, RuntimeError> {
        let pre = linker(engine)
            .and_then(|linker| linker.instantiate_pre(&module))
            .map_err(|error| {
                RuntimeError::new(
                    RuntimeErrorKind::MissingImport,
                    format!("the component's module does not fit this host's `{HOST_INTERFACE}`: {error:#}"),
                    "build it against the host's `wit/plugin.wit`: an import differs in its type, or does not exist here",
                )
            })?;
        let exports = Exports::of(&module)?;
        Ok(Self { pre, exports })
    }

    fn code_bytes(&self) -> u64 {
        code_bytes(self.pre.module())
    }

    fn slots(&self) -> u32 {
        slots(self.pre.module())
    }

    async fn instantiate(
        &self,
        store: &mut Store<Cell>,
        doorway: Option<&Module>,
    ) -> wasmtime::Result<Guest> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let mut export = |it: &ModuleExport| instance.get_module_export(&mut *store, it);
        let memory = export(&self.exports.memory).and_then(Extern::into_memory);
        let realloc = export(&self.exports.realloc).and_then(Extern::into_func);
        let invoke = export(&self.exports.invoke).and_then(Extern::into_func);
        let (Some(memory), Some(realloc), Some(invoke)) = (memory, realloc, invoke) else {
            return Err(Error::msg(
                "an export of the module is not what it was when it was linked",
            ));
        };
        store.data_mut().memory = Some(memory);
        let entry = match doorway {
            Some(doorway) => {
                let fill = Func::wrap(&mut *store, fill);
                let imports = [realloc.into(), invoke.into(), fill.into()];
                let doorway = Instance::new_async(&mut *store, doorway, &imports).await?;
                Entry::Doorway(doorway.get_typed_func(&mut *store, "invoke")?)
            }
            None => Entry::Direct(invoke.typed(&*store)?),
        };
        Ok(Guest {
            instance,
            memory,
            realloc: realloc.typed(&*store)?,
            entry,
        })
    }

    async fn start(&self, guest: &Guest, store: &mut Store<Cell>, request: &[u8]) -> Answer<()> {
        let start: TypedFunc<(u32, u32), u32> = guest.function(store, &self.exports.start)?;
        let at = guest.put(store, request).await?;
        let result = start.call_async(&mut *store, (at, length(request)?)).await?;
        guest
            .take(store, result, Tag::WithoutReply)
            .map(|it| it.map(drop))
    }

    async fn invoke(
        &self,
        guest: &Guest,
        store: &mut Store<Cell>,
        method: u32,
        payload: Bytes,
    ) -> Answer<Vec<u8>> {
        let cell = store.data_mut();
        let lengths = (length(&cell.scratch)?, length(&payload)?);
        let result = match &guest.entry {
            Entry::Doorway(invoke) => {
                cell.payload = payload;
                let result = invoke
                    .call_async(&mut *store, (method, lengths.0, lengths.1))
                    .await;
                store.data_mut().payload = Bytes::new();
                result?
            }
            Entry::Direct(invoke) => {
                let head = std::mem::take(&mut cell.scratch);
                let head_at = guest.put(store, &head).await?;
                store.data_mut().scratch = head;
                let payload_at = guest.put(store, &payload).await?;
                let arguments = (method, head_at, lengths.0, payload_at, lengths.1);
                invoke.call_async(&mut *store, arguments).await?
            }
        };
        guest.take(store, result, Tag::WithReply)
    }

    async fn health(&self, guest: &Guest, store: &mut Store<Cell>) -> wasmtime::Result<Option<Vec<u8>>> {
        let health: TypedFunc<(), u32> = guest.function(store, &self.exports.health)?;
        let result = health.call_async(&mut *store, ()).await?;
        let pair = guest.words(store, result, 2)?;
        guest.copy(store, word(pair, 0), word(pair, 4)).map(Some)
    }

    async fn stop(&self, guest: &Guest, store: &mut Store<Cell>) -> wasmtime::Result<()> {
        let stop: TypedFunc<(), ()> = guest.function(store, &self.exports.stop)?;
        stop.call_async(store, ()).await
    }
}

/// Which side of a `result` has bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// `result<list<u8>, list<u8>>`
    WithReply,
    /// `result<_, list<u8>>`
    WithoutReply,
}

impl Guest {
    fn function<P, R>(
        &self,
        store: &mut Store<Cell>,
        export: &ModuleExport,
    ) -> wasmtime::Result<TypedFunc<P, R>>
    where
        P: wasmtime::WasmParams,
        R: wasmtime::WasmResults,
    {
        let function = self.instance.get_module_export(&mut *store, export);
        let function = function
            .and_then(Extern::into_func)
            .ok_or_else(|| Error::msg("an export of the module is not what it was when it was linked"))?;
        function.typed(&*store)
    }

    /// Copies `bytes` into memory that the guest allocates for them. It owns them once it is entered.
    async fn put(&self, store: &mut Store<Cell>, bytes: &[u8]) -> wasmtime::Result<u32> {
        let at = self
            .realloc
            .call_async(&mut *store, (0, 0, 1, length(bytes)?))
            .await?;
        write(&mut *store, self.memory, at, bytes, ROOM)?;
        Ok(at)
    }

    /// Copies a `result` out of the guest, where it stays until the guest is entered again.
    fn take(&self, store: &Store<Cell>, result: u32, tag: Tag) -> Answer<Vec<u8>> {
        let triple = self.words(store, result, 3)?;
        let (at, len) = (word(triple, 4), word(triple, 8));
        match triple[0] {
            0 if tag == Tag::WithoutReply => Ok(Ok(Vec::new())),
            0 => Ok(Ok(self.copy(store, at, len)?)),
            1 => Ok(Err(self.copy(store, at, len)?)),
            other => Err(Error::msg(format!(
                "the result's tag is {other}; 0 is a reply, 1 is a Status"
            ))),
        }
    }

    fn words<'a>(&self, store: &'a Store<Cell>, at: u32, words: u32) -> wasmtime::Result<&'a [u8]> {
        check_alignment(at)?;
        slice(self.memory.data(store), at, 4 * words, "the result")
    }

    fn copy(&self, store: &Store<Cell>, at: u32, len: u32) -> wasmtime::Result<Vec<u8>> {
        let bytes_max = store.data().payload_bytes_max();
        let bytes = len as usize;
        if bytes > bytes_max {
            return Err(Error::new(TooLong { bytes, bytes_max }));
        }
        Ok(slice(self.memory.data(store), at, len, "the reply")?.to_vec())
    }
}

impl Exports {
    /// What the wrapper lifted. It was valid, so all of it is there; the types are looked at again, because `typed` must not fail later.
    fn of(module: &Module) -> Result<Self, RuntimeError> {
        use wasmtime::{ExternType, ValType::I32};
        let function = |name: &str, params: usize, results: usize| {
            let fits = match module.get_export(name) {
                Some(ExternType::Func(found)) => {
                    found.params().len() == params
                        && found.results().len() == results
                        && found.params().chain(found.results()).all(|it| matches!(it, I32))
                }
                _ => false,
            };
            fits.then(|| module.get_export_index(name)).flatten()
        };
        let guest =
            |name: &str, params, results| function(&format!("{GUEST_INTERFACE}#{name}"), params, results);
        let memory = match module.get_export("memory") {
            Some(ExternType::Memory(found)) if !found.is_64() && !found.is_shared() => {
                module.get_export_index("memory")
            }
            _ => None,
        };
        let found = (
            memory,
            function(REALLOC, 4, 1),
            guest("start", 2, 1),
            guest("invoke", 5, 1),
            guest("health", 0, 1),
            guest("stop", 0, 0),
        );
        if let (Some(memory), Some(realloc), Some(start), Some(invoke), Some(health), Some(stop)) = found {
            return Ok(Self {
                memory,
                realloc,
                start,
                invoke,
                health,
                stop,
            });
        }
        Err(RuntimeError::new(
            RuntimeErrorKind::AbiMismatch,
            format!("the component's module lacks a function of `{GUEST_INTERFACE}`"),
            "build the plugin with `mortise build`, against the host's `wit/plugin.wit`",
        ))
    }
}

fn check_alignment(at: u32) -> wasmtime::Result<()> {
    if at.is_multiple_of(4) {
        return Ok(());
    }
    Err(Error::msg(format!(
        "the result's place {at:#x} is not aligned to 4 bytes"
    )))
}

/// The doorway's import: head and payload of the call, into the room that the guest has given.
fn fill(mut caller: Caller<'_, Cell>, head_at: u32, payload_at: u32) -> wasmtime::Result<()> {
    let memory = caller
        .data()
        .memory
        .ok_or_else(|| Error::msg("a guest without memory was called"))?;
    let (bytes, cell) = memory.data_and_store_mut(&mut caller);
    place(bytes, head_at, &cell.scratch, ROOM)?;
    place(bytes, payload_at, &cell.payload, ROOM)
}

/// The whole of what such a module may import: what the wrapper lowered.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Cell>> {
    let mut linker = Linker::new(engine);
    link_log(&mut linker, HOST_INTERFACE)?;
    linker.func_wrap_async(
        HOST_INTERFACE,
        "call",
        |mut caller: Caller<'_, Cell>,
         (_parent, target_at, target_len, at, len, result): (i64, u32, u32, u32, u32, u32)| {
            Box::new(async move {
                no_host_in_allocator(caller.data())?;
                let memory = memory_of(&mut caller)?;
                let cell = caller.data();
                let data = memory.data(&caller);
                let request = request(data, cell, (target_at, target_len), (at, len))?;
                // Looked at before anything is done that would be lost.
                check_alignment(result)?;
                slice(data, result, 12, RESULT_PLACE)?;
                let answer = cell.call_host(request).await.map_err(Error::new)?;
                let (tag, bytes) = match answer {
                    Ok(bytes) => (0_u32, bytes),
                    Err(status) => (1, status),
                };
                let realloc = caller.get_export(REALLOC).and_then(Extern::into_func);
                let realloc = realloc
                    .ok_or_else(|| Error::msg("`cabi_realloc` is no function"))?
                    .typed::<(u32, u32, u32, u32), u32>(caller.as_context())?;
                let at = room_for_answer(&mut caller, realloc, (0, 0, 1, length(&bytes)?)).await?;
                write(&mut caller, memory, at, &bytes, ROOM)?;
                let mut outcome = [0; 12];
                for (word, value) in [tag, at, length(&bytes)?].into_iter().enumerate() {
                    outcome[4 * word..][..4].copy_from_slice(&value.to_le_bytes());
                }
                write(&mut caller, memory, result, &outcome, RESULT_PLACE)?;
                wasmtime::Result::Ok(())
            })
        },
    )?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doorway_is_what_its_text_says() {
        let text = wat::parse_str(include_str!("doorway.wat")).expect("the text is well formed");
        assert_eq!(DOORWAY, text);
    }
}
