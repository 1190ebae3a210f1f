//! What two contracts say by themselves.

use super::*;

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
