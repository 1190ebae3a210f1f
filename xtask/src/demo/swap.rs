//! A new version takes over while four callers call.

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{ADDRESS, Photo, RunningHost, measure};
use crate::http::Connection;

const CALLERS: usize = 4;
/// Time with callers but without a swap, before and after it: the anchor of the pause.
const CALM: Duration = Duration::from_millis(1500);

/// What a swap under load did.
pub(super) struct Swap {
    runtime: String,
    calls: u64,
    by_new: u64,
    /// Calls without an answer.
    pub(super) lost: u64,
    /// Calls that a plugin worked on and nobody asked for.
    pub(super) doubled: u64,
    pause: Duration,
    pause_calm: Duration,
}

struct Answer {
    at: Instant,
    new: bool,
}

/// Replaces `old` by `new` on `runtime` under load.
pub(super) fn runtime(
    host: &RunningHost,
    runtime: &str,
    old: &Path,
    new: &Path,
    photos: &[Photo],
) -> Result<Swap> {
    let name = format!("swap-{runtime}");
    let mut control = Connection::unix(&host.control)?;
    measure::load(&mut control, &name, runtime, old)?;
    let photo = photos
        .iter()
        .find(|it| it.name == "chelsea")
        .context("there is no photograph of the cat")?;
    let stop = AtomicBool::new(false);
    let answers = Mutex::new(Vec::new());
    let lost = Mutex::new(Vec::new());
    let mut swap_began = Instant::now();
    let mut swap_ended = swap_began;
    thread::scope(|scope| -> Result<()> {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| caller(&name, photo, &stop, &answers, &lost)))
            .collect();
        let swap = (|| {
            thread::sleep(CALM);
            swap_began = Instant::now();
            measure::load(&mut control, &name, runtime, new)?;
            swap_ended = Instant::now();
            thread::sleep(CALM);
            anyhow::Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller
                .join()
                .map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        }
        swap
    })?;
    let mut answers = answers.into_inner().expect("no caller panicked");
    let lost = lost.into_inner().expect("no caller panicked");
    for reason in lost.iter().take(3) {
        eprintln!("   lost: {reason}");
    }
    answers.sort_by_key(|it| it.at);
    let by_new = answers.iter().filter(|it| it.new).count() as u64;
    if by_new == 0 {
        bail!("the new version never answered");
    }
    let detail = control.call("mortise.inspect", &json!({"plugin": name}))?;
    let worked_on = detail["counters"]["calls"]
        .as_u64()
        .context("inspect shows no number of calls")?;
    control.call("mortise.unload", &json!({"plugin": name}))?;
    let (calls, lost) = ((answers.len() + lost.len()) as u64, lost.len() as u64);
    let times: Vec<_> = answers.iter().map(|it| it.at).collect();
    Ok(Swap {
        runtime: runtime.to_owned(),
        calls,
        by_new,
        lost,
        doubled: worked_on.saturating_sub(calls),
        pause: longest_gap(&times, swap_began, swap_ended + Duration::from_millis(200)),
        pause_calm: longest_gap(&times, swap_began - CALM / 2, swap_began),
    })
}

/// Calls until told to stop. A version that goes back, or an answer to another request, is a fault and not a loss.
fn caller(
    name: &str,
    photo: &Photo,
    stop: &AtomicBool,
    answers: &Mutex<Vec<Answer>>,
    lost: &Mutex<Vec<String>>,
) -> Result<()> {
    let mut http = Connection::tcp(ADDRESS)?;
    let mut seen_new = false;
    while !stop.load(Ordering::Relaxed) {
        match measure::thumbnail(&mut http, name, photo) {
            Ok((_, reply)) => {
                let new = reply["generatorVersion"]
                    .as_str()
                    .is_some_and(|it| it.contains("1.3."));
                if seen_new && !new {
                    bail!("{name}: a caller was served by 1.2.0 after 1.3.0 had answered it");
                }
                seen_new = new;
                answers.lock().expect("no caller panicked").push(Answer {
                    at: Instant::now(),
                    new,
                });
            }
            Err(error) => {
                lost.lock()
                    .expect("no caller panicked")
                    .push(format!("{error:#}"));
                http = Connection::tcp(ADDRESS)?;
            }
        }
    }
    Ok(())
}

/// The longest time without an answer to anyone, among the gaps that touch the window.
fn longest_gap(times: &[Instant], from: Instant, to: Instant) -> Duration {
    let gaps = times
        .windows(2)
        .filter(|it| it[1] >= from && it[0] <= to)
        .map(|it| it[1] - it[0]);
    gaps.max().unwrap_or_default()
}

/// Prints the table.
pub(super) fn print(swaps: &[Swap]) {
    println!(
        "\n{:<9} {:>7} {:>10} {:>6} {:>8} {:>18} {:>22}",
        "swap in", "calls", "by 1.3.0", "lost", "doubled", "longest pause ms", "(without a swap, ms)"
    );
    let ms = |it: Duration| it.as_secs_f64() * 1000.0;
    for it in swaps {
        println!(
            "{:<9} {:>7} {:>10} {:>6} {:>8} {:>18.1} {:>22.1}",
            it.runtime,
            it.calls,
            it.by_new,
            it.lost,
            it.doubled,
            ms(it.pause),
            ms(it.pause_calm)
        );
    }
    println!(
        "{CALLERS} callers; a pause is the longest time without an answer to any of them, beside the same in calm\n"
    );
}
