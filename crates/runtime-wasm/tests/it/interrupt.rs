//! Guests that do not come back by themselves.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mortise_manifest::Limits;
use mortise_runtime::{CallErrorKind, EndCause, Instance, Runtime, RuntimeErrorKind};
use mortise_runtime_wasm::{Pooling, Reuse, Tiering};

use crate::{
    guests::{ALL, BUSY, COUNT, ECHO, Guest, HOST, LATE, RECURSE, SPIN},
    world::{call, call_within, refused, runtime, runtime_with, start, start_stateful, start_with, word},
};

const SHORT: Duration = Duration::from_millis(150);
/// Longer than any machine needs for a few timers.
const LONG: Duration = Duration::from_secs(60);

/// What an instance uses while no guest lives.
fn at_rest(instance: &dyn Instance) -> u64 {
    instance.usage().memory_bytes.expect("it is known")
}

#[tokio::test(flavor = "current_thread")]
async fn an_endless_loop_ends_at_its_deadline_and_the_only_thread_stays_alive() {
    for tiering in [Tiering::BaselineFirst, Tiering::OptimisedOnly] {
        for pooling in [Pooling::Auto, Pooling::Off] {
            let runtime = runtime_with(|it| (it.tiering, it.pooling) = (tiering, pooling));
            for abi in ALL {
                let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
                // The guest spins on the only thread; timers fire there all the same, however slow the machine is.
                let beating = async {
                    for _ in 0..3 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                tokio::select! {
                    ended = call_within(&*instance, SPIN, "", LONG) => panic!("{abi:?}: it never answers: {ended:?}"),
                    () = beating => {}
                }
                let error = call_within(&*instance, SPIN, "", SHORT)
                    .await
                    .expect_err("it never answers");
                assert_eq!(error.kind(), CallErrorKind::Deadline, "{abi:?}: {error}");
                assert_eq!(
                    call(&*instance, ECHO, "still here").await.expect("it answers"),
                    "still here"
                );
            }
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_caller_in_a_hurry_does_not_cost_the_one_guest() {
    // Better code would ask for the state, and these guests have none to give.
    let runtime = runtime_with(|it| it.tiering = Tiering::OptimisedOnly);
    for abi in ALL {
        let guest = Guest::new(abi).build();
        let started = start_stateful(&runtime, guest.clone(), Limits::default()).await;
        let (instance, _) = started.expect("it starts");
        assert_eq!(word(&call(&*instance, COUNT, "").await.expect("it counts")), 1);
        let busy = 300_000_000_u32.to_le_bytes();
        let error = call_within(&*instance, BUSY, busy.to_vec(), Duration::from_millis(5))
            .await
            .expect_err("it takes longer");
        assert_eq!(error.kind(), CallErrorKind::Deadline, "{abi:?}: {error}");
        let count = call(&*instance, COUNT, "").await.expect("it still counts");
        assert_eq!(word(&count), 2, "{abi:?}");

        // What never ends is ended by the plugin's own limit.
        let limits = Limits {
            deadline: 5 * SHORT,
            ..Limits::default()
        };
        let (instance, _) = start_stateful(&runtime, guest, limits).await.expect("it starts");
        let error = call_within(&*instance, SPIN, "", SHORT)
            .await
            .expect_err("it never answers");
        assert_eq!(error.kind(), CallErrorKind::Deadline, "{abi:?}: {error}");
        let ended = tokio::time::timeout(LONG, instance.ended()).await;
        let ended = ended.expect("it is ended");
        assert_eq!(ended, EndCause::Stuck("test.Guest/Spin".to_owned()), "{abi:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_ticker_wakes_from_its_sleep() {
    let runtime = runtime_with(|it| it.tick = Duration::from_millis(1));
    let (instance, _) = start(&runtime, Guest::new(ALL[0]).build()).await;
    for _ in 0..3 {
        // Long enough for 20 idle ticks.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let error = call_within(&*instance, SPIN, "", Duration::from_millis(20))
            .await
            .expect_err("it never answers");
        assert_eq!(error.kind(), CallErrorKind::Deadline);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn dropping_a_call_stops_it_and_touches_no_other() {
    let runtime = runtime();
    for abi in ALL {
        let (instance, services) = start(&runtime, Guest::new(abi).build()).await;
        call(&*instance, ECHO, "")
            .await
            .expect("the first guest is used up");
        let rest = at_rest(&*instance);
        let busy = 30_000_000_u32.to_le_bytes();
        let siblings = futures_util::future::join_all((0..4).map(|_| call(&*instance, BUSY, busy.to_vec())));
        let cancelled = async {
            for method in [SPIN, HOST, SPIN] {
                let doomed = call(&*instance, method, "test.Host/Never");
                assert!(
                    tokio::time::timeout(Duration::from_millis(30), doomed)
                        .await
                        .is_err(),
                    "it waits for ever"
                );
            }
        };
        let (siblings, ()) = futures_util::future::join(siblings, cancelled).await;
        for sibling in siblings {
            assert_eq!(word(&sibling.expect("a sibling is not disturbed")), 42, "{abi:?}");
        }
        assert_eq!(
            services.dropped.load(Ordering::SeqCst),
            1,
            "{abi:?}: the host call went with its caller"
        );
        // A guest that computes is told at its next tick.
        let all_gone = async {
            while at_rest(&*instance) != rest {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, all_gone)
            .await
            .unwrap_or_else(|_| panic!("{abi:?}: a store is left"));
    }
}

/// A quick call is answered on the thread `here`. On a busy machine this one may be stopped for a tick in the middle of a call, which then goes on
/// elsewhere; not many times in a row.
async fn answers_from(instance: &dyn Instance, here: &str) {
    for _ in 0..50 {
        let quick = call(instance, HOST, "test.Host/Where").await;
        if quick.expect("it answers") == here {
            return;
        }
    }
    panic!("no quick call is answered on {here}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_call_that_computes_for_long_goes_on_elsewhere() {
    let here = std::thread::current().name().unwrap_or_default().to_owned();
    for reuse in [Reuse::Ephemeral, Reuse::WARM] {
        let runtime = runtime_with(|it| it.reuse = reuse);
        for abi in ALL {
            let (instance, services) = start(&runtime, Guest::new(abi).build()).await;
            answers_from(&*instance, &here).await;
            let late = call(&*instance, LATE, "test.Host/Where").await;
            assert_eq!(late.expect("it answers"), "mortise-compute", "{abi:?}");
            // The next begins here again.
            answers_from(&*instance, &here).await;

            // Whoever goes away while it waits there takes its host call along.
            let doomed = call(&*instance, LATE, "test.Host/Never");
            let waits = async {
                while services.waiting.load(Ordering::SeqCst) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                ended = doomed => panic!("{abi:?}: the host never answers: {ended:?}"),
                () = waits => {}
            }
            let dropped = async {
                while services.dropped.load(Ordering::SeqCst) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(LONG, dropped).await.expect("it is told");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_deadline_also_ends_a_wait_for_the_host() {
    let runtime = runtime();
    for abi in ALL {
        let (instance, services) = start(&runtime, Guest::new(abi).build()).await;
        let error = call_within(&*instance, HOST, "test.Host/Never", SHORT)
            .await
            .expect_err("the host never answers");
        assert_eq!(error.kind(), CallErrorKind::Deadline, "{abi:?}: {error}");
        assert_eq!(services.dropped.load(Ordering::SeqCst), 1, "{abi:?}");
    }
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_the_plugins_own() {
    let runtime = runtime();
    let limits = Limits {
        deadline: SHORT,
        ..Limits::default()
    };
    let (instance, _) = start_with(&runtime, Guest::new(ALL[0]).build(), limits)
        .await
        .expect("it starts");
    let cx = mortise_runtime::CallContext::default();
    let error = instance
        .call()
        .expect("it answers")
        .call(&cx, mortise_runtime::MethodIndex(SPIN), "".into())
        .await;
    assert_eq!(
        error.expect_err("it never answers").kind(),
        CallErrorKind::Deadline
    );
}

#[tokio::test]
async fn time_that_is_over_does_not_reach_the_guest() {
    let runtime = runtime_with(|it| it.reuse = Reuse::WARM);
    let (instance, _) = start(&runtime, Guest::new(ALL[0]).build()).await;
    let error = call_within(&*instance, COUNT, "", Duration::ZERO)
        .await
        .expect_err("it is over");
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(word(&call(&*instance, COUNT, "").await.expect("it counts")), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_start_that_never_ends_is_stopped() {
    let runtime = runtime();
    let limits = Limits {
        start: SHORT,
        ..Limits::default()
    };
    let hazards = [
        (
            "`start`",
            Guest {
                start: "(loop $l (br $l))",
                ..Guest::new(ALL[0])
            },
        ),
        (
            "the start function",
            Guest {
                extra: "(func $init (loop $l (br $l))) (start $init)",
                ..Guest::new(ALL[0])
            },
        ),
    ];
    for (what, guest) in hazards {
        for abi in ALL {
            let guest = Guest { abi, ..guest.clone() };
            let error = refused(start_with(&runtime, guest.build(), limits.clone()).await);
            assert_eq!(
                error.kind(),
                RuntimeErrorKind::StartFailed,
                "{what} {abi:?}: {error}"
            );
            assert!(
                error.to_string().contains("not ready after 150ms"),
                "{what} {abi:?}: {error}"
            );
        }
    }
    let (instance, _) = start(&runtime, Guest::new(ALL[0]).build()).await;
    call(&*instance, ECHO, "")
        .await
        .expect("the runtime is none the worse");
}

#[tokio::test]
async fn endless_recursion_is_a_stack_overflow() {
    let runtime = runtime();
    for abi in ALL {
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        let error = call(&*instance, RECURSE, "").await.expect_err("it overflows");
        assert_eq!(error.kind(), CallErrorKind::GuestFault);
        assert!(error.to_string().contains("stack"), "{abi:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_ends_by_force_what_does_not_end_in_its_grace() {
    let runtime = runtime();
    for abi in ALL {
        for method in [SPIN, HOST] {
            let (instance, services) = start(&runtime, Guest::new(abi).build()).await;
            let instance: Arc<dyn Instance> = instance.into();
            let running = Arc::clone(&instance);
            let stuck = tokio::spawn(async move { call(&*running, method, "test.Host/Never").await });
            while method == HOST && services.waiting.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let report = instance.stop(Duration::from_millis(50)).await;
            assert!(
                report.forced.is_some() && report.left.is_none(),
                "{abi:?}: {report:?}"
            );
            let error = stuck.await.expect("no panic").expect_err("it was stopped");
            assert_eq!(error.kind(), CallErrorKind::Unavailable, "{abi:?}: {error}");
        }
    }
}

#[tokio::test]
async fn an_instance_says_nothing_about_its_end() {
    let runtime = runtime();
    let (instance, _) = start(&runtime, Guest::new(ALL[0]).build()).await;
    call_within(&*instance, SPIN, "", Duration::from_millis(20))
        .await
        .expect_err("it never answers");
    assert!(
        tokio::time::timeout(Duration::from_millis(20), instance.ended())
            .await
            .is_err()
    );
    assert!(runtime.support().restartable);
}
