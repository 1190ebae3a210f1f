//! Bytes from strangers, and random contracts.

use super::*;

/// A message of any contract, with a value in each field that `present` says.
fn filled(of: &MessageDescriptor, seeds: &mut impl Iterator<Item = u8>, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        let seed = seeds.next().unwrap_or_default();
        if seed.is_multiple_of(3) || (depth == 0 && matches!(field.kind(), Kind::Message(_))) {
            continue;
        }
        let value = |kind: &Kind, seeds: &mut dyn Iterator<Item = u8>| match kind {
            Kind::Bool => Value::Bool(seed & 1 == 1),
            Kind::Float => Value::F32(seed.into()),
            Kind::Double => Value::F64(seed.into()),
            Kind::String => Value::String("é".repeat(usize::from(seed % 5))),
            Kind::Bytes => Value::Bytes(vec![seed; 3].into()),
            Kind::Enum(_) => Value::EnumNumber(i32::from(seed % 20)),
            Kind::Message(inner) => {
                let mut seeds = seeds;
                Value::Message(filled(inner, &mut seeds, depth - 1))
            }
            kind => number(kind, seed.into()),
        };
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                unreachable!()
            };
            let inner = value(&entry.map_entry_value_field().kind(), seeds);
            Value::Map([(MapKey::String("k".to_owned()), inner)].into())
        } else if field.is_list() {
            let one = value(&field.kind(), seeds);
            Value::List(vec![one.clone(), one])
        } else {
            value(&field.kind(), seeds)
        };
        message.set_field(&field, value);
    }
    message
}

fn linked(model: &Model) -> Contract {
    contract(&model.write(Layout::default())[0].1)
}

/// The same contract with more fields in every message.
fn grown(model: &Model) -> Model {
    let mut grown = model.clone();
    for (index, message) in grown.messages.iter_mut().enumerate() {
        let number = 50 + u32::try_from(index).expect("few messages");
        message.push(crate::model::Field {
            name: format!("added{number}"),
            number,
            ty: Type::Scalar("string"),
            label: Label::Implicit,
        });
    }
    grown
}

/// Every narrow number wider, which a reader of the old version has to check.
fn widened(model: &Model) -> Model {
    let mut wide = model.clone();
    for field in wide.messages.iter_mut().flatten() {
        field.ty = match field.ty {
            Type::Scalar("int32") => Type::Scalar("int64"),
            Type::Scalar("uint32") => Type::Scalar("uint64"),
            Type::Scalar("sint32") => Type::Scalar("sint64"),
            Type::Scalar("fixed32") => Type::Scalar("fixed64"),
            Type::Scalar("float") => Type::Scalar("double"),
            other => other,
        };
    }
    wide
}

