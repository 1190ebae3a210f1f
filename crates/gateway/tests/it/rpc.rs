//! POST /rpc, through to the plugin and back.

use http::{Request, StatusCode};
use mortise_host::{LoadRequest, Source};
use mortise_manifest::{HeaderWanted, RouteEntry};
use serde_json::json;

use crate::fixture::Edge;

#[tokio::test]
async fn both_forms_of_a_target_reach_the_plugin() {
    let edge = Edge::start().await;
    for target in ["plugin.guest.Echo", "test.v1.Guest/Echo"] {
        assert_eq!(
            edge.result(target, r#"{"text":"größer 🌍"}"#).await,
            json!({ "text": "größer 🌍" }),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order_and_without_its_notifications() {
    let edge = Edge::start().await;
    let answer = edge
        .post(
            r#"[
                {"jsonrpc":"2.0","id":"a","method":"plugin.guest.Echo","params":{"text":"1"}},
                {"jsonrpc":"2.0","method":"plugin.guest.Echo","params":{"text":"nobody hears it"}},
                {"jsonrpc":"2.0","id":2,"method":"plugin.guest.Nope"},
                7,
                {"jsonrpc":"2.0","id":null,"method":"test.v1.Guest/Echo"}
            ]"#,
        )
        .await;
    let all = answer.json();
    assert_eq!(all.as_array().unwrap().len(), 4, "{all}");
    assert_eq!(
        all[0],
        json!({ "jsonrpc": "2.0", "id": "a", "result": { "text": "1" } })
    );
    assert_eq!(
        (&all[1]["id"], &all[1]["error"]["code"]),
        (&json!(2), &json!(-32601))
    );
    assert_eq!(
        (&all[2]["id"], &all[2]["error"]["code"]),
        (&json!(null), &json!(-32600))
    );
    assert_eq!(all[3], json!({ "jsonrpc": "2.0", "id": null, "result": {} }));
}

#[tokio::test]
async fn notifications_are_run_and_answered_with_nothing() {
    let edge = Edge::start().await;
    let one = r#"{"jsonrpc":"2.0","method":"plugin.guest.Echo","params":{}}"#;
    for body in [one.to_owned(), format!("[{one},{one}]")] {
        let answer = edge.post(body).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::NO_CONTENT, ""));
    }
    assert_eq!(edge.host.list()[0].calls, 3);
}

#[tokio::test]
async fn a_struct_is_a_plain_object_both_ways() {
    let edge = Edge::start().await;
    let object = r#"{"a":[1.5,null,true,{"b":"c"}],"d":{}}"#;
    let result = edge.result("plugin.guest.Shapeless", object).await;
    assert_eq!(result, serde_json::from_str::<serde_json::Value>(object).unwrap());
}

#[tokio::test]
async fn every_error_carries_kind_plugin_and_hint() {
    let edge = Edge::start().await;
    let mut text = String::new();
    for (method, params) in [
        ("plugin.nobody.Echo", "{}"),
        ("plugin.guest.Nope", "{}"),
        ("test.v1.Nobody/Echo", "{}"),
        ("nonsense", "{}"),
        ("plugin.guest.Echo", r#"{"txet":"x"}"#),
        ("plugin.guest.Echo", "[1]"),
        ("plugin.guest.Fail", r#"{"code":5,"message":"no such picture"}"#),
        ("plugin.guest.Panic", "{}"),
        ("plugin.guest.Lie", "{}"),
    ] {
        let mut error = edge.error(method, params).await;
        let data = error["data"].as_object_mut().unwrap();
        if let Some(trace) = data.remove("trace") {
            assert_eq!(trace.as_str().unwrap().len(), 32);
        }
        assert!(data["kind"].is_string(), "{error}");
        text += &format!(
            "{method} {params}\n{}\n",
            serde_json::to_string_pretty(&error).unwrap()
        );
    }
    insta::assert_snapshot!(text);
}

#[tokio::test]
async fn a_deadline_ends_the_call() {
    let edge = Edge::start().await;
    let request = Request::post("/rpc").header("x-mortise-timeout-ms", "50");
    let answer = edge
        .send(
            request,
            r#"{"jsonrpc":"2.0","id":1,"method":"plugin.guest.Held"}"#,
        )
        .await;
    let error = &answer.json()["error"];
    assert_eq!(error["code"], -32002, "{error}");
    assert_eq!(error["data"]["kind"], "deadline");
    assert_eq!(error["data"]["plugin"], "guest");
}

#[tokio::test]
async fn the_plugin_sees_the_trace_and_the_propagated_headers_only() {
    let edge = Edge::start().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::post("/rpc")
        .header("traceparent", parent)
        .header("x-tenant", "acme")
        .header("authorization", "secret");
    let answer = edge
        .send(
            request,
            r#"{"jsonrpc":"2.0","id":1,"method":"plugin.guest.Seen"}"#,
        )
        .await;
    let seen = &answer.json()["result"];
    let trace = seen["traceparent"].as_str().unwrap();
    assert!(
        trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && trace.ends_with("-01"),
        "{trace}"
    );
    assert_ne!(trace, parent);
    assert_eq!(seen["metadata"], json!({ "x-tenant": "acme" }));
    assert_eq!(seen["hasDeadline"], true);

    let fresh = edge.result("plugin.guest.Seen", "{}").await;
    assert_eq!(
        fresh["traceparent"].as_str().unwrap().len(),
        55,
        "a trace is begun where none came: {fresh}"
    );
}

#[tokio::test]
async fn a_header_that_only_routes_look_at_reaches_them_and_no_plugin() {
    let edge = Edge::start().await;
    let other = LoadRequest {
        name: Some("other".to_owned()),
        ..LoadRequest::new(Source::Builtin("guest".to_owned()))
    };
    edge.host.load(other).await.unwrap();
    let methods = edge.host.inspect("guest").unwrap().methods;
    let service = methods.into_iter().find(|it| it.name == "Seen").unwrap().service;
    let route = RouteEntry {
        name: "r".to_owned(),
        headers: [("x-next".to_owned(), HeaderWanted::Exact("1".to_owned()))].into(),
        to: Some("other".to_owned()),
        ..RouteEntry::default()
    };
    edge.host.set_route("test", route, false).await.unwrap();
    for _ in 0..10 {
        let request = Request::post("/rpc")
            .header("x-next", "1")
            .header("x-tenant", "acme");
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{service}/Seen"}}"#);
        let seen = edge.send(request, body).await.json();
        assert_eq!(
            seen["result"]["metadata"],
            json!({ "x-tenant": "acme" }),
            "{seen}"
        );
    }
    assert_eq!(edge.host.inspect("other").unwrap().counters.calls, 10);
}

#[tokio::test]
async fn many_callers_on_one_connection_each_get_their_own_answer() {
    let edge = Edge::start().await;
    let entries: Vec<_> = (0..200)
        .map(|id| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"plugin.guest.Echo","params":{{"text":"{id}"}}}}"#
            )
        })
        .collect();
    let all = edge.post(format!("[{}]", entries.join(","))).await.json();
    for (id, answer) in all.as_array().unwrap().iter().enumerate() {
        assert_eq!(
            *answer,
            json!({ "jsonrpc": "2.0", "id": id, "result": { "text": id.to_string() } })
        );
    }
}
