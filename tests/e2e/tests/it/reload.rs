//! A host that reads its configuration again: by SIGHUP, and by `mortise reload`.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use mortise_e2e::{Daemon, package};
use rustix::process::Signal;
use serde_json::{Value, json};

const DONE: &str = "configuration read again";

fn ping(name: &str, text: &str) -> String {
    format!("[[plugin]]\nname = \"{name}\"\nsource = \"builtin:ping\"\nconfig = {{ text = \"{text}\" }}\n")
}

fn text(daemon: &Daemon, name: &str) -> Value {
    let pong = daemon.rpc(&format!("plugin.{name}.Ping"), &json!({})).unwrap();
    pong["result"]["text"].clone()
}

fn names(daemon: &Daemon) -> Vec<String> {
    let list = daemon.ask(&["list"]).unwrap();
    let name = |it: &Value| format!("{} {}", it["name"].as_str().unwrap(), it["generation"]);
    list.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn sighup_loads_swaps_and_unloads_while_callers_call() {
    let daemon =
        Daemon::start(&[ping("kept", "k"), ping("changed", "old"), ping("gone", "g")].concat()).unwrap();
    // Loaded by an operator: no business of the configuration.
    daemon
        .ask(&["load", "builtin:ping", "--name", "by-hand"])
        .unwrap();
    let over = AtomicBool::new(false);
    let calls = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seen.extend([text(&daemon, "changed"), text(&daemon, "kept")]);
            }
            seen
        });
        daemon
            .configure(&[ping("kept", "k"), ping("changed", "new"), ping("fresh", "f")].concat())
            .unwrap();
        daemon.signal(Signal::HUP, DONE).unwrap();
        over.store(true, Ordering::Relaxed);
        caller.join().unwrap()
    });
    assert!(
        calls.iter().all(|it| *it == "old" || *it == "new" || *it == "k"),
        "no call is lost: {calls:?}"
    );
    assert_eq!(names(&daemon), ["by-hand 1", "changed 2", "fresh 1", "kept 1"]);
    assert_eq!(text(&daemon, "changed"), "new");
    assert_eq!(text(&daemon, "fresh"), "f");
    // Once more changes nothing, and what an operator took away comes back.
    daemon.ask(&["unload", "fresh"]).unwrap();
    daemon.signal(Signal::HUP, DONE).unwrap();
    assert_eq!(names(&daemon), ["by-hand 1", "changed 2", "fresh 1", "kept 1"]);
}

#[test]
fn a_faulty_file_is_refused_whole() {
    let daemon = Daemon::start(&ping("kept", "k")).unwrap();
    let faulty = format!(
        "{}[[plugin]]\nsuorce = \"builtin:ping\"\nruntime = \"wsam\"\n",
        ping("other", "o")
    );
    daemon.configure(&faulty).unwrap();
    daemon.signal(Signal::HUP, "nothing was changed").unwrap();
    let log = daemon.log();
    for fault in ["suorce", "wsam", "mortise.toml:12:1"] {
        assert!(log.contains(fault), "`{fault}` is not told:\n{log}");
    }
    let refused = daemon.run(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said.contains("mortise.toml:12:1") && said.contains("hint:"),
        "{said}"
    );
    fs::remove_file(daemon.folder.path().join("mortise.toml")).unwrap();
    daemon.signal(Signal::HUP, "nothing was changed").unwrap();
    assert_eq!(names(&daemon), ["kept 1"]);
    assert_eq!(text(&daemon, "kept"), "k");
}

#[test]
fn the_command_says_what_became_of_each_plugin() {
    let daemon =
        Daemon::start(&[ping("kept", "k"), ping("changed", "old"), ping("gone", "g")].concat()).unwrap();
    // The configuration of `changed` does not fit its plugin, so the old one serves on; nobody provides what the last one names.
    let bad = ping("changed", "x").replace("text =", "txt =");
    let nowhere = "[[plugin]]\nname = \"nowhere\"\nsource = \"no/such/folder\"\n";
    let more = "[routing]\npropagate = [\"x-tenant\"]\n";
    daemon
        .configure(
            &[
                more.to_owned(),
                ping("kept", "k"),
                bad,
                nowhere.to_owned(),
                ping("fresh", "f"),
            ]
            .concat(),
        )
        .unwrap();
    let refused = daemon.run(&["reload", "--output", "json"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&refused.stdout).unwrap();
    for (list, expected) in [
        ("loaded", json!(["fresh"])),
        ("swapped", json!([])),
        ("unchanged", json!(["kept"])),
        ("unloaded", json!(["gone"])),
        ("needs_restart", json!(["routing.propagate"])),
    ] {
        assert_eq!(answer[list], expected, "{list}: {answer}");
    }
    let failed: Vec<_> = answer["failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(failed, ["nowhere", "changed"]);
    assert!(answer["failed"][1].to_string().contains("txt"), "{answer}");
    assert_eq!(text(&daemon, "changed"), "old");
    // Both are tried again, although the file is the same; what is not named any more goes, whether it ever served or not.
    assert_eq!(daemon.run(&["reload"]).unwrap().status.code(), Some(1));
    daemon
        .configure(&[ping("kept", "k"), ping("changed", "old")].concat())
        .unwrap();
    let answer = daemon.ask(&["reload"]).unwrap();
    assert_eq!(answer["unchanged"], json!(["kept", "changed"]), "{answer}");
    assert_eq!(names(&daemon), ["changed 1", "kept 1"]);
}

/// The entry is the same and the folder has another version: a deployment by rsync.
#[test]
fn another_package_in_the_same_folder_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("thumbnailer");
    let put = |name: &str| {
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).unwrap();
        for file in fs::read_dir(package(name).unwrap()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), place.join(file.file_name())).unwrap();
        }
    };
    put("thumbnailer");
    let daemon = Daemon::start(&format!("[[plugin]]\nsource = {place:?}\nruntime = \"native\"\n")).unwrap();
    put("thumbnailer-1.3");
    assert_eq!(
        daemon.ask(&["reload"]).unwrap()["swapped"],
        json!(["thumbnailer"])
    );
    let list = daemon.ask(&["list"]).unwrap();
    assert_eq!(list[0]["plugin"], "thumbnailer 1.3.0");
    // A folder that is being written is no plugin that was taken out.
    fs::remove_dir_all(&place).unwrap();
    assert_eq!(daemon.run(&["reload"]).unwrap().status.code(), Some(1));
    assert_eq!(daemon.ask(&["list"]).unwrap()[0]["state"], list[0]["state"]);
}
