//! What is left after many plugins, and after a host that is killed. Both run in a process of their own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    fake::Begin,
    fixture::{Bench, PATIENCE, ask, eventually, from_inside, runs},
};

/// Set for a copy of this binary that plays one of the two.
const ENV_ALONE: &str = "MORTISE_TEST_ALONE";

/// This test binary, about to run the test `name` and nothing else.
fn alone(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ENV_ALONE, name);
    command
}

fn is_alone(name: &str) -> bool {
    std::env::var(ENV_ALONE).is_ok_and(|it| it == name)
}

#[cfg(target_os = "linux")]
#[test]
fn hundred_plugins_leave_nothing() {
    const NAME: &str = "leaks::hundred_plugins_leave_nothing";
    if !is_alone(NAME) {
        let output = alone(NAME).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        return;
    }
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    executor.block_on(async {
        let bench = Bench::new(Begin::Well);
        let failing = Bench::new(Begin::ExitsAtOnce);
        let mut most = None;
        for round in 0..50 {
            let instance = bench.start().await;
            ask(&*instance, "head").await.unwrap();
            match round % 3 {
                0 => drop(instance),
                1 => drop(ask(&*instance, "exit 1").await),
                _ => drop(instance.stop(Duration::from_secs(20)).await),
            }
            assert!(failing.try_start().await.is_err());
            if round < 5 {
                continue;
            }
            // What a dropped instance holds is given back a moment later.
            let now = || [count("/proc/self/fd"), count("/proc/self/task"), children()];
            let limit = *most.get_or_insert_with(|| {
                // Each of the two runtimes may have a launcher waiting: a child, its socket and a watch on the mounts.
                let [fds, tasks, _] = now();
                [fds + 4, tasks, 2]
            });
            eventually("everything is given back", || {
                let now = now();
                now.iter()
                    .zip(limit)
                    .all(|(now, limit)| *now <= limit)
                    .then_some(())
            })
            .await;
        }
        eventually("the directories are removed", || {
            (bench.private_dirs().is_empty() && failing.private_dirs().is_empty()).then_some(())
        })
        .await;
        drop((bench, failing));
        eventually("every child is reaped", || (children() == 0).then_some(())).await;
    });
}

#[cfg(target_os = "linux")]
fn count(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[cfg(target_os = "linux")]
fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .map(|it| std::fs::read_to_string(it.unwrap().path().join("children")).unwrap_or_default())
        .map(|it| it.split_whitespace().count())
        .sum()
}

#[test]
fn plugin_goes_with_a_host_that_is_killed() {
    const NAME: &str = "leaks::plugin_goes_with_a_host_that_is_killed";
    if is_alone(NAME) {
        return be_a_host_until_killed();
    }
    let mut host = alone(NAME).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = lines
        .map(|line| line.unwrap())
        .find_map(|line| {
            Some(
                line.split_once("plugins ")?
                    .1
                    .split(' ')
                    .map(|it| it.parse().unwrap())
                    .collect(),
            )
        })
        .expect("the host names its plugins");
    assert!(pids.len() == 5 && pids.iter().all(|pid| runs(*pid)));
    host.kill().unwrap();
    host.wait().unwrap();
    let begun = Instant::now();
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(begun.elapsed() < PATIENCE, "plugins {pids:?} outlived their host");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn be_a_host_until_killed() {
    let executor = tokio::runtime::Runtime::new().unwrap();
    executor.block_on(async {
        let bench = Bench::new(Begin::Well);
        // Started from different threads, as a host does; one of them is busy when the host dies.
        let instances = [bench.start().await, bench.start().await, bench.start().await];
        let mut pids: Vec<_> = instances
            .iter()
            .map(|it| it.usage().pid.unwrap().to_string())
            .collect();
        // One jailed and one not start what ignores every signal and has left its session and its parent.
        let free = bench.start_free().await;
        for instance in [&instances[1], &free] {
            let inner = ask(&**instance, "deaf-grandchild")
                .await
                .unwrap()
                .parse()
                .unwrap();
            pids.push(from_inside(instance.usage().pid.unwrap(), inner).to_string());
        }
        println!("plugins {}", pids.join(" "));
        let _ = ask(&*instances[0], "sleep 600000").await;
    });
}
