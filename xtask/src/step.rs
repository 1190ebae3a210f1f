//! Long work with a progress line: one spinner per step on a terminal, one plain line per step elsewhere.
//!
//! A step's output goes to `target/xtask/<name>.log`; its last line is shown while it runs, and the end of it when it fails.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::root;

/// Runs `command` as the step `name` (a file-name) described by `title`.
///
/// # Errors
/// If it cannot be started or does not exit with 0; the message ends with the tail of its output.
pub fn run(name: &str, title: &str, command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let log_path = log_path(name)?;
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let line = Line::start(title);
    let shown = format!("{command:?}");
    writeln!(log, "$ {shown}")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{shown}` cannot be started"))?;
    let stderr = child.stderr.take().expect("stderr is piped");
    for text in BufReader::new(stderr).split(b'\n') {
        let text = String::from_utf8_lossy(&text?).into_owned();
        writeln!(log, "{text}")?;
        line.detail(&text);
    }
    let status = child.wait()?;
    if !status.success() {
        line.finish("failed", started.elapsed());
        let output = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<_> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        bail!("{title}: `{shown}` ended with {status}\n{tail}\nhint: the whole output is in {}", log_path.display());
    }
    line.finish("done", started.elapsed());
    Ok(started.elapsed())
}

/// Runs `work` as a step without a command.
///
/// # Errors
/// What `work` returns.
pub fn task<T>(title: &str, work: impl FnOnce(&Line) -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let line = Line::start(title);
    let result = work(&line);
    line.finish(if result.is_ok() { "done" } else { "failed" }, started.elapsed());
    result
}

/// The progress line of one step.
pub struct Line {
    title: String,
    bar: Option<ProgressBar>,
}

impl Line {
    fn start(title: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}");
            bar.set_style(style.expect("the template is a constant"));
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("-- {title}");
        }
        Self { title: title.to_owned(), bar }
    }

    /// Shows what the step is at.
    pub fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.trim().chars().take(160).collect::<String>());
        }
    }

    fn finish(self, outcome: &str, took: Duration) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        eprintln!("   {} {outcome} in {:.1} s", self.title, took.as_secs_f64());
    }
}

fn log_path(name: &str) -> Result<PathBuf> {
    let folder = root().join("target/xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.join(format!("{name}.log")))
}
