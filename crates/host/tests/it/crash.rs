//! Instances that end by themselves: calls hear of it, restarts back off, too many exits end in quarantine, others notice nothing.

use std::{sync::atomic::Ordering, time::Duration};

use mortise_host::{HostErrorKind, LoadRequest, RestartPolicy, State};
use mortise_manifest::Restart;
use mortise_runtime::{CallErrorKind, Retry};
use tokio::time::Instant;

use crate::closures::{World, call, info, request, state, until};

#[tokio::test(start_paused = true)]
async fn a_crash_fails_the_calls_in_flight_and_is_followed_by_a_restart() {
    let world = World::new();
    let restarts = RestartPolicy {
        // Long enough to be seen: the wait is any part of it.
        first: Duration::from_secs(60),
        ..RestartPolicy::default()
    };
    let host = world.builder().restarts(restarts).start().await.unwrap();
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    let (_, other) = world.load(&host, "other", "1.0.0").await;
    let nap = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.echo.Nap", "4000").await }
    });
    until("it naps", || program.napping.load(Ordering::SeqCst) == 1).await;
    program.crash();
    assert_eq!(nap.await.unwrap().unwrap_err().kind(), CallErrorKind::GuestFault);
    until("it is down", || state(&host, "echo") == State::Failed).await;
    let down = call(&host, "plugin.echo.Call", "").await.unwrap_err();
    assert_eq!(down.kind(), CallErrorKind::Unavailable);
    assert!(down.to_string().contains("is down and starts again in"), "{down}");
    assert_eq!(
        call(&host, "plugin.other.Call", "well").await.unwrap(),
        "well",
        "others notice nothing"
    );
    until("it serves again", || state(&host, "echo").is_routed()).await;
    assert_eq!(call(&host, "plugin.echo.Call", "again").await.unwrap(), "again");
    let detail = host.inspect("echo").unwrap();
    assert_eq!(
        (
            detail.counters.crashes,
            detail.counters.starts,
            detail.info.generation
        ),
        (1, 2, 1)
    );
    assert_eq!((program.live(), other.live()), (1, 1));
}

