//! The rule of C4, by its own counters: no clock, no guest that has to be slow.
#![cfg(target_arch = "x86_64")]

use super::*;
use crate::unwrap::tests::{MODULE as WORLD, wrap};

const MODULE: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "mortise_alloc") (param i32) (result i32) i32.const 0)
    (func (export "mortise_free") (param i32 i32))
    (func (export "mortise_invoke") (param i32 i32 i32 i32 i32) (result i32) i32.const 0))"#;

fn loader() -> Arc<Loader> {
    let config = WasmConfig {
        instances_max: 4,
        ..WasmConfig::default()
    };
    let engines = Arc::new(Engines::new(&config).expect("the machine runs WebAssembly"));
    Arc::new(Loader::new(engines, None, config))
}

/// Baseline code that pays to replace after `ticks_to_pay`.
async fn tiers(ticks_to_pay: u64) -> Arc<Tiers<CoreAbi>> {
    let wasm = Bytes::from(wat::parse_str(MODULE).expect("it is well formed"));
    let made = loader().make::<CoreAbi>(&wasm).await.expect("it compiles");
    let mut tiers = Arc::into_inner(made).expect("nobody else has it yet");
    assert_eq!(tiers.current().tier, Tier::Baseline);
    tiers.ticks_to_pay = ticks_to_pay;
    Arc::new(tiers)
}

fn call(tiers: &Arc<Tiers<CoreAbi>>, times: u64) {
    (0..times).for_each(|_| tiers.count_call(Tier::Baseline));
}

fn asked_for(tiers: &Tiers<CoreAbi>) -> bool {
    tiers.optimising.load(Ordering::Relaxed)
}

async fn optimised(tiers: &Tiers<CoreAbi>) {
    while tiers.current().tier == Tier::Baseline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_mortise_build_makes_is_run_without_its_wrapper_and_anything_else_as_it_is() {
    let known = wrap(WORLD);
    let other = wrap(&WORLD.replace(
        "(;more;)",
        r#"(func (export "cabi_post_mortise:plugin/guest@1.0.0#invoke") (param i32))"#,
    ));
    for (component, unwrapped) in [(known, true), (other, false)] {
        let code = loader()
            .load(Digest::of(&component), &component, AbiKind::Component)
            .await
            .expect("it compiles");
        assert_eq!(matches!(code, Code::Unwrapped(_)), unwrapped);
        assert_eq!(matches!(code, Code::Component(_)), !unwrapped);
    }
}

#[tokio::test]
async fn many_calls_that_take_no_time_do_not_pay() {
    let tiers = tiers(3).await;
    call(&tiers, 10 * TIER_UP_CALLS);
    assert!(!asked_for(&tiers), "no tick has seen it run");
    tiers.busy_ticks.fetch_add(2, Ordering::Relaxed);
    call(&tiers, 1);
    assert!(!asked_for(&tiers), "2 of 3 ticks");
    tiers.busy_ticks.fetch_add(1, Ordering::Relaxed);
    call(&tiers, 1);
    assert!(
        asked_for(&tiers),
        "C4: it has run for as long as optimising takes"
    );
    optimised(&tiers).await;
}

#[tokio::test]
async fn few_calls_do_not_pay_however_long_they_took() {
    let tiers = tiers(3).await;
    tiers.busy_ticks.fetch_add(1000, Ordering::Relaxed);
    call(&tiers, TIER_UP_CALLS - 1);
    assert!(
        !asked_for(&tiers),
        "a plugin that is called now and then stays as it is"
    );
    tiers.count_call(Tier::Optimised);
    assert!(!asked_for(&tiers), "calls of optimised code do not count");
    call(&tiers, 1);
    assert!(asked_for(&tiers));
    optimised(&tiers).await;
}

#[tokio::test]
async fn better_code_is_for_new_instances_and_is_made_once() {
    let tiers = tiers(0).await;
    let old = tiers.current();
    assert!(tiers.is_current(&old));
    call(&tiers, TIER_UP_CALLS);
    optimised(&tiers).await;
    let new = tiers.current();
    assert_eq!(old.tier, Tier::Baseline, "C3: who holds the old code keeps it");
    assert!(!tiers.is_current(&old) && tiers.is_current(&new));
    assert!(
        tiers
            .wasm
            .lock()
            .expect("no test panics while it holds it")
            .is_none(),
        "what the compiler needed is given back"
    );
    call(&tiers, 10 * TIER_UP_CALLS);
    tiers.tier_up();
    assert!(Arc::ptr_eq(&tiers.current(), &new), "it is not made again");
}

#[tokio::test]
async fn a_compiler_that_fails_leaves_the_plugin_with_what_it_has() {
    let tiers = tiers(0).await;
    // What the baseline compiler took is refused by the other.
    *tiers.wasm.lock().expect("no test panics while it holds it") =
        Some(Bytes::from_static(b"\0asm\x01\0\0\0\x63"));
    let old = tiers.current();
    call(&tiers, TIER_UP_CALLS);
    // The failure takes the bytes, and nothing else shows it.
    while tiers
        .wasm
        .lock()
        .expect("no test panics while it holds it")
        .is_some()
        || Arc::strong_count(&tiers) > 1
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(Arc::ptr_eq(&tiers.current(), &old) && tiers.is_current(&old));
    call(&tiers, 10 * TIER_UP_CALLS);
    assert!(Arc::ptr_eq(&tiers.current(), &old));
    assert_eq!(Arc::strong_count(&tiers), 1, "nobody tries again");
}
