//! Canaries from their first step to their end: promoted, taken back for each reason, in every state, over the end of the host.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use mortise_host::{
    CallOptions, CanaryAnalysis, CanaryInfo, CanaryRequest, CanaryStep, Host, HostErrorKind, LoadRequest,
    RouteOrigin, State,
};
use mortise_manifest::{HostConfig, RouteEntry};
use mortise_wire::{Code, Header};

use crate::closures::{Program, World, call, info, request, start_again, until};

const TARGET: &str = "test.v1.Echo/Call";

fn canary_of(world: &World, steps: &[&str]) -> (CanaryRequest, Arc<Program>) {
    let (folder, two) = world.package("echo", "1.1.0", "");
    let mut canary = CanaryRequest::new(request(&folder));
    canary.plan.steps = steps.iter().map(|it| it.parse::<CanaryStep>().unwrap()).collect();
    canary.plan.analysis.window = Duration::from_secs(1);
    canary.plan.analysis.requests_min = 20;
    // A busy machine is no slow plugin.
    canary.plan.analysis.p95_rise_min = Duration::from_secs(60);
    (canary, two)
}

/// Version 1.0.0 under the plain name, and 1.1.0 as its canary.
async fn begun(world: &World, steps: &[&str]) -> (Host, Arc<Program>, Arc<Program>) {
    begun_with(world, steps, |_| ()).await
}

async fn begun_with(
    world: &World,
    steps: &[&str],
    change: impl FnOnce(&mut CanaryRequest),
) -> (Host, Arc<Program>, Arc<Program>) {
    let host = world.host().await;
    let (_, one) = world.load(&host, "echo", "1.0.0").await;
    let (mut canary, two) = canary_of(world, steps);
    change(&mut canary);
    let started = host.start_canary("uid:1", canary).await.unwrap();
    assert_eq!(
        (&*started.address, &*started.baseline_version),
        ("echo@1.1.0", "1.0.0")
    );
    (host, one, two)
}

fn now(host: &Host) -> CanaryInfo {
    host.canaries().remove(0)
}

fn took(program: &Program) -> usize {
    std::mem::take(&mut *program.seen.lock().unwrap()).len()
}

/// Calls until the canary's state is this one; how many calls there were, and how many of them failed.
async fn call_until(host: &Host, state: &str) -> (usize, usize) {
    let (mut calls, mut failed) = (0, 0);
    for _ in 0..2000 {
        if now(host).state == state {
            return (calls, failed);
        }
        for _ in 0..10 {
            calls += 1;
            failed += usize::from(call(host, TARGET, "").await.is_err());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the canary never was {state}: {:?}", now(host));
}

/// 1.0.0 alone serves, 1.1.0 is gone and quarantined for this reason.
async fn rolled_back(world: &World, host: &Host, one: &Program, two: &Program, reason: &str) {
    until("it is over", || now(host).state == "rolled-back").await;
    let said = now(host).decisions.pop().unwrap();
    assert_eq!(said.kind, "rolled_back");
    assert!(said.text.contains(reason), "{} in {}", reason, said.text);
    assert!(host.inspect("echo@1.1.0").is_err(), "it is unloaded");
    until("its instance is stopped", || two.live() == 0).await;
    took(one);
    for _ in 0..30 {
        call(host, TARGET, "").await.unwrap();
    }
    assert_eq!(took(one), 30);
    let (folder, _) = world.package("echo", "1.1.0", "");
    let again = host.load(request(&folder)).await.unwrap_err();
    assert_eq!(again.kind(), HostErrorKind::Quarantined);
    assert!(again.to_string().contains(reason), "{again}");
    assert!(
        host.routes()
            .routes
            .iter()
            .all(|it| it.origin != RouteOrigin::Canary),
        "its rules are gone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_is_no_worse_is_promoted_and_no_call_is_lost() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["10%", "50%", "promote"]).await;
    let (calls, failed) = call_until(&host, "promoted").await;
    assert_eq!(failed, 0);
    assert_eq!(took(&one) + took(&two), calls, "none lost, none doubled");
    let plain = info(&host, "echo");
    assert_eq!(plain.plugin.version.to_string(), "1.1.0");
    assert!(matches!(plain.state, State::Probation | State::Active));
    let names: Vec<_> = host.list().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["echo"], "the address beside is gone");
    for _ in 0..20 {
        call(&host, TARGET, "").await.unwrap();
    }
    assert_eq!((took(&one), took(&two)), (0, 20));
    let kinds: Vec<_> = now(&host).decisions.into_iter().map(|it| it.kind).collect();
    assert_eq!(kinds, ["step", "step", "step", "promoting", "promoted"]);
    assert!(
        now(&host).decisions[1].text.contains("beside"),
        "with the numbers that let it pass"
    );
}

#[tokio::test(start_paused = true)]
async fn errors_take_it_back() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["50%", "promote"]).await;
    *two.broken.lock().unwrap() = Some(Code::Internal);
    let (_, failed) = call_until(&host, "rolled-back").await;
    assert!(failed >= 20, "it had that many calls: {failed}");
    rolled_back(&world, &host, &one, &two, "(100.0 %), and 1.0 % is allowed").await;
}

