//! Protobuf's encoding, as far as it can be read without a schema.

/// How a field's value stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Eight,
    /// A length and so many bytes.
    Block,
    /// Fields up to the matching end.
    Group,
    GroupEnd,
    Four,
}

/// Walks over encoded bytes. `None` from any method means that they are no protobuf.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl WireType {
    fn of(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Varint,
            1 => Self::Eight,
            2 => Self::Block,
            3 => Self::Group,
            4 => Self::GroupEnd,
            5 => Self::Four,
            _ => return None,
        })
    }

    fn bits(self) -> u32 {
        match self {
            Self::Varint => 0,
            Self::Eight => 1,
            Self::Block => 2,
            Self::Group => 3,
            Self::GroupEnd => 4,
            Self::Four => 5,
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in 0..10 {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            // Of the tenth byte one bit counts, and readers differ over the others.
            if shift == 9 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (shift * 7);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*found)
    }

    pub(super) fn block(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let found = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(found)
    }

    /// A field's number and how its value is written.
    pub(super) fn tag(&mut self) -> Option<(u32, WireType)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|it| (1..1 << 29).contains(it))?;
        Some((number, WireType::of(tag & 7)?))
    }

    /// Goes past the value of a field whose tag was read. Groups may nest `depth` deep.
    pub(super) fn skip(&mut self, number: u32, kind: WireType, depth: usize) -> Option<()> {
        match kind {
            WireType::Varint => self.varint().map(drop),
            WireType::Eight => self.array::<8>().map(drop),
            WireType::Four => self.array::<4>().map(drop),
            WireType::Block => self.block().map(drop),
            WireType::GroupEnd => None,
            WireType::Group => {
                // A list in place of recursion: the bytes decide how deep it goes.
                let mut open = vec![number];
                while let Some(&last) = open.last() {
                    match self.tag()? {
                        (number, WireType::GroupEnd) if number == last => drop(open.pop()),
                        (_, WireType::GroupEnd) => return None,
                        (number, WireType::Group) if open.len() < depth => open.push(number),
                        (_, WireType::Group) => return None,
                        (number, kind) => self.skip(number, kind, 0)?,
                    }
                }
                Some(())
            }
        }
    }
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is below 0x80")]
    out.push(value as u8);
}

pub(super) fn put_tag(number: u32, kind: WireType, out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | kind.bits()), out);
}

/// A length that stands in front of bytes that are still to be written.
///
/// It is written at once, as long as it is going to be as far as can be told, and corrected at the end. What it counts is moved only if its digits
/// turn out to be more or fewer: a message in a hundred messages would else be moved a hundred times.
#[must_use]
pub(super) struct Length {
    at: usize,
    digits: usize,
    /// Whoever wrote it used more digits than it takes.
    padded: bool,
}

impl Length {
    /// Before about so many bytes.
    pub(super) fn before(expected: usize, out: &mut Vec<u8>) -> Self {
        let at = out.len();
        put_varint(expected as u64, out);
        Self {
            at,
            digits: out.len() - at,
            padded: false,
        }
    }

    /// Of bytes that become others: as it was `written` before so many of them.
    pub(super) fn as_written(written: &[u8], length: usize, out: &mut Vec<u8>) -> Self {
        let at = out.len();
        out.extend_from_slice(written);
        Self {
            at,
            digits: written.len(),
            padded: written.len() > varint_digits(length),
        }
    }

    /// Where what it counts begins.
    pub(super) fn end(&self) -> usize {
        self.at + self.digits
    }

    /// Counts what stands behind it.
    pub(super) fn close(self, out: &mut Vec<u8>) {
        let length = out.len() - self.end();
        let needed = varint_digits(length);
        let mut digits = Vec::with_capacity(10);
        put_varint(length as u64, &mut digits);
        if self.padded && needed < self.digits {
            for digit in &mut digits {
                *digit |= 0x80;
            }
            digits.resize(self.digits - 1, 0x80);
            digits.push(0);
        }
        if digits.len() == self.digits {
            out[self.at..self.at + self.digits].copy_from_slice(&digits);
        } else {
            out.splice(self.at..self.at + self.digits, digits);
        }
    }
}

/// How many bytes a length takes.
fn varint_digits(length: usize) -> usize {
    let bits = (usize::BITS - length.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}
