//! What authors say of versions.

use super::*;

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
