//! One visible step: a program that runs, a line that says so, and its output kept for when it fails.
//!
//! On a terminal a spinner shows the program's last line and how long it has been running. Elsewhere there is one line per step, when it
//! ends. The whole output is in `target/xtask/{step}.log` either way.

use std::{
    fs,
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workspace::Workspace;

/// Lines of a failed program's output that are printed.
const TAIL_LINES: usize = 60;

/// A step that is about to run.
pub(crate) struct Step<'w> {
    workspace: &'w Workspace,
    title: String,
    bound: Option<Duration>,
    /// Whether the program's lines are printed as they come, where there is no terminal.
    aloud: bool,
}

/// Why a program did not end well.
#[derive(Debug)]
enum Failure {
    Status(ExitStatus),
    TooLong(Duration),
}

impl<'w> Step<'w> {
    pub(crate) fn new(workspace: &'w Workspace, title: impl Into<String>) -> Self {
        Self {
            workspace,
            title: title.into(),
            bound: None,
            aloud: false,
        }
    }

    /// Ends the program after this long, as a failure.
    pub(crate) fn within(mut self, bound: Duration) -> Self {
        self.bound = Some(bound);
        self
    }

    /// Prints the program's lines as they come: for tests, whose names are worth reading in a log.
    pub(crate) fn aloud(mut self) -> Self {
        self.aloud = true;
        self
    }

    /// Runs `command` to its end; returns what it printed.
    ///
    /// # Errors
    /// If it cannot be started, fails, or takes too long; with the end of what it printed.
    pub(crate) fn run(self, command: &mut Command) -> Result<String> {
        let started = Instant::now();
        let program = command.get_program().to_string_lossy().into_owned();
        let bar = self.bar();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{program}`"))?;
        let output = Arc::new(Mutex::new(String::new()));
        let (closed, both_closed) = mpsc::channel::<()>();
        let pipes: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().context("stdout is piped")?),
            Box::new(child.stderr.take().context("stderr is piped")?),
        ];
        for pipe in pipes {
            let (output, bar, closed, aloud) = (Arc::clone(&output), bar.clone(), closed.clone(), self.aloud);
            std::thread::spawn(move || {
                collect(pipe, &output, &bar, aloud);
                drop(closed);
            });
        }
        drop(closed);
        let ended = match self.bound {
            None => Ok(child.wait()?),
            Some(bound) => wait_within(&mut child, bound)?,
        };
        // A grandchild may hold the pipes; what was printed by now is enough.
        let _ = both_closed.recv_timeout(Duration::from_secs(2));
        bar.finish_and_clear();
        let output = output.lock().map(|output| output.clone()).unwrap_or_default();
        let log = self.write_log(&output)?;
        let took = started.elapsed();
        let failure = match ended {
            Ok(status) if status.success() => {
                say(&format!("  {} ({:.1} s)", self.title, took.as_secs_f64()));
                return Ok(output);
            }
            Ok(status) => Failure::Status(status),
            Err(bound) => Failure::TooLong(bound),
        };
        let lines: Vec<&str> = output.lines().collect();
        let tail = if self.aloud && !is_terminal() {
            String::new()
        } else {
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        };
        let why = match failure {
            Failure::Status(status) => format!("`{program}` ended with {status}"),
            Failure::TooLong(bound) => format!("`{program}` took longer than {} s", bound.as_secs()),
        };
        bail!(
            "{}: {why}\n{tail}\nwhole output: {}",
            self.title,
            self.workspace.relative(&log)
        )
    }

    fn bar(&self) -> ProgressBar {
        if !is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(self.title.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    fn write_log(&self, output: &str) -> Result<PathBuf> {
        let folder = self.workspace.target().join("xtask");
        fs::create_dir_all(&folder)?;
        let name: String = self
            .title
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let log = folder.join(format!("{}.log", name.trim_matches('-')));
        fs::write(&log, output).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(log)
    }
}

/// One line for people, also while a spinner runs elsewhere.
pub(crate) fn say(line: &str) {
    // A closed pipe is no reason to stop the work.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

fn collect(pipe: Box<dyn Read + Send>, output: &Mutex<String>, bar: &ProgressBar, aloud: bool) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if let Ok(mut output) = output.lock() {
            output.push_str(&text);
        }
        let text = text.trim_end();
        if !text.is_empty() {
            bar.set_message(text.to_owned());
            if aloud && bar.is_hidden() {
                say(text);
            }
        }
        line.clear();
    }
}

/// Waits, and kills the program when its time is over.
fn wait_within(child: &mut std::process::Child, bound: Duration) -> Result<Result<ExitStatus, Duration>> {
    let end = Instant::now() + bound;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ok(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(Err(bound));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
