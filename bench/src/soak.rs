//! `cargo xtask soak`: swaps by the thousand under load, with every call accounted for.
//!
//! The counter counts; each reply is the number of a call, so that a call that was lost or done twice shows as a number that is missing or there
//! twice. Four variants:
//! - **steady**: nothing fails. The numbers of all replies are 1, 2, 3 and so on, whatever the number of swaps.
//! - **crashing**: the plugin panics in about one of four saves and loads. After each swap the counter stands where it stood, plus what was added,
//!   or an instance crashed and the report says so; then it stands no further back than what was saved last.
//! - **together**: three plugins change as one, a hundred times less often, while calls go from one to the other ([`chains`]).
//! - **killed**: the host is killed at random times and started again on the same data. Then the counter stands no further back than at the last swap
//!   that was acknowledged.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use counter::contract::{AddReply, AddRequest};
use mortise::{CallOptions, Host, LoadRequest, Route, manifest::RuntimeName};
use prost::Message as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    task::JoinHandle,
};

use crate::{
    chains,
    swap::{VERSIONS, host, request},
};

/// Callers at once.
const CALLERS: usize = 4;

/// What was counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Loads that put the other version into service.
    pub swapped: u64,
    /// Loads that came to nothing; the old version went on.
    pub given_up: u64,
    /// Instances that ended by themselves.
    pub crashed: u64,
    /// Hosts that were killed.
    pub killed: u64,
    /// Calls that were answered.
    pub calls: u64,
    /// Calls that were answered with an error.
    pub errors: u64,
    /// Numbers that no reply had.
    pub lost: u64,
    /// Numbers that two replies had.
    pub doubled: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            swapped,
            given_up,
            crashed,
            killed,
            calls,
            errors,
            lost,
            doubled,
        } = self;
        write!(
            f,
            "{swapped} swaps, {given_up} given up, {crashed} crashes, {killed} kills; {calls} calls, {errors} errors, {lost} lost, {doubled} doubled"
        )
    }
}

/// All variants on all runtimes, or some of them.
///
/// # Errors
/// The first thing that cannot be explained.
pub async fn run(swaps: u64, only: Option<RuntimeName>, variant: Option<&str>, data: &Path) -> Result<()> {
    let wanted = |it: &str| variant.is_none_or(|only| only == it);
    for name in [
        RuntimeName::Builtin,
        RuntimeName::Native,
        RuntimeName::Wasm,
        RuntimeName::Process,
    ] {
        if only.is_some_and(|it| it != name) {
            continue;
        }
        let swaps = if name == RuntimeName::Process {
            swaps.div_ceil(10)
        } else {
            swaps
        };
        let say = |variant: &str, tally: &Tally, began: Instant| {
            println!("soak {name} {variant}: {tally} in {:.1?}", began.elapsed());
        };
        if wanted("steady") {
            let began = Instant::now();
            say(
                "steady",
                &steady(name, swaps, &data.join(format!("{name}-s"))).await?,
                began,
            );
        }
        if wanted("together") && name != RuntimeName::Builtin {
            let began = Instant::now();
            let tally = chains::together(name, swaps.div_ceil(100), &data.join(format!("{name}-t"))).await?;
            say("together", &tally, began);
        }
        if wanted("crashing") {
            let began = Instant::now();
            let tally = crashing(name, swaps.div_ceil(20), &data.join(format!("{name}-c"))).await?;
            say("crashing", &tally, began);
        }
        if wanted("killed") {
            let began = Instant::now();
            let program = std::env::current_exe()?;
            let tally = killed(
                name,
                swaps.div_ceil(400),
                &program,
                &data.join(format!("{name}-k")),
            )
            .await?;
            say("killed", &tally, began);
        }
    }
    Ok(())
}

/// One call of the counter.
pub(crate) async fn add(host: &Host, route: &Route, by: u64) -> Result<AddReply, mortise::CallError> {
    let payload: Bytes = AddRequest { by }.encode_to_vec().into();
    let reply = host.call_route(route, payload, CallOptions::default()).await?;
    Ok(AddReply::decode(&*reply).expect("the plugin answers with its own message"))
}