/// A caller may try again by itself only where that does no harm.
#[tokio::test(start_paused = true)]
async fn only_an_idempotent_call_that_a_crash_cut_off_is_marked_retryable() {
    let world = World::new();
    let host = world.host().await;
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    let begin = |method: &'static str| {
        let host = host.clone();
        tokio::spawn(async move { call(&host, &format!("plugin.echo.{method}"), "4000").await })
    };
    let (once, again) = (begin("Nap"), begin("Doze"));
    until("both are in", || program.napping.load(Ordering::SeqCst) == 2).await;
    program.crash();
    let (once, again) = (
        once.await.unwrap().unwrap_err(),
        again.await.unwrap().unwrap_err(),
    );
    assert_eq!(
        (once.kind(), again.kind()),
        (CallErrorKind::GuestFault, CallErrorKind::GuestFault)
    );
    assert_eq!((once.status().retryable, once.retry()), (false, Retry::Never));
    assert_eq!(
        (again.status().retryable, again.retry()),
        (true, Retry::OtherInstance)
    );
    // A call that found nothing to go to did nothing, whatever its method is.
    until("it is down", || state(&host, "echo") == State::Failed).await;
    let early = call(&host, "plugin.echo.Nap", "1").await.unwrap_err();
    assert_eq!(
        (early.kind(), early.status().retryable),
        (CallErrorKind::Unavailable, true)
    );
    // The same for a deadline.
    until("it serves again", || state(&host, "echo").is_routed()).await;
    for (method, retryable) in [("Nap", false), ("Doze", true)] {
        let late = call(&host, &format!("plugin.echo.{method}"), "60000")
            .await
            .unwrap_err();
        assert_eq!(
            (late.kind(), late.status().retryable),
            (CallErrorKind::Deadline, retryable)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_operator_says_whether_an_exit_is_followed_by_a_restart() {
    // Exit code, policy, whether it comes back.
    let cases = [
        (3, Restart::Never, false),
        (3, Restart::OnFailure, true),
        (3, Restart::Always, true),
        (0, Restart::Never, false),
        (0, Restart::OnFailure, false),
        (0, Restart::Always, true),
    ];
    for (code, restart, comes_back) in cases {
        let world = World::new();
        let host = world.host().await;
        let (folder, program) = world.package("echo", "1.0.0", "");
        host.load(request(&folder).restart(restart)).await.unwrap();
        assert_eq!(host.inspect("echo").unwrap().restart, restart);
        program.exit_code.store(code, Ordering::SeqCst);
        let starts = program.started.load(Ordering::SeqCst);
        program.crash();
        // The wait before a restart is drawn by lot, and may be too short to be seen.
        let is_noticed =
            || !state(&host, "echo").is_routed() || program.started.load(Ordering::SeqCst) > starts;
        until("its end is noticed", is_noticed).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(
            state(&host, "echo").is_routed(),
            comes_back,
            "code {code}, {restart}"
        );
        if !comes_back {
            let why = call(&host, "plugin.echo.Call", "").await.unwrap_err().to_string();
            let said = format!(
                "stays down, because its `restart` is `{restart}`: its process exited with code {code}"
            );
            assert!(why.contains(&said), "{why}");
            assert_eq!(info(&host, "echo").reasons, [why]);
            // It is at rest and not given up: the operator may load it again.
            host.load(request(&folder)).await.unwrap();
            assert_eq!(call(&host, "plugin.echo.Call", "x").await.unwrap(), "x");
        }
        host.shutdown().await;
        assert_eq!(program.live(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_grow_and_the_fifth_exit_in_two_minutes_is_the_last() {
    let world = World::new();
    let host = world.host().await;
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    let mut waits = Vec::new();
    for exits in 1..=5 {
        let before = program.started.load(Ordering::SeqCst);
        let crashed = Instant::now();
        program.crash();
        if exits == 5 {
            until("it is down", || !state(&host, "echo").is_routed()).await;
            break;
        }
        // It may be down for less than a millisecond: nobody can be sure to see that.
        until("it starts again", || {
            program.started.load(Ordering::SeqCst) > before
        })
        .await;
        until("it serves", || state(&host, "echo").is_routed()).await;
        waits.push(crashed.elapsed().as_millis());
    }
    // Full jitter: anything up to 250 ms, 500, 1000, 2000, and what `until` sleeps between two looks. How they grow is tested where they are
    // drawn.
    for (wait, longest) in waits.iter().zip([250, 500, 1000, 2000]) {
        assert!(*wait <= longest + 100, "{waits:?}");
    }
    assert_eq!(state(&host, "echo"), State::Quarantined);
    let now = info(&host, "echo");
    assert!(
        now.reasons[0].contains("quarantined after 5 exits"),
        "{:?}",
        now.reasons
    );
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        program.started.load(Ordering::SeqCst),
        5,
        "nobody starts it again"
    );
    assert_eq!(
        call(&host, "plugin.echo.Call", "").await.unwrap_err().kind(),
        CallErrorKind::Unavailable
    );

    let (folder, program) = world.package("echo", "1.0.0", "");
    let refused = host.load(request(&folder)).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Quarantined);
    assert!(refused.to_string().contains("5 exits within 120s"), "{refused}");
    assert!(refused.hint().unwrap().contains("force"), "{refused}");
    host.load(LoadRequest {
        force: true,
        ..request(&folder)
    })
    .await
    .unwrap();
    assert_eq!(
        call(&host, "plugin.echo.Call", "forgiven").await.unwrap(),
        "forgiven"
    );
    assert_eq!(program.live(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_fails_backs_off_and_tries_again() {
    let world = World::new();
    let host = world.host().await;
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    program.refuses.store(true, Ordering::SeqCst);
    program.crash();
    let failures = || {
        host.inspect("echo")
            .unwrap()
            .history
            .iter()
            .filter(|it| it.event == "start_failed")
            .count()
    };
    until("two starts failed", || failures() == 2).await;
    program.refuses.store(false, Ordering::SeqCst);
    until("it serves again", || state(&host, "echo").is_routed()).await;
    assert_eq!(
        call(&host, "plugin.echo.Call", "at last").await.unwrap(),
        "at last"
    );
}

#[tokio::test(start_paused = true)]
async fn another_version_is_a_way_out_of_every_bad_state() {
    let world = World::new();
    let host = world.host().await;
    // Failed: it never started.
    let (folder, program) = world.package("echo", "1.0.0", "");
    program.refuses.store(true, Ordering::SeqCst);
    host.load(request(&folder)).await.unwrap_err();
    assert_eq!(state(&host, "echo"), State::Failed);
    // Rejected: it is no plugin.
    let (folder, _) = world.package("echo", "1.0.1", "");
    std::fs::write(folder.join("p.wasm"), "garbage").unwrap();
    host.load(request(&folder)).await.unwrap_err();
    assert_eq!(state(&host, "echo"), State::Rejected);
    let error = call(&host, "plugin.echo.Call", "").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
    assert!(error.to_string().contains("these bytes are no plugin"), "{error}");
    // Waiting for a restart.
    let (_, program) = world.load(&host, "echo", "1.0.2").await;
    program.crash();
    until("it is down", || state(&host, "echo") == State::Failed).await;
    let (loaded, _) = world.load(&host, "echo", "1.0.3").await;
    assert_eq!((loaded.state, loaded.plugin.version.patch), (State::Probation, 3));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(program.live(), 0, "the restart was called off");
    host.unload("echo").await.unwrap();
    // And unloading one as well.
    let (folder, program) = world.package("echo", "1.0.4", "");
    program.refuses.store(true, Ordering::SeqCst);
    host.load(request(&folder)).await.unwrap_err();
    host.unload("echo").await.unwrap();
    assert!(host.list().is_empty());
}
