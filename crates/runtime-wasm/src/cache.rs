//! Compiled code on disk, sealed.
//!
//! Compiled code is machine code: wasmtime checks that a file was made by the same version with the same settings, not that it does what the
//! WebAssembly did. So only what this host itself wrote is ever run:
//!
//! - A1. The folder is made with mode 0700 and refused if somebody else owns it or may write to it.
//! - A2. The key is 32 random bytes in a file of mode 0600, made once per folder.
//! - A3. A file is `magic | HMAC-SHA256(key, entry | length | code) | entry | length | code`. `entry` names the WebAssembly by SHA-256 and the
//!   engine by its version, target and settings, so a sealed file cannot stand in for another one.
//! - A4. A file is read once; the seal is checked over those bytes, and those same bytes are given to wasmtime, which copies them. Nothing is
//!   mapped, so nothing can change in between.
//! - A5. Whatever does not fit (cut off, changed, renamed, another host's) counts as `tampered`, is deleted and compiled again.
//! - A6. Files appear whole: written under another name, synced, renamed.
//!
//! Nothing else in this crate is `unsafe`.
//!
//! It does not protect from somebody who has the host's own user id: they can read the key.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use hmac::{Hmac, KeyInit, Mac};
use mortise_runtime::{RuntimeError, RuntimeErrorKind};
use sha2::{Digest, Sha256};
use wasmtime::{Module, component::Component};

const MAGIC: &[u8; 8] = b"mtaot\x00\x00\x01";
const KEY_BYTES: usize = 32;
const SEAL_BYTES: usize = 32;
const ENTRY_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + SEAL_BYTES + ENTRY_BYTES + 8;
/// A file longer than this is not read; no artifact within the limits compiles to it.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// How often compiled code was found on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Found, and its seal was whole.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
    /// Found, but not what this host had written.
    pub tampered: u64,
}

/// A folder of sealed code.
pub(crate) struct AotCache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    bytes_max: u64,
    hits: AtomicU64,
    misses: AtomicU64,
    tampered: AtomicU64,
    temporary: AtomicU64,
}

/// Names one piece of WebAssembly, compiled by one engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry([u8; ENTRY_BYTES]);

/// A file whose seal was whole. Made by `open_sealed` only.
struct Sealed {
    file: Vec<u8>,
}

/// What wasmtime compiles WebAssembly to.
#[expect(
    unsafe_code,
    reason = "loading machine code cannot be safe; the caller has the proof"
)]
pub(crate) trait MachineCode: Clone + Send + Sync + Sized + 'static {
    /// Compiles.
    fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Self>;

    /// Compiles to the form that `thaw` loads.
    fn precompile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Vec<u8>>;

    /// The form that `thaw` loads.
    fn freeze(&self) -> wasmtime::Result<Vec<u8>>;

    /// # Safety
    /// `code` came from `freeze` or `precompile` of the same type, in a wasmtime of this version, and was not changed since.
    unsafe fn thaw(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Self>;
}

#[expect(
    unsafe_code,
    reason = "loading machine code cannot be safe; the caller has the proof"
)]
impl MachineCode for Component {
    fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Self> {
        Self::from_binary(engine, wasm)
    }

    fn precompile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Vec<u8>> {
        engine.precompile_component(wasm)
    }

    fn freeze(&self) -> wasmtime::Result<Vec<u8>> {
        self.serialize()
    }

    unsafe fn thaw(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Self> {
        // SAFETY: as this function's own.
        unsafe { Self::deserialize(engine, code) }
    }
}

#[expect(
    unsafe_code,
    reason = "loading machine code cannot be safe; the caller has the proof"
)]
impl MachineCode for Module {
    fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Self> {
        Self::from_binary(engine, wasm)
    }

    fn precompile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Vec<u8>> {
        engine.precompile_module(wasm)
    }

    fn freeze(&self) -> wasmtime::Result<Vec<u8>> {
        self.serialize()
    }

