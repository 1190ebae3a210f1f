//! End-to-end tests through the public surface: the binary, the sockets, the files.
//!
//! What stands here is what the tests share: a real `mortise serve` of a data directory of its own, HTTP by hand, and where the packages are.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// The root of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The package made of a folder of `plugins/`.
///
/// # Errors
/// If `cargo xtask guests` has not made it.
pub fn package(folder: &str) -> Result<PathBuf> {
    let package = root().join("target/mortise-packages/debug").join(folder);
    ensure!(
        package.exists(),
        "{} is not there: run `cargo xtask guests`",
        package.display()
    );
    Ok(package.canonicalize()?)
}

/// The command `mortise`, built by `cargo xtask guests` in the same profile as the tests.
///
/// # Errors
/// If it is not there.
pub fn mortise() -> Result<PathBuf> {
    let path = root().join("target/debug/mortise");
    ensure!(
        path.exists(),
        "{} is not there: run `cargo build -p mortise-cli`",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// A `mortise serve` with a data directory of its own. Dropping it kills it.
pub struct Daemon {
    child: Child,
    /// Its folder: `mortise.toml`, `data`, `log`.
    pub folder: tempfile::TempDir,
    /// Where it serves HTTP.
    pub address: String,
    /// What its `mortise.toml` begins with.
    settings: String,
}

impl Daemon {
    /// Starts a host whose `mortise.toml` ends with `plugins`, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start(plugins: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // A port that was free a moment ago; the kernel does not give it out again so soon.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let data = folder.path().join("data");
        let settings = format!("[host]\ndata_dir = {data:?}\n\n[gateway]\nlisten = \"{address}\"\n\n");
        fs::write(folder.path().join("mortise.toml"), format!("{settings}{plugins}"))?;
        let child = serve(folder.path())?;
        let mut daemon = Self {
            child,
            folder,
            address,
            settings,
        };
        daemon.becomes_ready()?;
        Ok(daemon)
    }

    /// Starts another host in the place of one that is gone, with what that left, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = serve(self.folder.path())?;
        self.becomes_ready()
    }

    fn becomes_ready(&mut self) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.get("/readyz").map_or(true, |(status, _)| status != 200) {
            if let Some(status) = self.child.try_wait()? {
                bail!("`mortise serve` ended with {status}:\n{}", self.log());
            }
            ensure!(
                Instant::now() < patience,
                "`mortise serve` is not ready after 60 s:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Writes another end of its `mortise.toml`. The host does not know of it yet.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, plugins: &str) -> Result<()> {
        // As editors do, so that nobody reads half a file.
        let (new, place) = (
            self.folder.path().join("new"),
            self.folder.path().join("mortise.toml"),
        );
        fs::write(&new, format!("{}{plugins}", self.settings))?;
        fs::rename(new, place)?;
        Ok(())
    }

    /// Sends it a signal, and waits until its log has `said` once more than before.
    ///
    /// # Errors
    /// If it has not after 20 s.
    pub fn signal(&self, signal: rustix::process::Signal, said: &str) -> Result<()> {
        let times = || self.log().matches(said).count();
        let before = times();
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)?;
        let patience = Instant::now() + Duration::from_secs(20);
        while times() == before {
            ensure!(
                Instant::now() < patience,
                "20 s after {signal:?} it has not said `{said}`:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as the kernel would: SIGKILL, no goodbye.
    ///
    /// # Errors
    /// If there is nothing to kill.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within 20 s.
    pub fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < patience, "it goes on for 20 s:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `mortise ARGUMENTS` against this host.
    ///
    /// # Errors
    /// If the command cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(mortise()?);
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.folder.path().join("data/control.sock"));
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Runs `mortise ARGUMENTS --output json` and parses what it prints.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.run(&[arguments, &["--output", "json"]].concat())?;
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "{arguments:?} ended with {}: {shown}\n{}",
            output.status,
            self.log()
        );
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} printed no JSON"))
    }

    /// `GET path`: status and body.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
    }

    /// A JSON-RPC call over HTTP: the whole answer.
    ///
    /// # Errors
    /// If nobody answers, or not with JSON.
    pub fn rpc(&self, method: &str, params: &Value) -> Result<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string();
        let (_, answer) = self.send(&format!(
            "POST /rpc HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))?;
        serde_json::from_str(&answer).with_context(|| format!("the answer to {method} is no JSON: {answer}"))
    }

    /// `POST /stream/{target}` with one message per line: status, and the lines of the answer.
    ///
    /// # Errors
    /// If nobody answers, or not with lines of JSON.
    pub fn stream(&self, target: &str, messages: &[Value]) -> Result<(u16, Vec<Value>)> {
        let body: String = messages.iter().map(|it| format!("{it}\n")).collect();
        // HTTP/1.0, so that the answer ends with the connection and has no chunks.
        let (status, answer) = self.send(&format!(
            "POST /stream/{target} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))?;
        let lines = answer.lines().map(serde_json::from_str);
        let lines: Result<Vec<Value>, _> = lines.collect();
        Ok((
            status,
            lines.with_context(|| format!("{target} answered {answer}"))?,
        ))
    }

    fn send(&self, request: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        let code = status
            .split(' ')
            .nth(1)
            .and_then(|it| it.parse().ok())
            .context("no status line")?;
        let mut rest = String::new();
        reader.read_to_string(&mut rest)?;
        let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((code, body.to_owned()))
    }
}

/// Runs `mortise serve` with the `mortise.toml` of a folder; what it writes is appended to `log` there.
fn serve(folder: &Path) -> Result<Child> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    let serve = Command::new(mortise()?)
        .arg("serve")
        .arg("--config")
        .arg(folder.join("mortise.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    Ok(serve?)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
