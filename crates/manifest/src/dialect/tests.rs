//! `[variant.go_plugin]`: what it may say, and every fault with its place and what to do.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::{
    Manifest, RuntimeName, Variant,
    tests::{faults, manifest, short},
};

const HEAD: &str = "[plugin]\nname = \"null\"\nversion = \"3.2.1\"\napi = 1\n[contract]\nprovides = [\"tfplugin5.Provider\"]\n[[variant]]\n";

/// Every key. Its head stands in one line, so that line 2 of a test's text is line 9 of the file.
pub(crate) const WHOLE: &str = r#"runtime = "process"
file = "terraform-provider-null"
[variant.go_plugin]
cookie_key = "TF_PLUGIN_MAGIC_COOKIE"
cookie_value = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"
versions = [5, 6]
auto_mtls = false
multiplex = true
sha256 = "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08"
"#;

fn whole() -> GoPlugin {
    GoPlugin {
        cookie_key: "TF_PLUGIN_MAGIC_COOKIE".to_owned(),
        cookie_value: "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2".to_owned(),
        versions: vec![5, 6],
        auto_mtls: false,
        multiplex: true,
        // Of `test`.
        sha256: from_hex("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    }
}

fn read(variant: &str) -> Manifest {
    manifest(&format!("{HEAD}{variant}"))
}

/// The faults of a variant whose first line is line 8 of the file.
fn faults_of(variant: &str) -> String {
    faults(&format!("{HEAD}{variant}"))
}

/// With one line of [`WHOLE`] in another form.
fn faults_with(key: &str, line: &str) -> String {
    let lines = WHOLE
        .lines()
        .map(|it| if it.starts_with(key) { line } else { it });
    short(&faults_of(&lines.collect::<Vec<_>>().join("\n")))
}

/// Plugins of which every one can be written down.
pub(crate) fn go_plugins() -> impl Strategy<Value = GoPlugin> {
    let versions = proptest::collection::btree_set(any::<u32>(), 1..5);
    (
        "[A-Za-z0-9_]{1,12}",
        "[^\0]{1,12}",
        versions,
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(any::<[u8; 32]>()),
    )
        .prop_map(
            |(cookie_key, cookie_value, versions, auto_mtls, multiplex, sha256)| GoPlugin {
                cookie_key,
                cookie_value,
                versions: versions.into_iter().collect(),
                auto_mtls,
                multiplex,
                sha256,
            },
        )
}

#[test]
fn reads_every_key() {
    let expected = Variant {
        runtime: RuntimeName::Process,
        file: "terraform-provider-null".to_owned(),
        dialect: Some(Dialect::GoPlugin(whole())),
    };
    assert_eq!(read(WHOLE).variants, [expected]);
}

#[test]
fn reads_the_least() {
    let least = read(
        "runtime = \"process\"\nfile = \"p\"\ngo_plugin = { cookie_key = \"K\", cookie_value = \"v\", versions = [0] }\n",
    );
    let expected = GoPlugin {
        cookie_key: "K".to_owned(),
        cookie_value: "v".to_owned(),
        versions: vec![0],
        auto_mtls: true,
        multiplex: false,
        sha256: None,
    };
    assert_eq!(least.variants[0].dialect, Some(Dialect::GoPlugin(expected)));
}

#[test]
fn writes_what_it_reads() {
    let written = read(WHOLE).to_toml();
    assert_eq!(manifest(&written), read(WHOLE));
    let (_, variant) = written.split_once("[[variant]]\n").unwrap();
    assert_snapshot!(variant, @r#"
    runtime = "process"
    file = "terraform-provider-null"

    [variant.go_plugin]
    cookie_key = "TF_PLUGIN_MAGIC_COOKIE"
    cookie_value = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"
    versions = [5, 6]
    auto_mtls = false
    multiplex = true
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    "#);
}

#[test]
fn what_must_be_there_is_asked_for_at_once() {
    let variant = "runtime = \"process\"\nfile = \"p\"\n[variant.go_plugin]\n";
    assert_snapshot!(faults_of(variant), @r#"
    error: `variant.go_plugin` has no `cookie_key`
      --> plugin.toml:10:1
        |
     10 | [variant.go_plugin]
        | ^^^^^^^^^^^^^^^^^^^
    hint: add `cookie_key = "BASIC_PLUGIN"`

    error: `variant.go_plugin` has no `cookie_value`
      --> plugin.toml:10:1
        |
     10 | [variant.go_plugin]
        | ^^^^^^^^^^^^^^^^^^^
    hint: add `cookie_value = "hello"`

    error: `variant.go_plugin` has no `versions`
      --> plugin.toml:10:1
        |
     10 | [variant.go_plugin]
        | ^^^^^^^^^^^^^^^^^^^
    hint: add `versions = [1]`
    "#);
}

#[test]
fn every_fault_is_reported_at_once_in_its_place() {
    let variant = r#"runtime = "process"
file = "p"
[variant.go_plugin]
cookie_key = "BASIC-PLUGIN"
cookie_value = ""
versions = []
auto_mtls = "yes"
multiplex = 1
sha256 = "9f86d0"
magic = "x"
cookie_vlaue = "hello"
"#;
    assert_snapshot!(short(&faults_of(variant)), @r#"
    error: `BASIC-PLUGIN` is not a variable's name
      --> plugin.toml:11:14
    hint: write the name that the plugin's own hosts use: letters, digits and `_`
    error: `` is not a variable's value
      --> plugin.toml:12:16
    hint: write the value that the plugin's own hosts use: at least one character, and no zero byte
    error: `versions` must be a list of 1 to 64 different numbers, none below 0
      --> plugin.toml:13:12
    hint: write a list, such as `versions = [1, 2]`
    error: `auto_mtls` is a string, and it must be true or false
      --> plugin.toml:14:13
    error: `multiplex` is an integer, and it must be true or false
      --> plugin.toml:15:13
    error: `9f86d0` is not 64 hexadecimal digits
      --> plugin.toml:16:10
    hint: `sha256sum FILE` prints them
    error: unknown key `magic` in `variant.go_plugin`
      --> plugin.toml:17:1
    hint: known here: `cookie_key`, `cookie_value`, `versions`, `auto_mtls`, `multiplex` or `sha256`
    error: unknown key `cookie_vlaue` in `variant.go_plugin`
      --> plugin.toml:18:1
    hint: did you mean `cookie_value`?
    "#);
}

#[test]
fn a_cookie_is_a_variable() {
    for key in ["", "A B", "A=B", "CL\u{c9}", "A-B"] {
        let faults = faults_with("cookie_key", &format!("cookie_key = {key:?}"));
        assert_eq!(
            faults,
            format!(
                "error: `{key}` is not a variable's name\n  --> plugin.toml:11:14\n\
                 hint: write the name that the plugin's own hosts use: letters, digits and `_`"
            )
        );
    }
    // No environment can carry it, and no message shows it.
    let faults = faults_with("cookie_value", "cookie_value = \"a\\u0000b\"");
    assert!(
        faults.contains("plugin.toml:12:16") && faults.contains("no zero byte"),
        "{faults}"
    );
    let faults = faults_with("cookie_value", "cookie_value = 7");
    assert_eq!(
        faults,
        "error: `cookie_value` is an integer, and it must be a string\n  --> plugin.toml:12:16"
    );
}

#[test]
fn versions_are_different_numbers_and_at_least_one() {
    let many = format!(
        "[{}]",
        (0..65).map(|it| it.to_string()).collect::<Vec<_>>().join(", ")
    );
    for versions in [
        "[]",
        "[1, 1]",
        "[-1]",
        "[4294967296]",
        "[1.5]",
        "[\"1\"]",
        "1",
        "{}",
        &many,
    ] {
        assert_eq!(
            faults_with("versions", &format!("versions = {versions}")),
            "error: `versions` must be a list of 1 to 64 different numbers, none below 0\n  --> plugin.toml:13:12\n\
             hint: write a list, such as `versions = [1, 2]`"
        );
    }
}

#[test]
fn a_pin_is_sixty_four_digits() {
    let non_ascii = "\u{e9}".repeat(32);
    for pin in [
        "",
        "9f86d0",
        &"g".repeat(64),
        &"0".repeat(65),
        &non_ascii,
        &format!("+{}", "0".repeat(63)),
    ] {
        let faults = faults_with("sha256", &format!("sha256 = {pin:?}"));
        assert!(
            faults.contains(
                "is not 64 hexadecimal digits\n  --> plugin.toml:16:10\nhint: `sha256sum FILE` prints them"
            ),
            "{faults}"
        );
    }
}

#[test]
fn only_a_process_speaks_it() {
    for runtime in ["native", "wasm"] {
        let variant = WHOLE.replace("\"process\"", &format!("{runtime:?}"));
        assert_eq!(
            short(&faults_of(&variant)),
            "error: `go_plugin` says how to speak with a process, and this variant is none\n  --> plugin.toml:10:1\n\
             hint: write `runtime = \"process\"`"
        );
    }
    let faults = faults_of("runtime = \"process\"\nfile = \"p\"\ngo_plugin = \"yes\"\n");
    assert!(
        short(&faults).contains("it must be a table\n  --> plugin.toml:10:13"),
        "{faults}"
    );
}
