//! Subcommand: cargo xtask guests
//!
//! Builds every folder of `plugins/` that has a `plugin.toml` into `target/mortise-packages/debug/{folder}`, with the command that users have:
//! `mortise build`. What is newer than its package is built again, the rest is left alone.
//!
//! What is measured is built as users build it, into `target/mortise-packages/release`. Tests ask what a plugin does and not how fast, and theirs
//! leave out what costs most of a build ([`QUICK`]).
//!
//! `mortise build` knows Rust and C. What another compiler makes is handed to it as a core module; [`OTHER_COMPILERS`] lists those.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::succeeds,
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

/// Folders of `plugins/` whose WebAssembly is made by a compiler that `mortise build` does not run.
const OTHER_COMPILERS: &[(&str, Compiler)] = &[
    ("upper-as", Compiler::AssemblyScript),
    ("upper-c-wasm", Compiler::Clang),
];

/// Folders of `plugins/` that make sense in one runtime only.
const ONE_RUNTIME: &[(&str, &str)] = &[
    ("bad-process", "process"),
    ("echo-grpc", "process"),
    ("echo-1.1-grpc", "process"),
    ("counter-grpc", "process"),
    ("counter-1.1-grpc", "process"),
];

/// Makes a core module.
#[derive(Clone, Copy)]
enum Compiler {
    /// `asc`, of `assembly/index.ts`.
    AssemblyScript,
    /// `clang-14`, of `plugin.c`.
    Clang,
}

/// Our crates that end up in every Rust plugin, or decide what is written around it.
const BELOW_PLUGINS: &[&str] = &[
    "crates/abi",
    "crates/build",
    "crates/contract",
    "crates/goplugin",
    "crates/sdk",
    "crates/sdk-go-plugin",
    "crates/sdk-macros",
    "crates/shm",
    "crates/wire",
    "proto",
    "wit",
    "include",
];

/// Plugins optimise across crates and in one piece, for size or for speed as each likes. This way they are built in a third of the time, and share their
/// dependencies.
const QUICK: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
];

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let built = build(workspace, &args.names, Mortise::OfTests)?;
    for line in &built.skipped {
        say(&format!("  {line}"));
    }
    say(&format!(
        "guests: {} packages in target/mortise-packages/debug, {} built now",
        built.packages, built.fresh
    ));
    Ok(())
}

/// Builds all plugins, or those with `names`.
pub(crate) fn build(workspace: &Workspace, names: &[String], which: Mortise) -> Result<Built> {
    let plugins = plugins(workspace, names, which)?;
    let mut built = Built::default();
    if plugins.is_empty() {
        return Ok(built);
    }
    let mortise = mortise(workspace, which)?;
    let below = newest_of(BELOW_PLUGINS.iter().map(|folder| workspace.root().join(folder)))?;
    let mut faults = Vec::new();
    for plugin in &plugins {
        match build_one(workspace, &mortise, plugin, below, which) {
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

fn build_one(
    workspace: &Workspace,
    mortise: &Path,
    plugin: &Plugin,
    below: SystemTime,
    which: Mortise,
) -> Result<Outcome> {
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
    if let Mortise::OfTests = which {
        command.envs(QUICK.iter().copied());
    }
    if let Some((_, compiler)) = OTHER_COMPILERS.iter().find(|(name, _)| *name == plugin.name) {
        match compile(*compiler, workspace, plugin)? {
            Module::Made(file) => command.args(["--runtime", "wasm", "--module"]).arg(file),
            Module::Needs(what) => return Ok(Outcome::Needs(what)),
        };
    }
    if let Some((_, runtime)) = ONE_RUNTIME.iter().find(|(name, _)| *name == plugin.name) {
        command.args(["--runtime", runtime]);
    }
    Step::new(workspace, format!("mortise build plugins/{}", plugin.name)).run(&mut command)?;
    Ok(Outcome::Fresh)
}

/// A core module that another compiler made.
enum Module {
    Made(PathBuf),
    Needs(&'static str),
}

fn compile(compiler: Compiler, workspace: &Workspace, plugin: &Plugin) -> Result<Module> {
    let out = workspace.target().join("plugins/modules");
    fs::create_dir_all(&out)?;
    let file = out.join(format!("{}.wasm", plugin.name));
    let mut command = match compiler {
        Compiler::AssemblyScript => {
            let Some(asc) = asc(workspace) else {
                return Ok(Module::Needs("asc; `cargo xtask setup` gets it"));
            };
            let mut command = Command::new(asc);
            command.arg(plugin.folder.join("assembly/index.ts"));
            command.args(["-O", "--runtime", "incremental", "--use", "abort=", "--outFile"]);
            command
        }
        Compiler::Clang => {
            if !succeeds(Command::new("wasm-ld-14").arg("--version")) {
                return Ok(Module::Needs(
                    "clang-14 and lld-14; `cargo xtask setup` gets them",
                ));
            }
            let mut command = Command::new("clang-14");
            command.args([
                "--target=wasm32",
                "-O2",
                "-ffreestanding",
                "-fno-builtin",
                "-nostdlib",
                "-Wl,--no-entry",
            ]);
            command.arg(plugin.folder.join("plugin.c")).arg("-o");
            command
        }
    };
    Step::new(workspace, format!("compile plugins/{}", plugin.name)).run(command.arg(&file))?;
    Ok(Module::Made(file))
}

/// Which build of the command `mortise` makes the packages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mortise {
    /// The one that is built with all tests: building it alone would build its dependencies again, with other features.
    OfTests,
    /// The one that users get.
    Release,
}

fn mortise(workspace: &Workspace, which: Mortise) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    let (title, arguments, path): (_, &[&str], _) = match which {
        Mortise::OfTests => (
            "the workspace, with its tests",
            &["test", "--workspace", "--all-targets", "--no-run"],
            "debug/mortise",
        ),
        Mortise::Release => (
            "mortise, in release mode",
            &["build", "--release", "--package", "mortise-cli"],
            "release/mortise",
        ),
    };
    if let Mortise::OfTests = which {
        cargo.args(workspace.linting());
    }
    Step::new(workspace, title).run(cargo.args(arguments))?;
    Ok(workspace.target().join(path))
}

/// Where packages are put: those of tests, and those that are measured.
pub(crate) fn packages(workspace: &Workspace, which: Mortise) -> PathBuf {
    let profile = match which {
        Mortise::OfTests => "debug",
        Mortise::Release => "release",
    };
    workspace.target().join("mortise-packages").join(profile)
}

fn plugins(workspace: &Workspace, names: &[String], which: Mortise) -> Result<Vec<Plugin>> {
    let folder = workspace.root().join("plugins");
    let packages = packages(workspace, which);
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
            let package = packages.join(&name);
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
