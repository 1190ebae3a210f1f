//! A descriptor set as bytes, looked at before anybody links it.
//!
//! prost-reflect builds the pool, and it trusts its input in a few places: an unknown syntax, a `bytes` default with an odd escape, a map
//! entry without a key and an option that does not decode make it panic, then or later, and names are joined without a bound. A set comes from a plugin,
//! so everything of that kind is refused here first, over a mirror of `descriptor.proto` that has exactly the fields that matter.
//! The mirror also reads Mortise's options by their numbers.

use std::collections::HashMap;

use prost::Message;

use crate::{
    ContractError,
    options::{FieldOptions, MethodOptions},
};

/// The most bytes of a descriptor set.
pub(crate) const SET_BYTES_MAX: usize = 8 << 20;
/// The most messages, fields, enums, values, services, methods and reserved ranges together.
const DECLARATIONS_MAX: usize = 1 << 15;
/// The most files.
const FILES_MAX: usize = 1024;
/// The most bytes of a fully qualified name.
const NAME_BYTES_MAX: usize = 1024;
/// `FieldDescriptorProto.Type.TYPE_BYTES`
const TYPE_BYTES: i32 = 12;

/// The options of everything in a set, by fully qualified name.
#[derive(Clone, Debug, Default)]
pub(crate) struct OptionTable {
    /// By `package.Service/Method`.
    pub(crate) methods: HashMap<String, MethodOptions>,
    /// By `package.Message.field`.
    pub(crate) fields: HashMap<String, FieldOptions>,
    /// Messages marked `state_schema`, sorted.
    pub(crate) state_schemas: Vec<String>,
}

/// Refuses what must not reach the linker, and collects the options.
pub(crate) fn inspect(bytes: &[u8]) -> Result<OptionTable, ContractError> {
    within("bytes", bytes.len(), SET_BYTES_MAX)?;
    let set = FileSet::decode(bytes).map_err(|error| malformed(error.to_string()))?;
    within("files", set.file.len(), FILES_MAX)?;
    let mut inspector = Inspector::default();
    for file in &set.file {
        inspector.file(file)?;
    }
    inspector.table.state_schemas.sort_unstable();
    Ok(inspector.table)
}

#[derive(Default)]
struct Inspector {
    table: OptionTable,
    declarations: usize,
}

impl Inspector {
    fn file(&mut self, file: &File) -> Result<(), ContractError> {
        within("bytes in the name of a file", file.name.len(), NAME_BYTES_MAX)?;
        let package = file.package.as_str();
        within("bytes in the name of a package", package.len(), NAME_BYTES_MAX)?;
        if !matches!(file.syntax.as_str(), "" | "proto2" | "proto3") {
            let reason = format!(
                "`{}` has syntax `{}`, and contracts are proto3",
                file.name, file.syntax
            );
            return Err(malformed(reason));
        }
        interpreted(&file.name, file.options.as_ref())?;
        for message in &file.message_type {
            self.message(package, message)?;
        }
        for declaration in &file.enum_type {
            self.enumeration(package, declaration)?;
        }
        for field in &file.extension {
            self.field(package, field)?;
        }
        for service in &file.service {
            self.service(package, service)?;
        }
        Ok(())
    }

    fn message(&mut self, scope: &str, message: &MessageType) -> Result<(), ContractError> {
        let name = self.declare(scope, &message.name)?;
        self.count(
            message.reserved_range.len() + message.reserved_name.len() + message.extension_range.len(),
        )?;
        if let Some(options) = &message.options {
            if !options.uninterpreted.is_empty() {
                return Err(uninterpreted(&name));
            }
            if options.state_schema {
                self.table.state_schemas.push(name.clone());
            }
            if options.map_entry && !is_map_entry(message) {
                return Err(malformed(format!(
                    "map entry `{name}` does not have exactly the fields 1 and 2"
                )));
            }
        }
        for field in message.field.iter().chain(&message.extension) {
            self.field(&name, field)?;
        }
        for oneof in &message.oneof_decl {
            let name = self.declare(&name, &oneof.name)?;
            interpreted(&name, oneof.options.as_ref())?;
        }
        for range in &message.extension_range {
            interpreted(&name, range.options.as_ref())?;
        }
        for nested in &message.nested_type {
            self.message(&name, nested)?;
        }
        for nested in &message.enum_type {
            self.enumeration(&name, nested)?;
        }
        Ok(())
    }

    fn field(&mut self, scope: &str, field: &Field) -> Result<(), ContractError> {
        let name = self.declare(scope, &field.name)?;
        if field.kind == TYPE_BYTES && !escapes_are_plain(&field.default_value) {
            return Err(malformed(format!(
                "the default of `{name}` is no escaped byte string"
            )));
        }
        if let Some(options) = &field.options {
            if !options.uninterpreted.is_empty() {
                return Err(uninterpreted(&name));
            }
            let read = FieldOptions {
                default: options.default.clone(),
                sensitive: options.sensitive,
            };
            if read != FieldOptions::default() {
                self.table.fields.insert(name, read);
            }
        }
        Ok(())
    }

    fn enumeration(&mut self, scope: &str, declaration: &EnumType) -> Result<(), ContractError> {
        let name = self.declare(scope, &declaration.name)?;
        self.count(declaration.reserved_range.len() + declaration.reserved_name.len())?;
        interpreted(&name, declaration.options.as_ref())?;
        for value in &declaration.value {
            // A value's name stands in the scope that its enum stands in.
            let name = self.declare(scope, &value.name)?;
            interpreted(&name, value.options.as_ref())?;
        }
        Ok(())
    }

