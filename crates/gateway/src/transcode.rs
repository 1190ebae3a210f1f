//! JSON to protobuf and back, by a method's own descriptors: the proto3 JSON mapping
//! (<https://protobuf.dev/programming-guides/json/>), `google.protobuf.Struct` being a plain object.
//!
//! There are two ways. The short one ([`encode`], [`print`]) goes from text to bytes and back in one pass, by a [`Shape`] that was compiled out
//! of the descriptors; it takes nearly everything that is said between programs, and is four times as fast. What it does not take, faults
//! included, goes the long way through `prost_reflect`, which knows the whole mapping and has the last word.
//!
//! Unknown members are refused, because a typing error that is silently dropped costs more than a refusal; the refusal names the path
//! and what would have been right. Looking for that path needs a tree of the JSON, so it happens only after a failure.

mod encode;
mod print;
mod shape;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::Status;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
    prost::Message as _,
};
use serde_json::{Value, value::RawValue};

use self::shape::Shape;
use crate::error::RpcError;

/// Both directions of one method. Compiling one costs some microseconds, so keep it with the route.
#[derive(Debug)]
pub struct Transcoder {
    input: MessageDescriptor,
    output: MessageDescriptor,
    input_shape: Option<Shape>,
    output_shape: Option<Shape>,
}

// === impl Transcoder ===

impl Transcoder {
    /// For a method that takes an `input` and answers with an `output`.
    #[must_use]
    pub fn new(input: MessageDescriptor, output: MessageDescriptor) -> Self {
        Self {
            input_shape: Shape::of(&input),
            output_shape: Shape::of(&output),
            input,
            output,
        }
    }

    /// Turns the text of `params` into an encoded message.
    ///
    /// # Errors
    /// Invalid params: the path, what stands there, what is expected.
    pub fn request(&self, params: Option<&str>) -> Result<Bytes, RpcError> {
        let encoded = self
            .input_shape
            .as_ref()
            .zip(params)
            .and_then(|(shape, json)| encode::encode(shape, json));
        match encoded {
            Some(message) => Ok(message.into()),
            None => request(&self.input, params),
        }
    }

    /// Appends the JSON text of an encoded reply.
    ///
    /// # Errors
    /// `GuestFault` if the bytes are no such message; what was appended is of no use then.
    pub fn reply(&self, message: Bytes, out: &mut Vec<u8>) -> Result<(), CallError> {
        let before = out.len();
        if let Some(shape) = &self.output_shape {
            if print::print(shape, &message, out).is_some() {
                return Ok(());
            }
            out.truncate(before);
        }
        reply(&self.output, message, out)
    }
}

// === the long way ===

fn request(to: &MessageDescriptor, params: Option<&str>) -> Result<Bytes, RpcError> {
    let Some(params) = params else {
        return Ok(Bytes::new());
    };
    if params.starts_with('[') && !takes_array(to) {
        return Err(RpcError::invalid_params(
            "`params` is an array, and protobuf has no positions to map it to",
            format!("send an object with {}", members(to)),
        ));
    }
    let mut json = serde_json::Deserializer::from_str(params);
    let message = DynamicMessage::deserialize(to.clone(), &mut json)
        .and_then(|message| json.end().map(|()| message))
        .map_err(|error| explain(to, params, &error))?;
    Ok(message.encode_to_vec().into())
}

fn reply(from: &MessageDescriptor, reply: Bytes, out: &mut Vec<u8>) -> Result<(), CallError> {
    let fault = |why: String| {
        let message = format!("the reply is not a valid `{}`: {why}", from.full_name());
        CallError::new(CallErrorKind::GuestFault, message)
            .with_hint("the plugin's author should check that code and contract belong together")
    };
    let message = DynamicMessage::decode(from.clone(), reply).map_err(|error| fault(error.to_string()))?;
    message
        .serialize_with_options(&mut serde_json::Serializer::new(out), &SerializeOptions::new())
        .map_err(|error| fault(error.to_string()))
}

