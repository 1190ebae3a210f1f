//! Subcommand: cargo xtask deny
//!
//! Licences, sources and banned crates of everything we depend on, by the rules of `deny.toml`. Advisories are left to a machine that can
//! reach their database.

use anyhow::{Result, bail};

use crate::{setup::cargo_tool, step::Step, workspace::Workspace};

/// Checks what we depend on.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, workspace: &Workspace) -> Result<()> {
    if !check(workspace)? {
        bail!(
            "cargo-deny is not installed; `cargo xtask setup` or `cargo install --locked cargo-deny` gets it"
        );
    }
    Ok(())
}

/// Whether it could be checked.
///
/// # Errors
/// If a rule does not hold.
pub(crate) fn check(workspace: &Workspace) -> Result<bool> {
    let Some(tool) = cargo_tool(workspace, "cargo-deny") else {
        return Ok(false);
    };
    let mut command = std::process::Command::new(tool);
    command.current_dir(workspace.root());
    command.args([
        "deny",
        "--all-features",
        "--log-level",
        "warn",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    Step::new(workspace, "cargo deny check bans licenses sources").run(&mut command)?;
    Ok(true)
}
