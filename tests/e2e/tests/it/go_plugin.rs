//! Plugins in real Go, made for HashiCorp's go-plugin and knowing nothing of this host: imported, and then plugins like any other.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mortise_e2e::{Daemon, mortise};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::go;

const SOURCE: &str = "plugins/go-kv";
const COOKIE: [&str; 4] = ["--cookie-key", "BASIC_PLUGIN", "--cookie-value", "hello"];
/// The library's own contract, as Debian brings it.
const PROTO: &str = "/usr/share/gocode/src/github.com/hashicorp/go-plugin/test/grpc/test.proto";
/// What later versions of the library's own contract have besides; `go-kv` does not implement it.
const ADDED: [&str; 2] = ["PrintStdio", "Panic"];
/// Longer than anything here takes. Nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Go executables that a host could start; `None` where there is no Go.
struct Go {
    /// Tells what it serves.
    plain: PathBuf,
    /// The same as release 1.1.0.
    next: PathBuf,
    /// Does not tell.
    mute: PathBuf,
}

fn go() -> Option<Go> {
    Some(Go {
        plain: go::program(SOURCE)?,
        next: go::linked(SOURCE, "go-kv-next", "-X main.release=1.1.0")?,
        mute: go::linked(SOURCE, "go-kv-mute", "-X main.reflects=no")?,
    })
}

/// A case that is refused: its name, the executable, the exit code, more arguments, and what is said.
type Refused<'a> = (&'a str, PathBuf, i32, &'a [&'a str], &'a [&'a str]);

