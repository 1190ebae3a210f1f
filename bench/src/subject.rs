//! Hosts and packages to measure.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use mortise::{Host, LoadRequest, Source, manifest::RuntimeName, runtime};

/// The package made of a folder of `plugins/`: in release mode as users build it, else as `cargo xtask guests` leaves it for tests.
///
/// # Errors
/// If it is not there.
pub fn package(folder: &str) -> Result<PathBuf> {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let own = || {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/mortise-packages")
            .join(profile)
    };
    let packages = std::env::var_os("MORTISE_PACKAGES").map_or_else(own, PathBuf::from);
    let package = packages.join(folder);
    ensure!(
        package.exists(),
        "{} is not there\nhint: `cargo xtask bench` builds it in release mode, `cargo xtask guests` for tests",
        package.display()
    );
    Ok(package)
}

/// How WebAssembly instances live.
pub use runtime::wasm::Reuse;

/// A host with the WebAssembly runtime alone, whose code is optimised from the first call: what a plugin that is called often comes to.
///
/// # Errors
/// What the host says.
pub async fn optimised_host(data: &Path, reuse: Reuse) -> Result<Host> {
    let config = runtime::wasm::WasmConfig {
        reuse,
        tiering: runtime::wasm::Tiering::OptimisedOnly,
        ..Default::default()
    };
    let builder = Host::builder().data_dir(data.join("data"));
    let runtime = runtime::wasm::WasmRuntime::new(config)?;
    Ok(builder.runtime(runtime).start().await?)
}

/// A host with one runtime, or with all three, and nothing loaded.
///
/// # Errors
/// What the host says.
pub async fn host(runtimes: &[RuntimeName], data: &Path, reuse: Reuse) -> Result<Host> {
    let mut builder = Host::builder().data_dir(data.join("data"));
    for name in runtimes {
        builder = match name {
            RuntimeName::Native => {
                let config = runtime::native::NativeConfig::new(data.join("native"));
                builder.runtime(runtime::native::NativeRuntime::new(config))
            }
            RuntimeName::Process => {
                let config = runtime::process::ProcessConfig::new(data.join("run"));
                builder.runtime(runtime::process::ProcessRuntime::new(config)?)
            }
            RuntimeName::Wasm => {
                let config = runtime::wasm::WasmConfig {
                    cache_dir: Some(data.join("aot")),
                    reuse,
                    ..Default::default()
                };
                builder.runtime(runtime::wasm::WasmRuntime::new(config)?)
            }
            RuntimeName::Builtin => builder,
        };
    }
    Ok(builder.start().await?)
}

/// Loads a package under `name`.
///
/// # Errors
/// What the host says.
pub async fn load(host: &Host, name: &str, runtime: RuntimeName, package: &Path) -> Result<()> {
    let mut request = LoadRequest::new(Source::Folder(package.to_owned()));
    request.name = Some(name.to_owned());
    request.runtime = Some(runtime);
    // The echo plugin asks for key-value data.
    request.grant.permissions.kv = true;
    host.load(request)
        .await
        .with_context(|| format!("{} on {runtime}", package.display()))?;
    Ok(())
}
