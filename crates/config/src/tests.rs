//! Layers, places and references; a proptest holds layers against RFC 7396 as it is written.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn settings(all: &[(&str, Value)]) -> Settings {
    let setting = |(place, value): &(&str, Value)| {
        let setting = Setting {
            value: Ok(value.clone()),
            origin: format!("etcd /m/p/{place}"),
            revision: 7,
        };
        ((*place).to_owned(), setting)
    };
    all.iter().map(setting).collect()
}

fn layer(all: &[(&str, Value)]) -> Layer {
    Layer::read("etcd", 7, &settings(all)).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is no object"),
    }
}

fn faults(all: &[(&str, Value)]) -> String {
    let faults = Layer::read("etcd", 7, &settings(all)).expect_err("a fault");
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    faults.join("\n")
}

#[test]
fn a_later_layer_wins_value_by_value_and_each_tells_where_it_came_from() {
    let base = json!({"a": 1, "b": {"c": 2, "d": 3}, "list": [1, 2], "gone": true});
    let over = layer(&[
        ("", json!({"a": 10, "gone": null})),
        ("b/c", json!("x")),
        ("e/f/g", json!(true)),
        ("list", json!([3])),
    ]);
    let effective = Effective::of(object(base), "mortise.toml").under(&over);
    assert_eq!(
        Value::Object(effective.value().clone()),
        json!({"a": 10, "b": {"c": "x", "d": 3}, "e": {"f": {"g": true}}, "list": [3]})
    );
    let told: BTreeMap<_, _> = effective
        .leaves()
        .into_iter()
        .map(|it| (it.path, it.origin))
        .collect();
    let expected = [
        ("a", "etcd /m/p/"),
        ("b.c", "etcd /m/p/b/c"),
        ("b.d", "mortise.toml"),
        ("e.f.g", "etcd /m/p/e/f/g"),
        ("list", "etcd /m/p/list"),
    ];
    let expected = expected.map(|(path, origin)| (path.to_owned(), origin.to_owned()));
    assert_eq!(told, BTreeMap::from(expected));
}

#[test]
fn places_that_fight_are_faults_and_no_value_is_shown() {
    let told = faults(&[("a", json!("hunter2")), ("a/b", json!(1))]);
    assert!(
        told.starts_with("etcd /m/p/a/b: its place is also in the value of etcd /m/p/a;"),
        "{told}"
    );
    assert!(!told.contains("hunter2"));
    let told = faults(&[("", json!({"a": {"b": 1}})), ("a/b", json!(1))]);
    assert!(told.contains("also in the value"), "{told}");
    layer(&[("", json!({"a": {"b": 1}})), ("a/c", json!(1))]);
    for place in ["a//b", "/a", "a/"] {
        assert!(faults(&[(place, json!(1))]).contains("empty name"), "{place}");
    }
    assert!(faults(&[("", json!([1]))]).contains("no JSON object"));
    let deep = vec!["x"; 40].join("/");
    assert!(faults(&[(&deep, json!(1))]).contains("names deep"));
    // A key that begins like another is no neighbour of it.
    layer(&[("ab", json!(1)), ("abc", json!(2)), ("ab-c", json!(3))]);
}

#[test]
fn layers_are_the_same_by_what_they_say() {
    let (a, mut b) = (layer(&[("a", json!(1))]), layer(&[("a", json!(1))]));
    b.revision = 9;
    b.parts[0].revision = 9;
    assert!(a.says_the_same(&b));
    assert!(!a.says_the_same(&layer(&[("a", json!(2))])));
    let text = serde_json::to_string(&a).expect("serializes");
    assert_eq!(serde_json::from_str::<Layer>(&text).expect("reads"), a);
}

