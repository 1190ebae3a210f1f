//! A package folder as part of a program: what `source = "embedded:NAME"` names.
//!
//! The build script reads the folder and leaves a list of its files in `$OUT_DIR`; the compiler takes their bytes from there. Only files that
//! the package's own manifest names are taken, and the manifest's check lets no name lead out of the folder.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use mortise_manifest::Manifest;

use crate::BuildError;

/// Embeds the package folder `path`, as `mortise build` wrote it, under the name in its manifest. For a build script: on a fault it prints it as
/// cargo's error and ends with code 1.
///
/// The program takes it with `mortise::embedded!("NAME")`, and gives that to `HostBuilder::embed`.
pub fn embed(path: impl AsRef<Path>) {
    let embedded = crate::builder::variable("OUT_DIR", "write_embedded")
        .and_then(|out_dir| write_embedded(path.as_ref(), out_dir.as_ref()));
    if let Err(error) = embedded {
        crate::builder::give_up(&error);
    }
}

/// As [`embed`], into the folder `out_dir`; the name under which it is embedded.
///
/// # Errors
/// If the folder is no package, or a file that it names cannot be read.
pub fn write_embedded(path: &Path, out_dir: &Path) -> Result<String, BuildError> {
    let read = |path: &Path| {
        let failed = |source| BuildError::Read {
            path: path.to_owned(),
            source,
        };
        // What the script itself has made is newer than its run, and would make it run again every time.
        if !path.starts_with(out_dir) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        fs::read(path).map_err(failed)
    };
    let path = std::path::absolute(path).map_err(|source| BuildError::Read {
        path: path.to_owned(),
        source,
    })?;
    let place = path.join("plugin.toml");
    let text = String::from_utf8_lossy(&read(&place)?).into_owned();
    let manifest =
        Manifest::parse(&text, &place.display().to_string()).map_err(|faults| BuildError::Manifest {
            report: faults.to_string(),
        })?;
    if manifest.variants.is_empty() {
        return Err(BuildError::NoPackage { path });
    }
    let variants = manifest.variants.iter().map(|it| it.file.as_str());
    let mut list = format!("({:?}, &[\n", manifest.name);
    // Several steps may begin at one version.
    let older: BTreeSet<&str> = manifest.adapt.iter().map(|it| it.contract.as_str()).collect();
    let fixed = ["plugin.toml", "contract.binpb"].into_iter();
    for file in fixed.chain(variants).chain(older) {
        let from = path.join(file);
        // The compiler would say it too, but not which package it is about.
        read(&from)?;
        writeln!(
            list,
            "    ({file:?}, include_bytes!({:?})),",
            from.display().to_string()
        )
        .expect("a string takes everything");
    }
    list.push_str("])\n");
    crate::builder::write(
        &out_dir.join(format!("{}.embedded.rs", manifest.name)),
        list.as_bytes(),
    )?;
    Ok(manifest.name)
}
