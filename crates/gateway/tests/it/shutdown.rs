//! A stop finishes what is in flight, and nothing else.

use std::time::Duration;

use http::Request;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::fixture::Edge;

const HELD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"plugin.guest.Held","params":{"text":"kept"}}"#;

#[tokio::test]
async fn requests_in_flight_are_answered_and_new_ones_refused() {
    let edge = Edge::start().await;
    let idle = TcpStream::connect(edge.address).await.unwrap();
    let in_flight = edge.post(HELD);
    let stop = async {
        edge.knobs.until_held(1).await;
        edge.stop.cancel();
        // The listener goes first.
        while TcpStream::connect(edge.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        edge.knobs.gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(in_flight, stop);
    assert_eq!(answer.json()["result"]["text"], "kept");
    assert_eq!(answer.headers["connection"], "close");
    edge.serving.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn what_does_not_end_within_the_drain_time_is_cut() {
    let edge = Edge::with(|options| options.drain = Duration::from_millis(100)).await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("/rpc")
        .header("host", "x")
        .header("x-mortise-timeout-ms", "600000");
    let in_flight = tokio::spawn(sender.send_request(request.body(HELD.to_owned()).unwrap()));
    edge.knobs.until_held(1).await;
    edge.stop.cancel();
    edge.serving.await.unwrap();
    in_flight.await.unwrap().expect_err("the connection was cut");
    let _ = connection.await;
}

#[tokio::test]
async fn an_open_stream_is_told_in_its_last_line() {
    let edge = Edge::with(|options| options.drain = Duration::from_secs(3)).await;
    let mut stream = BufReader::new(TcpStream::connect(edge.address).await.unwrap());
    let line = "{\"text\":\"a\"}\n";
    let request = format!(
        "POST /stream/plugin.guest.Stream HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{line}\r\n",
        line.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.contains(line) {
        assert!(stream.read_line(&mut answer).await.unwrap() > 0, "{answer}");
    }
    edge.stop.cancel();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("the host is stopping"), "{rest}");
    assert!(rest.contains(r#""kind":"draining""#), "{rest}");
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "the body is whole: {rest}");
    edge.serving.await.unwrap();
}
