//! A running host and the commands that ask it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, Stdio},
};

use crate::command::Place;

/// `mortise serve`, which says where it listens.
struct Host {
    place: Place,
    child: Child,
    /// `127.0.0.1:PORT`
    http: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Host {
    /// Starts a host with the plugin `upper` in its configuration.
    fn start() -> Self {
        let place = Place::new();
        place.upper();
        place.ok(&["build", "upper"]);
        place.write(
            "mortise.toml",
            "[host]\ndata_dir = \"data\"\n[gateway]\nlisten = \"127.0.0.1:0\"\n[[plugin]]\nsource = \"upper/target/mortise/upper-1.0.0\"\n\
             runtime = \"native\"\n",
        );
        let mut serve = place.mortise(["serve", "--config", "mortise.toml"]);
        let mut child = serve
            .env_remove("MORTISE_SOCKET")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let http = loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "the host ended: {:?}",
                child.wait()
            );
            if let Some((_, at)) = line.split_once("http=http://") {
                break at.split_whitespace().next().unwrap().to_owned();
            }
        };
        Self {
            place,
            child,
            http,
            log,
        }
    }

    fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; what was logged and the exit code.
    fn ended(mut self) -> (String, Option<i32>) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (log, self.child.wait().unwrap().code())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A host that ended already is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_host_from_its_configuration_to_its_end() {
    let host = Host::start();
    let place = &host.place;
    let list: serde_json::Value = serde_json::from_str(&place.ok(&["list", "--output", "json"])).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["runtime"]),
        (&"upper".into(), &"native".into())
    );
    assert!(place.ok(&["list"]).starts_with("NAME   VERSION  RUNTIME  STATE"));
    assert_eq!(
        place.ok(&["call", "upper", "Upper", "--json", r#"{"text":"a"}"#]),
        "{\"text\":\"A\"}\n"
    );
    assert_eq!(
        place.ok(&["call", "test.upper.v1.Upper/Upper", "--json", r#"{"text":"b"}"#]),
        "{\"text\":\"B\"}\n"
    );

    let loaded = place.ok(&[
        "load",
        "upper/target/mortise/upper-1.0.0",
        "--name",
        "second",
        "--runtime",
        "native",
    ]);
    assert!(
        loaded.starts_with("loaded `second`: upper 1.0.0 in native, generation 1, "),
        "{loaded}"
    );
    assert_eq!(
        place.ok(&["unload", "second"]).lines().next().unwrap(),
        "unloaded `second`"
    );

    assert!(
        place
            .ok(&["inspect", "upper"])
            .contains("\n  test.upper.v1.Upper/Upper\n")
    );
    assert!(
        place
            .ok(&["history", "upper", "--moves"])
            .contains("ABSENT -> LOADED")
    );
    let doctor = place.ok(&["doctor"]);
    assert!(
        doctor.contains(&format!("HTTP on {}", host.http)) && doctor.contains("native: "),
        "{doctor}"
    );

    let body = r#"{"jsonrpc":"2.0","id":1,"method":"plugin.upper.Upper","params":{"text":"x"}}"#;
    let answer = host.http(&format!(
        "POST /rpc HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(
        answer.ends_with(r#"{"jsonrpc":"2.0","id":1,"result":{"text":"X"}}"#),
        "{answer}"
    );
    assert!(
        host.http("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 200 ")
    );

    assert_eq!(place.ok(&["shutdown"]), "the host finishes its calls and stops\n");
    let socket = place.socket();
    let (log, code) = host.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists());
}

#[test]
fn refusals_keep_their_words_over_the_socket() {
    let host = Host::start();
    let mut text = String::new();
    for line in [
        "call upper Lower",
        "call upper Upper --json {\"txt\":1}",
        "call upper Upper --json {\"text\":\"fail\"}",
        "unload nobody",
        "inspect nobody",
        "load nowhere",
        "load builtin:nobody",
    ] {
        text += &format!("$ mortise {line}\n{}\n", host.place.run(line));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn signals() {
    let host = Host::start();
    host.signal(rustix::process::Signal::HUP);
    // Still there.
    host.place.ok(&["list"]);
    host.signal(rustix::process::Signal::TERM);
    let (log, code) = host.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("configuration read again") && log.contains("stopping after the calls in flight"),
        "{log}"
    );
}

#[test]
fn two_hosts_do_not_share_a_socket() {
    let host = Host::start();
    let second = host.place.run("serve --config mortise.toml");
    assert!(
        second.starts_with("exit 1\n") && second.contains("another host answers there"),
        "{second}"
    );
    host.place.ok(&["list"]);
}

#[test]
fn nobody_there() {
    let place = Place::new();
    insta::assert_snapshot!(place.run("list"));
    assert!(place.ok(&["doctor"]).contains("no host runs at"));
}

#[test]
fn a_faulty_configuration() {
    let place = Place::new();
    place.write(
        "mortise.toml",
        "[gateway]\nlisten = \"7070\"\n[[plugin]]\nname = \"x\"\nsuorce = \"y\"\n",
    );
    insta::assert_snapshot!(place.run("serve"));
    insta::assert_snapshot!(place.run("serve --config nowhere.toml"));
}

/// Past the socket's mode, the kernel's word about the peer decides.
#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to be somebody else");
        return;
    }
    let host = Host::start();
    let place = &host.place;
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
    };
    // The command, where somebody else may run it.
    let command = place.path().join("mortise");
    std::fs::copy(env!("CARGO_BIN_EXE_mortise"), &command).unwrap();
    open(place.path(), 0o755);
    open(&place.path().join("data"), 0o755);
    let ask = || {
        let mut list = std::process::Command::new(&command);
        list.arg("list")
            .env("MORTISE_SOCKET", place.socket())
            .uid(65534)
            .gid(65534);
        place.told(&list.output().unwrap())
    };
    let by_mode = ask();
    open(&place.socket(), 0o777);
    insta::assert_snapshot!(format!("{by_mode}\n{}", ask()));
}
