//! The stop ladder, and what is gone after it.

use std::{sync::Arc, time::Duration};

use mortise_runtime::{CallErrorKind, Instance, StopReport};

use crate::{
    fake::Begin,
    fixture::{Bench, ask, eventually, freeze, grandchild_of, runs},
};

#[tokio::test]
async fn polite_stop() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let pid = instance.usage().pid.unwrap();
    let report = instance.stop(Duration::from_secs(20)).await;
    assert_eq!(report, StopReport::default());
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "reaped, not a zombie"
    );
    let error = ask(&*instance, "head").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Draining);
    assert_eq!(
        instance.stop(Duration::from_secs(20)).await,
        StopReport::default(),
        "twice is the same as once"
    );
    let ended = tokio::time::timeout(Duration::from_millis(50), instance.ended()).await;
    assert!(ended.is_err(), "what was stopped did not end by itself");
    eventually("the private directory is removed", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn stop_that_is_ignored_is_followed_by_sigterm() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let pid = instance.usage().pid.unwrap();
    ask(&*instance, "ignore-stop").await.unwrap();
    let report = instance.stop(Duration::from_millis(100)).await;
    assert_eq!(
        report.forced.unwrap(),
        "it did not exit within 100ms of being asked and was sent SIGTERM"
    );
    assert!(!runs(pid));
}

#[tokio::test]
async fn process_that_can_not_be_asked_is_killed() {
    let mut bench = Bench::new(Begin::Well);
    bench.limits.term = Duration::from_millis(70);
    let instance = bench.start().await;
    let pid = instance.usage().pid.unwrap();
    // A stopped process gets no frame and no SIGTERM.
    freeze(pid).await;
    let report = instance.stop(Duration::from_millis(100)).await;
    assert_eq!(
        report.forced.as_deref(),
        Some("it did not exit within 100ms of being asked and 70ms after SIGTERM, and was killed")
    );
    assert_eq!(report.left, None);
    assert!(!runs(pid));
}

#[tokio::test]
async fn calls_that_run_end_with_the_stop() {
    let bench = Bench::new(Begin::Well);
    let instance: Arc<dyn Instance> = bench.start().await.into();
    let open = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { ask(&*instance, "sleep 600000").await }
    });
    tokio::task::yield_now().await;
    ask(&*instance, "head").await.unwrap();
    instance.stop(Duration::from_secs(20)).await;
    assert_eq!(open.await.unwrap().unwrap_err().kind(), CallErrorKind::Draining);
}

#[tokio::test]
async fn stop_twice_at_once_is_one_stop() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let (first, second) = tokio::join!(
        instance.stop(Duration::from_secs(20)),
        instance.stop(Duration::from_secs(20))
    );
    assert_eq!((first, second), (StopReport::default(), StopReport::default()));
}

#[tokio::test]
async fn dropping_the_instance_ends_its_process_and_its_children() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let pid = instance.usage().pid.unwrap();
    let grandchild = grandchild_of(&*instance).await;
    assert!(runs(grandchild));
    drop(instance);
    eventually("both are gone", || {
        (!runs(pid) && !runs(grandchild)).then_some(())
    })
    .await;
    eventually("the private directory is removed", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn children_of_a_plugin_that_exits_go_with_it() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let grandchild = grandchild_of(&*instance).await;
    instance.stop(Duration::from_secs(20)).await;
    eventually("the grandchild is gone", || (!runs(grandchild)).then_some(())).await;
}

#[test]
fn end_of_the_executor_ends_the_process() {
    let executor = tokio::runtime::Runtime::new().unwrap();
    let bench = Bench::new(Begin::Well);
    let instance = executor.block_on(bench.start());
    let pid = instance.usage().pid.unwrap();
    drop(executor);
    let begun = std::time::Instant::now();
    while runs(pid) {
        assert!(
            begun.elapsed() < crate::fixture::PATIENCE,
            "the process outlived its executor"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
