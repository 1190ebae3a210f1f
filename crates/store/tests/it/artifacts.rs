//! The artifact cache.

use std::fs;

use bytes::Bytes;
use mortise_manifest::RuntimeName;
use mortise_runtime::{Artifact, Digest};
use mortise_store::{ArtifactCache, Package, StoreErrorKind};

use crate::fixture::package;

fn artifact() -> Artifact {
    let dir = package();
    Package::open(dir.path())
        .unwrap()
        .artifact(RuntimeName::Process)
        .unwrap()
        .clone()
}

fn cache() -> (tempfile::TempDir, ArtifactCache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = ArtifactCache::open(&dir.path().join("artifacts")).unwrap();
    (dir, cache)
}

#[test]
fn placed_once_and_used_again() {
    let (dir, cache) = cache();
    let mut artifact = artifact();
    let first = cache.place(&mut artifact).unwrap();
    assert_eq!((first.reused, &first.replaced), (false, &None));
    assert_eq!(artifact.path.as_ref(), Some(&first.path));
    let expected = dir.path().join("artifacts").join(artifact.digest.to_string());
    assert_eq!(first.path.parent(), Some(&*expected));
    assert_eq!(fs::read(&first.path).unwrap(), artifact.bytes);
    let second = cache.place(&mut artifact).unwrap();
    assert_eq!((second.reused, second.path), (true, first.path));
    // Nothing else is left there.
    assert_eq!(fs::read_dir(dir.path().join("artifacts")).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn nobody_else_may_look_or_write() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, cache) = cache();
    let mut artifact = artifact();
    let path = cache.place(&mut artifact).unwrap().path;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o555);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&dir.path().join("artifacts")), 0o700);
}

#[test]
fn tampered_file_is_replaced_and_reported() {
    let (_dir, cache) = cache();
    let mut artifact = artifact();
    let path = cache.place(&mut artifact).unwrap().path;
    fs::remove_file(&path).unwrap();
    fs::write(&path, "evil").unwrap();
    set_mode(&path, 0o555);
    let placed = cache.place(&mut artifact).unwrap();
    assert!(!placed.reused);
    assert_eq!(
        placed.replaced.unwrap(),
        format!("`{}` had digest {}", path.display(), Digest::of(b"evil"))
    );
    assert_eq!(fs::read(&path).unwrap(), artifact.bytes);
    assert!(cache.place(&mut artifact).unwrap().reused);
}

#[cfg(unix)]
#[test]
fn link_writable_file_and_folder_in_its_place_are_replaced() {
    let (dir, cache) = cache();
    let mut artifact = artifact();
    let path = cache.place(&mut artifact).unwrap().path;

    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, &artifact.bytes).unwrap();
    set_mode(&elsewhere, 0o555);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let placed = cache.place(&mut artifact).unwrap();
    assert!(placed.replaced.unwrap().ends_with("was not a plain file"));
    assert!(path.symlink_metadata().unwrap().is_file());

    set_mode(&path, 0o777);
    assert!(
        cache
            .place(&mut artifact)
            .unwrap()
            .replaced
            .unwrap()
            .ends_with("had mode 777 instead of 555")
    );

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("full"), "").unwrap();
    assert!(cache.place(&mut artifact).unwrap().replaced.is_some());
    assert_eq!(fs::read(&path).unwrap(), artifact.bytes);
}

#[test]
fn replaced_file_is_a_new_one_and_the_old_is_untouched() {
    let (_dir, cache) = cache();
    let mut artifact = artifact();
    let path = cache.place(&mut artifact).unwrap().path;
    fs::remove_file(&path).unwrap();
    fs::write(&path, "evil").unwrap();
    let mut mapped = fs::File::open(&path).unwrap();
    cache.place(&mut artifact).unwrap();
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut mapped, &mut seen).unwrap();
    assert_eq!(seen, "evil", "whoever had it open sees what it had");
}

#[test]
fn digest_that_is_not_that_of_the_bytes() {
    let (dir, cache) = cache();
    let mut artifact = artifact();
    artifact.bytes = Bytes::from_static(b"other");
    let error = cache.place(&mut artifact).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Malformed);
    assert_eq!(fs::read_dir(dir.path().join("artifacts")).unwrap().count(), 0);
}

#[test]
fn name_can_not_lead_out() {
    let (dir, cache) = cache();
    for name in ["../evil", "a/b", "", ".."] {
        let mut artifact = artifact();
        artifact.plugin.name = name.into();
        assert_eq!(
            cache.place(&mut artifact).unwrap_err().kind(),
            StoreErrorKind::Escape,
            "{name}"
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn half_written_files_are_swept_at_the_next_start() {
    let (dir, cache) = cache();
    let root = dir.path().join("artifacts");
    fs::write(root.join("tmp-1-0"), "half").unwrap();
    drop(cache);
    ArtifactCache::open(&root).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn retain_removes_what_nobody_wants() {
    let (dir, cache) = cache();
    let mut artifact = artifact();
    cache.place(&mut artifact).unwrap();
    fs::write(dir.path().join("artifacts/notes.txt"), "an operator's").unwrap();
    let digest = artifact.digest.to_string();
    assert_eq!(cache.retain(|it| it == digest).unwrap(), 0);
    assert_eq!(cache.retain(|_| false).unwrap(), 1);
    assert!(
        dir.path().join("artifacts/notes.txt").exists(),
        "what is no artifact is left alone"
    );
}

fn set_mode(path: &std::path::Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let _ = (path, mode);
}
