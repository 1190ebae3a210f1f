use std::path::Path;

/// `BLESS=1 cargo test -p mortise-sdk-go-plugin` rewrites it.
#[test]
fn generated_code_is_current() {
    let double = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/double");
    let fresh = tempfile::tempdir().unwrap();
    mortise_build::Builder::new()
        .manifest(double.join("plugin.toml"))
        .contract_dir(double.join("contract"))
        .out_dir(fresh.path())
        .compile()
        .unwrap();
    for name in ["mortise.rs", "mortise.meta", "mortise_metadata.rs"] {
        let generated = double.join("generated").join(name);
        let fresh = std::fs::read(fresh.path().join(name)).unwrap();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&generated, &fresh).unwrap();
        }
        let current = std::fs::read(&generated).unwrap_or_default();
        assert!(
            current == fresh,
            "{name} is stale: run `BLESS=1 cargo test -p mortise-sdk-go-plugin` and commit it"
        );
    }
}
