//! Compiling `.proto` sources that exist in memory only.

use mortise_contract::Contract;
use protox::{
    Compiler, Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
};

const OPTIONS: &str = include_str!("../../../../proto/mortise/options.proto");

struct Sources(Vec<(String, String)>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        let known = self
            .0
            .iter()
            .find(|it| it.0 == name)
            .ok_or_else(|| Error::file_not_found(name))?;
        File::from_source(name, &known.1)
    }
}

/// The encoded descriptor set of `files` (name, source) and everything they import.
pub(crate) fn compile(files: &[(&str, &str)]) -> Vec<u8> {
    let mut sources: Vec<(String, String)> = files
        .iter()
        .map(|(name, source)| ((*name).to_owned(), (*source).to_owned()))
        .collect();
    sources.push(("mortise/options.proto".to_owned(), OPTIONS.to_owned()));
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(sources));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    for (name, source) in files {
        if let Err(error) = compiler.open_file(name) {
            panic!("{name}: {error}\n{source}");
        }
    }
    compiler.encode_file_descriptor_set()
}

/// The contract of one source, providing everything.
pub(crate) fn contract(source: &str) -> Contract {
    contract_of(&[("acme.proto", source)], &[])
}

/// The contract of `files`, providing `services`.
pub(crate) fn contract_of(files: &[(&str, &str)], services: &[&str]) -> Contract {
    let provides: Vec<String> = services.iter().map(|it| (*it).to_owned()).collect();
    Contract::from_descriptor_set(&compile(files), &provides).unwrap_or_else(|error| panic!("{error}"))
}
