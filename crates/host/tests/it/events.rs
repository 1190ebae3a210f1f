//! Events: who publishes is answered when it is kept, and who subscribes gets it at least once, whatever happens in between.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mortise_events_nats::NatsBroker;
use mortise_host::{
    CallOptions, CanaryRequest, CanaryStep, EVENTS_HISTORY, Host, HostErrorKind, LoadRequest, Publication,
    event::{DeadLetter, DeadQuery, Outcome, ReadQuery, RetryPolicy, SubscriptionTerms},
};
use mortise_manifest::{EventsConfig, HostConfig, Permissions, SubscribeFrom};
use mortise_wire::{Code, Header, host as api};
use prost::Message as _;

use crate::{
    closures::{Program, World, contract, grant, request, until},
    keepers::{Keeper, on_every_keeper, settings},
    nats::Nats,
};

const TOPIC: &str = "test.things";

on_every_keeper!(
    a_plugin_publishes_and_another_is_called_with_it,
    a_plugin_that_is_down_or_swapped_loses_nothing,
    what_fails_is_tried_again_and_becomes_a_dead_letter_that_can_be_replayed,
    a_subscriber_that_never_answers_holds_up_nobody,
    a_subscriber_that_reads_something_else_is_refused_with_the_reason,
    a_log_that_is_full_refuses_publishers_and_keeps_what_it_accepted,
);

/// The subscriber's part of a manifest.
fn subscribing(method: &str, more: &str) -> String {
    format!(
        "[permissions]\nevents.subscribe = [\"test.>\"]\n[[subscribe]]\ntopic = \"test.*\"\nmethod = \"test.v1.Echo/{method}\"\n\
         group = \"g\"\nbackoff_ms = 5\nbackoff_max_ms = 20\n{more}"
    )
}

fn may_subscribe() -> Permissions {
    Permissions {
        events_subscribe: vec!["test.>".to_owned()],
        ..Permissions::default()
    }
}

async fn load_subscriber(
    world: &World,
    host: &Host,
    version: &str,
    method: &str,
    more: &str,
) -> Arc<Program> {
    let (folder, program) = world.package("sub", version, &subscribing(method, more));
    host.load(LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    })
    .await
    .unwrap();
    subscribed(host).await;
    program
}

/// Waits until the subscription of `sub` is open.
async fn subscribed(host: &Host) {
    active(host, "sub/g", true).await;
}

