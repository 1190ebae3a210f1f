//! Plugins that are wrong on purpose: packages of `plugins/bad-guest`, one per [`Fault`] and runtime.
//!
//! [`package`] takes a good package, keeps the variant of one runtime and makes it bad. Faults that strike in a call or at the start are
//! written into the artifact's marker (a call's fault may also be chosen by [`Fault::config_json`] with an untouched package); the
//! others damage the file or the manifest beside it. [`damage`] is the pure part. The files are real ones with one thing changed, so what a
//! host says about them is what it would say to a user.
//!
//! | fault | native | wasm | process |
//! |---|---|---|---|
//! | `WrongAbi` | `abi_major` of the entry is 99 | - | Hello offers lane version 99 |
//! | `WrongArchitecture` | the header names another processor | - | the same |
//! | `Truncated` | the first half | the first half | the first half |
//! | `NotAPlugin` | a text | a text | a text |
//! | `NoMetadata` | the section has another name | the same | the same |
//! | `LiesToItsFolder` | plugin.toml says 9.9.9 | the same | the same |
//! | `LiesWhenItRuns` | section and plugin.toml say 1.0.9, the entry 1.0.0 | - | the same, but Hello |
//! | all others | in the marker | in the marker | in the marker |

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use bad_fault::{EXIT_CODE, FLOOD_LINE_BYTES, FLOOD_LINES, Fault, Strikes, WRONG_TYPE};
use bad_fault::{MARKER_BYTES, MARKER_PREFIX};
use mortise::manifest::{Manifest, RuntimeName};

/// Folder of the good package, below [`crate::packages`].
pub const GOOD: &str = "bad-guest";
/// The one method of the guest.
pub const TARGET: &str = "mortise.test.bad.v1.Bad/Call";

/// Version that a [`Fault::LiesToItsFolder`] folder claims.
const FOLDER_LIE: &str = "9.9.9";
/// Version that a [`Fault::LiesWhenItRuns`] file claims. As long as the true one.
const SECTION_LIE: &str = "1.0.9";

/// Why a package was not made. Always a fault of the test's set-up, never of the host under test.
#[derive(Debug, thiserror::Error)]
pub enum BadError {
    /// The good package is not there or does not have the variant.
    #[error("there is no {runtime} variant of `{GOOD}` in `{}`: run `cargo xtask guests {GOOD}`", folder.display())]
    NoVariant {
        /// The variant that is missing.
        runtime: RuntimeName,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file can't be read or written.
    #[error("cannot read or write `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The artifact does not have what is to be changed in it.
    #[error("{fault:?} cannot be made of this artifact: {why}")]
    Unfit {
        /// The fault.
        fault: Fault,
        /// What is missing.
        why: &'static str,
    },
}

/// Makes the package folder `out`, bad in one way, of the good package in `good`. Returns `out`.
///
/// # Errors
/// If `good` has no such variant, a file cannot be written, or the fault does not exist on this runtime.
pub fn package(good: &Path, fault: Fault, runtime: RuntimeName, out: &Path) -> Result<PathBuf, BadError> {
    let no_variant = || BadError::NoVariant {
        runtime,
        folder: good.to_owned(),
    };
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| BadError::Io { path, source }
    };
    let text = fs::read_to_string(good.join("plugin.toml")).map_err(|_| no_variant())?;
    let mut manifest = Manifest::parse(&text, "plugin.toml").map_err(|_| no_variant())?;
    manifest.variants.retain(|it| it.runtime == runtime);
    let file = manifest.variants.first().ok_or_else(no_variant)?.file.clone();
    if let Some(lie) = match fault {
        Fault::LiesToItsFolder => Some(FOLDER_LIE),
        Fault::LiesWhenItRuns => Some(SECTION_LIE),
        _ => None,
    } {
        manifest.version = lie.parse().expect("both are versions");
    }

    fs::create_dir_all(out).map_err(io(out))?;
    let (from, to) = (good.join(&file), out.join(&file));
    let bytes = fs::read(&from).map_err(io(&from))?;
    // Copied first for its permissions: an executable stays one.
    fs::copy(&from, &to).map_err(io(&to))?;
    fs::write(&to, damage(fault, runtime, bytes)?).map_err(io(&to))?;
    let contract = out.join("contract.binpb");
    fs::copy(good.join("contract.binpb"), &contract).map_err(io(&contract))?;
    let toml = out.join("plugin.toml");
    fs::write(&toml, manifest.to_toml()).map_err(io(&toml))?;
    Ok(out.to_owned())
}

