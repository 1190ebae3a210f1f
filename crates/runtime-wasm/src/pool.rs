//! Threads for calls that compute for long.
//!
//! A call begins on its caller's thread, and most are over there before the first tick. One that is not has shown what it is, and moves, in the middle
//! of its guest, to a pool with a thread for each core, where calls go on in turns of a tick, first come, first served. So a thread of the
//! executor, on which sockets and timers are looked after and the calls of all other plugins begin, belongs to a guest for one tick and no longer,
//! and between the pool and the executor the kernel decides, which can take a processor away at any instruction.
//!
//! - P1. A call moves at most once, and ends where it moved to. Only its outcome comes back.
//! - P2. A caller who goes away ends the call at its next tick, or at once if it waits for the host.
//! - P3. What the host does for a guest there (timers, connections, tasks) belongs to the executor that the call came from: the pool has no drivers,
//!   and may end before they do.
//! - P4. Its threads give way (`nice` 5, a third of the weight of others): who computes for long can wait for a millisecond, who answers in
//!   one cannot. Together they are as many as there are cores, whatever the number of plugins and calls.
//!
//! The pool is an executor of tokio's. It is started by the first call that needs it: most hosts have no such plugin.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll},
    thread::available_parallelism,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::{AbortHandle, JoinError},
};
use tracing::Instrument as _;

/// What the pool's threads add to their niceness.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

thread_local! {
    /// Whether the future that is polled on this thread was stopped by a tick.
    static TICKED: Cell<bool> = const { Cell::new(false) };
}

/// To be said where a tick stops a guest, on the thread that polls its call.
pub(crate) fn ticked() {
    TICKED.set(true);
}

/// The threads, once there are any.
#[derive(Default)]
pub(crate) struct Pool {
    threads: OnceLock<Option<Runtime>>,
}

impl Pool {
    /// Runs a call to its end, here or in the pool.
    ///
    /// # Errors
    /// If the pool is shut down with the call in it.
    ///
    /// # Panics
    /// If the call does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        mut call: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> Result<T, JoinError> {
        let here = poll_fn(|cx| {
            TICKED.set(false);
            match call.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if TICKED.get() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(outcome) = here.await {
            return Ok(outcome);
        }
        let (Some(threads), Ok(home)) = (self.threads(), Handle::try_current()) else {
            return Ok(call.await);
        };
        let moved = threads.spawn(AtHome { home, call }.in_current_span());
        let _gone = AbortOnDrop(moved.abort_handle());
        match moved.await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            outcome => outcome,
        }
    }

    fn threads(&self) -> Option<&Runtime> {
        let start = || {
            let cores = available_parallelism().map_or(1, usize::from);
            Builder::new_multi_thread()
                .worker_threads(cores)
                .thread_name("mortise-compute")
                .on_thread_start(give_way)
                .build()
                .inspect_err(|error| {
                    tracing::warn!(
                        %error,
                        "no threads for WebAssembly calls that compute for long; they stay on the executor's. Raise the limit on threads \
                         (`ulimit -u`, pids cgroup)"
                    );
                })
                .ok()
        };
        self.threads.get_or_init(start).as_ref()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(Some(threads)) = self.threads.take() {
            // Whoever drops the last instance may be on an executor, where nobody may wait for threads.
            threads.shutdown_background();
        }
    }
}

/// A future that believes it is polled where it came from (P3).
struct AtHome<F> {
    home: Handle,
    call: Pin<Box<F>>,
}

impl<F: Future> Future for AtHome<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { home, call } = &mut *self;
        let _home = home.enter();
        call.as_mut().poll(cx)
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// On Linux each thread has a niceness of its own; elsewhere it is the process's, which is not ours to change.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a thread of the pool has the priority of all others");
    }
}
