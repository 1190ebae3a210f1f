//! Dependencies between plugins: the order of starts and stops, who waits, who may go, and the graph of it all.

use std::{path::PathBuf, sync::Arc};

use mortise_contract::Contract;
use mortise_host::{Host, HostErrorKind, State, Tie};
use mortise_manifest::HostConfig;
use mortise_store::{DataDir, History};
use mortise_wire::{METADATA_FORMAT, Metadata, MethodKind, plugin::Method};
use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

use crate::closures::{Program, World, call, info, request, reserved, state, until};

/// A package that provides `test.v1.{service}` with the usual methods. `edit` may change its descriptors further.
pub fn package_of(
    world: &World,
    (name, version): (&str, &str),
    service: &str,
    more: &str,
    edit: impl FnOnce(&mut FileDescriptorSet),
) -> (PathBuf, Arc<Program>) {
    let (folder, program) = world.package(name, version, "");
    let read = std::fs::read(folder.join("contract.binpb")).unwrap();
    let mut set = FileDescriptorSet::decode(&*read).unwrap();
    set.file[0].service[0].name = Some(service.to_owned());
    edit(&mut set);
    let (bytes, full) = (set.encode_to_vec(), format!("test.v1.{service}"));
    let contract = Contract::from_descriptor_set(&bytes, std::slice::from_ref(&full)).unwrap();
    let methods = contract.methods().iter().map(|it| Method {
        service: it.service().to_owned(),
        name: it.name().to_owned(),
        wire_hash: it.wire_hash().to_vec(),
        full_hash: it.full_hash().to_vec(),
        flags: MethodKind::of(it.client_streaming(), it.server_streaming()).flags(),
    });
    let metadata = Metadata {
        format: METADATA_FORMAT,
        name: name.to_owned(),
        version: version.to_owned(),
        api: 1,
        contract_hash: contract.hash().to_vec(),
        methods: methods.chain(reserved(more)).collect(),
        ..Metadata::default()
    };
    let manifest = format!(
        "[plugin]\nname = \"{name}\"\nversion = \"{version}\"\napi = 1\n[contract]\nprovides = [\"{full}\"]\n\
         [[variant]]\nruntime = \"wasm\"\nfile = \"p.wasm\"\n{more}"
    );
    std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
    std::fs::write(folder.join("contract.binpb"), &bytes).unwrap();
    std::fs::write(folder.join("p.wasm"), metadata.encode_to_vec()).unwrap();
    (folder, program)
}

/// As [`package_of`], unchanged; each of `requires` is `Service RANGE [lazy|optional]`.
pub fn package(
    world: &World,
    plugin: (&str, &str),
    service: &str,
    requires: &[&str],
) -> (PathBuf, Arc<Program>) {
    package_of(world, plugin, service, &tables(requires), |_| {})
}

/// `[[requires]]` for each.
pub fn tables(requires: &[&str]) -> String {
    let table = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let (service, method) = words[0]
            .split_once('/')
            .map_or((words[0], None), |(a, b)| (a, Some(b)));
        let method = method
            .map(|it| format!("method = \"{it}\"\n"))
            .unwrap_or_default();
        let flag = words
            .get(2)
            .map(|it| format!("{it} = true\n"))
            .unwrap_or_default();
        format!(
            "[[requires]]\nservice = \"test.v1.{service}\"\n{method}version = \"{}\"\n{flag}",
            words[1]
        )
    };
    requires.iter().map(table).collect()
}

fn config(folders: &[&PathBuf]) -> HostConfig {
    let text: String = folders
        .iter()
        .map(|it| format!("[[plugin]]\nsource = {it:?}\n"))
        .collect();
    HostConfig::parse(&text, "mortise.toml").unwrap()
}

/// Events of one kind in the journal of a host that is gone, as names of plugins in their order.
fn journalled(world: &World, event: &str) -> Vec<String> {
    let data = DataDir::open(world.dir.path().join("data")).unwrap();
    let mut rows = data
        .journal()
        .unwrap()
        .history(&History {
            limit: 1000,
            ..History::default()
        })
        .unwrap();
    rows.reverse();
    rows.retain(|it| it.transition.event == event);
    rows.into_iter().map(|it| it.transition.plugin).collect()
}

