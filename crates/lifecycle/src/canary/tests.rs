//! Plans as data, what is decided as text, and the invariants against any events in any order.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn measured(calls: u64, faults: u64, p95_ms: u64) -> Measured {
    Measured {
        calls,
        faults,
        samples: calls,
        p95: Duration::from_millis(p95_ms),
    }
}

fn good(calls: u64) -> CanaryLook {
    CanaryLook {
        canary: measured(calls, 0, 5),
        baseline: measured(10 * calls, 0, 5),
        bad_healths: 0,
    }
}

fn plan(steps: Vec<CanaryStep>) -> CanaryPlan {
    CanaryPlan {
        steps,
        analysis: CanaryAnalysis::default(),
    }
}

/// What a move did, in words.
fn said(effects: &[CanaryEffect]) -> Vec<String> {
    let word = |effect: &CanaryEffect| match effect {
        CanaryEffect::Route(traffic) => {
            let headers: Vec<_> = traffic
                .headers
                .iter()
                .map(|(name, value)| format!(" {name}={value}"))
                .collect();
            format!("route {}{}", traffic.weight, headers.concat())
        }
        CanaryEffect::NewWindow => "window".to_owned(),
        CanaryEffect::Swap => "swap".to_owned(),
        CanaryEffect::Quarantine => "quarantine".to_owned(),
        CanaryEffect::Unload => "unload".to_owned(),
        CanaryEffect::Tell(decision) => decision.to_string(),
    };
    effects.iter().map(word).collect()
}

#[test]
fn a_plan_is_walked_through_to_its_promotion() {
    let header = CanaryStep::Header {
        name: "x-canary".to_owned(),
        value: "1".to_owned(),
    };
    let steps = vec![
        header,
        CanaryStep::Weight(10),
        CanaryStep::Pause(Some(30 * SECOND)),
        CanaryStep::Weight(50),
        CanaryStep::Promote,
    ];
    let (mut canary, begun) = Canary::start(plan(steps), Duration::ZERO);
    assert_eq!(
        said(&begun),
        ["step 1: calls with `x-canary: 1`", "route 0 x-canary=1", "window"]
    );
    let mut at = |seconds: u32, event: CanaryEvent| {
        let effects = canary.on(event, SECOND * seconds).expect("it takes it");
        (said(&effects), canary.state())
    };
    assert_eq!(
        at(59, CanaryEvent::Look(good(100))).0,
        Vec::<String>::new(),
        "the window is not over"
    );
    assert_eq!(
        at(61, CanaryEvent::Look(good(49))).0,
        Vec::<String>::new(),
        "too few calls"
    );
    let alone = CanaryLook {
        baseline: measured(49, 0, 5),
        ..good(100)
    };
    assert_eq!(
        at(61, CanaryEvent::Look(alone)).0,
        Vec::<String>::new(),
        "too little to compare with"
    );
    let unsampled = CanaryLook {
        baseline: Measured {
            samples: 49,
            ..measured(500, 0, 5)
        },
        canary: measured(100, 0, 500),
        ..good(100)
    };
    assert_eq!(
        at(61, CanaryEvent::Look(unsampled)).0,
        Vec::<String>::new(),
        "too few latencies to compare with"
    );
    let passed =
        "50 calls with 0.0 % errors (0) and p95 5.0ms, beside 500 calls with 0.0 % errors (0) and p95 5.0ms";
    assert_eq!(
        at(62, CanaryEvent::Look(good(50))).0,
        [
            format!("step 2: 10 % of the calls, after {passed}").as_str(),
            "route 10 x-canary=1",
            "window"
        ]
    );
    let (words, state) = at(122, CanaryEvent::Look(good(50)));
    assert_eq!(words[1..], ["route 10 x-canary=1", "window"]);
    assert_eq!(
        state,
        CanaryState::Paused {
            until: Some(152 * SECOND),
            held: false
        }
    );
    assert_eq!(at(151, CanaryEvent::Look(good(10))).0, Vec::<String>::new());
    assert_eq!(at(152, CanaryEvent::Look(good(10))).0[1], "route 50 x-canary=1");
    let (words, state) = at(212, CanaryEvent::Look(good(60)));
    assert_eq!(words[1..], ["takes the place of the version that serves", "swap"]);
    assert_eq!(state, CanaryState::Promoting);
    let (words, state) = at(213, CanaryEvent::Swapped);
    assert_eq!(
        words,
        ["route 0", "promoted: it serves under the plain name", "unload"]
    );
    assert_eq!(state, CanaryState::Promoted);
}

