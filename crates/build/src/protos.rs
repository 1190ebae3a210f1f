//! From a folder of .proto files to descriptors.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use mortise_contract::Contract;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};

use crate::{
    BuildError,
    service::{Adapts, Described},
};

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
    /// What imports call the files that were compiled.
    names: Vec<String>,
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
    let mut compiler = compiler([dir]);
    for file in &files {
        let name = file.strip_prefix(dir).expect("collected below it");
        compiler.open_file(name).map_err(of_protox)?;
    }
    Ok(compiled(&mut compiler, files))
}

/// Compiles one .proto file. Imports are looked up in `includes` in their order, beside the file if there are none, then as in [`compile_protos`].
///
/// # Errors
/// If it cannot be read, lies in none of `includes`, or does not compile: the report has file, line and column.
pub fn compile_proto(file: &Path, includes: &[PathBuf]) -> Result<Protos, BuildError> {
    let read = |source| BuildError::Read {
        path: file.to_owned(),
        source,
    };
    // Said of the file as it was named, before anybody looks for it elsewhere.
    let found = fs::canonicalize(file).map_err(read)?;
    let beside = [file.parent().unwrap_or(Path::new("")).to_owned()];
    let includes = if includes.is_empty() { &beside } else { includes };
    let mut name = None;
    for include in includes {
        // The folder of a file that is named alone is the empty path.
        let folder = if include.as_os_str().is_empty() {
            Path::new(".")
        } else {
            include
        };
        let folder = fs::canonicalize(folder).map_err(|source| BuildError::Read {
            path: include.clone(),
            source,
        })?;
        name = name.or_else(|| found.strip_prefix(folder).ok().map(Path::to_owned));
    }
    let name = name.ok_or_else(|| BuildError::OutsideIncludes {
        path: file.to_owned(),
    })?;
    let mut compiler = compiler(includes.iter().map(PathBuf::as_path));
    compiler.open_file(name).map_err(of_protox)?;
    Ok(compiled(&mut compiler, vec![file.to_owned()]))
}

// === impl Protos ===

impl Protos {
    /// Full names of the services that the compiled files declare themselves; those of their imports are not counted.
    #[must_use]
    pub fn services(&self) -> Vec<String> {
        let own = self
            .commented
            .file
            .iter()
            .filter(|it| self.names.iter().any(|name| name == it.name()));
        own.flat_map(services_of).collect()
    }
}

/// A `FileDescriptorSet` whose files are not looked into: decoded ones lose their custom options.
#[derive(Clone, PartialEq, Message)]
struct RawSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

impl Protos {
    /// What clients of each service were built against. Rules for other versions may be about any message, so with them it is everything.
    pub(crate) fn described(&self, adapts: &Adapts) -> Result<HashMap<String, Described>, BuildError> {
        let unusable = |why: String| BuildError::Contract { why };
        let raw = RawSet::decode(&*self.descriptor_set).map_err(|error| unusable(error.to_string()))?;
        let mut described = HashMap::new();
        for file in self.commented.file.iter().filter(|it| !it.service.is_empty()) {
            let needed = match adapts.is_empty() {
                true => self.needed([file.name()]),
                false => self.needed(self.commented.file.iter().map(FileDescriptorProto::name)),
            };
            let set = RawSet {
                file: raw
                    .file
                    .iter()
                    .zip(&self.commented.file)
                    .filter(|(_, it)| needed.contains(it.name()))
                    .map(|(bytes, _)| bytes.clone())
                    .collect(),
            };
            let descriptor_set = set.encode_to_vec();
            for service in services_of(file) {
                let contract = Contract::from_descriptor_set(&descriptor_set, std::slice::from_ref(&service))
                    .map_err(|error| unusable(error.to_string()))?;
                let beside: Vec<&[u8]> = adapts.iter().map(|it| &*it.1).collect();
                let one = Described {
                    fingerprint: match beside.is_empty() {
                        true => contract.fingerprint(),
                        false => contract.fingerprint_with(&beside),
                    },
                    descriptor_set: descriptor_set.clone(),
                };
                described.insert(service, one);
            }
        }
        Ok(described)
    }

    /// Files and everything that they import, but for what every reader of descriptors has.
    fn needed<'a>(&'a self, files: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut needed = BTreeSet::new();
        let mut pending: Vec<&str> = files.into_iter().collect();
        while let Some(name) = pending.pop() {
            let found = self.commented.file.iter().find(|it| it.name() == name);
            if let Some(found) = found.filter(|_| !name.starts_with("google/protobuf/"))
                && needed.insert(found.name())
            {
                pending.extend(found.dependency.iter().map(String::as_str));
            }
        }
        needed
    }
}

/// Full names of the services that a file declares.
fn services_of(file: &FileDescriptorProto) -> impl Iterator<Item = String> {
    let package = file.package();
    file.service.iter().map(move |it| match package {
        "" => it.name().to_owned(),
        package => format!("{package}.{}", it.name()),
    })
}

fn compiler<'a>(includes: impl IntoIterator<Item = &'a Path>) -> Compiler {
    let mut resolver = ChainFileResolver::new();
    for include in includes {
        resolver.add(IncludeFileResolver::new(include.to_owned()));
    }
    resolver.add(Embedded);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler
}

fn compiled(compiler: &mut Compiler, files: Vec<PathBuf>) -> Protos {
    compiler.include_source_info(false);
    let descriptor_set = compiler.encode_file_descriptor_set();
    compiler.include_source_info(true);
    let own = compiler.files().filter(|it| !it.is_import());
    Protos {
        files,
        descriptor_set,
        names: own.map(|it| it.name().to_owned()).collect(),
        commented: compiler.file_descriptor_set(),
    }
}

fn of_protox(error: protox::Error) -> BuildError {
    BuildError::Proto {
        report: format!("{error:?}"),
    }
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
