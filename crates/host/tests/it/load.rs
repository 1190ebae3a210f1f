//! Loading: all reasons at once, configuration at start, check, journal, key-value data, embedded packages.

use mortise_host::{Host, HostErrorKind, LoadRequest, Source, State};
use mortise_manifest::{HostConfig, Permissions, RuntimeName};
use mortise_store::{DataDir, History};
use mortise_wire::{
    Code,
    host::{self as api, target},
};
use prost::Message as _;

use crate::closures::{World, call, grant, info, request};

#[tokio::test]
async fn a_refusal_has_all_reasons_and_starts_nothing() {
    let world = World::new();
    let host = world.host().await;
    let more = "[permissions]\nkv = true\nnet.connect = [\"a.example.com:443\"]\n[[requires]]\nservice = \"x.v1.Y\"\n";
    let (folder, program) = world.package("greedy", "1.0.0", more);
    let asked = LoadRequest {
        config_json: Some("[]".to_owned()),
        runtime: Some(RuntimeName::Native),
        ..request(&folder)
    };
    let error = host.load(asked).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.plugin()),
        (HostErrorKind::Refused, Some("greedy"))
    );
    let reasons: Vec<_> = error.reasons().iter().map(|it| it.what.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "configuration",
            "permissions",
            "permissions",
            "requires",
            "runtime"
        ]
    );
    assert!(error.reasons().iter().all(|it| !it.hint.is_empty()));
    assert_eq!(program.live(), 0);
    let listed = info(&host, "greedy");
    assert_eq!((listed.state, listed.reasons.len()), (State::Rejected, 5));
    assert!(
        host.load(request(&world.dir.path().join("nowhere")))
            .await
            .is_err()
    );
    assert_eq!(host.list().len(), 1, "what has no name is not listed");
}

#[tokio::test]
async fn a_configuration_is_loaded_at_start_and_bad_entries_are_listed() {
    let world = World::new();
    let needs = "[[requires]]\nservice = \"test.v1.Echo\"\nversion = \"^1\"\n";
    let (late, _) = world.package("late", "2.0.0", needs);
    let (early, _) = world.package("early", "1.0.0", "");
    let (broken, _) = world.package("broken", "1.0.0", "");
    std::fs::write(broken.join("p.wasm"), "garbage").unwrap();
    let text = format!(
        "[[plugin]]\nname = \"late\"\nsource = {late:?}\n[[plugin]]\nsource = {early:?}\n[[plugin]]\nsource = {broken:?}\n\
         [[plugin]]\nname = \"missing\"\nsource = \"/nowhere/at-all\"\n[[plugin]]\nname = \"absent\"\nsource = \"builtin:absent\"\n"
    );
    let config = HostConfig::parse(&text, "mortise.toml").unwrap();
    let host = world.builder().config(config).start().await.unwrap();
    let states: Vec<_> = host.list().into_iter().map(|it| (it.name, it.state)).collect();
    let expected = [
        ("absent", State::Rejected),
        ("broken", State::Rejected),
        ("early", State::Probation),
        ("late", State::Probation),
        ("missing", State::Rejected),
    ];
    assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state)));
    for name in ["absent", "broken", "missing"] {
        assert!(!info(&host, name).reasons.is_empty(), "{name}");
    }
    assert_eq!(
        call(&host, "plugin.late.Relay", "test.v1.Echo/Call hi")
            .await
            .unwrap(),
        "hi"
    );
}

#[tokio::test]
async fn check_looks_at_everything_and_starts_nothing() {
    let world = World::new();
    let host = world.host().await;
    let (good, program) = world.package("good", "1.0.0", "");
    let report = host.check(&Source::Folder(good)).await.unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(
        (report.plugin.unwrap().to_string(), report.variants.len()),
        ("good 1.0.0".to_owned(), 1)
    );
    let (liar, _) = world.package("liar", "1.0.0", "");
    std::fs::copy(
        world.package("other", "9.9.9", "").0.join("p.wasm"),
        liar.join("p.wasm"),
    )
    .unwrap();
    let report = host.check(&Source::Folder(liar)).await.unwrap();
    let reasons: Vec<_> = report.variants[0]
        .refusals
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(
        reasons[0].contains("it says `other`, and plugin.toml beside it says `liar`"),
        "{reasons:?}"
    );
    let (torn, _) = world.package("torn", "1.0.0", "nonsense = 1\n");
    std::fs::remove_file(torn.join("contract.binpb")).unwrap();
    let report = host.check(&Source::Folder(torn)).await.unwrap();
    assert!(!report.is_ok() && report.variants.is_empty(), "{report:?}");
    assert!(host.list().is_empty() && program.live() == 0);
    assert_eq!(
        host.check(&Source::Embedded("no".to_owned()))
            .await
            .unwrap_err()
            .kind(),
        HostErrorKind::NotFound
    );
}

