//! Configuration in JSON against the message that it has to look like.

use mortise_contract::Contract;
use serde_json::{Value, json};

use crate::support::contract;

fn settings() -> Contract {
    contract(
        r#"
syntax = "proto3"; package p;
import "mortise/options.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
service S { rpc Call(Q) returns (Q); }
message Q {}
enum Mode { MODE_NONE = 0; MODE_FAST = 1; }
message Config {
  string text = 1;
  uint32 count = 2;
  int64 big = 3;
  double ratio = 4;
  bool on = 5;
  Mode mode = 6;
  repeated string hosts = 7;
  map<string, Limit> limits = 8;
  Limit limit = 9;
  string password = 10 [(mortise.sensitive) = true];
  bytes key = 11;
  google.protobuf.Duration pause = 12;
  google.protobuf.Struct anything = 13;
  google.protobuf.UInt32Value maybe = 14;
  oneof way { string road = 15; string rail = 16; }
  int32 max_side = 17;
}
message Limit { uint32 rate = 1; Limit inner = 2; }
"#,
    )
}

fn faults(value: &Value) -> Vec<String> {
    let is_reference = |it: &Value| it.get("secret").is_some();
    let faults = settings().check_value("p.Config", value, &is_reference);
    let faults = faults.expect("the message is declared");
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn what_fits_has_no_faults() {
    let whole = json!({
        "text": "t", "count": 1, "big": "-9007199254740993", "ratio": 2, "on": true, "mode": "MODE_FAST",
        "hosts": ["a", {"secret": "env:B"}], "limits": {"x": {"rate": 1}}, "limit": {"inner": {"inner": {}}},
        "password": {"secret": "file:/p"}, "key": "AAA=", "pause": "1.5s", "anything": {"a": [1]}, "maybe": 7,
        "road": "A1", "maxSide": 3
    });
    assert_eq!(faults(&whole), [""; 0]);
    assert_eq!(faults(&json!({"max_side": 3, "text": null, "big": 1e3})), [""; 0]);
    assert_eq!(faults(&json!({})), [""; 0]);
    let none = settings().check_value("p.Nothing", &json!({}), &|_| false);
    assert!(none.is_none());
}

#[test]
fn every_fault_is_told_with_its_place_and_no_value() {
    let cases = [
        (
            json!({"txet": 1}),
            "`txet` is no field of `p.Config`; did you mean `text`?",
        ),
        (json!({"text": 1}), "`text` is a number, and it must be text"),
        (json!({"count": -1}), "`count` must be from 0 to 4294967295"),
        (
            json!({"count": 1.5}),
            "`count` is a fraction, and it must be a whole number",
        ),
        (
            json!({"on": "hunter2"}),
            "`on` is text, and it must be true or false",
        ),
        (
            json!({"mode": "hunter2"}),
            "`mode` must be one of `MODE_NONE`, `MODE_FAST`",
        ),
        (
            json!({"hosts": ["a", 1]}),
            "`hosts[1]` is a number, and it must be text",
        ),
        (json!({"hosts": "a"}), "`hosts` is text, and it must be a list"),
        (
            json!({"limits": {"x": {"rat": 1}}}),
            "`limits.x.rat` is no field of `p.Limit`; did you mean `rate`?",
        ),
        (
            json!({"limit": {"inner": {"rate": true}}}),
            "`limit.inner.rate` is true or false, and it must be a whole number",
        ),
        (
            json!({"count": {"secret": "env:A"}}),
            "`count` is a reference to a secret, which is text, and it must be a whole number",
        ),
        (
            json!({"pause": "soon"}),
            "`pause` is text, and it must be a duration such as `1.5s`",
        ),
        (json!({"key": "hunter 2"}), "`key` is not base64"),
        (
            json!({"road": "a", "rail": "b"}),
            "`road` and `rail` exclude each other (`way`)",
        ),
        (json!([]), "is a list, and it must be an object"),
    ];
    for (value, said) in cases {
        assert_eq!(faults(&value), [said], "{value}");
    }
    let several = faults(&json!({"a1": 1, "b2": 2, "text": 3}));
    assert_eq!(several.len(), 3, "{several:?}");
}

#[test]
fn a_sensitive_field_has_to_be_a_reference() {
    let told = faults(&json!({"password": "hunter2"}));
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("`password` is a secret and must not be written out"),
        "{told:?}"
    );
    assert!(!told[0].contains("hunter2"));
}

#[test]
fn a_message_that_holds_itself_ends() {
    let mut value = json!({});
    for _ in 0..100 {
        value = json!({"inner": value});
    }
    let told = faults(&json!({"limit": value}));
    assert!(told[0].contains("levels deep"), "{told:?}");
}
