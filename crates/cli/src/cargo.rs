//! Running cargo for a plugin's crate, with progress.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::{
    exit::{Failure, Fault},
    output::Output,
};

/// What to build.
pub(crate) struct CargoBuild<'a> {
    pub(crate) dir: &'a Path,
    /// What it is for, for the progress line.
    pub(crate) label: &'a str,
    pub(crate) args: &'a [&'a str],
    pub(crate) rustc: Option<&'a Path>,
}

/// The files of the plugin's own crate that came out.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Shared library or WebAssembly module.
    pub(crate) library: Option<PathBuf>,
    /// Executables by name.
    pub(crate) executables: Vec<(String, PathBuf)>,
}

/// What the crate is, as far as a build needs to know.
pub(crate) struct Crate {
    pub(crate) has_main: bool,
    /// Number of packages in its dependency tree, about the number of steps to expect.
    packages: u64,
}

#[derive(Deserialize)]
struct CargoMetadata {
    packages: Vec<CargoPackage>,
}

#[derive(Deserialize)]
struct CargoPackage {
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    crate_types: Vec<String>,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    success: bool,
}

impl Crate {
    /// Asks cargo what the crate in `dir` is.
    pub(crate) fn read(dir: &Path) -> Result<Self, Failure> {
        let manifest = manifest_path(dir)?;
        let output = cargo(dir)
            .args(["metadata", "--format-version", "1"])
            .output()
            .map_err(no_cargo)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::new(
                Fault::new(format!("cargo cannot read the crate: {said}")).at(manifest.display()),
            ));
        }
        let metadata: CargoMetadata = serde_json::from_slice(&output.stdout).map_err(|error| {
            Failure::new(Fault::new(format!(
                "`cargo metadata` says something unexpected: {error}"
            )))
        })?;
        let own = metadata
            .packages
            .iter()
            .find(|it| it.manifest_path == manifest)
            .ok_or_else(|| {
                Failure::new(
                    Fault::new("Cargo.toml is a workspace without a package of its own")
                        .at(manifest.display()),
                )
            })?;
        if !own
            .targets
            .iter()
            .any(|it| it.crate_types.iter().any(|kind| kind == "cdylib"))
        {
            let fault = Fault::new("the crate is not built as a shared library, so no host can load it")
                .at(manifest.display());
            return Err(Failure::new(
                fault.hint("add `[lib]` with `crate-type = [\"cdylib\", \"rlib\"]`"),
            ));
        }
        let has_main = own
            .targets
            .iter()
            .any(|it| it.kind.iter().any(|kind| kind == "bin"));
        Ok(Self {
            has_main,
            packages: metadata.packages.len() as u64,
        })
    }

    /// Builds in release mode. What the compiler says goes to standard error, after the progress.
    pub(crate) fn build(&self, build: &CargoBuild<'_>, output: &Output) -> Result<Built, Failure> {
        let manifest = manifest_path(build.dir)?;
        let mut command = cargo(build.dir);
        command
            .args([
                "build",
                "--release",
                "--message-format",
                "json-render-diagnostics",
            ])
            .args(build.args);
        if let Some(rustc) = build.rustc {
            command.env("RUSTC", rustc);
        }
        let progress = self.progress(build.label, output);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(no_cargo)?;
        let stderr = child.stderr.take().expect("it is piped");
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            // Whatever cannot be read is only talk; the exit code decides.
            let _ = BufReader::new(stderr).read_to_string(&mut text);
            text
        });
        let mut built = Built::default();
        let mut success = false;
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let Ok(message) = serde_json::from_str::<Message>(&line.unwrap_or_default()) else {
                continue;
            };
            match message.reason.as_str() {
                "compiler-artifact" => {
                    progress.inc(1);
                    if let Some(target) = &message.target {
                        progress.set_message(target.name.clone());
                    }
                    if message.manifest_path == manifest {
                        built.take(message);
                    }
                }
                "build-finished" => success = message.success,
                _ => {}
            }
        }
        let status = child.wait().map_err(no_cargo)?;
        progress.finish_and_clear();
        let said = said.join().unwrap_or_default();
        if !(success && status.success()) {
            eprint!("{said}");
            let message = format!(
                "cargo could not build the crate for {}; what it says stands above",
                build.label
            );
            return Err(Failure::new(Fault::new(message).at(manifest.display())));
        }
        // Warnings are worth showing; lines like `Compiling x` are not.
        if said.lines().any(|line| line.starts_with("warning")) {
            let talk = [
                "Compiling",
                "Finished",
                "Downloading",
                "Downloaded",
                "Updating",
                "Locking",
                "Adding",
                "Blocking",
                "Fresh",
            ];
            let worth = said
                .lines()
                .filter(|line| !talk.iter().any(|word| line.trim_start().starts_with(word)));
            worth.for_each(|line| output.note(line));
        }
        Ok(built)
    }

    fn progress(&self, label: &str, output: &Output) -> ProgressBar {
        if !output.is_interactive() {
            output.note(&format!("building for {label}"));
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} {prefix:<16} [{bar:30}] {pos}/{len} {msg}")
            .expect("the template is a constant")
            .progress_chars("=> ");
        let progress = ProgressBar::new(self.packages)
            .with_style(style)
            .with_prefix(label.to_owned());
        progress.enable_steady_tick(Duration::from_millis(120));
        progress
    }
}

impl Built {
    fn take(&mut self, message: Message) {
        let Some(target) = message.target else { return };
        if let Some(executable) = message
            .executable
            .filter(|_| target.kind.iter().any(|it| it == "bin"))
        {
            self.executables.push((target.name, executable));
        } else if target.crate_types.iter().any(|it| it == "cdylib") {
            let is_library = |it: &&PathBuf| {
                it.extension()
                    .is_some_and(|it| ["so", "dylib", "dll", "wasm"].iter().any(|known| it == *known))
            };
            self.library = message.filenames.iter().find(is_library).cloned();
        }
    }
}

fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    command
}

/// The crate's manifest as cargo spells it.
fn manifest_path(dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join("Cargo.toml");
    std::path::absolute(&path).map_err(|error| Failure::new(Fault::new(error.to_string()).at(path.display())))
}

fn no_cargo(error: std::io::Error) -> Failure {
    Failure::new(
        Fault::new(format!("cannot run cargo: {error}"))
            .hint("install Rust from https://rustup.rs, or set $CARGO"),
    )
}
