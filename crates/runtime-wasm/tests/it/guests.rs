//! Guests written for one hazard each, in every ABI.

use mortise_contract::Contract;
use prost::Message;

/// Methods of `guest.wat`, in the order of its table.
pub const ECHO: u32 = 0;
pub const SPIN: u32 = 1;
pub const TRAP: u32 = 2;
pub const COUNT: u32 = 3;
pub const BOMB: u32 = 4;
pub const HOST: u32 = 5;
pub const RECURSE: u32 = 6;
pub const LOG: u32 = 7;
pub const TABLE: u32 = 8;
pub const ERROR: u32 = 9;
pub const LIE: u32 = 10;
pub const BUSY: u32 = 11;
pub const POLITE: u32 = 12;
pub const HEAD: u32 = 13;
pub const LATE: u32 = 14;
/// Names of those methods in the contract.
pub const METHODS: [&str; 15] = [
    "Echo", "Spin", "Trap", "Count", "Bomb", "Host", "Recurse", "Log", "Table", "Error", "Lie", "Busy",
    "Polite", "Head", "Late",
];

/// The guest ABIs, by the ways in which the host runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// A component whose wrapper the host does not know: it has a `cabi_post_*`.
    Component,
    /// A component as the SDK makes it.
    Wrapped,
    Core,
}

pub const ALL: [Abi; 3] = [Abi::Component, Abi::Wrapped, Abi::Core];

/// What differs from a well-behaved guest.
#[derive(Clone)]
pub struct Guest {
    pub abi: Abi,
    /// Of linear memory at the start, 64 KiB each.
    pub pages: u32,
    /// Elements of the table at the start.
    pub table: u32,
    /// Instructions at the beginning of `start`.
    pub start: &'static str,
    /// Instructions at the beginning of the allocator.
    pub alloc: &'static str,
    /// More fields of the module.
    pub extra: &'static str,
    /// An import beside the host's own.
    pub extra_import: &'static str,
}

impl Guest {
    pub fn new(abi: Abi) -> Self {
        Self {
            abi,
            pages: 1,
            table: 1,
            start: "",
            alloc: "",
            extra: "",
            extra_import: "",
        }
    }

    /// Its bytes, metadata included.
    pub fn build(&self) -> Vec<u8> {
        let core = wat::parse_str(self.text()).expect("guest.wat is well formed");
        let wasm = match self.abi {
            Abi::Component | Abi::Wrapped => componentize(core),
            Abi::Core => core,
        };
        with_metadata(wasm, &metadata("guest"))
    }

    fn text(&self) -> String {
        let (host_module, call_type, exports) = match self.abi {
            Abi::Component => (
                "mortise:plugin/host@1.0.0",
                "(param i64 i32 i32 i32 i32 i32)",
                COMPONENT_EXPORTS.to_owned() + COMPONENT_POST,
            ),
            Abi::Wrapped => (
                "mortise:plugin/host@1.0.0",
                "(param i64 i32 i32 i32 i32 i32)",
                // Without a call after the call, the next one's memory begins afresh at its own end.
                COMPONENT_EXPORTS.replace("(;end;)", "(global.set $top (i32.const 4096))"),
            ),
            Abi::Core => (
                "mortise",
                "(param i64 i32 i32 i32 i32 i32) (result i32)",
                CORE_EXPORTS.to_owned(),
            ),
        };
        include_str!("guest.wat")
            .replace("{host_module}", host_module)
            .replace("{call_type}", call_type)
            .replace("{exports}", &exports)
            .replace("{pages}", &self.pages.to_string())
            .replace("{table}", &self.table.to_string())
            .replace("{start}", self.start)
            .replace("{alloc}", self.alloc)
            .replace("{extra_import}", self.extra_import)
            .replace("{extra}", self.extra)
    }
}

const COMPONENT_EXPORTS: &str = r#"
  (func $call_host (param $at i32) (param $len i32)
    (call $call (i64.const 99) (local.get $at) (local.get $len) (local.get $at) (local.get $len) (i32.const 32)))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) (call $alloc (local.get $size)))
  (func (export "mortise:plugin/guest@1.0.0#start") (param i32 i32) (result i32) (call $start))
  (func (export "mortise:plugin/guest@1.0.0#invoke") (param $method i32) (param $head i32) (param $head_len i32) (param $at i32) (param $len i32) (result i32)
    (global.set $head_at (local.get $head)) (global.set $head_len (local.get $head_len))
    (call $invoke (local.get $method) (local.get $at) (local.get $len))
    (;end;))
  (func (export "mortise:plugin/guest@1.0.0#health") (result i32)
    (i32.store16 (i32.const 64) (i32.const 0x0108))
    (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 2))
    (i32.const 16))
  (func (export "mortise:plugin/guest@1.0.0#stop"))
