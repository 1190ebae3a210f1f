//! Every case on every runtime, and every bad plugin on every runtime that it exists on, one test each:
//! `cargo nextest run -p mortise-conformance wasm::deadline`, `cargo nextest run -p mortise-conformance bad::process`.

use libtest_mimic::{Arguments, Trial};
use mortise::manifest::RuntimeName;
use mortise_conformance::{CASES, Verdict, bad::Fault, run, run_survival};

fn main() {
    let arguments = Arguments::from_args();
    let cases = RuntimeName::ALL.into_iter().flat_map(|runtime| {
        CASES.iter().map(move |case| {
            Trial::test(format!("{runtime}::{}", case.name), move || {
                match run(case, runtime)? {
                    Verdict::Passed => Ok(()),
                    Verdict::FailedAsExpected(reason) => {
                        println!("expected failure: {runtime}::{}: {reason}", case.name);
                        Ok(())
                    }
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
