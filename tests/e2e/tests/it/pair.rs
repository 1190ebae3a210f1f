//! Two plugins that call each other (`plugins/left`, `plugins/right`), in every runtime, and that depend on versions of one crate that do
//! not fit each other.

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A host with both, each in a runtime. `right` requires `left` and comes first in the file on purpose.
fn host(left: &str, right: &str) -> Daemon {
    let entry = |folder: &str, runtime: &str| {
        let source = package(folder).unwrap();
        format!("[[plugin]]\nsource = {source:?}\nruntime = \"{runtime}\"\n")
    };
    let plugins = [entry("right", right), entry("left", left)].concat();
    Daemon::start(&format!("[routing]\npropagate = [\"x-tenant\"]\n{plugins}")).unwrap()
}

fn pass(daemon: &Daemon, plugin: &str, hops: u32) -> std::process::Output {
    let arguments = [
        "call",
        plugin,
        "Pass",
        "--json",
        &json!({"hops": hops}).to_string(),
        "--header",
        "x-tenant=acme",
        "--header",
        "x-secret=1",
        "--header",
        &format!("traceparent=00-{TRACE}-00f067aa0ba902b7-01"),
        "--timeout-ms",
        "20000",
        "--output",
        "json",
    ];
    daemon.run(&arguments).unwrap()
}

const PAIRS: [(&str, &str); 4] = [
    ("native", "native"),
    ("native", "wasm"),
    ("wasm", "process"),
    ("process", "native"),
];

#[test]
fn a_chain_of_calls_carries_trace_deadline_and_headers_through_every_runtime() {
    for (left, right) in PAIRS {
        let daemon = host(left, right);
        let output = pass(&daemon, "left", 5);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{left}, {right}: {told}\n{}",
            daemon.log()
        );
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
        let stops = reply["stops"].as_array().unwrap();
        assert_eq!(stops.len(), 6, "{reply}");
        let mut left_us = u64::MAX;
        for (depth, stop) in stops.iter().enumerate() {
            let (own, caller) = if depth % 2 == 0 {
                ("left@", "right")
            } else {
                ("right@", "left")
            };
            assert!(stop["instance"].as_str().unwrap().starts_with(own), "{stop}");
            assert_eq!(stop["depth"].as_u64().unwrap_or(0), depth as u64, "{stop}");
            let caller = if depth == 0 { "" } else { caller };
            assert_eq!(stop["caller"].as_str().unwrap_or(""), caller, "{stop}");
            assert!(stop["traceparent"].as_str().unwrap().contains(TRACE), "{stop}");
            assert_eq!(stop["headers"], json!({"x-tenant": "acme"}), "{stop}");
            let now_left: u64 = stop["deadlineLeftUs"].as_str().unwrap().parse().unwrap();
            assert!(
                now_left <= left_us && now_left <= 20_000_000,
                "one deadline for all: {reply}"
            );
            left_us = now_left;
        }
    }
}

#[test]
fn a_loop_of_calls_ends_at_the_greatest_depth_with_one_clear_error() {
    for (left, right) in PAIRS {
        let daemon = host(left, right);
        let output = pass(&daemon, "left", u32::MAX);
        assert!(!output.status.success());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let document: Value =
            serde_json::from_str(&told).unwrap_or_else(|_| panic!("{left}, {right}: {told}"));
        let message = document.to_string();
        assert_eq!(
            message.matches("and the most are 32").count(),
            1,
            "{left}, {right}: {message}"
        );
        assert!(
            message.contains("plugin `left` called `mortise.test.v1.Right/Pass` 33 calls deep"),
            "{left}, {right}: {message}"
        );
        // Nothing hangs in it any more, and the next call is answered.
        for name in ["left", "right"] {
            let listed = daemon.ask(&["inspect", name]).unwrap();
            assert_eq!(listed["in_flight"], 0, "{listed}");
        }
        assert!(pass(&daemon, "right", 3).status.success());
        // As deep as it may be, it works.
        assert!(pass(&daemon, "left", 32).status.success());
    }
}

#[test]
fn two_versions_of_one_crate_live_side_by_side() {
    let daemon = host("native", "native");
    let hash = |plugin: &str, text: &str| {
        let answer = daemon
            .rpc(&format!("plugin.{plugin}.Hash"), &json!({ "text": text }))
            .unwrap();
        answer["result"]["hash"].as_str().unwrap().to_owned()
    };
    let (one, two) = (hash("left", "mortise"), hash("right", "mortise"));
    assert_ne!(one, two, "each has the version that it was built with");
    // Whatever is called in between, and through whom.
    for _ in 0..20 {
        let reply = pass(&daemon, "right", 7);
        let reply: Value = serde_json::from_slice(&reply.stdout).unwrap();
        let seen: Vec<&str> = reply["stops"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["hash"].as_str().unwrap())
            .collect();
        assert_eq!(seen, [&*two, &one].repeat(4));
    }
    assert_eq!((hash("left", "mortise"), hash("right", "mortise")), (one, two));
}

#[test]
fn the_graph_is_shown_and_what_is_required_goes_last() {
    let daemon = host("native", "wasm");
    for name in ["aa", "bb"] {
        daemon.ask(&["load", "builtin:ping", "--name", name]).unwrap();
    }
    let shown = |format: &str| {
        let output = daemon.run(&["graph", "--format", format]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown("text");
    for line in [
        "level 0: needs nobody to start\n  aa 1.0.0 (builtin, ",
        "    mortise.test.v1.Right/Pass ^1 (lazy) -> right\n",
        "level 1: after level 0\n  right 1.0.0 (wasm, ",
        "    mortise.test.v1.Left/Pass ^1 -> left\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(
        shown("dot").contains("\"right\" -> \"left\" [label=\"mortise.test.v1.Left/Pass ^1\", style=solid];")
    );
    let svg = shown("svg");
    assert_eq!(
        (
            svg.matches("class=\"plugin\"").count(),
            svg.matches("class=\"requires\"").count()
        ),
        (4, 2),
        "{svg}"
    );
    let chart = daemon.ask(&["graph"]).unwrap();
    assert_eq!(chart["plugins"].as_array().unwrap().len(), 4);
    assert_eq!(chart["requires"][1]["tie"], "hard");
    assert_eq!(chart["requires"][1]["place"], "plugin.toml:10");
    let refused = daemon.run(&["unload", "left"]).unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        told.contains("plugin `right` would miss `mortise.test.v1.Left/Pass` ^1 (plugin.toml:10)"),
        "{told}"
    );
    assert!(told.contains("--cascade"), "{told}");
    let gone = daemon.ask(&["unload", "left", "--cascade"]).unwrap();
    assert_eq!(
        (&gone["name"], &gone["before"][0]["name"]),
        (&json!("left"), &json!("right"))
    );
}
