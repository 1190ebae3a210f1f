//! Finds a plugin's metadata in an ELF, PE or Mach-O file, from the bytes alone.
//!
//! The bytes may be anything at all: a photograph, a truncated library, a library made to deceive. This crate never opens, maps or runs
//! anything, allocates nothing proportional to what a header claims, and does not decode the metadata: [`read`] lends the encoded
//! message out of the file. It is shared by the runtimes whose artifacts are object files.
//!
//! What [`read`] promises of a [`Section`]:
//!
//! - I1. The file has exactly one metadata section. With two, a loader and this reader could believe different ones.
//! - I2. `bytes` is the whole section but for the zero bytes that some linkers append, and not empty.
//! - I3. `target` comes from the file's header and names machine and system in the words of `std::env::consts`.
#![forbid(unsafe_code)]

mod target;

use object::{
    FileKind, Object as _, ObjectSection as _,
    read::macho::{FatArch, MachOFatFile32, MachOFatFile64},
};

pub use target::{Format, ImageKind, Target};

/// Name of the section in ELF and PE.
pub const SECTION: &str = ".mortise";
/// Name of the section in Mach-O, in segment `__DATA`.
pub const SECTION_MACHO: &str = "__mortise";

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// The encoded metadata, lent out of the file's bytes.
    pub bytes: &'a [u8],
    /// The machine and system that the file was built for.
    pub target: Target,
    /// Whether it is to be loaded or to be started.
    pub kind: ImageKind,
}

/// Why there is no metadata to read. None of them says anything about the machine this runs on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SectionError {
    /// Something else altogether.
    #[error("the file is no library or executable: it {found}")]
    NotAnObject {
        /// What it looks like instead.
        found: String,
    },
    /// It begins like an object file, but does not go on like one.
    #[error("the {format} file is damaged or incomplete ({bytes} bytes): {why}")]
    Damaged {
        /// What it begins like.
        format: Format,
        /// How long it is.
        bytes: usize,
        /// What does not hold.
        why: String,
    },
    /// A sound object file, and no plugin.
    #[error("the {kind} for {target} has no section `{wanted}`, so it is not a plugin")]
    NoSection {
        /// What it was built for.
        target: Target,
        /// What it is.
        kind: ImageKind,
        /// The section's name in this format.
        wanted: &'static str,
    },
    /// The section is there and holds nothing that could be metadata.
    #[error("the section `{section}` holds no metadata: {why}")]
    BadSection {
        /// The section's name in this format.
        section: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl SectionError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotAnObject { .. } => "name the file that `mortise build` wrote for this runtime",
            Self::Damaged { .. } => {
                "copy the file again and compare its digest with the one it was published with"
            }
            Self::NoSection { .. } => {
                "build it with `mortise build`; a C plugin places the array of `mortise metadata --format c` in that section"
            }
            Self::BadSection { .. } => "build the plugin again with `mortise build`; do not edit its output",
        }
    }
}

/// Finds the metadata in `file`.
///
/// # Errors
/// See [`SectionError`].
pub fn read(file: &[u8]) -> Result<Section<'_>, SectionError> {
    let kind = FileKind::parse(file).map_err(|_| not_an_object(file))?;
    match kind {
        FileKind::Elf32 | FileKind::Elf64 => read_thin(file, Format::Elf),
        FileKind::Pe32 | FileKind::Pe64 => read_thin(file, Format::Pe),
        FileKind::MachO32 | FileKind::MachO64 => read_thin(file, Format::MachO),
        FileKind::MachOFat32 => {
            let fat = MachOFatFile32::parse(file).map_err(|why| damaged(file, Format::MachO, why))?;
            read_fat(file, fat.arches())
        }
        FileKind::MachOFat64 => {
            let fat = MachOFatFile64::parse(file).map_err(|why| damaged(file, Format::MachO, why))?;
            read_fat(file, fat.arches())
        }
        _ => Err(not_an_object(file)),
    }
}

