//! Subcommand: cargo xtask test
//!
//! Everything that must hold before a change is merged, in the order in which it fails fastest: set-up, format, rings, tidiness,
//! dependencies, lints, plugins, tests, those of the jail as another user, those of its limits in a virtual machine that has cgroup version 2 alone,
//! documentation examples, then the call path's memory model (loom) and its unsafe code (miri). A phase that fails does not stop the next, so one run
//! shows every fault; only tests are left out when the plugins they load cannot be built.
//!
//! The last lines say how many tests ran, what is known to fail (`expected failure: ..`) and what was skipped for want of something
//! (`skipped: needs ..`), both printed by the test itself, which tests passed only when they were run again (`flaky: ..`), and where the time went.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    cgroup2, debian, deny, guests, layers,
    setup::{self, cargo_tool},
    step::{Step, say},
    tidy,
    workspace::Workspace,
};

/// Runs set-up, every check and every test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave set-up out: everything needed is known to be there
    #[arg(long)]
    no_setup: bool,
}

/// The phases so far.
#[derive(Default)]
struct Report {
    phases: Vec<Phase>,
    /// What was not done, and what it needs; with how often.
    skipped: BTreeMap<String, usize>,
    /// Tests that failed as a row of the conformance suite says they must; with the row's reason.
    expected: BTreeSet<String>,
    /// Tests that failed once and then passed: to be looked at, and no reason to hold a change up.
    flaky: BTreeSet<String>,
    passed: usize,
    failed: usize,
}

struct Phase {
    name: &'static str,
    took: Duration,
    fault: Option<String>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let mut report = Report::default();
    if !args.no_setup {
        report.phase("setup", |report| {
            for missing in setup::prepare(workspace)?.missing {
                report.skip(format!("skipped: needs `{missing}`"));
            }
            Ok(())
        });
    }
    report.phase("format", |_| {
        Step::new(workspace, "cargo fmt --check")
            .run(workspace.cargo().args(["fmt", "--all", "--check"]))
            .map(drop)
    });
    report.phase("layers", |_| layers::run(&layers::Args {}, workspace));
    report.phase("tidy", |_| tidy::run(&tidy::Args {}, workspace));
    report.phase("deny", |report| {
        if !deny::check(workspace)? {
            report.skip("skipped: needs cargo-deny".to_owned());
        }
        Ok(())
    });
    report.phase("lints", |report| lints(workspace, report));
    let guests = report.phase("guests", |report| {
        for line in guests::build(workspace, &[], guests::Mortise::OfTests)?.skipped {
            report.skip(line);
        }
        Ok(())
    });
    if guests {
        report.phase("tests", |report| tests(workspace, report));
        report.phase("plain user", |report| as_plain_user(workspace, report));
        report.phase("cgroup2", |report| cgroup_version_two(workspace, report));
        report.phase("doc examples", |report| doc_examples(workspace, report));
    }
    report.phase("loom", |report| loom(workspace, report));
    report.phase("miri", |report| miri(workspace, report));
    report.close()
}

/// Builds the workspace with its tests, and hears what Clippy says of it meanwhile. Cargo repeats what was said of a crate that is not built again.
fn lints(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let linting = workspace.linting();
    if linting.is_empty() {
        report.skip("skipped: needs clippy (rustup component add clippy)".to_owned());
        return Ok(());
    }
    let mut build = workspace.cargo();
    build
        .args(linting)
        .args(["test", "--workspace", "--all-targets", "--no-run"]);
    let said = Step::new(workspace, "the workspace with its tests, with lints").run(&mut build)?;
    let lines: Vec<&str> = said.lines().collect();
    match lines
        .iter()
        .position(|line| line.trim_start().starts_with("warning: "))
    {
        Some(first) => bail!("{}", lines[first..].join("\n")),
        None => Ok(()),
    }
}

