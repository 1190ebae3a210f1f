//! Defaults for fields the caller has never heard of, decoded by a real decoder.

use mortise_contract::{Contract, default_prefix};
use prost_reflect::{DynamicMessage, Value, prost::Message};

use crate::support::contract;

const OLD: &str = r#"
syntax = "proto3"; package p;
service S { rpc Call(Q) returns (R); }
message Q { string item = 1; }
message R {}
"#;

const NEW: &str = r#"
syntax = "proto3"; package p; import "mortise/options.proto";
service S { rpc Call(Q) returns (R); }
message Q {
  string item = 1 [(mortise.default) = "known to the caller"];
  int32 count = 20 [(mortise.default) = "-7"];
  uint64 big = 3 [(mortise.default) = "18446744073709551615"];
  sint32 delta = 4 [(mortise.default) = "-1"];
  fixed64 mask = 5 [(mortise.default) = "9"];
  double ratio = 6 [(mortise.default) = "0.5"];
  float limit = 7 [(mortise.default) = "inf"];
  bool on = 8 [(mortise.default) = "true"];
  string mode = 9 [(mortise.default) = "fa\"st"];
  bytes magic = 10 [(mortise.default) = "\\x00\\377\\n\\\\a"];
  Size size = 11 [(mortise.default) = "SIZE_BIG"];
  optional string note = 12 [(mortise.default) = ""];
  oneof way { string road = 13 [(mortise.default) = "A1"]; string rail = 14; }
  string plain = 15;
  repeated string list = 16;
}
message R {}
enum Size { SIZE_NONE = 0; SIZE_BIG = 1; }
"#;

fn request(contract: &Contract) -> prost_reflect::MessageDescriptor {
    contract.methods()[0].input()
}

fn read(contract: &Contract, prefix: &[u8], body: &[u8]) -> DynamicMessage {
    let bytes = [prefix, body].concat();
    DynamicMessage::decode(request(contract), bytes.as_slice()).expect("the prefix is well-formed")
}

fn value(message: &DynamicMessage, field: &str) -> Value {
    message
        .get_field_by_name(field)
        .expect("a field of the message")
        .into_owned()
}

#[test]
fn an_old_caller_gives_the_new_reader_its_defaults() {
    let (old, new) = (contract(OLD), contract(NEW));
    let prefix = default_prefix(&request(&old), &request(&new), &new);
    let mut body = DynamicMessage::new(request(&old));
    body.set_field_by_name("item", Value::String("lamp".to_owned()));
    let message = read(&new, &prefix, &body.encode_to_vec());
    assert_eq!(value(&message, "item"), Value::String("lamp".to_owned()));
    assert_eq!(value(&message, "count"), Value::I32(-7));
    assert_eq!(value(&message, "big"), Value::U64(u64::MAX));
    assert_eq!(value(&message, "delta"), Value::I32(-1));
    assert_eq!(value(&message, "mask"), Value::U64(9));
    assert_eq!(value(&message, "ratio"), Value::F64(0.5));
    assert_eq!(value(&message, "limit"), Value::F32(f32::INFINITY));
    assert_eq!(value(&message, "on"), Value::Bool(true));
    assert_eq!(value(&message, "mode"), Value::String("fa\"st".to_owned()));
    assert_eq!(
        value(&message, "magic"),
        Value::Bytes(b"\x00\xff\n\\a".to_vec().into())
    );
    assert_eq!(value(&message, "size"), Value::EnumNumber(1));
    assert!(
        message.has_field_by_name("note"),
        "an explicit empty default is a value"
    );
    assert_eq!(value(&message, "road"), Value::String("A1".to_owned()));
    assert!(!message.has_field_by_name("plain"));
}

#[test]
fn a_field_the_caller_knows_is_its_own_business() {
    let (old, new) = (contract(OLD), contract(NEW));
    let prefix = default_prefix(&request(&old), &request(&new), &new);
    assert_eq!(
        value(&read(&new, &prefix, &[]), "item"),
        Value::String(String::new())
    );
    assert!(default_prefix(&request(&new), &request(&new), &new).is_empty());
    assert!(default_prefix(&request(&new), &request(&old), &old).is_empty());
}

#[test]
fn what_the_caller_passes_on_wins() {
    let (old, new) = (contract(OLD), contract(NEW));
    let prefix = default_prefix(&request(&old), &request(&new), &new);
    let mut relayed = DynamicMessage::new(request(&new));
    relayed.set_field_by_name("count", Value::I32(3));
    relayed.set_field_by_name("rail", Value::String("S7".to_owned()));
    let message = read(&new, &prefix, &relayed.encode_to_vec());
    assert_eq!(value(&message, "count"), Value::I32(3));
    assert_eq!(value(&message, "rail"), Value::String("S7".to_owned()));
    assert!(
        !message.has_field_by_name("road"),
        "the default gave way to the other member of the oneof"
    );
}

#[test]
fn a_default_that_cannot_be_is_refused_when_the_contract_is_read() {
    let cases = [
        ("int32 x = 1", "2147483648", "number that fits"),
        ("uint32 x = 1", "-1", "number that fits"),
        ("bool x = 1", "yes", "`true` or `false`"),
        ("Size x = 1", "SIZE_HUGE", "name of a value"),
        ("bytes x = 1", "\\\\x1", "C escapes"),
        ("bytes x = 1", "\\\\777", "C escapes"),
        ("R x = 1", "{}", "message type"),
        ("repeated int32 x = 1", "1", "singular"),
        ("map<string, string> x = 1", "", "singular"),
    ];
    for (field, text, expected) in cases {
        let source = format!(
            "syntax = \"proto3\"; package p; import \"mortise/options.proto\"; service S {{ rpc Call(Q) returns (R); }} \
             message Q {{ {field} [(mortise.default) = \"{text}\"]; }} message R {{}} enum Size {{ SIZE_NONE = 0; }}"
        );
        let error = Contract::from_descriptor_set(&crate::support::compile(&[("p.proto", &source)]), &[])
            .expect_err(&source)
            .to_string();
        assert!(error.contains("`p.Q.x`") && error.contains(expected), "{error}");
    }
}