#[test]
fn secrets_are_put_in_place_at_the_last_moment() {
    let base = json!({
        "db": {"password": {"secret": "env:DB"}, "user": "u"},
        "keys": [{"secret": "file:/run/a"}, "plain"],
    });
    let effective = Effective::of(object(base), "mortise.toml");
    let found = effective
        .references("p", &Allowed::default())
        .expect("all are references");
    let found: Vec<_> = found.iter().map(|(path, it)| format!("{path} {it}")).collect();
    assert_eq!(found, ["db.password env:DB", "keys[0] file:/run/a"]);
    let delivered = effective.deliver(vec!["hunter2".to_owned(), "abc".to_owned()]);
    let value: Value = serde_json::from_str(&delivered.json).expect("JSON");
    assert_eq!(
        value,
        json!({"db": {"password": "hunter2", "user": "u"}, "keys": ["abc", "plain"]})
    );
    assert_eq!(
        delivered.secrets.masked("no hunter2 here, and abc is too short"),
        "no *** here, and abc is too short"
    );
    assert!(!format!("{delivered:?} {:?} {effective:?}", delivered.secrets).contains("hunter2"));
    assert!(!effective.to_json().contains("hunter2"));
    let leaf = &effective.leaves()[0];
    assert_eq!(
        (&*leaf.path, &*leaf.value, leaf.secret),
        ("db.password", "env:DB", true)
    );
}

#[test]
fn what_is_no_reference_is_a_fault_that_does_not_show_it() {
    for text in [
        json!("hunter2"),
        json!("env:"),
        json!("file:hunter2"),
        json!("file:/run/../hunter2"),
        json!(["hunter2"]),
        json!({"a": "hunter2"}),
    ] {
        let effective = Effective::of(object(json!({"a": {"secret": text}})), "mortise.toml");
        let faults = effective
            .references("p", &Allowed::default())
            .expect_err("a fault");
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].path, "a");
        assert!(!faults[0].to_string().contains("hunter2"), "{}", faults[0]);
    }
    let with_more = Effective::of(object(json!({"a": {"secret": "x", "b": 1}})), "mortise.toml");
    assert!(
        with_more
            .references("p", &Allowed::default())
            .expect("it is none")
            .is_empty()
    );
}

#[test]
fn configuration_from_elsewhere_refers_only_to_what_is_allowed() {
    let allowed = Allowed::new(vec![
        "file:/run/secrets/{plugin}/".to_owned(),
        "env:{PLUGIN}_".to_owned(),
        "file:/etc/one".to_owned(),
    ]);
    let may = |text: &str| allowed.allows("my-echo", &Reference::parse(text).expect("a reference"));
    assert!(may("file:/run/secrets/my-echo/key"));
    assert!(may("env:MY_ECHO_TOKEN"));
    assert!(may("file:/etc/one"));
    for text in [
        "file:/run/secrets/other/key",
        "file:/run/secrets/my-echo-2/key",
        "file:/etc/one2",
        "file:/etc/shadow",
        "env:OTHER_TOKEN",
    ] {
        assert!(!may(text), "{text}");
    }
    // The same place, from two sides.
    let elsewhere = layer(&[("a", json!({"secret": "env:HOME"}))]);
    let own = Effective::of(object(json!({"a": {"secret": "env:HOME"}})), "mortise.toml");
    assert!(own.references("p", &Allowed::default()).is_ok());
    let faults = own
        .under(&elsewhere)
        .references("p", &Allowed::default())
        .expect_err("not allowed");
    assert!(
        faults[0].to_string().contains("`secrets` in `[config]`"),
        "{}",
        faults[0]
    );
    let whole = layer(&[("list", json!([{"secret": "env:HOME"}]))]);
    assert!(
        Effective::default()
            .under(&whole)
            .references("p", &Allowed::default())
            .is_err()
    );
}

#[test]
fn no_spelling_of_a_place_has_the_trust_of_another() {
    let own = || {
        let base = json!({"limits": {"rate": 5}, "list": ["a"], "empty": {}, "key": {"secret": "env:HOME"}});
        Effective::of(object(base), "mortise.toml")
    };
    let secret = json!({"secret": "file:/etc/shadow"});
    for elsewhere in [
        json!({"limits": {"rate[0]": secret}, "limits.rate[0]": null}),
        json!({"limits.rate[0]": secret}),
        json!({"limits": {"rate": [secret]}, "limits.rate": null}),
        json!({"limits.rate": secret}),
        json!({"list[0]": secret}),
        json!({"list": {"[0]": secret}}),
        json!({"": {"limits": {"rate": secret}}}),
        json!({"empty": secret}),
        json!({"key": {"": secret}}),
    ] {
        let over = own().under(&layer(&[("", elsewhere.clone())]));
        assert!(over.references("p", &Allowed::default()).is_err(), "{elsewhere}");
        let told = over.leaves();
        let told = told
            .iter()
            .find(|it| it.value.contains("shadow"))
            .expect("it is told");
        assert_eq!(told.origin, "etcd /m/p/", "{elsewhere}");
    }
    // And nothing from elsewhere takes the trust of what is the operator's own.
    let base = json!({"list": [{"secret": "env:HOME"}, {"in": {"secret": "env:HOME"}}], "list[0]": 1});
    let over = Effective::of(object(base), "mortise.toml").under(&layer(&[("", json!({"list[0]": 2}))]));
    assert!(over.references("p", &Allowed::default()).is_ok());
}

