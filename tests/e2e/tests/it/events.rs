//! Events between real plugins, in every runtime, through the command and the end of the host: `plugins/orders` under two names is publisher and
//! subscriber.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

use crate::nats::Nats;

const TOPIC: &str = "orders.eu.placed";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The one subscription that is looked at; the publisher has one of its own, as the same package does.
const SUBSCRIPTION: &str = "books/book";

fn entries(shop: &str, books: &str, more: &str) -> String {
    let source = package("orders").unwrap();
    let grant = "{ kv = true, events.publish = [\"orders.>\"], events.subscribe = [\"orders.>\"] }";
    let entry = |name: &str, runtime: &str, more: &str| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nsource = {source:?}\nruntime = \"{runtime}\"\ngrant = {grant}\n{more}"
        )
    };
    format!("{}{}", entry("shop", shop, ""), entry("books", books, more))
}

/// What has a host keep its events there.
fn kept_in(nats: &Nats) -> String {
    format!("[events.nats]\nendpoints = [{:?}]\n", nats.endpoint)
}

fn call(daemon: &Daemon, method: &str, params: &Value) -> Value {
    let answer = daemon.rpc(method, params).unwrap();
    assert!(
        answer.get("error").is_none(),
        "{method}: {answer:#}\n{}",
        daemon.log()
    );
    answer["result"].clone()
}

/// What was booked: entry by number.
fn booked(daemon: &Daemon) -> BTreeMap<u64, Value> {
    let reply = call(daemon, "plugin.books.Books", &json!({}));
    let number = |it: &Value| -> u64 {
        // protobuf's JSON has 64 bit numbers as text.
        it["number"].as_str().map_or(0, |it| it.parse().unwrap())
    };
    let entries = reply["entries"].as_array().cloned().unwrap_or_default();
    entries.into_iter().map(|it| (number(&it), it)).collect()
}

