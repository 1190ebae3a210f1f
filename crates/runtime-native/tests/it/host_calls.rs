//! What a plugin asks of its host: log lines, calls, and both at the wrong moment.

use std::time::Duration;

use mortise_runtime::CallErrorKind as Kind;
use mortise_wire::Code;

use crate::bench::{Bench, LONG, call, call_within, has_compiler, until};

#[tokio::test]
async fn log_lines_belong_to_their_call() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("log").await;
    call(&*probe, "Log", b"hello").await.unwrap();
    let lines = bench.host.lines.lock().unwrap().clone();
    assert_eq!(
        lines[0],
        ("hello".to_owned(), 4711, Some(4711)),
        "the host's own number for the call"
    );
    assert!(
        lines[1]
            .0
            .starts_with("a log line was dropped, because it does not parse"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_blocking_method_calls_the_host_on_any_executor() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("callback").await;
    assert_eq!(call(&*probe, "CallHost", b"echo").await.unwrap(), "echo");
    assert_eq!(
        call(&*probe, "CallHost", b"parent").await.unwrap(),
        "4711",
        "deadline and trace are inherited"
    );
    let error = call(&*probe, "CallHost", b"deny").await.unwrap_err();
    assert_eq!(
        (error.status().kind(), error.to_string().as_str()),
        (Code::PermissionDenied, "no grant for `deny`")
    );
    let error = call(&*probe, "CallHost", b"panic").await.unwrap_err();
    assert_eq!(error.status().kind(), Code::Internal, "I4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonblocking_method_may_call_the_host_where_others_can_answer() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("callback-here").await;
    assert_eq!(call(&*probe, "CallHostHere", b"echo").await.unwrap(), "echo");
    let direct = probe
        .call()
        .unwrap()
        .direct(crate::bench::method("CallHost"))
        .unwrap();
    let mut out = Vec::new();
    direct.call(b"parent", &mut out).unwrap();
    assert_eq!(out, b"0", "a bound call has no parent");
}

#[tokio::test]
async fn a_nonblocking_method_is_refused_where_it_would_wait_for_itself() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("callback-alone").await;
    let error = call(&*probe, "CallHostHere", b"echo").await.unwrap_err();
    assert_eq!(error.status().kind(), Code::FailedPrecondition, "I5");
    assert!(
        error
            .to_string()
            .contains("take the flag `nonblocking` off the method"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cancelled_call_does_not_wait_for_the_host() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("callback-cancel").await;
    let error = call_within(&*probe, "CallHost", b"wait", Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline);
    until("the host's call is dropped", || {
        *bench.host.waits.lock().unwrap() == (1, 1)
    })
    .await;
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_plugin_that_speaks_after_its_end_talks_to_nobody() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let (witness, define) = bench.witness();
    let probe = bench
        .start(bench.compile("late", &[&define, "BAD_LATE"]))
        .await
        .unwrap();
    call(&*probe, "Later", b"inline").await.unwrap();
    probe.stop(LONG).await;
    drop(probe);
    let told = || std::fs::read_to_string(&witness).unwrap_or_default();
    until("the forgotten thread has spoken", || told().contains("late")).await;
    assert!(told().contains("late -5"), "MT_E_DRAINING: {}", told());
    assert_eq!(bench.host.messages(), [""; 0], "I3");
}
