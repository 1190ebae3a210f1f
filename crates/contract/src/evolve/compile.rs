//! From two message types, and what an author declared of them, to a rewriter; or to all the reasons why there is none.
//!
//! The rules of [`crate::compat`] decide. Each violation that they find stands unless something here takes care of it: a declared rule, a
//! conversion that loses nothing or says so, or that the writer is merely the newer of the two.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{
    lineage::{MessageMap, path},
    rewrite::{Action, Node, Place, Rest, Rewriter, Value},
    value::Convert,
    wire::put_tag,
};
use crate::{
    Contract,
    compat::{
        Direction, Level, Rule, Violation,
        kinds::{Fit, fit, keeps_sign, type_name},
        walk::Walk,
    },
    defaults,
    hash::is_open,
};

/// What is done to messages on their way, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Whether it is the request or the response that is changed.
    pub side: Side,
    /// The field, as its writer knows it; for a default, as its reader does.
    pub field: String,
    /// What is done to it.
    pub what: What,
}

/// Which message of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// From the caller to the plugin.
    Request,
    /// From the plugin to the caller.
    Response,
}

/// What is done to one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The writer does not know it; this is put in front.
    Default(String),
    /// It becomes this field, as its reader knows it.
    Moved(String),
    /// Its value becomes one of another type; a value that does not fit is an error.
    Converted(String),
    /// It is taken out.
    Dropped,
}

/// One message's rules, from its writer's to its reader's side.
struct Rules<'a> {
    writer: &'a str,
    reader: &'a str,
    moves: Vec<(&'a str, &'a str)>,
    defaults: &'a [(String, String)],
    /// Of the side where the names are known.
    drop: &'a [String],
    writer_is_older: bool,
}

/// What is to happen below a message, by field number.
#[derive(Clone, Default)]
struct Trie {
    leaf: Option<Leaf>,
    children: BTreeMap<u32, Trie>,
}

#[derive(Clone)]
struct Leaf {
    /// So many messages out is the one that the rule is about.
    up: usize,
    to: Vec<FieldDescriptor>,
}

/// What came of one side.
pub(super) struct Compiled {
    pub(super) rewriter: Option<Rewriter>,
    pub(super) violations: Vec<Violation>,
    /// Declared rules that cannot be followed.
    pub(super) faults: Vec<String>,
    pub(super) changes: Vec<Change>,
}

struct Compiler<'a> {
    rules: Vec<Rules<'a>>,
    reader_contract: &'a Contract,
    side: Side,
    nodes: Vec<Node>,
    known: HashMap<(String, String), usize>,
    pending: Vec<(usize, MessageDescriptor, MessageDescriptor, Trie)>,
    /// Pairs that the rules of compatibility do not reach by themselves.
    pairs: Vec<(MessageDescriptor, MessageDescriptor)>,
    /// Violations that are taken care of, by the caller's name of the field.
    handled: HashSet<(Rule, String)>,
    faults: Vec<String>,
    changes: Vec<Change>,
}

/// Compiles one side. `maps` with whether the caller's side is the older one.
pub(super) fn compile(
    side: Side,
    near: &MessageDescriptor,
    far: &MessageDescriptor,
    contracts: (&Contract, &Contract),
    maps: Option<(&[MessageMap], bool)>,
) -> Compiled {
    let (near_contract, far_contract) = contracts;
    let (writer, reader, reader_contract) = match side {
        Side::Request => (near, far, far_contract),
        Side::Response => (far, near, near_contract),
    };
    let rules = maps.map_or_else(Vec::new, |(maps, near_is_older)| {
        let writer_is_older = near_is_older == (side == Side::Request);
        maps.iter().map(|it| Rules::of(it, writer_is_older)).collect()
    });
    let mut compiler = Compiler {
        rules,
        reader_contract,
        side,
        nodes: Vec::new(),
        known: HashMap::new(),
        pending: Vec::new(),
        pairs: Vec::new(),
        handled: HashSet::new(),
        faults: Vec::new(),
        changes: Vec::new(),
    };
    compiler.pairs.push((writer.clone(), reader.clone()));
    compiler.node(writer, reader, Trie::default());
    while let Some((index, writer, reader, trie)) = compiler.pending.pop() {
        compiler.fill(index, &writer, &reader, trie);
    }
    let direction = match side {
        Side::Request => Direction::Request,
        Side::Response => Direction::Response,
    };
    let mut walk = Walk::new(Level::Wire);
    for (writer, reader) in &compiler.pairs {
        let (near, far) = compiler.near_far(writer, reader);
        walk.message(near, far, direction);
    }
    let mut violations = walk.finish(Rule::touches_calls);
    violations.retain(|it| !compiler.handled.contains(&(it.rule, it.path.clone())));
    compiler.changes.sort();
    compiler.changes.dedup();
    Compiled {
        rewriter: Rewriter::of(compiler.nodes),
        violations,
        faults: compiler.faults,
        changes: compiler.changes,
    }
}

