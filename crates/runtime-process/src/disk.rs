//! How much a plugin keeps in its private directory.
//!
//! There is no quota that every file system has, so the directory is looked through every [`INTERVAL`], on a thread for blocking work. Until it is noticed a plugin
//! can write as much as the disk takes in that time; one file is bounded at once, by the jail.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// More entries than this are too many, whatever their size; it also bounds the work of one look.
const ENTRIES_MAX: u64 = 100_000;

/// Looks at one directory again and again.
#[derive(Debug)]
pub(crate) struct Watch {
    dir: PathBuf,
    bytes_max: u64,
    next: Instant,
}

impl Watch {
    pub(crate) fn new(dir: &Path, bytes_max: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            bytes_max,
            next: Instant::now() + INTERVAL,
        }
    }

    /// Resolves when there is too much, with how much. Cancel safe.
    pub(crate) async fn over(&mut self) -> String {
        loop {
            sleep_until(self.next).await;
            let (dir, bytes_max) = (self.dir.clone(), self.bytes_max);
            let over = tokio::task::spawn_blocking(move || look(&dir, bytes_max)).await;
            self.next = Instant::now() + INTERVAL;
            if let Ok(Some(why)) = over {
                return why;
            }
        }
    }
}

/// Why there is too much. What vanishes meanwhile does not count; links are not followed.
fn look(dir: &Path, bytes_max: u64) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut entries) = (0_u64, 0_u64);
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            let Ok(found) = entry.metadata() else { continue };
            entries += 1;
            bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
            if found.is_dir() {
                dirs.push(entry.path());
            }
            if entries > ENTRIES_MAX {
                return Some(format!(
                    "its directory has more than {ENTRIES_MAX} entries, which is the limit"
                ));
            }
            if bytes > bytes_max {
                return Some(format!(
                    "its directory has at least {bytes} bytes, and {bytes_max} is its limit"
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_below_and_follows_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![1; bytes]).expect(name);
        assert_eq!(look(dir.path(), 0), None);
        fs::create_dir(dir.path().join("sub")).expect("sub");
        write("a", 40_000);
        write("sub/b", 40_000);
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).expect("link");
        assert_eq!(look(dir.path(), 200_000), None);
        assert!(look(dir.path(), 60_000).is_some_and(|why| why.contains("60000 is its limit")));
    }
}
