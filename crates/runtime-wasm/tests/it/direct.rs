//! Guests that `mortise build` took the table out of do what they did.

use mortise_runtime::{Instance, Runtime};
use wasmparser::{Operator, Parser, Payload};

use crate::{
    guests,
    world::{artifact, call, runtime, start_verified},
};

/// Its method calls through the table: payload `[kind, place, argument]`, where kind 0 is a function of one argument, 1 of two.
const GUEST: &str = r#"(module
  (type $one (func (param i32) (result i32)))
  (type $two (func (param i32 i32) (result i32)))
  (import "mortise:plugin/host@1.0.0" "log" (func (param i32 i32)))
  (import "mortise:plugin/host@1.0.0" "call" (func (param i64 i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 4096))
  (table 12 12 funcref)
  (elem (i32.const 2) $double $add $square)
  (elem (i32.const 7) $double $subtract)
  (elem (i32.const 4) $again $negate)
  (elem (i32.const 9) $increment $decrement)
  (func $double (param i32) (result i32) (i32.shl (local.get 0) (i32.const 1)))
  (func $square (param i32) (result i32) (i32.mul (local.get 0) (local.get 0)))
  (func $negate (param i32) (result i32) (i32.sub (i32.const 0) (local.get 0)))
  (func $increment (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func $decrement (param i32) (result i32) (i32.sub (local.get 0) (i32.const 1)))
  (func $again (param i32) (result i32)
    (call_indirect (type $one) (call_indirect (type $one) (local.get 0) (i32.const 2)) (i32.const 7)))
  (func $add (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func $subtract (param i32 i32) (result i32) (i32.sub (local.get 0) (local.get 1)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (i32.add (local.get 3) (i32.const 16)))))
  (func (export "mortise:plugin/guest@1.0.0#start") (param i32 i32) (result i32) (i32.const 16))
  (func (export "mortise:plugin/guest@1.0.0#invoke") (param i32 i32 i32) (param $at i32) (param i32) (result i32)
    (local $place i32) (local $argument i32)
    (local.set $place (i32.load8_s offset=1 (local.get $at)))
    (local.set $argument (i32.load8_u offset=2 (local.get $at)))
    (i32.store (i32.const 64)
      (if (result i32) (i32.load8_u (local.get $at))
        (then (call_indirect (type $two) (local.get $argument) (i32.const 1) (local.get $place)))
        (else (call_indirect (type $one) (local.get $argument) (local.get $place)))))
    (i32.store (i32.const 36) (i32.const 64))
    (i32.store (i32.const 40) (i32.const 4))
    (i32.const 32))
  (func (export "mortise:plugin/guest@1.0.0#health") (result i32)
    (i32.store16 (i32.const 64) (i32.const 0x0108))
    (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 2))
    (i32.const 16))
  (func (export "mortise:plugin/guest@1.0.0#stop")))"#;

async fn instance(wasm: Vec<u8>) -> Box<dyn Instance> {
    let runtime = runtime();
    let artifact = artifact(wasm);
    let metadata = runtime.read_metadata(&artifact).expect("it carries its metadata");
    let verified = artifact.verify(metadata).expect("it tells the truth");
    start_verified(&runtime, &verified).await.expect("it starts").0
}

fn calls_through_a_table(wasm: &[u8]) -> usize {
    let bodies = Parser::new(0)
        .parse_all(wasm)
        .filter_map(|payload| match payload {
            Ok(Payload::CodeSectionEntry(body)) => body.get_operators_reader().ok(),
            _ => None,
        });
    let indirect = |operator: &Result<Operator<'_>, _>| matches!(operator, Ok(Operator::CallIndirect { .. }));
    bodies.map(|body| body.into_iter().filter(indirect).count()).sum()
}

#[tokio::test]
async fn a_guest_without_its_table_does_what_it_did() {
    let core = wat::parse_str(GUEST).expect("it is well formed");
    let metadata = guests::metadata("guest");
    let plain = guests::with_metadata(guests::componentize(core.clone()), &metadata);
    let direct =
        mortise_build::componentize(&guests::with_metadata(core, &metadata)).expect("it is of the world");
    assert!(calls_through_a_table(&plain) > 0);
    // The wrapper that `wit-component` makes has a table of its own, and calls the host through it.
    let wrapper = calls_through_a_table(&plain) - 4;
    assert_eq!(calls_through_a_table(&direct), wrapper);

    let (plain, direct) = (instance(plain).await, instance(direct).await);
    let mut answered = 0;
    for kind in 0..=1 {
        // Before, in and after the table, and what is no place of any.
        for place in (0..16).chain([127, 200, 255]) {
            let payload = vec![kind, place, 7];
            let before = call(&*plain, 0, payload.clone()).await;
            let after = call(&*direct, 0, payload.clone()).await;
            match (before, after) {
                (Ok(before), Ok(after)) => {
                    answered += 1;
                    assert_eq!(before, after, "{payload:?}");
                }
                (Err(before), Err(after)) => {
                    assert_eq!(before.kind(), after.kind(), "{payload:?}: {before} and {after}")
                }
                (before, after) => panic!("{payload:?}: {before:?} and {after:?}"),
            }
        }
    }
    // Six places lead to functions of one argument, by a jump, and two to those of two, which are told apart one after the other.
    assert_eq!(answered, 8);
}
