//! Swaps of plugins with state: what one knew the next knows, and whatever goes wrong leaves the old one as it was.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mortise_host::{CallOptions, Host, HostErrorKind, ProbationPolicy, State, StateOrigin};
use mortise_runtime::CallErrorKind;
use mortise_store::Survives;
use mortise_wire::Code;
use tokio::time::Instant;

use crate::{
    closures::{Program, World, call, info, request, state, until},
    depend::{package, package_of, tables},
};

const STATEFUL: &str = "[state]\nschema = \"test.v1.Blob\"\n";

async fn load(world: &World, host: &Host, version: &str) -> Arc<Program> {
    load_with(world, host, version, "").await
}

async fn load_with(world: &World, host: &Host, version: &str, more: &str) -> Arc<Program> {
    let (folder, program) = world.package("echo", version, &[STATEFUL, more].concat());
    host.load(request(&folder)).await.unwrap();
    program
}

async fn count(host: &Host) -> u64 {
    call(host, "plugin.echo.Count", "")
        .await
        .unwrap()
        .parse()
        .unwrap()
}

fn serving(host: &Host) -> String {
    info(host, "echo").plugin.version.to_string()
}

fn asked(program: &Program) -> Vec<String> {
    program.asked.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_is_carried_exactly_through_swaps_under_load() {
    const CALLERS: usize = 4;
    const SWAPS: u64 = 30;
    let world = World::new();
    let host = world.host().await;
    // Longer than any machine takes.
    let patience = "[limits]\nswap_ms = 60000\n";
    load_with(&world, &host, "1.0.0", patience).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (host, stop) = (host.clone(), stop.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    got.push(count(&host).await);
                }
                got
            })
        })
        .collect();
    for swap in 1..=SWAPS {
        load_with(&world, &host, &format!("1.0.{swap}"), patience).await;
        let detail = host.inspect("echo").unwrap();
        let carried = detail.state.expect("it has state");
        assert_eq!(carried.origin, StateOrigin::Predecessor);
        assert!(carried.pause_us.is_some());
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all.sort_unstable();
    let calls = all.len() as u64;
    assert_eq!(all, (1..=calls).collect::<Vec<_>>(), "none lost, none doubled");
    assert_eq!(count(&host).await, calls + 1);
}

#[tokio::test]
async fn what_is_asked_comes_in_its_order() {
    let world = World::new();
    let policy = ProbationPolicy {
        time: Duration::ZERO,
        ..ProbationPolicy::default()
    };
    let host = world.builder().probation(policy).start().await.unwrap();
    let old = load(&world, &host, "1.0.0").await;
    assert_eq!(asked(&old), ["post_load Unspecified"]);
    count(&host).await;
    let new = load(&world, &host, "2.0.0").await;
    assert_eq!(count(&host).await, 2);
    until("the old one is gone", || old.live() == 0).await;
    assert_eq!(
        asked(&old)[1..],
        ["may_replace", "save", "pre_unload"],
        "one that was handed over is not saved again"
    );
    assert_eq!(asked(&new), ["load 1.0.0", "post_load Predecessor"]);
    host.unload("echo").await.unwrap();
    assert_eq!(asked(&new)[2..], ["save", "pre_unload"]);
    let again = load(&world, &host, "2.0.0").await;
    assert_eq!(asked(&again), ["load 2.0.0", "post_load Snapshot"]);
    assert_eq!(count(&host).await, 3);
}

#[tokio::test]
async fn a_plugin_may_refuse_to_be_replaced_and_the_operator_may_insist() {
    let world = World::new();
    let host = world.host().await;
    let old = load(&world, &host, "1.0.0").await;
    old.lifecycle.lock().unwrap().veto = Some("a payment is under way".to_owned());
    let (folder, new) = world.package("echo", "2.0.0", STATEFUL);
    let refused = host.load(request(&folder)).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Refused);
    assert!(
        refused.to_string().contains("a payment is under way"),
        "{refused}"
    );
    assert_eq!(
        new.started.load(Ordering::SeqCst),
        0,
        "it is asked before anything is started"
    );
    assert!(info(&host, "echo").reasons[0].contains("a payment is under way"));
    assert_eq!(serving(&host), "1.0.0");
    host.load(request(&folder).force()).await.unwrap();
    assert_eq!(serving(&host), "2.0.0");
}

