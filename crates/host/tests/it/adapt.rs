//! Functions that adapt messages: whom they may be called for, and where they run.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use mortise_host::{CallOptions, CallerContract, Host, State};
use mortise_runtime::{CallError, CallErrorKind, Enforcement};
use mortise_wire::{CallHead, Code};
use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

use crate::{
    closures::{Program, World, call, info, request, state, until},
    depend::package_of,
};

/// The store's contract, in which the field has this name and type.
fn store_as(field: &'static str, kind: Type) -> impl FnOnce(&mut FileDescriptorSet) {
    move |set: &mut FileDescriptorSet| {
        let file = &mut set.file[0];
        file.name = Some("store.proto".to_owned());
        file.message_type.truncate(1);
        file.message_type[0].name = Some("Row".to_owned());
        file.message_type[0].field[0].name = Some(field.to_owned());
        file.message_type[0].field[0].r#type = Some(kind.into());
        file.service[0].name = Some("Store".to_owned());
        for method in &mut file.service[0].method {
            method.input_type = Some(".test.v1.Row".to_owned());
            method.output_type = Some(".test.v1.Row".to_owned());
        }
    }
}

/// The descriptors of such a store, as a package keeps them of an older version.
fn old_store(world: &World, field: &'static str, kind: Type) -> Vec<u8> {
    let (folder, _) = world.package("scratch", "1.0.0", "");
    let read = std::fs::read(folder.join("contract.binpb")).unwrap();
    let mut set = FileDescriptorSet::decode(&*read).unwrap();
    store_as(field, kind)(&mut set);
    set.encode_to_vec()
}

/// A store; with `adapt`, one that names these functions for callers of a version 1.0.0 with another name for its field.
fn store(world: &World, version: &str, field: &'static str, more: &str) -> (PathBuf, Arc<Program>) {
    let (folder, program) = package_of(
        world,
        ("store", version),
        "Store",
        more,
        store_as(field, Type::Bytes),
    );
    std::fs::write(folder.join("old.binpb"), old_store(world, "old", Type::Bytes)).unwrap();
    (folder, program)
}

fn functions(from: &str, up: &str, down: &str) -> String {
    format!(
        "[[adapt]]\nfrom = \"{from}\"\ncontract = \"old.binpb\"\n[[adapt.message]]\nname = \"test.v1.Row\"\n\
         up = \"test.v1.{up}\"\ndown = \"test.v1.{down}\"\n"
    )
}