#[test]
fn each_trigger_says_its_number_and_is_quarantined() {
    let (started, _) = Canary::start(CanaryPlan::default(), Duration::ZERO);
    let mut paused = started.clone();
    paused.on(CanaryEvent::Pause, SECOND).expect("it takes it");
    let bad_healths = CanaryLook {
        bad_healths: 2,
        ..CanaryLook::default()
    };
    let errors = CanaryLook {
        canary: measured(50, 3, 5),
        baseline: measured(1000, 20, 5),
        bad_healths: 0,
    };
    let slow = CanaryLook {
        canary: measured(50, 0, 41),
        baseline: measured(1000, 0, 25),
        bad_healths: 0,
    };
    let slow_by_factor = CanaryLook {
        canary: measured(50, 0, 7),
        baseline: measured(1000, 0, 2),
        bad_healths: 0,
    };
    let cases = [
        (
            CanaryEvent::Crashed {
                cause: "its process exited with code 3".to_owned(),
            },
            "its instance ended: its process exited with code 3",
        ),
        (
            CanaryEvent::Look(bad_healths),
            "2 health checks in a row were bad",
        ),
        (
            CanaryEvent::Look(errors),
            "3 of 50 calls failed (6.0 %), and 4.0 % is allowed (the version beside it had 2.0 % of 1000)",
        ),
        (
            CanaryEvent::Look(slow),
            "the 95th percentile of latency is 41.0ms, and 40.0ms is allowed (the version beside it had 25.0ms)",
        ),
        (
            CanaryEvent::Look(slow_by_factor),
            "the 95th percentile of latency is 7.0ms, and 6.0ms is allowed (the version beside it had 2.0ms)",
        ),
    ];
    for (event, reason) in cases {
        for canary in [&started, &paused] {
            let mut canary = canary.clone();
            let effects = canary.on(event.clone(), 2 * SECOND).expect("it takes it");
            assert_eq!(
                said(&effects),
                [
                    "route 0",
                    &format!("rolled back: {reason}"),
                    "quarantine",
                    "unload"
                ]
            );
            canary.on(CanaryEvent::Unloaded, 3 * SECOND).expect("it takes it");
            assert_eq!(canary.state(), CanaryState::RolledBack);
        }
    }
}

#[test]
fn just_below_each_threshold_is_forgiven() {
    let analysis = CanaryAnalysis::default();
    let at = |canary: Measured, baseline: Measured| {
        analysis.trigger(&CanaryLook {
            canary,
            baseline,
            bad_healths: 1,
        })
    };
    assert_eq!(
        at(measured(49, 49, 900), measured(1000, 0, 1)),
        None,
        "too few calls"
    );
    assert_eq!(at(measured(50, 2, 5), measured(1000, 20, 5)), None, "4 %");
    assert_eq!(
        at(measured(100, 1, 5), measured(0, 0, 0)),
        None,
        "1 % beside nothing"
    );
    assert_eq!(at(measured(50, 0, 40), measured(1000, 0, 25)), None, "+15 ms");
    assert_eq!(
        at(measured(50, 0, 900), measured(49, 0, 1)),
        None,
        "too little to compare with"
    );
    let fast = Measured {
        p95: Duration::from_micros(10),
        ..measured(1000, 0, 0)
    };
    assert_eq!(at(measured(50, 0, 1), fast), None, "noise over a fast one");
    assert!(at(measured(50, 0, 2), fast).is_some());
}

#[test]
fn an_operators_abort_is_no_quarantine_and_a_failed_swap_neither() {
    let (mut canary, _) = Canary::start(CanaryPlan::default(), Duration::ZERO);
    let mut failed = canary.clone();
    let abort = CanaryEvent::Abort {
        why: "wrong day".to_owned(),
    };
    let effects = canary.on(abort, SECOND).expect("it takes it");
    assert_eq!(
        said(&effects),
        [
            "route 0",
            "rolled back: an operator gave it up: wrong day",
            "unload"
        ]
    );
    failed.on(CanaryEvent::Promote, SECOND).expect("it takes it");
    let swap_failed = CanaryEvent::SwapFailed {
        why: "it declined".to_owned(),
    };
    let effects = failed.on(swap_failed, SECOND).expect("it takes it");
    assert!(!effects.contains(&CanaryEffect::Quarantine), "{effects:?}");
    assert_eq!(failed.state(), CanaryState::RollingBack);
}

