use std::sync::LazyLock;

use proptest::{prelude::*, sample::select};
use prost_reflect::Value as Reflected;

use super::*;

/// A contract with one field of every shape.
fn shapes() -> MessageDescriptor {
    static SHAPES: LazyLock<MessageDescriptor> = LazyLock::new(compile);
    SHAPES.clone()
}

fn compile() -> MessageDescriptor {
    let file = r#"
        syntax = "proto3";
        package acme;
        import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/duration.proto";
        import "google/protobuf/any.proto";
        import "google/protobuf/wrappers.proto";
        enum Fit { FIT_UNSPECIFIED = 0; FIT_CROP = 1; FIT_PAD = 2; }
        message Shapes {
            string text = 1;
            bytes image_data = 2;
            uint32 width = 3;
            int64 big = 4;
            double ratio = 5;
            bool sharp = 6;
            Fit fit = 7;
            repeated Shapes parts = 8;
            map<string, int32> counts = 9;
            oneof mode { string by_name = 10; uint32 by_number = 11; }
            google.protobuf.Struct extra = 12;
            google.protobuf.Timestamp at = 13;
            google.protobuf.Duration wait = 14;
            optional string note = 15;
            repeated google.protobuf.Any any = 16;
            google.protobuf.Value anything = 17;
            repeated sint32 deltas = 18;
            repeated string tags = 19;
            float mass = 20;
            sint64 offset = 21;
            fixed32 f32 = 22;
            sfixed32 sf32 = 23;
            fixed64 f64 = 24;
            sfixed64 sf64 = 25;
            uint64 huge = 26;
            optional int32 maybe = 27;
            repeated Fit fits = 28;
            Shapes inner = 29;
            repeated double loose = 30 [packed = false];
            google.protobuf.UInt32Value wrapped = 31;
            int32 small = 32;
        }
    "#;
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("shapes.proto"), file).expect("it is writable");
    let set = protox::compile(["shapes.proto"], [dir.path()]).expect("it compiles");
    DescriptorPool::from_file_descriptor_set(set)
        .expect("it links")
        .get_message_by_name("acme.Shapes")
        .expect("declared above")
}

fn transcoder() -> Transcoder {
    Transcoder::new(shapes(), shapes())
}

fn there_and_back(json: &str) -> String {
    let shapes = transcoder();
    let bytes = shapes
        .request(Some(json))
        .unwrap_or_else(|error| panic!("{json}: {error}"));
    let mut out = b"kept ".to_vec();
    shapes.reply(bytes, &mut out).expect("what was encoded decodes");
    String::from_utf8(out)
        .expect("UTF-8")
        .strip_prefix("kept ")
        .expect("appended")
        .to_owned()
}

