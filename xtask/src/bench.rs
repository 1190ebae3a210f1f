//! Subcommand: cargo xtask bench
//!
//! Builds the host and the plugins in release mode and prints every figure beside its anchor. Nothing here passes or fails a build: figures of a
//! shared machine do not belong in tests.

use anyhow::Result;

use crate::{
    guests, setup,
    step::{Step, say},
    workspace::Workspace,
};

/// Measures Mortise beside its anchors.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on: `--only native|routing|evolve|wasm|lanes|starting|loading|watching|rpc`, `--seconds N`, `--json`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::prepare(workspace)?;
    let folders = [
        "echo",
        "echo-grpc",
        "echo-1.1",
        "echo-c",
        "counter",
        "counter-1.1",
        "parcel-1",
        "parcel-2",
        "parcel-3",
        "parcel-4",
        "parcel-adapter",
    ]
    .map(str::to_owned);
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
    Step::new(workspace, "the benchmarks, in release mode").run(&mut cargo)?;
    say("measuring; about three minutes");
    let mut bench = std::process::Command::new(workspace.target().join("release/mortise-bench"));
    let status = bench.arg("table").args(&args.rest).status()?;
    anyhow::ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(())
}