fn has_float(model: &Model) -> bool {
    let mut fields = model.messages.iter().flatten();
    fields.any(|it| it.ty == Type::Scalar("float"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn growing_costs_nothing(model in models(), seeds in proptest::collection::vec(any::<u8>(), 0..64)) {
        let (old, new) = (linked(&model), linked(&grown(&model)));
        for (one, other) in [(&old, &new), (&new, &old)] {
            let plan = Plan::between(one, &one.methods()[0], other, &[]).map_err(|it| TestCaseError::fail(it.to_string()))?;
            let bytes = Bytes::from(filled(&input(one), &mut seeds.iter().copied(), 3).encode_to_vec());
            prop_assert_eq!(plan.request(bytes.clone(), MAX).expect("nothing to do"), bytes);
        }
    }

    #[test]
    fn what_was_widened_arrives_and_comes_back(model in models(), seeds in proptest::collection::vec(any::<u8>(), 0..64)) {
        // A double that is no float is refused on the way back at binding, so there is no plan.
        prop_assume!(!has_float(&model));
        // Keys and maps of fixed32 change their encoding as fields do.
        let (old, new) = (linked(&model), linked(&widened(&model)));
        let forth = Plan::between(&old, &old.methods()[0], &new, &[]).map_err(|it| TestCaseError::fail(it.to_string()))?;
        let back = Plan::between(&new, &new.methods()[0], &old, &[]).map_err(|it| TestCaseError::fail(it.to_string()))?;
        // Zeroes that are set and zeroes that are not are the same on the wire.
        let plain = |of: &Contract| {
            let filled = filled(&input(of), &mut seeds.iter().copied(), 3).encode_to_vec();
            DynamicMessage::decode(input(of), &filled[..]).expect("it was encoded")
        };
        let message = plain(&old);
        let bytes = Bytes::from(message.encode_to_vec());
        let there = forth.request(bytes, MAX).map_err(|it| TestCaseError::fail(it.to_string()))?;
        let wide = DynamicMessage::decode(input(&new), there.clone()).expect("it is of the new type");
        prop_assert_eq!(wide.unknown_fields().count(), 0, "every field is known");
        // The same seeds make the same values of the wider types.
        prop_assert_eq!(&wide, &plain(&new));
        let again = back.request(there, MAX).map_err(|it| TestCaseError::fail(it.to_string()))?;
        prop_assert_eq!(DynamicMessage::decode(input(&old), again).expect("it is of the old type"), message);
    }

    #[test]
    fn unknown_fields_keep_their_bytes_and_their_order(
        before in unknown(), between in unknown(), after in unknown(), zip in ".{0,8}"
    ) {
        let (old, new, lineage) = moved();
        let plan = plan_with(&old, &new, &lineage).expect("a map is declared");
        let field = |json: &str| written(&old, json).to_vec();
        let zip = field(&serde_json::json!({ "zip": zip }).to_string());
        let message = [before.clone(), zip.clone(), between.clone(), field(r#"{"grams": 5}"#), after.clone()].concat();
        let adapted = plan.request(message.into(), MAX).expect("it is protobuf");
        let address = if zip.is_empty() { vec![] } else {
            let inner = zip;
            [vec![6 << 3 | 2, u8::try_from(inner.len()).expect("short")], inner].concat()
        };
        // Zeroes of what became text, then all in its order; `zip` is 2 in both messages.
        let zeroes = written(&new, r#"{"grams": "0"}"#).to_vec();
        let none = written(&new, r#"{"level": "LEVEL_NONE"}"#).to_vec();
        let grams = written(&new, r#"{"grams": "5"}"#).to_vec();
        prop_assert_eq!(adapted, [zeroes, none, before, address, between, grams, after].concat());
    }

    #[test]
    fn noise_is_refused_or_rewritten_within_its_bound(noise in proptest::collection::vec(any::<u8>(), 0..200), max in 0_usize..300) {
        let (old, new, lineage) = moved();
        for (one, other) in [(&old, &new), (&new, &old)] {
            let plan = plan_with(one, other, &lineage).expect("a map is declared");
            match plan.request(noise.clone().into(), max) {
                Ok(adapted) => prop_assert!(adapted.len() <= max),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn what_one_bit_breaks_is_refused_or_still_protobuf(at in any::<prop::sample::Index>(), bit in 0..8) {
        let (old, new, lineage) = moved();
        let plan = plan_with(&new, &old, &lineage).expect("a map is declared");
        let mut bytes = written(&new, r#"{"id": "a", "address": {"street": "s", "zip": "8000"}, "grams": "12", "level": "LEVEL_HIGH"}"#).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let valid = DynamicMessage::decode(input(&new), &bytes[..]).is_ok();
        match plan.request(bytes.into(), MAX) {
            Ok(adapted) => {
                let read = DynamicMessage::decode(input(&old), adapted);
                prop_assert!(!valid || read.is_ok(), "a valid message became an invalid one");
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

/// Fields of numbers that no contract here has.
fn unknown() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        (100_u32..200, any::<u64>()).prop_map(|(number, it)| {
            let mut out = Vec::new();
            prost::encoding::uint64::encode(number, &it, &mut out);
            out
        }),
        (100_u32..200, proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(number, it)| {
            let mut out = Vec::new();
            prost::encoding::bytes::encode(number, &it, &mut out);
            out
        }),
        (100_u32..200, any::<u32>()).prop_map(|(number, it)| {
            let mut out = Vec::new();
            prost::encoding::fixed32::encode(number, &it, &mut out);
            out
        }),
    ];
    proptest::collection::vec(field, 0..4).prop_map(|it| it.concat())
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let of = |ty: &str| shop(&format!("M next = 1; {ty} n = 2;"), "");
    let (old, new) = (of("int64"), of("int32"));
    let plan = plan(&old, &new);
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(&bytes);
        bytes = outer;
    }
    assert_eq!(plan.request(bytes.into(), MAX), Err(AdaptError::TooDeep));
}

#[test]
fn many_small_messages_cannot_grow_without_end() {
    let of = |inner: &str| shop("repeated Item many = 1;", &format!("message Item {{ {inner} }}"));
    let text = "x".repeat(1000);
    let new = of(&format!("string s = 1 [(mortise.default) = \"{text}\"];"));
    let plan = plan(&of(""), &new);
    let empties = [0x0a, 0x00].repeat(10_000);
    let refused = plan.request(empties.into(), 1 << 20);
    assert_eq!(refused, Err(AdaptError::TooLarge { max: 1 << 20 }));
}

#[test]
fn values_in_one_field_are_counted_as_they_come() {
    // What is too long is noticed before the last value, which does not fit: nobody converts the whole to find that it is too long.
    let (old, new) = (
        shop("repeated int64 n = 1;", ""),
        shop("repeated fixed32 n = 1;", ""),
    );
    let texts = shop("repeated string n = 2;", "");
    let line = two(&old, &texts, map(&[("n", "n")], &[], &[]));
    let to_texts = plan_with(&old, &texts, &line).unwrap_or_else(|it| panic!("{it}"));
    let broken = [&b"\x0a\xe9\x07"[..], &[1; 1000], b"\xff"].concat();
    for plan in [plan(&old, &new), to_texts] {
        let whole = plan.request(broken.clone().into(), 1 << 20);
        assert!(matches!(whole, Err(AdaptError::Malformed { .. })), "{whole:?}");
        let bounded = plan.request(broken.clone().into(), 100);
        assert_eq!(bounded, Err(AdaptError::TooLarge { max: 100 }));
    }
}

#[test]
fn lengths_are_right_whether_their_digits_change_or_not() {
    let of = |ty: &str, default: &str| {
        let note = format!("string note = 3 [(mortise.default) = \"{default}\"];");
        let note = if default.is_empty() { String::new() } else { note };
        shop(&format!("M next = 1; {ty} n = 2; string text = 4; {note}"), "")
    };
    let wide = of("int64", "");
    let nested = |lengths: &[usize]| {
        lengths
            .iter()
            .fold(DynamicMessage::new(input(&wide)), |inner, length| {
                let mut outer = DynamicMessage::new(input(&wide));
                outer.set_field_by_name("next", Value::Message(inner));
                outer.set_field_by_name("n", Value::I64(3));
                outer.set_field_by_name("text", Value::String("x".repeat(*length)));
                outer
            })
    };
    for new in [
        of("int32", ""),
        of("int64", "12345678"),
        of("fixed64", "12345678"),
        of("sint32", ""),
    ] {
        let plan = plan(&wide, &new);
        for length in (0..20).chain(90..140).chain(16_350..16_400) {
            let message = nested(&[length, length, 1]);
            let bytes = message.encode_to_vec();
            let adapted = plan
                .request(bytes.into(), MAX)
                .unwrap_or_else(|it| panic!("{it}"));
            let read = DynamicMessage::decode(input(&new), adapted.clone()).expect("lengths are right");
            // Whoever encodes it anew uses no more digits than it takes.
            assert_eq!(read.encoded_len(), adapted.len(), "{length}");
            let back = self::plan(&new, &wide)
                .request(adapted, MAX)
                .unwrap_or_else(|it| panic!("{it}"));
            let mut back = seen(&wide, &back);
            strip(&mut back);
            assert_eq!(back, serde_json::to_value(&message).expect("it is JSON"));
        }
    }
}

/// The version that does not know `note` shows it nowhere; this only asserts so, all the way down.
fn strip(message: &mut serde_json::Value) {
    let mut at = Some(message);
    while let Some(it) = at {
        assert!(it.get("note").is_none());
        at = it.get_mut("next");
    }
}

#[test]
fn a_length_with_more_digits_than_it_takes_keeps_them() {
    let of = |ty: &str| shop(&format!("M next = 1; {ty} n = 2; string text = 4;"), "");
    let (wide, narrow, fixed) = (of("int64"), of("int32"), of("fixed32"));
    let cases = [
        (
            &narrow,
            b"\x10\x05\x22\x02ok".to_vec(),
            b"\x10\x05\x22\x02ok".to_vec(),
        ),
        // Nothing in it is touched.
        (&narrow, b"\x22\x02ok".to_vec(), b"\x22\x02ok".to_vec()),
        (
            &fixed,
            b"\x10\x05\x22\x02ok".to_vec(),
            b"\x15\x05\0\0\0\x22\x02ok".to_vec(),
        ),
    ];
    for (new, before, after) in cases {
        // `next` with a tag of two bytes and a length of three, in one with a length of two.
        let nested = |inner: &[u8]| {
            let length = u8::try_from(inner.len()).expect("it is short");
            let inner = [&[0x8a, 0, length | 0x80, 0x80, 0][..], inner].concat();
            [&[0x0a, (length + 5) | 0x80, 0][..], &inner].concat()
        };
        let adapted = plan(&wide, new).request(nested(&before).into(), MAX);
        assert_eq!(adapted.expect("it fits"), nested(&after));
    }
}
