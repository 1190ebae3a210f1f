//! `mortise build`: one source, one package, a file per runtime.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use mortise::manifest::RuntimeName;
use serde::Serialize;

use crate::{
    args::{Build, Variant},
    cargo::{Built, CargoBuild, Crate},
    exit::{Failure, Fault},
    output::{Output, bytes, table},
    project::{Artifact, Content, Project},
    toolchain::{self, WASM_TARGET},
};

/// The C ABI, for plugins in C: the command brings it along.
const MORTISE_H: &str = include_str!("../../../../include/mortise.h");

#[derive(Serialize)]
struct Report {
    plugin: String,
    version: String,
    package: PathBuf,
    variants: Vec<ReportRow>,
    ms: u128,
}

#[derive(Serialize)]
struct ReportRow {
    runtime: &'static str,
    file: String,
    bytes: u64,
}

pub(crate) fn build(args: &Build, output: &Output) -> anyhow::Result<()> {
    let begun = Instant::now();
    let project = Project::open(&args.path)?;
    let out = args.out.clone().unwrap_or_else(|| project.package_dir());
    let source = SourceKind::of(args)?;
    let wanted = source.wanted(&args.runtime)?;
    let artifacts = match source {
        SourceKind::Rust => from_rust(&project, wanted, args.runtime.is_empty(), output)?,
        SourceKind::Foreign { c, module } => from_foreign(&project, &c, module.as_deref(), &wanted)?,
    };
    project.write_package(&out, artifacts)?;

    let (_, manifest) = crate::project::read_manifest(&out)?;
    let size = |file: &str| fs::metadata(out.join(file)).map_or(0, |it| it.len());
    let rows = manifest.variants.iter().map(|it| ReportRow {
        runtime: it.runtime.as_str(),
        file: it.file.clone(),
        bytes: size(&it.file),
    });
    let report = Report {
        plugin: manifest.name.clone(),
        version: manifest.version.to_string(),
        package: out.clone(),
        variants: rows.collect(),
        ms: begun.elapsed().as_millis(),
    };
    output.answer(&report, |report| {
        let rows: Vec<_> = report
            .variants
            .iter()
            .map(|it| vec![it.runtime.to_owned(), it.file.clone(), bytes(it.bytes)])
            .collect();
        let (plugin, version, package) = (&report.plugin, &report.version, report.package.display());
        format!(
            "{plugin} {version} is in {package}\n{}",
            table(&["RUNTIME", "FILE", "SIZE"], &rows)
        )
    })
}

/// What a plugin is written in.
enum SourceKind {
    /// A crate.
    Rust,
    /// C sources for `native`, a finished module for `wasm`.
    Foreign {
        c: Vec<PathBuf>,
        module: Option<PathBuf>,
    },
}

impl SourceKind {
    fn of(args: &Build) -> Result<Self, Failure> {
        let has_crate = args.path.join("Cargo.toml").is_file();
        if has_crate && args.c.is_empty() && args.module.is_none() {
            return Ok(Self::Rust);
        }
        let c = match (&args.c[..], &args.module) {
            ([], None) => c_sources(&args.path),
            (named, _) => named.to_vec(),
        };
        if c.is_empty() && args.module.is_none() {
            let message = format!("`{}` has neither a Cargo.toml nor C sources", args.path.display());
            let hint = "name C sources with `--c`, or a WebAssembly module with `--module`";
            return Err(Failure::new(Fault::new(message).hint(hint)));
        }
        Ok(Self::Foreign {
            c,
            module: args.module.clone(),
        })
    }

    /// The runtimes to build for: those asked for, or all that the source allows.
    fn wanted(&self, asked: &[Variant]) -> Result<BTreeSet<Variant>, Failure> {
        let can: &[Variant] = match self {
            Self::Rust => &[Variant::Native, Variant::Wasm, Variant::Process],
            Self::Foreign { c, module } => match (c.is_empty(), module) {
                (false, None) => &[Variant::Native],
                (false, Some(_)) => &[Variant::Native, Variant::Wasm],
                (true, _) => &[Variant::Wasm],
            },
        };
        if let Some(cannot) = asked.iter().find(|it| !can.contains(it)) {
            let hint = match cannot {
                Variant::Wasm => {
                    "compile it to a WebAssembly core module with its own tools, and name that with `--module`"
                }
                Variant::Native => "name its C sources with `--c`",
                Variant::Process => {
                    "only a crate with a src/main.rs becomes an executable that speaks the lane"
                }
            };
            let message = format!("this source cannot be built for {}", name(*cannot));
            return Err(Failure::new(Fault::new(message).hint(hint)));
        }
        Ok(if asked.is_empty() { can } else { asked }
            .iter()
            .copied()
            .collect())
    }
}