/// The details of a status as JSON: `@type` and the mapped message where `pool` knows the type, its bytes in base64 where not.
pub(crate) fn details(pool: Option<&DescriptorPool>, status: &Status) -> Vec<Box<RawValue>> {
    let known = |type_url: &str, value: &[u8]| -> Option<Value> {
        let name = type_url.rsplit('/').next()?;
        let message = DynamicMessage::decode(pool?.get_message_by_name(name)?, value).ok()?;
        match serde_json::to_value(&message).ok()? {
            Value::Object(mut members) => {
                members.insert("@type".to_owned(), type_url.into());
                Some(Value::Object(members))
            }
            // Well-known types that are no objects in JSON, as `Any` maps them.
            value => Some(serde_json::json!({ "@type": type_url, "value": value })),
        }
    };
    let as_json = |any: &prost_types::Any| {
        let unknown =
            || serde_json::json!({ "@type": any.type_url, "value": BASE64_STANDARD.encode(&any.value) });
        serde_json::value::to_raw_value(&known(&any.type_url, &any.value).unwrap_or_else(unknown))
    };
    status
        .details
        .iter()
        .filter_map(|any| as_json(any).ok())
        .collect()
}

fn takes_array(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.ListValue" | "google.protobuf.Value"
    )
}

/// Says where in `params` the fault is.
fn explain(to: &MessageDescriptor, params: &str, error: &serde_json::Error) -> RpcError {
    let found = serde_json::from_str::<Value>(params)
        .ok()
        .and_then(|value| fault_in_message(to, &value, "params"));
    match found {
        Some(Fault { message, hint }) => RpcError::invalid_params(message, hint),
        None => RpcError::invalid_params(
            format!("`params` is not a valid `{}`: {error}", to.full_name()),
            "the proto3 JSON mapping says how each type is written: https://protobuf.dev/programming-guides/json",
        ),
    }
}

struct Fault {
    message: String,
    hint: String,
}

/// The first fault at or below `path`. It need not find every fault: the mapping's own error is the fallback.
fn fault_in_message(to: &MessageDescriptor, value: &Value, path: &str) -> Option<Fault> {
    if to.full_name().starts_with("google.protobuf.") && to.full_name() != "google.protobuf.Empty" {
        return fault_in_well_known(to, value, path);
    }
    let Value::Object(given) = value else {
        return Some(mismatch(
            path,
            &format!("an object (`{}`)", to.full_name()),
            value,
        ));
    };
    for (name, value) in given {
        let here = format!("{path}.{name}");
        let field = to
            .get_field_by_json_name(name)
            .or_else(|| to.get_field_by_name(name));
        let fault = match field {
            Some(_) if value.is_null() => None,
            Some(field) => fault_in_field(&field, value, &here),
            None => Some(Fault {
                message: format!("`{here}` is not in `{}`", to.full_name()),
                hint: closest(to, name).map_or_else(
                    || format!("it has {}", members(to)),
                    |near| format!("did you mean `{near}`? It has {}", members(to)),
                ),
            }),
        };
        if fault.is_some() {
            return fault;
        }
    }
    let taken = |oneof: &prost_reflect::OneofDescriptor| -> Vec<String> {
        let present = |it: &FieldDescriptor| {
            given
                .get(it.json_name())
                .or_else(|| given.get(it.name()))
                .is_some_and(|value| !value.is_null())
        };
        oneof
            .fields()
            .filter(present)
            .map(|it| format!("`{}`", it.json_name()))
            .collect()
    };
    to.oneofs().find_map(|oneof| {
        let taken = taken(&oneof);
        (taken.len() > 1).then(|| Fault {
            message: format!(
                "`{path}` has {}, and only one of them can be set",
                taken.join(" and ")
            ),
            hint: format!("they belong to the oneof `{}`: keep one", oneof.name()),
        })
    })
}

fn fault_in_field(field: &FieldDescriptor, value: &Value, path: &str) -> Option<Fault> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            return None;
        };
        let Value::Object(entries) = value else {
            return Some(mismatch(path, "an object (a map)", value));
        };
        let of = entry.map_entry_value_field();
        return entries
            .iter()
            .find_map(|(key, value)| fault_in_value(&of, value, &format!("{path}[{key:?}]")));
    }
    if field.cardinality() == Cardinality::Repeated {
        let Value::Array(items) = value else {
            return Some(mismatch(path, "an array", value));
        };
        return items
            .iter()
            .enumerate()
            .find_map(|(at, item)| fault_in_value(field, item, &format!("{path}[{at}]")));
    }
    fault_in_value(field, value, path)
}

