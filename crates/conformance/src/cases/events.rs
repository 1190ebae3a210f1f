//! Events: `plugins/orders` under two names, `shop` that publishes and `books` that is called with what is published.

use std::collections::BTreeMap;

use mortise::{
    CallOptions, LoadRequest, PluginCaller, PluginInfo,
    event::{DeadLetter, DeadQuery},
    wire::Code,
};
use orders::contract::{BooksRequest, Entry, OrdersClient, PlaceReply, PlaceRequest, Placed};
use prost::Message as _;

use crate::World;

const TOPIC: &str = "orders.eu.placed";
/// What `books` has had is known under this name.
const SUBSCRIPTION: &str = "books/book";

fn request(world: &World, name: &str, config: &str) -> LoadRequest {
    let mut request = LoadRequest::new(world.source("orders"))
        .runtime(world.runtime)
        .config_json(config);
    request.name = Some(name.to_owned());
    let permissions = &mut request.grant.permissions;
    permissions.kv = true;
    permissions.events_publish = vec!["orders.>".to_owned()];
    permissions.events_subscribe = vec!["orders.>".to_owned()];
    request
}

async fn load(world: &World, name: &str, config: &str) -> PluginInfo {
    let loaded = world.host.load(request(world, name, config)).await;
    loaded.unwrap_or_else(|error| panic!("`{name}` loads: {error:?}"))
}

/// Both, with their subscriptions open.
async fn open(world: &World, config_of_books: &str) {
    load(world, "shop", "{}").await;
    load(world, "books", config_of_books).await;
    world
        .until("both subscribe", async || {
            let all = world.host.subscriptions().await.unwrap();
            all.iter().filter(|it| it.active).count() == 2
        })
        .await;
}

fn client(world: &World, name: &str) -> OrdersClient<PluginCaller> {
    OrdersClient::new(world.host.plugin(name))
}

fn orders(first: u64, count: u32) -> PlaceRequest {
    PlaceRequest {
        topic: TOPIC.to_owned(),
        first,
        count,
        ..PlaceRequest::default()
    }
}

async fn place(world: &World, request: &PlaceRequest) -> PlaceReply {
    client(world, "shop").place(request).await.unwrap()
}

/// What was booked, by number.
async fn booked(world: &World) -> BTreeMap<u64, Entry> {
    let books = client(world, "books").books(&BooksRequest {}).await;
    let entries = books.map(|it| it.entries).unwrap_or_default();
    entries.into_iter().map(|it| (it.number, it)).collect()
}

async fn all_booked(world: &World, count: usize) -> BTreeMap<u64, Entry> {
    world
        .until(&format!("{count} orders are booked"), async || {
            booked(world).await.len() == count
        })
        .await;
    booked(world).await
}

async fn dead(world: &World, count: usize) -> Vec<DeadLetter> {
    let query = || DeadQuery {
        subscription: Some(SUBSCRIPTION.to_owned()),
        limit: 100,
        ..DeadQuery::default()
    };
    world
        .until(&format!("there are {count} dead letters"), async || {
            world.host.dead_letters(query()).await.unwrap().len() == count
        })
        .await;
    world.host.dead_letters(query()).await.unwrap()
}

