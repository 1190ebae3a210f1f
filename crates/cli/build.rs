//! Makes the package `checksum` of `embedded/checksum` and embeds it. Its module is written by hand as text, so that the command can be built
//! without a compiler for WebAssembly.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use mortise_manifest::{Manifest, RuntimeName, Variant};
use prost::Message as _;

const SOURCE: &str = "embedded/checksum";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    match package(Path::new(SOURCE)) {
        Ok(package) => mortise_build::embed(package),
        Err(error) => {
            println!("cargo::error=the embedded package {SOURCE} cannot be made: {error}");
            std::process::exit(1);
        }
    }
}

/// What `mortise build --module` would make of it.
fn package(source: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let text = fs::read_to_string(source.join("plugin.toml"))?;
    let mut manifest = Manifest::parse(&text, "plugin.toml").map_err(|faults| faults.to_string())?;
    let protos = mortise_build::compile_protos(&source.join("contract"))?;
    let metadata = mortise_build::metadata(&text, &protos.descriptor_set)?;
    let module = fs::read_to_string(source.join("checksum.wat"))?;
    let module = wat::parse_str(with_section(&module, "mortise", &metadata.encode_to_vec())?)?;

    let package = PathBuf::from(std::env::var("OUT_DIR")?).join(&manifest.name);
    fs::create_dir_all(&package)?;
    let file = format!("{}.wasm", manifest.name);
    fs::write(package.join(&file), module)?;
    fs::write(package.join("contract.binpb"), &protos.descriptor_set)?;
    manifest.variants = vec![Variant {
        runtime: RuntimeName::Wasm,
        file,
        dialect: None,
    }];
    fs::write(package.join("plugin.toml"), manifest.to_toml())?;
    Ok(package)
}

/// The module with a custom section, as the text format writes one: before the last parenthesis.
fn with_section(module: &str, name: &str, data: &[u8]) -> Result<String, Box<dyn Error>> {
    let (body, _) = module.rsplit_once(')').ok_or("the module has no end")?;
    let mut text = format!("{body}\n(@custom {name:?} \"");
    for byte in data {
        write!(text, "\\{byte:02x}")?;
    }
    text.push_str("\"))\n");
    Ok(text)
}