/// Where packages are made.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn import(&self, executable: &Path, out: &str, more: &[&str]) -> Output {
        let arguments = ["import", "go-plugin", executable.to_str().unwrap(), "--out", out];
        let mut command = Command::new(mortise().unwrap());
        command.args(arguments).args(more).current_dir(self.0.path());
        if !more.contains(&"--name") {
            command.args(["--name", "kv"]);
        }
        if !more.contains(&"--cookie-key") {
            command.args(COOKIE);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Imports what can be imported: the package and what was said of it.
    fn package(&self, executable: &Path, out: &str, more: &[&str]) -> (PathBuf, Value) {
        let output = self.import(executable, out, &[more, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        (
            self.0.path().join(out),
            serde_json::from_slice(&output.stdout).unwrap(),
        )
    }

    /// Imports what cannot be imported: what was said. Nothing may be left of it.
    fn refused(&self, executable: &Path, code: i32, more: &[&str]) -> String {
        let output = self.import(executable, "refused", more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.matches("error:").count(), 1, "one clear error: {said}");
        assert!(said.contains("hint: "), "{said}");
        let left: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert!(
            !left.iter().any(|it| it.to_string_lossy().starts_with("refused")),
            "{left:?}"
        );
        said
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn load(daemon: &Daemon, package: &Path, more: &[&str]) -> Value {
    let arguments = [&["load", package.to_str().unwrap()], more].concat();
    daemon.ask(&arguments).unwrap()
}

fn inspect(daemon: &Daemon) -> Value {
    daemon.ask(&["inspect", "kv"]).unwrap()
}

fn pid(daemon: &Daemon) -> Option<u64> {
    inspect(daemon)["usage"]["pid"].as_u64()
}

fn kill(pid: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// A zombie that nobody has reaped yet does not run.
fn runs(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        !state.is_some_and(|it| it.starts_with(['Z', 'X']))
    })
}

/// Processes that run something from below `folder`.
fn started_from(folder: &Path) -> Vec<u64> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    let from = |pid: &u64| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = line.split(|it| *it == 0).next().unwrap_or_default();
        runs(*pid) && text(program).starts_with(&*folder.to_string_lossy())
    };
    processes.filter(from).collect()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What `PluginService.Invoke` answers, as text.
fn invoke(daemon: &Daemon, method: &str, payload: &str) -> Result<String, Value> {
    let params = json!({"method": method, "payload": BASE64_STANDARD.encode(payload)});
    let mut answer = daemon.rpc("plugin.kv.Invoke", &params).unwrap();
    let Some(payload) = answer["result"]["payload"].as_str() else {
        return Err(answer.take());
    };
    Ok(text(&BASE64_STANDARD.decode(payload).unwrap()))
}

fn targets(inspected: &Value) -> Vec<String> {
    let methods = inspected["methods"].as_array().unwrap();
    let target = |it: &Value| {
        format!(
            "{}/{}",
            it["service"].as_str().unwrap(),
            it["name"].as_str().unwrap()
        )
    };
    let targets = methods.iter().map(target);
    targets
        .filter(|it| !ADDED.iter().any(|added| it.ends_with(added)))
        .collect()
}

#[test]
fn a_plugin_that_tells_what_it_serves_is_imported_and_called_by_name() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let multiplex: &[&str] = if go::is_recent() { &["--multiplex"] } else { &[] };
    let (package, report) = place.package(
        &go.plain,
        "kv-1.0.0",
        &[&["--release", "1.0.0", "--versions", "1,2"], multiplex].concat(),
    );
    // The highest that both know.
    assert_eq!(report["protocol_version"], 2, "{report}");
    assert_eq!(report["reflection"], true);
    let kinds: Vec<_> = report["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it["method"].as_str().unwrap(),
                it["kind"].as_str().unwrap()
            )
        })
        .filter(|it| !ADDED.iter().any(|added| it.starts_with(added)))
        .collect();
    assert_eq!(
        kinds,
        [
            "Bidirectional unary",
            "Double unary",
            "PrintKV unary",
            "Stream bidi",
            "Invoke unary"
        ]
    );
    let toml = fs::read_to_string(package.join("plugin.toml")).unwrap();
    for line in [
        "name = \"kv\"",
        "version = \"1.0.0\"",
        "provides = [\"grpctest.Test\", \"mortise.goplugin.v1.PluginService\"]",
        "runtime = \"process\"",
        "file = \"kv\"",
        "[variant.go_plugin]",
        "cookie_key = \"BASIC_PLUGIN\"",
        "cookie_value = \"hello\"",
        "versions = [1, 2]",
        "auto_mtls = true",
        &format!("multiplex = {}", go::is_recent()),
        "start_ms = 60000",
    ] {
        assert!(toml.lines().any(|it| it == line), "`{line}` is not in:\n{toml}");
    }
    assert!(toml.contains(&format!("sha256 = {}", report["sha256"])), "{toml}");
    let check = Command::new(mortise().unwrap())
        .arg("check")
        .arg(&package)
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", text(&check.stdout));

    let daemon = Daemon::start("").unwrap();
    let loaded = load(&daemon, &package, &[]);
    assert_eq!(
        (&loaded["name"], &loaded["runtime"]),
        (&json!("kv"), &json!("process"))
    );
    // From the command line, over JSON-RPC by the plugin's name, and by the service's.
    let request = json!({"Input": 21});
    let expected = json!({"Output": 42});
    let called = daemon
        .ask(&["call", "kv", "Double", "--json", &request.to_string()])
        .unwrap();
    assert_eq!(called, expected);
    for target in ["plugin.kv.Double", "grpctest.Test/Double"] {
        let answer = daemon.rpc(target, &request).unwrap();
        assert_eq!(answer["result"], expected, "{target}: {answer}");
    }
    assert_eq!(invoke(&daemon, "upper", "größe").unwrap(), "GRÖßE");
    let refused = daemon
        .rpc("plugin.kv.PrintKV", &json!({"Key": "nonsense", "ValueInt": 1}))
        .unwrap();
    assert_eq!(
        refused["error"]["data"]["status"], "INVALID_ARGUMENT",
        "{refused}"
    );
    assert_eq!(refused["error"]["message"], "`nonsense` is no key of this plugin");

    let inspected = inspect(&daemon);
    assert_eq!(
        targets(&inspected),
        [
            "grpctest.Test/Bidirectional",
            "grpctest.Test/Double",
            "grpctest.Test/PrintKV",
            "grpctest.Test/Stream",
            "mortise.goplugin.v1.PluginService/Invoke"
        ]
    );
    assert_eq!(inspected["usage"]["lane"], "grpc", "{inspected}");
    let layers = inspected["layers"].as_array().unwrap();
    let no_new_privileges = layers.iter().find(|it| it["name"] == "no-new-privileges");
    assert_eq!(no_new_privileges.unwrap()["present"], true, "{inspected}");

    let pid = pid(&daemon).unwrap();
    daemon.ask(&["unload", "kv"]).unwrap();
    assert!(!runs(pid), "an unloaded plugin's process is gone");
    assert_eq!(daemon.ask(&["list"]).unwrap(), json!([]));
}