fn until<T>(daemon: &Daemon, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < patience,
            "never came true: {what}\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until both plugins have their subscriptions open.
fn subscribed(daemon: &Daemon) {
    until(daemon, "both subscribe", || {
        // Where they are kept may not be reached yet.
        let all = daemon.ask(&["events", "subscriptions"]).ok()?;
        let active = all.as_array().unwrap().iter().filter(|it| it["active"] == true);
        (active.count() == 2).then_some(())
    });
}

#[test]
fn what_one_plugin_publishes_another_is_called_with_in_every_runtime() {
    for (shop, books) in [("native", "wasm"), ("wasm", "process"), ("process", "native")] {
        let daemon = Daemon::start(&entries(shop, books, "")).unwrap();
        subscribed(&daemon);
        let place = json!({"topic": TOPIC, "first": 1, "count": 20, "key": "o-"}).to_string();
        let trace = format!("traceparent=00-{TRACE}-00f067aa0ba902b7-01");
        let placed = daemon
            .ask(&["call", "shop", "Place", "--json", &place, "--header", &trace])
            .unwrap();
        assert_eq!(placed["accepted"], 20, "{shop}, {books}: {placed}");
        let entries = until(&daemon, "all are booked", || {
            Some(booked(&daemon)).filter(|it| it.len() == 20)
        });
        for (number, entry) in &entries {
            assert_eq!(entry["key"], format!("o-{number}"));
            assert_eq!(
                (&entry["times"], &entry["attempt"]),
                (&json!(1), &json!(1)),
                "{entry}"
            );
            assert!(entry["traceparent"].as_str().unwrap().contains(TRACE), "{entry}");
        }
        // The same keys once more are the same orders.
        let again = daemon.ask(&["call", "shop", "Place", "--json", &place]).unwrap();
        assert_eq!(again.get("accepted").unwrap_or(&json!(0)), &json!(0), "{again}");
        // Not granted, though it asked for nothing else.
        let denied = daemon
            .rpc("plugin.shop.Place", &json!({"topic": "stock.low", "count": 1}))
            .unwrap();
        let said = denied["error"]["message"].as_str().unwrap();
        assert!(said.contains("events.publish=stock.low"), "{said}");
    }
}

#[test]
fn dead_letters_are_listed_shown_replayed_and_dropped_by_the_command() {
    dead_letters("");
}

#[test]
fn dead_letters_in_nats_are_listed_shown_replayed_and_dropped_by_the_command() {
    let Some(nats) = Nats::start() else { return };
    dead_letters(&kept_in(&nats));
}

fn dead_letters(events: &str) {
    let broken = entries("native", "native", "config = { broken = \"out of ink\" }\n");
    let broken = format!("{events}{broken}");
    let daemon = Daemon::start(&broken).unwrap();
    subscribed(&daemon);
    let placed = call(
        &daemon,
        "plugin.shop.Place",
        &json!({"topic": TOPIC, "first": 7, "count": 2}),
    );
    assert_eq!(placed["accepted"], 2);
    let dead = || daemon.ask(&["events", "dead", "list", SUBSCRIPTION]).unwrap();
    until(&daemon, "both are dead letters", || {
        (dead().as_array().unwrap().len() == 2).then_some(())
    });
    let letters = dead();
    // Which of two orders has its last attempt first is nobody's promise.
    let mut letters = letters.as_array().unwrap().iter();
    let seven = letters.find(|it| it["event"]["message"] == json!({"number": "7"}));
    let seven = seven.expect("the first order is one of the two");
    assert_eq!(seven["attempts"], 3);
    let letter = seven["letter"].to_string();
    let shown = daemon
        .run(&["events", "dead", "show", SUBSCRIPTION, &letter])
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("out of ink") && shown.contains(TOPIC), "{shown}");
    // Still broken: it comes back.
    daemon
        .ask(&["events", "dead", "replay", SUBSCRIPTION, &letter])
        .unwrap();
    until(&daemon, "it is a dead letter again", || {
        (dead().as_array().unwrap().len() == 2).then_some(())
    });
    // Repaired by a reload, which is a swap; then all of it.
    daemon
        .configure(&format!("{events}{}", entries("native", "native", "")))
        .unwrap();
    daemon.ask(&["reload"]).unwrap();
    let replayed = daemon
        .ask(&["events", "dead", "replay", SUBSCRIPTION, "--all"])
        .unwrap();
    assert_eq!(replayed["letters"].as_array().unwrap().len(), 2);
    let entries = until(&daemon, "both are booked", || {
        Some(booked(&daemon)).filter(|it| it.len() == 2)
    });
    assert!(entries.contains_key(&7) && entries.contains_key(&8));
    assert_eq!(dead(), json!([]));
    // What makes no sense is dead at once, and dropped. The command publishes it, by the topic's own contract.
    let senseless = json!({"number": 9, "note": "senseless"}).to_string();
    daemon
        .ask(&["events", "publish", TOPIC, "--json", &senseless, "--key", "nine"])
        .unwrap();
    until(&daemon, "it is a dead letter", || {
        (dead().as_array().unwrap().len() == 1).then_some(())
    });
    assert_eq!(dead()[0]["attempts"], 1);
    assert_eq!(dead()[0]["event"]["key"], "nine");
    daemon
        .ask(&["events", "dead", "drop", SUBSCRIPTION, "--all"])
        .unwrap();
    assert_eq!(dead(), json!([]));
    let nothing = daemon
        .run(&["events", "dead", "drop", SUBSCRIPTION, "--all"])
        .unwrap();
    assert!(!nothing.status.success());
    // Who did what is in the history.
    let history = daemon.ask(&["history", "@events"]).unwrap();
    let actions: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["action"].as_str().unwrap().to_owned())
        .collect();
    let expected = ["drop", "drop", "replay", "replay"].map(|it| format!("{it} {SUBSCRIPTION}"));
    assert_eq!(actions, expected, "{history:#}");
    let topics = daemon.ask(&["events", "topics"]).unwrap();
    assert_eq!(
        (&topics[0]["topic"], &topics[0]["type"]),
        (&json!(TOPIC), &json!("mortise.test.v1.Placed"))
    );
    let tail = daemon
        .run(&["events", "tail", "orders.>", "--limit", "1"])
        .unwrap();
    let tail = String::from_utf8_lossy(&tail.stdout).into_owned();
    assert!(tail.contains("senseless") && tail.lines().count() == 1, "{tail}");
}

