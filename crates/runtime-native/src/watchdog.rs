//! Finds calls that should have returned: one thread per runtime, because an executor's own timers stand still when its threads do.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mortise_runtime::EndCause;

use crate::gate::Side;

/// Looks at every instance of a runtime now and then.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    grace: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    sides: Vec<Weak<Side>>,
    stop: bool,
}

impl Watchdog {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            shared: Arc::default(),
            grace,
            thread: Mutex::new(None),
        }
    }

    /// Watches `side` as long as it exists. Starts the thread at first use.
    pub(crate) fn watch(&self, side: &Arc<Side>) -> std::io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (shared, grace) = (self.shared.clone(), self.grace);
            *thread = Some(
                thread::Builder::new()
                    .name("mt-watchdog".to_owned())
                    .spawn(move || shared.run(grace))?,
            );
        }
        self.shared.lock().sides.push(Arc::downgrade(side));
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            // It holds no lock while it looks, and what it looks at never blocks for long.
            _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, grace: Duration) {
        let interval = (grace / 4).clamp(Duration::from_millis(10), Duration::from_millis(500));
        let mut state = self.lock();
        while !state.stop {
            state.sides.retain(|it| it.strong_count() > 0);
            let sides = state.sides.clone();
            drop(state);
            look(&sides, grace);
            state = self.lock();
            if state.stop {
                break;
            }
            state = if state.sides.is_empty() {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed
                    .wait_timeout(state, interval)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(sides: &[Weak<Side>], grace: Duration) {
    let Some(limit) = Instant::now().checked_sub(grace) else {
        return;
    };
    for side in sides.iter().filter_map(Weak::upgrade) {
        while let Some(frame) = side.live.overdue(limit) {
            side.end(EndCause::Stuck(frame.target.to_string()));
        }
    }
}
