//! The rules, under the names that buf gives them, so that people can look them up.

use std::fmt;

/// How much of a contract its two sides rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The encoded bytes only. For contracts between parts that are deployed together and never speak JSON.
    Wire,
    /// The bytes and the JSON form. The level for published contracts.
    WireJson,
}

/// One way in which a provider's contract can fail its consumer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`Rule::about` says it")]
#[non_exhaustive]
pub enum Rule {
    EnumSameJsonFormat,
    EnumValueNoDeleteUnlessNameReserved,
    EnumValueNoDeleteUnlessNumberReserved,
    EnumValueSameName,
    FieldNoDeleteUnlessNameReserved,
    FieldNoDeleteUnlessNumberReserved,
    FieldSameDefault,
    FieldSameJsonName,
    FieldSameName,
    FieldSameOneof,
    FieldWireCompatibleCardinality,
    FieldWireCompatibleType,
    FieldWireJsonCompatibleCardinality,
    FieldWireJsonCompatibleType,
    FileSamePackage,
    MessageSameJsonFormat,
    MessageSameRequiredFields,
    ReservedEnumNoDelete,
    ReservedMessageNoDelete,
    RpcNoDelete,
    RpcSameClientStreaming,
    RpcSameIdempotencyLevel,
    RpcSameRequestType,
    RpcSameResponseType,
    RpcSameServerStreaming,
}

use Rule::{
    EnumSameJsonFormat, EnumValueNoDeleteUnlessNameReserved, EnumValueNoDeleteUnlessNumberReserved,
    EnumValueSameName, FieldNoDeleteUnlessNameReserved, FieldNoDeleteUnlessNumberReserved, FieldSameDefault,
    FieldSameJsonName, FieldSameName, FieldSameOneof, FieldWireCompatibleCardinality,
    FieldWireCompatibleType, FieldWireJsonCompatibleCardinality, FieldWireJsonCompatibleType,
    FileSamePackage, MessageSameJsonFormat, MessageSameRequiredFields, ReservedEnumNoDelete,
    ReservedMessageNoDelete, RpcNoDelete, RpcSameClientStreaming, RpcSameIdempotencyLevel,
    RpcSameRequestType, RpcSameResponseType, RpcSameServerStreaming,
};

/// Which levels a rule belongs to.
enum Scope {
    Both,
    /// At `WireJson` a stricter rule takes its place.
    WireOnly,
    JsonOnly,
}

impl Rule {
    /// Every rule, by name.
    pub const ALL: [Self; 25] = [
        EnumSameJsonFormat,
        EnumValueNoDeleteUnlessNameReserved,
        EnumValueNoDeleteUnlessNumberReserved,
        EnumValueSameName,
        FieldNoDeleteUnlessNameReserved,
        FieldNoDeleteUnlessNumberReserved,
        FieldSameDefault,
        FieldSameJsonName,
        FieldSameName,
        FieldSameOneof,
        FieldWireCompatibleCardinality,
        FieldWireCompatibleType,
        FieldWireJsonCompatibleCardinality,
        FieldWireJsonCompatibleType,
        FileSamePackage,
        MessageSameJsonFormat,
        MessageSameRequiredFields,
        ReservedEnumNoDelete,
        ReservedMessageNoDelete,
        RpcNoDelete,
        RpcSameClientStreaming,
        RpcSameIdempotencyLevel,
        RpcSameRequestType,
        RpcSameResponseType,
        RpcSameServerStreaming,
    ];

