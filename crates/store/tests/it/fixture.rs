//! A package folder that is as it should be.

use std::{fs, path::Path};

use mortise_store::{Package, StoreError};

pub(crate) const MANIFEST: &str = r#"
[plugin]
name = "sample"
version = "1.2.3"
api = 1
[contract]
provides = ["sample.v1.Sample"]
[[variant]]
runtime = "wasm"
file = "sample.wasm"
[[variant]]
runtime = "process"
file = "sample"
"#;

/// The contract that [`MANIFEST`] names, as a descriptor set.
pub(crate) fn contract() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let source =
        "syntax = \"proto3\"; package sample.v1; message M {} service Sample { rpc Do(M) returns (M); }";
    fs::write(dir.path().join("sample.proto"), source).unwrap();
    prost::Message::encode_to_vec(&protox::compile(["sample.proto"], [dir.path()]).unwrap())
}

/// A sound package in a folder of its own.
pub(crate) fn package() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plugin.toml"), MANIFEST).unwrap();
    fs::write(dir.path().join("contract.binpb"), contract()).unwrap();
    fs::write(dir.path().join("sample.wasm"), b"\0asm not really").unwrap();
    fs::write(dir.path().join("sample"), b"\x7fELF not really").unwrap();
    dir
}

/// The error of a package that is refused.
pub(crate) fn refused(path: &Path) -> StoreError {
    Package::open(path)
        .map(|package| package.origin().to_owned())
        .expect_err("the package is refused")
}
