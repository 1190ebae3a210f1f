//! Reads files of a package's folder, which others wrote, without being led astray.
//!
//! Invariants
//! - F1: no name that is read leads out of the folder: names are checked as text, and then the system resolves them *beneath* the
//!   folder. Links inside the folder are fine as long as they stay inside (a Kubernetes volume is made of them).
//! - F2: nothing but a plain file is opened for reading, so nothing blocks and no device is touched.
//! - F3: no more than the limit is ever read or reserved, even if the file grows meanwhile.
//!
//! On Linux the kernel resolves and checks in one step (`openat2` with `RESOLVE_BENEATH`), so a link that is exchanged between check and
//! use gains nothing. Elsewhere, and on kernels before 5.6, the canonical path is compared instead; F1 then does not hold against
//! somebody who can write to the folder at that very moment. F2 and F3 always hold.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{StoreError, StoreErrorKind};

/// Longest name of a file inside a package, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A place that a package's files are read from.
pub(crate) trait Folder: Sync {
    /// For messages.
    fn name(&self) -> Cow<'_, str>;

    /// Reads the file `name`, at most `bytes_max` of it.
    fn read(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError>;
}

/// A folder on disk.
#[derive(Debug)]
pub(crate) struct DiskFolder {
    path: PathBuf,
    canonical: PathBuf,
    /// The folder itself, where the kernel can resolve beneath it.
    #[cfg(target_os = "linux")]
    beneath: Option<std::os::fd::OwnedFd>,
}

/// A folder that was compiled into the host.
#[derive(Debug)]
pub(crate) struct EmbeddedFolder<'a> {
    pub(crate) name: &'a str,
    pub(crate) files: &'static [(&'static str, &'static [u8])],
}

// === impl DiskFolder ===

impl DiskFolder {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let canonical = path
            .canonicalize()
            .map_err(|source| StoreError::io("open", path, source))?;
        if !canonical.is_dir() {
            return Err(StoreError::new(
                StoreErrorKind::Malformed,
                format!("`{}` is not a folder", path.display()),
                "name the folder that `mortise build` wrote, the one with `plugin.toml` in it",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            #[cfg(target_os = "linux")]
            beneath: open_dir(&canonical),
            canonical,
        })
    }

    /// As on a system whose kernel can't resolve beneath a folder.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn open_portable(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            beneath: None,
            ..Self::open(path)?
        })
    }

    fn open_file(&self, name: &str) -> Result<File, StoreError> {
        #[cfg(target_os = "linux")]
        if let Some(dir) = &self.beneath {
            match open_beneath(dir, name) {
                Err(source) if lacks_openat2(&source) => {}
                opened => return opened.map_err(|source| self.explain(name, source)),
            }
        }
        self.open_canonical(name)
    }

    fn open_canonical(&self, name: &str) -> Result<File, StoreError> {
        let target = self
            .canonical
            .join(name)
            .canonicalize()
            .map_err(|source| self.explain(name, source))?;
        if !target.starts_with(&self.canonical) {
            return Err(self.escape(name));
        }
        let kind = fs::symlink_metadata(&target)
            .map_err(|source| self.explain(name, source))?
            .file_type();
        if !kind.is_file() {
            return Err(self.not_plain(name, describe(kind)));
        }
        let mut options = File::options();
        options.read(true);
        #[cfg(unix)]
        {
            use rustix::fs::OFlags;
            use std::os::unix::fs::OpenOptionsExt as _;
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
        }
        options.open(&target).map_err(|source| self.explain(name, source))
    }

    fn explain(&self, name: &str, source: io::Error) -> StoreError {
        #[cfg(unix)]
        {
            use rustix::io::Errno;
            match Errno::from_io_error(&source) {
                Some(Errno::XDEV) => return self.escape(name),
                Some(Errno::LOOP) => {
                    return StoreError::new(
                        StoreErrorKind::Escape,
                        format!(
                            "`{name}` in package `{}` is a link that leads in a circle or nowhere",
                            self.name()
                        ),
                        "build the package again with `mortise build`",
                    );
                }
                _ => {}
            }
        }
        StoreError::io("read", &self.path.join(name), source)
    }

    fn escape(&self, name: &str) -> StoreError {
        StoreError::new(
            StoreErrorKind::Escape,
            format!(
                "`{name}` in package `{}` is a link that leads out of the package",
                self.name()
            ),
            "put the file itself into the package",
        )
    }

    fn not_plain(&self, name: &str, what: &str) -> StoreError {
        StoreError::new(
            StoreErrorKind::Escape,
            format!(
                "`{name}` in package `{}` is {what}, and only plain files are read",
                self.name()
            ),
            "build the package again with `mortise build`",
        )
    }
}

