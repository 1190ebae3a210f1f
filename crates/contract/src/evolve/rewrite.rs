//! Rewrites an encoded message in one pass, without decoding it.
//!
//! A rewriter knows, per message type, the few fields that need something done. Everything else, known or not, goes from input to
//! output as it is, byte for byte and in its order.
//!
//! Two rules of protobuf's readers make one pass enough. Of several values of a singular field the last counts, so a default stands in front of
//! the message and whatever was written comes later and wins. And several pieces of one embedded message are merged, so a field that
//! moves into an embedded message is written as one more piece of it, there and then.
//!
//! # Bytes from strangers
//! Input that is no protobuf where it has to be looked at is refused ([`AdaptError::Malformed`]). Embedded messages are entered
//! [`DEPTH_MAX`] deep, the output has the length that the caller allows, and nothing is allocated by what a length claims.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    value::{Convert, NotConverted},
    wire::{Length, Reader, WireType, put_tag},
};

/// How deep embedded messages that have to be looked into may nest: what protobuf's own parsers allow.
pub const DEPTH_MAX: usize = 100;

/// Why bytes cannot be adapted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptError {
    /// The bytes are no encoded message, or not one of the writer's type.
    #[error("the message cannot be adapted: {what} at byte {offset} of `{message}`")]
    Malformed {
        /// Type of the message that was read.
        message: Arc<str>,
        /// Where in it.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The reader's type does not hold a value.
    #[error("`{field}` is {value}, and the other side's contract has a type that cannot hold it ({types})")]
    Unfit {
        /// The field, as the writer knows it.
        field: Arc<str>,
        /// The value; of a text only its length.
        value: String,
        /// From which type to which.
        types: Arc<str>,
    },
    /// Both sides know a field, the function between them does not, and it is not the same field.
    #[error(
        "`{field}` is unknown to the function that adapts the message, and of another type on the other side ({types})"
    )]
    Stranger {
        /// The field, as the writer knows it.
        field: Arc<str>,
        /// From which type to which.
        types: Arc<str>,
    },
    /// The adapted message is longer than it may be.
    #[error("the adapted message would have more than the {max} bytes that it may have")]
    TooLarge {
        /// How long it may be.
        max: usize,
    },
    /// Messages nest too deeply.
    #[error("the message cannot be adapted: messages nest more than {DEPTH_MAX} deep in it")]
    TooDeep,
}

/// Turns encoded messages of one contract into those of another.
#[derive(Clone, Debug)]
pub struct Rewriter {
    nodes: Arc<[Node]>,
}

/// What to do with messages of one type.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Name of the writer's type.
    pub(super) message: Arc<str>,
    /// Goes in front.
    pub(super) prefix: Bytes,
    /// By the writer's field number, sorted.
    pub(super) actions: Vec<(u32, Action)>,
}

/// What to do with one field.
#[derive(Clone, Debug)]
pub(super) struct Action {
    /// Its name, as the writer knows it.
    pub(super) field: Arc<str>,
    /// `int32 -> string`
    pub(super) types: Arc<str>,
    pub(super) repeated: bool,
    /// Where it goes; `None`: nowhere.
    pub(super) to: Option<Place>,
    pub(super) value: Value,
    /// Of an embedded message out of which something moves: what becomes of the rest.
    pub(super) rest: Rest,
}

/// What becomes of a message when something was taken out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Stays,
    /// It goes if nothing is left in it.
    GoesIfEmpty,
    /// The reader has something else under its number.
    Goes,
}

/// Where a field goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// So many messages out.
    pub(super) up: usize,
    /// Then into these.
    pub(super) wrap: Box<[u32]>,
    pub(super) number: u32,
}

/// What becomes of a field's value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Copy,
    /// An embedded message, by the node of its type.
    Node(usize),
    Convert(Convert),
}

/// One pass.
struct Pass<'a> {
    nodes: &'a [Node],
    /// What fields further in have for the message at each depth.
    hoisted: Vec<Vec<u8>>,
    bytes_max: usize,
}

// === impl Rewriter ===

impl Rewriter {
    /// Of nodes as they were compiled, the root first; `None` if there is nothing to do.
    pub(super) fn of(mut nodes: Vec<Node>) -> Option<Self> {
        // A node that only enters others may be entered in vain: what leads nowhere is cut off.
        let mut active: Vec<bool> = nodes.iter().map(Node::acts).collect();
        loop {
            let before = active.clone();
            for (index, node) in nodes.iter().enumerate() {
                active[index] |= node.enters().any(|it| before[it]);
            }
            if active == before {
                break;
            }
        }
        for node in &mut nodes {
            node.actions.retain(|(number, it)| match it.value {
                Value::Node(inner) => active[inner] || !it.stays(*number),
                _ => true,
            });
        }
        active[0].then(|| Self { nodes: nodes.into() })
    }

