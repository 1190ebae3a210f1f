//! One look at the directory.
//!
//! Links are followed, and where each of them stands is noted: that is where it can be pointed elsewhere. A Kubernetes volume
//! (`plugin.toml -> ..data/plugin.toml`, `..data -> ..2026_11_21`) and `current -> releases/v2` are both only links.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata},
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::settle::{Content, Look, Print};

/// Most package folders of one directory; further ones, by name, are not looked at.
pub const FOLDERS_MAX: usize = 1024;
/// Most files and folders inside one package folder; further ones are not looked at.
pub const FILES_MAX: usize = 4096;
/// Folders in folders that are looked into.
const DEPTH_MAX: usize = 8;
/// Links that lead to links, as the kernel bounds them.
const LINKS_MAX: usize = 40;
/// What makes a folder a package.
const MANIFEST: &str = "plugin.toml";

/// What one look showed.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Every package folder, by its name in the directory.
    pub(crate) looks: BTreeMap<OsString, Look>,
    /// What may be package folders and could not be looked at: because of an error of the disk, or because there are too many.
    pub(crate) unsure: BTreeSet<OsString>,
    /// Where a change can be heard: folders that were looked into, and those in which links stand.
    pub(crate) heard_in: BTreeSet<PathBuf>,
    /// The directory's own identity.
    pub(crate) identity: Identity,
    /// More than [`FOLDERS_MAX`] folders are there.
    pub(crate) too_many: bool,
    /// The directory has nothing in it, hidden things included.
    pub(crate) empty: bool,
}

/// Which directory or file it is, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    pub(crate) fn is_on_device_of(self, other: Self) -> bool {
        self.device == other.device
    }
}

/// Looks at everything.
///
/// # Errors
/// If the directory itself cannot be read. What cannot be read inside it is part of what is seen.
pub(crate) fn scan(directory: &Path, ages: Ages) -> io::Result<Scan> {
    let mut scan = Scan {
        identity: identity(&fs::metadata(directory)?),
        empty: true,
        ..Scan::default()
    };
    follow(directory, &mut scan.heard_in);
    scan.heard_in.insert(directory.canonicalize()?);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        scan.empty = false;
        let name = entry?.file_name();
        if !is_hidden(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut names = names.into_iter();
    while let Some(name) = names.next() {
        let path = directory.join(&name);
        note_link(&path, &mut scan.heard_in);
        match fs::metadata(&path) {
            Ok(it) if it.is_dir() => {}
            Err(error) if !says_not_there(&error) => {
                scan.unsure.insert(name);
                continue;
            }
            _ => continue,
        }
        if scan.looks.len() == FOLDERS_MAX {
            scan.too_many = true;
            scan.unsure.insert(name);
            scan.unsure.extend(names);
            break;
        }
        if let Some(look) = look(&path, ages, &mut scan.heard_in) {
            scan.looks.insert(name, look);
        } else if fs::metadata(path.join(MANIFEST)).is_err_and(|error| !says_not_there(&error)) {
            scan.unsure.insert(name);
        }
    }
    Ok(scan)
}

/// Any other error says nothing about what is there: a network mount that does not answer, a folder that may not be looked into just now, no file
/// descriptors left.
fn says_not_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether files' times can be compared with this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ages {
    Count,
    DoNotCount,
}

/// Looks at one folder; `None` if it is no package, or is gone.
pub(crate) fn look(folder: &Path, ages: Ages, heard_in: &mut BTreeSet<PathBuf>) -> Option<Look> {
    let mut walk = Walk {
        hasher: blake3::Hasher::new(),
        youngest: None,
        files: 0,
        heard_in,
    };
    // Where the folder itself is now: a link that leads elsewhere is another folder, whatever is in it.
    walk.note(OsStr::new(""), &fs::metadata(folder).ok()?, Times::Ignored);
    // Asked for by its name: it counts in a folder with more files than are looked at, too.
    let found = fs::metadata(folder.join(MANIFEST)).is_ok_and(|it| !it.is_dir());
    walk.folder(folder, DEPTH_MAX);
    let age = || {
        // A time that is not behind us is none that we can compare with.
        SystemTime::now().duration_since(walk.youngest?).ok()
    };
    found.then(|| Look {
        print: Print(*walk.hasher.finalize().as_bytes()),
        age: (ages == Ages::Count).then(age).flatten(),
    })
}

/// Reads everything in a folder. What cannot be read counts as its error.
pub(crate) fn content(folder: &Path) -> Content {
    let mut hasher = blake3::Hasher::new();
    let mut files = 0;
    read_all(folder, DEPTH_MAX, &mut files, &mut hasher);
    *hasher.finalize().as_bytes()
}

