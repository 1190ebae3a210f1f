//! A directory that is watched, and what was told of it.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use mortise_watch::{Change, Settled, Watch, WatchOptions};

pub(crate) const QUIET: Duration = Duration::from_millis(120);
const PATIENCE: Duration = Duration::from_secs(30);

/// How the watch hears of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Listen,
    Poll,
}

pub(crate) struct World {
    place: tempfile::TempDir,
    first: Vec<Change>,
    changes: Receiver<Vec<Change>>,
    /// What was told and not asked for yet, and the names of all that settled.
    seen: RefCell<(Vec<Change>, Vec<String>)>,
    _watch: Watch,
}

/// Two files, of which the manifest comes first, as with a careless copy.
pub(crate) fn write_package(folder: &Path, content: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("plugin.toml"), "").unwrap();
    fs::write(folder.join("file"), content).unwrap();
}

impl World {
    pub(crate) fn new(mode: Mode) -> Self {
        Self::before(mode, |_| {})
    }

    /// With something in the directory before it is watched.
    pub(crate) fn before(mode: Mode, prepare: impl FnOnce(&Path)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("watched");
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(place.path().join("outside")).unwrap();
        prepare(&directory);
        let (sender, changes) = mpsc::channel();
        let options = WatchOptions {
            directory,
            quiet: QUIET,
            poll: (mode == Mode::Poll).then_some(Duration::from_millis(15)),
        };
        let (watch, first) = Watch::start(options, move |changes| sender.send(changes).is_ok()).unwrap();
        let world = Self {
            place,
            first: first.clone(),
            changes,
            seen: RefCell::default(),
            _watch: watch,
        };
        world.take(first);
        world
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.place.path().join("watched")
    }

    /// On the same file system, so that a move is a move.
    pub(crate) fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }

    /// What was told at once.
    pub(crate) fn first(&self) -> &[Change] {
        &self.first
    }

    /// Names of everything that settled so far, in this order.
    pub(crate) fn told(&self) -> Vec<String> {
        self.seen.borrow().1.clone()
    }

    /// Waits until a folder is told that has this content.
    pub(crate) fn settles(&self, name: &str, content: &str) -> Settled {
        let file = self.directory().join(name).join("file");
        self.until(&format!("`{name}` settles as `{content}`"), |it| match it {
            // Told in the middle of a change by hand, which is not one step: the whole is told, too.
            Change::Settled(it)
                if it.name == name && fs::read_to_string(&file).ok().as_deref() == Some(content) =>
            {
                Some(it.clone())
            }
            _ => None,
        })
    }

    /// Waits until a folder is told as gone.
    pub(crate) fn goes(&self, name: &str) {
        self.until(&format!("`{name}` is gone"), |it| {
            matches!(it, Change::Gone(it) if it == name).then_some(())
        });
    }

    /// Whether it was told as gone and nobody asked.
    pub(crate) fn has_gone(&self, name: &str) -> bool {
        let gone = |it: &Change| matches!(it, Change::Gone(it) if it == name);
        self.seen.borrow().0.iter().any(gone)
    }

    /// Writes a package in pieces with pauses, and checks that it was not told before its end. Returns whether the pauses were shorter than the quiet time, as they should be.
    pub(crate) fn copies_slowly(&self, name: &str) -> bool {
        let folder = self.directory().join(name);
        fs::create_dir(&folder).unwrap();
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        let mut step = |what: &mut dyn FnMut()| {
            what();
            longest = longest.max(last.elapsed());
            last = Instant::now();
            thread::sleep(QUIET / 8);
        };
        step(&mut || fs::write(folder.join("plugin.toml"), "").unwrap());
        let mut file = File::create(folder.join("file")).unwrap();
        step(&mut || file.write_all(b"begin ").unwrap());
        for number in 0..10 {
            step(&mut || write!(file, "{number} ").unwrap());
        }
        step(&mut || file.write_all(b"end").unwrap());
        let in_time = longest < QUIET / 2;
        if in_time {
            let early = |it: Vec<Change>| {
                it.into_iter()
                    .find(|it| matches!(it, Change::Settled(it) if it.name == name))
            };
            let told: Vec<_> = self.changes.try_iter().filter_map(early).collect();
            assert!(told.is_empty(), "told although it was being written: {told:?}");
        }
        in_time
    }

    fn until<T>(&self, what: &str, find: impl Fn(&Change) -> Option<T>) -> T {
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut seen = self.seen.borrow_mut();
            if let Some((at, found)) = seen
                .0
                .iter()
                .enumerate()
                .find_map(|(at, it)| Some((at, find(it)?)))
            {
                seen.0.remove(at);
                return found;
            }
            drop(seen);
            let left = patience.saturating_duration_since(Instant::now());
            match self.changes.recv_timeout(left) {
                Ok(changes) => self.take(changes),
                Err(_) => panic!(
                    "waited {PATIENCE:?} until {what}; told were {:?}",
                    self.seen.borrow()
                ),
            }
        }
    }

    fn take(&self, changes: Vec<Change>) {
        let mut seen = self.seen.borrow_mut();
        for change in changes {
            if let Change::Settled(it) = &change {
                seen.1.push(it.name.to_string_lossy().into_owned());
            }
            seen.0.push(change);
        }
    }
}
