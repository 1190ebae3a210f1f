//! Watching rows: from the rename that completes a package to the first call that the new version answers, and a restart with a directory of 100 plugins.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mortise::{
    Host, HostConfig, LoadRequest, Source,
    manifest::{PluginTerms, RuntimeName, WatchConfig},
    runtime::native::{NativeConfig, NativeRuntime},
};

use crate::{loading::version, subject, table::Row};

/// Swaps by a rename.
const SWAPS: usize = 31;
/// Plugins of the restart.
const PLUGINS: usize = 100;

/// The rows.
///
/// # Errors
/// If a package is not there or does not load.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    fs::create_dir_all(data)?;
    let mut rows = latency(&data.join("latency")).await?;
    rows.extend(restart(&data.join("restart")).await?);
    Ok(rows)
}

async fn latency(data: &Path) -> Result<Vec<Row>> {
    let directory = data.join("plugins");
    fs::create_dir_all(&directory)?;
    let watch = watch(&directory);
    let quiet = watch.quiet;
    let host = host(data, Some(watch)).await?;
    let versions = [("echo", "1.0.0"), ("echo-1.1", "1.1.0")];
    let (mut prepared, mut fresh) = (Vec::new(), Vec::new());
    for round in 0..SWAPS {
        let (package, wanted) = versions[round % 2];
        // Prepared long ago and moved in; then written a moment ago and moved in.
        for (times, rest) in [(&mut prepared, quiet * 2), (&mut fresh, Duration::ZERO)] {
            let other = versions[(round + 1) % 2].0;
            publish(
                data,
                &directory,
                if rest.is_zero() { other } else { package },
                rest,
            )?;
            let renamed = Instant::now();
            let wanted = if rest.is_zero() {
                versions[(round + 1) % 2].1
            } else {
                wanted
            };
            while version(&host).await.ok().as_deref() != Some(wanted) {
                ensure!(
                    renamed.elapsed() < Duration::from_secs(30),
                    "{wanted} does not come"
                );
                tokio::task::yield_now().await;
            }
            times.push(ms(renamed.elapsed()));
        }
    }
    host.watch(None).await;
    // The anchor: the same swaps by a load.
    let mut loads = Vec::new();
    for round in 0..SWAPS {
        let package = subject::package(versions[round % 2].0)?;
        let started = Instant::now();
        subject::load(&host, "echo", RuntimeName::Native, &package).await?;
        version(&host).await?;
        loads.push(ms(started.elapsed()));
    }
    host.shutdown().await;
    let anchor = median(&mut loads);
    let row = |what: &str, ours, anchor_name: &str, anchor| Row::new(what, ours, anchor_name, anchor, "ms");
    Ok(vec![
        row(
            "rename to first answer, p50",
            median(&mut prepared),
            "the same swap by a load",
            anchor,
        )
        .below(100.0),
        row(
            "rename to first answer, max",
            most(&prepared),
            "the same swap by a load",
            most(&loads),
        ),
        row(
            "written just before the rename, p50",
            median(&mut fresh),
            "quiet time and the same swap by a load",
            anchor + ms(quiet),
        )
        .at_most_times(1.5),
    ])
}

async fn restart(data: &Path) -> Result<Vec<Row>> {
    let directory = data.join("plugins");
    let names: Vec<String> = (0..PLUGINS).map(|number| format!("p{number:03}")).collect();
    for name in &names {
        named_package(&directory.join(name), name)?;
    }
    tokio::time::sleep(WatchConfig::QUIET * 2).await;
    // What a first start leaves behind, so that both start alike.
    host(data, Some(watch(&directory))).await?.shutdown().await;

    let started = Instant::now();
    let watching = host(data, Some(watch(&directory))).await?;
    let ours = ms(started.elapsed());
    let serving = watching.list().iter().filter(|it| it.state.is_routed()).count();
    ensure!(
        serving == PLUGINS,
        "{serving} of {PLUGINS} plugins serve after a restart"
    );
    watching.shutdown().await;
    drop(watching);

    let started = Instant::now();
    let plain = host(data, None).await?;
    for name in &names {
        let mut request = LoadRequest::new(Source::folder(directory.join(name))).runtime(RuntimeName::Native);
        request.grant.permissions.kv = true;
        plain.load(request).await.with_context(|| name.clone())?;
    }
    let anchor = ms(started.elapsed());
    plain.shutdown().await;
    Ok(vec![
        Row::new(
            format!("restart with {PLUGINS} plugins in the directory"),
            ours,
            "the same loads one by one",
            anchor,
            "ms",
        )
        .at_most_times(1.0),
    ])
}

fn watch(directory: &Path) -> WatchConfig {
    let mut defaults = PluginTerms {
        runtime: Some(RuntimeName::Native),
        ..PluginTerms::default()
    };
    // The echo plugin asks for key-value data.
    defaults.grant.permissions.kv = true;
    WatchConfig {
        defaults,
        ..WatchConfig::new(directory.to_string_lossy())
    }
}

async fn host(data: &Path, watch: Option<WatchConfig>) -> Result<Host> {
    let config = HostConfig {
        watch,
        ..HostConfig::default()
    };
    let builder = Host::builder()
        .data_dir(data.join("data"))
        .runtime(NativeRuntime::new(NativeConfig::new(data.join("native"))))
        .remember_loads()
        .config(config);
    Ok(builder.start().await?)
}

/// Copies a package beside the directory, rests, and moves it in, in place of what is there.
fn publish(data: &Path, directory: &Path, package: &str, rest: Duration) -> Result<()> {
    let (staged, old, place) = (data.join("staged"), data.join("old"), directory.join("echo"));
    copy(&subject::package(package)?, &staged)?;
    std::thread::sleep(rest);
    if place.exists() {
        fs::rename(&place, &old)?;
    }
    fs::rename(staged, place)?;
    let _ = fs::remove_dir_all(old);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// The package `echo`, native only, under another name of four letters: in its manifest, and in the metadata of its library.
fn named_package(folder: &Path, name: &str) -> Result<()> {
    ensure!(
        name.len() == "echo".len(),
        "the name must be as long as the one it replaces"
    );
    let echo: PathBuf = subject::package("echo")?;
    fs::create_dir_all(folder)?;
    fs::copy(echo.join("contract.binpb"), folder.join("contract.binpb"))?;
    let manifest = fs::read_to_string(echo.join("plugin.toml"))?;
    let native = |it: &&str| !it.contains("runtime = \"process\"") && !it.contains("runtime = \"wasm\"");
    let manifest: Vec<_> = manifest
        .split("[[variant]]")
        .enumerate()
        .map(|(at, part)| match (at, native(&part), part.split_once("\n\n")) {
            (0, ..) | (_, true, _) => part.to_owned(),
            // Without this variant, and with what stands after it.
            (_, false, rest) => format!("\0{}", rest.map_or("", |it| it.1)),
        })
        .collect();
    let manifest = manifest.join("[[variant]]").replace("[[variant]]\0", "");
    fs::write(
        folder.join("plugin.toml"),
        manifest.replace("name = \"echo\"", &format!("name = \"{name}\"")),
    )?;
    let mut library = fs::read(echo.join("echo.so"))?;
    // Fields 2 and 3 of the metadata: name and version.
    let field = b"\x12\x04echo\x1a\x051.0.0";
    let at = library.windows(field.len()).position(|it| it == field);
    let at = at.context("echo.so has no metadata as it used to have")? + 2;
    library[at..at + name.len()].copy_from_slice(name.as_bytes());
    fs::write(folder.join("echo.so"), library)?;
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
