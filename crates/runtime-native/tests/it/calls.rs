//! Calls: results, failures, concurrency, deadlines, panics, the direct path.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use mortise_runtime::{CallErrorKind as Kind, EndCause, MethodIndex};
use mortise_wire::{CallHead, Code, Header, Status};
use prost::Message as _;

use crate::bench::{Bench, LONG, call, call_within, context, has_compiler, method, until};

fn answer(status: i32, said: &[u8]) -> Vec<u8> {
    [&status.to_le_bytes()[..], said].concat()
}

#[tokio::test]
async fn the_plugins_own_status_arrives_whole() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("status").await;
    let detail = prost_any("type.googleapis.com/a.B", b"\x01\x02");
    let said = Status {
        details: vec![detail.clone()],
        retryable: true,
        ..Status::new(Code::NotFound, "no such cat")
    };
    let error = call(&*probe, "Answer", &answer(5, &said.encode_to_vec()))
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.status()), (Kind::Returned, &said));
    for (status, kind) in [
        (-2, Kind::Malformed),
        (-3, Kind::Exhausted),
        (-5, Kind::Draining),
        (77, Kind::GuestFault),
    ] {
        assert_eq!(
            call(&*probe, "Answer", &answer(status, b""))
                .await
                .unwrap_err()
                .kind(),
            kind,
            "{status}"
        );
    }
    assert_eq!(
        call(&*probe, "Answer", &answer(0, b"fine")).await.unwrap(),
        "fine"
    );
    let missing = probe
        .call()
        .unwrap()
        .call(&context(LONG), MethodIndex(99), Bytes::new())
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

fn prost_any(type_url: &str, value: &[u8]) -> prost_types::Any {
    prost_types::Any {
        type_url: type_url.to_owned(),
        value: value.to_vec(),
    }
}

#[tokio::test]
async fn a_call_brings_its_head() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("head").await;
    let mut cx = context(LONG);
    cx.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    cx.metadata = Arc::new([Header {
        name: "x-canary".to_owned(),
        value: "1".to_owned(),
    }]);
    cx.depth = 3;
    cx.caller = "other".into();
    let reply = probe
        .call()
        .unwrap()
        .call(&cx, method("Head"), Bytes::new())
        .await
        .unwrap();
    let head = CallHead::decode(reply).unwrap();
    assert_eq!(head.traceparent, &*cx.traceparent);
    assert_eq!(
        (head.metadata.as_slice(), head.depth, head.caller.as_str()),
        (&*cx.metadata, 3, "other")
    );
    assert!(head.deadline_ns > 0 && head.call_id > 0);
}

#[tokio::test]
async fn blocking_calls_run_at_once_up_to_the_limit() {
    if !has_compiler() {
        return;
    }
    let mut bench = Bench::new();
    bench.limits.concurrency = 8;
    let probe = bench.probe("meet").await;
    for reply in join_all((0..8).map(|_| call(&*probe, "Meet", &[8]))).await {
        reply.unwrap();
    }
    assert_eq!(probe.stop(LONG).await.forced, None);

    // One thread: the second waits for the first until its deadline, and never enters.
    bench.limits.concurrency = 1;
    let probe = bench.probe("meet-alone").await;
    let both = join_all((0..2).map(|_| call_within(&*probe, "Meet", &[2], Duration::from_millis(100)))).await;
    assert!(
        both.iter()
            .all(|it| it.as_ref().is_err_and(|it| it.kind() == Kind::Deadline)),
        "{both:?}"
    );
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_deadline_frees_the_caller_and_tells_the_plugin() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("deadline").await;
    let error = call_within(&*probe, "Meet", &[200], Duration::from_millis(30))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline);
    assert_eq!(
        error.to_string(),
        "probe.v1.Probe/Meet of plugin `probe` did not answer by its deadline"
    );
    let late = call_within(&*probe, "Echo", b"", Duration::ZERO)
        .await
        .unwrap_err();
    assert_eq!(late.kind(), Kind::Deadline, "not begun at all");
    // It saw the flag: the stop waits for no one.
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("cancel").await;
    let dropped = tokio::time::timeout(Duration::from_millis(30), call(&*probe, "Meet", &[200])).await;
    assert!(dropped.is_err());
    assert_eq!(
        probe.stop(LONG).await.forced,
        None,
        "the call ended although its deadline is far"
    );
}