fn name(variant: Variant) -> RuntimeName {
    match variant {
        Variant::Native => RuntimeName::Native,
        Variant::Wasm => RuntimeName::Wasm,
        Variant::Process => RuntimeName::Process,
    }
}

/// The .c files of a folder, or of its `src`.
fn c_sources(dir: &Path) -> Vec<PathBuf> {
    let of = |dir: &Path| {
        let entries = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|it| it.path());
        let mut files: Vec<_> = entries
            .filter(|it| it.extension().is_some_and(|it| it == "c"))
            .collect();
        files.sort();
        files
    };
    let own = of(dir);
    if own.is_empty() { of(&dir.join("src")) } else { own }
}

// === Rust ===

fn from_rust(
    project: &Project,
    mut wanted: BTreeSet<Variant>,
    all: bool,
    output: &Output,
) -> anyhow::Result<Vec<Artifact>> {
    let dir = std::path::absolute(&project.dir)?;
    let krate = Crate::read(&dir)?;
    let mut artifacts = Vec::new();
    if all && !krate.has_main {
        wanted.remove(&Variant::Process);
    }
    if wanted.contains(&Variant::Process) && !krate.has_main {
        let fault = Fault::new("the crate has no src/main.rs, so it cannot become an executable")
            .at(dir.join("Cargo.toml").display());
        let hint = format!(
            "write `mortise_sdk::main!({});` into src/main.rs",
            project.manifest.name.replace('-', "_")
        );
        return Err(Failure::new(fault.hint(hint)).into());
    }
    // One compile gives both.
    let mut args = Vec::new();
    if wanted.contains(&Variant::Native) {
        args.push("--lib");
    }
    if wanted.contains(&Variant::Process) {
        args.push("--bins");
    }
    if !args.is_empty() {
        let label = match args[..] {
            ["--lib"] => "native",
            ["--bins"] => "process",
            _ => "native, process",
        };
        let built = krate.build(
            &CargoBuild {
                dir: &dir,
                label,
                args: &args,
                rustc: None,
            },
            output,
        )?;
        if wanted.contains(&Variant::Native) {
            artifacts.push(native(project, &built)?);
        }
        if wanted.contains(&Variant::Process) {
            artifacts.push(process(project, built)?);
        }
    }
    if wanted.contains(&Variant::Wasm) {
        let wasm = toolchain::wasm(&dir)?;
        tracing::debug!(found = %wasm.found, "toolchain for WebAssembly");
        let args = ["--lib", "--target", WASM_TARGET];
        let build = CargoBuild {
            dir: &dir,
            label: "wasm",
            args: &args,
            rustc: wasm.rustc.as_deref(),
        };
        let built = krate.build(&build, output)?;
        artifacts.push(component(project, &built)?);
    }
    Ok(artifacts)
}

fn native(project: &Project, built: &Built) -> Result<Artifact, Failure> {
    let library = built
        .library
        .clone()
        .ok_or_else(|| Failure::new(Fault::new("cargo made no shared library")))?;
    let file = format!("{}{}", project.manifest.name, env::consts::DLL_SUFFIX);
    Ok(Artifact {
        runtime: RuntimeName::Native,
        file,
        content: Content::File(library),
    })
}

fn process(project: &Project, built: Built) -> Result<Artifact, Failure> {
    let name = &project.manifest.name;
    let mut executables = built.executables;
    let own = executables.iter().position(|(it, _)| it == name);
    let executable = match (own, executables.len()) {
        (Some(at), _) => executables.swap_remove(at).1,
        (None, 1) => executables.swap_remove(0).1,
        _ => {
            let names: Vec<_> = executables.iter().map(|(name, _)| format!("`{name}`")).collect();
            let fault = Fault::new(format!(
                "the crate has several executables ({}), and none is called `{name}`",
                names.join(", ")
            ));
            return Err(Failure::new(
                fault.hint("call the one that speaks the lane like the plugin"),
            ));
        }
    };
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    Ok(Artifact {
        runtime: RuntimeName::Process,
        file,
        content: Content::File(executable),
    })
}

fn component(project: &Project, built: &Built) -> Result<Artifact, Failure> {
    let library = built
        .library
        .clone()
        .ok_or_else(|| Failure::new(Fault::new("cargo made no WebAssembly module")))?;
    let core = read(&library)?;
    let component = mortise_build::componentize(&core)
        .map_err(|error| Failure::new(Fault::new(error.to_string()).at(library.display())))?;
    let file = format!("{}.wasm", project.manifest.name);
    Ok(Artifact {
        runtime: RuntimeName::Wasm,
        file,
        content: Content::Bytes(component),
    })
}

// === other languages ===