// === impl Rules ===

impl<'a> Rules<'a> {
    fn of(map: &'a MessageMap, writer_is_older: bool) -> Self {
        let pair = |(older, newer): &'a (String, String)| match writer_is_older {
            true => (older.as_str(), newer.as_str()),
            false => (newer.as_str(), older.as_str()),
        };
        let (writer, reader) = match writer_is_older {
            true => (&map.older, &map.newer),
            false => (&map.newer, &map.older),
        };
        Self {
            writer,
            reader,
            moves: map.fields.iter().map(pair).collect(),
            defaults: if writer_is_older { &map.defaults } else { &[] },
            drop: &map.drop,
            writer_is_older,
        }
    }
}

// === impl Trie ===

impl Trie {
    fn insert(&mut self, from: &[FieldDescriptor], leaf: Leaf) {
        let mut at = self;
        for field in from {
            at = at.children.entry(field.number()).or_default();
        }
        at.leaf = Some(leaf);
    }

    /// This one's word comes first.
    fn merge(&mut self, other: Self) {
        if self.leaf.is_none() {
            self.leaf = other.leaf;
        }
        for (number, child) in other.children {
            self.children.entry(number).or_default().merge(child);
        }
    }
}

// === impl Compiler ===

impl Compiler<'_> {
    /// The node for a pair of types; filled later.
    fn node(&mut self, writer: &MessageDescriptor, reader: &MessageDescriptor, trie: Trie) -> usize {
        let key = (writer.full_name().to_owned(), reader.full_name().to_owned());
        let plain = trie.children.is_empty();
        if plain && let Some(known) = self.known.get(&key) {
            return *known;
        }
        let index = self.nodes.len();
        self.nodes.push(Node {
            message: writer.full_name().into(),
            prefix: Bytes::new(),
            actions: Vec::new(),
        });
        if plain {
            self.known.insert(key, index);
        }
        self.pending.push((index, writer.clone(), reader.clone(), trie));
        index
    }

    fn fill(&mut self, index: usize, writer: &MessageDescriptor, reader: &MessageDescriptor, mut trie: Trie) {
        let mut given: HashMap<u32, String> = HashMap::new();
        // Numbers of the reader that something is moved to.
        let mut targets: HashSet<u32> = HashSet::new();
        let mut dropped: HashSet<u32> = HashSet::new();
        trie.merge(self.own_rules(writer, reader, &mut given, &mut targets, &mut dropped));
        self.newer_side(writer, reader, &trie, &targets, &dropped);
        let mut prefix = Vec::new();
        let mut actions = Vec::new();
        let mut fed = targets;
        for field in writer.fields() {
            let number = field.number();
            let counterpart = reader.get_field(number);
            let child = trie.children.get(&number).cloned();
            let leaf = child.as_ref().and_then(|it| it.leaf.clone());
            let action = match (leaf, child) {
                _ if dropped.contains(&number) => {
                    self.handle(&field, counterpart.as_ref());
                    self.change(&field, What::Dropped);
                    Some(action(&field, None, Value::Copy, ""))
                }
                (Some(leaf), _) => self.moved(&field, counterpart.as_ref(), &leaf, &mut prefix),
                (None, Some(below)) => {
                    fed.insert(number);
                    self.through(&field, counterpart.as_ref(), below)
                }
                (None, None) => {
                    fed.insert(number);
                    counterpart.and_then(|it| self.in_place(&field, &it, &mut prefix))
                }
            };
            actions.extend(action.map(|it| (number, it)));
        }
        let defaults = self.defaults(reader, &given, &fed);
        let node = &mut self.nodes[index];
        node.prefix = [defaults, prefix].concat().into();
        actions.sort_by_key(|it| it.0);
        node.actions = actions;
    }

    /// The declared rules of this very pair.
    fn own_rules(
        &mut self,
        writer: &MessageDescriptor,
        reader: &MessageDescriptor,
        given: &mut HashMap<u32, String>,
        targets: &mut HashSet<u32>,
        dropped: &mut HashSet<u32>,
    ) -> Trie {
        let mut trie = Trie::default();
        let rules = &self.rules;
        for rules in rules
            .iter()
            .filter(|it| it.writer == writer.full_name() && it.reader == reader.full_name())
        {
            for (from, to) in &rules.moves {
                match (path(writer, from), path(reader, to)) {
                    (Ok(from), Ok(to)) => {
                        targets.extend(to.first().map(FieldDescriptor::number));
                        let up = from.len() - 1;
                        trie.insert(&from, Leaf { up, to });
                    }
                    (from, to) => self.faults.extend(from.err().into_iter().chain(to.err())),
                }
            }
            for (name, text) in rules.defaults {
                if let Some(field) = reader.get_field_by_name(name) {
                    given.insert(field.number(), text.clone());
                }
            }
            let older = if rules.writer_is_older { writer } else { reader };
            let gone = rules.drop.iter().filter_map(|it| older.get_field_by_name(it));
            dropped.extend(gone.map(|it| it.number()));
        }
        trie
    }

    /// A field that a rule gives another place, another type, or both.
    fn moved(
        &mut self,
        field: &FieldDescriptor,
        counterpart: Option<&FieldDescriptor>,
        leaf: &Leaf,
        prefix: &mut Vec<u8>,
    ) -> Option<Action> {
        let (target, outer) = leaf.to.split_last()?;
        self.handle(field, counterpart);
        let place = Place {
            up: leaf.up,
            wrap: outer.iter().map(FieldDescriptor::number).collect(),
            number: target.number(),
        };
        let stays = leaf.up == 0 && outer.is_empty() && target.number() == field.number();
        if !stays {
            self.change(field, What::Moved(target.full_name().to_owned()));
        }
        let types = format!("{} -> {}", described(field), described(target));
        if field.is_group() || target.is_group() {
            self.faults.push(format!(
                "`{}` is a group, and groups cannot move",
                field.full_name()
            ));
            return None;
        }
        let narrows = (field.is_list() || field.is_map()) && !(target.is_list() || target.is_map());
        if narrows || field.is_map() != target.is_map() {
            self.faults.push(format!(
                "`{}` cannot become `{}`: {types}",
                field.full_name(),
                target.full_name()
            ));
            return None;
        }
        let value = match (field.kind(), target.kind()) {
            (Kind::Message(from), Kind::Message(to)) => {
                self.pairs.push((from.clone(), to.clone()));
                Value::Node(self.node(&from, &to, Trie::default()))
            }
            (from, to) if fit(&from, &to, Level::Wire) == Fit::Holds && keeps_sign(&from, &to) => Value::Copy,
            (from, to) => match Convert::declared(&from, &to) {
                Some(convert) => {
                    self.change(field, What::Converted(types.clone()));
                    self.zero(field, &convert, &place, prefix);
                    Value::Convert(convert)
                }
                None => {
                    self.faults.push(format!(
                        "`{}` cannot become `{}`: there is no way from {types}; use a function",
                        field.full_name(),
                        target.full_name()
                    ));
                    return None;
                }
            },
        };
        if stays && matches!(value, Value::Copy) {
            return None;
        }
        Some(action(field, Some(place), value, &types))
    }

    /// A missing number is zero, and a missing text is none: what a writer leaves out for being zero has to be written for a reader of text.
    fn zero(&mut self, field: &FieldDescriptor, convert: &Convert, place: &Place, prefix: &mut Vec<u8>) {
        if field.is_list() || field.is_map() || field.supports_presence() {
            return;
        }
        let Some(value) = convert.of_nothing() else { return };
        if place.up > 0 {
            self.faults.push(format!(
                "`{}` cannot leave its message and become text at once, since zero is not written; use a function",
                field.full_name()
            ));
            return;
        }
        let mut bytes = Vec::new();
        put_tag(place.number, convert.wire_type_out(), &mut bytes);
        bytes.extend(value);
        prefix.extend(wrapped(&place.wrap, bytes));
    }

    /// A message out of which or into which something moves.
    fn through(
        &mut self,
        field: &FieldDescriptor,
        counterpart: Option<&FieldDescriptor>,
        below: Trie,
    ) -> Option<Action> {
        let Kind::Message(inner) = field.kind() else {
            return None;
        };
        let (other, rest) = match counterpart.map(FieldDescriptor::kind) {
            Some(Kind::Message(other)) => (other, Rest::Stays),
            Some(_) => (inner.clone(), Rest::Goes),
            None => (inner.clone(), Rest::GoesIfEmpty),
        };
        if rest == Rest::Goes {
            self.handle(field, counterpart);
        }
        let node = self.node(&inner, &other, below);
        Some(Action {
            rest,
            ..action(field, Some(same_place(field)), Value::Node(node), "")
        })
    }

    /// A field that both sides have under its number.
    fn in_place(
        &mut self,
        field: &FieldDescriptor,
        counterpart: &FieldDescriptor,
        prefix: &mut Vec<u8>,
    ) -> Option<Action> {
        let single = |it: &FieldDescriptor| !it.is_list() && !it.is_map();
        // One value is a list of one; of a list a reader of one value takes the last, which is a loss.
        if single(field) && counterpart.is_list() {
            self.handled.insert((
                Rule::FieldWireCompatibleCardinality,
                self.near_name(field, counterpart),
            ));
        } else if single(field) != single(counterpart) {
            return None;
        }
        let types = format!("{} -> {}", described(field), described(counterpart));
        match (field.kind(), counterpart.kind()) {
            (Kind::Message(_), Kind::Message(_)) if field.is_group() || counterpart.is_group() => None,
            (Kind::Message(from), Kind::Message(to)) => {
                let entries = from.is_map_entry() && to.is_map_entry();
                let declared = self
                    .rules
                    .iter()
                    .any(|it| it.writer == from.full_name() && it.reader == to.full_name());
                if from.full_name() != to.full_name() && !entries {
                    if !declared {
                        return None;
                    }
                    self.handled
                        .insert((Rule::FieldWireCompatibleType, self.near_name(field, counterpart)));
                    self.pairs.push((from.clone(), to.clone()));
                }
                let node = self.node(&from, &to, Trie::default());
                Some(action(field, Some(same_place(field)), Value::Node(node), ""))
            }
            (from, to) => {
                if let (Kind::Enum(from), Kind::Enum(to)) = (&from, &to) {
                    self.newer_enum(from, to);
                }
                let fit = fit(&from, &to, Level::Wire);
                if matches!(fit, Fit::Holds | Fit::Hides) && keeps_sign(&from, &to) {
                    return None;
                }
                let convert = Convert::automatic(&from, &to)?;
                self.handled
                    .insert((Rule::FieldWireCompatibleType, self.near_name(field, counterpart)));
                self.change(field, What::Converted(types.clone()));
                let place = same_place(field);
                self.zero(field, &convert, &place, prefix);
                Some(action(field, Some(place), Value::Convert(convert), &types))
            }
        }
    }

    /// What a reader is to see in fields that its writer does not know.
    fn defaults(
        &mut self,
        reader: &MessageDescriptor,
        given: &HashMap<u32, String>,
        fed: &HashSet<u32>,
    ) -> Vec<u8> {
        let mut missing: Vec<FieldDescriptor> =
            reader.fields().filter(|it| !fed.contains(&it.number())).collect();
        missing.sort_by_key(FieldDescriptor::number);
        let mut prefix = Vec::new();
        for field in missing {
            let (bytes, text) = match given.get(&field.number()) {
                Some(text) => match defaults::encode(&field, text) {
                    Ok(bytes) => (bytes, text.clone()),
                    Err(error) => {
                        self.faults.push(error.to_string());
                        continue;
                    }
                },
                None => match self.reader_contract.encoded_default(&field) {
                    Some(bytes) => {
                        let text = self.reader_contract.field_options(&field).default;
                        (bytes.clone(), text.unwrap_or_default())
                    }
                    None => continue,
                },
            };
            prefix.extend_from_slice(&bytes);
            self.change(&field, What::Default(text));
        }
        prefix
    }

    // --- who is newer ---

    /// Fields that only one side has are no fault if it is always the same side: that one is the newer, and the other keeps what it does not know.
    fn newer_side(
        &mut self,
        writer: &MessageDescriptor,
        reader: &MessageDescriptor,
        trie: &Trie,
        targets: &HashSet<u32>,
        dropped: &HashSet<u32>,
    ) {
        let lost = |of: &MessageDescriptor, by: &MessageDescriptor, explained: &dyn Fn(u32) -> bool| {
            let is_reserved = |number: u32| by.reserved_ranges().any(|it| it.contains(&number));
            let lost = of.fields().filter(|it| by.get_field(it.number()).is_none());
            lost.filter(|it| !is_reserved(it.number()) && !explained(it.number()))
                .map(|it| it.full_name().to_owned())
                .collect::<Vec<String>>()
        };
        let by_reader = lost(writer, reader, &|it| {
            trie.children.contains_key(&it) || dropped.contains(&it)
        });
        let by_writer = lost(reader, writer, &|it| {
            targets.contains(&it) || dropped.contains(&it)
        });
        let (near_lost, far_lost) = match self.side {
            Side::Request => (by_reader, by_writer),
            Side::Response => (by_writer, by_reader),
        };
        if far_lost.is_empty() {
            for path in near_lost {
                self.handled
                    .insert((Rule::FieldNoDeleteUnlessNumberReserved, path));
            }
        }
        // What rules explain is explained in either direction.
        let (near, far) = self.near_far(writer, reader);
        let explained = near.fields().filter(|it| {
            let number = it.number();
            far.get_field(number).is_none()
                && (dropped.contains(&number)
                    || match self.side {
                        Side::Request => trie.children.contains_key(&number),
                        Side::Response => targets.contains(&number),
                    })
        });
        let explained: Vec<String> = explained.map(|it| it.full_name().to_owned()).collect();
        for path in explained {
            self.handled
                .insert((Rule::FieldNoDeleteUnlessNumberReserved, path));
        }
    }

    /// The same for the values of open enums, whose unknown numbers every reader keeps.
    fn newer_enum(&mut self, writer: &EnumDescriptor, reader: &EnumDescriptor) {
        let (near, far) = match self.side {
            Side::Request => (writer, reader),
            Side::Response => (reader, writer),
        };
        let lacks = |of: &EnumDescriptor, by: &EnumDescriptor| {
            let reserved = |number: i32| by.reserved_ranges().any(|it| it.contains(&number));
            let lost = of
                .values()
                .filter(|it| by.get_value(it.number()).is_none() && !reserved(it.number()));
            lost.map(|it| format!("{}.{}", of.full_name(), it.name()))
                .collect::<Vec<String>>()
        };
        let writes_unknown = self.side == Side::Request && !lacks(near, far).is_empty();
        if lacks(far, near).is_empty() && (is_open(reader) || !writes_unknown) {
            for path in lacks(near, far) {
                self.handled
                    .insert((Rule::EnumValueNoDeleteUnlessNumberReserved, path));
            }
        }
    }

    // --- words ---

    fn near_far<'d>(
        &self,
        writer: &'d MessageDescriptor,
        reader: &'d MessageDescriptor,
    ) -> (&'d MessageDescriptor, &'d MessageDescriptor) {
        match self.side {
            Side::Request => (writer, reader),
            Side::Response => (reader, writer),
        }
    }

    /// The caller's name of a field that both have.
    fn near_name(&self, writer: &FieldDescriptor, reader: &FieldDescriptor) -> String {
        match self.side {
            Side::Request => writer.full_name().to_owned(),
            Side::Response => reader.full_name().to_owned(),
        }
    }

    /// A rule says what becomes of this field, so whatever else has its number is no longer compared with it.
    fn handle(&mut self, field: &FieldDescriptor, counterpart: Option<&FieldDescriptor>) {
        let Some(counterpart) = counterpart else { return };
        let name = self.near_name(field, counterpart);
        for rule in [
            Rule::FieldWireCompatibleType,
            Rule::FieldWireCompatibleCardinality,
            Rule::FieldSameDefault,
            Rule::FieldSameOneof,
        ] {
            self.handled.insert((rule, name.clone()));
        }
    }

    fn change(&mut self, field: &FieldDescriptor, what: What) {
        self.changes.push(Change {
            side: self.side,
            field: field.full_name().to_owned(),
            what,
        });
    }
}

