//! Routes that change while calls run, are kept, refused, written down and explained; events of methods.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use mortise_host::{
    CallOptions, Host, HostErrorKind, LoadRequest, METHOD_EVENTS_MAX, MethodChange, MethodNotice,
    ROUTES_HISTORY, RouteOrigin,
};
use mortise_manifest::{HostConfig, RouteEntry};
use mortise_wire::Header;

use crate::closures::{METHODS, Program, World, call, request, start_again};

/// Version 1.0.0 under the plain name and 1.1.0 beside it.
async fn two_versions(world: &World, host: &Host) -> (Arc<Program>, Arc<Program>) {
    let (_, one) = world.load(host, "echo", "1.0.0").await;
    let (folder, two) = world.package("echo", "1.1.0", "");
    host.load(LoadRequest {
        beside: true,
        ..request(&folder)
    })
    .await
    .unwrap();
    (one, two)
}

fn routes(text: &str) -> Vec<RouteEntry> {
    HostConfig::parse(text, "mortise.toml")
        .unwrap_or_else(|faults| panic!("{faults}"))
        .routes
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

async fn call_with(host: &Host, target: &str, payload: &str, headers: &[Header]) {
    let options = CallOptions {
        headers: headers.to_vec(),
        ..CallOptions::default()
    };
    host.call(target, Bytes::copy_from_slice(payload.as_bytes()), options)
        .await
        .unwrap();
}

/// How many calls a program got since the last look.
fn took(program: &Program) -> usize {
    std::mem::take(&mut *program.seen.lock().unwrap()).len()
}

#[tokio::test]
async fn a_split_moves_its_part_and_a_header_goes_before_it() {
    let world = World::new();
    let host = world.host().await;
    let (one, two) = two_versions(&world, &host).await;
    let target = "test.v1.Echo/Call";
    for _ in 0..100 {
        call(&host, target, "").await.unwrap();
    }
    assert_eq!(
        (took(&one), took(&two)),
        (100, 0),
        "beside gets nothing by itself"
    );
    let set = routes(
        r#"
[[route]]
name = "testers"
plugin = "echo"
headers = { x-canary = { regex = "1\\.1\\..*" } }
to = "echo@1.1.0"
[[route]]
name = "split"
plugin = "echo"
split = { "1.0.0" = 75, "1.1.0" = 25 }
sticky = "x-user"
"#,
    );
    host.set_routes("uid:1", set).await.unwrap();
    for _ in 0..400 {
        call(&host, target, "").await.unwrap();
    }
    let (left, moved) = (took(&one), took(&two));
    assert_eq!(left + moved, 400);
    assert!((60..140).contains(&moved), "{moved} of 400 at a quarter");
    for _ in 0..50 {
        call_with(&host, target, "", &[header("x-canary", "1.1.7")]).await;
        call_with(&host, "plugin.echo.Call", "", &[header("x-canary", "1.1.7")]).await;
    }
    assert_eq!((took(&one), took(&two)), (0, 100));
    for user in ["ann", "bob", "cyd", "dan"] {
        for _ in 0..20 {
            call_with(&host, target, "", &[header("x-user", user)]).await;
        }
        let found = (took(&one), took(&two));
        assert!(found == (20, 0) || found == (0, 20), "{user} stays: {found:?}");
        let explained = host
            .explain_route(target, &[header("x-user", user)])
            .outcome
            .unwrap();
        let version = if found.0 == 20 { "1.0.0" } else { "1.1.0" };
        assert_eq!(explained.1.to_string(), version, "explained as decided");
    }
    host.remove_route("uid:1", "split").await.unwrap();
    for _ in 0..50 {
        call(&host, target, "").await.unwrap();
    }
    assert_eq!((took(&one), took(&two)), (50, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_while_routes_change() {
    let world = World::new();
    let host = world.host().await;
    let (one, two) = two_versions(&world, &host).await;
    let over = Arc::new(AtomicBool::new(false));
    let caller = tokio::spawn({
        let (host, over) = (host.clone(), over.clone());
        async move {
            let mut calls = 0;
            while !over.load(Ordering::Relaxed) {
                call(&host, "test.v1.Echo/Call", "").await.unwrap();
                calls += 1;
            }
            calls
        }
    });
    for round in 0..200_u32 {
        let to = ["echo@1.0.0", "echo@1.1.0", "nobody@9.9.9"][round as usize % 3];
        let route = RouteEntry {
            name: "r".to_owned(),
            to: Some(to.to_owned()),
            ..RouteEntry::default()
        };
        host.set_route("uid:1", route, false).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let calls: usize = caller.await.unwrap();
    assert_eq!(took(&one) + took(&two), calls, "none lost, none doubled");
    assert_eq!(host.routes().revision, 200);
}

#[tokio::test]
async fn a_change_is_a_row_of_the_history_and_is_kept() {
    let world = World::new();
    let builder = || world.builder().remember_loads();
    let set = routes("[[route]]\nname = \"a\"\nto = \"echo@1.1.0\"\n");
    {
        let host = builder().start().await.unwrap();
        let after = host.set_routes("uid:7", set.clone()).await.unwrap();
        assert_eq!(after.routes[0].does, "all calls to echo@1.1.0");
        host.set_routes("uid:7", set.clone()).await.unwrap();
        host.set_routes("uid:8", Vec::new()).await.unwrap();
        host.set_routes("uid:9", set.clone()).await.unwrap();
        host.shutdown().await;
    }
    let host = start_again(builder).await;
    let now = host.routes();
    assert_eq!(now.routes.len(), 1);
    assert_eq!(
        (now.routes[0].origin, &now.routes[0].route),
        (RouteOrigin::Operator, &Some(set[0].clone()))
    );
    two_versions(&world, &host).await;
    let mut rows = host.changes(Some(ROUTES_HISTORY), None, 100).await.unwrap();
    rows.reverse();
    assert!(
        rows.iter()
            .all(|it| it.action == "routes" && it.outcome == "done")
    );
    let rows: Vec<_> = rows
        .into_iter()
        .map(|it| {
            let [only] = <[_; 1]>::try_from(it.diff).unwrap();
            (it.actor, only.what, only.before, only.after)
        })
        .collect();
    let row = |actor: &str, before: Option<&str>, after: Option<&str>| {
        let text = |it: Option<&str>| it.map(str::to_owned);
        (actor.to_owned(), "route.a".to_owned(), text(before), text(after))
    };
    let does = Some("all calls to echo@1.1.0");
    assert_eq!(
        rows,
        [
            row("uid:7", None, does),
            row("uid:8", does, None),
            row("uid:9", None, does)
        ],
        "what changes nothing is no row"
    );
}

#[tokio::test]
async fn faulty_routes_are_refused_with_all_reasons_and_change_nothing() {
    let world = World::new();
    let config = HostConfig::parse("[[route]]\nname = \"file\"\nto = \"echo\"\n", "mortise.toml").unwrap();
    let host = world.builder().config(config).start().await.unwrap();
    let good = routes("[[route]]\nname = \"a\"\nto = \"echo\"\n");
    host.set_routes("uid:1", good.clone()).await.unwrap();
    let bad = RouteEntry {
        name: "no good".to_owned(),
        to: Some("echo@new".to_owned()),
        ..RouteEntry::default()
    };
    let error = host
        .set_routes("uid:1", vec![good[0].clone(), bad, good[0].clone()])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Refused);
    let reasons: Vec<_> = error.reasons().iter().map(ToString::to_string).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    for (plugin, hint) in [("file", "mortise.toml"), ("b", "mortise route list")] {
        let error = host.remove_route("uid:1", plugin).await.unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::NotFound);
        assert!(error.hint().unwrap().contains(hint), "{error}");
    }
    let names = |host: &Host| {
        let all = host.routes().routes;
        all.into_iter()
            .map(|it| format!("{} {}", it.name, it.origin))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&host), ["a operator", "file configuration"]);
    host.configure_routes("reload", Vec::new()).await.unwrap();
    assert_eq!(names(&host), ["a operator"]);
}

#[tokio::test]
async fn a_plugins_own_calls_are_routed_by_the_headers_that_travel() {
    let world = World::new();
    let text = r#"
[routing]
propagate = ["x-canary-version", "x-payment-channel", "baggage"]
[[route]]
plugin = "echo"
headers = { x-canary-version = "1.1.0" }
to = "echo@1.1.0"
"#;
    let config = HostConfig::parse(text, "mortise.toml").unwrap();
    let host = world.builder().config(config).start().await.unwrap();
    let (one, two) = two_versions(&world, &host).await;
    let more = "[[requires]]\nservice = \"test.v1.Echo\"\n";
    let (folder, front) = world.package("front", "1.0.0", more);
    host.load(request(&folder)).await.unwrap();
    // `front` provides the same service; what it calls must not come back to it.
    let away = RouteEntry {
        name: "not-front".to_owned(),
        service: Some("test.v1.Echo".to_owned()),
        to: Some("echo".to_owned()),
        ..RouteEntry::default()
    };
    host.set_route("uid:1", away, false).await.unwrap();
    let headers = [
        header("x-canary-version", "1.1.0"),
        header("x-payment-channel", "card"),
        header("baggage", "k=v"),
        header("cookie", "secret"),
    ];
    call_with(&host, "plugin.front.Relay", "test.v1.Echo/Call hello", &headers).await;
    assert_eq!(
        (took(&one), took(&two)),
        (0, 1),
        "the header chose the version two calls deep"
    );
    for program in [&front, &two] {
        let contexts = program.contexts.lock().unwrap();
        let seen: BTreeMap<_, _> = contexts[0]
            .metadata
            .iter()
            .map(|it| (&*it.name, &*it.value))
            .collect();
        let expected = [
            ("x-canary-version", "1.1.0"),
            ("x-payment-channel", "card"),
            ("baggage", "k=v"),
        ];
        assert_eq!(seen, BTreeMap::from(expected));
    }
    call_with(&host, "plugin.front.Relay", "test.v1.Echo/Call hello", &[]).await;
    assert_eq!((took(&one), took(&two)), (1, 0));
}

#[tokio::test]
async fn subscribers_hear_what_comes_changes_and_goes() {
    let world = World::new();
    let host = world.host().await;
    let mut watch = host.watch_methods();
    assert_eq!(watch.began_with(), []);
    let (_, _) = two_versions(&world, &host).await;
    let seen = async |watch: &mut mortise_host::MethodWatch, count: usize| {
        let mut found = Vec::new();
        for _ in 0..count {
            let Some(MethodNotice::Change(change)) = watch.next().await else {
                panic!("a change")
            };
            found.push(match change {
                MethodChange::Added(it) => format!("+ {} {} {}", it.plugin, it.method, it.version),
                MethodChange::Removed(it) => format!("- {} {} {}", it.plugin, it.method, it.version),
                MethodChange::Changed { now, before } => {
                    format!("{} {} {before} -> {}", now.plugin, now.method, now.version)
                }
            });
        }
        found
    };
    let all = |text: &dyn Fn(&str) -> String| METHODS.iter().map(|it| text(it)).collect::<Vec<_>>();
    assert_eq!(
        seen(&mut watch, METHODS.len()).await,
        all(&|it| format!("+ echo {it} 1.0.0"))
    );
    assert_eq!(
        seen(&mut watch, METHODS.len()).await,
        all(&|it| format!("+ echo@1.1.0 {it} 1.1.0"))
    );
    assert_eq!(host.watch_methods().began_with().len(), 2 * METHODS.len());
    world.load(&host, "echo", "2.0.0").await;
    assert_eq!(
        seen(&mut watch, METHODS.len()).await,
        all(&|it| format!("echo {it} 1.0.0 -> 2.0.0"))
    );
    host.unload("echo@1.1.0").await.unwrap();
    assert_eq!(
        seen(&mut watch, METHODS.len()).await,
        all(&|it| format!("- echo@1.1.0 {it} 1.1.0"))
    );
}

#[tokio::test]
async fn a_subscriber_that_sleeps_holds_nobody_up_and_is_told() {
    let world = World::new();
    let host = world.host().await;
    let (folder, _) = world.package("echo", "1.0.0", "");
    let mut watch = host.watch_methods();
    let rounds = METHOD_EVENTS_MAX / METHODS.len() / 2 + 5;
    for _ in 0..rounds {
        host.load(request(&folder)).await.unwrap();
        host.unload("echo").await.unwrap();
    }
    host.load(request(&folder)).await.unwrap();
    let Some(MethodNotice::Lagged { missed, now }) = watch.next().await else {
        panic!("it is told")
    };
    assert_eq!(missed as usize, METHODS.len() * (2 * rounds + 1), "and how many");
    assert_eq!(now.len(), METHODS.len());
    host.unload("echo").await.unwrap();
    let next = watch.next().await;
    assert!(
        matches!(next, Some(MethodNotice::Change(MethodChange::Removed(_)))),
        "{next:?}"
    );
    drop(host);
}
