//! The journal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mortise_runtime::Digest;
use mortise_store::{
    Aftermath, Change, ChangeOutcome, ChangeQuery, DataDir, Desired, History, Journal, Survives, Transition,
};

fn journal() -> (tempfile::TempDir, DataDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let journal = data.journal().unwrap();
    (dir, data, journal)
}

fn transition(plugin: &str, version: &str, to: &str) -> Transition {
    Transition {
        plugin: plugin.to_owned(),
        version: version.to_owned(),
        digest: Digest::of(b"x").to_string(),
        actor: "uid:1000".to_owned(),
        from: "LOADED".to_owned(),
        event: "activate".to_owned(),
        to: to.to_owned(),
        detail: "because \"reasons\" — naïve; DROP TABLE transitions".to_owned(),
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn everything_comes_back_newest_first_also_after_a_restart() {
    let (dir, data, journal) = journal();
    let first = journal
        .append(at(1000), &transition("a", "1.0.0", "STARTING"))
        .unwrap();
    // The clock goes back; the order does not.
    let second = journal
        .append(at(10), &transition("a", "1.0.0", "READY"))
        .unwrap();
    assert!(second > first);
    drop((journal, data));
    let journal = DataDir::open(dir.path()).unwrap().journal().unwrap();
    let history = journal.history(&History::default()).unwrap();
    assert_eq!(
        history.iter().map(|it| it.seq).collect::<Vec<_>>(),
        [second, first]
    );
    assert_eq!(history[1].transition, transition("a", "1.0.0", "STARTING"));
    assert_eq!(history[0].at, at(10));
}

#[test]
fn a_run_of_transitions_is_one_write() {
    let (_dir, _data, journal) = journal();
    let run = ["LOADED", "CHECKED", "VALIDATED"].map(|to| transition("a", "1.0.0", to));
    let last = journal.append_all(at(1), &run).unwrap();
    let mut history = journal.history(&History::default()).unwrap();
    history.reverse();
    assert_eq!(history.last().map(|it| it.seq), Some(last));
    assert_eq!(
        history.into_iter().map(|it| it.transition).collect::<Vec<_>>(),
        run
    );
}

#[test]
fn history_in_pages_and_by_plugin() {
    let (_dir, _data, journal) = journal();
    for number in 0..10 {
        journal
            .append(
                at(number),
                &transition(
                    if number % 2 == 0 { "a" } else { "b" },
                    "1.0.0",
                    &number.to_string(),
                ),
            )
            .unwrap();
    }
    let states = |query: &History| {
        let rows = journal.history(query).unwrap();
        (
            rows.iter().map(|it| it.transition.to.clone()).collect::<Vec<_>>(),
            rows.last().map(|it| it.seq),
        )
    };
    let mut query = History {
        plugin: Some("a".to_owned()),
        limit: 2,
        before: None,
    };
    let mut all = Vec::new();
    loop {
        let (page, last) = states(&query);
        let Some(last) = last else { break };
        all.extend(page);
        query.before = Some(last);
    }
    assert_eq!(all, ["8", "6", "4", "2", "0"]);
    assert!(
        states(&History {
            plugin: Some("c".to_owned()),
            ..History::default()
        })
        .0
        .is_empty()
    );
}

#[test]
fn last_of_each_and_prune() {
    let (_dir, _data, journal) = journal();
    journal
        .append(at(0), &transition("old", "1.0.0", "ACTIVE"))
        .unwrap();
    for number in 0..20 {
        let version = if number % 2 == 0 { "1.0.0" } else { "2.0.0" };
        journal
            .append(at(number), &transition("a", version, &number.to_string()))
            .unwrap();
    }
    let last = journal.last_of_each().unwrap();
    let last: Vec<_> = last
        .iter()
        .map(|it| {
            (
                &*it.transition.plugin,
                &*it.transition.version,
                &*it.transition.to,
            )
        })
        .collect();
    assert_eq!(
        last,
        [
            ("old", "1.0.0", "ACTIVE"),
            ("a", "1.0.0", "18"),
            ("a", "2.0.0", "19")
        ]
    );
    assert_eq!(journal.prune(5).unwrap(), 15);
    let left = journal.history(&History::default()).unwrap();
    assert_eq!(left.len(), 6, "the newest five, and the last of `old`");
    assert_eq!(left.last().unwrap().transition.plugin, "old");
    assert_eq!(journal.last_of_each().unwrap().len(), 3);
}

#[test]
fn desired_is_replaced_and_forgotten() {
    let (_dir, _data, journal) = journal();
    let desired = |name: &str, json: &str| Desired {
        name: name.to_owned(),
        request_json: json.to_owned(),
    };
    journal.desire(at(0), &desired("b", "{\"source\":1}")).unwrap();
    journal.desire(at(0), &desired("a", "{}")).unwrap();
    journal.desire(at(1), &desired("b", "{\"source\":2}")).unwrap();
    assert_eq!(
        journal.desired().unwrap(),
        [desired("a", "{}"), desired("b", "{\"source\":2}")]
    );
    assert!(journal.forget("a").unwrap());
    assert!(!journal.forget("a").unwrap());
    assert_eq!(journal.desired().unwrap().len(), 1);
}

#[test]
fn a_change_of_several_is_written_as_one_and_taken_back_as_one() {
    let (_dir, _data, journal) = journal();
    let desired = |name: &str, json: &str| Desired {
        name: name.to_owned(),
        request_json: json.to_owned(),
    };
    let row = |plugin: &str| Transition {
        plugin: plugin.to_owned(),
        event: "cut_over".to_owned(),
        ..Transition::default()
    };
    journal.desire(at(0), &desired("a", "1")).unwrap();
    let before = [("a".to_owned(), Some(desired("a", "1"))), ("b".to_owned(), None)];
    let after = [desired("a", "2"), desired("b", "2")];
    let done: Vec<_> = after
        .iter()
        .map(|it| {
            let change = Change {
                name: it.name.clone(),
                ..Change::default()
            };
            let aftermath = Aftermath {
                desire: Some(it.clone()),
                ..Aftermath::default()
            };
            (journal.begin(at(1), &change).unwrap(), aftermath)
        })
        .collect();
    journal
        .append_and_conclude(at(1), &[row("a"), row("b")], &done, Survives::Crash)
        .unwrap();
    journal.sync().unwrap();
    let changes = journal.changes(&ChangeQuery::default()).unwrap();
    assert!(changes.iter().all(|it| it.outcome == ChangeOutcome::Done));
    assert_eq!(journal.desired().unwrap(), after);
    let rows = journal.history(&History::default()).unwrap();
    let plugins: Vec<_> = rows.iter().map(|it| it.transition.plugin.as_str()).collect();
    assert_eq!(plugins, ["b", "a"]);
    journal.desire_again(at(2), &before).unwrap();
    assert_eq!(journal.desired().unwrap(), [desired("a", "1")]);
}

#[test]
fn quarantine_until_it_is_released() {
    let (_dir, _data, journal) = journal();
    let digest = Digest::of(b"bad");
    assert!(journal.quarantined(digest).unwrap().is_none());
    journal
        .quarantine(at(5), digest, "a", "1.0.0", "p95 was 40 ms, and 10 ms before")
        .unwrap();
    let found = journal.quarantined(digest).unwrap().unwrap();
    assert_eq!(
        (found.since, found.reason.as_str()),
        (at(5), "p95 was 40 ms, and 10 ms before")
    );
    assert_eq!(journal.quarantines().unwrap(), [found]);
    assert!(journal.release(digest).unwrap());
    assert!(!journal.release(digest).unwrap());
}

#[test]
fn written_from_many_threads_nothing_is_lost() {
    let (_dir, data, journal) = journal();
    std::thread::scope(|scope| {
        for number in 0..4 {
            // Two share a connection, two have their own.
            let journal = if number % 2 == 0 {
                journal.clone()
            } else {
                data.journal().unwrap()
            };
            scope.spawn(move || {
                for _ in 0..25 {
                    journal
                        .append(SystemTime::now(), &transition("a", "1.0.0", "READY"))
                        .unwrap();
                }
            });
        }
    });
    let query = History {
        limit: 1000,
        ..History::default()
    };
    assert_eq!(journal.history(&query).unwrap().len(), 100);
}
