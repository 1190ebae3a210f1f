//! What is refused, at which step and in which words; and what is left then.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use mortise_manifest::Grant;
use mortise_runtime::{Runtime, RuntimeErrorKind as Kind};
use mortise_runtime_native::{Generations, mappings};

use crate::bench::{Bench, LONG, call, has_compiler, until};

#[tokio::test]
async fn a_good_plugin_answers() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let probe = bench.probe("good").await;
    assert_eq!(call(&*probe, "Echo", b"hello").await.unwrap(), "hello");
    assert_eq!(call(&*probe, "Echo", b"").await.unwrap(), "");
    let big = vec![7; 16 << 20];
    assert_eq!(call(&*probe, "Echo", &big).await.unwrap(), big);
    let health = probe.health().await.unwrap();
    assert_eq!((health.serving, health.detail.as_str()), (true, "fine"));
    let report = probe.stop(LONG).await;
    assert_eq!(report.forced, None);
    assert_eq!(
        report,
        probe.stop(LONG).await,
        "stopping twice is the same as once"
    );
}

/// One define, one way of not being a plugin.
#[tokio::test]
async fn every_broken_library_is_refused_with_its_reason() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let cases: &[(&str, Kind, &str)] = &[
        (
            "BAD_SYMBOL",
            Kind::NotAPlugin,
            "exports no symbol `mortise_entry_v1`",
        ),
        (
            "BAD_MAGIC=7",
            Kind::NotAPlugin,
            "begins with 0x00000007 and not with 0x3145544d",
        ),
        (
            "BAD_MAJOR=2",
            Kind::AbiMismatch,
            "built for version 2.0 of the native ABI, and this host speaks 1.0",
        ),
        (
            "BAD_ENTRY_SIZE=24",
            Kind::NotAPlugin,
            "24 bytes long, too short for `create`",
        ),
        ("BAD_FLAGS=2", Kind::Unsupported, "panic = \"abort\""),
        (
            "BAD_METADATA",
            Kind::Tampered,
            "as many bytes as in its file, but others",
        ),
        (
            "BAD_CREATE",
            Kind::StartFailed,
            "`create` failed: config.color is missing (FAILED_PRECONDITION)",
        ),
        ("BAD_CREATE_NULL", Kind::NotAPlugin, "gave no instance"),
        (
            "BAD_INSTANCE_SIZE",
            Kind::NotAPlugin,
            "an instance of 16 bytes, too short for `destroy`",
        ),
        ("BAD_STRIDE", Kind::NotAPlugin, "rows of 8 bytes"),
        ("BAD_COUNT", Kind::NotAPlugin, "a method table of 2147483647 rows"),
        (
            "BAD_NO_SUCH_METHOD",
            Kind::Tampered,
            "it provides `probe.v1.Probe/Answer`, and its method table has",
        ),
        (
            "BAD_HASH",
            Kind::Tampered,
            "one wire hash, and its method table has another",
        ),
        (
            "BAD_ACTIVATE",
            Kind::StartFailed,
            "`activate` failed: no database",
        ),
    ];
    for (define, kind, text) in cases {
        let bytes = bench.compile("broken", &[define]);
        // Twice: what is mapped and refused is refused again, without another mapping.
        for _ in 0..2 {
            let error = bench.start(bytes.clone()).await.map(|_| ()).expect_err(define);
            assert_eq!(error.kind(), *kind, "{define}: {error}");
            assert!(error.to_string().contains(text), "{define}: {error}");
            assert!(!error.hint().is_empty());
        }
    }
    assert_eq!(bench.host.messages(), [""; 0]);
}

#[tokio::test]
async fn what_create_made_is_destroyed_when_the_start_fails_later() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let (witness, define) = bench.witness();
    for define_bad in ["BAD_ACTIVATE", "BAD_NO_SUCH_METHOD"] {
        let bytes = bench.compile("undone", &[&define, define_bad]);
        bench.start(bytes).await.map(|_| ()).expect_err("broken");
    }
    let told = std::fs::read_to_string(witness).unwrap();
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_undone() {
    if !has_compiler() {
        return;
    }
    let mut bench = Bench::new();
    bench.limits.start = Duration::from_millis(50);
    let (witness, define) = bench.witness();
    let error = bench
        .start(bench.compile("slow", &[&define, "BAD_CREATE_SLOW"]))
        .await
        .map(|_| ())
        .expect_err("slow");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::StartFailed, "probe did not start within 50 ms")
    );
    until("the late instance is torn down", || witness.exists()).await;
}

