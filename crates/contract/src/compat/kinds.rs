//! Which values of a writer's type a reader's type holds.

use std::collections::HashSet;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, Value};

use super::Level;
use crate::hash::is_open;

/// How a reader's type takes a writer's values, for types that are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Every value arrives.
    Holds,
    /// The bytes can be read, and what does not fit is cut off.
    Truncates,
    /// The bytes may be refused: not every byte string is text.
    MayRefuse,
    /// The bytes can be read, and JSON has another form.
    OtherJson,
    /// A closed enum does not show numbers it does not know.
    Hides,
    /// The bytes mean something else.
    Differs,
}

impl Fit {
    /// Why it does not fit, as the beginning of an advice.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Holds => "it fits",
            Self::Truncates => "the reader's type is narrower and would cut values off",
            Self::MayRefuse => "the reader refuses bytes that are not UTF-8",
            Self::OtherJson => "the two have different forms in JSON",
            Self::Hides => "the reader's enum is closed and hides numbers it does not know",
            Self::Differs => "the reader would misread the bytes",
        }
    }
}

/// The families of scalars that share an encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Varint,
    Zigzag,
    Fixed32,
    Fixed64,
    Float,
    Double,
    Text,
    Blob,
    Message,
}

/// How `reader` takes the values of `writer`. Message types are not looked into.
pub(crate) fn fit(writer: &Kind, reader: &Kind, level: Level) -> Fit {
    let wire = wire_fit(writer, reader);
    if wire == Fit::Holds && level == Level::WireJson && json_form(writer) != json_form(reader) {
        return Fit::OtherJson;
    }
    wire
}

fn wire_fit(writer: &Kind, reader: &Kind) -> Fit {
    match (encoding(writer), encoding(reader)) {
        (Encoding::Varint, Encoding::Varint) => match (writer, reader) {
            _ if bits(writer) > bits(reader) => Fit::Truncates,
            // Two enums are compared value by value elsewhere.
            (Kind::Enum(_), Kind::Enum(_)) => Fit::Holds,
            (_, Kind::Enum(reader)) if !is_open(reader) => Fit::Hides,
            _ => Fit::Holds,
        },
        (Encoding::Zigzag, Encoding::Zigzag) if bits(writer) > bits(reader) => Fit::Truncates,
        (Encoding::Text, Encoding::Blob) => Fit::Holds,
        (Encoding::Blob, Encoding::Text) => Fit::MayRefuse,
        (one, other) if one == other => Fit::Holds,
        _ => Fit::Differs,
    }
}

/// Whether every whole number is still the same one, of types whose bytes can be read. Types that differ in nothing but a sign share an encoding, and buf
/// lets them pass; -1 becomes 4294967295.
pub(crate) fn keeps_sign(writer: &Kind, reader: &Kind) -> bool {
    let signed = |it: &Kind| {
        matches!(
            it,
            Kind::Int32
                | Kind::Int64
                | Kind::Sint32
                | Kind::Sint64
                | Kind::Sfixed32
                | Kind::Sfixed64
                | Kind::Enum(_)
        )
    };
    signed(writer) == signed(reader)
        || *writer == Kind::Bool
        || matches!((writer, reader), (Kind::Uint32, Kind::Int64))
}

fn encoding(kind: &Kind) -> Encoding {
    match kind {
        Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Enum(_) => {
            Encoding::Varint
        }
        Kind::Sint32 | Kind::Sint64 => Encoding::Zigzag,
        Kind::Fixed32 | Kind::Sfixed32 => Encoding::Fixed32,
        Kind::Fixed64 | Kind::Sfixed64 => Encoding::Fixed64,
        Kind::Float => Encoding::Float,
        Kind::Double => Encoding::Double,
        Kind::String => Encoding::Text,
        Kind::Bytes => Encoding::Blob,
        Kind::Message(_) => Encoding::Message,
    }
}

/// How many bits of a varint a type keeps.
fn bits(kind: &Kind) -> u32 {
    match kind {
        Kind::Bool => 1,
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 => 64,
        _ => 32,
    }
}

/// Types with equal numbers look alike in JSON and share an encoding; buf's groups.
fn json_form(kind: &Kind) -> u8 {
    match kind {
        Kind::Int32 | Kind::Uint32 => 1,
        Kind::Int64 | Kind::Uint64 => 2,
        Kind::Fixed32 | Kind::Sfixed32 => 3,
        Kind::Fixed64 | Kind::Sfixed64 => 4,
        Kind::Bool => 5,
        Kind::Sint32 => 6,
        Kind::Sint64 => 7,
        Kind::String => 8,
        Kind::Bytes => 9,
        Kind::Double => 10,
        Kind::Float => 11,
        Kind::Message(_) => 12,
        Kind::Enum(_) => 13,
    }
}

/// Whether `new` is `old` under the same short name with values added: buf's reading of an enum that moved.
pub(crate) fn is_moved_enum(old: &EnumDescriptor, new: &EnumDescriptor) -> bool {
    let values = |of: &EnumDescriptor| -> HashSet<(i32, String)> {
        of.values()
            .map(|value| (value.number(), value.name().to_owned()))
            .collect()
    };
    old.name() == new.name() && values(old).is_subset(&values(new))
}

/// The value of an absent field, in one form for every type that may take another's place; `None` for lists, maps and messages.
pub(crate) fn default_of(field: &FieldDescriptor) -> Option<String> {
    if field.is_list() || field.is_map() {
        return None;
    }
    match field.default_value() {
        Value::Bool(it) => Some(u8::from(it).to_string()),
        Value::I32(it) => Some(it.to_string()),
        Value::I64(it) => Some(it.to_string()),
        Value::U32(it) => Some(it.to_string()),
        Value::U64(it) => Some(it.to_string()),
        Value::F32(it) => Some(it.to_string()),
        Value::F64(it) => Some(it.to_string()),
        Value::EnumNumber(it) => Some(it.to_string()),
        Value::String(it) => Some(format!("\"{}\"", it.as_bytes().escape_ascii())),
        Value::Bytes(it) => Some(format!("\"{}\"", it.escape_ascii())),
        Value::Message(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// A field's type, for people.
pub(crate) fn type_name(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(of) if of.is_map_entry() => "map".to_owned(),
        Kind::Message(of) if field.is_group() => format!("group `{}`", of.full_name()),
        Kind::Message(of) => format!("`{}`", of.full_name()),
        Kind::Enum(of) => format!("`{}`", of.full_name()),
        kind => format!("`{}`", format!("{kind:?}").to_lowercase()),
    }
}