"#;

const COMPONENT_POST: &str = r#"
  (func (export "cabi_post_mortise:plugin/guest@1.0.0#invoke") (param i32) (global.set $top (i32.const 4096)))
"#;

const CORE_EXPORTS: &str = r#"
  (func $call_host (param $at i32) (param $len i32)
    (i32.store (i32.const 32)
      (call $call (i64.const 99) (local.get $at) (local.get $len) (local.get $at) (local.get $len) (i32.const 36))))
  (func (export "mortise_alloc") (param $size i32) (result i32) (call $alloc (local.get $size)))
  (func (export "mortise_free") (param i32 i32) (global.set $top (i32.const 4096)))
  (func (export "mortise_start") (param i32 i32) (result i32) (call $start))
  (func (export "mortise_invoke") (param $method i32) (param $head i32) (param $head_len i32) (param $at i32) (param $len i32) (result i32)
    (global.set $head_at (local.get $head)) (global.set $head_len (local.get $head_len))
    (call $invoke (local.get $method) (local.get $at) (local.get $len)))
  (func (export "mortise_health") (result i32)
    (i32.store16 (i32.const 64) (i32.const 0x0108))
    (call $result (i32.const 0) (i32.const 64) (i32.const 2)))
"#;

/// Wraps a core module of the world `plugin`.
pub fn componentize(mut core: Vec<u8>) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve
        .push_str("plugin.wit", include_str!("../../../../wit/plugin.wit"))
        .expect("the world parses");
    let world = resolve
        .select_world(&[package], Some("plugin"))
        .expect("it has the world");
    wit_component::embed_component_metadata(&mut core, &resolve, world, wit_component::StringEncoding::UTF8)
        .expect("the world can be embedded");
    let mut encoder = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&core)
        .expect("the module fits the world");
    encoder.encode().expect("the component is valid")
}

/// Appends a custom section: the same bytes in a component as in a module.
pub fn with_section(mut wasm: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    prost::encoding::encode_varint(name.len() as u64, &mut body);
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    wasm.push(0);
    prost::encoding::encode_varint(body.len() as u64, &mut wasm);
    wasm.extend(body);
    wasm
}

pub fn with_metadata(wasm: Vec<u8>, metadata: &mortise_wire::Metadata) -> Vec<u8> {
    with_section(wasm, "mortise", &metadata.encode_to_vec())
}

/// The contract of `guest.wat`: one method per hazard.
pub fn contract() -> Contract {
    let mut proto =
        "syntax = \"proto3\"; package test; message Bytes { bytes value = 1; } service Guest {\n".to_owned();
    for method in METHODS {
        proto.push_str(&format!("rpc {method}(Bytes) returns (Bytes);\n"));
    }
    proto.push('}');
    let dir = tempfile::tempdir().expect("a folder for the proto");
    std::fs::write(dir.path().join("guest.proto"), proto).expect("it can be written");
    let set = protox::compile(["guest.proto"], [dir.path()]).expect("it compiles");
    Contract::from_descriptor_set(&set.encode_to_vec(), &["test.Guest".to_owned()]).expect("it links")
}

/// Metadata that agrees with [`contract`]. The methods stand in the guest's order, which the host would not accept from a real build.
pub fn metadata(name: &str) -> mortise_wire::Metadata {
    let method = |name: &str| mortise_wire::plugin::Method {
        service: "test.Guest".to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    mortise_wire::Metadata {
        format: mortise_wire::METADATA_FORMAT,
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        api: mortise_wire::API_LEVEL,
        contract_hash: contract().hash().to_vec(),
        methods: METHODS.map(method).into(),
        ..Default::default()
    }
}

/// The same of a plugin with state.
pub fn metadata_with_state(name: &str) -> mortise_wire::Metadata {
    let mut metadata = metadata(name);
    let reserved = mortise_wire::lifecycle::ReservedSet::STATE.iter();
    metadata
        .methods
        .extend(reserved.map(mortise_wire::lifecycle::Reserved::row));
    metadata
}
