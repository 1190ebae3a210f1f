//! The checked-in messages are what `proto/` says. `BLESS=1 cargo test -p mortise-wire` rewrites them.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = crate_dir.join("../../proto");
    let files =
        ["status", "call", "metadata", "lane", "state"].map(|it| format!("mortise/plugin/v1/{it}.proto"));
    let descriptors = protox::compile(
        files
            .iter()
            .map(String::as_str)
            .chain(["mortise/host/v1/host.proto"]),
        [&proto],
    )
    .expect("the protos compile");
    let fresh = tempfile::tempdir().expect("a directory for the fresh code");
    prost_build::Config::new()
        // It is taken apart without a copy.
        .bytes([".mortise.plugin.v1.Piece"])
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .expect("prost generates");
    for package in ["mortise.plugin.v1", "mortise.host.v1"] {
        let name = format!("{package}.rs");
        let fresh = std::fs::read_to_string(fresh.path().join(&name)).expect("generated");
        let checked_in = crate_dir.join("src/gen").join(&name);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&checked_in, &fresh).expect("writes the blessed code");
        }
        let current = std::fs::read_to_string(&checked_in).unwrap_or_default();
        assert!(
            current == fresh,
            "{name} is stale: run `BLESS=1 cargo test -p mortise-wire` and commit it"
        );
    }
}
