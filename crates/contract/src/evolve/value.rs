//! One scalar of one type as a scalar of another: what can be turned into what, and the turning.
//!
//! Nothing is ever cut off: a value that the other type cannot hold is an error that names it.

use std::{collections::HashMap, sync::Arc};

use prost_reflect::{EnumDescriptor, Kind};

use super::wire::{Reader, WireType, put_varint};

/// How a value of the writer's type becomes one of the reader's.
#[derive(Clone, Debug)]
pub(super) struct Convert {
    from: Scalar,
    to: Scalar,
    names: Option<Arc<Names>>,
    /// Whether the reader may be given several values in one field.
    pub(super) packs: bool,
}

/// A scalar type, as far as its encoding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Enum,
    Float,
    Double,
    Text,
    Blob,
}

/// The values of an enum by number and by name.
#[derive(Debug)]
struct Names {
    names: HashMap<i32, String>,
    numbers: HashMap<String, i32>,
}

/// A value between two types.
enum Value<'a> {
    Whole(i128),
    Real(f64),
    Text(&'a [u8]),
}

/// Why one value cannot be converted.
pub(super) enum NotConverted {
    /// The bytes are no value of the writer's type.
    Malformed,
    /// The reader's type does not hold it.
    Unfit(String),
}

// === impl Convert ===

impl Convert {
    /// A conversion that needs no word of the author: it keeps the value or says that it cannot.
    pub(super) fn automatic(writer: &Kind, reader: &Kind) -> Option<Self> {
        let (from, to) = (Scalar::of(writer)?, Scalar::of(reader)?);
        let sure = (from.is_whole() && to.is_whole())
            || (from.is_text() && to.is_text())
            || (from == Scalar::Float && to == Scalar::Double);
        sure.then(|| Self::new(from, to, None))
    }

    /// A conversion that the author asked for by naming both fields.
    pub(super) fn declared(writer: &Kind, reader: &Kind) -> Option<Self> {
        if let Some(automatic) = Self::automatic(writer, reader) {
            return Some(automatic);
        }
        let (from, to) = (Scalar::of(writer)?, Scalar::of(reader)?);
        let names = match (writer, reader) {
            (Kind::Enum(of), _) | (_, Kind::Enum(of)) => Some(Arc::new(Names::of(of))),
            _ => None,
        };
        // Bytes are text or nothing: there is no one way to write a number in them.
        let opaque = from == Scalar::Blob || to == Scalar::Blob;
        (!opaque).then(|| Self::new(from, to, names))
    }

    fn new(from: Scalar, to: Scalar, names: Option<Arc<Names>>) -> Self {
        Self {
            from,
            to,
            names,
            packs: !to.is_text(),
        }
    }

    /// How the writer's values stand on the wire.
    pub(super) fn wire_type(&self) -> WireType {
        self.from.wire_type()
    }

    /// How the reader's do.
    pub(super) fn wire_type_out(&self) -> WireType {
        self.to.wire_type()
    }

    /// What a reader must be told if the writer leaves the field out, which means zero: only where zero becomes something else than what the
    /// reader takes a missing field for.
    pub(super) fn of_nothing(&self) -> Option<Vec<u8>> {
        if self.from.is_text() || !self.to.is_text() {
            return None;
        }
        let mut out = Vec::new();
        let zero = if self.from == Scalar::Float || self.from == Scalar::Double {
            Value::Real(0.0)
        } else {
            Value::Whole(0)
        };
        self.write(zero, &mut out).ok()?;
        Some(out)
    }

    /// Reads one value and appends it, without a tag.
    pub(super) fn one(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), NotConverted> {
        let value = self.read(reader).ok_or(NotConverted::Malformed)?;
        self.write(value, out)
    }

