//! Subcommand: cargo xtask guests
//!
//! Builds every folder of `plugins/` that has a `plugin.toml` into `target/mortise-packages/{folder}`, with the command that users have:
//! `mortise build`. What is newer than its package is built again, the rest is left alone.
//!
//! What a folder holds says how it is built:
//! - `Cargo.toml`: Rust, for every runtime that its source allows.
//! - `src/*.c`: C; a shared library. With `src/wasm.c`, also a core module, by clang.
//! - `assembly/index.ts`: AssemblyScript; a core module, by asc.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::{
    setup::asc,
    step::{Step, say},
    workspace::Workspace,
};

/// Builds the packages of plugins/.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these folders of plugins/
    names: Vec<String>,
}

/// What building came to.
#[derive(Default)]
pub(crate) struct Built {
    /// Packages that exist now.
    pub(crate) packages: usize,
    /// How many of them were built this time.
    pub(crate) fresh: usize,
    /// What could not be built here, and what it needs.
    pub(crate) skipped: Vec<String>,
}

/// A folder of `plugins/`.
struct Plugin {
    name: String,
    folder: PathBuf,
    package: PathBuf,
}

/// Our crates that end up in every Rust plugin, or decide what is written around it.
const BELOW_PLUGINS: &[&str] = &[
    "crates/abi",
    "crates/build",
    "crates/contract",
    "crates/sdk",
    "crates/sdk-macros",
    "crates/wire",
    "proto",
    "wit",
    "include",
];

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let built = build(workspace, &args.names)?;
    for line in &built.skipped {
        say(&format!("  {line}"));
    }
    say(&format!(
        "guests: {} packages in target/mortise-packages, {} built now",
        built.packages, built.fresh
    ));
    Ok(())
}

/// Builds all plugins, or those with `names`.
pub(crate) fn build(workspace: &Workspace, names: &[String]) -> Result<Built> {
    let plugins = plugins(workspace, names)?;
    let mut built = Built::default();
    if plugins.is_empty() {
        return Ok(built);
    }
    let mortise = mortise(workspace)?;
    let below = newest_of(BELOW_PLUGINS.iter().map(|folder| workspace.root().join(folder)))?;
    let mut faults = Vec::new();
    for plugin in &plugins {
        match build_one(workspace, &mortise, plugin, below) {
            Ok(Outcome::Fresh) => {
                built.fresh += 1;
                built.packages += 1;
            }
            Ok(Outcome::Kept) => built.packages += 1,
            Ok(Outcome::Needs(what)) => built
                .skipped
                .push(format!("skipped: plugins/{} needs {what}", plugin.name)),
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    if !faults.is_empty() {
        bail!(
            "{} of {} plugins cannot be built\n\n{}",
            faults.len(),
            plugins.len(),
            faults.join("\n\n")
        );
    }
    Ok(built)
}

enum Outcome {
    Fresh,
    Kept,
    Needs(&'static str),
}

fn build_one(workspace: &Workspace, mortise: &Path, plugin: &Plugin, below: SystemTime) -> Result<Outcome> {
    let source = newest(&plugin.folder)?.max(below).max(modified(mortise)?);
    let stamp = plugin.package.join("plugin.toml");
    if modified(&stamp).is_ok_and(|made| made > source) {
        return Ok(Outcome::Kept);
    }
    let mut command = Command::new(mortise);
    command
        .arg("build")
        .arg(&plugin.folder)
        .arg("--out")
        .arg(&plugin.package);
    command.env("CARGO_TARGET_DIR", workspace.target().join("plugins"));
    match module(workspace, plugin)? {
        Module::None => {}
        Module::Made(file) => {
            command.arg("--module").arg(file);
        }
        Module::Needs(what) => return Ok(Outcome::Needs(what)),
    }
    Step::new(workspace, format!("mortise build plugins/{}", plugin.name)).run(&mut command)?;
    Ok(Outcome::Fresh)
}

/// A core module that another compiler made.
enum Module {
    None,
    Made(PathBuf),
    Needs(&'static str),
}

fn module(workspace: &Workspace, plugin: &Plugin) -> Result<Module> {
    let out = workspace.target().join("plugins/modules");
    fs::create_dir_all(&out)?;
    let file = out.join(format!("{}.wasm", plugin.name));
    let assembly = plugin.folder.join("assembly/index.ts");
    if assembly.exists() {
        let Some(asc) = asc(workspace) else {
            return Ok(Module::Needs("asc; `cargo xtask setup` gets it"));
        };
        let mut command = Command::new(asc);
        command
            .arg(&assembly)
            .args(["--optimize", "--exportRuntime", "--use", "abort=", "--outFile"])
            .arg(&file);
        Step::new(workspace, format!("asc plugins/{}", plugin.name)).run(&mut command)?;
        return Ok(Module::Made(file));
    }
    let c = plugin.folder.join("src/wasm.c");
    if c.exists() && !plugin.folder.join("Cargo.toml").exists() {
        let mut command = Command::new("clang-14");
        command.args([
            "--target=wasm32-unknown-unknown",
            "-O2",
            "-nostdlib",
            "-ffreestanding",
            "-Wall",
            "-Wextra",
            "-Werror",
        ]);
        command.args(["-Wl,--no-entry", "-Wl,--export-dynamic", "-fvisibility=hidden"]);
        command
            .arg("-I")
            .arg(workspace.root().join("include"))
            .arg(&c)
            .arg("-o")
            .arg(&file);
        if !crate::debian::succeeds(Command::new("clang-14").arg("--version")) {
            return Ok(Module::Needs(
                "clang-14 and lld-14; `cargo xtask setup` gets them",
            ));
        }
        Step::new(workspace, format!("clang plugins/{}", plugin.name)).run(&mut command)?;
        return Ok(Module::Made(file));
    }
    Ok(Module::None)
}

/// The command `mortise`, built as tests use it.
fn mortise(workspace: &Workspace) -> Result<PathBuf> {
    Step::new(workspace, "cargo build mortise").run(workspace.cargo().args([
        "build",
        "--package",
        "mortise-cli",
    ]))?;
    Ok(workspace.target().join("debug/mortise"))
}

fn plugins(workspace: &Workspace, names: &[String]) -> Result<Vec<Plugin>> {
    let folder = workspace.root().join("plugins");
    let mut plugins = Vec::new();
    if !folder.exists() {
        return Ok(plugins);
    }
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let folder = entry?.path();
        let name = folder
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        if folder.join("plugin.toml").exists() && (names.is_empty() || names.contains(&name)) {
            let package = workspace.target().join("mortise-packages").join(&name);
            plugins.push(Plugin {
                name,
                folder,
                package,
            });
        }
    }
    if let Some(unknown) = names
        .iter()
        .find(|name| !plugins.iter().any(|plugin| plugin.name == **name))
    {
        bail!("plugins/{unknown} has no plugin.toml");
    }
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(plugins)
}

// === times ===

fn modified(path: &Path) -> Result<SystemTime> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(metadata.modified()?)
}

fn newest_of(paths: impl Iterator<Item = PathBuf>) -> Result<SystemTime> {
    paths
        .map(|path| newest(&path))
        .try_fold(SystemTime::UNIX_EPOCH, |latest, time| Ok(latest.max(time?)))
}

/// When the newest file under `path` was written; build output aside.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut latest = modified(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            let path = entry?.path();
            if !path.ends_with("target") && !path.ends_with("tests") {
                latest = latest.max(newest(&path)?);
            }
        }
    }
    Ok(latest)
}
