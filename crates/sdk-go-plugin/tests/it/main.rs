//! A plugin made with the SDK (`examples/sdk-double.rs`) under an unmodified Go host, and under the Rust one for what the Go host does not show.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]
#![cfg(target_os = "linux")]

mod generated;
#[path = "../../../../tests/go.rs"]
mod go;
mod go_host;
mod rust_host;

use std::path::{Path, PathBuf};

/// The plugin.
fn plugin() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let target = here.parent().and_then(Path::parent).unwrap();
    let path = target.join("examples/sdk-double");
    assert!(path.exists(), "{} is built with this test", path.display());
    path
}
