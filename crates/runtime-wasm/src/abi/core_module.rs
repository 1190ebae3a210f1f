//! Guests of the core-module ABI (`wit/core-abi.md`).
//!
//! Everything a guest hands out (pointers, lengths, tags) is checked against its memory before it is used; what does not fit is the guest's
//! fault and ends the call.

use bytes::Bytes;
use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use wasmtime::{
    AsContext, Caller, Engine, Error, Extern, InstancePre, Linker, Memory, Module, Store, TypedFunc,
};

use super::{
    Abi, Answer,
    module::{RESULT_PLACE, code_bytes, length, link_log, memory_of, request, slice, slots, word, write},
};
use crate::{
    fault::TooLong,
    scan::{CORE_EXPORTS, HOST_MODULE},
    store::{Cell, no_host_in_allocator, room_for_answer},
};

/// The guest's allocator.
const ALLOC: &str = "mortise_alloc";
/// What it gives, for messages.
const ROOM: &str = "what `mortise_alloc` gave";

/// A core module, ready to be instantiated.
pub(crate) struct CoreAbi {
    pre: InstancePre<Cell>,
}

/// One instance.
pub(crate) struct Guest {
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<(u32, u32), ()>,
    invoke: TypedFunc<(u32, u32, u32, u32, u32), u32>,
    start: Option<TypedFunc<(u32, u32), u32>>,
    health: Option<TypedFunc<(), u32>>,
    stop: Option<TypedFunc<(), ()>>,
}

impl Abi for CoreAbi {
    type Code = Module;
    type Guest = Guest;

    fn link(engine: &Engine, module: Module) -> Result<Self, RuntimeError> {
        let pre = linker(engine)
            .and_then(|linker| linker.instantiate_pre(&module))
            .map_err(|error| {
                RuntimeError::new(
                    RuntimeErrorKind::MissingImport,
                    format!("the module does not fit this host's module `{HOST_MODULE}`: {error:#}"),
                    "declare the imports with the types that `wit/core-abi.md` gives them",
                )
            })?;
        check_exports(&module)?;
        Ok(Self { pre })
    }

    fn code_bytes(&self) -> u64 {
        code_bytes(self.pre.module())
    }

    fn slots(&self) -> u32 {
        slots(self.pre.module())
    }

    async fn instantiate(&self, store: &mut Store<Cell>, _: Option<&Module>) -> wasmtime::Result<Guest> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let memory = instance
            .get_memory(&mut *store, "memory")
            .ok_or_else(|| Error::msg("`memory` is no memory"))?;
        Ok(Guest {
            memory,
            alloc: instance.get_typed_func(&mut *store, ALLOC)?,
            free: instance.get_typed_func(&mut *store, "mortise_free")?,
            invoke: instance.get_typed_func(&mut *store, "mortise_invoke")?,
            start: instance.get_typed_func(&mut *store, "mortise_start").ok(),
            health: instance.get_typed_func(&mut *store, "mortise_health").ok(),
            stop: instance.get_typed_func(&mut *store, "mortise_stop").ok(),
        })
    }

    async fn start(&self, guest: &Guest, store: &mut Store<Cell>, request: &[u8]) -> Answer<()> {
        let Some(start) = &guest.start else {
            return Ok(Ok(()));
        };
        let at = guest.put(store, request).await?;
        let result = start.call_async(&mut *store, (at, length(request)?)).await?;
        Ok(guest.take(store, result).await?.map(drop))
    }

    async fn invoke(
        &self,
        guest: &Guest,
        store: &mut Store<Cell>,
        method: u32,
        payload: Bytes,
    ) -> Answer<Vec<u8>> {
        let head = std::mem::take(&mut store.data_mut().scratch);
        let head_at = guest.put(store, &head).await?;
        let payload_at = guest.put(store, &payload).await?;
        let arguments = (method, head_at, length(&head)?, payload_at, length(&payload)?);
        store.data_mut().scratch = head;
        let result = guest.invoke.call_async(&mut *store, arguments).await?;
        guest.take(store, result).await
    }

    async fn health(&self, guest: &Guest, store: &mut Store<Cell>) -> wasmtime::Result<Option<Vec<u8>>> {
        let Some(health) = &guest.health else {
            return Ok(None);
        };
        let result = health.call_async(&mut *store, ()).await?;
        match guest.take(store, result).await? {
            Ok(health) => Ok(Some(health)),
            Err(_) => Err(Error::msg(
                "`mortise_health` answered with an error; it has none to give",
            )),
        }
    }

    async fn stop(&self, guest: &Guest, store: &mut Store<Cell>) -> wasmtime::Result<()> {
        match &guest.stop {
            Some(stop) => stop.call_async(store, ()).await,
            None => Ok(()),
        }
    }
}

