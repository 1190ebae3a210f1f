//! Quick code first, better code when it pays; what calls see of the change.
//!
//! The rule itself (how many calls, how much time) is tested beside the code that has it, without a clock.
#![cfg(target_arch = "x86_64")]

use std::{sync::atomic::Ordering, time::Duration};

use mortise_runtime::Instance;
use mortise_runtime_wasm::{Reuse, Tiering, WasmRuntime};

use crate::{
    guests::{ALL, Abi, COUNT, ECHO, Guest, HOST, LOG},
    world::{Services, call, runtime_with, start, word},
};

/// As many calls replace the code of a small guest, however quick they were.
const CALLS: u32 = 256;

fn tiered(reuse: Reuse) -> WasmRuntime {
    runtime_with(|it| (it.reuse, it.tiering) = (reuse, Tiering::BaselineFirst))
}

/// What the instance uses while none of its guests lives: its code.
fn code_bytes(instance: &dyn Instance) -> u64 {
    instance.usage().memory_bytes.expect("it is known")
}

/// A guest that says in its log that it was told to stop.
fn polite(abi: Abi) -> Guest {
    let stop = match abi {
        Abi::Core => "(func (export \"mortise_stop\") (call $log (i32.const 0) (i32.const 1)))",
        _ => "",
    };
    Guest {
        extra: stop,
        ..Guest::new(abi)
    }
}

#[tokio::test]
async fn a_call_that_runs_ends_in_the_code_it_began_in() {
    for abi in ALL {
        let runtime = tiered(Reuse::Ephemeral);
        let (instance, services) = start(&runtime, Guest::new(abi).build()).await;
        call(&*instance, ECHO, "")
            .await
            .expect("the first guest is used up");
        let baseline = code_bytes(&*instance);
        let old = call(&*instance, HOST, "test.Host/Gate");
        let swap = async {
            while services.waiting.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let with_guest = code_bytes(&*instance);
            for _ in 0..CALLS {
                call(&*instance, ECHO, "").await.expect("it echoes");
            }
            // One guest lives all the time, so what changes is the code.
            while code_bytes(&*instance) == with_guest {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(
                call(&*instance, ECHO, "new").await.expect("better code answers"),
                "new",
                "{abi:?}"
            );
            services.gate.add_permits(1);
        };
        let (old, ()) = futures_util::future::join(old, swap).await;
        assert_eq!(
            old.expect("it is not disturbed"),
            "test.Host/Gate",
            "{abi:?}: the guest got its answer and gave it on"
        );
        assert_ne!(
            code_bytes(&*instance),
            baseline,
            "{abi:?}: it has other code than at first"
        );
    }
}

#[tokio::test]
async fn kept_guests_of_the_old_code_are_let_go_of_in_order() {
    for abi in ALL {
        // One guest, and no other reason to let go of it.
        let reuse = Reuse::Warm {
            instances: 1,
            calls_max: u64::MAX,
        };
        let (instance, services) = start(&tiered(reuse), polite(abi).build()).await;
        let before = count(&*instance).await;
        assert_eq!(before, 1);
        let mut counted = before;
        // It goes on counting until its successor begins at 1.
        loop {
            let now = count(&*instance).await;
            if now == 1 {
                break;
            }
            assert_eq!(now, counted + 1, "{abi:?}: no call was lost and none made twice");
            counted = now;
            if counted >= CALLS {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(
            counted >= CALLS,
            "{abi:?}: after {counted} calls it cannot have paid yet"
        );
        assert_eq!(
            count(&*instance).await,
            2,
            "{abi:?}: the successor is kept in turn"
        );
        if abi == Abi::Core {
            let logs = services.logs.lock().expect("no test panics while it holds it");
            assert_eq!(logs.len(), 1, "the old guest was told to stop, once");
        }
    }
}

async fn count(instance: &dyn Instance) -> u32 {
    word(&call(instance, COUNT, "").await.expect("it counts"))
}

#[tokio::test]
async fn code_that_is_optimised_from_the_start_is_never_replaced() {
    let runtime = runtime_with(|it| (it.reuse, it.tiering) = (Reuse::WARM, Tiering::OptimisedOnly));
    let (instance, _) = start(&runtime, Guest::new(Abi::Wrapped).build()).await;
    for expected in 1..=2 * CALLS {
        assert_eq!(count(&*instance).await, expected);
    }
}

#[tokio::test]
async fn two_instances_of_the_same_bytes_share_the_better_code() {
    let runtime = tiered(Reuse::Ephemeral);
    let guest = Guest::new(Abi::Wrapped).build();
    let (one, services) = start(&runtime, guest.clone()).await;
    let (other, _) = start(&runtime, guest).await;
    for instance in [&one, &other] {
        call(&**instance, ECHO, "")
            .await
            .expect("the first guest is used up");
    }
    let baseline = code_bytes(&*other);
    assert_eq!(code_bytes(&*one), baseline);
    for _ in 0..CALLS {
        call(&*one, ECHO, "").await.expect("it echoes");
    }
    while code_bytes(&*other) == baseline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    call(&*other, LOG, "")
        .await
        .expect("it answers from code that others paid for");
    assert_eq!(logged(&services), 0, "its log lines are its own");
}

fn logged(services: &Services) -> usize {
    services
        .logs
        .lock()
        .expect("no test panics while it holds it")
        .len()
}
