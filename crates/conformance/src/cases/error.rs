//! What is refused, and in which words.

use echo::contract::{FailDetail, FailRequest};
use mortise::{CallErrorKind, CallOptions, wire::Code};

use crate::World;

pub(crate) async fn details(world: &World) {
    let request = FailRequest {
        code: Code::AlreadyExists as i32,
        message: "`x` is there already; choose another name".to_owned(),
        details: vec![FailDetail {
            type_url: "type.example/acme.Taken".to_owned(),
            value: vec![1, 2, 3],
        }],
        retryable: true,
    };
    let status = world.client("echo").fail(&request).await.unwrap_err();
    assert_eq!(status.kind(), Code::AlreadyExists);
    assert_eq!(status.message, request.message);
    assert_eq!(status.details.len(), 1);
    assert_eq!(status.details[0].type_url, request.details[0].type_url);
    assert_eq!(status.details[0].value, request.details[0].value);
    assert!(status.retryable);
}

pub(crate) async fn unknown_method(world: &World) {
    for target in [
        "mortise.test.v1.Echo/NoSuchMethod",
        "plugin.echo.NoSuchMethod",
        "plugin.nobody.Echo",
    ] {
        let error = world
            .host
            .call(target, Vec::new().into(), CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::NotFound, "{target}: {error}");
        let name = target.rsplit(['.', '/']).next().unwrap();
        assert!(
            error.to_string().contains(name) || error.to_string().contains("nobody"),
            "{target}: {error}"
        );
    }
}

pub(crate) async fn malformed_payload(world: &World) {
    for garbage in [
        &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x0a\x80",
        b"\x11\x01",
        b"\x08",
    ] {
        let call = world.host.call(
            "plugin.echo.Malformed",
            garbage.to_vec().into(),
            CallOptions::default(),
        );
        let error = call.await.unwrap_err();
        assert_eq!(
            error.status().kind(),
            Code::InvalidArgument,
            "{garbage:?}: {error}"
        );
    }
    world.serves("echo").await;
}

pub(crate) async fn payload_over_limit(world: &World) {
    world
        .load("small", |request| {
            request.limits.payload_bytes_max = Some(1 << 20)
        })
        .await;
    let call = world.host.call(
        "plugin.small.Echo",
        vec![0; (1 << 20) + 1].into(),
        CallOptions::default(),
    );
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Exhausted, "{error}");
    assert!(
        error.to_string().contains("1048577"),
        "the refusal names the size: {error}"
    );
    world.serves("small").await;
}
