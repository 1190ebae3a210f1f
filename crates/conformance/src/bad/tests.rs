//! The generators on artifacts of every runtime: each changes what it says and nothing else.

use super::*;

const RUNTIMES: [RuntimeName; 3] = [RuntimeName::Native, RuntimeName::Wasm, RuntimeName::Process];

/// A test binary is an object file like any other.
fn own_executable() -> Vec<u8> {
    fs::read(std::env::current_exe().unwrap()).unwrap()
}

fn changed(one: &[u8], other: &[u8]) -> usize {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).filter(|(a, b)| a != b).count()
}

#[test]
fn marker_takes_the_name_of_the_fault() {
    let mut artifact = b"before".to_vec();
    artifact.extend(Fault::marker("none"));
    artifact.extend(b"behind");
    let bad = damage(Fault::AnswersTwice, RuntimeName::Process, artifact.clone()).unwrap();
    let marker: [u8; MARKER_BYTES] = bad[6..6 + MARKER_BYTES].try_into().unwrap();
    assert_eq!(Fault::from_marker(&marker), Fault::AnswersTwice);
    assert!(bad.starts_with(b"before") && bad.ends_with(b"behind"));
    artifact.extend(Fault::marker("none"));
    assert!(
        damage(Fault::AnswersTwice, RuntimeName::Process, artifact).is_err(),
        "two markers"
    );
    assert!(damage(Fault::AnswersTwice, RuntimeName::Process, b"no marker".to_vec()).is_err());
}

#[test]
fn processor_is_another_one() {
    let good = own_executable();
    let bad = damage(Fault::WrongArchitecture, RuntimeName::Process, good.clone()).unwrap();
    assert!((1..=4).contains(&changed(&good, &bad)));
    let back = damage(Fault::WrongArchitecture, RuntimeName::Process, bad).unwrap();
    assert!(back == good, "twice is the first processor again");
}

#[test]
fn entry_is_found_among_other_bytes() {
    let mut entry = 0x3145_544D_u32.to_le_bytes().to_vec();
    entry.extend(48_u32.to_le_bytes());
    entry.extend(1_u16.to_le_bytes());
    entry.extend(0_u16.to_le_bytes());
    // The magic alone, as in the code that compares it, is no entry.
    let library = [
        b"\x3d\x4d\x54\x45\x31\x75\x0a\xff\xff\xff\xff\xff\xff".as_slice(),
        &entry,
        b"rest",
    ]
    .concat();
    let bad = damage(Fault::WrongAbi, RuntimeName::Native, library.clone()).unwrap();
    assert_eq!(changed(&library, &bad), 1);
    assert_eq!(bad[13 + 8], 99);
}

#[test]
fn faults_that_do_not_exist_are_refused() {
    for runtime in RUNTIMES {
        for fault in Fault::ALL
            .into_iter()
            .filter(|it| !it.exists_on(runtime.as_str()))
        {
            assert!(
                damage(fault, runtime, own_executable()).is_err(),
                "{fault:?} on {runtime}"
            );
        }
    }
}

/// Every fault of every runtime, made of what `cargo xtask guests` built.
#[test]
fn every_fault_can_be_made() {
    let good = crate::packages().join(GOOD);
    assert!(
        good.exists(),
        "{} is not there: run `cargo xtask guests {GOOD}`",
        good.display()
    );
    let out = tempfile::tempdir().unwrap();
    let original = |runtime: RuntimeName| {
        let manifest = Manifest::parse(
            &fs::read_to_string(good.join("plugin.toml")).unwrap(),
            "plugin.toml",
        )
        .unwrap();
        fs::read(good.join(&manifest.variant(runtime).unwrap().file)).unwrap()
    };
    for runtime in RUNTIMES {
        for fault in Fault::ALL.into_iter().filter(|it| it.exists_on(runtime.as_str())) {
            let folder = out.path().join(format!("{runtime}-{}", fault.name()));
            package(&good, fault, runtime, &folder)
                .unwrap_or_else(|error| panic!("{fault:?} on {runtime}: {error}"));
            let manifest = Manifest::parse(
                &fs::read_to_string(folder.join("plugin.toml")).unwrap(),
                "plugin.toml",
            )
            .unwrap();
            assert_eq!(manifest.variants.len(), 1);
            let bytes = fs::read(folder.join(&manifest.variants[0].file)).unwrap();
            let (same_file, same_version) = (
                bytes == original(runtime),
                manifest.version.to_string() == "1.0.0",
            );
            assert_eq!(
                same_file,
                matches!(fault, Fault::None | Fault::LiesToItsFolder),
                "{fault:?} on {runtime}"
            );
            assert_eq!(
                same_version,
                !matches!(fault, Fault::LiesToItsFolder | Fault::LiesWhenItRuns)
            );
            assert!(folder.join("contract.binpb").exists());
        }
    }
}
