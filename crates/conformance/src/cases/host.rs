//! What a guest gets from its host.

use std::time::SystemTime;

use echo::contract::{
    CallPluginReply, CallPluginRequest, EchoReply, EchoRequest, HostInfoReply, HostInfoRequest,
    KvRoundTripRequest, LogRequest,
};
use mortise::{CallErrorKind, CallOptions, Header, wire::Code};
use prost::Message as _;

use crate::{World, log};

pub(crate) async fn key_value(world: &World) {
    world.load("other", |_| {}).await;
    let request = |value: &[u8], keep| KvRoundTripRequest {
        key: "a/b".to_owned(),
        value: value.to_vec(),
        keep,
    };
    let reply = world
        .client("echo")
        .kv_round_trip(&request(b"one", true))
        .await
        .unwrap();
    assert_eq!((reply.before, reply.value), (None, b"one".to_vec()));
    let reply = world
        .client("echo")
        .kv_round_trip(&request(b"two", false))
        .await
        .unwrap();
    assert_eq!(
        (reply.before.as_deref(), reply.value),
        (Some(&b"one"[..]), b"two".to_vec())
    );
    assert_eq!((reply.keys, reply.existed), (vec!["a/b".to_owned()], true));
    // The same key of another plugin is another key.
    let reply = world
        .client("other")
        .kv_round_trip(&request(b"x", false))
        .await
        .unwrap();
    assert_eq!(reply.before, None);
}

pub(crate) async fn permission_not_granted(world: &World) {
    let mut request = world.request("poor");
    request.grant.permissions.kv = false;
    let error = world
        .host
        .load(request)
        .await
        .expect_err("it declares `kv`, and nobody grants it");
    let reasons = format!("{error} {error:?}");
    assert!(
        reasons.contains("kv"),
        "the refusal names the permission: {reasons}"
    );
    world.serves("echo").await;
}

pub(crate) async fn permission_not_declared(world: &World) {
    // 1.1.0 does not ask for `kv`, so that even a grant gives it nothing.
    world
        .load("quiet", |request| {
            request.source = world.source("echo-1.1");
            request.grant.permissions.kv = false;
        })
        .await;
    let status = world
        .client("quiet")
        .kv_round_trip(&KvRoundTripRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.kind(), Code::PermissionDenied, "{status}");
    assert!(
        status.message.contains("kv"),
        "the denial names the permission: {status}"
    );
}

