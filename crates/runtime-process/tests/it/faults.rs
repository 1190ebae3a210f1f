//! Whatever the plugin breaks, every call in it gets one clear error, its process goes, and the cause is told.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mortise_runtime::{CallError, CallErrorKind, EndCause, Instance};

use crate::{
    fake::Begin,
    fixture::{Bench, DO, PATIENCE, ask, context, eventually, runs, within},
};

/// Has the plugin do `word` while another call is open, and returns both errors and the cause of the end.
async fn after(word: &str) -> (CallError, EndCause) {
    after_in(Bench::new(Begin::Well), word).await
}

async fn after_in(bench: Bench, word: &str) -> (CallError, EndCause) {
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let pid = instance.usage().pid.unwrap();
    let other = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { ask(&*instance, "sleep 600000").await.unwrap_err() }
    });
    // The other call is in the plugin when it has answered this one: frames keep their order.
    tokio::task::yield_now().await;
    ask(&*instance, "head").await.unwrap();
    let _ = ask(&*instance, word).await;
    let cause = tokio::time::timeout(PATIENCE, instance.ended())
        .await
        .expect("the end is told");
    let error = other.await.unwrap();
    assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
    assert!(
        error.to_string().contains(&cause.to_string()),
        "{error} does not name {cause}"
    );
    assert!(error.hint().is_some());
    assert!(!runs(pid), "the process is there after the end was told");
    eventually("the private directory is removed", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
    // From now on every call gets the same answer, at once.
    let late = ask(&*instance, "head").await.unwrap_err();
    assert_eq!((late.kind(), late.to_string()), (error.kind(), error.to_string()));
    assert!(instance.health().await.is_err());
    let report = instance.stop(Duration::from_secs(5)).await;
    assert_eq!(report.forced, None, "there was nothing left to stop");
    (error, cause)
}

fn protocol(cause: &EndCause) -> &str {
    match cause {
        EndCause::Protocol(how) => how,
        other => panic!("{other:?} is no breach of the protocol"),
    }
}

#[tokio::test]
async fn exit_with_last_words() {
    let (error, cause) = after("exit 7").await;
    assert_eq!(cause, EndCause::Exited(7));
    assert_eq!(
        error.to_string(),
        "plugin `fake` failed: its process exited with code 7; it wrote last: about to exit"
    );
}

#[tokio::test]
async fn exit_with_success_is_an_end_too() {
    assert_eq!(after("exit 0").await.1, EndCause::Exited(0));
}

#[tokio::test]
async fn signal() {
    assert_eq!(after("abort").await.1, EndCause::Signalled(6));
}

#[tokio::test]
async fn answer_before_the_exit_counts() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    assert_eq!(ask(&*instance, "answer-and-exit").await.unwrap(), "last answer");
    assert_eq!(instance.ended().await, EndCause::Exited(0));
}

#[tokio::test]
async fn second_answer() {
    let (_, cause) = after("twice").await;
    assert!(protocol(&cause).ends_with("twice"), "{cause}");
}

#[tokio::test]
async fn answer_to_nothing() {
    let (_, cause) = after("unasked").await;
    assert!(protocol(&cause).contains("which was never made"), "{cause}");
}

#[tokio::test]
async fn frame_over_the_maximum() {
    let (_, cause) = after("huge").await;
    assert!(
        protocol(&cause).contains("a frame of 4294967295 bytes was announced"),
        "{cause}"
    );
}

#[tokio::test]
async fn garbage() {
    let (_, cause) = after("garbage").await;
    assert!(protocol(&cause).contains("was announced"), "{cause}");
}

#[tokio::test]
async fn half_a_frame() {
    let (_, cause) = after("cut").await;
    // Which of the two is seen first is the scheduler's business.
    assert!(
        matches!(&cause, EndCause::Exited(0) | EndCause::Protocol(_)),
        "{cause}"
    );
}

#[tokio::test]
async fn frame_out_of_place() {
    let (_, cause) = after("hello").await;
    assert!(protocol(&cause).contains("it sent Hello"), "{cause}");
}

#[tokio::test]
async fn status_that_does_not_parse() {
    let (_, cause) = after("bad-status").await;
    assert!(
        protocol(&cause).contains("the status in its frame Error does not parse"),
        "{cause}"
    );
}

#[tokio::test]
async fn answer_of_the_wrong_kind() {
    let (_, cause) = after("pong").await;
    assert!(protocol(&cause).contains("is of the wrong kind"), "{cause}");
}

#[tokio::test]
async fn lane_closed_without_exit() {
    let (_, cause) = after("close").await;
    assert_eq!(protocol(&cause), "it closed its lane and went on running");
}

#[tokio::test]
async fn host_calls_with_one_id() {
    let (_, cause) = after("host-same-id").await;
    assert!(protocol(&cause).contains("two calls with the id 7"), "{cause}");
}

#[tokio::test]
async fn a_caller_in_a_hurry_does_not_have_the_process_killed() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let hurried = instance.call().unwrap();
    // The grace is 100 ms.
    let error = hurried
        .call(&within(1, Duration::from_millis(1)), DO, Bytes::from("sleep 400"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(ask(&*instance, "sleep 500").await.unwrap(), "slept");
    assert!(runs(instance.usage().pid.unwrap()));
}

#[tokio::test]
async fn call_that_never_answers_takes_its_process_with_it() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.deadline = Duration::from_millis(100);
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let pid = instance.usage().pid.unwrap();
    let other = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { ask(&*instance, "sleep 600000").await.unwrap_err() }
    });
    let cx = within(1, Duration::from_millis(100));
    let error = instance
        .call()
        .unwrap()
        .call(&cx, DO, Bytes::from("hang"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    let cause = tokio::time::timeout(PATIENCE, instance.ended()).await.unwrap();
    assert_eq!(cause, EndCause::Stuck("test.v1.Fake/Do".to_owned()));
    let error = other.await.unwrap();
    assert_eq!(
        error.to_string(),
        "plugin `fake` failed: a call to test.v1.Fake/Do is stuck in it"
    );
    assert!(!runs(pid));
}

#[tokio::test]
async fn call_whose_caller_went_is_stuck_only_after_its_deadline() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let cx = context(1);
    let call = instance.call().unwrap().call(&cx, DO, Bytes::from("sleep 600"));
    assert!(
        tokio::time::timeout(Duration::from_millis(20), call)
            .await
            .is_err()
    );
    // Six times the grace later it is still not stuck, because its deadline is far.
    assert_eq!(ask(&*instance, "sleep 700").await.unwrap(), "slept");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_over_the_limit() {
    // Under what the kernel refuses, over what the supervisor allows.
    let mut bench = Bench::new(Begin::Well);
    bench.limits.memory_bytes_max = 32 << 20;
    let (error, cause) = after_in(bench, &format!("eat {}", 48 << 20)).await;
    assert!(matches!(cause, EndCause::OutOfMemory(_)), "{cause:?}");
    assert!(error.to_string().contains("33554432"), "{error}");
    // Over what the kernel gives: the plugin itself sees it and aborts.
    let mut bench = Bench::new(Begin::Well);
    bench.limits.memory_bytes_max = 32 << 20;
    let (error, cause) = after_in(bench, &format!("eat {}", 4_u64 << 30)).await;
    assert_eq!(cause, EndCause::Signalled(6));
    assert!(
        error
            .to_string()
            .contains("memory allocation of 4294967296 bytes failed"),
        "{error}"
    );
}