#[test]
fn a_plan_without_a_promotion_waits_for_the_word() {
    let (mut canary, _) = Canary::start(plan(vec![CanaryStep::Weight(10)]), Duration::ZERO);
    canary
        .on(CanaryEvent::Look(good(50)), 60 * SECOND)
        .expect("it takes it");
    assert!(matches!(canary.state(), CanaryState::Paused { until: None, .. }));
    assert_eq!(canary.traffic().weight, 10, "it keeps its calls");
    let long = canary
        .on(CanaryEvent::Look(good(5000)), 4000 * SECOND)
        .expect("it takes it");
    assert_eq!(
        said(&long),
        ["window"],
        "a new one, so that old numbers hide no new ones"
    );
    let refused = canary
        .on(CanaryEvent::Unloaded, 4000 * SECOND)
        .expect_err("not on its way out");
    assert_eq!(refused.to_string(), "a canary that is paused cannot be unloaded");
    canary
        .on(CanaryEvent::Promote, 4001 * SECOND)
        .expect("it takes it");
    assert_eq!(canary.state(), CanaryState::Promoting);
}

#[test]
fn a_host_that_starts_again_finds_it_in_its_step() {
    let steps = vec![
        CanaryStep::Header {
            name: "a".to_owned(),
            value: "b".to_owned(),
        },
        CanaryStep::Weight(10),
        CanaryStep::Weight(50),
    ];
    let (canary, effects) = Canary::resume(plan(steps.clone()), 1, false, SECOND);
    assert_eq!(
        said(&effects),
        ["step 2: 10 % of the calls", "route 10 a=b", "window"]
    );
    assert_eq!(
        (canary.state(), canary.window_began()),
        (CanaryState::Measuring, SECOND)
    );
    let (held, _) = Canary::resume(plan(steps), 1, true, SECOND);
    assert!(matches!(held.state(), CanaryState::Paused { held: true, .. }));
    assert_eq!(held.traffic().weight, 10);
}

#[test]
fn what_an_operator_held_begins_its_step_again() {
    let steps = vec![CanaryStep::Weight(10), CanaryStep::Weight(50)];
    let (mut canary, _) = Canary::start(plan(steps), Duration::ZERO);
    canary.on(CanaryEvent::Pause, 30 * SECOND).expect("it takes it");
    canary
        .on(CanaryEvent::Look(good(100)), 100 * SECOND)
        .expect("it takes it");
    let effects = canary.on(CanaryEvent::Resume, 200 * SECOND).expect("it takes it");
    assert_eq!(
        said(&effects),
        ["resumed", "step 1: 10 % of the calls", "route 10", "window"]
    );
    canary
        .on(CanaryEvent::Look(good(100)), 259 * SECOND)
        .expect("it takes it");
    assert_eq!(canary.step(), 0, "its window began again");
}

#[test]
fn a_promotion_that_a_crash_of_the_host_cut_short_begins_again() {
    let steps = vec![CanaryStep::Weight(10), CanaryStep::Promote];
    let (canary, effects) = Canary::resume(plan(steps), 1, false, SECOND);
    assert_eq!(canary.state(), CanaryState::Promoting);
    assert_eq!(said(&effects)[0], "route 10");
    assert_eq!(effects.last(), Some(&CanaryEffect::Swap));
}

#[test]
fn steps_are_read_and_written() {
    for text in [
        "0%",
        "100%",
        "header x-canary=a=b c",
        "pause",
        "pause 1500ms",
        "promote",
    ] {
        assert_eq!(
            text.parse::<CanaryStep>().map(|it| it.spec()),
            Ok(text.to_owned())
        );
    }
    let time = |text: &str| text.parse::<CanaryStep>().map(|it| it.to_string());
    assert_eq!(time("pause 5m"), Ok("a pause of 300s".to_owned()));
    for text in [
        "",
        "101%",
        "-1%",
        "header x",
        "header =a",
        "pause 3",
        "pause s",
        "promote now",
        "pause 99999999999999999999s",
    ] {
        let error = text.parse::<CanaryStep>().expect_err(text);
        assert!(error.to_string().contains("`25%`"), "{error}");
    }
}

// === properties ===

fn steps() -> impl Strategy<Value = Vec<CanaryStep>> {
    let step = prop_oneof![
        (0u32..=100).prop_map(CanaryStep::Weight),
        (0u8..3).prop_map(|it| CanaryStep::Header {
            name: "x".to_owned(),
            value: it.to_string()
        }),
        proptest::option::of(0u64..100).prop_map(|it| CanaryStep::Pause(it.map(Duration::from_secs))),
        Just(CanaryStep::Promote),
    ];
    proptest::collection::vec(step, 0..6)
}

