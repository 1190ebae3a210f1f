//! What can be wrong with a plugin's source folder.

use std::path::PathBuf;

/// Why a contract could not be compiled. The message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BuildError {
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error(
        "`{name}` is not set, so this does not run inside a build script; set it, or name the folder with `{instead}`"
    )]
    NoVariable {
        name: &'static str,
        instead: &'static str,
    },

    #[error("`{}` has no .proto file; write the services that the plugin provides there", dir.display())]
    NoProtos { dir: PathBuf },

    #[error("`{}` lies in none of the folders that imports are looked up in; name the one that its own imports are written from, too", path.display())]
    OutsideIncludes { path: PathBuf },

    /// Not its source's text alone: protox puts file, line and column into the debug form only.
    #[error("the contract does not compile: {report}")]
    Proto { report: String },

    #[error("{report}")]
    Manifest { report: String },

    #[error(
        "`{}` is a plugin's source and no package; run `mortise build` and name the folder that it prints", path.display()
    )]
    NoPackage { path: PathBuf },

    #[error(
        "plugin.toml says version {manifest}, and Cargo.toml says {cargo}; write the same version in both, or callers \
         cannot know which one runs"
    )]
    VersionMismatch { manifest: String, cargo: String },

    #[error("the contract is not usable: {why}")]
    Contract { why: String },

    #[error(
        "`{method}` streams and has the option `mortise.nonblocking`, and a stream waits for its caller; take the option away"
    )]
    NonblockingStream { method: String },

    #[error(
        "`[state] schema = \"{schema}\"` in plugin.toml names no message of the contract; declare it in a .proto file, or correct the name"
    )]
    NoStateSchema { schema: String },

    #[error(
        "`[config] message = \"{message}\"` in plugin.toml names no message of the contract; declare it in a .proto file, or correct the name"
    )]
    NoConfigMessage { message: String },

    #[error("cannot generate Rust: {0}")]
    Generate(#[source] std::io::Error),

    #[cfg(feature = "componentize")]
    #[error("cannot make a component of the core module: {why}")]
    Componentize { why: String },
}