impl Guest {
    /// Copies `bytes` into memory that the guest allocates for them. It owns them once it is entered.
    async fn put(&self, store: &mut Store<Cell>, bytes: &[u8]) -> wasmtime::Result<u32> {
        let at = self.alloc.call_async(&mut *store, length(bytes)?).await?;
        write(&mut *store, self.memory, at, bytes, ROOM)?;
        Ok(at)
    }

    /// Copies an answer out of the guest and frees it there.
    async fn take(&self, store: &mut Store<Cell>, result: u32) -> Answer<Vec<u8>> {
        let triple = slice(self.memory.data(&*store), result, 12, "the result")?;
        let (tag, at, len) = (word(triple, 0), word(triple, 4), word(triple, 8));
        let bytes_max = store.data().payload_bytes_max();
        if len as usize > bytes_max {
            return Err(Error::new(TooLong {
                bytes: len as usize,
                bytes_max,
            }));
        }
        let bytes = slice(self.memory.data(&*store), at, len, "the reply")?.to_vec();
        if len != 0 {
            self.free.call_async(&mut *store, (at, len)).await?;
        }
        match tag {
            0 => Ok(Ok(bytes)),
            1 => Ok(Err(bytes)),
            other => Err(Error::msg(format!(
                "the result's tag is {other}; 0 is a reply, 1 is a Status"
            ))),
        }
    }
}

fn check_exports(module: &Module) -> Result<(), RuntimeError> {
    use wasmtime::{ExternType::Func, ValType::I32};
    let signatures: [(&str, usize, usize, bool); 6] = [
        ("mortise_alloc", 1, 1, true),
        ("mortise_free", 2, 0, true),
        ("mortise_invoke", 5, 1, true),
        ("mortise_start", 2, 1, false),
        ("mortise_health", 0, 1, false),
        ("mortise_stop", 0, 0, false),
    ];
    for (name, params, results, required) in signatures {
        match module.get_export(name) {
            None if !required => {}
            Some(Func(found))
                if found.params().len() == params
                    && found.results().len() == results
                    && found.params().chain(found.results()).all(|it| matches!(it, I32)) => {}
            found => {
                let found = match found {
                    Some(Func(found)) => format!("is {found}"),
                    Some(_) => "is no function".to_owned(),
                    None => "is not exported".to_owned(),
                };
                return Err(RuntimeError::new(
                    RuntimeErrorKind::AbiMismatch,
                    format!(
                        "the module's `{name}` {found}; it must take {params} and return {results} values of type i32"
                    ),
                    "export the functions that `wit/core-abi.md` lists, with its types",
                ));
            }
        }
    }
    debug_assert!(
        CORE_EXPORTS.iter().any(|it| it.0 == "memory"),
        "the scan has seen to the memory"
    );
    Ok(())
}

/// The whole of what a core module may import.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Cell>> {
    let mut linker = Linker::new(engine);
    link_log(&mut linker, HOST_MODULE)?;
    linker.func_wrap_async(
        HOST_MODULE,
        "call",
        |mut caller: Caller<'_, Cell>,
         (_parent, target_at, target_len, at, len, result): (i64, u32, u32, u32, u32, u32)| {
            Box::new(async move {
                no_host_in_allocator(caller.data())?;
                let memory = memory_of(&mut caller)?;
                let (data, cell) = (memory.data(&caller), caller.data());
                let request = request(data, cell, (target_at, target_len), (at, len))?;
                slice(data, result, 8, RESULT_PLACE)?;
                let answer = cell.call_host(request).await.map_err(Error::new)?;
                let (tag, bytes) = match answer {
                    Ok(bytes) => (0_u32, bytes),
                    Err(status) => (1, status),
                };
                let alloc = caller.get_export(ALLOC).and_then(Extern::into_func);
                let alloc = alloc
                    .ok_or_else(|| Error::msg("`mortise_alloc` is no function"))?
                    .typed::<u32, u32>(caller.as_context())?;
                let at = room_for_answer(&mut caller, alloc, length(&bytes)?).await?;
                write(&mut caller, memory, at, &bytes, ROOM)?;
                let mut pair = [0; 8];
                pair[..4].copy_from_slice(&at.to_le_bytes());
                pair[4..].copy_from_slice(&length(&bytes)?.to_le_bytes());
                write(&mut caller, memory, result, &pair, RESULT_PLACE)?;
                wasmtime::Result::Ok(tag)
            })
        },
    )?;
    Ok(linker)
}
