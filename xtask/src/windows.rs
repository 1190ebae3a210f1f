//! Subcommand: cargo xtask windows
//!
//! Keeps the crates that claim to be portable so, on a Linux machine:
//! 1. `cargo check` for Windows and macOS of everything up to the native runtime.
//! 2. The conformance suite, the host in it, and its plugins as `.dll` files are built for Windows, by mingw's linker.
//! 3. The suite's cases of the native runtime run under wine.
//!
//! The cases run one after another: one of them counts what the whole process holds. What cannot be told under wine is in [`NOT_UNDER_WINE`].
//!
//! Only the first is done with `--check`. The standard libraries come from rustup where it has them, else from
//! [`crate::std_from_source`].
//!
//! macOS is checked and not linked, for want of Apple's libraries; C code of dependencies is left out for the same reason.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use mortise_manifest::{Manifest, RuntimeName, Variant};

use crate::{
    debian::{self, Outcome},
    guests,
    std_from_source::{Compiler, compiler_for},
    step::{Step, say},
    workspace::Workspace,
};

/// What this task needs from Debian.
pub(crate) const PACKAGES: &[&str] = &["gcc-mingw-w64-x86-64-posix", "wine", "wine64"];

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MACOS: &str = "aarch64-apple-darwin";
const MINGW: &str = "x86_64-w64-mingw32-gcc";

/// Crates that are not about one system.
const PORTABLE: &[&str] = &[
    "mortise-abi",
    "mortise-contract",
    "mortise-hazard",
    "mortise-lifecycle",
    "mortise-manifest",
    "mortise-routing",
    "mortise-runtime",
    "mortise-runtime-native",
    "mortise-section",
    "mortise-wire",
];

/// Folders of `plugins/` that the suite loads as libraries.
const PLUGINS: &[&str] = &["echo", "echo-1.1", "counter", "counter-1.1", "bad-guest"];

/// Cases that are left out, and why.
const NOT_UNDER_WINE: &[(&str, &str)] = &[(
    "endless_loop_is_stopped",
    "it reads processor time by process id, and wine's ids are not this machine's",
)];

/// Checks for Windows and macOS, and runs the native cases under wine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only `cargo check`
    #[arg(long)]
    check: bool,
    /// Only cases whose name contains this
    #[arg(default_value = "native::")]
    cases: String,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let packages = if args.check { &PACKAGES[..1] } else { PACKAGES };
    if let Outcome::Missing(command) =
        debian::install(workspace, packages, "Windows builds, and running them")?
    {
        bail!("this needs: {command}");
    }
    let faults: Vec<String> = [WINDOWS, MACOS]
        .into_iter()
        .filter_map(|target| check(workspace, target).err())
        .map(|error| format!("{error:#}"))
        .collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("\n\n"));
    }
    say(&format!(
        "windows: {} crates check for {WINDOWS} and {MACOS}",
        PORTABLE.len()
    ));
    if args.check {
        return Ok(());
    }
    let suite = artifact(
        workspace,
        "build the conformance suite for Windows",
        cross(workspace, WINDOWS)?.args(["build", "--package", "mortise-conformance", "--test", "suite"]),
        "exe",
    )?;
    let packages = plugins(workspace)?;
    let output = run_under_wine(workspace, &suite, &packages, &args.cases)?;
    let verdict = output.lines().rev().find(|line| line.starts_with("test result:"));
    say(&format!(
        "windows: {}",
        verdict.context("the suite printed no result")?
    ));
    Ok(())
}

fn check(workspace: &Workspace, target: &str) -> Result<()> {
    let mut cargo = cross(workspace, target)?;
    cargo.arg("check");
    for name in PORTABLE {
        cargo.args(["--package", name]);
    }
    Step::new(workspace, format!("cargo check for {target}")).run(&mut cargo)?;
    Ok(())
}

/// Cargo for another system; the caller adds the subcommand.
fn cross(workspace: &Workspace, target: &str) -> Result<Command> {
    let mut cargo = workspace.cargo();
    match compiler_for(workspace, target, &format!("{target}-toolchain"))? {
        Compiler::Own => {}
        Compiler::At(rustc) => {
            cargo.env("RUSTC", rustc);
        }
        Compiler::Missing(command) => bail!("this needs: {command}"),
    }
    cargo.env("CARGO_BUILD_TARGET", target);
    // It may be another compiler than the workspace's; in one folder, each would throw away what the other made.
    cargo.env("CARGO_TARGET_DIR", workspace.target().join("cross"));
    if target == MACOS {
        // As blake3's feature `pure`: no C compiler here makes code for macOS.
        cargo.env("CARGO_FEATURE_PURE", "1");
    }
    Ok(cargo)
}

