//! One plugin on one runtime: load, first call, warm calls, memory, digest.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{ADDRESS, Photo, RunningHost};
use crate::http::Connection;

/// Rounds over all photographs after the first.
const ROUNDS: usize = 15;

/// One row of the table.
pub(super) struct Row {
    runtime: String,
    load: Duration,
    first: Duration,
    p50: Duration,
    p99: Duration,
    memory_kib: i64,
    /// BLAKE3 over all thumbnails.
    pub(super) digest: String,
}

/// Loads the package on `runtime`, sends it every photograph, writes the thumbnails, unloads it.
pub(super) fn runtime(
    host: &RunningHost,
    runtime: &str,
    package: &Path,
    photos: &[Photo],
    out: &Path,
) -> Result<Row> {
    let name = format!("thumbnailer-{runtime}");
    let mut control = Connection::unix(&host.control)?;
    let before = resident_kib(host.pid())?;
    let started = Instant::now();
    load(&mut control, &name, runtime, package)?;
    let load = started.elapsed();

    let mut http = Connection::tcp(ADDRESS)?;
    let mut hasher = blake3::Hasher::new();
    let mut first = None;
    fs::create_dir_all(out)?;
    for photo in photos {
        let (took, reply) = thumbnail(&mut http, &name, photo)?;
        first.get_or_insert(took);
        let image = reply["image"].as_str().context("a reply without an image")?;
        let image = BASE64_STANDARD.decode(image)?;
        hasher.update(&image);
        let ending = if image.starts_with(b"\x89PNG") {
            "png"
        } else {
            "jpg"
        };
        fs::write(out.join(format!("{}-{runtime}.{ending}", photo.name)), &image)?;
    }
    let mut warm = Vec::new();
    for _ in 0..ROUNDS {
        for photo in photos {
            warm.push(thumbnail(&mut http, &name, photo)?.0);
        }
    }
    warm.sort();
    let detail = control.call("mortise.inspect", &json!({"plugin": name}))?;
    let child = detail["usage"]["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok());
    let child_kib = child.map(resident_kib).transpose()?.unwrap_or(0);
    let memory_kib = resident_kib(host.pid())? - before + child_kib;
    control.call("mortise.unload", &json!({"plugin": name}))?;
    Ok(Row {
        runtime: runtime.to_owned(),
        load,
        first: first.context("there are no photographs")?,
        p50: warm[warm.len() / 2],
        p99: warm[warm.len() * 99 / 100],
        memory_kib,
        digest: hasher.finalize().to_hex()[..16].to_owned(),
    })
}

/// Loads a package under a name of its own.
pub(super) fn load(
    control: &mut Connection<std::os::unix::net::UnixStream>,
    name: &str,
    runtime: &str,
    package: &Path,
) -> Result<Value> {
    let limits = json!({"memory_mib": 256, "deadline_ms": 30_000});
    let params = json!({"source": package, "name": name, "runtime": runtime, "limits": limits});
    control.call("mortise.load", &params)
}

/// Sends one photograph and brings its thumbnail.
pub(super) fn thumbnail(
    http: &mut Connection<std::net::TcpStream>,
    name: &str,
    photo: &Photo,
) -> Result<(Duration, Value)> {
    let params = json!({"image": photo.base64, "maxSide": 160});
    let started = Instant::now();
    let reply = http.call(&format!("plugin.{name}.Thumbnail"), &params)?;
    Ok((started.elapsed(), reply))
}

/// Prints the table.
pub(super) fn print(rows: &[Row]) {
    println!(
        "\n{:<9} {:>9} {:>14} {:>13} {:>13} {:>13}  digest of the outputs",
        "runtime", "load ms", "first call ms", "warm p50 ms", "warm p99 ms", "memory +MiB"
    );
    let ms = |it: Duration| it.as_secs_f64() * 1000.0;
    for row in rows {
        println!(
            "{:<9} {:>9.1} {:>14.1} {:>13.1} {:>13.1} {:>13.1}  {}",
            row.runtime,
            ms(row.load),
            ms(row.first),
            ms(row.p50),
            ms(row.p99),
            row.memory_kib as f64 / 1024.0,
            row.digest
        );
    }
    println!("a call is a whole photograph over HTTP and back; warm is {ROUNDS} rounds over all of them");
}

fn resident_kib(pid: u32) -> Result<i64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|it| it.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse()?)
}
