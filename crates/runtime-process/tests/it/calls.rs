//! Calls that go well, and calls that are given up.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mortise_runtime::{Blame, CallErrorKind, Instance, MethodIndex};
use mortise_wire::Code;

use crate::{
    fake::Begin,
    fixture::{Bench, DO, ECHO, PATIENCE, ask, context, eventually, freeze, runs, within},
};

#[tokio::test]
async fn payloads_of_every_size_come_back() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let call = instance.call().unwrap();
    for bytes in [0, 1, 255, 256, 257, 4096, 65_535, 65_536, 1 << 20, (16 << 20) + 1] {
        let payload: Bytes = (0..bytes).map(|it| (it % 251) as u8).collect::<Vec<_>>().into();
        let reply = call.call(&context(1), ECHO, payload.clone()).await.unwrap();
        assert!(
            reply == payload,
            "{bytes} bytes came back changed ({} bytes)",
            reply.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_get_their_own_answers() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.concurrency = 64;
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let calls = (0..2000_u64).map(|number| {
        let instance = Arc::clone(&instance);
        tokio::spawn(async move {
            let payload = Bytes::from(number.to_le_bytes().repeat(1 + number as usize % 500));
            let reply = instance
                .call()
                .unwrap()
                .call(&context(number), ECHO, payload.clone())
                .await
                .unwrap();
            assert_eq!(reply, payload);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn plugin_that_works_on_one_call_is_given_one() {
    let bench = Bench::new(Begin::WorksOnOneCallAtOnce);
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let first = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move {
            ask(&*instance, "sleep 300")
                .await
                .map(|_| std::time::Instant::now())
        }
    });
    tokio::task::yield_now().await;
    ask(&*instance, "head").await.unwrap();
    let second_done = std::time::Instant::now();
    assert!(
        first.await.unwrap().unwrap() <= second_done,
        "the second call overtook the first"
    );
}

#[tokio::test]
async fn head_travels_with_the_call() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut cx = context(99);
    cx.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    cx.metadata = [mortise_wire::Header {
        name: "x-canary-version".to_owned(),
        value: "2".to_owned(),
    }]
    .into();
    cx.depth = 3;
    cx.caller = "other".into();
    let reply = instance
        .call()
        .unwrap()
        .call(&cx, DO, Bytes::from("head"))
        .await
        .unwrap();
    let head = String::from_utf8(reply.to_vec()).unwrap();
    for part in [
        "b7ad6b7169203331",
        "x-canary-version",
        "depth: 3",
        "caller: \"other\"",
    ] {
        assert!(head.contains(part), "{part} is not in {head}");
    }
    assert!(!head.contains("deadline_ns: 0"), "{head}");
}

#[tokio::test]
async fn status_of_the_plugin_is_returned_as_it_is() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let error = ask(&*instance, "fail there is one already").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Returned);
    assert_eq!(error.status().kind(), Code::AlreadyExists);
    assert_eq!(error.status().message, "there is one already");
}

#[tokio::test]
async fn unknown_method_is_refused_here() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let error = instance
        .call()
        .unwrap()
        .call(&context(1), MethodIndex(99), Bytes::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotFound);
}

#[tokio::test]
async fn payloads_over_the_limit_cost_one_call() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.payload_bytes_max = 1000;
    let instance = bench.start().await;
    let error = ask(&*instance, &"x".repeat(1001)).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Exhausted);
    let error = ask(&*instance, "large 1001").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Exhausted);
    assert_eq!(
        error.to_string(),
        "the reply of plugin `fake` has 1001 bytes, and 1000 is the limit"
    );
    assert_eq!(ask(&*instance, "large 1000").await.unwrap().len(), 1000);
}

#[tokio::test]
async fn deadline_frees_the_caller_and_spares_a_plugin_that_obeys() {
    let bench = Bench::with(Begin::Well, |config| config.stuck_grace = PATIENCE);
    let instance = bench.start().await;
    let call = instance.call().unwrap();
    let error = call
        .call(&within(1, Duration::from_millis(50)), DO, Bytes::from("obey"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.blame()),
        (CallErrorKind::Deadline, Blame::Guest)
    );
    assert_eq!(
        error.to_string(),
        "test.v1.Fake/Do of plugin `fake` did not answer by its deadline"
    );
    // It was told, it answered the call that nobody waits for, and it serves on.
    assert_eq!(ask(&*instance, "cancelled").await.unwrap(), "1");
    assert!(futures_ready(instance.ended()).await.is_none());
}

#[tokio::test]
async fn caller_that_goes_cancels_its_call_only() {
    let bench = Bench::with(Begin::Well, |config| config.stuck_grace = PATIENCE);
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let stays = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { ask(&*instance, "sleep 300").await }
    });
    let cx = context(5);
    let goes = instance.call().unwrap().call(&cx, DO, Bytes::from("obey"));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), goes)
            .await
            .is_err()
    );
    let told = async || ask(&*instance, "cancelled").await.unwrap() == "1";
    while !told().await {
        tokio::task::yield_now().await;
    }
    assert_eq!(stays.await.unwrap().unwrap(), "slept");
}

#[tokio::test]
async fn health_is_asked_for() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let health = instance.health().await.unwrap();
    assert!(health.serving);
    assert_eq!(health.detail, "well");
}

#[tokio::test]
async fn usage_names_the_process_and_its_memory() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let usage = instance.usage();
    assert!(runs(usage.pid.unwrap()));
    if cfg!(target_os = "linux") {
        assert!(usage.memory_bytes.unwrap() > 100 << 10, "{usage:?}");
    }
    instance.stop(Duration::from_secs(5)).await;
    assert_eq!(instance.usage(), mortise_runtime::Usage::default());
}

/// A plugin that reads nothing while callers keep sending: what is queued is bounded, and the callers are freed by their deadlines.
#[tokio::test]
async fn callers_wait_for_a_plugin_that_does_not_read() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.payload_bytes_max = 1 << 20;
    bench.limits.concurrency = 64;
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let pid = instance.usage().pid.unwrap();
    freeze(pid).await;
    let calls = (0..64_u64).map(|number| {
        let instance = Arc::clone(&instance);
        tokio::spawn(async move {
            let cx = within(number, Duration::from_millis(200));
            let payload = Bytes::from(vec![0; 1 << 20]);
            instance
                .call()
                .unwrap()
                .call(&cx, ECHO, payload)
                .await
                .unwrap_err()
                .kind()
        })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        let kind = call.await.unwrap();
        // The first to overrun their grace take the instance with them.
        assert!(
            matches!(kind, CallErrorKind::Deadline | CallErrorKind::GuestFault),
            "{kind:?}"
        );
    }
    eventually("the stopped process is killed", || (!runs(pid)).then_some(())).await;
}

/// The future's value if it has one now.
async fn futures_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}
