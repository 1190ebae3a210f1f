//! An artifact: the bytes of one variant of a plugin, and what was proved about them.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Dialect, RuntimeName};
use mortise_wire::{METADATA_FORMAT, Metadata, lifecycle};

/// Name and version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginId {
    /// The plugin's name; `^[a-z][a-z0-9-]{1,62}$`.
    pub name: Arc<str>,
    /// The plugin's version.
    pub version: semver::Version,
}

impl fmt::Display for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// BLAKE3-256 of an artifact's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|it| Self(*it.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The bytes of one variant, as they were found. Nothing about them is known to be true yet.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The plugin that its folder's `plugin.toml` says it is.
    pub plugin: PluginId,
    /// The runtime this variant was built for.
    pub runtime: RuntimeName,
    /// Digest of `bytes`.
    pub digest: Digest,
    /// The whole file. Empty for a plugin that is compiled into the host.
    pub bytes: Bytes,
    /// A read-only, content-addressed copy, for runtimes that open a path; never the path it was found at.
    pub path: Option<PathBuf>,
    /// What it speaks, if it was not made with the SDK. It then says nothing about itself, and its metadata is made from its folder.
    pub dialect: Option<Dialect>,
    /// The contract of the folder's `contract.binpb`.
    pub contract: Arc<Contract>,
}

/// One reason why an artifact is refused. All reasons are reported, not the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Refusal {
    /// What was looked at.
    pub what: String,
    /// What is wrong with it, with the values.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

/// An artifact whose embedded metadata agrees with its folder: name, version, platform API, contract.
#[derive(Clone, Debug)]
pub struct Verified {
    artifact: Artifact,
    metadata: Arc<Metadata>,
}

impl Artifact {
    /// Compares what the artifact says about itself with what its folder says. Runs none of the plugin's code.
    ///
    /// # Errors
    /// Every disagreement.
    pub fn verify(self, metadata: Metadata) -> Result<Verified, Vec<Refusal>> {
        let rebuild = || "build the plugin again with `mortise build`; do not edit its output".to_owned();
        let mut refusals = Vec::new();
        let mut compare = |what: &str, folder: &dyn fmt::Display, inside: &dyn fmt::Display| {
            let (folder, inside) = (folder.to_string(), inside.to_string());
            if folder != inside {
                refusals.push(Refusal {
                    what: format!("{what} in the {} artifact's metadata", self.runtime),
                    why: format!("it says `{inside}`, and plugin.toml beside it says `{folder}`"),
                    hint: rebuild(),
                });
            }
        };
        compare("name", &self.plugin.name, &metadata.name);
        compare("version", &self.plugin.version, &metadata.version);
        compare("metadata format", &METADATA_FORMAT, &metadata.format);
        let inside = <[u8; 32]>::try_from(metadata.contract_hash.as_slice()).map(Digest);
        match inside {
            Ok(hash) => compare("contract hash", &Digest(self.contract.hash()), &hash),
            Err(_) => compare("length of the contract hash", &32, &metadata.contract_hash.len()),
        }
        // Reserved methods are no part of a contract, and stand behind those that are.
        let (public, reserved) = metadata.methods.split_at(metadata.public_methods().len());
        let out_of_place = reserved.iter().any(|it| !it.is_reserved());
        let claimed = self.contract.services().iter().any(|it| it == lifecycle::SERVICE);
        if out_of_place || claimed {
            refusals.push(Refusal {
                what: format!("methods in the {} artifact's metadata", self.runtime),
                why: format!(
                    "`{}` is the host's own, and the plugin provides it or has methods behind it",
                    lifecycle::SERVICE
                ),
                hint: "give your service another name, and build the plugin again".to_owned(),
            });
        }
        for (index, provided) in public.iter().enumerate() {
            if self.contract.method(&provided.service, &provided.name).is_none() {
                refusals.push(Refusal {
                    what: format!("method {index} in the {} artifact's metadata", self.runtime),
                    why: format!("`{}/{}` is not in its contract", provided.service, provided.name),
                    hint: rebuild(),
                });
            }
        }
        if metadata.api > mortise_wire::API_LEVEL {
            refusals.push(Refusal {
                what: "platform API level".to_owned(),
                why: format!(
                    "the plugin needs {}, and this host offers {}",
                    metadata.api,
                    mortise_wire::API_LEVEL
                ),
                hint: "use a newer host, or build the plugin with an older SDK".to_owned(),
            });
        }
        if refusals.is_empty() {
            Ok(Verified {
                artifact: self,
                metadata: Arc::new(metadata),
            })
        } else {
            Err(refusals)
        }
    }
}

impl Verified {
    /// The artifact.
    #[must_use]
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// What it says about itself.
    #[must_use]
    pub fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }
}
