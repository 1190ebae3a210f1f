//! A short soak: what `cargo xtask soak` does by the thousand.

use mortise::manifest::RuntimeName;
use mortise_bench::{
    chains,
    soak::{self, Tally},
};

/// Swaps of each, so that a run is over in seconds.
const SWAPS: u64 = 60;
/// Changes of three plugins at once.
const CHANGES: u64 = 30;

fn report(name: RuntimeName, variant: &str, tally: &Tally) {
    println!("soak {name} {variant}: {tally}");
}

macro_rules! soaks {
    ($($module:ident: $name:expr,)*) => {
        $(mod $module {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn no_call_is_lost_or_doubled_while_nothing_fails() {
                let data = tempfile::tempdir().unwrap();
                let tally = soak::steady($name, SWAPS, data.path()).await.unwrap();
                report($name, "steady", &tally);
                assert_eq!((tally.swapped, tally.lost, tally.doubled), (SWAPS, 0, 0));
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_was_handed_over_is_there_after_the_host_is_killed() {
                let data = tempfile::tempdir().unwrap();
                let host = env!("CARGO_BIN_EXE_mortise-bench");
                let tally = soak::killed($name, 5, host.as_ref(), data.path()).await.unwrap();
                report($name, "killed", &tally);
                assert_eq!(tally.killed, 5);
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn every_number_is_explained_while_the_plugin_crashes() {
                let data = tempfile::tempdir().unwrap();
                let tally = soak::crashing($name, SWAPS / 3, data.path()).await.unwrap();
                report($name, "crashing", &tally);
                assert_eq!(tally.swapped + tally.given_up, SWAPS / 3);
            }
        })*
    };
}

soaks! {
    builtin: RuntimeName::Builtin,
    native: RuntimeName::Native,
    wasm: RuntimeName::Wasm,
    process: RuntimeName::Process,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_of_calls_meet_one_version_of_plugins_that_change_as_one() {
    for name in [RuntimeName::Native, RuntimeName::Wasm, RuntimeName::Process] {
        let data = tempfile::tempdir().unwrap();
        let tally = chains::together(name, CHANGES, data.path()).await.unwrap();
        report(name, "together", &tally);
        assert_eq!((tally.swapped, tally.lost, tally.doubled), (CHANGES, 0, 0));
    }
}