#[tokio::test]
async fn whatever_fails_in_a_handover_leaves_the_old_one_as_it_was() {
    type Spoil = fn(&Program, &Program);
    let cases: [(&str, Spoil, &str); 6] = [
        (
            "save fails",
            |old, _| old.lifecycle.lock().unwrap().save_fails = true,
            "save_state failed: out of paper",
        ),
        (
            "save is too slow",
            |old, _| old.lifecycle.lock().unwrap().save_takes = Duration::from_millis(400),
            "save_state was not over within the 100ms of `limits.swap_ms`",
        ),
        (
            "another schema than it has",
            |old, _| old.lifecycle.lock().unwrap().schema = "test.v1.Ledger".to_owned(),
            "it saved state of test.v1.Ledger",
        ),
        (
            "load fails",
            |_, new| new.lifecycle.lock().unwrap().load_fails = 1,
            "load_state failed: illegible",
        ),
        (
            "a crash in load",
            |_, new| new.lifecycle.lock().unwrap().crash_in = Some("load"),
            "load_state failed: it exited in load",
        ),
        (
            "post_load fails",
            |_, new| new.lifecycle.lock().unwrap().crash_in = Some("post_load"),
            "post_load failed: it exited in post_load",
        ),
    ];
    let world = World::new();
    let host = world.host().await;
    let old = load(&world, &host, "1.0.0").await;
    let mut counted = 0;
    for (what, spoil, why) in cases {
        counted += 1;
        assert_eq!(count(&host).await, counted, "{what}");
        let (folder, new) = world.package("echo", "2.0.0", STATEFUL);
        spoil(&old, &new);
        let error = host.load(request(&folder)).await.unwrap_err();
        assert!(error.to_string().contains(why), "{what}: {error}");
        assert!(
            error.to_string().contains("1.0.0 goes on with the state it has"),
            "{what}: {error}"
        );
        until("nothing of the new one is left", || new.live() == 0).await;
        assert_eq!((serving(&host).as_str(), old.live()), ("1.0.0", 1), "{what}");
        let reasons = info(&host, "echo").reasons;
        assert!(reasons[0].contains(why), "{what}: {reasons:?}");
        counted += 1;
        assert_eq!(count(&host).await, counted, "{what}: the old one has its state");
        *old.lifecycle.lock().unwrap() = Default::default();
    }
    let history = host.inspect("echo").unwrap().history;
    let failed = history.iter().filter(|it| it.event == "handover_failed");
    assert_eq!(failed.count(), 6, "each is a row of the history");
    load(&world, &host, "3.0.0").await;
    assert_eq!(count(&host).await, counted + 1);
}

#[tokio::test]
async fn a_plugin_that_thinks_for_too_long_about_its_end_keeps_its_state() {
    let world = World::new();
    let host = world.host().await;
    let old = load(&world, &host, "1.0.0").await;
    count(&host).await;
    // Nobody waits for longer than a second. What it says after that is not heard, and does it no harm.
    old.lifecycle.lock().unwrap().veto_takes = Duration::from_millis(1200);
    old.lifecycle.lock().unwrap().veto = Some("never".to_owned());
    old.lifecycle.lock().unwrap().save_takes = Duration::from_millis(50);
    let (folder, _) = world.package("echo", "2.0.0", &format!("{STATEFUL}[limits]\nswap_ms = 60000\n"));
    host.load(request(&folder)).await.unwrap();
    assert_eq!(count(&host).await, 2);
    assert_eq!(host.inspect("echo").unwrap().counters.crashes, 0);
}