    /// The rule's name in buf's documentation.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.row().0
    }

    /// What the rule asks for, in one line.
    #[must_use]
    pub fn about(self) -> &'static str {
        self.row().1
    }

    /// What to do when it is broken.
    #[must_use]
    pub fn advice(self) -> &'static str {
        self.row().2
    }

    /// Whether `level` has this rule.
    #[must_use]
    pub fn applies(self, level: Level) -> bool {
        match self.row().3 {
            Scope::Both => true,
            Scope::WireOnly => level == Level::Wire,
            Scope::JsonOnly => level == Level::WireJson,
        }
    }

    /// The lowest level that has this rule.
    #[must_use]
    pub fn level(self) -> Level {
        if self.applies(Level::Wire) {
            Level::Wire
        } else {
            Level::WireJson
        }
    }

    /// Whether a call between the two sides can go wrong. The other rules guard contracts that are yet to be written (a reserved number
    /// may be used again), so a build and a registry enforce them and a host that binds two plugins does not.
    #[must_use]
    pub fn touches_calls(self) -> bool {
        !matches!(
            self,
            FileSamePackage | ReservedEnumNoDelete | ReservedMessageNoDelete | RpcSameIdempotencyLevel
        )
    }

    #[rustfmt::skip]
    fn row(self) -> (&'static str, &'static str, &'static str, Scope) {
        use Scope::{Both, JsonOnly, WireOnly};
        match self {
            EnumSameJsonFormat => ("ENUM_SAME_JSON_FORMAT", "enums keep their support for JSON",
                "keep the file proto3", JsonOnly),
            EnumValueNoDeleteUnlessNameReserved => ("ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED",
                "enum values are deleted only if their name is reserved",
                "put the value back, or add `reserved` with its name", JsonOnly),
            EnumValueNoDeleteUnlessNumberReserved => ("ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
                "enum values are deleted only if their number is reserved",
                "put the value back, or add `reserved` with its number", Both),
            EnumValueSameName => ("ENUM_VALUE_SAME_NAME", "enum values keep their name",
                "give the value its old name; with `allow_alias` it may have both", JsonOnly),
            FieldNoDeleteUnlessNameReserved => ("FIELD_NO_DELETE_UNLESS_NAME_RESERVED",
                "fields are deleted only if their name is reserved",
                "put the field back, or add `reserved` with its name", JsonOnly),
            FieldNoDeleteUnlessNumberReserved => ("FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
                "fields are deleted only if their number is reserved",
                "put the field back, or add `reserved` with its number", Both),
            FieldSameDefault => ("FIELD_SAME_DEFAULT", "fields keep their proto2 default",
                "restore the default, or add a new field", Both),
            FieldSameJsonName => ("FIELD_SAME_JSON_NAME", "fields keep their JSON name",
                "set `json_name` to the old one", JsonOnly),
            FieldSameName => ("FIELD_SAME_NAME", "fields keep their name",
                "give the field its old name; `json_name` may differ from it", JsonOnly),
            FieldSameOneof => ("FIELD_SAME_ONEOF", "fields stay in or out of their oneof",
                "move the field back, or add a new field with a new number", Both),
            FieldWireCompatibleCardinality => ("FIELD_WIRE_COMPATIBLE_CARDINALITY",
                "fields stay single or repeated (a map is repeated)",
                "restore the label, or add a new field with a new number", WireOnly),
            FieldWireCompatibleType => ("FIELD_WIRE_COMPATIBLE_TYPE",
                "the reader's type holds every value that the writer's type can hold",
                "restore the type, or add a new field with a new number", WireOnly),
            FieldWireJsonCompatibleCardinality => ("FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY",
                "fields stay single, repeated or map",
                "restore the label, or add a new field with a new number", JsonOnly),
            FieldWireJsonCompatibleType => ("FIELD_WIRE_JSON_COMPATIBLE_TYPE",
                "the types are the same in bytes and in JSON",
                "restore the type, or add a new field with a new number", JsonOnly),
            FileSamePackage => ("FILE_SAME_PACKAGE", "files keep their package",
                "restore the package; a new major version goes into a new file", Both),
            MessageSameJsonFormat => ("MESSAGE_SAME_JSON_FORMAT", "messages keep their support for JSON",
                "keep the file proto3", JsonOnly),
            MessageSameRequiredFields => ("MESSAGE_SAME_REQUIRED_FIELDS", "no required field comes or goes",
                "make the field optional on both sides", Both),
            ReservedEnumNoDelete => ("RESERVED_ENUM_NO_DELETE", "reserved numbers and names of enums stay reserved",
                "put the `reserved` statement back", Both),
            ReservedMessageNoDelete => ("RESERVED_MESSAGE_NO_DELETE",
                "reserved numbers and names of messages stay reserved",
                "put the `reserved` statement back", Both),
            RpcNoDelete => ("RPC_NO_DELETE", "the provider has every method that the consumer calls",
                "provide the method, or a method that says `(mortise.replaces)` of it", Both),
            RpcSameClientStreaming => ("RPC_SAME_CLIENT_STREAMING", "requests stay single or streamed",
                "add a new method instead", Both),
            RpcSameIdempotencyLevel => ("RPC_SAME_IDEMPOTENCY_LEVEL", "methods keep their idempotency",
                "restore the option, or add a new method", Both),
            RpcSameRequestType => ("RPC_SAME_REQUEST_TYPE", "methods keep the type of their request",
                "add a new method, with `(mortise.replaces)` if an adapter can serve the old calls", Both),
            RpcSameResponseType => ("RPC_SAME_RESPONSE_TYPE", "methods keep the type of their response",
                "add a new method, with `(mortise.replaces)` if an adapter can serve the old calls", Both),
            RpcSameServerStreaming => ("RPC_SAME_SERVER_STREAMING", "responses stay single or streamed",
                "add a new method instead", Both),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}