    fn service(&mut self, scope: &str, service: &Service) -> Result<(), ContractError> {
        let name = self.declare(scope, &service.name)?;
        interpreted(&name, service.options.as_ref())?;
        for method in &service.method {
            self.declare(&name, &method.name)?;
            let target = format!("{name}/{}", method.name);
            if let Some(options) = &method.options {
                if !options.uninterpreted.is_empty() {
                    return Err(uninterpreted(&target));
                }
                self.table
                    .methods
                    .insert(target.clone(), MethodOptions::read(&target, options)?);
            }
        }
        Ok(())
    }

    /// Counts one declaration and returns its full name.
    fn declare(&mut self, scope: &str, name: &str) -> Result<String, ContractError> {
        self.count(1)?;
        let full = if scope.is_empty() {
            name.to_owned()
        } else {
            format!("{scope}.{name}")
        };
        within("bytes in one full name", full.len(), NAME_BYTES_MAX)?;
        Ok(full)
    }

    fn count(&mut self, declarations: usize) -> Result<(), ContractError> {
        self.declarations += declarations;
        within("declarations", self.declarations, DECLARATIONS_MAX)
    }
}

fn is_map_entry(message: &MessageType) -> bool {
    let mut numbers: Vec<i32> = message.field.iter().map(|field| field.number).collect();
    numbers.sort_unstable();
    numbers == [1, 2]
}

/// Whether every escape of a `bytes` default is one the linker can read: ASCII only, octal escapes that fit a byte.
fn escapes_are_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let big_octal = bytes.windows(4).any(|it| {
        it[0] == b'\\'
            && (b'4'..=b'7').contains(&it[1])
            && it[2..].iter().all(|digit| (b'0'..=b'7').contains(digit))
    });
    text.is_ascii() && !big_octal
}

fn interpreted(path: &str, options: Option<&AnyOptions>) -> Result<(), ContractError> {
    if options.is_some_and(|options| !options.uninterpreted.is_empty()) {
        Err(uninterpreted(path))
    } else {
        Ok(())
    }
}

fn uninterpreted(path: &str) -> ContractError {
    malformed(format!(
        "`{path}` carries an option that its compiler did not interpret"
    ))
}

pub(crate) fn malformed(reason: String) -> ContractError {
    ContractError::Malformed { reason }
}

pub(crate) fn within(what: &'static str, actual: usize, max: usize) -> Result<(), ContractError> {
    if actual > max {
        Err(ContractError::TooLarge { what, actual, max })
    } else {
        Ok(())
    }
}

// === The mirror of descriptor.proto ===

#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    enum_type: Vec<EnumType>,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
    #[prost(message, repeated, tag = "7")]
    extension: Vec<Field>,
    #[prost(message, optional, tag = "8")]
    options: Option<AnyOptions>,
    #[prost(string, tag = "12")]
    syntax: String,
}

#[derive(Clone, PartialEq, Message)]
struct MessageType {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    field: Vec<Field>,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<EnumType>,
    #[prost(message, repeated, tag = "5")]
    extension_range: Vec<ExtensionRange>,
    #[prost(message, repeated, tag = "6")]
    extension: Vec<Field>,
    #[prost(message, optional, tag = "7")]
    options: Option<RawMessageOptions>,
    #[prost(message, repeated, tag = "8")]
    oneof_decl: Vec<Named>,
    #[prost(message, repeated, tag = "9")]
    reserved_range: Vec<AnyOptions>,
    #[prost(string, repeated, tag = "10")]
    reserved_name: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RawMessageOptions {
    #[prost(bool, tag = "7")]
    map_entry: bool,
    #[prost(bytes = "vec", repeated, tag = "999")]
    uninterpreted: Vec<Vec<u8>>,
    #[prost(bool, tag = "50790")]
    state_schema: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    number: i32,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(string, tag = "7")]
    default_value: String,
    #[prost(message, optional, tag = "8")]
    options: Option<RawFieldOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct RawFieldOptions {
    #[prost(bytes = "vec", repeated, tag = "999")]
    uninterpreted: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "50780")]
    default: Option<String>,
    #[prost(bool, tag = "50781")]
    sensitive: bool,
}

#[derive(Clone, PartialEq, Message)]
struct EnumType {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    value: Vec<EnumValue>,
    #[prost(message, optional, tag = "3")]
    options: Option<AnyOptions>,
    #[prost(message, repeated, tag = "4")]
    reserved_range: Vec<AnyOptions>,
    #[prost(string, repeated, tag = "5")]
    reserved_name: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct EnumValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    options: Option<AnyOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    options: Option<AnyOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct ExtensionRange {
    #[prost(message, optional, tag = "3")]
    options: Option<AnyOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<RawMethod>,
    #[prost(message, optional, tag = "3")]
    options: Option<AnyOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct RawMethod {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    options: Option<RawMethodOptions>,
}

/// `google.protobuf.MethodOptions` with the options of `mortise/options.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawMethodOptions {
    #[prost(int32, tag = "34")]
    pub(crate) idempotency_level: i32,
    #[prost(bytes = "vec", repeated, tag = "999")]
    uninterpreted: Vec<Vec<u8>>,
    #[prost(bool, tag = "50770")]
    pub(crate) idempotent: bool,
    #[prost(uint32, optional, tag = "50771")]
    pub(crate) timeout_ms: Option<u32>,
    #[prost(string, optional, tag = "50772")]
    pub(crate) replaces: Option<String>,
    #[prost(string, optional, tag = "50773")]
    pub(crate) fallback: Option<String>,
    #[prost(bool, tag = "50774")]
    pub(crate) nonblocking: bool,
}

/// Options of which nothing matters but that they are interpreted.
#[derive(Clone, PartialEq, Message)]
struct AnyOptions {
    #[prost(bytes = "vec", repeated, tag = "999")]
    uninterpreted: Vec<Vec<u8>>,
}