#[tokio::test]
async fn a_caller_in_a_hurry_does_not_have_the_instance_replaced() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::with(|it| it.stuck_grace = Duration::from_millis(40));
    let probe = bench.probe("hurry").await;
    let error = call_within(&*probe, "Stick", b"", Duration::from_millis(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline);
    let ended = tokio::time::timeout(Duration::from_millis(300), probe.ended()).await;
    assert!(ended.is_err(), "{ended:?}");
    call(&*probe, "Release", b"").await.unwrap();
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_call_that_does_not_end_is_reported() {
    if !has_compiler() {
        return;
    }
    let mut bench = Bench::with(|it| it.stuck_grace = Duration::from_millis(40));
    bench.limits.deadline = Duration::from_millis(20);
    let probe = bench.probe("stuck").await;
    let error = call_within(&*probe, "Stick", b"", Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline);
    assert_eq!(
        probe.ended().await,
        EndCause::Stuck("probe.v1.Probe/Stick".to_owned())
    );
    assert!(!probe.health().await.unwrap().serving);
    assert_eq!(
        call(&*probe, "Echo", b"others go on").await.unwrap(),
        "others go on"
    );
    call(&*probe, "Release", b"").await.unwrap();
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_panic_poisons_the_instance_and_no_other() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let bytes = bench.compile("panic", &[]);
    let (probe, other) = (
        bench.start(bytes.clone()).await.unwrap(),
        bench.start(bytes).await.unwrap(),
    );
    let direct = probe.call().unwrap().direct(method("Echo")).unwrap();
    let error = call(&*probe, "Panic", b"").await.unwrap_err();
    assert_eq!(error.kind(), Kind::GuestFault);
    assert_eq!(
        error.to_string(),
        "`probe.v1.Probe/Panic` panicked: boom at probe.c:1"
    );
    assert_eq!(
        probe.ended().await,
        EndCause::Panicked("boom at probe.c:1".to_owned())
    );
    for refused in [
        call(&*probe, "Echo", b"").await.map(|_| ()),
        direct.call(b"", &mut Vec::new()),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "I6");
        assert_eq!(
            error.to_string(),
            "the instance probe@1.0.0#1 takes no calls, because it panicked: boom at probe.c:1"
        );
    }
    assert_eq!(bench.host.messages(), ["the plugin panicked: boom"]);
    assert_eq!(call(&*other, "Echo", b"fine").await.unwrap(), "fine");
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn the_output_buffer_is_bounded_and_checked() {
    if !has_compiler() {
        return;
    }
    let mut bench = Bench::new();
    bench.limits.payload_bytes_max = 1 << 20;
    let probe = bench.probe("buffer").await;
    assert_eq!(call(&*probe, "Grow", b"1048576").await.unwrap().len(), 1 << 20);
    assert_eq!(
        call(&*probe, "Grow", b"1048577").await.unwrap_err().kind(),
        Kind::Exhausted
    );
    assert_eq!(
        call(&*probe, "Echo", &vec![0; (1 << 20) + 1])
            .await
            .unwrap_err()
            .kind(),
        Kind::Exhausted
    );
    let error = call(&*probe, "Overrun", b"").await.unwrap_err();
    assert_eq!(error.kind(), Kind::GuestFault);
    assert!(
        error
            .to_string()
            .contains("says that it wrote 1 bytes into an output buffer of 0"),
        "{error}"
    );
    let error = call(&*probe, "Overrun", b"").await.unwrap_err();
    assert_eq!(error.kind(), Kind::GuestFault);
}

#[tokio::test]
async fn direct_calls_append_and_leave_no_trace_of_a_failure() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("direct").await;
    let facet = probe.call().unwrap();
    let echo = facet.direct(method("Echo")).unwrap();
    let mut out = Vec::with_capacity(64);
    let before = out.as_ptr();
    echo.call(b"hello ", &mut out).unwrap();
    echo.call(b"world", &mut out).unwrap();
    assert_eq!(
        (out.as_slice(), out.as_ptr()),
        (&b"hello world"[..], before),
        "no allocation"
    );
    let status = Status::new(Code::Aborted, "not today");
    let error = facet
        .direct(method("Answer"))
        .unwrap()
        .call(&answer(10, &status.encode_to_vec()), &mut out)
        .unwrap_err();
    assert_eq!((error.status(), out.as_slice()), (&status, &b"hello world"[..]));
    facet
        .direct(method("Overrun"))
        .unwrap()
        .call(b"", &mut out)
        .unwrap_err();
    assert_eq!(out, b"hello world");
    assert!(
        facet.direct(method("Later")).is_none(),
        "async methods have no direct path"
    );
    assert!(facet.direct(MethodIndex(99)).is_none());
    probe.stop(LONG).await;
    assert_eq!(echo.call(b"", &mut out).unwrap_err().kind(), Kind::Draining);
}

#[tokio::test]
async fn a_health_check_that_blocks_holds_up_nobody() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::with(|it| it.stuck_grace = Duration::from_millis(40));
    let probe = bench.start(bench.compile("sick", &["BAD_HEALTH"])).await.unwrap();
    assert_eq!(probe.health().await.unwrap_err().kind(), Kind::Deadline);
    assert_eq!(call(&*probe, "Echo", b"x").await.unwrap(), "x");
    assert_eq!(probe.ended().await, EndCause::Stuck("health".to_owned()));
    call(&*probe, "Release", b"").await.unwrap();
    assert_eq!(probe.stop(LONG).await.forced, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe: Arc<dyn mortise_runtime::Instance> = Arc::from(bench.probe("many").await);
    let callers = (0..256u32).map(|number| {
        let probe = probe.clone();
        tokio::spawn(async move {
            let payload = number.to_string();
            let name = if number.is_multiple_of(2) {
                "Echo"
            } else {
                "Answer"
            };
            let sent = if name == "Echo" {
                payload.clone().into_bytes()
            } else {
                answer(0, payload.as_bytes())
            };
            assert_eq!(call(&*probe, name, &sent).await.unwrap(), payload);
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    until("nothing is left to wait for", || Arc::strong_count(&probe) == 1).await;
    assert_eq!(probe.stop(LONG).await.forced, None);
}