    unsafe fn thaw(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Self> {
        // SAFETY: as this function's own.
        unsafe { Self::deserialize(engine, code) }
    }
}

/// Compiles with the settings of one engine for another. wasmtime refuses the result if the settings that code depends on differ.
#[expect(unsafe_code, reason = "the code was made two lines above")]
pub(crate) fn compile_for<C: MachineCode>(
    compiler: &wasmtime::Engine,
    engine: &wasmtime::Engine,
    wasm: &[u8],
) -> wasmtime::Result<C> {
    let code = C::precompile(compiler, wasm)?;
    // SAFETY: `precompile` of the same type made these bytes just now, and nobody else has seen them.
    unsafe { C::thaw(engine, &code) }
}

#[expect(
    unsafe_code,
    reason = "the one place where bytes become code; A1 to A4 are why it may"
)]
fn thaw<C: MachineCode>(engine: &wasmtime::Engine, sealed: &Sealed) -> wasmtime::Result<C> {
    // SAFETY: `Sealed` exists only for bytes under whose HMAC this host wrote them, with a key that nobody else can read (A1, A2). What it
    // seals is `serialize`'s output, unchanged, and the entry under the same seal binds it to the WebAssembly, to this kind of code through
    // the WebAssembly's own header, and to this wasmtime with these settings (A3). The bytes are in our own memory and are copied (A4).
    unsafe { C::thaw(engine, &sealed.file[HEADER_BYTES..]) }
}

/// SHA-256 of WebAssembly: the part of an entry that no engine changes.
#[derive(Clone, Copy)]
pub(crate) struct WasmHash([u8; 32]);

impl WasmHash {
    pub(crate) fn of(wasm: &[u8]) -> Self {
        Self(Sha256::digest(wasm).into())
    }
}

impl Entry {
    /// The name of `wasm` as compiled by `engine`.
    pub(crate) fn of(engine: &wasmtime::Engine, wasm: WasmHash) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"mortise-aot-1");
        hash.update(wasm.0);
        hash.update(std::env::consts::ARCH);
        hash.update([0]);
        hash.update(std::env::consts::OS);
        hash.update([0]);
        // The settings' hash covers wasmtime's version, the target's features and every flag that code depends on.
        let mut settings = HashInto(&mut hash);
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut settings);
        Self(hash.finalize().into())
    }

    fn file_name(self) -> String {
        use std::fmt::Write as _;
        let mut name = String::with_capacity(2 * ENTRY_BYTES + 4);
        for byte in self.0 {
            let _ = write!(name, "{byte:02x}");
        }
        name.push_str(".aot");
        name
    }
}

/// Feeds a `Hash` into SHA-256, because std's own hasher promises nothing between releases.
struct HashInto<'a>(&'a mut Sha256);

