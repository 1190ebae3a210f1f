//! Debian packages: which are missing, and getting them.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{step::Step, workspace::Workspace};

/// How a package came to be there, or not.
pub(crate) enum Outcome {
    /// It was there.
    Present,
    /// It was installed now.
    Installed,
    /// It is missing; this is what to do.
    Missing(String),
}

/// Which of `packages` are not installed. On a system without dpkg: none is known to be missing.
pub(crate) fn missing(packages: &[&'static str]) -> Vec<&'static str> {
    if !is_debian() {
        return Vec::new();
    }
    let installed = |package: &str| {
        let query = Command::new("dpkg-query")
            .args(["-W", "-f=${db:Status-Status}", package])
            .stderr(Stdio::null())
            .output();
        query.is_ok_and(|output| output.stdout == b"installed")
    };
    packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect()
}

/// Gets `packages`: as root with apt, else it says how.
pub(crate) fn install(workspace: &Workspace, packages: &[&'static str], why: &str) -> Result<Outcome> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(Outcome::Present);
    }
    let list = missing.join(" ");
    if !is_root() {
        return Ok(Outcome::Missing(format!(
            "sudo apt-get install --no-install-recommends {list}    # {why}"
        )));
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let install = |title: &str, apt: &mut Command| Step::new(workspace, format!("{title}: {list}")).run(apt);
    if install("apt-get install", &mut apt).is_ok() {
        return Ok(Outcome::Installed);
    }
    // The lists may be old or absent, as in a fresh image.
    Step::new(workspace, "apt-get update").run(Command::new("apt-get").arg("update"))?;
    install("apt-get install, once more", &mut apt)?;
    Ok(Outcome::Installed)
}

pub(crate) fn is_debian() -> bool {
    succeeds(Command::new("dpkg-query").arg("--version"))
}

pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Whether `command` can be run and ends well; what it prints is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