async fn end(host: Host, world: &World) {
    host.shutdown().await;
    drop(host);
    // The lock is free when the last supervisor is gone.
    let path = world.dir.path().join("data");
    while DataDir::open(&path).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn providers_start_before_and_stop_after_those_that_require_them() {
    let world = World::new();
    let (top, _) = package(&world, ("top", "1.0.0"), "Top", &["Middle ^1", "Store ^1"]);
    let (middle, _) = package(&world, ("middle", "1.0.0"), "Middle", &["Store ^1"]);
    let (store, _) = package(&world, ("store", "1.2.0"), "Store", &["Top ^1 lazy"]);
    let config = config(&[&top, &middle, &store]);
    let host = world.builder().config(config).start().await.unwrap();
    let order: Vec<_> = host
        .graph()
        .plugins
        .into_iter()
        .map(|it| (it.name, it.level))
        .collect();
    let expected = [("middle", 1), ("store", 0), ("top", 2)];
    assert_eq!(
        order,
        expected.map(|(name, level)| (name.to_owned(), Some(level)))
    );
    end(host, &world).await;
    assert_eq!(journalled(&world, "cut_over"), ["store", "middle", "top"]);
    assert_eq!(journalled(&world, "unload"), ["top", "middle", "store"]);
    assert_eq!(journalled(&world, "released"), ["top", "middle", "store"]);
}

#[tokio::test]
async fn what_misses_a_provider_waits_and_starts_by_itself() {
    let world = World::new();
    let (top, _) = package(&world, ("top", "1.0.0"), "Top", &["Middle ^1"]);
    let (middle, _) = package(&world, ("middle", "1.0.0"), "Middle", &["Store/Call ^1.1"]);
    let (other, _) = package(&world, ("other", "1.0.0"), "Other", &[]);
    let config = config(&[&top, &middle, &other]);
    let host = world.builder().config(config).start().await.unwrap();
    assert!(state(&host, "other").is_routed(), "others do not wait");
    for (name, reason) in [
        (
            "middle",
            "it needs `test.v1.Store/Call` ^1.1, and no plugin provides it (plugin.toml:10); it starts by itself when a provider is there",
        ),
        (
            "top",
            "it needs `test.v1.Middle` ^1, and no plugin provides it (plugin.toml:10)",
        ),
    ] {
        let listed = info(&host, name);
        assert_eq!(listed.state, State::Rejected);
        assert!(listed.reasons[0].contains(reason), "{:?}", listed.reasons);
    }
    // One that is too old does not help.
    let (old, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&old)).await.unwrap();
    assert_eq!(state(&host, "middle"), State::Rejected);
    let (new, _) = package(&world, ("store", "1.1.0"), "Store", &[]);
    host.load(request(&new)).await.unwrap();
    until("both serve", || {
        ["middle", "top"].iter().all(|it| state(&host, it).is_routed())
    })
    .await;
    // By hand nobody waits.
    let (late, _) = package(&world, ("late", "1.0.0"), "Late", &["Nowhere *"]);
    let refused = host.load(request(&late)).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Refused);
    assert!(!refused.to_string().contains("by itself"), "{refused}");
}

#[tokio::test]
async fn an_unload_ends_the_wait() {
    let world = World::new();
    let (top, program) = package(&world, ("top", "1.0.0"), "Top", &["Store ^1"]);
    let host = world.builder().config(config(&[&top])).start().await.unwrap();
    host.unload("top").await.unwrap();
    let (store, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&store)).await.unwrap();
    let (again, _) = package(&world, ("again", "1.0.0"), "Again", &["Store ^1"]);
    host.load(request(&again)).await.unwrap();
    assert_eq!(program.live(), 0);
    assert!(host.inspect("top").is_err());
}

