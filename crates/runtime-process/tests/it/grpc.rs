//! The lanes over gRPC against a plugin that breaks them: it costs that plugin, and nothing else.

use std::time::Duration;

use mortise_runtime::{CallErrorKind, EndCause, Instance, RuntimeErrorKind};
use mortise_runtime_process::ProcessLane;

use crate::{
    fake::Begin,
    fake_grpc::Grpc,
    fixture::{Bench, DO, PATIENCE, ask, eventually, within},
};

fn bench(how: Grpc, lane: ProcessLane) -> Bench {
    Bench::with(Begin::Grpc(how), |config| config.lane = lane)
}

/// What is said of a plugin that does not become ready. A neighbour is called meanwhile.
async fn refused(how: Grpc) -> String {
    let neighbour = Bench::new(Begin::Well);
    let other = neighbour.start().await;
    for lane in [ProcessLane::CallStream, ProcessLane::Grpc] {
        let mut bench = bench(how, lane);
        bench.limits.start = Duration::from_secs(if how == Grpc::SaysNothing { 1 } else { 20 });
        let Err(error) = bench.try_start().await else {
            panic!("{how:?} became ready over {lane:?}")
        };
        assert_eq!(error.kind(), RuntimeErrorKind::StartFailed, "{error}");
        assert!(!error.hint().is_empty());
        eventually("the private directory is removed", || {
            bench.private_dirs().is_empty().then_some(())
        })
        .await;
        ask(&*other, "head").await.unwrap();
        if lane == ProcessLane::Grpc {
            return error.to_string();
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_plugin_that_breaks_the_carrier_does_not_start_and_it_is_said_how() {
    for (how, said) in [
        (Grpc::SaysNothing, "not ready"),
        (Grpc::HasNoFrames, "Unimplemented"),
        (Grpc::SendsAnEmptyPiece, "a piece of its frames that is empty"),
        (Grpc::SendsAHugePiece, "OutOfRange"),
        (Grpc::SendsNoPiece, "does not parse"),
        (Grpc::SendsGarbage, "a frame of 4294967295 bytes was announced"),
        (Grpc::FailsTheFrames, "DataLoss: the dog ate it"),
        (Grpc::EndsTheFrames, "while Ready was expected"),
        (Grpc::SpeaksHttp1, "closed its lane while Ready was expected"),
        (Grpc::ClosesTheSocket, "closed its lane while Ready was expected"),
    ] {
        let error = refused(how).await;
        assert!(error.contains(said), "{how:?}: {error}");
    }
}

#[tokio::test]
async fn what_is_pinned_and_not_offered_is_a_refusal() {
    for (begin, lane, pinned) in [
        (Begin::Well, ProcessLane::Grpc, "`grpc`"),
        (Begin::Well, ProcessLane::CallStream, "`call-stream`"),
        (Begin::Grpc(Grpc::Well), ProcessLane::Raw, "`raw`"),
    ] {
        let bench = Bench::with(begin, |config| config.lane = lane);
        let Err(error) = bench.try_start().await else {
            panic!("{begin:?} became ready over {lane:?}")
        };
        let error = error.to_string();
        assert!(error.contains(pinned) && error.contains("offers ["), "{error}");
    }
    // What is there is taken where nothing is pinned.
    let instance = bench(Grpc::Well, ProcessLane::Auto).start().await;
    assert_eq!(instance.usage().lane, Some("call-stream"));
}

async fn well() -> (Bench, Box<dyn Instance>) {
    let mut bench = bench(Grpc::Well, ProcessLane::Grpc);
    bench.limits.payload_bytes_max = 1 << 20;
    let instance = bench.start().await;
    assert_eq!(instance.usage().lane, Some("grpc"));
    assert_eq!(ask(&*instance, "id").await.unwrap(), "1");
    (bench, instance)
}

async fn cause(instance: &dyn Instance) -> EndCause {
    let cause = tokio::time::timeout(PATIENCE, instance.ended())
        .await
        .expect("the end is told");
    assert_eq!(instance.usage().pid, None);
    cause
}

#[tokio::test]
async fn a_frame_that_belongs_to_no_call_ends_it() {
    for (word, said) in [
        ("frame too", "is of the wrong kind"),
        ("other frame", "which was never made"),
    ] {
        let (_bench, instance) = well().await;
        let error = ask(&*instance, word).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
        let EndCause::Protocol(how) = cause(&*instance).await else {
            panic!("{word}: {error}")
        };
        assert!(how.contains(said), "{how}");
    }
}

#[tokio::test]
async fn an_exit_during_a_call_is_the_reason_that_its_caller_hears() {
    let (_bench, instance) = well().await;
    let error = ask(&*instance, "exit").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
    assert!(error.to_string().contains("exited with code 7"), "{error}");
    assert_eq!(cause(&*instance).await, EndCause::Exited(7));
}

#[tokio::test]
async fn a_reply_over_the_limit_costs_its_call_only() {
    let (_bench, instance) = well().await;
    let Err(error) = ask(&*instance, "large").await else {
        panic!("a long reply was taken")
    };
    assert_eq!(error.kind(), CallErrorKind::Exhausted, "{error}");
    assert_eq!(ask(&*instance, "id").await.unwrap(), "3");
}

#[tokio::test]
async fn a_call_that_is_given_up_and_never_ends_is_stuck() {
    let (_bench, instance) = well().await;
    let cx = within(1, Duration::from_millis(50));
    let late = instance
        .call()
        .unwrap()
        .call(&cx, DO, "hang".into())
        .await
        .unwrap_err();
    assert_eq!(late.kind(), CallErrorKind::Deadline);
    assert!(matches!(cause(&*instance).await, EndCause::Stuck(_)));
}

#[tokio::test]
async fn it_stops_when_it_is_asked() {
    let (_bench, instance) = well().await;
    let report = instance.stop(PATIENCE).await;
    assert_eq!((report.forced, report.left), (None, None));
}
