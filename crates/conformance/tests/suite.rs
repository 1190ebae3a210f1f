//! Every case on every runtime, and every bad plugin on every runtime that it exists on, one test each:
//! `cargo nextest run -p mortise-conformance wasm::deadline`, `cargo nextest run -p mortise-conformance bad::process`.

use libtest_mimic::{Arguments, Trial};
use mortise::{manifest::RuntimeName, runtime::process::ProcessLane};
use mortise_conformance::{CASES, Verdict, bad::Fault, run_over, run_survival};

/// Lanes of the process runtime that a suite of their own pins; what it chooses by itself is in the suite `process`.
const PINNED: [(&str, ProcessLane); 4] = [
    ("raw", ProcessLane::Raw),
    ("shm", ProcessLane::Shm),
    ("call-stream", ProcessLane::CallStream),
    ("grpc", ProcessLane::Grpc),
];

fn main() {
    let arguments = Arguments::from_args();
    let chosen = RuntimeName::ALL.map(|it| (it.to_string(), it, ProcessLane::Auto));
    let shared_memory = cfg!(target_os = "linux");
    let pinned = PINNED
        .into_iter()
        .filter(|(_, lane)| shared_memory || *lane != ProcessLane::Shm)
        .map(|(name, lane)| (format!("process-{name}"), RuntimeName::Process, lane));
    let suites = chosen.into_iter().chain(pinned);
    let cases = suites.flat_map(|(suite, runtime, lane)| {
        // `plugins/orders` offers no gRPC.
        let has_orders = !matches!(lane, ProcessLane::CallStream | ProcessLane::Grpc);
        let cases = CASES
            .iter()
            .filter(move |it| has_orders || !it.name.starts_with("event_"));
        cases.map(move |case| {
            let name = format!("{suite}::{}", case.name);
            Trial::test(name.clone(), move || match run_over(case, runtime, lane)? {
                Verdict::Passed => Ok(()),
                Verdict::FailedAsExpected(reason) => {
                    println!("expected failure: {name}: {reason}");
                    Ok(())
                }
            })
        })
    });
    let bad = RuntimeName::ALL.into_iter().flat_map(|runtime| {
        Fault::ALL
            .into_iter()
            .filter(move |it| runtime != RuntimeName::Builtin && it.exists_on(runtime.as_str()))
            .map(move |fault| {
                let name = format!("bad::{runtime}::{}", fault.name().replace('-', "_"));
                Trial::test(name, move || Ok(run_survival(fault, runtime)?))
            })
    });
    let trials = cases.chain(bad).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
