//! Who asked for what, and the way back.

use std::sync::atomic::Ordering;

use mortise_host::{ChangeInfo, Host, HostErrorKind, ProbationPolicy};
use mortise_manifest::{HostConfig, Permissions};

use crate::closures::{World, call, grant, info, request, until};

async fn changes(host: &Host) -> Vec<ChangeInfo> {
    let mut all = host.changes(Some("echo"), None, 100).await.unwrap();
    all.reverse();
    all
}

fn version(host: &Host) -> String {
    info(host, "echo").plugin.version.to_string()
}

#[tokio::test]
async fn every_change_says_who_what_and_how_it_ended() {
    let world = World::new();
    let host = world.builder().keep_packages(3).start().await.unwrap();
    let (old, _) = world.package("echo", "1.0.0", "[permissions]\nkv = true\n");
    let kv = grant(Permissions {
        kv: true,
        ..Permissions::default()
    });
    let asked = mortise_host::LoadRequest {
        grant: kv,
        ..request(&old).config_json(r#"{"size":{"max":80},"mode":"fast"}"#)
    };
    host.acting_as("uid:7").load(asked.clone()).await.unwrap();
    host.load(asked.config_json(r#"{"size":{"max":90}}"#))
        .await
        .unwrap();
    // Not granted what it asks for.
    host.load(request(&old)).await.unwrap_err();
    host.unload("echo").await.unwrap();
    let all = changes(&host).await;
    let told: Vec<_> = all
        .iter()
        .map(|it| {
            (
                it.actor.as_str(),
                it.action.as_str(),
                it.version.as_str(),
                it.outcome.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("uid:7", "load", "1.0.0", "done"),
            ("api", "load", "1.0.0", "done"),
            ("api", "load", "1.0.0", "failed"),
            ("api", "unload", "", "done"),
        ]
    );
    let what = |change: &ChangeInfo| -> Vec<String> {
        let one = |it: &mortise_host::Difference| {
            format!("{} {:?} {:?}", it.what, it.before.as_deref(), it.after.as_deref())
        };
        change.diff.iter().map(one).collect()
    };
    assert_eq!(
        what(&all[1]),
        [
            r#"config.mode Some("fast") None"#,
            r#"config.size.max Some("80") Some("90")"#
        ]
    );
    assert!(
        what(&all[2]).contains(&r#"grant.kv Some("true") None"#.to_owned()),
        "{:?}",
        all[2]
    );
    assert!(all[2].detail.contains("no grant allows it"), "{}", all[2].detail);
    assert!(all.windows(2).all(|it| it[0].seq < it[1].seq));
    assert!(all[0].kept && all[0].digest == all[1].digest && all[0].digest.len() == 64);
    // In pages.
    let page = host.changes(None, Some(all[2].seq), 1).await.unwrap();
    assert_eq!(page, [all[1].clone()]);
}

#[tokio::test]
async fn a_rollback_brings_back_package_grants_and_configuration_also_when_the_folder_is_gone() {
    let world = World::new();
    let host = world.builder().remember_loads().start().await.unwrap();
    let asks = "[permissions]\nkv = true\n";
    for (number, version) in ["1.0.0", "1.1.0", "1.2.0"].into_iter().enumerate() {
        let (folder, _) = world.package("echo", version, asks);
        let request = mortise_host::LoadRequest {
            grant: grant(Permissions {
                kv: true,
                ..Permissions::default()
            }),
            ..request(&folder).config_json(format!("{{\"number\":{number}}}"))
        };
        host.load(request).await.unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
    let first = changes(&host).await[0].clone();
    host.rollback("echo", None).await.unwrap();
    assert_eq!(version(&host), "1.1.0");
    let detail = host.inspect("echo").unwrap();
    assert!(
        detail.granted.kv && detail.info.source.starts_with("kept:"),
        "{detail:?}"
    );
    // And further back, not back and forth.
    host.rollback("echo", None).await.unwrap();
    assert_eq!(version(&host), "1.0.0");
    let nothing = host.rollback("echo", None).await.unwrap_err();
    assert_eq!(nothing.kind(), HostErrorKind::NotFound, "{nothing}");
    // By number, and after an unload.
    let all = changes(&host).await;
    host.rollback("echo", Some(all[2].seq)).await.unwrap();
    assert_eq!(version(&host), "1.2.0");
    host.unload("echo").await.unwrap();
    host.rollback("echo", None).await.unwrap();
    assert_eq!(version(&host), "1.2.0");
    host.rollback("echo", Some(first.seq)).await.unwrap();
    // It is what the next life of the host comes back to.
    host.shutdown().await;
    drop(host);
    let host = world.builder().remember_loads().start().await.unwrap();
    assert_eq!(version(&host), "1.0.0");
    let last = changes(&host).await.pop().unwrap();
    assert_eq!(
        (last.action.as_str(), last.diff.len()),
        ("rollback", 4),
        "{last:?}"
    );
    let diff = host.diff(Some(first.seq), last.seq).await.unwrap();
    let what: Vec<_> = diff.differences.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(what, ["source"], "the same, from the host's own keeping");
    assert_eq!(diff.contract.as_deref(), Some("exact"));
    assert_eq!(
        host.diff(None, 999).await.unwrap_err().kind(),
        HostErrorKind::NotFound
    );
}

#[tokio::test]
async fn so_many_packages_are_kept_and_no_more() {
    let world = World::new();
    let config = HostConfig::parse("[host]\nkeep_packages = 2\n", "mortise.toml").unwrap();
    let host = world.builder().config(config).start().await.unwrap();
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        world.load(&host, "echo", version).await;
    }
    world.load(&host, "other", "1.0.0").await;
    let all = changes(&host).await;
    assert_eq!(
        all.iter().map(|it| it.kept).collect::<Vec<_>>(),
        [false, true, true]
    );
    std::fs::remove_dir_all(world.dir.path().join("echo-1.0.0")).unwrap();
    let gone = host.rollback("echo", Some(all[0].seq)).await.unwrap_err();
    assert!(
        matches!(gone.kind(), HostErrorKind::NotFound | HostErrorKind::Refused),
        "{gone}"
    );
    assert_eq!(version(&host), "1.2.0");
}

#[tokio::test]
async fn an_automatic_rollback_is_a_change_and_what_the_next_life_comes_back_to() {
    let world = World::new();
    let builder = || {
        let policy = ProbationPolicy::default();
        world.builder().remember_loads().probation(policy)
    };
    let host = builder().start().await.unwrap();
    world.load(&host, "echo", "1.0.0").await;
    let (_, bad) = world.load(&host, "echo", "1.1.0").await;
    bad.exit_code.store(3, Ordering::SeqCst);
    bad.crash();
    until("it is rolled back", || version(&host) == "1.0.0").await;
    let mut last = None;
    for _ in 0..2000 {
        last = changes(&host).await.pop().filter(|it| it.actor == "probation");
        if last.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let last = last.expect("the rollback is in the history");
    assert_eq!(
        (last.action.as_str(), last.version.as_str(), last.outcome.as_str()),
        ("rollback", "1.0.0", "done")
    );
    assert!(last.detail.contains("exited"), "{}", last.detail);
    host.shutdown().await;
    drop(host);
    let host = builder().start().await.unwrap();
    assert_eq!(version(&host), "1.0.0");
    assert_eq!(call(&host, "plugin.echo.Call", "x").await.unwrap(), "x");
}
