//! Who asked for what, and what should run from then on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mortise_store::{
    Aftermath, Change, ChangeOutcome, ChangeQuery, DataDir, Desired, History, Journal, Transition,
    WatchedName,
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn change(name: &str, version: &str) -> Change {
    Change {
        actor: "uid:1000".to_owned(),
        name: name.to_owned(),
        action: "load".to_owned(),
        version: version.to_owned(),
        digest: format!("digest of {version}"),
        before: String::new(),
        after: format!("{{\"version\":\"{version}\"}}"),
    }
}

fn runs(name: &str, request_json: &str) -> Aftermath {
    Aftermath {
        desire: Some(Desired {
            name: name.to_owned(),
            request_json: request_json.to_owned(),
        }),
        ..Aftermath::default()
    }
}

fn outcomes(journal: &Journal) -> Vec<(String, ChangeOutcome)> {
    let all = journal.changes(&ChangeQuery::default()).unwrap();
    all.into_iter()
        .map(|it| (it.change.version, it.outcome))
        .collect()
}

#[test]
fn what_was_begun_is_interrupted_by_the_next_life_and_what_was_done_stays() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let journal = data.journal().unwrap();
    let first = journal.begin(at(1), &change("a", "1")).unwrap();
    journal
        .conclude(at(2), first, ChangeOutcome::Done, "", &runs("a", "one"))
        .unwrap();
    journal.begin(at(3), &change("a", "2")).unwrap();
    drop((journal, data));
    let journal = DataDir::open(dir.path()).unwrap().journal().unwrap();
    assert_eq!(journal.interrupt_begun().unwrap(), 1);
    let expected = [("2", ChangeOutcome::Interrupted), ("1", ChangeOutcome::Done)];
    assert_eq!(
        outcomes(&journal),
        expected.map(|(version, outcome)| (version.to_owned(), outcome))
    );
    assert_eq!(journal.desired().unwrap()[0].request_json, "one");
    let row = journal.change(first).unwrap().unwrap();
    assert_eq!((row.change, row.at, row.seq), (change("a", "1"), at(1), first));
    assert_eq!(journal.change(99).unwrap(), None);
}

#[test]
fn of_two_changes_of_a_name_the_later_one_counts_whichever_is_concluded_first() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let journal = data.journal().unwrap();
    let load = journal.begin(at(1), &change("a", "2")).unwrap();
    let rollback = journal.begin(at(2), &change("a", "1")).unwrap();
    let done = |seq, text: &str| {
        journal
            .conclude(at(3), seq, ChangeOutcome::Done, "", &runs("a", text))
            .unwrap()
    };
    done(rollback, "one");
    done(load, "two");
    assert_eq!(journal.desired().unwrap()[0].request_json, "one");
}

#[test]
fn pages_names_packages_and_pruning() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let journal = data.journal().unwrap();
    for number in 0..20 {
        let name = if number % 2 == 0 { "even" } else { "odd" };
        let seq = journal
            .begin(at(number), &change(name, &number.to_string()))
            .unwrap();
        let outcome = if number % 3 == 0 {
            ChangeOutcome::Failed
        } else {
            ChangeOutcome::Done
        };
        journal
            .conclude(at(number), seq, outcome, "why", &Aftermath::default())
            .unwrap();
    }
    let query = ChangeQuery {
        name: Some("even".to_owned()),
        done: true,
        limit: 2,
        ..ChangeQuery::default()
    };
    let versions = |query: &ChangeQuery| -> Vec<_> {
        let rows = journal.changes(query).unwrap();
        rows.into_iter().map(|it| it.change.version).collect()
    };
    assert_eq!(versions(&query), ["16", "14"]);
    let before = journal.changes(&query).unwrap()[1].seq;
    assert_eq!(
        versions(&ChangeQuery {
            before: Some(before),
            ..query
        }),
        ["10", "8"]
    );
    let used = journal.packages_used().unwrap();
    assert_eq!(used[0], ("odd".to_owned(), "digest of 19".to_owned()));
    assert!(
        used.iter().all(|it| it.1 != "digest of 18"),
        "what failed never ran"
    );
    // One that is being loaded must not be thrown away meanwhile.
    let begun = Change {
        digest: "digest of 20".to_owned(),
        ..journal.changes(&ChangeQuery::default()).unwrap()[0]
            .change
            .clone()
    };
    let seq = journal.begin(SystemTime::now(), &begun).unwrap();
    assert_eq!(journal.packages_used().unwrap()[0].1, "digest of 20");
    let failed = ChangeOutcome::Failed;
    let nothing = Aftermath::default();
    journal
        .conclude(SystemTime::now(), seq, failed, "", &nothing)
        .unwrap();
    assert_eq!(journal.packages_used().unwrap(), used);
    assert_eq!(journal.prune_changes(1).unwrap(), 19);
    assert_eq!(
        outcomes(&journal).len(),
        2,
        "the newest, and the last of the other name"
    );
}

