//! Several plugins as one change: all take over or none, they pass their probation together, and a host that starts again finds all or none.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mortise_host::{Host, HostErrorKind, LoadRequest, State};
use mortise_store::{DataDir, History};
use mortise_wire::Code;

use crate::{
    closures::{Program, World, call, info, request, state, until},
    depend::{package, package_of, tables},
};

const STATE: &str = "[state]\nschema = \"test.v1.Blob\"\n";
/// Longer than any machine takes.
const PATIENCE: &str = "[limits]\nswap_ms = 60000\n";
/// From the top through the middle and the store back to the top, which counts.
const ROUND: &str = "test.v1.Middle/Relay test.v1.Store/Relay test.v1.Top/Count ";

/// A store and what requires it, in one version each: (store, middle, top) with all requirements for that very major version.
struct Stack {
    requests: Vec<LoadRequest>,
    programs: Vec<Arc<Program>>,
}

const NAMES: [&str; 3] = ["store", "middle", "top"];

fn stack(world: &World, major: u32) -> Stack {
    let (version, range) = (format!("{major}.0.0"), format!("^{major}"));
    let needs = |service: &str| format!("{service} {range}");
    let (store, a) = package(world, ("store", &version), "Store", &[]);
    let (middle, b) = package(world, ("middle", &version), "Middle", &[&needs("Store")]);
    let (top, c) = package(
        world,
        ("top", &version),
        "Top",
        &[&needs("Middle"), &needs("Store")],
    );
    Stack {
        // In the wrong order on purpose.
        requests: [top, middle, store].iter().map(|it| request(it)).collect(),
        programs: vec![a, b, c],
    }
}

fn versions(host: &Host) -> Vec<String> {
    let of = |name: &&str| format!("{name} {}", info(host, name).plugin.version);
    NAMES.iter().map(of).collect()
}

fn all(major: u32) -> Vec<String> {
    NAMES.iter().map(|it| format!("{it} {major}.0.0")).collect()
}

#[tokio::test]
async fn all_are_swapped_to_versions_that_fit_only_each_other() {
    let world = World::new();
    let host = world.host().await;
    let one = stack(&world, 1);
    let loaded = host.load_all(one.requests).await.unwrap();
    let names: Vec<_> = loaded.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["top", "middle", "store"], "as they were asked for");
    assert_eq!(versions(&host), all(1));
    // Alone none of them may come.
    let two = stack(&world, 2);
    for request in &two.requests {
        let refused = host.load(request.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), HostErrorKind::Refused);
    }
    assert_eq!(versions(&host), all(1));
    host.load_all(two.requests).await.unwrap();
    assert_eq!(versions(&host), all(2));
    assert_eq!(
        call(
            &host,
            "plugin.top.Relay",
            "test.v1.Middle/Relay test.v1.Store/Call deep"
        )
        .await
        .unwrap(),
        "deep"
    );
}

