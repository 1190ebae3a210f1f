//! From looks and times to changes.
//!
//! # Words
//! A *look* is what one moment shows of a folder: its *print*, which differs whenever a name, a size, a time or an identity in it differs, and, where the
//! file system's clock is ours, its *age*: how long ago anything in it changed last. Its *content* is a hash of all its bytes.
//!
//! # Invariants
//! - **W1** A folder is told as settled only if nothing in it changed for the quiet time: its age says so; or all looks of a quiet time showed one
//!   print, and two contents read at least half of it apart are equal, for file systems whose times are too coarse or not to be compared.
//! - **W2** Each print is told at most once, until another one was seen or the folder was gone.
//! - **W3** A folder is told as gone only if it was told as settled, and all looks of a quiet time showed that it is not there. So what is taken away
//!   and put back at once (`rm -r x && mv y x`), or renamed, is never a removal; nor is what a disk that does not answer has.
//! - **W4** What was told as gone and what was never settled is forgotten: nothing grows with time.
//!
//! ```text
//!           first look                quiet, contents equal
//!  (nothing) ────────▶ changing ─────────────────────────▶ settled
//!                        ▲  │ another print                  │ another print
//!                        └──┘◀───────────────────────────────┘
//!  not seen for the quiet time: gone (if it was ever settled) and forgotten
//! ```
//! Times are since any fixed moment and never go back.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    time::Duration,
};

/// Differs whenever a name, a size, a time or an identity in a folder differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Print(pub [u8; 32]);

/// A hash of all bytes of a folder, or of what kept them from being read.
pub type Content = [u8; 32];

/// What one moment shows of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its print.
    pub print: Print,
    /// How long ago anything in it changed last, if the file system's clock says so and its word counts.
    pub age: Option<Duration>,
}

/// Something that is certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing changes here any more.
    Settled(OsString, Print),
    /// What was settled is not there any more.
    Gone(OsString),
}

/// All folders of a directory.
#[derive(Debug)]
pub struct Settling {
    quiet: Duration,
    folders: BTreeMap<OsString, Folder>,
}

#[derive(Debug)]
struct Folder {
    print: Print,
    /// All looks since then showed `print`.
    since: Duration,
    /// The last look that showed it.
    looked: Duration,
    /// Its content, and when it was read; after `since`.
    content: Option<(Duration, Content)>,
    /// `print` was told.
    told: bool,
    /// Any print was told, and no removal since.
    known: bool,
    /// When a look first did not show it.
    missing: Option<Duration>,
}

// === impl Settling ===

impl Settling {
    /// Nothing was seen yet. A folder is settled when nothing in it changed for `quiet`.
    #[must_use]
    pub fn new(quiet: Duration) -> Self {
        Self {
            quiet,
            folders: BTreeMap::new(),
        }
    }

    /// From now on, a folder is settled when nothing in it changed for `quiet`.
    pub fn set_quiet(&mut self, quiet: Duration) {
        self.quiet = quiet;
    }

    /// Takes in what a look at `now` showed of all folders that there are, but for those that could not be looked at (`unsure`), and tells what became
    /// certain. `read` gives a folder's content as it is at this moment; it is asked at most once per folder and only while it settles without an age.
    pub fn step(
        &mut self,
        now: Duration,
        looks: &BTreeMap<OsString, Look>,
        unsure: &BTreeSet<OsString>,
        mut read: impl FnMut(&OsString) -> Content,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, look) in looks {
            let folder = self
                .folders
                .entry(name.clone())
                .or_insert_with(|| Folder::new(look.print, now));
            folder.see(look.print, now);
            if !folder.told && folder.settles(now, look.age, self.quiet, || read(name)) {
                (folder.told, folder.known, folder.content) = (true, true, None);
                events.push(Event::Settled(name.clone(), look.print));
            }
        }
        let quiet = self.quiet;
        self.folders.retain(|name, folder| {
            if looks.contains_key(name) {
                return true;
            }
            if unsure.contains(name) {
                folder.missing = None;
                folder.begin_again(now);
                return true;
            }
            let gone = now.saturating_sub(*folder.missing.get_or_insert(now)) >= quiet;
            if gone && folder.known {
                events.push(Event::Gone(name.clone()));
            }
            !gone
        });
        events
    }

    /// When the next look can make something certain, if nothing changes until then.
    #[must_use]
    pub fn next(&self, looks: &BTreeMap<OsString, Look>) -> Option<Duration> {
        let due = |(name, folder): (&OsString, &Folder)| match folder.missing {
            Some(missing) => Some(missing + self.quiet),
            None if folder.told => None,
            None => Some(folder.due(self.quiet, looks.get(name).and_then(|it| it.age))),
        };
        self.folders.iter().filter_map(due).min()
    }
}

impl Folder {
    fn new(print: Print, now: Duration) -> Self {
        Self {
            print,
            since: now,
            looked: now,
            content: None,
            told: false,
            known: false,
            missing: None,
        }
    }

    fn see(&mut self, print: Print, now: Duration) {
        if self.print != print {
            let known = self.known;
            *self = Self::new(print, now);
            self.known = known;
        } else if self.missing.take().is_some() {
            self.begin_again(now);
        }
        self.looked = now;
    }

    /// It was out of sight for a moment, and nobody knows what happened there.
    fn begin_again(&mut self, now: Duration) {
        if !self.told {
            (self.since, self.content) = (now, None);
        }
    }

    /// W1.
    fn settles(
        &mut self,
        now: Duration,
        age: Option<Duration>,
        quiet: Duration,
        read: impl FnOnce() -> Content,
    ) -> bool {
        if let Some(age) = age {
            return age >= quiet;
        }
        let same_for = now.saturating_sub(self.since);
        match self.content {
            None if same_for >= quiet / 2 => {
                self.content = Some((now, read()));
                false
            }
            Some((at, before)) if same_for >= quiet && now.saturating_sub(at) >= quiet / 2 => {
                let is = read();
                if is != before {
                    // Written to without a trace in any time.
                    (self.since, self.content) = (now, Some((now, is)));
                }
                is == before
            }
            _ => false,
        }
    }

    /// When `settles` can say more.
    fn due(&self, quiet: Duration, age: Option<Duration>) -> Duration {
        match (age, self.content) {
            (Some(age), _) => self.looked + quiet.saturating_sub(age),
            (None, None) => self.since + quiet / 2,
            (None, Some((at, _))) => (self.since + quiet).max(at + quiet / 2),
        }
    }
}

#[cfg(test)]
mod tests;
