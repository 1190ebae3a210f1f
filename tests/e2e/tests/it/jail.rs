//! The jail as an operator meets it: what a hostile plugin was denied, which layers there are, what a host that was killed leaves.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

/// An entry of `mortise.toml` for the hostile plugin.
fn hostile(more: &str) -> String {
    let source = package("bad-process").unwrap();
    format!("[[plugin]]\nname = \"hostile\"\nsource = {source:?}\nruntime = \"process\"\n{more}\n")
}

fn attempt(daemon: &Daemon, attempt: &str, argument: &str) -> Value {
    let params = json!({"attempt": attempt, "argument": argument});
    let answer = daemon.rpc("plugin.hostile.Try", &params).unwrap();
    answer["result"].clone()
}

fn inspect(daemon: &Daemon) -> Value {
    daemon.ask(&["inspect", "hostile"]).unwrap()
}

fn shown(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.run(arguments).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < patience, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether this machine gives a layer, as `mortise doctor` says.
fn machine_has(daemon: &Daemon, layer: &str) -> bool {
    let doctor = daemon.ask(&["doctor"]).unwrap();
    let runtimes = doctor["runtimes"].as_array().unwrap();
    let process = runtimes.iter().find(|it| it["runtime"] == "process").unwrap();
    let layers = process["layers"].as_array().unwrap();
    layers
        .iter()
        .find(|it| it["name"] == layer)
        .is_some_and(|it| it["present"] == true)
}

#[test]
fn what_a_plugin_was_denied_is_told_with_capability_and_target() {
    let daemon = Daemon::start(&hostile("")).unwrap();
    if !machine_has(&daemon, "denial-events") {
        println!("skipped: needs the layer denial-events");
        return;
    }
    // The attempt, and what is told of it.
    let attempts = [
        ("ReadShadow", "", "fs.read", "/etc/shadow"),
        ("ReadOutside", "/etc/gshadow", "fs.read", "/etc/gshadow"),
        ("RawSocket", "", "net", "a socket of family inet, kind raw"),
        (
            "ConnectUnixOutside",
            "/run/docker.sock",
            "net.connect",
            "/run/docker.sock",
        ),
        ("PtraceHost", "1", "other processes", "ptrace"),
    ];
    for (name, argument, _, _) in attempts {
        let outcome = attempt(&daemon, name, argument);
        assert_ne!(outcome["errno"], json!(0), "{name}: {outcome}");
    }
    let told = |detail: &Value, capability: &str, target: &str| {
        let denied = detail["denied"].as_array().unwrap();
        denied
            .iter()
            .any(|it| it["capability"] == capability && it["target"].as_str().unwrap().contains(target))
    };
    for (name, _, capability, target) in attempts {
        until(&format!("{name} is in `inspect`"), || {
            told(&inspect(&daemon), capability, target).then_some(())
        });
    }
    let count = inspect(&daemon)["counters"]["denials"].as_u64().unwrap();
    assert!(count >= attempts.len() as u64, "{count}");
    // For people, and in the log, which is where an operator's alarms look.
    let text = shown(&daemon, &["inspect", "hostile"]);
    let log = daemon.log();
    for (_, _, capability, target) in attempts {
        assert!(text.contains(&format!("{capability} {target}")), "{text}");
        let line = log
            .lines()
            .find(|it| it.contains("mortise::denied") && it.contains(capability) && it.contains(target));
        assert!(
            line.is_some_and(|it| it.contains("plugin=hostile")),
            "{target}: {log}"
        );
    }
}

#[test]
fn doctor_lists_the_layers_of_the_machine_and_inspect_those_of_a_plugin() {
    let daemon = Daemon::start(&hostile("limits = { cpu_percent = 150 }")).unwrap();
    let names = mortise::manifest::JAIL_LAYERS;
    let doctor = daemon.ask(&["doctor"]).unwrap();
    let of_runtime = |name: &str| {
        let runtimes = doctor["runtimes"].as_array().unwrap();
        runtimes.iter().find(|it| it["runtime"] == name).unwrap().clone()
    };
    let process = of_runtime("process");
    let (text, plugin) = (shown(&daemon, &["doctor"]), inspect(&daemon));
    let plugin_text = shown(&daemon, &["inspect", "hostile"]);
    for name in names {
        for layers in [&process["layers"], &plugin["layers"]] {
            let layer = layers
                .as_array()
                .unwrap()
                .iter()
                .find(|it| it["name"] == name)
                .unwrap_or_else(|| panic!("{name} is not in {layers}"));
            let (present, detail) = (layer["present"] == true, layer["detail"].as_str().unwrap());
            assert!(present || !detail.is_empty(), "{name} is absent for no reason");
            let mark = format!("{} {name}", if present { "yes" } else { "no " });
            assert!(
                text.contains(&mark) || plugin_text.contains(&mark),
                "{mark}: {text}\n{plugin_text}"
            );
        }
        assert!(text.contains(name) && plugin_text.contains(name), "{name}");
    }
    // The bound on processor time: who enforces it is said, and a plugin's is shown.
    assert!(
        of_runtime("wasm")["cpu_limit"]
            .as_str()
            .unwrap()
            .starts_with("not enforced: "),
        "{doctor}"
    );
    assert!(text.contains("cpu limit"), "{text}");
    assert_eq!(plugin["limits"]["cpu_percent"], json!(150));
    if machine_has(&daemon, "cpu-cgroup") {
        assert_eq!(process["cpu_limit"], "enforced");
        assert!(plugin_text.contains("150 % of one core"), "{plugin_text}");
        assert!(
            !plugin_text.contains("cpu_percent is not enforced"),
            "{plugin_text}"
        );
    }
}

#[test]
fn a_plugin_that_spins_is_held_up_and_inspect_counts_it() {
    let daemon = Daemon::start(&hostile("limits = { cpu_percent = 20 }")).unwrap();
    if !machine_has(&daemon, "cpu-cgroup") {
        println!("skipped: needs the layer cpu-cgroup");
        return;
    }
    daemon.rpc("plugin.hostile.Work", &json!({})).unwrap();
    let throttled = || inspect(&daemon)["usage"]["throttled_periods"].as_u64().unwrap();
    let first = until("it was held up", || Some(throttled()).filter(|it| *it > 0));
    until("it is held up again", || {
        Some(throttled()).filter(|it| *it > first)
    });
    // It goes on answering.
    assert_eq!(attempt(&daemon, "Nothing", "")["detail"], "nothing");
}

#[test]
fn without_a_jail_is_said_loudly_and_where_nothing_is_enforced_too() {
    let daemon = Daemon::start("").unwrap();
    let package = package("bad-process").unwrap();
    let load = [
        "load",
        package.to_str().unwrap(),
        "--name",
        "hostile",
        "--jail",
        "off",
    ];
    let output = daemon.run(&load).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("warning: plugin `hostile` runs without a jail"),
        "{said}"
    );
    assert!(
        daemon
            .log()
            .contains("a plugin starts without a jail: it may do whatever the host's user may"),
        "{}",
        daemon.log()
    );
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "seen").unwrap();
    let secret = outside.path().join("secret").display().to_string();
    assert_eq!(attempt(&daemon, "ReadOutside", &secret)["detail"], "seen");
    let detail = inspect(&daemon);
    let layers = detail["layers"].as_array().unwrap();
    let seccomp = layers.iter().find(|it| it["name"] == "seccomp").unwrap();
    assert_eq!(
        (&seccomp["present"], &seccomp["detail"]),
        (&json!(false), &json!("the jail is off for this program"))
    );
    // The next load has its jail again, and nothing is said.
    let output = daemon.run(&load[..4]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains("warning"), "{said}");
    assert_ne!(attempt(&daemon, "ReadOutside", &secret)["errno"], json!(0));

    // A bound that its runtime does not enforce.
    let echo = mortise_e2e::package("echo").unwrap();
    let echo = [
        "load",
        echo.to_str().unwrap(),
        "--runtime",
        "wasm",
        "--grant",
        "kv",
        "--cpu-percent",
        "50",
    ];
    assert!(daemon.run(&echo).unwrap().status.success(), "{}", daemon.log());
    let text = shown(&daemon, &["inspect", "echo"]);
    assert!(text.contains("cpu_percent is not enforced: "), "{text}");
    assert!(
        daemon
            .log()
            .contains("`limits.cpu_percent` is 50 and is not enforced"),
        "{}",
        daemon.log()
    );
}