#[test]
fn the_proto3_mapping() {
    for json in [
        "{}",
        r#"{"text":"größer 🌍"}"#,
        r#"{"imageData":"AAEC/w=="}"#,
        r#"{"width":4294967295,"big":"-9223372036854775808","ratio":0.5,"sharp":true}"#,
        r#"{"ratio":"NaN"}"#,
        r#"{"fit":"FIT_PAD"}"#,
        r#"{"parts":[{"width":1},{},{"parts":[{"text":"x"}]}]}"#,
        r#"{"counts":{"a":-1}}"#,
        r#"{"byName":""}"#,
        r#"{"note":""}"#,
        r#"{"extra":{"a":[1.0,null,{"b":"c"}]}}"#,
        r#"{"at":"2026-01-31T12:00:00Z","wait":"1.500s"}"#,
    ] {
        assert_eq!(there_and_back(json), json);
    }
    for (given, canonical) in [
        (r#"{"image_data":"AAEC_w"}"#, r#"{"imageData":"AAEC/w=="}"#),
        (
            r#"{"width":"7","big":7,"ratio":"1.5"}"#,
            r#"{"width":7,"big":"7","ratio":1.5}"#,
        ),
        (r#"{"fit":1}"#, r#"{"fit":"FIT_CROP"}"#),
        (r#"{"fit":77}"#, r#"{"fit":77}"#),
        (r#"{"text":null,"parts":null}"#, "{}"),
        (r#"{"width":0,"text":""}"#, "{}"),
    ] {
        assert_eq!(there_and_back(given), canonical, "{given}");
    }
}

#[test]
fn absent_parameters_are_the_empty_message() {
    assert!(transcoder().request(None).expect("nothing to refuse").is_empty());
}

#[test]
fn refusals_name_the_path_and_the_cure() {
    let shapes = transcoder();
    let mut text = String::new();
    for json in [
        r#"{"widht":1}"#,
        r#"{"parts":[{},{"colour":1}]}"#,
        r#"{"width":-1}"#,
        r#"{"width":"seven"}"#,
        r#"{"parts":[{"width":4294967296}]}"#,
        r#"{"big":"9223372036854775808"}"#,
        r#"{"text":5}"#,
        r#"{"imageData":"no base64!"}"#,
        r#"{"sharp":"yes"}"#,
        r#"{"fit":"FIT_STRETCH"}"#,
        r#"{"parts":{"a":1}}"#,
        r#"{"counts":{"a":1.5}}"#,
        r#"{"byName":"x","byNumber":1}"#,
        r#"{"extra":[1]}"#,
        r#"{"wait":5}"#,
        r#"{"at":"yesterday"}"#,
        r#"[1,2]"#,
    ] {
        let error = shapes.request(Some(json)).expect_err(json);
        assert_eq!(error.code, crate::error::code::INVALID_PARAMS, "{json}");
        text += &format!(
            "{json}\n  {error}\n  {}\n",
            error.hint().expect("every refusal has a hint")
        );
    }
    insta::assert_snapshot!(text);
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}{}", r#"{"parts":[ "#.repeat(5000), "]}".repeat(5000));
    transcoder().request(Some(&deep)).expect_err("5000 levels");
    let deep = format!(r#"{{"anything":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    transcoder().request(Some(&deep)).expect_err("100000 levels");
}

#[test]
fn a_reply_of_another_type_is_the_plugins_fault() {
    let mut out = Vec::new();
    let error = transcoder()
        .reply(Bytes::from_static(b"\x18"), &mut out)
        .expect_err("a cut varint");
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    let error = transcoder()
        .reply(Bytes::from_static(b"\x0a\x02\xff\xff"), &mut out)
        .expect_err("a string that is not UTF-8");
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
}

#[test]
fn details_of_known_and_unknown_types() {
    let shapes = shapes();
    let any = |name: &str, value: &[u8]| prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: value.to_vec(),
    };
    let mut status = Status::new(mortise_wire::Code::InvalidArgument, "no");
    status.details = vec![
        any("acme.Shapes", b"\x18\x07"),
        any("acme.Other", b"\x00\x01\xff\xfe"),
        any("acme.Shapes", b"\xff"),
    ];
    let all = details(Some(shapes.parent_pool()), &status);
    let all = all.iter().map(|it| it.get()).collect::<Vec<_>>();
    assert_eq!(
        all,
        [
            r#"{"@type":"type.googleapis.com/acme.Shapes","width":7}"#,
            r#"{"@type":"type.googleapis.com/acme.Other","value":"AAH//g=="}"#,
            r#"{"@type":"type.googleapis.com/acme.Shapes","value":"/w=="}"#,
        ]
    );
}

#[test]
fn only_canonical_base64_is_called_base64() {
    for text in ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg", "_-8="] {
        assert!(is_base64(text), "{text}");
    }
    assert!(!is_base64("Z") && !is_base64("Zg===") && !is_base64("Z g="));
}

// === the short way ===

/// What the short way must take: else the tests of agreement would hold for a short way that takes nothing.
#[test]
fn plain_messages_go_the_short_way() {
    let shapes = shapes();
    let shape = Shape::of(&shapes).expect("it has one");
    let long = "x".repeat(20_000);
    for json in [
        "{}",
        r#" { "text" : "größer \"quoted\" \u00e9\n🌍" , "width" : 7 } "#,
        r#"{"image_data":"AAEC/w==","big":"-9223372036854775808","ratio":0.5,"sharp":true,"small":-1}"#,
        r#"{"fit":"FIT_PAD","byName":"","fits":["FIT_CROP",2,77]}"#,
        r#"{"parts":[{"width":1},{},{"parts":[{"text":"x"}]}],"inner":{"inner":{}}}"#,
        r#"{"note":"","text":null,"deltas":[1,-2,2147483647],"tags":["",""],"maybe":0,"loose":[1,2.5,1e300]}"#,
        r#"{"mass":16777217,"offset":-1,"f32":1,"sf32":-1,"f64":"18446744073709551615","sf64":"-1","huge":1}"#,
        r#"{"deltas":[],"tags":[],"width":0,"text":"","ratio":0.0,"sharp":false,"fit":0}"#,
        &format!(r#"{{"inner":{{"text":"{long}"}}}}"#),
    ] {
        let bytes = encode::encode(&shape, json).unwrap_or_else(|| panic!("{json:.200}"));
        let reflected = request(&shapes, Some(json)).expect("it is valid");
        assert_eq!(bytes, reflected, "{json:.200}");
        let (mut short, mut long) = (Vec::new(), Vec::new());
        print::print(&shape, &bytes, &mut short).unwrap_or_else(|| panic!("{json:.200}"));
        reply(&shapes, reflected, &mut long).expect("it is valid");
        assert_eq!(short, long, "{json:.200}");
    }
}

#[test]
fn what_has_no_shape_goes_the_long_way() {
    let shapes = shapes();
    let shape = Shape::of(&shapes).expect("it has one");
    for json in [
        r#"{"counts":{"a":1}}"#,
        r#"{"anything":null}"#,
        r#"{"wrapped":1}"#,
        r#"{"ratio":-0.0}"#,
        r#"{"ratio":"NaN"}"#,
        r#"{"width":1,"width":2}"#,
        r#"{"width":1e1}"#,
    ] {
        assert!(encode::encode(&shape, json).is_none(), "{json}");
        request(&shapes, Some(json)).expect(json);
    }
    let empty = shapes.parent_pool().get_message_by_name("google.protobuf.Struct");
    assert!(Shape::of(&empty.expect("imported")).is_none());
}

/// Names of the fields, right and wrong.
fn name() -> impl Strategy<Value = String> {
    let right: Vec<String> = shapes()
        .fields()
        .flat_map(|it| [it.json_name().to_owned(), it.name().to_owned()])
        .collect();
    prop_oneof![9 => select(right), 1 => "[a-z]{0,3}"]
}

/// Any JSON; more often such that fits some field.
fn json() -> impl Strategy<Value = Value> {
    let spelt = |text: &'static str| Just(serde_json::from_str::<Value>(text).expect("JSON"));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-2..3i64).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(|it| it.to_string().into()),
        any::<f32>().prop_map(|it| f64::from(it).into()),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,6}".prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
        any::<Vec<u8>>().prop_map(|it| BASE64_STANDARD.encode(it).into()),
        select(vec![
            "FIT_PAD", "FIT_CROP", "FIT_NONE", "NaN", "Infinity", "-0", "01", "+1", "1.5s", "AA", "A_-="
        ])
        .prop_map(Value::from),
        prop_oneof![
            spelt("-0.0"),
            spelt("1.0"),
            spelt("4294967296"),
            spelt("3.5e38"),
            spelt("-2147483649"),
            spelt("1e-60")
        ],
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A value that fits a field's type.
fn fitting(field: &FieldDescriptor, depth: u32) -> BoxedStrategy<Value> {
    let one = match field.kind() {
        Kind::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => any::<i32>().prop_map(Value::from).boxed(),
        Kind::Uint32 | Kind::Fixed32 => any::<u32>().prop_map(|it| it.to_string().into()).boxed(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => any::<i64>().prop_map(Value::from).boxed(),
        Kind::Uint64 | Kind::Fixed64 => any::<u64>().prop_map(|it| it.to_string().into()).boxed(),
        Kind::Float => any::<f32>().prop_map(|it| f64::from(it).into()).boxed(),
        Kind::Double => any::<f64>().prop_map(Value::from).boxed(),
        Kind::String => ".{0,6}".prop_map(Value::from).boxed(),
        Kind::Bytes => any::<Vec<u8>>()
            .prop_map(|it| BASE64_STANDARD.encode(it).into())
            .boxed(),
        Kind::Enum(_) => select(vec![Value::from("FIT_PAD"), 1.into(), 0.into(), 9.into()]).boxed(),
        Kind::Message(of) if of.full_name() == "acme.Shapes" && depth > 0 => message(depth - 1).boxed(),
        Kind::Message(_) => Just(Value::Object(serde_json::Map::new())).boxed(),
    };
    if field.is_list() {
        prop::collection::vec(one, 0..4).prop_map(Value::from).boxed()
    } else {
        one
    }
}

/// A message that is mostly right.
fn message(depth: u32) -> BoxedStrategy<Value> {
    let fields: Vec<_> = shapes().fields().filter(|it| !it.is_map()).collect();
    let member = select(fields).prop_flat_map(move |field| {
        let right = fitting(&field, depth).prop_map(move |value| (field.json_name().to_owned(), value));
        prop_oneof![40 => right, 1 => (name(), json())]
    });
    prop::collection::vec(member, 0..7)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
        .boxed()
}

/// The text with some characters lost, doubled or replaced.
fn damaged(text: &str, damage: &[(prop::sample::Index, u8)]) -> String {
    const TOKENS: &[u8] = b"{}[],:\"\\0129-+.eEntf \n\x01";
    let mut chars: Vec<char> = text.chars().collect();
    for (at, how) in damage {
        if chars.is_empty() {
            break;
        }
        let at = at.index(chars.len());
        match how % 3 {
            0 => drop(chars.remove(at)),
            1 => chars.insert(at, chars[at]),
            _ => chars[at] = char::from(TOKENS[usize::from(how / 3) % TOKENS.len()]),
        }
    }
    chars.into_iter().collect()
}

/// What the short way makes of a text, reflection makes of it, too.
fn agree(json: &str) -> Result<Option<Bytes>, TestCaseError> {
    let shapes = shapes();
    let shape = Shape::of(&shapes).expect("it has one");
    let reflected = request(&shapes, Some(json));
    if let Some(short) = encode::encode(&shape, json) {
        let decode = |bytes: &[u8]| DynamicMessage::decode(shapes.clone(), bytes).expect("a message");
        let long = reflected
            .as_ref()
            .map_err(|error| TestCaseError::fail(format!("{json}: {error}")))?;
        prop_assert_eq!(decode(&short), decode(long), "{}", json);
        // Whoever compares bytes finds no difference in size either: nothing is there that its absence would say.
        prop_assert_eq!(short.len(), long.len(), "{}", json);
    }
    Ok(reflected.ok())
}

/// What the short way makes of bytes, reflection makes of them, too.
fn agree_back(bytes: &[u8]) -> Result<(), TestCaseError> {
    let shapes = shapes();
    let shape = Shape::of(&shapes).expect("it has one");
    let mut short = Vec::new();
    if print::print(&shape, bytes, &mut short).is_some() {
        let mut long = Vec::new();
        reply(&shapes, Bytes::copy_from_slice(bytes), &mut long)
            .map_err(|error| TestCaseError::fail(format!("{bytes:?}: {error}")))?;
        prop_assert_eq!(String::from_utf8(short), String::from_utf8(long));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_agree(
        value in prop_oneof![3 => message(2), 1 => json()],
        damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..3),
        bytes_damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..3),
    ) {
        agree(&value.to_string())?;
        agree(&serde_json::to_string_pretty(&value).expect("JSON"))?;
        if let Some(bytes) = agree(&damaged(&value.to_string(), &damage))? {
            agree_back(&bytes)?;
            let mut bytes = bytes.to_vec();
            for (at, byte) in bytes_damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            agree_back(&bytes)?;
            // Twice the same message is one merged message.
            agree_back(&[bytes.clone(), bytes].concat())?;
        }
    }
}

#[test]
fn a_list_may_be_interrupted_and_a_number_spelt_long() {
    let zero_spelt_long = b"\x18\x80\x80\x00";
    agree_back(zero_spelt_long).expect("they agree");
    let mut two_parts = DynamicMessage::new(shapes());
    two_parts.set_field_by_name("tags", Reflected::List(vec![Reflected::String("a".into())]));
    let list = two_parts.encode_to_vec();
    let interrupted = [&list[..], b"\x18\x07", &list].concat();
    agree_back(&interrupted).expect("they agree");
    let unknown = [b"\xf8\x7f\x01", &list[..]].concat();
    agree_back(&unknown).expect("they agree");
}
