//! One file per command, or per family of commands.

mod build;
mod call;
mod canary;
mod check;
mod config;
mod contract;
mod doctor;
mod events;
mod import;
mod metadata;
mod new;
mod remote;
mod route;
mod run;
mod serve;
mod show;

use clap::CommandFactory;

use crate::{
    args::{Cli, Command, Import, ImportFrom},
    exit::{Failure, Fault},
    output::Output,
};

pub(crate) fn dispatch(command: Command, output: &Output) -> anyhow::Result<()> {
    match command {
        Command::New(args) => new::new(&args, output),
        Command::Build(args) => build::build(&args, output),
        Command::Check(args) => check::check(&args, output),
        Command::Import(Import {
            from: ImportFrom::GoPlugin(args),
        }) => import::go_plugin(&args, output),
        Command::Contract(args) => contract::contract(&args.task, output),
        Command::Metadata(args) => metadata::metadata(&args, output),
        Command::Run(args) => run::run(args, output),
        Command::Serve(args) => serve::serve(&args),
        Command::Load(args) => remote::load(args, output),
        Command::Unload(args) => remote::unload(args, output),
        Command::List(args) => remote::list(&args, output),
        Command::Graph(args) => remote::graph(&args, output),
        Command::Inspect(args) => remote::inspect(args, output),
        Command::History(args) => remote::history(args, output),
        Command::Rollback(args) => remote::rollback(args, output),
        Command::Diff(args) => remote::diff(&args, output),
        Command::Reload(args) => remote::reload(args, output),
        Command::Shutdown(args) => remote::shutdown(&args, output),
        Command::Call(args) => call::call(args, output),
        Command::Canary(args) => canary::canary(args.task, output),
        Command::Events(args) => events::events(args.task, output),
        Command::Config(args) => config::config(args.task, output),
        Command::Route(args) => route::route(args.task, output),
        Command::Doctor(args) => doctor::doctor(&args, output),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mortise", &mut text);
            output.raw(&text)
        }
        Command::Man { dir: None } => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            output.raw(&text)
        }
        Command::Man { dir: Some(dir) } => {
            let generated =
                std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir));
            generated.map_err(|error| {
                let what = format!("cannot write the manual pages to `{}`: {error}", dir.display());
                Failure::new(Fault::new(what).hint("name a folder that can be made and written"))
            })?;
            output.note(&format!("wrote the manual pages to {}", dir.display()));
            Ok(())
        }
    }
}

/// Runs a command that waits for other programs.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
