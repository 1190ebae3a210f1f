//! The canonical form of a method's signature, and its two hashes.
//!
//! Both hash, with BLAKE3-256 and behind the domain [`DOMAIN`], in this order:
//!
//! 1. service, method (the address of a call is on the wire), streaming in, streaming out
//! 2. every message that can be reached from the request and the response, and its fields sorted by number: number, kind or type,
//!    label, packed, presence, explicit proto2 default, oneof
//! 3. every enum that can be reached: open or closed, its distinct numbers sorted
//!
//! `wire_hash` stops there and writes a type as the index of its first visit, which only numbers and kinds decide: messages breadth
//! first from the request, then the response, fields by number. `full_hash` writes types by name and sorts them by it, and adds field
//! names, JSON names, names of oneofs and enum values, and Mortise's options.
//!
//! Neither sees the names or the order of files, imports, comments, source positions, language options, reserved ranges, `deprecated`,
//! the order of fields or whether a oneof is synthetic. A oneof is known by its lowest number.
//!
//! Every string and list is written with its length, so no two signatures share one byte sequence.

use std::collections::{BTreeMap, HashMap, VecDeque};

use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Syntax,
};

use crate::{options::MethodOptions, raw::OptionTable};

/// What the input of both hashes starts with. A change to the canonical form changes it.
const DOMAIN: &str = "mortise-sig/1";

/// BLAKE3-256 over `full_hashes`, sorted.
pub(crate) fn contract_hash(mut full_hashes: Vec<[u8; 32]>) -> [u8; 32] {
    full_hashes.sort_unstable();
    let mut sink = Sink::new("contract");
    sink.number(full_hashes.len() as u64);
    for hash in &full_hashes {
        sink.hasher.update(hash);
    }
    sink.finish()
}

/// BLAKE3-256 over the descriptor set as it is and the provided services.
pub(crate) fn fingerprint(bytes: &[u8], services: &[String]) -> [u8; 32] {
    let mut sink = Sink::new("fingerprint");
    sink.number(bytes.len() as u64);
    sink.hasher.update(bytes);
    sink.number(services.len() as u64);
    services.iter().for_each(|service| sink.text(service));
    sink.finish()
}

/// The same with what is said beside a contract.
pub(crate) fn fingerprint_with(contract: [u8; 32], beside: &[&[u8]]) -> [u8; 32] {
    let mut sink = Sink::new("beside");
    sink.hasher.update(&contract);
    for bytes in beside {
        sink.number(bytes.len() as u64);
        sink.hasher.update(bytes);
    }
    sink.finish()
}

/// Numbers and kinds of `method`.
pub(crate) fn wire_hash(method: &MethodDescriptor) -> [u8; 32] {
    let closure = Closure::of(method);
    let mut sink = Sink::new("wire");
    sink.method(method);
    sink.number(closure.message_index(&method.input()));
    sink.number(closure.message_index(&method.output()));
    closure.write_wire(&mut sink);
    sink.finish()
}

/// Numbers and kinds of `message`, for what is kept and not called: saved state.
pub(crate) fn message_wire_hash(message: &MessageDescriptor) -> [u8; 32] {
    let closure = Closure::from([message.clone()]);
    let mut sink = Sink::new("message");
    closure.write_wire(&mut sink);
    sink.finish()
}