#[tokio::test]
async fn a_circle_is_told_with_its_path_and_what_to_cut_and_keeps_nobody_else() {
    let world = World::new();
    let (a, _) = package(&world, ("aa", "1.0.0"), "A", &["B ^1"]);
    let (b, _) = package(&world, ("bb", "1.0.0"), "B", &["A ^1"]);
    let (c, _) = package(&world, ("cc", "1.0.0"), "C", &[]);
    let host = world
        .builder()
        .config(config(&[&a, &b, &c]))
        .start()
        .await
        .unwrap();
    assert!(state(&host, "cc").is_routed());
    let listed = info(&host, "aa");
    assert_eq!(listed.state, State::Rejected);
    let reason = &listed.reasons[0];
    for part in [
        "calls go in a circle: aa@1.0.0 test.v1.A/",
        "-> `test.v1.B` ^1 (plugin.toml:10), provided by bb@1.0.0 test.v1.B/",
        "mark this requirement `lazy = true`, or remove it: aa@1.0.0 -> `test.v1.B` ^1 (plugin.toml:10)",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    // One of them swaps to a version without the circle; the other one is reloaded.
    let (a, _) = package(&world, ("aa", "1.1.0"), "A", &["B ^1 lazy"]);
    host.load(request(&a)).await.unwrap();
    host.load(request(&b)).await.unwrap();
    // What would close the circle again is refused, and the old one serves on.
    let (a, _) = package(&world, ("aa", "1.2.0"), "A", &["B ^1"]);
    let refused = host.load(request(&a)).await.unwrap_err();
    assert_eq!(refused.reasons()[0].what, "cycle", "{refused}");
    assert_eq!(info(&host, "aa").plugin.version.to_string(), "1.1.0");
}

#[tokio::test]
async fn what_is_required_goes_only_with_those_that_require_it() {
    let world = World::new();
    let host = world.host().await;
    for (plugin, service, requires) in [
        (("store", "1.0.0"), "Store", &[][..]),
        (("middle", "1.0.0"), "Middle", &["Store ^1"]),
        (("top", "1.0.0"), "Top", &["Middle ^1"]),
        (("lazy", "1.0.0"), "Lazy", &["Store ^1 lazy"]),
    ] {
        let (folder, _) = package(&world, plugin, service, requires);
        host.load(request(&folder)).await.unwrap();
    }
    let refused = host.unload("store").await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Conflict);
    assert_eq!(
        refused.to_string(),
        "plugin `store` is required by `top`, `middle`"
    );
    assert!(refused.hint().unwrap().contains("--cascade"));
    let why: Vec<_> = refused.reasons().iter().map(|it| it.why.as_str()).collect();
    assert_eq!(
        why,
        [
            "plugin `top` would miss `test.v1.Middle` ^1 (plugin.toml:10)",
            "plugin `middle` would miss `test.v1.Store` ^1 (plugin.toml:10)",
        ]
    );
    assert!(state(&host, "store").is_routed());
    let gone = host.unload_cascade("store").await.unwrap();
    let gone: Vec<_> = gone.into_iter().map(|it| it.name).collect();
    assert_eq!(gone, ["top", "middle", "store"]);
    let left: Vec<_> = host.list().into_iter().map(|it| it.name).collect();
    assert_eq!(left, ["lazy"], "it can live without");
    host.unload("lazy").await.unwrap();
    end(host, &world).await;
    assert_eq!(journalled(&world, "unload"), ["top", "middle", "store", "lazy"]);
}