#[tokio::test]
async fn an_old_one_that_crashes_while_it_saves_comes_back_with_what_was_saved_last() {
    let world = World::new();
    let policy = ProbationPolicy {
        time: Duration::ZERO,
        ..ProbationPolicy::default()
    };
    let host = world.builder().probation(policy).start().await.unwrap();
    load(&world, &host, "1.0.0").await;
    count(&host).await;
    let old = load(&world, &host, "1.1.0").await;
    // The swap left a snapshot; what comes after it is in memory only.
    count(&host).await;
    old.lifecycle.lock().unwrap().crash_in = Some("save");
    let (folder, _) = world.package("echo", "2.0.0", STATEFUL);
    let error = host.load(request(&folder)).await.unwrap_err();
    assert!(error.to_string().contains("it exited in save"), "{error}");
    *old.lifecycle.lock().unwrap() = Default::default();
    until("something serves again", || {
        let detail = host.inspect("echo").unwrap();
        detail.counters.starts == 4 && detail.info.state.is_routed() && detail.state.is_some()
    })
    .await;
    let detail = host.inspect("echo").unwrap();
    let carried = detail.state.expect("it has state");
    assert_eq!(carried.origin, StateOrigin::Snapshot);
    assert_eq!(
        count(&host).await,
        2,
        "the second call was lost with its instance"
    );
}

#[tokio::test]
async fn a_call_that_runs_for_longer_than_a_swap_may_take_keeps_the_old_one() {
    let world = World::new();
    let host = world.host().await;
    let old = load(&world, &host, "1.0.0").await;
    let nap = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.echo.Nap", "600").await }
    });
    until("it naps", || old.napping.load(Ordering::SeqCst) == 1).await;
    let (folder, _) = world.package("echo", "2.0.0", STATEFUL);
    let error = host.load(request(&folder)).await.unwrap_err().to_string();
    assert!(
        error.contains("drain was not over within the 100ms of `limits.swap_ms` (1 calls still run)"),
        "{error}"
    );
    assert_eq!(
        nap.await.unwrap().unwrap(),
        "600",
        "and nothing happened to the call"
    );
    let (folder, _) = world.package("echo", "2.0.0", &format!("{STATEFUL}[limits]\nswap_ms = 60000\n"));
    let nap = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.echo.Nap", "300").await }
    });
    until("it naps again", || old.napping.load(Ordering::SeqCst) == 1).await;
    host.load(request(&folder)).await.unwrap();
    assert_eq!(nap.await.unwrap().unwrap(), "300");
    assert_eq!(serving(&host), "2.0.0");
}

