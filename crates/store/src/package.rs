//! A plugin's package: the folder that `mortise build` wrote, read whole, checked and digested.
//!
//! ```text
//! thumbnailer-1.2.0/
//!   plugin.toml       with one [[variant]] per build
//!   contract.binpb    google.protobuf.FileDescriptorSet, imports included
//!   thumbnailer.so, thumbnailer.wasm, thumbnailer
//!   contract-1.1.0.binpb   of an older version, if an [[adapt]] names it
//! ```
//!
//! A folder on disk and a folder compiled into the host go through the same checks. After [`Package::open`] nothing is read from the folder
//! again: what was digested is what runs, whatever happens to the folder meanwhile.

use std::{collections::BTreeMap, panic::resume_unwind, path::Path, sync::Arc, thread};

use bytes::Bytes;
use mortise_contract::{
    Contract, Target,
    evolve::{Lineage, MessageMap, Step},
};
use mortise_manifest::{Adapt, AdaptMessage, Diagnostics, Manifest, RuntimeName, Variant};
use mortise_runtime::{Artifact, Digest, PluginId};

use crate::{
    StoreError, StoreErrorKind,
    folder::{DiskFolder, EmbeddedFolder, Folder},
};

/// Name of the manifest inside a package.
pub(crate) const MANIFEST: &str = "plugin.toml";
/// Name of the contract inside a package.
pub(crate) const CONTRACT: &str = "contract.binpb";

/// A package folder that is compiled into the host's binary.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedPackage {
    /// The name after `embedded:` in `mortise.toml`.
    pub name: &'static str,
    /// Path inside the folder, with `/` between parts, and content: `("plugin.toml", include_bytes!(..))`.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// Bounds on what is read of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageLimits {
    /// Longest `plugin.toml`, in bytes. Default 1 MiB.
    pub manifest_bytes_max: u64,
    /// Longest `contract.binpb`, in bytes. Default 16 MiB.
    pub contract_bytes_max: u64,
    /// Longest artifact, in bytes. It is held in memory while its plugin is loaded. Default 256 MiB.
    pub artifact_bytes_max: u64,
}

impl Default for PackageLimits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: 1 << 20,
            contract_bytes_max: 16 << 20,
            artifact_bytes_max: 256 << 20,
        }
    }
}

/// A package that was read whole. Nothing that its artifacts say about themselves was looked at yet.
#[derive(Clone, Debug)]
pub struct Package {
    origin: String,
    plugin: PluginId,
    manifest: Arc<Manifest>,
    manifest_text: Arc<str>,
    contract: Arc<Contract>,
    lineage: Arc<Lineage>,
    /// Descriptor sets of older versions, by file.
    older: BTreeMap<String, Bytes>,
    digest: Digest,
    artifacts: Vec<Artifact>,
}

// === impl Package ===

impl Package {
    /// Reads the package in the folder `path`.
    ///
    /// # Errors
    /// The first fault; [`StoreError::also`] has the others, so that an author sees all at once.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, &PackageLimits::default())
    }

    /// Like [`Package::open`], with bounds of one's own.
    ///
    /// # Errors
    /// As [`Package::open`].
    pub fn open_with(path: impl AsRef<Path>, limits: &PackageLimits) -> Result<Self, StoreError> {
        read_package(&DiskFolder::open(path.as_ref())?, limits)
    }

    /// Reads a package that is compiled into the host, with the same checks.
    ///
    /// # Errors
    /// As [`Package::open`].
    pub fn embedded(package: &EmbeddedPackage) -> Result<Self, StoreError> {
        let folder = EmbeddedFolder {
            name: package.name,
            files: package.files,
        };
        read_package(&folder, &PackageLimits::default())
    }

    /// Puts a package together for a plugin that is itself compiled into the host: its one artifact has no bytes of its own, so its
    /// digest is that of manifest and contract.
    ///
    /// # Errors
    /// If manifest or contract do not parse; all faults.
    pub fn builtin(name: &str, manifest_text: &str, descriptor_set: &[u8]) -> Result<Self, StoreError> {
        let origin = format!("builtin:{name}");
        let manifest = parse_manifest(&origin, manifest_text)?;
        let contract = parse_contract(&origin, descriptor_set, &manifest)?;
        let digest = digest_of([manifest_text.as_bytes(), descriptor_set]);
        let plugin = plugin_id(&manifest);
        let artifact = Artifact {
            plugin: plugin.clone(),
            runtime: RuntimeName::Builtin,
            digest,
            bytes: Bytes::new(),
            path: None,
            dialect: None,
            contract: contract.clone(),
        };
        Ok(Self {
            origin,
            plugin,
            manifest: manifest.into(),
            manifest_text: manifest_text.into(),
            contract,
            lineage: Arc::default(),
            older: BTreeMap::new(),
            digest,
            artifacts: vec![artifact],
        })
    }

    /// What a manifest says of older versions of a contract, checked against them all: for a source folder, or a client that was generated beside one. `older` are the
    /// descriptor sets that its `[[adapt]]`s name, by file; `origin` is what errors call it.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub fn lineage_of(
        origin: &str,
        manifest: &Manifest,
        contract: &Contract,
        older: &BTreeMap<String, Bytes>,
    ) -> Result<Lineage, StoreError> {
        lineage(origin, manifest, contract, older).map_err(StoreError::all)
    }

    pub(crate) fn with_origin(mut self, origin: String) -> Self {
        self.origin = origin;
        self
    }

    /// Where it was read from: a path, `embedded:name`, `builtin:name` or `kept:digest`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The plugin's name and version.
    #[must_use]
    pub fn plugin(&self) -> &PluginId {
        &self.plugin
    }

    /// Its `plugin.toml`, checked.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Its `plugin.toml`, as it was read.
    #[must_use]
    pub fn manifest_text(&self) -> &Arc<str> {
        &self.manifest_text
    }

    /// Its contract.
    #[must_use]
    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// What it says of older versions of its contract, and of the services that it calls.
    #[must_use]
    pub fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// Descriptor sets of older versions, by the name of their file.
    pub(crate) fn older(&self) -> &BTreeMap<String, Bytes> {
        &self.older
    }

    /// Digest of the whole package: its manifest, its contract and every artifact. Two packages with the same digest are the same, wherever they were read.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// One artifact per variant, in the manifest's order.
    #[must_use]
    pub fn artifacts(&self) -> &[Artifact] {
        &self.artifacts
    }

    /// The artifact for `runtime`.
    #[must_use]
    pub fn artifact(&self, runtime: RuntimeName) -> Option<&Artifact> {
        self.artifacts.iter().find(|it| it.runtime == runtime)
    }
}

