//! Functions in the chain, and what goes around them.

use mortise_contract::{
    Target,
    evolve::{Function, Stage},
};

use super::*;

#[test]
fn functions_stand_in_the_chain_and_lead_one_way() {
    let (old, new) = (shop("string x = 1;", ""), shop("int64 x = 1;", ""));
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

fn target(text: &str) -> Target {
    Target::parse(text).expect("a target")
}

/// The function that leads requests of one contract to another.
fn function(old: &Contract, new: &Contract) -> Function {
    let functions = MessageMap {
        up: Some(target("p.A/Up")),
        down: Some(target("p.A/Down")),
        ..map(&[], &[], &[])
    };
    let line = lineage(&[("1", old), ("2", new)], vec![step("1", "2", vec![functions])]).expect("it fits");
    let plan = plan_with(old, new, &line).expect("a function is declared");
    match plan.request_stages() {
        [Stage::Function(function)] => function.clone(),
        stages => panic!("{stages:?}"),
    }
}

/// What the function's plugin knows: of a message `In` and of a message `Out`.
fn known(fields_in: &str, fields_out: &str, more: &str) -> Contract {
    contract(&format!(
        "syntax = \"proto3\"; package p; service A {{ rpc Up(In) returns (Out); }} message In {{ {fields_in} }} message Out {{ {fields_out} }} {more}"
    ))
}

/// What arrives if the function answers this.
fn around(
    function: &Function,
    known: &Contract,
    message: &[u8],
    answer: &'static [u8],
) -> Result<Bytes, AdaptError> {
    let method = &known.methods()[0];
    let strangers = function.strangers(&method.input(), &method.output(), message)?;
    strangers.join(Bytes::from_static(answer))
}

#[test]
fn what_a_function_does_not_know_stands_behind_its_answer() {
    let (old, new) = (shop("string a = 1;", ""), shop("string b = 2;", ""));
    let (function, known) = (
        function(&old, &new),
        known("string a = 1;", "string b = 2; string c = 50;", ""),
    );
    // Unknown, with a number in more digits than it takes; a group; what the answer has itself; known.
    let message = b"\xa2\x38\x82\x00hi\x9b\x06\x08\x01\x9c\x06\x92\x03\x01x\x0a\x01A";
    assert_eq!(
        around(&function, &known, message, b"\x12\x01B").expect("it fits"),
        &b"\x12\x01B\xa2\x38\x82\x00hi\x9b\x06\x08\x01\x9c\x06"[..]
    );
    let answer = Bytes::from_static(b"\x12\x01B");
    let method = &known.methods()[0];
    let none = function
        .strangers(&method.input(), &method.output(), b"\x0a\x01A")
        .expect("it is a message");
    assert!(none.is_empty());
    let same = none.join(answer.clone()).expect("nothing to join");
    assert_eq!(same.as_ptr(), answer.as_ptr(), "nothing to do is nothing done");
}

#[test]
fn embedded_messages_get_theirs_back_where_the_answer_has_them() {
    let inner = "message I { string x = 1; I deeper = 2; repeated I many = 3; }";
    let of = |field: &str| shop(&format!("I i = 1; {field}"), inner);
    let function = function(&of("string a = 2;"), &of("string b = 3;"));
    let known = known("I i = 1; string a = 2;", "I i = 1; string b = 3;", inner);
    // i { 100: 1, deeper { 101: 2 }, many { 102: 3 } }, and a second piece of it, i { 103: 4 }
    let message = b"\x0a\x0d\xa0\x06\x01\x12\x03\xa8\x06\x02\x1a\x03\xb0\x06\x03\x0a\x03\xb8\x06\x04";
    let message = &message[..];
    // i { x: "X" }: the deeper one and the list are gone.
    let shallow = around(&function, &known, message, b"\x0a\x03\x0a\x01X");
    assert_eq!(
        shallow.expect("it fits"),
        &b"\x0a\x03\x0a\x01X\x0a\x06\xa0\x06\x01\xb8\x06\x04"[..]
    );
    // i { deeper {} }
    let deep = around(&function, &known, message, b"\x0a\x02\x12\x00");
    assert_eq!(
        deep.expect("it fits"),
        &b"\x0a\x02\x12\x00\x0a\x0b\xa0\x06\x01\xb8\x06\x04\x12\x03\xa8\x06\x02"[..]
    );
    assert_eq!(
        around(&function, &known, message, b"").expect("it fits"),
        &b""[..]
    );
}

#[test]
fn a_field_that_both_versions_know_is_the_same_one_or_the_call_fails() {
    let old = shop(
        "string a = 1; int32 n = 2; I i = 3;",
        "message I { int32 x = 1; }",
    );
    let new = shop(
        "string a = 1; string n = 2; I i = 3;",
        "message I { string x = 1; }",
    );
    let (function, known) = (function(&old, &new), known("string a = 1;", "string a = 1;", ""));
    for message in [&b"\x10\x07"[..], b"\x1a\x02\x08\x07"] {
        let refused = around(&function, &known, message, b"").expect_err("it would be misread");
        assert!(matches!(refused, AdaptError::Stranger { .. }), "{refused}");
    }
    assert!(
        around(&function, &known, b"\x10\x07", b"")
            .expect_err("as above")
            .to_string()
            .contains("`p.M.n`")
    );
    // The newer version has it under the same number, and it is the same.
    let (old, new) = (
        shop("string a = 1; int32 n = 2;", ""),
        shop("string a = 1; int64 n = 2;", ""),
    );
    let passed = around(&self::function(&old, &new), &known, b"\x10\x07", b"\x0a\x01A");
    assert_eq!(passed.expect("it fits"), &b"\x0a\x01A\x10\x07"[..]);
}

#[test]
fn bytes_around_a_function_may_be_anything() {
    let inner = "message I { I i = 1; }";
    let of = |field: &str| shop(&format!("I i = 1; {field}"), inner);
    let function = function(&of("string a = 2;"), &of("string b = 3;"));
    let known = known("I i = 1;", "I i = 1;", inner);
    for broken in [
        &b"\x0a"[..],
        b"\x0a\x05x",
        b"\x0b",
        b"\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let refused = around(&function, &known, broken, b"");
        assert!(
            matches!(refused, Err(AdaptError::Malformed { .. })),
            "{broken:?}: {refused:?}"
        );
    }
    let refused = around(&function, &known, b"\x0a\x02\x50\x01", b"\x0a\x05");
    assert!(
        matches!(refused, Err(AdaptError::Malformed { .. })),
        "{refused:?}"
    );
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(&bytes);
        bytes = outer;
    }
    assert_eq!(around(&function, &known, &bytes, b""), Err(AdaptError::TooDeep));
}

