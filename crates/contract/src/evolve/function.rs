//! What goes around a function: a method of a plugin that adapts messages knows only what its own descriptors know, and gives back no more.
//!
//! Whoever calls one takes out of the message what it does not know ([`Function::strangers`]), and puts it to its answer ([`Strangers::join`]): the very
//! bytes, behind what the function wrote. That goes for the message itself and for embedded ones that function and answer have as single messages
//! under the same number. What is unknown inside of an element of a list is lost: nobody can tell what became of the element.
//!
//! - F1: a number that the function gives back itself is the function's; what was under it is not put beside.
//! - F2: a field that both versions of the contract know, and the function does not, has the same type in both, or the call fails. Nothing is
//!   read as what it is not, and nothing known is lost in silence.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::{
    rewrite::{AdaptError, DEPTH_MAX},
    wire::{Reader, WireType, put_tag, put_varint},
};
use crate::{
    Target,
    compat::{
        Level,
        kinds::{Fit, fit, keeps_sign, type_name},
    },
    hash::message_wire_hash,
};

/// A function in a chain: from one version of a message to another.
#[derive(Clone, Debug)]
pub struct Function {
    target: Target,
    /// The message as it comes from its writer's side.
    writer: MessageDescriptor,
    reader: MessageDescriptor,
    /// Fields that are of another type on the reader's side, by the writer's message.
    differ: Arc<HashMap<String, BTreeSet<u32>>>,
}

/// What a function does not know of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// Whole fields, one behind the other.
    own: Vec<u8>,
    /// Of embedded messages, by number.
    inner: Vec<(u32, Self)>,
}

/// The message of the function, and of the versions that it leads between, as far as these have it.
#[derive(Clone)]
struct At {
    input: MessageDescriptor,
    output: MessageDescriptor,
    writer: Option<MessageDescriptor>,
    reader: Option<MessageDescriptor>,
}

// === impl Function ===

impl Function {
    pub(super) fn new(target: Target, writer: &MessageDescriptor, reader: &MessageDescriptor) -> Self {
        Self {
            target,
            differ: Arc::new(differing(writer, reader)),
            writer: writer.clone(),
            reader: reader.clone(),
        }
    }

    /// The method that does it.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What `message` has that the function, whose method takes `input` and returns `output`, does not know.
    ///
    /// # Errors
    /// If the bytes are no message, or one of these fields is something else on the other side (F2).
    pub fn strangers(
        &self,
        input: &MessageDescriptor,
        output: &MessageDescriptor,
        message: &[u8],
    ) -> Result<Strangers, AdaptError> {
        let at = At {
            input: input.clone(),
            output: output.clone(),
            writer: Some(self.writer.clone()),
            reader: Some(self.reader.clone()),
        };
        let mut found = Strangers::default();
        self.collect(&at, message, 0, &mut found)?;
        Ok(found)
    }

    fn collect(
        &self,
        at: &At,
        message: &[u8],
        depth: usize,
        found: &mut Strangers,
    ) -> Result<(), AdaptError> {
        if depth > DEPTH_MAX {
            return Err(AdaptError::TooDeep);
        }
        let broken = |offset: usize, what: &'static str| AdaptError::Malformed {
            message: at.input.full_name().into(),
            offset,
            what,
        };
        let mut reader = Reader::new(message);
        while !reader.is_done() {
            let begin = reader.at();
            let (number, kind) = reader.tag().ok_or_else(|| broken(begin, "there is no field"))?;
            let known = at.input.get_field(number);
            if let (Some(_), WireType::Block, Some(inside)) = (&known, kind, at.inside(number)) {
                let body = reader
                    .block()
                    .ok_or_else(|| broken(begin, "the message ends inside of a field"))?;
                let mut inner = Strangers::default();
                self.collect(&inside, body, depth + 1, &mut inner)?;
                found.add_inner(number, inner);
                continue;
            }
            reader
                .skip(number, kind, DEPTH_MAX)
                .ok_or_else(|| broken(begin, "the message ends inside of a field"))?;
            if known.is_none() && at.output.get_field(number).is_none() {
                self.check(at, number)?;
                found.own.extend_from_slice(&message[begin..reader.at()]);
            }
        }
        Ok(())
    }

    /// F2.
    fn check(&self, at: &At, number: u32) -> Result<(), AdaptError> {
        let of = |message: &Option<MessageDescriptor>| message.as_ref()?.get_field(number);
        let (Some(from), Some(to)) = (of(&at.writer), of(&at.reader)) else {
            return Ok(());
        };
        let differ = self.differ.get(from.parent_message().full_name());
        if differ.is_none_or(|it| !it.contains(&number)) {
            return Ok(());
        }
        Err(AdaptError::Stranger {
            field: from.full_name().into(),
            types: format!("{} -> {}", type_name(&from), type_name(&to)).into(),
        })
    }
}

