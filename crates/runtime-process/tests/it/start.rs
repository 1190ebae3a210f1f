//! What a start leaves behind, and what it says when it fails.

use std::time::Duration;

use mortise_jail::{Layer, Machine};
use mortise_runtime::{Runtime as _, RuntimeError, RuntimeErrorKind};

use crate::{
    fake::Begin,
    fixture::{Bench, artifact, ask, eventually, metadata, runs},
};

/// The error of a start that fails; checks that nothing is left of it.
async fn fails(begin: Begin) -> RuntimeError {
    let mut bench = Bench::new(begin);
    bench.limits.start = Duration::from_secs(if begin == Begin::NeverSaysHello { 1 } else { 20 });
    let Err(error) = bench.try_start().await else {
        panic!("{begin:?} became ready")
    };
    eventually("the private directory is removed", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
    // The launcher that waits for the next plugin goes with the runtime.
    drop(bench);
    assert_eq!(children(), Vec::<u32>::new(), "{begin:?} is still there");
    assert!(!error.hint().is_empty());
    error
}

/// Children of this process, zombies included. Under nextest each test has a process of its own; elsewhere other tests' children are left out.
fn children() -> Vec<u32> {
    if std::env::var_os("NEXTEST").is_none() {
        return Vec::new();
    }
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flat_map(|task| {
            let children = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
            children
                .split_whitespace()
                .map(|it| it.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
async fn exit_before_hello() {
    let error = fails(Begin::ExitsAtOnce).await;
    assert_eq!(error.kind(), RuntimeErrorKind::StartFailed);
    assert_eq!(
        error.to_string(),
        "plugin `fake` did not start: its process exited with code 3 while Hello was expected; \
         it wrote last: configuration file not found\nno use to go on"
    );
}

#[tokio::test]
async fn exit_before_ready() {
    let error = fails(Begin::ExitsAfterHello).await;
    assert_eq!(
        error.to_string(),
        "plugin `fake` did not start: its process exited with code 4 while Ready was expected"
    );
}

#[tokio::test]
async fn no_hello_in_time() {
    let error = fails(Begin::NeverSaysHello).await;
    assert_eq!(error.kind(), RuntimeErrorKind::StartFailed);
    assert_eq!(
        error.to_string(),
        "plugin `fake` did not start: it was not ready after 1s"
    );
}

#[tokio::test]
async fn garbage_instead_of_hello() {
    let error = fails(Begin::SendsGarbage).await;
    assert!(
        error
            .to_string()
            .contains("it broke the protocol: a frame of 1347703880 bytes was announced"),
        "{error}"
    );
}

#[tokio::test]
async fn another_frame_instead_of_hello() {
    let error = fails(Begin::SendsReplyFirst).await;
    assert!(
        error
            .to_string()
            .contains("its first frame is Reply, and Hello was expected"),
        "{error}"
    );
}

#[tokio::test]
async fn lane_closed_but_running() {
    let error = fails(Begin::ClosesLaneAndRuns).await;
    assert!(
        error
            .to_string()
            .contains("it closed its lane while Hello was expected, and went on running"),
        "{error}"
    );
}

#[tokio::test]
async fn not_what_its_file_says() {
    let error = fails(Begin::HasAnotherName).await;
    assert_eq!(error.kind(), RuntimeErrorKind::Tampered);
    assert!(
        error
            .to_string()
            .contains("it says its name is `impostor`, and its file says `fake`"),
        "{error}"
    );
    let error = fails(Begin::HasAnotherContract).await;
    assert_eq!(error.kind(), RuntimeErrorKind::Tampered);
    let error = fails(Begin::SpeaksAnotherLane).await;
    assert!(
        error
            .to_string()
            .contains("it speaks lane versions [99], and this host speaks 2"),
        "{error}"
    );
}

#[tokio::test]
async fn declined() {
    let error = fails(Begin::Declines).await;
    assert_eq!(
        error.to_string(),
        "plugin `fake` declined to start: `quality` must be under 100"
    );
    assert!(
        std::error::Error::source(&error).is_some(),
        "the plugin's status is the source"
    );
}

#[tokio::test]
async fn host_is_called_before_ready() {
    let bench = Bench::new(Begin::CallsHostInStart);
    let instance = bench.start().await;
    bench.services.wait_for_log("from start").await;
    assert_eq!(
        *bench.services.called.lock().unwrap(),
        [("test.Host/Echo".to_owned(), None)]
    );
    instance.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn start_that_is_dropped_leaves_nothing() {
    let bench = Bench::new(Begin::NeverSaysHello);
    let prepared = bench.prepare().await;
    let start = bench.runtime.start(prepared, bench.start_with());
    let started = tokio::time::timeout(Duration::from_millis(300), start).await;
    assert!(started.is_err());
    eventually("the private directory is removed", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
    drop(bench);
    eventually("the process is gone", || children().is_empty().then_some(())).await;
}

/// Waits until there are so many children and each is the first of its namespace, as those are not that are only needed to make one.
#[cfg(target_os = "linux")]
async fn as_many<const COUNT: usize>(what: &str) -> [u32; COUNT] {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let own = namespace("self").unwrap();
    eventually(what, || {
        let all: [u32; COUNT] = children().try_into().ok()?;
        let inside = |pid: &u32| match namespace(&pid.to_string()) {
            Ok(namespace) => namespace != own,
            // Only root may look at a launcher that has its plugin.
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        };
        all.iter().all(inside).then_some(all)
    })
    .await
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_launcher_waits_and_is_taken_by_the_next_plugin() {
    if std::env::var_os("NEXTEST").is_none() {
        println!("skipped: needs nextest, so that no other test has children here");
        return;
    }
    // It starts some programs of its own.
    if !Machine::probe().layers().has(Layer::PidNamespace) {
        println!("skipped: needs pid namespaces");
        return;
    }
    let bench = Bench::new(Begin::Well);
    let [launcher] = as_many("a launcher waits").await;
    let instance = bench.start().await;
    let plugin = instance.usage().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{plugin}/status")).unwrap();
    assert!(status.contains(&format!("\nPPid:\t{launcher}\n")), "{status}");
    ask(&*instance, "head").await.unwrap();
    let both: [u32; 2] = as_many("the next one waits").await;
    assert!(both.contains(&launcher), "{both:?}");
    drop(instance);
    let [next] = as_many("the first ends with its plugin").await;
    assert_ne!(next, launcher);
    drop(bench);
    assert_eq!(children(), Vec::<u32>::new(), "the second ends with the runtime");
}

#[tokio::test]
async fn missing_file_is_refused_before_anything_starts() {
    let bench = Bench::new(Begin::Well);
    for (path, why) in [
        (None, "its bytes are in no file"),
        (Some("/nonexistent/plugin".into()), "No such file"),
    ] {
        let mut artifact = artifact();
        artifact.path = path;
        let verified = artifact.verify(metadata()).unwrap();
        let error = bench
            .runtime
            .prepare(&verified, &Default::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), RuntimeErrorKind::Loader);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn file_without_the_right_to_execute_is_refused() {
    let bench = Bench::new(Begin::Well);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut artifact = artifact();
    artifact.path = Some(file.path().to_owned());
    let verified = artifact.verify(metadata()).unwrap();
    let error = bench
        .runtime
        .prepare(&verified, &Default::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("is not an executable file (mode 600)"),
        "{error}"
    );
}

#[tokio::test]
async fn file_that_is_no_program() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new(Begin::Well);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plugin");
    std::fs::write(&path, "certainly no program").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).unwrap();
    let mut artifact = artifact();
    artifact.path = Some(path);
    let prepared = bench
        .runtime
        .prepare(&artifact.verify(metadata()).unwrap(), &Default::default())
        .await
        .unwrap();
    let Err(error) = bench.runtime.start(prepared, bench.start_with()).await else {
        panic!("it started")
    };
    assert_eq!(error.kind(), RuntimeErrorKind::Loader);
    assert!(error.to_string().contains("Exec format error"), "{error}");
    eventually("the private directory is removed", || {
        bench.private_dirs().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn plugins_outlive_the_runtime_and_end_with_their_instance() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    let pid = instance.usage().pid.unwrap();
    drop(bench);
    assert_eq!(ask(&*instance, "sleep 1").await.unwrap(), "slept");
    drop(instance);
    eventually("the process is gone", || (!runs(pid)).then_some(())).await;
}

#[test]
fn run_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = mortise_runtime_process::ProcessConfig::new(dir.path());
    let error = mortise_runtime_process::ProcessRuntime::new(config).unwrap_err();
    assert!(error.to_string().contains("nobody else can write to"), "{error}");
}

#[test]
fn parts_of_hosts_that_are_gone_are_swept_and_others_kept() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let config = || mortise_runtime_process::ProcessConfig::new(&run);
    let alive = mortise_runtime_process::ProcessRuntime::new(config()).unwrap();
    let dead = run.join("999999-0");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::create_dir(dead.join("1")).unwrap();
    let _second = mortise_runtime_process::ProcessRuntime::new(config()).unwrap();
    assert!(!dead.exists());
    let parts = std::fs::read_dir(&run)
        .unwrap()
        .filter(|it| it.as_ref().unwrap().path().is_dir())
        .count();
    assert_eq!(parts, 2);
    drop(alive);
}
