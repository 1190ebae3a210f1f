//! `cargo xtask`: what developers and CI run. Without a subcommand it prints the list.
//!
//! Each subcommand is one file that opens with `//! Subcommand: cargo xtask X`. To add one: a file with `Args` and
//! `pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()>`, a `mod` line and a variant of [`Task`].
//!
//! What several of them need: [`workspace`] (what cargo knows about our crates), [`step`] (one visible step that runs a program),
//! [`faults`] (rules that report every place they do not hold at) and [`std_from_source`].
#![forbid(unsafe_code)]

mod bench;
mod cgroup2;
mod demo;
mod deny;
mod guests;
mod layers;
mod setup;
mod soak;
mod test;
mod tidy;
mod windows;

mod debian;
mod faults;
mod http;
mod std_from_source;
mod step;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::workspace::Workspace;

/// Development tasks of this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// One plugin, three runtimes, real photographs, and a swap under load
    Demo(demo::Args),
    /// Every figure beside its anchor, in one run
    Bench(bench::Args),
    /// Swaps a plugin with state thousands of times under load, every call accounted for
    Soak(soak::Args),
    /// Gets what the other tasks need; safe to run again
    Setup(setup::Args),
    /// Runs set-up, every check and every test: what CI runs
    Test(test::Args),
    /// Builds the packages of plugins/ that tests and demo use
    Guests(guests::Args),
    /// Checks that arrows between crates point inward and that the inner rings wait for nothing
    Layers(layers::Args),
    /// Checks what compilers do not: module docs, sizes, forbidden text, the code map
    Tidy(tidy::Args),
    /// Checks licences, sources and banned crates of everything we depend on
    Deny(deny::Args),
    /// Checks or builds for Windows and macOS; runs the native cases under wine
    Windows(windows::Args),
    /// Runs the tests of the processes' limits in a virtual machine that has cgroup version 2 alone
    Cgroup2(cgroup2::Args),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.task {
        Some(task) => perform(task),
        None => Arguments::command().print_help().map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Demo(args) => demo::run(&args, &workspace),
        Task::Bench(args) => bench::run(&args, &workspace),
        Task::Soak(args) => soak::run(&args, &workspace),
        Task::Setup(args) => setup::run(&args, &workspace),
        Task::Test(args) => test::run(&args, &workspace),
        Task::Guests(args) => guests::run(&args, &workspace),
        Task::Layers(args) => layers::run(&args, &workspace),
        Task::Tidy(args) => tidy::run(&args, &workspace),
        Task::Deny(args) => deny::run(&args, &workspace),
        Task::Windows(args) => windows::run(&args, &workspace),
        Task::Cgroup2(args) => cgroup2::run(&args, &workspace),
    }
}