#[test]
fn a_plugin_that_does_not_tell_is_imported_with_its_contract() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let said = place.refused(&go.mute, 1, &[]);
    assert!(
        said.contains("no gRPC reflection") && said.contains("--proto FILE"),
        "{said}"
    );
    let said = place.refused(&go.mute, 1, &["--proto", PROTO, "--service", "grpctest.Tset"]);
    assert!(
        said.contains("no service `grpctest.Tset`") && said.contains("`grpctest.Test`"),
        "{said}"
    );

    let arguments = ["--proto", PROTO, "--service", "grpctest.Test"];
    let (package, report) = place.package(&go.mute, "mute", &arguments);
    assert_eq!(report["reflection"], false, "{report}");
    let daemon = Daemon::start("").unwrap();
    load(&daemon, &package, &[]);
    assert_eq!(
        daemon.rpc("plugin.kv.Double", &json!({"Input": 4})).unwrap()["result"],
        json!({"Output": 8})
    );
    // What the contract promises and the plugin does not serve is found out by a call.
    let (all, _) = place.package(&go.mute, "all", &["--proto", PROTO, "--auto-mtls=false"]);
    load(&daemon, &all, &[]);
    let missing = daemon.rpc("grpctest.PingPong/Ping", &json!({})).unwrap();
    assert_eq!(missing["error"]["data"]["status"], "UNIMPLEMENTED", "{missing}");
    // A plugin that tells is not taken for what it is not.
    let said = place.refused(&go.plain, 1, &["--proto", PROTO]);
    assert!(said.contains("its contract names `grpctest.PingPong`"), "{said}");
    let (_, report) = place.package(&go.plain, "both", &arguments);
    assert_eq!(report["reflection"], true);
}

#[test]
fn what_cannot_be_imported_is_refused_with_one_clear_error() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let file = |name: &str, content: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = place.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let badly = go::linked(SOURCE, "go-kv-badly", "-X main.begins=badly").unwrap();
    let never = go::linked(SOURCE, "go-kv-never", "-X main.begins=never").unwrap();
    let wrong_cookie = ["--cookie-key", "BASIC_PLUGIN", "--cookie-value", "hullo"];
    let cases: [Refused<'_>; 10] = [
        (
            "wrong cookie",
            go.plain.clone(),
            1,
            &wrong_cookie,
            &["exited with code 1", "This binary is a plugin", "--cookie-value"],
        ),
        (
            "crash at start",
            badly,
            1,
            &[],
            &["exited with code 2", "panic: no fuel to start with", "by hand"],
        ),
        (
            "too slow",
            never,
            1,
            &["--start-ms", "300"],
            &["not ready after 300ms", "--start-ms"],
        ),
        (
            "no version in common",
            go.plain.clone(),
            1,
            &["--versions", "9"],
            &["offers version 1", "say `--versions 1`"],
        ),
        (
            "unknown service",
            go.plain.clone(),
            1,
            &["--service", "grpctest.Nothing"],
            &["no service `grpctest.Nothing`", "`grpctest.Test`"],
        ),
        (
            "not there",
            place.0.path().join("nothing"),
            1,
            &[],
            &["cannot find"],
        ),
        ("a folder", place.0.path().to_owned(), 1, &[], &["is not a file"]),
        (
            "not executable",
            file("plain", b"\x7fELF", 0o644),
            1,
            &[],
            &["is not executable (mode 644)", "chmod +x"],
        ),
        (
            "a script",
            file("script", b"#!/no/such/interpreter\n", 0o755),
            1,
            &[],
            &["script"],
        ),
        (
            "no name",
            go.plain.clone(),
            2,
            &["--name", "Key Value"],
            &["`Key Value`"],
        ),
    ];
    for (case, executable, code, arguments, expected) in cases {
        let said = place.refused(&executable, code, arguments);
        for part in expected {
            assert!(said.contains(part), "{case}: `{part}` is not in: {said}");
        }
    }
    // What is there is left alone.
    fs::create_dir(place.0.path().join("mine")).unwrap();
    let output = place.import(&go.plain, "mine", &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("`mine` exists already") && said.contains("--out"),
        "{said}"
    );
    // Several faults of the command line are told at once.
    let arguments = [
        "--name",
        "K",
        "--cookie-key",
        "a-b",
        "--cookie-value",
        "v",
        "--release",
        "one",
        "--versions",
        "1,1",
    ];
    let output = place.import(
        &go.plain,
        "refused",
        &[&arguments[..], &["--output", "json"]].concat(),
    );
    assert_eq!(output.status.code(), Some(2));
    let said: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(said["error"]["faults"].as_array().unwrap().len(), 4, "{said}");
}

