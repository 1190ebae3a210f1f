//! Calls that go right, and what surrounds them.

use std::{sync::Arc, time::Duration};

use mortise_manifest::Limits;
use mortise_runtime::{CallContext, CallErrorKind, Isolation, MethodIndex, Runtime};
use mortise_runtime_wasm::Reuse;
use mortise_wire::{CallHead, Code, Header, Level, LogRecord, Status};
use prost::Message;

use crate::{
    guests::{ALL, COUNT, ECHO, ERROR, Guest, HEAD, HOST, LIE, LOG, TRAP},
    world::{call, runtime, runtime_with, start, start_pure, start_with, word},
};

#[tokio::test]
async fn payloads_come_back_as_they_went() {
    let runtime = runtime();
    let limits = Limits {
        memory_bytes_max: 256 << 20,
        ..Limits::default()
    };
    for abi in ALL {
        let (instance, _) = start_with(&runtime, Guest::new(abi).build(), limits.clone())
            .await
            .expect("it starts");
        for bytes in [0, 1, 64, 65_537, 1 << 20, 64 << 20] {
            let payload: Vec<u8> = (0..bytes).map(|at: usize| (at ^ (at >> 8)) as u8).collect();
            let reply = call(&*instance, ECHO, payload.clone()).await.expect("it echoes");
            assert!(reply == payload, "{abi:?}: {bytes} bytes came back changed");
        }
    }
}

#[tokio::test]
async fn a_reply_beyond_the_limit_is_not_carried() {
    let runtime = runtime();
    let limits = Limits {
        payload_bytes_max: 1024,
        ..Limits::default()
    };
    for abi in ALL {
        let (instance, _) = start_with(&runtime, Guest::new(abi).build(), limits.clone())
            .await
            .expect("it starts");
        let error = call(&*instance, ECHO, vec![0; 1025])
            .await
            .expect_err("it is too long");
        assert_eq!(error.kind(), CallErrorKind::Exhausted, "{abi:?}: {error}");
        call(&*instance, ECHO, vec![0; 1024])
            .await
            .expect("the limit itself is carried");
    }
}

