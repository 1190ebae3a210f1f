//! From a core module to the component of `wit/plugin.wit`.

use std::borrow::Cow;

use wasm_encoder::{ComponentSection as _, CustomSection};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{BuildError, direct::direct};

/// Custom section that holds the encoded `Metadata`: in a core module, and outermost in a component.
pub const METADATA_SECTION: &str = "mortise";

const WIT: &str = include_str!("../../../wit/plugin.wit");
const WORLD: &str = "plugin";

/// Makes a component of the world `mortise:plugin/plugin` from a core module that exports and imports it by its canonical
/// names, as `#[mortise_sdk::plugin]` does. The metadata moves from the module's custom section to one of the component itself,
/// so that reading it needs no nesting. Calls through the module's table become direct ones where nobody else sees that table, which a host compiles
/// in two thirds of the time; a module with DWARF keeps them, so that its addresses stay true.
///
/// # Errors
/// If it is not a core module, has no metadata, lacks an export of the world or imports anything else: the message names it.
pub fn componentize(core: &[u8]) -> Result<Vec<u8>, BuildError> {
    let (mut module, metadata) = take_metadata(core)?;
    let metadata = metadata.ok_or_else(|| BuildError::Componentize {
        why: format!(
            "it has no custom section `{METADATA_SECTION}`; put `#[mortise_sdk::plugin]` on an impl in its crate, or append \
             what `mortise metadata` writes"
        ),
    })?;
    let why = |error: &dyn std::fmt::Display| BuildError::Componentize {
        why: error.to_string(),
    };
    if let Some(direct) = direct(&module) {
        module = direct;
    }
    let mut resolve = Resolve::default();
    let package = resolve
        .push_source("plugin.wit", WIT)
        .map_err(|it| why(&format_args!("{it:#}")))?;
    let world = resolve
        .select_world(&[package], Some(WORLD))
        .map_err(|it| why(&format_args!("{it:#}")))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .map_err(|it| why(&format_args!("{it:#}")))?;
    let mut component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut it| it.encode())
        .map_err(|it| why(&format_args!("{it:#}")))?;
    let section = CustomSection {
        name: METADATA_SECTION.into(),
        data: Cow::Borrowed(&metadata),
    };
    section.append_to_component(&mut component);
    Ok(component)
}

/// The module without its metadata section, and the metadata.
fn take_metadata(core: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), BuildError> {
    let mut metadata = None;
    let mut cut = None;
    let mut end_of_last = 0;
    for payload in Parser::new(0).parse_all(core) {
        let payload = payload.map_err(|error| BuildError::Componentize {
            why: error.to_string(),
        })?;
        match &payload {
            Payload::Version {
                encoding: wasmparser::Encoding::Component,
                ..
            } => {
                return Err(BuildError::Componentize {
                    why: "it is a component already".to_owned(),
                });
            }
            Payload::CustomSection(section) if section.name() == METADATA_SECTION => {
                if metadata.replace(section.data().to_vec()).is_some() {
                    let why = format!(
                        "it has two custom sections `{METADATA_SECTION}`: two plugins were linked into one module"
                    );
                    return Err(BuildError::Componentize { why });
                }
                cut = Some(end_of_last..section.range().end);
            }
            _ => {}
        }
        end_of_last = match &payload {
            Payload::CodeSectionStart { range, .. } => range.end,
            Payload::CodeSectionEntry(_) => end_of_last,
            other => other
                .as_section()
                .map_or(end_of_last.max(8), |(_, range)| range.end),
        };
    }
    let module = match cut {
        Some(cut) => [&core[..cut.start], &core[cut.end..]].concat(),
        None => core.to_vec(),
    };
    Ok((module, metadata))
}
