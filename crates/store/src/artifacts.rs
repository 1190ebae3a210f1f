//! Artifacts on disk by digest, for runtimes that open a path.
//!
//! ```text
//! artifacts/                        0700
//!   <BLAKE3, 64 hex digits>/        0700
//!     <plugin>[.so|.dylib|.dll|.wasm|.exe]   0555
//! ```
//!
//! Invariants
//! - A1: a file appears under its name whole, or not at all, however the host ends: it is written beside the place and renamed into it.
//!   Nothing is synced. A power cut may leave a torn file; that is one more wrong file, and A3 finds it.
//! - A2: a file is never changed in place, because a process may have it mapped; a wrong one is replaced by a new file.
//! - A3: whatever [`ArtifactCache::place`] returns had the right digest while `place` looked at it. The directory is the host
//!   user's own: whoever may write there may also replace the host.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mortise_manifest::RuntimeName;
use mortise_runtime::{Artifact, Digest};

use crate::{StoreError, StoreErrorKind, data_dir::make_private_dir};

const TEMPORARY_PREFIX: &str = "tmp-";
/// A jailed process runs as a user of its own and must be able to execute the file once it is shown to it; the directories above keep everybody else out.
#[cfg(unix)]
const MODE: u32 = 0o555;

/// Artifacts on disk by digest. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ArtifactCache {
    root: Arc<Path>,
    counter: Arc<AtomicU64>,
}

/// Where an artifact was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The file; absolute.
    pub path: PathBuf,
    /// It was there and its digest was right.
    pub reused: bool,
    /// Something else was there and was replaced: what it was. Worth a warning and a line in the audit.
    pub replaced: Option<String>,
}

/// What stands where an artifact belongs.
enum Found {
    Nothing,
    Right,
    Wrong(String),
}

impl ArtifactCache {
    /// Opens the cache in the directory `root`, makes it if need be, and removes what an interrupted host left half written.
    ///
    /// The caller holds the data directory's lock.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_private_dir(root)?;
        let entries = fs::read_dir(root).map_err(|source| StoreError::io("list", root, source))?;
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                // Rubbish only costs space; it is tried again at the next start.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self {
            root: root.into(),
            counter: Arc::default(),
        })
    }

    /// Makes sure that the artifact's bytes are in a file of their own, and notes the file in `artifact.path`.
    ///
    /// # Errors
    /// `Malformed` if the digest is not that of the bytes, `DiskFull`, or what the disk says. No half file is left.
    pub fn place(&self, artifact: &mut Artifact) -> Result<Placed, StoreError> {
        let found = Digest::of(&artifact.bytes);
        if found != artifact.digest {
            return Err(StoreError::new(
                StoreErrorKind::Malformed,
                format!(
                    "the {} artifact of `{}` should have digest {}, and its bytes have {found}",
                    artifact.runtime, artifact.plugin, artifact.digest
                ),
                "read the package again",
            ));
        }
        let dir = self.root.join(artifact.digest.to_string());
        let path = dir.join(file_name(artifact)?);
        let placed = match inspect(&path, artifact.digest)? {
            Found::Right => Placed {
                path,
                reused: true,
                replaced: None,
            },
            Found::Nothing => {
                self.write(&dir, &path, &artifact.bytes)?;
                Placed {
                    path,
                    reused: false,
                    replaced: None,
                }
            }
            Found::Wrong(what) => {
                if path.symlink_metadata().is_ok_and(|it| it.is_dir()) {
                    fs::remove_dir_all(&path).map_err(|source| StoreError::io("remove", &path, source))?;
                }
                self.write(&dir, &path, &artifact.bytes)?;
                Placed {
                    path,
                    reused: false,
                    replaced: Some(what),
                }
            }
        };
        artifact.path = Some(placed.path.clone());
        Ok(placed)
    }

    /// Removes every artifact for which `keep` says no. Returns how many went.
    ///
    /// A process that still runs from one keeps its copy until it ends.
    ///
    /// # Errors
    /// What the disk says.
    pub fn retain(&self, mut keep: impl FnMut(&str) -> bool) -> Result<usize, StoreError> {
        let mut gone = 0;
        let entries =
            fs::read_dir(&self.root).map_err(|source| StoreError::io("list", &self.root, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::io("list", &self.root, source))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().filter(|it| is_digest(it)) else {
                continue;
            };
            if !keep(digest) {
                fs::remove_dir_all(entry.path())
                    .map_err(|source| StoreError::io("remove", &entry.path(), source))?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    fn write(&self, dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        make_private_dir(dir)?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .root
            .join(format!("{TEMPORARY_PREFIX}{}-{number}", process::id()));
        let written = write_new(&temporary, bytes)
            .map_err(|source| StoreError::io("write", &temporary, source))
            .and_then(|()| {
                fs::rename(&temporary, path).map_err(|source| StoreError::io("put in place", path, source))
            });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn file_name(artifact: &Artifact) -> Result<String, StoreError> {
    let name = &*artifact.plugin.name;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
        return Err(StoreError::new(
            StoreErrorKind::Escape,
            format!("`{name}` can't be the name of an artifact's file"),
            "a plugin's name has letters, digits and `-` only",
        ));
    }
    let suffix = match artifact.runtime {
        RuntimeName::Native => std::env::consts::DLL_SUFFIX,
        RuntimeName::Wasm => ".wasm",
        RuntimeName::Process => std::env::consts::EXE_SUFFIX,
        RuntimeName::Builtin => "",
    };
    Ok(format!("{name}{suffix}"))
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|it| it.is_ascii_hexdigit())
}

/// Looks at what stands where an artifact belongs. A link is never followed.
fn inspect(path: &Path, digest: Digest) -> Result<Found, StoreError> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(source) => return Err(StoreError::io("look at", path, source)),
    };
    if !metadata.is_file() {
        return Ok(Found::Wrong(format!("`{}` was not a plain file", path.display())));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() & 0o777;
        if mode != MODE {
            return Ok(Found::Wrong(format!(
                "`{}` had mode {mode:o} instead of {MODE:o}",
                path.display()
            )));
        }
    }
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(|source| StoreError::io("read", path, source))?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => hasher.update(&chunk[..read]),
            Err(source) if source.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(StoreError::io("read", path, source)),
        };
    }
    let found = Digest(*hasher.finalize().as_bytes());
    if found == digest {
        return Ok(Found::Right);
    }
    Ok(Found::Wrong(format!("`{}` had digest {found}", path.display())))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(MODE);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    // The mode given at creation was narrowed by the umask.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The device that is always full.
    #[test]
    fn full_disk_is_named() {
        let mut full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has /dev/full");
        let source = full.write_all(b"bytes").expect_err("it is full");
        let error = StoreError::io("write", Path::new("/data/x"), source);
        assert_eq!(error.kind(), StoreErrorKind::DiskFull);
        assert_eq!(
            error.to_string(),
            "could not write `/data/x`: no space is left on its disk"
        );
    }
}