    /// Rewrites one message.
    ///
    /// # Errors
    /// What is wrong with it, or which value the other side cannot take.
    pub fn apply(&self, message: &[u8], bytes_max: usize) -> Result<Bytes, AdaptError> {
        let mut out = Vec::with_capacity(message.len() + self.nodes[0].prefix.len() + 16);
        let mut pass = Pass {
            nodes: &self.nodes,
            hoisted: Vec::new(),
            bytes_max,
        };
        pass.message(0, message, true, &mut out)?;
        pass.check(out.len())?;
        Ok(out.into())
    }
}

// === impl Node and Action ===

impl Node {
    /// Whether it does anything by itself.
    fn acts(&self) -> bool {
        let acts = |(number, it): &(u32, Action)| !(it.stays(*number) && matches!(it.value, Value::Node(_)));
        !self.prefix.is_empty() || self.actions.iter().any(acts)
    }

    fn enters(&self) -> impl Iterator<Item = usize> {
        self.actions.iter().filter_map(|(_, it)| match it.value {
            Value::Node(inner) => Some(inner),
            _ => None,
        })
    }

    fn action(&self, number: u32) -> Option<&Action> {
        let found = self.actions.binary_search_by_key(&number, |it| it.0).ok()?;
        Some(&self.actions[found].1)
    }
}

impl Action {
    /// Whether the field stays where it is.
    fn stays(&self, number: u32) -> bool {
        let place = self.to.as_ref();
        place.is_some_and(|it| it.up == 0 && it.wrap.is_empty() && it.number == number)
    }
}

// === impl Pass ===

/// One field of the message that is read.
struct Field<'a> {
    number: u32,
    kind: WireType,
    /// Tag and value.
    whole: &'a [u8],
    value: &'a [u8],
    /// Nothing with its number came before it in this message.
    first: bool,
}

