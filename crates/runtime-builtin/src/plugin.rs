//! A plugin that the host has linked in, and what it says about itself.

use std::sync::Arc;

use mortise_runtime::{PluginId, RuntimeError, RuntimeErrorKind as Kind};
use mortise_wire::{METADATA_FORMAT, Metadata, linked::LinkedPlugin};
use prost::Message as _;

/// A plugin that is compiled into the host.
#[derive(Clone, Debug)]
pub struct BuiltinPlugin {
    id: PluginId,
    metadata: Arc<Metadata>,
    linked: LinkedPlugin,
}

// === impl BuiltinPlugin ===

impl BuiltinPlugin {
    /// Reads what the plugin says about itself. Runs none of its code.
    ///
    /// # Errors
    /// `Malformed` if its metadata does not parse, or names something that is no plugin.
    pub fn new(linked: LinkedPlugin) -> Result<Self, RuntimeError> {
        let malformed = |what: &str, why: String| {
            let hint = "build the host again with a current `mortise-build`";
            RuntimeError::new(
                Kind::Malformed,
                format!("{what} of a builtin plugin can't be used: {why}"),
                hint,
            )
        };
        let metadata = Metadata::decode(linked.metadata)
            .map_err(|error| malformed("the metadata", error.to_string()))?;
        if metadata.format != METADATA_FORMAT {
            let why = format!(
                "it has format {}, and this host reads {METADATA_FORMAT}",
                metadata.format
            );
            return Err(malformed("the metadata", why));
        }
        mortise_manifest::check_plugin_name(&metadata.name)
            .map_err(|error| malformed("the name", error.to_string()))?;
        let version = semver::Version::parse(&metadata.version)
            .map_err(|error| malformed("the version", format!("`{}`: {error}", metadata.version)))?;
        std::str::from_utf8(&metadata.manifest)
            .map_err(|error| malformed("the manifest", error.to_string()))?;
        let id = PluginId {
            name: metadata.name.as_str().into(),
            version,
        };
        Ok(Self {
            id,
            metadata: metadata.into(),
            linked,
        })
    }

    /// Its name and version.
    #[must_use]
    pub fn id(&self) -> &PluginId {
        &self.id
    }

    /// What it says about itself.
    #[must_use]
    pub fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }

    /// Its `plugin.toml`; with [`BuiltinPlugin::descriptor_set`], what a host makes a package of.
    #[must_use]
    pub fn manifest_text(&self) -> &str {
        std::str::from_utf8(&self.metadata.manifest).expect("checked in `new`")
    }

    /// Its contract: an encoded `google.protobuf.FileDescriptorSet`.
    #[must_use]
    pub fn descriptor_set(&self) -> &[u8] {
        &self.metadata.descriptor_set
    }

    pub(crate) fn linked(&self) -> LinkedPlugin {
        self.linked
    }
}
