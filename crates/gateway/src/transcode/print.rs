//! Protobuf's bytes straight into JSON text, in one pass, by a [`Shape`].
//!
//! As [`super::encode`], it takes what plugins nearly always send (every field once or its items in a row, in the order of their numbers)
//! and answers `None` to everything else, faults and merges included. `None` is no verdict; reflection gives that.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;

use super::shape::{DEPTH_MAX, Field, IsDefault, Kind, Many, Message, Shape, Wire};

/// Appends the text of an encoded message. After `None`, what was appended is of no use.
pub(super) fn print(shape: &Shape, message: &[u8], out: &mut Vec<u8>) -> Option<()> {
    Printer { shape, out }.message(shape.root(), message, 0)
}

struct Printer<'a> {
    shape: &'a Shape,
    out: &'a mut Vec<u8>,
}

impl Printer<'_> {
    fn message(&mut self, message: &Message, bytes: &[u8], depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let mut input = Input(bytes);
        let (mut seen, mut last) = (0, 0);
        let mut list: Option<&Field> = None;
        self.out.push(b'{');
        while !input.0.is_empty() {
            let (number, wire) = input.tag()?;
            if let Some(list) = list.filter(|it| it.number == number) {
                self.items(list, wire, &mut input, depth)?;
                continue;
            }
            let Some(field) = message.by_number(number) else {
                input.skip(wire)?;
                continue;
            };
            if number <= last || seen & field.bit != 0 {
                return None;
            }
            (seen, last) = (seen | field.bit, number);
            if list.take().is_some() {
                self.out.push(b']');
            }
            if field.is_list() {
                // A list without items is not written, and need not be the end of it.
                if wire == Wire::Length && field.kind.wire() != Wire::Length && input.0.first() == Some(&0) {
                    return None;
                }
                self.label(field);
                self.out.push(b'[');
                self.items(field, wire, &mut input, depth)?;
                list = Some(field);
            } else {
                self.single(field, wire, &mut input, depth)?;
            }
        }
        if list.is_some() {
            self.out.push(b']');
        }
        self.out.push(b'}');
        Some(())
    }

    fn single(&mut self, field: &Field, wire: Wire, input: &mut Input<'_>, depth: u32) -> Option<()> {
        if wire != field.kind.wire() {
            return None;
        }
        let before = self.out.len();
        self.label(field);
        let value = self.value(field.kind, input, depth)?;
        if field.many == Many::Implicit && value == IsDefault::Yes {
            self.out.truncate(before);
        }
        Some(())
    }

    /// One item, or a packed run of them.
    fn items(&mut self, list: &Field, wire: Wire, input: &mut Input<'_>, depth: u32) -> Option<()> {
        if wire == list.kind.wire() {
            self.comma();
            return self.value(list.kind, input, depth).map(drop);
        }
        if wire != Wire::Length {
            return None;
        }
        let mut run = Input(input.bytes()?);
        while !run.0.is_empty() {
            self.comma();
            self.value(list.kind, &mut run, depth)?;
        }
        Some(())
    }

    fn value(&mut self, kind: Kind, input: &mut Input<'_>, depth: u32) -> Option<IsDefault> {
        match kind {
            Kind::Bool => self.number(input.varint()? != 0),
            Kind::Int32 => self.number(input.varint()? as i32),
            Kind::Uint32 => self.number(input.varint()? as u32),
            Kind::Sint32 => {
                let value = input.varint()? as u32;
                self.number((value >> 1) as i32 ^ -((value & 1) as i32))
            }
            Kind::Fixed32 => self.number(u32::from_le_bytes(input.fixed()?)),
            Kind::Sfixed32 => self.number(i32::from_le_bytes(input.fixed()?)),
            Kind::Int64 => self.quoted(input.varint()? as i64),
            Kind::Uint64 => self.quoted(input.varint()?),
            Kind::Sint64 => {
                let value = input.varint()?;
                self.quoted((value >> 1) as i64 ^ -((value & 1) as i64))
            }
            Kind::Fixed64 => self.quoted(u64::from_le_bytes(input.fixed()?)),
            Kind::Sfixed64 => self.quoted(i64::from_le_bytes(input.fixed()?)),
            Kind::Float => {
                let value = f32::from_le_bytes(input.fixed()?);
                is_plain(value.into()).then(|| self.number(value))?
            }
            Kind::Double => {
                let value = f64::from_le_bytes(input.fixed()?);
                is_plain(value).then(|| self.number(value))?
            }
            Kind::Text => self.text(std::str::from_utf8(input.bytes()?).ok()?),
            Kind::Blob => self.blob(input.bytes()?),
            Kind::Enum(number) => {
                let value = input.varint()? as i32;
                match self.shape.enumeration(number).name(value) {
                    Some(name) => self.text(name)?,
                    None => self.number(value)?,
                };
                Some(IsDefault::of(value == 0))
            }
            Kind::Message(number) => {
                self.message(self.shape.message(number), input.bytes()?, depth + 1)?;
                Some(IsDefault::No)
            }
            Kind::Other => None,
        }
    }

    fn label(&mut self, field: &Field) {
        self.comma();
        self.out.extend_from_slice(field.label.as_bytes());
    }

    /// Parts this member or item from the one before; no value ends with an opening bracket.
    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    fn number<T: Serialize + Default + PartialEq>(&mut self, value: T) -> Option<IsDefault> {
        serde_json::to_writer(&mut *self.out, &value).ok()?;
        Some(IsDefault::of(value == T::default()))
    }

    /// 64 bits are more than a number of JavaScript holds.
    fn quoted<T: Serialize + Default + PartialEq>(&mut self, value: T) -> Option<IsDefault> {
        self.out.push(b'"');
        let value = self.number(value)?;
        self.out.push(b'"');
        Some(value)
    }

    fn text(&mut self, text: &str) -> Option<IsDefault> {
        if text.bytes().any(|it| it < 0x20 || it == b'"' || it == b'\\') {
            serde_json::to_writer(&mut *self.out, text).ok()?;
        } else {
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
        }
        Some(IsDefault::of(text.is_empty()))
    }

    fn blob(&mut self, bytes: &[u8]) -> Option<IsDefault> {
        self.out.push(b'"');
        let begin = self.out.len();
        self.out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
        BASE64_STANDARD.encode_slice(bytes, &mut self.out[begin..]).ok()?;
        self.out.push(b'"');
        Some(IsDefault::of(bytes.is_empty()))
    }
}

/// Whether JSON has a number for it; `-0.0`, which equals the default and is none, is reflection's.
fn is_plain(value: f64) -> bool {
    value.is_finite() && (value != 0.0 || value.is_sign_positive())
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn tag(&mut self) -> Option<(u32, Wire)> {
        let key = u32::try_from(self.varint()?).ok()?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Eight,
            2 => Wire::Length,
            5 => Wire::Four,
            _ => return None,
        };
        (key >> 3 != 0).then_some((key >> 3, wire))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte has room for one bit.
            if at == 9 && *byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn skip(&mut self, wire: Wire) -> Option<()> {
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Eight => self.fixed::<8>().map(drop),
            Wire::Length => self.bytes().map(drop),
            Wire::Four => self.fixed::<4>().map(drop),
        }
    }
}