    fn read<'a>(&self, reader: &mut Reader<'a>) -> Option<Value<'a>> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "protobuf reads a varint of a narrow type by its low bits"
        )]
        Some(match self.from {
            Scalar::Int32 | Scalar::Enum => Value::Whole((reader.varint()? as i32).into()),
            Scalar::Int64 => Value::Whole((reader.varint()? as i64).into()),
            Scalar::Uint32 => Value::Whole((reader.varint()? as u32).into()),
            Scalar::Uint64 => Value::Whole(reader.varint()?.into()),
            Scalar::Bool => Value::Whole((reader.varint()? != 0).into()),
            Scalar::Sint32 => Value::Whole((unzigzag(u64::from(reader.varint()? as u32)) as i32).into()),
            Scalar::Sint64 => Value::Whole(unzigzag(reader.varint()?).into()),
            Scalar::Fixed32 => Value::Whole(u32::from_le_bytes(reader.array()?).into()),
            Scalar::Sfixed32 => Value::Whole(i32::from_le_bytes(reader.array()?).into()),
            Scalar::Fixed64 => Value::Whole(u64::from_le_bytes(reader.array()?).into()),
            Scalar::Sfixed64 => Value::Whole(i64::from_le_bytes(reader.array()?).into()),
            Scalar::Float => Value::Real(f32::from_le_bytes(reader.array()?).into()),
            Scalar::Double => Value::Real(f64::from_le_bytes(reader.array()?)),
            Scalar::Text | Scalar::Blob => Value::Text(reader.block()?),
        })
    }

    fn write(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), NotConverted> {
        if self.to.is_text() {
            return self.write_text(value, out);
        }
        if matches!(self.to, Scalar::Float | Scalar::Double) {
            return self.write_real(&value, out);
        }
        let whole = match value {
            Value::Whole(it) => it,
            Value::Real(it) => exact(it).ok_or_else(|| unfit(it))?,
            Value::Text(it) => self.number_in(it)?,
        };
        self.write_whole(whole, out)
    }

    fn write_whole(&self, whole: i128, out: &mut Vec<u8>) -> Result<(), NotConverted> {
        fn fits<T: TryFrom<i128>>(whole: i128) -> Result<T, NotConverted> {
            T::try_from(whole).map_err(|_| unfit(whole))
        }
        #[expect(
            clippy::cast_sign_loss,
            reason = "a negative number is a varint of its 64 bits"
        )]
        match self.to {
            Scalar::Int32 | Scalar::Enum => put_varint(i64::from(fits::<i32>(whole)?) as u64, out),
            Scalar::Int64 => put_varint(fits::<i64>(whole)? as u64, out),
            Scalar::Uint32 => put_varint(fits::<u32>(whole)?.into(), out),
            Scalar::Uint64 => put_varint(fits::<u64>(whole)?, out),
            Scalar::Bool => match whole {
                0 => put_varint(0, out),
                1 => put_varint(1, out),
                other => return Err(unfit(other)),
            },
            Scalar::Sint32 => put_varint(zigzag(fits::<i32>(whole)?.into()), out),
            Scalar::Sint64 => put_varint(zigzag(fits::<i64>(whole)?), out),
            Scalar::Fixed32 => out.extend(fits::<u32>(whole)?.to_le_bytes()),
            Scalar::Sfixed32 => out.extend(fits::<i32>(whole)?.to_le_bytes()),
            Scalar::Fixed64 => out.extend(fits::<u64>(whole)?.to_le_bytes()),
            Scalar::Sfixed64 => out.extend(fits::<i64>(whole)?.to_le_bytes()),
            Scalar::Float | Scalar::Double | Scalar::Text | Scalar::Blob => {
                unreachable!("`write` sends these elsewhere")
            }
        }
        Ok(())
    }

    fn write_real(&self, value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), NotConverted> {
        let real = match *value {
            Value::Real(it) => it,
            #[expect(clippy::cast_precision_loss, reason = "it is compared right after")]
            Value::Whole(it) => {
                let real = it as f64;
                if exact(real) != Some(it) {
                    return Err(unfit(it));
                }
                real
            }
            Value::Text(b"") => 0.0,
            // The nearest that the type has, as for every number that is written in digits.
            Value::Text(it) if self.to == Scalar::Float => {
                text(it)?.parse::<f32>().map_err(|_| unfit_text(it))?.into()
            }
            Value::Text(it) => text(it)?.parse().map_err(|_| unfit_text(it))?,
        };
        if self.to == Scalar::Double {
            out.extend(real.to_le_bytes());
            return Ok(());
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is compared right after")]
        let narrow = real as f32;
        if f64::from(narrow) != real && !real.is_nan() {
            return Err(unfit(real));
        }
        out.extend(narrow.to_le_bytes());
        Ok(())
    }

    fn write_text(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), NotConverted> {
        let written;
        let bytes = match value {
            Value::Text(it) => {
                if self.to == Scalar::Text {
                    text(it)?;
                }
                it
            }
            #[expect(clippy::cast_possible_truncation, reason = "it was one")]
            Value::Real(it) if self.from == Scalar::Float => {
                written = (it as f32).to_string();
                written.as_bytes()
            }
            Value::Real(it) => {
                written = it.to_string();
                written.as_bytes()
            }
            Value::Whole(it) => {
                written = self.name_of(it);
                written.as_bytes()
            }
        };
        put_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// A number as text: the name of an enum's value, `true` and `false`, else digits.
    fn name_of(&self, whole: i128) -> String {
        let named = self.names.as_ref().filter(|_| self.from == Scalar::Enum);
        let name = named.and_then(|it| it.names.get(&i32::try_from(whole).ok()?));
        match (name, self.from) {
            (Some(name), _) => name.clone(),
            (None, Scalar::Bool) => (whole != 0).to_string(),
            (None, _) => whole.to_string(),
        }
    }

    /// The reverse of `name_of`. No text is the number zero, which a writer leaves out as well.
    fn number_in(&self, bytes: &[u8]) -> Result<i128, NotConverted> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let text = text(bytes)?;
        let named = self.names.as_ref().filter(|_| self.to == Scalar::Enum);
        if let Some(number) = named.and_then(|it| it.numbers.get(text)) {
            return Ok((*number).into());
        }
        match text {
            "true" if self.to == Scalar::Bool => Ok(1),
            "false" if self.to == Scalar::Bool => Ok(0),
            _ => text.parse().map_err(|_| unfit_text(bytes)),
        }
    }
}