/// Names and options of `method` as well.
pub(crate) fn full_hash(method: &MethodDescriptor, options: &MethodOptions, table: &OptionTable) -> [u8; 32] {
    let mut closure = Closure::of(method);
    closure.messages.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    closure.enums.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let mut sink = Sink::new("full");
    sink.method(method);
    sink.text(method.input().full_name());
    sink.text(method.output().full_name());
    sink.method_options(options);
    sink.number(closure.messages.len() as u64);
    for message in &closure.messages {
        sink.text(message.full_name());
        sink.flag(
            table
                .state_schemas
                .binary_search_by(|it| it.as_str().cmp(message.full_name()))
                .is_ok(),
        );
        let fields = by_number(message);
        sink.number(fields.len() as u64);
        for field in &fields {
            sink.field(field);
            sink.text(field.name());
            sink.text(field.json_name());
            match field.kind() {
                Kind::Message(of) => sink.text(of.full_name()),
                Kind::Enum(of) => sink.text(of.full_name()),
                _ => {}
            }
            sink.optional(
                field
                    .containing_oneof()
                    .filter(|it| !it.is_synthetic())
                    .as_ref()
                    .map(|it| it.name()),
            );
            let options = table.fields.get(field.full_name());
            sink.optional(options.and_then(|it| it.default.as_deref()));
            sink.flag(options.is_some_and(|it| it.sensitive));
        }
    }
    sink.number(closure.enums.len() as u64);
    for declaration in &closure.enums {
        sink.text(declaration.full_name());
        sink.enumeration(declaration);
        let mut names: Vec<(i32, String)> = declaration
            .values()
            .map(|value| (value.number(), value.name().to_owned()))
            .collect();
        names.sort_unstable();
        sink.number(names.len() as u64);
        for (number, name) in &names {
            sink.signed(*number);
            sink.text(name);
        }
    }
    sink.finish()
}

/// How many fields a signature of `method` walks.
pub(crate) fn reachable_fields(method: &MethodDescriptor) -> usize {
    Closure::of(method)
        .messages
        .iter()
        .map(|message| message.fields().len())
        .sum()
}

/// The fields of `message` by number. Numbers are unique: the linker checks it.
fn by_number(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let fields: BTreeMap<u32, FieldDescriptor> =
        message.fields().map(|field| (field.number(), field)).collect();
    fields.into_values().collect()
}

/// Whether an enum keeps numbers it does not know.
pub(crate) fn is_open(declaration: &EnumDescriptor) -> bool {
    declaration.parent_file().syntax() == Syntax::Proto3
}

/// What can be reached from a method or a message, in order of the first visit.
struct Closure {
    messages: Vec<MessageDescriptor>,
    enums: Vec<EnumDescriptor>,
    message_indices: HashMap<String, u64>,
    enum_indices: HashMap<String, u64>,
}

impl Closure {
    fn of(method: &MethodDescriptor) -> Self {
        Self::from([method.input(), method.output()])
    }

    /// What can be reached from these.
    fn from<const N: usize>(roots: [MessageDescriptor; N]) -> Self {
        let mut closure = Self {
            messages: Vec::new(),
            enums: Vec::new(),
            message_indices: HashMap::new(),
            enum_indices: HashMap::new(),
        };
        let mut queue = VecDeque::from(roots);
        while let Some(message) = queue.pop_front() {
            let next = closure.messages.len() as u64;
            if closure.message_indices.contains_key(message.full_name()) {
                continue;
            }
            closure
                .message_indices
                .insert(message.full_name().to_owned(), next);
            for field in by_number(&message) {
                match field.kind() {
                    Kind::Message(of) => queue.push_back(of),
                    Kind::Enum(of) => closure.add_enum(of),
                    _ => {}
                }
            }
            closure.messages.push(message);
        }
        closure
    }

    /// Everything of it that is on the wire: types by the index of their first visit.
    fn write_wire(&self, sink: &mut Sink) {
        sink.number(self.messages.len() as u64);
        for message in &self.messages {
            let fields = by_number(message);
            sink.number(fields.len() as u64);
            for field in &fields {
                sink.field(field);
                match field.kind() {
                    Kind::Message(of) => sink.number(self.message_index(&of)),
                    Kind::Enum(of) => sink.number(self.enum_index(&of)),
                    _ => {}
                }
            }
        }
        sink.number(self.enums.len() as u64);
        for declaration in &self.enums {
            sink.enumeration(declaration);
        }
    }

