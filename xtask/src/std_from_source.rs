//! A compiler with a standard library for a target that rustup cannot bring: Debian's `rustc-web` and its own source.
//!
//! rustup's toolchains come without the library's source, and a library must be built by exactly the compiler that uses it. Debian packages
//! both halves of one release: `rustc-web` and `rust-web-src`. So the library is built once with those, into a folder that looks like a
//! sysroot, with a `bin/rustc` that points the compiler there:
//! ```text
//! target/wasm-toolchain/bin/rustc                              exec /usr/bin/rustc --sysroot target/wasm-toolchain "$@"
//! target/wasm-toolchain/lib/rustlib/wasm32-unknown-unknown/    the library that was built here
//! target/wasm-toolchain/lib/rustlib/{host}/lib                 -> Debian's, for build scripts and macros
//! target/wasm-toolchain/lib/rustlib/{host}/bin                 -> rustup's, for rust-lld
//! ```
//! It is used as `RUSTC=target/wasm-toolchain/bin/rustc cargo build --target ..`, with any cargo. Nothing outside `target/` changes, and
//! rustup does not know about it.
//!
//! Whether it (still) works is asked of the compiler: a library in the target is compiled and linked. That also finds a `rustc-web` that was
//! upgraded under a library of the old release.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::{self, Outcome},
    step::{Step, say},
    workspace::Workspace,
};

/// Debian's compiler, its cargo and their source.
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
/// Where `rustc-web` is installed.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// The dependencies of the standard library, as `rust-web-src` brings them.
const VENDORED: &str = "/usr/lib/rustlib/src/rust/library/vendor";
/// Longest time `rustup target add` may take; behind a firewall it would try for minutes.
const RUSTUP_BOUND: Duration = Duration::from_secs(45);

/// A compiler for a target.
pub(crate) enum Compiler {
    /// The one cargo uses anyway.
    Own,
    /// This one; set `RUSTC` to it.
    At(PathBuf),
    /// There is none; this is what to do.
    Missing(String),
}

/// Finds or makes a compiler for `target`; a made one lies in `target/{folder}`.
pub(crate) fn compiler_for(workspace: &Workspace, target: &str, folder: &str) -> Result<Compiler> {
    if has_std(Path::new("rustc"), target) {
        return Ok(Compiler::Own);
    }
    let made = workspace.target().join(folder);
    if works(&made, target) {
        return Ok(Compiler::At(made.join("bin/rustc")));
    }
    if debian::succeeds(Command::new("rustup").arg("--version")) {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", target]);
        let step = Step::new(workspace, format!("rustup target add {target}")).within(RUSTUP_BOUND);
        match step.run(&mut rustup) {
            Ok(_) if has_std(Path::new("rustc"), target) => return Ok(Compiler::Own),
            Ok(_) => say("  rustup added the target, but the compiler in PATH does not see it"),
            Err(_) => say(&format!(
                "  rustup cannot add {target} here; building its standard library from source"
            )),
        }
    }
    if !debian::is_debian() {
        return Ok(Compiler::Missing(format!("rustup target add {target}")));
    }
    if let Outcome::Missing(command) =
        debian::install(workspace, PACKAGES, &format!("standard library for {target}"))?
    {
        return Ok(Compiler::Missing(command));
    }
    build(workspace, &made, target)?;
    if !works(&made, target) {
        bail!(
            "the standard library for {target} was built into {}, and the compiler cannot use it; remove that folder and run \
             `cargo xtask setup` again",
            workspace.relative(&made)
        );
    }
    Ok(Compiler::At(made.join("bin/rustc")))
}

