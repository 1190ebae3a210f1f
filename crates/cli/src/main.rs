//! The command `mortise`.
//!
//! This crate holds words and exit codes, nothing else that a library should have: what it does to plugins it asks the host, the
//! control socket or `mortise-build` to do. Errors come from those with their reasons; here they get their form:
//!
//! ```text
//! error: what failed and why
//!   --> file:line:column
//! hint: what to do
//! ```
//!
//! Standard output carries what was asked for and nothing else; progress, warnings and errors go to standard error.
//! Reading order: [`args`], [`exit`], [`output`], then one file per command.
#![forbid(unsafe_code)]

mod args;
mod cache;
mod cargo;
mod commands;
mod config;
mod exit;
mod output;
mod project;
mod runtimes;
mod shipped;
mod toolchain;

use clap::Parser;

use crate::{args::Cli, exit::Exit};

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let output = output::Output::new(cli.output, cli.color);
    let exit = match commands::dispatch(cli.command, &output) {
        Ok(()) => Exit::Done,
        Err(error) => output.error(&error),
    };
    exit.into()
}
