//! Calls that the plugin makes.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use mortise_runtime::CallErrorKind;
use mortise_wire::Code;

use crate::{
    fake::Begin,
    fixture::{Bench, DO, PATIENCE, ask, eventually, within},
};

#[tokio::test]
async fn answered_on_behalf_of_their_call() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    assert_eq!(ask(&*instance, "host test.Host/Echo ping").await.unwrap(), "ping");
    assert_eq!(
        *bench.services.called.lock().unwrap(),
        [("test.Host/Echo".to_owned(), Some(4711))],
        "the parent is the host's call"
    );
    let error = ask(&*instance, "host test.Host/Other").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.status().kind()),
        (CallErrorKind::Returned, Code::PermissionDenied)
    );
}

#[tokio::test]
async fn refused_for_a_call_that_is_over() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let answer = ask(&*instance, "host-orphan").await.unwrap();
    assert!(answer.starts_with("CANCELLED: call "), "{answer}");
    assert!(bench.services.called.lock().unwrap().is_empty());
}

#[tokio::test]
async fn bounded_in_number() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.concurrency = 4;
    let instance = bench.start().await;
    let answer = ask(&*instance, "host-many 20").await.unwrap();
    assert_eq!(
        answer,
        "RESOURCE_EXHAUSTED: the plugin makes 20 calls already, which is the limit"
    );
    let waiting = bench.services.waiting.clone();
    assert_eq!(waiting.load(Ordering::SeqCst), 20);
    // They end with the instance.
    instance.stop(Duration::from_secs(5)).await;
    eventually("the host's calls are dropped", || {
        (waiting.load(Ordering::SeqCst) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn slow_one_holds_up_nothing() {
    let bench = Bench::with(Begin::Well, |config| config.stuck_grace = PATIENCE);
    let instance = bench.start().await;
    let cx = within(1, Duration::from_millis(100));
    let error = instance
        .call()
        .unwrap()
        .call(&cx, DO, Bytes::from("host test.Host/Never"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(ask(&*instance, "host test.Host/Echo on").await.unwrap(), "on");
}

#[tokio::test]
async fn panic_in_the_host_is_an_answer() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let error = ask(&*instance, "host test.Host/Panic").await.unwrap_err();
    assert_eq!(error.status().kind(), Code::Internal);
    assert_eq!(ask(&*instance, "host test.Host/Echo on").await.unwrap(), "on");
}