#[tokio::test]
async fn a_call_that_comes_back_to_its_own_plugin_passes_the_gate_that_waits_for_it() {
    let world = World::new();
    let host = world.host().await;
    let more = |requires: &str| format!("{}{STATEFUL}[limits]\nswap_ms = 60000\n", tables(&[requires]));
    let (other, _) = package(&world, ("other", "1.0.0"), "Other", &["Own ^1 lazy"]);
    host.load(request(&other)).await.unwrap();
    let own = |version: &str| package_of(&world, ("own", version), "Own", &more("Other ^1"), |_| {});
    let (folder, program) = own("1.0.0");
    host.load(request(&folder)).await.unwrap();
    program.relay_held.send_replace(true);
    let round = tokio::spawn({
        let host = host.clone();
        async move {
            call(
                &host,
                "plugin.own.Relay",
                "test.v1.Other/Relay test.v1.Own/Count ",
            )
            .await
        }
    });
    until("it is in", || program.relaying.load(Ordering::SeqCst) == 1).await;
    let (folder, _) = own("1.1.0");
    let swap = tokio::spawn({
        let host = host.clone();
        async move { host.load(request(&folder)).await }
    });
    until("the gate is closed", || {
        let history = host.inspect("own").unwrap().history;
        history.iter().any(|it| it.event == "hand_over")
    })
    .await;
    program.relay_held.send_replace(false);
    assert_eq!(round.await.unwrap().unwrap(), "1");
    swap.await.unwrap().unwrap();
    assert_eq!(call(&host, "plugin.own.Count", "").await.unwrap(), "2");
    assert_eq!(info(&host, "own").plugin.version.to_string(), "1.1.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_the_gate_waits_for_his_own_deadline_and_no_longer() {
    let world = World::new();
    let host = world.host().await;
    let old = load(&world, &host, "1.0.0").await;
    old.direct.store(true, Ordering::SeqCst);
    let bound = host.bind("plugin.echo.Count").unwrap();
    old.lifecycle.lock().unwrap().save_takes = Duration::from_secs(3);
    let (folder, _) = world.package("echo", "2.0.0", &format!("{STATEFUL}[limits]\nswap_ms = 60000\n"));
    let swap = tokio::spawn({
        let host = host.clone();
        async move { host.load(request(&folder)).await }
    });
    until("it is being saved", || asked(&old).contains(&"save".to_owned())).await;
    let parked = std::thread::spawn(move || {
        let mut out = Vec::new();
        bound.call(b"", &mut out).map(|()| out)
    });
    let options = CallOptions {
        deadline: Some((Instant::now() + Duration::from_millis(50)).into_std()),
        ..CallOptions::default()
    };
    let late = host.call("plugin.echo.Count", Bytes::new(), options).await;
    let late = late.unwrap_err();
    assert_eq!(late.kind(), CallErrorKind::Deadline);
    assert!(late.to_string().contains("handed over"), "{late}");
    assert!(!swap.is_finished(), "he did not wait for the swap");
    swap.await.unwrap().unwrap();
    assert_eq!(
        parked.join().unwrap().unwrap(),
        b"1",
        "a bound caller got through to the new one"
    );
    assert_eq!(count(&host).await, 2);
}

#[tokio::test]
async fn state_that_does_not_fit_is_refused_before_anything_is_started() {
    let world = World::new();
    let host = world.host().await;
    load(&world, &host, "1.0.0").await;
    count(&host).await;
    for (version, more, why) in [
        (
            "2.0.0",
            "[state]\nschema = \"test.v1.Ledger\"\n",
            "`test.v1.Blob`, and this version loads `test.v1.Ledger`",
        ),
        ("2.0.1", "", "this version has none to take it over"),
        (
            "2.0.2",
            "[state]\nschema = \"test.v1.Missing\"\n",
            "declares no such message",
        ),
    ] {
        let (folder, new) = world.package("echo", version, more);
        let refused = host.load(request(&folder)).await.unwrap_err();
        assert_eq!(refused.kind(), HostErrorKind::Refused, "{version}");
        assert!(refused.to_string().contains(why), "{version}: {refused}");
        assert_eq!(new.started.load(Ordering::SeqCst), 0, "{version}");
    }
    // One that says it knows what to make of it is asked to.
    let migrates = "[state]\nschema = \"test.v1.Ledger\"\nmigrates = true\n";
    let (folder, new) = world.package("echo", "3.0.0", migrates);
    host.load(request(&folder)).await.unwrap();
    assert_eq!(asked(&new)[0], "migrate 1.0.0");
    assert_eq!(count(&host).await, 2);
    // And an operator may leave it behind.
    let (folder, new) = world.package("echo", "4.0.0", STATEFUL);
    host.load(request(&folder)).await.unwrap_err();
    host.load(request(&folder).force()).await.unwrap();
    assert_eq!(asked(&new), ["post_load Unspecified"]);
    assert_eq!(count(&host).await, 1);
    let carried = host.inspect("echo").unwrap().state.expect("it has state");
    assert!(
        carried.left_behind.expect("why").contains("test.v1.Ledger"),
        "and says so"
    );
}

#[tokio::test]
async fn state_survives_an_unload_a_restart_and_a_crash_of_the_host() {
    let world = World::new();
    let host = world.host().await;
    load(&world, &host, "1.0.0").await;
    count(&host).await;
    host.unload("echo").await.unwrap();
    load(&world, &host, "1.0.0").await;
    assert_eq!(count(&host).await, 2, "after an unload");
    host.shutdown().await;
    drop(host);
    let host = again(&world).await;
    load(&world, &host, "1.1.0").await;
    assert_eq!(count(&host).await, 3, "after a restart");
    load(&world, &host, "1.2.0").await;
    assert_eq!(count(&host).await, 4);
    // Snapshots are by the name under which a plugin runs.
    let (folder, _) = world.package("echo", "1.0.0", STATEFUL);
    host.load(request(&folder).name("other")).await.unwrap();
    assert_eq!(call(&host, "plugin.other.Count", "").await.unwrap(), "1");
    // What does not fit is refused here too, unless it is left behind.
    host.unload("echo").await.unwrap();
    let (folder, _) = world.package("echo", "2.0.0", "[state]\nschema = \"test.v1.Ledger\"\n");
    let refused = host.load(request(&folder)).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Refused);
    host.load(request(&folder).force()).await.unwrap();
    assert_eq!(count(&host).await, 1);
}

