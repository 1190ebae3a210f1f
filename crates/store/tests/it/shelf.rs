//! Packages that are kept by digest.

use std::fs;

use mortise_runtime::Digest;
use mortise_store::{DataDir, Package, StoreErrorKind};

use crate::fixture;

#[test]
fn a_package_comes_back_as_it_was_wherever_it_is_gone_to() {
    let dir = tempfile::tempdir().unwrap();
    let folder = fixture::package();
    let package = Package::open(folder.path()).unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let shelf = data.packages();
    assert!(shelf.put(&package).unwrap());
    assert!(!shelf.put(&package).unwrap(), "it is there");
    drop(folder);
    let again = shelf.get(package.digest()).unwrap();
    assert_eq!(again.digest(), package.digest());
    assert_eq!(again.artifacts().len(), 2);
    assert_eq!(again.artifacts()[1].bytes, package.artifacts()[1].bytes);
    assert_eq!(again.origin(), format!("kept:{}", package.digest()));
    assert!(shelf.has(&package.digest().to_string()) && shelf.size(&package.digest().to_string()) > 100);
    assert_eq!(
        shelf.get(Digest::of(b"other")).unwrap_err().kind(),
        StoreErrorKind::NotFound
    );
    assert!(!shelf.has("../packages"));

    // Somebody wrote to it.
    let place = dir.path().join("packages").join(package.digest().to_string());
    fs::write(place.join("sample"), "another").unwrap();
    assert_eq!(
        shelf.get(package.digest()).unwrap_err().kind(),
        StoreErrorKind::Corrupt
    );
    assert_eq!(shelf.retain(|_| false).unwrap(), 1);
    assert!(!place.exists());
}

#[test]
fn what_an_interrupted_host_left_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path()).unwrap());
    let half = dir.path().join("packages/tmp-1-0");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("plugin.toml"), "half").unwrap();
    drop(DataDir::open(dir.path()).unwrap());
    assert!(!half.exists());
}

#[test]
fn the_digest_covers_everything_that_a_package_has() {
    let digest = |change: &dyn Fn(&std::path::Path)| {
        let folder = fixture::package();
        change(folder.path());
        Package::open(folder.path()).unwrap().digest()
    };
    let same = digest(&|_| {});
    assert_eq!(
        same,
        digest(&|folder| fs::write(folder.join("not-named"), "x").unwrap())
    );
    assert_ne!(
        same,
        digest(&|folder| fs::write(folder.join("sample"), "x").unwrap())
    );
    let longer = format!("{}\n# a remark\n", fixture::MANIFEST);
    assert_ne!(
        same,
        digest(&|folder| fs::write(folder.join("plugin.toml"), &longer).unwrap())
    );
}