fn events() -> impl Strategy<Value = Vec<(CanaryEvent, u64)>> {
    let why = || "because".to_owned();
    let event = prop_oneof![
        6 => (0u64..200, 0u64..4, 0u64..60, 0u32..3).prop_map(|(calls, faults, p95, bad)| {
            CanaryEvent::Look(CanaryLook {
                canary: measured(calls, faults.min(calls), p95),
                baseline: measured(if p95 % 3 == 0 { 20 } else { 500 }, 5, 20),
                bad_healths: u32::from(bad == 2) * 2,
            })
        }),
        1 => Just(CanaryEvent::Crashed { cause: why() }),
        1 => Just(CanaryEvent::Pause),
        2 => Just(CanaryEvent::Resume),
        1 => Just(CanaryEvent::Promote),
        1 => Just(CanaryEvent::Abort { why: why() }),
        1 => Just(CanaryEvent::Overtaken { why: why() }),
        1 => Just(CanaryEvent::Swapped),
        1 => Just(CanaryEvent::SwapFailed { why: why() }),
        1 => Just(CanaryEvent::Unloaded),
    ];
    proptest::collection::vec((event, 0u64..80), 0..40)
}

fn has_calls(traffic: &CanaryTraffic) -> bool {
    traffic.weight > 0 || !traffic.headers.is_empty()
}

proptest! {
    #[test]
    fn the_invariants_hold_whatever_happens(steps in steps(), events in events()) {
        let (mut canary, begun) = Canary::start(plan(steps), Duration::ZERO);
        let mut routed = CanaryTraffic::default();
        let (mut ends, mut now) = (0, Duration::ZERO);
        let mut perform = |effects: &[CanaryEffect], routed: &mut CanaryTraffic| {
            for effect in effects {
                match effect {
                    CanaryEffect::Route(traffic) => *routed = traffic.clone(),
                    CanaryEffect::Unload => assert!(!has_calls(routed), "C1: nothing with calls is unloaded"),
                    CanaryEffect::Tell(CanaryDecision::RolledBack(_) | CanaryDecision::Promoted) => ends += 1,
                    _ => {}
                }
            }
        };
        perform(&begun, &mut routed);
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            let before = canary.clone();
            // C2: whatever happened before, a crash takes it back at once.
            if !before.state().is_at_rest() && before.state() != CanaryState::RollingBack {
                let mut crashed = before.clone();
                let effects = crashed.on(CanaryEvent::Crashed { cause: String::new() }, now).expect("C2");
                prop_assert_eq!(&effects[0], &CanaryEffect::Route(CanaryTraffic::default()));
                prop_assert_eq!(crashed.state(), CanaryState::RollingBack);
            }
            let took = canary.on(event.clone(), now);
            let Ok(effects) = took else {
                prop_assert_eq!(&canary, &before, "C7: a refused event changes nothing");
                continue;
            };
            prop_assert!(!before.state().is_at_rest(), "C7");
            if canary.step() > before.step() && event != CanaryEvent::Resume {
                prop_assert_eq!(canary.step(), before.step() + 1, "C4");
                let CanaryEvent::Look(look) = &event else { panic!("C3: only numbers let a step pass, not {event:?}") };
                prop_assert_eq!(before.plan().analysis.trigger(look), None, "C3");
                if before.state() == CanaryState::Measuring {
                    let enough_beside = look.baseline.comparable() >= before.plan().analysis.requests_min;
                    prop_assert!(enough_beside || before.traffic().weight == 100, "C3");
                    prop_assert!(look.canary.comparable() >= before.plan().analysis.requests_min, "C3");
                    prop_assert!(now - before.window_began() >= before.plan().analysis.window, "C3");
                }
            }
            let own = effects.iter().any(|it| matches!(it, CanaryEffect::Tell(CanaryDecision::RolledBack(why)) if why.is_its_own()));
            prop_assert_eq!(own, effects.contains(&CanaryEffect::Quarantine), "C5");
            perform(&effects, &mut routed);
            prop_assert_eq!(&routed, canary.traffic(), "what it has is what was asked for");
            if matches!(canary.state(), CanaryState::RollingBack | CanaryState::RolledBack | CanaryState::Promoted) {
                prop_assert!(!has_calls(&routed), "C1");
            }
        }
        prop_assert!(ends <= 1, "C6: one end");
    }
}
