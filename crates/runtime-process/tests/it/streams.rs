//! Calls that stream, against a plugin that speaks the lane by hand.

use std::{future::Future as _, pin::pin, task::Context, time::Duration};

use bytes::Bytes;
use mortise_runtime::{CallErrorKind, EndCause, Instance, SendError, StreamHandle};

use crate::{
    fake::Begin,
    fixture::{Bench, DO, ECHO, STREAM, ask, context, terms, within},
};

async fn open(instance: &dyn Instance, word: &str) -> StreamHandle {
    let cx = context(1);
    let mut call = instance.stream().unwrap().open(&cx, STREAM).await.unwrap();
    call.requests.send(Bytes::from(word.to_owned())).await.unwrap();
    call
}

async fn kind_of_end(call: &mut StreamHandle) -> CallErrorKind {
    loop {
        match call.replies.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well"),
            Err(error) => return error.kind(),
        }
    }
}

#[tokio::test]
async fn messages_cross_in_both_directions() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut call = open(&*instance, "echo").await;
    for message in ["one", "", "three"] {
        call.requests.send(message.into()).await.unwrap();
        assert_eq!(call.replies.next().await.unwrap().unwrap(), message);
    }
    call.requests.finish().await.unwrap();
    assert!(matches!(
        call.requests.send("late".into()).await,
        Err(SendError::Over)
    ));
    assert_eq!(call.replies.next().await.unwrap(), None);
    assert_eq!(call.replies.next().await.unwrap(), None, "the end is the end");
}

#[tokio::test]
async fn an_error_comes_after_the_replies_before_it() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut call = open(&*instance, "fail").await;
    assert_eq!(call.replies.next().await.unwrap().unwrap(), "before");
    for _ in 0..2 {
        let error = call.replies.next().await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Returned, "{error}");
    }
    assert!(matches!(call.requests.finish().await, Err(SendError::Over)));
}

#[tokio::test]
async fn five_thousand_messages_come_in_order_and_wait_for_their_reader() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut call = open(&*instance, "count 5000").await;
    for expected in 0..5000 {
        let message = call.replies.next().await.unwrap().unwrap();
        assert_eq!(message, format!("{expected:01000}"));
    }
    assert_eq!(call.replies.next().await.unwrap(), None);
}

#[tokio::test]
async fn what_is_sent_without_credit_ends_the_plugin() {
    let bench = Bench::new(Begin::Well);
    let messages = bench.limits.stream_messages_max;
    for (word, said) in [
        (format!("flood {}", messages + 1), "units of credit left"),
        ("grant".to_owned(), "back to a stream"),
        ("reply".to_owned(), "of the wrong kind"),
    ] {
        let instance = bench.start().await;
        let mut call = open(&*instance, &word).await;
        match instance.ended().await {
            EndCause::Protocol(how) => assert!(how.contains(said), "{how}"),
            other => panic!("{word}: {other}"),
        }
        assert_eq!(kind_of_end(&mut call).await, CallErrorKind::GuestFault);
    }
}

#[tokio::test]
async fn a_plugin_that_does_not_read_holds_its_caller_up() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut call = open(&*instance, "hold").await;
    let mut sent = 1;
    loop {
        let mut sending = pin!(call.requests.send(Bytes::from_static(&[0; 1000])));
        let mut waker = Context::from_waker(std::task::Waker::noop());
        if sending.as_mut().poll(&mut waker).is_pending() {
            break;
        }
        sent += 1;
    }
    assert_eq!(sent, bench.limits.stream_messages_max);
    assert!(terms().window() as usize > 1000 * sent as usize);
    // Nothing else is held up by it.
    assert_eq!(ask(&*instance, "cancelled").await.unwrap(), "0");
}

#[tokio::test]
async fn whoever_goes_away_cancels_the_call_and_frees_its_place() {
    let bench = Bench::new(Begin::WorksOnOneCallAtOnce);
    let instance = bench.start().await;
    drop(open(&*instance, "hold").await);
    assert_eq!(ask(&*instance, "cancelled").await.unwrap(), "1");

    let StreamHandle { requests, replies } = open(&*instance, "hold").await;
    drop(replies);
    assert_eq!(ask(&*instance, "cancelled").await.unwrap(), "2");
    drop(requests);

    let StreamHandle {
        requests,
        mut replies,
    } = open(&*instance, "hold").await;
    drop(requests);
    let error = replies.next().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Cancelled, "{error}");
    assert_eq!(ask(&*instance, "cancelled").await.unwrap(), "3");
}

#[tokio::test]
async fn the_deadline_holds_whether_anybody_waits_or_not() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let cx = within(1, Duration::from_millis(50));
    let mut call = instance.stream().unwrap().open(&cx, STREAM).await.unwrap();
    call.requests.send("hold".into()).await.unwrap();
    // Nobody asks for replies, and the plugin is told all the same.
    let told = async {
        while ask(&*instance, "cancelled").await.unwrap() == "0" {
            tokio::task::yield_now().await;
        }
    };
    told.await;
    assert_eq!(kind_of_end(&mut call).await, CallErrorKind::Deadline);
    assert!(matches!(
        call.requests.send("x".into()).await,
        Err(SendError::Over)
    ));
}

#[tokio::test]
async fn a_crash_ends_every_stream_with_what_happened() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut held = open(&*instance, "hold").await;
    let mut call = open(&*instance, "exit").await;
    assert_eq!(kind_of_end(&mut call).await, CallErrorKind::GuestFault);
    assert_eq!(kind_of_end(&mut held).await, CallErrorKind::GuestFault);
    let cx = context(2);
    let refused = instance.stream().unwrap().open(&cx, STREAM).await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::GuestFault);
}

#[tokio::test]
async fn a_method_is_asked_in_the_way_that_it_works() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let cx = context(1);
    let unary = instance.call().unwrap().call(&cx, STREAM, Bytes::new()).await;
    assert_eq!(unary.unwrap_err().kind(), CallErrorKind::Incompatible);
    for method in [DO, ECHO] {
        let stream = instance.stream().unwrap().open(&cx, method).await;
        assert_eq!(stream.unwrap_err().kind(), CallErrorKind::Incompatible);
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_call_goes_on() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let mut call = open(&*instance, "echo").await;
    let long = Bytes::from(vec![0; bench.limits.payload_bytes_max + 1]);
    assert!(matches!(
        call.requests.send(long).await,
        Err(SendError::Refused(_))
    ));
    // Longer than the window: alone on its way, but sent.
    let large = Bytes::from(vec![7; 3 * bench.limits.stream_bytes_max]);
    call.requests.send(large.clone()).await.unwrap();
    assert_eq!(call.replies.next().await.unwrap().unwrap(), large);
    call.requests.finish().await.unwrap();
    assert_eq!(call.replies.next().await.unwrap(), None);
}
