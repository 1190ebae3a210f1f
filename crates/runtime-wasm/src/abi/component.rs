//! Guests of the world `mortise:plugin/plugin`, through wasmtime's component model: those whose wrapper is not known (`unwrap.rs`).
//!
//! Typed functions, not `Val`: a `list<u8>` is one copy each way. Export indices are looked up once per artifact.

use std::collections::BTreeSet;

use bytes::Bytes;
use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use wasmtime::{
    Engine, Module, Store, StoreContextMut,
    component::{Component, ComponentExportIndex, Instance, InstancePre, Linker, TypedFunc, WasmList},
};

use super::{Abi, Answer};
use crate::{
    scan::{GUEST_INTERFACE, HOST_INTERFACE},
    store::Cell,
};

type Start = TypedFunc<(&'static [u8],), (Result<(), Vec<u8>>,)>;
type Invoke = TypedFunc<(u32, &'static [u8], &'static [u8]), (Result<Vec<u8>, Vec<u8>>,)>;
type Health = TypedFunc<(), (Vec<u8>,)>;
type Stop = TypedFunc<(), ()>;

/// A component, ready to be instantiated.
pub(crate) struct ComponentAbi {
    pre: InstancePre<Cell>,
    exports: Exports,
}

struct Exports {
    start: ComponentExportIndex,
    invoke: ComponentExportIndex,
    health: ComponentExportIndex,
    stop: ComponentExportIndex,
}

/// One instance. The functions that are called once in its life are looked up then.
pub(crate) struct Guest {
    instance: Instance,
    invoke: Invoke,
}

impl Abi for ComponentAbi {
    type Code = Component;
    type Guest = Guest;

    fn link(engine: &Engine, component: Component) -> Result<Self, RuntimeError> {
        let pre = linker(engine).and_then(|linker| linker.instantiate_pre(&component)).map_err(|error| {
            RuntimeError::new(
                RuntimeErrorKind::MissingImport,
                format!("the component does not fit this host's `{HOST_INTERFACE}`: {error:#}"),
                "build it against the host's `wit/plugin.wit`: an import differs in its type, or does not exist here",
            )
        })?;
        let exports = Exports::of(&component)?;
        Ok(Self { pre, exports })
    }

    fn code_bytes(&self) -> u64 {
        let image = self.pre.component().image_range();
        (image.end as u64).saturating_sub(image.start as u64)
    }

    fn slots(&self) -> u32 {
        let needs = self.pre.component().resources_required();
        needs.map_or(1, |it| it.num_memories.max(it.num_tables.div_ceil(2)).max(1))
    }

    async fn instantiate(&self, store: &mut Store<Cell>, _: Option<&Module>) -> wasmtime::Result<Guest> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let invoke = instance.get_typed_func(&mut *store, self.exports.invoke)?;
        Ok(Guest { instance, invoke })
    }

    async fn start(&self, guest: &Guest, store: &mut Store<Cell>, request: &[u8]) -> Answer<()> {
        let start: Start = guest.instance.get_typed_func(&mut *store, self.exports.start)?;
        Ok(start.call_async(store, (request,)).await?.0)
    }

    async fn invoke(
        &self,
        guest: &Guest,
        store: &mut Store<Cell>,
        method: u32,
        payload: Bytes,
    ) -> Answer<Vec<u8>> {
        let head = std::mem::take(&mut store.data_mut().scratch);
        let arguments = (method, &*head, &*payload);
        let answer = guest.invoke.call_async(&mut *store, arguments).await?.0;
        store.data_mut().scratch = head;
        Ok(answer)
    }

    async fn health(&self, guest: &Guest, store: &mut Store<Cell>) -> wasmtime::Result<Option<Vec<u8>>> {
        let health: Health = guest.instance.get_typed_func(&mut *store, self.exports.health)?;
        Ok(Some(health.call_async(store, ()).await?.0))
    }

    async fn stop(&self, guest: &Guest, store: &mut Store<Cell>) -> wasmtime::Result<()> {
        let stop: Stop = guest.instance.get_typed_func(&mut *store, self.exports.stop)?;
        stop.call_async(store, ()).await
    }
}

impl Exports {
    /// The four functions of the guest interface, whatever minor version the component was built against.
    fn of(component: &Component) -> Result<Self, RuntimeError> {
        let guest = component.get_export_index(None, GUEST_INTERFACE);
        let mut missing = BTreeSet::new();
        let mut find = |name: &'static str| {
            let found = guest
                .as_ref()
                .and_then(|guest| component.get_export_index(Some(guest), name));
            if found.is_none() {
                missing.insert(name);
            }
            found
        };
        let found = (find("start"), find("invoke"), find("health"), find("stop"));
        if let (Some(start), Some(invoke), Some(health), Some(stop)) = found {
            return Ok(Self {
                start,
                invoke,
                health,
                stop,
            });
        }
        let missing: Vec<&str> = missing.into_iter().collect();
        Err(RuntimeError::new(
            RuntimeErrorKind::AbiMismatch,
            format!("the component's `{GUEST_INTERFACE}` lacks {}", missing.join(", ")),
            "build the plugin with `mortise build`, against the host's `wit/plugin.wit`",
        ))
    }
}

/// The whole of what a component may import.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Cell>> {
    let mut linker = Linker::new(engine);
    let mut host = linker.instance(HOST_INTERFACE)?;
    host.func_wrap(
        "log",
        |store: StoreContextMut<'_, Cell>, (record,): (WasmList<u8>,)| {
            store.data().log(record.as_le_slice(&store));
            Ok(())
        },
    )?;
    host.func_wrap_async(
        "call",
        |store: StoreContextMut<'_, Cell>, (_parent, target, payload): (u64, String, Vec<u8>)| {
            let cell = store.data();
            let request = match cell.too_much(target.len(), payload.len()) {
                Some(status) => Err(status),
                None => Ok((target, Bytes::from(payload))),
            };
            let answer = cell.call_host(request);
            Box::new(async move { Ok((answer.await.map_err(wasmtime::Error::new)?,)) })
        },
    )?;
    Ok(linker)
}