#[tokio::test]
async fn an_error_with_details_comes_back_whole() {
    let runtime = runtime();
    let status = Status {
        retryable: true,
        ..Status::new(Code::NotFound, "kein Bild namens „größer“")
    };
    for abi in ALL {
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        let error = call(&*instance, ERROR, status.encode_to_vec())
            .await
            .expect_err("it is an error");
        assert_eq!(error.kind(), CallErrorKind::Returned);
        assert_eq!(error.status(), &status, "{abi:?}");
        let error = call(&*instance, ERROR, "no Status at all")
            .await
            .expect_err("it is an error");
        assert_eq!(
            (error.kind(), error.status().kind()),
            (CallErrorKind::Returned, Code::Unknown),
            "{abi:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_method_does_not_reach_the_guest() {
    let runtime = runtime();
    let (instance, _) = start(&runtime, Guest::new(ALL[0]).build()).await;
    let error = call(&*instance, 15, "").await.expect_err("there are 15");
    assert_eq!(error.kind(), CallErrorKind::NotFound);
}

#[tokio::test]
async fn an_ephemeral_guest_forgets_and_a_warm_one_remembers() {
    for abi in ALL {
        let runtime = runtime();
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        for _ in 0..3 {
            assert_eq!(
                word(&call(&*instance, COUNT, "").await.expect("it counts")),
                1,
                "{abi:?}"
            );
        }
        let runtime = runtime_with(|it| {
            it.reuse = Reuse::Warm {
                instances: 1,
                calls_max: 3,
            }
        });
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        for expected in [1, 2, 3, 1, 2] {
            assert_eq!(
                word(&call(&*instance, COUNT, "").await.expect("it counts")),
                expected,
                "{abi:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_policy_can_differ_by_plugin() {
    let runtime = runtime_with(|it| {
        it.reuse_by_plugin.insert("guest".to_owned(), Reuse::WARM);
    });
    let (instance, _) = start(&runtime, Guest::new(ALL[0]).build()).await;
    call(&*instance, COUNT, "").await.expect("it counts");
    assert_eq!(word(&call(&*instance, COUNT, "").await.expect("it counts")), 2);
}

#[tokio::test]
async fn a_trap_leaves_no_trace_in_the_next_call() {
    for abi in ALL {
        for reuse in [Reuse::Ephemeral, Reuse::WARM] {
            let runtime = runtime_with(|it| it.reuse = reuse);
            let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
            call(&*instance, COUNT, "").await.expect("it counts");
            let error = call(&*instance, TRAP, "").await.expect_err("it traps");
            assert_eq!(error.kind(), CallErrorKind::GuestFault);
            let text = error.to_string();
            assert!(
                text.contains("test.Guest/Trap") && text.contains("unreachable"),
                "{text}"
            );
            assert!(
                text.contains("`fall_over` < `invoke`"),
                "the trace names the functions: {text}"
            );
            assert_eq!(
                word(&call(&*instance, COUNT, "").await.expect("a fresh one answers")),
                1,
                "{abi:?} {reuse:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_lie_about_a_pointer_is_the_guests_fault() {
    let runtime = runtime_with(|it| it.reuse = Reuse::WARM);
    for abi in ALL {
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        call(&*instance, COUNT, "").await.expect("it counts");
        let error = call(&*instance, LIE, "").await.expect_err("it lies");
        assert_eq!(error.kind(), CallErrorKind::GuestFault, "{abi:?}: {error}");
        assert_eq!(
            word(&call(&*instance, COUNT, "").await.expect("a fresh one answers")),
            1,
            "{abi:?}"
        );
    }
}

#[tokio::test]
async fn log_lines_and_host_calls_carry_the_call_they_belong_to() {
    let runtime = runtime();
    for abi in ALL {
        let (instance, services) = start(&runtime, Guest::new(abi).build()).await;
        let record = LogRecord {
            level: Level::Info as i32,
            message: "größer".to_owned(),
            ..LogRecord::default()
        };
        let cx = CallContext {
            call_id: 7,
            ..CallContext::default()
        };
        let facet = instance.call().expect("it answers calls");
        facet
            .call(&cx, MethodIndex(LOG), record.encode_to_vec().into())
            .await
            .expect("it logs");
        facet
            .call(&cx, MethodIndex(LOG), "\u{ff}\u{ff}".into())
            .await
            .expect("it logs nonsense");
        let logs = services
            .logs
            .lock()
            .expect("no test panics while it holds it")
            .clone();
        assert_eq!(logs[0], (record, Some(7)), "{abi:?}");
        assert!(
            logs[1].0.message.contains("no LogRecord"),
            "{abi:?}: {:?}",
            logs[1]
        );

        // The guest claims to act for call 99.
        let reply = facet
            .call(&cx, MethodIndex(HOST), "test.Host/Echo".into())
            .await
            .expect("the host answers");
        assert_eq!(reply, "test.Host/Echo");
        let calls = services
            .calls
            .lock()
            .expect("no test panics while it holds it")
            .clone();
        assert_eq!(
            calls,
            [("test.Host/Echo".to_owned(), Some(7))],
            "{abi:?}: the parent is the call the guest is in"
        );
        let error = facet
            .call(&cx, MethodIndex(HOST), "acme.Kv/Get".into())
            .await
            .expect_err("it is not granted");
        assert_eq!(
            error.status().kind(),
            Code::PermissionDenied,
            "{abi:?}: the host's status went through the guest"
        );
    }
}

#[tokio::test]
async fn the_host_sends_no_more_than_is_carried() {
    let runtime = runtime();
    let limits = Limits {
        payload_bytes_max: 1 << 20,
        ..Limits::default()
    };
    for abi in ALL {
        let (instance, _) = start_with(&runtime, Guest::new(abi).build(), limits.clone())
            .await
            .expect("it starts");
        let error = call(&*instance, HOST, "test.Host/Huge")
            .await
            .expect_err("the reply has 2 MiB");
        assert_eq!(error.status().kind(), Code::ResourceExhausted, "{abi:?}");
    }
}

#[tokio::test]
async fn a_guest_that_asks_for_too_much_is_told_so() {
    let runtime = runtime();
    let limits = Limits {
        payload_bytes_max: 6000,
        ..Limits::default()
    };
    for abi in ALL {
        let (instance, services) = start_with(&runtime, Guest::new(abi).build(), limits.clone())
            .await
            .expect("it starts");
        // The guest calls what its payload names, with that payload.
        let error = call(&*instance, HOST, vec![b'a'; 5000])
            .await
            .expect_err("no method has such a name");
        assert_eq!(error.status().kind(), Code::InvalidArgument, "{abi:?}: {error}");
        assert!(error.to_string().contains("5000 bytes"), "{abi:?}: {error}");
        let asked = services.calls.lock().expect("no test panics while it holds it");
        assert!(asked.is_empty(), "{abi:?}: the host's services never saw it");
    }
}

#[tokio::test]
async fn the_head_reaches_the_guest() {
    let runtime = runtime();
    for abi in ALL {
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        let cx = CallContext {
            call_id: 5,
            began: None,
            deadline: Some(std::time::Instant::now() + Duration::from_secs(60)),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            metadata: Arc::new([Header {
                name: "x-tenant".to_owned(),
                value: "blau".to_owned(),
            }]),
            depth: 2,
            caller: "shop".into(),
            ..CallContext::default()
        };
        let reply = instance
            .call()
            .expect("it answers")
            .call(&cx, MethodIndex(HEAD), "".into())
            .await
            .expect("it answers");
        let head = CallHead::decode(reply).expect("the head is a message");
        assert!(
            (1..=60_000_000_000).contains(&head.deadline_ns),
            "{abi:?}: {}",
            head.deadline_ns
        );
        assert_eq!(
            (head.call_id, head.depth, head.caller.as_str()),
            (5, 2, "shop"),
            "{abi:?}"
        );
        assert_eq!(
            (head.traceparent, head.metadata),
            (cx.traceparent.to_string(), cx.metadata.to_vec()),
            "{abi:?}"
        );
        let untold = CallContext { untold: true, ..cx };
        let facet = instance.call().expect("it answers");
        let reply = facet.call(&untold, MethodIndex(HEAD), "".into()).await;
        assert_eq!(
            reply.expect("it answers"),
            "",
            "{abi:?}: not even the time that is left"
        );
    }
}

#[tokio::test]
async fn a_pure_guest_remembers_nothing_whatever_the_policy() {
    for abi in ALL {
        let runtime = runtime_with(|it| it.reuse = Reuse::WARM);
        let (instance, _) = start_pure(&runtime, Guest::new(abi).build()).await;
        for _ in 0..3 {
            let count = call(&*instance, COUNT, "").await.expect("it counts");
            assert_eq!(word(&count), 1, "{abi:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_instances_are_all_served() {
    let runtime = runtime_with(|it| it.instances_max = 4);
    for abi in ALL {
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        let instance = &*instance;
        let calls = (0..256_u32).map(|number| async move {
            let reply = call(instance, ECHO, number.to_le_bytes().to_vec())
                .await
                .expect("it echoes");
            assert_eq!(word(&reply), number);
        });
        futures_util::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn health_usage_and_stop() {
    for abi in ALL {
        for reuse in [Reuse::Ephemeral, Reuse::WARM] {
            let runtime = runtime_with(|it| it.reuse = reuse);
            assert_eq!(runtime.support().isolation, Isolation::Sandbox);
            let (instance, _) = start(
                &runtime,
                Guest {
                    pages: 16,
                    ..Guest::new(abi)
                }
                .build(),
            )
            .await;
            let started = instance.usage().memory_bytes.expect("it is known");
            assert!(
                started >= 16 * 65_536,
                "the first guest waits for its call: {started}"
            );
            assert!(instance.health().await.expect("it answers").serving);
            let report = instance.stop(Duration::from_secs(5)).await;
            assert_eq!((report.forced, report.left), (None, None));
            assert!(
                instance.usage().memory_bytes.expect("it is known") <= started - 16 * 65_536,
                "its memory is given back"
            );
            let error = call(&*instance, ECHO, "").await.expect_err("it is stopped");
            assert_eq!(error.kind(), CallErrorKind::Draining);
            assert_eq!(
                instance.stop(Duration::ZERO).await.forced,
                None,
                "twice is the same as once"
            );
        }
    }
}