/// The parts of the run directory: one for each host that has or had one.
fn parts(daemon: &Daemon) -> Vec<PathBuf> {
    let run = daemon.folder.path().join("data/run");
    let entries = std::fs::read_dir(run).unwrap().map(|it| it.unwrap().path());
    entries.filter(|it| it.is_dir()).collect()
}

#[test]
fn what_a_killed_host_left_is_removed_by_the_next() {
    let mut daemon = Daemon::start(&hostile("")).unwrap();
    let [part] = <[_; 1]>::try_from(parts(&daemon)).unwrap();
    let noted = std::fs::read_to_string(part.join("cgroups")).unwrap();
    let places: Vec<&Path> = noted.lines().map(Path::new).collect();
    let private = std::fs::read_dir(&part)
        .unwrap()
        .filter_map(Result::ok)
        .filter(|it| it.path().is_dir())
        .count();
    assert_eq!(private, 1, "one plugin, one directory");
    daemon.kill().unwrap();
    assert!(part.exists(), "nobody was left to remove it");
    if machine_has_cgroups(&places) {
        assert!(places.iter().any(|it| it.exists()), "{places:?}");
    }
    daemon.start_again().unwrap();
    assert!(!part.exists(), "{}", part.display());
    for place in places {
        assert!(!place.exists(), "{}", place.display());
    }
    assert_eq!(parts(&daemon).len(), 1, "the new host's own");
    assert_eq!(attempt(&daemon, "Nothing", "")["detail"], "nothing");
}

fn machine_has_cgroups(places: &[&Path]) -> bool {
    if places.is_empty() {
        println!("skipped in part: needs a cgroup controller");
    }
    !places.is_empty()
}