impl std::hash::Hasher for HashInto<'_> {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl AotCache {
    /// Opens the folder, making it and its key if need be.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Result<Self, RuntimeError> {
        let refuse = |what: &str, error: io::Error| {
            RuntimeError::new(
                RuntimeErrorKind::Loader,
                format!(
                    "the cache of compiled WebAssembly in {} cannot be used: {what}: {error}",
                    dir.display()
                ),
                "name a folder that only the host's user may write to, or leave `cache_dir` out",
            )
        };
        make_dir(dir).map_err(|error| refuse("the folder", error))?;
        let key = read_or_make_key(&dir.join("key")).map_err(|error| refuse("its key", error))?;
        let zero = || AtomicU64::new(0);
        Ok(Self {
            dir: dir.to_owned(),
            key,
            bytes_max,
            hits: zero(),
            misses: zero(),
            tampered: zero(),
            temporary: zero(),
        })
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            tampered: self.tampered.load(Ordering::Relaxed),
        }
    }

    /// Counts a piece of code that was in neither tier's file.
    pub(crate) fn count_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// The code of `entry`, if it is there and ours. `count_miss` is the caller's business: there may be another entry to look for.
    pub(crate) fn get<C: MachineCode>(&self, engine: &wasmtime::Engine, entry: Entry) -> Option<C> {
        let sealed = self.open_sealed(entry)?;
        match thaw(engine, &sealed) {
            Ok(code) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Some(code)
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "sealed code does not load");
                self.reject(entry);
                None
            }
        }
    }

    fn open_sealed(&self, entry: Entry) -> Option<Sealed> {
        let path = self.dir.join(entry.file_name());
        let file = match read_bounded(&path, FILE_BYTES_MAX) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled WebAssembly could not be read; it is compiled again");
                return None;
            }
        };
        if self.is_ours(entry, &file) {
            return Some(Sealed { file });
        }
        self.reject(entry);
        None
    }

    fn reject(&self, entry: Entry) {
        let path = self.dir.join(entry.file_name());
        tracing::warn!(path = %path.display(), "compiled WebAssembly is not what this host wrote; it is thrown away and compiled again");
        self.tampered.fetch_add(1, Ordering::Relaxed);
        let _ = fs::remove_file(&path);
    }

    /// Keeps `code` for `entry`. A failure costs a compilation at the next start, no more.
    pub(crate) fn put(&self, entry: Entry, code: &[u8]) {
        if let Err(error) = self.try_put(entry, code) {
            tracing::warn!(dir = %self.dir.display(), %error, "compiled WebAssembly could not be kept; it will be compiled again");
        }
    }

    fn try_put(&self, entry: Entry, code: &[u8]) -> io::Result<()> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{}.{number}.tmp", std::process::id()));
        let length = (code.len() as u64).to_le_bytes();
        let seal = self.mac(entry, code).finalize().into_bytes();
        let written = create_private(&temporary).and_then(|mut file| {
            for part in [MAGIC.as_slice(), &seal, &entry.0, &length, code] {
                file.write_all(part)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, self.dir.join(entry.file_name()))
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        sync_dir(&self.dir)?;
        self.evict()
    }

    fn is_ours(&self, entry: Entry, file: &[u8]) -> bool {
        let Some((header, code)) = file.split_at_checked(HEADER_BYTES) else {
            return false;
        };
        let (magic, header) = header.split_at(MAGIC.len());
        let (seal, header) = header.split_at(SEAL_BYTES);
        let (named, length) = header.split_at(ENTRY_BYTES);
        magic == MAGIC
            && named == entry.0
            && length == (code.len() as u64).to_le_bytes()
            && self.mac(entry, code).verify_slice(seal).is_ok()
    }

    fn mac(&self, entry: Entry, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(&entry.0);
        mac.update(&(code.len() as u64).to_le_bytes());
        mac.update(code);
        mac
    }

    /// Deletes what was written longest ago until the folder is within its bound.
    fn evict(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            if file.path().extension().is_some_and(|it| it == "aot") {
                let metadata = file.metadata()?;
                files.push((
                    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    metadata.len(),
                    file.path(),
                ));
            }
        }
        let mut total: u64 = files.iter().map(|it| it.1).sum();
        files.sort_unstable();
        for (_, bytes, path) in files {
            if total <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {bytes} bytes"),
        ));
    }
    let mut contents = Vec::with_capacity(bytes as usize);
    file.take(bytes_max).read_to_end(&mut contents)?;
    Ok(contents)
}

fn read_or_make_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    for _ in 0..2 {
        match read_bounded(path, 4096) {
            Ok(key) => {
                check_private(path)?;
                return key.try_into().map_err(|key: Vec<u8>| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("it has {} bytes instead of {KEY_BYTES}", key.len()),
                    )
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut file = create_private(&temporary)?;
        file.write_all(&key)?;
        file.sync_all()?;
        // A link, not a rename: of two hosts that start at once, the second must take the first one's key.
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Err(io::Error::other("it was made and removed again by somebody else"))
}

#[cfg(unix)]
fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    check_private(dir)
}

#[cfg(unix)]
fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Ours alone: nobody else may own it, read it or write to it.
#[cfg(unix)]
fn check_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        let text = format!(
            "{} belongs to user {} and the host runs as {us}",
            path.display(),
            metadata.uid()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if metadata.mode() & 0o077 != 0 {
        let text = format!(
            "{} has mode {:o}, and others have no business in it",
            path.display(),
            metadata.mode() & 0o777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

// On Windows a folder below the user's profile or the service's data folder is private by inheritance; there is no mode to set.
#[cfg(not(unix))]
fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

#[cfg(not(unix))]
fn create_private(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).open(path)
}

#[cfg(not(unix))]
fn check_private(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}
