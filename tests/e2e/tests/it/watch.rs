//! `mortise serve` with a directory that it watches, and the real packages.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

/// A directory of plugins, and a place on the same disk to prepare them in.
struct Plugins {
    place: tempfile::TempDir,
}

impl Plugins {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("plugins")).unwrap();
        Self { place }
    }

    fn directory(&self) -> PathBuf {
        self.place.path().join("plugins")
    }

    fn config(&self, more: &str) -> String {
        format!("[watch]\ndir = {:?}\nquiet_ms = 150\n{more}\n", self.directory())
    }

    /// A copy of a package that is not in the directory.
    fn copy(&self, of: &str) -> PathBuf {
        let copy = self.place.path().join(format!("copy-of-{of}"));
        let _ = fs::remove_dir_all(&copy);
        copy_folder(&package(of).unwrap(), &copy);
        copy
    }

    fn publish(&self, of: &str, name: &str) {
        let (copy, place) = (self.copy(of), self.directory().join(name));
        let _ = fs::rename(&place, self.place.path().join(format!("old-{of}")));
        fs::rename(copy, place).unwrap();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn version(daemon: &Daemon) -> Value {
    daemon.rpc("plugin.echo.Version", &json!({})).unwrap()["result"]["version"].clone()
}

fn listed(daemon: &Daemon, name: &str) -> Option<Value> {
    let list = daemon.ask(&["list"]).unwrap();
    list.as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == name)
        .cloned()
}

fn until(daemon: &Daemon, what: &str, so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(
            Instant::now() < patience,
            "not after 60 s: {what}\n{}",
            daemon.log()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

const ENTRY: &str = "[watch.defaults]\nruntime = \"wasm\"\n[[plugin]]\nname = \"echo\"\nruntime = \"wasm\"\ngrant = { kv = true }\n";

#[test]
fn new_changed_removed_while_callers_call() {
    let plugins = Plugins::new();
    plugins.publish("echo", "echo");
    let daemon = Daemon::start(&plugins.config(ENTRY)).unwrap();
    until(&daemon, "1.0.0 serves", || version(&daemon) == "1.0.0");
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seen.push(version(&daemon));
            }
            seen
        });
        plugins.publish("echo-1.1", "echo");
        until(&daemon, "1.1.0 serves", || version(&daemon) == "1.1.0");
        // A package that is not all there leaves it so.
        fs::remove_file(plugins.directory().join("echo/contract.binpb")).unwrap();
        until(&daemon, "its fault is listed", || {
            listed(&daemon, "echo").unwrap()["reasons"]
                .to_string()
                .contains("contract.binpb")
        });
        over.store(true, Ordering::Relaxed);
        caller.join().unwrap()
    });
    assert!(
        seen.iter().all(|it| *it == "1.0.0" || *it == "1.1.0"),
        "no call is lost: {seen:?}"
    );
    plugins.publish("echo", "echo");
    until(&daemon, "1.0.0 serves again", || version(&daemon) == "1.0.0");
    assert_eq!(listed(&daemon, "echo").unwrap()["reasons"], json!([]));
    fs::remove_dir_all(plugins.directory().join("echo")).unwrap();
    until(&daemon, "it is gone", || listed(&daemon, "echo").is_none());
}

/// As over a slow line: every file in pieces with pauses, one file after another, the manifest first; over the package that serves.
#[test]
fn a_slow_copy_is_loaded_once_and_whole() {
    let plugins = Plugins::new();
    plugins.publish("echo", "echo");
    let daemon = Daemon::start(&plugins.config(ENTRY)).unwrap();
    until(&daemon, "1.0.0 serves", || version(&daemon) == "1.0.0");
    let (from, to) = (package("echo-1.1").unwrap(), plugins.directory().join("echo"));
    for name in ["plugin.toml", "echo.wasm", "echo", "echo.so", "contract.binpb"] {
        let bytes = fs::read(from.join(name)).unwrap();
        // What is replaced file by file is a new file, since the old one may be mapped.
        let _ = fs::remove_file(to.join(name));
        let mut file = File::create(to.join(name)).unwrap();
        for piece in bytes.chunks(bytes.len().div_ceil(4)) {
            file.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(30));
        }
    }
    until(&daemon, "1.1.0 serves", || version(&daemon) == "1.1.0");
    let changes = daemon.ask(&["history", "echo"]).unwrap();
    let told: Vec<_> = changes
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["actor"].as_str().unwrap(),
                it["version"].as_str().unwrap(),
                it["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(told.iter().all(|it| it.0 == "directory"), "{told:?}");
    // On a machine that paused for longer than the quiet time, the new one was loaded before its last file, which no runtime here needs, and once more after it.
    let mut done: Vec<_> = told.iter().filter(|it| it.2 == "done").map(|it| it.1).collect();
    done.dedup();
    assert_eq!(done, ["1.1.0", "1.0.0"], "{told:?}");
}