impl Pass<'_> {
    /// Appends the message, rewritten, and says whether it differs. `first`: its defaults are still to be written.
    fn message(
        &mut self,
        node: usize,
        input: &[u8],
        first: bool,
        out: &mut Vec<u8>,
    ) -> Result<bool, AdaptError> {
        let nodes = self.nodes;
        let node = &nodes[node];
        let mut differs = first && !node.prefix.is_empty();
        if differs {
            out.extend_from_slice(&node.prefix);
        }
        if node.actions.is_empty() {
            out.extend_from_slice(input);
            return Ok(differs);
        }
        if self.hoisted.len() >= DEPTH_MAX {
            return Err(AdaptError::TooDeep);
        }
        let depth = self.hoisted.len();
        self.hoisted.push(Vec::new());
        let malformed = |offset, what| AdaptError::Malformed {
            message: node.message.clone(),
            offset,
            what,
        };
        let mut reader = Reader::new(input);
        // From here on nothing was written yet, and all of it goes as it is.
        let mut pending = 0;
        let mut entered: Vec<u32> = Vec::new();
        while !reader.is_done() {
            let at = reader.at();
            let (number, kind) = reader.tag().ok_or_else(|| malformed(at, "no field"))?;
            let value_at = reader.at();
            reader
                .skip(number, kind, DEPTH_MAX)
                .ok_or_else(|| malformed(at, "a field without its value"))?;
            let Some(action) = node.action(number) else {
                continue;
            };
            let field = Field {
                number,
                kind,
                whole: &input[at..reader.at()],
                value: &input[value_at..reader.at()],
                first: action.repeated || !entered.contains(&number),
            };
            if field.first && !action.repeated && matches!(action.value, Value::Node(_)) {
                entered.push(number);
            }
            out.extend_from_slice(&input[pending..at]);
            pending = reader.at();
            differs |= self
                .field(action, &field, depth, out)
                .map_err(|it| it.at(node, action, at))?;
            let up = &mut self.hoisted[depth];
            differs |= !up.is_empty();
            out.append(up);
            self.check(out.len())?;
        }
        out.extend_from_slice(&input[pending..]);
        self.hoisted.pop();
        Ok(differs)
    }

    fn field(
        &mut self,
        action: &Action,
        field: &Field<'_>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        let Some(place) = &action.to else { return Ok(true) };
        if place.up == 0 {
            return self.put(action, place, field, out);
        }
        // Nothing further in writes to the same message: a field that moves takes all of its value along.
        let above = depth - place.up;
        let mut target = std::mem::take(&mut self.hoisted[above]);
        let put = self.put(action, place, field, &mut target);
        let waiting: usize = self.hoisted.iter().map(Vec::len).sum();
        self.check(waiting + target.len())?;
        self.hoisted[above] = target;
        put.map(|_| true)
    }

    fn put(
        &mut self,
        action: &Action,
        place: &Place,
        field: &Field<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        // Lengths of what it is wrapped in are known last, from the inside out.
        let mut open = Vec::with_capacity(place.wrap.len());
        for number in &place.wrap {
            put_tag(*number, WireType::Block, out);
            open.push(Length::before(field.whole.len(), out));
        }
        let differs = match &action.value {
            Value::Copy => {
                put_tag(place.number, field.kind, out);
                out.extend_from_slice(field.value);
                true
            }
            Value::Node(node) => self.enter(*node, action, place, field, out)?,
            Value::Convert(convert) => {
                self.converted(convert, action, place.number, field, out)?;
                true
            }
        };
        while let Some(length) = open.pop() {
            length.close(out);
        }
        Ok(differs || !action.stays(field.number))
    }

    fn enter(
        &mut self,
        node: usize,
        action: &Action,
        place: &Place,
        field: &Field<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        let body = match field.kind {
            WireType::Block => Reader::new(field.value).block(),
            _ => None,
        };
        let body = body.ok_or(Fault::Malformed("a message was expected"))?;
        let begin = out.len();
        // What stays where it is keeps its tag and its length as they were written, so nothing is left to do if it turns out to be unchanged.
        match action.stays(field.number) {
            true => out.extend_from_slice(&field.whole[..field.whole.len() - field.value.len()]),
            false => put_tag(place.number, WireType::Block, out),
        }
        let digits = &field.value[..field.value.len() - body.len()];
        let length = Length::as_written(digits, body.len(), out);
        let differs = self.message(node, body, field.first, out)?;
        let empty = out.len() == length.end() && !body.is_empty();
        if action.rest == Rest::Goes || (action.rest == Rest::GoesIfEmpty && empty) {
            out.truncate(begin);
            return Ok(true);
        }
        if differs {
            length.close(out);
        }
        Ok(differs)
    }

    /// Converts one value, or all that are packed into one field.
    fn converted(
        &self,
        convert: &Convert,
        action: &Action,
        number: u32,
        field: &Field<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(field.value);
        if field.kind == convert.wire_type() {
            put_tag(number, convert.wire_type_out(), out);
            return Ok(convert.one(&mut reader, out)?);
        }
        if field.kind != WireType::Block || !action.repeated {
            return Err(Fault::Malformed("a value of another type was expected"));
        }
        let all = reader.block().ok_or(Fault::Malformed("a block was expected"))?;
        let mut reader = Reader::new(all);
        let length = convert.packs.then(|| {
            put_tag(number, WireType::Block, out);
            Length::before(all.len(), out)
        });
        while !reader.is_done() {
            if !convert.packs {
                put_tag(number, convert.wire_type_out(), out);
            }
            convert.one(&mut reader, out)?;
            // One byte may become hundreds, so they are counted as they come and not when all are there.
            self.check(out.len())?;
        }
        if let Some(length) = length {
            length.close(out);
        }
        Ok(())
    }

    fn check(&self, bytes: usize) -> Result<(), AdaptError> {
        match bytes > self.bytes_max {
            true => Err(AdaptError::TooLarge { max: self.bytes_max }),
            false => Ok(()),
        }
    }
}

/// An error that does not know its place yet.
enum Fault {
    Malformed(&'static str),
    Unfit(String),
    Placed(AdaptError),
}

impl Fault {
    fn at(self, node: &Node, action: &Action, offset: usize) -> AdaptError {
        match self {
            Self::Malformed(what) => AdaptError::Malformed {
                message: node.message.clone(),
                offset,
                what,
            },
            Self::Unfit(value) => AdaptError::Unfit {
                field: action.field.clone(),
                value,
                types: action.types.clone(),
            },
            Self::Placed(error) => error,
        }
    }
}

impl From<NotConverted> for Fault {
    fn from(error: NotConverted) -> Self {
        match error {
            NotConverted::Malformed => Self::Malformed("a value breaks off"),
            NotConverted::Unfit(value) => Self::Unfit(value),
        }
    }
}

impl From<AdaptError> for Fault {
    fn from(error: AdaptError) -> Self {
        Self::Placed(error)
    }
}
