//! One visitor over two contracts at once.
//!
//! It starts at a method and follows fields of message types, each pair of messages once per direction, with a list instead of
//! recursion: a contract that nests deeply cannot exhaust the stack.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    OneofDescriptor, Syntax,
};

use super::{
    Direction, Level, Rule, Violation,
    kinds::{Fit, default_of, fit, is_moved_enum, type_name},
};
use crate::Method;

/// What was found so far, and what is still to be compared.
pub(crate) struct Walk {
    level: Level,
    violations: Vec<Violation>,
    pending: Vec<(MessageDescriptor, MessageDescriptor, Direction)>,
    messages_seen: HashSet<(String, String, Direction)>,
    enums_seen: HashSet<(String, String)>,
    files_seen: HashSet<String>,
    /// Whether two oneofs of different names hold different fields.
    oneofs_seen: HashMap<(String, String), bool>,
}

impl Walk {
    pub(crate) fn new(level: Level) -> Self {
        Self {
            level,
            violations: Vec::new(),
            pending: Vec::new(),
            messages_seen: HashSet::new(),
            enums_seen: HashSet::new(),
            files_seen: HashSet::new(),
            oneofs_seen: HashMap::new(),
        }
    }

    /// What was found and counts, sorted, each once.
    pub(crate) fn finish(self, counts: fn(Rule) -> bool) -> Vec<Violation> {
        let mut violations = self.violations;
        violations.retain(|it| counts(it.rule) && it.rule.applies(self.level));
        violations.sort();
        violations.dedup();
        violations
    }

    /// Compares a method that the consumer calls with what the provider has under its name.
    pub(crate) fn method(&mut self, old: &Method, new: Option<&Method>, new_pool: &DescriptorPool) {
        let path = old.target();
        self.file(&old.descriptor().parent_file(), new_pool);
        let Some(new) = new else {
            return self.add(
                Rule::RpcNoDelete,
                path,
                "a method".to_owned(),
                "not provided".to_owned(),
            );
        };
        let streaming = |it| {
            if it {
                "a stream".to_owned()
            } else {
                "single".to_owned()
            }
        };
        if old.client_streaming() != new.client_streaming() {
            let (old, new) = (
                streaming(old.client_streaming()),
                streaming(new.client_streaming()),
            );
            self.add(Rule::RpcSameClientStreaming, path.clone(), old, new);
        }
        if old.server_streaming() != new.server_streaming() {
            let (old, new) = (
                streaming(old.server_streaming()),
                streaming(new.server_streaming()),
            );
            self.add(Rule::RpcSameServerStreaming, path.clone(), old, new);
        }
        let (was, is) = (old.options().idempotency, new.options().idempotency);
        if was != is {
            self.add(
                Rule::RpcSameIdempotencyLevel,
                path.clone(),
                was.to_string(),
                is.to_string(),
            );
        }
        let types = [
            (
                Rule::RpcSameRequestType,
                old.input(),
                new.input(),
                Direction::Request,
            ),
            (
                Rule::RpcSameResponseType,
                old.output(),
                new.output(),
                Direction::Response,
            ),
        ];
        for (rule, old, new, direction) in types {
            if old.full_name() != new.full_name() {
                self.add(
                    rule,
                    path.clone(),
                    quoted(old.full_name()),
                    quoted(new.full_name()),
                );
            } else {
                self.message(&old, &new, direction);
            }
        }
    }

    /// Compares two messages and everything that can be reached from them.
    pub(crate) fn message(&mut self, old: &MessageDescriptor, new: &MessageDescriptor, direction: Direction) {
        self.pending.push((old.clone(), new.clone(), direction));
        while let Some((old, new, direction)) = self.pending.pop() {
            let key = (old.full_name().to_owned(), new.full_name().to_owned(), direction);
            if self.messages_seen.insert(key) {
                self.one_message(&old, &new, direction);
            }
        }
    }

