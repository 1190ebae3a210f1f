//! The libraries that this process has mapped, and the budget for them.
//!
//! Every library with a standard library of its own burns a thread-local key when it is used, and they never come back: a process
//! that reloads forever aborts near the thousandth. So mappings are counted, and there is an end to them.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    path::Path,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use mortise_abi::MtEntry;
use mortise_runtime::{Digest, RuntimeError, RuntimeErrorKind};

use crate::{
    cache,
    entry::{self, Entry},
    loader,
    runtime::Generations,
};

/// More libraries than this are never mapped, whatever the configuration says: pthread keys end at 1024, and others need some too.
pub const GENERATIONS_HARD_MAX: u32 = 800;

/// How many libraries this process has mapped, live or retired. Never falls.
#[must_use]
pub fn mappings() -> u32 {
    count(&mapped())
}

/// A mapped library in use by one instance.
pub(crate) struct Library {
    digest: Digest,
    entry: Entry,
}

/// A mapped library.
struct Mapping {
    /// What the entry symbol leads to; `None` if the library turned out not to be a plugin. It stays mapped all the same.
    entry: Result<Entry, Arc<str>>,
    plugin: Arc<str>,
    instances: u32,
}

type Mapped = HashMap<Digest, Mapping>;

/// Whether the budget has room for `digest`: it has if it is mapped already.
pub(crate) fn check_budget(digest: Digest, budget: &Generations) -> Result<(), RuntimeError> {
    has_room(&mapped(), digest, budget)
}

/// Mappings of `plugin` that no instance uses.
pub(crate) fn retired(plugin: &str) -> u32 {
    let unused = mapped()
        .values()
        .filter(|it| it.instances == 0 && &*it.plugin == plugin)
        .count();
    u32::try_from(unused).unwrap_or(u32::MAX)
}

impl Library {
    /// Maps the library at `path`, or finds it mapped already (I1). Runs the library's constructors, and none of its functions.
    pub(crate) fn open(
        path: &Path,
        digest: Digest,
        plugin: &Arc<str>,
        budget: &Generations,
    ) -> Result<Self, RuntimeError> {
        // Held while the library's constructors run: the system's loader has a lock of its own around that anyway.
        let mut mapped = mapped();
        has_room(&mapped, digest, budget)?;
        let before = count(&mapped);
        let mapping = match mapped.entry(digest) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(vacant) => {
                if !cache::holds(path, digest) {
                    return Err(changed(path, digest));
                }
                // SAFETY: the host decided to trust the artifact with this digest as its own code before it came here (`Verified`); the
                // path contains the digest, so it never held other bytes that were opened, and nobody else may write there.
                let library = unsafe { loader::open(path) }.map_err(|why| refused_by_loader(path, &why))?;
                let entry = library
                    .symbol(mortise_abi::MT_ENTRY_SYMBOL)
                    .map_err(|why| why.to_string().into())
                    .map(|address| Entry::new(address.cast::<MtEntry>()));
                warn_of_many(before + 1, plugin, budget);
                vacant.insert(Mapping {
                    entry,
                    plugin: plugin.clone(),
                    instances: 0,
                })
            }
        };
        let entry = mapping.entry.clone().map_err(|why| entry::no_symbol(&why))?;
        mapping.instances += 1;
        Ok(Self { digest, entry })
    }

    pub(crate) fn entry(&self) -> Entry {
        self.entry
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(mapping) = mapped().get_mut(&self.digest) {
            mapping.instances -= 1;
        }
    }
}

fn mapped() -> MutexGuard<'static, Mapped> {
    static MAPPED: LazyLock<Mutex<Mapped>> = LazyLock::new(Mutex::default);
    // Nothing in here panics while it is held.
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(mapped: &Mapped) -> u32 {
    u32::try_from(mapped.len()).unwrap_or(u32::MAX)
}

fn has_room(mapped: &Mapped, digest: Digest, budget: &Generations) -> Result<(), RuntimeError> {
    let (now, max) = (count(mapped), budget.max());
    if now < max || mapped.contains_key(&digest) {
        return Ok(());
    }
    Err(RuntimeError::new(
        RuntimeErrorKind::Exhausted,
        format!(
            "{now} native libraries were loaded since this host started, and {max} are allowed; unloaded ones stay mapped"
        ),
        "restart the host, or run this plugin in the process runtime, which has no such budget",
    ))
}

fn warn_of_many(now: u32, plugin: &str, budget: &Generations) {
    if now >= budget.warn {
        tracing::warn!(
            mapped = now,
            max = budget.max(),
            plugin,
            "many native libraries were loaded and stay mapped; restart the host before the budget is used up, or run the plugins \
             that change often in the process runtime"
        );
    }
}

fn changed(path: &Path, digest: Digest) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Tampered,
        format!(
            "{} changed after it was checked; it should have digest {digest}",
            path.display()
        ),
        "load the plugin again; if this repeats, find out who writes to the data directory",
    )
}

fn refused_by_loader(path: &Path, why: &loader::LoaderError) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::Loader,
        format!("the system's loader refused {}: {why}", path.display()),
        "install the libraries it names, or link the plugin against nothing but the system's C library",
    )
}
