//! `mortise history`, `rollback` and `diff`, over the control socket and through a kill.

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

fn load(daemon: &Daemon, folder: &str, more: &[&str]) {
    let source = package(folder).unwrap();
    daemon
        .ask(
            &[
                &[
                    "load",
                    source.to_str().unwrap(),
                    "--runtime",
                    "wasm",
                    "--grant",
                    "kv",
                ],
                more,
            ]
            .concat(),
        )
        .unwrap();
}

fn version(daemon: &Daemon) -> Value {
    daemon.rpc("plugin.echo.Version", &json!({})).unwrap()["result"]["version"].clone()
}

#[test]
fn history_rollback_and_diff_of_a_real_plugin() {
    let mut daemon = Daemon::start("").unwrap();
    load(&daemon, "echo", &["--deadline-ms", "700"]);
    load(&daemon, "echo-1.1", &[]);
    let history = daemon.ask(&["history", "echo"]).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    for change in history.as_array().unwrap() {
        assert_eq!(
            (change["actor"].as_str(), change["outcome"].as_str()),
            (Some(&*format!("uid:{uid}")), Some("done")),
            "{change}"
        );
    }
    let numbers: Vec<String> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["seq"].to_string())
        .collect();
    let [new, old] = &numbers[..] else {
        panic!("{history}")
    };
    let diff = daemon.ask(&["diff", old, new]).unwrap();
    let what: Vec<_> = diff["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["what"].as_str().unwrap())
        .collect();
    for expected in ["version", "package", "limits.deadline_ms", "declares.kv"] {
        assert!(what.contains(&expected), "{expected}: {diff}");
    }
    assert_eq!(diff["contract"], "exact", "{diff}");
    assert_eq!(
        daemon.ask(&["diff", new]).unwrap()["differences"],
        diff["differences"],
        "what the change itself was about"
    );

    daemon.ask(&["rollback", "echo"]).unwrap();
    assert_eq!(version(&daemon), "1.0.0");
    assert_eq!(
        daemon.ask(&["inspect", "echo"]).unwrap()["limits"]["deadline_ms"],
        700
    );
    daemon.ask(&["rollback", "echo", "--to", new]).unwrap();
    assert_eq!(version(&daemon), "1.1.0");
    daemon.ask(&["rollback", "echo", "--to", old]).unwrap();
    daemon.kill().unwrap();
    daemon.start_again().unwrap();
    assert_eq!(version(&daemon), "1.0.0");

    // For people.
    let told = daemon.run(&["history"]).unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("version 1.1.0 -> 1.0.0") && told.contains("rollback"),
        "{told}"
    );
    let told = daemon.run(&["diff", old, new]).unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("limits.deadline_ms 700 -> nothing") && told.contains("contract: exact"),
        "{told}"
    );
    let refused = daemon.run(&["rollback", "nobody"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("nobody") && said.contains("hint:"), "{said}");
}