#[test]
fn the_words_of_a_watched_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let journal = data.journal().unwrap();
    let word = |digest: Option<&str>, held| WatchedName {
        name: "a".to_owned(),
        digest: digest.map(str::to_owned),
        held,
    };
    journal.note_watched(&word(Some("x"), false)).unwrap();
    let seq = journal.begin(at(1), &change("a", "1")).unwrap();
    let aftermath = Aftermath {
        forget: Some("a".to_owned()),
        watched: Some(word(Some("y"), true)),
        ..Aftermath::default()
    };
    journal
        .conclude(at(1), seq, ChangeOutcome::Done, "", &aftermath)
        .unwrap();
    assert_eq!(journal.watched().unwrap(), [word(Some("y"), true)]);
    journal.note_watched(&word(None, false)).unwrap();
    assert_eq!(journal.watched().unwrap(), []);
}

#[test]
fn changes_of_configuration_push_out_no_load_and_one_that_is_withdrawn_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDir::open(folder.path()).unwrap();
    let journal = data.journal().unwrap();
    let change = |action: &str| Change {
        name: "echo".to_owned(),
        action: action.to_owned(),
        digest: String::from(if action == "load" { "d" } else { "" }),
        ..Change::default()
    };
    let made = |action: &str| {
        let seq = journal.begin(SystemTime::now(), &change(action)).unwrap();
        journal
            .conclude(
                SystemTime::now(),
                seq,
                ChangeOutcome::Done,
                "",
                &Aftermath::default(),
            )
            .unwrap();
        seq
    };
    let loads: Vec<u64> = (0..3).map(|_| made("load")).collect();
    for _ in 0..20 {
        made("config");
    }
    assert_eq!(journal.prune_changes(3).unwrap(), 17);
    let query = ChangeQuery {
        loads: true,
        ..ChangeQuery::default()
    };
    let left: Vec<u64> = journal
        .changes(&query)
        .unwrap()
        .iter()
        .map(|it| it.seq)
        .rev()
        .collect();
    assert_eq!(left, loads, "what can be gone back to");
    assert_eq!(journal.packages_used().unwrap().len(), 3);
    let again = journal.begin(SystemTime::now(), &change("config")).unwrap();
    journal.withdraw(again).unwrap();
    assert_eq!(journal.change(again).unwrap(), None);
    journal.withdraw(loads[0]).unwrap();
    assert!(journal.change(loads[0]).unwrap().is_some(), "it was concluded");
}

#[test]
fn decisions_are_made_when_they_are_written_and_say_nothing_of_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let journal = data.journal().unwrap();
    let load = journal.begin(at(1), &change("a", "1")).unwrap();
    let decision = Change {
        action: "canary".to_owned(),
        ..change("a", "2")
    };
    let row = Transition {
        plugin: "a".to_owned(),
        ..Transition::default()
    };
    let both = [
        (decision.clone(), "first".to_owned()),
        (decision.clone(), "second".to_owned()),
    ];
    journal.append_decided(at(2), &[row], &both).unwrap();
    // A decision in between does not overtake a load.
    journal
        .conclude(at(3), load, ChangeOutcome::Done, "", &runs("a", "one"))
        .unwrap();
    assert_eq!(journal.desired().unwrap()[0].request_json, "one");
    let all = journal.changes(&ChangeQuery::default()).unwrap();
    let details: Vec<_> = all.iter().map(|it| (it.detail.as_str(), it.outcome)).collect();
    let done = ChangeOutcome::Done;
    assert_eq!(details, [("second", done), ("first", done), ("", done)]);
    let loads = ChangeQuery {
        loads: true,
        ..ChangeQuery::default()
    };
    let versions: Vec<_> = journal.changes(&loads).unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!(
        journal.packages_used().unwrap()[0].1,
        "digest of 1",
        "what serves is kept before what may"
    );
    assert_eq!(journal.history(&History::default()).unwrap().len(), 1);
    journal.prune_changes(0).unwrap();
    assert_eq!(
        journal.changes(&ChangeQuery::default()).unwrap().len(),
        2,
        "the last load, and the last decision"
    );
}