/// Every test of the workspace, end-to-end ones included.
fn tests(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let Some(nextest) = cargo_tool(workspace, "cargo-nextest") else {
        report.skip("skipped: needs cargo-nextest (tests ran with `cargo test`)".to_owned());
        let mut command = workspace.cargo();
        command.args(workspace.linting()).args([
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
            "--",
            "--show-output",
        ]);
        return libtest(workspace, report, "cargo test --workspace", &mut command);
    };
    let mut command = std::process::Command::new(nextest);
    command.args(["nextest", "run"]);
    run_nextest(workspace, report, "cargo nextest run --workspace", &mut command)
}

fn run_nextest(
    workspace: &Workspace,
    report: &mut Report,
    title: &str,
    command: &mut std::process::Command,
) -> Result<()> {
    let junit = workspace.target().join("nextest/ci/junit.xml");
    let _ = fs::remove_file(&junit);
    command.current_dir(workspace.root());
    command
        .args(workspace.linting())
        .args(["--workspace", "--profile", "ci"]);
    let outcome = Step::new(workspace, title).aloud().run(command);
    report.read_junit(&junit);
    outcome.map(drop)
}

/// What stands around processes, once more by a host that is not root: its jail is made of other parts, and most hosts are such.
fn as_plain_user(workspace: &Workspace, report: &mut Report) -> Result<()> {
    /// Nobody's, so nothing else runs under it.
    const USER: &str = "60999";
    const CRATES: &str = "package(mortise-jail) | package(mortise-runtime-process) | package(mortise-goplugin) | package(mortise-sdk-go-plugin)";
    if !cfg!(target_os = "linux") || !debian::is_root() {
        // Then everything above ran as one.
        return Ok(());
    }
    let Some(nextest) = cargo_tool(workspace, "cargo-nextest") else {
        report.skip("skipped: needs cargo-nextest (tests as a plain user)".to_owned());
        return Ok(());
    };
    let become_user = ["--reuid", USER, "--regid", USER, "--clear-groups"];
    let reads = std::process::Command::new("setpriv")
        .args(become_user)
        .args(["test", "-r"])
        .arg(workspace.target().join("debug/deps"))
        .status();
    if !reads.is_ok_and(|it| it.success()) {
        report.skip("skipped: needs a checkout that every user may read (tests as a plain user)".to_owned());
        return Ok(());
    }
    let scratch = workspace.target().join("plain-user");
    fs::create_dir_all(&scratch)?;
    fs::set_permissions(&scratch, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    let runner = format!(
        "CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER",
        std::env::consts::ARCH.to_uppercase()
    );
    let mut command = std::process::Command::new(nextest);
    command
        .env(runner, format!("setpriv {}", become_user.join(" ")))
        .env("TMPDIR", &scratch)
        .args(["nextest", "run", "-E", CRATES]);
    // What only root has was seen above.
    let skipped = report.skipped.clone();
    let ran = run_nextest(
        workspace,
        report,
        "cargo nextest run, as a plain user",
        &mut command,
    );
    report.skipped = skipped;
    let _ = fs::remove_dir_all(&scratch);
    ran
}

/// The limits of processes on a machine like most and unlike this one.
fn cgroup_version_two(workspace: &Workspace, report: &mut Report) -> Result<()> {
    match cgroup2::check(workspace)? {
        cgroup2::Outcome::Ran {
            places,
            faults,
            output,
        } => {
            report.passed += places;
            report.read_libtest(&output);
            if !faults.is_empty() {
                bail!("{}", faults.join("\n"));
            }
        }
        cgroup2::Outcome::Needs(what) => {
            report.skip(format!("skipped: needs {what} (cgroup version 2 alone)"));
        }
    }
    Ok(())
}

fn doc_examples(workspace: &Workspace, report: &mut Report) -> Result<()> {
    // The whole workspace, although few of its crates have examples: another selection would mean other features, and with them another
    // build of everything below.
    let mut command = workspace.cargo();
    command
        .args(workspace.linting())
        .args(["test", "--workspace", "--doc"]);
    libtest(workspace, report, "cargo test --doc", &mut command)
}

/// Every interleaving of readers and a writer of the call path's cell, and of the two ends of a ring. The crates are compiled differently for this, in a
/// folder of its own.
fn loom(workspace: &Workspace, report: &mut Report) -> Result<()> {
    for (package, target) in [
        ("mortise-hazard", &["--test", "loom"][..]),
        ("mortise-shm", &["--lib"]),
    ] {
        let mut command = workspace.cargo();
        command.args(["test", "--package", package, "--release", "--target-dir"]);
        command.arg(workspace.target().join("loom")).args(target);
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        command.env("RUSTFLAGS", format!("{flags} --cfg loom"));
        libtest(workspace, report, &format!("loom: {package}"), &mut command)?;
    }
    Ok(())
}

/// The unsafe code of the call path, interpreted.
fn miri(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if !setup::has_miri() {
        report
            .skip("skipped: needs miri (rustup component add miri rust-src --toolchain nightly)".to_owned());
        return Ok(());
    }
    let mut command = std::process::Command::new("rustup");
    command.current_dir(workspace.root());
    command.args([
        "run",
        "nightly",
        "cargo",
        "miri",
        "test",
        "--package",
        "mortise-hazard",
        "--features",
        "fence",
    ]);
    command
        .args(["--lib", "--target-dir"])
        .arg(workspace.target().join("miri"));
    // Threads wait for each other by the clock.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    for ours in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(ours);
    }
    libtest(workspace, report, "miri: mortise-hazard", &mut command)
}

