//! Subcommand: cargo xtask cgroup2
//!
//! The limits of processes where there is nothing but cgroup version 2, which is how most machines are and how those that build this one are not: in a virtual
//! machine with a kernel of Debian's, as root and as a plain user, at the root of the hierarchy, in a service, in a container, with and without a
//! delegated group. What runs there is tests of the jail and of the process runtime that run outside, too; `guest.sh` says which, and what must be found in each place.
//!
//! The machine has no disk and no network: its file tree is an archive of the test programs, without their debug information, the libraries that they are
//! linked with, and a shell. It is emulated where the processor runs no guests. QEMU is installed by set-up; the kernel is downloaded once, into `target/cgroup2`.

mod initramfs;
mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

pub(crate) use self::machine::PACKAGES;
use self::{initramfs::Initramfs, machine::Machine};
use crate::{
    debian::succeeds,
    guests,
    step::{Step, say},
    workspace::Workspace,
};

/// Runs the tests of the processes' limits in a virtual machine that has cgroup version 2 alone.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// How it went.
pub(crate) enum Outcome {
    /// So many places are as they must be, and these faults were found in others; with what libtest and the guest printed.
    Ran {
        places: usize,
        faults: Vec<String>,
        output: String,
    },
    /// There is no machine to be had.
    Needs(String),
}

/// A program of tests: how the guest's script calls it, its package, its kind of target.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("JAIL", "mortise-jail", "test"),
    ("PROCESS", "mortise-runtime-process", "test"),
];
/// What the script and the tests run.
const TOOLS: &str = "cat chmod chown chroot cut date env false find grep head id ls mkdir mount rm rmdir sed setpriv setsid sh sleep sort tail true umount uname unshare";
/// The hostile plugin, where its tests look for it.
const HOSTILE: &str = "target/plugins/release/bad-process";
const SCRIPT: &[u8] = include_bytes!("cgroup2/guest.sh");

pub(crate) fn run(_: &Args, workspace: &Workspace) -> Result<()> {
    guests::build(workspace, &["bad-process".to_owned()], guests::Mortise::OfTests)?;
    match check(workspace)? {
        Outcome::Ran { faults, .. } if !faults.is_empty() => bail!("{}", faults.join("\n")),
        Outcome::Ran { places, .. } => say(&format!("cgroup2: {places} places are as they must be")),
        Outcome::Needs(what) => say(&format!("skipped: needs {what} (cgroup version 2 alone)")),
    }
    Ok(())
}

/// Boots the machine and hears what it says.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let kernel = match Machine::find(workspace)? {
        Machine::Has { kernel } => kernel,
        Machine::Needs(what) => return Ok(Outcome::Needs(what)),
    };
    let archive = workspace.target().join("cgroup2/initramfs");
    fs::write(&archive, pack(workspace)?)?;
    let output = machine::boot(
        workspace,
        "tests where there is cgroup version 2 alone",
        &kernel,
        &archive,
    )?;
    Ok(heard(&output))
}

/// What a run came to, from what the guest printed.
fn heard(output: &str) -> Outcome {
    // Its lines end as a terminal's do.
    let output = output.replace('\r', "");
    let lines = |start: &'static str| output.lines().filter(move |line| line.starts_with(start));
    let mut faults: Vec<String> = lines("fault at ").map(str::to_owned).collect();
    let places = lines("place ok: ").count();
    if lines("guest: done").count() == 0 || places == 0 {
        faults.push("the virtual machine went off before its tests were done".to_owned());
    }
    Outcome::Ran {
        places,
        faults,
        output,
    }
}

/// The machine's file tree.
fn pack(workspace: &Workspace) -> Result<Vec<u8>> {
    let mut tree = Initramfs::new();
    for place in ["proc", "sys", "run", "scratch", "root", "tmp"] {
        tree.directory(Path::new(place));
    }
    for tool in TOOLS.split_whitespace() {
        let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|it| Path::new(it).join(tool));
        let found = folders.iter().find(|it| it.exists());
        let found = found.with_context(|| format!("this machine has no `{tool}`"))?;
        tree.program(found, &Path::new("/usr/bin").join(tool))?;
    }
    for (path, mode, text) in [
        ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", 0o644, "root:x:0:\n"),
        ("etc/shadow", 0o600, "root:*:1::::::\n"),
    ] {
        tree.file(Path::new(path), mode, text.as_bytes());
    }
    let mut programs = String::new();
    for (name, path) in test_programs(workspace)? {
        let folder = workspace.target().join("cgroup2");
        tree.program(&stripped(&path, &folder.join(name))?, &path)?;
        programs.push_str(&format!("{name}='{}'\n", path.display()));
    }
    let hostile = workspace.root().join(HOSTILE);
    tree.program(&hostile, &hostile)?;
    // Tests find it from the folder of their own crate.
    for package in workspace.packages() {
        tree.directory(package.folder());
    }
    tree.file(Path::new("guest/programs"), 0o644, programs.as_bytes());
    tree.file(Path::new("guest/guest.sh"), 0o755, SCRIPT);
    tree.file(Path::new("init"), 0o755, b"#!/bin/sh\nexec sh /guest/guest.sh\n");
    Ok(tree.finish())
}

/// The programs of [`PROGRAMS`], built as `cargo xtask test` builds them.
fn test_programs(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    #[derive(Deserialize)]
    struct Artifact {
        manifest_path: PathBuf,
        target: Target,
        profile: Profile,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut build = workspace.cargo();
    build.args(workspace.linting());
    // Another selection would mean other features, and with them another build of everything below.
    build.args([
        "test",
        "--workspace",
        "--all-targets",
        "--no-run",
        "--message-format",
        "json",
    ]);
    let said = Step::new(workspace, "the workspace with its tests").run(&mut build)?;
    let artifacts: Vec<Artifact> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let find = |(name, package, kind): (&'static str, &str, &str)| {
        let manifest = workspace
            .packages()
            .find(|it| it.name == package)
            .map(|it| it.manifest());
        let found = artifacts.iter().find(|it| {
            Some(it.manifest_path.as_path()) == manifest
                && it.profile.test
                && it.target.kind.iter().any(|it| it == kind)
        });
        let executable = found.and_then(|it| it.executable.clone());
        Ok((
            name,
            executable.with_context(|| format!("cargo built no tests of `{package}` ({kind})"))?,
        ))
    };
    PROGRAMS.into_iter().map(find).collect()
}

/// `program` without debug information, which is most of it; itself where there is nothing to take it out with.
fn stripped(program: &Path, to: &Path) -> Result<PathBuf> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(to).arg(program);
    Ok(if succeeds(&mut strip) {
        to.to_owned()
    } else {
        program.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(output: &str) -> (usize, Vec<String>) {
        match heard(output) {
            Outcome::Ran { places, faults, .. } => (places, faults),
            Outcome::Needs(what) => panic!("{what}"),
        }
    }

    #[test]
    fn faults_and_an_early_end_are_heard() {
        let good = "== a\r\nplace ok: a\r\n== b\r\nplace ok: b\r\nguest: done, 40 s\r\n";
        assert_eq!(counts(good), (2, Vec::new()));
        let bad = good.replace("place ok: b", "fault at \"b\": it is left");
        assert_eq!(counts(&bad), (1, vec!["fault at \"b\": it is left".to_owned()]));
        let short = counts(good.split("guest").next().unwrap());
        assert!(short.1[0].contains("went off before"), "{short:?}");
    }
}
