//! Packages, sound and deceitful.

use std::fs;

use mortise_manifest::RuntimeName;
use mortise_runtime::Digest;
use mortise_store::{EmbeddedPackage, Package, PackageLimits, StoreErrorKind};

use crate::fixture::{MANIFEST, contract, package, refused};

#[test]
fn sound_package() {
    let dir = package();
    let package = Package::open(dir.path()).unwrap();
    assert_eq!(package.plugin().to_string(), "sample 1.2.3");
    assert_eq!(package.manifest_text().as_ref(), MANIFEST);
    assert_eq!(package.contract().services(), ["sample.v1.Sample"]);
    assert_eq!(package.artifacts().len(), 2);
    let artifact = package.artifact(RuntimeName::Wasm).unwrap();
    assert_eq!(artifact.digest, Digest::of(b"\0asm not really"));
    assert_eq!(&artifact.bytes[..], b"\0asm not really");
    assert!(artifact.path.is_none(), "never the path it was found at");
    assert!(package.artifact(RuntimeName::Native).is_none());
}

#[test]
fn what_was_read_is_kept_whatever_happens_to_the_folder() {
    let dir = package();
    let package = Package::open(dir.path()).unwrap();
    fs::write(dir.path().join("sample.wasm"), b"something else").unwrap();
    assert_eq!(
        &package.artifact(RuntimeName::Wasm).unwrap().bytes[..],
        b"\0asm not really"
    );
}

#[test]
fn faults_of_the_manifest_have_places() {
    let dir = package();
    fs::write(
        dir.path().join("plugin.toml"),
        MANIFEST.replace("name = \"sample\"", "name = \"../sample\""),
    )
    .unwrap();
    let error = refused(dir.path());
    assert_eq!(error.kind(), StoreErrorKind::Malformed);
    let faults = error.diagnostics().expect("the manifest's faults");
    assert_eq!(faults.iter().next().unwrap().line, 3);
}

#[test]
fn all_faults_of_a_folder_at_once() {
    let dir = package();
    fs::write(dir.path().join("contract.binpb"), b"\xff\xff\xff").unwrap();
    fs::remove_file(dir.path().join("sample.wasm")).unwrap();
    fs::remove_file(dir.path().join("sample")).unwrap();
    let error = refused(dir.path());
    assert_eq!(error.kind(), StoreErrorKind::Malformed);
    let also: Vec<_> = error.also().iter().map(|it| it.kind()).collect();
    assert_eq!(also, [StoreErrorKind::NotFound, StoreErrorKind::NotFound]);
}

#[test]
fn folder_that_is_none() {
    let dir = package();
    assert_eq!(
        refused(&dir.path().join("nowhere")).kind(),
        StoreErrorKind::NotFound
    );
    let error = refused(&dir.path().join("plugin.toml"));
    assert!(error.to_string().contains("is not a folder"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(refused(empty.path()).kind(), StoreErrorKind::NotFound);
}

#[test]
fn source_folder_is_told_from_a_package() {
    let dir = package();
    let source = MANIFEST.split_once("[[variant]]").unwrap().0;
    fs::write(dir.path().join("plugin.toml"), source).unwrap();
    let error = refused(dir.path());
    assert!(
        error
            .to_string()
            .contains("this is a plugin's source, or nothing was built"),
        "{error}"
    );
    assert!(error.hint().contains("mortise build"));
}

#[test]
fn manifest_that_is_not_utf8() {
    let dir = package();
    fs::write(dir.path().join("plugin.toml"), b"[plugin]\nname = \"\xff\"").unwrap();
    let error = refused(dir.path());
    assert_eq!(error.kind(), StoreErrorKind::Malformed);
    assert!(
        error.to_string().ends_with("is not UTF-8: byte 17 is not"),
        "{error}"
    );
}

#[test]
fn contract_without_the_service() {
    let dir = package();
    let text = MANIFEST.replace(
        "provides = [\"sample.v1.Sample\"]",
        "provides = [\"sample.v1.Other\"]",
    );
    fs::write(dir.path().join("plugin.toml"), text).unwrap();
    let error = refused(dir.path());
    assert!(
        error.to_string().contains("`provides` names `sample.v1.Other`"),
        "{error}"
    );
}

#[test]
fn files_over_the_limit_are_not_read() {
    let dir = package();
    // A sparse file costs nothing; reading it would.
    fs::File::create(dir.path().join("sample.wasm"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let error = refused(dir.path());
    assert_eq!(error.kind(), StoreErrorKind::TooLarge);
    assert!(
        error
            .to_string()
            .contains("has 1099511627776 bytes, and 268435456 is the limit"),
        "{error}"
    );
    let limits = PackageLimits {
        manifest_bytes_max: 10,
        ..PackageLimits::default()
    };
    let error = Package::open_with(dir.path(), &limits).unwrap_err();
    assert!(error.to_string().contains("`plugin.toml`"), "{error}");
}

#[test]
fn embedded_package_goes_through_the_same_checks() {
    let contract: &'static [u8] = contract().leak();
    let files: &'static [(&str, &[u8])] = vec![
        ("plugin.toml", MANIFEST.as_bytes()),
        ("contract.binpb", contract),
        ("sample.wasm", b"\0asm"),
        ("sample", b"\x7fELF"),
    ]
    .leak();
    let package = Package::embedded(&EmbeddedPackage {
        name: "sample",
        files,
    })
    .unwrap();
    assert_eq!(package.origin(), "embedded:sample");
    assert_eq!(package.artifacts().len(), 2);

    let error = Package::embedded(&EmbeddedPackage {
        name: "sample",
        files: &files[..3],
    })
    .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
    assert!(
        error
            .to_string()
            .contains("package `embedded:sample` has no such file"),
        "{error}"
    );

    let twice: &'static [_] = [files, &files[3..]].concat().leak();
    let error = Package::embedded(&EmbeddedPackage {
        name: "sample",
        files: twice,
    })
    .unwrap_err();
    assert!(error.to_string().contains("has two files `sample`"), "{error}");
}

#[test]
fn builtin_package_has_one_artifact_without_bytes() {
    let text = MANIFEST.split_once("[[variant]]").unwrap().0;
    let package = Package::builtin("sample", text, &contract()).unwrap();
    let [artifact] = package.artifacts() else {
        panic!("one artifact")
    };
    assert_eq!(
        (artifact.runtime, artifact.bytes.len()),
        (RuntimeName::Builtin, 0)
    );
    let other = Package::builtin("sample", &text.replace("1.2.3", "1.2.4"), &contract()).unwrap();
    assert_ne!(
        other.artifacts()[0].digest,
        artifact.digest,
        "its digest is that of manifest and contract"
    );
    let error = Package::builtin("sample", "", &contract()).unwrap_err();
    assert!(error.diagnostics().is_some());
}