#[tokio::test]
async fn slowness_takes_it_back() {
    let world = World::new();
    let by_default = |canary: &mut CanaryRequest| {
        canary.plan.analysis.p95_rise_min = CanaryAnalysis::default().p95_rise_min;
    };
    let (host, one, two) = begun_with(&world, &["50%", "promote"], by_default).await;
    *two.slow.lock().unwrap() = Duration::from_millis(40);
    call_until(&host, "rolled-back").await;
    rolled_back(&world, &host, &one, &two, "the 95th percentile of latency is").await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_takes_it_back() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["50%", "promote"]).await;
    call(&host, TARGET, "").await.unwrap();
    two.crash();
    rolled_back(&world, &host, &one, &two, "its process exited with code 3").await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_one_is_taken_back_although_nothing_at_all_is_healthy() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["50%", "promote"]).await;
    host.pause_canary("uid:1", "echo").await.unwrap();
    assert_eq!(now(&host).weight, 50, "it keeps its calls");
    one.healthy.store(false, Ordering::SeqCst);
    two.healthy.store(false, Ordering::SeqCst);
    rolled_back(&world, &host, &one, &two, "2 health checks in a row were bad").await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_plan_is_watched_too() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["50%", "pause", "promote"]).await;
    let (_, failed) = call_until(&host, "paused").await;
    assert_eq!(failed, 0);
    *two.broken.lock().unwrap() = Some(Code::Unknown);
    call_until(&host, "rolled-back").await;
    rolled_back(&world, &host, &one, &two, "calls failed").await;
}

#[tokio::test(start_paused = true)]
async fn a_header_sends_calls_there_and_no_others() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["header x-canary=1", "pause"]).await;
    let options = CallOptions {
        headers: vec![Header {
            name: "x-canary".to_owned(),
            value: "1".to_owned(),
        }],
        ..CallOptions::default()
    };
    for _ in 0..25 {
        call(&host, TARGET, "").await.unwrap();
        host.call(TARGET, Bytes::new(), options.clone()).await.unwrap();
    }
    assert_eq!((took(&one), took(&two)), (25, 25));
    until("its step has passed", || now(&host).step == 2).await;
    let aborted = host.abort_canary("uid:2", "echo", "enough seen").await.unwrap();
    assert_eq!(aborted.state, "rolled-back");
    host.call(TARGET, Bytes::new(), options).await.unwrap();
    assert_eq!((took(&one), took(&two)), (1, 0));
    let (folder, _) = world.package("echo", "1.1.0", "");
    host.load(request(&folder))
        .await
        .expect("an abort is no quarantine");
}

