//! Subcommand: cargo xtask soak
//!
//! Swaps a plugin with state thousands of times under load, while nothing fails, while the plugin crashes and while the host is killed, and accounts
//! for every call. The long run is this; `cargo xtask test` makes a short one.

use anyhow::Result;

use crate::{
    guests, setup,
    step::{Step, say},
    workspace::Workspace,
};

/// Swaps by the thousand under load, every call accounted for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Swaps per in-process runtime; a tenth of them for processes
    #[arg(long, default_value_t = 20_000)]
    swaps: u64,
    /// Only this runtime
    #[arg(long)]
    runtime: Option<String>,
    /// Only this variant: steady, together, crashing or killed
    #[arg(long)]
    variant: Option<String>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::prepare(workspace)?;
    let folders = ["counter", "counter-1.1", "left", "right"].map(str::to_owned);
    guests::build(workspace, &folders, guests::Mortise::Release)?;
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "mortise-bench",
        "--bin",
        "mortise-bench",
    ]);
    Step::new(workspace, "the soak, in release mode").run(&mut cargo)?;
    say(&format!("swapping {} times per runtime", args.swaps));
    let mut soak = std::process::Command::new(workspace.target().join("release/mortise-bench"));
    soak.args(["soak", "--swaps", &args.swaps.to_string()]);
    for (option, value) in [("--runtime", &args.runtime), ("--variant", &args.variant)] {
        if let Some(value) = value {
            soak.args([option, value]);
        }
    }
    let status = soak.status()?;
    anyhow::ensure!(status.success(), "the soak ended with {status}");
    Ok(())
}