/// Of a package, that it is pure.
fn says_pure(folder: &Path) {
    let manifest = folder.join("plugin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("api = 1\n", "api = 1\npure = true\n", 1)).unwrap();
}

/// A pure plugin with functions, and a store whose callers of version 1.0.0 need them.
async fn adapter_and_store(world: &World, host: &Host) -> (PathBuf, Arc<Program>) {
    let (folder, adapter) = package_of(world, ("adapter", "1.0.0"), "Adapter", "", |_| {});
    says_pure(&folder);
    let more = functions("1.0.0", "Adapter/Call", "Adapter/Call") + "[limits]\npayload_mib = 1\n";
    let (of_store, _) = store(world, "2.0.0", "data", &more);
    host.load(request(&of_store)).await.unwrap();
    (folder, adapter)
}

async fn call_as_old(host: &Host, target: &str, payload: &[u8]) -> Result<Bytes, CallError> {
    let options = CallOptions {
        contract: Some(CallerContract::version("1.0.0")),
        ..CallOptions::default()
    };
    host.call(target, Bytes::copy_from_slice(payload), options).await
}

/// A plugin that may call `Store/Call` and `more`, and whose own package has its messages made by `Store/Nap`.
fn mole(world: &World, more: &str) -> (PathBuf, Arc<Program>) {
    let manifest = format!(
        "[[requires]]\nservice = \"test.v1.Store\"\nmethod = \"Call\"\nlazy = true\n{more}{}",
        functions("0.9.0", "Store/Call", "Store/Nap")
    );
    let (folder, program) = package_of(world, ("mole", "1.0.0"), "Mole", &manifest, |set| {
        let mut other = set.clone();
        store_as("mine", Type::Bytes)(&mut other);
        set.file.extend(other.file);
    });
    std::fs::write(folder.join("old.binpb"), old_store(world, "data", Type::Bytes)).unwrap();
    (folder, program)
}

#[tokio::test]
async fn a_package_has_nothing_called_that_its_plugin_may_not_call() {
    let world = World::new();
    let host = world.host().await;
    let (folder, bank) = store(&world, "1.0.0", "data", "");
    says_pure(&folder);
    host.load(request(&folder)).await.unwrap();
    let (folder, _) = mole(&world, "");
    let refused = host.load(request(&folder)).await.unwrap_err();
    let reason = &refused.reasons()[0];
    assert_eq!(reason.what, "contract");
    assert!(
        reason.why.contains("adapted by `test.v1.Store/Nap`") && reason.why.contains("no `[[requires]]`"),
        "{}",
        reason.why
    );
    assert!(bank.contexts.lock().unwrap().is_empty());
    // Declared, it is a call like any other. `80` is both a message and a time to sleep for.
    let (folder, _) = mole(
        &world,
        "[[requires]]\nservice = \"test.v1.Store\"\nmethod = \"Nap\"\nlazy = true\n",
    );
    host.load(request(&folder)).await.unwrap();
    call(&host, "plugin.mole.Relay", "test.v1.Store/Call 80")
        .await
        .unwrap();
    assert_eq!(
        bank.contexts.lock().unwrap().len(),
        3,
        "it, and a function on each side"
    );
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_came_unseen_is_not_reached_either() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = mole(&world, "");
    host.load(request(&folder)).await.unwrap();
    // While it is down nobody compares it with who comes.
    program.refuses.store(true, Ordering::SeqCst);
    program.crash();
    until("it is down", || state(&host, "mole") == State::Failed).await;
    let (folder, bank) = store(&world, "1.0.0", "data", "");
    host.load(request(&folder)).await.unwrap();
    program.refuses.store(false, Ordering::SeqCst);
    until("it is back", || state(&host, "mole").is_routed()).await;
    let refused = call(&host, "plugin.mole.Relay", "test.v1.Store/Call 80")
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("adapted by `test.v1.Store/Nap`"),
        "{refused}"
    );
    assert!(bank.contexts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn functions_of_the_provider_run_in_the_place_of_their_call() {
    let world = World::new();
    let host = world.host().await;
    let more = functions("1.0.0", "Store/Call", "Store/Call") + "[limits]\nconcurrency = 1\n";
    let (folder, program) = store(&world, "2.0.0", "data", &more);
    host.load(request(&folder)).await.unwrap();
    let calls = (0..8).map(|_| call_as_old(&host, "plugin.store.Call", b"\x0a\x01x"));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.unwrap(), &b"\x0a\x01x"[..]);
    }
    assert_eq!(program.contexts.lock().unwrap().len(), 24);
}

#[tokio::test]
async fn what_a_function_answers_is_no_longer_than_the_plugin_takes() {
    let world = World::new();
    let host = world.host().await;
    let (folder, adapter) = adapter_and_store(&world, &host).await;
    host.load(request(&folder)).await.unwrap();
    let program = world.program("store", "2.0.0");
    adapter.pads.store(2 << 20, Ordering::SeqCst);
    let refused = call_as_old(&host, "plugin.store.Call", b"").await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::Exhausted);
    assert!(
        refused.to_string().contains("plugin `store` may have 1048576"),
        "{refused}"
    );
    assert!(program.contexts.lock().unwrap().is_empty());
    adapter.pads.store(0, Ordering::SeqCst);
    call_as_old(&host, "plugin.store.Call", b"").await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_counted() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = package_of(
        &world,
        ("store", "2.0.0"),
        "Store",
        "",
        store_as("data", Type::Int32),
    );
    host.load(request(&folder)).await.unwrap();
    let caller = CallerContract::new(&old_store(&world, "data", Type::Int64)).unwrap();
    // The number 2^31.
    let options = CallOptions {
        contract: Some(caller),
        ..CallOptions::default()
    };
    let payload = Bytes::from_static(b"\x08\x80\x80\x80\x80\x08");
    let refused = host
        .call("plugin.store.Call", payload, options)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::Incompatible);
    assert!(program.contexts.lock().unwrap().is_empty());
    let info = info(&host, "store");
    assert_eq!((info.calls, info.errors), (1, 1));
}

