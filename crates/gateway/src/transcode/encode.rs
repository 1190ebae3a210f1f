//! JSON text straight into protobuf's bytes, in one pass, by a [`Shape`].
//!
//! It takes what callers nearly always send and answers `None` to everything else: a fault, a rare spelling (`1e3` for an integer, an
//! unpadded base64), a type without a shape. `None` is no verdict; reflection gives that, with the words that go with it. So this file has one
//! duty: what it does take must mean exactly what reflection would have made of it. The test `agree` holds the two side by side.

use std::{borrow::Cow, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::shape::{DEPTH_MAX, Field, IsDefault, Kind, Many, Message, Shape, Wire};

/// The message that `json` stands for.
pub(super) fn encode(shape: &Shape, json: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut reader = Reader { json, at: 0, shape };
    reader.message(shape.root(), &mut out, 0)?;
    reader.next().is_none().then_some(out)
}

struct Reader<'a> {
    json: &'a str,
    at: usize,
    shape: &'a Shape,
}

impl<'a> Reader<'a> {
    fn message(&mut self, message: &Message, out: &mut Vec<u8>, depth: u32) -> Option<()> {
        self.take(b'{')?;
        if depth > DEPTH_MAX {
            return None;
        }
        if self.take(b'}').is_some() {
            return Some(());
        }
        let mut seen = 0;
        loop {
            let name = self.string()?;
            let field = message.by_name(&name)?;
            self.take(b':')?;
            if self.next()? == b'n' {
                // `null` is absence, except to the types that have a null.
                if field.kind == Kind::Other {
                    return None;
                }
                self.word("null")?;
            } else {
                if seen & field.bit != 0 {
                    return None;
                }
                seen |= field.bit;
                self.field(field, out, depth)?;
            }
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    fn field(&mut self, field: &Field, out: &mut Vec<u8>, depth: u32) -> Option<()> {
        let before = out.len();
        match field.many {
            Many::Explicit => {
                put_tag(out, field.number, field.kind.wire());
                self.value(field.kind, out, depth)?;
            }
            Many::Implicit => {
                put_tag(out, field.number, field.kind.wire());
                if self.value(field.kind, out, depth)? == IsDefault::Yes {
                    out.truncate(before);
                }
            }
            Many::List => self.items(|reader| {
                put_tag(out, field.number, field.kind.wire());
                reader.value(field.kind, out, depth)
            })?,
            Many::Packed => {
                put_tag(out, field.number, Wire::Length);
                let length = open(out);
                self.items(|reader| reader.value(field.kind, out, depth))?;
                if out.len() == length + 1 {
                    out.truncate(before);
                } else {
                    close(out, length);
                }
            }
        }
        Some(())
    }

    fn items(&mut self, mut item: impl FnMut(&mut Self) -> Option<IsDefault>) -> Option<()> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            if self.take(b',').is_none() {
                return self.take(b']');
            }
        }
    }

    fn value(&mut self, kind: Kind, out: &mut Vec<u8>, depth: u32) -> Option<IsDefault> {
        Some(match kind {
            Kind::Bool => {
                let value = self.next()? == b't';
                self.word(if value { "true" } else { "false" })?;
                out.push(u8::from(value));
                IsDefault::of(!value)
            }
            // A negative number of 32 bits has the ten bytes of its 64-bit self.
            Kind::Int32 => put_number(out, i64::from(self.integer::<i32>()?) as u64),
            Kind::Int64 => put_number(out, self.integer::<i64>()? as u64),
            Kind::Uint32 => put_number(out, u64::from(self.integer::<u32>()?)),
            Kind::Uint64 => put_number(out, self.integer::<u64>()?),
            Kind::Sint32 => {
                let value = i64::from(self.integer::<i32>()?);
                put_number(out, (value << 1 ^ value >> 63) as u64)
            }
            Kind::Sint64 => {
                let value = self.integer::<i64>()?;
                put_number(out, (value << 1 ^ value >> 63) as u64)
            }
            Kind::Fixed32 => put_fixed(out, self.integer::<u32>()?.to_le_bytes()),
            Kind::Sfixed32 => put_fixed(out, self.integer::<i32>()?.to_le_bytes()),
            Kind::Fixed64 => put_fixed(out, self.integer::<u64>()?.to_le_bytes()),
            Kind::Sfixed64 => put_fixed(out, self.integer::<i64>()?.to_le_bytes()),
            Kind::Float => put_fixed(out, self.float()?.to_le_bytes()),
            Kind::Double => put_fixed(out, self.double()?.to_le_bytes()),
            Kind::Text => {
                let text = self.string()?;
                put_varint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
                IsDefault::of(text.is_empty())
            }
            Kind::Blob => {
                let text = self.string()?;
                let length = open(out);
                BASE64_STANDARD.decode_vec(&*text, out).ok()?;
                close(out, length);
                IsDefault::of(text.is_empty())
            }
            Kind::Enum(number) => {
                let value = if self.next()? == b'"' {
                    self.shape.enumeration(number).number(&self.string()?)?
                } else {
                    self.bare_integer::<i32>()?
                };
                put_number(out, i64::from(value) as u64)
            }
            Kind::Message(number) => {
                let length = open(out);
                let shape = self.shape;
                self.message(shape.message(number), out, depth + 1)?;
                close(out, length);
                IsDefault::No
            }
            Kind::Other => return None,
        })
    }