/// Changes the bytes of a good artifact.
///
/// # Errors
/// If the fault does not exist on this runtime, or the artifact does not have what is to be changed.
pub fn damage(fault: Fault, runtime: RuntimeName, mut bytes: Vec<u8>) -> Result<Vec<u8>, BadError> {
    let unfit = |why| BadError::Unfit { fault, why };
    if !fault.exists_on(runtime.as_str()) {
        return Err(unfit("it does not exist on this runtime"));
    }
    match (fault, runtime) {
        (Fault::None | Fault::LiesToItsFolder, _) => {}
        (Fault::NotAPlugin, _) => bytes = b"Dear host, I am a letter and not a plugin.\n".to_vec(),
        (Fault::Truncated, _) => bytes.truncate(bytes.len() / 2),
        (Fault::NoMetadata, RuntimeName::Wasm) => {
            replace(&mut bytes, b"\x07mortise", b"\x07nothing")
                .ok_or_else(|| unfit("it has no metadata section"))?;
        }
        (Fault::NoMetadata, _) => {
            rename_section(&mut bytes).ok_or_else(|| unfit("it has no metadata section"))?
        }
        (Fault::WrongArchitecture, _) => {
            other_processor(&mut bytes).ok_or_else(|| unfit("it is no object file"))?;
        }
        (Fault::WrongAbi, RuntimeName::Native) => {
            other_abi(&mut bytes).ok_or_else(|| unfit("it has no entry struct"))?;
        }
        (Fault::LiesWhenItRuns, _) => {
            other_version(&mut bytes)
                .ok_or_else(|| unfit("its metadata has no version of five characters"))?;
        }
        _ => mark(&mut bytes, fault).ok_or_else(|| unfit("it does not have exactly one marker"))?,
    }
    Ok(bytes)
}

/// Writes the fault's name behind the marker's prefix.
fn mark(bytes: &mut [u8], fault: Fault) -> Option<()> {
    // A compiler may keep the prefix elsewhere too, as a constant; the marker is the one that names a fault.
    let unmarked = [MARKER_PREFIX, b"none"].concat();
    let places: Vec<usize> = find_all(bytes, &unmarked).collect();
    let [at] = places[..] else { return None };
    bytes
        .get_mut(at..at + MARKER_BYTES)?
        .copy_from_slice(&Fault::marker(fault.name()));
    Some(())
}

/// Gives the metadata section of an object file a name of the same length.
fn rename_section(bytes: &mut [u8]) -> Option<()> {
    match bytes.get(..4)? {
        // The name is a whole string of the section name table, the last that holds it.
        b"\x7fELF" => {
            let at = find_all(bytes, b"\0.mortise\0").last()?;
            bytes[at + 1..at + 9].copy_from_slice(b".nothing");
        }
        [b'M', b'Z', ..] => {
            let at = find_all(bytes, b".mortise").next()?;
            bytes[at..at + 8].copy_from_slice(b".nothing");
        }
        _ => {
            let at = find_all(bytes, b"__mortise\0").next()?;
            bytes[at..at + 9].copy_from_slice(b"__nothing");
        }
    }
    Some(())
}

/// Makes the header of an ELF, PE or Mach-O file name another processor.
fn other_processor(bytes: &mut [u8]) -> Option<()> {
    /// Where the header names it, and the numbers of two processors.
    fn swap<const N: usize>(bytes: &mut [u8], at: usize, one: [u8; N], other: [u8; N]) -> Option<()> {
        let place = bytes.get_mut(at..at + N)?;
        let new = if *place == one { other } else { one };
        place.copy_from_slice(&new);
        Some(())
    }
    match bytes.get(..4)? {
        b"\x7fELF" => swap(bytes, 18, 62_u16.to_le_bytes(), 183_u16.to_le_bytes()),
        [b'M', b'Z', ..] => {
            let header = u32::from_le_bytes(bytes.get(60..64)?.try_into().ok()?) as usize;
            swap(
                bytes,
                header + 4,
                0x8664_u16.to_le_bytes(),
                0xaa64_u16.to_le_bytes(),
            )
        }
        b"\xcf\xfa\xed\xfe" => swap(
            bytes,
            4,
            0x0100_0007_u32.to_le_bytes(),
            0x0100_000c_u32.to_le_bytes(),
        ),
        _ => None,
    }
}

/// Raises `abi_major` of the entry: it is known by its magic number and the plausible length behind it.
fn other_abi(bytes: &mut [u8]) -> Option<()> {
    const MAGIC: [u8; 4] = 0x3145_544D_u32.to_le_bytes();
    let entry = find_all(bytes, &MAGIC).find(|at| {
        let word = |offset: usize| {
            let word = bytes.get(at + offset..at + offset + 4)?;
            Some(u32::from_le_bytes(word.try_into().ok()?))
        };
        // abi_minor 0, abi_major 1
        matches!(word(4), Some(32..=256)) && word(8) == Some(1)
    })?;
    bytes[entry + 8..entry + 10].copy_from_slice(&99_u16.to_le_bytes());
    Some(())
}

/// Changes the version in the metadata section, and only there.
fn other_version(bytes: &mut [u8]) -> Option<()> {
    let section = mortise_section::read(bytes).ok()?.bytes;
    // Field 3, a string of five bytes.
    let within = find_all(section, b"\x1a\x051.0.0").next()?;
    let start = section.as_ptr() as usize - bytes.as_ptr() as usize;
    let version = start + within + 2;
    bytes[version..version + SECTION_LIE.len()].copy_from_slice(SECTION_LIE.as_bytes());
    Some(())
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> Option<()> {
    let places: Vec<usize> = find_all(bytes, from).collect();
    for at in &places {
        bytes[*at..at + to.len()].copy_from_slice(to);
    }
    (!places.is_empty()).then_some(())
}

fn find_all<'a>(bytes: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let windows = bytes.windows(wanted.len()).enumerate();
    windows
        .filter(move |(_, window)| *window == wanted)
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests;
