//! What a file was built for, as its header says.

use std::{borrow::Cow, fmt};

use object::{
    Architecture, File, Object as _, ObjectKind,
    elf::{DF_1_PIE, DT_FLAGS_1},
    read::elf::{Dyn as _, ElfFile, FileHeader, ProgramHeader as _},
};

/// A format of object files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Linux and the BSDs.
    Elf,
    /// Windows.
    Pe,
    /// Apple.
    MachO,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Elf => "ELF",
            Self::Pe => "PE",
            Self::MachO => "Mach-O",
        })
    }
}

/// What an object file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// To be loaded into a process.
    SharedLibrary,
    /// To be started.
    Executable,
    /// To be linked; neither of the above.
    Unlinked,
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SharedLibrary => "shared library",
            Self::Executable => "executable",
            Self::Unlinked => "unlinked object file",
        })
    }
}

/// A machine and a system, in the words of `std::env::consts`. Toolchain, C library and version are left out on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Format of the object file.
    pub format: Format,
    /// `linux`, `windows`, `macos`, ...; `unknown` where the header names a system that is none of ours.
    pub os: &'static str,
    /// `x86_64`, `aarch64`, ...; `machine 0x..` where the header names one that has no word.
    pub arch: Cow<'static, str>,
    /// Byte order.
    pub big_endian: bool,
}

impl Target {
    /// What a file must have been built for to run here.
    #[must_use]
    pub fn host() -> Self {
        let format = if cfg!(windows) {
            Format::Pe
        } else if cfg!(target_vendor = "apple") {
            Format::MachO
        } else {
            Format::Elf
        };
        Self {
            format,
            // An Android library's header is a Linux library's header.
            os: if cfg!(target_os = "android") {
                "linux"
            } else {
                std::env::consts::OS
            },
            arch: Cow::Borrowed(std::env::consts::ARCH),
            big_endian: cfg!(target_endian = "big"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.big_endian { " big-endian" } else { "" };
        write!(f, "{} {}{order} ({})", self.os, self.arch, self.format)
    }
}

/// Reads target and kind from the headers of a file that `object` accepted.
pub(crate) fn of(object: &File<'_>, bytes: &[u8], format: Format) -> (Target, ImageKind) {
    let os = match format {
        Format::Pe => "windows",
        Format::MachO => "macos",
        // e_ident[EI_OSABI]: compilers for Linux leave 0 (System V) or write 3 (GNU).
        Format::Elf => match bytes.get(7) {
            Some(0 | 3) => "linux",
            Some(2) => "netbsd",
            Some(6) => "solaris",
            Some(9) => "freebsd",
            Some(12) => "openbsd",
            _ => "unknown",
        },
    };
    let big_endian = !object.is_little_endian();
    let kind = match object.kind() {
        ObjectKind::Executable => ImageKind::Executable,
        ObjectKind::Dynamic if is_pie(object) => ImageKind::Executable,
        ObjectKind::Dynamic => ImageKind::SharedLibrary,
        _ => ImageKind::Unlinked,
    };
    let arch = arch(object.architecture()).map_or_else(|| machine(bytes, format, big_endian), Cow::Borrowed);
    (
        Target {
            format,
            os,
            arch,
            big_endian,
        },
        kind,
    )
}

/// A position-independent executable has the type of a library; the flag that the dynamic loader looks at tells them apart.
fn is_pie(object: &File<'_>) -> bool {
    fn flagged<Elf: FileHeader>(file: &ElfFile<'_, Elf>) -> bool {
        let endian = file.endian();
        let headers = file.elf_program_headers();
        let mut tables = headers
            .iter()
            .filter_map(|it| it.dynamic(endian, file.data()).ok().flatten());
        tables.any(|table| {
            table.iter().any(|entry| {
                entry.tag(endian) == DT_FLAGS_1 && entry.val32(endian).is_some_and(|it| it & DF_1_PIE != 0)
            })
        })
    }
    match object {
        File::Elf32(file) => flagged(file),
        File::Elf64(file) => flagged(file),
        _ => false,
    }
}

fn arch(arch: Architecture) -> Option<&'static str> {
    Some(match arch {
        Architecture::Aarch64 => "aarch64",
        Architecture::Arm => "arm",
        Architecture::I386 => "x86",
        Architecture::LoongArch64 => "loongarch64",
        Architecture::Mips => "mips",
        Architecture::Mips64 => "mips64",
        Architecture::PowerPc => "powerpc",
        Architecture::PowerPc64 => "powerpc64",
        Architecture::Riscv32 => "riscv32",
        Architecture::Riscv64 => "riscv64",
        Architecture::S390x => "s390x",
        Architecture::Sparc64 => "sparc64",
        Architecture::X86_64 => "x86_64",
        _ => return None,
    })
}

fn machine(bytes: &[u8], format: Format, big_endian: bool) -> Cow<'static, str> {
    match (format, bytes.get(18..20)) {
        (Format::Elf, Some(&[a, b])) => {
            let number = if big_endian {
                u16::from_be_bytes([a, b])
            } else {
                u16::from_le_bytes([a, b])
            };
            Cow::Owned(format!("machine {number:#x}"))
        }
        _ => Cow::Borrowed("unknown"),
    }
}
