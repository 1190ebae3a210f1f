//! Neighbours: what ten greedy plugins do to an innocent one.
//!
//! Four native plugins block their threads, three WebAssembly plugins and three processes compute without an end, each for [`CALLERS`] callers at
//! once. Beside them one plugin per runtime answers small calls, one after another. Its 99th percentile stands beside the same without neighbours, in
//! the same run. Ten plugins that compute on two cores leave nobody a core of his own, so the ratio is what the scheduling of the host and
//! of the kernel makes of it; what must not happen is that a call waits until its neighbours are done.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use echo::contract::{EchoRequest, SleepRequest, SpinRequest};
use hdrhistogram::Histogram;
use mortise::{CallOptions, Host, manifest::RuntimeName};
use prost::Message as _;
use tokio::task::JoinHandle;

use crate::{
    subject::{self, Reuse},
    table::Row,
};

/// Calls that each greedy plugin works on at once.
const CALLERS: u32 = 4;
/// How long one greedy call takes, and the deadline of those that would never end.
const GREEDY: Duration = Duration::from_millis(500);
/// Deadline of an innocent call: beyond it its plugin starves.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an innocent plugin is watched in the table.
pub const WATCH: Duration = Duration::from_secs(4);

const INNOCENTS: [RuntimeName; 3] = [RuntimeName::Native, RuntimeName::Wasm, RuntimeName::Process];

/// The rows, with so much time for each innocent plugin alone and as much beside the others.
///
/// # Errors
/// If the packages are not there or do not load, or an innocent call fails.
pub async fn rows(data: &Path, watched: Duration) -> Result<Vec<Row>> {
    let package = subject::package("echo")?;
    let host = subject::host(&INNOCENTS, data, Reuse::Ephemeral).await?;
    for runtime in INNOCENTS {
        subject::load(&host, &format!("innocent-{runtime}"), runtime, &package).await?;
    }
    let alone = watch_all(&host, watched).await?;
    let over = Arc::new(AtomicBool::new(false));
    let mut loaded = Vec::new();
    for number in 0..10 {
        let runtime = match number {
            0..4 => RuntimeName::Native,
            4..7 => RuntimeName::Wasm,
            _ => RuntimeName::Process,
        };
        let name = format!("greedy-{number}");
        subject::load(&host, &name, runtime, &package).await?;
        loaded.push((name, runtime));
    }
    // Once all are there: how long a start takes beside them is another question.
    let mut neighbours = Vec::new();
    for (name, runtime) in &loaded {
        for _ in 0..CALLERS {
            neighbours.push(be_greedy(&host, name, *runtime, &over));
        }
    }
    let beside = watch_all(&host, watched).await?;
    over.store(true, Ordering::Relaxed);
    for neighbour in neighbours {
        ensure!(neighbour.await? > 0, "a greedy plugin was never called");
    }
    host.shutdown().await;
    let mut rows = Vec::new();
    for ((runtime, alone), (_, beside)) in alone.iter().zip(&beside) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let us = |it: &Histogram<u64>| it.value_at_quantile(quantile) as f64 / 1000.0;
            let path = format!("{runtime}, 16 B, beside 10 greedy plugins, {name}");
            rows.push(Row::new(
                path,
                us(beside),
                "the same without neighbours",
                us(alone),
                "us",
            ));
        }
    }
    Ok(rows)
}

async fn watch_all(host: &Host, watched: Duration) -> Result<Vec<(RuntimeName, Histogram<u64>)>> {
    let mut all = Vec::new();
    for runtime in INNOCENTS {
        // On the host's executor, where the calls of a gateway run, and not on a thread of its own.
        let watching = watch(host.clone(), format!("plugin.innocent-{runtime}.Echo"), watched);
        all.push((runtime, tokio::spawn(watching).await??));
    }
    Ok(all)
}

/// Times of calls one after another, in nanoseconds.
async fn watch(host: Host, target: String, watched: Duration) -> Result<Histogram<u64>> {
    let request = EchoRequest {
        message: vec![7; 14],
        text: String::new(),
    };
    let request = Bytes::from(request.encode_to_vec());
    let mut times = Histogram::new(3)?;
    let until = Instant::now() + watched;
    while Instant::now() < until {
        let began = Instant::now();
        let options = CallOptions {
            deadline: Some(began + PATIENCE),
            ..CallOptions::default()
        };
        host.call(&target, request.clone(), options).await?;
        times.record(u64::try_from(began.elapsed().as_nanos())?)?;
    }
    Ok(times)
}

/// One caller of a greedy plugin; the number of its calls.
fn be_greedy(host: &Host, name: &str, runtime: RuntimeName, over: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let ms = u32::try_from(GREEDY.as_millis()).unwrap_or(u32::MAX);
    let (method, request) = match runtime {
        RuntimeName::Native => ("Sleep", SleepRequest { ms }.encode_to_vec()),
        // In WebAssembly it spins until it is stopped.
        _ => ("Spin", SpinRequest { bound_ms: ms }.encode_to_vec()),
    };
    let (target, request) = (format!("plugin.{name}.{method}"), Bytes::from(request));
    let (host, over) = (host.clone(), over.clone());
    tokio::spawn(async move {
        let mut calls = 0;
        while !over.load(Ordering::Relaxed) {
            let options = CallOptions {
                deadline: (runtime == RuntimeName::Wasm).then(|| Instant::now() + GREEDY),
                ..CallOptions::default()
            };
            // That it ends at its deadline is what it is for.
            let _ = host.call(&target, request.clone(), options).await;
            calls += 1;
        }
        calls
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    /// No figure is asserted, but every innocent call is answered in its time, or `rows` fails.
    #[tokio::test(flavor = "multi_thread")]
    async fn innocent_plugins_answer_beside_ten_greedy_ones() {
        let data = tempfile::tempdir().expect("a folder");
        let rows = rows(data.path(), Duration::from_secs(1))
            .await
            .expect("nobody starves");
        assert_eq!(rows.len(), 6);
        table::print("Greedy neighbours", &rows);
    }
}
