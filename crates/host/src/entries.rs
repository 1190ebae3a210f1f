//! What each `[[plugin]]` of the configuration said when it was last acted on, and where somebody else had a word since.
//!
//! # Whose word counts
//! Between the file and operators the last word counts, as between a watched directory and operators ([`crate::directory`]). An entry has a word when it is
//! new, says something else than before, or when the package in its folder is another one. An operator's load and rollback, and the promotion or the end of a canary,
//! are words as well: as long as the entry says what it said then, a reload and a start of the host leave alone what serves, and say so. An unload is none: what
//! the file names and nobody runs is loaded by the next reload. An operator may also insist on the file's word ([`crate::Host::reload_taking`]).
//!
//! # Invariant
//! - E1: in a host that remembers loads, a load over an entry is held in the same write as the end of that load, so that its next life knows of both or of neither.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mortise_runtime::Digest;
use mortise_store::{Package, WatchedName};
use semver::Version;

use crate::{
    Host, LoadRequest, call,
    history::{Giver, Word},
    host::Shared,
    remember,
};

/// What the words of entries begin with in the journal, where those of a directory are digests of packages.
const PREFIX: &str = "config:";

/// The words of all entries, by the name that they are for.
#[derive(Default)]
pub(crate) struct Entries(Mutex<BTreeMap<String, Said>>);

#[derive(Clone, Debug, Default)]
struct Said {
    /// What was last acted on; empty before that.
    word: String,
    /// Something else was put in its place since.
    held: bool,
    /// What the entry names, as far as it was read.
    names: Option<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    version: Version,
    artifacts: Vec<Digest>,
}

/// What an entry says, in a word that is the same in another life of the host.
pub(crate) fn word_of(package: &Package, request: &LoadRequest) -> String {
    let text = format!("{}\n{}", package.digest(), remember::to_text(request.clone()));
    format!("{PREFIX}{}", Digest::of(text.as_bytes()))
}

/// Whether a row of the journal is an entry's, and not the directory's.
pub(crate) fn is_of_entry(row: &WatchedName) -> bool {
    row.digest.as_ref().is_some_and(|it| it.starts_with(PREFIX))
}

impl Entries {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier life of the host knew.
    pub(crate) fn recall(&self, rows: Vec<WatchedName>) {
        let mut all = self.all();
        for WatchedName { name, digest, held } in rows {
            let word = digest.unwrap_or_default();
            let names = None;
            all.insert(name, Said { word, held, names });
        }
    }

    /// Notes what an entry names now.
    pub(crate) fn reads(&self, name: &str, package: &Package) {
        let artifacts = package.artifacts().iter().map(|it| it.digest);
        self.all().entry(name.to_owned()).or_default().names = Some(Named {
            version: package.plugin().version.clone(),
            artifacts: artifacts.collect(),
        });
    }

    /// Whether somebody had a word after this one.
    pub(crate) fn is_overruled(&self, name: &str, word: &str) -> bool {
        self.all().get(name).is_some_and(|it| it.held && it.word == word)
    }

    /// Whether somebody had a word after its last one, whatever it says now.
    pub(crate) fn is_held(&self, name: &str) -> bool {
        self.all().get(name).is_some_and(|it| it.held)
    }

    /// An entry was acted on: its word counts from now on. What to write down, if another one had counted.
    pub(crate) fn say(&self, name: &str, word: String) -> Option<WatchedName> {
        let mut all = self.all();
        let said = all.entry(name.to_owned()).or_default();
        said.word = word;
        std::mem::take(&mut said.held).then(|| forgotten(name))
    }

    /// An operator loads something over an entry. What to write down with it.
    pub(crate) fn hold(&self, name: &str) -> Option<WatchedName> {
        let mut all = self.all();
        let said = all.get_mut(name).filter(|it| !it.word.is_empty())?;
        said.held = true;
        Some(WatchedName {
            name: name.to_owned(),
            digest: Some(said.word.clone()),
            held: true,
        })
    }

    /// The same, if the entry still says this.
    pub(crate) fn hold_if(&self, name: &str, word: &str) -> Option<WatchedName> {
        let says_so = self.all().get(name).is_some_and(|it| it.word == word);
        says_so.then(|| self.hold(name))?
    }

    /// An operator unloads what has an entry's name. What to write down with it.
    pub(crate) fn release(&self, name: &str) -> Option<WatchedName> {
        let mut all = self.all();
        let said = all.get_mut(name)?;
        std::mem::take(&mut said.held).then(|| forgotten(name))
    }

    /// The configuration has this entry no more.
    pub(crate) fn drop(&self, name: &str) -> Option<WatchedName> {
        let said = self.all().remove(name)?;
        said.held.then(|| forgotten(name))
    }
}

/// What an entry asked for, or somebody who is no entry, serves later than it was read. An entry's word counts from now on.
pub(crate) async fn came_true(
    shared: &Shared,
    name: &str,
    package: &Package,
    request: &LoadRequest,
    word: &Word,
) {
    shared.configured.lock().await.came_true(name);
    if word.giver() == Giver::Config
        && let Some(row) = shared.entries.say(name, word_of(package, request))
    {
        shared.note_word(row).await;
    }
}

fn forgotten(name: &str) -> WatchedName {
    WatchedName {
        name: name.to_owned(),
        digest: None,
        held: false,
    }
}

impl Host {
    /// Plugins that the configuration names and that something else serves for, because somebody had a word since: by name, and what to do about it.
    #[must_use]
    pub fn overruled(&self) -> Vec<(String, String)> {
        let all = self.shared().entries.all().clone();
        let why = |(name, said): (String, Said)| {
            let why = said.held.then(|| self.why_overruled(&name, &said)).flatten()?;
            Some((name, why))
        };
        all.into_iter().filter_map(why).collect()
    }

    /// Why an entry is left alone, for whoever reloads; `None` if what it names serves.
    pub(crate) fn overruling(&self, name: &str) -> Option<String> {
        let said = self.shared().entries.all().get(name).cloned()?;
        self.why_overruled(name, &said)
    }

    fn why_overruled(&self, name: &str, said: &Said) -> Option<String> {
        let named = said.names.as_ref()?;
        let address = self.shared().find(name).ok()?;
        let serving = call::serving(&address).ok()?;
        if named.artifacts.contains(&serving.digest) {
            return None;
        }
        let (wanted, serves) = (&named.version, &serving.plugin.version);
        let age = match wanted.cmp(serves) {
            std::cmp::Ordering::Less => "the older version ",
            std::cmp::Ordering::Equal => "another package of version ",
            std::cmp::Ordering::Greater => "version ",
        };
        Some(format!(
            "its entry in the configuration names {age}{wanted}, and {serves} serves since an operator or a canary had the last word; it stays until the entry \
             names something else. Name {serves} there, or take the entry's word with `mortise reload {name}`"
        ))
    }
}
