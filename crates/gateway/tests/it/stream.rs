//! `POST /stream/{target}`: a JSON message per line, in both directions.

use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Edge;

const PATH: &str = "/stream/plugin.guest.Stream";

fn lines(body: &str) -> Vec<Value> {
    body.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn each_line_is_a_message_in_order() {
    let edge = Edge::start().await;
    // The last line lacks its end, and empty ones do not count.
    let body: Vec<_> = (0..1000)
        .map(|n| json!({ "text": n.to_string() }).to_string())
        .collect();
    let answer = edge
        .send(Request::post("/stream/test.v1.Guest/Stream"), body.join("\n\n"))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let found = lines(&answer.body);
    assert_eq!(found.len(), 1000);
    for (n, line) in found.iter().enumerate() {
        assert_eq!(*line, json!({ "text": n.to_string() }));
    }
}

#[tokio::test]
async fn an_error_is_the_last_line() {
    let edge = Edge::start().await;
    let body = "{\"text\":\"a\"}\n{\"text\":\"fail\"}\n";
    let answer = edge.send(Request::post(PATH), body).await;
    let found = lines(&answer.body);
    assert_eq!(found[0], json!({ "text": "a" }));
    assert_eq!(found[1]["error"]["code"], json!(-32000));
    assert_eq!(found[1]["error"]["message"], json!("as told"));
    assert_eq!(found[1]["error"]["data"]["status"], json!("ABORTED"));
    assert_eq!(found.len(), 2);
    // So is a line that is no request.
    let answer = edge.send(Request::post(PATH), "{\"txet\":1}\n").await;
    assert_eq!(
        lines(&answer.body)[0]["error"]["code"],
        json!(-32602),
        "{answer:?}"
    );
}

#[tokio::test]
async fn events_for_whoever_asks_for_them() {
    let edge = Edge::start().await;
    let request = Request::post(PATH).header("accept", "text/event-stream");
    let body = "{\"text\":\"a\"}\n{\"text\":\"fail\"}\n";
    let answer = edge.send(request, body).await;
    let (first, last) = answer.body.split_once("\n\n").unwrap();
    assert_eq!(first, "data: {\"text\":\"a\"}");
    assert!(last.starts_with("event: error\ndata: {\"error\":"), "{last}");
}

#[tokio::test]
async fn neither_way_answers_for_the_other() {
    let edge = Edge::start().await;
    let answer = edge.call("plugin.guest.Stream", "{}").await;
    assert_eq!(answer["error"]["code"], json!(-32006), "{answer}");
    let hint = answer["error"]["data"]["hint"].as_str().unwrap();
    assert!(hint.contains("POST /stream/"), "{hint}");
    let answer = edge.send(Request::post("/stream/plugin.guest.Echo"), "{}").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    let answer = edge.send(Request::post("/stream/plugin.nobody.Echo"), "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
