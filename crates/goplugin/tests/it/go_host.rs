//! A real Go host drives a plugin that is made with this crate.

use std::{collections::BTreeMap, process::Command, sync::LazyLock};

use crate::{
    fixture::{pong, state, wait_for_end},
    go,
};

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

/// Options of the host. Debian's can't do most of it.
fn ways() -> Vec<Vec<&'static str>> {
    let mut ways = vec![vec![], vec!["-mtls"]];
    if go::is_recent() {
        ways.push(vec!["-multiplex"]);
        ways.push(vec!["-multiplex", "-mtls"]);
        for apart in [
            &["-skip-env"][..],
            &["-group", &GROUP],
            &["-runner"],
            &["-runner", "-group", &GROUP],
        ] {
            ways.push(apart.to_vec());
            ways.push([apart, &["-multiplex", "-mtls"]].concat());
        }
    }
    ways
}

/// A group that sockets are given to. Only root can give them to one that is not its own.
static GROUP: LazyLock<String> = LazyLock::new(|| {
    if rustix::process::geteuid().is_root() {
        "54321".to_owned()
    } else {
        rustix::process::getegid().as_raw().to_string()
    }
});

#[test]
fn everything_in_every_way() {
    let mut expected = vec![
        ("start", "ok 3"),
        ("dispense", "ok "),
        ("ping", "ok "),
        ("double", "ok 42"),
        ("stream", "ok 5000"),
        ("invoke", "ok 8"),
        (
            "refuse",
            "ok rpc error: code = InvalidArgument desc = `nonsense` is no key of this plugin",
        ),
        // It went by itself, within the two seconds after which Go's host kills.
        ("kill", "ok true"),
    ];
    let broker = [("broker", "ok pong from the plugin"), ("brokers", "ok 16")];
    if go::is_recent() {
        expected.extend([("reflect", "ok grpctest.Test true true")]);
    }
    for way in ways() {
        // Debian's go-plugin can't dial through its broker under TLS: its issue 109, fixed in 1.4.4. The other way is tested without Go.
        let with_broker = go::is_recent() || !way.contains(&"-mtls");
        let expected = broker.iter().filter(|_| with_broker).chain(&expected);
        let steps: Vec<_> = expected
            .clone()
            .map(|(step, _)| *step)
            .filter(|it| !["start", "dispense", "kill"].contains(it))
            .collect();
        let steps = format!("{},kill", steps.join(","));
        let Some((success, said)) = drive(&[&way[..], &["-steps", &steps]].concat()) else {
            return;
        };
        for (step, outcome) in expected {
            assert_eq!(
                said.get(*step).map(String::as_str),
                Some(*outcome),
                "{step} {way:?}"
            );
        }
        assert!(success, "{way:?}");
    }
}

#[test]
fn what_a_host_asks_of_sockets_and_environment_is_done() {
    for way in ways() {
        let Some((_, said)) = drive(&[&way[..], &["-steps", "socket,kill"]].concat()) else {
            return;
        };
        if way.contains(&"-runner") {
            assert!(said["socket"].contains("/plugin-dir"), "{said:?}");
        }
        let mode = if way.contains(&"-group") {
            format!("ok 660 {} ", *GROUP)
        } else {
            "ok 600 ".to_owned()
        };
        assert!(said["socket"].starts_with(&mode), "{way:?} {said:?}");
    }
    if go::is_recent() {
        let (_, said) = drive(&["-skip-env", "-multiplex", "-mtls", "-steps", "environment,kill"]).unwrap();
        let names = "BASIC_PLUGIN,PLUGIN_CLIENT_CERT,PLUGIN_MAX_PORT,PLUGIN_MIN_PORT,PLUGIN_MULTIPLEX_GRPC,PLUGIN_PROTOCOL_VERSIONS";
        assert_eq!(said["environment"], format!("ok {names}"));
    }
}

#[test]
fn a_second_host_reattaches() {
    let Some((success, said)) = drive(&["-steps", "double,reattach,kill"]) else {
        return;
    };
    assert_eq!((&*said["reattach"], &*said["kill"]), ("ok 10", "ok true"));
    assert!(success);
}

#[test]
fn a_host_whose_plugin_is_killed_during_a_call_is_told_at_once() {
    for way in ways() {
        if way.contains(&"-runner") {
            continue;
        }
        let Some((success, said)) = drive(&[&way[..], &["-steps", "slay"]].concat()) else {
            return;
        };
        assert_eq!(said["slay"], "ok Unavailable", "{way:?}");
        assert!(success);
    }
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

#[test]
fn the_plugin_does_not_survive_a_host_that_is_killed() {
    use std::io::{BufRead as _, BufReader};
    let Some(host) = go::program("tests/go-host") else {
        return;
    };
    for way in ways() {
        if way.contains(&"-runner") {
            continue;
        }
        let mut host = Command::new(&host)
            .arg("-plugin")
            .arg(pong())
            .args(&way)
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
        wait_for_end(pid);
    }
}
