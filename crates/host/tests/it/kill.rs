//! A host that is killed at every step of its journal, and what the next one comes back to. The plugin that is swapped has state, and what it counted goes
//! along.
//!
//! The host under test is this test binary once more, in a process of its own, which kills itself (SIGKILL) before, within or after the N-th write of
//! its journal; N counts up until it comes to its end. It says on standard output what it was told to be done.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use mortise_host::{Host, WriteHook};

use crate::closures::{World, call, request};

/// In the process that is killed: where its files are, and at which moment it ends.
const PLACE: &str = "MORTISE_TEST_KILL_PLACE";
const MOMENT: &str = "MORTISE_TEST_KILL_MOMENT";

/// The plugin that has state.
const COUNTS: &str = "echo";

type Serving = BTreeMap<String, String>;

/// What is done, one after another.
const STEPS: [Step; 8] = [
    Step::Load("echo", "1.0.0"),
    Step::Load("echo", "1.1.0"),
    Step::Load("other", "1.0.0"),
    Step::Rollback("echo"),
    Step::Unload("other"),
    Step::Load("echo", "1.2.0"),
    Step::Refused("echo", "1.3.0"),
    Step::Together([("echo", "1.4.0"), ("other", "2.0.0")]),
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Load(&'static str, &'static str),
    Rollback(&'static str),
    Unload(&'static str),
    /// Is loaded and refused: nothing changes.
    Refused(&'static str, &'static str),
    /// As one change.
    Together([(&'static str, &'static str); 2]),
}

impl Step {
    fn packages(&self) -> Vec<(&'static str, &'static str)> {
        match *self {
            Self::Load(name, version) | Self::Refused(name, version) => vec![(name, version)],
            Self::Together(both) => both.to_vec(),
            Self::Rollback(_) | Self::Unload(_) => Vec::new(),
        }
    }

    /// Whether what was counted is on disk afterwards.
    fn saves(&self) -> bool {
        match self {
            Self::Load(name, _) | Self::Rollback(name) => *name == COUNTS,
            Self::Together(both) => both.iter().any(|(name, _)| *name == COUNTS),
            Self::Unload(_) | Self::Refused(..) => false,
        }
    }
}

/// What serves after so many steps.
fn serving_after(steps: usize) -> Serving {
    let states: [&[(&str, &str)]; 9] = [
        &[],
        &[("echo", "1.0.0")],
        &[("echo", "1.1.0")],
        &[("echo", "1.1.0"), ("other", "1.0.0")],
        &[("echo", "1.0.0"), ("other", "1.0.0")],
        &[("echo", "1.0.0")],
        &[("echo", "1.2.0")],
        &[("echo", "1.2.0")],
        &[("echo", "1.4.0"), ("other", "2.0.0")],
    ];
    let state = states[steps.min(STEPS.len())].iter();
    state
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
        .collect()
}

fn world_at(place: &Path) -> World {
    let world = World::new();
    for step in STEPS {
        for (name, version) in step.packages() {
            let folder = place.join(format!("{name}-{version}"));
            let mut more = String::new();
            if name == COUNTS {
                // It may take as long as a busy machine does.
                more.push_str("[state]\nschema = \"test.v1.Blob\"\n[limits]\nswap_ms = 60000\n");
            }
            if matches!(step, Step::Refused(..)) {
                more.push_str("[permissions]\nkv = true\n");
            }
            if folder.exists() {
                world.package(name, version, &more);
            } else {
                world.package_at(&folder, name, version, &more);
            }
        }
    }
    world
}

async fn host_at(world: &World, place: &Path, hook: Option<WriteHook>) -> Host {
    let builder = world.builder().data_dir(place.join("data")).remember_loads();
    let builder = match hook {
        Some(hook) => builder.journal_hook(hook),
        None => builder,
    };
    builder.start().await.unwrap()
}

/// The host that is killed; as a test of its own it has nothing to do.
#[tokio::test]
async fn the_one_that_is_killed() {
    let (Ok(place), Ok(moment)) = (std::env::var(PLACE), std::env::var(MOMENT)) else {
        return;
    };
    let (place, moment): (_, u64) = (Path::new(&place), moment.parse().unwrap());
    let passed = AtomicU64::new(0);
    let hook: WriteHook = Arc::new(move |_| {
        if passed.fetch_add(1, Ordering::SeqCst) == moment {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    });
    let world = world_at(place);
    let host = host_at(&world, place, Some(hook)).await;
    for (number, step) in STEPS.into_iter().enumerate() {
        if let Ok(counted) = call(&host, "plugin.echo.Count", "").await {
            println!("\ncounted {counted}");
        }
        let folder = |name: &str, version: &str| place.join(format!("{name}-{version}"));
        match step {
            Step::Load(name, version) => drop(host.load(request(&folder(name, version))).await.unwrap()),
            Step::Rollback(name) => drop(host.rollback(name, None).await.unwrap()),
            Step::Unload(name) => drop(host.unload(name).await.unwrap()),
            Step::Together(both) => {
                let requests = both.map(|(name, version)| request(&folder(name, version)));
                drop(host.load_all(requests.to_vec()).await.unwrap());
            }
            Step::Refused(name, version) => {
                host.load(request(&folder(name, version))).await.unwrap_err();
            }
        }
        println!("\ndid {}", number + 1);
    }
    host.shutdown().await;
}

/// What was counted when it was last handed over or saved, and what was counted in all, by what a host said before it ended.
fn counted(said: &str, was_killed: bool) -> (u64, u64) {
    let (mut saved, mut counted) = (0, 0);
    for line in said.lines() {
        if let Some(number) = line.strip_prefix("counted ") {
            counted = number.parse().unwrap();
        } else if let Some(number) = line.strip_prefix("did ") {
            let step = STEPS[number.parse::<usize>().unwrap() - 1];
            if step.saves() {
                saved = counted;
            }
        }
    }
    if was_killed {
        (saved, counted)
    } else {
        (counted, counted)
    }
}

/// Kills a host at this moment; what the next one serves. `None` if the moment never came.
fn kill_at(moment: u64) -> Option<()> {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["kill::the_one_that_is_killed", "--exact", "--nocapture"])
        .env(PLACE, place.path())
        .env(MOMENT, moment.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let done = said.lines().filter(|it| it.starts_with("did ")).count();
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    if !killed {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "moment {moment}: {}: {said}{errors}",
            output.status
        );
        assert_eq!(done, STEPS.len());
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = world_at(place.path());
        let host = host_at(&world, place.path(), None).await;
        let serving: Serving = host
            .list()
            .into_iter()
            .filter(|it| it.state.is_routed())
            .map(|it| (it.name, it.plugin.version.to_string()))
            .collect();
        let may_be = [done, done + 1].map(serving_after);
        assert!(
            may_be.contains(&serving),
            "moment {moment}, after {done} steps: {serving:?} and not one of {may_be:?}"
        );
        // What the history says was done is what there is.
        let changes = host.changes(None, None, 1000).await.unwrap();
        let mut last = BTreeMap::new();
        for change in changes.iter().rev().filter(|it| it.outcome == "done") {
            match change.action.as_str() {
                "unload" => drop(last.remove(&change.name)),
                _ => drop(last.insert(change.name.clone(), change.version.clone())),
            }
        }
        assert_eq!(last, serving, "moment {moment}: {changes:#?}");
        assert!(
            changes.iter().all(|it| it.outcome != "begun"),
            "moment {moment}: {changes:#?}"
        );
        let cut = changes.iter().filter(|it| it.outcome == "interrupted").count();
        // Two are begun by what is loaded together.
        assert!(cut <= 2 * usize::from(killed), "moment {moment}: {changes:#?}");
        // What was handed over is there, and nothing twice; what was only in memory may be gone.
        if serving.contains_key(COUNTS) {
            let next: u64 = call(&host, "plugin.echo.Count", "")
                .await
                .unwrap()
                .parse()
                .unwrap();
            let (saved, most) = counted(&said, killed);
            assert!(
                (saved..=most).contains(&(next - 1)),
                "moment {moment}: {next} comes after {saved} to {most}: {said}"
            );
        }
        // It is a host like any other.
        host.load(request(&place.path().join("echo-1.1.0")))
            .await
            .unwrap();
        host.shutdown().await;
    });
    killed.then_some(())
}

#[test]
fn a_host_that_is_killed_at_any_step_comes_back_to_what_it_said_it_did() {
    let next = AtomicU64::new(0);
    let last = Mutex::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let moment = next.fetch_add(1, Ordering::SeqCst);
                    if moment > *last.lock().unwrap() {
                        break;
                    }
                    if kill_at(moment).is_none() {
                        let mut last = last.lock().unwrap();
                        *last = moment.min(*last);
                    }
                }
            });
        }
    });
    let moments = *last.lock().unwrap();
    println!("killed at {moments} moments");
    // Every step begins and ends in the journal, and each of these has three moments.
    assert!(
        moments >= STEPS.len() as u64 * 6,
        "only {moments} moments: the journal is written without the hook"
    );
}
