//! What the plugin finds around it.

use std::collections::BTreeMap;

use crate::{
    fake::Begin,
    fixture::{Bench, ask},
};

#[tokio::test]
async fn nothing_but_what_it_is_given() {
    let bench = Bench::new(Begin::Well);
    // The host has something open and something to hide.
    let _open = std::fs::File::open("/dev/null").unwrap();
    assert!(
        std::env::vars().count() > 5,
        "this test needs an environment to hide"
    );
    let instance = bench.start().await;
    let answer = ask(&*instance, "whoami").await.unwrap();
    let found: BTreeMap<_, _> = answer.lines().filter_map(|line| line.split_once('=')).collect();
    let env: Vec<_> = found.keys().filter_map(|it| it.strip_prefix("env ")).collect();
    let allowed = [
        "HOME",
        "LANG",
        "LC_ALL",
        "MORTISE_FAKE",
        "MORTISE_HOST_PID",
        "MORTISE_LANE_FD",
        "RUST_BACKTRACE",
        "TMPDIR",
        "TZ",
    ];
    assert!(env.iter().all(|it| allowed.contains(it)), "{env:?}");
    assert_eq!(found["env MORTISE_HOST_PID"], std::process::id().to_string());
    assert_eq!(found["env MORTISE_LANE_FD"], "0");

    let dir = found["cwd"];
    assert_eq!((found["env TMPDIR"], found["env HOME"]), (dir, dir));
    assert_eq!(found["files"], "0", "its directory is empty");
    assert!(
        dir.starts_with(&*bench.run_dir.canonicalize().unwrap().to_string_lossy()),
        "{dir}"
    );
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        std::fs::metadata(dir).unwrap().permissions().mode() & 0o777,
        0o700
    );

    assert_eq!(found["pid"], found["pgid"], "a process group of its own");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_descriptor_of_the_host_and_no_core_file() {
    let bench = Bench::new(Begin::Well);
    let (_held, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let first = bench.start().await;
    let second = bench.start().await;
    for instance in [&first, &second] {
        let answer = ask(&**instance, "whoami").await.unwrap();
        let fds: Vec<_> = answer.lines().filter(|it| it.starts_with("fd ")).collect();
        let lanes = fds.iter().filter(|it| it.contains("socket:")).count();
        // Descriptor 0, and the fake's own two copies of it.
        assert_eq!(lanes, 3, "{fds:?}");
        let others: Vec<_> = fds
            .iter()
            .filter(|it| !it.contains("socket:") && !it.contains("pipe:") && !it.contains("/proc/"))
            .collect();
        assert!(others.is_empty(), "{others:?}");
        assert_eq!(fds.iter().filter(|it| it.contains("pipe:")).count(), 2, "{fds:?}");
        let core = answer
            .lines()
            .find(|it| it.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let data = answer.lines().find(|it| it.starts_with("Max data size")).unwrap();
        assert_ne!(data.split_whitespace().nth(3), Some("unlimited"), "{data}");
    }
}