// === impl Scalar ===

impl Scalar {
    fn of(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::Int32 => Self::Int32,
            Kind::Int64 => Self::Int64,
            Kind::Uint32 => Self::Uint32,
            Kind::Uint64 => Self::Uint64,
            Kind::Sint32 => Self::Sint32,
            Kind::Sint64 => Self::Sint64,
            Kind::Fixed32 => Self::Fixed32,
            Kind::Fixed64 => Self::Fixed64,
            Kind::Sfixed32 => Self::Sfixed32,
            Kind::Sfixed64 => Self::Sfixed64,
            Kind::Bool => Self::Bool,
            Kind::Enum(_) => Self::Enum,
            Kind::Float => Self::Float,
            Kind::Double => Self::Double,
            Kind::String => Self::Text,
            Kind::Bytes => Self::Blob,
            Kind::Message(_) => return None,
        })
    }

    fn is_whole(self) -> bool {
        !self.is_text() && !matches!(self, Self::Float | Self::Double)
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Blob)
    }

    fn wire_type(self) -> WireType {
        match self {
            Self::Fixed32 | Self::Sfixed32 | Self::Float => WireType::Four,
            Self::Fixed64 | Self::Sfixed64 | Self::Double => WireType::Eight,
            Self::Text | Self::Blob => WireType::Block,
            _ => WireType::Varint,
        }
    }
}

impl Names {
    fn of(of: &EnumDescriptor) -> Self {
        let mut names = HashMap::new();
        let mut numbers = HashMap::new();
        for value in of.values() {
            names
                .entry(value.number())
                .or_insert_with(|| value.name().to_owned());
            numbers.insert(value.name().to_owned(), value.number());
        }
        Self { names, numbers }
    }
}

fn text(bytes: &[u8]) -> Result<&str, NotConverted> {
    std::str::from_utf8(bytes).map_err(|_| unfit("bytes that are not UTF-8"))
}

fn unfit(number: impl std::fmt::Display) -> NotConverted {
    NotConverted::Unfit(number.to_string())
}

/// Errors go to logs. A text may be a megabyte, and it may be somebody's password.
fn unfit_text(bytes: &[u8]) -> NotConverted {
    NotConverted::Unfit(format!("a text of {} bytes", bytes.len()))
}

/// The whole number that a real one is.
fn exact(real: f64) -> Option<i128> {
    #[expect(clippy::cast_possible_truncation, reason = "bounded right before")]
    let whole = (real.fract() == 0.0 && real.abs() < 1e30).then_some(real as i128)?;
    Some(whole)
}

fn unzigzag(bits: u64) -> i64 {
    #[expect(clippy::cast_possible_wrap, reason = "the top bit is gone after the shift")]
    let half = (bits >> 1) as i64;
    half ^ -i64::from(bits & 1 == 1)
}

fn zigzag(value: i64) -> u64 {
    #[expect(clippy::cast_sign_loss, reason = "zigzag is about bits")]
    let bits = ((value << 1) ^ (value >> 63)) as u64;
    bits
}
