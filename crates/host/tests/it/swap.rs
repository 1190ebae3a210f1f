//! Hot swap: nothing is lost, nothing is doubled, a failure changes nothing; versions beside each other.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mortise_host::{CallOptions, HostErrorKind, LoadRequest, ProbationPolicy, State};
use mortise_runtime::CallErrorKind;

use crate::closures::{World, call, info, request, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_lose_and_double_no_call() {
    const CALLERS: u64 = 4;
    const SWAPS: usize = 30;
    let world = World::new();
    let host = world.host().await;
    let (_, first) = world.load(&host, "echo", "1.0.0").await;
    let mut programs = vec![first];
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (host, stop, made) = (host.clone(), stop.clone(), made.clone());
            tokio::spawn(async move {
                let route = host.resolve("test.v1.Echo/Call", &[]).unwrap();
                let mut sent = Vec::new();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let payload = Bytes::from(format!("{caller}-{number}"));
                    sent.push(payload.clone());
                    made.fetch_add(1, Ordering::Relaxed);
                    // Every other call goes over a route that was resolved before all swaps.
                    let reply = match number % 2 {
                        0 => {
                            host.call_route(&route, payload.clone(), CallOptions::default())
                                .await
                        }
                        _ => {
                            host.call("plugin.echo.Call", payload.clone(), CallOptions::default())
                                .await
                        }
                    };
                    assert_eq!(reply.unwrap(), payload, "lost");
                }
                sent
            })
        })
        .collect();
    for swap in 1..=SWAPS {
        let before = made.load(Ordering::Relaxed);
        programs.push(world.load(&host, "echo", &format!("1.0.{swap}")).await.1);
        until("calls go on", || made.load(Ordering::Relaxed) > before + 100).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for caller in callers {
        sent.extend(caller.await.unwrap());
    }
    let seen: Vec<Bytes> = programs
        .iter()
        .flat_map(|it| it.seen.lock().unwrap().clone())
        .collect();
    assert_eq!(seen.len(), sent.len(), "doubled");
    assert_eq!(
        seen.iter().collect::<HashSet<_>>(),
        sent.iter().collect::<HashSet<_>>()
    );
    assert_eq!(info(&host, "echo").calls, sent.len() as u64);
    assert!(
        programs
            .iter()
            .filter(|it| !it.seen.lock().unwrap().is_empty())
            .count()
            > SWAPS / 2,
        "the load was spread"
    );
    host.shutdown().await;
    assert_eq!(programs.iter().map(|it| it.live()).sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_old_version_finishes_its_calls_before_it_is_stopped() {
    let world = World::new();
    // Without probation the old one has no reason to stay but its calls.
    let policy = ProbationPolicy {
        time: Duration::ZERO,
        ..ProbationPolicy::default()
    };
    let host = world.builder().probation(policy).start().await.unwrap();
    let (_, old) = world.load(&host, "echo", "1.0.0").await;
    let nap = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.echo.Nap", "4000").await }
    });
    until("it naps", || old.napping.load(Ordering::SeqCst) == 1).await;
    let (loaded, _) = world.load(&host, "echo", "2.0.0").await;
    assert_eq!((loaded.state, loaded.plugin.version.major), (State::Active, 2));
    assert_eq!(call(&host, "plugin.echo.Call", "new").await.unwrap(), "new");
    assert_eq!(old.live(), 1, "it still has a call");
    assert_eq!(nap.await.unwrap().unwrap(), "4000");
    until("the old one is stopped", || old.live() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_old_version_is_served_by_the_new_one() {
    let world = World::new();
    let host = world.host().await;
    let (folder, old) = world.package("echo", "1.0.0", "[limits]\nconcurrency = 1\n");
    host.load(request(&folder)).await.unwrap();
    let spawn = |method: &'static str, payload: &'static str| {
        let host = host.clone();
        tokio::spawn(async move { call(&host, method, payload).await })
    };
    let nap = spawn("plugin.echo.Nap", "4000");
    until("it naps", || old.napping.load(Ordering::SeqCst) == 1).await;
    let waiting = spawn("plugin.echo.Call", "waited");
    until("one waits", || {
        host.inspect("echo").unwrap().counters.waiting == 1
    })
    .await;
    let (_, new) = world.load(&host, "echo", "2.0.0").await;
    assert_eq!(waiting.await.unwrap().unwrap(), "waited");
    assert_eq!(
        (old.seen.lock().unwrap().len(), new.seen.lock().unwrap().len()),
        (0, 1)
    );
    assert_eq!(nap.await.unwrap().unwrap(), "4000");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_does_not_come_up_changes_nothing() {
    let world = World::new();
    let host = world.host().await;
    let (_, old) = world.load(&host, "echo", "1.0.0").await;
    let mut failures = Vec::new();
    for (version, spoil) in [
        ("2.0.0", "declines"),
        ("2.0.1", "never healthy"),
        ("2.0.2", "not a plugin"),
    ] {
        let (folder, program) = world.package("echo", version, "[limits]\nstart_ms = 500\n");
        match spoil {
            "declines" => program.refuses.store(true, Ordering::SeqCst),
            "never healthy" => program.healthy.store(false, Ordering::SeqCst),
            _ => std::fs::write(folder.join("p.wasm"), "garbage").unwrap(),
        }
        let error = host.load(request(&folder)).await.unwrap_err();
        failures.push((error.kind(), error.to_string()));
        assert_eq!(program.live(), 0, "{spoil}: nothing is left");
        assert_eq!(call(&host, "plugin.echo.Call", "still").await.unwrap(), "still");
        let now = info(&host, "echo");
        assert_eq!(
            (now.plugin.version.to_string(), now.generation),
            ("1.0.0".to_owned(), 1),
            "{spoil}"
        );
        assert!(
            now.reasons[0].contains(&format!("echo {version}")),
            "{:?}",
            now.reasons
        );
    }
    assert_eq!(
        failures.iter().map(|it| it.0).collect::<Vec<_>>(),
        [
            HostErrorKind::StartFailed,
            HostErrorKind::StartFailed,
            HostErrorKind::Refused
        ]
    );
    assert!(
        failures[0].1.contains("it declined: no licence"),
        "{}",
        failures[0].1
    );
    assert!(failures[1].1.contains("out of sorts"), "{}", failures[1].1);
    assert!(
        failures[2].1.contains("these bytes are no plugin"),
        "{}",
        failures[2].1
    );
    assert_eq!(old.live(), 1);
}

#[tokio::test]
async fn two_versions_run_beside_each_other() {
    let world = World::new();
    let host = world.host().await;
    let (_, one) = world.load(&host, "echo", "1.0.0").await;
    let (folder, two) = world.package("echo", "2.0.0", "");
    let beside = LoadRequest {
        beside: true,
        ..request(&folder)
    };
    assert_eq!(host.load(beside.clone()).await.unwrap().name, "echo@2.0.0");
    let seen = || (one.seen.lock().unwrap().len(), two.seen.lock().unwrap().len());
    call(&host, "plugin.echo@1.0.0.Call", "").await.unwrap();
    call(&host, "plugin.echo@2.0.0.Call", "").await.unwrap();
    assert_eq!(seen(), (1, 1));
    // The plain name and the service belong to the first.
    call(&host, "plugin.echo.Call", "").await.unwrap();
    call(&host, "test.v1.Echo/Call", "").await.unwrap();
    assert_eq!(seen(), (3, 1));
    let names: Vec<_> = host.list().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["echo", "echo@2.0.0"]);
    assert_eq!(
        host.inspect("echo@1.0.0").unwrap().info.name,
        "echo",
        "a version finds the plain name"
    );

    let (folder, _) = world.package("echo", "1.0.0", "");
    let again = host
        .load(LoadRequest {
            beside: true,
            ..request(&folder)
        })
        .await
        .unwrap_err();
    assert_eq!(again.kind(), HostErrorKind::Conflict);

    // Without the first, the other answers for the service too.
    host.unload("echo@1.0.0").await.unwrap();
    call(&host, "test.v1.Echo/Call", "").await.unwrap();
    assert_eq!(seen(), (3, 2));
    host.unload("echo@2.0.0").await.unwrap();
    assert_eq!(
        call(&host, "test.v1.Echo/Call", "").await.unwrap_err().kind(),
        CallErrorKind::NotFound
    );
    assert_eq!((one.live(), two.live()), (0, 0));
}

#[tokio::test]
async fn the_same_package_runs_under_several_names() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("echo", "1.0.0", "");
    for name in ["left", "right"] {
        host.load(LoadRequest {
            name: Some(name.to_owned()),
            ..request(&folder)
        })
        .await
        .unwrap();
    }
    assert_eq!(program.live(), 2);
    for name in ["left", "right"] {
        assert_eq!(
            call(&host, &format!("plugin.{name}.Call"), name).await.unwrap(),
            name
        );
        assert_eq!(info(&host, name).calls, 1);
    }
    let bad = host
        .load(LoadRequest {
            name: Some("Not A Name".to_owned()),
            ..request(&folder)
        })
        .await
        .unwrap_err();
    assert_eq!(bad.kind(), HostErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn an_unload_waits_for_calls_up_to_the_stop_timeout() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("echo", "1.0.0", "[limits]\nstop_ms = 300\n");
    let mut reports = Vec::new();
    for nap in ["100", "4000"] {
        host.load(request(&folder)).await.unwrap();
        let napping = tokio::spawn({
            let host = host.clone();
            async move { call(&host, "plugin.echo.Nap", nap).await }
        });
        until("it naps", || program.napping.load(Ordering::SeqCst) == 1).await;
        reports.push(host.unload("echo").await.unwrap().cancelled);
        assert_eq!(program.live(), 0);
        napping.abort();
        until("nobody naps", || program.napping.load(Ordering::SeqCst) == 0).await;
        assert_eq!(
            host.unload("echo").await.unwrap_err().kind(),
            HostErrorKind::NotFound
        );
    }
    assert_eq!(reports, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unload_never_pulls_a_plugin_away_under_a_bound_call() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("echo", "1.0.0", "[limits]\nstop_ms = 1\n");
    program.direct.store(true, Ordering::SeqCst);
    host.load(request(&folder)).await.unwrap();
    let (enter, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel();
    *program.inside.lock().unwrap() = Some((enter, left));
    let bound = host.bind("plugin.echo.Call").unwrap();
    let caller = std::thread::spawn(move || bound.call(b"slow", &mut Vec::new()));
    tokio::task::spawn_blocking(move || entered.recv())
        .await
        .unwrap()
        .unwrap();
    let unloading = tokio::spawn({
        let host = host.clone();
        async move { host.unload("echo").await }
    });
    until("new calls are turned away", || {
        host.resolve("plugin.echo.Call", &[]).is_err() || host.list()[0].state == State::Draining
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        program.live(),
        1,
        "S3: the stop timeout has passed, and a caller is inside"
    );
    leave.send(()).unwrap();
    caller.join().unwrap().unwrap();
    unloading.await.unwrap().unwrap();
    assert_eq!(program.live(), 0);
}
