//! State: what one instance knew its successor knows, and whatever goes wrong leaves the old one as it was.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use counter::contract::{AddReply, AddRequest, AddSlowlyRequest, CounterClient, CounterPanicRequest};
use mortise::{
    CallErrorKind, CallOptions, HostError, HostErrorKind, LoadRequest, PluginCaller, PluginInfo, StateOrigin,
};

use crate::World;

/// A request for version 1.0.0 or 1.1.0 of the counter.
fn counter(world: &World, folder: &str, config: &str) -> LoadRequest {
    LoadRequest::new(world.source(folder))
        .runtime(world.runtime)
        .config_json(config)
}

async fn load(world: &World, folder: &str, config: &str) -> Result<PluginInfo, HostError> {
    world.host.load(counter(world, folder, config)).await
}

fn client(world: &World) -> CounterClient<PluginCaller> {
    CounterClient::new(world.host.plugin("counter"))
}

async fn add(world: &World) -> AddReply {
    client(world).add(&AddRequest { by: 1 }).await.unwrap()
}

pub(crate) async fn state_is_carried(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    let stop = AtomicBool::new(false);
    let caller = async || {
        let mut got = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            got.push(add(world).await.count);
            let slowly = AddSlowlyRequest { by: 1, ms: 1 };
            got.push(client(world).add_slowly(&slowly).await.unwrap().count);
            tokio::task::yield_now().await;
        }
        got
    };
    let swaps = async {
        let folders = ["counter-1.1", "counter"];
        for round in 0..6 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            load(world, folders[round % 2], "{}").await.unwrap();
            let carried = world.host.inspect("counter").unwrap().state.unwrap();
            assert_eq!(carried.origin, StateOrigin::Predecessor);
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (a, b, c, ()) = tokio::join!(caller(), caller(), caller(), swaps);
    let mut all: Vec<_> = [a, b, c].concat();
    all.sort_unstable();
    let calls = all.len() as u64;
    assert_eq!(all, (1..=calls).collect::<Vec<_>>(), "none lost and none doubled");
    let last = add(world).await;
    assert_eq!((last.count, last.handovers), (calls + 1, 6));
}

pub(crate) async fn state_survives_an_unload(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    add(world).await;
    add(world).await;
    world.host.unload("counter").await.unwrap();
    load(world, "counter-1.1", "{}").await.unwrap();
    let reply = add(world).await;
    assert_eq!((reply.count, reply.version.as_str()), (3, "1.1.0"));
    let carried = world.host.inspect("counter").unwrap().state.unwrap();
    assert_eq!(
        (carried.origin, carried.from_version.as_deref()),
        (StateOrigin::Snapshot, Some("1.0.0"))
    );
}

pub(crate) async fn state_veto(world: &World) {
    load(world, "counter", r#"{"veto": "a payment is under way"}"#)
        .await
        .unwrap();
    add(world).await;
    let refused = load(world, "counter-1.1", "{}").await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Refused);
    assert!(
        refused.to_string().contains("a payment is under way"),
        "{refused}"
    );
    assert_eq!(add(world).await.version, "1.0.0");
    world
        .host
        .load(counter(world, "counter-1.1", "{}").force())
        .await
        .unwrap();
    let reply = add(world).await;
    assert_eq!((reply.count, reply.version.as_str()), (3, "1.1.0"));
}

/// The old one is as it was, and counts on.
async fn old_one_goes_on(world: &World, outcome: Result<PluginInfo, HostError>, why: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::StartFailed);
    assert!(error.to_string().contains(why), "{error}");
    let reply = add(world).await;
    assert_eq!((reply.count, reply.version.as_str()), (2, "1.0.0"), "{error}");
    let info = world.host.inspect("counter").unwrap().info;
    assert!(info.reasons[0].contains(why), "{:?}", info.reasons);
}

pub(crate) async fn state_load_fails(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    add(world).await;
    let outcome = load(world, "counter-1.1", r#"{"fault": "load fails"}"#).await;
    old_one_goes_on(world, outcome, "illegible").await;
}

pub(crate) async fn state_load_crashes(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    add(world).await;
    let outcome = load(world, "counter-1.1", r#"{"fault": "load panics"}"#).await;
    old_one_goes_on(world, outcome, "load_state ").await;
}

pub(crate) async fn state_save_fails(world: &World) {
    load(world, "counter", r#"{"fault": "save fails"}"#)
        .await
        .unwrap();
    add(world).await;
    let outcome = load(world, "counter-1.1", "{}").await;
    old_one_goes_on(world, outcome, "out of paper").await;
}

pub(crate) async fn state_save_is_slow(world: &World) {
    load(world, "counter", r#"{"fault": "save takes long"}"#)
        .await
        .unwrap();
    add(world).await;
    let error = load(world, "counter-1.1", "{}").await.unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::StartFailed);
    assert!(
        error.to_string().contains("save_state"),
        "it says which step was too slow: {error}"
    );
    // Nobody waits for the save any more, and nothing happens to the one that was asked for it.
    let reply = add(world).await;
    assert_eq!((reply.count, reply.version.as_str()), (2, "1.0.0"), "{error}");
    assert_eq!(world.host.inspect("counter").unwrap().counters.crashes, 0);
}

/// What it counts first after it was started again.
async fn count_once_it_is_back(world: &World) -> u64 {
    let mut count = 0;
    world
        .until("it was started again", async || {
            match client(world).add(&AddRequest { by: 1 }).await {
                Ok(reply) => {
                    count = reply.count;
                    true
                }
                Err(_) => false,
            }
        })
        .await;
    count
}

pub(crate) async fn state_save_crashes(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    for _ in 0..4 {
        add(world).await;
    }
    // What is on disk from here on: 4. The next one is in memory only, and lost with its instance.
    world.host.unload("counter").await.unwrap();
    load(world, "counter", r#"{"fault": "save panics"}"#)
        .await
        .unwrap();
    assert_eq!(add(world).await.count, 5);
    let error = load(world, "counter-1.1", "{}").await.unwrap_err();
    assert!(error.to_string().contains("save_state"), "{error}");
    // It may be dying for longer than the swap waits for it: a panic is told with a backtrace.
    world
        .until("its end was noticed", async || {
            world.host.inspect("counter").unwrap().counters.crashes == 1
        })
        .await;
    assert_eq!(count_once_it_is_back(world).await, 5, "from the last snapshot");
    let carried = world.host.inspect("counter").unwrap().state.unwrap();
    assert_eq!(carried.origin, StateOrigin::Snapshot);
}

pub(crate) async fn state_after_a_crash(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    for _ in 0..3 {
        add(world).await;
    }
    world.host.unload("counter").await.unwrap();
    load(world, "counter-1.1", "{}").await.unwrap();
    assert_eq!(add(world).await.count, 4);
    client(world).panic(&CounterPanicRequest {}).await.unwrap_err();
    assert_eq!(
        count_once_it_is_back(world).await,
        4,
        "it goes on from what was saved last"
    );
}

pub(crate) async fn state_is_the_hosts_business(world: &World) {
    load(world, "counter", "{}").await.unwrap();
    for target in [
        "mortise.plugin.v1.Lifecycle/SaveState",
        "mortise.plugin.v1.Lifecycle/LoadState",
        "plugin.counter.SaveState",
        "plugin.counter.PreUnload",
    ] {
        let refused = world
            .host
            .call(target, Bytes::new(), CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), CallErrorKind::NotFound, "{target}");
    }
    let methods = world.host.inspect("counter").unwrap().methods;
    assert_eq!(methods.len(), 3, "and nobody is shown them");
}
