//! Packages that were loaded, kept whole by digest, so that a rollback needs nothing from the outside.
//!
//! ```text
//! packages/                 0700
//!   <package digest>/       0700   a package folder, as `mortise build` writes it
//! ```
//!
//! Invariants
//! - H1: a package appears whole or not at all, however the host ends: it is written beside its place and renamed into it. Nothing is synced: after a power cut
//!   a torn one is found by its digest, and is no longer there to go back to.
//! - H2: what [`Shelf::get`] returns has the digest that was asked for.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mortise_runtime::Digest;

use crate::{
    Package, StoreError, StoreErrorKind,
    data_dir::make_private_dir,
    package::{CONTRACT, MANIFEST},
};

const TEMPORARY_PREFIX: &str = "tmp-";

/// Packages by digest. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: Arc<Path>,
    counter: Arc<AtomicU64>,
}

impl Shelf {
    /// Opens the shelf in the directory `root`, makes it if need be, and removes what an interrupted host left half written.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        make_private_dir(root)?;
        for name in names(root)? {
            if name.starts_with(TEMPORARY_PREFIX) {
                // Rubbish only costs space; it is tried again at the next start.
                let _ = fs::remove_dir_all(root.join(name));
            }
        }
        Ok(Self {
            root: root.into(),
            counter: Arc::default(),
        })
    }

    /// Puts a package there, unless it is there already. Returns whether it was not.
    ///
    /// # Errors
    /// `DiskFull`, or what the disk says. No half package is left.
    pub fn put(&self, package: &Package) -> Result<bool, StoreError> {
        let place = self.place(package.digest());
        if place.is_dir() {
            return Ok(false);
        }
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .root
            .join(format!("{TEMPORARY_PREFIX}{}-{number}", process::id()));
        let written = write_package(&temporary, package).and_then(|()| {
            match fs::rename(&temporary, &place) {
                // Somebody else was faster, with the same bytes.
                Err(_) if place.is_dir() => fs::remove_dir_all(&temporary)
                    .map_err(|source| StoreError::io("remove", &temporary, source)),
                renamed => renamed.map_err(|source| StoreError::io("put in place", &place, source)),
            }
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written.map(|()| true)
    }

    /// Reads a package.
    ///
    /// # Errors
    /// `NotFound` if it is not kept any more, `Corrupt` if it is another one by now.
    pub fn get(&self, digest: Digest) -> Result<Package, StoreError> {
        let place = self.place(digest);
        if !place.is_dir() {
            return Err(StoreError::new(
                StoreErrorKind::NotFound,
                format!("package {digest} is not kept any more"),
                "load it from its own folder; `host.keep_packages` says how many of a plugin are kept",
            ));
        }
        let package = Package::open(&place)?.with_origin(format!("kept:{digest}"));
        if package.digest() != digest {
            return Err(StoreError::new(
                StoreErrorKind::Corrupt,
                format!("`{}` holds package {} by now", place.display(), package.digest()),
                "remove it, and load the plugin from its own folder",
            ));
        }
        Ok(package)
    }

    /// Whether a package is there.
    #[must_use]
    pub fn has(&self, digest: &str) -> bool {
        is_digest(digest) && self.root.join(digest).is_dir()
    }

    /// How many bytes a package takes; 0 if it is not there.
    #[must_use]
    pub fn size(&self, digest: &str) -> u64 {
        if !is_digest(digest) {
            return 0;
        }
        let files = fs::read_dir(self.root.join(digest))
            .into_iter()
            .flatten()
            .flatten();
        files.filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum()
    }

    /// Removes every package for which `keep` says no. Returns how many went.
    ///
    /// # Errors
    /// What the disk says.
    pub fn retain(&self, mut keep: impl FnMut(&str) -> bool) -> Result<usize, StoreError> {
        let mut gone = 0;
        for name in names(&self.root)? {
            if is_digest(&name) && !keep(&name) {
                let place = self.root.join(&name);
                fs::remove_dir_all(&place).map_err(|source| StoreError::io("remove", &place, source))?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    fn place(&self, digest: Digest) -> PathBuf {
        self.root.join(digest.to_string())
    }
}

fn names(root: &Path) -> Result<Vec<String>, StoreError> {
    let entries = fs::read_dir(root).map_err(|source| StoreError::io("list", root, source))?;
    Ok(entries
        .flatten()
        .filter_map(|it| it.file_name().into_string().ok())
        .collect())
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|it| it.is_ascii_hexdigit())
}

fn write_package(folder: &Path, package: &Package) -> Result<(), StoreError> {
    make_private_dir(folder)?;
    let variants = package.manifest().variants.iter().filter_map(|variant| {
        let artifact = package.artifact(variant.runtime)?;
        Some((variant.file.as_str(), &artifact.bytes[..]))
    });
    let files = [
        (MANIFEST, package.manifest_text().as_bytes()),
        (CONTRACT, &package.contract().descriptor_set_bytes()[..]),
    ];
    let older = package
        .older()
        .iter()
        .map(|(file, bytes)| (file.as_str(), &bytes[..]));
    for (name, bytes) in files.into_iter().chain(variants).chain(older) {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| StoreError::io("create", parent, source))?;
        }
        // Two variants may share one file.
        if !path.exists() {
            write_new(&path, bytes).map_err(|source| StoreError::io("write", &path, source))?;
        }
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)
}