#[test]
fn a_bad_package_is_one_clear_error_and_the_host_serves_on() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let (package, _) = place.package(&go.plain, "kv", &[]);
    let daemon = Daemon::start("").unwrap();
    load(&daemon, &package, &[]);
    let spoil = |name: &str, change: &dyn Fn(&Path)| {
        let to = place.0.path().join(name);
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(&package).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        change(&to);
        to
    };
    let edit = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("plugin.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    };
    let cookie = spoil("cookie", &|it| edit(it, "\"hello\"", "\"hullo\""));
    let replaced = spoil("replaced", &|it| {
        fs::copy(&go.next, it.join("kv")).map(drop).unwrap()
    });
    let badly = go::linked(SOURCE, "go-kv-badly", "-X main.begins=badly").unwrap();
    let crash = spoil("crash", &|it| {
        fs::copy(&badly, it.join("kv")).unwrap();
        let path = it.join("plugin.toml");
        let text = fs::read_to_string(&path).unwrap();
        let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("sha256")).collect();
        fs::write(path, kept.join("\n")).unwrap();
    });
    for (folder, expected) in [
        (cookie, &["exited with code 1", "cookie_value"][..]),
        (replaced, &["SHA-256", "plugin.toml pins"]),
        (crash, &["exited with code 2", "no fuel to start with"]),
    ] {
        let refused = daemon.run(&["load", folder.to_str().unwrap()]).unwrap();
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
        for part in expected {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        assert_eq!(
            invoke(&daemon, "release", "").unwrap(),
            "1.0.0",
            "the old one serves on"
        );
    }
    assert_eq!(daemon.get("/healthz").unwrap().0, 200);
}

#[test]
fn its_streams_work_over_http() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let (package, _) = place.package(&go.plain, "kv", &[]);
    let daemon = Daemon::start("").unwrap();
    load(&daemon, &package, &[]);
    let messages: Vec<_> = (1..=500).map(|it| json!({"Input": it})).collect();
    let expected: Vec<_> = (1..=500).map(|it| json!({"Output": it})).collect();
    for target in ["plugin.kv.Stream", "grpctest.Test/Stream"] {
        let (status, lines) = daemon.stream(target, &messages).unwrap();
        assert_eq!(status, 200, "{target}");
        assert_eq!(lines, expected, "{target}");
    }
    let (status, lines) = daemon.stream("plugin.kv.Double", &messages[..1]).unwrap();
    assert_ne!(status, 200, "a unary method has no stream: {lines:?}");
}