#[tokio::test]
async fn the_journal_tells_a_whole_life() {
    let world = World::new();
    let host = world.host().await;
    let (loaded, _) = world.load(&host, "echo", "1.0.0").await;
    host.unload("echo").await.unwrap();
    host.shutdown().await;
    drop(host);
    let path = world.dir.path().join("data");
    // The lock is free when the last supervisor is gone.
    let data = loop {
        match DataDir::open(&path) {
            Ok(data) => break data,
            Err(error) if error.kind() == mortise_store::StoreErrorKind::Locked => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut recorded = data.journal().unwrap().history(&History::default()).unwrap();
    recorded.reverse();
    let moves: Vec<_> = recorded
        .iter()
        .map(|it| (it.transition.event.as_str(), it.transition.to.as_str()))
        .collect();
    let expected = [
        ("load", "LOADED"),
        ("checks_passed", "CHECKED"),
        ("prepared", "VALIDATED"),
        ("activate", "STARTING"),
        ("started", "READY"),
        ("cut_over", "PROBATION"),
        ("unload", "DRAINING"),
        ("drained", "STOPPED"),
        ("released", "RETIRED"),
    ];
    // A probation may end before the unload comes; then one more row stands there.
    let moves: Vec<_> = moves
        .into_iter()
        .filter(|it| it.0 != "probation_passed")
        .collect();
    assert_eq!(moves, expected);
    let digest = loaded.digest.unwrap().to_string();
    assert!(
        recorded[1..]
            .iter()
            .all(|it| it.transition.digest == digest && it.transition.version == "1.0.0")
    );
    assert_eq!(recorded[0].transition.actor, "operator");
}

#[tokio::test]
async fn key_value_data_is_private_and_survives_a_swap_and_needs_a_grant() {
    let world = World::new();
    let host = world.host().await;
    let kv = || {
        grant(Permissions {
            kv: true,
            ..Permissions::default()
        })
    };
    let load = async |name: &str, version: &str| {
        let (folder, _) = world.package(name, version, "[permissions]\nkv = true\n");
        host.load(LoadRequest {
            grant: kv(),
            ..request(&folder)
        })
        .await
        .unwrap();
    };
    load("one", "1.0.0").await;
    load("two", "1.0.0").await;
    world.load(&host, "none", "1.0.0").await;
    let relay = async |plugin: &str, target: &str, message: Vec<u8>| {
        let mut payload = format!("{target} ").into_bytes();
        payload.extend(message);
        host.call(
            &format!("plugin.{plugin}.Relay"),
            payload.into(),
            mortise_host::CallOptions::default(),
        )
        .await
    };
    let set = api::KvSetRequest {
        key: "k".to_owned(),
        value: b"v".to_vec(),
    }
    .encode_to_vec();
    let get = api::KvGetRequest { key: "k".to_owned() }.encode_to_vec();
    relay("one", target::KV_SET, set.clone()).await.unwrap();
    load("one", "1.1.0").await;
    let value = |bytes: bytes::Bytes| api::KvGetReply::decode(bytes).unwrap().value;
    assert_eq!(
        value(relay("one", target::KV_GET, get.clone()).await.unwrap()),
        Some(b"v".to_vec())
    );
    assert_eq!(
        value(relay("two", target::KV_GET, get.clone()).await.unwrap()),
        None
    );
    let list = api::KvListRequest {
        prefix: String::new(),
        limit: 0,
    }
    .encode_to_vec();
    let keys = api::KvListReply::decode(relay("one", target::KV_LIST, list).await.unwrap())
        .unwrap()
        .keys;
    assert_eq!(keys, ["k"]);
    let delete = api::KvDeleteRequest { key: "k".to_owned() }.encode_to_vec();
    assert!(
        api::KvDeleteReply::decode(relay("one", target::KV_DELETE, delete).await.unwrap())
            .unwrap()
            .existed
    );
    let denied = relay("none", target::KV_GET, get).await.unwrap_err();
    assert_eq!(denied.status().kind(), Code::PermissionDenied);
    assert!(denied.to_string().contains("kv = true"), "{denied}");
}

#[tokio::test]
async fn configuration_and_clock_are_there_for_everybody() {
    let world = World::new();
    let host = world.host().await;
    let (folder, _) = world.package("echo", "1.0.0", "");
    let config = r#"{"quality":80}"#.to_owned();
    host.load(LoadRequest {
        config_json: Some(config.clone()),
        ..request(&folder)
    })
    .await
    .unwrap();
    let ask = async |target: &str| {
        let payload = bytes::Bytes::from(target.to_owned());
        host.call("plugin.echo.Relay", payload, mortise_host::CallOptions::default())
            .await
    };
    assert_eq!(
        api::ConfigGetReply::decode(ask(target::CONFIG_GET).await.unwrap())
            .unwrap()
            .json,
        config
    );
    let first = api::NowReply::decode(ask(target::CLOCK_NOW).await.unwrap()).unwrap();
    let second = api::NowReply::decode(ask(target::CLOCK_NOW).await.unwrap()).unwrap();
    assert!(second.monotonic_ns >= first.monotonic_ns && first.unix_ns > 1_600_000_000_000_000_000);
    let unknown = ask("mortise.host.v1.Teapot/Brew").await.unwrap_err();
    assert_eq!(unknown.status().kind(), Code::Unimplemented);
}

#[tokio::test]
async fn a_second_host_is_kept_out_of_the_data_directory() {
    let world = World::new();
    let host = world.host().await;
    let error = world.builder().start().await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Storage);
    assert!(error.to_string().contains("in use by another host"), "{error}");
    drop(host);
}

#[tokio::test]
async fn a_host_that_is_dropped_or_shut_down_stops_its_plugins() {
    let world = World::new();
    let host = world.host().await;
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    let route = host.resolve("plugin.echo.Call", &[]).unwrap();
    host.shutdown().await;
    host.shutdown().await;
    assert_eq!(program.live(), 0);
    let late = host
        .call_route(&route, bytes::Bytes::new(), mortise_host::CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(late.kind(), mortise_runtime::CallErrorKind::Unavailable);
    let (folder, _) = world.package("echo", "1.0.0", "");
    assert_eq!(
        host.load(request(&folder)).await.unwrap_err().kind(),
        HostErrorKind::ShuttingDown
    );

    let host = Host::builder()
        .runtime(world.closures.clone())
        .start()
        .await
        .unwrap();
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    drop(host);
    crate::closures::until("it is stopped", || program.live() == 0).await;
}

#[tokio::test]
async fn a_daemon_comes_back_to_what_its_operators_loaded() {
    let world = World::new();
    let host = world.builder().remember_loads().start().await.unwrap();
    let config = r#"{"quality":80}"#;
    let (kept, _) = world.package("kept", "1.0.0", "");
    let (other, _) = world.package("kept", "2.0.0", "");
    let (gone, _) = world.package("gone", "1.0.0", "");
    host.load(request(&kept).name("alias").config_json(config))
        .await
        .unwrap();
    host.load(request(&other).name("alias").beside()).await.unwrap();
    host.load(request(&gone)).await.unwrap();
    host.unload("gone").await.unwrap();
    host.shutdown().await;
    drop(host);
    let host = loop {
        match world.builder().remember_loads().start().await {
            Ok(host) => break host,
            // The lock is free when the last supervisor is gone.
            Err(error) if error.to_string().contains("in use") => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let names: Vec<_> = host.list().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["alias", "alias@2.0.0"]);
    let reply = call(&host, "plugin.alias@1.0.0.Relay", target::CONFIG_GET)
        .await
        .unwrap();
    assert!(reply.contains(config), "{reply}");
}

#[tokio::test]
async fn a_runtime_that_cannot_be_made_is_told_and_the_host_starts() {
    let world = World::new();
    let fails = |_: &std::path::Path| -> Result<crate::closures::Closures, _> {
        let kind = mortise_runtime::RuntimeErrorKind::Unsupported;
        Err(mortise_runtime::RuntimeError::new(
            kind,
            "this machine has no threads",
            "buy some",
        ))
    };
    let host = Host::builder()
        .runtime_in(RuntimeName::Wasm, fails)
        .start()
        .await
        .unwrap();
    let support = host.supports().remove(0);
    assert!(
        !support.available && support.lacks[0].why.contains("no threads"),
        "{support:?}"
    );
    let (folder, _) = world.package("echo", "1.0.0", "");
    let error = host.load(request(&folder)).await.unwrap_err();
    assert!(
        error.to_string().contains("this machine has no threads"),
        "{error}"
    );
}