#[tokio::test]
async fn providers_are_started_and_cut_over_first() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack(&world, 1).requests).await.unwrap();
    host.shutdown().await;
    drop(host);
    let path = world.dir.path().join("data");
    let data = loop {
        match DataDir::open(&path) {
            Ok(data) => break data,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut rows = data.journal().unwrap().history(&History::default()).unwrap();
    rows.reverse();
    let of = |event: &str| -> Vec<String> {
        let rows = rows.iter().filter(|it| it.transition.event == event);
        rows.map(|it| it.transition.plugin.clone()).collect()
    };
    assert_eq!(of("activate"), NAMES);
    assert_eq!(of("unload"), ["top", "middle", "store"]);
    let seqs: Vec<u64> = rows
        .iter()
        .filter(|it| ["started", "cut_over"].contains(&it.transition.event.as_str()))
        .map(|it| it.seq)
        .collect();
    assert_eq!(seqs.len(), 6);
    assert_eq!(seqs[5] - seqs[0], 5, "they were written as one: {seqs:?}");
}

#[tokio::test]
async fn what_runs_already_provides_for_the_members() {
    let world = World::new();
    let host = world.host().await;
    let (base, _) = package(&world, ("base", "1.0.0"), "Base", &[]);
    host.load(request(&base)).await.unwrap();
    let (aa, aa_program) = package(&world, ("aa", "1.0.0"), "A", &["Base ^1", "Z ^1"]);
    let (zz, zz_program) = package(&world, ("zz", "1.0.0"), "Z", &["Base ^1"]);
    zz_program.refuses.store(true, Ordering::SeqCst);
    let failed = host.load_all(vec![request(&aa), request(&zz)]).await.unwrap_err();
    assert_eq!(failed.reasons().len(), 1, "{failed}");
    assert_eq!(
        aa_program.started.load(Ordering::SeqCst),
        0,
        "it is of the next level"
    );
    assert_eq!(host.list().len(), 1);
    zz_program.refuses.store(false, Ordering::SeqCst);
    host.load_all(vec![request(&aa), request(&zz)]).await.unwrap();
    let levels: Vec<_> = host
        .graph()
        .plugins
        .into_iter()
        .map(|it| (it.name, it.level))
        .collect();
    let expected = [("aa", 2), ("base", 0), ("zz", 1)];
    assert_eq!(
        levels,
        expected.map(|(name, level)| (name.to_owned(), Some(level)))
    );
    let gone = host.unload_cascade("base").await.unwrap();
    let gone: Vec<_> = gone.into_iter().map(|it| it.name).collect();
    assert_eq!(gone, ["aa", "zz", "base"]);
}

#[tokio::test]
async fn one_refusal_keeps_all_out_with_all_reasons() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack(&world, 1).requests).await.unwrap();
    let mut two = stack(&world, 2);
    let (needy, _) = package(&world, ("needy", "1.0.0"), "Needy", &["Nowhere ^1", "Store ^1"]);
    let (fresh, fresh_program) = package(&world, ("fresh", "1.0.0"), "Fresh", &["Store ^2"]);
    two.requests.push(request(&needy));
    two.requests.push(request(&fresh));
    two.requests[0].config_json = Some("[]".to_owned());
    let refused = host.load_all(two.requests).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Refused);
    let reasons: Vec<_> = refused.reasons().iter().map(|it| it.what.as_str()).collect();
    assert_eq!(
        reasons,
        ["top: configuration", "needy: requires", "needy: requires"],
        "{refused}"
    );
    assert!(
        refused.to_string().starts_with("none of 5 plugins was loaded: "),
        "{refused}"
    );
    assert_eq!(versions(&host), all(1));
    assert!(
        two.programs
            .iter()
            .all(|it| it.started.load(Ordering::SeqCst) == 0)
    );
    assert_eq!(fresh_program.started.load(Ordering::SeqCst), 0);
    let names: Vec<_> = host.list().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["middle", "store", "top"], "what was new is gone");
    assert!(NAMES.iter().all(|it| state(&host, it).is_routed()));
}

#[tokio::test]
async fn one_that_does_not_start_stops_those_that_did() {
    let world = World::new();
    let host = world.host().await;
    let one = stack(&world, 1);
    host.load_all(one.requests).await.unwrap();
    let two = stack(&world, 2);
    two.programs[2].refuses.store(true, Ordering::SeqCst);
    let failed = host.load_all(two.requests).await.unwrap_err();
    assert_eq!(failed.kind(), HostErrorKind::StartFailed);
    assert!(failed.to_string().contains("it declined: no licence"), "{failed}");
    assert_eq!(failed.reasons().len(), 1);
    assert_eq!(versions(&host), all(1));
    assert_eq!(two.programs[0].started.load(Ordering::SeqCst), 1, "it was tried");
    assert!(two.programs.iter().all(|it| it.live() == 0));
    assert_eq!(call(&host, "plugin.top.Call", "on").await.unwrap(), "on");
    // Nothing is in the way of another try.
    let again = stack(&world, 2);
    host.load_all(again.requests).await.unwrap();
    assert_eq!(versions(&host), all(2));
}