    fn one_message(&mut self, old: &MessageDescriptor, new: &MessageDescriptor, direction: Direction) {
        let path = old.full_name();
        self.file(&old.parent_file(), new.parent_pool());
        if loses_json(old.parent_file().syntax(), new.parent_file().syntax()) {
            self.add(
                Rule::MessageSameJsonFormat,
                path.to_owned(),
                "proto3".to_owned(),
                "proto2".to_owned(),
            );
        }
        self.required(old, new);
        let reserved = Reserved::by_message(new);
        self.reservations(
            Rule::ReservedMessageNoDelete,
            path,
            &Reserved::by_message(old),
            &reserved,
        );
        for old_field in old.fields() {
            match new.get_field(old_field.number()) {
                Some(new_field) => self.field(&old_field, &new_field, direction),
                None => self.deleted_field(&old_field, &reserved),
            }
        }
    }

    fn required(&mut self, old: &MessageDescriptor, new: &MessageDescriptor) {
        let label = |it: Option<FieldDescriptor>| match it {
            None => "absent",
            Some(field) if field.is_required() => "required",
            Some(_) => "not required",
        };
        let fields = old.fields().chain(new.fields());
        let changed = fields.filter(|field| {
            let is = |message: &MessageDescriptor| {
                message
                    .get_field(field.number())
                    .is_some_and(|it| it.is_required())
            };
            is(old) != is(new)
        });
        for field in changed.collect::<Vec<_>>() {
            let known = old.get_field(field.number()).unwrap_or_else(|| field.clone());
            let path = format!("{}.{}", old.full_name(), known.name());
            let labels = (
                label(old.get_field(field.number())),
                label(new.get_field(field.number())),
            );
            self.add(
                Rule::MessageSameRequiredFields,
                path,
                labels.0.to_owned(),
                labels.1.to_owned(),
            );
        }
    }

    fn reservations(&mut self, rule: Rule, path: &str, old: &Reserved, new: &Reserved) {
        for lost in old.lost(new) {
            self.add(
                rule,
                path.to_owned(),
                format!("reserved {lost}"),
                "not reserved".to_owned(),
            );
        }
    }

    fn deleted_field(&mut self, old: &FieldDescriptor, reserved: &Reserved) {
        let was = format!("{} = {}", type_name(old), old.number());
        if !reserved.has_number(i64::from(old.number())) {
            let is = "deleted, its number not reserved".to_owned();
            self.add(
                Rule::FieldNoDeleteUnlessNumberReserved,
                old.full_name().to_owned(),
                was.clone(),
                is,
            );
        }
        if !reserved.names.contains(old.name()) {
            let is = "deleted, its name not reserved".to_owned();
            self.add(
                Rule::FieldNoDeleteUnlessNameReserved,
                old.full_name().to_owned(),
                was,
                is,
            );
        }
    }

    fn field(&mut self, old: &FieldDescriptor, new: &FieldDescriptor, direction: Direction) {
        let path = || old.full_name().to_owned();
        // The generated fields of map entries are `key` and `value` on both sides; a repeated message may take a map's place.
        let named = !old.parent_message().is_map_entry() && !new.parent_message().is_map_entry();
        if named && old.name() != new.name() {
            self.add(
                Rule::FieldSameName,
                path(),
                quoted(old.name()),
                quoted(new.name()),
            );
        }
        if old.json_name() != new.json_name() {
            self.add(
                Rule::FieldSameJsonName,
                path(),
                quoted(old.json_name()),
                quoted(new.json_name()),
            );
        }
        self.oneof(old, new);
        let (was, is) = (label(old), label(new));
        let strict = was != is;
        let loose = (was == "single") != (is == "single");
        if strict {
            self.add(
                Rule::FieldWireJsonCompatibleCardinality,
                path(),
                was.to_owned(),
                is.to_owned(),
            );
        }
        if loose {
            return self.add(
                Rule::FieldWireCompatibleCardinality,
                path(),
                was.to_owned(),
                is.to_owned(),
            );
        }
        // Of two types that do not fit, the defaults say nothing more.
        if self.field_type(old, new, direction)
            && let (Some(was), Some(is)) = (default_of(old), default_of(new))
            && was != is
        {
            self.add(
                Rule::FieldSameDefault,
                path(),
                format!("{was} when absent"),
                format!("{is} when absent"),
            );
        }
    }

