//! The Go host of `tests/go-host` drives it.

use std::{collections::BTreeMap, process::Command};

use crate::go;

/// What the host says of each step, and what it logged.
fn drive(arguments: &[&str]) -> Option<(BTreeMap<String, String>, String)> {
    let host = go::program("tests/go-host")?;
    let output = Command::new(host)
        .arg("-plugin")
        .arg(crate::plugin())
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let steps = text.lines().filter_map(|line| {
        let (outcome, rest) = line.split_once(' ')?;
        let (step, value) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((step.to_owned(), format!("{outcome} {value}")))
    });
    Some((
        steps.collect(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

/// Debian's host does not multiplex.
fn ways() -> Vec<&'static [&'static str]> {
    let ways: [&[&str]; 4] = [&[], &["-mtls"], &["-multiplex"], &["-multiplex", "-mtls"]];
    ways.into_iter()
        .filter(|way| go::is_recent() || !way.contains(&"-multiplex"))
        .collect()
}

const EXPECTED: [(&str, &str); 6] = [
    ("start", "ok 3"),
    ("ping", "ok "),
    ("double", "ok 42"),
    ("invoke", "ok 8"),
    (
        "refuse",
        "ok rpc error: code = InvalidArgument desc = `nonsense` is no key of this plugin",
    ),
    ("kill", "ok true"),
];

#[test]
fn an_unmodified_go_host_drives_it_plain_and_with_mutual_tls() {
    for way in ways() {
        let arguments = [way, &["-steps", "ping,double,invoke,refuse,kill"]].concat();
        let Some((steps, log)) = drive(&arguments) else {
            return;
        };
        for (step, outcome) in EXPECTED {
            assert_eq!(
                steps.get(step).map(String::as_str),
                Some(outcome),
                "{step} {way:?}\n{log}"
            );
        }
        // The host took its log line apart: that is hclog's JSON.
        assert!(
            log.lines()
                .any(|line| line.contains(r#""@message":"doubling""#) && line.contains(r#""input":"21""#)),
            "{log}"
        );
        // go-plugin logs it so if the process did not exit with code 0.
        assert!(!log.contains("exit status"), "{log}");
    }
}

#[test]
fn streams_of_all_three_kinds_under_an_unmodified_go_host() {
    const EXPECTED: [(&str, &str); 8] = [
        ("stream", "ok 5000"),
        ("leave", "ok 100 and more"),
        ("count", "ok 5000 EOF"),
        ("sum", "ok 5000 EOF"),
        ("early", "ok 3 EOF"),
        (
            "middle",
            "ok 3 rpc error: code = FailedPrecondition desc = -7 is negative",
        ),
        ("cancel", "ok rpc error: code = Canceled desc = context canceled"),
        ("kill", "ok true"),
    ];
    for way in ways() {
        let steps = format!("late,{}", EXPECTED.map(|(step, _)| step).join(","));
        let arguments = [way, &["-steps", &steps]].concat();
        let Some((steps, log)) = drive(&arguments) else {
            return;
        };
        for (step, outcome) in EXPECTED {
            assert_eq!(
                steps.get(step).map(String::as_str),
                Some(outcome),
                "{step} {way:?}\n{log}"
            );
        }
        // Both sides have a clock, and whichever is first says it in its own words.
        let late = &steps["late"];
        let code = "ok rpc error: code = DeadlineExceeded desc = ";
        assert!(late.starts_with(code), "{way:?} {late}\n{log}");
        // The methods heard of it: of the deadline in the words of whoever was first, and of the caller that went, unless all was said by then.
        let codes_of = |message: &str| -> Vec<&str> {
            let message = format!(r#""@message":"{message}""#);
            let lines = log
                .lines()
                .filter(|line| line.contains(&message) && line.contains(r#""cancelled":"true""#));
            let code = |line: &str| {
                ["CANCELLED", "DEADLINE_EXCEEDED"]
                    .into_iter()
                    .find(|code| line.contains(code))
            };
            lines.filter_map(code).collect()
        };
        let streams = codes_of("the stream broke off");
        assert!((1..=2).contains(&streams.len()), "{streams:?}\n{log}");
        assert_eq!(codes_of("the count broke off"), ["CANCELLED"], "{log}");
        assert!(!log.contains("exit status"), "{log}");
    }
}

#[test]
fn a_go_host_of_today_reads_what_it_prints_and_asks_what_it_serves() {
    if !go::is_recent() {
        return;
    }
    for way in ways() {
        let arguments = [way, &["-steps", "print,reflect,slay"]].concat();
        let (steps, log) = drive(&arguments).unwrap();
        for (step, outcome) in [
            ("print", "ok "),
            ("reflect", "ok grpctest.Test true true"),
            ("slay", "ok Unavailable"),
        ] {
            assert_eq!(
                steps.get(step).map(String::as_str),
                Some(outcome),
                "{step} {way:?}\n{log}"
            );
        }
    }
}

#[test]
fn versions_are_negotiated() {
    for (versions, expected) in [("1", "ok 1"), ("2,1", "ok 2")] {
        let Some((steps, log)) = drive(&["-versions", versions, "-steps", "double,kill"]) else {
            return;
        };
        assert_eq!(steps["start"], expected, "{log}");
    }
}

#[test]
fn a_person_is_told_that_it_is_a_plugin() {
    let output = Command::new(crate::plugin()).env_clear().output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("This is the plugin double 1.0.0"));
}