pub(crate) async fn clock_and_config(world: &World) {
    world
        .load("configured", |request| {
            request.config_json = Some(r#"{"colour":"blue"}"#.to_owned())
        })
        .await;
    let info = world
        .client("configured")
        .host_info(&HostInfoRequest {})
        .await
        .unwrap();
    assert_eq!(info.config_json.replace(' ', ""), r#"{"colour":"blue"}"#);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(
        now.as_nanos().abs_diff(info.unix_ns.into()) < 60_000_000_000,
        "the guest's clock is off by a minute"
    );
}

pub(crate) async fn context(world: &World) {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let options = CallOptions {
        traceparent: Some(traceparent.to_owned()),
        headers: vec![Header {
            name: "x-canary-version".to_owned(),
            value: "1.3.0".to_owned(),
        }],
        ..CallOptions::default()
    };
    let payload = HostInfoRequest {}.encode_to_vec();
    let reply = world
        .host
        .call("plugin.echo.HostInfo", payload.into(), options)
        .await
        .unwrap();
    let info = HostInfoReply::decode(reply).unwrap();
    assert!(
        info.traceparent.contains("0af7651916cd43dd8448eb211c80319c"),
        "{}",
        info.traceparent
    );
    assert_eq!((info.depth, info.caller.as_str()), (0, ""));
    let metadata: Vec<_> = info
        .metadata
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(metadata, [("x-canary-version", "1.3.0")]);
    assert!(
        info.instance.contains("echo") && info.instance.contains("1.0.0"),
        "{}",
        info.instance
    );
    assert_eq!(info.version, "1.0.0");
}

pub(crate) async fn headers_travel(world: &World) {
    let header = |name: &str, value: &str| Header {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let headers = vec![
        header("x-canary-version", "1.3.0"),
        header("x-payment-channel", "card"),
        header("baggage", "k=v"),
        header("cookie", "secret"),
    ];
    let options = || CallOptions {
        headers: headers.clone(),
        ..CallOptions::default()
    };
    // Its own call, which routing sends to another instance of the same plugin or to itself.
    let request = CallPluginRequest {
        target: "mortise.test.v1.Echo/HostInfo".to_owned(),
        payload: HostInfoRequest {}.encode_to_vec(),
    };
    let payload = request.encode_to_vec();
    let reply = world
        .host
        .call("plugin.echo.CallPlugin", payload.into(), options())
        .await
        .unwrap();
    let reply = CallPluginReply::decode(reply).unwrap();
    let info = HostInfoReply::decode(reply.payload.as_slice()).unwrap();
    assert_eq!(info.depth, 1);
    let mut metadata: Vec<_> = info.metadata.into_iter().collect();
    metadata.sort();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        metadata,
        [
            pair("baggage", "k=v"),
            pair("x-canary-version", "1.3.0"),
            pair("x-payment-channel", "card")
        ]
    );
    // Its log lines.
    let message = format!("headers of {} on {}", std::process::id(), world.runtime);
    let request = LogRequest {
        lines: 1,
        message: message.clone(),
        level: 4,
    };
    let payload = request.encode_to_vec();
    world
        .host
        .call("plugin.echo.Log", payload.into(), options())
        .await
        .unwrap();
    let of_call = || log::lines(|line| line.get("message").is_some_and(|it| it.contains(&message)));
    world
        .until("the line is in the host's log", async || !of_call().is_empty())
        .await;
    let line = of_call().remove(0);
    assert_eq!(
        line.get("headers").map(String::as_str),
        Some("x-canary-version=1.3.0 x-payment-channel=card baggage=k=v"),
        "{line:?}"
    );
}

pub(crate) async fn calls_another_plugin(world: &World) {
    let inner = HostInfoRequest {}.encode_to_vec();
    let request = CallPluginRequest {
        target: "mortise.test.v1.Echo/HostInfo".to_owned(),
        payload: inner,
    };
    let reply = world.client("echo").call_plugin(&request).await.unwrap();
    let info = HostInfoReply::decode(reply.payload.as_slice()).unwrap();
    assert_eq!((info.depth, info.caller.as_str()), (1, "echo"));
    // What the callee says comes through unchanged.
    let inner = EchoRequest {
        text: "through two plugins".to_owned(),
        ..Default::default()
    }
    .encode_to_vec();
    let request = CallPluginRequest {
        target: "mortise.test.v1.Echo/Echo".to_owned(),
        payload: inner,
    };
    let reply = world.client("echo").call_plugin(&request).await.unwrap();
    assert_eq!(
        EchoReply::decode(reply.payload.as_slice()).unwrap().text,
        "through two plugins"
    );
    // What it has not declared that it needs, it does not get.
    let request = CallPluginRequest {
        target: "acme.other.v1.Service/Method".to_owned(),
        payload: Vec::new(),
    };
    let status = world.client("echo").call_plugin(&request).await.unwrap_err();
    assert!(
        matches!(status.kind(), Code::PermissionDenied | Code::Unimplemented),
        "{status}"
    );
}

pub(crate) async fn depth_limit(world: &World) {
    // A chain of 40 calls, each of which asks the plugin to call itself once more.
    let mut payload = EchoRequest::default().encode_to_vec();
    let mut target = "mortise.test.v1.Echo/Echo".to_owned();
    for _ in 0..40 {
        payload = CallPluginRequest { target, payload }.encode_to_vec();
        target = "mortise.test.v1.Echo/CallPlugin".to_owned();
    }
    world
        .load("echo", |request| request.limits.concurrency = Some(64))
        .await;
    let error = world
        .host
        .call("plugin.echo.CallPlugin", payload.into(), CallOptions::default())
        .await
        .unwrap_err();
    assert_ne!(error.kind(), CallErrorKind::Deadline, "{error}");
    assert!(
        error.to_string().contains("32"),
        "the refusal names the limit: {error}"
    );
    world.serves("echo").await;
    // A chain within the limit is served.
    let mut payload = EchoRequest {
        text: "deep".to_owned(),
        ..Default::default()
    }
    .encode_to_vec();
    let mut target = "mortise.test.v1.Echo/Echo".to_owned();
    for _ in 0..8 {
        payload = CallPluginRequest { target, payload }.encode_to_vec();
        target = "mortise.test.v1.Echo/CallPlugin".to_owned();
    }
    let reply = world
        .host
        .call("plugin.echo.CallPlugin", payload.into(), CallOptions::default())
        .await
        .unwrap();
    let mut reply = CallPluginReply::decode(reply).unwrap().payload;
    for _ in 0..7 {
        reply = CallPluginReply::decode(reply.as_slice()).unwrap().payload;
    }
    assert_eq!(EchoReply::decode(reply.as_slice()).unwrap().text, "deep");
}
