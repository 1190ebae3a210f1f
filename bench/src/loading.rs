//! Loading rows: first load, hot load while serving, peak memory, idle memory. Each runtime in a process of its own, so that peaks do not mix.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use echo::contract::{EchoClient, VersionRequest};
use mortise::{Host, manifest::RuntimeName};
use serde::{Deserialize, Serialize};

use crate::{
    subject::{self, Reuse},
    table::Row,
};

/// Published for a plugin system of this kind on a larger machine: first load ms, hot load ms, peak memory MB.
const PUBLISHED: [(RuntimeName, &str, [f64; 3]); 3] = [
    (RuntimeName::Native, "in-process library", [42.3, 8.7, 14.2]),
    (RuntimeName::Process, "gRPC process", [116.5, 23.8, 28.6]),
    (RuntimeName::Wasm, "WebAssembly", [68.9, 15.2, 19.3]),
];

/// What one process measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    first_load_ms: f64,
    start_to_first_call_ms: f64,
    hot_load_ms: f64,
    cached_load_ms: f64,
    peak_added_mib: f64,
    calls_during_hot_load: u64,
}

/// Measures one runtime and prints the result as JSON: run in a process of its own.
///
/// # Errors
/// If a package is not there or does not load.
pub async fn measure(runtime: RuntimeName, data: &Path) -> Result<()> {
    let (old, new) = (subject::package("echo")?, subject::package("echo-1.1")?);
    let host = subject::host(&[runtime], data, Reuse::Ephemeral).await?;
    let idle = kib("/proc/self/status", "VmRSS:")?;

    let started = Instant::now();
    subject::load(&host, "echo", runtime, &old).await?;
    let first_load_ms = ms(started.elapsed());
    let version = version(&host).await?;
    let start_to_first_call_ms = ms(started.elapsed());
    if version != "1.0.0" {
        bail!("1.0.0 was loaded, and {version} answers");
    }

    let stop = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    let caller = async {
        while !stop.load(Ordering::Relaxed) {
            self::version(&host).await?;
            calls.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    let swap = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        let loaded = subject::load(&host, "echo", runtime, &new).await;
        let took = ms(started.elapsed());
        stop.store(true, Ordering::Relaxed);
        loaded.map(|()| took)
    };
    let (called, hot_load_ms) = tokio::join!(caller, swap);
    called?;
    let hot_load_ms = hot_load_ms?;
    if self::version(&host).await? != "1.1.0" {
        bail!("1.1.0 was loaded, and another version answers");
    }
    let child = host.inspect("echo")?.usage.pid;
    let child_peak = child
        .map(|pid| kib(&format!("/proc/{pid}/status"), "VmHWM:"))
        .transpose()?
        .unwrap_or(0.0);
    let peak_added_mib = (kib("/proc/self/status", "VmHWM:")? - idle + child_peak) / 1024.0;

    // The same version again, with everything that a first load leaves behind.
    host.unload("echo").await?;
    let started = Instant::now();
    subject::load(&host, "echo", runtime, &old).await?;
    let cached_load_ms = ms(started.elapsed());
    host.shutdown().await;
    let measured = Measured {
        first_load_ms,
        start_to_first_call_ms,
        hot_load_ms,
        cached_load_ms,
        peak_added_mib,
        calls_during_hot_load: calls.into_inner(),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Prints the resident memory of an idle host with three runtimes and of the launcher that waits for a plugin, in MiB: run in a process of its own.
///
/// # Errors
/// If the host does not start.
pub async fn idle(data: &Path) -> Result<()> {
    let runtimes = [RuntimeName::Native, RuntimeName::Wasm, RuntimeName::Process];
    let host = subject::host(&runtimes, data, Reuse::Ephemeral).await?;
    // Long enough for a launcher to be ready.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut all = kib("/proc/self/status", "VmRSS:")?;
    for thread in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        for child in children.split_whitespace() {
            all += kib(&format!("/proc/{child}/status"), "VmRSS:")?;
        }
    }
    println!("{}", all / 1024.0);
    host.shutdown().await;
    Ok(())
}

/// The rows.
///
/// # Errors
/// If a child process fails.
pub fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (runtime, name, published) in PUBLISHED {
        // The least of five: noise only ever adds.
        let runs: Vec<Measured> = (0..5)
            .map(|_| Ok(serde_json::from_str(&child(&["measure", runtime.as_str()])?)?))
            .collect::<Result<_>>()?;
        let least = |of: fn(&Measured) -> f64| runs.iter().map(of).fold(f64::MAX, f64::min);
        let anchor = format!("published, {name}");
        let row = |what: &str, ours, published, unit| {
            Row::new(
                format!("{runtime}: {what}"),
                ours,
                anchor.clone(),
                published,
                unit,
            )
            .below(published)
        };
        rows.push(row(
            "first load",
            least(|it| it.first_load_ms),
            published[0],
            "ms",
        ));
        rows.push(row(
            "hot load while serving",
            least(|it| it.hot_load_ms),
            published[1],
            "ms",
        ));
        rows.push(row(
            "peak memory added",
            least(|it| it.peak_added_mib),
            published[2],
            "MiB",
        ));
        let first = least(|it| it.first_load_ms);
        let cached = least(|it| it.cached_load_ms);
        rows.push(Row::new(
            format!("{runtime}: load again, caches warm"),
            cached,
            "its own first load",
            first,
            "ms",
        ));
        let call = least(|it| it.start_to_first_call_ms);
        let row = Row::new(
            format!("{runtime}: load to first answer"),
            call,
            "its own first load",
            first,
            "ms",
        );
        rows.push(if runtime == RuntimeName::Process {
            row.below(5.0)
        } else {
            row
        });
    }
    let bare = child(&["idle-bare"])?.trim().parse()?;
    let idle = child(&["idle"])?.trim().parse()?;
    rows.push(
        Row::new(
            "host with three runtimes, idle",
            idle,
            "this program doing nothing",
            bare,
            "MiB",
        )
        .below(40.0),
    );
    Ok(rows)
}

/// Prints the resident memory of this program doing nothing, in MiB.
///
/// # Errors
/// If /proc does not say.
pub fn idle_bare() -> Result<()> {
    println!("{}", kib("/proc/self/status", "VmRSS:")? / 1024.0);
    Ok(())
}

pub(crate) async fn version(host: &Host) -> Result<String> {
    Ok(EchoClient::new(host.plugin("echo"))
        .version(&VersionRequest {})
        .await?
        .version)
}

fn child(arguments: &[&str]) -> Result<String> {
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        bail!(
            "{arguments:?} ended with {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn kib(path: &str, field: &str) -> Result<f64> {
    let status = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(line
        .and_then(|it| it.split_whitespace().next())
        .with_context(|| format!("no {field}"))?
        .parse()?)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
