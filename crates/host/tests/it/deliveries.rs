//! What the port promises of publishing, subscribing and dead letters, held against everybody who keeps events, from the side of a program.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use mortise_host::{
    EventStream, Host, HostErrorKind, Publication,
    event::{DeadLetter, DeadQuery, Delivered, Outcome, ReadQuery, RetryPolicy, Settled, SubscriptionTerms},
};
use mortise_manifest::{HostConfig, SubscribeFrom};
use mortise_wire::Header;

use crate::{
    closures::{World, contract},
    keepers::{Keeper, on_every_keeper},
};

/// Far longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for what must not come.
const A_WHILE: Duration = Duration::from_millis(400);

on_every_keeper!(
    every_subscription_gets_every_event_of_its_topics_once,
    what_fails_comes_again_and_is_dead_after_its_attempts,
    what_did_not_get_there_is_no_attempt,
    an_ordered_subscription_is_overtaken_by_nothing,
    a_replayed_event_is_for_its_subscription_alone_and_is_the_same,
    a_key_is_kept_once_for_each_topic,
    no_more_is_given_out_than_may_be_in_flight,
    a_subscription_goes_on_where_it_was_and_has_one_inbox,
    events_are_read_in_their_order,
    whatever_a_publisher_wrote_arrives,
    what_the_topics_carry_is_said_once,
    room_is_made_of_what_everybody_is_done_with,
);

fn terms(name: &str, pattern: &str) -> SubscriptionTerms {
    SubscriptionTerms {
        name: name.to_owned(),
        pattern: pattern.parse().unwrap(),
        from: SubscribeFrom::Oldest,
        retry: RetryPolicy {
            attempts_max: 3,
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(20),
        },
        concurrency: 4,
        ordered: false,
    }
}

fn of(topic: &str, payload: &str) -> Publication {
    Publication {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        type_name: Some("test.v1.Blob".to_owned()),
        descriptor_set: Some(contract().into()),
        ..Publication::default()
    }
}

async fn next(stream: &mut EventStream) -> Delivered {
    let next = tokio::time::timeout(PATIENCE, stream.next()).await;
    next.expect("an event comes").unwrap()
}

async fn nothing_comes(stream: &mut EventStream) {
    let next = tokio::time::timeout(A_WHILE, stream.next()).await;
    assert!(next.is_err(), "{next:?}");
}

/// Ends a stream, and waits until whoever keeps events has heard of it: what it gave out at that moment would come late.
async fn close(stream: EventStream) {
    drop(stream);
    tokio::time::sleep(A_WHILE).await;
}

fn text(delivered: &Delivered) -> String {
    String::from_utf8(delivered.event.content.payload.to_vec()).unwrap()
}

async fn settle(delivered: Delivered, outcome: Outcome) -> Settled {
    delivered.receipt.settle(outcome).await.unwrap()
}

/// Takes so many events, and is done with each.
async fn take(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let delivered = next(stream).await;
        assert_eq!(delivered.attempt, 1, "{delivered:?}");
        all.push(text(&delivered));
        assert_eq!(settle(delivered, Outcome::Done).await, Settled::Done);
    }
    all
}

async fn dead(host: &Host, subscription: &str) -> Vec<DeadLetter> {
    let query = DeadQuery {
        subscription: Some(subscription.to_owned()),
        seq: None,
        limit: 100,
    };
    host.dead_letters(query).await.unwrap()
}

async fn every_subscription_gets_every_event_of_its_topics_once(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut all = host.subscribe(terms("all", "a.>")).await.unwrap();
    let mut one = host.subscribe(terms("one", "a.*.x")).await.unwrap();
    let mut fresh = SubscriptionTerms {
        from: SubscribeFrom::New,
        ..terms("fresh", "a.1.x")
    };
    host.publish(of("a.1.x", "1")).await.unwrap();
    host.publish(of("a.1.y", "2")).await.unwrap();
    host.publish(of("b.1.x", "3")).await.unwrap();
    let mut new = host.subscribe(fresh.clone()).await.unwrap();
    host.publish(of("a.1.x", "4")).await.unwrap();
    host.publish(of("a.2.x", "5")).await.unwrap();
    let sorted = |mut it: Vec<String>| {
        it.sort();
        it
    };
    assert_eq!(sorted(take(&mut all, 4).await), ["1", "2", "4", "5"]);
    assert_eq!(sorted(take(&mut one, 3).await), ["1", "4", "5"]);
    assert_eq!(take(&mut new, 1).await, ["4"]);
    for stream in [&mut all, &mut one, &mut new] {
        nothing_comes(stream).await;
    }
    // It was there before, so where it begins is of no account.
    close(new).await;
    host.publish(of("a.1.x", "6")).await.unwrap();
    fresh.from = SubscribeFrom::Oldest;
    let mut new = host.subscribe(fresh).await.unwrap();
    assert_eq!(take(&mut new, 1).await, ["6"]);
    nothing_comes(&mut new).await;
}