fn libtest(
    workspace: &Workspace,
    report: &mut Report,
    title: &str,
    command: &mut std::process::Command,
) -> Result<()> {
    match Step::new(workspace, title).run(command) {
        Ok(output) => {
            report.read_libtest(&output);
            Ok(())
        }
        Err(error) => {
            report.read_libtest(&error.to_string());
            Err(error)
        }
    }
}

// === impl Report ===

impl Report {
    /// Runs one phase; whether it went well.
    fn phase(&mut self, name: &'static str, run: impl FnOnce(&mut Self) -> Result<()>) -> bool {
        say(&format!("== {name}"));
        let started = Instant::now();
        let fault = run(self).err().map(|error| format!("{error:#}"));
        if let Some(fault) = &fault {
            say(fault);
        }
        let went_well = fault.is_none();
        self.phases.push(Phase {
            name,
            took: started.elapsed(),
            fault,
        });
        went_well
    }

    fn skip(&mut self, line: String) {
        *self.skipped.entry(line).or_default() += 1;
    }

    /// Counts and skips from nextest's report.
    fn read_junit(&mut self, path: &PathBuf) {
        let Ok(text) = fs::read_to_string(path) else {
            return;
        };
        let (tests, failed) = (
            attribute(&text, "tests"),
            attribute(&text, "failures") + attribute(&text, "errors"),
        );
        self.passed += tests.saturating_sub(failed);
        self.failed += failed;
        let flaky = text
            .split("<testcase name=\"")
            .skip(1)
            .filter(|test| test.contains("<flakyFailure"))
            .filter_map(|test| test.split('"').next());
        self.flaky.extend(flaky.map(|name| format!("flaky: {name}")));
        self.read_remarks(&text);
    }

    /// Counts and skips from what libtest prints.
    fn read_libtest(&mut self, output: &str) {
        for line in output
            .lines()
            .filter_map(|line| line.strip_prefix("test result: "))
        {
            let count = |word: &str| {
                let before = line.split(word).next()?.trim_end();
                before.rsplit([' ', ';']).next()?.parse::<usize>().ok()
            };
            self.passed += count(" passed").unwrap_or(0);
            self.failed += count(" failed").unwrap_or(0);
        }
        self.read_remarks(output);
    }

