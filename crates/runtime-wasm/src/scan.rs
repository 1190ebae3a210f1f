//! What can be known of an artifact from its bytes: which ABI, what it says about itself, what it wants from the host.
//!
//! The bytes may be anything. Nothing is copied, nothing is run, and the time is linear in their length.

use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use wasmparser::{ComponentExternalKind, ExternalKind, Parser, Payload};

/// The custom section in which a plugin says what it is.
pub(crate) const METADATA_SECTION: &str = "mortise";
/// The interface a component may import.
pub(crate) const HOST_INTERFACE: &str = "mortise:plugin/host@1.0.0";
/// The interface a component must export.
pub(crate) const GUEST_INTERFACE: &str = "mortise:plugin/guest@1.0.0";
/// The module whose functions a core module may import.
pub(crate) const HOST_MODULE: &str = "mortise";
/// Those functions.
pub(crate) const HOST_FUNCTIONS: [&str; 2] = ["log", "call"];
/// What a core module must export.
pub(crate) const CORE_EXPORTS: [(&str, ExternalKind); 4] = [
    ("memory", ExternalKind::Memory),
    ("mortise_alloc", ExternalKind::Func),
    ("mortise_free", ExternalKind::Func),
    ("mortise_invoke", ExternalKind::Func),
];

/// The two guest ABIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AbiKind {
    /// `wit/plugin.wit`.
    Component,
    /// `wit/core-abi.md`.
    CoreModule,
}

/// What an artifact's bytes say.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    pub(crate) abi: AbiKind,
    /// The metadata section: the outer one, else the one of the first nested module that has it.
    pub(crate) metadata: Option<&'a [u8]>,
    /// What the outer level imports, as people write it: `wasi:cli/environment@0.2.0`, `env.abort`.
    pub(crate) imports: Vec<String>,
    /// Exports of the outer level that the ABI asks for and that are not there.
    pub(crate) missing_exports: Vec<&'static str>,
    /// Functions with a body, over all nested modules.
    pub(crate) functions: u32,
    /// Core instances that one instantiation makes, as far as the outer level says.
    pub(crate) core_instances: u32,
}

impl<'a> Scan<'a> {
    /// Reads `bytes`.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Self, RuntimeError> {
        let mut scan = Self {
            abi: recognise(bytes)?,
            metadata: None,
            imports: Vec::new(),
            missing_exports: Vec::new(),
            functions: 0,
            core_instances: 0,
        };
        let mut exports = Vec::new();
        let mut nested = None;
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(malformed)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CodeSectionStart { count, .. } => {
                    scan.functions = scan.functions.saturating_add(count)
                }
                Payload::InstanceSection(section) => {
                    scan.core_instances = scan.core_instances.saturating_add(section.count());
                }
                Payload::CustomSection(section) if section.name() == METADATA_SECTION => {
                    let place = if depth == 0 {
                        &mut scan.metadata
                    } else {
                        &mut nested
                    };
                    if place.is_some() && depth == 0 {
                        return Err(twice());
                    }
                    place.get_or_insert(section.data());
                }
                Payload::ImportSection(section) if depth == 0 => {
                    for import in section.into_imports() {
                        let import = import.map_err(malformed)?;
                        scan.imports.push(format!("{}.{}", import.module, import.name));
                    }
                }
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        scan.imports.push(import.map_err(malformed)?.name.name.to_owned());
                    }
                }
                Payload::ExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export.map_err(malformed)?;
                        exports.extend(
                            CORE_EXPORTS
                                .iter()
                                .filter(|it| **it == (export.name, export.kind))
                                .map(|it| it.0),
                        );
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export.map_err(malformed)?;
                        if export.kind == ComponentExternalKind::Instance
                            && is_version_of(export.name.name, GUEST_INTERFACE)
                        {
                            exports.push(GUEST_INTERFACE);
                        }
                    }
                }
                _ => {}
            }
        }
        scan.metadata = scan.metadata.or(nested);
        let wanted: &[&str] = match scan.abi {
            AbiKind::Component => &[GUEST_INTERFACE],
            AbiKind::CoreModule => &CORE_EXPORTS.map(|it| it.0),
        };
        scan.missing_exports = wanted
            .iter()
            .copied()
            .filter(|it| !exports.contains(it))
            .collect();
        Ok(scan)
    }

    /// Imports that no grant can satisfy.
    pub(crate) fn foreign_imports(&self) -> impl Iterator<Item = &str> {
        let abi = self.abi;
        self.imports
            .iter()
            .map(String::as_str)
            .filter(move |import| match abi {
                AbiKind::Component => !is_version_of(import, HOST_INTERFACE),
                AbiKind::CoreModule => !HOST_FUNCTIONS.iter().any(|function| {
                    import
                        .strip_prefix(HOST_MODULE)
                        .and_then(|it| it.strip_prefix('.'))
                        == Some(function)
                }),
            })
    }
}

/// Whether `name` is `interface` or an older or newer minor version of it, as the component linker matches them.
fn is_version_of(name: &str, interface: &str) -> bool {
    let (Some((name, version)), Some((interface, offered))) =
        (name.split_once('@'), interface.split_once('@'))
    else {
        return false;
    };
    let major = |version: &str| version.split('.').next().map(ToOwned::to_owned);
    name == interface && major(version) == major(offered)
}

/// Tells core modules and components apart by their header, and everything else by what it looks like.
fn recognise(bytes: &[u8]) -> Result<AbiKind, RuntimeError> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(RuntimeError::new(
            RuntimeErrorKind::NotAPlugin,
            "the artifact is compiled WebAssembly (.cwasm), and compiled code from elsewhere is never run: it could be any machine code",
            "ship the .wasm file; the host compiles it and keeps the result in its own cache",
        ));
    }
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(AbiKind::CoreModule),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(AbiKind::Component),
        [0, b'a', b's', b'm', version @ ..] => {
            let found: Vec<String> = version.iter().take(4).map(|it| format!("{it:02x}")).collect();
            Err(RuntimeError::new(
                RuntimeErrorKind::AbiMismatch,
                format!(
                    "the WebAssembly file has version `{}`; this host reads core modules (`01 00 00 00`) and components (`0d 00 01 00`)",
                    found.join(" ")
                ),
                "build the plugin with `mortise build`, or use a newer host",
            ))
        }
        _ => Err(RuntimeError::new(
            RuntimeErrorKind::NotAPlugin,
            format!(
                "the artifact is not WebAssembly: it is {}, and a .wasm file begins with `\\0asm`",
                look(bytes)
            ),
            "point the variant's `file` in plugin.toml at a .wasm file, or change its `runtime`",
        )),
    }
}

fn look(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "empty",
        [0x7f, b'E', b'L', b'F', ..] => "an ELF file (a native library or executable)",
        [b'M', b'Z', ..] => "a Windows executable or DLL",
        [0xcf, 0xfa, 0xed, 0xfe, ..] => "a Mach-O file",
        [b'!', b'<', b'a', b'r', b'c', b'h', ..] => "a static archive",
        _ if bytes.len() < 8 => "too short to be any",
        _ if bytes.is_ascii() => "text",
        _ => "something else",
    }
}

fn malformed(error: wasmparser::BinaryReaderError) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Malformed,
        format!(
            "the WebAssembly file is broken at byte {}: {}",
            error.offset(),
            error.message()
        ),
        "the file may be cut off or damaged; build the plugin again with `mortise build`",
    )
}

fn twice() -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Tampered,
        format!("the artifact has two custom sections `{METADATA_SECTION}`, and only one can be true"),
        "build the plugin again with `mortise build`; do not edit its output",
    )
}
