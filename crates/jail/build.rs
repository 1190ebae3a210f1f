//! Compiles the launcher, a small executable of its own, and leaves it where the crate embeds it from.
//!
//! It is linked statically, so that it starts fast and needs no file in the jail; where the C library can't be linked so, dynamically.
//! On a system or processor that it does not know it is empty, and the crate says that there is no jail.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn main() {
    println!("cargo::rerun-if-changed=launcher");
    println!("cargo::rustc-check-cfg=cfg(launcher)");
    let built = PathBuf::from(var("OUT_DIR")).join("launcher");
    let known = matches!(var("CARGO_CFG_TARGET_ARCH").as_str(), "x86_64" | "aarch64");
    if var("CARGO_CFG_TARGET_OS") != "linux" || !known {
        return;
    }
    let linked_statically = compile(&built, true);
    if !linked_statically.status.success() {
        let linked = compile(&built, false);
        assert!(
            linked.status.success(),
            "the launcher can't be built for {}:\n{}\nlinked statically it fails so:\n{}",
            var("TARGET"),
            String::from_utf8_lossy(&linked.stderr),
            String::from_utf8_lossy(&linked_statically.stderr)
        );
        println!(
            "cargo::warning=the launcher is linked dynamically: it starts more slowly and needs its C library at run time"
        );
    }
    // A file that appears whole: an interrupted build leaves nothing that looks like a launcher.
    fs::metadata(&built).expect("rustc said that it wrote it");
    println!("cargo::rustc-cfg=launcher");
}

fn compile(to: &Path, statically: bool) -> Output {
    let mut rustc = Command::new(var("RUSTC"));
    rustc
        .args([
            "launcher/main.rs",
            "--crate-name",
            "mortise_launcher",
            "--crate-type",
            "bin",
        ])
        .args(["--edition", "2024", "--target", &var("TARGET")])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "lto=fat"])
        .args([
            "-C",
            "codegen-units=1",
            "-C",
            "strip=symbols",
            "-C",
            "overflow-checks=on",
        ])
        .args([
            "-C",
            if statically {
                "target-feature=+crt-static"
            } else {
                "target-feature=-crt-static"
            },
        ])
        .arg("-o")
        .arg(to);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    rustc.output().expect("RUSTC names a program")
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