impl Tally {
    /// Holds the numbers that callers were answered against what the counter says of itself at the end, and counts them in.
    ///
    /// # Errors
    /// If a number is missing or there twice, or a handover is.
    pub(crate) fn reckon(&mut self, name: RuntimeName, mut numbers: Vec<u64>, end: &AddReply) -> Result<()> {
        let counted = numbers.len() as u64;
        self.calls += counted;
        numbers.sort_unstable();
        numbers.dedup();
        let unique = numbers.len() as u64;
        self.doubled = counted - unique;
        self.lost = end.count - unique.min(end.count);
        ensure!(
            end.count == counted && self.lost == 0 && self.doubled == 0,
            "{name}: the counter stands at {}: {self}",
            end.count
        );
        ensure!(
            end.handovers == self.swapped,
            "{name}: {} handovers and {self}",
            end.handovers
        );
        Ok(())
    }
}

/// What one caller counted.
pub(crate) type Counted = JoinHandle<Result<Vec<u64>, mortise::CallError>>;

/// Callers that count until they are stopped: the numbers that each of them was answered.
pub(crate) fn counting(host: &Host, route: &Route, stop: &Arc<AtomicBool>, callers: usize) -> Vec<Counted> {
    (0..callers)
        .map(|_| {
            let (host, route, stop) = (host.clone(), route.clone(), stop.clone());
            tokio::spawn(async move {
                let mut numbers: Vec<u64> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    numbers.push(add(&host, &route, 1).await?.count);
                }
                Ok(numbers)
            })
        })
        .collect()
}

