//! A guest that misbehaves hurts itself and nobody else.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use echo::contract::{AllocateRequest, PanicRequest, SpinRequest};
use mortise::{CallErrorKind, CallOptions};
use prost::Message as _;

use crate::World;

/// Loops end by themselves after this long where nothing can end them, so that a test process heals. Long enough that whoever looks for a loop
/// after a stuck instance was replaced still finds it.
const SPIN_BOUND_MS: u32 = 12_000;

pub(crate) async fn panic(world: &World) {
    world.load("bystander", |_| {}).await;
    let payload = PanicRequest {
        message: "the sky is falling".to_owned(),
    }
    .encode_to_vec();
    let call = world
        .host
        .call("plugin.echo.Panic", payload.into(), CallOptions::default());
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault, "{error}");
    world.serves("bystander").await;
    world.serves("echo").await;
    let logged = crate::log::lines(|line| line.values().any(|it| it.contains("the sky is falling")));
    assert!(
        !logged.is_empty() || error.to_string().contains("the sky is falling"),
        "{error}"
    );
}

/// The call that spins, with a deadline of 200 ms.
async fn spin(world: &World) -> mortise::CallError {
    let payload = SpinRequest {
        bound_ms: SPIN_BOUND_MS,
    }
    .encode_to_vec();
    let options = CallOptions {
        deadline: Some(Instant::now() + Duration::from_millis(200)),
        ..CallOptions::default()
    };
    world
        .host
        .call("plugin.echo.Spin", payload.into(), options)
        .await
        .unwrap_err()
}

pub(crate) async fn endless_loop(world: &World) {
    world.load("bystander", |_| {}).await;
    let error = spin(world).await;
    assert_eq!(error.kind(), CallErrorKind::Deadline, "{error}");
    world.serves("bystander").await;
    // The instance in which the loop runs may have to be replaced first.
    world.serves("echo").await;
}

pub(crate) async fn endless_loop_is_stopped(world: &World) {
    // What counts is the machine's time that is burnt after the caller is gone, in this process and its children. An idle host burns next to
    // nothing; a loop gets at least a fair share, also where other tests run. A process has a grace time before it is killed.
    spin(world).await;
    world.serves("echo").await;
    let mut seconds = Vec::new();
    for _ in 0..6 {
        let before = burnt();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let burnt = since(&before, &burnt());
        if burnt < Duration::from_millis(100) {
            return;
        }
        seconds.push(burnt);
    }
    panic!("the loop goes on: processor time in each of the last seconds was {seconds:?}");
}

/// Processor time of this process and everything below it, by process: a plugin may be a child's child.
fn burnt() -> HashMap<u32, Duration> {
    let stats: HashMap<u32, (u32, u64)> = std::fs::read_dir("/proc")
        .expect("Linux has it")
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            // Of the fields after the name: parent, utime and stime.
            let ticks = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
            Some((pid, (fields[1].parse().ok()?, ticks)))
        })
        .collect();
    let own = std::process::id();
    let is_below = |pid: u32| {
        let parents = std::iter::successors(Some(pid), |pid| stats.get(pid).map(|it| it.0));
        parents.take_while(|pid| *pid > 1).any(|pid| pid == own)
    };
    let below = stats.iter().filter(|(pid, _)| is_below(**pid));
    // USER_HZ is 100 on every Linux that Rust runs on.
    below
        .map(|(pid, (_, ticks))| (*pid, Duration::from_millis(ticks * 10)))
        .collect()
}

/// What the processes of `after` burnt since `before`.
fn since(before: &HashMap<u32, Duration>, after: &HashMap<u32, Duration>) -> Duration {
    let of = |(pid, now): (&u32, &Duration)| now.saturating_sub(before.get(pid).copied().unwrap_or_default());
    after.iter().map(of).sum()
}

pub(crate) async fn memory_bomb(world: &World) {
    world
        .load("bomb", |request| request.limits.memory_bytes_max = Some(64 << 20))
        .await;
    let payload = AllocateRequest {
        mib: 512,
        leak: false,
    }
    .encode_to_vec();
    let options = CallOptions {
        deadline: Some(Instant::now() + Duration::from_secs(60)),
        ..CallOptions::default()
    };
    let error = world
        .host
        .call("plugin.bomb.Allocate", payload.into(), options)
        .await;
    let error = error.expect_err("512 MiB were allocated under a limit of 64");
    assert!(
        matches!(error.kind(), CallErrorKind::Exhausted | CallErrorKind::GuestFault),
        "{:?}: {error}",
        error.kind()
    );
    world.serves("bomb").await;
    world.serves("echo").await;
}

pub(crate) async fn refuses_to_start(world: &World) {
    let mut request = world.request("stubborn");
    request.config_json = Some(r#"{"refuse": "the moon is wrong"}"#.to_owned());
    let error = world.host.load(request).await.expect_err("it said no");
    assert!(format!("{error}").contains("the moon is wrong"), "{error}");
    assert!(
        world
            .host
            .call("plugin.stubborn.Echo", Vec::new().into(), CallOptions::default())
            .await
            .is_err()
    );
    world.serves("echo").await;
}