/// On bytes alone: nothing is opened.
#[tokio::test]
async fn other_files_are_refused_on_their_bytes() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::alone();
    let good = bench.compile("bytes", &[]);
    let mapped = mappings();
    let read = |bytes: Vec<u8>| bench.runtime.read_metadata(&bench.artifact(bytes));
    read(good.clone()).unwrap();

    let mut arm = good.clone();
    arm[18..20].copy_from_slice(&183u16.to_le_bytes());
    let error = read(arm).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongTarget);
    assert!(
        error
            .to_string()
            .contains("built for linux aarch64 (ELF), and this host is linux"),
        "{error}"
    );

    let program = bench.gcc("program", &["-pie", "-fPIE"], &["PROGRAM"]);
    let error = read(program).unwrap_err();
    assert_eq!(error.kind(), Kind::NotAPlugin);
    assert!(error.to_string().contains("executable"), "{error}");

    for (bytes, kind) in [
        (b"\xff\xd8\xff\xe0 a photograph".to_vec(), Kind::NotAPlugin),
        (Vec::new(), Kind::NotAPlugin),
        (good[..good.len() / 2].to_vec(), Kind::Malformed),
        (good[..40].to_vec(), Kind::Malformed),
    ] {
        assert_eq!(read(bytes).unwrap_err().kind(), kind);
    }
    for end in (0..good.len()).step_by(97) {
        assert!(read(good[..end].to_vec()).is_err(), "cut to {end} bytes");
    }
    assert_eq!(mappings(), mapped);
}

#[tokio::test]
async fn the_budget_refuses_new_libraries_and_no_known_ones() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let known = bench.compile("budget-known", &[]);
    bench.start(known.clone()).await.unwrap().stop(LONG).await;
    let full = Bench::with(|it| it.generations = Generations { warn: 0, max: 0 });
    let again = full.start(known).await.unwrap();
    assert_eq!(call(&*again, "Echo", b"still").await.unwrap(), "still");
    let error = full
        .start(full.compile("budget-new", &[]))
        .await
        .map(|_| ())
        .expect_err("over the budget");
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(
        error
            .to_string()
            .ends_with("and 0 are allowed; unloaded ones stay mapped"),
        "{error}"
    );
    assert!(error.hint().contains("process runtime"));
}

#[tokio::test]
async fn two_instances_of_one_library_share_nothing_but_its_code() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::alone();
    let bytes = bench.compile("twice", &[]);
    let first = bench.start(bytes.clone()).await.unwrap();
    let mapped = mappings();
    let second = bench.start(bytes).await.unwrap();
    assert_eq!(mappings(), mapped, "I1");
    assert_eq!(call(&*first, "Count", b"").await.unwrap(), "1");
    assert_eq!(call(&*first, "Count", b"").await.unwrap(), "2");
    assert_eq!(call(&*second, "Count", b"").await.unwrap(), "1");
    first.stop(LONG).await;
    assert_eq!(
        call(&*second, "Count", b"").await.unwrap(),
        "2",
        "the other goes on"
    );
    call(&*first, "Count", b"").await.expect_err("stopped");
}

#[tokio::test]
async fn the_copy_is_private_and_healed() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::new();
    let bytes = bench.compile("copy", &[]);
    let copy = bench
        .dir
        .path()
        .join("cache")
        .join(bench.artifact(bytes.clone()).digest.to_string())
        .join("plugin.so");
    bench.start(bytes.clone()).await.unwrap().stop(LONG).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&copy), mode(copy.parent().unwrap())), (0o500, 0o700));

    std::fs::remove_file(&copy).unwrap();
    std::fs::write(&copy, b"something else").unwrap();
    bench.start(bytes.clone()).await.unwrap().stop(LONG).await;
    assert_eq!(std::fs::read(&copy).unwrap(), bytes);

    let cache = bench.dir.path().join("cache");
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = bench
        .start(bytes)
        .await
        .map(|_| ())
        .expect_err("anybody could write there");
    assert!(
        error.to_string().contains("may be written by others (mode 777)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_copy_that_changes_after_the_check_is_not_opened() {
    if !has_compiler() {
        return;
    }
    let bench = Bench::alone();
    let artifact = bench.artifact(bench.compile("changed", &[]));
    let home = bench.dir.path().join("cache").join(artifact.digest.to_string());
    let metadata = bench.runtime.read_metadata(&artifact).unwrap();
    let verified = artifact.verify(metadata).unwrap();
    let prepared = bench.runtime.prepare(&verified, &Grant::default()).await.unwrap();
    let other = bench.compile("changed-to", &[]);
    std::fs::remove_file(home.join("plugin.so")).unwrap();
    std::fs::write(home.join("plugin.so"), other).unwrap();
    let mapped = mappings();
    let error = bench
        .runtime
        .start(prepared, bench.how())
        .await
        .map(|_| ())
        .expect_err("changed");
    assert_eq!((error.kind(), mappings()), (Kind::Tampered, mapped));
}