#[test]
fn messages_of_streams_are_adapted_by_no_function() {
    let of = |fields: &str, stream: [&str; 2]| {
        contract(&format!(
            "syntax = \"proto3\"; package p; service S {{ rpc Call({} M) returns ({} R); }} message M {{ {fields} }} message R {{ bool ok = 1; }}",
            stream[0], stream[1]
        ))
    };
    for stream in [["stream", ""], ["", "stream"], ["stream", "stream"]] {
        let (old, new) = (of("string a = 1;", stream), of("string b = 2;", stream));
        let functions = MessageMap {
            up: Some(target("p.A/Up")),
            down: Some(target("p.A/Down")),
            ..map(&[], &[], &[])
        };
        let with =
            |map| lineage(&[("1", &old), ("2", &new)], vec![step("1", "2", vec![map])]).expect("it fits");
        let refusal = plan_with(&old, &new, &with(functions)).expect_err("it streams");
        let told = refusal.to_string();
        assert!(
            told.contains("`p.A/Up`") && told.contains("declare field maps"),
            "{told}"
        );
        // A field map does it.
        let plan = plan_with(&old, &new, &with(map(&[("a", "b")], &[], &[]))).expect("rules adapt streams");
        let adapted = plan.request(Bytes::from_static(b"\x0a\x01A"), MAX);
        assert_eq!(adapted.expect("it fits"), &b"\x12\x01A"[..]);
    }
}
