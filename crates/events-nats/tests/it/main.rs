//! The broker against a real nats-server: away, killed, guarded, shared, emptied. What every broker promises is held against it in the host's tests.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../../../tests/nats.rs"]
mod nats;

use std::{collections::BTreeSet, time::Duration};

use mortise_events::{
    Broker as _, DeadQuery, Delivered, EventErrorKind, Inbox, NewEvent, Outcome, ReadQuery, RetryPolicy,
    Settled, SubscriptionTerms, TopicSchema,
};
use mortise_events_nats::NatsBroker;
use mortise_manifest::{EventsConfig, NatsSettings, SubscribeFrom};
use nats::Nats;

/// Far longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for what must not come.
const A_WHILE: Duration = Duration::from_millis(400);

fn settings(nats: &Nats) -> NatsSettings {
    NatsSettings {
        endpoints: vec![nats.endpoint.clone()],
        prefix: NatsSettings::PREFIX.to_owned(),
        user: None,
        password: None,
        token: None,
        ca_file: None,
        replicas: 1,
    }
}

fn broker(nats: &Nats) -> NatsBroker {
    NatsBroker::new(settings(nats), EventsConfig::default())
}

fn event(topic: &str, payload: &str) -> NewEvent {
    NewEvent {
        topic: topic.to_owned(),
        type_name: "test.v1.Blob".to_owned(),
        payload: payload.to_owned().into(),
        ..NewEvent::default()
    }
}

fn terms(name: &str) -> SubscriptionTerms {
    SubscriptionTerms {
        name: name.to_owned(),
        pattern: "a.>".parse().unwrap(),
        from: SubscribeFrom::Oldest,
        retry: RetryPolicy {
            attempts_max: 2,
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(20),
        },
        concurrency: 4,
        ordered: false,
    }
}

async fn next(inbox: &mut Box<dyn Inbox>) -> Delivered {
    let next = tokio::time::timeout(PATIENCE, inbox.next()).await;
    next.expect("an event comes").unwrap()
}

async fn take(inbox: &mut Box<dyn Inbox>) -> String {
    let delivered = next(inbox).await;
    let text = String::from_utf8(delivered.event.content.payload.to_vec()).unwrap();
    delivered.receipt.settle(Outcome::Done).await.unwrap();
    text
}

async fn nothing_comes(inbox: &mut Box<dyn Inbox>) {
    let next = tokio::time::timeout(A_WHILE, inbox.next()).await;
    assert!(next.is_err(), "{next:?}");
}

