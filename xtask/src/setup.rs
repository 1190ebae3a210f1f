//! Subcommand: cargo xtask setup
//!
//! Gets what the other tasks need, and says for each thing whether it was there, was made now, or what to do. Running it again does only
//! what is missing. As root on Debian it installs packages; as a plain user it prints the commands. Everything that is no Debian package goes
//! into `target/`, so removing that folder undoes it.
//!
//! What cannot be had is no error here: the tests that need it say `skipped: needs ..`, and `cargo xtask test` counts them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    debian::{self, Outcome, succeeds},
    std_from_source::{Compiler, compiler_for},
    step::{Step, say},
    workspace::Workspace,
};

/// The target of WebAssembly guests.
const WASM: &str = "wasm32-unknown-unknown";
/// The compiler of AssemblyScript guests.
const ASSEMBLYSCRIPT: &str = "assemblyscript@0.28.20";

/// Gets what the other tasks need.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what `cargo xtask windows` needs: a cross compiler and wine
    #[arg(long)]
    windows: bool,
}

/// What set-up came to.
#[derive(Default)]
pub(crate) struct Prepared {
    /// What is missing, and the command that would get it.
    pub(crate) missing: Vec<String>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let mut prepared = prepare(workspace)?;
    if args.windows {
        prepared.windows(workspace)?;
    }
    if prepared.missing.is_empty() {
        say("setup: everything is there");
        return Ok(());
    }
    say("\nsetup: this is missing, and these commands would get it:");
    for command in &prepared.missing {
        say(&format!("  {command}"));
    }
    say("The rest works without; tests that need it are counted as skipped.");
    Ok(())
}

/// What building and running plugins takes: a newcomer's first minutes.
pub(crate) fn prepare_plugins(workspace: &Workspace) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    prepared.debian(
        workspace,
        &["gcc", "g++"],
        "plugins in C, checks of include/mortise.h",
    )?;
    prepared.wasm(workspace)?;
    Ok(prepared)
}

/// What every test takes.
pub(crate) fn prepare(workspace: &Workspace) -> Result<Prepared> {
    let mut prepared = prepare_plugins(workspace)?;
    prepared.debian(workspace, &["clang-14", "lld-14"], "WebAssembly plugins in C")?;
    prepared.debian(
        workspace,
        &[
            "golang-go",
            "golang-github-hashicorp-go-plugin-dev",
            "golang-google-grpc-dev",
        ],
        "go-plugin's own plugins and hosts, in Go",
    )?;
    prepared.debian(workspace, &["etcd-server"], "configuration from etcd")?;
    prepared.debian(workspace, &["nats-server"], "events in NATS JetStream")?;
    if cfg!(target_arch = "x86_64") {
        prepared.debian(
            workspace,
            crate::cgroup2::PACKAGES,
            "a virtual machine that has cgroup version 2 alone",
        )?;
    }
    prepared.assemblyscript(workspace)?;
    prepared.cargo_tool(
        workspace,
        "cargo-nextest",
        "tests run one after another without it",
    )?;
    prepared.cargo_tool(
        workspace,
        "cargo-deny",
        "licences and sources are not checked without it",
    )?;
    prepared.miri(workspace);
    Ok(prepared)
}

/// The tool's program: in `target/tools`, else the one that is installed.
pub(crate) fn cargo_tool(workspace: &Workspace, name: &str) -> Option<PathBuf> {
    let own = workspace.target().join("tools/bin").join(name);
    let candidates = [own, PathBuf::from(name)];
    candidates.into_iter().find(|path| {
        let subcommand = name.trim_start_matches("cargo-");
        succeeds(Command::new(path).args([subcommand, "--version"]))
    })
}

/// Whether there is a nightly toolchain that can interpret tests.
pub(crate) fn has_miri() -> bool {
    succeeds(Command::new("rustup").args(["run", "nightly", "cargo", "miri", "--version"]))
}

/// The AssemblyScript compiler, if it was set up.
pub(crate) fn asc(workspace: &Workspace) -> Option<PathBuf> {
    let path = workspace.target().join("npm/node_modules/.bin/asc");
    path.exists().then_some(path)
}

