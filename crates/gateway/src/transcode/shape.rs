//! What a message type looks like, compiled out of its descriptors once, so that a call looks nothing up in them.
//!
//! Only what nearly all messages are made of has a shape: numbers, text, bytes, enums, lists and messages of these. A map, a group and the
//! well-known types, each of which JSON writes in a way of its own, are [`Kind::Other`]: a message in which one *occurs* is left to the
//! reflection of [`super`], which knows them all.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind as Reflected, MessageDescriptor};
use rustc_hash::FxHashMap;

/// A message type and all types it is made of.
#[derive(Debug)]
pub(super) struct Shape {
    messages: Vec<Message>,
    enums: Vec<Enum>,
}

/// One message type; the root is the first.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// By number.
    fields: Vec<Field>,
    /// By either name, the one in JSON going first.
    names: FxHashMap<Box<str>, usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// `"name":`, ready to be written.
    pub(super) label: Box<str>,
    pub(super) kind: Kind,
    pub(super) many: Many,
    /// The bit of this field in a set of fields; the members of a oneof share one, because only one of them may occur.
    pub(super) bit: u128,
}

/// How often a field's value occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Many {
    /// Once; absent = the type's default, which is not written.
    Implicit,
    /// Once; absent and default are two things.
    Explicit,
    /// A list, every item with a tag.
    List,
    /// A list of numbers behind one tag.
    Packed,
}

/// Type of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int32,
    Uint32,
    Sint32,
    Fixed32,
    Sfixed32,
    Int64,
    Uint64,
    Sint64,
    Fixed64,
    Sfixed64,
    Float,
    Double,
    Text,
    Blob,
    /// A number of [`Shape::enumeration`].
    Enum(usize),
    /// A number of [`Shape::message`].
    Message(usize),
    /// Left to reflection.
    Other,
}

/// The values of an enum. Of two names for one number the first declared is the one that is written.
#[derive(Debug)]
pub(super) struct Enum {
    numbers: FxHashMap<Box<str>, i32>,
    names: FxHashMap<i32, Box<str>>,
}

/// How a value stands in protobuf's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Varint = 0,
    Eight = 1,
    Length = 2,
    Four = 5,
}

/// Whether a value is what its absence would mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsDefault {
    Yes,
    No,
}

/// Messages within messages that are followed; deeper ones are left to reflection, which has bounds of its own.
pub(super) const DEPTH_MAX: u32 = 48;

// === impl Shape ===

impl Shape {
    /// The shape of `root`; `None` if reflection has to take all of it.
    pub(super) fn of(root: &MessageDescriptor) -> Option<Self> {
        let mut shape = Self {
            messages: Vec::new(),
            enums: Vec::new(),
        };
        let mut found = vec![root.clone()];
        if !has_shape(root) {
            return None;
        }
        while let Some(next) = found.get(shape.messages.len()).cloned() {
            let message = shape.message_of(&next, &mut found)?;
            shape.messages.push(message);
        }
        Some(shape)
    }

    pub(super) fn root(&self) -> &Message {
        &self.messages[0]
    }

    pub(super) fn message(&self, number: usize) -> &Message {
        &self.messages[number]
    }

    pub(super) fn enumeration(&self, number: usize) -> &Enum {
        &self.enums[number]
    }

    /// `None` if it has more fields than a set holds.
    fn message_of(&mut self, of: &MessageDescriptor, found: &mut Vec<MessageDescriptor>) -> Option<Message> {
        let mut message = Message::default();
        let mut bits = FxHashMap::default();
        // By number, which is also the order in which the mapping writes them.
        for (at, field) in of.fields().enumerate() {
            let group = field.containing_oneof().map_or_else(
                || (false, field.number().to_string()),
                |it| (true, it.name().to_owned()),
            );
            let next = bits.len();
            let bit = *bits.entry(group).or_insert(next);
            if bit >= 128 {
                return None;
            }
            message.names.insert(field.json_name().into(), at);
            message.fields.push(Field {
                number: field.number(),
                label: format!("{}:", serde_json::Value::from(field.json_name())).into(),
                kind: self.kind_of(&field, found),
                many: many_of(&field),
                bit: 1 << bit,
            });
        }
        for (at, field) in of.fields().enumerate() {
            message.names.entry(field.name().into()).or_insert(at);
        }
        Some(message)
    }

