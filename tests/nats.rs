//! A real nats-server on loopback for the tests of several crates: each of them includes this file. It is driven over the bare protocol, so that nothing
//! of ours is both what is tested and what tests it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where it may be: Debian puts it where only root looks.
const PROGRAMS: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

/// A server with JetStream and a store of its own, gone with it.
pub(crate) struct Nats {
    child: Option<Child>,
    folder: tempfile::TempDir,
    port: u16,
    has_jetstream: bool,
    /// What else is in its configuration.
    more: String,
    /// Who the tests are to it, as members of a JSON object.
    credentials: String,
    /// Where clients reach it.
    pub(crate) endpoint: String,
}

impl Nats {
    /// Starts one; `None`, and a line that says so, if this machine has none.
    pub(crate) fn start() -> Option<Self> {
        let mut nats = Self::away()?;
        nats.resume();
        Some(nats)
    }

    /// One that is not started yet.
    pub(crate) fn away() -> Option<Self> {
        if program().is_none() {
            println!("skipped: needs nats-server (cargo xtask setup installs it)");
            return None;
        }
        let port = free_port();
        Some(Self {
            child: None,
            folder: tempfile::tempdir().expect("a folder"),
            port,
            has_jetstream: true,
            more: String::new(),
            credentials: String::new(),
            endpoint: format!("nats://127.0.0.1:{port}"),
        })
    }

    /// Starts it, where it was killed if it was, with the data it had.
    pub(crate) fn resume(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let store = format!(
            "jetstream {{ store_dir: {:?} }}",
            self.folder.path().join("store")
        );
        let config = format!(
            "listen: \"127.0.0.1:{}\"\n{}\n{}\n",
            self.port,
            if self.has_jetstream { &store } else { "" },
            self.more
        );
        let file = self.folder.path().join("nats.conf");
        std::fs::write(&file, config).expect("a configuration");
        let child = Command::new(program().expect("it was there"))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("nats-server starts");
        self.child = Some(child);
        let patience = Instant::now() + Duration::from_secs(60);
        while !self.is_ready() {
            assert!(
                Instant::now() < patience,
                "nats-server is not ready after 60 s:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// From its next start on, lets nobody in but this user.
    pub(crate) fn guard(&mut self, user: &str, password: &str) {
        self.more = format!("authorization {{ user: {user:?}, password: {password:?} }}");
        self.credentials = format!("\"user\":{user:?},\"pass\":{password:?}");
    }

    /// From its next start on, lets in whoever has this token.
    pub(crate) fn guard_with_token(&mut self, token: &str) {
        self.more = format!("authorization {{ token: {token:?} }}");
        self.credentials = format!("\"auth_token\":{token:?}");
    }

    /// Starts it as one that keeps nothing.
    pub(crate) fn without_jetstream(&mut self) {
        self.has_jetstream = false;
        self.resume();
    }

    /// Asks JetStream's own interface, and gives its answer.
    pub(crate) fn ask(&self, subject: &str, body: &str) -> String {
        let mut stream = BufReader::new(self.connect().expect("nats-server answers"));
        let comma = if self.credentials.is_empty() { "" } else { "," };
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false{comma}{}}}\r\nSUB inbox 1\r\n",
            self.credentials
        );
        let asked = format!("PUB $JS.API.{subject} inbox {}\r\n{body}\r\n", body.len());
        let out = stream.get_mut();
        out.write_all(hello.as_bytes()).expect("it takes it");
        out.write_all(asked.as_bytes()).expect("it takes it");
        loop {
            let mut line = String::new();
            let read = stream.read_line(&mut line).expect("it answers");
            assert!(
                read > 0 && !line.starts_with("-ERR"),
                "{subject}: {line}\n{}",
                self.log()
            );
            if let Some(message) = line.strip_prefix("MSG ") {
                let bytes = message.trim().rsplit(' ').next().expect("its length");
                let mut body = vec![0; bytes.parse().expect("a number")];
                stream.read_exact(&mut body).expect("all of it");
                return String::from_utf8(body).expect("JSON");
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }

    fn is_ready(&self) -> bool {
        let mut line = String::new();
        let hello = self
            .connect()
            .map(BufReader::new)
            .and_then(|mut it| it.read_line(&mut line));
        hello.is_ok() && line.starts_with("INFO")
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<&'static Path> {
    let runs = |it: &&str| Command::new(it).arg("--version").output().is_ok();
    PROGRAMS.iter().copied().find(runs).map(Path::new)
}

/// A port that was free a moment ago; the kernel does not give it out again so soon.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