fn action(field: &FieldDescriptor, to: Option<Place>, value: Value, types: &str) -> Action {
    Action {
        field: field.full_name().into(),
        types: Arc::from(types),
        repeated: field.is_list() || field.is_map(),
        to,
        value,
        rest: Rest::Stays,
    }
}

fn same_place(field: &FieldDescriptor) -> Place {
    Place {
        up: 0,
        wrap: Box::default(),
        number: field.number(),
    }
}

fn wrapped(wrap: &[u32], bytes: Vec<u8>) -> Vec<u8> {
    wrap.iter().rev().fold(bytes, |inner, number| {
        let mut out = Vec::with_capacity(inner.len() + 8);
        put_tag(*number, super::wire::WireType::Block, &mut out);
        super::wire::put_varint(inner.len() as u64, &mut out);
        out.extend(inner);
        out
    })
}

fn described(field: &FieldDescriptor) -> String {
    match field.is_list() {
        true => format!("repeated {}", type_name(field)),
        false => type_name(field),
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Response => "response",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, field, what } = self;
        match what {
            What::Default(text) => write!(
                f,
                "{side}: `{field}` is \"{text}\" where the writer does not know it"
            ),
            What::Moved(to) => write!(f, "{side}: `{field}` becomes `{to}`"),
            What::Converted(types) => write!(f, "{side}: `{field}` is converted, {types}"),
            What::Dropped => write!(f, "{side}: `{field}` is taken out"),
        }
    }
}