#[tokio::test]
async fn one_that_ends_before_the_others_are_ready_takes_all_back() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack(&world, 1).requests).await.unwrap();
    let two = stack(&world, 2);
    // The top one is not healthy yet; the store ends meanwhile.
    two.programs[2].healthy.store(false, Ordering::SeqCst);
    let loading = tokio::spawn({
        let host = host.clone();
        async move { host.load_all(two.requests).await }
    });
    until("all have started", || {
        two.programs.iter().all(|it| it.live() == 1)
    })
    .await;
    two.programs[0].crash();
    let failed = loading.await.unwrap().unwrap_err();
    assert!(
        failed
            .to_string()
            .contains("plugin `store` ended before the others were ready"),
        "{failed}"
    );
    assert_eq!(versions(&host), all(1));
    until("all new ones are stopped", || {
        two.programs.iter().all(|it| it.live() == 0)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_probation_of_one_takes_all_back_and_quarantines_only_that_one() {
    let world = World::new();
    let host = world.host().await;
    let one = stack(&world, 1);
    host.load_all(one.requests).await.unwrap();
    until("version 1 has passed", || {
        NAMES.iter().all(|it| state(&host, it) == State::Active)
    })
    .await;
    let two = stack(&world, 2);
    let (fresh, fresh_program) = package(&world, ("fresh", "1.0.0"), "Fresh", &["Store ^2"]);
    let mut requests = two.requests.clone();
    requests.push(request(&fresh));
    host.load_all(requests).await.unwrap();
    assert_eq!(versions(&host), all(2));
    *two.programs[1].broken.lock().unwrap() = Some(Code::Internal);
    for _ in 0..60 {
        call(&host, "plugin.middle.Call", "").await.unwrap_err();
    }
    until("all are back", || versions(&host) == all(1)).await;
    assert!(NAMES.iter().all(|it| state(&host, it) == State::Active));
    until("what had no predecessor is gone", || {
        host.inspect("fresh").is_err()
    })
    .await;
    until("the new ones are stopped", || {
        two.programs.iter().all(|it| it.live() == 0)
    })
    .await;
    assert_eq!(fresh_program.live(), 0);
    assert!(one.programs.iter().all(|it| it.live() == 1));
    let told = |name: &str| info(&host, name).reasons[0].clone();
    assert!(told("middle").contains("and quarantined: "), "{}", told("middle"));
    assert!(
        told("store").contains("`middle`, which was loaded with it, went back: "),
        "{}",
        told("store")
    );
    assert!(!told("store").contains("quarantined"), "{}", told("store"));
    assert_eq!(
        call(&host, "plugin.top.Relay", "test.v1.Middle/Call well")
            .await
            .unwrap(),
        "well"
    );
    let again = host.load_all(two.requests).await.unwrap_err();
    let whats: Vec<_> = again.reasons().iter().map(|it| it.what.as_str()).collect();
    assert_eq!(whats, ["middle: quarantine"]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_one_without_a_predecessor_takes_all_back() {
    let world = World::new();
    let host = world.host().await;
    let (store, old) = package(&world, ("store", "1.0.0"), "Store", &[]);
    host.load(request(&store)).await.unwrap();
    until("it has passed", || state(&host, "store") == State::Active).await;
    let (next, _) = package(&world, ("store", "1.1.0"), "Store", &[]);
    let (fresh, fresh_program) = package(&world, ("fresh", "1.0.0"), "Fresh", &["Store ^1.1"]);
    host.load_all(vec![request(&fresh), request(&next)])
        .await
        .unwrap();
    fresh_program.crash();
    until("it is gone", || host.inspect("fresh").is_err()).await;
    until("the store is back", || {
        info(&host, "store").plugin.version.minor == 0
    })
    .await;
    assert_eq!((state(&host, "store"), old.live()), (State::Active, 1));
}

#[tokio::test(start_paused = true)]
async fn predecessors_stay_until_the_last_has_passed() {
    let world = World::new();
    let host = world.host().await;
    let one = stack(&world, 1);
    host.load_all(one.requests).await.unwrap();
    until("version 1 has passed", || {
        NAMES.iter().all(|it| state(&host, it) == State::Active)
    })
    .await;
    host.load_all(stack(&world, 2).requests).await.unwrap();
    // A thousand good calls and two good healths are enough for the store alone.
    for _ in 0..1100 {
        call(&host, "plugin.store.Call", "").await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(state(&host, "store"), State::Probation, "it waits for the others");
    assert!(one.programs.iter().all(|it| it.live() == 1));
    until("all have passed", || {
        NAMES.iter().all(|it| state(&host, it) == State::Active)
    })
    .await;
    until("predecessors are gone", || {
        one.programs.iter().all(|it| it.live() == 0)
    })
    .await;
    assert_eq!(versions(&host), all(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_lose_nothing_while_all_are_swapped() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack(&world, 1).requests).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers = NAMES.map(|name| {
        let (host, over) = (host.clone(), over.clone());
        tokio::spawn(async move {
            let mut calls = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let text = calls.to_string();
                assert_eq!(
                    call(&host, &format!("plugin.{name}.Call"), &text).await.unwrap(),
                    text
                );
                calls += 1;
            }
            calls
        })
    });
    for major in 2..12 {
        host.load_all(stack(&world, major).requests).await.unwrap();
        assert_eq!(versions(&host), all(major));
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
}

/// The same with state, and the store calls the top, so that calls come back to where they came from.
fn stack_with_state(world: &World, major: u32, limits: &str) -> Stack {
    let (version, range) = (format!("{major}.0.0"), format!("^{major}"));
    let plugin = |name: &str, service: &str, requires: &[&str]| {
        let requires: Vec<String> = requires.iter().map(|it| it.replace('^', &range)).collect();
        let requires: Vec<&str> = requires.iter().map(String::as_str).collect();
        let more = [&tables(&requires), STATE, limits].concat();
        package_of(world, (name, &version), service, &more, |_| {})
    };
    let (store, a) = plugin("store", "Store", &["Top ^ lazy"]);
    let (middle, b) = plugin("middle", "Middle", &["Store ^"]);
    let (top, c) = plugin("top", "Top", &["Middle ^", "Store ^"]);
    Stack {
        requests: [top, middle, store].iter().map(|it| request(it)).collect(),
        programs: vec![a, b, c],
    }
}

async fn count(host: &Host, name: &str) -> u64 {
    let count = call(host, &format!("plugin.{name}.Count"), "").await.unwrap();
    count.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_of_calls_meet_all_old_or_all_new_ones_and_state_goes_along_exactly() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack_with_state(&world, 1, PATIENCE).requests)
        .await
        .unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let caller = |target: &'static str, payload: &'static str| {
        let (host, over) = (host.clone(), over.clone());
        tokio::spawn(async move {
            let mut numbers: Vec<u64> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                numbers.push(call(&host, target, payload).await.unwrap().parse().unwrap());
            }
            numbers
        })
    };
    let rounds = [0; 3].map(|_| caller("plugin.top.Relay", ROUND));
    let of_store = [
        caller("plugin.middle.Relay", "test.v1.Store/Count "),
        caller("plugin.store.Count", ""),
    ];
    for major in 2..32 {
        host.load_all(stack_with_state(&world, major, PATIENCE).requests)
            .await
            .unwrap();
        assert_eq!(versions(&host), all(major));
    }
    over.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    for (name, callers) in [("top", Vec::from(rounds)), ("store", Vec::from(of_store))] {
        let mut numbers = Vec::new();
        for caller in callers {
            numbers.extend(caller.await.unwrap());
        }
        numbers.sort_unstable();
        let calls = numbers.len() as u64;
        assert_eq!(
            numbers,
            (1..=calls).collect::<Vec<_>>(),
            "none lost, none doubled"
        );
        assert_eq!(count(&host, name).await, calls + 1);
        told.push(calls);
    }
    println!(
        "30 changes of three plugins with state: {told:?} chains answered, none refused, lost or doubled"
    );
}

#[tokio::test]
async fn a_call_that_came_before_the_gates_passes_them_all() {
    // On behalf of the call, and of the instance's own accord.
    let own_accord = "test.v1.Middle/Relay test.v1.Store/Relay !test.v1.Top/Count ";
    for inner in [ROUND, own_accord] {
        let world = World::new();
        let host = world.host().await;
        let one = stack_with_state(&world, 1, PATIENCE);
        host.load_all(one.requests).await.unwrap();
        // The last of them waits in the store, with calls in all three.
        one.programs[0].relay_held.send_replace(true);
        let round = tokio::spawn({
            let host = host.clone();
            async move { call(&host, "plugin.top.Relay", inner).await }
        });
        until("it is in the store", || {
            one.programs[0].relaying.load(Ordering::SeqCst) == 1
        })
        .await;
        let two = stack_with_state(&world, 2, PATIENCE);
        let loading = tokio::spawn({
            let host = host.clone();
            async move { host.load_all(two.requests).await }
        });
        until("all gates are closed", || {
            NAMES.iter().all(|it| gave_way(&host, it))
        })
        .await;
        let late = tokio::spawn({
            let host = host.clone();
            async move { call(&host, "plugin.top.Relay", ROUND).await }
        });
        one.programs[0].relay_held.send_replace(false);
        assert_eq!(round.await.unwrap().unwrap(), "1", "{inner}");
        loading.await.unwrap().unwrap();
        assert_eq!(versions(&host), all(2));
        assert_eq!(
            late.await.unwrap().unwrap(),
            "2",
            "who came later got the new ones"
        );
    }
}

/// Whether a gate closed before it.
fn gave_way(host: &Host, name: &str) -> bool {
    let history = host.inspect(name).unwrap().history;
    history.iter().any(|it| it.event == "hand_over")
}

#[tokio::test]
async fn whatever_fails_in_one_leaves_all_old_ones_with_their_state() {
    type Spoil = fn(&[Arc<Program>], &[Arc<Program>]);
    let cases: [(&str, Spoil, &str); 7] = [
        (
            "a veto",
            |old, _| old[1].lifecycle.lock().unwrap().veto = Some("a payment is under way".to_owned()),
            "a payment is under way",
        ),
        (
            "save fails",
            |old, _| old[0].lifecycle.lock().unwrap().save_fails = true,
            "save_state failed: out of paper",
        ),
        (
            "another schema than it has",
            |old, _| old[2].lifecycle.lock().unwrap().schema = "test.v1.Ledger".to_owned(),
            "it saved state of test.v1.Ledger",
        ),
        (
            "load fails in the first",
            |_, new| new[0].lifecycle.lock().unwrap().load_fails = 1,
            "plugin `store`: it was not handed over from 1.0.0 to 2.0.0: load_state failed: illegible",
        ),
        (
            "load fails in the last",
            |_, new| new[2].lifecycle.lock().unwrap().load_fails = 1,
            "plugin `top`: it was not handed over from 1.0.0 to 2.0.0: load_state failed: illegible",
        ),
        (
            "a crash in load",
            |_, new| new[1].lifecycle.lock().unwrap().crash_in = Some("load"),
            "load",
        ),
        (
            "post_load fails",
            |_, new| new[2].lifecycle.lock().unwrap().crash_in = Some("post_load"),
            "post_load",
        ),
    ];
    let world = World::new();
    let host = world.host().await;
    let one = stack_with_state(&world, 1, PATIENCE);
    host.load_all(one.requests).await.unwrap();
    let mut counted = 0;
    for (what, spoil, why) in cases {
        counted += 1;
        for name in NAMES {
            assert_eq!(count(&host, name).await, counted, "{what}");
        }
        let two = stack_with_state(&world, 2, PATIENCE);
        spoil(&one.programs, &two.programs);
        let error = host.load_all(two.requests).await.unwrap_err();
        assert!(
            error.to_string().starts_with("none of 3 plugins was loaded: ")
                && error.to_string().contains(why),
            "{what}: {error}"
        );
        assert_eq!(error.reasons().len(), 1, "{what}: only one is at fault: {error}");
        assert_eq!(versions(&host), all(1), "{what}");
        assert!(two.programs.iter().all(|it| it.live() == 0), "{what}");
        assert!(one.programs.iter().all(|it| it.live() == 1), "{what}");
        for program in &one.programs {
            *program.lifecycle.lock().unwrap() = Default::default();
        }
    }
    counted += 1;
    assert_eq!(
        call(&host, "plugin.top.Relay", ROUND).await.unwrap(),
        counted.to_string()
    );
    host.load_all(stack_with_state(&world, 3, PATIENCE).requests)
        .await
        .unwrap();
    assert_eq!(count(&host, "top").await, counted + 1);
    assert_eq!(count(&host, "store").await, counted);
}

#[tokio::test]
async fn a_call_that_runs_for_too_long_keeps_all_old_ones() {
    let world = World::new();
    let host = world.host().await;
    let one = stack_with_state(&world, 1, "");
    host.load_all(one.requests).await.unwrap();
    let nap = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.middle.Nap", "1500").await }
    });
    until("it naps", || one.programs[1].napping.load(Ordering::SeqCst) == 1).await;
    let error = host
        .load_all(stack_with_state(&world, 2, "").requests)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`middle` (1 calls still run) not drained within the 100ms of `limits.swap_ms`"),
        "{error}"
    );
    assert_eq!(versions(&host), all(1));
    for name in NAMES {
        assert_eq!(count(&host, name).await, 1, "it goes on with the call in it");
    }
    assert_eq!(
        nap.await.unwrap().unwrap(),
        "1500",
        "and nothing happened to the call"
    );
    host.load_all(stack_with_state(&world, 2, PATIENCE).requests)
        .await
        .unwrap();
    assert_eq!(count(&host, "middle").await, 2);
}

#[tokio::test]
async fn state_of_one_that_comes_anew_is_that_on_disk() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack_with_state(&world, 1, PATIENCE).requests)
        .await
        .unwrap();
    for name in NAMES {
        assert_eq!(count(&host, name).await, 1);
    }
    host.unload("top").await.unwrap();
    host.load_all(stack_with_state(&world, 2, PATIENCE).requests)
        .await
        .unwrap();
    for name in NAMES {
        assert_eq!(count(&host, name).await, 2, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_probation_of_one_hands_the_state_of_all_back() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack_with_state(&world, 1, PATIENCE).requests)
        .await
        .unwrap();
    until("version 1 has passed", || {
        NAMES.iter().all(|it| state(&host, it) == State::Active)
    })
    .await;
    let two = stack_with_state(&world, 2, PATIENCE);
    host.load_all(two.requests).await.unwrap();
    assert_eq!(call(&host, "plugin.top.Relay", ROUND).await.unwrap(), "1");
    assert_eq!(count(&host, "store").await, 1);
    *two.programs[1].broken.lock().unwrap() = Some(Code::Internal);
    for _ in 0..60 {
        call(&host, "plugin.middle.Call", "").await.unwrap_err();
    }
    until("all are back", || versions(&host) == all(1)).await;
    assert_eq!(call(&host, "plugin.top.Relay", ROUND).await.unwrap(), "2");
    assert_eq!(count(&host, "store").await, 2);
}

