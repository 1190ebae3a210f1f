//! Streaming methods. A runtime that cannot stream says so in its `Support`, and is listed in the suite.

use std::time::{Duration, Instant};

use echo::contract::{Number, NumbersRequest, StreamsClient, SumReply};
use mortise::{CallErrorKind, CallOptions, PluginCaller, StreamHandle};
use mortise_sdk::{Code, client::NotSent, prost::Message};

use crate::World;

const MANY: u64 = 5000;
/// More than any test takes.
const LONG: Duration = Duration::from_secs(60);

async fn open(world: &World, method: &str, time: Duration) -> StreamHandle {
    let options = CallOptions {
        deadline: Some(Instant::now() + time),
        ..CallOptions::default()
    };
    world
        .host
        .open_stream(&format!("plugin.echo.{method}"), options)
        .await
        .unwrap_or_else(|error| panic!("a stream of {method} opens: {error}"))
}

async fn numbers(world: &World, time: Duration, request: NumbersRequest) -> StreamHandle {
    let mut stream = open(world, "Numbers", time).await;
    stream
        .requests
        .send(request.encode_to_vec().into())
        .await
        .expect("it takes one request");
    // A method that is quick may be over already.
    let _ = stream.requests.finish().await;
    stream
}

fn number(value: u64) -> bytes::Bytes {
    typed(value).encode_to_vec().into()
}

/// The value of the next reply, or how it ended.
async fn next(stream: &mut StreamHandle) -> Result<Option<u64>, mortise::CallError> {
    let reply = stream.replies.next().await?;
    Ok(reply.map(|it| Number::decode(it).expect("a number").value))
}

/// What a service that embeds the host writes.
fn client(world: &World) -> StreamsClient<PluginCaller> {
    let options = CallOptions {
        deadline: Some(Instant::now() + LONG),
        ..CallOptions::default()
    };
    StreamsClient::new(world.host.plugin("echo").with_options(options))
}

fn typed(value: u64) -> Number {
    Number {
        value,
        ..Number::default()
    }
}

pub(crate) async fn stream_server(world: &World) {
    let request = NumbersRequest {
        count: MANY as u32,
        ..NumbersRequest::default()
    };
    let mut replies = client(world).numbers(&request).await.expect("it opens");
    for value in 0..MANY {
        let reply = replies.next().await.expect("a reply").expect("not the end");
        assert_eq!(reply.value, value);
    }
    for _ in 0..2 {
        assert!(replies.next().await.expect("the end stays").is_none());
    }
}

pub(crate) async fn stream_client(world: &World) {
    let mut upload = client(world).sum().await.expect("it opens");
    for value in 0..MANY {
        let value = if value == 13 { 0 } else { value };
        upload.send(&typed(value)).await.expect("it is taken");
    }
    let SumReply { sum, count } = upload.finish().await.expect("a reply");
    assert_eq!((sum, count), (MANY * (MANY - 1) / 2 - 13, MANY));
    // One that the method ends early tells so, and the reply is there all the same.
    let mut upload = client(world).sum().await.expect("it opens");
    let refused = loop {
        if let Err(refused) = upload.send(&typed(13)).await {
            break refused;
        }
    };
    assert!(matches!(refused, NotSent::Over), "{refused}");
    assert_eq!(upload.finish().await.expect("a reply").sum, 0);
}

pub(crate) async fn stream_both_ways(world: &World) {
    let (mut requests, mut replies) = client(world).relay().await.expect("it opens");
    let sending = async move {
        for value in 0..MANY {
            requests.send(&typed(value)).await.expect("it is taken");
        }
        requests.finish().await.expect("it is open");
    };
    let receiving = async move {
        for value in 0..MANY {
            assert_eq!(replies.next().await.expect("a reply"), Some(typed(value)));
        }
        assert!(replies.next().await.expect("the end").is_none());
    };
    tokio::join!(sending, receiving);
    let counters = world.host.inspect("echo").expect("it is loaded").counters;
    assert_eq!(counters.stream_messages, 2 * MANY);
    let bytes: u64 = (0..MANY).map(|it| typed(it).encoded_len() as u64).sum();
    assert_eq!(counters.stream_bytes, 2 * bytes);
}

/// 512 MiB in all, of which the reader takes a little: if they were kept, the case would not end in this memory.
pub(crate) async fn stream_slow_reader(world: &World) {
    let request = NumbersRequest {
        count: 8192,
        filler_bytes: 64 << 10,
        ..NumbersRequest::default()
    };
    let before = resident_bytes();
    let mut stream = numbers(world, LONG, request).await;
    for value in 0..16 {
        assert_eq!(next(&mut stream).await.expect("a reply"), Some(value));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 128 << 20,
        "{grown} bytes are held for a reader that is slow"
    );
    drop(stream);
    world.serves("echo").await;
}

