//! Configuration from a real etcd, as an operator meets it: one plugin in every runtime, changed while it is called.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

use crate::etcd::Etcd;

const RUNTIMES: [&str; 3] = ["native", "wasm", "process"];
const SECRET: &str = "correct-horse-battery";

fn text(daemon: &Daemon, name: &str) -> String {
    let pong = daemon.rpc(&format!("plugin.{name}.Ping"), &json!({})).unwrap();
    match &pong["result"]["text"] {
        Value::String(text) => text.clone(),
        // The default is left out.
        Value::Null if pong["error"].is_null() => String::new(),
        _ => panic!("{pong}"),
    }
}

fn shows(daemon: &Daemon, name: &str) -> Value {
    daemon.ask(&["config", "show", name]).unwrap()
}

fn until(daemon: &Daemon, what: &str, mut so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(
            Instant::now() < patience,
            "never came true: {what}\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn etcd_reaches_every_runtime_and_a_host_without_etcd_remembers() {
    let Some(mut etcd) = Etcd::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = package("ping").unwrap();
    let mut config = format!(
        "[config]\nsecrets = [\"file:{}/{{plugin}}/\"]\n[config.etcd]\nendpoints = [\"{}\"]\nstart_ms = 1000\n",
        folder.path().display(),
        etcd.endpoint
    );
    for runtime in RUNTIMES {
        config += &format!(
            "[[plugin]]\nname = \"{runtime}\"\nsource = {source:?}\nruntime = \"{runtime}\"\nconfig = {{ text = \"own\" }}\n"
        );
    }
    etcd.put("/mortise/native/text", "\"first\"");
    let mut daemon = Daemon::start(&config).unwrap();
    assert_eq!(
        RUNTIMES.map(|it| text(&daemon, it)),
        ["first", "own", "own"],
        "each has its own keys"
    );

    // Changed while it is called; nothing is lost, and no instance is another one.
    let pid = daemon.ask(&["inspect", "process"]).unwrap()["usage"]["pid"].clone();
    for runtime in RUNTIMES {
        let over = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let mut seen = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    seen.push(text(&daemon, runtime));
                }
                seen
            });
            etcd.put(&format!("/mortise/{runtime}/text"), "\"second\"");
            until(&daemon, "the second is in force", || {
                let shown = shows(&daemon, runtime);
                shown["how"] == "hot" && shown["values"][0]["value"] == "\"second\""
            });
            over.store(true, Ordering::Relaxed);
            caller.join().unwrap()
        });
        let known = |it: &String| ["own", "first", "second"].contains(&it.as_str());
        assert!(seen.iter().all(known), "{runtime}: {seen:?}");
        assert_eq!(text(&daemon, runtime), "second", "{runtime}");
        let inspected = daemon.ask(&["inspect", runtime]).unwrap();
        assert_eq!(inspected["generation"], 1, "{runtime}");
    }
    assert_eq!(daemon.ask(&["inspect", "process"]).unwrap()["usage"]["pid"], pid);

    // What does not fit changes nothing, and is listed and written down.
    etcd.put("/mortise/wasm/txt", "1");
    until(&daemon, "it is listed", || {
        daemon
            .ask(&["list"])
            .unwrap()
            .to_string()
            .contains("did you mean `text`?")
    });
    assert_eq!(text(&daemon, "wasm"), "second");
    let history = daemon.ask(&["history", "wasm"]).unwrap();
    assert_eq!(
        (&history[0]["action"], &history[0]["outcome"]),
        (&json!("config"), &json!("failed"))
    );
    assert_eq!(history[0]["actor"], format!("etcd:{}", etcd.revision()));
    etcd.delete("/mortise/wasm/txt");

    // A secret, and one that nobody allowed.
    std::fs::create_dir(folder.path().join("native")).unwrap();
    std::fs::write(folder.path().join("native/text"), format!("{SECRET}\n")).unwrap();
    let place = format!("{{\"secret\": \"file:{}/native/text\"}}", folder.path().display());
    etcd.put("/mortise/native/text", &place);
    etcd.put("/mortise/process/text", &place);
    until(&daemon, "the secret is in place", || {
        text(&daemon, "native") == SECRET
    });
    until(&daemon, "the other is refused", || {
        daemon
            .ask(&["list"])
            .unwrap()
            .to_string()
            .contains("`secrets` in `[config]`")
    });
    assert_eq!(text(&daemon, "process"), "second");
    let shown = shows(&daemon, "native");
    assert_eq!(shown["values"][0]["secret"], true, "{shown}");
    let for_people = daemon.run(&["config", "show", "native"]).unwrap();
    let for_people = String::from_utf8(for_people.stdout).unwrap();
    assert!(
        for_people.contains("native/text") && for_people.contains("etcd /mortise/native/text"),
        "{for_people}"
    );
    etcd.put("/mortise/process/text", "\"third\"");
    until(&daemon, "the third is in force", || {
        text(&daemon, "process") == "third"
    });

    // Without etcd: what it said last, over a kill and a restart.
    etcd.kill();
    until(&daemon, "the outage is told", || {
        !shows(&daemon, "wasm")["sources"][0]["out"].is_null()
    });
    daemon.kill().unwrap();
    daemon.start_again().unwrap();
    assert_eq!(RUNTIMES.map(|it| text(&daemon, it)), [SECRET, "second", "third"]);
    assert!(daemon.log().contains("was not heard within"), "{}", daemon.log());

    // And it is back.
    etcd.resume();
    etcd.put("/mortise/wasm/text", "\"fourth\"");
    until(&daemon, "the fourth is in force", || {
        text(&daemon, "wasm") == "fourth"
    });
    assert!(!daemon.log().contains(SECRET), "{}", daemon.log());
    for entry in std::fs::read_dir(daemon.folder.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(SECRET.len()).any(|it| it == SECRET.as_bytes()),
                "{}",
                path.display()
            );
        }
    }
}