#[tokio::test]
async fn two_such_loads_at_once_do_not_wait_for_each_other() {
    let world = World::new();
    let host = world.host().await;
    host.load_all(stack(&world, 1).requests).await.unwrap();
    let two = stack(&world, 2);
    let three = stack(&world, 3);
    let mut reversed = three.requests;
    reversed.reverse();
    let (a, b) = tokio::join!(host.load_all(two.requests), host.load_all(reversed));
    a.unwrap();
    b.unwrap();
    let now = versions(&host);
    assert!(now == all(2) || now == all(3), "{now:?}");
    let twice = stack(&world, 4).requests.remove(0);
    let error = host.load_all(vec![twice.clone(), twice]).await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_all_old_or_all_new() {
    let world = World::new();
    let start = async || loop {
        match world.builder().remember_loads().start().await {
            Ok(host) => break host,
            // The lock is free when the last supervisor is gone.
            Err(error) if error.to_string().contains("in use") => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let again = async |host: Host| {
        host.shutdown().await;
        drop(host);
        start().await
    };
    let passed = async |host: &Host| {
        until("all have passed", || {
            NAMES.iter().all(|it| state(host, it) == State::Active)
        })
        .await;
    };
    let host = start().await;
    host.load_all(stack(&world, 1).requests).await.unwrap();
    passed(&host).await;
    let host = again(host).await;
    assert_eq!(versions(&host), all(1));
    passed(&host).await;
    let two = stack(&world, 2);
    host.load_all(two.requests).await.unwrap();
    two.programs[0].crash();
    until("all are back", || versions(&host) == all(1)).await;
    let host = again(host).await;
    assert_eq!(versions(&host), all(1), "what was rolled back is not remembered");
    passed(&host).await;
    host.load_all(stack(&world, 3).requests).await.unwrap();
    let host = again(host).await;
    assert_eq!(versions(&host), all(3));
}
