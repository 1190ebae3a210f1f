//! A directory with a file for each plugin: `NAME.toml` or `NAME.json`.
//!
//! Looks come at a fixed pace and compare what the system says of each file; a file counts when two looks in a row find it the same, so one that is being
//! written is not read halfway, and is gone when two looks do not find it. One that does not read is told with its fault, and what was in force stays.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mortise_config::{BoxFuture, ConfigSource, Outage, Setting, Settings, Update};
use mortise_manifest::{check_plugin_name, table_to_json};
use serde_json::Value;

/// The source's name.
pub(super) const NAME: &str = "files";
/// How often the directory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A directory with a file for each plugin.
#[derive(Debug)]
pub(crate) struct FilesSource {
    dir: PathBuf,
    /// What the last look saw, by file name.
    seen: BTreeMap<String, Print>,
    /// What was read last, by file name.
    read: BTreeMap<String, Print>,
    settings: BTreeMap<String, Settings>,
    revision: u64,
    began: bool,
}

/// What tells one content of a file from another, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Print {
    bytes: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: (u64, i64, i64),
}

impl FilesSource {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            seen: BTreeMap::new(),
            read: BTreeMap::new(),
            settings: BTreeMap::new(),
            revision: 0,
            began: false,
        }
    }

    async fn next_update(&mut self) -> Result<Update, Outage> {
        loop {
            if self.began {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let dir = self.dir.clone();
            let looked = tokio::task::spawn_blocking(move || look(&dir)).await;
            let now = match looked {
                Ok(Ok(now)) => now,
                Ok(Err(error)) => {
                    self.began = true;
                    return Err(Outage::new(format_args!("{}: {error}", self.dir.display())));
                }
                Err(_) => return Err(Outage::new("the look was given up")),
            };
            let first = !std::mem::replace(&mut self.began, true) || self.revision == 0;
            let (fresh, gone) = self.compare(now, first);
            if fresh.is_empty() && gone.is_empty() && !first {
                continue;
            }
            self.revision += 1;
            for name in gone {
                self.read.remove(&name);
                self.forget(&name);
            }
            for (name, print) in fresh {
                let path = self.dir.join(&name);
                let value = tokio::task::spawn_blocking(move || read(&path)).await;
                let value = value.unwrap_or_else(|_| Err("it was not read".to_owned()));
                self.read.insert(name.clone(), print);
                self.set(&name, value);
            }
            // All of it each time: there is little, and a look may have seen several changes.
            return Ok(Update {
                revision: self.revision,
                complete: true,
                plugins: self.told(),
            });
        }
    }

    /// What has come or changed, and what has gone, as two looks in a row agree; the first look is believed.
    fn compare(&mut self, now: BTreeMap<String, Print>, first: bool) -> (Vec<(String, Print)>, Vec<String>) {
        let before = std::mem::replace(&mut self.seen, now);
        let now = &self.seen;
        let settled = |(name, print): &(&String, &Print)| first || before.get(*name) == Some(*print);
        let fresh = now
            .iter()
            .filter(settled)
            .filter(|(name, print)| self.read.get(*name) != Some(*print))
            .map(|(name, print)| (name.clone(), print.clone()))
            .collect();
        let names = self.read.keys();
        // Who replaces a file may take it away first.
        let gone = names.filter(|name| !now.contains_key(*name) && !before.contains_key(*name));
        (fresh, gone.cloned().collect())
    }

    fn set(&mut self, file: &str, value: Result<Value, String>) {
        let setting = Setting {
            value,
            origin: self.dir.join(file).display().to_string(),
            revision: self.revision,
        };
        self.settings
            .entry(plugin_of(file).to_owned())
            .or_default()
            .insert(file.to_owned(), setting);
    }

    fn forget(&mut self, file: &str) {
        let plugin = plugin_of(file);
        if let Some(settings) = self.settings.get_mut(plugin) {
            settings.remove(file);
            if settings.is_empty() {
                self.settings.remove(plugin);
            }
        }
    }

    /// Each file is the whole object of its plugin; two files are one too many.
    fn told(&self) -> BTreeMap<String, Settings> {
        let told = self.settings.iter().filter_map(|(plugin, files)| {
            let mut setting = files.values().next()?.clone();
            if files.len() > 1 {
                let names: Vec<_> = files.keys().map(|it| format!("`{it}`")).collect();
                setting.value = Err(format!("there are {}; keep one of them", names.join(" and ")));
            }
            Some((plugin.clone(), Settings::from([(String::new(), setting)])))
        });
        told.collect()
    }
}

