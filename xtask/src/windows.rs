//! Subcommand: cargo xtask windows
//!
//! Keeps the crates that claim to be portable so, on a Linux machine: `cargo check` for Windows and macOS of everything up to the native
//! runtime.
//!
//! The compiler and its standard library come from [`crate::std_from_source`], the Windows linker from mingw.

use anyhow::{Result, bail};

use crate::{
    debian::{self, Outcome},
    std_from_source::{Compiler, compiler_for},
    step::{Step, say},
    workspace::Workspace,
};

/// What this task needs from Debian.
pub(crate) const PACKAGES: &[&str] = &["gcc-mingw-w64-x86-64-posix", "wine", "wine64"];

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MACOS: &str = "aarch64-apple-darwin";

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

/// Checks or builds for Windows and macOS.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only `cargo check`
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    for target in [WINDOWS, MACOS] {
        if let Err(error) = check(workspace, target) {
            faults.push(format!("{error:#}"));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n\n"));
    }
    say(&format!(
        "windows: {} crates check for {WINDOWS} and {MACOS}",
        PORTABLE.len()
    ));
    let _ = args.check;
    Ok(())
}

fn check(workspace: &Workspace, target: &str) -> Result<()> {
    if target == WINDOWS
        && let Outcome::Missing(command) =
            debian::install(workspace, &PACKAGES[..1], "std for Windows needs its dlltool")?
    {
        bail!("this needs: {command}");
    }
    let mut cargo = workspace.cargo();
    match compiler_for(workspace, target, &format!("{target}-toolchain"))? {
        Compiler::Own => {}
        Compiler::At(rustc) => {
            cargo.env("RUSTC", rustc);
        }
        Compiler::Missing(command) => bail!("this needs: {command}"),
    }
    cargo.args(["check", "--target", target]);
    // Another compiler than the workspace's: in one folder, each would throw away what the other made.
    cargo.env("CARGO_TARGET_DIR", workspace.target().join("cross"));
    for name in PORTABLE {
        cargo.args(["--package", name]);
    }
    Step::new(workspace, format!("cargo check for {target}")).run(&mut cargo)?;
    Ok(())
}