#[tokio::test]
async fn a_reload_unloads_in_order_and_keeps_what_is_still_required() {
    let world = World::new();
    let (store, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    let (middle, _) = package(&world, ("middle", "1.0.0"), "Middle", &["Store ^1"]);
    let (top, _) = package(&world, ("top", "1.0.0"), "Top", &["Middle ^1"]);
    let (other, _) = package(&world, ("other", "1.0.0"), "Other", &[]);
    let all = config(&[&top, &middle, &store, &other]);
    let host = world.builder().config(all).start().await.unwrap();
    // The store is no longer named, and what requires it is.
    let report = host.reload(config(&[&top, &middle, &other]).plugins).await;
    assert_eq!(report.unloaded, [""; 0]);
    assert_eq!(report.failed.len(), 1, "{report:?}");
    assert_eq!(report.failed[0].0, "store");
    assert!(state(&host, "store").is_routed());
    // Now nobody of them is; what could not go before goes with them.
    let report = host.reload(config(&[&other]).plugins).await;
    assert_eq!(report.unloaded, ["top", "middle", "store"], "{report:?}");
    assert_eq!(report.unchanged, ["other"]);
    // They come back, and so does what waits for them.
    let report = host.reload(config(&[&top, &store, &other]).plugins).await;
    assert_eq!(
        (&report.loaded[..], report.failed.len()),
        (&["store".to_owned()][..], 1)
    );
    let report = host
        .reload(config(&[&middle, &top, &store, &other]).plugins)
        .await;
    assert_eq!(report.failed, [], "{report:?}");
    assert!(["top", "middle"].iter().all(|it| state(&host, it).is_routed()));
    let report = host
        .reload(config(&[&middle, &top, &store, &other]).plugins)
        .await;
    assert_eq!(report.unchanged.len(), 4, "{report:?}");
}

#[tokio::test]
async fn a_second_provider_sets_the_first_one_free() {
    let world = World::new();
    let host = world.host().await;
    let (one, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&one)).await.unwrap();
    let (top, _) = package(&world, ("top", "1.0.0"), "Top", &["Store ^1"]);
    host.load(request(&top)).await.unwrap();
    assert!(host.unload("store").await.is_err());
    let (two, _) = package(&world, ("other-store", "1.4.0"), "Store", &[]);
    host.load(request(&two)).await.unwrap();
    host.unload("store").await.unwrap();
    assert!(host.unload("other-store").await.is_err());
}

#[tokio::test]
async fn a_version_out_of_a_dependents_range_is_refused() {
    let world = World::new();
    let host = world.host().await;
    let (store, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&store)).await.unwrap();
    let (top, _) = package(&world, ("top", "1.0.0"), "Top", &["Store ^1"]);
    host.load(request(&top)).await.unwrap();
    let (next, program) = package(&world, ("store", "2.0.0"), "Store", &[]);
    let refused = host.load(request(&next)).await.unwrap_err();
    assert_eq!(refused.reasons().len(), 1);
    assert_eq!(
        refused.reasons()[0].why,
        "plugin `top` requires `test.v1.Store` ^1 (plugin.toml:10), and 2.0.0 is not in that range"
    );
    assert_eq!(program.live(), 0);
    assert_eq!(info(&host, "store").plugin.version.to_string(), "1.0.0");
    // Beside the other it takes nothing from anybody.
    host.load(request(&next).beside()).await.unwrap();
    let reply = call(&host, "plugin.top.Relay", "test.v1.Store/Call x")
        .await
        .unwrap();
    assert_eq!((reply.as_str(), program.seen.lock().unwrap().len()), ("x", 0));
}

/// A package's descriptors with the contract of the store that it was built against, in which the field has this type.
fn carries_store(kind: Type) -> impl FnOnce(&mut FileDescriptorSet) {
    move |set: &mut FileDescriptorSet| {
        let mut other = set.file[0].clone();
        other.name = Some("store.proto".to_owned());
        other.message_type.truncate(1);
        other.message_type[0].name = Some("Row".to_owned());
        other.message_type[0].field[0].r#type = Some(kind.into());
        other.service[0].name = Some("Store".to_owned());
        for method in &mut other.service[0].method {
            method.input_type = Some(".test.v1.Row".to_owned());
            method.output_type = Some(".test.v1.Row".to_owned());
        }
        set.file.push(other);
    }
}

