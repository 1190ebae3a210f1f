//! Versions, swaps, reloads.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use echo::contract::VersionRequest;

use crate::World;

/// A second version of the plugin under test.
fn newer(world: &World) -> mortise::Source {
    world.source("echo-1.1")
}

pub(crate) async fn two_side_by_side(world: &World) {
    world
        .load("echo", |request| {
            request.source = newer(world);
            request.beside = true;
        })
        .await;
    for (address, version) in [("echo@1.0.0", "1.0.0"), ("echo@1.1.0", "1.1.0")] {
        let reply = world.client(address).version(&VersionRequest {}).await;
        assert_eq!(reply.unwrap().version, version, "{address}");
    }
    world.host.unload("echo@1.1.0").await.unwrap();
    assert_eq!(
        world
            .client("echo")
            .version(&VersionRequest {})
            .await
            .unwrap()
            .version,
        "1.0.0"
    );
}

pub(crate) async fn swap_under_load(world: &World) {
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let before = world.host.inspect("echo").unwrap().counters.calls;
    let caller = async || {
        let mut newest = semver::Version::new(0, 0, 0);
        while !stop.load(Ordering::Relaxed) {
            let reply = world
                .client("echo")
                .version(&VersionRequest {})
                .await
                .expect("no call is lost");
            let version: semver::Version = reply.version.parse().unwrap();
            assert!(version >= newest, "{version} answered after {newest} had");
            newest = version;
            answered.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        newest
    };
    let swap = async {
        let enough = async |from: u64| {
            world
                .until("callers call", async || {
                    answered.load(Ordering::Relaxed) > from + 50
                })
                .await
        };
        enough(0).await;
        world.load("echo", |request| request.source = newer(world)).await;
        enough(answered.load(Ordering::Relaxed)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (a, b, c, d, ()) = tokio::join!(caller(), caller(), caller(), caller(), swap);
    for newest in [a, b, c, d] {
        assert_eq!(newest, semver::Version::new(1, 1, 0));
    }
    let counted = world.host.inspect("echo").unwrap().counters.calls - before;
    assert_eq!(
        counted,
        answered.load(Ordering::Relaxed),
        "every answer is one call and every call one answer"
    );
}

/// What a reload must not add to.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    children: usize,
}

fn footprint() -> Footprint {
    let entries = |path: &str| fs::read_dir(path).unwrap().count();
    let own = std::process::id().to_string();
    let is_child = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        (parent == own).then_some(())
    };
    Footprint {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        children: fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(is_child)
            .count(),
    }
}

pub(crate) async fn reload_100(world: &World) {
    let sources = [world.source("echo"), newer(world)];
    let reload = async |round: usize| {
        world
            .load("echo", |request| request.source = sources[round % 2].clone())
            .await;
        world.serves("echo").await;
    };
    // The first rounds fill caches and thread pools.
    for round in 0..10 {
        reload(round).await;
    }
    let before = footprint();
    for round in 0..100 {
        reload(round).await;
    }
    // The last predecessor may still stand by.
    world
        .until(
            &format!("after 100 reloads the footprint is that of before, {before:?}"),
            async || {
                let after = footprint();
                after.descriptors <= before.descriptors + 4
                    && after.threads <= before.threads + 4
                    && after.children <= before.children + 1
            },
        )
        .await;
}
