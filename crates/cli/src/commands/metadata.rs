//! `mortise metadata`: what an artifact says about itself, for whoever builds one without cargo.

use std::io::IsTerminal;

use prost::Message as _;

use crate::{
    args::{MetadataArgs, MetadataFormat},
    exit::{Failure, Fault},
    output::Output,
    project::Project,
};

pub(crate) fn metadata(args: &MetadataArgs, output: &Output) -> anyhow::Result<()> {
    let project = Project::open(&args.path)?;
    let bytes = match args.format {
        MetadataFormat::C => mortise_build::write_c(&project.metadata).into_bytes(),
        MetadataFormat::Bin => project.metadata.encode_to_vec(),
    };
    match &args.out {
        Some(path) => std::fs::write(path, bytes).map_err(|error| {
            Failure::new(
                Fault::new(format!("cannot write `{}`: {error}", path.display()))
                    .hint("choose another file with `--out`"),
            )
            .into()
        }),
        None if args.format == MetadataFormat::Bin && std::io::stdout().is_terminal() => {
            let fault = Fault::new("standard output is a terminal, and this form is not text");
            Err(Failure::usage(fault.hint("name a file with `--out`, or send the output elsewhere")).into())
        }
        None => output.raw(&bytes),
    }
}