/// Whether `rustc` has a standard library for `target`.
fn has_std(rustc: &Path, target: &str) -> bool {
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", target])
        .output();
    let Some(folder) = output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
    else {
        return false;
    };
    let Ok(entries) = fs::read_dir(folder.trim()) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Whether the compiler in `folder` makes something of a small library. Linking is part of it only where a linker is at hand.
fn works(folder: &Path, target: &str) -> bool {
    let rustc = folder.join("bin/rustc");
    if !has_std(&rustc, target) {
        return false;
    }
    let probe = folder.join("probe.rs");
    let kind = if target.starts_with("wasm32") {
        "cdylib"
    } else {
        "rlib"
    };
    fs::write(
        &probe,
        "//! Does the library fit the compiler?\npub fn answer() -> String { 42.to_string() }\n",
    )
    .is_ok()
        && debian::succeeds(
            Command::new(&rustc)
                .args([
                    "--edition",
                    "2021",
                    "--crate-type",
                    kind,
                    "--target",
                    target,
                    "--out-dir",
                ])
                .arg(folder.join("probe"))
                .arg(&probe),
        )
}

fn build(workspace: &Workspace, folder: &Path, target: &str) -> Result<()> {
    let host = host_triple()?;
    let unfinished = folder.with_extension("unfinished");
    for old in [folder, &unfinished] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    let library = unfinished.join("lib/rustlib").join(target).join("lib");
    fs::create_dir_all(&library)?;
    compile_std(workspace, &unfinished.join("build"), target, &library)?;
    fs::remove_dir_all(unfinished.join("build"))?;
    let of_host = unfinished.join("lib/rustlib").join(&host);
    fs::create_dir_all(&of_host)?;
    symlink(
        Path::new("/usr/lib/rustlib").join(&host).join("lib"),
        of_host.join("lib"),
    )?;
    symlink(linker_folder(&host)?, of_host.join("bin"))?;
    fs::create_dir_all(unfinished.join("bin"))?;
    let rustc = unfinished.join("bin/rustc");
    fs::write(
        &rustc,
        format!(
            "#!/bin/sh\nexec {RUSTC} --sysroot '{}' \"$@\"\n",
            folder.display()
        ),
    )?;
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755))?;
    fs::rename(&unfinished, folder)?;
    // Cargo does not notice that the library below its guests has changed.
    let guests = workspace.target().join("plugins").join(target);
    if guests.exists() {
        fs::remove_dir_all(&guests).with_context(|| format!("cannot remove {}", guests.display()))?;
    }
    Ok(())
}

/// Builds std in an empty crate and copies what came out of it to `library`.
fn compile_std(workspace: &Workspace, crate_folder: &Path, target: &str, library: &Path) -> Result<()> {
    fs::create_dir_all(crate_folder.join("src"))?;
    fs::write(crate_folder.join("src/lib.rs"), "")?;
    let manifest = crate_folder.join("Cargo.toml");
    fs::write(
        &manifest,
        "[package]\nname = \"empty\"\nedition = \"2021\"\n[workspace]\n",
    )?;
    let mut cargo = Command::new(CARGO);
    cargo
        .args([
            "build",
            "--release",
            "-Zbuild-std=std,panic_abort",
            "--target",
            target,
            "--manifest-path",
        ])
        .arg(&manifest);
    if Path::new(VENDORED).is_dir() {
        cargo.args([
            "--offline",
            "--config",
            "source.crates-io.replace-with='vendored'",
            "--config",
        ]);
        cargo.arg(format!("source.vendored.directory='{VENDORED}'"));
    }
    // What cargo and rustup told this process about its own build must not reach another toolchain's.
    for variable in [
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(variable);
    }
    // Guests with LTO need the library's bitcode. `RUSTC_BOOTSTRAP` is what makes `-Zbuild-std` work on a stable release.
    cargo
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Cembed-bitcode=yes");
    cargo.env("CARGO_TARGET_DIR", crate_folder.join("target"));
    Step::new(
        workspace,
        format!("building std for {target} from source (a minute or two)"),
    )
    .run(&mut cargo)?;
    let made = crate_folder.join("target").join(target).join("release/deps");
    for entry in fs::read_dir(&made).with_context(|| format!("cannot list {}", made.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".rlib") && !name.starts_with("libempty-") {
            fs::copy(&path, library.join(&*name))?;
        }
    }
    Ok(())
}

fn host_triple() -> Result<String> {
    let output = Command::new(RUSTC)
        .arg("-vV")
        .output()
        .with_context(|| format!("cannot run {RUSTC}"))?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .with_context(|| format!("{RUSTC} -vV names no host"))?
        .to_owned())
}

/// Where rustup's toolchain keeps rust-lld, which Debian's compiler looks for in its own sysroot.
fn linker_folder(host: &str) -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let folder = sysroot.join("lib/rustlib").join(host).join("bin");
    if !folder.join("rust-lld").exists() {
        bail!("{} has no rust-lld; install Rust with rustup", folder.display());
    }
    Ok(folder)
}
