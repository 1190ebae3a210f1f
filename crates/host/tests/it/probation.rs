//! A fresh version that is worse than the one before is taken back without asking, and says which number did it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mortise_host::{Host, HostErrorKind, LoadRequest, State};
use mortise_wire::Code;

use crate::closures::{Program, World, call, info, request, state, until};

/// Version 1 with 100 good calls behind it, then version 2, both by their programs.
async fn swapped(world: &World) -> (Host, Arc<Program>, Arc<Program>) {
    let host = world.host().await;
    let (_, one) = world.load(&host, "echo", "1.0.0").await;
    for _ in 0..100 {
        call(&host, "plugin.echo.Call", "").await.unwrap();
    }
    let (loaded, two) = world.load(&host, "echo", "2.0.0").await;
    assert_eq!((loaded.state, loaded.generation), (State::Probation, 2));
    assert_eq!(one.live(), 1, "it stands by");
    (host, one, two)
}

/// Version 1 serves again, and version 2 is quarantined for this reason.
async fn rolled_back(world: &World, host: &Host, one: &Program, two: &Program, reason: &str) {
    until("version 1 is back", || info(host, "echo").generation == 1).await;
    let now = info(host, "echo");
    assert_eq!(now.state, State::Active);
    assert!(
        now.reasons[0].contains("version 2.0.0 was rolled back to 1.0.0"),
        "{:?}",
        now.reasons
    );
    assert!(now.reasons[0].contains(reason), "{:?}", now.reasons);
    let before = one.seen.lock().unwrap().len();
    assert_eq!(call(host, "plugin.echo.Call", "back").await.unwrap(), "back");
    assert_eq!(one.seen.lock().unwrap().len(), before + 1);
    until("version 2 is stopped", || two.live() == 0).await;
    let (folder, _) = world.package("echo", "2.0.0", "");
    let again = host.load(request(&folder)).await.unwrap_err();
    assert_eq!(again.kind(), HostErrorKind::Quarantined);
    assert!(again.to_string().contains(reason), "{again}");
    let forced = host
        .load(LoadRequest {
            force: true,
            ..request(&folder)
        })
        .await
        .unwrap();
    assert_eq!(forced.plugin.version.major, 2, "the operator has the last word");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_no_worse_passes_and_its_predecessor_is_stopped() {
    let world = World::new();
    let (host, one, _) = swapped(&world).await;
    // One error of fifty would be too much; what callers did wrong is none.
    for _ in 0..60 {
        call(&host, "plugin.echo.Call", "").await.unwrap();
        call(&host, "plugin.echo.Fail", "3").await.unwrap_err();
    }
    until("it has passed", || state(&host, "echo") == State::Active).await;
    until("the predecessor is stopped", || one.live() == 0).await;
    let events: Vec<_> = host
        .inspect("echo")
        .unwrap()
        .history
        .into_iter()
        .map(|it| (it.generation, it.event))
        .collect();
    let of = |wanted| {
        events
            .iter()
            .filter(|it| it.0 == wanted)
            .map(|it| it.1.as_str())
            .collect::<Vec<_>>()
    };
    let born = [
        "load",
        "checks_passed",
        "prepared",
        "activate",
        "started",
        "cut_over",
        "probation_passed",
    ];
    assert_eq!(of(2), born);
    assert_eq!(
        of(1),
        [&born[..6], &["replaced", "superseded", "drained", "released"]].concat()
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_rolls_back() {
    let world = World::new();
    let (host, one, two) = swapped(&world).await;
    two.crash();
    rolled_back(&world, &host, &one, &two, "its process exited with code 3").await;
}

#[tokio::test(start_paused = true)]
async fn two_bad_healths_roll_back() {
    let world = World::new();
    let (host, one, two) = swapped(&world).await;
    two.healthy.store(false, Ordering::SeqCst);
    rolled_back(
        &world,
        &host,
        &one,
        &two,
        "2 health checks in a row were bad: out of sorts",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn too_many_errors_roll_back() {
    let world = World::new();
    let (host, one, two) = swapped(&world).await;
    *two.broken.lock().unwrap() = Some(Code::Internal);
    for _ in 0..50 {
        call(&host, "plugin.echo.Call", "").await.unwrap_err();
    }
    let reason = "50 of 50 calls failed (100.0 %), and 1.0 % is allowed (the version before had 0.0 %)";
    rolled_back(&world, &host, &one, &two, reason).await;
}

#[tokio::test]
async fn a_rise_in_latency_rolls_back() {
    let world = World::new();
    let (host, one, two) = swapped(&world).await;
    *two.slow.lock().unwrap() = Duration::from_millis(25);
    for _ in 0..50 {
        call(&host, "plugin.echo.Call", "").await.unwrap();
    }
    rolled_back(&world, &host, &one, &two, "the 95th percentile of latency is").await;
}

#[tokio::test(start_paused = true)]
async fn calls_in_the_rolled_back_version_end_in_peace() {
    let world = World::new();
    let (host, _, two) = swapped(&world).await;
    let nap = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.echo.Nap", "4500").await }
    });
    until("it naps", || two.napping.load(Ordering::SeqCst) == 1).await;
    two.healthy.store(false, Ordering::SeqCst);
    until("version 1 is back", || info(&host, "echo").generation == 1).await;
    assert_eq!(
        (two.live(), two.napping.load(Ordering::SeqCst)),
        (1, 1),
        "it still has a call"
    );
    assert_eq!(nap.await.unwrap().unwrap(), "4500");
    until("version 2 is stopped", || two.live() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_dies_in_standby_leaves_nothing_to_go_back_to() {
    let world = World::new();
    let (host, one, two) = swapped(&world).await;
    one.crash();
    until("the predecessor is gone", || one.live() == 0).await;
    two.crash();
    until("version 2 starts again", || {
        two.started.load(Ordering::SeqCst) == 2
    })
    .await;
    until("and serves", || state(&host, "echo").is_routed()).await;
    assert_eq!(info(&host, "echo").plugin.version.major, 2);
}