    fn add_enum(&mut self, declaration: EnumDescriptor) {
        let next = self.enums.len() as u64;
        if !self.enum_indices.contains_key(declaration.full_name()) {
            self.enum_indices.insert(declaration.full_name().to_owned(), next);
            self.enums.push(declaration);
        }
    }

    fn message_index(&self, message: &MessageDescriptor) -> u64 {
        self.message_indices[message.full_name()]
    }

    fn enum_index(&self, declaration: &EnumDescriptor) -> u64 {
        self.enum_indices[declaration.full_name()]
    }
}

/// The hasher, and how each kind of thing is written into it.
struct Sink {
    hasher: blake3::Hasher,
}

impl Sink {
    fn new(form: &str) -> Self {
        let mut sink = Self {
            hasher: blake3::Hasher::new(),
        };
        sink.text(DOMAIN);
        sink.text(form);
        sink
    }

    fn finish(self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    fn number(&mut self, number: u64) {
        self.hasher.update(&number.to_le_bytes());
    }

    fn signed(&mut self, number: i32) {
        self.hasher.update(&number.to_le_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.hasher.update(&[u8::from(flag)]);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.hasher.update(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.flag(text.is_some());
        self.text(text.unwrap_or_default());
    }

    fn method(&mut self, method: &MethodDescriptor) {
        self.text(method.parent_service().full_name());
        self.text(method.name());
        self.flag(method.is_client_streaming());
        self.flag(method.is_server_streaming());
    }

    fn method_options(&mut self, options: &MethodOptions) {
        let MethodOptions {
            idempotency,
            timeout_ms,
            replaces,
            fallback,
            nonblocking,
        } = options;
        self.number(*idempotency as u64);
        self.flag(timeout_ms.is_some());
        self.number(u64::from(timeout_ms.unwrap_or_default()));
        self.optional(replaces.as_ref().map(ToString::to_string).as_deref());
        self.optional(fallback.as_ref().map(ToString::to_string).as_deref());
        self.flag(*nonblocking);
    }

    /// Everything of a field but its names and its type's identity.
    fn field(&mut self, field: &FieldDescriptor) {
        self.number(u64::from(field.number()));
        self.number(kind_code(field));
        self.number(match field.cardinality() {
            Cardinality::Optional => 0,
            Cardinality::Required => 1,
            Cardinality::Repeated if field.is_map() => 3,
            Cardinality::Repeated => 2,
        });
        self.flag(field.is_packed());
        self.flag(field.supports_presence());
        self.optional(field.field_descriptor_proto().default_value.as_deref());
        // A oneof is known by its lowest number: neither its name nor its place in the file is on the wire.
        let oneof = field.containing_oneof().filter(|it| !it.is_synthetic());
        let lowest = oneof.and_then(|it| it.fields().map(|field| field.number()).min());
        self.number(u64::from(lowest.unwrap_or_default()));
    }

    fn enumeration(&mut self, declaration: &EnumDescriptor) {
        self.flag(is_open(declaration));
        let mut numbers: Vec<i32> = declaration.values().map(|value| value.number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        self.number(numbers.len() as u64);
        for number in numbers {
            self.signed(number);
        }
    }
}

/// The number of a field's kind in `descriptor.proto`.
fn kind_code(field: &FieldDescriptor) -> u64 {
    match field.kind() {
        Kind::Double => 1,
        Kind::Float => 2,
        Kind::Int64 => 3,
        Kind::Uint64 => 4,
        Kind::Int32 => 5,
        Kind::Fixed64 => 6,
        Kind::Fixed32 => 7,
        Kind::Bool => 8,
        Kind::String => 9,
        Kind::Message(_) if field.is_group() => 10,
        Kind::Message(_) => 11,
        Kind::Bytes => 12,
        Kind::Uint32 => 13,
        Kind::Enum(_) => 14,
        Kind::Sfixed32 => 15,
        Kind::Sfixed64 => 16,
        Kind::Sint32 => 17,
        Kind::Sint64 => 18,
    }
}