async fn what_fails_comes_again_and_is_dead_after_its_attempts(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    let seq = host.publish(of("a.b", "poison")).await.unwrap().seq;
    for attempt in 1..=3 {
        let delivered = next(&mut stream).await;
        assert_eq!((delivered.attempt, delivered.event.seq), (attempt, seq));
        let settled = settle(delivered, Outcome::Failed(format!("for the time {attempt}"))).await;
        match attempt {
            3 => assert_eq!(settled, Settled::Dead),
            _ => assert!(matches!(settled, Settled::Again(_)), "{settled:?}"),
        }
    }
    host.publish(of("a.b", "senseless")).await.unwrap();
    let delivered = next(&mut stream).await;
    assert_eq!(
        settle(delivered, Outcome::Never("it is senseless".to_owned())).await,
        Settled::Dead
    );
    nothing_comes(&mut stream).await;
    let letters = dead(&host, "ours").await;
    let told: Vec<_> = letters
        .iter()
        .map(|it| {
            (
                &*it.event.content.payload,
                it.attempts,
                &*it.why,
                &*it.subscription,
                &*it.event.content.topic,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (&b"poison"[..], 3, "for the time 3", "ours", "a.b"),
            (b"senseless", 1, "it is senseless", "ours", "a.b")
        ]
    );
    assert!(letters[0].letter < letters[1].letter && letters[0].at_unix_ms <= letters[1].at_unix_ms);
    let info = host.subscriptions().await.unwrap().remove(0);
    assert_eq!(
        (&*info.name, &*info.pattern, info.active, info.dead),
        ("ours", "a.>", true, 2)
    );
    assert_eq!((info.behind, info.pending), (0, 0));
    let one = DeadQuery {
        subscription: None,
        seq: Some(letters[1].letter),
        limit: 10,
    };
    assert_eq!(host.dead_letters(one).await.unwrap(), letters[1..]);
    assert_eq!(dead(&host, "theirs").await, []);
    // Dropped, and only what is there.
    let gone = host.drop_dead("ours", &[letters[0].letter, 4711]).await.unwrap();
    assert_eq!(gone, [letters[0].letter]);
    assert_eq!(
        host.drop_dead("theirs", &[letters[1].letter])
            .await
            .unwrap_err()
            .kind(),
        HostErrorKind::NotFound
    );
    assert_eq!(dead(&host, "ours").await, letters[1..]);
    assert_eq!(host.drop_dead("ours", &[]).await.unwrap(), [letters[1].letter]);
}

async fn what_did_not_get_there_is_no_attempt(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut stream = host.subscribe(terms("ours", "a.b")).await.unwrap();
    host.publish(of("a.b", "1")).await.unwrap();
    for _ in 0..6 {
        let delivered = next(&mut stream).await;
        assert_eq!(delivered.attempt, 1);
        let outcome = Outcome::NotDelivered {
            why: "nobody is there".to_owned(),
            wait: Duration::from_millis(5),
        };
        let settled = settle(delivered, outcome).await;
        assert_eq!(settled, Settled::Again(Duration::from_millis(5)));
    }
    // Without a word it is the same.
    drop(next(&mut stream).await);
    let delivered = next(&mut stream).await;
    assert_eq!(delivered.attempt, 1);
    settle(delivered, Outcome::Failed("now it failed".to_owned())).await;
    let delivered = next(&mut stream).await;
    assert_eq!(delivered.attempt, 2);
    settle(delivered, Outcome::Done).await;
    nothing_comes(&mut stream).await;
    assert_eq!(dead(&host, "ours").await, []);
}

async fn an_ordered_subscription_is_overtaken_by_nothing(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let ordered = SubscriptionTerms {
        ordered: true,
        concurrency: 1,
        ..terms("ours", "a.>")
    };
    let mut stream = host.subscribe(ordered.clone()).await.unwrap();
    for number in 0..5 {
        host.publish(of("a.b", &number.to_string())).await.unwrap();
    }
    let mut seen = Vec::new();
    for round in 0.. {
        let delivered = next(&mut stream).await;
        seen.push(text(&delivered));
        let outcome = match round {
            1 => Outcome::Failed("not this time".to_owned()),
            2 => Outcome::NotDelivered {
                why: "busy".to_owned(),
                wait: Duration::from_millis(30),
            },
            4 => Outcome::Never("never".to_owned()),
            _ => Outcome::Done,
        };
        settle(delivered, outcome).await;
        if round == 3 {
            // And over a new inbox.
            drop(stream);
            stream = host.subscribe(ordered.clone()).await.unwrap();
        }
        if seen.last().unwrap() == "4" {
            break;
        }
    }
    assert_eq!(seen, ["0", "1", "1", "1", "2", "3", "4"]);
}

async fn a_replayed_event_is_for_its_subscription_alone_and_is_the_same(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut ours = host.subscribe(terms("ours", "a.>")).await.unwrap();
    let mut theirs = host.subscribe(terms("theirs", "a.>")).await.unwrap();
    for number in 0..3 {
        host.publish(of("a.b", &number.to_string())).await.unwrap();
    }
    take(&mut theirs, 3).await;
    let mut first = BTreeSet::new();
    for _ in 0..3 {
        let delivered = next(&mut ours).await;
        first.insert((delivered.event.seq, delivered.event.key(), text(&delivered)));
        assert_eq!(
            settle(delivered, Outcome::Never("no".to_owned())).await,
            Settled::Dead
        );
    }
    let letters: Vec<u64> = dead(&host, "ours").await.iter().map(|it| it.letter).collect();
    assert_eq!(
        host.replay_dead("ours", &letters[..1]).await.unwrap(),
        letters[..1]
    );
    assert_eq!(host.replay_dead("ours", &[]).await.unwrap(), letters[1..]);
    assert_eq!(dead(&host, "ours").await, []);
    let nothing = host.replay_dead("ours", &[]).await.unwrap_err();
    assert_eq!(nothing.kind(), HostErrorKind::NotFound);
    let mut again = BTreeSet::new();
    for _ in 0..3 {
        let delivered = next(&mut ours).await;
        assert_eq!(delivered.attempt, 1, "with all attempts");
        again.insert((delivered.event.seq, delivered.event.key(), text(&delivered)));
        settle(delivered, Outcome::Done).await;
    }
    assert_eq!(again, first, "the same events, with the same keys");
    nothing_comes(&mut ours).await;
    nothing_comes(&mut theirs).await;
    // To a reader of the log they are there once.
    let query = ReadQuery {
        pattern: None,
        after: Some(0),
        limit: 100,
        wait: Duration::ZERO,
    };
    assert_eq!(host.read_events(query.clone()).await.unwrap().len(), 3);
    let newest = ReadQuery { after: None, ..query };
    assert_eq!(host.read_events(newest).await.unwrap().len(), 3);
}

async fn a_key_is_kept_once_for_each_topic(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    let keyed = |topic: &str, key: &str| Publication {
        key: Some(key.to_owned()),
        ..of(topic, key)
    };
    let first = host.publish(keyed("a.b", "k 1\n")).await.unwrap();
    let again = host.publish(keyed("a.b", "k 1\n")).await.unwrap();
    assert_eq!(
        (first.duplicate, again.duplicate, again.seq),
        (false, true, first.seq)
    );
    // Near misses are others.
    for (topic, key) in [
        ("a.c", "k 1\n"),
        ("a.b", "k 1"),
        ("a.b", "k%201%0A"),
        ("a.b", "K 1\n"),
    ] {
        let other = host.publish(keyed(topic, key)).await.unwrap();
        assert!(!other.duplicate, "{topic} {key:?}");
    }
    let all: BTreeSet<String> = take(&mut stream, 5).await.into_iter().collect();
    assert_eq!(
        all,
        BTreeSet::from(["k 1\n", "k 1", "k%201%0A", "K 1\n"].map(str::to_owned))
    );
    nothing_comes(&mut stream).await;
}

async fn no_more_is_given_out_than_may_be_in_flight(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    for number in 0..10 {
        host.publish(of("a.b", &number.to_string())).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&mut stream).await);
    }
    nothing_comes(&mut stream).await;
    let info = host.subscriptions().await.unwrap().remove(0);
    assert_eq!((info.pending, info.behind), (4, 6));
    settle(held.pop().unwrap(), Outcome::Done).await;
    held.push(next(&mut stream).await);
    nothing_comes(&mut stream).await;
    // And a publisher is held up by none of it.
    host.publish(of("a.b", "10")).await.unwrap();
}

