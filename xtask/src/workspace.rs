//! What cargo knows about our crates, and where things lie.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::debian::succeeds;

/// This workspace.
pub(crate) struct Workspace {
    root: PathBuf,
    packages: Vec<Package>,
}

/// One crate of ours.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// A line of a crate's dependencies.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None`: normal; else `dev` or `build`.
    pub(crate) kind: Option<String>,
    /// Set for crates of ours.
    pub(crate) path: Option<PathBuf>,
}

/// A library, binary or test of a crate.
#[derive(Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

// === impl Workspace ===

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .context("cannot run `cargo metadata`")?;
        if !output.status.success() {
            bail!(
                "`cargo metadata` failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cannot read `cargo metadata`")?;
        Ok(Self {
            root: metadata.workspace_root,
            packages: metadata.packages,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Our crates, by name.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// `target/`, where everything that tasks make goes.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => self.root.join(dir),
            None => self.root.join("target"),
        }
    }

    /// `path` as people write it: relative to the root.
    pub(crate) fn relative<'p>(&self, path: &'p Path) -> std::borrow::Cow<'p, str> {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy()
    }

    /// Every file that git tracks or would track, relative to the root, with its text if it is UTF-8.
    pub(crate) fn texts(&self) -> Result<BTreeMap<PathBuf, String>> {
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(&self.root)
            .output()
            .context("cannot run `git ls-files`")?;
        if !output.status.success() {
            bail!(
                "`git ls-files` failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
        let read = |name: &str| {
            Some((
                PathBuf::from(name),
                std::fs::read_to_string(self.root.join(name)).ok()?,
            ))
        };
        Ok(names
            .split('\0')
            .filter(|name| !name.is_empty())
            .filter_map(read)
            .collect())
    }

    /// `cargo`, run at the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        command
    }

    /// Arguments with which cargo has our own crates compiled by Clippy's driver, which is the compiler and says what it notices on the way.
    ///
    /// `cargo clippy` would compile everything below us once more, without code, before the build that makes the tests: a third of a cold run.
    /// With these, lints and tests are one build. An argument and not a variable: tests start cargo, too, and plugins are no crates of ours.
    pub(crate) fn linting(&self) -> &'static [&'static str] {
        const DRIVER: &str = "clippy-driver";
        if succeeds(Command::new(DRIVER).arg("--version")) {
            &["--config", "build.rustc-workspace-wrapper=\"clippy-driver\""]
        } else {
            &[]
        }
    }
}

// === impl Package ===

impl Package {
    /// The folder it lies in.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }

    pub(crate) fn manifest(&self) -> &Path {
        &self.manifest_path
    }

    /// The file that starts the crate: its library's, else its binary's.
    pub(crate) fn root_file(&self) -> Option<&Path> {
        let of = |kinds: &[&str]| {
            let wanted = |target: &&Target| target.kind.iter().any(|kind| kinds.contains(&kind.as_str()));
            self.targets
                .iter()
                .find(wanted)
                .map(|target| target.src_path.as_path())
        };
        of(&["lib", "proc-macro", "cdylib", "rlib"]).or_else(|| of(&["bin"]))
    }
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
