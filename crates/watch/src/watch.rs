//! The thread that looks when the bell rings, and says what became certain.
//!
//! After a look that took `t` it rests for ten times `t`, and for 10 ms at least, whoever rings; a change that comes meanwhile is seen by the look after that. While
//! whoever is told is busy with what it was told, no look is made and nothing is kept.
//!
//! A directory that cannot be read, or that is suddenly empty and on another device than before (it was unmounted), says nothing about the
//! plugins that were in it: they are not told as gone.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    bell::{Bell, Rope, rings_for_all},
    scan::{self, Ages, FOLDERS_MAX, Identity, Scan},
    settle::{Event, Print, Settling},
};

/// Shortest rest after a look.
const REST_MIN: Duration = Duration::from_millis(10);
/// Rest after a look, in looks.
const REST_LOOKS: u32 = 10;
/// A look without a bell, in case something was not told.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
/// Between looks at a directory that cannot be read or where no bell rings.
const POLL: Duration = Duration::from_secs(1);
/// Shortest quiet time on a network mount: for so long NFS does not ask whether a file changed.
const REMOTE_QUIET_MIN: Duration = Duration::from_secs(3);
/// Folders that a warning names.
const SHOWN_MAX: usize = 3;

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The directory that the package folders stand in. It need not be there yet.
    pub directory: PathBuf,
    /// How long a folder must rest to be told; on a network mount at least 3 s. Shorter is faster, and finds more half-written packages, which are
    /// refused and tried again.
    pub quiet: Duration,
    /// Look so often, and do not listen. `None` listens, and looks every second where the system tells nothing: on network mounts (Linux knows them), or if it
    /// is out of watches.
    pub poll: Option<Duration>,
}

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("the thread that watches `{}` cannot be started", .directory.display())]
pub struct WatchError {
    directory: PathBuf,
    source: io::Error,
}

/// Something that is certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A package folder is new or another than before, and nothing changes in it any more.
    Settled(Settled),
    /// A package folder that was settled is gone, or is no package any more; its name.
    Gone(OsString),
}

/// A package folder that rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its name in the directory.
    pub name: OsString,
    /// Its path through the directory; links in it are not resolved.
    pub path: PathBuf,
    /// What it was when it was told.
    pub print: Print,
}

/// A directory that is watched, until this is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    rope: Rope,
}

// === impl Settled ===

impl Settled {
    /// Looks again. Whoever read the folder and then finds it unchanged has read what was told.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let look = scan::look(&self.path, Ages::DoNotCount, &mut BTreeSet::new());
        look.is_some_and(|it| it.print == self.print)
    }
}

// === impl Watch ===