#[tokio::test]
async fn contracts_are_compared_on_both_sides() {
    let world = World::new();
    let host = world.host().await;
    let (store, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&store)).await.unwrap();
    let needs = tables(&["Store/Call ^1"]);
    let (strange, _) = package_of(
        &world,
        ("strange", "1.0.0"),
        "Strange",
        &needs,
        carries_store(Type::Double),
    );
    let refused = host.load(request(&strange)).await.unwrap_err();
    assert_eq!(refused.reasons().len(), 1, "{:?}", refused.reasons());
    let reason = &refused.reasons()[0];
    assert_eq!(reason.what, "contract");
    assert!(
        reason
            .why
            .contains("than `store@1.0.0` provides: `test.v1.Store/Call`: `test.v1."),
        "{}",
        reason.why
    );
    let (fits, _) = package_of(
        &world,
        ("fits", "1.0.0"),
        "Fits",
        &needs,
        carries_store(Type::Bytes),
    );
    host.load(request(&fits)).await.unwrap();
    // Now the provider changes under it.
    let (next, _) = package_of(&world, ("store", "1.1.0"), "Store", "", |set| {
        set.file[0].message_type[0].field[0].r#type = Some(Type::Double.into());
    });
    let refused = host.load(request(&next)).await.unwrap_err();
    assert!(
        refused.reasons()[0]
            .why
            .contains("plugin `fits`, which requires it, was built against another contract"),
        "{refused}"
    );
}

#[tokio::test]
async fn calls_of_a_plugin_are_adapted_to_its_provider() {
    let world = World::new();
    let host = world.host().await;
    let number = |kind: Type| {
        move |set: &mut FileDescriptorSet| {
            let file = &mut set.file[0];
            file.message_type[0].name = Some("Row".to_owned());
            file.message_type[0].field[0].r#type = Some(kind.into());
            for method in &mut file.service[0].method {
                method.input_type = Some(".test.v1.Row".to_owned());
                method.output_type = Some(".test.v1.Row".to_owned());
            }
        }
    };
    let (store, program) = package_of(&world, ("store", "1.0.0"), "Store", "", number(Type::Int32));
    host.load(request(&store)).await.unwrap();
    let needs = tables(&["Store/Call ^1"]);
    let (top, _) = package_of(
        &world,
        ("top", "1.0.0"),
        "Top",
        &needs,
        carries_store(Type::Sint32),
    );
    host.load(request(&top)).await.unwrap();
    // Field 1 as `sint32` is 10 for the number 5; as `int32` it is 5.
    let reply = call(&host, "plugin.top.Relay", "test.v1.Store/Call \u{8}\u{a}").await;
    assert_eq!(reply.unwrap(), "\u{8}\u{a}", "there and back");
    assert_eq!(
        program.seen.lock().unwrap()[0],
        &b"\x08\x05"[..],
        "what the provider got"
    );
    let detail = host.inspect("store").unwrap();
    let adapted = &detail.adapted[0];
    assert_eq!(
        (adapted.caller.as_str(), adapted.way.as_str()),
        ("top", "converted")
    );
    // A provider that understands the caller takes over, and nothing is converted any more.
    let (next, program) = package_of(&world, ("store", "1.1.0"), "Store", "", number(Type::Sint32));
    host.load(request(&next)).await.unwrap();
    call(&host, "plugin.top.Relay", "test.v1.Store/Call \u{8}\u{a}")
        .await
        .unwrap();
    assert_eq!(program.seen.lock().unwrap()[0], &b"\x08\x0a"[..]);
}

