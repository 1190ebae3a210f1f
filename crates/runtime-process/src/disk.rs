//! How much a plugin keeps on the disk: in its private directory, and in files that it took out of there and holds open.
//!
//! There is no quota that every file system has, so the directory is looked through every [`INTERVAL`], on a thread for blocking work. Until it is noticed a plugin
//! can write as much as the disk takes in that time; one file is bounded at once, by the jail. A look takes as long as it takes: it is not begun anew
//! because its caller looked elsewhere meanwhile.
//!
//! What can't be looked at is too much: a directory that may not be listed, or lies deeper than a path is long, could hold anything. Files without a name are
//! found by the descriptors of the plugin's processes. Not seen are those that are only mapped, or on their way between its processes in a socket.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Pid;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// More entries than this are too many, whatever their size; it also bounds the work of one look.
const ENTRIES_MAX: u64 = 100_000;
/// More processes than these are not looked at: processes that begin others faster than they are found would keep the look for ever.
const PROCESSES_MAX: usize = 4096;
/// How much of a name is told of a directory that can't be looked through.
const NAME_CHARS_MAX: usize = 80;

/// Looks at one directory again and again.
#[derive(Debug)]
pub(crate) struct Watch {
    of: Looked,
    next: Instant,
    /// The look that is under way.
    looking: Option<JoinHandle<Option<String>>>,
}

/// What is looked at.
#[derive(Clone, Debug)]
struct Looked {
    dir: PathBuf,
    /// The process below which all of the plugin's are.
    first: Pid,
    bytes_max: u64,
}

impl Watch {
    /// `first`: the process that all of the plugin's processes descend from.
    pub(crate) fn new(dir: &Path, first: Pid, bytes_max: u64) -> Self {
        Self {
            of: Looked {
                dir: dir.to_owned(),
                first,
                bytes_max,
            },
            next: Instant::now() + INTERVAL,
            looking: None,
        }
    }

    /// Resolves when there is too much, with how much. Cancel safe: a look that is under way is the next caller's.
    pub(crate) async fn over(&mut self) -> String {
        loop {
            if self.looking.is_none() {
                sleep_until(self.next).await;
            }
            let of = &self.of;
            let looking = self.looking.get_or_insert_with(|| {
                let of = of.clone();
                spawn_blocking(move || of.look())
            });
            let over = looking.await;
            self.looking = None;
            self.next = Instant::now() + INTERVAL;
            if let Ok(Some(why)) = over {
                return why;
            }
        }
    }
}

impl Looked {
    /// Why there is too much. What vanishes meanwhile does not count; links are not followed.
    fn look(&self) -> Option<String> {
        let (mut bytes, mut entries) = (0_u64, 0_u64);
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            let unseen = |error: &io::Error| Some(self.unseen(&dir, error));
            let listed = match fs::read_dir(&dir) {
                Ok(listed) => listed,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return unseen(&error),
            };
            for entry in listed {
                let found = match entry.and_then(|it| Ok((it.metadata()?, it.path()))) {
                    Ok(found) => found,
                    Err(error) if is_gone(&error) => continue,
                    Err(error) => return unseen(&error),
                };
                let (found, path) = found;
                entries += 1;
                bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
                if found.is_dir() {
                    dirs.push(path);
                }
                if entries > ENTRIES_MAX {
                    return Some(format!(
                        "its directory has more than {ENTRIES_MAX} entries, which is the limit"
                    ));
                }
                if bytes > self.bytes_max {
                    return Some(self.too_much("its directory has", bytes));
                }
            }
        }
        bytes = bytes.saturating_add(self.nameless_bytes());
        (bytes > self.bytes_max).then(|| {
            self.too_much(
                "its directory and the files that it removed and holds open have",
                bytes,
            )
        })
    }

    fn too_much(&self, what: &str, bytes: u64) -> String {
        format!(
            "{what} at least {bytes} bytes, and {} is its limit",
            self.bytes_max
        )
    }

    fn unseen(&self, dir: &Path, error: &io::Error) -> String {
        let name = dir.strip_prefix(&self.dir).unwrap_or(dir).to_string_lossy();
        let (name, more) = match name.char_indices().nth(NAME_CHARS_MAX) {
            Some((at, _)) => (&name[..at], ".."),
            None => (&*name, ""),
        };
        format!(
            "`{}{more}` in its directory can't be looked through, so it counts as too much: {error}",
            name.escape_debug()
        )
    }

    /// What files hold on the directory's file system that have no name any more and are open in the plugin's processes.
    fn nameless_bytes(&self) -> u64 {
        let Ok(device) = self.dir.symlink_metadata().map(|it| it.dev()) else {
            return 0;
        };
        let mut files = HashSet::new();
        let mut bytes = 0_u64;
        for process in descendants(self.first) {
            for descriptor in numbers_in(&format!("/proc/{process}/fd")) {
                let path = format!("/proc/{process}/fd/{descriptor}");
                // By its name first: to ask a file system about a file may take for ever, and this one is the plugin's choice.
                let is_removed = fs::read_link(&path)
                    .is_ok_and(|it| it.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"));
                if is_removed
                    && let Ok(found) = fs::metadata(&path)
                    && found.nlink() == 0
                    && found.dev() == device
                    && files.insert(found.ino())
                {
                    bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
                }
            }
        }
        bytes
    }
}