impl Folder for DiskFolder {
    fn name(&self) -> Cow<'_, str> {
        self.path.to_string_lossy()
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        check_name(&self.name(), name)?;
        let mut file = self.open_file(name)?;
        let metadata = file.metadata().map_err(|source| self.explain(name, source))?;
        if !metadata.is_file() {
            return Err(self.not_plain(name, describe(metadata.file_type())));
        }
        let too_large = |bytes| too_large(&self.name(), name, bytes, bytes_max);
        if metadata.len() > bytes_max {
            return Err(too_large(metadata.len()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        // One byte more than allowed, to notice a file that grows while it is read.
        let read = file
            .by_ref()
            .take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes);
        read.map_err(|source| self.explain(name, source))?;
        if bytes.len() as u64 > bytes_max {
            return Err(too_large(bytes.len() as u64));
        }
        Ok(bytes.into())
    }
}

// === impl EmbeddedFolder ===

impl Folder for EmbeddedFolder<'_> {
    fn name(&self) -> Cow<'_, str> {
        format!("embedded:{}", self.name).into()
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        check_name(&Folder::name(self), name)?;
        let mut matching = self.files.iter().filter(|(file, _)| *file == name);
        let Some((_, bytes)) = matching.next() else {
            return Err(StoreError::new(
                StoreErrorKind::NotFound,
                format!(
                    "could not read `{name}`: package `{}` has no such file",
                    Folder::name(self)
                ),
                "embed the whole folder that `mortise build` wrote",
            ));
        };
        if matching.next().is_some() {
            return Err(StoreError::new(
                StoreErrorKind::Malformed,
                format!("package `{}` has two files `{name}`", Folder::name(self)),
                "embed each file once",
            ));
        }
        if bytes.len() as u64 > bytes_max {
            return Err(too_large(
                &Folder::name(self),
                name,
                bytes.len() as u64,
                bytes_max,
            ));
        }
        Ok(Bytes::from_static(bytes))
    }
}

/// Refuses every name that is not a plain relative path with `/`, on every system alike, so that a package which loads here loads
/// everywhere: `..`, absolute paths, drives, backslashes, device names of Windows.
pub(crate) fn check_name(package: &str, name: &str) -> Result<(), StoreError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "it is longer than 255 bytes"
    } else if name
        .chars()
        .any(|it| it.is_control() || matches!(it, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
    {
        "it has a character that some system treats specially"
    } else if name.starts_with('/') {
        "it is absolute"
    } else if name
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        "it has an empty part, a `.` or a `..`"
    } else if name.split('/').any(is_reserved) {
        "a part of it is reserved on Windows"
    } else {
        return Ok(());
    };
    Err(StoreError::new(
        StoreErrorKind::Escape,
        format!(
            "package `{package}` names the file `{}`: {why}",
            name.escape_debug()
        ),
        "name files by their path inside the package's folder, with `/` between parts",
    ))
}

fn is_reserved(part: &str) -> bool {
    let stem = part
        .split('.')
        .next()
        .unwrap_or(part)
        .trim_end()
        .to_ascii_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == 1 && rest.bytes().all(|it| it.is_ascii_digit()))
    };
    matches!(&*stem, "CON" | "PRN" | "AUX" | "NUL")
        || numbered("COM")
        || numbered("LPT")
        || part.ends_with(['.', ' '])
}

fn too_large(package: &str, name: &str, bytes: u64, max: u64) -> StoreError {
    StoreError::new(
        StoreErrorKind::TooLarge,
        format!("`{name}` in package `{package}` has {bytes} bytes, and {max} is the limit"),
        "build the plugin in release mode and without debug information",
    )
}

fn describe(kind: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_dir() {
        "a folder"
    } else {
        "no plain file"
    }
}

#[cfg(target_os = "linux")]
fn open_dir(path: &Path) -> Option<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()
}

/// Opens a plain file beneath `dir`. What it is gets looked at through a handle that opens nothing, before it is opened for reading.
#[cfg(target_os = "linux")]
fn open_beneath(dir: &std::os::fd::OwnedFd, name: &str) -> io::Result<File> {
    use rustix::{
        fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
        io::Errno,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |flags: OFlags| {
        // EAGAIN: something was renamed while the kernel looked; it can't tell then whether it stayed beneath.
        for _ in 0..16 {
            match openat2(dir, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    };
    let looked_at = File::from(open(OFlags::PATH)?);
    if FileType::from_raw_mode(fstat(&looked_at)?.st_mode) != FileType::RegularFile {
        // The caller sees by its metadata that this is no plain file.
        return Ok(looked_at);
    }
    Ok(File::from(open(
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    )?))
}

/// An old kernel, or a container whose filter does not know the call yet.
#[cfg(target_os = "linux")]
fn lacks_openat2(source: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(source), Some(Errno::NOSYS | Errno::PERM))
}

#[cfg(test)]
mod tests;