pub(crate) async fn event_reaches_a_subscriber(world: &World) {
    open(world, "{}").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let keyed = PlaceRequest {
        key: "o-".to_owned(),
        ..orders(1, 20)
    };
    let options = CallOptions {
        traceparent: Some(format!("00-{trace}-00f067aa0ba902b7-01")),
        ..CallOptions::default()
    };
    let payload = keyed.encode_to_vec();
    let reply = world
        .host
        .call("plugin.shop.Place", payload.into(), options)
        .await
        .unwrap();
    assert_eq!(PlaceReply::decode(reply).unwrap().accepted, 20);
    for (number, entry) in all_booked(world, 20).await {
        assert_eq!(
            (entry.key, entry.times, entry.attempt),
            (format!("o-{number}"), 1, 1)
        );
        assert!(entry.event_id > 0);
        assert!(
            entry.traceparent.contains(trace),
            "the trace goes on: {}",
            entry.traceparent
        );
    }
    // The same keys are the same events, and what goes without one is another event each time.
    assert_eq!(place(world, &keyed).await.accepted, 0);
    // One after the other: the plugin reads and writes its count in two steps, and deliveries run side by side.
    let first = place(world, &orders(21, 1)).await;
    world
        .until("it is booked once", async || {
            booked(world).await.contains_key(&21)
        })
        .await;
    let again = place(world, &orders(21, 1)).await;
    assert!(first.last_id < again.last_id, "{first:?}, {again:?}");
    world
        .until("it is booked twice", async || {
            booked(world).await.get(&21).is_some_and(|it| it.times == 2)
        })
        .await;
    assert_eq!(booked(world).await.len(), 21);
    // A call that delivers nothing is no delivery to its plugin.
    let plain = client(world, "books").book(&Placed::default()).await.unwrap_err();
    assert_eq!(plain.kind(), Code::FailedPrecondition, "{plain}");
}

pub(crate) async fn event_needs_a_grant(world: &World) {
    open(world, "{}").await;
    let elsewhere = PlaceRequest {
        topic: "stock.low".to_owned(),
        ..orders(1, 1)
    };
    let denied = client(world, "shop").place(&elsewhere).await.unwrap_err();
    assert_eq!(denied.kind(), Code::PermissionDenied, "{denied}");
    assert!(denied.message.contains("events.publish=stock.low"), "{denied}");
    let nowhere = PlaceRequest {
        topic: "orders..placed".to_owned(),
        ..orders(1, 1)
    };
    let invalid = client(world, "shop").place(&nowhere).await.unwrap_err();
    assert_eq!(invalid.kind(), Code::InvalidArgument, "{invalid}");
    let mut ungranted = request(world, "other", "{}");
    ungranted.grant.permissions.events_subscribe.clear();
    let refused = world.host.load(ungranted).await.unwrap_err();
    assert!(refused.to_string().contains("events.subscribe"), "{refused}");
}

pub(crate) async fn event_that_fails_is_a_dead_letter(world: &World) {
    open(world, r#"{"broken": "out of ink"}"#).await;
    place(world, &orders(1, 2)).await;
    let letters = dead(world, 2).await;
    for letter in &letters {
        assert_eq!(letter.attempts, 3, "as its manifest says: {letter:?}");
        assert!(letter.why.contains("out of ink"), "{letter:?}");
    }
    // What it says it never takes is not tried again.
    let senseless = PlaceRequest {
        note: "senseless".to_owned(),
        ..orders(3, 1)
    };
    place(world, &senseless).await;
    let letters = dead(world, 3).await;
    let last = letters.last().unwrap();
    assert_eq!(last.attempts, 1, "{last:?}");
    assert!(booked(world).await.is_empty());
    // Cured and replayed.
    load(world, "books", "{}").await;
    let cured: Vec<u64> = letters[..2].iter().map(|it| it.letter).collect();
    let replayed = world.host.replay_dead(SUBSCRIPTION, &cured).await.unwrap();
    assert_eq!(replayed, cured);
    let entries = all_booked(world, 2).await;
    assert_eq!(entries.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(dead(world, 1).await[0].letter, last.letter);
}

pub(crate) async fn event_outlives_its_subscriber(world: &World) {
    const COUNT: u64 = 120;
    open(world, "{}").await;
    let placing = async {
        for number in 1..=COUNT {
            place(world, &orders(number, 1)).await;
        }
    };
    let swapping = async {
        for round in 0..4 {
            tokio::time::sleep(std::time::Duration::from_millis(15)).await;
            load(world, "books", &format!(r#"{{"round": "{round}"}}"#)).await;
        }
        world.host.unload("books").await.unwrap();
    };
    tokio::join!(placing, swapping);
    // What was published while nobody was there is kept for it.
    load(world, "books", "{}").await;
    let entries = all_booked(world, COUNT as usize).await;
    assert!(
        entries.values().all(|it| it.times == 1),
        "swaps and unloads double nothing"
    );
    assert!(dead(world, 0).await.is_empty());
}
