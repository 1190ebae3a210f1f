//! A plugin's source folder, read whole, and the package folder that becomes of it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use mortise::{
    Package,
    contract::{Contract, evolve::Lineage},
    manifest::{Adapt, Manifest, RuntimeName, Variant},
    wire::Metadata,
};
use mortise_build::BuildError;
use prost::Message as _;

use crate::exit::{Failure, Fault};

/// A source folder without faults.
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Manifest,
    /// What every artifact of it says about itself; target and toolchain are left to whoever builds it.
    pub(crate) metadata: Metadata,
}

/// One file of a package.
pub(crate) struct Artifact {
    pub(crate) runtime: RuntimeName,
    pub(crate) file: String,
    pub(crate) content: Content,
}

/// Where an artifact's bytes are.
pub(crate) enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Project {
    /// Reads `plugin.toml` and `contract/` of `dir`.
    ///
    /// # Errors
    /// Every fault of the first of them that has any.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let (text, manifest) = read_manifest(dir)?;
        let metadata = metadata(dir, &text)?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            metadata,
        })
    }

    /// Where its package goes by default.
    pub(crate) fn package_dir(&self) -> PathBuf {
        self.dir
            .join("target/mortise")
            .join(format!("{}-{}", self.manifest.name, self.manifest.version))
    }

    /// Writes the package to `out`: beside it first, so that `out` is never half a package.
    pub(crate) fn write_package(&self, out: &Path, artifacts: Vec<Artifact>) -> anyhow::Result<()> {
        let failed = |path: &Path, error: io::Error| {
            let hint = "check the folder's permissions and the space left, or choose another with `--out`";
            Failure::new(Fault::new(format!("cannot write `{}`: {error}", path.display())).hint(hint))
        };
        if out.is_dir()
            && !out.join("plugin.toml").is_file()
            && fs::read_dir(out).is_ok_and(|mut it| it.next().is_some())
        {
            let message = format!("`{}` is not empty and is no package", out.display());
            return Err(Failure::new(
                Fault::new(message).hint("choose another folder with `--out`, or empty it"),
            )
            .into());
        }
        let fresh = sibling(out, "new");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).map_err(|error| failed(&fresh, error))?;
        let mut manifest = self.manifest.clone();
        manifest.variants.clear();
        for artifact in artifacts {
            let to = fresh.join(&artifact.file);
            match &artifact.content {
                Content::File(from) => fs::copy(from, &to).map(drop),
                Content::Bytes(bytes) => fs::write(&to, bytes),
            }
            .map_err(|error| failed(&to, error))?;
            manifest.variants.push(Variant {
                runtime: artifact.runtime,
                file: artifact.file,
                dialect: None,
            });
        }
        for adapt in &manifest.adapt {
            let (from, to) = (file_in(&self.dir, &adapt.contract), fresh.join(&adapt.contract));
            fs::copy(&from, &to).map_err(|error| {
                let fault = Fault::new(format!("cannot copy `{}`: {error}", from.display()));
                Failure::new(fault.hint(missing_contract(adapt)))
            })?;
        }
        let contract = fresh.join("contract.binpb");
        fs::write(&contract, &self.metadata.descriptor_set).map_err(|error| failed(&contract, error))?;
        let plugin = fresh.join("plugin.toml");
        fs::write(&plugin, manifest.to_toml()).map_err(|error| failed(&plugin, error))?;

        let old = sibling(out, "old");
        let _ = fs::remove_dir_all(&old);
        if out.exists() {
            fs::rename(out, &old).map_err(|error| failed(out, error))?;
        }
        fs::rename(&fresh, out).map_err(|error| failed(out, error))?;
        let _ = fs::remove_dir_all(&old);
        Ok(())
    }

    /// The metadata with what people want to know about an artifact's making.
    pub(crate) fn metadata_for(&self, target: &str, toolchain: &str) -> Vec<u8> {
        Metadata {
            target: target.to_owned(),
            toolchain: toolchain.to_owned(),
            ..self.metadata.clone()
        }
        .encode_to_vec()
    }
}

