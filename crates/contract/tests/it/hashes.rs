//! What the two hashes of a method see, and what they do not.

use mortise_contract::Contract;
use proptest::prelude::*;

use crate::{
    model::{Field, Label, Layout, Model, Type, layouts, models},
    support::{contract, contract_of},
};

fn linked(model: &Model, layout: Layout) -> Contract {
    let files = model.write(layout);
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, source)| (name.as_str(), source.as_str()))
        .collect();
    contract_of(&files, &[])
}

fn hashes(contract: &Contract) -> ([u8; 32], [u8; 32]) {
    let method = &contract.methods()[0];
    (method.wire_hash(), method.full_hash())
}

/// A change of the first message, which every model's method reaches.
#[derive(Clone, Copy, Debug)]
enum Change {
    Rename,
    Renumber,
    Retype,
    AddField,
    RemoveField,
    Optional,
}

fn changed(model: &Model, change: Change) -> Model {
    let mut model = model.clone();
    let fields = &mut model.messages[0];
    match change {
        Change::Rename => fields[0].name = "renamed".to_owned(),
        Change::Renumber => fields[0].number = 77,
        Change::Retype => {
            let ty = if fields[0].ty == Type::Scalar("bool") {
                "string"
            } else {
                "bool"
            };
            fields[0].ty = Type::Scalar(ty);
        }
        Change::AddField => {
            let (name, ty) = ("added".to_owned(), Type::Scalar("bool"));
            fields.push(Field {
                name,
                number: 78,
                ty,
                label: Label::Implicit,
            });
        }
        Change::RemoveField => {
            fields.remove(0);
        }
        Change::Optional => {
            fields[0].label = if fields[0].label == Label::Repeated {
                Label::Implicit
            } else {
                Label::Repeated
            };
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn layout_is_invisible(model in models(), layout in layouts()) {
        let plain = linked(&model, Layout::default());
        let other = linked(&model, layout);
        prop_assert_eq!(hashes(&plain), hashes(&other));
        prop_assert_eq!(plain.hash(), other.hash());
    }

    #[test]
    fn a_field_name_is_seen_by_the_full_hash_only(model in models(), layout in layouts()) {
        let before = hashes(&linked(&model, Layout::default()));
        let after = hashes(&linked(&changed(&model, Change::Rename), layout));
        prop_assert_eq!(before.0, after.0);
        prop_assert_ne!(before.1, after.1);
    }

    #[test]
    fn shape_is_seen_by_both(
        model in models(),
        change in proptest::sample::select(vec![
            Change::Renumber, Change::Retype, Change::AddField, Change::RemoveField, Change::Optional,
        ]),
    ) {
        let before = linked(&model, Layout::default());
        let after = linked(&changed(&model, change), Layout::default());
        prop_assert_ne!(hashes(&before).0, hashes(&after).0, "{:?}", change);
        prop_assert_ne!(hashes(&before).1, hashes(&after).1, "{:?}", change);
        prop_assert_ne!(before.hash(), after.hash());
    }
}

const BASE: &str = r#"
syntax = "proto3";
package acme.v1;
import "mortise/options.proto";
service Shop { rpc Order(Request) returns (Reply); }
message Request {
  Node root = 1;
  Size size = 2;
  oneof pay { string card = 3; string voucher = 4; }
  optional string note = 5;
  reserved 9;
}
message Reply { repeated int32 ids = 1; }
message Node { repeated Node children = 1; Leaf leaf = 2; }
message Leaf { Node up = 1; }
enum Size { SIZE_NONE = 0; SIZE_BIG = 1; }
"#;

/// Which of the two hashes a change of [`BASE`] moves: (wire, full).
fn moved(from: &str, to: &str) -> (bool, bool) {
    assert!(BASE.contains(from), "{from} is not in the source");
    let before = hashes(&contract(BASE));
    let after = hashes(&contract(&BASE.replace(from, to)));
    (before.0 != after.0, before.1 != after.1)
}

#[test]
fn each_part_of_a_signature_moves_the_hashes_it_should() {
    const NEITHER: (bool, bool) = (false, false);
    const FULL: (bool, bool) = (false, true);
    const BOTH: (bool, bool) = (true, true);
    let cases = [
        ("reserved 9;", "reserved 9, 11 to 20; reserved \"gone\";", NEITHER),
        (
            "package acme.v1;",
            "package acme.v1; option go_package = \"x\"; option java_package = \"y\";",
            NEITHER,
        ),
        (
            "string voucher = 4;",
            "string voucher = 4 [deprecated = true];",
            NEITHER,
        ),
        (
            "oneof pay { string card = 3; string voucher = 4; }",
            "oneof pay { string voucher = 4; string card = 3; }",
            NEITHER,
        ),
        ("Size size = 2;", "Size dimension = 2;", FULL),
        ("Size size = 2;", "Size size = 2 [json_name = \"s\"];", FULL),
        ("oneof pay", "oneof payment", FULL),
        ("SIZE_BIG = 1", "SIZE_LARGE = 1", FULL),
        (
            "string card = 3;",
            "string card = 3 [(mortise.sensitive) = true];",
            FULL,
        ),
        (
            "Size size = 2;",
            "Size size = 2 [(mortise.default) = \"SIZE_BIG\"];",
            FULL,
        ),
        (
            "returns (Reply);",
            "returns (Reply) { option (mortise.idempotent) = true; }",
            FULL,
        ),
        (
            "returns (Reply);",
            "returns (Reply) { option (mortise.timeout_ms) = 9; }",
            FULL,
        ),
        (
            "returns (Reply);",
            "returns (Reply) { option (mortise.nonblocking) = true; }",
            FULL,
        ),
        (
            "message Leaf { Node up = 1; }",
            "message Leaf { option (mortise.state_schema) = true; Node up = 1; }",
            FULL,
        ),
        ("Size size = 2;", "Size size = 6;", BOTH),
        ("Size size = 2;", "int32 size = 2;", BOTH),
        ("Size size = 2;", "optional Size size = 2;", BOTH),
        ("SIZE_BIG = 1;", "SIZE_BIG = 1; SIZE_HUGE = 2;", BOTH),
        ("SIZE_BIG = 1", "SIZE_BIG = 5", BOTH),
        ("string voucher = 4; }", "} string voucher = 4;", BOTH),
        (
            "repeated int32 ids = 1;",
            "repeated int32 ids = 1 [packed = false];",
            BOTH,
        ),
        ("rpc Order(Request)", "rpc Order(stream Request)", BOTH),
        ("rpc Order(Request)", "rpc Buy(Request)", BOTH),
        ("service Shop", "service Store", BOTH),
        // Two types where there was one, of the same shape: another graph.
        (
            "Leaf leaf = 2;",
            "Leaf2 leaf = 2; } message Leaf2 { Node up = 1;",
            FULL,
        ),
        ("Leaf { Node up = 1;", "Leaf { Leaf up = 1;", BOTH),
    ];
    for (from, to, expected) in cases {
        assert_eq!(moved(from, to), expected, "`{from}` -> `{to}`: (wire, full)");
    }
}

#[test]
fn names_of_messages_are_seen_by_the_full_hash_only() {
    let before = contract(BASE);
    let after = contract(
        &BASE
            .replace("Node", "Vertex")
            .replace("Request", "Query")
            .replace("Leaf", "End"),
    );
    assert_eq!(hashes(&before).0, hashes(&after).0);
    assert_ne!(hashes(&before).1, hashes(&after).1);
}

#[test]
fn unreachable_types_are_invisible() {
    let before = contract(BASE);
    let after = contract(&format!(
        "{BASE}\nmessage Unused {{ string x = 1; }} enum Other {{ A = 0; }}"
    ));
    assert_eq!(hashes(&before), hashes(&after));
    assert_eq!(before.hash(), after.hash());
    assert_ne!(before.fingerprint(), after.fingerprint());
}

#[test]
fn explicit_defaults_and_required_fields_of_proto2_are_seen() {
    let source = |field: &str| {
        contract(&format!(
            "syntax = \"proto2\"; package p; service S {{ rpc Call(M) returns (M); }} message M {{ {field} }}"
        ))
    };
    let plain = hashes(&source("optional int32 x = 1;")).0;
    assert_ne!(plain, hashes(&source("optional int32 x = 1 [default = 3];")).0);
    assert_ne!(plain, hashes(&source("required int32 x = 1;")).0);
}

/// The canonical form is a promise: artifacts carry these hashes. A change needs a new domain in `hash.rs`.
#[test]
fn known_hashes() {
    let hex = |hash: [u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let contract = contract(BASE);
    let (wire, full) = hashes(&contract);
    assert_eq!(
        [hex(wire), hex(full), hex(contract.hash())],
        [
            "af53b5a3753b01e0147ffbfbd6e9c30d52c361a80e3fb592d48605c5f77c0d38",
            "9e88de723d67168c848507c9f31d52c31f82a9d1c0cb282dbebde1cbf7649d38",
            "22f8a0f4fe1ed8d9776aa96d22a7f1ecb37a6716d17c0d6b63275a0ba07668f9"
        ]
    );
}