#[test]
fn one_is_swapped_for_another_while_calls_go_on() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let (old, _) = place.package(&go.plain, "kv-1.0.0", &["--release", "1.0.0"]);
    let (new, _) = place.package(&go.next, "kv-1.1.0", &["--release", "1.1.0"]);
    let daemon = Daemon::start("").unwrap();
    load(&daemon, &old, &[]);
    let before = pid(&daemon).unwrap();
    let over = AtomicBool::new(false);
    let seen: Vec<Vec<String>> = std::thread::scope(|scope| {
        let call = || {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seen.push(invoke(&daemon, "release", "").unwrap_or_else(|error| error.to_string()));
            }
            seen
        };
        let callers = [(); 4].map(|()| scope.spawn(call));
        load(&daemon, &new, &[]);
        eventually("the old process is gone", || (!runs(before)).then_some(()));
        over.store(true, Ordering::Relaxed);
        callers.map(|it| it.join().unwrap()).into()
    });
    for answers in &seen {
        let news = answers
            .iter()
            .position(|it| it == "1.1.0")
            .unwrap_or(answers.len());
        assert!(
            answers[..news].iter().all(|it| it == "1.0.0"),
            "no call is lost: {answers:?}"
        );
        assert!(
            answers[news..].iter().all(|it| it == "1.1.0"),
            "none goes back: {answers:?}"
        );
    }
    let calls: usize = seen.iter().map(Vec::len).sum();
    let inspected = inspect(&daemon);
    assert_eq!(inspected["plugin"], "kv 1.1.0");
    assert_eq!(inspected["errors"], 0, "of {calls} calls: {inspected}");
    println!("{calls} calls, 0 lost");
}

#[test]
fn killed_in_a_call_it_is_one_clear_error_and_comes_back() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let (package, _) = place.package(&go.plain, "kv", &[]);
    let daemon = Daemon::start("").unwrap();
    load(&daemon, &package, &["--deadline-ms", "3600000"]);
    let killed = pid(&daemon).unwrap();
    let request = json!({"Key": "sleep", "ValueInt": 3_600_000});
    let json = request.to_string();
    let (answer, command) = std::thread::scope(|scope| {
        let over_http = scope.spawn(|| daemon.rpc("plugin.kv.PrintKV", &request));
        let by_command = scope.spawn(|| daemon.run(&["call", "kv", "PrintKV", "--json", &json]));
        eventually("the calls are in the plugin", || {
            (inspect(&daemon)["in_flight"] == 2).then_some(())
        });
        kill(killed);
        (
            over_http.join().unwrap().unwrap(),
            by_command.join().unwrap().unwrap(),
        )
    });
    let error = &answer["error"];
    assert_eq!(error["data"]["kind"], "guest_fault", "{answer}");
    assert_eq!(error["data"]["plugin"], "kv", "{answer}");
    // An operator is told more.
    let said = text(&command.stderr);
    assert_eq!(command.status.code(), Some(1), "{said}");
    assert!(
        said.contains("plugin `kv` failed: its process was ended by signal 9"),
        "{said}"
    );
    let started = eventually("it was started again", || pid(&daemon).filter(|it| *it != killed));
    let doubled = eventually("it answers", || {
        let answer = daemon.rpc("plugin.kv.Double", &json!({"Input": 3})).unwrap();
        answer.get("result").cloned()
    });
    assert_eq!(doubled, json!({"Output": 6}));
    assert!(runs(started) && !runs(killed));
    assert_eq!(daemon.get("/healthz").unwrap().0, 200);
}