/// Pauses that are longer than the quiet time: what is half there is looked at, refused, and tried again.
#[test]
fn a_copy_that_stops_in_the_middle_is_refused_until_it_goes_on() {
    let plugins = Plugins::new();
    plugins.publish("echo", "echo");
    let daemon = Daemon::start(&plugins.config(ENTRY)).unwrap();
    until(&daemon, "1.0.0 serves", || version(&daemon) == "1.0.0");
    let (from, to) = (package("echo-1.1").unwrap(), plugins.directory().join("echo"));
    let half = |name: &str, divisor: usize| {
        let bytes = fs::read(from.join(name)).unwrap();
        fs::write(to.join(".new"), &bytes[..bytes.len() / divisor]).unwrap();
        fs::rename(to.join(".new"), to.join(name)).unwrap();
    };
    half("plugin.toml", 1);
    half("echo.wasm", 2);
    until(&daemon, "its fault is listed", || {
        !listed(&daemon, "echo").unwrap()["reasons"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    assert_eq!(version(&daemon), "1.0.0");
    for name in ["echo.wasm", "echo", "echo.so", "contract.binpb"] {
        half(name, 1);
    }
    until(&daemon, "1.1.0 serves", || version(&daemon) == "1.1.0");
    assert_eq!(listed(&daemon, "echo").unwrap()["reasons"], json!([]));
}

#[test]
fn a_link_that_is_flipped_is_a_deployment_and_flipped_back_another() {
    let plugins = Plugins::new();
    let (v1, v2) = (plugins.copy("echo"), plugins.copy("echo-1.1"));
    let flip = |target: &Path| {
        let new = plugins.place.path().join("new");
        symlink(target, &new).unwrap();
        fs::rename(new, plugins.directory().join("current")).unwrap();
    };
    flip(&v1);
    let daemon = Daemon::start(&plugins.config(ENTRY)).unwrap();
    until(&daemon, "1.0.0 serves", || version(&daemon) == "1.0.0");
    flip(&v2);
    until(&daemon, "1.1.0 serves", || version(&daemon) == "1.1.0");
    flip(&v1);
    until(&daemon, "1.0.0 serves", || version(&daemon) == "1.0.0");
}

#[test]
fn several_plugins_come_back_after_a_kill_before_the_host_is_ready() {
    let plugins = Plugins::new();
    let mut daemon = Daemon::start(&plugins.config(ENTRY)).unwrap();
    plugins.publish("echo", "echo");
    plugins.publish("thumbnailer", "thumbnailer");
    plugins.publish("ping", "ping");
    let names = ["echo", "ping", "thumbnailer"];
    let serve = |daemon: &Daemon| {
        names
            .iter()
            .all(|name| daemon.get(&format!("/health/plugin/{name}")).unwrap().0 == 200)
    };
    until(&daemon, "all serve", || serve(&daemon));
    daemon.kill().unwrap();
    thread::sleep(Duration::from_millis(200));
    daemon.start_again().unwrap();
    assert!(serve(&daemon), "{}", daemon.log());
}

#[test]
fn reload_takes_up_and_puts_down_the_directory() {
    let plugins = Plugins::new();
    plugins.publish("echo", "echo");
    thread::sleep(Duration::from_millis(200));
    let daemon = Daemon::start("").unwrap();
    daemon.configure(&plugins.config(ENTRY)).unwrap();
    let answer = daemon.ask(&["reload"]).unwrap();
    assert_eq!(answer["loaded"], json!(["echo"]), "{answer}");
    assert_eq!(version(&daemon), "1.0.0");
    daemon.configure("").unwrap();
    let answer = daemon.ask(&["reload"]).unwrap();
    assert_eq!(answer["unloaded"], json!(["echo"]), "{answer}");
}
