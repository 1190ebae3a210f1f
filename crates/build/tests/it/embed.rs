//! A package folder as a list of its files.

use std::fs;

use super::TempDir;

const PACKAGE: &str = r#"
[plugin]
name = "small"
version = "1.0.0"
api = 1
[contract]
provides = ["a.v1.A"]
[[variant]]
runtime = "wasm"
file = "small.wasm"
"#;

fn embed(manifest: &str, files: &[&str]) -> Result<String, String> {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(from.path().join("plugin.toml"), manifest).unwrap();
    for file in files {
        fs::write(from.path().join(file), "x").unwrap();
    }
    let name = mortise_build::write_embedded(from.path(), to.path()).map_err(|error| error.to_string())?;
    let list = fs::read_to_string(to.path().join(format!("{name}.embedded.rs"))).unwrap();
    Ok(list.replace(&from.path().display().to_string(), "DIR"))
}

#[test]
fn only_what_the_manifest_names_is_embedded() {
    let list = embed(PACKAGE, &["contract.binpb", "small.wasm", "notes.txt"]).unwrap();
    let expected = ["plugin.toml", "contract.binpb", "small.wasm"]
        .map(|file| format!("    ({file:?}, include_bytes!(\"DIR/{file}\")),\n"))
        .concat();
    assert_eq!(list, format!("(\"small\", &[\n{expected}])\n"));
}

#[test]
fn what_is_no_package_is_refused() {
    let error = embed(PACKAGE, &["small.wasm"]).unwrap_err();
    assert!(error.contains("contract.binpb"), "{error}");
    let source = PACKAGE.split("[[variant]]").next().unwrap();
    let error = embed(source, &[]).unwrap_err();
    assert!(error.contains("run `mortise build`"), "{error}");
    // The manifest's own check: no name leads out of the folder.
    let error = embed(&PACKAGE.replace("small.wasm", "../small.wasm"), &[]).unwrap_err();
    assert!(error.contains("../small.wasm"), "{error}");
}
