//! Guests that want more than they may have.

use mortise_manifest::Limits;
use mortise_runtime::{CallErrorKind, RuntimeErrorKind};
use mortise_runtime_wasm::{Pooling, Reuse};

use crate::{
    guests::{ALL, Abi, BOMB, ECHO, Guest, POLITE, TABLE},
    world::{call, refused, runtime, runtime_with, start, start_with, word},
};

fn memory(pages: u64) -> Limits {
    Limits {
        memory_bytes_max: pages << 16,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_memory_bomb_is_named_as_such() {
    for pooling in [Pooling::Auto, Pooling::Off] {
        let runtime = runtime_with(|it| it.pooling = pooling);
        for abi in ALL {
            let (instance, _) = start_with(&runtime, Guest::new(abi).build(), memory(1000))
                .await
                .expect("it starts");
            let error = call(&*instance, BOMB, "").await.expect_err("it dies");
            assert_eq!(error.kind(), CallErrorKind::Exhausted, "{abi:?}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("ran out of memory") && text.contains("may have 64000"),
                "{abi:?}: {text}"
            );
            call(&*instance, ECHO, "")
                .await
                .expect("the next call is not concerned");
        }
    }
}

#[tokio::test]
async fn the_initial_memory_counts_and_growth_comes_on_top() {
    let runtime = runtime();
    for abi in ALL {
        let error = refused(
            start_with(
                &runtime,
                Guest {
                    pages: 101,
                    ..Guest::new(abi)
                }
                .build(),
                memory(100),
            )
            .await,
        );
        assert_eq!(error.kind(), RuntimeErrorKind::Exhausted, "{abi:?}: {error}");
        assert!(error.to_string().contains("may have 6400"), "{abi:?}: {error}");

        let guest = Guest {
            pages: 60,
            ..Guest::new(abi)
        }
        .build();
        let (instance, _) = start_with(&runtime, guest, memory(100))
            .await
            .expect("60 of 100 pages are there");
        let ask = |pages: u32| call(&*instance, POLITE, pages.to_le_bytes().to_vec());
        assert_eq!(
            word(&ask(40).await.expect("it asks")),
            60,
            "{abi:?}: 60 and 40 make 100"
        );
        assert_eq!(
            word(&ask(41).await.expect("it asks")),
            u32::MAX,
            "{abi:?}: 101 are too many, and the guest lives with it"
        );
    }
}

#[tokio::test]
async fn a_refusal_that_the_guest_survived_is_not_held_against_it_later() {
    let runtime = runtime_with(|it| it.reuse = Reuse::WARM);
    let (instance, _) = start_with(&runtime, Guest::new(ALL[0]).build(), memory(100))
        .await
        .expect("it starts");
    let refused = call(&*instance, POLITE, 1000_u32.to_le_bytes().to_vec())
        .await
        .expect("it asks");
    assert_eq!(word(&refused), u32::MAX);
    let error = call(&*instance, crate::guests::TRAP, "")
        .await
        .expect_err("it traps");
    assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
}

#[tokio::test]
async fn tables_have_a_bound() {
    for pooling in [Pooling::Auto, Pooling::Off] {
        let runtime = runtime_with(|it| it.pooling = pooling);
        for abi in ALL {
            let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
            let elements = word(&call(&*instance, TABLE, "").await.expect("it grows its table"));
            assert!(
                (99_000..=100_000).contains(&elements),
                "{abi:?} {pooling:?}: {elements}"
            );
            let greedy = Guest {
                table: 100_001,
                ..Guest::new(abi)
            }
            .build();
            refused(start_with(&runtime, greedy, Limits::default()).await);
        }
    }
}

#[tokio::test]
async fn more_memories_than_allowed_are_refused() {
    let runtime = runtime();
    for abi in ALL {
        let greedy = Guest {
            extra: "(memory 1) (memory 1) (memory 1)",
            ..Guest::new(abi)
        }
        .build();
        refused(start_with(&runtime, greedy, Limits::default()).await);
        // Two are few enough, and the second counts like the first.
        let two = Guest {
            extra: "(memory 99)",
            ..Guest::new(abi)
        }
        .build();
        start_with(&runtime, two.clone(), memory(100))
            .await
            .expect("1 and 99 make 100");
        let error = refused(start_with(&runtime, two, memory(99)).await);
        assert_eq!(error.kind(), RuntimeErrorKind::Exhausted, "{abi:?}: {error}");
    }
}

/// Each level would be one more fiber, of a pool that all guests share, with a stack that no limit counts.
#[tokio::test]
async fn an_allocator_that_calls_the_host_for_ever_gets_one_answer() {
    let runtime = runtime();
    for abi in ALL {
        let guest = Guest {
            alloc: "(call $call_host (i32.const 3000) (i32.const 14))",
            extra: r#"(data (i32.const 3000) "test.Host/Echo")"#,
            ..Guest::new(abi)
        };
        let error = refused(start_with(&runtime, guest.build(), memory(100)).await);
        assert_eq!(error.kind(), RuntimeErrorKind::StartFailed, "{abi:?}: {error}");
        let text = format!("{error:?}");
        // For a component whose wrapper stays on, the component model forbids it.
        let why = if abi == Abi::Component {
            "cannot leave component instance"
        } else {
            "from within its allocator"
        };
        assert!(text.contains(why), "{abi:?}: {text}");
    }
}
