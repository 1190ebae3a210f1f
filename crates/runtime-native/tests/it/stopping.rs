//! Stops: clean, by force, by drop.

use std::time::Duration;

use mortise_runtime::CallErrorKind as Kind;

use crate::bench::{Bench, LONG, call, call_within, has_compiler, until};

#[tokio::test]
async fn a_stop_waits_for_running_calls_and_takes_no_new_ones() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let (witness, define) = bench.witness();
    let probe = bench.start(bench.compile("drain", &[&define])).await.unwrap();
    let meet = call(&*probe, "Meet", &[2]);
    let (met, stopped, refused) = tokio::join!(
        meet,
        async {
            // The first to meet is inside; the second lets both go.
            call(&*probe, "Meet", &[2]).await.unwrap();
            probe.stop(LONG).await
        },
        async {
            let mut kind = None;
            until("the instance drains", || witness.exists() || kind.is_some()).await;
            kind.replace(call(&*probe, "Echo", b"").await.unwrap_err().kind())
                .or(kind)
        }
    );
    met.unwrap();
    assert_eq!(stopped.forced, None);
    assert!(
        stopped
            .left
            .is_some_and(|it| it.starts_with("its library stays mapped"))
    );
    assert_eq!(refused, Some(Kind::Draining));
    assert_eq!(
        std::fs::read_to_string(witness).unwrap().lines().count(),
        1,
        "destroyed once"
    );
}

#[tokio::test]
async fn a_stuck_call_is_left_and_its_memory_kept() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let (witness, define) = bench.witness();
    let probe = bench.start(bench.compile("left", &[&define])).await.unwrap();
    let release = probe
        .call()
        .unwrap()
        .direct(crate::bench::method("Release"))
        .unwrap();
    call_within(&*probe, "Stick", b"", Duration::from_millis(20))
        .await
        .unwrap_err();
    let report = probe.stop(Duration::from_millis(20)).await;
    assert_eq!(
        report.forced.unwrap(),
        "`probe.v1.Probe/Stick` did not return within 20 ms"
    );
    assert!(report.left.unwrap().contains("its memory is kept"));
    assert!(!witness.exists(), "I2: not destroyed under a running call");
    // Refused by now, because it is stopping: the way a bound caller of the host would see it.
    assert_eq!(
        release.call(b"", &mut Vec::new()).unwrap_err().kind(),
        Kind::Draining
    );
}

#[tokio::test]
async fn a_dropped_instance_is_torn_down() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let (witness, define) = bench.witness();
    let probe = bench.start(bench.compile("dropped", &[&define])).await.unwrap();
    call(&*probe, "Count", b"").await.unwrap();
    drop(probe);
    let told = || std::fs::read_to_string(&witness).unwrap_or_default();
    until("it is destroyed", || told().contains("destroyed after 1 calls")).await;
}

#[tokio::test]
async fn a_failing_deactivate_is_told_and_the_rest_done() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let (witness, define) = bench.witness();
    let probe = bench
        .start(bench.compile("deactivate", &[&define, "BAD_DEACTIVATE"]))
        .await
        .unwrap();
    let report = probe.stop(LONG).await;
    assert_eq!(
        report.forced.unwrap(),
        "its `deactivate` failed: a thread would not end (INTERNAL)"
    );
    assert!(witness.exists());
}
