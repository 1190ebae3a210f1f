//! The call path: targets, deadlines, admission, cancellation, sizes, depth, requirements, the bound path.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_host::CallOptions;
use mortise_manifest::LimitsOverride;
use mortise_runtime::CallErrorKind;
use mortise_wire::{Code, Header, client::Caller as _};

use crate::closures::{World, call, request, until};

#[tokio::test]
async fn every_spelling_of_a_target_reaches_the_method() {
    let world = World::new();
    let host = world.host().await;
    world.load(&host, "echo", "1.2.0").await;
    for target in ["test.v1.Echo/Call", "plugin.echo.Call", "plugin.echo@1.2.0.Call"] {
        assert_eq!(call(&host, target, "hi").await.unwrap(), "hi", "{target}");
    }
    assert_eq!(
        host.plugin("echo")
            .call("test.v1.Echo/Call", b"typed".to_vec())
            .await
            .unwrap(),
        b"typed"
    );
    let wrong = [
        (
            "test.v1.Echo/Nope",
            CallErrorKind::NotFound,
            "has no method `Nope`",
        ),
        ("test.v9.Echo/Call", CallErrorKind::NotFound, "`test.v9.Echo`"),
        ("plugin.nope.Call", CallErrorKind::NotFound, "no plugin `nope`"),
        (
            "plugin.echo@9.0.0.Call",
            CallErrorKind::NotFound,
            "only in `1.2.0`",
        ),
        ("nonsense", CallErrorKind::Malformed, "`nonsense`"),
    ];
    for (target, kind, part) in wrong {
        let error = call(&host, target, "").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{target}: {error}");
        assert!(error.to_string().contains(part), "{target}: {error}");
        assert!(error.hint().is_some(), "{target} has a hint");
    }
}

