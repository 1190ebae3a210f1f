//! Builds the Go programs that the tests of several crates and the benchmarks run: `plugins/go-kv` and `tests/go-host`. Each of them includes this file.
//!
//! Debian's go-plugin is older than half of the protocol. `MORTISE_GO_PROGRAMS` names a folder where the two programs are already, made with go-plugin 1.6 or later (docs/go-plugin.md); the
//! same tests run them, and do more with them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// A folder with programs that are made with a go-plugin of the reader's choice.
const PROGRAMS: &str = "MORTISE_GO_PROGRAMS";
/// Where Debian puts the library.
const LIBRARY: &str = "/usr/share/gocode/src/github.com/hashicorp/go-plugin";

/// The program in a folder of this repository, built if it changed; `None`, and a line that says so, if there is no Go.
pub(crate) fn program(folder: &str) -> Option<PathBuf> {
    let name = Path::new(folder).file_name()?;
    linked(folder, name.to_str()?, "")
}

/// Whether the programs are made with go-plugin 1.6 or later.
#[allow(dead_code, reason = "not every crate that includes this asks")]
pub(crate) fn is_recent() -> bool {
    std::env::var_os(PROGRAMS).is_some()
}

/// The same under another name, with flags for Go's linker: `-X main.release=1.1.0`.
pub(crate) fn linked(folder: &str, name: &str, flags: &str) -> Option<PathBuf> {
    if let Some(programs) = std::env::var_os(PROGRAMS) {
        let program = Path::new(&programs).join(name);
        if program.exists() {
            return Some(program);
        }
        // What has flags may be missing there. The two themselves may not: they would be Debian's unnoticed.
        assert!(!flags.is_empty(), "{PROGRAMS} has no {name}");
    }
    let has_go = Command::new("go").arg("version").output().is_ok();
    if !has_go || !Path::new(LIBRARY).exists() {
        println!(
            "skipped: needs golang-go and golang-github-hashicorp-go-plugin-dev (cargo xtask setup installs them)"
        );
        return None;
    }
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = above
        .find(|it| it.join(folder).is_dir())
        .expect("a crate of the workspace");
    let source = root.join(folder);
    let target = root.join("target/go");
    let program = target.join(name);
    let is_stale = || modified(&program) < newest(&source);
    if is_stale() {
        fs::create_dir_all(&target).expect("target/go");
        // Every test may be a process of its own.
        let lock = File::create(program.with_extension("lock")).expect("the lock");
        lock.lock().expect("the lock");
        if is_stale() {
            build(&source, &target, &program, flags);
        }
    }
    Some(program)
}

/// Moved into its place when it is whole: a program that runs can't be written.
fn build(source: &Path, target: &Path, program: &Path, flags: &str) {
    let fresh = program.with_extension("new");
    let built = Command::new("go")
        .args(["build", "-ldflags", flags, "-o"])
        .arg(&fresh)
        .arg(".")
        .current_dir(source)
        .envs([
            ("GO111MODULE", "off"),
            ("CGO_ENABLED", "0"),
            ("GOFLAGS", "-p=2"),
            ("GOPATH", "/usr/share/gocode"),
        ])
        .env("GOCACHE", target.join("cache"))
        .output()
        .expect("go");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{}: {said}", source.display());
    fs::rename(&fresh, program).expect("the program");
}

fn newest(folder: &Path) -> SystemTime {
    let files = fs::read_dir(folder).expect("the program's folder");
    let files = files.map(|it| it.expect("an entry").path());
    files.map(|it| modified(&it)).max().expect("files")
}

/// When it was written; the beginning of time if it is not there.
fn modified(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|it| it.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