struct Walk<'a> {
    hasher: blake3::Hasher,
    youngest: Option<SystemTime>,
    files: usize,
    heard_in: &'a mut BTreeSet<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Counted,
    Ignored,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) {
        if let Ok(real) = folder.canonicalize() {
            self.heard_in.insert(real);
        }
        for name in names(folder) {
            self.files += 1;
            if self.files > FILES_MAX {
                break;
            }
            let path = folder.join(&name);
            note_link(&path, self.heard_in);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    self.note(&name, &metadata, Times::Counted);
                    if depth > 0 {
                        self.folder(&path, depth - 1);
                    }
                    self.hasher.update(b"/..");
                }
                Ok(metadata) => self.note(&name, &metadata, Times::Counted),
                Err(error) => {
                    self.hash(&name);
                    self.hasher.update(format!("{:?}", error.kind()).as_bytes());
                }
            }
        }
    }

    fn note(&mut self, name: &OsStr, metadata: &Metadata, times: Times) {
        self.hash(name);
        let Identity { device, number } = identity(metadata);
        for part in [u64::from(metadata.is_dir()), device, number] {
            self.hasher.update(&part.to_le_bytes());
        }
        if times == Times::Ignored {
            return;
        }
        if !metadata.is_dir() {
            self.hasher.update(&metadata.len().to_le_bytes());
        }
        for time in changed(metadata) {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.hasher.update(&since.as_nanos().to_le_bytes());
            self.youngest = self.youngest.max(Some(time));
        }
    }

    fn hash(&mut self, name: &OsStr) {
        let bytes = name.as_encoded_bytes();
        self.hasher
            .update(&(bytes.len() as u64).to_le_bytes())
            .update(bytes);
    }
}

/// What is in a folder, in an order that does not change, and no more than is looked at; nothing hidden, and nothing if it cannot be read.
fn names(folder: &Path) -> BTreeSet<OsString> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !is_hidden(&name) {
            names.insert(name);
        }
        if names.len() > FILES_MAX {
            names.pop_last();
        }
    }
    names
}

fn read_all(folder: &Path, depth: usize, files: &mut usize, hasher: &mut blake3::Hasher) {
    for name in names(folder) {
        *files += 1;
        if *files > FILES_MAX {
            return;
        }
        let path = folder.join(&name);
        hasher.update(name.as_encoded_bytes()).update(&[0]);
        match fs::metadata(&path) {
            Ok(it) if it.is_dir() && depth > 0 => read_all(&path, depth - 1, files, hasher),
            Ok(it) if it.is_file() => {
                if let Err(error) = read_file(&path, hasher) {
                    hasher.update(format!("{:?}", error.kind()).as_bytes());
                }
            }
            // Pipes and devices are never opened.
            Ok(_) => {}
            Err(error) => {
                hasher.update(format!("{:?}", error.kind()).as_bytes());
            }
        }
    }
}

fn read_file(path: &Path, hasher: &mut blake3::Hasher) -> io::Result<()> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        // What was a file a moment ago may be a pipe now.
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    }
    let mut file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                hasher.update(&chunk[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Names that begin with a dot: what is being prepared, and the insides of Kubernetes volumes.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

// === links ===

/// If `path` is a link, notes where it and every link that it leads over stands, and where it leads.
fn note_link(path: &Path, heard_in: &mut BTreeSet<PathBuf>) {
    if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_symlink()) {
        follow(path, heard_in);
    }
}

/// Walks a path as the system does, and notes the folder of every link on the way and of what is at its end.
fn follow(path: &Path, heard_in: &mut BTreeSet<PathBuf>) {
    let Ok(path) = std::path::absolute(path) else {
        return;
    };
    let owned = |path: &Path| path.components().map(|it| it.as_os_str().to_owned()).collect();
    let mut rest: VecDeque<OsString> = owned(&path);
    let (mut real, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => {
                real.pop();
            }
            Some(Component::Normal(name)) => {
                let next = real.join(name);
                let Ok(target) = fs::read_link(&next) else {
                    real = next;
                    continue;
                };
                heard_in.insert(real.clone());
                links += 1;
                if links > LINKS_MAX {
                    return;
                }
                let target: VecDeque<OsString> = owned(&target);
                rest = target.into_iter().chain(rest).collect();
            }
            // A root or a drive: what came before does not count any more.
            Some(Component::RootDir | Component::Prefix(_)) => real.push(&part),
            Some(Component::CurDir) | None => {}
        }
    }
    heard_in.extend(real.parent().filter(|it| it.is_dir()).map(Path::to_owned));
}

// === what a system says of a file ===

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Identity {
        device: metadata.dev(),
        number: metadata.ino(),
    }
}

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> Identity {
    // A folder made anew has another time; the standard library tells no more.
    let made = metadata.created().ok();
    let since = made.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
    Identity {
        device: 0,
        number: since.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(0)),
    }
}

/// When it changed: its bytes, and where the system says so also anything about it, which nobody can set.
#[cfg(unix)]
fn changed(metadata: &Metadata) -> [SystemTime; 2] {
    use std::os::unix::fs::MetadataExt as _;
    let time = |seconds: i64, nanos: i64| {
        let whole = Duration::new(
            u64::try_from(seconds).unwrap_or(0),
            u32::try_from(nanos).unwrap_or(0),
        );
        SystemTime::UNIX_EPOCH + whole
    };
    let written = time(metadata.mtime(), metadata.mtime_nsec());
    if metadata.is_dir() {
        // Moving a folder changes it and nothing in it.
        [written; 2]
    } else {
        [written, time(metadata.ctime(), metadata.ctime_nsec())]
    }
}

#[cfg(not(unix))]
fn changed(metadata: &Metadata) -> [SystemTime; 2] {
    [metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH); 2]
}