impl Watch {
    /// Makes a first look, here, and begins to watch. Returns what is settled already; everything after that is told to `told`, on a thread of its
    /// own, until it says `false`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(
        options: WatchOptions,
        mut told: impl FnMut(Vec<Change>) -> bool + Send + 'static,
    ) -> Result<(Self, Vec<Change>), WatchError> {
        let directory = options.directory.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let mut watcher = Watcher::new(options);
        let first = watcher.look();
        let this = Self {
            stop: stop.clone(),
            rope: watcher.bell.rope(),
        };
        let run = move || {
            while watcher.rest(&stop) {
                let changes = watcher.look();
                if !changes.is_empty() && !told(changes) {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("mortise-watch".to_owned())
            .spawn(run)
            .map_err(|source| WatchError { directory, source })?;
        Ok((this, first))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.rope.pull();
    }
}

// === the thread ===

struct Watcher {
    options: WatchOptions,
    bell: Bell,
    settling: Settling,
    /// Only of file systems whose clock is ours.
    ages: Ages,
    began: Instant,
    /// Of the directory, when it was last seen with something in it.
    identity: Option<Identity>,
    /// What was wrong with the directory at the last look; each trouble is told once.
    trouble: Option<String>,
    /// The next look at the latest.
    due: Instant,
    /// The next look at the earliest.
    rested: Instant,
}

impl Watcher {
    fn new(options: WatchOptions) -> Self {
        let bell = match options.poll {
            Some(_) => Bell::silent(),
            None => Bell::of_system().unwrap_or_else(|error| {
                tracing::warn!(target: "mortise::watch", directory = %options.directory.display(), %error, "the system tells no changes; looking every {POLL:?}");
                Bell::silent()
            }),
        };
        let now = Instant::now();
        Self {
            ages: if options.poll.is_none() {
                Ages::Count
            } else {
                Ages::DoNotCount
            },
            settling: Settling::new(options.quiet),
            options,
            bell,
            began: now,
            identity: None,
            trouble: None,
            due: now,
            rested: now,
        }
    }

    /// Waits for a reason to look and for the rest after the last look. Returns whether to go on.
    fn rest(&self, stop: &AtomicBool) -> bool {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let _ = self.bell.wait(left(self.due).max(Duration::from_millis(1)));
        while !stop.load(Ordering::Acquire) && !left(self.rested).is_zero() {
            thread::sleep(left(self.rested).min(Duration::from_millis(50)));
        }
        !stop.load(Ordering::Acquire)
    }

    /// Looks, and settles when to look again.
    fn look(&mut self) -> Vec<Change> {
        let started = Instant::now();
        let (changes, next) = match self.scan() {
            Ok(scan) => self.step(&scan),
            Err(error) => {
                let directory = self.options.directory.display();
                self.complain(Some(format!(
                    "`{directory}` cannot be read: {error}; its plugins go on as they are"
                )));
                (Vec::new(), Instant::now() + self.options.poll.unwrap_or(POLL))
            }
        };
        let ended = Instant::now();
        self.rested = ended + REST_MIN.max((ended - started) * REST_LOOKS);
        self.due = next;
        changes
    }

    /// Looks, and listens wherever something was seen; again if that was new, because what happened there in between was not heard.
    fn scan(&mut self) -> io::Result<Scan> {
        let directory = self.options.directory.clone();
        let mut scan = scan::scan(&directory, self.ages)?;
        if self.ages == Ages::Count
            && let Some(remote) = scan.heard_in.iter().find(|it| !rings_for_all(it))
        {
            tracing::info!(target: "mortise::watch", folder = %remote.display(), "on a network mount the system does not tell changes; looking every {POLL:?}");
            self.ages = Ages::DoNotCount;
            self.settling.set_quiet(self.options.quiet.max(REMOTE_QUIET_MIN));
            self.bell.silence();
            scan = scan::scan(&directory, self.ages)?;
        }
        for _ in 0..3 {
            match self.bell.listen(&scan.heard_in) {
                Ok(false) => break,
                Ok(true) => scan = scan::scan(&directory, self.ages)?,
                Err(error) => {
                    tracing::warn!(target: "mortise::watch", directory = %directory.display(), folders = scan.heard_in.len(), %error,
                        "the system cannot listen in so many folders; looking every {POLL:?} (on Linux, raise fs.inotify.max_user_watches)");
                    self.bell.silence();
                }
            }
        }
        Ok(scan)
    }

    fn step(&mut self, scan: &Scan) -> (Vec<Change>, Instant) {
        let directory = &self.options.directory;
        let unmounted = scan.empty && self.identity.is_some_and(|it| !it.is_on_device_of(scan.identity));
        let trouble = if unmounted {
            Some(format!(
                "`{}` is empty and on another device than before, as after an unmount; its plugins go on as they are",
                directory.display()
            ))
        } else if scan.too_many {
            Some(format!(
                "`{}` has more than {FOLDERS_MAX} folders; those after that, by name, are not looked at",
                directory.display()
            ))
        } else if !scan.unsure.is_empty() {
            Some(format!(
                "in `{}`, {} cannot be looked at; what came from there goes on as it is",
                directory.display(),
                shown(&scan.unsure)
            ))
        } else {
            None
        };
        self.complain(trouble);
        if unmounted {
            return (Vec::new(), Instant::now() + self.options.poll.unwrap_or(POLL));
        }
        if !scan.empty {
            self.identity = Some(scan.identity);
        }
        let directory = self.options.directory.clone();
        let now = self.began.elapsed();
        let events = self.settling.step(now, &scan.looks, &scan.unsure, |name| {
            scan::content(&directory.join(name))
        });
        let anyway = match self.options.poll {
            Some(poll) => poll,
            None if self.bell.is_of_system() => LOOK_ANYWAY,
            None => POLL,
        };
        let due = now + anyway;
        let due = self.settling.next(&scan.looks).map_or(due, |it| it.min(due));
        let changes = events.into_iter().map(|it| change(&directory, it)).collect();
        (changes, self.began + due)
    }

    fn complain(&mut self, trouble: Option<String>) {
        if let Some(trouble) = trouble.as_ref().filter(|it| self.trouble.as_ref() != Some(it)) {
            tracing::warn!(target: "mortise::watch", "{trouble}");
        }
        self.trouble = trouble;
    }
}

/// The first of some names, in quotes.
fn shown(names: &BTreeSet<OsString>) -> String {
    let quoted = names
        .iter()
        .take(SHOWN_MAX)
        .map(|it| format!("`{}`", it.display()));
    let mut shown = quoted.collect::<Vec<_>>().join(", ");
    if let Some(further) = names.len().checked_sub(SHOWN_MAX).filter(|it| *it > 0) {
        shown += &format!(" and {further} more");
    }
    shown
}

fn change(directory: &Path, event: Event) -> Change {
    match event {
        Event::Settled(name, print) => Change::Settled(Settled {
            path: directory.join(&name),
            name,
            print,
        }),
        Event::Gone(name) => Change::Gone(name),
    }
}
