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
        "GLIBC_TUNABLES",
        "HOME",
        "LANG",
        "LC_ALL",
        "MORTISE_FAKE",
        "MORTISE_LANE_FD",
        "RUST_BACKTRACE",
        "TMPDIR",
        "TZ",
    ];
    assert!(env.iter().all(|it| allowed.contains(it)), "{env:?}");
    assert!(
        env.contains(&"GLIBC_TUNABLES"),
        "large messages keep their memory: {env:?}"
    );
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
    // What whoever started this test left open without CLOEXEC is inherited; see the crate's documentation.
    let inheritable = inheritable();
    let first = bench.start().await;
    let second = bench.start().await;
    for instance in [&first, &second] {
        let answer = ask(&**instance, "whoami").await.unwrap();
        let fds: Vec<_> = answer
            .lines()
            .filter(|it| it.starts_with("fd ") && !it.contains("=/proc/"))
            .filter(|it| !inheritable.iter().any(|fd| it.starts_with(&format!("fd {fd}="))))
            .collect();
        let (lanes, others): (Vec<&str>, Vec<&str>) = fds.iter().partition(|it| it.contains("socket:"));
        // Descriptor 0, and the fake's own two copies of it.
        assert_eq!(lanes.len(), 3, "{fds:?}");
        assert!(
            others.len() == 2 && others.iter().all(|it| it.contains("pipe:")),
            "{fds:?}"
        );
        let core = answer
            .lines()
            .find(|it| it.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let data = answer.lines().find(|it| it.starts_with("Max data size")).unwrap();
        assert_ne!(data.split_whitespace().nth(3), Some("unlimited"), "{data}");
    }
}

/// Descriptors of this process that any child inherits.
#[cfg(target_os = "linux")]
fn inheritable() -> Vec<String> {
    const CLOEXEC: u32 = 0o2000000;
    let entries = std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .map(|it| it.unwrap());
    let inherited = entries.filter(|entry| {
        let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|it| u32::from_str_radix(it.trim(), 8).unwrap() & CLOEXEC == 0)
    });
    let names = inherited.map(|it| it.file_name().into_string().unwrap());
    names.filter(|it| it.len() > 1 || it.as_str() > "2").collect()
}