#[tokio::test]
async fn snapshots_are_kept_in_their_order_whatever_the_clock_says() {
    let world = World::new();
    let host = world.host().await;
    load(&world, &host, "1.0.0").await;
    assert_eq!(count(&host).await, 1);
    host.shutdown().await;
    drop(host);
    // As if that had been while the clock went two hours ahead.
    let data = world.dir.path().join("data");
    let store = loop {
        match mortise_store::DataDir::open(&data) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let journal = store.journal().unwrap();
    let mut kept = journal.saved_state("echo").unwrap().expect("it was kept");
    kept.taken += Duration::from_secs(2 * 3600);
    assert!(journal.keep_state(&kept, Survives::Crash).unwrap());
    drop((journal, store));
    let host = again(&world).await;
    load(&world, &host, "1.0.0").await;
    assert_eq!(count(&host).await, 2);
    load(&world, &host, "1.1.0").await;
    assert_eq!(count(&host).await, 3);
    let report = host.unload("echo").await.unwrap();
    assert_eq!(report.left, None);
    load(&world, &host, "1.1.0").await;
    assert_eq!(count(&host).await, 4, "the last word is the one that is kept");
}

#[tokio::test(start_paused = true)]
async fn who_listens_to_a_plugin_does_not_keep_it_from_saving() {
    let world = World::new();
    let host = world.host().await;
    let program = load(&world, &host, "1.0.0").await;
    count(&host).await;
    let options = CallOptions {
        deadline: Some((Instant::now() + Duration::from_secs(3600)).into_std()),
        ..CallOptions::default()
    };
    let stream = host.open_stream("plugin.echo.Watch", options).await.unwrap();
    let report = host.unload("echo").await.unwrap();
    assert_eq!((report.left, report.forced, report.cancelled), (None, None, 0));
    assert_eq!(asked(&program)[1..], ["save", "pre_unload"]);
    drop(stream);
    load(&world, &host, "1.0.0").await;
    assert_eq!(count(&host).await, 2);
}

#[tokio::test]
async fn an_unload_that_cannot_save_says_so() {
    let world = World::new();
    let host = world.host().await;
    let program = load(&world, &host, "1.0.0").await;
    program.lifecycle.lock().unwrap().save_fails = true;
    let report = host.unload("echo").await.unwrap();
    let left = report.left.expect("something to say");
    assert!(left.contains("its state was not saved: out of paper"), "{left}");
    assert_eq!(program.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_hands_the_state_back() {
    let world = World::new();
    let host = world.host().await;
    let old = load(&world, &host, "1.0.0").await;
    count(&host).await;
    let new = load(&world, &host, "2.0.0").await;
    assert_eq!(count(&host).await, 2);
    assert_eq!(state(&host, "echo"), State::Probation);
    *new.broken.lock().unwrap() = Some(Code::Internal);
    until("it was rolled back", || {
        // Its errors are what it fails by.
        let caller = host.clone();
        tokio::spawn(async move { call(&caller, "plugin.echo.Call", "x").await });
        serving(&host) == "1.0.0"
    })
    .await;
    let reasons = info(&host, "echo").reasons;
    assert!(reasons[0].contains("was handed back"), "{reasons:?}");
    assert_eq!(count(&host).await, 3, "what the bad one counted is not lost");
    assert_eq!(old.live(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_to_one_whose_state_was_left_behind_leaves_it_what_it_has() {
    let world = World::new();
    let host = world.host().await;
    // It would know what to make of the other's state, and must not be given it.
    let (folder, old) = world.package("echo", "1.0.0", &format!("{STATEFUL}migrates = true\n"));
    host.load(request(&folder)).await.unwrap();
    for _ in 0..5 {
        count(&host).await;
    }
    let (folder, new) = world.package("echo", "2.0.0", "[state]\nschema = \"test.v1.Ledger\"\n");
    host.load(request(&folder)).await.unwrap_err();
    host.load(request(&folder).force()).await.unwrap();
    assert_eq!(count(&host).await, 1, "it begins anew");
    new.healthy.store(false, Ordering::SeqCst);
    until("it was rolled back", || serving(&host) == "1.0.0").await;
    let reasons = info(&host, "echo").reasons;
    assert!(
        reasons[0].contains("was not handed back (it never had the state"),
        "{reasons:?}"
    );
    assert_eq!(count(&host).await, 6);
    assert_eq!(asked(&old), ["post_load Unspecified", "may_replace"]);
    assert_eq!(
        asked(&new),
        ["post_load Unspecified"],
        "nor is it asked for what would go to disk"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_after_a_crash_goes_back_to_the_state_of_the_swap_and_says_so() {
    for load_fails in [0, 1] {
        let world = World::new();
        let host = world.host().await;
        let old = load(&world, &host, "1.0.0").await;
        count(&host).await;
        let new = load(&world, &host, "2.0.0").await;
        count(&host).await;
        let why = if load_fails == 0 {
            new.crash();
            "its instance is gone"
        } else {
            // It can be asked, and the old one does not take it: then what it knew at the swap is loaded again.
            old.lifecycle.lock().unwrap().load_fails = load_fails;
            new.healthy.store(false, Ordering::SeqCst);
            "illegible"
        };
        until("it was rolled back", || serving(&host) == "1.0.0").await;
        let reasons = info(&host, "echo").reasons;
        assert!(
            reasons[0].contains("was not handed back") && reasons[0].contains(why),
            "{reasons:?}"
        );
        assert_eq!(count(&host).await, 2, "{why}");
    }
}

#[tokio::test]
async fn a_host_that_is_gone_between_two_swaps_leaves_the_last_snapshot() {
    let world = World::new();
    let host = world.host().await;
    load(&world, &host, "1.0.0").await;
    count(&host).await;
    load(&world, &host, "1.1.0").await;
    count(&host).await;
    // As after a kill: what is on disk is copied while the host runs, and another host starts from the copy.
    let copy = World::new();
    copy_dir(&world.dir.path().join("data"), copy.dir.path().join("data"));
    let after = copy.host().await;
    load(&copy, &after, "1.1.0").await;
    assert_eq!(count(&after).await, 2, "the second call was in memory only");
}

/// A host in the place of one that is about to let go of its directory.
async fn again(world: &World) -> Host {
    for _ in 0..1000 {
        if let Ok(host) = world.builder().start().await {
            return host;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.host().await
}

fn copy_dir(from: &std::path::Path, to: PathBuf) {
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), to.join(entry.file_name()));
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