    /// Compares two types and returns whether the reader's fits.
    fn field_type(&mut self, old: &FieldDescriptor, new: &FieldDescriptor, direction: Direction) -> bool {
        let (writer, reader) = match direction {
            Direction::Request => (old, new),
            Direction::Response => (new, old),
        };
        let fit = match (writer.kind(), reader.kind()) {
            (Kind::Message(_), Kind::Message(_)) if old.is_group() != new.is_group() => Fit::Differs,
            (writer, reader) => fit(&writer, &reader, self.level),
        };
        let why = match (old.kind(), new.kind()) {
            _ if fit != Fit::Holds => fit.why(),
            // An entry's name is made from the field's, so it says nothing.
            (Kind::Message(was), Kind::Message(is))
                if was.full_name() == is.full_name() || was.is_map_entry() || is.is_map_entry() =>
            {
                self.pending.push((was, is, direction));
                return true;
            }
            (Kind::Message(_), Kind::Message(_)) => "it is another message",
            (Kind::Enum(was), Kind::Enum(is))
                if was.full_name() == is.full_name() || is_moved_enum(&was, &is) =>
            {
                self.enumeration(&was, &is);
                return true;
            }
            (Kind::Enum(_), Kind::Enum(_)) => "it is another enum",
            _ => return true,
        };
        self.wrong_type(old, new, why);
        false
    }

    fn wrong_type(&mut self, old: &FieldDescriptor, new: &FieldDescriptor, why: &str) {
        let rule = match self.level {
            Level::Wire => Rule::FieldWireCompatibleType,
            Level::WireJson => Rule::FieldWireJsonCompatibleType,
        };
        self.violations.push(Violation {
            rule,
            path: old.full_name().to_owned(),
            old: type_name(old),
            new: type_name(new),
            advice: format!("{why}; {}", rule.advice()),
        });
    }

    /// A field moved if it went in or out of oneofs, or into one with another name and other company: a renamed oneof is the same.
    fn oneof(&mut self, old: &FieldDescriptor, new: &FieldDescriptor) {
        let real = |field: &FieldDescriptor| field.containing_oneof().filter(|it| !it.is_synthetic());
        let (was, is) = (real(old), real(new));
        let moved = match (&was, &is) {
            (None, None) => false,
            (Some(was), Some(is)) if was.name() == is.name() => false,
            (Some(was), Some(is)) => {
                let key = (was.full_name().to_owned(), is.full_name().to_owned());
                *self
                    .oneofs_seen
                    .entry(key)
                    .or_insert_with(|| other_company(was, is))
            }
            _ => true,
        };
        if moved {
            let place = |it: Option<OneofDescriptor>| match it {
                Some(oneof) => format!("in oneof `{}`", oneof.name()),
                None => "in no oneof".to_owned(),
            };
            self.add(
                Rule::FieldSameOneof,
                old.full_name().to_owned(),
                place(was),
                place(is),
            );
        }
    }

    fn enumeration(&mut self, old: &EnumDescriptor, new: &EnumDescriptor) {
        let path = old.full_name();
        if !self
            .enums_seen
            .insert((path.to_owned(), new.full_name().to_owned()))
        {
            return;
        }
        self.file(&old.parent_file(), new.parent_pool());
        if loses_json(old.parent_file().syntax(), new.parent_file().syntax()) {
            self.add(
                Rule::EnumSameJsonFormat,
                path.to_owned(),
                "proto3".to_owned(),
                "proto2".to_owned(),
            );
        }
        let reserved = Reserved::by_enum(new);
        self.reservations(
            Rule::ReservedEnumNoDelete,
            path,
            &Reserved::by_enum(old),
            &reserved,
        );
        let mut names_now: HashMap<i32, Vec<String>> = HashMap::new();
        for value in new.values() {
            names_now
                .entry(value.number())
                .or_default()
                .push(value.name().to_owned());
        }
        for value in old.values() {
            let path = format!("{path}.{}", value.name());
            let number = value.number();
            let names = names_now.get(&number).map_or(&[][..], Vec::as_slice);
            if names.is_empty() {
                let was = format!("value {number}");
                if !reserved.has_number(i64::from(number)) {
                    let is = "deleted, its number not reserved".to_owned();
                    self.add(
                        Rule::EnumValueNoDeleteUnlessNumberReserved,
                        path.clone(),
                        was.clone(),
                        is,
                    );
                }
                if !reserved.names.contains(value.name()) {
                    let is = "deleted, its name not reserved".to_owned();
                    self.add(Rule::EnumValueNoDeleteUnlessNameReserved, path, was, is);
                }
            } else if !names.iter().any(|name| name == value.name()) {
                self.add(
                    Rule::EnumValueSameName,
                    path,
                    quoted(value.name()),
                    quoted(&names.join("`, `")),
                );
            }
        }
    }

