//! Plans between two versions: what they do to bytes, and what they refuse.
//!
//! `prost_reflect` is the oracle: what a plan makes of a message is decoded with the reader's descriptors and compared with what should arrive.

use std::sync::Arc;

use bytes::Bytes;
use mortise_contract::{
    Contract,
    compat::Rule,
    evolve::{AdaptError, Lineage, LineageError, MessageMap, Plan, Refusal, Step, Way},
};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, Value};

use crate::{
    model::{Label, Layout, Model, Type, models},
    support::contract,
};

const MAX: usize = 1 << 20;

/// A contract whose one method takes and returns `M`.
fn shop(fields: &str, more: &str) -> Contract {
    contract(&format!(
        "syntax = \"proto3\"; package p; import \"mortise/options.proto\"; \
         service S {{ rpc Call(M) returns (R); }} message M {{ {fields} }} message R {{ bool ok = 1; }} {more}"
    ))
}

fn plan_with(old: &Contract, new: &Contract, lineage: &Lineage) -> Result<Plan, Refusal> {
    Plan::between(old, &old.methods()[0], new, &[lineage])
}

fn plan(old: &Contract, new: &Contract) -> Plan {
    plan_with(old, new, &Lineage::empty()).unwrap_or_else(|it| panic!("{it}"))
}

fn refused(old: &Contract, new: &Contract) -> Refusal {
    plan_with(old, new, &Lineage::empty()).expect_err("it should be refused")
}

fn input(contract: &Contract) -> MessageDescriptor {
    contract.methods()[0].input()
}

/// A message of the contract's request, from protobuf's JSON form.
fn written(contract: &Contract, json: &str) -> Bytes {
    let mut reader = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(input(contract), &mut reader);
    message
        .unwrap_or_else(|it| panic!("{json}: {it}"))
        .encode_to_vec()
        .into()
}

/// What a reader sees, in protobuf's JSON form.
fn seen(contract: &Contract, bytes: &[u8]) -> serde_json::Value {
    let message = DynamicMessage::decode(input(contract), bytes).unwrap_or_else(|it| panic!("{it}"));
    serde_json::to_value(&message).unwrap_or_else(|it| panic!("{it}"))
}

