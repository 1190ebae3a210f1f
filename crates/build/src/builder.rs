//! The build script's side: where to read, what to write.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use mortise_contract::Contract;
use mortise_manifest::{ConfigTerms, Limits, LimitsOverride, Manifest, Permissions};
use mortise_wire::Metadata;
use prost::Message as _;
use prost_build::Module;
use prost_types::{DescriptorProto, FileDescriptorSet};

use crate::{
    BuildError,
    metadata::{metadata, parse_manifest},
    protos::{Protos, compile_protos},
    service::{Adapts, Generator, Numbered},
};

/// Compiles the contract of the plugin in the current folder: the whole of a plugin's `build.rs`.
///
/// On a fault it prints it as cargo's error and ends the build script with code 1.
pub fn plugin() {
    Builder::new().run();
}

/// What to compile, and into what.
#[derive(Clone, Debug)]
pub struct Builder {
    manifest: PathBuf,
    contract_dir: PathBuf,
    out_dir: Option<PathBuf>,
    runtime: String,
    client_only: bool,
    adapts_of: Option<PathBuf>,
    extern_paths: Vec<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// `plugin.toml` and `contract/` into `$OUT_DIR`, for a crate that depends on `mortise-sdk`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            manifest: "plugin.toml".into(),
            contract_dir: "contract".into(),
            out_dir: None,
            runtime: "::mortise_sdk".to_owned(),
            client_only: false,
            adapts_of: None,
            extern_paths: Vec::new(),
        }
    }

    /// Another manifest than `plugin.toml`.
    #[must_use]
    pub fn manifest(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifest = path.into();
        self
    }

    /// Another folder of .proto files than `contract`. Imports are looked up there too.
    #[must_use]
    pub fn contract_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.contract_dir = path.into();
        self
    }

    /// Another folder to write to than `$OUT_DIR`, for those who commit generated code. The same source then gives the same bytes on every
    /// machine: the metadata names no toolchain and no target.
    #[must_use]
    pub fn out_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(path.into());
        self
    }

    /// Clients also know what the `[[adapt]]`s of this `plugin.toml` say, and so reach plugins of older versions that need it. Those of a plugin's own crate know
    /// it anyway.
    #[must_use]
    pub fn adapts_of(mut self, manifest: impl Into<PathBuf>) -> Self {
        self.adapts_of = Some(manifest.into());
        self
    }

    /// Messages and clients only; no manifest is read and no metadata written. For a service that calls plugins.
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.client_only = true;
        self
    }

    /// The crate that the generated code leans on, as a path: `::mortise_sdk` unless told, `::mortise` in a service that embeds
    /// the host. It must offer `prost`, `prost_types`, `Status` and `client`.
    #[must_use]
    pub fn runtime_path(mut self, path: impl Into<String>) -> Self {
        self.runtime = path.into();
        self
    }

    /// Takes a type of one's own in the place of one that would be generated: `.acme.v1.Picture`, `crate::Picture`. It must be a `prost::Message`.
    #[must_use]
    pub fn extern_path(mut self, proto: impl Into<String>, rust: impl Into<String>) -> Self {
        self.extern_paths.push((proto.into(), rust.into()));
        self
    }

    /// As [`Builder::compile`], for a build script: prints a fault as cargo's error and ends with code 1.
    pub fn run(self) {
        if let Err(error) = self.compile() {
            give_up(&error);
        }
    }

    /// Compiles the contract and writes `mortise.rs` and, unless [`Builder::client_only`], the metadata. Tells cargo what it read.
    ///
    /// # Errors
    /// Names the file, the place in it and what to do.
    pub fn compile(self) -> Result<(), BuildError> {
        let out_dir = match &self.out_dir {
            Some(dir) => dir.clone(),
            None => variable("OUT_DIR", "Builder::out_dir")?.into(),
        };
        println!("cargo::rerun-if-changed={}", self.contract_dir.display());
        let protos = compile_protos(&self.contract_dir)?;
        let metadata = if self.client_only {
            None
        } else {
            Some(self.metadata(&protos)?)
        };
        write(
            &out_dir.join("mortise.rs"),
            self.rust(&protos, metadata.as_ref())?.as_bytes(),
        )?;
        if let Some(metadata) = metadata {
            write(&out_dir.join("mortise.meta"), &metadata.encode_to_vec())?;
            write(
                &out_dir.join("mortise_metadata.rs"),
                self.constants(&metadata)?.as_bytes(),
            )?;
        }
        Ok(())
    }

    /// What the manifest says of older versions, for clients that call them.
    fn adapts(&self) -> Result<Adapts, BuildError> {
        let path = match (&self.adapts_of, self.client_only) {
            (Some(path), _) => path,
            (None, true) => return Ok(Adapts::new()),
            (None, false) => &self.manifest,
        };
        let manifest = parse_manifest(&String::from_utf8_lossy(&read(path)?))?;
        if manifest.adapt.is_empty() {
            return Ok(Adapts::new());
        }
        let files: BTreeSet<&str> = manifest.adapt.iter().map(|it| &*it.contract).collect();
        let mut adapts = Adapts::new();
        for file in files {
            adapts.push((file.to_owned(), read(&path.with_file_name(file))?));
        }
        let only = Manifest {
            description: None,
            pure: false,
            requires: Vec::new(),
            subscribes: Vec::new(),
            variants: Vec::new(),
            permissions: Permissions::default(),
            limits: LimitsOverride::default(),
            state_schema: None,
            hooks: false,
            migrates: false,
            config: ConfigTerms::default(),
            ..manifest
        };
        adapts.push(("plugin.toml".to_owned(), only.to_toml().into_bytes()));
        Ok(adapts)
    }

    fn metadata(&self, protos: &Protos) -> Result<Metadata, BuildError> {
        let text = String::from_utf8_lossy(&read(&self.manifest)?).into_owned();
        let mut metadata = metadata(&text, &protos.descriptor_set)?;
        match env::var("CARGO_PKG_VERSION") {
            Ok(cargo) if self.out_dir.is_none() && cargo != metadata.version => {
                return Err(BuildError::VersionMismatch {
                    manifest: metadata.version,
                    cargo,
                });
            }
            _ => {}
        }
        if self.out_dir.is_none() {
            metadata.target = env::var("TARGET").unwrap_or_default();
            metadata.toolchain = toolchain();
        }
        Ok(metadata)
    }

    /// One file: the modules nested as the packages are, and the first package's names again at the top.
    fn rust(&self, protos: &Protos, metadata: Option<&Metadata>) -> Result<String, BuildError> {
        let provided: Numbered = metadata
            .iter()
            .flat_map(|it| it.public_methods().iter().zip(0..))
            .map(|(it, number)| ((it.service.clone(), it.name.clone()), (number, it.clone())))
            .collect();
        let adapts = self.adapts()?;
        let generator = Generator {
            runtime: self.runtime.clone(),
            provided,
            client_only: self.client_only,
            contracts: protos.described(&adapts)?,
            adapts,
        };
        let requests = protos.commented.file.iter().map(|file| {
            let module = Module::from_protobuf_package_name(file.package());
            (module, file.clone())
        });
        let mut config = prost_build::Config::new();
        for message in messages_with_maps(&protos.commented) {
            // prost-derive 0.14 forgets `prost_path` in the Debug of an ordered map.
            config
                .skip_debug([&message])
                .message_attribute(&message, "#[derive(Debug)]");
        }
        for (proto, rust) in &self.extern_paths {
            config.extern_path(proto, rust);
        }
        let mut modules: Vec<_> = config
            .prost_path(format!("{}::prost", self.runtime))
            .prost_types_path(format!("{}::prost_types", self.runtime))
            // Ordered, so that equal messages are equal bytes in every runtime.
            .btree_map(["."])
            // What an event is called after.
            .enable_type_names()
            .service_generator(Box::new(generator))
            .generate(requests.collect())
            .map_err(BuildError::Generate)?
            .into_iter()
            .collect();
        modules.sort();
        let mut tree = Tree::default();
        for (module, text) in &modules {
            tree.insert(module.parts(), text);
        }
        let mut text = "// Written by mortise-build from the contract. Do not edit.\n".to_owned();
        tree.write(&mut text);
        let own = protos.commented.file.iter().filter(|it| !it.service.is_empty());
        let mut packages: Vec<_> = own
            .map(|it| Module::from_protobuf_package_name(it.package()))
            .collect();
        packages.sort();
        packages.dedup();
        for package in packages.iter().filter(|it| !it.is_empty()) {
            let path: Vec<_> = package.parts().collect();
            text.push_str(&format!("pub use self::{}::*;\n", path.join("::")));
        }
        Ok(text)
    }

    fn constants(&self, metadata: &Metadata) -> Result<String, BuildError> {
        let text = String::from_utf8_lossy(&metadata.manifest);
        let parsed = parse_manifest(&text)?;
        let concurrency = parsed.limits.apply(Limits::default()).concurrency;
        let lifecycle = match (&parsed.state_schema, parsed.hooks) {
            (Some(schema), _) => {
                let contract = Contract::from_descriptor_set(&metadata.descriptor_set, &parsed.provides)
                    .map_err(|error| BuildError::Contract {
                        why: error.to_string(),
                    })?;
                let hash = contract.message_wire_hash(schema).unwrap_or_default();
                format!("state({schema:?}, {hash:?})")
            }
            (None, true) => "HOOKS".to_owned(),
            (None, false) => "NONE".to_owned(),
        };
        let hot = if parsed.config.hot { ".configurable()" } else { "" };
        let Metadata {
            name,
            version,
            contract_hash,
            ..
        } = metadata;
        Ok(format!(
            "{}::guest::Build {{ name: {name:?}, version: {version:?}, methods: {}, concurrency: {concurrency}, \
             contract_hash: {contract_hash:?}, lifecycle: {}::guest::Lifecycle::{lifecycle}{hot} }}\n",
            self.runtime,
            metadata.public_methods().len(),
            self.runtime,
        ))
    }
}