/// It was there and is not any more, or is something else.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A process and all below it. Empty where the system does not say.
fn descendants(first: Pid) -> Vec<u32> {
    let mut found: Vec<u32> = first.as_raw_nonzero().get().try_into().into_iter().collect();
    let mut at = 0;
    while let Some(process) = found.get(at).copied()
        && at < PROCESSES_MAX
    {
        for thread in numbers_in(&format!("/proc/{process}/task")) {
            let children = fs::read_to_string(format!("/proc/{process}/task/{thread}/children"));
            found.extend(
                children
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|it| it.parse::<u32>().ok()),
            );
        }
        at += 1;
    }
    found
}

fn numbers_in(dir: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|it| it.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _};

    use super::*;

    fn looked(dir: &Path, bytes_max: u64) -> Looked {
        Looked {
            dir: dir.to_owned(),
            first: rustix::process::getpid(),
            bytes_max,
        }
    }

    #[test]
    fn counts_what_is_below_and_follows_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![1; bytes]).expect(name);
        assert_eq!(looked(dir.path(), 0).look(), None);
        fs::create_dir(dir.path().join("sub")).expect("sub");
        write("a", 40_000);
        write("sub/b", 40_000);
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).expect("link");
        assert_eq!(looked(dir.path(), 200_000).look(), None);
        let why = looked(dir.path(), 60_000).look().expect("it is too much");
        assert!(why.contains("60000 is its limit"), "{why}");
    }

    #[test]
    fn what_is_too_deep_to_be_listed_is_too_much() {
        let dir = tempfile::tempdir().expect("a directory");
        crate::run_dir::tests::nest(dir.path(), "ab", 2100);
        let why = looked(dir.path(), 1 << 30).look().expect("it can't be seen");
        assert!(why.contains("can't be looked through"), "{why}");
        assert!(why.len() < 400, "{why}");
        crate::run_dir::remove_tree(dir.path()).expect("it can be removed");
    }

    #[test]
    fn a_file_without_a_name_counts_while_it_is_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gone");
        let mut file = File::create(&path).expect("a file");
        file.write_all(&vec![1; 200_000]).expect("written");
        fs::remove_file(&path).expect("removed");
        let twice = file.try_clone().expect("a second descriptor of it");
        let counted = looked(dir.path(), 0).nameless_bytes();
        assert!((200_000..400_000).contains(&counted), "{counted}");
        assert!(
            looked(dir.path(), 100_000)
                .look()
                .is_some_and(|why| why.contains("holds open"))
        );
        drop((file, twice));
        assert_eq!(looked(dir.path(), 0).nameless_bytes(), 0);
    }

    /// Whoever waits for it also waits for other things, and comes back.
    #[tokio::test]
    async fn a_look_that_takes_longer_than_its_caller_waits_is_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("a"), vec![1; 40_000]).expect("a");
        let mut watch = Watch::new(dir.path(), rustix::process::getpid(), 10_000);
        let mut looks = 0;
        loop {
            // Nobody waits for longer than one poll: the sooner the caller gives up, the worse.
            let over = std::pin::pin!(watch.over());
            if let std::task::Poll::Ready(why) = futures_util::poll!(over) {
                assert!(why.contains("10000 is its limit"), "{why}");
                break;
            }
            looks += 1;
            assert!(looks < 20_000, "it is never found");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
