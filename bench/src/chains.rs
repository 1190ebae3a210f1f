//! Several plugins that change as one, over and over, under calls that go from one to the other and back.
//!
//! `left` and `right` call each other, and each requires the other in its own major version; `counter` has state. All three change at once, to and fro:
//! neither version of `left` fits the other one of `right`, so a chain of calls that met both would be refused. Their packages of version 2 are those of version 1
//! with another number in them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use mortise::{CallOptions, Host, LoadRequest, Source, manifest::RuntimeName};
use prost::Message;

use crate::{
    soak::{Tally, add, counting},
    subject,
    swap::{VERSIONS, host, request},
};

/// What calls each other.
const PAIR: [&str; 2] = ["left", "right"];
/// Calls of one chain, after the first.
const HOPS: u32 = 4;
/// Callers of chains, and of the counter.
const CALLERS: (usize, usize) = (3, 2);

/// What `left` and `right` are asked; as in their contract.
#[derive(Clone, PartialEq, Message)]
struct PassRequest {
    #[prost(uint32, tag = "1")]
    hops: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PassReply {
    #[prost(message, repeated, tag = "1")]
    stops: Vec<Stop>,
}

#[derive(Clone, PartialEq, Message)]
struct Stop {
    #[prost(string, tag = "1")]
    instance: String,
}

/// Changes all three so many times. `Tally::lost` and `Tally::doubled` are of the counter.
///
/// # Errors
/// If a call fails, a chain meets two versions, or a number is missing or there twice.
pub async fn together(name: RuntimeName, changes: u64, data: &Path) -> Result<Tally> {
    let requests = [1, 2].map(|major| {
        let plugin = |plugin: &&str| {
            let folder = package(plugin, major, data)?;
            Ok::<_, anyhow::Error>(LoadRequest::new(Source::Folder(folder)).runtime(name))
        };
        let counter = request(name, VERSIONS[major as usize - 1], "{}");
        let all = PAIR.iter().map(plugin).chain([counter]);
        all.collect::<Result<Vec<_>>>()
    });
    let [one, two] = requests;
    let requests = [one?, two?];
    let host = host(name, data).await?;
    host.load_all(requests[0].clone()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let chains: Vec<_> = (0..CALLERS.0)
        .map(|_| tokio::spawn(chain(host.clone(), stop.clone())))
        .collect();
    let route = host.resolve("plugin.counter.Add", &[])?;
    let counters = counting(&host, &route, &stop, CALLERS.1);
    let mut tally = Tally::default();
    let mut pauses_us = Vec::new();
    while tally.swapped < changes {
        let next = usize::try_from(tally.swapped + 1)? % 2;
        match host.load_all(requests[next].clone()).await {
            Ok(_) => {
                tally.swapped += 1;
                let state = host.inspect("counter")?.state;
                pauses_us.extend(state.and_then(|it| it.pause_us));
            }
            // A machine that is busy with something else for longer than a swap may take: tried again, and counted.
            Err(error) if error.to_string().contains("limits.swap_ms") => tally.given_up += 1,
            Err(error) => return Err(error.into()),
        }
    }
    stop.store(true, Ordering::Relaxed);
    pauses_us.sort_unstable();
    if let (Some(median), Some(longest)) = (pauses_us.get(pauses_us.len() / 2), pauses_us.last()) {
        println!("{name}: the gate of `counter` was closed for {median} us (median), {longest} us at most");
    }
    for chain in chains {
        tally.calls += chain.await??;
    }
    let mut numbers = Vec::new();
    for counter in counters {
        numbers.append(&mut counter.await??);
    }
    let end = add(&host, &route, 0).await?;
    host.shutdown().await;
    tally.reckon(name, numbers, &end)?;
    Ok(tally)
}

/// Calls that go to and fro between `left` and `right`, until told to stop. How many there were.
async fn chain(host: Host, stop: Arc<AtomicBool>) -> Result<u64> {
    let payload: Bytes = PassRequest { hops: HOPS }.encode_to_vec().into();
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        let reply = host
            .call("plugin.left.Pass", payload.clone(), CallOptions::default())
            .await
            .with_context(|| format!("after {calls} calls"))?;
        let reply = PassReply::decode(&*reply)?;
        let version = |stop: &Stop| {
            let (_, version) = stop.instance.split_once('@')?;
            version.chars().next()
        };
        let first = reply.stops.first().and_then(version);
        ensure!(
            reply.stops.len() == HOPS as usize + 1 && reply.stops.iter().all(|it| version(it) == first),
            "a chain met two versions: {reply:?}"
        );
        calls += u64::from(HOPS) + 1;
    }
    Ok(calls)
}

/// A copy of a package as another major version of it, which requires that version of others.
fn package(plugin: &str, major: u32, data: &Path) -> Result<PathBuf> {
    let folder = data.join(format!("{plugin}-{major}"));
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(subject::package(plugin)?)? {
        let from = entry?.path();
        let to = folder.join(from.file_name().context("it is a file")?);
        fs::copy(&from, &to)?;
        if to.extension().is_some_and(|it| it == "toml") {
            let text = fs::read_to_string(&to)?;
            let text = text.replace("\"1.0.0\"", &format!("\"{major}.0.0\""));
            fs::write(&to, text.replace("\"^1\"", &format!("\"^{major}\"")))?;
        } else if to.extension().is_none_or(|it| it != "binpb") {
            // In the metadata that is part of every artifact it stands behind the name. An executable also says it in words of its own, which may be part of an
            // instruction, as far as they fit into one.
            let is_program = to.extension().is_none();
            let around: (&[u8], &[u8]) = if is_program {
                (b"", b".0.")
            } else {
                (b"\x1a\x05", b".0.0")
            };
            let words = |major: u32| [around.0, major.to_string().as_bytes(), around.1].concat();
            let (old, new) = (words(1), words(major));
            let mut bytes = fs::read(&to)?;
            let places: Vec<usize> = (0..bytes.len().saturating_sub(old.len()))
                .filter(|at| bytes[*at..].starts_with(&old))
                .collect();
            ensure!(!places.is_empty(), "{} does not say its version", from.display());
            for at in places {
                bytes[at..at + new.len()].copy_from_slice(&new);
            }
            fs::write(&to, bytes)?;
        }
    }
    Ok(folder)
}