/// Nothing fails.
///
/// # Errors
/// If a swap or a call fails, or a number is missing or there twice.
pub async fn steady(name: RuntimeName, swaps: u64, data: &Path) -> Result<Tally> {
    let host = host(name, data).await?;
    host.load(request(name, VERSIONS[0], "{}")?).await?;
    let route = host.resolve("plugin.counter.Add", &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let callers = counting(&host, &route, &stop, CALLERS);
    let mut tally = Tally::default();
    let requests = [
        request(name, VERSIONS[0], "{}")?,
        request(name, VERSIONS[1], "{}")?,
    ];
    let mut last = Instant::now();
    while tally.swapped < swaps {
        let next = usize::try_from(tally.swapped + 1)? % 2;
        match host.load(requests[next].clone()).await {
            Ok(_) => tally.swapped += 1,
            // A machine that is busy with something else for longer than a swap may take: tried again, and counted.
            Err(error) if error.to_string().contains("limits.swap_ms") => tally.given_up += 1,
            Err(error) => return Err(error.into()),
        }
        if last.elapsed() > Duration::from_secs(20) {
            last = Instant::now();
            eprintln!("  {name}: {} of {swaps} swaps", tally.swapped);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut numbers = Vec::new();
    for caller in callers {
        numbers.append(&mut caller.await??);
    }
    let end = add(&host, &route, 0).await?;
    tally.crashed = host.inspect("counter")?.counters.crashes;
    host.shutdown().await;
    tally.reckon(name, numbers, &end)?;
    Ok(tally)
}

/// The plugin panics in about one of four saves and loads.
///
/// # Errors
/// If a number cannot be explained, or the counter does not come back.
pub async fn crashing(name: RuntimeName, swaps: u64, data: &Path) -> Result<Tally> {
    const FAULT: &str = r#"{"fault": "panics at times"}"#;
    let host = host(name, data).await?;
    host.load(request(name, VERSIONS[0], FAULT)?).await?;
    let route = host.resolve("plugin.counter.Add", &[])?;
    let mut tally = Tally::default();
    let (mut stands, mut saved, mut version) = (0, 0, 0);
    for round in 0..swaps {
        let answered = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let errors = Arc::new(AtomicU64::new(0));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (host, route) = (host.clone(), route.clone());
                let (answered, done, errors) = (answered.clone(), done.clone(), errors.clone());
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        match add(&host, &route, 1).await {
                            Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                            Err(_) => errors.fetch_add(1, Ordering::Relaxed),
                        };
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let outcome = host.load(request(name, VERSIONS[1 - version], FAULT)?).await;
        done.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await?;
        }
        let (answered, errors) = (answered.load(Ordering::Relaxed), errors.load(Ordering::Relaxed));
        tally.calls += answered;
        tally.errors += errors;
        match &outcome {
            Ok(_) => {
                tally.swapped += 1;
                version = 1 - version;
            }
            Err(_) => tally.given_up += 1,
        }
        let end = back(&host, &route, name, &request(name, VERSIONS[version], FAULT)?).await?;
        version = usize::from(host.inspect("counter")?.info.plugin.version.minor == 1);
        let crashes = host.inspect("counter")?.counters.crashes;
        let crashed = crashes > tally.crashed;
        tally.crashed = crashes;
        let should = stands + answered;
        if end == should {
            // Exact. A swap that was done has saved something on its way, no further back than where it began.
            if outcome.is_ok() {
                saved = stands.max(saved);
            }
        } else {
            ensure!(
                crashed,
                "{name}, round {round}: the counter stands at {end} and should at {should}, and nothing crashed: {outcome:?}"
            );
            ensure!(
                (saved..=should + errors).contains(&end),
                "{name}, round {round}: the counter stands at {end}, further back than the {saved} that were saved"
            );
        }
        stands = end;
    }
    host.shutdown().await;
    Ok(tally)
}

/// Where the counter stands, once it serves. A load that failed while nothing served leaves nothing that would be started again; it is
/// repeated, as an operator would.
async fn back(host: &Host, route: &Route, name: RuntimeName, request: &LoadRequest) -> Result<u64> {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        match add(host, route, 0).await {
            Ok(reply) => return Ok(reply.count),
            Err(error) if Instant::now() > patience => {
                let info = host.inspect("counter")?.info;
                bail!("{name}: it does not come back: {error}; {:?}", info.reasons)
            }
            Err(error) if error.to_string().contains("starts again") => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // Panics in this load, too, are part of the game.
            Err(_) => drop(host.load(request.clone()).await),
        }
    }
}

/// The host of the variant `killed`: swaps and counts until it is killed, and says where it stands.
///
/// # Errors
/// If something fails before that.
pub async fn victim(name: RuntimeName, data: PathBuf) -> Result<()> {
    let host = host(name, &data).await?;
    let mut version = 0;
    host.load(request(name, VERSIONS[version], "{}")?).await?;
    let route = host.resolve("plugin.counter.Add", &[])?;
    println!("begin {}", add(&host, &route, 0).await?.count);
    loop {
        for _ in 0..20 {
            add(&host, &route, 1).await?;
        }
        let before = add(&host, &route, 0).await?.count;
        version = 1 - version;
        host.load(request(name, VERSIONS[version], "{}")?).await?;
        println!("swapped {before}");
    }
}

/// The host is killed, again and again. `program` is the one that has `soak-victim`.
///
/// # Errors
/// If one does not come back, or comes back with less than was acknowledged.
pub async fn killed(name: RuntimeName, kills: u64, program: &Path, data: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut acknowledged = 0;
    for kill in 0..kills {
        let mut command = tokio::process::Command::new(program);
        command
            .args(["soak-victim", name.as_str()])
            .arg(data)
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let begin = number(lines.next_line().await?, "begin")?;
        ensure!(
            begin >= acknowledged,
            "{name}, kill {kill}: it begins at {begin}, and {acknowledged} were handed over"
        );
        // Anywhere in a swap or between two.
        let wait = Duration::from_micros(20_000 + (kill.wrapping_mul(7919) % 60_000));
        let until = tokio::time::Instant::now() + wait;
        let mut last = begin;
        while let Ok(line) = tokio::time::timeout_at(until, lines.next_line()).await {
            last = number(line?, "swapped")?;
            tally.swapped += 1;
        }
        child.kill().await?;
        // What it said before it died.
        while let Some(line) = lines.next_line().await? {
            if let Ok(said) = number(Some(line), "swapped") {
                last = said;
                tally.swapped += 1;
            }
        }
        acknowledged = last;
        tally.killed += 1;
    }
    Ok(tally)
}

fn number(line: Option<String>, word: &str) -> Result<u64> {
    let line = line.context("the host ended by itself")?;
    let number = line
        .strip_prefix(word)
        .with_context(|| format!("it said `{line}`"))?;
    Ok(number.trim().parse()?)
}
