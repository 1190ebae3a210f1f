//! What is refused before JSON-RPC begins, health, and clients that are slow on purpose.

use std::time::Duration;

use http::{Request, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::fixture::Edge;

const ECHO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"plugin.guest.Echo","params":{"text":"x"}}"#;

#[tokio::test]
async fn wrong_methods_and_paths() {
    let edge = Edge::start().await;
    assert_eq!(edge.get("/rpc").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        edge.send(Request::post("/healthz"), "").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(edge.get("/nothing").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn web_pages_are_refused() {
    let edge = Edge::start().await;
    let answer = edge
        .send(
            Request::post("/rpc").header("origin", "http://evil.example"),
            ECHO,
        )
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.body.contains("http://evil.example"), "{answer:?}");
    assert_eq!(edge.host.list()[0].calls, 0);
}

#[tokio::test]
async fn a_timeout_that_is_no_number_is_refused() {
    let edge = Edge::start().await;
    for value in ["soon", "0", "-1", ""] {
        let answer = edge
            .send(Request::post("/rpc").header("x-mortise-timeout-ms", value), ECHO)
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!(-32600)),
            "{value}"
        );
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_whether_they_announce_it_or_not() {
    let edge = Edge::with(|options| options.body_bytes_max = 1000).await;
    let announced = edge.post(format!("{ECHO}{}", " ".repeat(1000))).await;
    assert_eq!(announced.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(announced.headers["connection"], "close");

    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream
        .write_all(b"POST /rpc HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = format!("400\r\n{}\r\n", " ".repeat(0x400));
    stream.write_all(chunk.as_bytes()).await.unwrap();
    assert!(answer_of(stream).await.starts_with("HTTP/1.1 413 "));

    assert_eq!(
        edge.post(format!("{ECHO}{}", " ".repeat(500))).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_sick_plugin_never_makes_the_host_unhealthy() {
    let edge = Edge::start().await;
    let healthy = edge.get("/health/plugin/guest").await;
    assert_eq!(healthy.status, StatusCode::OK);
    assert_eq!(
        healthy.json(),
        json!({ "plugin": "guest", "serving": true, "detail": "" })
    );

    edge.knobs.healthy.send_replace(false);
    let sick = edge.get("/health/plugin/guest").await;
    assert_eq!(sick.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sick.json()["detail"], "it has a cold");
    assert_eq!(
        edge.get("/health/plugin/nobody").await.status,
        StatusCode::NOT_FOUND
    );

    for path in ["/healthz", "/readyz"] {
        assert_eq!(edge.get(path).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_used_again() {
    let edge = Edge::start().await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    for _ in 0..3 {
        let request = format!(
            "POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{ECHO}",
            ECHO.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with(r#"{"text":"x"}}"#) {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.unwrap();
            assert!(read > 0, "closed after: {seen}");
            seen += std::str::from_utf8(&part[..read]).unwrap();
        }
    }
}

#[tokio::test]
async fn a_head_that_drips_is_cut() {
    let edge = Edge::with(|options| options.head_read = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream
        .write_all(b"POST /rpc HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    // Ends only because the server closes.
    answer_of(stream).await;
}

#[tokio::test]
async fn each_head_of_a_kept_connection_has_its_own_time() {
    let edge = Edge::with(|options| options.head_read = Duration::from_millis(500)).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let request = format!(
        "POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{ECHO}",
        ECHO.len()
    );
    // A busy connection outlives the time of any one head.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1200) {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with(r#"{"text":"x"}}"#) {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.unwrap();
            assert!(read > 0, "closed after: {seen}");
            seen += std::str::from_utf8(&part[..read]).unwrap();
        }
    }
    // And its last head is cut like a first one.
    stream
        .write_all(b"POST /rpc HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    answer_of(stream).await;
}

#[tokio::test]
async fn a_body_that_drips_is_refused() {
    let edge = Edge::with(|options| options.body_read = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream
        .write_all(b"POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    assert!(answer_of(stream).await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut() {
    let edge = Edge::with(|options| options.write_stall = Duration::from_millis(100)).await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"plugin.guest.Large","params":{"bytes":"50000000"}}"#;
    let request = format!(
        "POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = stream;
    stream.write_all(request.as_bytes()).await.unwrap();
    while edge.host.list()[0].calls == 0 {
        tokio::task::yield_now().await;
    }
    // The stop waits for every connection, and this one never reads: only the cut lets it end.
    edge.stop.cancel();
    edge.serving.await.unwrap();
    drop(stream);
}

#[tokio::test]
async fn the_number_of_connections_is_bounded() {
    let edge = Edge::with(|options| options.connections_max = 1).await;
    let first = TcpStream::connect(edge.address).await.unwrap();
    let mut second = TcpStream::connect(edge.address).await.unwrap();
    let request = format!(
        "POST /rpc HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ECHO}",
        ECHO.len()
    );
    second.write_all(request.as_bytes()).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await;
    assert!(waits.is_err(), "the second is not served while the first is open");
    drop(first);
    assert!(answer_of(second).await.contains(r#""result":{"text":"x"}"#));
}

/// Everything until the server closes.
async fn answer_of(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    // A reset after the answer is the server's right: part of the request was not read.
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8(all).unwrap()
}
