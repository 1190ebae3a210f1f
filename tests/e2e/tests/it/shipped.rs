//! Plugins that need no folder: compiled into the command, and embedded in it.

use mortise_e2e::{Daemon, mortise};
use serde_json::json;

const BOTH: &str = r#"
[[plugin]]
source = "builtin:ping"
config = { text = "eu-west-1" }
limits = { deadline_ms = 9000 }
[[plugin]]
name = "sum"
source = "embedded:checksum"
runtime = "wasm"
"#;

#[test]
fn both_are_configured_called_and_unloaded_like_any_other() {
    let daemon = Daemon::start(BOTH).unwrap();
    let list = daemon.ask(&["list"]).unwrap();
    let rows: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| ["name", "source", "runtime"].map(|key| it[key].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        rows,
        [
            ["ping", "builtin:ping", "builtin"],
            ["sum", "embedded:checksum", "wasm"]
        ]
    );

    let pong = daemon.rpc("mortise.builtin.v1.Ping/Ping", &json!({})).unwrap();
    let pong = &pong["result"];
    assert_eq!(
        (&pong["text"], &pong["plugin"]),
        (&"eu-west-1".into(), &"ping".into()),
        "{pong}"
    );
    let left: u64 = pong["deadlineLeftMs"].as_str().unwrap().parse().unwrap();
    assert!(left <= 9000, "the operator's limit, less what has passed: {left}");
    let failed = daemon
        .rpc("plugin.ping.Fail", &json!({"code": 8, "message": "full"}))
        .unwrap();
    assert_eq!(
        failed["error"]["data"]["status"], "RESOURCE_EXHAUSTED",
        "{failed}"
    );

    let sum = daemon
        .rpc("plugin.sum.Crc32", &json!({"data": "MTIzNDU2Nzg5"}))
        .unwrap();
    assert_eq!(
        sum["result"],
        json!({"crc32": 0xcbf4_3926_u32}),
        "CRC-32 of 123456789, as published"
    );

    for name in ["ping", "sum"] {
        daemon.ask(&["unload", name]).unwrap();
    }
    assert_eq!(daemon.ask(&["list"]).unwrap(), json!([]));
    // By hand they come back, the embedded one under its own name.
    daemon.ask(&["load", "builtin:ping"]).unwrap();
    daemon.ask(&["load", "embedded:checksum"]).unwrap();
    let again = daemon.ask(&["call", "checksum", "Crc32"]).unwrap();
    assert_eq!(
        again,
        json!({}),
        "the CRC-32 of nothing is 0, which JSON leaves out"
    );
}

#[test]
fn an_unknown_name_is_refused_with_those_that_there_are() {
    let config = "[[plugin]]\nsource = \"builtin:pong\"\n[[plugin]]\nsource = \"embedded:sum\"\n";
    let daemon = Daemon::start(config).unwrap();
    let list = daemon.ask(&["list"]).unwrap();
    let reasons: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["reasons"].clone())
        .collect();
    assert_eq!(
        reasons,
        [
            json!(["there is no `builtin:pong`; this program has `ping`"]),
            json!(["there is no `embedded:sum`; this program has `checksum`"])
        ]
    );
    for (source, known) in [("builtin:nobody", "`ping`"), ("embedded:../x", "`checksum`")] {
        let refused = daemon.run(&["load", source]).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            said.contains(&format!("there is no `{source}`; this program has {known}")),
            "{said}"
        );
    }
}

#[test]
fn no_name_leads_out_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    for source in ["embedded:../x", "builtin:/etc/passwd", "embedded:"] {
        std::fs::write(
            folder.path().join("mortise.toml"),
            format!("[[plugin]]\nsource = \"{source}\"\n"),
        )
        .unwrap();
        let mut serve = std::process::Command::new(mortise().unwrap());
        let output = serve.arg("serve").current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{source}: {said}");
        assert!(
            said.contains("mortise.toml:2:10") && said.contains("hint:"),
            "{source}: {said}"
        );
    }
}

#[test]
fn doctor_tells_what_comes_with_the_command() {
    let daemon = Daemon::start("").unwrap();
    let report = daemon.ask(&["doctor"]).unwrap();
    let sources: Vec<_> = report["shipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["source"])
        .collect();
    assert_eq!(sources, ["builtin:ping", "embedded:checksum"]);
    for runtimes in [&report["runtimes"], &report["host"]["report"]["runtimes"]] {
        let named = |it: &serde_json::Value| it["runtime"] == "builtin" && it["available"] == true;
        assert!(runtimes.as_array().unwrap().iter().any(named), "{report}");
    }
    let text = daemon.run(&["doctor"]).unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("builtin:ping 1.0.0, builtin: mortise.builtin.v1.Ping"),
        "{text}"
    );
}