// === impl Prepared ===

impl Prepared {
    fn debian(&mut self, workspace: &Workspace, packages: &[&'static str], why: &str) -> Result<()> {
        match debian::install(workspace, packages, why)? {
            Outcome::Present => say(&format!("  {}: there", packages.join(" "))),
            Outcome::Installed => say(&format!("  {}: installed", packages.join(" "))),
            Outcome::Missing(command) => self.missing.push(command),
        }
        Ok(())
    }

    fn wasm(&mut self, workspace: &Workspace) -> Result<()> {
        match compiler_for(workspace, WASM, "wasm-toolchain")? {
            Compiler::Own => say(&format!("  {WASM}: rustc has it")),
            Compiler::At(path) => say(&format!("  {WASM}: {} has it", workspace.relative(&path))),
            Compiler::Missing(command) => self.missing.push(command),
        }
        Ok(())
    }

    fn assemblyscript(&mut self, workspace: &Workspace) -> Result<()> {
        if asc(workspace).is_some() {
            say("  assemblyscript: there");
            return Ok(());
        }
        if !succeeds(Command::new("npm").arg("--version")) {
            self.missing.push(
                "sudo apt-get install --no-install-recommends nodejs npm    # plugins in AssemblyScript"
                    .to_owned(),
            );
            return Ok(());
        }
        let folder = workspace.target().join("npm");
        std::fs::create_dir_all(&folder)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"])
            .arg(&folder)
            .arg(ASSEMBLYSCRIPT);
        let installed = Step::new(workspace, format!("npm install {ASSEMBLYSCRIPT}")).run(&mut npm);
        self.tolerate(
            installed.map(drop),
            &format!("npm install --prefix target/npm {ASSEMBLYSCRIPT}"),
        );
        Ok(())
    }

    fn cargo_tool(&mut self, workspace: &Workspace, name: &str, why: &str) -> Result<()> {
        if let Some(path) = cargo_tool(workspace, name) {
            say(&format!(
                "  {name}: {}",
                if path == Path::new(name) {
                    "there".into()
                } else {
                    workspace.relative(&path)
                }
            ));
            return Ok(());
        }
        let root = workspace.target().join("tools");
        let mut cargo = workspace.cargo();
        // They look at files and start programs: compiling them takes longer than optimised code would ever save.
        cargo
            .args(["install", "--locked", "--debug", "--root"])
            .arg(&root)
            .arg(name);
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        // Its own folder for what it compiles: ours is locked while a task of ours runs.
        cargo.env("CARGO_TARGET_DIR", root.join("build"));
        let installed =
            Step::new(workspace, format!("cargo install {name} (some minutes, once)")).run(&mut cargo);
        let _ = std::fs::remove_dir_all(root.join("build"));
        self.tolerate(
            installed.map(drop),
            &format!("cargo install --locked {name}    # {why}"),
        );
        Ok(())
    }

    fn miri(&mut self, workspace: &Workspace) {
        if has_miri() {
            say("  miri: there");
            return;
        }
        const COMMAND: &str = "rustup component add miri rust-src --toolchain nightly";
        let mut rustup = Command::new("rustup");
        rustup.args(COMMAND.split(' ').skip(1));
        let added = Step::new(workspace, COMMAND).run(&mut rustup);
        self.tolerate(
            added.map(drop),
            &format!(
                "rustup toolchain install nightly && {COMMAND}    # unsafe code is not interpreted without it"
            ),
        );
    }

    /// What only `cargo xtask windows` needs.
    fn windows(&mut self, workspace: &Workspace) -> Result<()> {
        self.debian(
            workspace,
            crate::windows::PACKAGES,
            "Windows builds, and running them",
        )
    }

    /// Says what failed and goes on: what is missing is counted, not fatal.
    fn tolerate(&mut self, result: Result<()>, command: &str) {
        if let Err(error) = result {
            let first = error.to_string();
            say(&format!(
                "  not available: {}",
                first.lines().next().unwrap_or_default()
            ));
            self.missing.push(command.to_owned());
        }
    }
}
