//! Compiled code on disk: found again, and never trusted without its seal.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mortise_manifest::Grant;
use mortise_runtime::{Runtime, RuntimeErrorKind};
use mortise_runtime_wasm::{CacheStats, Tiering, WasmConfig, WasmRuntime};

use crate::{
    guests::{ALL, Abi, ECHO, Guest},
    world::{call, refused, runtime_with, start, verified},
};

fn cached(dir: &Path, tiering: Tiering) -> WasmRuntime {
    runtime_with(|it| (it.cache_dir, it.tiering) = (Some(dir.to_owned()), tiering))
}

/// The cache's files, once there are `count`.
async fn files(dir: &Path, count: usize) -> Vec<PathBuf> {
    loop {
        let found: Vec<PathBuf> = fs::read_dir(dir)
            .expect("the folder is there")
            .map(|it| it.expect("it can be listed").path())
            .filter(|it| it.extension().is_some_and(|it| it == "aot"))
            .collect();
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn echoes(runtime: &WasmRuntime, guest: Vec<u8>) {
    let (instance, _) = start(runtime, guest).await;
    assert_eq!(call(&*instance, ECHO, "hello").await.expect("it echoes"), "hello");
}

fn stats(hits: u64, misses: u64, tampered: u64) -> CacheStats {
    CacheStats {
        hits,
        misses,
        tampered,
    }
}

#[tokio::test]
async fn code_is_found_again_by_the_next_host() {
    for tiering in [Tiering::BaselineFirst, Tiering::OptimisedOnly] {
        for abi in ALL {
            let dir = tempfile::tempdir().expect("a folder");
            let (dir, guest) = (dir.path().join("aot"), Guest::new(abi).build());
            let first = cached(&dir, tiering);
            echoes(&first, guest.clone()).await;
            assert_eq!(first.cache_stats(), stats(0, 1, 0), "{abi:?}");
            files(&dir, 1).await;
            drop(first);
            let second = cached(&dir, tiering);
            echoes(&second, guest.clone()).await;
            assert_eq!(second.cache_stats(), stats(1, 0, 0), "{abi:?}");
        }
    }
}

#[tokio::test]
async fn the_same_bytes_are_compiled_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let runtime = cached(&dir.path().join("aot"), Tiering::BaselineFirst);
    let guest = verified(Guest::new(Abi::Core).build());
    let grant = Grant::default();
    let prepared = futures_util::future::join_all((0..8).map(|_| runtime.prepare(&guest, &grant))).await;
    assert!(prepared.iter().all(Result::is_ok));
    assert_eq!(runtime.cache_stats(), stats(0, 1, 0));
}

#[tokio::test]
async fn whatever_was_changed_is_compiled_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let (dir, guest) = (dir.path().join("aot"), Guest::new(Abi::Component).build());
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 6] = [
        ("a byte of the code", |file| {
            let at = file.len() / 2;
            file[at] ^= 1;
        }),
        ("a byte of the seal", |file| file[10] ^= 1),
        ("cut off", |file| file.truncate(file.len() - 1)),
        ("longer", |file| file.push(0)),
        ("empty", Vec::clear),
        ("the header only", |file| file.truncate(80)),
    ];
    let first = cached(&dir, Tiering::OptimisedOnly);
    echoes(&first, guest.clone()).await;
    drop(first);
    for (what, damage) in damages {
        let [file] = files(&dir, 1).await.try_into().expect("there is one");
        let mut bytes = fs::read(&file).expect("it can be read");
        let whole = bytes.clone();
        damage(&mut bytes);
        fs::write(&file, &bytes).expect("it can be written");
        let runtime = cached(&dir, Tiering::OptimisedOnly);
        echoes(&runtime, guest.clone()).await;
        assert_eq!(runtime.cache_stats(), stats(0, 1, 1), "{what}");
        while fs::read(&file).ok().as_ref() != Some(&whole) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_sealed_file_cannot_stand_in_for_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().join("aot");
    let (one, other) = (
        Guest::new(Abi::Core).build(),
        Guest {
            pages: 2,
            ..Guest::new(Abi::Core)
        }
        .build(),
    );
    let first = cached(&dir, Tiering::OptimisedOnly);
    echoes(&first, one.clone()).await;
    echoes(&first, other.clone()).await;
    drop(first);
    let [a, b] = files(&dir, 2).await.try_into().expect("there are two");
    fs::copy(&a, &b).expect("it can be copied");
    let runtime = cached(&dir, Tiering::OptimisedOnly);
    echoes(&runtime, one).await;
    echoes(&runtime, other).await;
    assert_eq!(runtime.cache_stats(), stats(1, 1, 1));
}

