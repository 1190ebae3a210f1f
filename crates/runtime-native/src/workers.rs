//! An instance's own threads: for functions that may block, so that a plugin which blocks holds up nobody but its own callers.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A thread that found nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Up to `max` threads, started when they are needed.
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    max: usize,
    state: Mutex<State>,
    /// A job came, or the end did.
    work: Condvar,
    /// A thread ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    /// Of the threads that run and of those that ended since the last look.
    handles: Vec<JoinHandle<()>>,
    closed: bool,
}

/// Why a job is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    Closed,
    /// The system gave no thread, and there is none yet that could do it later.
    NoThread(std::io::Error),
}

impl Workers {
    pub(crate) fn new(name: &str, max: usize) -> Self {
        let shared = Shared {
            name: name.to_owned(),
            max: max.max(1),
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Runs `job` on a thread of its own, as soon as one is free. A job that is dropped unrun was refused by `close`.
    pub(crate) fn run(&self, job: Job) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle {
            drop(state);
            self.shared.work.notify_one();
            return Ok(());
        }
        if state.threads < self.shared.max {
            state.threads += 1;
            let shared = self.shared.clone();
            let spawned = thread::Builder::new()
                .name(self.shared.name.clone())
                .spawn(move || shared.work());
            match spawned {
                Ok(handle) => {
                    state.handles.retain(|it| !it.is_finished());
                    state.handles.push(handle);
                }
                Err(why) => {
                    state.threads -= 1;
                    if state.threads == 0 {
                        state.jobs.pop_back();
                        return Err(Refused::NoThread(why));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes no more jobs, drops those that wait and ends the threads as they become free.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        self.shared.work.notify_all();
        drop(waiting);
    }

    /// Waits until all threads have ended, thread-local destructors included; the number of those that have not.
    pub(crate) fn wait_ended(&self, until: Instant) -> usize {
        let mut state = self.shared.lock();
        while state.threads > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .shared
                .ended
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let running = state.threads;
        if running == 0 {
            let handles = std::mem::take(&mut state.handles);
            drop(state);
            for handle in handles {
                // A thread of ours does not panic: jobs are caught.
                _ = handle.join();
            }
        }
        running
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // Nothing of ours is expected to panic; a thread that is counted must not disappear uncounted.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(thread = %self.name, "a job of the native runtime panicked");
                }
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.ended.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