/// Fields of messages that stand for each other, which have the same number and are something else.
fn differing(writer: &MessageDescriptor, reader: &MessageDescriptor) -> HashMap<String, BTreeSet<u32>> {
    let mut found: HashMap<String, BTreeSet<u32>> = HashMap::new();
    let mut seen = HashSet::new();
    let mut pending = vec![(writer.clone(), reader.clone())];
    while let Some((writer, reader)) = pending.pop() {
        if !seen.insert((writer.full_name().to_owned(), reader.full_name().to_owned())) {
            continue;
        }
        for from in writer.fields() {
            let Some(to) = reader.get_field(from.number()) else {
                continue;
            };
            if !same(&from, &to) {
                found
                    .entry(writer.full_name().to_owned())
                    .or_default()
                    .insert(from.number());
            }
            if let (Some(from), Some(to)) = (single(&from), single(&to)) {
                pending.push((from, to));
            }
        }
    }
    found
}

/// Whether the bytes of one are the same value to the other.
fn same(from: &FieldDescriptor, to: &FieldDescriptor) -> bool {
    if (from.is_list(), from.is_map(), from.is_group()) != (to.is_list(), to.is_map(), to.is_group()) {
        return false;
    }
    match (from.kind(), to.kind()) {
        (Kind::Message(from), Kind::Message(to)) => message_wire_hash(&from) == message_wire_hash(&to),
        (from, to) => {
            matches!(fit(&from, &to, Level::Wire), Fit::Holds | Fit::Hides) && keeps_sign(&from, &to)
        }
    }
}

/// The type of a field that is a single embedded message.
fn single(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(of) if !field.is_list() && !field.is_map() && !field.is_group() => Some(of),
        _ => None,
    }
}

// === impl At ===

impl At {
    /// The embedded message under a number, if it is a single one on both sides of the function.
    fn inside(&self, number: u32) -> Option<Self> {
        let of = |message: &MessageDescriptor| single(&message.get_field(number)?);
        Some(Self {
            input: of(&self.input)?,
            output: of(&self.output)?,
            writer: self.writer.as_ref().and_then(of),
            reader: self.reader.as_ref().and_then(of),
        })
    }
}

// === impl Strangers ===

impl Strangers {
    /// Whether the function knows all that there is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.inner.is_empty()
    }

    /// The function's answer with everything that it did not know. What is unknown of an embedded message that the answer does not have goes with it.
    ///
    /// # Errors
    /// If the answer is no message.
    pub fn join(&self, answer: Bytes) -> Result<Bytes, AdaptError> {
        if self.is_empty() {
            return Ok(answer);
        }
        let mut joined = answer.to_vec();
        self.put(&[&answer], &mut joined)?;
        Ok(joined.into())
    }

    fn add_inner(&mut self, number: u32, strangers: Self) {
        if strangers.is_empty() {
            return;
        }
        // Several pieces of one message are that one message.
        match self.inner.iter_mut().find(|it| it.0 == number) {
            Some((_, known)) => {
                known.own.extend(strangers.own);
                for (number, inner) in strangers.inner {
                    known.add_inner(number, inner);
                }
            }
            None => self.inner.push((number, strangers)),
        }
    }

    /// Writes it as one more piece of a message that is there in `pieces`.
    fn put(&self, pieces: &[&[u8]], out: &mut Vec<u8>) -> Result<(), AdaptError> {
        out.extend_from_slice(&self.own);
        for (number, inner) in &self.inner {
            let mut found = Vec::new();
            for piece in pieces {
                blocks(piece, *number, &mut found)?;
            }
            if found.is_empty() {
                continue;
            }
            let mut body = Vec::new();
            inner.put(&found, &mut body)?;
            if !body.is_empty() {
                put_tag(*number, WireType::Block, out);
                put_varint(body.len() as u64, out);
                out.extend(body);
            }
        }
        Ok(())
    }
}

/// The values of a field that have a length.
fn blocks<'a>(message: &'a [u8], wanted: u32, found: &mut Vec<&'a [u8]>) -> Result<(), AdaptError> {
    let mut reader = Reader::new(message);
    while !reader.is_done() {
        let offset = reader.at();
        let broken = || AdaptError::Malformed {
            message: "a function's answer".into(),
            offset,
            what: "there is no whole field",
        };
        let (number, kind) = reader.tag().ok_or_else(broken)?;
        match kind {
            WireType::Block if number == wanted => found.push(reader.block().ok_or_else(broken)?),
            kind => reader.skip(number, kind, DEPTH_MAX).ok_or_else(broken)?,
        }
    }
    Ok(())
}