    fn kind_of(&mut self, field: &FieldDescriptor, found: &mut Vec<MessageDescriptor>) -> Kind {
        if field.is_map() || field.is_group() {
            return Kind::Other;
        }
        match field.kind() {
            Reflected::Bool => Kind::Bool,
            Reflected::Int32 => Kind::Int32,
            Reflected::Uint32 => Kind::Uint32,
            Reflected::Sint32 => Kind::Sint32,
            Reflected::Fixed32 => Kind::Fixed32,
            Reflected::Sfixed32 => Kind::Sfixed32,
            Reflected::Int64 => Kind::Int64,
            Reflected::Uint64 => Kind::Uint64,
            Reflected::Sint64 => Kind::Sint64,
            Reflected::Fixed64 => Kind::Fixed64,
            Reflected::Sfixed64 => Kind::Sfixed64,
            Reflected::Float => Kind::Float,
            Reflected::Double => Kind::Double,
            Reflected::String => Kind::Text,
            Reflected::Bytes => Kind::Blob,
            Reflected::Enum(of) if of.full_name().starts_with("google.protobuf.") => Kind::Other,
            Reflected::Enum(of) => {
                self.enums.push(Enum::of(&of));
                Kind::Enum(self.enums.len() - 1)
            }
            Reflected::Message(of) if !has_shape(&of) => Kind::Other,
            Reflected::Message(of) => {
                let at = found.iter().position(|it| *it == of);
                Kind::Message(at.unwrap_or_else(|| {
                    found.push(of);
                    found.len() - 1
                }))
            }
        }
    }
}

fn has_shape(of: &MessageDescriptor) -> bool {
    !of.full_name().starts_with("google.protobuf.") && of.extension_ranges().next().is_none()
}

fn many_of(field: &FieldDescriptor) -> Many {
    if field.is_list() {
        if field.is_packed() {
            Many::Packed
        } else {
            Many::List
        }
    } else if field.supports_presence() {
        Many::Explicit
    } else {
        Many::Implicit
    }
}

// === impl Message ===

impl Message {
    pub(super) fn by_name(&self, name: &str) -> Option<&Field> {
        self.names.get(name).map(|at| &self.fields[*at])
    }

    pub(super) fn by_number(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |it| it.number);
        at.ok().map(|at| &self.fields[at])
    }
}

// === impl Field ===

impl Field {
    pub(super) fn is_list(&self) -> bool {
        matches!(self.many, Many::List | Many::Packed)
    }
}

// === impl Kind ===

impl Kind {
    pub(super) fn wire(self) -> Wire {
        match self {
            Self::Fixed32 | Self::Sfixed32 | Self::Float => Wire::Four,
            Self::Fixed64 | Self::Sfixed64 | Self::Double => Wire::Eight,
            Self::Text | Self::Blob | Self::Message(_) | Self::Other => Wire::Length,
            _ => Wire::Varint,
        }
    }
}

// === impl Enum ===

impl Enum {
    fn of(of: &EnumDescriptor) -> Self {
        let mut all = Self {
            numbers: FxHashMap::default(),
            names: FxHashMap::default(),
        };
        for value in of.values() {
            all.numbers.insert(value.name().into(), value.number());
            if let Some(first) = of.get_value(value.number()) {
                all.names.insert(value.number(), first.name().into());
            }
        }
        all
    }

    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.numbers.get(name).copied()
    }

    pub(super) fn name(&self, number: i32) -> Option<&str> {
        self.names.get(&number).map(|it| &**it)
    }
}

// === impl IsDefault ===

impl IsDefault {
    pub(super) fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}
