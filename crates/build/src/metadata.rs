//! What an artifact says about itself, made from its manifest and its descriptors.

use std::fmt::Write as _;

use mortise_contract::{Contract, Method};
use mortise_manifest::Manifest;
use mortise_wire::{
    METADATA_FORMAT, METHOD_IDEMPOTENT, METHOD_NONBLOCKING, Metadata, MethodKind,
    lifecycle::{Reserved, ReservedSet},
    plugin,
};
use prost::Message as _;

use crate::BuildError;

/// The metadata of a plugin with this `plugin.toml` and this contract (an encoded FileDescriptorSet, imports included).
/// `toolchain` and `target` are left empty.
///
/// # Errors
/// If the manifest has faults (all are told), the descriptors do not link, a provided service is not among them, or a provided method
/// both streams and promises not to block, or the message of `[state]` or of `[config]` is not in the contract.
pub fn metadata(manifest: &str, descriptor_set: &[u8]) -> Result<Metadata, BuildError> {
    let parsed = parse_manifest(manifest)?;
    let contract = Contract::from_descriptor_set(descriptor_set, &parsed.provides).map_err(|error| {
        BuildError::Contract {
            why: error.to_string(),
        }
    })?;
    let contradiction = contract
        .methods()
        .iter()
        .find(|it| kind(it).streams() && it.options().nonblocking);
    if let Some(method) = contradiction {
        return Err(BuildError::NonblockingStream {
            method: method.target(),
        });
    }
    if let Some(schema) = &parsed.state_schema
        && contract.message_wire_hash(schema).is_none()
    {
        return Err(BuildError::NoStateSchema {
            schema: schema.clone(),
        });
    }
    if let Some(message) = &parsed.config.message
        && contract.message_wire_hash(message).is_none()
    {
        return Err(BuildError::NoConfigMessage {
            message: message.clone(),
        });
    }
    let methods = contract.methods().iter().map(|it| plugin::Method {
        service: it.service().to_owned(),
        name: it.name().to_owned(),
        wire_hash: it.wire_hash().to_vec(),
        full_hash: it.full_hash().to_vec(),
        flags: flag(it.options().idempotent(), METHOD_IDEMPOTENT)
            | flag(it.options().nonblocking, METHOD_NONBLOCKING)
            | kind(it).flags(),
    });
    let reserved = reserved(&parsed).iter().map(|it| it.row());
    Ok(Metadata {
        format: METADATA_FORMAT,
        name: parsed.name,
        version: parsed.version.to_string(),
        api: parsed.api,
        manifest: manifest.as_bytes().to_vec(),
        descriptor_set: descriptor_set.to_vec(),
        contract_hash: contract.hash().to_vec(),
        methods: methods.chain(reserved).collect(),
        toolchain: String::new(),
        target: String::new(),
    })
}

/// The methods by which a host asks such a plugin about its own life.
pub(crate) fn reserved(manifest: &Manifest) -> ReservedSet {
    let of_state = match (&manifest.state_schema, manifest.hooks) {
        (Some(_), _) => ReservedSet::STATE,
        (None, true) => ReservedSet::HOOKS,
        (None, false) => ReservedSet::NONE,
    };
    if manifest.config.hot {
        of_state.with(Reserved::Configure)
    } else {
        of_state
    }
}

/// Encoded metadata as a C source file: `static const unsigned char mortise_metadata[]` in the section where a host looks for
/// it. Include it after `mortise.h`.
#[must_use]
pub fn write_c(metadata: &Metadata) -> String {
    let bytes = metadata.encode_to_vec();
    let mut text = format!(
        "/* Metadata of the plugin {} {}, for its section \".mortise\". Written by `mortise metadata`; do not edit. */\n\
         MT_SECTION static const unsigned char mortise_metadata[{}] = {{\n",
        metadata.name,
        metadata.version,
        bytes.len()
    );
    for line in bytes.chunks(20) {
        text.push_str("  ");
        for byte in line {
            write!(text, "{byte},").expect("a string takes everything");
        }
        text.push('\n');
    }
    text.push_str("};\n");
    for (number, method) in metadata.methods.iter().enumerate() {
        let name = format!("{}_{}", method.service, method.name)
            .replace('.', "_")
            .to_uppercase();
        writeln!(text, "#define MT_METHOD_{name} {number}u").expect("a string takes everything");
    }
    text
}

pub(crate) fn parse_manifest(text: &str) -> Result<Manifest, BuildError> {
    Manifest::parse(text, "plugin.toml").map_err(|faults| BuildError::Manifest {
        report: faults.to_string(),
    })
}

fn kind(method: &Method) -> MethodKind {
    MethodKind::of(method.client_streaming(), method.server_streaming())
}

fn flag(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}