#[tokio::test(start_paused = true)]
async fn operators_have_the_word() {
    let world = World::new();
    let (host, _, two) = begun(&world, &["10%", "pause", "promote"]).await;
    let conflict = async |what: &str| {
        let said = match what {
            "pause" => host.pause_canary("uid:1", "echo").await,
            "resume" => host.resume_canary("uid:1", "echo").await,
            "promote" => host.promote_canary("uid:1", "echo").await,
            _ => host.abort_canary("uid:1", "echo", "").await,
        };
        let error = said.unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Conflict, "{what}: {error}");
    };
    conflict("resume").await;
    host.pause_canary("uid:1", "echo").await.unwrap();
    conflict("pause").await;
    let (second, _) = canary_of(&world, &["10%"]);
    let error = host.start_canary("uid:1", second).await.unwrap_err();
    assert!(error.to_string().contains("has a canary already"), "{error}");
    let route = RouteEntry {
        name: "all".to_owned(),
        plugin: Some("echo".to_owned()),
        to: Some("echo@1.0.0".to_owned()),
        ..RouteEntry::default()
    };
    let error = host.set_route("uid:1", route.clone(), false).await.unwrap_err();
    assert!(error.to_string().contains("a second time"), "{error}");
    host.promote_canary("uid:1", "echo").await.unwrap();
    until("it is promoted", || now(&host).state == "promoted").await;
    assert_eq!(info(&host, "echo").plugin.version.to_string(), "1.1.0");
    assert_eq!(two.live(), 0, "the one beside is stopped");
    for what in ["pause", "resume", "promote", "abort"] {
        conflict(what).await;
    }
    let error = host.pause_canary("uid:1", "nobody").await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NotFound);
    let actors: Vec<_> = now(&host)
        .decisions
        .into_iter()
        .map(|it| format!("{} {}", it.actor, it.kind))
        .collect();
    assert_eq!(
        actors,
        ["uid:1 step", "uid:1 paused", "uid:1 promoting", "canary promoted"]
    );
    host.set_route("uid:1", route, false).await.unwrap();
    let (third, _) = canary_of(&world, &["10%"]);
    let error = host.start_canary("uid:1", third).await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Conflict, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_canary_needs_somebody_to_be_compared_with() {
    let world = World::new();
    let host = world.host().await;
    let (canary, two) = canary_of(&world, &["10%"]);
    let error = host.start_canary("uid:1", canary).await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Conflict);
    assert!(
        error.to_string().contains("nothing serves under the name `echo`"),
        "{error}"
    );
    assert_eq!(two.started.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn who_swaps_the_plain_name_ends_its_canary() {
    let world = World::new();
    let (host, _, two) = begun(&world, &["50%", "promote"]).await;
    world.load(&host, "echo", "3.0.0").await;
    until("it is over", || now(&host).state == "rolled-back").await;
    let said = now(&host).decisions.pop().unwrap();
    assert!(
        said.text.contains("`echo` was replaced by 3.0.0"),
        "{}",
        said.text
    );
    until("it is stopped", || two.live() == 0).await;
    let (folder, _) = world.package("echo", "1.1.0", "");
    host.load(LoadRequest {
        beside: true,
        ..request(&folder)
    })
    .await
    .expect("it was not its fault");
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_does_not_start_leaves_what_serves() {
    let world = World::new();
    let (host, one, two) = begun(&world, &["50%", "promote"]).await;
    two.refuses.store(true, Ordering::SeqCst);
    let (_, failed) = call_until(&host, "rolled-back").await;
    assert_eq!(failed, 0);
    let said = now(&host).decisions.pop().unwrap();
    assert!(said.text.contains("it declined: no licence"), "{}", said.text);
    took(&one);
    for _ in 0..20 {
        call(&host, TARGET, "").await.unwrap();
    }
    assert_eq!(took(&one), 20);
}

#[tokio::test(start_paused = true)]
async fn what_was_measured_is_promoted_although_its_folder_is_gone() {
    let world = World::new();
    let (host, ..) = begun(&world, &["50%", "promote"]).await;
    std::fs::remove_dir_all(world.dir.path().join("echo-1.1.0")).unwrap();
    let (_, failed) = call_until(&host, "promoted").await;
    assert_eq!(failed, 0);
    assert_eq!(info(&host, "echo").plugin.version.to_string(), "1.1.0");
}

#[tokio::test(start_paused = true)]
async fn a_canary_takes_no_address_from_anybody() {
    let world = World::new();
    let host = world.host().await;
    world.load(&host, "echo", "1.0.0").await;
    let (canary, two) = canary_of(&world, &["50%", "promote"]);
    let beside = LoadRequest {
        beside: true,
        ..canary.load.clone()
    };
    host.load(beside).await.unwrap();
    let error = host.start_canary("uid:1", canary).await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Conflict, "{error}");
    assert!(
        error.to_string().contains("`echo@1.1.0` is there already"),
        "{error}"
    );
    assert_eq!(two.live(), 1, "it serves on");
    host.inspect("echo@1.1.0").unwrap();
}

#[tokio::test]
async fn a_host_that_starts_again_goes_on_with_its_canaries() {
    let world = World::new();
    let (folder, one) = world.package("echo", "1.0.0", "");
    let (canary, two) = canary_of(&world, &["header x=1", "50%", "pause", "promote"]);
    let start = async || start_again(|| world.builder().remember_loads()).await;
    {
        let host = start().await;
        host.load(request(&folder)).await.unwrap();
        let mut canary = canary.clone();
        canary.plan.analysis.window = Duration::from_millis(1);
        canary.plan.analysis.requests_min = 0;
        host.start_canary("uid:1", canary).await.unwrap();
        until("it waits in its pause", || now(&host).step == 3).await;
        host.shutdown().await;
    }
    let host = start().await;
    let found = now(&host);
    assert_eq!((found.step, found.weight, &*found.state), (3, 50, "paused"));
    assert_eq!(found.headers, ["x: 1"]);
    took(&one);
    took(&two);
    for _ in 0..100 {
        call(&host, TARGET, "").await.unwrap();
    }
    let got = took(&two);
    assert!((25..75).contains(&got), "{got} of 100");
    host.shutdown().await;
    drop(host);
    // One that cannot be started any more is taken back.
    std::fs::remove_dir_all(world.dir.path().join("echo-1.1.0")).unwrap();
    let host = start().await;
    let lost = now(&host);
    assert_eq!(lost.state, "rolled-back");
    assert!(
        lost.decisions[0].text.contains("after a restart of the host"),
        "{lost:?}"
    );
    for _ in 0..20 {
        call(&host, TARGET, "").await.unwrap();
    }
    assert_eq!(took(&two), 0);
    host.shutdown().await;
    drop(host);
    assert_eq!(start().await.canaries(), [], "and forgotten");
}

#[tokio::test]
async fn plugins_calls_take_part_unless_the_canarys_version_is_not_what_they_require() {
    let world = World::new();
    let config = HostConfig::parse("[routing]\npropagate = [\"x-canary\"]\n", "mortise.toml").unwrap();
    let host = world.builder().config(config).start().await.unwrap();
    let (_, one) = world.load(&host, "echo", "1.0.0").await;
    // They provide the service too, in a version that they do not require.
    for (name, range) in [("open", "^1.0"), ("narrow", "~1.0.0")] {
        let more = format!("[[requires]]\nservice = \"test.v1.Echo\"\nversion = \"{range}\"\n");
        let (folder, _) = world.package(name, "9.0.0", &more);
        host.load(request(&folder)).await.unwrap();
    }
    let (mut canary, two) = canary_of(&world, &["header x-canary=1", "40%", "pause", "promote"]);
    canary.plan.analysis.window = Duration::from_millis(1);
    canary.plan.analysis.requests_min = 0;
    let started = host.start_canary("uid:1", canary).await.unwrap();
    let notes = started.notes.join("\n");
    assert!(
        notes.contains("it cannot be promoted: plugin `narrow` requires")
            && !notes.contains("routing.propagate"),
        "{notes}"
    );
    until("it has its part", || now(&host).step == 3).await;
    let through = async |plugin: &str, header: Option<&str>| {
        let headers = header.map(|value| Header {
            name: "x-canary".to_owned(),
            value: value.to_owned(),
        });
        for _ in 0..200 {
            let options = CallOptions {
                headers: headers.clone().into_iter().collect(),
                ..CallOptions::default()
            };
            let payload = Bytes::from_static(b"test.v1.Echo/Call x");
            host.call(&format!("plugin.{plugin}.Relay"), payload, options)
                .await
                .unwrap();
        }
        (took(&one), took(&two))
    };
    assert_eq!(through("open", Some("1")).await, (0, 200), "the header travels");
    let (stayed, moved) = through("open", None).await;
    assert_eq!(stayed + moved, 200);
    assert!((40..120).contains(&moved), "{moved} of 200 at 40 %");
    assert_eq!(through("narrow", Some("1")).await, (200, 0), "not in its range");
    assert_eq!(through("narrow", None).await, (200, 0));
}
