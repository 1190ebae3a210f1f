//! Routes and canaries of real plugins, through the command, the control socket and HTTP.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use mortise_e2e::{Daemon, package};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn host(more: &str) -> Daemon {
    let echo = package("echo").unwrap();
    Daemon::start(&format!(
        "{more}[[plugin]]\nsource = {echo:?}\nruntime = \"process\"\ngrant = {{ kv = true }}\n"
    ))
    .unwrap()
}

/// A busy machine is no slow plugin.
const ANY_LATENCY: &str = "--p95-step-ms=60000 --p95-factor=1000000";

/// `mortise canary start` of echo 1.1.0, with short windows.
fn start(daemon: &Daemon, more: &[&str]) -> Value {
    let next = package("echo-1.1").unwrap();
    let next = next.to_str().unwrap();
    let start = [
        "canary",
        "start",
        next,
        "--runtime",
        "process",
        "--window-ms",
        "300",
        "--requests-min",
        "30",
    ];
    let more: Vec<_> = more.iter().flat_map(|it| it.split(' ')).collect();
    daemon.ask(&[&start, &more[..]].concat()).unwrap()
}

fn status(daemon: &Daemon) -> Value {
    daemon.ask(&["canary", "status"]).unwrap()[0].clone()
}

/// Calls from four threads until the canary is in this state: its status then, and how many calls there were and failed.
fn call_until(daemon: &Daemon, state: &str, method: &str, params: &Value) -> (Value, usize, usize) {
    let over = AtomicBool::new(false);
    let (calls, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = daemon.rpc(method, params).unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(usize::from(answer.get("error").is_some()), Ordering::Relaxed);
                }
            });
        }
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let found = status(daemon);
            if found["state"] == state || Instant::now() > patience {
                over.store(true, Ordering::Relaxed);
                break found;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(found["state"], state, "{found:#}\n{}", daemon.log());
    (found, calls.into_inner(), failed.into_inner())
}

fn version(daemon: &Daemon) -> Value {
    daemon.rpc("plugin.echo.Version", &json!({})).unwrap()["result"]["version"].clone()
}

/// 1.0.0 alone serves, and the last decision says why.
fn taken_back(daemon: &Daemon, canary: &Value, why: &str) {
    let said = canary["decisions"].as_array().unwrap().last().unwrap();
    assert_eq!(said["kind"], "rolled_back");
    assert!(said["text"].as_str().unwrap().contains(why), "{why} in {said}");
    for _ in 0..20 {
        assert_eq!(version(daemon), "1.0.0");
    }
    let names = daemon.ask(&["list"]).unwrap();
    assert_eq!(names.as_array().unwrap().len(), 1, "{names:#}");
    let history = daemon.run(&["history", "echo"]).unwrap();
    assert!(String::from_utf8_lossy(&history.stdout).contains("load"));
}

#[test]
fn a_canary_of_a_real_plugin_is_promoted_without_losing_a_call() {
    let daemon = host("");
    let begun = start(&daemon, &["--step", "20%,50%,promote", ANY_LATENCY]);
    assert_eq!(
        (&begun["state"], &begun["weight"]),
        (&json!("measuring"), &json!(20))
    );
    let (done, calls, failed) = call_until(&daemon, "promoted", "plugin.echo.Version", &json!({}));
    assert_eq!(failed, 0, "of {calls}: {done:#}\n{}", daemon.log());
    assert_eq!(version(&daemon), "1.1.0");
    let text = daemon.run(&["canary", "status"]).unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("echo: 1.1.0 beside 1.0.0, promoted"), "{text}");
}

#[test]
fn errors_of_the_new_version_take_it_back() {
    let daemon = host("");
    // With this deadline it cannot do what 1.0.0 does.
    start(
        &daemon,
        &["--step", "50%,promote", "--deadline-ms", "2", ANY_LATENCY],
    );
    let (canary, _, failed) = call_until(&daemon, "rolled-back", "plugin.echo.Sleep", &json!({"ms": 20}));
    assert!(failed >= 15, "{failed}");
    taken_back(
        &daemon,
        &canary,
        "and 1.0 % is allowed (the version beside it had 0.0 % of",
    );
    let refused = daemon
        .run(&[
            "load",
            package("echo-1.1").unwrap().to_str().unwrap(),
            "--runtime",
            "process",
        ])
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("quarantine"), "{said}");
}

#[test]
fn slowness_of_the_new_version_takes_it_back() {
    let daemon = host("");
    // One call at a time: the others wait.
    start(&daemon, &["--step", "70%,promote", "--concurrency", "1"]);
    let (canary, _, failed) = call_until(&daemon, "rolled-back", "plugin.echo.Sleep", &json!({"ms": 20}));
    assert_eq!(failed, 0, "{canary:#}");
    taken_back(&daemon, &canary, "the 95th percentile of latency is");
}

