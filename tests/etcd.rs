//! A real etcd on loopback for the tests of several crates: each of them includes this file. It is driven over its own JSON, so that nothing of ours is both
//! what is tested and what tests it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// An etcd with a data directory of its own, gone with it.
pub(crate) struct Etcd {
    child: Option<Child>,
    folder: tempfile::TempDir,
    /// Where clients reach it.
    pub(crate) endpoint: String,
    peers: String,
    /// Where clients reach it over TLS, if it has a certificate.
    secure: Option<String>,
    /// Root's password, if it lets in nobody without one.
    guarded: Option<String>,
    token: Option<String>,
}

impl Etcd {
    /// Starts one; `None`, and a line that says so, if this machine has none.
    pub(crate) fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            println!("skipped: needs etcd (cargo xtask setup installs it)");
            return None;
        }
        let mut etcd = Self {
            child: None,
            folder: tempfile::tempdir().expect("a folder"),
            endpoint: format!("http://127.0.0.1:{}", free_port()),
            peers: format!("http://127.0.0.1:{}", free_port()),
            secure: None,
            guarded: None,
            token: None,
        };
        etcd.resume();
        Some(etcd)
    }

    /// Starts it where it was killed, with the data it had.
    pub(crate) fn resume(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let clients = [Some(&self.endpoint), self.secure.as_ref()];
        let clients: Vec<&str> = clients.into_iter().flatten().map(String::as_str).collect();
        let clients = clients.join(",");
        let mut etcd = Command::new("etcd");
        if self.secure.is_some() {
            let [certificate, key] = self.tls_files();
            etcd.arg("--cert-file")
                .arg(certificate)
                .arg("--key-file")
                .arg(key);
        }
        let child = etcd
            .arg("--data-dir")
            .arg(self.data())
            .args(["--name", "one", "--initial-cluster"])
            .arg(format!("one={}", self.peers))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &self.peers,
                "--initial-advertise-peer-urls",
                &self.peers,
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
        let patience = Instant::now() + Duration::from_secs(60);
        while !self.is_healthy() {
            assert!(
                Instant::now() < patience,
                "etcd is not healthy after 60 s:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        // Its tokens went with it.
        self.log_in();
    }

    /// From its next start on, answers over TLS with this certificate, too (PEM). Where.
    pub(crate) fn secure(&mut self, certificate: &str, key: &str) -> String {
        let [certificate_file, key_file] = self.tls_files();
        std::fs::write(certificate_file, certificate).expect("a file");
        std::fs::write(key_file, key).expect("a file");
        let endpoint = || format!("https://127.0.0.1:{}", free_port());
        self.secure.get_or_insert_with(endpoint).clone()
    }

    fn tls_files(&self) -> [PathBuf; 2] {
        ["certificate.pem", "key.pem"].map(|it| self.folder.path().join(it))
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Forgets everything, as a cluster that was made anew.
    pub(crate) fn lose_data(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.data()).expect("it had data");
        self.resume();
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        let body = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", base64(key), base64(value));
        self.ask("/v3/kv/put", &body);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.ask("/v3/kv/deleterange", &format!("{{\"key\":\"{}\"}}", base64(key)));
    }

    /// The revision that it is at.
    pub(crate) fn revision(&self) -> u64 {
        let answer = self.ask("/v3/kv/range", &format!("{{\"key\":\"{}\"}}", base64("none")));
        let (_, rest) = answer.split_once("\"revision\":\"").expect("a revision");
        rest.split_once('"')
            .expect("a number")
            .0
            .parse()
            .expect("a number")
    }

    /// Forgets what was before the revision that it is at.
    pub(crate) fn compact(&self) {
        let body = format!("{{\"revision\":\"{}\",\"physical\":true}}", self.revision());
        self.ask("/v3/kv/compaction", &body);
    }

    /// Lets nobody in but root, and `user`, who may read what begins with `prefix`.
    pub(crate) fn guard(&mut self, user: &str, password: &str, prefix: &str) {
        for name in ["root", user] {
            self.ask(
                "/v3/auth/user/add",
                &format!("{{\"name\":\"{name}\",\"password\":\"{password}\"}}"),
            );
            self.ask("/v3/auth/role/add", &format!("{{\"name\":\"{name}\"}}"));
            self.ask(
                "/v3/auth/user/grant",
                &format!("{{\"user\":\"{name}\",\"role\":\"{name}\"}}"),
            );
        }
        let end = format!("{}0", prefix.strip_suffix('/').expect("a prefix ends with `/`"));
        let range = format!(
            "\"key\":\"{}\",\"range_end\":\"{}\"",
            base64(prefix),
            base64(&end)
        );
        self.ask(
            "/v3/auth/role/grant",
            &format!("{{\"name\":\"{user}\",\"perm\":{{\"permType\":\"READ\",{range}}}}}"),
        );
        self.ask("/v3/auth/enable", "{}");
        self.guarded = Some(password.to_owned());
        self.log_in();
    }

    /// Gives somebody whom it lets in another password.
    pub(crate) fn change_password(&self, user: &str, password: &str) {
        self.ask(
            "/v3/auth/user/changepw",
            &format!("{{\"name\":\"{user}\",\"password\":\"{password}\"}}"),
        );
    }

    fn log_in(&mut self) {
        self.token = None;
        let Some(password) = &self.guarded else { return };
        let answer = self.ask(
            "/v3/auth/authenticate",
            &format!("{{\"name\":\"root\",\"password\":\"{password}\"}}"),
        );
        let (_, rest) = answer.split_once("\"token\":\"").expect("a token");
        self.token = Some(rest.split_once('"').expect("its end").0.to_owned());
    }

    fn data(&self) -> PathBuf {
        Path::new(self.folder.path()).join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn is_healthy(&self) -> bool {
        self.send("GET", "/health", "")
            .is_ok_and(|it| it.contains("\"true\""))
    }

    fn ask(&self, path: &str, body: &str) -> String {
        let answer = self.send("POST", path, body).expect("etcd answers");
        assert!(
            answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
            "{path}: {answer}"
        );
        answer
    }

    fn send(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let token = self
            .token
            .as_ref()
            .map(|it| format!("authorization: {it}\r\n"))
            .unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nhost: etcd\r\n{token}content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago; the kernel does not give it out again so soon.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let mut bytes = [0; 3];
        bytes[..chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for digit in 0..4 {
            let index = (number >> (18 - 6 * digit)) & 63;
            out.push(if digit as usize <= chunk.len() {
                DIGITS[index as usize].into()
            } else {
                '='
            });
        }
    }
    out
}