fn from_foreign(
    project: &Project,
    c: &[PathBuf],
    module: Option<&Path>,
    wanted: &BTreeSet<Variant>,
) -> anyhow::Result<Vec<Artifact>> {
    let mut artifacts = Vec::new();
    if wanted.contains(&Variant::Native) {
        artifacts.push(shared_library(project, c)?);
    }
    if let Some(module) = module.filter(|_| wanted.contains(&Variant::Wasm)) {
        artifacts.push(core_module(project, module)?);
    }
    Ok(artifacts)
}

/// Compiles C with the header and the metadata beside it: `#include "mortise.h"`, then `#include "metadata.h"`.
fn shared_library(project: &Project, sources: &[PathBuf]) -> anyhow::Result<Artifact> {
    let compiler = PathBuf::from(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let dir = project.dir.join("target/mortise/c");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("mortise.h"), MORTISE_H)?;
    let target = format!("{}-{}", env::consts::ARCH, env::consts::OS);
    let metadata = mortise::wire::Metadata {
        toolchain: toolchain::version(&compiler),
        target,
        ..project.metadata.clone()
    };
    fs::write(dir.join("metadata.h"), mortise_build::write_c(&metadata))?;
    let file = format!("{}{}", project.manifest.name, env::consts::DLL_SUFFIX);
    let library = dir.join(&file);
    let run = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-Wall", "-I"])
        .arg(&dir)
        .arg("-o")
        .arg(&library)
        .args(sources)
        .output();
    let run = run.map_err(|error| {
        let message = format!("cannot run the C compiler `{}`: {error}", compiler.display());
        Failure::new(Fault::new(message).hint("install one, or name it with $CC"))
    })?;
    let said = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        eprint!("{said}");
        let message = format!(
            "`{}` could not compile the plugin; what it says stands above",
            compiler.display()
        );
        return Err(Failure::new(Fault::new(message)).into());
    }
    eprint!("{said}");
    Ok(Artifact {
        runtime: RuntimeName::Native,
        file,
        content: Content::File(library),
    })
}

/// Appends the metadata to a finished module, or to a finished component.
fn core_module(project: &Project, module: &Path) -> Result<Artifact, Failure> {
    let refuse = |why: &str, hint: &str| Failure::new(Fault::new(why).at(module.display()).hint(hint));
    let mut wasm = read(module)?;
    if !wasm.starts_with(b"\0asm") {
        return Err(refuse(
            "this is no WebAssembly",
            "name a .wasm file, not its text form",
        ));
    }
    if has_section(&wasm, mortise_build::METADATA_SECTION) {
        return Err(refuse(
            "it has metadata already",
            "package the file as its compiler wrote it; metadata is added here",
        ));
    }
    let metadata = project.metadata_for("wasm32", "");
    let section = wasm_encoder::CustomSection {
        name: mortise_build::METADATA_SECTION.into(),
        data: metadata.into(),
    };
    // A custom section has the same form in a module and in a component.
    wasm.push(0);
    wasm_encoder::Encode::encode(&section, &mut wasm);
    let file = format!("{}.wasm", project.manifest.name);
    Ok(Artifact {
        runtime: RuntimeName::Wasm,
        file,
        content: Content::Bytes(wasm),
    })
}

/// Whether a module or component has a custom section called `name` at its top level. What does not parse has none: a host will say more.
fn has_section(wasm: &[u8], name: &str) -> bool {
    let mut rest = wasm.get(8..).unwrap_or_default();
    while let Some((&id, after)) = rest.split_first() {
        let Some((length, body)) = leb128(after) else {
            return false;
        };
        let Some(section) = body.get(..length) else {
            return false;
        };
        if id == 0
            && let Some((length, text)) = leb128(section)
            && text.get(..length) == Some(name.as_bytes())
        {
            return true;
        }
        rest = &body[length..];
    }
    false
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &bytes[at + 1..]));
        }
    }
    None
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::new(Fault::new(format!("cannot read `{}`: {error}", path.display()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_custom_sections() {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        assert!(!has_section(&wasm, "mortise"));
        for (name, data) in [("name", vec![1; 300]), ("mortise", vec![2; 5])] {
            wasm.push(0);
            let section = wasm_encoder::CustomSection {
                name: name.into(),
                data: data.into(),
            };
            wasm_encoder::Encode::encode(&section, &mut wasm);
        }
        assert!(has_section(&wasm, "mortise") && has_section(&wasm, "name"));
        assert!(!has_section(&wasm, "mort"));
        for end in 0..wasm.len() {
            // Cut anywhere: no panic, and nothing found that is not whole.
            assert!(!has_section(&wasm[..end], "mortise"), "cut at {end}");
        }
    }
}
