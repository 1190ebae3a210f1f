//! From a folder of .proto files to descriptors.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prost_types::FileDescriptorSet;
use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};

use crate::BuildError;

/// Options of a contract, importable everywhere as `mortise/options.proto`.
const OPTIONS: (&str, &str) = (
    "mortise/options.proto",
    include_str!("../../../proto/mortise/options.proto"),
);

/// A compiled contract.
#[derive(Debug)]
pub struct Protos {
    /// The files that were compiled: the contract folder's, sorted.
    pub files: Vec<PathBuf>,
    /// Encoded FileDescriptorSet, imports included, without comments. Unlike a decoded one it still has the custom options.
    pub descriptor_set: Vec<u8>,
    /// The same with comments, for generating code.
    pub(crate) commented: FileDescriptorSet,
}

/// Compiles every .proto file under `dir`. Imports are looked up there, then among `mortise/options.proto` and Google's own.
///
/// # Errors
/// If there is none, or one does not compile: the report has file, line and column.
pub fn compile_protos(dir: &Path) -> Result<Protos, BuildError> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(BuildError::NoProtos { dir: dir.to_owned() });
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(dir.to_owned()));
    resolver.add(Embedded);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    for file in &files {
        let name = file.strip_prefix(dir).expect("collected below it");
        compiler.open_file(name).map_err(|error| BuildError::Proto {
            report: format!("{error:?}"),
        })?;
    }
    compiler.include_source_info(false);
    let descriptor_set = compiler.encode_file_descriptor_set();
    compiler.include_source_info(true);
    Ok(Protos {
        files,
        descriptor_set,
        commented: compiler.file_descriptor_set(),
    })
}

struct Embedded;

impl FileResolver for Embedded {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == OPTIONS.0 {
            File::from_source(name, OPTIONS.1)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), BuildError> {
    let read = |source| BuildError::Read {
        path: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|it| it == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