fn fault_in_value(field: &FieldDescriptor, value: &Value, path: &str) -> Option<Fault> {
    let (expected, fits) = match field.kind() {
        Kind::Message(message) => return fault_in_message(&message, value, path),
        Kind::Enum(of) => {
            if let Value::String(name) = value
                && of.get_value_by_name(name).is_none()
            {
                let names = of
                    .values()
                    .map(|it| format!("`{}`", it.name()))
                    .collect::<Vec<_>>();
                return Some(Fault {
                    message: format!(
                        "`{path}` is `{name}`, which is not a value of `{}`",
                        of.full_name()
                    ),
                    hint: format!("it has {}", listed(&names)),
                });
            }
            (
                "the name or number of an enum value",
                value.is_string() || value.as_i64().is_some_and(|it| i32::try_from(it).is_ok()),
            )
        }
        Kind::Bool => ("true or false", value.is_boolean()),
        Kind::String => ("a string", value.is_string()),
        Kind::Bytes => (
            "bytes as a string in base64",
            value.as_str().is_some_and(is_base64),
        ),
        Kind::Double | Kind::Float => (
            "a number",
            value.is_number() || value.as_str().is_some_and(|it| it.parse::<f64>().is_ok()),
        ),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => (
            "a whole number from -2147483648 to 2147483647",
            integer(value).is_some_and(|it| i32::try_from(it).is_ok()),
        ),
        Kind::Uint32 | Kind::Fixed32 => (
            "a whole number from 0 to 4294967295",
            integer(value).is_some_and(|it| u32::try_from(it).is_ok()),
        ),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => (
            "a whole number of 64 bits, or a string with one",
            integer(value).is_some_and(|it| i64::try_from(it).is_ok()),
        ),
        Kind::Uint64 | Kind::Fixed64 => (
            "a whole number of 64 bits without sign, or a string with one",
            integer(value).is_some_and(|it| u64::try_from(it).is_ok()),
        ),
    };
    (!fits).then(|| mismatch(path, expected, value))
}

fn fault_in_well_known(to: &MessageDescriptor, value: &Value, path: &str) -> Option<Fault> {
    let (expected, fits) = match to.name() {
        "Struct" => ("an object", value.is_object()),
        "ListValue" => ("an array", value.is_array()),
        "Timestamp" => (r#"a time like "2026-01-31T12:00:00Z""#, value.is_string()),
        "Duration" => (
            r#"a duration like "1.5s""#,
            value.as_str().is_some_and(|it| it.ends_with('s')),
        ),
        "FieldMask" => (r#"a string like "user.name,photo""#, value.is_string()),
        "Any" => (
            "an object with `@type`",
            value.get("@type").is_some_and(Value::is_string),
        ),
        _ => return None,
    };
    (!fits).then(|| mismatch(path, expected, value))
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => {
            let whole = |it: f64| (it.fract() == 0.0 && it.abs() < 2f64.powi(64)).then_some(it as i128);
            number
                .as_i64()
                .map(i128::from)
                .or(number.as_u64().map(i128::from))
                .or(number.as_f64().and_then(whole))
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn mismatch(path: &str, expected: &str, value: &Value) -> Fault {
    let mut found = value.to_string();
    if found.len() > 60 {
        found.truncate(found.floor_char_boundary(57));
        found.push_str("...");
    }
    Fault {
        message: format!("`{path}` is {found}"),
        hint: format!("it takes {expected}"),
    }
}

fn members(of: &MessageDescriptor) -> String {
    let names = of
        .fields()
        .map(|it| format!("`{}`", it.json_name()))
        .collect::<Vec<_>>();
    if names.is_empty() {
        "no fields at all".to_owned()
    } else {
        listed(&names)
    }
}

/// At most a dozen names.
fn listed(names: &[String]) -> String {
    match names.len() {
        0..=12 => names.join(", "),
        more => format!("{} and {} more", names[..12].join(", "), more - 12),
    }
}

/// The field whose name is nearest to a misspelt one.
fn closest(of: &MessageDescriptor, name: &str) -> Option<String> {
    let fields = of.fields().map(|it| it.json_name().to_owned());
    let near = fields
        .map(|it| (distance(&it.to_ascii_lowercase(), &name.to_ascii_lowercase()), it))
        .min()?;
    (near.0 <= 1 + name.len() / 4).then_some(near.1)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len() - body.len() <= 2
        && body.len() % 4 != 1
        && body
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'+' | b'/' | b'-' | b'_'))
}

#[cfg(test)]
mod tests;