#[test]
fn many_places_of_one_plugin_are_read_in_a_moment() {
    // Each compared with each, these were near a thousand million comparisons.
    let names: Vec<String> = (0..40_000).map(|it| format!("a/n{it}")).collect();
    let all: Vec<(&str, Value)> = names.iter().map(|it| (it.as_str(), json!(1))).collect();
    let effective = Effective::default().under(&layer(&all)).under(&layer(&all));
    assert_eq!(effective.leaves().len(), names.len());
}

#[test]
fn a_secret_is_read_without_its_line_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let reference = Reference::parse(&format!("file:{}", path.display())).expect("a reference");
    assert!(
        reference
            .read()
            .expect_err("it is not there")
            .contains("No such file")
    );
    for (bytes, secret) in [("a\n", "a"), ("a\r\n", "a"), (" a\n\n", " a\n")] {
        std::fs::write(&path, bytes).expect("writes");
        assert_eq!(reference.read().expect("reads"), secret);
    }
    for (bytes, why) in [
        (vec![b'\n'], "is empty"),
        (vec![0xff], "is not text"),
        (vec![b'a'; 70_000], "more than"),
    ] {
        std::fs::write(&path, bytes).expect("writes");
        assert!(reference.read().expect_err("a fault").contains(why), "{why}");
    }
    let directory = Reference::parse(&format!("file:{}", folder.path().display())).expect("a reference");
    assert!(directory.read().expect_err("a fault").contains("is no file"));
    let missing = Reference::parse("env:MORTISE_NO_SUCH_VARIABLE").expect("a reference");
    assert!(
        missing
            .read()
            .expect_err("it is not there")
            .contains("no such variable")
    );
}

#[test]
fn updates_add_up() {
    let of = |names: &[&str]| -> BTreeMap<String, Settings> {
        names
            .iter()
            .map(|it| ((*it).to_owned(), settings(&[("a", json!(1))])))
            .collect()
    };
    let mut all = Update {
        revision: 1,
        complete: true,
        plugins: of(&["a", "b"]),
    };
    all.merge(Update {
        revision: 2,
        complete: false,
        plugins: of(&["c"]),
    });
    assert!(all.complete && all.plugins.len() == 3 && all.revision == 2);
    all.merge(Update {
        revision: 3,
        complete: true,
        plugins: of(&["d"]),
    });
    assert_eq!(all.plugins.keys().collect::<Vec<_>>(), ["d"]);
}

/// RFC 7396, section 2, word by word.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let before = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), merge_patch(before, value));
        }
    }
    Value::Object(target)
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(Value::from),
        Just(json!([1])),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        proptest::collection::btree_map("[a-c]", inner, 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    })
}

fn objects() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map("[a-c]", values(), 0..4).prop_map(|it| it.into_iter().collect())
}

proptest! {
    #[test]
    fn laying_over_is_merge_patch_and_every_value_has_an_origin(base in objects(), first in objects(), second in objects()) {
        let of = |it: &Map<String, Value>| layer(&[("", Value::Object(it.clone()))]);
        let effective = Effective::of(base.clone(), "mortise.toml").under(&of(&first)).under(&of(&second));
        let expected = [&base, &first, &second]
            .into_iter()
            .fold(json!({}), |target, patch| merge_patch(target, &Value::Object(patch.clone())));
        prop_assert_eq!(Value::Object(effective.value().clone()), expected);
        for leaf in effective.leaves() {
            prop_assert!(!leaf.origin.is_empty() || leaf.value == "{}", "{:?}", leaf);
        }
    }
}