pub(crate) async fn stream_early_end(world: &World) {
    let mut stream = open(world, "Sum", LONG).await;
    for value in [1, 2, 13] {
        stream.requests.send(number(value)).await.expect("it is taken");
    }
    world
        .until("the sender hears that no more is wanted", async || {
            stream.requests.send(number(1)).await.is_err()
        })
        .await;
    let reply = stream.replies.next().await.expect("a reply").expect("one");
    assert_eq!(SumReply::decode(reply).expect("a sum").sum, 3);
    // Until its end is heard, or the handle dropped, a stream holds its place.
    assert!(stream.replies.next().await.expect("the end").is_none());
    // A caller that goes, in each half.
    let mut stream = open(world, "Relay", LONG).await;
    stream.requests.send(number(1)).await.expect("it is taken");
    drop(stream.requests);
    let error = loop {
        match stream.replies.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("half a stream looks whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.status().kind(), Code::Cancelled);
    drop(open(world, "Relay", LONG).await);
    world
        .until("their places are free again", async || {
            world.host.list().iter().all(|plugin| plugin.in_flight == 0)
        })
        .await;
}

pub(crate) async fn stream_error_in_the_middle(world: &World) {
    let request = NumbersRequest {
        count: 10,
        fail: Code::Aborted as i32,
        ..NumbersRequest::default()
    };
    let mut stream = numbers(world, LONG, request).await;
    for value in 0..10 {
        assert_eq!(next(&mut stream).await.expect("a reply"), Some(value));
    }
    for _ in 0..2 {
        let error = next(&mut stream).await.expect_err("it fails");
        assert_eq!(
            (error.status().kind(), error.to_string().as_str()),
            (Code::Aborted, "after 10 numbers")
        );
    }
}

pub(crate) async fn stream_deadline(world: &World) {
    let request = NumbersRequest {
        count: 3,
        stay: true,
        ..NumbersRequest::default()
    };
    let mut stream = numbers(world, Duration::from_millis(300), request).await;
    let error = loop {
        match next(&mut stream).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was to stay"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), CallErrorKind::Deadline, "{error}");
    world.serves("echo").await;
}

pub(crate) async fn stream_crash(world: &World) {
    let mut other = open(world, "Relay", LONG).await;
    let request = NumbersRequest {
        count: 3,
        panic: true,
        ..NumbersRequest::default()
    };
    let mut stream = numbers(world, LONG, request).await;
    for stream in [&mut stream, &mut other] {
        let error = loop {
            match next(stream).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a crash looks like an end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
    }
    world.serves("echo").await;
}

pub(crate) async fn stream_swap(world: &World) {
    let change = |request: &mut mortise::LoadRequest| request.limits.stop = Some(Duration::from_millis(300));
    world.load("echo", change).await;
    let mut stream = open(world, "Relay", LONG).await;
    world.load("echo", change).await;
    // It goes on for a while.
    stream.requests.send(number(1)).await.expect("it is open");
    assert_eq!(next(&mut stream).await.expect("a reply"), Some(1));
    let error = next(&mut stream).await.expect_err("the old one is drained");
    assert_eq!(error.kind(), CallErrorKind::Draining, "{error}");
    assert!(error.status().retryable);
    let mut stream = open(world, "Relay", LONG).await;
    stream.requests.send(number(2)).await.expect("it is open");
    assert_eq!(next(&mut stream).await.expect("a reply"), Some(2));
}

pub(crate) async fn kinds_are_not_mixed(world: &World) {
    let unary = world
        .host
        .call("plugin.echo.Relay", bytes::Bytes::new(), CallOptions::default());
    let error = unary.await.expect_err("it streams");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            CallErrorKind::Incompatible,
            "`mortise.test.v1.Streams/Relay` is a bidirectional method, and it was called as a unary one"
        )
    );
    let stream = world.host.open_stream("plugin.echo.Echo", CallOptions::default());
    let error = stream.await.expect_err("it does not stream");
    assert_eq!(error.kind(), CallErrorKind::Incompatible, "{error}");
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the system tells");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse().ok())
        .expect("a number of pages");
    pages * 4096
}

/// Not known: the bound is tested elsewhere.
#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> u64 {
    0
}
