//! Finding a Rust compiler that has a standard library for WebAssembly.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::exit::{Failure, Fault};

/// The target that guests are compiled to: no system at all, so that they import nothing but the fixed world.
pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// Names a compiler for WebAssembly guests; wins over everything that would be found.
pub(crate) const WASM_RUSTC: &str = "MORTISE_WASM_RUSTC";

/// A compiler for WebAssembly guests.
#[derive(Debug)]
pub(crate) struct WasmToolchain {
    /// What to set RUSTC to; `None` = cargo's own choice has the target.
    pub(crate) rustc: Option<PathBuf>,
    /// Why it was chosen.
    pub(crate) found: String,
}

/// Looks for a compiler that can make WebAssembly, for a plugin in `dir`.
pub(crate) fn wasm(dir: &Path) -> Result<WasmToolchain, Failure> {
    if let Some(rustc) = env::var_os(WASM_RUSTC).filter(|it| !it.is_empty()) {
        let rustc = PathBuf::from(rustc);
        return match target_libdir(&rustc) {
            Some(_) => Ok(WasmToolchain {
                found: format!("${WASM_RUSTC}"),
                rustc: Some(rustc),
            }),
            None => {
                let message = format!(
                    "${WASM_RUSTC} is `{}`, which has no standard library for {WASM_TARGET}",
                    rustc.display()
                );
                Err(Failure::new(
                    Fault::new(message).hint("point it at a compiler that has one, or unset it"),
                ))
            }
        };
    }
    let own = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    if target_libdir(Path::new(&own)).is_some() {
        return Ok(WasmToolchain {
            rustc: None,
            found: format!("`{}` has the target", own.to_string_lossy()),
        });
    }
    let exe = env::current_exe().ok();
    let near = [Some(dir), exe.as_deref()];
    let checkout = near
        .into_iter()
        .flatten()
        .flat_map(Path::ancestors)
        .find_map(|folder| {
            let rustc = folder.join("target/wasm-toolchain/bin/rustc");
            target_libdir(&rustc).map(|_| rustc)
        });
    if let Some(rustc) = checkout {
        return Ok(WasmToolchain {
            found: "set up by `cargo xtask setup`".to_owned(),
            rustc: Some(rustc),
        });
    }
    let message = format!("there is no Rust standard library for {WASM_TARGET} here");
    let hint = format!(
        "run `rustup target add {WASM_TARGET}`, or `cargo xtask setup` in a checkout of Mortise, or set ${WASM_RUSTC}"
    );
    Err(Failure::new(Fault::new(message).hint(hint)))
}

/// Where `rustc` keeps the target's standard library, if it has one.
fn target_libdir(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", WASM_TARGET])
        .output()
        .ok()?;
    let dir = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let has_core = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libcore-");
    (output.status.success() && fs::read_dir(&dir).ok()?.flatten().any(has_core)).then_some(dir)
}

/// The first line of `COMMAND --version`; empty if it does not say.
pub(crate) fn version(command: &Path) -> String {
    let output = Command::new(command).arg("--version").output();
    let text = output
        .map(|it| String::from_utf8_lossy(&it.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
