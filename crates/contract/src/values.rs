//! Whether a JSON object is what a message looks like: for configuration that people write.
//!
//! It follows protobuf's JSON form and is stricter where a slip is likelier than a wish: a member that the message does not declare is a fault. All
//! faults are found, each with its place, and none shows a value: it may be a secret that stands in the wrong place.

use std::fmt;

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use crate::Contract;

/// Most faults that are told; who has more of them is not helped by reading on.
const FAULTS_MAX: usize = 50;
/// How deep values may nest.
const DEPTH_MAX: usize = 64;

/// Something that is not as the message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueFault {
    /// Where: `limits.rate`, `hosts[2]`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub why: String,
    /// Whether the field is marked `sensitive`: what stands there must be neither kept nor shown.
    pub sensitive: bool,
}

impl fmt::Display for ValueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.why)
        } else {
            write!(f, "`{}` {}", self.path, self.why)
        }
    }
}

impl Contract {
    /// What keeps `value` from being the message `message`, which the set declares. `is_reference` tells values that stand for a secret which
    /// is somewhere else: a field of text or bytes may have one, and a field marked `sensitive` may have nothing else.
    ///
    /// `None` if the set does not declare the message.
    #[must_use]
    pub fn check_value(
        &self,
        message: &str,
        value: &Value,
        is_reference: &dyn Fn(&Value) -> bool,
    ) -> Option<Vec<ValueFault>> {
        let message = self.pool().get_message_by_name(message)?;
        let mut check = Check {
            contract: self,
            is_reference,
            sensitive: false,
            faults: Vec::new(),
        };
        check.message(&message, value, "", 0);
        Some(check.faults)
    }
}

struct Check<'a> {
    contract: &'a Contract,
    is_reference: &'a dyn Fn(&Value) -> bool,
    /// Whether it is in a field that is marked so.
    sensitive: bool,
    faults: Vec<ValueFault>,
}

// === impl Check ===