fn read_package(folder: &dyn Folder, limits: &PackageLimits) -> Result<Package, StoreError> {
    let origin = folder.name().into_owned();
    let manifest_text = folder.read(MANIFEST, limits.manifest_bytes_max)?;
    let manifest_text = std::str::from_utf8(&manifest_text).map_err(|source| {
        StoreError::new(
            StoreErrorKind::Malformed,
            format!(
                "`{MANIFEST}` in package `{origin}` is not UTF-8: byte {} is not",
                source.valid_up_to()
            ),
            "save it as UTF-8",
        )
    })?;
    let manifest = parse_manifest(&origin, manifest_text)?;
    if manifest.variants.is_empty() {
        return Err(StoreError::new(
            StoreErrorKind::Malformed,
            format!(
                "package `{origin}` has no `[[variant]]`: this is a plugin's source, or nothing was built"
            ),
            "run `mortise build` and name the folder that it prints",
        ));
    }
    // From here on every part is looked at, whatever is wrong with the others. Linking a contract costs as much as reading and hashing
    // the artifacts, so the two go side by side.
    let (contract, older, files) = thread::scope(|scope| {
        let read = || read_artifacts(folder, &manifest, limits);
        let reading = thread::Builder::new().spawn_scoped(scope, read);
        let contract = folder
            .read(CONTRACT, limits.contract_bytes_max)
            .and_then(|bytes| parse_contract(&origin, &bytes, &manifest));
        let older = read_older(folder, &manifest, limits);
        let files = match reading {
            Ok(reading) => reading.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // No thread to be had: one after the other, then.
            Err(_) => read(),
        };
        (contract, older, files)
    });
    let mut faults = Vec::new();
    let contract = contract.map_err(|fault| faults.push(fault)).ok();
    let older = older.map_err(|all| faults.extend(all)).ok();
    let lineage = contract
        .as_ref()
        .zip(older.as_ref())
        .and_then(|(contract, older)| {
            let made = lineage(&origin, &manifest, contract, older);
            made.map_err(|all| faults.extend(all)).ok()
        });
    let files: Vec<_> = files
        .into_iter()
        .filter_map(|file| file.map_err(|fault| faults.push(fault)).ok())
        .collect();
    let (Some(contract), Some(older), Some(lineage), true) = (contract, older, lineage, faults.is_empty())
    else {
        return Err(StoreError::all(faults));
    };
    let plugin = plugin_id(&manifest);
    let dialect = |runtime| manifest.variant(runtime).and_then(|it| it.dialect.clone());
    let artifacts = files.into_iter().map(|(runtime, digest, bytes)| Artifact {
        plugin: plugin.clone(),
        runtime,
        digest,
        bytes,
        path: None,
        dialect: dialect(runtime),
        contract: contract.clone(),
    });
    let artifacts: Vec<Artifact> = artifacts.collect();
    let parts = [manifest_text.as_bytes(), contract.descriptor_set_bytes()];
    let digests = artifacts.iter().map(|it| &it.digest.0[..]);
    let all = parts.into_iter().chain(digests);
    Ok(Package {
        digest: digest_of(all.chain(older.values().map(|it| &it[..]))),
        lineage: lineage.into(),
        older,
        artifacts,
        origin,
        plugin,
        manifest_text: manifest_text.into(),
        manifest: manifest.into(),
        contract,
    })
}