/// Publishes until it is kept, as a publisher with a key does.
async fn publish_somehow(broker: &NatsBroker, key: &str) -> u64 {
    let keyed = NewEvent {
        key: Some(key.to_owned()),
        ..event("a.b", key)
    };
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match broker.publish(keyed.clone()).await {
            Ok(published) => return published.seq,
            Err(error) => assert_eq!(error.kind(), EventErrorKind::Unavailable, "{error}"),
        }
        assert!(tokio::time::Instant::now() < until, "it is never kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn everything(broker: &NatsBroker) -> Vec<String> {
    let query = ReadQuery {
        pattern: None,
        after: Some(0),
        limit: 1000,
        wait: Duration::ZERO,
    };
    let events = broker.read(query).await.unwrap();
    let text = |it: &mortise_events::Event| String::from_utf8_lossy(&it.content.payload).into_owned();
    events.iter().map(text).collect()
}

#[tokio::test]
async fn a_server_that_is_away_is_said_so_and_found_when_it_comes() {
    let Some(mut nats) = Nats::away() else { return };
    let broker = broker(&nats);
    for _ in 0..3 {
        let refused = broker.publish(event("a.b", "1")).await.unwrap_err();
        assert_eq!(refused.kind(), EventErrorKind::Unavailable);
        let said = refused.to_string();
        assert!(
            said.contains(&nats.endpoint) && said.contains("refused"),
            "{said}"
        );
        assert!(refused.hint().contains("same key"), "{}", refused.hint());
    }
    assert!(broker.subscribe(terms("ours")).await.is_err());
    assert!(broker.topics().await.is_err());
    nats.resume();
    publish_somehow(&broker, "2").await;
    // The name was not taken by the attempt that failed.
    let mut inbox = broker.subscribe(terms("ours")).await.unwrap();
    assert_eq!(take(&mut inbox).await, "2");
    // Without JetStream it is there, and of no use.
    let mut plain = Nats::away().unwrap();
    plain.without_jetstream();
    let refused = self::broker(&plain).publish(event("a.b", "1")).await.unwrap_err();
    assert_eq!(refused.kind(), EventErrorKind::Unavailable);
    assert!(
        refused.hint().contains("JetStream"),
        "{refused}: {}",
        refused.hint()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let Some(mut nats) = Nats::start() else { return };
    let broker = broker(&nats);
    let mut inbox = broker.subscribe(terms("ours")).await.unwrap();
    let mut accepted = BTreeSet::new();
    for life in 0..3 {
        for number in 0..10 {
            let key = format!("{life}-{number}");
            publish_somehow(&broker, &key).await;
            accepted.insert(key);
        }
        // One is in flight.
        let held = next(&mut inbox).await;
        nats.kill();
        let began = tokio::time::Instant::now();
        let refused = broker.publish(event("a.b", "lost")).await.unwrap_err();
        assert_eq!(refused.kind(), EventErrorKind::Unavailable, "{refused}");
        // It was told once more, and at once: the outage is old by then.
        let refused = broker.publish(event("a.b", "lost")).await.unwrap_err();
        assert!(refused.to_string().contains(&nats.endpoint), "{refused}");
        assert!(began.elapsed() < PATIENCE);
        nats.resume();
        // Whether it is heard depends on the moment; then it comes again.
        let _ = held.receipt.settle(Outcome::Done).await;
    }
    // All are there, once: what was published again had its key.
    let mut kept: Vec<String> = everything(&broker).await;
    kept.retain(|it| it != "lost");
    assert_eq!(kept.len(), accepted.len(), "{kept:?}");
    assert_eq!(kept.into_iter().collect::<BTreeSet<_>>(), accepted);
    // And all are delivered, at least once.
    let mut got = BTreeSet::new();
    while !got.is_superset(&accepted) {
        got.insert(take(&mut inbox).await);
        let all = broker.subscriptions().await.unwrap();
        if all[0].behind == 0 && all[0].pending == 0 {
            break;
        }
    }
    let info = broker.subscriptions().await.unwrap().remove(0);
    assert_eq!((info.behind, info.dead), (0, 0), "{info:?}");
}

#[tokio::test]
async fn of_two_hosts_with_one_subscription_each_event_goes_to_one() {
    let Some(nats) = Nats::start() else { return };
    let (one, other) = (broker(&nats), broker(&nats));
    let mut first = one.subscribe(terms("books/book")).await.unwrap();
    let mut second = other.subscribe(terms("books/book")).await.unwrap();
    for number in 0..40 {
        one.publish(event("a.b", &number.to_string())).await.unwrap();
    }
    let mut got = Vec::new();
    let mut shares = [0, 0];
    while got.len() < 40 {
        let (share, delivered) = tokio::select! {
            delivered = next(&mut first) => (0, delivered),
            delivered = next(&mut second) => (1, delivered),
        };
        assert_eq!(delivered.attempt, 1);
        shares[share] += 1;
        got.push(String::from_utf8(delivered.event.content.payload.to_vec()).unwrap());
        delivered.receipt.settle(Outcome::Done).await.unwrap();
    }
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 40, "none twice");
    assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
    // As long as one of them has it open, nobody forgets it; what is with the one that ends goes to the other at once.
    assert_eq!(
        other.forget("books/book").await.unwrap_err().kind(),
        EventErrorKind::Conflict
    );
    one.publish(event("a.b", "last")).await.unwrap();
    let held = tokio::select! {
        delivered = next(&mut first) => (true, delivered),
        delivered = next(&mut second) => (false, delivered),
    };
    let left = match held.0 {
        true => {
            drop(first);
            &mut second
        }
        false => {
            drop(second);
            &mut first
        }
    };
    let again = next(left).await;
    assert_eq!(again.event.seq, held.1.event.seq);
    assert!(again.attempt > 1, "{again:?}");
    again.receipt.settle(Outcome::Done).await.unwrap();
    // Another prefix is another world.
    let elsewhere = NatsSettings {
        prefix: "elsewhere".to_owned(),
        ..settings(&nats)
    };
    let elsewhere = NatsBroker::new(elsewhere, EventsConfig::default());
    assert_eq!(everything(&elsewhere).await, [""; 0]);
    assert_eq!(elsewhere.subscriptions().await.unwrap(), []);
}

#[tokio::test]
async fn a_guarded_server_lets_in_whoever_has_the_password() {
    let Some(mut nats) = Nats::away() else { return };
    nats.guard("mortise", "correct horse");
    nats.resume();
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    let with = NatsSettings {
        user: Some("mortise".to_owned()),
        password: Some(format!("file:{}", password.display())),
        ..settings(&nats)
    };
    let broker = NatsBroker::new(with, EventsConfig::default());
    let refused = broker.publish(event("a.b", "1")).await.unwrap_err().to_string();
    assert!(
        refused.contains("`password`") && refused.contains("No such file"),
        "{refused}"
    );
    std::fs::write(&password, "wrong horse\n").unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let refused = broker.publish(event("a.b", "1")).await.unwrap_err();
    assert_eq!(refused.kind(), EventErrorKind::Unavailable);
    let refused = refused.to_string();
    assert!(
        refused.contains("authorization violation") && !refused.contains("horse"),
        "{refused}"
    );
    std::fs::write(&password, "correct horse\n").unwrap();
    publish_somehow(&broker, "2").await;
    assert!(!format!("{broker:?} {}", broker.describe()).contains("horse"));
    let nobody = self::broker(&nats)
        .publish(event("a.b", "1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(nobody.contains("authorization violation"), "{nobody}");
    nats.kill();
    nats.guard_with_token("battery staple");
    nats.resume();
    let with = NatsSettings {
        token: Some(format!("file:{}", password.display())),
        ..settings(&nats)
    };
    let tokened = NatsBroker::new(with, EventsConfig::default());
    assert!(tokened.publish(event("a.b", "3")).await.is_err());
    std::fs::write(&password, "battery staple\n").unwrap();
    publish_somehow(&tokened, "3").await;
    assert_eq!(everything(&tokened).await, ["2", "3"]);
}

#[tokio::test]
async fn what_is_deleted_behind_its_back_begins_anew() {
    let Some(nats) = Nats::start() else { return };
    let broker = broker(&nats);
    let mut inbox = broker.subscribe(terms("books/book")).await.unwrap();
    broker.publish(event("a.b", "1")).await.unwrap();
    assert_eq!(take(&mut inbox).await, "1");
    let gone = nats.ask("CONSUMER.DELETE.mortise_EVENTS.books=2Fbook", "{}");
    assert!(gone.contains("\"success\":true"), "{gone}");
    broker.publish(event("a.b", "2")).await.unwrap();
    let mut got = BTreeSet::new();
    while got.len() < 2 {
        got.insert(take(&mut inbox).await);
    }
    // `from` is `oldest`, so it began with the first one.
    assert_eq!(got, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
}

#[tokio::test]
async fn an_event_that_takes_its_hosts_with_it_is_a_dead_letter() {
    let Some(nats) = Nats::start() else { return };
    let broker = broker(&nats);
    broker.publish(event("a.b", "poison")).await.unwrap();
    // One slot, so that nobody else of a closed inbox still asks.
    let terms = SubscriptionTerms {
        concurrency: 1,
        ..terms("ours")
    };
    for attempt in 1..=2 {
        let mut inbox = broker.subscribe(terms.clone()).await.unwrap();
        let held = next(&mut inbox).await;
        assert_eq!(held.attempt, attempt);
        // No word, and the end of whoever had it.
        drop(inbox);
    }
    let mut inbox = broker.subscribe(terms).await.unwrap();
    nothing_comes(&mut inbox).await;
    let query = DeadQuery {
        limit: 10,
        ..DeadQuery::default()
    };
    let letters = broker.dead(query).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].attempts, &*letters[0].event.content.payload),
        (2, &b"poison"[..])
    );
    assert!(letters[0].why.contains("did not say"), "{}", letters[0].why);
}

#[tokio::test]
async fn what_nobody_is_done_with_stays_and_the_rest_goes() {
    let Some(nats) = Nats::start() else { return };
    let config = EventsConfig {
        log_bytes_max: 1 << 20,
        ..EventsConfig::default()
    };
    let broker = NatsBroker::new(settings(&nats), config);
    let mut inbox = broker.subscribe(terms("ours")).await.unwrap();
    // Somebody whom none of it is about, and somebody who has had one, are never there again.
    let elsewhere = SubscriptionTerms {
        pattern: "b.>".parse().unwrap(),
        ..terms("elsewhere")
    };
    drop(broker.subscribe(elsewhere).await.unwrap());
    let rare = SubscriptionTerms {
        pattern: "a.rare".parse().unwrap(),
        ..terms("rare")
    };
    let mut seldom = broker.subscribe(rare.clone()).await.unwrap();
    broker.publish(event("a.rare", "0")).await.unwrap();
    assert_eq!(
        (take(&mut seldom).await, take(&mut inbox).await),
        ("0".to_owned(), "0".to_owned())
    );
    drop(seldom);
    let large = "x".repeat(100 << 10);
    for _ in 0..30 {
        broker.publish(event("a.b", &large)).await.unwrap();
        take(&mut inbox).await;
    }
    // What is not taken stays, and a publisher hears whose it is.
    broker.publish(event("a.rare", "1")).await.unwrap();
    assert_eq!(take(&mut inbox).await, "1");
    let refused = loop {
        match broker.publish(event("a.b", &large)).await {
            Ok(_) => drop(take(&mut inbox).await),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), EventErrorKind::Full, "{refused}");
    assert!(
        refused
            .to_string()
            .contains("subscription `rare` is 1 events behind"),
        "{refused}"
    );
    let mut seldom = broker.subscribe(rare).await.unwrap();
    assert_eq!(take(&mut seldom).await, "1");
    broker.publish(event("a.b", &large)).await.unwrap();
}

#[tokio::test]
async fn the_end_is_heard_and_gives_back_what_was_in_flight() {
    let Some(nats) = Nats::start() else { return };
    let ending = broker(&nats);
    let mut inbox = ending.subscribe(terms("ours")).await.unwrap();
    ending.publish(event("a.b", "1")).await.unwrap();
    let held = next(&mut inbox).await;
    tokio::time::timeout(PATIENCE, ending.close())
        .await
        .expect("it ends, though the inbox is there");
    let over = inbox.next().await.unwrap_err();
    assert_eq!(over.kind(), EventErrorKind::Unavailable);
    assert!(held.receipt.settle(Outcome::Done).await.is_err());
    assert!(ending.publish(event("a.b", "2")).await.is_err());
    let mut inbox = broker(&nats).subscribe(terms("ours")).await.unwrap();
    let again = next(&mut inbox).await;
    assert_eq!(&*again.event.content.payload, b"1");
    assert_eq!(again.receipt.settle(Outcome::Done).await.unwrap(), Settled::Done);
}

#[tokio::test]
async fn the_first_word_about_a_topic_counts_in_all_hosts() {
    let Some(nats) = Nats::start() else { return };
    let schema = |name: &str| TopicSchema {
        type_name: name.to_owned(),
        descriptor_set: name.to_owned().into(),
    };
    let (one, other) = (broker(&nats), broker(&nats));
    let (first, second) = tokio::join!(
        one.set_schema("a.b", schema("x.One")),
        other.set_schema("a.b", schema("x.Other"))
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first, second);
    assert_eq!(one.schema("a.b").await.unwrap(), Some(first));
    assert_eq!(one.schema("a.c").await.unwrap(), None);
}