#[tokio::test]
async fn the_plugin_sees_the_deadline_the_trace_and_the_propagated_headers() {
    let world = World::new();
    let config =
        mortise_manifest::HostConfig::parse("[routing]\npropagate = [\"baggage\"]\n", "mortise.toml")
            .unwrap();
    let host = world.builder().config(config).start().await.unwrap();
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    let header = |name: &str| Header {
        name: name.to_owned(),
        value: "v".to_owned(),
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let options = CallOptions {
        deadline: Some(deadline),
        headers: vec![header("baggage"), header("cookie")],
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        contract: None,
    };
    host.call("plugin.echo.Call", Bytes::new(), options.clone())
        .await
        .unwrap();
    host.call("plugin.echo.Call", Bytes::new(), CallOptions::default())
        .await
        .unwrap();
    let contexts = program.contexts.lock().unwrap();
    let [first, second] = contexts.as_slice() else {
        panic!("two calls")
    };
    assert_eq!(first.deadline, Some(deadline));
    assert_eq!(*first.metadata, [header("baggage")]);
    assert_eq!(Some(&*first.traceparent), options.traceparent.as_deref());
    assert_eq!((first.depth, &*first.caller), (0, ""));
    assert!(second.deadline.is_some(), "the plugin's own default");
    assert_ne!(first.call_id, second.call_id);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_is_gone_from_the_guest() {
    let world = World::new();
    let host = world.host().await;
    let (_, program) = world.load(&host, "echo", "1.0.0").await;
    let options = CallOptions {
        deadline: Some(Instant::now() + Duration::from_millis(200)),
        ..CallOptions::default()
    };
    let error = host
        .call("plugin.echo.Nap", Bytes::from_static(b"600000"), options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(program.napping.load(Ordering::SeqCst), 0);
    assert_eq!(host.inspect("echo").unwrap().counters.faults, 1);
}

#[tokio::test]
async fn dropping_a_call_cancels_it_in_the_guest_and_frees_its_place() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("echo", "1.0.0", "");
    let limits = LimitsOverride {
        concurrency: Some(1),
        ..LimitsOverride::default()
    };
    host.load(mortise_host::LoadRequest {
        limits,
        ..request(&folder)
    })
    .await
    .unwrap();
    let napping = tokio::spawn({
        let host = host.clone();
        async move { call(&host, "plugin.echo.Nap", "600000").await }
    });
    until("it naps", || program.napping.load(Ordering::SeqCst) == 1).await;
    assert_eq!(host.inspect("echo").unwrap().info.in_flight, 1);
    napping.abort();
    until("the nap is over", || program.napping.load(Ordering::SeqCst) == 0).await;
    assert_eq!(call(&host, "plugin.echo.Call", "next").await.unwrap(), "next");
    assert_eq!(host.inspect("echo").unwrap().info.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_in_time_is_told_the_limit() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("echo", "1.0.0", "[limits]\nconcurrency = 2\n");
    host.load(request(&folder)).await.unwrap();
    let naps: Vec<_> = (0..2)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { call(&host, "plugin.echo.Nap", "1000").await })
        })
        .collect();
    until("both nap", || program.napping.load(Ordering::SeqCst) == 2).await;
    let options = CallOptions {
        deadline: Some(Instant::now() + Duration::from_millis(50)),
        ..CallOptions::default()
    };
    let error = host
        .call("plugin.echo.Call", Bytes::new(), options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert!(error.to_string().contains("works on 2 calls at once"), "{error}");
    // Who has more patience gets a place.
    assert_eq!(
        call(&host, "plugin.echo.Call", "patient").await.unwrap(),
        "patient"
    );
    for nap in naps {
        assert_eq!(nap.await.unwrap().unwrap(), "1000");
    }
}

#[tokio::test]
async fn requests_and_replies_have_a_largest_size() {
    let world = World::new();
    let host = world.host().await;
    let (folder, program) = world.package("echo", "1.0.0", "[limits]\npayload_mib = 1\n");
    host.load(request(&folder)).await.unwrap();
    let exact = Bytes::from(vec![0; 1 << 20]);
    let reply = host
        .call("plugin.echo.Call", exact.clone(), CallOptions::default())
        .await
        .unwrap();
    assert_eq!(reply.len(), exact.len());
    let over = Bytes::from(vec![0; (1 << 20) + 1]);
    let error = host
        .call("plugin.echo.Call", over, CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Exhausted);
    assert!(error.to_string().contains("1048577 bytes"), "{error}");
    assert_eq!(
        program.seen.lock().unwrap().len(),
        1,
        "the second never reached it"
    );
}

#[tokio::test]
async fn plugins_call_what_they_require_and_nothing_else() {
    let world = World::new();
    let host = world.host().await;
    let (_, callee) = world.load(&host, "callee", "1.4.0").await;
    let requires = "[[requires]]\nservice = \"test.v1.Echo\"\nversion = \"^1.2\"\n";
    let (folder, caller) = world.package("caller", "0.1.0", requires);
    host.load(request(&folder)).await.unwrap();
    // Both provide the service; only the callee's version is in the range.
    for number in 0..8 {
        let payload = format!("test.v1.Echo/Call {number}");
        assert_eq!(
            call(&host, "plugin.caller.Relay", &payload).await.unwrap(),
            number.to_string()
        );
    }
    assert_eq!(
        (
            callee.seen.lock().unwrap().len(),
            caller.seen.lock().unwrap().len()
        ),
        (8, 0)
    );
    let inner = callee.contexts.lock().unwrap()[0].clone();
    let outer = caller.contexts.lock().unwrap()[0].clone();
    assert_eq!(
        (inner.depth, &*inner.caller, inner.deadline),
        (1, "caller", outer.deadline)
    );

    let refused = call(&host, "plugin.callee.Relay", "test.v1.Echo/Call x")
        .await
        .unwrap_err();
    assert_eq!(refused.status().kind(), Code::PermissionDenied);
    assert!(
        refused
            .to_string()
            .contains("declare `[[requires]]` with `service = \"test.v1.Echo\"`"),
        "{refused}"
    );
    let unknown = call(&host, "plugin.caller.Relay", "test.v1.Other/Call x")
        .await
        .unwrap_err();
    assert_eq!(unknown.status().kind(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_chain_of_calls_ends_at_the_greatest_depth() {
    let world = World::new();
    let host = world.host().await;
    let requires = "[[requires]]\nservice = \"test.v1.Echo\"\nlazy = true\n[limits]\nconcurrency = 100\n";
    let (folder, program) = world.package("ouroboros", "1.0.0", requires);
    host.load(request(&folder)).await.unwrap();
    let error = call(&host, "plugin.ouroboros.Relay", "self").await.unwrap_err();
    assert_eq!(error.status().kind(), Code::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("the most are 32"), "{error}");
    assert_eq!(program.contexts.lock().unwrap().len(), 33, "depths 0 to 32");
    assert_eq!(host.inspect("ouroboros").unwrap().info.in_flight, 0);
}

#[tokio::test]
async fn a_plugin_that_is_not_provided_for_is_refused_unless_it_can_wait() {
    let world = World::new();
    let host = world.host().await;
    let requires =
        |more: &str| format!("[[requires]]\nservice = \"acme.kv.v1.Store\"\nversion = \"^2\"\n{more}");
    let (folder, _) = world.package("needy", "1.0.0", &requires(""));
    let error = host.load(request(&folder)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it needs `acme.kv.v1.Store` ^2, and no plugin provides it"),
        "{error}"
    );
    for more in ["lazy = true", "optional = true"] {
        let (folder, _) = world.package("patient", "1.0.0", &requires(more));
        host.load(request(&folder)).await.unwrap();
        host.unload("patient").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_method_follows_its_plugin_through_swaps_on_both_paths() {
    let world = World::new();
    let host = world.host().await;
    let (folder, first) = world.package("echo", "1.0.0", "");
    first.direct.store(true, Ordering::SeqCst);
    host.load(request(&folder)).await.unwrap();
    let bound = host.bind("plugin.echo.Call").unwrap();
    let call = |text: &'static str| {
        let bound = bound.clone();
        async move {
            let blocking = tokio::task::spawn_blocking(move || {
                let mut out = b"> ".to_vec();
                bound
                    .call(text.as_bytes(), &mut out)
                    .map(|()| String::from_utf8(out).unwrap())
            });
            blocking.await.unwrap()
        }
    };
    assert_eq!(call("direct").await.unwrap(), "> direct");
    assert_eq!(
        host.inspect("echo").unwrap().counters.calls,
        0,
        "the direct path counts nothing"
    );
    let (_, second) = world.load(&host, "echo", "1.1.0").await;
    assert_eq!(call("managed").await.unwrap(), "> managed");
    assert_eq!(host.inspect("echo").unwrap().counters.calls, 1);
    assert_eq!(
        (
            first.seen.lock().unwrap().len(),
            second.seen.lock().unwrap().len()
        ),
        (1, 1)
    );
    host.unload("echo").await.unwrap();
    let error = call("late").await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
    assert!(host.bind("plugin.echo.Call").is_err());
}