impl ConfigSource for FilesSource {
    fn name(&self) -> &str {
        NAME
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Update, Outage>> {
        Box::pin(self.next_update())
    }
}

/// What the directory has for one plugin, as it is now.
pub(super) fn settings_of(dir: PathBuf, plugin: &str) -> Settings {
    let mut source = FilesSource::new(dir);
    for ending in ["toml", "json"] {
        let file = format!("{plugin}.{ending}");
        let path = source.dir.join(&file);
        if path.exists() {
            source.set(&file, read(&path));
        }
    }
    source.told().remove(plugin).unwrap_or_default()
}

/// The files that are plugins' and what the system says of them.
fn look(dir: &Path) -> std::io::Result<BTreeMap<String, Print>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_config = name.ends_with(".toml") || name.ends_with(".json");
        if !is_config || check_plugin_name(plugin_of(&name)).is_err() {
            continue;
        }
        // Through links: what a name leads to is what it has.
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            // It went meanwhile, or leads nowhere.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            // Not to be seen is not to be gone.
            Err(error) => return Err(std::io::Error::new(error.kind(), format!("{name}: {error}"))),
        };
        if metadata.is_file() {
            found.insert(name, Print::of(&metadata));
        }
    }
    Ok(found)
}

fn plugin_of(file: &str) -> &str {
    file.rsplit_once('.').map_or(file, |(plugin, _)| plugin)
}

/// The file as a value. Of what does not read, the place is told and not the text.
fn read(path: &Path) -> Result<Value, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes, and the most are {FILE_BYTES_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let json = if path.extension().is_some_and(|it| it == "toml") {
        table_to_json(&text, "").map_err(|faults| {
            let told = |it: &mortise_manifest::Diagnostic| format!("line {}: {}", it.line, it.message);
            faults.iter().map(told).collect::<Vec<_>>().join("; ")
        })?
    } else {
        text
    };
    serde_json::from_str(&json).map_err(|error| format!("it is no JSON ({error})"))
}

impl Print {
    fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            inode: (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(bytes: u64) -> Print {
        Print {
            bytes,
            modified: None,
            #[cfg(unix)]
            inode: (0, 0, 0),
        }
    }

    #[test]
    fn two_looks_in_a_row_have_to_agree() {
        let look = |files: &[(&str, u64)]| -> BTreeMap<String, Print> {
            let file = |(name, bytes): &(&str, u64)| ((*name).to_owned(), print(*bytes));
            files.iter().map(file).collect()
        };
        let mut source = FilesSource::new(PathBuf::new());
        let compare = |source: &mut FilesSource, files: &[(&str, u64)], first| {
            let (fresh, gone) = source.compare(look(files), first);
            source.read.extend(fresh.iter().cloned());
            source.read.retain(|name, _| !gone.contains(name));
            (fresh.into_iter().map(|it| it.0).collect::<Vec<_>>(), gone)
        };
        let nothing = || (Vec::<String>::new(), Vec::<String>::new());
        let a = || vec!["a.toml".to_owned()];
        assert_eq!(compare(&mut source, &[("a.toml", 1)], true), (a(), vec![]));
        // Taken away and put back.
        assert_eq!(compare(&mut source, &[], false), nothing());
        assert_eq!(compare(&mut source, &[("a.toml", 1)], false), nothing());
        // Replaced, and seen half written.
        assert_eq!(compare(&mut source, &[], false), nothing());
        assert_eq!(compare(&mut source, &[("a.toml", 2)], false), nothing());
        assert_eq!(compare(&mut source, &[("a.toml", 3)], false), nothing());
        assert_eq!(compare(&mut source, &[("a.toml", 3)], false), (a(), vec![]));
        // Gone.
        assert_eq!(compare(&mut source, &[], false), nothing());
        assert_eq!(compare(&mut source, &[], false), (vec![], a()));
        assert_eq!(compare(&mut source, &[], false), nothing());
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_seen_is_not_taken_for_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("echo.toml");
        // A link to itself: it is there, and nobody can say what it is.
        std::os::unix::fs::symlink(&place, &place).expect("links");
        let error = look(folder.path()).expect_err("it is told");
        assert!(error.to_string().starts_with("echo.toml: "), "{error}");
        fs::remove_file(&place).expect("removes");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &place).expect("links");
        assert!(look(folder.path()).expect("reads").is_empty());
    }
}
