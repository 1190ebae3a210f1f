//! Words: help, usage, faults of sources, scaffolds.

use std::fs;

use crate::command::Place;

#[test]
fn the_help_tells_commands_and_exit_codes() {
    let place = Place::new();
    insta::assert_snapshot!(place.run("--help"));
    insta::assert_snapshot!(place.run("build --help"));
}

#[test]
fn a_wrong_command_line() {
    let place = Place::new();
    let mut text = String::new();
    for line in [
        "frobnicate",
        "new Bad_Name",
        "new async",
        "call thumbnailer",
        "call a b.C/D",
        "call a b --json nonsense",
        "call a b --header x",
        "load . --grant everything",
    ] {
        text += &format!("$ mortise {line}\n{}\n", place.run(line));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn every_fault_of_a_source_at_once() {
    let place = Place::new();
    place.write(
        "plugin.toml",
        "[plugin]\nname = \"Thumb\"\nversion = \"one\"\napi = 1\n[contract]\nprovides = [\"acme.v1.Thumb\"]\n[limit]\nmemory_mib = 1\n",
    );
    place.write(
        "contract/thumb.proto",
        "syntax = \"proto3\";\npackage acme.v1;\nmessage A { strin x = 1; }\n",
    );
    insta::assert_snapshot!(place.run("check"));
    insta::assert_snapshot!(place.run("check --output json"));
}

#[test]
fn a_manifest_and_a_contract_that_do_not_fit() {
    let place = Place::new();
    place.write(
        "plugin.toml",
        "[plugin]\nname = \"thumb\"\nversion = \"1.2.0\"\napi = 1\n[contract]\nprovides = [\"acme.v1.Thmub\", \"acme.v1.Stream\"]\n\
         [state]\nschema = \"acme.v1.State\"\n",
    );
    place.write(
        "contract/thumb.proto",
        "syntax = \"proto3\";\npackage acme.v1;\nimport \"mortise/options.proto\";\nmessage A {}\nservice Thumb { rpc Go(A) returns (A); }\n\
         service Stream { rpc Watch(A) returns (stream A) { option (mortise.nonblocking) = true; } }\n",
    );
    place.write(
        "Cargo.toml",
        "[package]\nname = \"thumb\"\nversion = \"1.1.0\"\n[lib]\ncrate-type = [\"rlib\"]\n",
    );
    insta::assert_snapshot!(place.run("check"));
}

#[test]
fn a_folder_that_is_no_plugin() {
    let place = Place::new();
    insta::assert_snapshot!(place.run("check nowhere"));
}

#[test]
fn a_scaffold_has_no_faults_and_is_not_written_over_anything() {
    let place = Place::new();
    let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    place.ok(&["new", "photo-filter", "--sdk-path", sdk]);
    assert_eq!(
        place.ok(&["check", "photo-filter"]),
        "photo-filter 0.1.0: no faults\n"
    );
    let lib = fs::read_to_string(place.path().join("photo-filter/src/lib.rs")).unwrap();
    assert!(lib.contains("impl PhotoFilter for Plugin"), "{lib}");
    for file in [
        "Cargo.toml",
        "src/lib.rs",
        "src/main.rs",
        "tests/plugin.rs",
        "README.md",
        "plugin.toml",
    ] {
        let text = fs::read_to_string(place.path().join("photo-filter").join(file)).unwrap();
        for left in ["{name}", "{snake}", "{Camel}", "{sdk}", "{build}", "{testkit}"] {
            assert!(!text.contains(left), "{file} still has {left}");
        }
    }
    assert!(place.run("new photo-filter").starts_with("exit 1\n"));
}

#[test]
fn a_scaffold_outside_a_checkout_names_the_release() {
    let place = Place::new();
    // The command as it is installed: nowhere near a checkout.
    let installed = place.path().join("mortise");
    fs::copy(env!("CARGO_BIN_EXE_mortise"), &installed).unwrap();
    let run = std::process::Command::new(&installed)
        .args(["new", "far"])
        .current_dir(place.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", place.told(&run));
    let cargo = fs::read_to_string(place.path().join("far/Cargo.toml")).unwrap();
    assert!(
        cargo.contains(r#"mortise-sdk = { git = "https://github.com/mortise-rs/mortise", tag = "v"#),
        "{cargo}"
    );
}

#[test]
fn metadata_in_both_forms() {
    let place = Place::new();
    place.upper();
    let c = place.ok(&["metadata", "upper", "--format", "c"]);
    assert!(
        c.contains("MT_SECTION static const unsigned char mortise_metadata[")
            && c.contains("TEST_UPPER_V1_UPPER_UPPER 0u"),
        "{c}"
    );
    place.ok(&["metadata", "upper", "--format", "bin", "--out", "meta.bin"]);
    let bin = fs::read(place.path().join("meta.bin")).unwrap();
    assert!(bin.windows(5).any(|it| it == b"upper"));
}

#[test]
fn completions_and_manual_pages() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ok(&["completions", shell]).contains("inspect"), "{shell}");
    }
    assert!(place.ok(&["man"]).contains(".TH mortise 1"));
    place.ok(&["man", "--dir", "man"]);
    assert!(place.path().join("man/mortise-build.1").is_file());
}

#[test]
fn colours_are_for_terminals() {
    let place = Place::new();
    assert!(!place.run("check nowhere").contains('\x1b'));
    assert!(
        place
            .run("check nowhere --color always")
            .contains("\x1b[1;31merror:\x1b[0m")
    );
}
