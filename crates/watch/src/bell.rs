//! When to look: the system's word that something happened, or nothing and then the pace of the one who waits.
//!
//! Whatever the system tells is one word here, "look": the channel holds one, and a second one before the first was heard is the same word. So a
//! storm of changes costs no memory, and a queue that overflowed is a change like any other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};

/// Most folders that are listened in.
const LISTENED_MAX: usize = 16_384;

/// The system's word.
pub(crate) struct Bell {
    watcher: Option<RecommendedWatcher>,
    listening: BTreeSet<PathBuf>,
    /// A folder may be another than the one of its name that was listened in: it was removed or renamed, and the system does not say which.
    exchanged: Arc<AtomicBool>,
    rung: Receiver<()>,
    rope: Rope,
}

/// Rings the bell from elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Rope(SyncSender<()>);

impl Rope {
    pub(crate) fn pull(&self) {
        // Full: it rings already. Closed: nobody listens.
        let _ = self.0.try_send(());
    }
}

impl Bell {
    /// A bell that rings only for [`Rope::pull`].
    pub(crate) fn silent() -> Self {
        let (sender, rung) = mpsc::sync_channel(1);
        Self {
            watcher: None,
            listening: BTreeSet::new(),
            exchanged: Arc::default(),
            rung,
            rope: Rope(sender),
        }
    }

    /// A bell that the system rings.
    ///
    /// # Errors
    /// If the system gives none.
    pub(crate) fn of_system() -> notify::Result<Self> {
        let mut bell = Self::silent();
        let (rope, exchanged) = (bell.rope(), bell.exchanged.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            match event.map(|it| it.kind) {
                // Looks open and read; only what changes something rings.
                Ok(EventKind::Access(_)) => return,
                Ok(EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_)) => {}
                // Also what the system cannot say, because its queue was too short.
                _ => exchanged.store(true, Ordering::Release),
            }
            rope.pull();
        })?;
        bell.watcher = Some(watcher);
        Ok(bell)
    }

    pub(crate) fn rope(&self) -> Rope {
        self.rope.clone()
    }

    /// From here on it rings only for [`Rope::pull`].
    pub(crate) fn silence(&mut self) {
        self.watcher = None;
        self.listening.clear();
    }

    /// Whether the system rings it.
    pub(crate) fn is_of_system(&self) -> bool {
        self.watcher.is_some()
    }

    /// Listens in these folders and no others. Returns whether one of them may be new: what happened there before was not heard.
    ///
    /// # Errors
    /// If the system cannot listen to so many.
    pub(crate) fn listen(&mut self, folders: &BTreeSet<PathBuf>) -> notify::Result<bool> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(false);
        };
        if folders.len() > LISTENED_MAX {
            return Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        }
        for old in self.listening.difference(folders) {
            // It may be gone, and its watch with it.
            let _ = watcher.unwatch(old);
        }
        let mut news = false;
        let mut listening = BTreeSet::new();
        let exchanged = self.exchanged.swap(false, Ordering::AcqRel);
        for folder in folders {
            if self.listening.contains(folder) && !exchanged {
                listening.insert(folder.clone());
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    news = true;
                    listening.insert(folder.clone());
                }
                // It is gone, which its parent rings for, or it is not ours to listen in.
                Err(error) if !is_exhausted(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.listening = listening;
        Ok(news)
    }

    /// Waits until it rings, or for so long.
    pub(crate) fn wait(&self, longest: Duration) -> Rung {
        match self.rung.recv_timeout(longest) {
            Ok(()) => Rung::Yes,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Rung::No,
        }
    }
}

/// Whether the bell rang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Yes,
    No,
}

fn is_exhausted(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => true,
        // Out of file descriptors: kqueue has one per folder.
        notify::ErrorKind::Io(source) => matches!(source.raw_os_error(), Some(23 | 24 | 28)),
        _ => false,
    }
}

/// Whether changes that another machine makes there ring here: not on a network's file system.
#[cfg(target_os = "linux")]
pub(crate) fn rings_for_all(folder: &Path) -> bool {
    /// Of `statfs`: NFS, SMB (three of them), FUSE and virtiofs, 9P, Ceph, AFS (two), Coda, Lustre, GFS2, OCFS2, BeeGFS, VirtualBox, Parallels.
    const REMOTE: [u32; 16] = [
        0x6969,
        0x517B,
        0xFE53_4D42,
        0xFF53_4D42,
        0x6573_5546,
        0x0102_1997,
        0x00C3_6400,
        0x5346_414F,
        0x6B41_4653,
        0x7375_7245,
        0x0BD0_0BD0,
        0x0116_1970,
        0x7461_636F,
        0x1983_0326,
        0x786F_4256,
        0x7C7C_6673,
    ];
    let Ok(found) = rustix::fs::statfs(folder) else {
        return true;
    };
    // The type differs between machines, the 32 bits do not.
    let kind = found.f_type as u32;
    !REMOTE.contains(&kind)
}

/// Elsewhere nobody says; `poll_ms` is for such mounts.
#[cfg(not(target_os = "linux"))]
pub(crate) fn rings_for_all(_: &Path) -> bool {
    true
}
