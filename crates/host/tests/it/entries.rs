//! Entries of the configuration whose new packages come as canaries, and whose word counts when operators and canaries have one as well.

use std::{path::Path, sync::Arc, time::Duration};

use mortise_host::{ChangeInfo, Host, HostBuilder, ReloadReport};
use mortise_manifest::HostConfig;
use mortise_wire::Code;

use crate::closures::{Program, World, call, info, request, start_again, until};

const TARGET: &str = "test.v1.Echo/Call";
/// Short steps, and no verdict over the latency of a busy machine.
const PLAN: &str = "canary = { steps = [\"50%\", \"promote\"], window_ms = 300, requests_min = 20, p95_rise_min_ms = 60000 }\n";

/// A file with one entry.
fn file(folder: &Path, more: &str) -> HostConfig {
    let text = format!("[[plugin]]\nname = \"echo\"\nsource = {folder:?}\n{more}");
    HostConfig::parse(&text, "mortise.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn builder(world: &World, config: &HostConfig) -> HostBuilder {
    world.builder().remember_loads().config(config.clone())
}

async fn begun(world: &World, config: &HostConfig) -> Host {
    start_again(|| builder(world, config)).await
}

async fn end(host: Host) {
    host.shutdown().await;
}

fn version(host: &Host) -> String {
    info(host, "echo").plugin.version.to_string()
}

fn state(host: &Host) -> String {
    host.canaries().remove(0).state
}

fn names(report: &ReloadReport) -> [Vec<&str>; 4] {
    fn all(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    [
        all(&report.swapped),
        all(&report.unchanged),
        all(&report.canaries),
        report.kept.iter().map(|it| it.0.as_str()).collect(),
    ]
}

async fn call_until(host: &Host, wanted: &str) -> usize {
    let mut failed = 0;
    for _ in 0..2000 {
        if state(host) == wanted {
            return failed;
        }
        for _ in 0..10 {
            failed += usize::from(call(host, TARGET, "").await.is_err());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the canary never was {wanted}: {:?}", host.canaries());
}

async fn changes(host: &Host) -> Vec<ChangeInfo> {
    let mut all = host.changes(Some("echo"), None, 100).await.unwrap();
    all.reverse();
    all
}

/// 1.0.0 from its entry, and 1.1.0 from the next one, as its canary.
async fn coming(world: &World, more: &str) -> (Host, HostConfig, Arc<Program>, Arc<Program>) {
    let (old, one) = world.package("echo", "1.0.0", "");
    let (new, two) = world.package("echo", "1.1.0", "");
    let host = begun(world, &file(&old, more)).await;
    assert_eq!(version(&host), "1.0.0", "the first one has nothing beside it");
    let next = file(&new, more);
    let report = host.reload(next.plugins.clone()).await;
    assert_eq!(names(&report)[2], ["echo"], "{report:?}");
    assert_eq!(version(&host), "1.0.0", "what serves still does");
    (host, next, one, two)
}

#[tokio::test]
async fn a_new_package_comes_as_a_canary_and_its_story_is_in_the_history() {
    let world = World::new();
    let (host, next, ..) = coming(&world, PLAN).await;
    let again = host.reload(next.plugins.clone()).await;
    assert_eq!(names(&again)[2], ["echo"], "it goes on");
    assert_eq!(call_until(&host, "promoted").await, 0);
    assert_eq!(version(&host), "1.1.0");
    let again = host.reload(next.plugins.clone()).await;
    assert_eq!(names(&again), [vec![], vec!["echo"], vec![], vec![]], "{again:?}");
    assert!(host.overruled().is_empty());
    let rows = changes(&host).await;
    let told: Vec<_> = rows
        .iter()
        .map(|it| format!("{} {} {} {}", it.actor, it.action, it.version, it.outcome))
        .collect();
    assert_eq!(
        told,
        [
            "config load 1.0.0 done",
            "config canary 1.1.0 done",
            "canary canary 1.1.0 done",
            "canary canary 1.1.0 done",
            "canary promote 1.1.0 done",
            "canary canary 1.1.0 done",
        ]
    );
    assert_eq!(rows[1].detail, "step 1: 50 % of the calls");
    assert!(
        rows[2].detail.starts_with("step 2: promotion, after ") && rows[2].detail.contains("% errors"),
        "the numbers that let it pass: {}",
        rows[2].detail
    );
    let moved: Vec<_> = rows[1]
        .diff
        .iter()
        .map(|it| (it.what.as_str(), it.after.as_deref().unwrap_or_default()))
        .collect();
    assert!(
        moved.contains(&("canary.weight", "50")) && moved.contains(&("canary.beside", "1.0.0")),
        "{moved:?}"
    );
    assert_eq!(rows[1].digest, rows[4].digest, "the same package");
    let diff = host.diff(Some(rows[1].seq), rows[5].seq).await.unwrap();
    let state = diff
        .differences
        .iter()
        .find(|it| it.what == "canary.state")
        .unwrap();
    assert_eq!(
        (state.before.as_deref(), state.after.as_deref()),
        (Some("measuring"), Some("promoted"))
    );
    host.diff(Some(rows[0].seq), rows[5].seq)
        .await
        .expect_err("a load and a decision are not of one kind");
    // The way back is a load, not a decision.
    let refused = host.rollback("echo", Some(rows[1].seq)).await.unwrap_err();
    assert!(
        refused.to_string().contains("a decision about a canary"),
        "{refused}"
    );
    host.rollback("echo", None).await.unwrap();
    assert_eq!(version(&host), "1.0.0");
}

#[tokio::test]
async fn what_was_taken_back_does_not_come_again_by_itself() {
    let world = World::new();
    let (host, next, _, two) = coming(&world, PLAN).await;
    *two.broken.lock().unwrap() = Some(Code::Internal);
    call_until(&host, "rolled-back").await;
    assert_eq!(version(&host), "1.0.0");
    let last = changes(&host).await.pop().unwrap();
    assert!(
        last.action == "canary" && last.detail.contains("(100.0 %), and 1.0 % is allowed"),
        "{last:?}"
    );
    let report = host.reload(next.plugins.clone()).await;
    assert_eq!(names(&report)[3], ["echo"], "{report:?}");
    end(host).await;
    // The file still names it, and a host that starts comes back to what served.
    let host = begun(&world, &next).await;
    assert_eq!(version(&host), "1.0.0");
    assert!(host.canaries().is_empty());
    assert!(
        host.overruled()[0].1.contains("names version 1.1.0"),
        "{:?}",
        host.overruled()
    );
    call(&host, TARGET, "").await.unwrap();
    // Another package does come.
    let (better, _) = world.package("echo", "1.2.0", "");
    let report = host.reload(file(&better, PLAN).plugins).await;
    assert_eq!(names(&report)[2], ["echo"], "{report:?}");
    assert!(host.overruled().is_empty());
    assert_eq!(call_until(&host, "promoted").await, 0);
}

#[tokio::test]
async fn no_restart_is_a_way_around_a_canary() {
    let world = World::new();
    let held = PLAN.replace("\"50%\"", "\"50%\", \"pause\"");
    let (host, next, ..) = coming(&world, &held).await;
    assert_eq!(call_until(&host, "paused").await, 0);
    end(host).await;
    let host = begun(&world, &next).await;
    assert_eq!(version(&host), "1.0.0");
    let found = host.canaries().remove(0);
    assert_eq!((&*found.state, found.step, found.weight), ("paused", 2, 50));
    host.resume_canary("uid:1", "echo").await.unwrap();
    until("it is promoted", || state(&host) == "promoted").await;
    end(host).await;
    let host = begun(&world, &next).await;
    assert_eq!(version(&host), "1.1.0", "what was promoted stays");
    end(host).await;
    // A file that was changed while the host was down.
    let (newest, _) = world.package("echo", "1.2.0", "");
    let host = begun(&world, &file(&newest, &held)).await;
    assert_eq!(version(&host), "1.1.0");
    assert_eq!(host.canaries()[0].version, "1.2.0");
    // And one that says what serves again.
    let report = host.reload(next.plugins.clone()).await;
    assert_eq!(
        names(&report),
        [vec![], vec!["echo"], vec![], vec![]],
        "{report:?}"
    );
    assert_eq!(state(&host), "rolled-back");
    assert_eq!(version(&host), "1.1.0");
    let (newest, _) = world.package("echo", "1.2.0", "");
    let report = host.reload(file(&newest, &held).plugins).await;
    assert_eq!(
        names(&report)[2],
        ["echo"],
        "the file may name it again: {report:?}"
    );
}

#[tokio::test]
async fn another_package_of_the_same_version_is_no_canary_and_no_swap() {
    let world = World::new();
    let (folder, _) = world.package("echo", "1.0.0", "");
    let config = file(&folder, PLAN);
    let host = begun(&world, &config).await;
    world.package("echo", "1.0.0", "[limits]\nmemory_mib = 65\n");
    let report = host.reload(config.plugins.clone()).await;
    let why = &report.failed[0].1[0].why;
    assert!(why.contains("a canary needs a version of its own"), "{why}");
    assert_eq!(info(&host, "echo").generation, 1);
}

#[tokio::test]
async fn a_reload_leaves_alone_what_an_operator_promoted_and_says_so() {
    let world = World::new();
    let (old, _) = world.package("echo", "1.0.0", "");
    let (new, _) = world.package("echo", "1.1.0", "");
    let config = file(&old, "");
    let host = begun(&world, &config).await;
    let mut canary = mortise_host::CanaryRequest::new(request(&new));
    canary.plan.steps = vec!["header x=1".parse().unwrap(), "promote".parse().unwrap()];
    let started = host.start_canary("uid:7", canary).await.unwrap();
    assert!(
        started.notes[0].contains("`routing.propagate` does not name"),
        "{:?}",
        started.notes
    );
    host.promote_canary("uid:7", "echo").await.unwrap();
    until("it is promoted", || state(&host) == "promoted").await;
    let report = host.reload(config.plugins.clone()).await;
    assert_eq!(names(&report)[3], ["echo"], "{report:?}");
    let why = &report.kept[0].1;
    assert!(
        why.contains("names the older version 1.0.0, and 1.1.0 serves")
            && why.contains("mortise reload echo"),
        "{why}"
    );
    assert!(host.canaries()[0].notes.contains(why), "its status says so");
    assert_eq!(version(&host), "1.1.0");
    end(host).await;
    let host = begun(&world, &config).await;
    assert_eq!(version(&host), "1.1.0", "also over the end of the host");
    // Whoever insists has the file's word; a file that says something else has one by itself.
    let report = host
        .reload_taking(config.plugins.clone(), &["echo".to_owned()])
        .await;
    assert_eq!(names(&report)[0], ["echo"], "{report:?}");
    assert_eq!(version(&host), "1.0.0");
    host.load(request(&new)).await.unwrap();
    assert_eq!(names(&host.reload(config.plugins.clone()).await)[3], ["echo"]);
    let other = file(&old, "restart = \"never\"\n");
    assert_eq!(names(&host.reload(other.plugins.clone()).await)[0], ["echo"]);
    assert_eq!(version(&host), "1.0.0");
    let unknown = host
        .reload_taking(other.plugins.clone(), &["ehco".to_owned()])
        .await;
    assert_eq!(unknown.failed[0].0, "ehco");
    // What an operator took away, and nothing stands in its place, comes back.
    host.load(request(&new)).await.unwrap();
    host.unload("echo").await.unwrap();
    let report = host.reload(other.plugins).await;
    assert_eq!(report.loaded, ["echo"]);
    assert_eq!(version(&host), "1.0.0");
}

#[tokio::test]
async fn a_rollback_while_a_canary_runs_is_that_canarys_end() {
    let world = World::new();
    let (host, next, one, two) = coming(&world, PLAN).await;
    let back = host.acting_as("uid:3").rollback("echo", None).await.unwrap();
    assert_eq!(back.plugin.version.to_string(), "1.0.0");
    assert_eq!((state(&host).as_str(), two.live()), ("rolled-back", 0));
    assert_eq!(info(&host, "echo").generation, 1, "nothing was loaded for it");
    let last = changes(&host).await.pop().unwrap();
    assert_eq!((&*last.actor, &*last.action), ("uid:3", "canary"));
    assert!(last.detail.contains("mortise rollback"), "{}", last.detail);
    until("its end is known", || !host.overruled().is_empty()).await;
    let report = host.reload(next.plugins).await;
    assert_eq!(
        names(&report)[3],
        ["echo"],
        "an operator had the last word: {report:?}"
    );
    assert_eq!(one.live(), 1);
}