impl Check<'_> {
    fn fault(&mut self, path: &str, why: impl Into<String>) {
        // Those are all told: who blots them out must not miss one.
        if self.faults.len() < FAULTS_MAX || self.sensitive {
            self.faults.push(ValueFault {
                path: path.to_owned(),
                why: why.into(),
                sensitive: self.sensitive,
            });
        }
    }

    fn wrong(&mut self, path: &str, value: &Value, expected: &str) {
        let found = if (self.is_reference)(value) {
            "a reference to a secret, which is text"
        } else {
            name_of(value)
        };
        self.fault(path, format!("is {found}, and it must be {expected}"));
    }

    fn message(&mut self, message: &MessageDescriptor, value: &Value, path: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return self.fault(path, format!("is more than {DEPTH_MAX} levels deep"));
        }
        if self.well_known(message, value, path) {
            return;
        }
        let Value::Object(members) = value else {
            return self.wrong(path, value, "an object");
        };
        let mut chosen: Vec<(String, String)> = Vec::new();
        for (name, value) in members {
            let at = join(path, name);
            let field = message
                .fields()
                .find(|it| it.json_name() == name || it.name() == name);
            let Some(field) = field else {
                self.unknown(message, name, &at);
                continue;
            };
            if value.is_null() {
                continue;
            }
            if let Some(oneof) = field.containing_oneof().filter(|it| it.fields().len() > 1) {
                if let Some((_, other)) = chosen.iter().find(|(it, _)| it == oneof.name()) {
                    let why = format!("and `{other}` exclude each other (`{}`)", oneof.name());
                    self.fault(&at, why);
                }
                chosen.push((oneof.name().to_owned(), name.clone()));
            }
            self.field(&field, value, &at, depth + 1);
        }
    }

    fn unknown(&mut self, message: &MessageDescriptor, name: &str, path: &str) {
        let near = |it: &FieldDescriptor| {
            let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
            plain(it.name()) == plain(name) || distance(&plain(it.name()), &plain(name)) <= 2
        };
        let known: Vec<_> = message.fields().map(|it| format!("`{}`", it.name())).collect();
        let hint = match message.fields().find(near) {
            Some(near) => format!("did you mean `{}`?", near.name()),
            None if known.is_empty() => "it has none".to_owned(),
            None => format!("it has {}", known.join(", ")),
        };
        let why = format!("is no field of `{}`; {hint}", message.full_name());
        self.fault(path, why);
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value, path: &str, depth: usize) {
        let sensitive = self.contract.field_options(field).sensitive;
        let around = std::mem::replace(&mut self.sensitive, sensitive);
        self.content(field, sensitive, value, path, depth);
        self.sensitive = around;
    }

    fn content(&mut self, field: &FieldDescriptor, sensitive: bool, value: &Value, path: &str, depth: usize) {
        if field.is_map() {
            let Value::Object(members) = value else {
                return self.wrong(path, value, "an object");
            };
            let Kind::Message(entry) = field.kind() else {
                return;
            };
            let (key, kept) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            for (name, value) in members {
                let at = join(path, name);
                if !fits_key(&key.kind(), name) {
                    self.fault(&at, "has a key of another type than its map");
                }
                self.single(&kept.kind(), sensitive, value, &at, depth);
            }
        } else if field.cardinality() == Cardinality::Repeated {
            let Value::Array(items) = value else {
                return self.wrong(path, value, "a list");
            };
            for (number, item) in items.iter().enumerate() {
                let at = format!("{path}[{number}]");
                self.single(&field.kind(), sensitive, item, &at, depth);
            }
        } else {
            self.single(&field.kind(), sensitive, value, path, depth);
        }
    }

    fn single(&mut self, kind: &Kind, sensitive: bool, value: &Value, path: &str, depth: usize) {
        if (self.is_reference)(value) && matches!(kind, Kind::String | Kind::Bytes) {
            return;
        }
        if sensitive {
            let why = r#"is a secret and must not be written out; say where it is: {"secret": "file:/PATH"} or {"secret": "env:NAME"}"#;
            return self.fault(path, why);
        }
        match kind {
            Kind::Message(message) => self.message(message, value, path, depth),
            Kind::Enum(names) => self.choice(names, value, path),
            Kind::Bool if !value.is_boolean() => self.wrong(path, value, "true or false"),
            Kind::String if !value.is_string() => self.wrong(path, value, "text"),
            Kind::Bytes => self.bytes(value, path),
            Kind::Double | Kind::Float => {
                let special = |it: &str| matches!(it, "NaN" | "Infinity" | "-Infinity");
                if !value.is_number() && !value.as_str().is_some_and(special) {
                    self.wrong(path, value, "a number");
                }
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                self.integer(value, path, i32::MIN.into(), i32::MAX.into());
            }
            Kind::Uint32 | Kind::Fixed32 => self.integer(value, path, 0, u32::MAX.into()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                self.integer(value, path, i64::MIN.into(), i64::MAX.into());
            }
            Kind::Uint64 | Kind::Fixed64 => self.integer(value, path, 0, u64::MAX.into()),
            Kind::Bool | Kind::String => {}
        }
    }

    fn choice(&mut self, names: &EnumDescriptor, value: &Value, path: &str) {
        let known = match value {
            Value::String(name) => names.get_value_by_name(name).is_some(),
            Value::Number(number) => number.as_i64().is_some_and(|it| i32::try_from(it).is_ok()),
            _ => return self.wrong(path, value, "a name"),
        };
        if !known {
            let all: Vec<_> = names.values().map(|it| format!("`{}`", it.name())).collect();
            self.fault(path, format!("must be one of {}", all.join(", ")));
        }
    }

    fn bytes(&mut self, value: &Value, path: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '=');
        match value.as_str() {
            None => self.wrong(path, value, "bytes in base64"),
            Some(text) if !text.chars().all(allowed) => self.fault(path, "is not base64"),
            Some(_) => {}
        }
    }

    fn integer(&mut self, value: &Value, path: &str, least: i128, most: i128) {
        let number = match value {
            Value::Number(number) => number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from))
                .or_else(|| whole(number.as_f64()?)),
            // 64 bits as text, because JSON's numbers may not carry them.
            Value::String(text) => text.parse().ok(),
            _ => return self.wrong(path, value, "a whole number"),
        };
        match number {
            Some(number) if (least..=most).contains(&number) => {}
            Some(_) => self.fault(path, format!("must be from {least} to {most}")),
            None => self.wrong(path, value, "a whole number"),
        }
    }

    /// Checks what has a JSON form of its own. Whether it was such a message.
    fn well_known(&mut self, message: &MessageDescriptor, value: &Value, path: &str) -> bool {
        let (fits, expected) = match message.full_name() {
            "google.protobuf.Struct" => (value.is_object(), "an object"),
            "google.protobuf.ListValue" => (value.is_array(), "a list"),
            "google.protobuf.Value" => (true, ""),
            "google.protobuf.Duration" => (
                value.as_str().is_some_and(is_duration),
                "a duration such as `1.5s`",
            ),
            "google.protobuf.Timestamp" => (value.is_string(), "a time such as `2026-11-21T00:00:00Z`"),
            "google.protobuf.FieldMask" => (value.is_string(), "text"),
            "google.protobuf.Any" => (value.is_object(), "an object"),
            wrapper if wrapper.starts_with("google.protobuf.") && wrapper.ends_with("Value") => {
                if let Some(inner) = message.get_field_by_name("value") {
                    self.single(&inner.kind(), false, value, path, 0);
                }
                return true;
            }
            _ => return false,
        };
        if !fits {
            self.wrong(path, value, expected);
        }
        true
    }
}

// === words ===

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn fits_key(kind: &Kind, key: &str) -> bool {
    match kind {
        Kind::String => true,
        Kind::Bool => matches!(key, "true" | "false"),
        _ => key.parse::<i128>().is_ok(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "it has no fraction and is in range"
)]
fn whole(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() < 1e19).then_some(number as i128)
}

fn is_duration(text: &str) -> bool {
    let number = text
        .strip_suffix('s')
        .map(|it| it.strip_prefix('-').unwrap_or(it));
    number.is_some_and(|it| {
        let (whole, rest) = it.split_once('.').unwrap_or((it, "0"));
        let digits = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
        digits(whole) && digits(rest) && rest.len() <= 9
    })
}

/// Levenshtein's, of short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
