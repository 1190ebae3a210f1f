//! What an executable says about itself, from its bytes alone.

use mortise_runtime::{RuntimeError, RuntimeErrorKind as Kind};
use mortise_section::{ImageKind, SectionError, Target};
use mortise_wire::Metadata;
use prost::Message as _;

/// Reads the metadata of an executable for this machine.
pub(crate) fn read_metadata(bytes: &[u8]) -> Result<Metadata, RuntimeError> {
    let section = mortise_section::read(bytes).map_err(|source| {
        let kind = match source {
            SectionError::NotAnObject { .. } | SectionError::NoSection { .. } => Kind::NotAPlugin,
            _ => Kind::Malformed,
        };
        RuntimeError::new(
            kind,
            format!("the process artifact can't be used: {source}"),
            source.hint(),
        )
    })?;
    let host = Target::host();
    if section.target != host {
        return Err(RuntimeError::new(
            Kind::WrongTarget,
            format!(
                "the process artifact was built for {}, and this host runs on {host}",
                section.target
            ),
            "build it on, or for, this system: `mortise build --runtime process`",
        ));
    }
    if section.kind != ImageKind::Executable {
        return Err(RuntimeError::new(
            Kind::NotAPlugin,
            format!(
                "the process artifact is a {}, and only an executable can be started",
                section.kind
            ),
            "name the executable in the `process` variant; a shared library belongs to the `native` one",
        ));
    }
    Metadata::decode(section.bytes).map_err(|source| {
        RuntimeError::new(
            Kind::Malformed,
            format!(
                "the process artifact's metadata ({} bytes) does not parse",
                section.bytes.len()
            ),
            "build the plugin again with `mortise build`; do not edit its output",
        )
        .with_source(source)
    })
}