#[test]
fn a_killed_host_leaves_no_go_process_and_the_next_one_tidies_up() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let (package, _) = place.package(&go.plain, "kv", &[]);
    let mut daemon = Daemon::start("").unwrap();
    load(&daemon, &package, &[]);
    let orphan = pid(&daemon).unwrap();
    let data = daemon.folder.path().join("data");
    assert!(
        started_from(&data).contains(&orphan),
        "the test knows the plugin's processes"
    );
    let parts = || -> Vec<PathBuf> {
        let entries = fs::read_dir(data.join("run"))
            .unwrap()
            .map(|it| it.unwrap().path());
        entries.filter(|it| it.is_dir()).collect()
    };
    let left = parts();
    assert_eq!(left.len(), 1);
    let cgroups = fs::read_to_string(left[0].join("cgroups")).unwrap();
    daemon.kill().unwrap();
    eventually("every process of the plugin is gone", || {
        (!runs(orphan) && started_from(&data).is_empty()).then_some(())
    });
    assert_eq!(parts(), left, "nobody was there to remove it");

    daemon.start_again().unwrap();
    assert!(!left[0].exists(), "the next host removes what the dead one left");
    for cgroup in cgroups.lines() {
        assert!(!Path::new(cgroup).exists(), "{cgroup}");
    }
    // And runs again what was loaded by hand.
    assert!(pid(&daemon).is_some_and(|it| it != orphan && runs(it)));
    assert_eq!(
        daemon.rpc("plugin.kv.Double", &json!({"Input": 1})).unwrap()["result"],
        json!({"Output": 2})
    );
}

/// `mortise call`, with its standard input and output in a test's hands.
fn calling(daemon: &Daemon, arguments: &[&str]) -> std::process::Child {
    let mut command = Command::new(mortise().unwrap());
    command.arg("call").args(arguments).arg("--socket");
    command
        .arg(daemon.folder.path().join("data/control.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn its_streams_work_from_the_command_line() {
    let Some(go) = go() else { return };
    let place = Place::new();
    let (package, _) = place.package(&go.plain, "kv", &[]);
    let daemon = Daemon::start("").unwrap();
    load(&daemon, &package, &[]);
    let lines: String = (1..=2000).map(|it| format!("{{\"Input\": {it}}}\n")).collect();
    let expected: String = (1..=2000).map(|it| format!("{{\"Output\":{it}}}\n")).collect();
    for target in [&["kv", "Stream"][..], &["grpctest.Test/Stream"]] {
        let mut call = calling(&daemon, target);
        let mut input = call.stdin.take().unwrap();
        let lines = lines.clone();
        let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
        let output = call.wait_with_output().unwrap();
        writing.join().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), expected, "{target:?}");
    }
    // A conversation: each answer comes while the next request is not written yet.
    let mut call = calling(&daemon, &["kv", "Stream"]);
    let (mut input, output) = (call.stdin.take().unwrap(), call.stdout.take().unwrap());
    let mut answers = BufReader::new(output).lines();
    for number in [7, 8] {
        writeln!(input, "{{\"Input\": {number}}}").unwrap();
        assert_eq!(
            answers.next().unwrap().unwrap(),
            format!("{{\"Output\":{number}}}")
        );
    }
    drop(input);
    assert!(answers.next().is_none());
    assert!(call.wait().unwrap().success());
    // A reader that has enough, while the writer goes on.
    let mut call = calling(&daemon, &["kv", "Stream"]);
    let mut input = call.stdin.take().unwrap();
    drop(call.stdout.take());
    writeln!(input, "{{\"Input\": 1}}").unwrap();
    assert!(call.wait().unwrap().success());
    // A deadline ends a stream whose requests do not.
    let mut call = calling(&daemon, &["kv", "Stream", "--timeout-ms", "300"]);
    let open = call.stdin.take().unwrap();
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("did not answer by its deadline"), "{said}");
    drop(open);
    // Requests on the command line, over several lines as a person writes them; and one that is none.
    let given = daemon
        .run(&[
            "call",
            "kv",
            "Stream",
            "--json",
            "{\"Input\":\n 1} {\"Input\": 2}",
        ])
        .unwrap();
    assert_eq!(
        text(&given.stdout),
        "{\"Output\":1}\n{\"Output\":2}\n",
        "{}",
        text(&given.stderr)
    );
    let wrong = daemon
        .run(&["call", "kv", "Stream", "--json", "{\"Inptu\": 1}"])
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("Inptu"), "{}", text(&wrong.stderr));
}
