//! Every case on every runtime, one test each: `cargo nextest run -p mortise-conformance wasm::deadline`.

use libtest_mimic::{Arguments, Trial};
use mortise::manifest::RuntimeName;
use mortise_conformance::{CASES, Verdict, run};

fn main() {
    let arguments = Arguments::from_args();
    let trials = RuntimeName::ALL
        .into_iter()
        .flat_map(|runtime| {
            CASES.iter().map(move |case| {
                Trial::test(format!("{runtime}::{}", case.name), move || match run(case, runtime)? {
                    Verdict::Passed => Ok(()),
                    Verdict::FailedAsExpected(reason) => {
                        println!("expected failure: {runtime}::{}: {reason}", case.name);
                        Ok(())
                    }
                })
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