/// A digest over parts, wherever one ends and the next begins.
fn digest_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Every variant's file with its digest, or what is wrong with it.
fn read_artifacts(
    folder: &dyn Folder,
    manifest: &Manifest,
    limits: &PackageLimits,
) -> Vec<Result<(RuntimeName, Digest, Bytes), StoreError>> {
    let read = |variant: &Variant| {
        let bytes = folder.read(&variant.file, limits.artifact_bytes_max)?;
        Ok((variant.runtime, Digest::of(&bytes), bytes))
    };
    manifest.variants.iter().map(read).collect()
}

/// The descriptor set of every older version that an `[[adapt]]` names, or what is wrong with each.
fn read_older(
    folder: &dyn Folder,
    manifest: &Manifest,
    limits: &PackageLimits,
) -> Result<BTreeMap<String, Bytes>, Vec<StoreError>> {
    let mut older = BTreeMap::new();
    let mut faults = Vec::new();
    for adapt in &manifest.adapt {
        if !older.contains_key(&adapt.contract) {
            match folder.read(&adapt.contract, limits.contract_bytes_max) {
                Ok(bytes) => drop(older.insert(adapt.contract.clone(), bytes)),
                Err(fault) => faults.push(fault),
            }
        }
    }
    match faults.is_empty() {
        true => Ok(older),
        false => Err(faults),
    }
}

/// What the manifest says of older versions, checked against all their contracts.
fn lineage(
    origin: &str,
    manifest: &Manifest,
    contract: &Contract,
    older: &BTreeMap<String, Bytes>,
) -> Result<Lineage, Vec<StoreError>> {
    if manifest.adapt.is_empty() {
        return Ok(Lineage::empty());
    }
    let fault = |what: &str, why: String| {
        StoreError::new(
            StoreErrorKind::Malformed,
            format!("`[[adapt]]` of package `{origin}`: {what}{why}"),
            "correct the `[[adapt]]` in plugin.toml, and build the plugin again",
        )
    };
    // Every service that a set declares: a plugin also knows versions of services that it calls.
    let read = |bytes: &[u8]| Contract::shared(bytes, &[]);
    let mut faults = Vec::new();
    let mut versions: Vec<(Arc<str>, Arc<Contract>)> = Vec::new();
    for adapt in &manifest.adapt {
        let name = adapt.from.to_string();
        if versions.iter().any(|it| *it.0 == *name) {
            continue;
        }
        let Some(bytes) = older.get(&adapt.contract) else {
            faults.push(fault("", format!("`{}` is missing", adapt.contract)));
            continue;
        };
        match read(bytes) {
            Ok(contract) => versions.push((name.into(), contract)),
            Err(error) => faults.push(fault(&format!("`{}`: ", adapt.contract), error.to_string())),
        }
    }
    match read(contract.descriptor_set_bytes()) {
        Ok(own) => versions.push((manifest.version.to_string().into(), own)),
        Err(error) => faults.push(fault("", error.to_string())),
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let steps = manifest.adapt.iter().map(|it| step(it, manifest)).collect();
    Lineage::new(versions, steps).map_err(|all| all.into_iter().map(|it| fault("", it.to_string())).collect())
}

fn step(adapt: &Adapt, manifest: &Manifest) -> Step {
    let message = |it: &AdaptMessage| MessageMap {
        older: it.name.clone(),
        newer: it.becomes.clone().unwrap_or_else(|| it.name.clone()),
        fields: it.fields.clone(),
        defaults: it.defaults.clone(),
        drop: it.drop.clone(),
        up: it.up.as_deref().and_then(Target::parse),
        down: it.down.as_deref().and_then(Target::parse),
    };
    Step {
        from: adapt.from.to_string(),
        to: adapt.to.as_ref().unwrap_or(&manifest.version).to_string(),
        messages: adapt.messages.iter().map(message).collect(),
    }
}

fn plugin_id(manifest: &Manifest) -> PluginId {
    PluginId {
        name: manifest.name.as_str().into(),
        version: manifest.version.clone(),
    }
}

fn parse_manifest(origin: &str, text: &str) -> Result<Manifest, StoreError> {
    let file = if origin.starts_with("embedded:") || origin.starts_with("builtin:") {
        format!("{origin}/{MANIFEST}")
    } else {
        Path::new(origin).join(MANIFEST).to_string_lossy().into_owned()
    };
    Manifest::parse(text, &file).map_err(|faults: Diagnostics| {
        let number = match faults.len() {
            1 => "a fault".to_owned(),
            number => format!("{number} faults"),
        };
        StoreError::new(
            StoreErrorKind::Malformed,
            format!("`{file}` has {number}"),
            "correct the lines named above",
        )
        .with_source(faults)
    })
}

fn parse_contract(origin: &str, bytes: &[u8], manifest: &Manifest) -> Result<Arc<Contract>, StoreError> {
    Contract::shared(bytes, &manifest.provides).map_err(|source| {
        StoreError::new(
            StoreErrorKind::Malformed,
            format!(
                "`{CONTRACT}` in package `{origin}` is not the contract that `{MANIFEST}` names: {source}"
            ),
            "build the plugin again with `mortise build`; do not edit its output",
        )
    })
}
