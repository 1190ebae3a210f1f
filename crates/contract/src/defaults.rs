//! Defaults for fields that the writer of a message has never heard of.
//!
//! Protobuf readers take the last of several values of a singular field, so a default needs no decoding: its encoded bytes go in front
//! of the message, and whatever the writer wrote comes later and wins. The bytes are made once, when two contracts are bound.
//!
//! Only fields of the message itself: a default inside an embedded message would make that message present where the writer left it out.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::{Contract, ContractError};

/// What to put in front of a message that was encoded with `writer` and will be decoded with `reader`, a message of `contract`: the
/// `(mortise.default)` of every field of `reader` whose number `writer` does not have. Empty in the usual case.
#[must_use]
pub fn default_prefix(writer: &MessageDescriptor, reader: &MessageDescriptor, contract: &Contract) -> Bytes {
    let mut missing: Vec<FieldDescriptor> = reader
        .fields()
        .filter(|field| writer.get_field(field.number()).is_none())
        .collect();
    missing.sort_by_key(FieldDescriptor::number);
    let mut prefix = BytesMut::new();
    for field in &missing {
        if let Some(encoded) = contract.encoded_default(field) {
            prefix.put_slice(encoded);
        }
    }
    prefix.freeze()
}

/// Encodes `text`, the `(mortise.default)` of `field`, with its tag.
///
/// The text form is the one of `default_value` in `descriptor.proto`: numbers and booleans as written, the name (or number) of an enum
/// value, strings as they are, bytes with C escapes.
pub(crate) fn encode(field: &FieldDescriptor, text: &str) -> Result<Bytes, ContractError> {
    let bad = |expected| ContractError::BadOption {
        option: "mortise.default",
        path: field.full_name().to_owned(),
        value: text.to_owned(),
        expected,
    };
    if field.is_list() || field.is_map() {
        return Err(bad("only a singular field can have a default"));
    }
    let mut buffer = BytesMut::new();
    scalar(field.number(), &field.kind(), text, &mut buffer).map_err(bad)?;
    Ok(buffer.freeze())
}

fn scalar(tag: u32, kind: &Kind, text: &str, buffer: &mut BytesMut) -> Result<(), &'static str> {
    const NUMBER: &str = "it must be a number that fits the field's type";
    macro_rules! number {
        ($codec:ident) => {
            encoding::$codec::encode(tag, &text.parse().map_err(|_| NUMBER)?, buffer)
        };
    }
    match kind {
        Kind::Double => number!(double),
        Kind::Float => number!(float),
        Kind::Int32 => number!(int32),
        Kind::Int64 => number!(int64),
        Kind::Uint32 => number!(uint32),
        Kind::Uint64 => number!(uint64),
        Kind::Sint32 => number!(sint32),
        Kind::Sint64 => number!(sint64),
        Kind::Fixed32 => number!(fixed32),
        Kind::Fixed64 => number!(fixed64),
        Kind::Sfixed32 => number!(sfixed32),
        Kind::Sfixed64 => number!(sfixed64),
        Kind::Bool => {
            encoding::bool::encode(
                tag,
                &text.parse().map_err(|_| "it must be `true` or `false`")?,
                buffer,
            );
        }
        Kind::String => encoding::string::encode(tag, &text.to_owned(), buffer),
        Kind::Bytes => {
            let unescaped =
                unescape(text).ok_or("it must be text with C escapes such as `\\x00` or `\\n`")?;
            encoding::bytes::encode(tag, &unescaped, buffer);
        }
        Kind::Enum(of) => {
            let number = enum_number(of, text).ok_or("it must be the name of a value of the field's enum")?;
            encoding::int32::encode(tag, &number, buffer);
        }
        Kind::Message(_) => return Err("a field of a message type cannot have a default"),
    }
    Ok(())
}

fn enum_number(of: &EnumDescriptor, text: &str) -> Option<i32> {
    of.get_value_by_name(text)
        .map(|value| value.number())
        .or_else(|| text.parse().ok())
}

/// Undoes C escapes: `\n`, `\\`, `\x7f`, `\177` and their like.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes().peekable();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'a' => 0x07,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            quoted @ (b'\\' | b'\'' | b'"' | b'?') => quoted,
            b'x' | b'X' => {
                let digits = [bytes.next()?, bytes.next()?];
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            first @ b'0'..=b'7' => {
                let mut value = u32::from(first - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|it| (b'0'..=b'7').contains(it)) else {
                        break;
                    };
                    value = value * 8 + u32::from(digit - b'0');
                }
                u8::try_from(value).ok()?
            }
            _ => return None,
        });
    }
    Some(out)
}