/// What the provider reads of what the caller wrote.
#[track_caller]
fn arrives(plan: &Plan, old: &Contract, new: &Contract, json: &str, expected: &str) {
    let adapted = plan
        .request(written(old, json), MAX)
        .unwrap_or_else(|it| panic!("{it}"));
    let expected: serde_json::Value = serde_json::from_str(expected).expect("the test's own JSON");
    assert_eq!(seen(new, &adapted), expected, "{json}");
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

fn map(fields: &[(&str, &str)], defaults: &[(&str, &str)], drop: &[&str]) -> MessageMap {
    MessageMap {
        older: "p.M".to_owned(),
        newer: "p.M".to_owned(),
        fields: pairs(fields),
        defaults: pairs(defaults),
        drop: drop.iter().map(|it| (*it).to_owned()).collect(),
        up: None,
        down: None,
    }
}

fn step(from: &str, to: &str, messages: Vec<MessageMap>) -> Step {
    Step {
        from: from.to_owned(),
        to: to.to_owned(),
        messages,
    }
}

fn lineage(versions: &[(&str, &Contract)], steps: Vec<Step>) -> Result<Lineage, Vec<LineageError>> {
    let versions = versions
        .iter()
        .map(|(name, it)| (Arc::from(*name), Arc::new((*it).clone())));
    Lineage::new(versions.collect(), steps)
}

fn two(old: &Contract, new: &Contract, map: MessageMap) -> Lineage {
    lineage(&[("1", old), ("2", new)], vec![step("1", "2", vec![map])]).unwrap_or_else(|it| panic!("{it:?}"))
}

// === nothing to do ===

#[test]
fn equal_contracts_share_the_very_bytes() {
    let one = shop("string x = 1;", "");
    let plan = plan(&one, &one);
    assert_eq!((plan.way(), plan.is_identity()), (Way::Same, true));
    let bytes = Bytes::from_static(b"\xff not even protobuf");
    let passed = plan.request(bytes.clone(), 0).expect("nobody looks");
    assert_eq!(passed.as_ptr(), bytes.as_ptr(), "E1: the same bytes, not a copy");
}

#[test]
fn an_added_field_passes_in_both_directions() {
    let old = shop("string x = 1;", "");
    let new = shop(
        "string x = 1; repeated int32 y = 2; Kind kind = 3;",
        "enum Kind { A = 0; }",
    );
    for (one, other) in [(&old, &new), (&new, &old)] {
        let plan = plan(one, other);
        assert_eq!((plan.way(), plan.is_identity()), (Way::Passes, true));
    }
}

#[test]
fn an_enum_number_that_the_reader_does_not_know_is_kept() {
    let of = |values: &str| {
        let kind = format!("enum Kind {{ KIND_NONE = 0; {values} }}");
        shop("Kind kind = 1;", &kind)
    };
    let (old, new) = (of("KIND_A = 1;"), of("KIND_A = 1; KIND_B = 7;"));
    for (one, other) in [(&old, &new), (&new, &old)] {
        assert_eq!(plan(one, other).way(), Way::Passes);
    }
    arrives(
        &plan(&new, &old),
        &new,
        &old,
        r#"{"kind": "KIND_B"}"#,
        r#"{"kind": 7}"#,
    );
}

// === derived ===

#[test]
fn a_default_stands_in_front_and_gives_way() {
    let old = shop("string x = 1;", "");
    let new = shop(
        "string x = 1; string currency = 2 [(mortise.default) = \"EUR\"];",
        "",
    );
    let plan = plan(&old, &new);
    assert_eq!(plan.way(), Way::Defaults);
    assert_eq!(
        plan.changes()[0].to_string(),
        "request: `p.M.currency` is \"EUR\" where the writer does not know it"
    );
    arrives(
        &plan,
        &old,
        &new,
        r#"{"x": "a"}"#,
        r#"{"x": "a", "currency": "EUR"}"#,
    );
    // A caller that passes on what a newer one wrote.
    let relayed = written(&new, r#"{"x": "a", "currency": "CHF"}"#);
    let adapted = plan.request(relayed.clone(), MAX).expect("it fits");
    assert!(adapted.ends_with(&relayed), "what was written follows as it is");
    assert_eq!(seen(&new, &adapted)["currency"], "CHF");
}

#[test]
fn a_default_reaches_embedded_messages_that_are_there_and_makes_none() {
    let of = |inner: &str| {
        shop(
            "Item one = 1; repeated Item many = 2; map<string, Item> named = 3;",
            &format!("message Item {{ string id = 1; {inner} }}"),
        )
    };
    let old = of("");
    let new = of("int32 count = 2 [(mortise.default) = \"1\"];");
    let plan = plan(&old, &new);
    arrives(&plan, &old, &new, "{}", "{}");
    arrives(
        &plan,
        &old,
        &new,
        r#"{"one": {"id": "a"}, "many": [{}, {"id": "b"}], "named": {"k": {}}}"#,
        r#"{"one": {"id": "a", "count": 1}, "many": [{"count": 1}, {"id": "b", "count": 1}], "named": {"k": {"count": 1}}}"#,
    );
    // One message in two pieces: the default does not come after what was written in the first.
    let piece = |count: i32| {
        let mut item = DynamicMessage::new(new.pool().get_message_by_name("p.Item").expect("declared"));
        item.set_field_by_name("count", Value::I32(count));
        let mut whole = DynamicMessage::new(input(&new));
        whole.set_field_by_name("one", Value::Message(item));
        whole.encode_to_vec()
    };
    let split = [
        piece(9),
        piece(0),
        written(&old, r#"{"one": {"id": "z"}}"#).to_vec(),
    ]
    .concat();
    let adapted = plan.request(split.into(), MAX).expect("it fits");
    assert_eq!(
        seen(&new, &adapted)["one"],
        serde_json::json!({"id": "z", "count": 9})
    );
}

#[test]
fn numbers_widen_for_nothing_and_narrow_with_a_check() {
    let of = |ty: &str| shop(&format!("{ty} n = 1;"), "");
    let (narrow, wide) = (of("int32"), of("int64"));
    assert!(plan(&narrow, &wide).is_identity(), "int32 is written as int64 is");
    let plan = plan(&wide, &narrow);
    assert_eq!(plan.way(), Way::Converted);
    arrives(&plan, &wide, &narrow, r#"{"n": "-7"}"#, r#"{"n": -7}"#);
    let error = plan
        .request(written(&wide, r#"{"n": "2147483648"}"#), MAX)
        .expect_err("it does not fit");
    assert_eq!(
        error.to_string(),
        "`p.M.n` is 2147483648, and the other side's contract has a type that cannot hold it (`int64` -> `int32`)"
    );
}

#[test]
fn every_whole_number_becomes_every_other() {
    let kinds = [
        "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
        "sfixed64", "bool",
    ];
    for from in kinds {
        for to in kinds {
            for label in ["", "repeated "] {
                let of = |ty: &str| {
                    shop(
                        &format!("string before = 1; {label}{ty} n = 2; string after = 3;"),
                        "",
                    )
                };
                let (old, new) = (of(from), of(to));
                let mut message = DynamicMessage::new(input(&old));
                let field = input(&old).get_field_by_name("n").expect("declared");
                let one = if from == "bool" {
                    Value::Bool(true)
                } else {
                    number(&field.kind(), 1)
                };
                let value = if label.is_empty() {
                    one
                } else {
                    Value::List(vec![one])
                };
                message.set_field_by_name("n", value);
                message.set_field_by_name("after", Value::String("x".to_owned()));
                let adapted = plan(&old, &new)
                    .request(message.encode_to_vec().into(), MAX)
                    .unwrap_or_else(|it| panic!("{from} -> {to}: {it}"));
                let read = DynamicMessage::decode(input(&new), adapted).expect("it is of the new type");
                let field = input(&new).get_field_by_name("n").expect("declared");
                let one = if to == "bool" {
                    Value::Bool(true)
                } else {
                    number(&field.kind(), 1)
                };
                let expected = if label.is_empty() {
                    one
                } else {
                    Value::List(vec![one])
                };
                assert_eq!(
                    *read.get_field_by_name("n").expect("declared"),
                    expected,
                    "{from} -> {to}"
                );
                assert_eq!(
                    read.get_field_by_name("after").expect("declared").as_str(),
                    Some("x")
                );
            }
        }
    }
}

/// What every integer type has at its ends, and what another one of the same width has there.
#[test]
fn a_whole_number_arrives_as_itself_or_not_at_all() {
    let kinds = [
        "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
        "sfixed64", "E",
    ];
    let numbers = [
        -1,
        i128::from(i32::MIN),
        i128::from(i64::MIN),
        1 << 31,
        (1 << 32) - 1,
        1 << 63,
        i128::from(u64::MAX),
    ];
    let of = |ty: &str, number: u32| shop(&format!("{ty} n = {number};"), "enum E { ZERO = 0; }");
    for from in kinds {
        for to in kinds {
            // Where it was, and under another number.
            for moved in [1, 2] {
                let (old, new) = (of(from, 1), of(to, moved));
                let line = two(&old, &new, map(&[("n", "n")], &[], &[]));
                let plan = if moved == 1 {
                    plan(&old, &new)
                } else {
                    plan_with(&old, &new, &line).unwrap_or_else(|it| panic!("{from} -> {to}: {it}"))
                };
                let field = input(&old).get_field_by_name("n").expect("declared");
                for number in numbers {
                    let Some(value) = whole(&field.kind(), number) else {
                        continue;
                    };
                    let mut message = DynamicMessage::new(input(&old));
                    message.set_field_by_name("n", value);
                    let adapted = plan.request(message.encode_to_vec().into(), MAX);
                    let field = input(&new).get_field_by_name("n").expect("declared");
                    match (whole(&field.kind(), number), adapted) {
                        (Some(expected), Ok(bytes)) => {
                            let read =
                                DynamicMessage::decode(input(&new), bytes).expect("it is of the new type");
                            let read = read.get_field_by_name("n").expect("declared").into_owned();
                            assert_eq!(read, expected, "{from} -> {to}: {number}");
                        }
                        (None, Err(AdaptError::Unfit { value, .. })) => assert_eq!(value, number.to_string()),
                        (_, other) => panic!("{from} -> {to}: {number} is {other:?}"),
                    }
                }
            }
        }
    }
}

/// The number in that type, if it has it.
fn whole(kind: &Kind, number: i128) -> Option<Value> {
    Some(match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number.try_into().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number.try_into().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number.try_into().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number.try_into().ok()?),
        Kind::Enum(_) => Value::EnumNumber(number.try_into().ok()?),
        other => panic!("{other:?}"),
    })
}

fn number(kind: &Kind, n: i32) -> Value {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(n),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(n.into()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(n.unsigned_abs()),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(n.unsigned_abs().into()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_value_becomes_a_list_and_a_list_never_one_value() {
    let (one, many) = (shop("int32 n = 1;", ""), shop("repeated int32 n = 1;", ""));
    arrives(&plan(&one, &many), &one, &many, r#"{"n": 4}"#, r#"{"n": [4]}"#);
    let refusal = refused(&many, &one);
    assert_eq!(refusal.violations[0].rule, Rule::FieldWireCompatibleCardinality);
}

// === refused ===

#[test]
fn a_refusal_names_every_field_with_its_rule_and_what_to_do() {
    let old = shop(
        "int32 a = 1; string b = 2; Inner inner = 3;",
        "message Inner { bytes c = 1; }",
    );
    let new = shop(
        "string a = 1; Inner b = 2; Inner inner = 3;",
        "message Inner { double c = 1; }",
    );
    let refusal = refused(&old, &new);
    let paths: Vec<_> = refusal.violations.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["p.Inner.c", "p.M.a", "p.M.b"]);
    assert_eq!(
        refusal.violations[1].to_string(),
        "`p.M.a` was `int32` and is `string` (FIELD_WIRE_COMPATIBLE_TYPE): the reader would misread the bytes; restore the type, or add a new field with a new number"
    );
}

#[test]
fn two_sides_that_both_lost_fields_are_no_versions_of_each_other() {
    let (one, other) = (shop("string a = 1;", ""), shop("string b = 2;", ""));
    assert_eq!(
        refused(&one, &other).violations[0].rule,
        Rule::FieldNoDeleteUnlessNumberReserved
    );
    let careful = shop("string b = 2; reserved 1;", "");
    assert_eq!(plan(&one, &careful).way(), Way::Passes);
}

#[test]
fn a_missing_method_is_refused() {
    let service = |rpcs: &str| {
        contract(&format!(
            "syntax = \"proto3\"; package p; import \"mortise/options.proto\"; service S {{ {rpcs} }} message M {{ string x = 1; }}"
        ))
    };
    let old = service("rpc Get(M) returns (M);");
    assert_eq!(
        refused(&old, &service("rpc Fetch(M) returns (M);")).violations[0].rule,
        Rule::RpcNoDelete
    );
}

// === declared ===

const OLD: &str = "string id = 1; string zip = 2; int32 grams = 3; Level level = 4; string note = 5;";
const NEW: &str = "string id = 1; Address address = 6; string grams = 3; string level = 4; double note = 5;";
const OLD_MORE: &str = "enum Level { LEVEL_NONE = 0; LEVEL_HIGH = 2; }";
const NEW_MORE: &str = "message Address { string street = 1; string zip = 2; }";

fn moved() -> (Contract, Contract, Lineage) {
    let (old, new) = (shop(OLD, OLD_MORE), shop(NEW, NEW_MORE));
    let rules = map(
        &[("zip", "address.zip"), ("grams", "grams"), ("level", "level")],
        &[],
        &["note"],
    );
    let lineage = two(&old, &new, rules);
    (old, new, lineage)
}

#[test]
fn a_declared_map_moves_and_converts() {
    let (old, new, lineage) = moved();
    let forth = plan_with(&old, &new, &lineage).expect("a map is declared");
    assert_eq!(
        (forth.way(), forth.via()),
        (Way::Adapted, &["1".to_owned(), "2".to_owned()][..])
    );
    arrives(
        &forth,
        &old,
        &new,
        r#"{"id": "a", "zip": "8000", "grams": 12, "level": "LEVEL_HIGH", "note": "gone"}"#,
        r#"{"id": "a", "address": {"zip": "8000"}, "grams": "12", "level": "LEVEL_HIGH"}"#,
    );
    // Zero is not written, and a reader of text would take that for no text.
    arrives(
        &forth,
        &old,
        &new,
        r#"{"id": "a"}"#,
        r#"{"id": "a", "grams": "0", "level": "LEVEL_NONE"}"#,
    );
}

#[test]
fn the_same_map_leads_back() {
    let (old, new, lineage) = moved();
    let back = plan_with(&new, &old, &lineage).expect("a map is declared");
    arrives(
        &back,
        &new,
        &old,
        r#"{"id": "a", "address": {"zip": "8000"}, "grams": "12", "level": "LEVEL_HIGH", "note": 2.5}"#,
        r#"{"id": "a", "zip": "8000", "grams": 12, "level": "LEVEL_HIGH"}"#,
    );
    // What the older side has no place for passes as an unknown field; of an address that had only a zip nothing is left.
    let rest = |json| back.request(written(&new, json), MAX).expect("it fits");
    let with_street = rest(r#"{"address": {"street": "s", "zip": "1"}}"#);
    assert_eq!(
        seen(&new, &with_street)["address"],
        serde_json::json!({"street": "s"})
    );
    assert_eq!(
        rest(r#"{"address": {"zip": "1"}}"#),
        written(&old, r#"{"zip": "1"}"#)
    );
    let error = back
        .request(written(&new, r#"{"grams": "a lot"}"#), MAX)
        .expect_err("no number");
    assert!(matches!(error, AdaptError::Unfit { .. }), "{error}");
}

#[test]
fn a_declared_map_comes_before_what_looks_compatible() {
    let old = shop("string zip = 1;", "");
    let new = shop("reserved 1; string code = 2;", "");
    assert_eq!(
        plan(&old, &new).way(),
        Way::Passes,
        "by the looks of it, zip went and code came"
    );
    let lineage = two(&old, &new, map(&[("zip", "code")], &[], &[]));
    let plan = plan_with(&old, &new, &lineage).expect("a map is declared");
    arrives(&plan, &old, &new, r#"{"zip": "8000"}"#, r#"{"code": "8000"}"#);
}

#[test]
fn what_is_left_of_a_message_never_lands_on_another_field() {
    let old = shop("string zip = 3;", "");
    let new = shop(
        "Address address = 3;",
        "message Address { string street = 1; string zip = 2; }",
    );
    let lineage = two(&old, &new, map(&[("zip", "address.zip")], &[], &[]));
    let forth = plan_with(&old, &new, &lineage).expect("a map is declared");
    arrives(
        &forth,
        &old,
        &new,
        r#"{"zip": "1"}"#,
        r#"{"address": {"zip": "1"}}"#,
    );
    let back = plan_with(&new, &old, &lineage).expect("a map is declared");
    arrives(
        &back,
        &new,
        &old,
        r#"{"address": {"street": "s", "zip": "1"}}"#,
        r#"{"zip": "1"}"#,
    );
    arrives(&back, &new, &old, r#"{"address": {"street": "s"}}"#, "{}");
}

#[test]
fn a_declared_default_comes_before_the_contracts() {
    let old = shop("string x = 1;", "");
    let new = shop("string x = 1; string y = 2 [(mortise.default) = \"a\"];", "");
    let lineage = two(&old, &new, map(&[], &[("y", "b")], &[]));
    let plan = plan_with(&old, &new, &lineage).expect("a map is declared");
    arrives(&plan, &old, &new, "{}", r#"{"y": "b"}"#);
}

#[test]
fn chains_are_the_shortest_and_end_after_three() {
    let of = |number: u32| shop(&format!("string x = {number};"), "");
    let all: Vec<_> = (1..=5).map(of).collect();
    let names = ["1", "2", "3", "4", "5"];
    let versions: Vec<_> = names.into_iter().zip(&all).collect();
    let rename = || map(&[("x", "x")], &[], &[]);
    let next = |from: usize, to: usize| step(names[from], names[to], vec![rename()]);
    let line = lineage(&versions, (0..4).map(|it| next(it, it + 1)).collect()).expect("it fits");
    let three = plan_with(&all[0], &all[3], &line).expect("three steps");
    assert_eq!(three.via(), ["1", "2", "3", "4"]);
    arrives(&three, &all[0], &all[3], r#"{"x": "a"}"#, r#"{"x": "a"}"#);
    let back = plan_with(&all[3], &all[0], &line).expect("three steps back");
    assert_eq!(back.via(), ["4", "3", "2", "1"]);
    plan_with(&all[0], &all[4], &line).expect_err("four steps");
    let with_shortcut: Vec<_> = line.steps().iter().cloned().chain([next(0, 3)]).collect();
    let line = lineage(&versions, with_shortcut).expect("it fits");
    assert_eq!(
        plan_with(&all[0], &all[4], &line).expect("two steps").via(),
        ["1", "4", "5"]
    );
}

#[test]
fn a_chain_may_begin_and_end_beside_a_declared_version() {
    let old = shop("string x = 1;", "");
    let new = shop("string x = 2;", "");
    let line = two(&old, &new, map(&[("x", "x")], &[], &[]));
    let (near_old, near_new) = (
        shop("string x = 1; string more = 9;", ""),
        shop("string x = 2; int32 z = 8;", ""),
    );
    let plan = plan_with(&near_old, &near_new, &line).expect("derived, declared, derived");
    assert_eq!(plan.way(), Way::Adapted);
    arrives(
        &plan,
        &near_old,
        &near_new,
        r#"{"x": "a", "more": "b"}"#,
        r#"{"x": "a"}"#,
    );
}

#[test]
fn functions_stand_in_the_chain_and_lead_one_way() {
    let (old, new) = (shop("string x = 1;", ""), shop("int64 x = 1;", ""));
    let target = |text| mortise_contract::Target::parse(text).expect("a target");
    let functions = MessageMap {
        up: Some(target("p.Adapter/Up")),
        ..map(&[], &[], &[])
    };
    let step = step("1", "2", vec![functions]);
    let line = lineage(&[("1", &old), ("2", &new)], vec![step]).expect("it fits");
    let plan = plan_with(&old, &new, &line).expect("a function is declared");
    assert!(plan.has_functions());
    assert_eq!(
        (plan.request_stages().len(), plan.response_stages().len()),
        (1, 0)
    );
    let refusal = plan_with(&new, &old, &line).expect_err("it leads from old to new only");
    assert!(
        refusal.to_string().contains("no function `down` for `p.M`"),
        "{refusal}"
    );
}

#[test]
fn digits_become_the_nearest_number_and_come_back() {
    let (old, new) = (shop("string n = 1;", ""), shop("float n = 1;", ""));
    let rules = map(&[("n", "n")], &[], &[]);
    let line = two(&old, &new, rules);
    let up = plan_with(&old, &new, &line).unwrap_or_else(|it| panic!("{it}"));
    let bytes = up
        .request(written(&old, r#"{"n": "0.1"}"#), MAX)
        .expect("it is a number");
    let read = DynamicMessage::decode(input(&new), bytes.clone()).expect("it is of the new type");
    assert_eq!(*read.get_field_by_name("n").expect("declared"), Value::F32(0.1));
    let down = plan_with(&new, &old, &line).unwrap_or_else(|it| panic!("{it}"));
    let back = down.request(bytes, MAX).expect("it is a text");
    assert_eq!(seen(&old, &back)["n"], "0.1");
}

#[test]
fn an_error_does_not_tell_a_text() {
    for to in ["int32", "double", "float"] {
        let (old, new) = (shop("string n = 1;", ""), shop(&format!("{to} n = 1;"), ""));
        let line = two(&old, &new, map(&[("n", "n")], &[], &[]));
        let plan = plan_with(&old, &new, &line).unwrap_or_else(|it| panic!("{it}"));
        let error = plan
            .request(written(&old, r#"{"n": "hunter2"}"#), MAX)
            .expect_err("it is no number");
        assert!(
            error.to_string().starts_with("`p.M.n` is a text of 7 bytes, and"),
            "{error}"
        );
    }
}

#[test]
fn rules_about_the_same_field_are_refused_when_they_are_read() {
    let more = "message A { string zip = 1; string city = 2; }";
    let old = shop("A address = 1; string zip = 2; string post = 3;", more);
    let new = shop("A home = 4; string code = 5; string other = 6;", more);
    let faults = |rules: &[(&str, &str)]| {
        let rules = map(rules, &[], &[]);
        let made = lineage(&[("1", &old), ("2", &new)], vec![step("1", "2", vec![rules])]);
        made.map_or_else(
            |all| all.iter().map(ToString::to_string).collect(),
            |_| Vec::new(),
        )
    };
    for (rules, about) in [
        ([("address", "home"), ("address.zip", "code")], "about `address`"),
        ([("address.zip", "code"), ("address", "home")], "about `address`"),
        ([("zip", "code"), ("post", "code")], "about `code`"),
        ([("zip", "home.zip"), ("address", "home")], "about `home`"),
    ] {
        let all = faults(&rules);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains(about), "{all:?}");
    }
    let fine = faults(&[
        ("zip", "home.zip"),
        ("post", "home.city"),
        ("address.zip", "code"),
        ("address.city", "other"),
    ]);
    assert_eq!(fine, Vec::<String>::new());
}

#[test]
fn rules_that_fit_nothing_are_refused_when_they_are_read() {
    let (old, new) = (shop(OLD, OLD_MORE), shop(NEW, NEW_MORE));
    let faults = |rules: MessageMap| {
        let made = lineage(&[("1", &old), ("2", &new)], vec![step("1", "2", vec![rules])]);
        let errors = made.expect_err("it does not fit");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let cases = [
        (
            map(&[("zap", "address.zip")], &[], &[]),
            "`p.M` has no field `zap`",
        ),
        (
            map(&[("zip", "address.zap")], &[], &[]),
            "`p.Address` has no field `zap`",
        ),
        (map(&[("zip", "id.zip")], &[], &[]), "leads through `p.M.id`"),
        (map(&[], &[("zip", "x")], &[]), "`p.M` has no field `zip`"),
        (map(&[], &[("note", "x")], &[]), "it must be a number"),
        (map(&[], &[], &["address"]), "`p.M` has no field `address`"),
    ];
    for (rules, expected) in cases {
        let all = faults(rules);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains(expected), "{all:?}");
    }
    let unknown = lineage(&[("1", &old)], vec![step("1", "3", vec![])]).expect_err("no version 3");
    assert!(
        unknown[0].to_string().contains("no contract of `3`"),
        "{unknown:?}"
    );
}

// === bytes from strangers, and random contracts ===

/// A message of any contract, with a value in each field that `present` says.
fn filled(of: &MessageDescriptor, seeds: &mut impl Iterator<Item = u8>, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        let seed = seeds.next().unwrap_or_default();
        if seed.is_multiple_of(3) || (depth == 0 && matches!(field.kind(), Kind::Message(_))) {
            continue;
        }
        let value = |kind: &Kind, seeds: &mut dyn Iterator<Item = u8>| match kind {
            Kind::Bool => Value::Bool(seed & 1 == 1),
            Kind::Float => Value::F32(seed.into()),
            Kind::Double => Value::F64(seed.into()),
            Kind::String => Value::String("é".repeat(usize::from(seed % 5))),
            Kind::Bytes => Value::Bytes(vec![seed; 3].into()),
            Kind::Enum(_) => Value::EnumNumber(i32::from(seed % 20)),
            Kind::Message(inner) => {
                let mut seeds = seeds;
                Value::Message(filled(inner, &mut seeds, depth - 1))
            }
            kind => number(kind, seed.into()),
        };
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                unreachable!()
            };
            let inner = value(&entry.map_entry_value_field().kind(), seeds);
            Value::Map([(MapKey::String("k".to_owned()), inner)].into())
        } else if field.is_list() {
            let one = value(&field.kind(), seeds);
            Value::List(vec![one.clone(), one])
        } else {
            value(&field.kind(), seeds)
        };
        message.set_field(&field, value);
    }
    message
}

fn linked(model: &Model) -> Contract {
    contract(&model.write(Layout::default())[0].1)
}

/// The same contract with more fields in every message.
fn grown(model: &Model) -> Model {
    let mut grown = model.clone();
    for (index, message) in grown.messages.iter_mut().enumerate() {
        let number = 50 + u32::try_from(index).expect("few messages");
        message.push(crate::model::Field {
            name: format!("added{number}"),
            number,
            ty: Type::Scalar("string"),
            label: Label::Implicit,
        });
    }
    grown
}

/// Every narrow number wider, which a reader of the old version has to check.
fn widened(model: &Model) -> Model {
    let mut wide = model.clone();
    for field in wide.messages.iter_mut().flatten() {
        field.ty = match field.ty {
            Type::Scalar("int32") => Type::Scalar("int64"),
            Type::Scalar("uint32") => Type::Scalar("uint64"),
            Type::Scalar("sint32") => Type::Scalar("sint64"),
            Type::Scalar("fixed32") => Type::Scalar("fixed64"),
            Type::Scalar("float") => Type::Scalar("double"),
            other => other,
        };
    }
    wide
}

fn has_float(model: &Model) -> bool {
    let mut fields = model.messages.iter().flatten();
    fields.any(|it| it.ty == Type::Scalar("float"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn growing_costs_nothing(model in models(), seeds in proptest::collection::vec(any::<u8>(), 0..64)) {
        let (old, new) = (linked(&model), linked(&grown(&model)));
        for (one, other) in [(&old, &new), (&new, &old)] {
            let plan = Plan::between(one, &one.methods()[0], other, &[]).map_err(|it| TestCaseError::fail(it.to_string()))?;
            let bytes = Bytes::from(filled(&input(one), &mut seeds.iter().copied(), 3).encode_to_vec());
            prop_assert_eq!(plan.request(bytes.clone(), MAX).expect("nothing to do"), bytes);
        }
    }

    #[test]
    fn what_was_widened_arrives_and_comes_back(model in models(), seeds in proptest::collection::vec(any::<u8>(), 0..64)) {
        // A double that is no float is refused on the way back at binding, so there is no plan.
        prop_assume!(!has_float(&model));
        // Keys and maps of fixed32 change their encoding as fields do.
        let (old, new) = (linked(&model), linked(&widened(&model)));
        let forth = Plan::between(&old, &old.methods()[0], &new, &[]).map_err(|it| TestCaseError::fail(it.to_string()))?;
        let back = Plan::between(&new, &new.methods()[0], &old, &[]).map_err(|it| TestCaseError::fail(it.to_string()))?;
        // Zeroes that are set and zeroes that are not are the same on the wire.
        let plain = |of: &Contract| {
            let filled = filled(&input(of), &mut seeds.iter().copied(), 3).encode_to_vec();
            DynamicMessage::decode(input(of), &filled[..]).expect("it was encoded")
        };
        let message = plain(&old);
        let bytes = Bytes::from(message.encode_to_vec());
        let there = forth.request(bytes, MAX).map_err(|it| TestCaseError::fail(it.to_string()))?;
        let wide = DynamicMessage::decode(input(&new), there.clone()).expect("it is of the new type");
        prop_assert_eq!(wide.unknown_fields().count(), 0, "every field is known");
        // The same seeds make the same values of the wider types.
        prop_assert_eq!(&wide, &plain(&new));
        let again = back.request(there, MAX).map_err(|it| TestCaseError::fail(it.to_string()))?;
        prop_assert_eq!(DynamicMessage::decode(input(&old), again).expect("it is of the old type"), message);
    }

    #[test]
    fn unknown_fields_keep_their_bytes_and_their_order(
        before in unknown(), between in unknown(), after in unknown(), zip in ".{0,8}"
    ) {
        let (old, new, lineage) = moved();
        let plan = plan_with(&old, &new, &lineage).expect("a map is declared");
        let field = |json: &str| written(&old, json).to_vec();
        let zip = field(&serde_json::json!({ "zip": zip }).to_string());
        let message = [before.clone(), zip.clone(), between.clone(), field(r#"{"grams": 5}"#), after.clone()].concat();
        let adapted = plan.request(message.into(), MAX).expect("it is protobuf");
        let address = if zip.is_empty() { vec![] } else {
            let inner = zip;
            [vec![6 << 3 | 2, u8::try_from(inner.len()).expect("short")], inner].concat()
        };
        // Zeroes of what became text, then all in its order; `zip` is 2 in both messages.
        let zeroes = written(&new, r#"{"grams": "0"}"#).to_vec();
        let none = written(&new, r#"{"level": "LEVEL_NONE"}"#).to_vec();
        let grams = written(&new, r#"{"grams": "5"}"#).to_vec();
        prop_assert_eq!(adapted, [zeroes, none, before, address, between, grams, after].concat());
    }

    #[test]
    fn noise_is_refused_or_rewritten_within_its_bound(noise in proptest::collection::vec(any::<u8>(), 0..200), max in 0_usize..300) {
        let (old, new, lineage) = moved();
        for (one, other) in [(&old, &new), (&new, &old)] {
            let plan = plan_with(one, other, &lineage).expect("a map is declared");
            match plan.request(noise.clone().into(), max) {
                Ok(adapted) => prop_assert!(adapted.len() <= max),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn what_one_bit_breaks_is_refused_or_still_protobuf(at in any::<prop::sample::Index>(), bit in 0..8) {
        let (old, new, lineage) = moved();
        let plan = plan_with(&new, &old, &lineage).expect("a map is declared");
        let mut bytes = written(&new, r#"{"id": "a", "address": {"street": "s", "zip": "8000"}, "grams": "12", "level": "LEVEL_HIGH"}"#).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let valid = DynamicMessage::decode(input(&new), &bytes[..]).is_ok();
        match plan.request(bytes.into(), MAX) {
            Ok(adapted) => {
                let read = DynamicMessage::decode(input(&old), adapted);
                prop_assert!(!valid || read.is_ok(), "a valid message became an invalid one");
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

/// Fields of numbers that no contract here has.
fn unknown() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        (100_u32..200, any::<u64>()).prop_map(|(number, it)| {
            let mut out = Vec::new();
            prost::encoding::uint64::encode(number, &it, &mut out);
            out
        }),
        (100_u32..200, proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(number, it)| {
            let mut out = Vec::new();
            prost::encoding::bytes::encode(number, &it, &mut out);
            out
        }),
        (100_u32..200, any::<u32>()).prop_map(|(number, it)| {
            let mut out = Vec::new();
            prost::encoding::fixed32::encode(number, &it, &mut out);
            out
        }),
    ];
    proptest::collection::vec(field, 0..4).prop_map(|it| it.concat())
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let of = |ty: &str| shop(&format!("M next = 1; {ty} n = 2;"), "");
    let (old, new) = (of("int64"), of("int32"));
    let plan = plan(&old, &new);
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(&bytes);
        bytes = outer;
    }
    assert_eq!(plan.request(bytes.into(), MAX), Err(AdaptError::TooDeep));
}

#[test]
fn many_small_messages_cannot_grow_without_end() {
    let of = |inner: &str| shop("repeated Item many = 1;", &format!("message Item {{ {inner} }}"));
    let text = "x".repeat(1000);
    let new = of(&format!("string s = 1 [(mortise.default) = \"{text}\"];"));
    let plan = plan(&of(""), &new);
    let empties = [0x0a, 0x00].repeat(10_000);
    let refused = plan.request(empties.into(), 1 << 20);
    assert_eq!(refused, Err(AdaptError::TooLarge { max: 1 << 20 }));
}

#[test]
fn values_in_one_field_are_counted_as_they_come() {
    // What is too long is noticed before the last value, which does not fit: nobody converts the whole to find that it is too long.
    let (old, new) = (
        shop("repeated int64 n = 1;", ""),
        shop("repeated fixed32 n = 1;", ""),
    );
    let texts = shop("repeated string n = 2;", "");
    let line = two(&old, &texts, map(&[("n", "n")], &[], &[]));
    let to_texts = plan_with(&old, &texts, &line).unwrap_or_else(|it| panic!("{it}"));
    let broken = [&b"\x0a\xe9\x07"[..], &[1; 1000], b"\xff"].concat();
    for plan in [plan(&old, &new), to_texts] {
        let whole = plan.request(broken.clone().into(), 1 << 20);
        assert!(matches!(whole, Err(AdaptError::Malformed { .. })), "{whole:?}");
        let bounded = plan.request(broken.clone().into(), 100);
        assert_eq!(bounded, Err(AdaptError::TooLarge { max: 100 }));
    }
}

#[test]
fn lengths_are_right_whether_their_digits_change_or_not() {
    let of = |ty: &str, default: &str| {
        let note = format!("string note = 3 [(mortise.default) = \"{default}\"];");
        let note = if default.is_empty() { String::new() } else { note };
        shop(&format!("M next = 1; {ty} n = 2; string text = 4; {note}"), "")
    };
    let wide = of("int64", "");
    let nested = |lengths: &[usize]| {
        lengths
            .iter()
            .fold(DynamicMessage::new(input(&wide)), |inner, length| {
                let mut outer = DynamicMessage::new(input(&wide));
                outer.set_field_by_name("next", Value::Message(inner));
                outer.set_field_by_name("n", Value::I64(3));
                outer.set_field_by_name("text", Value::String("x".repeat(*length)));
                outer
            })
    };
    for new in [
        of("int32", ""),
        of("int64", "12345678"),
        of("fixed64", "12345678"),
        of("sint32", ""),
    ] {
        let plan = plan(&wide, &new);
        for length in (0..20).chain(90..140).chain(16_350..16_400) {
            let message = nested(&[length, length, 1]);
            let bytes = message.encode_to_vec();
            let adapted = plan
                .request(bytes.into(), MAX)
                .unwrap_or_else(|it| panic!("{it}"));
            let read = DynamicMessage::decode(input(&new), adapted.clone()).expect("lengths are right");
            // Whoever encodes it anew uses no more digits than it takes.
            assert_eq!(read.encoded_len(), adapted.len(), "{length}");
            let back = self::plan(&new, &wide)
                .request(adapted, MAX)
                .unwrap_or_else(|it| panic!("{it}"));
            let mut back = seen(&wide, &back);
            strip(&mut back);
            assert_eq!(back, serde_json::to_value(&message).expect("it is JSON"));
        }
    }
}

/// The version that does not know `note` shows it nowhere; this only asserts so, all the way down.
fn strip(message: &mut serde_json::Value) {
    let mut at = Some(message);
    while let Some(it) = at {
        assert!(it.get("note").is_none());
        at = it.get_mut("next");
    }
}

#[test]
fn a_length_with_more_digits_than_it_takes_keeps_them() {
    let of = |ty: &str| shop(&format!("M next = 1; {ty} n = 2; string text = 4;"), "");
    let (wide, narrow, fixed) = (of("int64"), of("int32"), of("fixed32"));
    let cases = [
        (
            &narrow,
            b"\x10\x05\x22\x02ok".to_vec(),
            b"\x10\x05\x22\x02ok".to_vec(),
        ),
        // Nothing in it is touched.
        (&narrow, b"\x22\x02ok".to_vec(), b"\x22\x02ok".to_vec()),
        (
            &fixed,
            b"\x10\x05\x22\x02ok".to_vec(),
            b"\x15\x05\0\0\0\x22\x02ok".to_vec(),
        ),
    ];
    for (new, before, after) in cases {
        // `next` with a tag of two bytes and a length of three, in one with a length of two.
        let nested = |inner: &[u8]| {
            let length = u8::try_from(inner.len()).expect("it is short");
            let inner = [&[0x8a, 0, length | 0x80, 0x80, 0][..], inner].concat();
            [&[0x0a, (length + 5) | 0x80, 0][..], &inner].concat()
        };
        let adapted = plan(&wide, new).request(nested(&before).into(), MAX);
        assert_eq!(adapted.expect("it fits"), nested(&after));
    }
}