#[test]
fn a_crash_takes_it_back_also_while_it_is_paused() {
    let daemon = host("");
    start(&daemon, &["--step", "50%,promote", ANY_LATENCY]);
    let paused = daemon.ask(&["canary", "pause", "echo"]).unwrap();
    assert_eq!(
        (&paused["state"], &paused["weight"]),
        (&json!("paused"), &json!(50))
    );
    let seen: std::collections::BTreeSet<String> = (0..60).map(|_| version(&daemon).to_string()).collect();
    assert_eq!(seen.len(), 2, "both serve: {seen:?}");
    let detail = daemon.ask(&["inspect", "echo@1.1.0"]).unwrap();
    let pid = detail["usage"]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let (canary, ..) = call_until(&daemon, "rolled-back", "plugin.echo.Version", &json!({}));
    taken_back(&daemon, &canary, "its instance ended: ");
}

#[test]
fn a_killed_host_finds_its_canary_again() {
    let mut daemon = host("");
    start(&daemon, &["--step", "50%,pause,promote", ANY_LATENCY]);
    call_until(&daemon, "paused", "plugin.echo.Version", &json!({}));
    daemon.kill().unwrap();
    daemon.start_again().unwrap();
    let found = status(&daemon);
    assert_eq!(
        (&found["state"], &found["step"], &found["weight"]),
        (&json!("paused"), &json!(2), &json!(50))
    );
    let seen: std::collections::BTreeSet<String> = (0..60).map(|_| version(&daemon).to_string()).collect();
    assert_eq!(seen.len(), 2, "both serve: {seen:?}");
    let gone = daemon
        .ask(&["canary", "abort", "echo", "--why", "enough"])
        .unwrap();
    taken_back(&daemon, &gone, "an operator gave it up: enough");
}