/// Runs a build and returns the file with `extension` that it made last.
fn artifact(workspace: &Workspace, title: &str, cargo: &mut Command, extension: &str) -> Result<PathBuf> {
    let output =
        Step::new(workspace, title).run(cargo.args(["--message-format", "json-render-diagnostics"]))?;
    let mut files = output
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .flat_map(|message| {
            let names = message
                .get("filenames")
                .and_then(|names| names.as_array().cloned())
                .unwrap_or_default();
            names
                .iter()
                .filter_map(|name| name.as_str().map(PathBuf::from))
                .collect::<Vec<_>>()
        });
    let wanted = files.rfind(|file| file.extension().is_some_and(|it| it == extension));
    wanted.with_context(|| format!("{title}: cargo names no .{extension} file"))
}

/// Packages with one variant, a library for Windows. Everything but the library is that of the packages for this machine.
fn plugins(workspace: &Workspace) -> Result<PathBuf> {
    let names: Vec<String> = PLUGINS.iter().map(|name| (*name).to_owned()).collect();
    guests::build(workspace, &names, guests::Mortise::OfTests)?;
    let packages = workspace.target().join("windows/packages");
    for name in PLUGINS {
        let mut cargo = cross(workspace, WINDOWS)?;
        // In release mode, as `mortise build` does.
        cargo.args(["build", "--release", "--lib", "--manifest-path"]);
        cargo.arg(workspace.root().join("plugins").join(name).join("Cargo.toml"));
        let library = artifact(
            workspace,
            &format!("build plugins/{name} for Windows"),
            &mut cargo,
            "dll",
        )?;
        let made = guests::packages(workspace, guests::Mortise::OfTests).join(name);
        let manifest = made.join("plugin.toml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let mut manifest = Manifest::parse(&text, &workspace.relative(&manifest))?;
        let file = format!("{}.dll", manifest.name);
        manifest.variants = vec![Variant {
            runtime: RuntimeName::Native,
            file: file.clone(),
            dialect: None,
        }];
        let package = packages.join(name);
        fs::create_dir_all(&package)?;
        fs::write(package.join("plugin.toml"), manifest.to_toml())?;
        fs::copy(made.join("contract.binpb"), package.join("contract.binpb"))?;
        fs::copy(library, package.join(file))?;
    }
    Ok(packages)
}

fn run_under_wine(workspace: &Workspace, suite: &Path, packages: &Path, cases: &str) -> Result<String> {
    let folder = workspace.target().join("windows");
    let program = folder.join("suite.exe");
    fs::copy(suite, &program)?;
    let mut mingw = Command::new(MINGW);
    mingw
        .args(["-shared", "-O2", "-o"])
        .arg(folder.join("bcryptprimitives.dll"));
    mingw
        .arg(workspace.root().join("xtask/src/windows/process_prng.c"))
        .arg("-ladvapi32");
    Step::new(workspace, "bcryptprimitives.dll for wine").run(&mut mingw)?;
    let mut wine = Command::new("wine");
    wine.arg(&program)
        .args([cases, "--test-threads", "1"])
        .current_dir(&folder);
    for (case, why) in NOT_UNDER_WINE {
        say(&format!("  not run: {case}: {why}"));
        wine.args(["--skip", case]);
    }
    // Its own prefix, without the parts that ask questions or make menu entries.
    wine.env("WINEPREFIX", workspace.target().join("wine"))
        .env("WINEARCH", "win64");
    wine.env(
        "WINEDLLOVERRIDES",
        "mscoree,mshtml=;winemenubuilder.exe=d;bcryptprimitives=n,b",
    )
    .env("WINEDEBUG", "-all");
    // Wine shows the root of this machine as drive Z.
    wine.env(
        "MORTISE_PACKAGES",
        format!("Z:{}", packages.display()).replace('/', "\\"),
    );
    Step::new(workspace, format!("the suite's cases `{cases}` under wine"))
        .aloud()
        .run(&mut wine)
}
