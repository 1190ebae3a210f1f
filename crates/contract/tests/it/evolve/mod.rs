//! Plans between two versions: what they do to bytes, and what they refuse.
//!
//! `prost_reflect` is the oracle: what a plan makes of a message is decoded with the reader's descriptors and compared with what should arrive.

mod declared;
mod derived;
mod foreign;
mod functions;

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
const OLD: &str = "string id = 1; string zip = 2; int32 grams = 3; Level level = 4; string note = 5;";
const NEW: &str = "string id = 1; Address address = 6; string grams = 3; string level = 4; double note = 5;";
const OLD_MORE: &str = "enum Level { LEVEL_NONE = 0; LEVEL_HIGH = 2; }";
const NEW_MORE: &str = "message Address { string street = 1; string zip = 2; }";

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