async fn a_subscription_goes_on_where_it_was_and_has_one_inbox(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    let kept = host.forget_subscription("ours").await.unwrap_err();
    assert_eq!(kept.kind(), HostErrorKind::Conflict, "{kept}");
    for number in 0..4 {
        host.publish(of("a.b", &number.to_string())).await.unwrap();
    }
    let mut done: BTreeSet<String> = take(&mut stream, 2).await.into_iter().collect();
    // In flight at the end, so it comes again.
    let held = next(&mut stream).await;
    drop(stream);
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    assert!(
        held.receipt.settle(Outcome::Done).await.is_err(),
        "it came too late"
    );
    // At least once: what was on its way to the one that is gone may come twice.
    while done.len() < 4 {
        let delivered = next(&mut stream).await;
        done.insert(text(&delivered));
        settle(delivered, Outcome::Done).await;
    }
    assert_eq!(done, BTreeSet::from(["0", "1", "2", "3"].map(str::to_owned)));
    nothing_comes(&mut stream).await;
    close(stream).await;
    // Another pattern under the same name goes on from the same place.
    host.publish(of("a.b", "4")).await.unwrap();
    host.publish(of("a.c", "5")).await.unwrap();
    let mut stream = host.subscribe(terms("ours", "a.c")).await.unwrap();
    assert_eq!(take(&mut stream, 1).await, ["5"]);
    nothing_comes(&mut stream).await;
    drop(stream);
    // Forgotten, it begins anew.
    let patience = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = host.forget_subscription("ours").await {
        assert_eq!(error.kind(), HostErrorKind::Conflict, "{error}");
        assert!(tokio::time::Instant::now() < patience, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(host.subscriptions().await.unwrap(), []);
    let mut stream = host.subscribe(terms("ours", "a.c")).await.unwrap();
    assert_eq!(take(&mut stream, 1).await, ["5"]);
    let nobody = host.forget_subscription("theirs").await.unwrap_err();
    assert_eq!(nobody.kind(), HostErrorKind::NotFound, "{nobody}");
}

async fn events_are_read_in_their_order(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut seqs = Vec::new();
    for number in 0..20 {
        let topic = if number % 10 == 3 { "a.rare" } else { "a.common" };
        seqs.push(host.publish(of(topic, &number.to_string())).await.unwrap().seq);
    }
    assert!(seqs.is_sorted_by(|one, other| one < other), "{seqs:?}");
    let read = async |pattern: Option<&str>, after: Option<u64>, limit: u32, wait: Duration| {
        let query = ReadQuery {
            pattern: pattern.map(|it| it.parse().unwrap()),
            after,
            limit,
            wait,
        };
        let events = host.read_events(query).await.unwrap();
        let payload = |it: &mortise_host::event::Event| -> u64 {
            String::from_utf8_lossy(&it.content.payload).parse().unwrap()
        };
        events.iter().map(payload).collect::<Vec<_>>()
    };
    let none = Duration::ZERO;
    assert_eq!(read(None, Some(0), 5, none).await, [0, 1, 2, 3, 4]);
    assert_eq!(
        read(None, Some(seqs[4]), 100, none).await,
        (5..20).collect::<Vec<_>>()
    );
    assert_eq!(read(None, None, 3, none).await, [17, 18, 19]);
    assert_eq!(read(Some("a.rare"), None, 5, none).await, [3, 13]);
    assert_eq!(read(Some("a.rare"), None, 1, none).await, [13]);
    assert_eq!(read(Some("*.rare"), Some(seqs[3]), 5, none).await, [13]);
    // The newest of what is rare may be far behind.
    host.publish(of("b.common", "0")).await.unwrap();
    let common = (0..1500).map(|_| host.publish(of("b.common", "0")));
    for published in futures_util::future::join_all(common).await {
        published.unwrap();
    }
    assert_eq!(read(Some("a.rare"), None, 5, none).await, [3, 13]);
    assert_eq!(read(Some("a.*"), None, 2, none).await, [18, 19]);
    assert_eq!(read(Some("c.>"), Some(0), 5, none).await, [0_u64; 0]);
    assert_eq!(read(Some("c.>"), None, 5, none).await, [0_u64; 0]);
    assert_eq!(read(Some("a.>"), Some(seqs[19]), 5, none).await, [0_u64; 0]);
    // Waits for the first one.
    let waiting = read(Some("a.rare"), Some(seqs[19]), 5, PATIENCE);
    let publishing = async {
        tokio::time::sleep(A_WHILE / 4).await;
        host.publish(of("a.common", "20")).await.unwrap();
        host.publish(of("a.rare", "21")).await.unwrap();
    };
    let (found, ()) = tokio::join!(waiting, publishing);
    assert_eq!(found, [21]);
}

async fn whatever_a_publisher_wrote_arrives(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    let header = |name: &str, value: &str| Header {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let headers = vec![
        header("x-tenant", "acme"),
        header("x-tenant", "again"),
        header("odd: name", " \u{fc}\r\nMortise-Only: nobody"),
    ];
    let published = Publication {
        payload: Bytes::from_static(b"\0\xff\r\n"),
        key: Some("\u{1f600}: 100%\r\n".to_owned()),
        headers: headers.clone(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        ..of("a.b", "")
    };
    let before = std::time::SystemTime::now();
    host.publish(published.clone()).await.unwrap();
    let delivered = next(&mut stream).await;
    let content = &delivered.event.content;
    assert_eq!(
        (&content.payload, &content.key),
        (&published.payload, &published.key)
    );
    assert_eq!((&*content.type_name, &*content.topic), ("test.v1.Blob", "a.b"));
    assert_eq!(content.headers, headers);
    assert_eq!(Some(&content.traceparent), published.traceparent.as_ref());
    assert!(!content.publisher.is_empty());
    let age = delivered
        .event
        .at
        .duration_since(before - Duration::from_secs(60));
    assert!(
        age.is_ok_and(|it| it < Duration::from_secs(600)),
        "{:?}",
        delivered.event.at
    );
    settle(delivered, Outcome::Done).await;
    let too_large = Publication {
        payload: vec![0; (1 << 20) + 1].into(),
        ..of("a.b", "")
    };
    let refused = host.publish(too_large).await.unwrap_err();
    assert!(
        refused.to_string().contains("events may have 1048576"),
        "{refused}"
    );
}

async fn what_the_topics_carry_is_said_once(keeper: &Keeper) {
    let world = World::new();
    let host = keeper.host(&world).await;
    assert_eq!(host.topics().await.unwrap(), []);
    assert_eq!(host.topic_schema("a.b").await.unwrap(), None);
    for topic in ["a.c", "a.b", "a.b"] {
        host.publish(of(topic, "1")).await.unwrap();
    }
    let other = Publication {
        type_name: Some("test.v1.Ledger".to_owned()),
        ..of("a.b", "")
    };
    let refused = host.publish(other).await.unwrap_err();
    assert!(
        refused.to_string().contains("carries `test.v1.Blob`"),
        "{refused}"
    );
    let schema = host.topic_schema("a.b").await.unwrap().expect("it was said");
    assert_eq!(
        (&*schema.type_name, &*schema.descriptor_set),
        ("test.v1.Blob", &*contract())
    );
    let topics = host.topics().await.unwrap();
    let told: Vec<_> = topics
        .iter()
        .map(|it| (&*it.topic, &*it.type_name, it.events, it.newest_unix_ms > 0))
        .collect();
    assert_eq!(
        told,
        [("a.b", "test.v1.Blob", 2, true), ("a.c", "test.v1.Blob", 1, true)]
    );
}

async fn room_is_made_of_what_everybody_is_done_with(keeper: &Keeper) {
    let world = World::new();
    let mut config = HostConfig::default();
    config.events.log_bytes_max = 1 << 20;
    let host = keeper.builder(&world, config).start().await.unwrap();
    let mut stream = host.subscribe(terms("ours", "a.>")).await.unwrap();
    let large = "x".repeat(100 << 10);
    for _ in 0..30 {
        host.publish(of("a.b", &large)).await.unwrap();
        take(&mut stream, 1).await;
    }
    // What is not taken is in the way, and the publisher hears whose it is.
    let refused = loop {
        if let Err(error) = host.publish(of("a.b", &large)).await {
            break error;
        }
    };
    assert!(
        refused.to_string().contains("subscription `ours` is"),
        "{refused}"
    );
    let hint = refused.hint().unwrap_or_default();
    assert!(hint.contains("mortise events forget ours"), "{hint}");
}