async fn active(host: &Host, name: &str, is_active: bool) {
    for _ in 0..4000 {
        let all = host.subscriptions().await.unwrap();
        let found = all.iter().find(|it| it.name == name);
        if found.is_some_and(|it| it.active) == is_active {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("`{name}` is never so, active {is_active}");
}

fn thing(payload: &str) -> Publication {
    Publication {
        topic: TOPIC.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        type_name: Some("test.v1.Blob".to_owned()),
        descriptor_set: Some(contract().into()),
        ..Publication::default()
    }
}

fn seen(program: &Program) -> Vec<String> {
    let seen = program.seen.lock().unwrap();
    seen.iter()
        .map(|it| String::from_utf8_lossy(it).into_owned())
        .collect()
}

async fn a_plugin_publishes_and_another_is_called_with_it(keeper: &Keeper) {
    let world = World::new();
    let mut config = HostConfig::default();
    config.routing.propagate = vec!["x-tenant".to_owned()];
    let host = keeper.builder(&world, config).start().await.unwrap();
    let program = load_subscriber(&world, &host, "1.0.0", "Call", "").await;
    let (folder, _) = world.package(
        "pub",
        "1.0.0",
        "[permissions]\nevents.publish = [\"test.things\"]\n",
    );
    host.load(LoadRequest {
        grant: grant(Permissions {
            events_publish: vec!["test.*".to_owned()],
            ..Permissions::default()
        }),
        ..request(&folder)
    })
    .await
    .unwrap();
    let publish = async |topic: &str, type_name: &str, key: &str| {
        let event = api::EventPublishRequest {
            topic: topic.to_owned(),
            r#type: type_name.to_owned(),
            payload: b"one".to_vec(),
            key: key.to_owned(),
        };
        let payload = [b"mortise.host.v1.Events/Publish ".to_vec(), event.encode_to_vec()].concat();
        let options = CallOptions {
            headers: vec![Header {
                name: "x-tenant".to_owned(),
                value: "acme".to_owned(),
            }],
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            ..CallOptions::default()
        };
        let reply = host.call("plugin.pub.Relay", payload.into(), options).await?;
        Ok::<_, mortise_runtime::CallError>(api::EventPublishReply::decode(reply).unwrap())
    };
    let first = publish(TOPIC, "test.v1.Blob", "k").await.unwrap();
    let again = publish(TOPIC, "test.v1.Blob", "k").await.unwrap();
    assert_eq!(
        (first.duplicate, again.duplicate, again.id),
        (false, true, first.id)
    );
    until("it is delivered", || seen(&program) == ["one"]).await;
    let cx = program.contexts.lock().unwrap()[0].clone();
    let header = |name: &str| {
        let found = cx.metadata.iter().find(|it| it.name == name);
        found.map(|it| it.value.clone()).unwrap_or_default()
    };
    assert_eq!(header("x-tenant"), "acme");
    assert_eq!(header("mortise-event-key"), "k");
    assert_eq!(header("mortise-event-id"), first.id.to_string());
    assert_eq!(
        (header("mortise-event-topic"), header("mortise-event-attempt")),
        (TOPIC.to_owned(), "1".to_owned())
    );
    assert!(cx.traceparent.contains("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!((&*cx.caller, cx.depth), ("pub", 1));
    // What was not granted, and what is no message of its contract.
    let denied = publish("test.others", "test.v1.Blob", "").await.unwrap_err();
    assert_eq!(denied.status().kind(), Code::PermissionDenied);
    assert!(
        denied.to_string().contains("events.publish=test.others"),
        "{denied}"
    );
    let unknown = publish(TOPIC, "test.v1.Nothing", "").await.unwrap_err();
    assert_eq!(unknown.status().kind(), Code::InvalidArgument, "{unknown}");
    let other = publish(TOPIC, "test.v1.Ledger", "").await.unwrap_err();
    assert_eq!(other.status().kind(), Code::FailedPrecondition);
    assert!(other.to_string().contains("carries `test.v1.Blob`"), "{other}");
    host.shutdown().await;
}

async fn a_plugin_that_is_down_or_swapped_loses_nothing(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    load_subscriber(&world, &host, "1.0.0", "Call", "ordered = true\n").await;
    host.unload("sub").await.unwrap();
    let all: Vec<String> = (0..60).map(|it| it.to_string()).collect();
    for number in &all[..20] {
        host.publish(thing(number)).await.unwrap();
    }
    let first = load_subscriber(&world, &host, "1.0.0", "Call", "ordered = true\n").await;
    until("what was published meanwhile is delivered", || {
        seen(&first).len() == 20
    })
    .await;
    let (folder, second) = world.package("sub", "2.0.0", &subscribing("Call", "ordered = true\n"));
    let publishing = async {
        for number in &all[20..] {
            host.publish(thing(number)).await.unwrap();
        }
    };
    let swapping = host.load(LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    });
    let (_, swapped) = tokio::join!(publishing, swapping);
    swapped.unwrap();
    until("everything is delivered", || {
        seen(&first).len() + seen(&second).len() >= all.len()
    })
    .await;
    assert_eq!(
        [seen(&first), seen(&second)].concat(),
        all,
        "in order, through a swap"
    );
    host.shutdown().await;
}

async fn what_fails_is_tried_again_and_becomes_a_dead_letter_that_can_be_replayed(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await.acting_as("uid:7");
    let program = load_subscriber(&world, &host, "1.0.0", "Call", "attempts = 3\n").await;
    *program.broken.lock().unwrap() = Some(Code::Internal);
    let id = host.publish(thing("poison")).await.unwrap().seq;
    let dead = async || {
        host.dead_letters(DeadQuery {
            limit: 10,
            ..DeadQuery::default()
        })
        .await
        .unwrap()
    };
    for _ in 0..2000 {
        if !dead().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let letters = dead().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (
            letters[0].attempts,
            letters[0].event.seq,
            &*letters[0].subscription
        ),
        (3, id, "sub/g")
    );
    assert!(letters[0].why.contains("broken"), "{letters:?}");
    assert_eq!(seen(&program).len(), 3);
    let attempts: Vec<String> = {
        let contexts = program.contexts.lock().unwrap();
        let attempt = |it: &mortise_runtime::CallContext| {
            let found = it.metadata.iter().find(|it| it.name == "mortise-event-attempt");
            found.unwrap().value.clone()
        };
        contexts.iter().map(attempt).collect()
    };
    assert_eq!(attempts, ["1", "2", "3"]);
    // Cured and replayed.
    *program.broken.lock().unwrap() = None;
    let letter = letters[0].letter;
    assert_eq!(host.replay_dead("sub/g", &[letter]).await.unwrap(), [letter]);
    until("it is delivered", || seen(&program).len() == 4).await;
    assert!(dead().await.is_empty());
    let nothing = host.replay_dead("sub/g", &[letter]).await.unwrap_err();
    assert_eq!(nothing.kind(), HostErrorKind::NotFound);
    // What will never do is dead at once, and may be dropped.
    *program.broken.lock().unwrap() = Some(Code::InvalidArgument);
    let id = host.publish(thing("senseless")).await.unwrap().seq;
    for _ in 0..2000 {
        if !dead().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(seen(&program).len(), 5, "one attempt");
    let letters = dead().await;
    assert_eq!(letters[0].event.seq, id);
    assert_eq!(host.drop_dead("sub/g", &[]).await.unwrap(), [letters[0].letter]);
    let changes = host.changes(Some(EVENTS_HISTORY), None, 10).await.unwrap();
    let rows: Vec<_> = changes
        .iter()
        .map(|it| (it.actor.as_str(), it.action.as_str(), it.outcome.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            ("uid:7", "drop sub/g", "done"),
            ("uid:7", "replay sub/g", "failed"),
            ("uid:7", "replay sub/g", "done")
        ]
    );
    host.shutdown().await;
}

async fn a_subscriber_that_never_answers_holds_up_nobody(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let program = {
        // Longer than a busy machine takes for what follows.
        let more = "concurrency = 3\n[limits]\ndeadline_ms = 600000\n";
        load_subscriber(&world, &host, "1.0.0", "Nap", more).await
    };
    // Each delivery naps for an hour, or until its deadline.
    for _ in 0..300 {
        host.publish(thing("3600000")).await.unwrap();
    }
    until("as many are in flight as may be", || {
        program.napping.load(Ordering::SeqCst) == 3
    })
    .await;
    let info = host.subscriptions().await.unwrap().remove(0);
    assert_eq!((info.pending, info.behind), (3, 297));
    let kept = host
        .read_events(ReadQuery {
            pattern: None,
            after: Some(0),
            limit: 1000,
            wait: Duration::ZERO,
        })
        .await
        .unwrap();
    assert_eq!(kept.len(), 300);
}

async fn a_subscriber_that_reads_something_else_is_refused_with_the_reason(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let ledger = Publication {
        type_name: Some("test.v1.Ledger".to_owned()),
        ..thing("x")
    };
    host.publish(ledger.clone()).await.unwrap();
    let (folder, _) = world.package("sub", "1.0.0", &subscribing("Call", ""));
    let load = LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    };
    let refused = host.load(load.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Refused);
    let said = refused.to_string();
    assert!(
        said.contains("carries `test.v1.Ledger`") && said.contains("reads `test.v1.Blob`"),
        "{said}"
    );
    // And the other way round: who publishes first to a topic that others read.
    let (folder, _) = world.package(
        "sub",
        "1.0.1",
        &subscribing("Call", "").replace("\"test.*\"", "\"test.fresh\""),
    );
    host.load(LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    })
    .await
    .unwrap();
    let misfit = Publication {
        topic: "test.fresh".to_owned(),
        ..ledger
    };
    let refused = host.publish(misfit).await.unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::Conflict);
    assert!(
        refused.to_string().contains("plugin `sub` subscribes"),
        "{refused}"
    );
    // Not granted.
    let (folder, _) = world.package("sub", "1.0.2", &subscribing("Call", ""));
    let refused = host.load(request(&folder)).await.unwrap_err();
    assert!(
        refused.to_string().contains("events.subscribe=test.>"),
        "{refused}"
    );
    host.shutdown().await;
}

async fn a_log_that_is_full_refuses_publishers_and_keeps_what_it_accepted(keeper: &Keeper) {
    let world = World::new();
    let mut config = HostConfig::default();
    config.events.log_bytes_max = 1 << 20;
    config.events.payload_bytes_max = 64 << 10;
    let host = keeper.builder(&world, config).start().await.unwrap();
    load_subscriber(&world, &host, "1.0.0", "Call", "").await;
    host.unload("sub").await.unwrap();
    let large = "x".repeat(60 << 10);
    let mut accepted = 0;
    let refused = loop {
        match host.publish(thing(&large)).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100, "it is never full");
    };
    assert!(
        refused.to_string().contains("subscription `sub/g` is"),
        "{refused}"
    );
    assert!(
        refused
            .hint()
            .is_some_and(|it| it.contains("mortise events forget sub/g")),
        "{refused:?}"
    );
    let too_large = host.publish(thing(&"x".repeat(65 << 10))).await.unwrap_err();
    assert!(
        too_large.to_string().contains("events may have 65536"),
        "{too_large}"
    );
    let program = load_subscriber(&world, &host, "1.0.0", "Call", "").await;
    until("all that was accepted is delivered", || {
        seen(&program).len() == accepted
    })
    .await;
    // What everybody is done with makes room.
    for _ in 0..50 {
        if host.publish(thing(&large)).await.is_ok() {
            host.shutdown().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is never room again");
}

/// The dead letters, when there are so many.
async fn dead(host: &Host, number: usize) -> Vec<DeadLetter> {
    let query = || DeadQuery {
        limit: 100,
        ..DeadQuery::default()
    };
    for _ in 0..4000 {
        let letters = host.dead_letters(query()).await.unwrap();
        if letters.len() == number {
            return letters;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!(
        "never {number} dead letters: {:?}, {:?}",
        host.dead_letters(query()).await,
        host.subscriptions().await
    );
}

#[tokio::test]
async fn an_attempt_is_what_got_to_the_plugin() {
    let world = World::new();
    let mut config = HostConfig::default();
    config.events.payload_bytes_max = 4 << 20;
    let host = world.builder().config(config).start().await.unwrap();
    let more = "attempts = 2\n[limits]\nconcurrency = 1\npayload_mib = 1\n";
    let program = load_subscriber(&world, &host, "1.0.0", "Call", more).await;
    // It exhausts its instance each time.
    *program.broken.lock().unwrap() = Some(Code::ResourceExhausted);
    host.publish(thing("greedy")).await.unwrap();
    let letters = dead(&host, 1).await;
    assert_eq!(letters[0].attempts, 2, "{letters:?}");
    assert_eq!(seen(&program).len(), 2);
    *program.broken.lock().unwrap() = None;
    // Larger than the plugin takes: it never gets there, and that ends, too.
    host.publish(thing(&"x".repeat(2 << 20))).await.unwrap();
    let letters = dead(&host, 2).await;
    assert!(letters[1].why.contains("may have 1048576"), "{}", letters[1].why);
    assert_eq!(seen(&program).len(), 2);
    host.shutdown().await;
}

#[tokio::test]
async fn waiting_for_a_place_is_no_attempt() {
    let world = World::new();
    let host = world.host().await;
    let more = "attempts = 1\n[limits]\nconcurrency = 1\ndeadline_ms = 100\n";
    let program = load_subscriber(&world, &host, "1.0.0", "Call", more).await;
    let busy = {
        let options = CallOptions {
            deadline: Some(std::time::Instant::now() + Duration::from_secs(600)),
            ..CallOptions::default()
        };
        let host = host.clone();
        let nap = async move { host.call("plugin.sub.Nap", "3600000".into(), options).await };
        tokio::spawn(nap)
    };
    until("it has its hands full", || {
        program.napping.load(Ordering::SeqCst) == 1
    })
    .await;
    host.publish(thing("patient")).await.unwrap();
    // Until it was turned away at least once, and waits for its next chance.
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let info = host.subscriptions().await.unwrap().remove(0);
        assert_eq!(info.dead, 0, "it never got there");
    }
    busy.abort();
    until("it is delivered", || seen(&program) == ["patient"]).await;
    assert_eq!(program.contexts.lock().unwrap().len(), 2);
    host.shutdown().await;
}

#[tokio::test]
async fn what_is_of_earlier_terms_does_not_reach_the_new_method() {
    let world = World::new();
    let host = world.host().await;
    let first = load_subscriber(&world, &host, "1.0.0", "Call", "attempts = 1\n").await;
    *first.broken.lock().unwrap() = Some(Code::Internal);
    let id = host.publish(thing("old")).await.unwrap().seq;
    dead(&host, 1).await;
    let manifest = subscribing("Call", "attempts = 1\n").replace("\"test.*\"", "\"test.other\"");
    let (folder, second) = world.package("sub", "2.0.0", &manifest);
    host.load(LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    })
    .await
    .unwrap();
    for _ in 0..2000 {
        let info = host.subscriptions().await.unwrap().remove(0);
        if info.pattern == "test.other" && info.active {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(host.replay_dead("sub/g", &[id]).await.unwrap(), [id]);
    let letters = dead(&host, 1).await;
    assert!(
        letters[0].why.contains("about `test.other` now"),
        "{}",
        letters[0].why
    );
    assert!(seen(&second).is_empty());
    host.shutdown().await;
}

/// A canary of `sub` that stays in its first step.
async fn canary(
    world: &World,
    host: &Host,
    manifest: &str,
    step: &str,
    sticky: Option<&str>,
) -> Arc<Program> {
    let (folder, program) = world.package("sub", "1.1.0", manifest);
    let mut canary = CanaryRequest::new(LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    });
    canary.plan.steps = vec![step.parse::<CanaryStep>().unwrap()];
    canary.plan.analysis.requests_min = 1_000_000;
    canary.sticky = sticky.map(str::to_owned);
    host.start_canary("uid:1", canary).await.unwrap();
    program
}

#[tokio::test]
async fn during_a_canary_a_delivery_is_routed_to_a_version_that_has_the_subscription() {
    let world = World::new();
    let host = world.host().await;
    let one = load_subscriber(&world, &host, "1.0.0", "Call", "").await;
    // The new version is about less of the old subscription, and has one of its own.
    let manifest = subscribing("Call", "").replace("\"test.*\"", "\"test.things\"")
        + "[[subscribe]]\ntopic = \"test.fresh\"\nmethod = \"test.v1.Echo/Call\"\ngroup = \"fresh\"\n";
    let two = canary(&world, &host, &manifest, "header x-canary=yes", None).await;
    active(&host, "sub/fresh", true).await;
    let publish = async |topic: &str, payload: &str, to_canary: bool| {
        let header = Header {
            name: "x-canary".to_owned(),
            value: "yes".to_owned(),
        };
        let event = Publication {
            topic: topic.to_owned(),
            headers: Vec::from_iter(to_canary.then_some(header)),
            ..thing(payload)
        };
        host.publish(event).await.unwrap();
    };
    publish(TOPIC, "plain", false).await;
    publish(TOPIC, "routed", true).await;
    publish("test.other", "not the canary's", true).await;
    publish("test.fresh", "everybody's", false).await;
    let sorted = |program: &Program| {
        let mut all = seen(program);
        all.sort();
        all
    };
    until("the old version has its part", || {
        sorted(&one) == ["everybody's", "not the canary's", "plain"]
    })
    .await;
    until("the canary has its part", || {
        sorted(&two) == ["everybody's", "routed"]
    })
    .await;
    // Taken back, it takes its own subscription along, and all of the other is the old one's.
    host.abort_canary("uid:1", "sub", "no more").await.unwrap();
    active(&host, "sub/fresh", false).await;
    publish(TOPIC, "afterwards", true).await;
    until("the old version has it", || seen(&one).len() == 4).await;
    assert_eq!(seen(&two).len(), 2);
    assert!(dead(&host, 0).await.is_empty());
    host.shutdown().await;
}

#[tokio::test]
async fn a_canary_that_sticks_to_the_events_key_has_all_attempts_of_an_event() {
    const COUNT: usize = 60;
    let world = World::new();
    let host = world.host().await;
    let more = "attempts = 3\n";
    let one = load_subscriber(&world, &host, "1.0.0", "Call", more).await;
    let manifest = subscribing("Call", more);
    let two = canary(&world, &host, &manifest, "50%", Some("mortise-event-key")).await;
    for program in [&one, &two] {
        *program.broken.lock().unwrap() = Some(Code::Internal);
    }
    for number in 0..COUNT {
        let event = Publication {
            key: Some(format!("k-{number}")),
            ..thing(&number.to_string())
        };
        host.publish(event).await.unwrap();
    }
    let letters = dead(&host, COUNT).await;
    assert!(letters.iter().all(|it| it.attempts == 3));
    let parts = [seen(&one), seen(&two)];
    assert_eq!(parts.concat().len(), COUNT * 3, "none lost, none doubled");
    let [of_one, of_two] = parts.map(|it| it.into_iter().collect::<BTreeSet<_>>());
    assert!(
        !of_one.is_empty() && !of_two.is_empty(),
        "each has a part: {of_one:?}, {of_two:?}"
    );
    assert!(of_one.is_disjoint(&of_two), "{of_one:?}, {of_two:?}");
    host.shutdown().await;
}

#[tokio::test]
async fn what_a_plugin_says_of_a_failure_is_bounded_and_without_its_secrets() {
    const SECRET: &str = "hunter2-of-the-database";
    let world = World::new();
    let host = world.host().await;
    let place = world.dir.path().join("secret");
    std::fs::write(&place, SECRET).unwrap();
    let (folder, program) = world.package("sub", "1.0.0", &subscribing("Call", "attempts = 1\n"));
    let own = format!(r#"{{"key": {{"secret": "file:{}"}}}}"#, place.display());
    let load = LoadRequest {
        grant: grant(may_subscribe()),
        ..request(&folder)
    };
    host.load(load.config_json(own)).await.unwrap();
    subscribed(&host).await;
    *program.says.lock().unwrap() = format!(
        "cannot log in with {SECRET}\nERROR forged {}",
        "x".repeat(1 << 20)
    );
    *program.broken.lock().unwrap() = Some(Code::Internal);
    host.publish(thing("one")).await.unwrap();
    let why = dead(&host, 1).await.remove(0).why;
    assert!(why.contains("cannot log in with ***"), "{}", &why[..200]);
    assert!(!why.contains(['\n', '\r']), "one line");
    assert!(why.len() < 20_000, "{} bytes", why.len());
    host.shutdown().await;
}

#[tokio::test]
async fn while_a_plugin_is_down_its_backlog_is_not_tried_round_and_round() {
    let world = World::new();
    let host = world.host().await;
    let program = load_subscriber(&world, &host, "1.0.0", "Call", "").await;
    program.refuses.store(true, Ordering::SeqCst);
    program.crash();
    until("it is down", || !crate::closures::state(&host, "sub").is_routed()).await;
    for number in 0..200 {
        host.publish(thing(&number.to_string())).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let info = host.subscriptions().await.unwrap().remove(0);
    assert!(info.pending < 100, "{info:?}");
    assert_eq!(info.dead, 0);
    program.refuses.store(false, Ordering::SeqCst);
    host.load(LoadRequest {
        grant: grant(may_subscribe()),
        force: true,
        ..request(&world.dir.path().join("sub-1.0.0"))
    })
    .await
    .unwrap();
    until("everything is delivered", || seen(&program).len() >= 200).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_stream_of_the_program_ends_with_its_host() {
    let world = World::new();
    let host = world.host().await;
    let mut stream = host.subscribe(ours()).await.unwrap();
    let ending = async { tokio::join!(stream.next(), host.shutdown()).0 };
    let ended = tokio::time::timeout(Duration::from_secs(60), ending).await;
    let error = ended.expect("it ends").unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    assert!(host.subscribe(ours()).await.is_err());
}

// === the end of the host ===

const PLACE: &str = "MORTISE_TEST_EVENTS_PLACE";
const MOMENT: &str = "MORTISE_TEST_EVENTS_MOMENT";
/// Where the server is that keeps events; unset for the data directory.
const SERVER: &str = "MORTISE_TEST_EVENTS_SERVER";

fn ours() -> SubscriptionTerms {
    SubscriptionTerms {
        name: "ours".to_owned(),
        pattern: "test.>".parse().unwrap(),
        from: SubscribeFrom::Oldest,
        retry: RetryPolicy {
            attempts_max: 8,
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
        },
        concurrency: 4,
        ordered: false,
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// A host in a place, with events there or in a server.
async fn one_life(world: &World, place: &Path, server: Option<String>) -> Host {
    let builder = world.builder().data_dir(place.join("data"));
    let builder = match server {
        Some(endpoint) => builder.broker(NatsBroker::new(settings(&endpoint), EventsConfig::default())),
        None => builder,
    };
    builder.start().await.unwrap()
}

/// The host that is killed; as a test of its own it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publisher_that_is_killed() {
    let (Ok(place), Ok(moment)) = (std::env::var(PLACE), std::env::var(MOMENT)) else {
        return;
    };
    let moment: usize = moment.parse().unwrap();
    let world = World::new();
    let host = one_life(&world, Path::new(&place), std::env::var(SERVER).ok()).await;
    for publisher in 0..3 {
        let host = host.clone();
        tokio::spawn(async move {
            for number in 0_u64.. {
                let mut event = thing(&number.to_string());
                event.key = Some(format!("{publisher}-{number}"));
                let published = host.publish(event).await.unwrap();
                say(&format!("accepted {}", published.seq));
            }
        });
    }
    let mut stream = host.subscribe(ours()).await.unwrap();
    let got = Arc::new(AtomicUsize::new(0));
    loop {
        let delivered = stream.next().await.unwrap();
        let got = got.clone();
        tokio::spawn(async move {
            say(&format!("got {} {}", delivered.event.seq, delivered.event.key()));
            if got.fetch_add(1, Ordering::SeqCst) == moment {
                let this = rustix::process::getpid();
                rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
            }
            delivered.receipt.settle(Outcome::Done).await.unwrap();
        });
    }
}

#[test]
fn a_host_that_is_killed_during_deliveries_loses_no_event_that_it_accepted() {
    kill_during_deliveries(&[0, 7, 60], None);
}

#[test]
fn a_host_that_is_killed_during_deliveries_loses_no_event_that_nats_accepted() {
    let Some(nats) = Nats::start() else { return };
    // What was in flight, the server gives out again only after its patience.
    kill_during_deliveries(&[7], Some(&nats.endpoint));
}

fn kill_during_deliveries(moments: &[usize], server: Option<&str>) {
    for moment in moments {
        let place = tempfile::tempdir().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["events::the_publisher_that_is_killed", "--exact", "--nocapture"])
            .env(PLACE, place.path())
            .env(MOMENT, moment.to_string())
            .envs(server.map(|it| (SERVER, it)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            killed,
            "{}: {said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let numbers = |word: &str| -> Vec<u64> {
            let lines = said.lines().filter_map(|it| it.strip_prefix(word));
            lines
                .filter_map(|it| it.split(' ').next()?.parse().ok())
                .collect()
        };
        let accepted: BTreeSet<u64> = numbers("accepted ").into_iter().collect();
        let before = numbers("got ");
        let mut got: BTreeSet<u64> = before.iter().copied().collect();
        assert_eq!(got.len(), before.len(), "the first life delivered none twice");
        let in_flight = ours().concurrency as usize;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let host = one_life(&world, place.path(), server.map(str::to_owned)).await;
            let mut stream = host.subscribe(ours()).await.unwrap();
            let mut twice = 0;
            while !accepted.is_subset(&got) {
                let next = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
                let delivered = next.expect("an accepted event is lost").unwrap();
                twice += usize::from(!got.insert(delivered.event.seq));
                let key = delivered.event.key();
                assert!(
                    !before.contains(&delivered.event.seq)
                        || said.contains(&format!("got {} {key}\n", delivered.event.seq)),
                    "the same event has the same key"
                );
                delivered.receipt.settle(Outcome::Done).await.unwrap();
            }
            // What was in flight, or was said to be done and not yet written.
            assert!(twice <= in_flight, "{twice} of {} came twice", before.len());
            host.shutdown().await;
        });
    }
}
