//! Verdicts: direction, shortcuts, adapters, memory.

use std::sync::Arc;

use mortise_contract::{
    Contract,
    compat::{Adapter, Level, Report, Rule, Verdict, Verdicts, Violation, bind, check, check_message},
};
use proptest::prelude::*;

use crate::{
    model::{Layout, Model, models},
    support::{contract, contract_of},
};

const LEVELS: [Level; 2] = [Level::Wire, Level::WireJson];

fn linked(model: &Model) -> Contract {
    let files = model.write(Layout::default());
    contract_of(&[(&files[0].0, &files[0].1)], &[])
}

/// A contract with one method whose request has `request` and whose reply has `reply` as fields.
fn shop(request: &str, reply: &str) -> Contract {
    contract(&format!(
        "syntax = \"proto3\"; package p; service Shop {{ rpc Order(Q) returns (R); }} \
         message Q {{ {request} }} message R {{ {reply} }}"
    ))
}

fn violations(report: &Report) -> &[Violation] {
    match &report.verdict {
        Verdict::Incompatible(violations) => violations,
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_contract_is_exactly_itself(model in models()) {
        let contract = linked(&model);
        for level in LEVELS {
            prop_assert_eq!(check(&contract, &contract, level).verdict, Verdict::Exact);
            prop_assert_eq!(bind(&contract, &contract, level).verdict, Verdict::Exact);
        }
    }

    #[test]
    fn random_pairs_get_a_consistent_verdict(one in models(), other in models()) {
        let (one, other) = (linked(&one), linked(&other));
        let json = check(&one, &other, Level::WireJson);
        let wire = check(&one, &other, Level::Wire);
        // What JSON and bytes accept, bytes accept.
        if json.verdict.is_usable() {
            prop_assert!(wire.verdict.is_usable(), "{} but {}", json.verdict, wire.verdict);
        }
        // A host refuses nothing that a registry accepts.
        for (level, strict) in [(Level::WireJson, json), (Level::Wire, wire)] {
            let lenient = bind(&one, &other, level);
            if strict.verdict.is_usable() {
                prop_assert!(lenient.verdict.is_usable(), "{} but {}", strict.verdict, lenient.verdict);
            }
            if let Verdict::Incompatible(violations) = lenient.verdict {
                prop_assert!(violations.iter().all(|it| it.rule.touches_calls() && it.rule.applies(level)));
            }
        }
    }
}

#[test]
fn a_field_may_widen_on_its_way_and_not_narrow() {
    let narrow = |ty: &str| shop(&format!("{ty} x = 1;"), "");
    let narrow_reply = |ty: &str| shop("", &format!("{ty} x = 1;"));
    for (from, to) in [
        ("int32", "int64"),
        ("uint32", "uint64"),
        ("bool", "int32"),
        ("sint32", "sint64"),
        ("string", "bytes"),
    ] {
        let forth = check(&narrow(from), &narrow(to), Level::Wire);
        assert_eq!(forth.verdict, Verdict::WireCompatible, "request {from} -> {to}");
        let back = check(&narrow(to), &narrow(from), Level::Wire);
        assert_eq!(violations(&back)[0].path, "p.Q.x", "request {to} -> {from}");
        let forth = check(&narrow_reply(from), &narrow_reply(to), Level::Wire);
        assert_eq!(violations(&forth)[0].path, "p.R.x", "reply {from} -> {to}");
        let back = check(&narrow_reply(to), &narrow_reply(from), Level::Wire);
        assert_eq!(back.verdict, Verdict::WireCompatible, "reply {to} -> {from}");
    }
    for (from, to) in [
        ("int32", "uint32"),
        ("int64", "uint64"),
        ("fixed32", "sfixed32"),
        ("fixed64", "sfixed64"),
    ] {
        for level in LEVELS {
            assert_eq!(
                check(&narrow(from), &narrow(to), level).verdict,
                Verdict::WireCompatible,
                "{from} -> {to}"
            );
            assert_eq!(
                check(&narrow(to), &narrow(from), level).verdict,
                Verdict::WireCompatible,
                "{to} -> {from}"
            );
        }
    }
}

#[test]
fn a_message_that_travels_both_ways_is_checked_both_ways() {
    let both = |ty: &str| {
        contract(&format!(
            "syntax = \"proto3\"; package p; service S {{ rpc Call(M) returns (M); }} message M {{ {ty} x = 1; M next = 2; }}"
        ))
    };
    assert!(
        !check(&both("int32"), &both("int64"), Level::Wire)
            .verdict
            .is_usable()
    );
    assert!(
        !check(&both("int64"), &both("int32"), Level::Wire)
            .verdict
            .is_usable()
    );
    assert_eq!(
        check(&both("int64"), &both("uint64"), Level::Wire).verdict,
        Verdict::WireCompatible
    );
}

#[test]
fn a_closed_enum_cannot_take_any_number() {
    let source = |field: &str| {
        contract(&format!(
            "syntax = \"proto2\"; package p; service S {{ rpc Call(M) returns (R); }} \
             message M {{ optional {field} x = 1; }} message R {{}} enum E {{ A = 0; B = 1; }}"
        ))
    };
    assert_eq!(
        check(&source("E"), &source("int32"), Level::Wire).verdict,
        Verdict::WireCompatible
    );
    let report = check(&source("int32"), &source("E"), Level::Wire);
    assert!(
        violations(&report)[0]
            .advice
            .starts_with("the reader's enum is closed"),
        "{}",
        report.verdict
    );
}

#[test]
fn bind_ignores_what_cannot_touch_a_call() {
    let old = shop("reserved 5; string x = 1;", "");
    let new = shop("string x = 1;", "");
    assert_eq!(old.hash(), new.hash(), "reservations are in no hash");
    assert_eq!(
        violations(&check(&old, &new, Level::Wire))[0].rule,
        Rule::ReservedMessageNoDelete
    );
    assert_eq!(bind(&old, &new, Level::Wire).verdict, Verdict::Exact);
}

#[test]
fn bind_takes_equal_wire_hashes_for_an_answer_at_the_wire_level() {
    let source = |name: &str| {
        contract(&format!(
            "syntax = \"proto3\"; package p; service S {{ rpc Call({name}) returns ({name}); }} message {name} {{ string x = 1; }}"
        ))
    };
    let (old, new) = (source("Old"), source("New"));
    assert_eq!(bind(&old, &new, Level::Wire).verdict, Verdict::WireCompatible);
    assert!(!bind(&old, &new, Level::WireJson).verdict.is_usable());
    assert!(
        !check(&old, &new, Level::Wire).verdict.is_usable(),
        "RPC_SAME_REQUEST_TYPE is about names"
    );
}

#[test]
fn the_whole_is_as_good_as_its_worst_method() {
    let source = |fields: &str| {
        contract(&format!(
            "syntax = \"proto3\"; package p; service S {{ rpc A(M) returns (R); rpc B(R) returns (R); rpc C(M) returns (R); }} \
             message M {{ {fields} }} message R {{ bool ok = 1; }}"
        ))
    };
    let report = check(
        &source("int32 a = 1; string b = 2;"),
        &source("string a = 1; string b = 2;"),
        Level::Wire,
    );
    let verdicts: Vec<(&str, bool)> = report
        .methods
        .iter()
        .map(|it| (it.target.as_str(), it.verdict.is_usable()))
        .collect();
    assert_eq!(verdicts, [("p.S/A", false), ("p.S/B", true), ("p.S/C", false)]);
    assert_eq!(
        violations(&report).len(),
        1,
        "A and C share one violation: {}",
        report.verdict
    );
    assert_eq!(report.methods[1].verdict, Verdict::Exact);
}

/// A provider with the methods of `rpcs` in service `p.New` (provided) and of `internal` in `p.Internal` (not provided).
fn provider(rpcs: &str, internal: &str) -> Contract {
    let source = format!(
        "syntax = \"proto3\"; package p; import \"mortise/options.proto\"; \
         service New {{ {rpcs} }} service Internal {{ {internal} }} message N {{ bool x = 1; }}"
    );
    contract_of(&[("p.proto", &source)], &["p.New"])
}

fn rpc(name: &str, replaces: &str) -> String {
    format!("rpc {name}(N) returns (N) {{ option (mortise.replaces) = \"{replaces}\"; }} ")
}

fn caller() -> Contract {
    contract(
        "syntax = \"proto3\"; package p; service Old { rpc Get(O) returns (O); } message O { string x = 1; }",
    )
}

fn steps(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Adaptable(chain) => chain.iter().map(Adapter::to_string).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn an_adapter_serves_calls_of_what_it_replaces() {
    let report = check(
        &caller(),
        &provider(&rpc("Get", "p.Old/Get@1.2"), ""),
        Level::WireJson,
    );
    assert_eq!(steps(&report.verdict), ["`p.Old/Get@1.2` -> `p.New/Get`"]);
    assert!(report.verdict.is_usable());
    let report = check(
        &caller(),
        &provider(&rpc("Get", "p.Old/Other"), ""),
        Level::WireJson,
    );
    assert_eq!(violations(&report)[0].rule, Rule::RpcNoDelete);
}

#[test]
fn a_method_may_replace_an_older_version_of_itself() {
    let source = |request: &str, option: &str| {
        contract(&format!(
            "syntax = \"proto3\"; package p; import \"mortise/options.proto\"; \
             service S {{ rpc Get(M) returns (R) {{ {option} }} }} message M {{ {request} x = 1; }} message R {{}}"
        ))
    };
    let old = source("int32", "");
    assert!(
        !check(&old, &source("string", ""), Level::Wire)
            .verdict
            .is_usable()
    );
    let adapted = check(
        &old,
        &source("string", "option (mortise.replaces) = \"p.S/Get@1\";"),
        Level::Wire,
    );
    assert_eq!(steps(&adapted.verdict), ["`p.S/Get@1` -> `p.S/Get`"]);
    // A compatible method does not need its adapter.
    let wider = check(
        &old,
        &source("int64", "option (mortise.replaces) = \"p.S/Get@1\";"),
        Level::Wire,
    );
    assert_eq!(wider.verdict, Verdict::WireCompatible);
}

#[test]
fn chains_are_the_shortest_and_end_after_three() {
    let two = rpc("V2", "p.Old/Get") + &rpc("V3", "p.Internal/V2");
    let three = check(
        &caller(),
        &provider(&rpc("V4", "p.Internal/V3"), &two),
        Level::Wire,
    );
    assert_eq!(
        steps(&three.verdict),
        [
            "`p.Old/Get` -> `p.Internal/V2`",
            "`p.Internal/V2` -> `p.Internal/V3`",
            "`p.Internal/V3` -> `p.New/V4`"
        ]
    );
    let internal = two.clone() + &rpc("V4", "p.Internal/V3");
    let four = check(
        &caller(),
        &provider(&rpc("V5", "p.Internal/V4"), &internal),
        Level::Wire,
    );
    assert!(!four.verdict.is_usable(), "{}", four.verdict);
    let shortcut = rpc("V4", "p.Internal/V3") + &rpc("Direct", "p.Internal/V2");
    let shorter = check(&caller(), &provider(&shortcut, &two), Level::Wire);
    assert_eq!(
        steps(&shorter.verdict),
        [
            "`p.Old/Get` -> `p.Internal/V2`",
            "`p.Internal/V2` -> `p.New/Direct`"
        ]
    );
    let circle = rpc("A", "p.Old/Get") + &rpc("B", "p.Internal/A") + &rpc("C", "p.Internal/B");
    let circle = check(
        &caller(),
        &provider(&rpc("Unrelated", "p.Else/X"), &circle),
        Level::Wire,
    );
    assert!(!circle.verdict.is_usable(), "no step is provided");
}

#[test]
fn state_is_read_by_the_rules_that_touch_reading() {
    let saved = |fields: &str| {
        contract(&format!(
            "syntax = \"proto3\"; package p; message State {{ {fields} }}"
        ))
    };
    let old = saved("int32 count = 1; string gone = 2; reserved 9;");
    let fits = saved("int64 count = 1; reserved 2; string added = 3;");
    assert_eq!(check_message(&old, &fits, "p.State", Level::Wire), Some(vec![]));
    let narrows = check_message(&fits, &old, "p.State", Level::Wire).expect("both declare it");
    assert_eq!(narrows.len(), 2, "{narrows:?}");
    assert_eq!(check_message(&old, &fits, "p.Other", Level::Wire), None);
}

#[test]
fn verdicts_are_remembered_per_pair_and_level() {
    let verdicts = Verdicts::new();
    let (old, new) = (shop("int32 x = 1;", ""), shop("int64 x = 1;", ""));
    let first = verdicts.bind(&old, &new, Level::Wire);
    assert_eq!(*first, bind(&old, &new, Level::Wire));
    assert!(Arc::ptr_eq(&first, &verdicts.bind(&old, &new, Level::Wire)));
    assert!(!verdicts.bind(&new, &old, Level::Wire).verdict.is_usable());
    assert!(!verdicts.bind(&old, &new, Level::WireJson).verdict.is_usable());
    assert_eq!(verdicts.len(), 3);
}

/// Equal hashes and different verdicts: the reason why fingerprints are the key.
#[test]
fn verdicts_tell_contracts_of_equal_hash_apart() {
    let verdicts = Verdicts::new();
    let old = shop("string x = 1; string y = 2;", "");
    let careless = shop("string x = 1;", "");
    let careful = shop("string x = 1; reserved 2;", "");
    assert_eq!(careless.hash(), careful.hash());
    assert!(!verdicts.bind(&old, &careless, Level::Wire).verdict.is_usable());
    assert!(verdicts.bind(&old, &careful, Level::Wire).verdict.is_usable());
}