#[tokio::test]
async fn a_pure_plugin_is_answered_nothing_and_told_nothing() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("pure", "1.0.0", "");
    says_pure(&folder);
    let configured = request(&folder).config_json("{\"a\": 1}");
    let refused = host.load(configured).await.unwrap_err();
    assert!(
        refused.reasons()[0].why.contains("configured with nothing"),
        "{refused:?}"
    );
    host.load(request(&folder)).await.unwrap();
    assert_eq!(*program.configs.lock().unwrap(), ["{}"]);
    for target in [
        "mortise.host.v1.Clock/Now",
        "mortise.host.v1.Config/Get",
        "test.v1.Echo/Call",
    ] {
        let refused = call(&host, "plugin.pure.Relay", target).await.unwrap_err();
        assert_eq!(refused.status().kind(), Code::PermissionDenied);
        assert!(refused.to_string().contains("`pure = true`"), "{refused}");
    }
    let contexts = program.contexts.lock().unwrap();
    assert_eq!(contexts.len(), 3);
    assert!(contexts.iter().all(|it| it.untold && it.deadline.is_some()));
    assert_eq!(contexts[0].head(std::time::Instant::now()), CallHead::default());
}

#[tokio::test]
async fn only_a_plugin_that_is_pure_adapts() {
    let world = World::new();
    let host = world.host().await;
    let (folder, _) = adapter_and_store(&world, &host).await;
    let manifest = folder.join("plugin.toml");
    let pure = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, pure.replace("pure = true\n", "")).unwrap();
    host.load(request(&folder)).await.unwrap();
    let refused = call_as_old(&host, "plugin.store.Call", b"").await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::Incompatible);
    assert!(
        refused.to_string().contains("does not say `pure = true`"),
        "{refused}"
    );
    std::fs::write(&manifest, pure).unwrap();
    host.load(request(&folder)).await.unwrap();
    call_as_old(&host, "plugin.store.Call", b"").await.unwrap();
}

#[tokio::test]
async fn where_nobody_can_tell_the_operator_has_to_take_the_word() {
    let world = World::new();
    *world.closures.purity.lock().unwrap() = Enforcement::NotEnforced("closures remember");
    let host = world.host().await;
    let (folder, _) = adapter_and_store(&world, &host).await;
    host.load(request(&folder)).await.unwrap();
    let refused = call_as_old(&host, "plugin.store.Call", b"").await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::Incompatible);
    assert!(refused.to_string().contains("closures remember"), "{refused}");
    assert!(
        refused
            .hint()
            .unwrap()
            .contains("`trust_adapter = true` at plugin `adapter`")
    );
    host.load(request(&folder).trust_adapter()).await.unwrap();
    call_as_old(&host, "plugin.store.Call", b"").await.unwrap();
}

#[tokio::test]
async fn a_stream_whose_messages_need_a_function_is_not_opened() {
    let world = World::new();
    let host = world.host().await;
    let (folder, _) = adapter_and_store(&world, &host).await;
    host.load(request(&folder)).await.unwrap();
    let options = CallOptions {
        contract: Some(CallerContract::version("1.0.0")),
        ..CallOptions::default()
    };
    let refused = host
        .open_stream("plugin.store.Watch", options)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.kind(), CallErrorKind::Incompatible);
    let told = refused.to_string();
    assert!(
        told.contains("`test.v1.Adapter/Call`") && told.contains("declare field maps"),
        "{told}"
    );
    host.open_stream("plugin.store.Watch", CallOptions::default())
        .await
        .unwrap();
}