    /// What tests print about themselves.
    fn read_remarks(&mut self, text: &str) {
        for line in text.lines() {
            if let Some(line) = remark(line, "skipped: needs ") {
                self.skip(line);
            }
            if let Some(line) = remark(line, "expected failure: ")
                && self.expected.insert(line)
            {
                self.passed = self.passed.saturating_sub(1);
            }
        }
    }

    /// The last lines, and the verdict.
    fn close(self) -> Result<()> {
        say("\n== result");
        for Phase { name, took, fault } in &self.phases {
            let verdict = if fault.is_some() { "FAILED" } else { "ok" };
            say(&format!("{name:14} {:8.1} s  {verdict}", took.as_secs_f64()));
        }
        for line in self.expected.iter().chain(&self.flaky) {
            say(line);
        }
        for (line, times) in &self.skipped {
            say(&format!(
                "{line}{}",
                if *times > 1 {
                    format!(" ({times} times)")
                } else {
                    String::new()
                }
            ));
        }
        let total: Duration = self.phases.iter().map(|phase| phase.took).sum();
        let skipped: usize = self.skipped.values().sum();
        let counts = format!(
            "{} passed ({} of them flaky), {} failed, {} expected failures, {skipped} skipped, {:.0} s",
            self.passed,
            self.flaky.len(),
            self.failed,
            self.expected.len(),
            total.as_secs_f64()
        );
        let failed: Vec<&str> = self
            .phases
            .iter()
            .filter(|phase| phase.fault.is_some())
            .map(|phase| phase.name)
            .collect();
        if !failed.is_empty() {
            bail!("test: {counts}; these phases failed: {}", failed.join(", "));
        }
        say(&format!("test: {counts}"));
        Ok(())
    }
}

/// A line from `word` on, as it was printed.
fn remark(line: &str, word: &str) -> Option<String> {
    let line = &line[line.find(word)?..];
    let line = line.split('<').next().unwrap_or_default();
    let line = line
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    Some(line.trim_end().to_owned())
}

/// The value of a number attribute of the first element that has it.
fn attribute(xml: &str, name: &str) -> usize {
    let value = xml
        .split_once(&format!(" {name}=\""))
        .and_then(|(_, rest)| rest.split('"').next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_libtest_prints() {
        let mut report = Report::default();
        report.read_libtest(
            "running 3 tests\nskipped: needs wine\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n\
             skipped: needs wine\nexpected failure: native::a: because\ntest result: FAILED. 10 passed; 3 failed; 0 ignored\n",
        );
        assert_eq!((report.passed, report.failed), (11, 3));
        assert_eq!(
            report.expected,
            BTreeSet::from(["expected failure: native::a: because".to_owned()])
        );
        assert_eq!(
            report.skipped,
            BTreeMap::from([("skipped: needs wine".to_owned(), 2)])
        );
    }

    #[test]
    fn counts_what_nextest_reports() {
        let xml = "<testsuites name=\"ci\" tests=\"7\" failures=\"1\" errors=\"1\">\n<testsuite tests=\"7\">\n\
                   <testcase name=\"a::b\"><system-out>skipped: needs &apos;clang-14&apos;</system-out></testcase>\n\
                   <testcase name=\"a::c\" classname=\"x\"><flakyFailure message=\"m\"/></testcase>\n</testsuite></testsuites>";
        let path = std::env::temp_dir().join(format!("mortise-junit-{}.xml", std::process::id()));
        fs::write(&path, xml).expect("a temporary file");
        let mut report = Report::default();
        report.read_junit(&path);
        fs::remove_file(&path).expect("it was written");
        assert_eq!((report.passed, report.failed), (5, 2));
        assert_eq!(report.flaky, BTreeSet::from(["flaky: a::c".to_owned()]));
        assert_eq!(
            report.skipped.keys().collect::<Vec<_>>(),
            ["skipped: needs 'clang-14'"]
        );
    }
}
