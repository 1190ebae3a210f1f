//! Several plugins as one change, with a real host: from the command line, and through a host that is killed in the middle.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use mortise_e2e::{Daemon, package};
use mortise_gateway::control::{Client, Load, LoadAll};
use serde_json::{json, value::RawValue};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// All three, each configured to say this number.
fn change(number: u32) -> LoadAll {
    let load = |name: &&str| Load {
        source: "builtin:ping".to_owned(),
        name: Some((*name).to_owned()),
        config: RawValue::from_string(json!({"text": number.to_string()}).to_string()).ok(),
        ..Load::default()
    };
    LoadAll {
        plugins: NAMES.iter().map(load).collect(),
    }
}

fn numbers(daemon: &Daemon) -> Vec<u32> {
    let number = |name: &&str| {
        let pong = daemon.rpc(&format!("plugin.{name}.Ping"), &json!({})).unwrap();
        let text = pong["result"]["text"].as_str();
        text.unwrap_or_else(|| panic!("{pong}")).parse().unwrap()
    };
    NAMES.iter().map(number).collect()
}

/// How often the host is killed. Each time costs a start of a host.
const KILLS: u32 = 15;

#[test]
fn a_host_that_is_killed_in_the_middle_comes_back_to_all_or_none() {
    let mut daemon = Daemon::start("").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = |daemon: &Daemon| Client::new(daemon.folder.path().join("data/control.sock"));
    runtime.block_on(client(&daemon).ask(&change(0))).unwrap();
    let mut seen = Vec::new();
    for round in 1..=KILLS {
        let (begun, done) = (AtomicU32::new(0), AtomicU32::new(numbers(&daemon)[0]));
        let pause = Duration::from_micros(RandomState::new().hash_one(round) % 60_000);
        std::thread::scope(|scope| {
            let changes = client(&daemon);
            let (begun, done, runtime) = (&begun, &done, &runtime);
            scope.spawn(move || {
                for number in round * 1000.. {
                    begun.store(number, Ordering::SeqCst);
                    if runtime.block_on(changes.ask(&change(number))).is_err() {
                        break;
                    }
                    done.store(number, Ordering::SeqCst);
                }
            });
            std::thread::sleep(pause);
            daemon.kill().unwrap();
        });
        daemon.start_again().unwrap();
        let now = numbers(&daemon);
        let (begun, done) = (begun.into_inner(), done.into_inner());
        assert!(
            now.iter().all(|it| *it == now[0]),
            "some old and some new: {now:?}"
        );
        assert!(
            now[0] == done || now[0] == begun,
            "{now:?}, and {done} was done and {begun} begun"
        );
        seen.push((done, begun, now[0]));
    }
    println!("done, begun, found: {seen:?}");
}

#[test]
fn the_command_line_loads_all_or_none() {
    let daemon = Daemon::start("").unwrap();
    let folder = |name: &str| package(name).unwrap().display().to_string();
    let (left, right, echo) = (folder("left"), folder("right"), folder("echo"));
    // `echo` asks for a permission that it is not granted.
    let refused = daemon.run(&["load", &right, &left, &echo, "--together"]).unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(told.contains("echo: permissions: it declares `kv`"), "{told}");
    assert_eq!(daemon.ask(&["list"]).unwrap(), json!([]));
    let several = daemon.run(&["load", &right, &left]).unwrap();
    let told = String::from_utf8_lossy(&several.stderr).into_owned();
    assert!(told.contains("--together"), "{told}");
    let loaded = daemon.run(&["load", &right, &left, "--together"]).unwrap();
    let told = String::from_utf8_lossy(&loaded.stdout).into_owned();
    assert!(
        told.contains("loaded `right`: ") && told.contains("loaded `left`: "),
        "{told}"
    );
    let list = daemon.ask(&["list"]).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
}