#[test]
fn a_host_that_is_killed_again_and_again_books_every_order() {
    kill_again_and_again("");
}

#[test]
fn a_host_that_is_killed_again_and_again_books_every_order_that_is_in_nats() {
    let Some(nats) = Nats::start() else { return };
    kill_again_and_again(&kept_in(&nats));
}

fn kill_again_and_again(events: &str) {
    let mut daemon = Daemon::start(&format!("{events}{}", entries("process", "process", ""))).unwrap();
    subscribed(&daemon);
    let mut accepted = BTreeSet::new();
    for life in 0..4_u64 {
        let first = life * 100 + 1;
        for number in first..first + 40 {
            let place = json!({"topic": TOPIC, "first": number, "count": 1});
            call(&daemon, "plugin.shop.Place", &place);
            accepted.insert(number);
        }
        daemon.kill().unwrap();
        daemon.start_again().unwrap();
    }
    let entries = until(&daemon, "every order is booked", || {
        let entries = booked(&daemon);
        let all: BTreeSet<u64> = entries.keys().copied().collect();
        all.is_superset(&accepted).then_some(entries)
    });
    let more_than_once: Vec<_> = entries.values().filter(|it| it["times"] != 1).collect();
    println!(
        "{} of {} orders were booked more than once",
        more_than_once.len(),
        entries.len()
    );
    let ids: BTreeSet<&str> = entries
        .values()
        .map(|it| it["eventId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), entries.len(), "no two orders are the same event");
    assert_eq!(daemon.ask(&["events", "dead", "list"]).unwrap(), json!([]));
}

#[test]
fn a_host_serves_on_while_nats_is_away_and_goes_on_when_it_is_back() {
    const PASSWORD: &str = "correct-horse-battery";
    let Some(mut nats) = Nats::away() else { return };
    nats.guard("mortise", PASSWORD);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let events = format!(
        "{}user = \"mortise\"\npassword = {{ secret = \"file:{}\" }}\n",
        kept_in(&nats),
        password.display()
    );
    // It is not there when the host starts.
    let daemon = Daemon::start(&format!("{events}{}", entries("native", "wasm", ""))).unwrap();
    let place = |number: u64| {
        let place = json!({"topic": TOPIC, "first": number, "count": 1, "key": "o-"});
        daemon.rpc("plugin.shop.Place", &place).unwrap()
    };
    let endpoint = nats.endpoint.clone();
    let refused = |number: u64| {
        let answer = place(number);
        let said = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(&endpoint) && said.contains("same key"), "{answer}");
    };
    let placed = |number: u64| {
        until(&daemon, "an order is placed", || {
            let answer = place(number);
            // The one before may have been kept, without our hearing of it.
            answer["error"].is_null().then_some(())
        });
    };
    let all_booked = |count: usize| {
        until(&daemon, "all are booked", || {
            (booked(&daemon).len() == count).then_some(())
        });
    };
    assert!(booked(&daemon).is_empty());
    refused(1);
    let listed = daemon.run(&["events", "subscriptions"]).unwrap();
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(
        !listed.status.success() && said.contains("is not reached"),
        "{said}"
    );
    nats.resume();
    // They were never there before, so they begin with what is published once they are.
    subscribed(&daemon);
    placed(1);
    all_booked(1);
    nats.kill();
    refused(2);
    assert_eq!(booked(&daemon).len(), 1, "plugins serve on");
    nats.resume();
    for number in 2..10 {
        placed(number);
    }
    all_booked(9);
    assert_eq!(daemon.ask(&["events", "dead", "list"]).unwrap(), json!([]));
    let log = daemon.log();
    assert!(
        log.contains("NATS is lost") && log.contains("NATS is back"),
        "{log}"
    );
    assert!(!log.contains(PASSWORD), "{log}");
    // Each reason once, and not every second.
    let warnings = log.matches("a subscription cannot be opened yet").count();
    assert!(warnings <= 8, "{warnings} warnings\n{log}");
}