fn read_thin(file: &[u8], format: Format) -> Result<Section<'_>, SectionError> {
    let object = object::File::parse(file).map_err(|why| damaged(file, format, why))?;
    let (target, kind) = target::of(&object, file, format);
    let wanted = if format == Format::MachO {
        SECTION_MACHO
    } else {
        SECTION
    };
    let mut found = object
        .sections()
        .filter(|it| it.name_bytes().is_ok_and(|name| name == wanted.as_bytes()));
    let Some(section) = found.next() else {
        return Err(SectionError::NoSection { target, kind, wanted });
    };
    let bad = |why: String| SectionError::BadSection { section: wanted, why };
    if found.next().is_some() {
        return Err(bad("there is more than one".to_owned()));
    }
    let data = section.data().map_err(|why| damaged(file, format, why))?;
    Ok(Section {
        bytes: unpad(data).map_err(|why| bad(why.to_owned()))?,
        target,
        kind,
    })
}

/// Of a file with several images, the one for this machine, else the first: its target then says what is missing.
fn read_fat<'a>(file: &'a [u8], arches: &[impl FatArch]) -> Result<Section<'a>, SectionError> {
    let host = Target::host();
    let mut first = None;
    for arch in arches {
        let image = arch.data(file).map_err(|why| damaged(file, Format::MachO, why))?;
        let section = read_thin(image, Format::MachO);
        if section.as_ref().is_ok_and(|it| it.target == host) {
            return section;
        }
        first.get_or_insert(section);
    }
    first.unwrap_or_else(|| {
        Err(SectionError::NotAnObject {
            found: "is an empty Mach-O universal file".to_owned(),
        })
    })
}

/// The message without what the linker appended (I2).
///
/// Some linkers round a section up to its alignment with zero bytes. Field number 0 does not exist in protobuf, so where a tag
/// would stand, a zero byte can only be such padding. Only the top level is walked; decoding is the caller's business.
fn unpad(data: &[u8]) -> Result<&[u8], &'static str> {
    let mut at = 0;
    while at < data.len() && data[at] != 0 {
        let tag = varint(data, &mut at)?;
        let skipped = match tag & 7 {
            0 => {
                varint(data, &mut at)?;
                0
            }
            1 => 8,
            2 => varint(data, &mut at)?,
            5 => 4,
            _ => return Err("it does not begin with a protobuf message"),
        };
        let skipped = usize::try_from(skipped).map_err(|_| TRUNCATED)?;
        at = at
            .checked_add(skipped)
            .filter(|end| *end <= data.len())
            .ok_or(TRUNCATED)?;
    }
    let (message, padding) = data.split_at(at);
    if message.is_empty() {
        Err("it is empty")
    } else if padding.iter().any(|byte| *byte != 0) {
        Err("something follows the message")
    } else {
        Ok(message)
    }
}

const TRUNCATED: &str = "the message ends in the middle of a field";

fn varint(data: &[u8], at: &mut usize) -> Result<u64, &'static str> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *data.get(*at).ok_or(TRUNCATED)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("it does not begin with a protobuf message")
}

fn damaged(file: &[u8], format: Format, why: object::Error) -> SectionError {
    SectionError::Damaged {
        format,
        bytes: file.len(),
        why: why.to_string(),
    }
}

/// Says what the file looks like, so that a mixed-up path is seen at a glance.
fn not_an_object(file: &[u8]) -> SectionError {
    let format = match file {
        [0x7f, b'E', b'L', b'F', ..] => Some(Format::Elf),
        [b'M', b'Z', ..] => Some(Format::Pe),
        _ => None,
    };
    if let Some(format) = format {
        let why = "its header is cut off or unknown".to_owned();
        return SectionError::Damaged {
            format,
            bytes: file.len(),
            why,
        };
    }
    let found = match file {
        [] => "is empty".to_owned(),
        [0, b'a', b's', b'm', ..] => "is a WebAssembly file".to_owned(),
        [b'#', b'!', ..] => "is a script".to_owned(),
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "is a static library".to_owned(),
        text if text
            .iter()
            .take(64)
            .all(|it| it.is_ascii_graphic() || it.is_ascii_whitespace()) =>
        {
            "is a text file".to_owned()
        }
        other => {
            let head = &other[..other.len().min(4)];
            format!("begins with the bytes {head:02x?}")
        }
    };
    SectionError::NotAnObject { found }
}

#[cfg(test)]
mod tests;
