//! A real Go host drives a plugin that is made with this crate.

use std::{collections::BTreeMap, process::Command};

use crate::{fixture::pong, go};

/// What the host says of each step.
fn drive(arguments: &[&str]) -> Option<(bool, BTreeMap<String, String>)> {
    let host = go::program("tests/go-host")?;
    let output = Command::new(host)
        .arg("-plugin")
        .arg(pong())
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let steps = text.lines().filter_map(|line| {
        let (outcome, rest) = line.split_once(' ')?;
        let (step, value) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((step.to_owned(), format!("{outcome} {value}")))
    });
    let steps: BTreeMap<_, _> = steps.collect();
    if !output.status.success() {
        println!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Some((output.status.success(), steps))
}

fn all(arguments: &[&str]) {
    let Some((success, steps)) = drive(arguments) else {
        return;
    };
    let expected = [
        ("start", "ok 3"),
        ("dispense", "ok "),
        ("ping", "ok "),
        ("double", "ok 42"),
        ("stream", "ok 5000"),
        ("broker", "ok pong from the plugin"),
        ("invoke", "ok 8"),
        (
            "refuse",
            "ok rpc error: code = InvalidArgument desc = `nonsense` is no key of this plugin",
        ),
        // It went by itself, within the two seconds after which Go's host kills.
        ("kill", "ok true"),
    ];
    for (step, outcome) in expected {
        assert_eq!(steps.get(step).map(String::as_str), Some(outcome), "{step}");
    }
    assert!(success);
}

const STEPS: &str = "ping,double,stream,broker,invoke,refuse,kill";

#[test]
fn everything_plain() {
    all(&["-steps", STEPS]);
}

#[test]
fn everything_with_mutual_tls() {
    // Debian's go-plugin can't dial through its broker under TLS: its issue 109, fixed in 1.4.4. The other way is tested without Go.
    let Some((success, steps)) = drive(&["-mtls", "-steps", "ping,double,stream,invoke,kill"]) else {
        return;
    };
    for (step, outcome) in [
        ("start", "ok 3"),
        ("double", "ok 42"),
        ("stream", "ok 5000"),
        ("invoke", "ok 8"),
        ("kill", "ok true"),
    ] {
        assert_eq!(steps.get(step).map(String::as_str), Some(outcome), "{step}");
    }
    assert!(success);
}

#[test]
fn versions_are_negotiated_with_a_go_host() {
    for (versions, expected) in [("2", "ok 2"), ("1,2", "ok 2"), ("7,1", "ok 1")] {
        let Some((_, steps)) = drive(&["-versions", versions, "-steps", "kill"]) else {
            return;
        };
        assert_eq!(steps["start"], expected, "{versions}");
    }
    // None in common: the host says so, and names our lowest.
    let Some((success, steps)) = drive(&["-versions", "9", "-steps", "kill"]) else {
        return;
    };
    assert!(
        !success && steps["start"].contains("Plugin version: 1"),
        "{steps:?}"
    );
}

/// A process's state letter; `None` once it is gone.
fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[test]
fn the_plugin_does_not_survive_a_host_that_is_killed() {
    use std::io::{BufRead as _, BufReader};
    let Some(host) = go::program("tests/go-host") else {
        return;
    };
    let mut host = Command::new(host)
        .arg("-plugin")
        .arg(pong())
        .args(["-steps", "wait"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let pid: i32 = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some(pid) = line.strip_prefix("ok wait ") {
            break pid.parse().unwrap();
        }
    };
    assert!(state(pid).is_some());
    host.kill().unwrap();
    host.wait().unwrap();
    let begun = std::time::Instant::now();
    // A zombie has ended; whoever inherits it may take its time to look.
    while state(pid).is_some_and(|state| state != 'Z') {
        assert!(
            begun.elapsed() < crate::fixture::PATIENCE,
            "the plugin outlived its host"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