#[test]
fn routes_are_set_explained_kept_and_removed() {
    let file = "[[route]]\nname = \"file\"\nplugin = \"echo\"\nheaders = { x-next = { regex = \"1[.]1.*\" } }\nto = \"echo@1.1.0\"\n";
    let mut daemon = host(file);
    let next = package("echo-1.1").unwrap();
    daemon
        .ask(&["load", next.to_str().unwrap(), "--beside", "--runtime", "process"])
        .unwrap();
    let by_header = |daemon: &Daemon, header: &str| {
        daemon
            .ask(&["call", "echo", "Version", "--header", header])
            .unwrap()["version"]
            .clone()
    };
    assert_eq!(by_header(&daemon, "x-next=1.1.9"), "1.1.0");
    assert_eq!(by_header(&daemon, "x-next=2"), "1.0.0");
    let set = [
        "route",
        "set",
        "testers",
        "--plugin",
        "echo",
        "--header",
        "x-user^=t-",
        "--header",
        "!x-bot",
        "--to",
        "echo@1.1.0",
    ];
    let list = daemon.ask(&set).unwrap();
    assert_eq!(
        list["routes"][0]["does"],
        "calls of plugin `echo` where not (`x-bot` is there) and `x-user` begins with `t-` to echo@1.1.0"
    );
    assert_eq!(list["routes"][1]["origin"], "configuration");
    assert_eq!(by_header(&daemon, "x-user=t-ann"), "1.1.0");
    let explain = |daemon: &Daemon, headers: &[&str]| {
        daemon
            .ask(&[&["route", "explain", "mortise.test.v1.Echo/Version"], headers].concat())
            .unwrap()
    };
    let explained = explain(&daemon, &["--header", "x-user=t-ann"]);
    assert_eq!(
        (&explained["version"], &explained["because"]),
        (&json!("1.1.0"), &json!("rule `testers` sends this call there"))
    );
    let explained = explain(&daemon, &["--header", "x-user=t-ann", "--header", "x-bot=1"]);
    assert_eq!(explained["version"], "1.0.0");
    assert_eq!(
        explained["steps"],
        json!(["rule `testers` does not match", "rule `file` does not match"])
    );
    // An operator's route is there again after the worst end; one that does not make sense is refused whole.
    daemon.kill().unwrap();
    daemon.start_again().unwrap();
    assert_eq!(by_header(&daemon, "x-user=t-ann"), "1.1.0");
    let refused = daemon
        .run(&[
            "route", "set", "bad", "--plugin", "echo", "--header", "x~=(", "--to", "other",
        ])
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for part in [
        "unclosed group",
        "the route is about plugin `echo` and leads to `other`",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    daemon.ask(&["route", "remove", "testers"]).unwrap();
    assert_eq!(by_header(&daemon, "x-user=t-ann"), "1.0.0");
    // A header that only routes look at reaches them over HTTP, and no plugin.
    let explained = daemon
        .run(&[
            "route",
            "explain",
            "plugin.echo.Version",
            "--header",
            "x-next=1.1",
        ])
        .unwrap();
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(
        text.contains("goes to echo@1.1.0: rule `file` sends this call there"),
        "{text}"
    );
    // A reload without the route takes it away.
    let echo = package("echo").unwrap();
    daemon
        .configure(&format!(
            "[[plugin]]\nsource = {echo:?}\nruntime = \"process\"\ngrant = {{ kv = true }}\n"
        ))
        .unwrap();
    daemon.ask(&["reload"]).unwrap();
    assert_eq!(daemon.ask(&["route", "list"]).unwrap()["routes"], json!([]));
    assert_eq!(by_header(&daemon, "x-next=1.1.9"), "1.0.0");
}

/// The file's plan brings the new version in, through a kill of the host, and `mortise history` tells the whole story.
#[test]
fn a_reload_of_the_file_brings_the_new_version_as_a_canary() {
    let plan = "[plugin.canary]\nsteps = [\"50%\", \"pause\", \"promote\"]\nwindow_ms = 300\nrequests_min = 30\np95_step_ms = 60000\np95_factor = 1000000\n";
    let entry = |folder: &str| {
        let folder = package(folder).unwrap();
        format!("[[plugin]]\nsource = {folder:?}\nruntime = \"process\"\ngrant = {{ kv = true }}\n{plan}")
    };
    let mut daemon = Daemon::start(&entry("echo")).unwrap();
    daemon.configure(&entry("echo-1.1")).unwrap();
    let answer = daemon.ask(&["reload"]).unwrap();
    assert_eq!(
        (&answer["canaries"], &answer["swapped"]),
        (&json!(["echo"]), &json!([])),
        "{answer:#}"
    );
    let (_, calls, failed) = call_until(&daemon, "paused", "plugin.echo.Version", &json!({}));
    assert_eq!(failed, 0, "of {calls}");
    // A host that ends in the middle starts with the version that served, and goes on.
    daemon.kill().unwrap();
    daemon.start_again().unwrap();
    let found = status(&daemon);
    assert_eq!(
        (&found["state"], &found["baseline_version"], &found["weight"]),
        (&json!("paused"), &json!("1.0.0"), &json!(50)),
        "{found:#}"
    );
    daemon.ask(&["canary", "resume", "echo"]).unwrap();
    // Without calls: what its probation would say of a busy machine is not the matter here.
    let patience = Instant::now() + Duration::from_secs(60);
    while status(&daemon)["state"] != "promoted" {
        assert!(Instant::now() < patience, "{:#}", status(&daemon));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(version(&daemon), "1.1.0");
    let rows = daemon.ask(&["history", "echo"]).unwrap();
    let rows: Vec<_> = rows.as_array().unwrap().iter().rev().collect();
    let told: Vec<_> = rows
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            let actor = text("actor");
            let actor = actor.split(':').next().unwrap_or_default();
            format!(
                "{actor} {} {} {}",
                text("action"),
                text("version"),
                text("outcome")
            )
        })
        .collect();
    assert_eq!(told[..2], ["config load 1.0.0 done", "config canary 1.1.0 done"]);
    assert!(told.contains(&"host canary 1.1.0 done".to_owned()), "{told:?}");
    assert!(
        told.contains(&"uid promote 1.1.0 done".to_owned())
            || told.contains(&"canary promote 1.1.0 done".to_owned()),
        "{told:?}"
    );
    let passed = rows.iter().find(|it| it["actor"] == "canary").unwrap();
    let detail = passed["detail"].as_str().unwrap();
    assert!(
        detail.contains(" calls with ") && detail.contains("p95"),
        "{detail}"
    );
    // What the operator goes back to stays, and the reload says what the file names.
    daemon.ask(&["rollback", "echo"]).unwrap();
    assert_eq!(version(&daemon), "1.0.0");
    let answer = daemon.ask(&["reload"]).unwrap();
    let why = answer["kept"][0]["why"].as_str().unwrap();
    assert!(why.contains("names version 1.1.0, and 1.0.0 serves"), "{why}");
    daemon.kill().unwrap();
    daemon.start_again().unwrap();
    assert_eq!(version(&daemon), "1.0.0", "also over the end of the host");
    let doctor = daemon.run(&["doctor"]).unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        said.contains("echo: its entry in the configuration names"),
        "{said}"
    );
    // Whoever insists has the file's word, by the file's plan.
    let answer = daemon.ask(&["reload", "echo"]).unwrap();
    assert_eq!(answer["canaries"], json!(["echo"]), "{answer:#}");
    daemon.ask(&["rollback", "echo"]).unwrap();
    assert_eq!(status(&daemon)["state"], "rolled-back");
    assert_eq!(version(&daemon), "1.0.0");
}
