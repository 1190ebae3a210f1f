//! Log lines.

use echo::contract::{LogReply, LogRequest};
use mortise::CallOptions;
use prost::Message as _;

use crate::{World, log};

pub(crate) async fn trace_id(world: &World) {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let options = CallOptions {
        traceparent: Some(format!("00-{trace}-00f067aa0ba902b7-01")),
        ..CallOptions::default()
    };
    let message = format!("a line of {} on {}", std::process::id(), world.runtime);
    let payload = LogRequest {
        lines: 3,
        message: message.clone(),
        level: 4,
    }
    .encode_to_vec();
    let reply = world
        .host
        .call("plugin.echo.Log", payload.into(), options)
        .await
        .unwrap();
    LogReply::decode(reply).unwrap();
    let of_call = || log::lines(|line| line.get("message").is_some_and(|it| it.contains(&message)));
    world
        .until("all three lines are in the host's log", async || {
            of_call().len() >= 3
        })
        .await;
    let lines = of_call();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        let text = format!("{line:?}");
        assert!(text.contains(trace), "the trace of the call: {text}");
        assert!(
            text.contains("echo") && text.contains("1.0.0"),
            "plugin and version: {text}"
        );
    }
}

pub(crate) async fn flood(world: &World) {
    world
        .load("flood", |request| request.limits.log_lines_per_second = Some(50))
        .await;
    let message = format!("flood of {} on {}", std::process::id(), world.runtime);
    let request = LogRequest {
        lines: 20_000,
        message: message.clone(),
        level: 3,
    };
    world.client("flood").log(&request).await.unwrap();
    world.serves("echo").await;
    world
        .until("the dropped lines are counted", async || {
            world.host.inspect("flood").unwrap().counters.log_lines_dropped > 10_000
        })
        .await;
    let kept = log::lines(|line| line.get("message").is_some_and(|it| it.contains(&message))).len();
    assert!((1..5_000).contains(&kept), "{kept} lines were kept of 20000");
}