    // === tokens ===

    /// The first byte of the next token.
    fn next(&mut self) -> Option<u8> {
        let bytes = self.json.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, token: u8) -> Option<()> {
        (self.next()? == token).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.next()?;
        let found = self.json.as_bytes()[self.at..].starts_with(word.as_bytes());
        found.then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.take(b'"')?;
        let (json, begin) = (self.json, self.at);
        let bytes = json.as_bytes();
        let mut escaped = false;
        loop {
            match bytes.get(self.at)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        if escaped {
            let unescaped = serde_json::from_str(&json[begin - 1..self.at]).ok()?;
            Some(Cow::Owned(unescaped))
        } else {
            Some(Cow::Borrowed(&json[begin..self.at - 1]))
        }
    }

    /// The text of a number. Its grammar is for the caller to check.
    fn number(&mut self) -> Option<&'a str> {
        self.next()?;
        let rest = &self.json[self.at..];
        let length = rest
            .bytes()
            .take_while(|it| matches!(it, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .count();
        self.at += length;
        Some(&rest[..length])
    }

    fn integer<T: FromStr>(&mut self) -> Option<T> {
        if self.next()? == b'"' {
            parse(&self.string()?)
        } else {
            self.bare_integer()
        }
    }

    fn bare_integer<T: FromStr>(&mut self) -> Option<T> {
        parse(self.number()?)
    }

    fn double(&mut self) -> Option<f64> {
        let text = self.number()?;
        // As reflection reads it: not every digit counts to serde_json, and both must drop the same ones.
        let value = serde_json::from_str::<f64>(text).ok()?;
        is_plain(value).then_some(value)
    }

    fn float(&mut self) -> Option<f32> {
        let text = self.number()?;
        if let Some(whole) = parse::<i64>(text) {
            // Rounded once.
            return Some(whole as f32);
        }
        let value = serde_json::from_str::<f64>(text).ok()?;
        let rounded = value as f32;
        let fits = text.contains(['.', 'e', 'E']) && value.abs() <= f64::from(f32::MAX);
        (fits && is_plain(rounded.into())).then_some(rounded)
    }
}

/// An integer in its plain spelling: digits, without a zero before others; no `-0`, which is a float to JSON.
fn parse<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    plain.then(|| text.parse().ok()).flatten()
}

/// `-0.0` equals the default and is none; reflection has its own mind about it.
fn is_plain(value: f64) -> bool {
    value != 0.0 || value.is_sign_positive()
}

// === writing ===

fn put_tag(out: &mut Vec<u8>, number: u32, wire: Wire) {
    put_varint(out, u64::from(number << 3 | wire as u32));
}

fn put_number(out: &mut Vec<u8>, value: u64) -> IsDefault {
    put_varint(out, value);
    IsDefault::of(value == 0)
}

fn put_fixed<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) -> IsDefault {
    out.extend_from_slice(&bytes);
    IsDefault::of(bytes == [0; N])
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Leaves room for the length of what follows; [`close`] fills it in.
fn open(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len() - 1
}

/// Writes the length of all that follows `at`. Short values fit the room that was left; longer ones are moved once.
fn close(out: &mut Vec<u8>, at: usize) {
    let length = (out.len() - at - 1) as u64;
    if length < 0x80 {
        out[at] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    put_varint(&mut prefix, length);
    out.splice(at..=at, prefix);
}
