//! Who copies the log of a database back into its file: a thread of its own, a while after the log has grown long.
//!
//! Left to itself, SQLite does that in the very commit that makes the log longer than 1,000 pages, and whoever commits waits for two syncs of the disk because
//! of the pages of others; with callers behind a gate, all of them do.
//!
//! - **K1** No commit waits for a checkpoint, unless its log has reached [`Bounds::pages_max`]: that bounds the log's size where the thread cannot keep up
//!   with the writers, or is gone.
//! - **K2** A checkpoint is passive: it waits for no reader and no writer, and none of them for it. What it could not copy is copied by the next one.
//! - **K3** The commit after a whole checkpoint begins the log anew and syncs its header. So the thread lets some time pass before it works: what made the
//!   log long is often in the middle of something.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::Connection;

/// When the log is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Pages of 4 KiB in the log that make it worth it.
    pub(crate) pages: u32,
    /// Time from then until the thread works.
    pub(crate) pause: Duration,
    /// Pages at which the commit does it itself.
    pub(crate) pages_max: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            pages: 1_000,
            pause: Duration::from_secs(1),
            pages_max: 16_384,
        }
    }
}

/// The thread. Dropping it waits for the checkpoint that it is at.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    bell: Arc<Bell>,
    bounds: Bounds,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Bell {
    ring: Mutex<Ring>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct Ring {
    is_due: bool,
    is_over: bool,
}

// === impl Checkpoints ===

impl Checkpoints {
    /// Works on the file at `path` from now on, over a connection of its own.
    ///
    /// # Errors
    /// If the file does not open.
    pub(crate) fn start(path: &Path, bounds: Bounds) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        let bell = Arc::<Bell>::default();
        let heard = bell.clone();
        let thread = thread::Builder::new()
            .name("mt-checkpoints".to_owned())
            .spawn(move || heard.serve(&connection, bounds.pause))
            // Without it the commits do its work (K1).
            .ok();
        Ok(Self { bell, bounds, thread })
    }

    /// Has the commits of a connection tell how long the log is, instead of copying it themselves.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn hear(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let (bell, bounds) = (self.bell.clone(), self.bounds);
        let is_served = self.thread.is_some();
        connection.wal_hook(Some(
            move |log: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
                let pages = u32::try_from(pages).unwrap_or(0);
                if pages >= bounds.pages_max || (!is_served && pages >= bounds.pages) {
                    // As SQLite itself has it: the commit stands whatever comes of this, and the next one tries again.
                    let _ = log.checkpoint();
                } else if pages >= bounds.pages {
                    bell.ring();
                }
                Ok(())
            },
        ))
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.bell.lock().is_over = true;
        self.bell.rung.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Bell ===

impl Bell {
    fn ring(&self) {
        let mut ring = self.lock();
        if !ring.is_due {
            ring.is_due = true;
            self.rung.notify_one();
        }
    }

    fn serve(&self, connection: &Connection, pause: Duration) {
        loop {
            let ring = self
                .rung
                .wait_while(self.lock(), |it| !it.is_due && !it.is_over)
                .unwrap_or_else(PoisonError::into_inner);
            let (mut ring, _) = self
                .rung
                .wait_timeout_while(ring, pause, |it| !it.is_over)
                .unwrap_or_else(PoisonError::into_inner);
            if ring.is_over {
                return;
            }
            ring.is_due = false;
            drop(ring);
            // If it fails, the log stays as long as it is, and the next commit rings again.
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