/// A file of a folder, as a person would write it: without the `./` of the folder one is in.
pub(crate) fn file_in(dir: &Path, file: &str) -> PathBuf {
    if dir == Path::new(".") {
        file.into()
    } else {
        dir.join(file)
    }
}

/// The text of `dir/plugin.toml` and what it says.
pub(crate) fn read_manifest(dir: &Path) -> Result<(String, Manifest), Failure> {
    let path = file_in(dir, "plugin.toml");
    let text = fs::read_to_string(&path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                "name a plugin's source or package folder; `mortise new NAME` makes one"
            }
            _ => "check the file's permissions",
        };
        Failure::new(Fault::new(format!("cannot read `{}`: {error}", path.display())).hint(hint))
    })?;
    let manifest =
        Manifest::parse(&text, &path.display().to_string()).map_err(|all| Failure::of_diagnostics(&all))?;
    Ok((text, manifest))
}

/// What the manifest of a source folder says of older versions, checked against all their contracts.
///
/// # Errors
/// Every `[[adapt]]` whose contract is missing, and every rule that does not fit.
pub(crate) fn lineage(dir: &Path, manifest: &Manifest, contract: &Contract) -> Result<Lineage, Failure> {
    let mut older = BTreeMap::new();
    let mut faults = Vec::new();
    for adapt in &manifest.adapt {
        let path = file_in(dir, &adapt.contract);
        match fs::read(&path) {
            Ok(bytes) => drop(older.insert(adapt.contract.clone(), bytes.into())),
            Err(error) => faults.push(
                Fault::new(format!("cannot read `{}`: {error}", path.display()))
                    .at(format_args!(
                        "{}:{}",
                        file_in(dir, "plugin.toml").display(),
                        adapt.line.0
                    ))
                    .hint(missing_contract(adapt)),
            ),
        }
    }
    if !faults.is_empty() {
        return Err(Failure::many(faults));
    }
    let origin = dir.display().to_string();
    Package::lineage_of(&origin, manifest, contract, &older).map_err(|error| {
        let all = std::iter::once(&error).chain(error.also());
        Failure::many(all.map(|it| Fault::new(it.to_string()).hint(it.hint())).collect())
    })
}

fn missing_contract(adapt: &Adapt) -> String {
    format!(
        "`[[adapt]]` names the contract of version {}: copy `contract.binpb` out of its package",
        adapt.from
    )
}

/// Compiles the contract and puts it together with the manifest.
pub(crate) fn metadata(dir: &Path, manifest: &str) -> Result<Metadata, Failure> {
    let contract = file_in(dir, "contract");
    if !contract.is_dir() {
        let message = format!("there is no folder `{}`", contract.display());
        return Err(Failure::new(Fault::new(message).hint(
            "write the services that the plugin provides there, as .proto files",
        )));
    }
    let protos = mortise_build::compile_protos(&contract).map_err(|error| of_build(&contract, &error))?;
    mortise_build::metadata(manifest, &protos.descriptor_set).map_err(|error| of_build(&contract, &error))
}

/// The faults of a contract. A compiler's report begins with `file:line:column: ` where it has a place.
fn of_build(contract: &Path, error: &BuildError) -> Failure {
    let BuildError::Proto { report } = error else {
        return Failure::new(Fault::new(error.to_string()));
    };
    let fault = match split_place(report) {
        Some((place, message)) => {
            Fault::new(format!("the contract does not compile: {message}")).at(contract.join(place).display())
        }
        None => Fault::new(error.to_string()),
    };
    Failure::new(fault)
}

/// `a/b.proto:3:7: why` into `a/b.proto:3:7` and `why`.
pub(crate) fn split_place(report: &str) -> Option<(&str, &str)> {
    let (at, why) = report.split_once(": ")?;
    let mut parts = at.rsplitn(3, ':');
    let numbers = [parts.next()?, parts.next()?];
    let is_number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    (numbers.into_iter().all(is_number) && parts.next().is_some()).then_some((at, why))
}

/// A path beside another.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn places() {
        assert_eq!(
            super::split_place("a.proto:3:7: no: way"),
            Some(("a.proto:3:7", "no: way"))
        );
        assert_eq!(super::split_place("cannot: read"), None);
        assert_eq!(super::split_place("3:7: x"), None);
    }
}
