//! Methods that answer through `mt_done`.

use std::time::Duration;

use mortise_runtime::{CallErrorKind as Kind, EndCause};

use crate::bench::{Bench, LONG, call, call_within, has_compiler};

const METHODS: [&str; 2] = ["Later", "LaterHere"];

#[tokio::test]
async fn answers_come_inline_or_later() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("later").await;
    for method in METHODS {
        assert_eq!(call(&*probe, method, b"inline").await.unwrap(), "inline");
        assert_eq!(call(&*probe, method, b"thread").await.unwrap(), "thread");
        let refused = call(&*probe, method, b"refuse").await.unwrap_err();
        assert_eq!((refused.kind(), refused.status().code), (Kind::Returned, 8));
    }
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_second_completion_changes_nothing_and_is_reported() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("second").await;
    assert_eq!(call(&*probe, "Later", b"2 answers").await.unwrap(), "2 answers");
    let EndCause::Protocol(why) = probe.ended().await else {
        panic!("another cause")
    };
    assert!(why.contains("completed twice"), "{why}");
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn an_async_call_is_cancelled_through_the_plugin() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let library = bench.compile("async-cancel", &[]);
    for method in METHODS {
        let probe = bench.start(library.clone()).await.unwrap();
        let error = call_within(&*probe, method, b"never", Duration::from_millis(30))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Deadline);
        assert_eq!(probe.stop(LONG).await.forced, None, "`cancel` completed it");
    }
}

#[tokio::test]
async fn a_panic_that_is_completed_poisons() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("async-panic").await;
    let error = call(&*probe, "Later", b"panic").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`probe.v1.Probe/Later` panicked: async boom at probe.c:2"
    );
    assert_eq!(
        probe.ended().await,
        EndCause::Panicked("async boom at probe.c:2".to_owned())
    );
}

#[tokio::test]
async fn an_async_reply_is_bounded() {
    if !has_compiler() {
        return;
    }
    let mut bench = Bench::new();
    bench.limits.payload_bytes_max = 8;
    let probe = bench.probe("async-bound").await;
    assert_eq!(call(&*probe, "Later", b"i 345678").await.unwrap(), "i 345678");
    assert_eq!(
        call(&*probe, "Later", b"i 3456789").await.unwrap_err().kind(),
        Kind::Exhausted
    );
}
