//! `mortise serve` as an operator meets it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mortise_e2e::{Daemon, package, root};
use serde_json::json;

fn plugin(name: &str, folder: &str, runtime: &str, more: &str) -> String {
    let source = package(folder).unwrap();
    format!("[[plugin]]\nname = \"{name}\"\nsource = {source:?}\nruntime = \"{runtime}\"\n{more}\n")
}

#[test]
fn one_package_three_runtimes_same_thumbnail() {
    let config: String = ["native", "wasm", "process"]
        .map(|runtime| {
            plugin(
                runtime,
                "thumbnailer",
                runtime,
                "limits = { memory_mib = 256, deadline_ms = 60000 }",
            )
        })
        .concat();
    let daemon = Daemon::start(&config).unwrap();
    let photo = std::fs::read(root().join("data/photos/chelsea.png")).unwrap();
    let params = json!({"image": BASE64_STANDARD.encode(photo), "maxSide": 32});
    let answers = ["native", "wasm", "process"].map(|runtime| {
        let answer = daemon
            .rpc(&format!("plugin.{runtime}.Thumbnail"), &params)
            .unwrap();
        assert!(answer["result"]["image"].is_string(), "{runtime}: {answer}");
        answer["result"].clone()
    });
    assert_eq!(answers[0], answers[1], "native and wasm make the same picture");
    assert_eq!(answers[0], answers[2], "native and process make the same picture");
    let by_service = daemon
        .rpc("acme.image.v1.Thumbnailer/Thumbnail", &params)
        .unwrap();
    assert_eq!(by_service["result"], answers[0]);
}

#[test]
fn a_bad_plugin_is_listed_and_the_host_serves() {
    let good = plugin("echo", "echo", "wasm", "grant = { kv = true }");
    let bad = plugin("denied", "echo", "wasm", "");
    let daemon = Daemon::start(&format!("{good}{bad}")).unwrap();
    let answer = daemon
        .rpc("plugin.echo.Reverse", &json!({"text": "abc"}))
        .unwrap();
    assert_eq!(answer["result"]["text"], "cba");
    let list = daemon.ask(&["list"]).unwrap();
    let listed = serde_json::to_string(&list).unwrap();
    assert!(
        listed.contains("denied") && listed.contains("kv"),
        "the refused plugin and its reason: {listed}"
    );
    assert_eq!(daemon.get("/healthz").unwrap().0, 200);
    assert_eq!(daemon.get("/readyz").unwrap().0, 200);
    assert_eq!(daemon.get("/health/plugin/echo").unwrap().0, 200);
    assert_ne!(daemon.get("/health/plugin/denied").unwrap().0, 200);
    assert_eq!(daemon.get("/health/plugin/nobody").unwrap().0, 404);
}

#[test]
fn load_swap_call_unload_over_the_control_socket() {
    let daemon = Daemon::start("").unwrap();
    let old = package("thumbnailer").unwrap();
    let new = package("thumbnailer-1.3").unwrap();
    let load = |package: &std::path::Path| {
        daemon
            .ask(&["load", package.to_str().unwrap(), "--runtime", "process"])
            .unwrap()
    };
    assert!(load(&old).to_string().contains("1.2.0"));
    let before = daemon.ask(&["inspect", "thumbnailer"]).unwrap();
    assert!(load(&new).to_string().contains("1.3.0"));
    let after = daemon.ask(&["inspect", "thumbnailer"]).unwrap();
    assert_ne!(
        before["usage"]["pid"], after["usage"]["pid"],
        "the new version is a new process"
    );
    let history = daemon
        .ask(&["history", "thumbnailer", "--moves"])
        .unwrap()
        .to_string();
    assert!(history.to_lowercase().contains("probation"), "{history}");
    daemon.ask(&["unload", "thumbnailer"]).unwrap();
    let refused = daemon
        .run(&["call", "thumbnailer", "Thumbnail", "--json", "{}"])
        .unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("thumbnailer"),
        "{refused:?}"
    );
}

/// From 0 to 2; a number that is 0 is left out.
const NUMBERS: &str = "{}\n{\"value\":\"1\"}\n{\"value\":\"2\"}\n";

#[test]
fn streams_of_each_kind_from_the_command_line() {
    let daemon = Daemon::start(&plugin("echo", "echo", "process", "grant = { kv = true }")).unwrap();
    let call = |arguments: &[&str]| {
        let output = daemon.run(&[&["call", "echo"], arguments].concat()).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    // One request, as of a method that answers once.
    assert_eq!(call(&["Numbers", "--json", "{\n  \"count\": 3\n}"]), NUMBERS);
    assert_eq!(
        call(&["Numbers"]),
        "",
        "an empty request, and not what stands on standard input"
    );
    // Many requests, one answer; none from an empty standard input.
    assert_eq!(
        call(&["Sum", "--json", NUMBERS]),
        "{\"sum\":\"3\",\"count\":\"3\"}\n"
    );
    assert_eq!(call(&["Sum"]), "{}\n");
    assert_eq!(call(&["Relay", "--json", NUMBERS]), NUMBERS);
}

#[test]
fn nothing_outlives_a_killed_host() {
    let mut daemon = Daemon::start(&plugin("echo", "echo", "process", "grant = { kv = true }")).unwrap();
    let pid = daemon.ask(&["inspect", "echo"]).unwrap()["usage"]["pid"]
        .as_u64()
        .unwrap();
    let alive = || {
        // A zombie that nobody has reaped yet is not alive.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
        })
    };
    assert!(alive(), "the plugin's process runs");
    daemon.kill().unwrap();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while alive() {
        assert!(
            std::time::Instant::now() < patience,
            "20 s after its host was killed, the plugin still runs"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn shutdown_is_polite() {
    let mut daemon = Daemon::start(&plugin("echo", "echo", "native", "grant = { kv = true }")).unwrap();
    daemon.ask(&["shutdown"]).unwrap();
    assert!(daemon.ended().unwrap().success(), "{}", daemon.log());
}
