use super::*;

/// A contract with one field of every shape.
fn shapes() -> MessageDescriptor {
    let file = r#"
        syntax = "proto3";
        package acme;
        import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/duration.proto";
        import "google/protobuf/any.proto";
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

fn there_and_back(json: &str) -> String {
    let shapes = shapes();
    let bytes = request(&shapes, Some(json)).unwrap_or_else(|error| panic!("{json}: {error}"));
    let mut out = b"kept ".to_vec();
    reply(&shapes, bytes, &mut out).expect("what was encoded decodes");
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
    assert!(request(&shapes(), None).expect("nothing to refuse").is_empty());
}

#[test]
fn refusals_name_the_path_and_the_cure() {
    let shapes = shapes();
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
        let error = request(&shapes, Some(json)).expect_err(json);
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
    request(&shapes(), Some(&deep)).expect_err("5000 levels");
    let deep = format!(r#"{{"anything":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    request(&shapes(), Some(&deep)).expect_err("100000 levels");
}

#[test]
fn a_reply_of_another_type_is_the_plugins_fault() {
    let mut out = Vec::new();
    let error = reply(&shapes(), Bytes::from_static(b"\x18"), &mut out).expect_err("a cut varint");
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    let error = reply(&shapes(), Bytes::from_static(b"\x0a\x02\xff\xff"), &mut out)
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
fn base64_agrees_with_the_rfc() {
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
        assert!(is_base64(text));
    }
    assert!(!is_base64("Z") && !is_base64("Zg===") && !is_base64("Z g="));
}