#[tokio::test]
async fn another_hosts_seal_is_worth_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let guest = Guest::new(Abi::Component).build();
    echoes(&cached(&theirs, Tiering::OptimisedOnly), guest.clone()).await;
    let [file] = files(&theirs, 1).await.try_into().expect("there is one");
    let runtime = cached(&ours, Tiering::OptimisedOnly);
    fs::copy(&file, ours.join(file.file_name().expect("it has a name"))).expect("it can be copied");
    echoes(&runtime, guest).await;
    assert_eq!(runtime.cache_stats(), stats(0, 1, 1));
}

#[tokio::test]
async fn a_plugin_that_is_called_often_gets_better_code() {
    for abi in ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().join("aot");
        let runtime = cached(&dir, Tiering::BaselineFirst);
        let (instance, _) = start(&runtime, Guest::new(abi).build()).await;
        let before = instance.usage().memory_bytes;
        // The optimised code's file appears when enough calls were made; none of them notices.
        let wanted = if cfg!(target_arch = "x86_64") { 2 } else { 1 };
        for number in 0..300_u32 {
            let reply = call(&*instance, ECHO, number.to_le_bytes().to_vec())
                .await
                .expect("it echoes");
            assert_eq!(reply.as_ref(), number.to_le_bytes());
        }
        files(&dir, wanted).await;
        for _ in 0..10 {
            call(&*instance, ECHO, "x").await.expect("it echoes");
        }
        assert_ne!(instance.usage().memory_bytes, before);
        drop((instance, runtime));
        let next = cached(&dir, Tiering::BaselineFirst);
        echoes(&next, Guest::new(abi).build()).await;
        assert_eq!(
            next.cache_stats(),
            stats(1, 0, 0),
            "the better code is found first"
        );
    }
}

#[tokio::test]
async fn the_folder_is_kept_within_its_bound() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().join("aot");
    let runtime = runtime_with(|it| {
        it.cache_dir = Some(dir.clone());
        it.tiering = Tiering::OptimisedOnly;
        it.cache_bytes_max = 1;
    });
    for pages in 1..4 {
        echoes(
            &runtime,
            Guest {
                pages,
                ..Guest::new(Abi::Core)
            }
            .build(),
        )
        .await;
    }
    drop(runtime);
    while fs::read_dir(&dir).expect("it is there").count() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(dir.join("key").exists(), "only the key is left");
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_may_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().join("aot");
    let config = WasmConfig {
        cache_dir: Some(dir.clone()),
        instances_max: 4,
        ..WasmConfig::default()
    };
    drop(WasmRuntime::new(config.clone()).expect("it makes its folder"));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("key"))), (0o700, 0o600));
    for (path, bad) in [(dir.join("key"), 0o640), (dir.clone(), 0o750)] {
        let good = mode(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(bad)).expect("it is ours");
        let error = refused(WasmRuntime::new(config.clone()));
        assert_eq!(error.kind(), RuntimeErrorKind::Loader);
        assert!(error.to_string().contains(&format!("mode {bad:o}")), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(good)).expect("it is ours");
    }
    fs::write(dir.join("key"), "short").expect("it can be written");
    assert!(
        refused(WasmRuntime::new(config))
            .to_string()
            .contains("5 bytes instead of 32")
    );
}