    /// Compares the package of a file that both contracts have, once.
    fn file(&mut self, old: &FileDescriptor, new_pool: &DescriptorPool) {
        if !self.files_seen.insert(old.name().to_owned()) {
            return;
        }
        if let Some(new) = new_pool.get_file_by_name(old.name())
            && old.package_name() != new.package_name()
        {
            let package = |it: &FileDescriptor| format!("package `{}`", it.package_name());
            self.add(
                Rule::FileSamePackage,
                old.name().to_owned(),
                package(old),
                package(&new),
            );
        }
    }

    fn add(&mut self, rule: Rule, path: String, old: String, new: String) {
        self.violations.push(Violation {
            rule,
            path,
            old,
            new,
            advice: rule.advice().to_owned(),
        });
    }
}

/// Whether the fields that both messages have stand in one of the two oneofs only.
fn other_company(old: &OneofDescriptor, new: &OneofDescriptor) -> bool {
    let shared = |oneof: &OneofDescriptor, other: &MessageDescriptor| -> BTreeSet<u32> {
        oneof
            .fields()
            .map(|field| field.number())
            .filter(|number| other.get_field(*number).is_some())
            .collect()
    };
    shared(old, new.parent_message()) != shared(new, old.parent_message())
}

fn label(field: &FieldDescriptor) -> &'static str {
    match field.cardinality() {
        Cardinality::Repeated if field.is_map() => "a map",
        Cardinality::Repeated => "repeated",
        Cardinality::Optional | Cardinality::Required => "single",
    }
}

/// proto3 promises a JSON form; proto2 only tries.
fn loses_json(old: Syntax, new: Syntax) -> bool {
    (old, new) == (Syntax::Proto3, Syntax::Proto2)
}

/// What a message or an enum has reserved.
struct Reserved {
    /// Both ends included, disjoint, sorted.
    ranges: Vec<(i64, i64)>,
    names: BTreeSet<String>,
}

impl Reserved {
    fn by_message(of: &MessageDescriptor) -> Self {
        let ranges = of
            .reserved_ranges()
            .map(|range| (i64::from(range.start), i64::from(range.end) - 1));
        Self::new(ranges.collect(), of.reserved_names())
    }

    fn by_enum(of: &EnumDescriptor) -> Self {
        let ranges = of
            .reserved_ranges()
            .map(|range| (i64::from(*range.start()), i64::from(*range.end())));
        Self::new(ranges.collect(), of.reserved_names())
    }

    fn new<'a>(mut ranges: Vec<(i64, i64)>, names: impl Iterator<Item = &'a str>) -> Self {
        ranges.retain(|range| range.0 <= range.1);
        ranges.sort_unstable();
        let mut disjoint: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match disjoint.last_mut() {
                Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => disjoint.push((start, end)),
            }
        }
        Self {
            ranges: disjoint,
            names: names.map(str::to_owned).collect(),
        }
    }

    fn has_number(&self, number: i64) -> bool {
        let after = self.ranges.partition_point(|range| range.0 <= number);
        after > 0 && self.ranges[after - 1].1 >= number
    }

    /// What is no longer reserved in `new`, as it would be written.
    fn lost(&self, new: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        for &(start, end) in &self.ranges {
            let mut from = start;
            let first = new.ranges.partition_point(|cover| cover.1 < start);
            for cover in new.ranges[first..].iter().take_while(|cover| cover.0 <= end) {
                if cover.0 > from {
                    lost.push((from, cover.0 - 1));
                }
                from = from.max(cover.1 + 1);
            }
            if from <= end {
                lost.push((from, end));
            }
        }
        let written = |(from, to)| {
            if from == to {
                format!("{from}")
            } else {
                format!("{from} to {to}")
            }
        };
        let names = self
            .names
            .difference(&new.names)
            .map(|name| format!("\"{name}\""));
        lost.into_iter().map(written).chain(names).collect()
    }
}

fn quoted(name: &str) -> String {
    format!("`{name}`")
}
