use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::*;
use crate::Code;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    item: String,
    amount: u32,
    price: f64,
    tags: Vec<String>,
    note: Option<String>,
    by_day: BTreeMap<String, i64>,
    paid: bool,
}

fn order() -> Order {
    Order {
        item: "Zapfen \u{1f529}".to_owned(),
        amount: u32::MAX,
        price: 0.1,
        tags: vec![String::new(), "b".to_owned()],
        note: None,
        by_day: BTreeMap::from([("mon".to_owned(), -(1 << 53)), ("tue".to_owned(), 0)]),
        paid: true,
    }
}

#[test]
fn a_value_comes_back_as_it_was() {
    let fields = to_struct(&order()).expect("it fits");
    assert_eq!(
        from_struct::<Order>(fields).expect("it is the same type"),
        order()
    );
}

#[test]
fn an_integer_that_a_double_cannot_hold_is_refused_with_its_field() {
    let value = BTreeMap::from([("id", (1_u64 << 53) + 1)]);
    let status = to_struct(&value).expect_err("2^53 + 1 is no double");
    assert_eq!(status.kind(), Code::Internal);
    assert!(
        status.message.contains("field `id`") && status.message.contains("9007199254740993"),
        "{status}"
    );
}

#[test]
fn what_does_not_fit_the_type_is_the_callers_fault() {
    let mut fields = to_struct(&order()).expect("it fits");
    fields.fields.insert(
        "amount".to_owned(),
        Value {
            kind: Some(Kind::NumberValue(-1.0)),
        },
    );
    let status = from_struct::<Order>(fields).expect_err("-1 is no u32");
    assert_eq!(status.kind(), Code::InvalidArgument);

    let nan = Value {
        kind: Some(Kind::NumberValue(f64::NAN)),
    };
    let list = Value {
        kind: Some(Kind::ListValue(ListValue { values: vec![nan] })),
    };
    let status = from_struct::<Json>(Struct {
        fields: BTreeMap::from([("xs".to_owned(), list)]),
    })
    .expect_err("NaN");
    assert!(status.message.contains("field `xs`"), "{status}");
}

#[test]
fn only_objects_are_structs() {
    let status = to_struct(&[1, 2]).expect_err("a list");
    assert!(status.message.contains("[1,2]"), "{status}");
}
