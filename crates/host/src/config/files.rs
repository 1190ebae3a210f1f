//! A directory with a file for each plugin: `NAME.toml` or `NAME.json`.
//!
//! Looks come at a fixed pace and compare what the system says of each file; a file counts when two looks in a row find it the same, so one that is being
//! written is not read halfway. One that does not read is told with its fault, and what was in force stays.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mortise_config::{BoxFuture, ConfigSource, Outage, Setting, Settings, Update};
use mortise_manifest::{check_plugin_name, table_to_json};
use serde_json::Value;

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
            let before = std::mem::replace(&mut self.seen, now.clone());
            let settled = |(name, print): &(&String, &Print)| first || before.get(*name) == Some(*print);
            let fresh: Vec<_> = now
                .iter()
                .filter(settled)
                .filter(|(name, print)| self.read.get(*name) != Some(*print))
                .map(|(name, print)| (name.clone(), print.clone()))
                .collect();
            let gone: Vec<_> = self
                .read
                .keys()
                .filter(|name| !now.contains_key(*name))
                .cloned()
                .collect();
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
        "files"
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Update, Outage>> {
        Box::pin(self.next_update())
    }
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
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
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