/// Modules of generated code, nested.
#[derive(Default)]
struct Tree<'a> {
    text: &'a str,
    children: std::collections::BTreeMap<&'a str, Self>,
}

impl<'a> Tree<'a> {
    fn insert(&mut self, mut path: impl Iterator<Item = &'a str>, text: &'a str) {
        match path.next() {
            Some(part) => self.children.entry(part).or_default().insert(path, text),
            None => self.text = text,
        }
    }

    fn write(&self, text: &mut String) {
        text.push_str(self.text);
        for (name, child) in &self.children {
            text.push_str(&format!("pub mod {name} {{\n"));
            child.write(text);
            text.push_str("}\n");
        }
    }
}

/// Full names of messages, with a leading dot.
fn messages_with_maps(set: &FileDescriptorSet) -> Vec<String> {
    fn walk(scope: &str, message: &DescriptorProto, found: &mut Vec<String>) {
        let name = format!("{scope}.{}", message.name());
        let is_entry = |it: &DescriptorProto| it.options.as_ref().is_some_and(|it| it.map_entry());
        if message.nested_type.iter().any(is_entry) {
            found.push(name.clone());
        }
        for nested in &message.nested_type {
            walk(&name, nested, found);
        }
    }
    let mut found = Vec::new();
    for file in &set.file {
        let dot = if file.package().is_empty() { "" } else { "." };
        for message in &file.message_type {
            walk(&format!("{dot}{}", file.package()), message, &mut found);
        }
    }
    found
}

/// Ends a build script with a fault.
pub(crate) fn give_up(error: &BuildError) -> ! {
    for line in error.to_string().lines() {
        println!("cargo::error={line}");
    }
    std::process::exit(1);
}

pub(crate) fn variable(name: &'static str, instead: &'static str) -> Result<String, BuildError> {
    env::var(name).map_err(|_| BuildError::NoVariable { name, instead })
}

/// `rustc --version`, for people. An unknown one is no reason to fail.
fn toolchain() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    output
        .map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// A file that the result depends on.
fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read(path).map_err(|source| BuildError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Leaves an equal file alone, so that cargo does not rebuild what reads it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    if fs::read(path).is_ok_and(|it| it == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).map_err(|source| BuildError::Write {
        path: path.to_owned(),
        source,
    })
}