#[tokio::test]
async fn a_requirement_for_one_method_allows_that_method() {
    let world = World::new();
    let host = world.host().await;
    let (store, _) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&store)).await.unwrap();
    let (top, _) = package(&world, ("top", "1.0.0"), "Top", &["Store/Call ^1"]);
    host.load(request(&top)).await.unwrap();
    assert_eq!(
        call(&host, "plugin.top.Relay", "test.v1.Store/Call x")
            .await
            .unwrap(),
        "x"
    );
    let refused = call(&host, "plugin.top.Relay", "test.v1.Store/Nap 1")
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("`service = \"test.v1.Store\"` and `method = \"Nap\"`"),
        "{refused}"
    );
    let (no_such, _) = package(&world, ("next", "1.0.0"), "Next", &["Store/Missing ^1"]);
    let refused = host.load(request(&no_such)).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("`store@1.0.0` provides the service without that method"),
        "{refused}"
    );
    let from = "[[requires]]\nservice = \"test.v1.Store\"\nfrom = \"test.v1.Last/Missing\"\n";
    let (no_from, _) = package_of(&world, ("last", "1.0.0"), "Last", from, |_| {});
    let refused = host.load(request(&no_from)).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("`test.v1.Last/Missing` is said to call `test.v1.Store` (plugin.toml:10)"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_graph_of_a_host_is_drawn() {
    let world = World::new();
    let (store, _) = package(&world, ("store", "1.2.0"), "Store", &["Mail ^3 optional"]);
    let (thumbs, _) = package(&world, ("thumbs", "1.0.0"), "Thumbs", &["Store/Call ^1"]);
    let (albums, _) = package(&world, ("albums", "2.0.0"), "Albums", &["Thumbs *", "Store ^1"]);
    let (feed, _) = package(&world, ("feed", "1.0.0"), "Feed", &["Albums ^2 lazy"]);
    let (stuck, _) = package(&world, ("stuck", "0.1.0"), "Stuck", &["Nobody ^1"]);
    let host = world
        .builder()
        .config(config(&[&store, &thumbs, &albums, &feed, &stuck]))
        .start()
        .await
        .unwrap();
    let chart = host.graph();
    let edges: Vec<_> = chart
        .requires
        .iter()
        .map(|it| (it.from.as_str(), it.to.as_deref(), it.tie))
        .collect();
    assert_eq!(
        edges,
        [
            ("albums", Some("thumbs"), Tie::Hard),
            ("albums", Some("store"), Tie::Hard),
            ("feed", Some("albums"), Tie::Lazy),
            ("store", None, Tie::Optional),
            ("stuck", None, Tie::Hard),
            ("thumbs", Some("store"), Tie::Hard),
        ]
    );
    let text = chart.to_text();
    let expected = "level 0: needs nobody to start\n  feed 1.0.0 (wasm, PROBATION)\n    test.v1.Albums ^2 (lazy) -> albums\n  \
                    store 1.2.0 (wasm, PROBATION)\n    test.v1.Mail ^3 (optional) -> nobody\n\
                    level 1: after level 0\n  thumbs 1.0.0 (wasm, PROBATION)\n    test.v1.Store/Call ^1 -> store\n\
                    level 2: after level 1\n  albums 2.0.0 (wasm, PROBATION)\n    test.v1.Thumbs * -> thumbs\n    test.v1.Store ^1 -> store\n\
                    cannot start\n  stuck 0.1.0 (-, REJECTED)\n    test.v1.Nobody ^1 -> nobody\n    ! ";
    assert!(text.starts_with(expected), "{text}");
    let dot = chart.to_dot();
    for line in [
        "  \"store\" [label=\"store 1.2.0\\nwasm, PROBATION\"];\n",
        "  \"thumbs\" -> \"store\" [label=\"test.v1.Store/Call ^1\", style=solid];\n",
        "  \"feed\" -> \"albums\" [label=\"test.v1.Albums ^2\", style=dashed];\n",
        "  \"stuck\" -> \"nobody: test.v1.Nobody\"",
        "  { rank=same; \"feed\"; \"store\"; }\n",
    ] {
        assert!(dot.contains(line), "{line}\n{dot}");
    }
    let svg = chart.to_svg();
    assert_eq!(svg.matches("<g class=\"plugin\">").count(), 5, "{svg}");
    assert_eq!(svg.matches("<g class=\"missing\">").count(), 2, "{svg}");
    assert_eq!(svg.matches("<path class=\"requires\"").count(), 6, "{svg}");
    assert!(
        svg.contains("<title>thumbs requires test.v1.Store/Call ^1 of store, hard (plugin.toml:10)</title>")
    );
    if let Some(path) = std::env::var_os("MORTISE_TEST_SVG") {
        std::fs::write(path, svg).unwrap();
    }
}
